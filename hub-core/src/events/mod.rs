//! The stream of events that back ends read: telemetry, and what the hub itself
//! reports of its devices.
//!
//! An [`Event`] is what a reader sees; it is kept in a [`Partition`] in the form
//! in which it arrived and taken apart only when it is read, because many more
//! events are written than read. [`Start`] says where a reader begins,
//! [`ConsumerGroups`] who may read, and [`Notice`] makes the events of the hub
//! itself. Sources: the developer guide's pages on device-to-cloud messages, on
//! the built-in endpoint and on non-telemetry events, and the Event Hubs guides.
//!
//! Names are those that readers see as message annotations; how they travel is
//! for the protocol that carries them. Nothing here waits, locks or routes.

mod notice;
mod partition;
mod readers;
mod start;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

pub use notice::{ConnectionChange, ConnectionSequence, Lifecycle, Notice, Notification};
pub use partition::{Batch, Draft, OutOfRange, Partition, PartitionInfo, Retention, partition_of};
pub use readers::{Admitted, AttachError, ConsumerGroups, DEFAULT_GROUP, GroupError, ReaderId};
pub use start::{SelectorError, Start};

use crate::ids::Target;
use crate::property_bag::{MessageProperties, SystemProperty};
use crate::time::Timestamp;

macro_rules! sources {
    ($($(#[$doc:meta])* $name:ident = $wire:literal,)*) => {
        /// What an event is about, the value of `iothub-message-source`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Source {
            $($(#[$doc])* $name,)*
        }

        impl Source {
            /// Every source.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The value of `iothub-message-source`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $wire,)* }
            }
        }
    };
}

sources! {
    /// A device-to-cloud message.
    Telemetry = "Telemetry",
    /// A twin was changed.
    TwinChange = "twinChangeEvents",
    /// An identity was created or deleted.
    DeviceLifecycle = "deviceLifecycleEvents",
    /// A device came or went.
    DeviceConnectionState = "deviceConnectionStateEvents",
    /// A job's state changed.
    DeviceJobLifecycle = "deviceJobLifecycleEvents",
    /// A digital twin was changed.
    DigitalTwinChange = "digitalTwinChangeEvents",
}

/// The sources whose events a hub keeps. Telemetry is always one of them; the
/// others cost nothing unless they are wanted, as in the cloud, where they need
/// a route of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sources(u8);

impl Sources {
    /// Adds a source.
    #[must_use]
    pub fn with(self, source: Source) -> Self {
        Self(self.0 | 1 << source as u8)
    }

    /// Whether events of this source are kept.
    #[must_use]
    pub fn contains(self, source: Source) -> bool {
        source == Source::Telemetry || self.0 & 1 << source as u8 != 0
    }
}

/// Whose credentials opened a connection or went with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthScope {
    /// The device's own.
    Device,
    /// The module's own.
    Module,
    /// Those of a shared access policy.
    Hub,
}

/// How a sender has proved who it is.
///
/// Written as the JSON text of `iothub-connection-auth-method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthMethod {
    /// A shared access signature.
    Sas(AuthScope),
    /// A client certificate.
    X509(AuthScope),
}

impl fmt::Display for AuthMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scope, kind, issuer) = match self {
            Self::Sas(scope) => (scope, "sas", "iothub"),
            Self::X509(scope) => (scope, "x509", "external"),
        };
        let scope = match scope {
            AuthScope::Device => "device",
            AuthScope::Module => "module",
            AuthScope::Hub => "hub",
        };
        write!(
            f,
            r#"{{"scope":"{scope}","type":"{kind}","issuer":"{issuer}","acceptingIpFilterRule":null}}"#
        )
    }
}

/// Whom an event is from or about. Shared by all events of one sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The device or module.
    pub target: Target,
    /// How it was connected; nothing for events of the hub itself.
    pub sender: Option<Sender>,
}

/// How the sender of telemetry was connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// The identity's generation id.
    pub generation_id: Box<str>,
    /// How it proved who it is.
    pub auth: AuthMethod,
    /// The model that it announced when it connected.
    pub model_id: Option<Arc<str>>,
}

/// An event as readers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `x-opt-sequence-number`: from 0, without gaps in its partition.
    pub sequence: u64,
    /// `x-opt-offset`, which readers get as text: the bytes that were ever kept
    /// in the partition before this event.
    pub offset: u64,
    /// Place in the whole hub's events, from 1; the local hub's own.
    pub position: u64,
    /// When the hub accepted it; never before the event in front of it.
    pub enqueued: Timestamp,
    /// What it is about.
    pub source: Source,
    /// Whom it is from or about.
    pub origin: Arc<Origin>,
    /// Its properties as the sender set them.
    pub properties: MessageProperties,
    /// Its body.
    pub body: Bytes,
}

/// The value of an annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Annotation<'a> {
    /// A text that the event holds.
    Text(&'a str),
    /// A text that is made for the reader.
    Made(String),
    /// A whole number.
    Long(u64),
    /// A point in time, which readers get in milliseconds.
    Time(Timestamp),
}

impl Event {
    /// What the hub says of the event, by the names of the service. A sender
    /// cannot set these: whatever it sends by such a name is an application
    /// property.
    #[must_use]
    pub fn annotations(&self) -> Vec<(&'static str, Annotation<'_>)> {
        use Annotation::{Long, Made, Text, Time};
        let mut all = vec![
            ("x-opt-sequence-number", Long(self.sequence)),
            ("x-opt-offset", Made(self.offset.to_string())),
            ("x-opt-enqueued-time", Time(self.enqueued)),
            ("x-opt-partition-key", Text(self.origin.target.device.as_str())),
        ];
        all.extend(annotations_of(
            self.source,
            &self.origin,
            self.enqueued,
            &self.properties,
        ));
        all
    }

    /// What readers get as application properties: the sender's own by name,
    /// then the system properties that have no other place.
    pub fn application_properties(&self) -> impl Iterator<Item = (&str, &str)> {
        application_properties_of(&self.properties)
    }

    /// Message id, correlation id, user id, content type or content encoding,
    /// which readers get as properties of the message.
    #[must_use]
    pub fn property(&self, property: SystemProperty) -> Option<&str> {
        self.properties.system.get(&property).map(String::as_str)
    }
}

/// What the hub says of a message itself, wherever it goes: from or about whom
/// it is, when it was accepted and what it is about.
#[must_use]
pub fn annotations_of<'a>(
    source: Source,
    origin: &'a Origin,
    enqueued: Timestamp,
    properties: &'a MessageProperties,
) -> Vec<(&'static str, Annotation<'a>)> {
    use Annotation::{Made, Text, Time};
    let target = &origin.target;
    let mut all = vec![("iothub-connection-device-id", Text(target.device.as_str()))];
    if let Some(module) = &target.module {
        all.push(("iothub-connection-module-id", Text(module.as_str())));
    }
    if let Some(sender) = &origin.sender {
        all.push(("iothub-connection-auth-method", Made(sender.auth.to_string())));
        all.push((
            "iothub-connection-auth-generation-id",
            Text(&sender.generation_id),
        ));
    }
    all.push(("iothub-enqueuedtime", Time(enqueued)));
    all.push(("iothub-message-source", Text(source.name())));
    if let Some(model) = origin.sender.as_ref().and_then(|s| s.model_id.as_deref()) {
        all.push(("dt-dataschema", Text(model)));
    }
    for (name, property) in [
        ("dt-subject", SystemProperty::Subject),
        ("iothub-interface-id", SystemProperty::InterfaceId),
    ] {
        if let Some(value) = properties.system.get(&property) {
            all.push((name, Text(value)));
        }
    }
    all
}

/// What receivers of a message get as application properties: the sender's own
/// by name, then the system properties that have no other place.
pub fn application_properties_of(properties: &MessageProperties) -> impl Iterator<Item = (&str, &str)> {
    let placeless = [
        ("iothub-creation-time-utc", SystemProperty::CreationTime),
        ("iothub-message-schema", SystemProperty::Schema),
    ];
    let placeless = placeless
        .into_iter()
        .filter_map(|(name, property)| Some((name, properties.system.get(&property)?.as_str())));
    let own = properties.application.iter();
    own.map(|(name, value)| (name.as_str(), value.as_str()))
        .chain(placeless)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{DeviceId, ModuleId};
    use crate::property_bag::Bag;

    #[test]
    fn telemetry_of_a_module_has_every_annotation() {
        let bag = "%24.mid=7&%24.ct=application%2Fjson&%24.sub=thermostat&%24.ifid=urn:i&%24.schema=s\
                   &%24.ctime=2026-01-01T00:00:00Z&%24.cdid=spoofed&iothub-connection-device-id=spoofed";
        let origin = Arc::new(Origin {
            target: Target {
                device: DeviceId::parse("d").unwrap(),
                module: Some(ModuleId::parse("m").unwrap()),
            },
            sender: Some(Sender {
                generation_id: "639".into(),
                auth: AuthMethod::Sas(AuthScope::Module),
                model_id: Some("dtmi:x;1".into()),
            }),
        });
        let mut partition = Partition::new(Retention::default());
        let now = Timestamp::from_unix_ticks(10);
        let draft = Draft {
            source: Source::Telemetry,
            position: 5,
            origin: &origin,
            bag: &Bag::parse(bag).unwrap(),
            body: b"{}",
        };
        assert_eq!(partition.append(&draft, now), 0);
        let event = partition.read(0, 1).into_events().remove(0);
        use Annotation::{Long, Made, Text, Time};
        let auth = r#"{"scope":"module","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}"#;
        assert_eq!(
            event.annotations(),
            [
                ("x-opt-sequence-number", Long(0)),
                ("x-opt-offset", Made("0".into())),
                ("x-opt-enqueued-time", Time(now)),
                ("x-opt-partition-key", Text("d")),
                ("iothub-connection-device-id", Text("d")),
                ("iothub-connection-module-id", Text("m")),
                ("iothub-connection-auth-method", Made(auth.into())),
                ("iothub-connection-auth-generation-id", Text("639")),
                ("iothub-enqueuedtime", Time(now)),
                ("iothub-message-source", Text("Telemetry")),
                ("dt-dataschema", Text("dtmi:x;1")),
                ("dt-subject", Text("thermostat")),
                ("iothub-interface-id", Text("urn:i")),
            ]
        );
        assert_eq!(
            event.application_properties().collect::<Vec<_>>(),
            [
                ("iothub-connection-device-id", "spoofed"),
                ("iothub-creation-time-utc", "2026-01-01T00:00:00Z"),
                ("iothub-message-schema", "s"),
            ]
        );
        assert_eq!(event.property(SystemProperty::MessageId), Some("7"));
        assert_eq!(event.property(SystemProperty::UserId), None);
        assert_eq!((event.position, &*event.body), (5, &b"{}"[..]));
    }

    #[test]
    fn telemetry_is_always_a_source() {
        let none = Sources::default();
        assert!(none.contains(Source::Telemetry) && !none.contains(Source::TwinChange));
        let twins = none.with(Source::TwinChange);
        assert!(twins.contains(Source::TwinChange) && !twins.contains(Source::DeviceLifecycle));
    }
}
