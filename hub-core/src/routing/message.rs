//! A message as the conditions and enrichments of routing see it.

use crate::events::{Origin, Source};
use crate::property_bag::Bag;
use crate::query::Row;
use crate::time::Timestamp;

/// A message that is to be routed: what there is when an event is appended,
/// borrowed as it is.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    /// What it is about.
    pub source: Source,
    /// Whom it is from or about.
    pub origin: &'a Origin,
    /// Its properties.
    pub bag: &'a Bag<'a>,
    /// Its body.
    pub body: &'a [u8],
    /// When the hub has accepted it.
    pub enqueued: Timestamp,
    /// Where the sender's twin is found, if it can be.
    pub twin: Option<&'a dyn SenderTwin>,
}

/// The way to the twin of a message's sender: the module's own twin for a
/// module. It is asked only if a route or an enrichment needs the twin, once per
/// evaluation.
pub trait SenderTwin {
    /// Shows the twin to `look`, which only copies from it what is asked for;
    /// does nothing when there is no twin. The twin may be locked meanwhile.
    fn look(&self, look: &mut dyn FnMut(&dyn Row));
}
