//! A message to try a configuration with, in the form of the service's test of
//! all routes.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value as Json;

use super::message::{Message, SenderTwin};
use super::reader::Members;
use super::{RoutingError, source_from_name};
use crate::events::{Origin, Source};
use crate::ids::{DeviceId, Target};
use crate::property_bag::{Bag, MessageProperties};
use crate::query::Row;
use crate::time::Timestamp;

/// A message that nobody sent.
#[derive(Debug, Clone)]
pub struct Trial {
    source: Source,
    origin: Origin,
    bag: Bag<'static>,
    body: Bytes,
    twin: Option<Json>,
}

impl Trial {
    /// Reads `{"routingSource": …, "message": {"body": …, "appProperties": {},
    /// "systemProperties": {}}, "twin": {"tags": {}, "properties": {"desired": {},
    /// "reported": {}}}}`.
    ///
    /// # Errors
    /// Says what is wrong and where.
    pub fn from_json(value: &Json) -> Result<Self, RoutingError> {
        let members = Members::of(value, "the message".into(), &["routingSource", "message", "twin"])?;
        let source = members.text("routingSource")?.unwrap_or("DeviceMessages");
        let source =
            source_from_name(source).ok_or_else(|| members.fault(&format!("unknown source {source:?}")))?;
        let device = DeviceId::parse("device").map_err(|e| members.fault(&e.to_string()))?;
        Ok(Self {
            source,
            origin: Origin {
                target: Target::device(device),
                sender: None,
            },
            bag: Bag::from(&MessageProperties {
                system: BTreeMap::new(),
                application: BTreeMap::new(),
            }),
            body: Bytes::new(),
            twin: members.get("twin").cloned(),
        })
    }

    /// The message as routing sees it, accepted at `now`.
    #[must_use]
    pub fn message(&self, now: Timestamp) -> Message<'_> {
        Message {
            source: self.source,
            origin: &self.origin,
            bag: &self.bag,
            body: &self.body,
            enqueued: now,
            twin: Some(self),
        }
    }
}

impl SenderTwin for Trial {
    fn look(&self, look: &mut dyn FnMut(&dyn Row)) {
        if let Some(twin) = &self.twin {
            look(twin);
        }
    }
}
