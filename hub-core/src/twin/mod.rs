//! Device and module twins.
