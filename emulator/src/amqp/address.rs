//! Addresses of links: what clients write, and what it stands for.
//!
//! Clients write paths with or without a leading slash, some of them behind
//! `amqps://{host}`, and words in any case. Some percent-encode ids, some do not.

use std::borrow::Cow;

use hub_core::ids::{DeviceId, ModuleId, Target};
use percent_encoding::percent_decode_str;

/// What a link is attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// `$cbs`: tokens come in, answers go out.
    Cbs,
    /// `/messages/devicebound`: messages to devices come in.
    CloudToDevice,
    /// `/messages/servicebound/feedback`: what became of them.
    Feedback,
    /// `/messages/servicebound/filenotifications`, also called
    /// `fileuploadnotifications`: files that devices have uploaded.
    FileNotifications,
    /// An event stream, or a part of it.
    Events(Events),
    /// Something of a device's or module's own.
    Device(Target, DeviceNode),
}

/// A part of the event stream, by one of its two names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Events {
    pub(crate) name: EventsName,
    pub(crate) node: EventsNode,
}

/// How a client calls an event stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EventsName {
    /// `messages/events`, as a hub's clients do.
    Messages,
    /// By its Event-Hub-compatible name, as clients of Event Hubs do: the hub's
    /// own, or that of a stream that events are routed to.
    EventHub(Box<str>),
    /// Not at all: the bare `$management`, where the message names it.
    None,
}

impl EventsName {
    /// The Event-Hub-compatible name, if it is one.
    pub(crate) fn entity(&self) -> Option<&str> {
        match self {
            Self::EventHub(name) => Some(name),
            Self::Messages | Self::None => None,
        }
    }
}

/// What there is of the event stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EventsNode {
    /// The stream itself.
    Root,
    /// `$management`: questions about it.
    Management,
    /// `ConsumerGroups/{group}/Partitions/{partition}`.
    Partition {
        group: Box<str>,
        /// As it is written; a number, unless the client is mistaken.
        partition: Box<str>,
    },
}

/// What there is of a device or module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceNode {
    /// `messages/events`: telemetry; for a module that receives, its inputs.
    Events,
    /// `messages/devicebound`: messages to it.
    DeviceBound,
    /// `methods/devicebound`: direct methods.
    Methods,
    /// `twin`.
    Twin,
}

impl Address {
    /// Reads an address; `None` if there is nothing of that name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let path = match text.split_once("://") {
            Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
            None => text,
        };
        let path = path.trim_start_matches('/').trim_end_matches('/');
        // More than any address has, so that a long text costs no more.
        let segments: Vec<&str> = path.splitn(9, '/').collect();
        let is = |segment: &str, word| segment.eq_ignore_ascii_case(word);
        match *segments {
            [cbs] if is(cbs, "$cbs") => Some(Self::Cbs),
            [management] if is(management, "$management") => Some(Self::Events(Events {
                name: EventsName::None,
                node: EventsNode::Management,
            })),
            [devices, device, ref rest @ ..] if is(devices, "devices") => {
                let device = DeviceId::parse(device).ok()?;
                let (module, rest) = match *rest {
                    [modules, module, ref rest @ ..] if is(modules, "modules") => {
                        (Some(ModuleId::parse(module).ok()?), rest)
                    }
                    _ => (None, rest),
                };
                let node = match *rest {
                    [a, b] if is(a, "messages") && is(b, "events") => DeviceNode::Events,
                    [a, b] if is(a, "messages") && is(b, "devicebound") => DeviceNode::DeviceBound,
                    [a, b] if is(a, "methods") && is(b, "devicebound") => DeviceNode::Methods,
                    [a] if is(a, "twin") => DeviceNode::Twin,
                    _ => return None,
                };
                Some(Self::Device(Target { device, module }, node))
            }
            [messages, what] if is(messages, "messages") && is(what, "devicebound") => {
                Some(Self::CloudToDevice)
            }
            [messages, bound, what] if is(messages, "messages") && is(bound, "servicebound") => {
                if is(what, "feedback") {
                    Some(Self::Feedback)
                } else if is(what, "filenotifications") || is(what, "fileuploadnotifications") {
                    Some(Self::FileNotifications)
                } else {
                    None
                }
            }
            [messages, events, ref rest @ ..] if is(messages, "messages") && is(events, "events") => {
                Some(Self::Events(Events {
                    name: EventsName::Messages,
                    node: EventsNode::parse(rest)?,
                }))
            }
            [first, ..] if first.is_empty() || is(first, "devices") || is(first, "messages") => None,
            [entity, ref rest @ ..] => Some(Self::Events(Events {
                name: EventsName::EventHub(entity.into()),
                node: EventsNode::parse(rest)?,
            })),
            [] => None,
        }
    }
}

impl Address {
    /// The address with the ids of a device decoded, unless `is_known` knows
    /// them as they are written: some clients percent-encode ids, some do not,
    /// and `%` is legal in them.
    pub(crate) fn meant(self, is_known: impl Fn(&Target) -> bool) -> Self {
        let (written, node) = match self {
            Self::Device(target, node) if !is_known(&target) => (target, node),
            other => return other,
        };
        let decoded = |id: &str| percent_decode_str(id).decode_utf8().ok().map(Cow::into_owned);
        let device = || DeviceId::parse(&decoded(written.device.as_str())?).ok();
        let module = || match &written.module {
            None => Some(None),
            Some(id) => Some(Some(ModuleId::parse(&decoded(id.as_str())?).ok()?)),
        };
        let target = match (device(), module()) {
            (Some(device), Some(module)) => Target { device, module },
            _ => written,
        };
        Self::Device(target, node)
    }
}

impl EventsNode {
    fn parse(segments: &[&str]) -> Option<Self> {
        match *segments {
            [] => Some(Self::Root),
            [what] if what.eq_ignore_ascii_case("$management") => Some(Self::Management),
            [groups, group, partitions, partition]
                if groups.eq_ignore_ascii_case("ConsumerGroups")
                    && partitions.eq_ignore_ascii_case("Partitions") =>
            {
                Some(Self::Partition {
                    group: group.into(),
                    partition: partition.into(),
                })
            }
            _ => None,
        }
    }

    /// The path below the stream's name, which is what tokens are compared with.
    pub(crate) fn path(&self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Management => "$management".into(),
            Self::Partition { group, partition } => {
                format!("ConsumerGroups/{group}/Partitions/{partition}")
            }
        }
    }
}

/// The receiver that a message's `to` names,
/// `/devices/{d}[/modules/{m}]/messages/devicebound`, [as it is
/// meant](Address::meant).
pub(crate) fn receiver(to: &str, is_known: impl Fn(&Target) -> bool) -> Option<Target> {
    match Address::parse(to)?.meant(is_known) {
        Address::Device(target, DeviceNode::DeviceBound) => Some(target),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(id: &str, module: Option<&str>) -> Target {
        Target {
            device: DeviceId::parse(id).unwrap(),
            module: module.map(|id| ModuleId::parse(id).unwrap()),
        }
    }

    fn events(name: EventsName, node: EventsNode) -> Option<Address> {
        Some(Address::Events(Events { name, node }))
    }

    #[test]
    fn addresses_of_the_service_have_any_case_and_any_host() {
        for (text, address) in [
            ("$cbs", Address::Cbs),
            ("/messages/devicebound", Address::CloudToDevice),
            ("messages/deviceBound/", Address::CloudToDevice),
            (
                "amqps://localhost:5671/messages/devicebound",
                Address::CloudToDevice,
            ),
            ("/messages/serviceBound/feedback", Address::Feedback),
            (
                "/messages/servicebound/fileuploadnotifications",
                Address::FileNotifications,
            ),
            (
                "/messages/serviceBound/filenotifications",
                Address::FileNotifications,
            ),
        ] {
            assert_eq!(Address::parse(text), Some(address), "{text}");
        }
    }

    #[test]
    fn the_event_stream_has_two_names() {
        let partition = EventsNode::Partition {
            group: "$Default".into(),
            partition: "3".into(),
        };
        assert_eq!(
            Address::parse("amqps://h/hub/ConsumerGroups/$Default/Partitions/3"),
            events(EventsName::EventHub("hub".into()), partition.clone()),
        );
        assert_eq!(
            Address::parse("/messages/events/consumergroups/$Default/partitions/3"),
            events(EventsName::Messages, partition),
        );
        assert_eq!(
            Address::parse("$management"),
            events(EventsName::None, EventsNode::Management)
        );
        assert_eq!(
            Address::parse("messages/events/$management"),
            events(EventsName::Messages, EventsNode::Management)
        );
        assert_eq!(
            Address::parse("messages/events/"),
            events(EventsName::Messages, EventsNode::Root)
        );
    }

    #[test]
    fn a_device_has_four_nodes() {
        for (text, target, node) in [
            (
                "/devices/d/messages/events",
                device("d", None),
                DeviceNode::Events,
            ),
            (
                "/devices/D/messages/deviceBound",
                device("D", None),
                DeviceNode::DeviceBound,
            ),
            (
                "devices/d/modules/m/methods/devicebound",
                device("d", Some("m")),
                DeviceNode::Methods,
            ),
            ("amqps://h/devices/d/twin", device("d", None), DeviceNode::Twin),
        ] {
            assert_eq!(
                Address::parse(text),
                Some(Address::Device(target, node)),
                "{text}"
            );
        }
    }

    #[test]
    fn everything_else_is_nothing() {
        for text in [
            "",
            "/",
            "amqps://h",
            "/devices/",
            "/devices/a b/twin",
            "/devices/d",
            "/devices/d/modules/m",
            "/devices/d/twin/x",
            "/messages/servicebound/other",
            "hub/ConsumerGroups/g",
            "a/b/c/d/e/f/g/h/i/j/k",
        ] {
            assert_eq!(Address::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_receiver_may_be_encoded() {
        let known = |target: &Target| target.device.as_str() == "a%20b";
        let receiver = |to| receiver(to, known);
        assert_eq!(
            receiver("/devices/a%20b/messages/devicebound"),
            Some(device("a%20b", None))
        );
        assert_eq!(
            receiver("/devices/a%3Ab/modules/m/messages/deviceBound"),
            Some(device("a:b", Some("m")))
        );
        // A part of an id is never a separator.
        assert_eq!(
            receiver("/devices/d%2Fx/messages/devicebound"),
            Some(device("d%2Fx", None))
        );
        assert_eq!(receiver("/devices/a/messages/events"), None);
        assert_eq!(receiver("nonsense%"), None);
    }
}
