//! Runs an action over a fleet of devices at a later time and tracks it.
//!
//! [`JobEngine`] holds the jobs, starts each at its time, reaches its devices
//! with bounded concurrency and keeps the results. What a fleet *is* stays
//! open: a hub implements [`Fleet`] over its own devices and serves the engine
//! as `/jobs/v2`, while `rest::RestFleet` implements it over the service API of
//! any hub, so that the same engine runs jobs from outside.
//!
//! The rules (states, statistics, results, JSON) are those of
//! [`hub_core::job`]; this crate adds time and concurrency and nothing else.
//! It knows neither HTTP handlers nor device protocols.
//!
//! Reading order: [`clock`], [`fleet`], [`engine`], `rest`.

pub mod clock;
pub mod engine;
pub mod fleet;
#[cfg(feature = "rest")]
pub mod rest;

pub use clock::Clock;
pub use engine::{EngineSettings, JobEngine};
pub use fleet::Fleet;
