//! What the journal keeps of one thing that happened.

use std::sync::Arc;

use hub_core::events::{Origin, Source, annotations_of};
use hub_core::ids::Target;
use hub_core::limits;
use hub_core::property_bag::{Bag, MessageProperties};
use hub_core::time::Timestamp;
use serde_json::{Map, Value, json};

use crate::hub::events::json::message_json;

/// Names of the routes that a message took.
pub(crate) type RouteNames = Arc<[Arc<str>]>;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What an entry is about.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum Kind {
            $($(#[$doc])* $name,)*
        }

        impl Kind {
            /// Every kind.
            pub(crate) const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name, as watchers give and get it.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

kinds! {
    /// A device-to-cloud message.
    Telemetry = "telemetry",
    /// A twin was changed.
    Twin = "twin",
    /// An identity was created or deleted.
    Lifecycle = "lifecycle",
    /// A device came or went.
    Connection = "connection",
    /// A job, or what it does to a device, went on.
    Job = "job",
    /// A digital twin was changed.
    DigitalTwin = "digital-twin",
    /// A direct method was called; recorded with its outcome.
    Method = "method",
    /// A message to a device was queued, delivered or ended.
    C2d = "c2d",
}

impl Kind {
    /// The kind of that name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// The source of the events of this kind; `None` for what no route carries.
    pub(crate) fn source(self) -> Option<Source> {
        match self {
            Self::Telemetry => Some(Source::Telemetry),
            Self::Twin => Some(Source::TwinChange),
            Self::Lifecycle => Some(Source::DeviceLifecycle),
            Self::Connection => Some(Source::DeviceConnectionState),
            Self::Job => Some(Source::DeviceJobLifecycle),
            Self::DigitalTwin => Some(Source::DigitalTwinChange),
            Self::Method | Self::C2d => None,
        }
    }
}

impl From<Source> for Kind {
    fn from(source: Source) -> Self {
        match source {
            Source::Telemetry => Self::Telemetry,
            Source::TwinChange => Self::Twin,
            Source::DeviceLifecycle => Self::Lifecycle,
            Source::DeviceConnectionState => Self::Connection,
            Source::DeviceJobLifecycle => Self::Job,
            Source::DigitalTwinChange => Self::DigitalTwin,
        }
    }
}

/// Something that is to be recorded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Happening<'a> {
    pub(crate) kind: Kind,
    /// What was done, where `kind` and the properties do not say it: `queued`,
    /// `completed`; otherwise empty.
    pub(crate) operation: &'static str,
    /// Whom it is from or about, if anybody.
    pub(crate) origin: Option<&'a Arc<Origin>>,
    pub(crate) bag: &'a Bag<'a>,
    pub(crate) body: &'a [u8],
    /// The routes that it took; `None` where there are no routes for it.
    pub(crate) routes: Option<&'a RouteNames>,
    pub(crate) at: Timestamp,
}

/// What was recorded: the same, with bytes of its own.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) operation: &'static str,
    pub(crate) origin: Option<Arc<Origin>>,
    pub(crate) routes: Option<RouteNames>,
    /// When it happened.
    pub(crate) at: Timestamp,
    /// Bytes that the body had, of which [`Entry::body`] has the first
    /// [`limits::JOURNAL_BODY_BYTES`].
    pub(crate) body_bytes: usize,
    /// Where the body begins in `bytes`, behind the bag.
    bag: usize,
    bytes: Box<[u8]>,
}

impl Entry {
    pub(super) fn of(happening: &Happening<'_>) -> Self {
        let bag = happening.bag.as_str().as_bytes();
        let body = &happening.body[..happening.body.len().min(limits::JOURNAL_BODY_BYTES)];
        let mut bytes = Vec::with_capacity(bag.len() + body.len());
        bytes.extend_from_slice(bag);
        bytes.extend_from_slice(body);
        Self {
            kind: happening.kind,
            operation: happening.operation,
            origin: happening.origin.cloned(),
            routes: happening.routes.cloned(),
            at: happening.at,
            body_bytes: happening.body.len(),
            bag: bag.len(),
            bytes: bytes.into(),
        }
    }

    /// Memory that it takes in the ring. An origin may be shared with others; it
    /// is counted as if it were not.
    pub(super) fn size(&self) -> usize {
        let origin = self.origin.as_ref().map_or(0, |_| size_of::<Origin>());
        size_of::<Self>() + origin + self.bytes.len()
    }

    /// The device or module that it is from or about.
    pub(crate) fn target(&self) -> Option<&Target> {
        self.origin.as_ref().map(|origin| &origin.target)
    }

    /// Its properties.
    pub(crate) fn properties(&self) -> MessageProperties {
        let bag = std::str::from_utf8(&self.bytes[..self.bag]).ok();
        // It was a bag when it was recorded.
        let decoded = bag.and_then(|bag| MessageProperties::decode(bag).ok());
        decoded.unwrap_or_default()
    }

    /// Its body. A text that was cut ends with a whole character.
    pub(crate) fn body(&self) -> &[u8] {
        let body = &self.bytes[self.bag..];
        match std::str::from_utf8(body) {
            Err(error) if self.is_cut() && error.error_len().is_none() => &body[..error.valid_up_to()],
            _ => body,
        }
    }

    /// Whether the body was longer than what is kept of it.
    pub(crate) fn is_cut(&self) -> bool {
        self.body_bytes > self.bytes.len() - self.bag
    }

    /// The entry as watchers outside the process see it.
    pub(crate) fn json(&self, id: u64) -> Value {
        let properties = self.properties();
        let annotations = match (self.kind.source(), &self.origin) {
            (Some(source), Some(origin)) => annotations_of(source, origin, self.at, &properties),
            _ => Vec::new(),
        };
        let mut json: Map<String, Value> = message_json(annotations, &properties, self.body());
        let operation = match self.operation {
            "" => properties.application.get("opType").map(String::as_str),
            operation => Some(operation),
        };
        let target = self.target();
        let module = target.and_then(|target| target.module.as_ref());
        for (name, value) in [
            ("id", Some(json!(id))),
            ("time", Some(json!(self.at))),
            ("kind", Some(json!(self.kind.name()))),
            ("operation", operation.map(Value::from)),
            ("deviceId", target.map(|target| json!(target.device))),
            ("moduleId", module.map(|module| json!(module))),
            ("routes", self.routes.as_ref().map(|routes| json!(routes))),
            ("bodyBytes", self.is_cut().then(|| json!(self.body_bytes))),
        ] {
            if let Some(value) = value {
                json.insert(name.to_owned(), value);
            }
        }
        Value::Object(json)
    }
}
