//! Cloud-to-device messages on a link that a device receives from.
//!
//! The tag of a delivery is the message's lock token, so the device's outcome
//! names the hold that it ends.

use amqp_wire::Value;
use amqp_wire::message::{Header, Message as AmqpMessage};
use amqp_wire::performative::DeliveryState;
use bytes::Bytes;
use hub_core::c2d::{LockToken, Message, Settlement};

use crate::amqp::properties;

/// The message that a device receives. `delivery_count` is how often it was
/// abandoned before.
pub(super) fn message(message: &Message, delivery_count: u32) -> AmqpMessage {
    let enqueued = Value::Timestamp(properties::milliseconds(message.enqueued));
    let mut written = AmqpMessage::with_data(message.body.clone());
    written.header = Some(Header {
        delivery_count,
        ..Header::default()
    });
    written.message_annotations = vec![
        (
            Value::symbol("x-opt-sequence-number"),
            Value::Long(i64::try_from(message.sequence).unwrap_or(i64::MAX)),
        ),
        (Value::symbol("x-opt-enqueued-time"), enqueued.clone()),
        (Value::symbol("iothub-enqueuedtime"), enqueued),
    ];
    properties::to_message(&message.properties, &mut written);
    written
}

/// The tag of a delivery.
pub(super) fn tag(token: LockToken) -> Bytes {
    Bytes::copy_from_slice(&token.to_bytes())
}

/// The hold that a tag of [`tag`] names.
pub(super) fn token(tag: &[u8]) -> Option<LockToken> {
    tag.try_into().ok().map(LockToken::from_bytes)
}

/// What a device's outcome means. One that settles without an outcome has not
/// said that the message is dealt with, so it comes again, which is counted.
pub(super) fn settlement(state: Option<&DeliveryState>) -> Settlement {
    match state {
        Some(DeliveryState::Accepted) => Settlement::Complete,
        Some(DeliveryState::Rejected { .. }) => Settlement::Reject,
        _ => Settlement::Abandon,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amqp_wire::message::{Body, Properties};
    use hub_core::c2d::{Draft, Holder, Queue, Settings};
    use hub_core::ids::{DeviceId, Target};
    use hub_core::property_bag::{MessageProperties, SystemProperty};
    use hub_core::time::Timestamp;

    #[test]
    fn a_message_has_what_clients_read() {
        let properties = MessageProperties {
            system: [
                (SystemProperty::MessageId, "7"),
                (SystemProperty::CorrelationId, "c"),
                (SystemProperty::UserId, "me"),
                (SystemProperty::Expiry, "2026-01-01T00:10:00Z"),
                (SystemProperty::ContentType, "text/plain"),
                (SystemProperty::Ack, "full"),
            ]
            .map(|(property, text)| (property, text.to_owned()))
            .into(),
            application: [("color".to_owned(), "red".to_owned())].into(),
        };
        let now = Timestamp::parse("2026-01-01T00:00:00.1239Z").unwrap();
        let target = Target::device(DeviceId::parse("d").unwrap());
        let mut queue = Queue::default();
        let mut ended = Vec::new();
        let draft = Draft::new(properties, "hi".into()).unwrap();
        queue
            .enqueue(draft, &target, &Settings::default(), now, &mut ended)
            .unwrap();
        let token = LockToken::from_bytes([7; 16]);
        let delivery = queue.take(Holder(1), token, |_| true, now, &mut ended).unwrap();
        let written = message(&delivery.message, 3);
        let expected = AmqpMessage {
            header: Some(Header {
                delivery_count: 3,
                ..Header::default()
            }),
            message_annotations: vec![
                (Value::symbol("x-opt-sequence-number"), Value::Long(1)),
                (
                    Value::symbol("x-opt-enqueued-time"),
                    Value::Timestamp(1_767_225_600_123),
                ),
                (
                    Value::symbol("iothub-enqueuedtime"),
                    Value::Timestamp(1_767_225_600_123),
                ),
            ],
            properties: Some(Box::new(Properties {
                message_id: "7".into(),
                user_id: Some("me".into()),
                to: Some("/devices/d/messages/devicebound".into()),
                correlation_id: "c".into(),
                content_type: Some("text/plain".into()),
                absolute_expiry_time: Some(1_767_226_200_000),
                ..Properties::default()
            })),
            application_properties: vec![
                ("iothub-ack".into(), "full".into()),
                ("color".into(), "red".into()),
            ],
            body: Body::Data("hi".into()),
            ..AmqpMessage::default()
        };
        assert_eq!(written, expected);
        assert_eq!(super::token(&tag(token)), Some(token));
        assert_eq!(super::token(b"short"), None);
    }

    #[test]
    fn every_outcome_settles() {
        let modified = DeliveryState::Modified {
            delivery_failed: true,
            undeliverable_here: false,
            message_annotations: Value::Null,
        };
        for (state, expected) in [
            (Some(DeliveryState::Accepted), Settlement::Complete),
            (Some(DeliveryState::Rejected { error: None }), Settlement::Reject),
            (Some(DeliveryState::Released), Settlement::Abandon),
            (Some(modified), Settlement::Abandon),
            (None, Settlement::Abandon),
        ] {
            assert_eq!(settlement(state.as_ref()), expected, "{state:?}");
        }
    }
}
