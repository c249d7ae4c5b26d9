//! Where the event stream is read: readers of `messages/events` are sent to the
//! Event-Hub-compatible endpoint.
//!
//! Command line tools and older SDKs ask a hub for it this way, and take the
//! endpoint's name out of the address. It is on the same listener.

use amqp_wire::Value;
use amqp_wire::performative::Error;

use crate::amqp::address::EventsNode;
use crate::amqp::condition;
use crate::hub::HubState;

/// The answer to whoever attaches to the stream, or a part of it, by the hub's
/// own name. The address ends as the client's did, because clients cut it there.
pub(super) fn to_event_hub(hub: &HubState, node: &EventsNode) -> Error {
    let host = &hub.settings.host_name;
    let port = hub.amqps_port();
    let address = format!("amqps://{host}:{port}/{}/{}", hub.events.hub_name(), node.path());
    Error {
        info: vec![
            (Value::symbol("hostname"), Value::string(host.as_str())),
            (Value::symbol("network-host"), Value::string(host.as_str())),
            (Value::symbol("port"), Value::Uint(port.into())),
            (Value::symbol("address"), Value::string(address)),
        ],
        ..Error::new(
            condition::REDIRECT,
            "events are read at the Event-Hub-compatible endpoint",
        )
    }
}
