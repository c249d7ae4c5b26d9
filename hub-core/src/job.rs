//! Scheduled jobs: the job and per-device state machines.
