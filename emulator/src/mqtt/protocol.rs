//! What packets mean on an IoT hub.
//!
//! Incoming packets become calls of the session, frames of the outbox become
//! packets. MQTT 3.1.1 has no negative acknowledgement, so whatever breaks the
//! rules ends the connection: that is the service's own behaviour.

use std::num::NonZeroU16;

use bytes::BytesMut;
use hub_core::c2d::LockToken;
use hub_core::error::ServiceError;
use hub_core::ids::Target;
use hub_core::limits;
use hub_core::property_bag::Bag;
use hub_core::topic::{Address, DeviceTopic, Filter, HubTopic, Qos, TopicError};
use mqtt_wire::{
    Packet, Publish, QoS, SubscribeReturnCode, WireError, encode, publish_again, publish_qos0, publish_qos1,
};

use crate::hub::outbox::ToDevice;
use crate::hub::session::Session;
use crate::hub::{HubSettings, Strictness};

/// What a device did that the service answers by closing the connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Violation {
    #[error("a second CONNECT on one connection")]
    SecondConnect,
    #[error("a packet that only a server sends")]
    ServerPacket,
    #[error("QoS 2 is not supported")]
    QoS2,
    #[error("a publish to {topic:?}: {error}")]
    Topic { topic: String, error: TopicError },
    #[error("the filter {filter:?} is not supported: {error}")]
    Filter { filter: String, error: TopicError },
    #[error(
        "a SUBSCRIBE or UNSUBSCRIBE without filters, or with more than {}",
        limits::MQTT_SUBSCRIPTIONS
    )]
    FilterCount,
    #[error("the property bag: {0}")]
    Properties(String),
    #[error("the message exceeds {} bytes", limits::D2C_MESSAGE_BYTES)]
    MessageTooLarge,
    #[error("the message is refused: {0}")]
    Refused(ServiceError),
    #[error("an answer could not be encoded: {0}")]
    Encoding(#[from] WireError),
}

/// Whether the connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Continue,
    Disconnect,
}

/// Handles one packet; answers are appended to `out`.
pub(super) fn handle(
    packet: Packet,
    session: &Session,
    settings: &HubSettings,
    out: &mut BytesMut,
) -> Result<Next, Violation> {
    match packet {
        Packet::Publish(publish) => handle_publish(&publish, session, out)?,
        // Completes a cloud-to-device message; an id that names none is late.
        Packet::PublishAck { packet_id: id } => {
            session.complete_messages(|message, _| packet_id(message.sequence) == id);
        }
        Packet::Subscribe {
            packet_id,
            topic_filters,
        } => {
            check_count(topic_filters.len())?;
            let mut status = Vec::with_capacity(topic_filters.len());
            for (filter, qos) in topic_filters {
                status.push(subscribe(&filter, qos, session, settings)?);
            }
            encode(Packet::SubscribeAck { packet_id, status }, out)?;
        }
        Packet::Unsubscribe {
            packet_id,
            topic_filters,
        } => {
            check_count(topic_filters.len())?;
            for filter in topic_filters {
                // A filter that cannot have been subscribed needs no removal.
                if let Ok(filter) = Filter::parse(&filter, session.target()) {
                    session.unsubscribe(filter);
                }
            }
            encode(Packet::UnsubscribeAck { packet_id }, out)?;
        }
        Packet::PingRequest => encode(Packet::PingResponse, out)?,
        Packet::Disconnect => return Ok(Next::Disconnect),
        Packet::Connect(_) => return Err(Violation::SecondConnect),
        Packet::PublishReceived { .. } | Packet::PublishRelease { .. } | Packet::PublishComplete { .. } => {
            return Err(Violation::QoS2);
        }
        Packet::ConnectAck(_)
        | Packet::SubscribeAck { .. }
        | Packet::UnsubscribeAck { .. }
        | Packet::PingResponse => return Err(Violation::ServerPacket),
    }
    Ok(Next::Continue)
}

fn check_count(filters: usize) -> Result<(), Violation> {
    if (1..=limits::MQTT_SUBSCRIPTIONS).contains(&filters) {
        Ok(())
    } else {
        Err(Violation::FilterCount)
    }
}

fn subscribe(
    filter: &str,
    wanted: QoS,
    session: &Session,
    settings: &HubSettings,
) -> Result<SubscribeReturnCode, Violation> {
    match Filter::parse(filter, session.target()) {
        Ok(filter) => {
            let granted = wanted.less_value(QoS::AtLeastOnce);
            session.subscribe(filter, Qos::granted(granted.value()));
            Ok(SubscribeReturnCode::Success(granted))
        }
        Err(error) => match settings.strictness {
            Strictness::Strict => Err(Violation::Filter {
                filter: shorten(filter),
                error,
            }),
            Strictness::Lenient => Ok(SubscribeReturnCode::Failure),
        },
    }
}

fn handle_publish(publish: &Publish, session: &Session, out: &mut BytesMut) -> Result<(), Violation> {
    if publish.qos == QoS::ExactlyOnce {
        return Err(Violation::QoS2);
    }
    // MQTT 3.1.1 forbids U+0000 in any text (MQTT-1.5.3-2).
    if publish.topic.contains('\0') {
        return Err(Violation::Properties("a topic must not contain U+0000".into()));
    }
    let topic = DeviceTopic::parse(&publish.topic, session.target()).map_err(|error| Violation::Topic {
        topic: shorten(&publish.topic),
        error,
    })?;
    match topic {
        DeviceTopic::Telemetry { bag, .. } => {
            if publish.payload.len() + bag.len() > limits::D2C_MESSAGE_BYTES {
                return Err(Violation::MessageTooLarge);
            }
            let mut bag = Bag::parse(bag).map_err(|e| Violation::Properties(e.to_string()))?;
            // Neither flag has a meaning on a hub; the service turns both into properties.
            if publish.retain {
                bag.push("mqtt-retain", "true");
            }
            if publish.dup {
                bag.push("mqtt-dup", "true");
            }
            session
                .telemetry(&[(bag, &publish.payload)])
                .map_err(Violation::Refused)?;
        }
        DeviceTopic::TwinGet { rid } => session.read_twin(rid),
        DeviceTopic::TwinPatchReported { rid, version } => {
            session.update_reported(rid, version, &publish.payload);
        }
        DeviceTopic::MethodResponse { status, rid } => {
            // An id that is no number was never given out: the answer is late or lost.
            if let Ok(id) = rid.parse() {
                session.method_response(id, status, &publish.payload);
            }
        }
    }
    if let Some(packet_id) = publish.packet_id {
        encode(Packet::PublishAck { packet_id }, out)?;
    }
    Ok(())
}

/// The packet id of a cloud-to-device message. Derived from its number, so that
/// a message that is sent again, perhaps on a later connection of the session,
/// has the id that it had (MQTT-4.4.0-1). The hub keeps the numbers that are in
/// flight close enough together for this to be unique.
fn packet_id(sequence: u64) -> NonZeroU16 {
    let id = sequence.wrapping_sub(1) % u64::from(u16::MAX) + 1;
    u16::try_from(id)
        .ok()
        .and_then(NonZeroU16::new)
        .unwrap_or(NonZeroU16::MAX)
}

/// Appends a frame of the outbox as a packet. Twins and methods have their own
/// acknowledgements and go with QoS 0. The tokens of messages that are complete
/// once they are written enter `written`.
pub(super) fn encode_frame(
    frame: ToDevice,
    receiver: &Target,
    out: &mut BytesMut,
    written: &mut Vec<LockToken>,
) -> Result<(), Violation> {
    let packet = match frame {
        ToDevice::MethodRequest { id, name, payload } => {
            let rid = id.to_string();
            let topic = HubTopic::MethodRequest {
                name: &name,
                rid: &rid,
            };
            publish_qos0(topic.to_string(), payload.as_bytes().clone())
        }
        ToDevice::TwinResponse {
            rid,
            status,
            version,
            body,
        } => {
            let topic = HubTopic::TwinResponse {
                status,
                rid: &rid,
                version,
            };
            publish_qos0(topic.to_string(), body)
        }
        ToDevice::DesiredChanged(change) => {
            let version = change.version;
            publish_qos0(HubTopic::DesiredChanged { version }.to_string(), change.payload)
        }
        ToDevice::Message {
            message,
            token,
            qos,
            again,
            ..
        } => {
            let topic = HubTopic::CloudToDevice {
                address: Address::from(receiver),
                bag: &message.properties.encode(),
            }
            .to_string();
            let body = message.body.clone();
            match qos {
                Qos::AtMostOnce => {
                    written.push(token);
                    publish_qos0(topic, body)
                }
                Qos::AtLeastOnce if again => publish_again(topic, body, packet_id(message.sequence)),
                Qos::AtLeastOnce => publish_qos1(topic, body, packet_id(message.sequence)),
            }
        }
    };
    encode(packet, out)?;
    Ok(())
}

/// A client's text for a log line, never longer than a line.
fn shorten(text: &str) -> String {
    text.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_ids_follow_the_messages_and_start_over_at_one() {
        for (sequence, id) in [
            (1, 1),
            (2, 2),
            (65_535, 65_535),
            (65_536, 1),
            (131_071, 1),
            (u64::MAX, 65_535),
        ] {
            assert_eq!(packet_id(sequence).get(), id, "{sequence}");
        }
    }
}
