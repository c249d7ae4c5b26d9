//! Shared access signatures.
