//! A hub seen from outside, through its service API.
//!
//! [`ServiceClient`] makes the calls that a back end makes, with a service
//! connection string as its only credential; it works against Azure and
//! against a local hub alike. [`RestFleet`] lets a [`JobEngine`] run jobs over
//! such a hub. Rules of the service stay on the other side: this module reads
//! replies and never guesses what the hub would decide.
//!
//! [`JobEngine`]: crate::JobEngine

mod client;
mod error;
mod fleet;
#[cfg(test)]
mod tests;
mod tls;

pub use client::{ClientOptions, Page, Reply, ServiceClient};
pub use error::ClientError;
pub use fleet::RestFleet;
pub use reqwest::Method;
