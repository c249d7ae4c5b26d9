//! Telemetry: a message, or a batch of them that is taken as a whole or not at
//! all.

use amqp_wire::message::{BATCH_FORMAT, Message, STANDARD_FORMAT, messages};
use bytes::Bytes;
use hub_core::error::{ErrorCode, ServiceError};
use hub_core::limits;
use hub_core::property_bag::{Bag, MessageProperties, SystemProperty};

use super::undecodable;
use crate::amqp::properties;
use crate::hub::session::Session;

/// Takes the payload of a transfer.
///
/// # Errors
/// `IotHubFormatError` for bytes that are no message; what
/// [`properties`] refuses; `MessageTooLarge` when what counts is more than
/// 256 KB; `IotHubQuotaExceeded`. Nothing is kept then.
pub(super) fn take(session: &Session, format: u32, payload: &Bytes) -> Result<(), ServiceError> {
    let read = read(format, payload)?;
    let messages: Vec<(Bag<'_>, &[u8])> = read
        .iter()
        .map(|(properties, body)| (Bag::from(properties), &**body))
        .collect();
    session.telemetry(&messages)
}

fn read(format: u32, payload: &Bytes) -> Result<Vec<(MessageProperties, Bytes)>, ServiceError> {
    if format != STANDARD_FORMAT && format != BATCH_FORMAT {
        return Err(ServiceError::invalid(format!(
            "there is no message format {format:#x}"
        )));
    }
    let mut read = Vec::new();
    let mut size = 0;
    for message in messages(format, payload).map_err(undecodable)? {
        let (properties, body) = one(&message.map_err(undecodable)?)?;
        size += properties.size() + body.len();
        if size > limits::D2C_MESSAGE_BYTES {
            return Err(ServiceError::new(
                ErrorCode::MessageTooLarge,
                format!(
                    "the message or batch exceeds the limit of {} bytes",
                    limits::D2C_MESSAGE_BYTES
                ),
            ));
        }
        read.push((properties, body));
    }
    Ok(read)
}

fn one(message: &Message) -> Result<(MessageProperties, Bytes), ServiceError> {
    let mut properties = properties::from_message(message)?;
    // Where the message goes, which clients repeat.
    properties.system.remove(&SystemProperty::To);
    properties.system.remove(&SystemProperty::Operation);
    Ok((properties, properties::body(message)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use amqp_wire::Value;
    use amqp_wire::message::{Body, Properties, batch};

    fn message(id: &'static str, body: &'static str) -> Message {
        let mut message = Message::with_data(body);
        message.properties = Some(Box::new(Properties {
            message_id: id.into(),
            to: Some("/devices/d/messages/events".into()),
            ..Properties::default()
        }));
        message.application_properties = vec![("n".into(), 1_i32.into())];
        message
    }

    #[test]
    fn a_message_and_a_batch_are_read() {
        let (one, other) = (message("1", "a"), message("2", ""));
        let read_one = read(STANDARD_FORMAT, &one.to_bytes()).unwrap();
        let read_both = read(BATCH_FORMAT, &batch([&one, &other])).unwrap();
        assert_eq!(read_both[..1], read_one);
        let bag = |at: usize| read_both[at].0.encode();
        assert_eq!((bag(0), bag(1)), ("%24.mid=1&n=1".into(), "%24.mid=2&n=1".into()));
        assert_eq!((&*read_both[0].1, &*read_both[1].1), (&b"a"[..], &b""[..]));
    }

    #[test]
    fn each_bad_transfer_is_refused_as_a_whole() {
        let code = |format, payload: Bytes| read(format, &payload).unwrap_err().code;
        let good = message("1", "a");
        assert_eq!(code(7, good.to_bytes()), ErrorCode::ArgumentInvalid);
        assert_eq!(
            code(STANDARD_FORMAT, "garbage".into()),
            ErrorCode::IotHubFormatError
        );
        assert_eq!(code(BATCH_FORMAT, Bytes::new()), ErrorCode::IotHubFormatError);
        assert_eq!(
            code(BATCH_FORMAT, Message::with_data("garbage").to_bytes()),
            ErrorCode::IotHubFormatError
        );
        let mut listed = good.clone();
        listed.body = Body::Sequence(vec![vec![Value::Null]]);
        assert_eq!(
            code(BATCH_FORMAT, batch([&good, &listed])),
            ErrorCode::ArgumentInvalid
        );
        let half = Message::with_data(vec![0; limits::D2C_MESSAGE_BYTES / 2]);
        assert_eq!(
            code(BATCH_FORMAT, batch([&half, &half, &good])),
            ErrorCode::MessageTooLarge
        );
        assert_eq!(read(BATCH_FORMAT, &batch([&half, &half])).unwrap().len(), 2);
    }
}
