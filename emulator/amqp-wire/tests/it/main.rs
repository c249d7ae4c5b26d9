//! Tests through the public interface.
#![allow(clippy::unwrap_used)]

mod bounds;
mod clients;
mod golden;
mod links;
mod model;
mod pair;
mod values;
