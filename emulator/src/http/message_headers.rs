//! Message properties as HTTP headers, the HTTP form of a property bag.
//!
//! Requests that send a message and answers that deliver one use the same
//! names: `iothub-messageid` and its like for system properties,
//! `iothub-app-{name}` for application properties. Which of them count in a
//! direction, and what they mean, is not decided here. Sources: the device
//! SDKs' HTTP transports and the guide on message formats.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use hub_core::error::ServiceError;
use hub_core::property_bag::{MessageProperties, SystemProperty};

/// In front of an application property's name.
const APPLICATION: &str = "iothub-app-";

/// System properties by the name of their header, lower case.
const SYSTEM: [(&str, SystemProperty); 12] = [
    ("iothub-messageid", SystemProperty::MessageId),
    ("iothub-correlationid", SystemProperty::CorrelationId),
    ("iothub-userid", SystemProperty::UserId),
    ("iothub-to", SystemProperty::To),
    ("iothub-expiry", SystemProperty::Expiry),
    ("iothub-ack", SystemProperty::Ack),
    ("iothub-contenttype", SystemProperty::ContentType),
    ("iothub-contentencoding", SystemProperty::ContentEncoding),
    ("iothub-messageschema", SystemProperty::Schema),
    ("iothub-creationtimeutc", SystemProperty::CreationTime),
    ("iothub-interface-id", SystemProperty::InterfaceId),
    ("dt-subject", SystemProperty::Subject),
];

/// The properties of the message that a request sends. Headers that are not a
/// message's are passed over; of equal ones the last wins. The plain
/// `Content-Type` is the request's, not the message's: HTTP clients set it by
/// themselves.
///
/// Header names have no case, so application properties arrive in lower case.
///
/// # Errors
/// `ArgumentInvalid` for a value that is not UTF-8, or an application property
/// without a name.
pub(super) fn properties_from_headers(headers: &HeaderMap) -> Result<MessageProperties, ServiceError> {
    let mut properties = MessageProperties::default();
    for (name, value) in headers {
        set_property(&mut properties, name.as_str(), value.as_bytes())?;
    }
    Ok(properties)
}

/// Sets the property that a header's `name`, of any case, stands for; nothing
/// if it stands for none. Also the form of a message's `properties` in a batch.
///
/// # Errors
/// As [`properties_from_headers`].
pub(super) fn set_property(
    properties: &mut MessageProperties,
    name: &str,
    value: &[u8],
) -> Result<(), ServiceError> {
    let system = SYSTEM
        .iter()
        .find(|(header, _)| name.eq_ignore_ascii_case(header));
    let application = match name.split_at_checked(APPLICATION.len()) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case(APPLICATION) => Some(rest),
        _ => None,
    };
    let property = match (system, application) {
        (Some((_, property)), _) => Some(*property),
        (None, Some("")) => {
            return Err(ServiceError::invalid(format!(
                "the header {name} does not name a property"
            )));
        }
        // A name that a bag gives a meaning has it here as well.
        (None, Some(key)) => SystemProperty::from_key(key),
        (None, None) => return Ok(()),
    };
    let value = std::str::from_utf8(value)
        .map_err(|_| ServiceError::invalid(format!("the header {name} is not UTF-8")))?
        .to_owned();
    match (property, application) {
        (Some(property), _) => drop(properties.system.insert(property, value)),
        (None, Some(key)) => drop(properties.application.insert(key.to_owned(), value)),
        (None, None) => {}
    }
    Ok(())
}

/// The headers that carry a message's properties, with its content type as the
/// answer's own as well. Left out is what cannot stand in a header: names with
/// other characters than a token's, values with control characters.
pub(super) fn headers_from_properties(properties: &MessageProperties) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, property) in SYSTEM {
        if let Some(value) = properties
            .system
            .get(&property)
            .and_then(|text| header_value(text))
        {
            if property == SystemProperty::ContentType {
                headers.insert(CONTENT_TYPE, value.clone());
            }
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    for (name, text) in &properties.application {
        let name = HeaderName::from_bytes(format!("{APPLICATION}{name}").as_bytes());
        if let (Ok(name), Some(value)) = (name, header_value(text)) {
            headers.insert(name, value);
        }
    }
    headers
}

fn header_value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_bytes(text.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hub_core::error::ErrorCode;
    use proptest::prelude::*;

    fn headers(pairs: &[(&str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_full_message_is_read_and_written_back() {
        let sent = headers(&[
            ("IoTHub-MessageId", b"7"),
            ("iothub-correlationid", b"c"),
            ("iothub-contenttype", b"application/json"),
            ("iothub-contentencoding", b"utf-8"),
            ("dt-subject", b"thermostat"),
            ("iothub-app-color", "r\u{f6}t".as_bytes()),
            ("iothub-app-empty", b""),
            ("content-type", b"application/x-www-form-urlencoded"),
            ("iothub-operation", b"d2c"),
            ("authorization", b"SharedAccessSignature"),
        ]);
        let properties = properties_from_headers(&sent).unwrap();
        let system: Vec<_> = properties
            .system
            .iter()
            .map(|(p, v)| (p.key(), v.as_str()))
            .collect();
        assert_eq!(
            system,
            [
                ("$.mid", "7"),
                ("$.cid", "c"),
                ("$.ct", "application/json"),
                ("$.ce", "utf-8"),
                ("$.sub", "thermostat")
            ]
        );
        let application: Vec<_> = properties
            .application
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(application, [("color", "röt"), ("empty", "")]);

        let written = headers_from_properties(&properties);
        assert_eq!(written["content-type"], "application/json");
        assert_eq!(properties_from_headers(&written), Ok(properties));
    }

    #[test]
    fn names_of_a_batch_keep_their_case() {
        let mut properties = MessageProperties::default();
        for (name, value) in [
            ("IOTHUB-APP-Color", "red"),
            ("iothub-MESSAGEID", "1"),
            ("other", "x"),
        ] {
            set_property(&mut properties, name, value.as_bytes()).unwrap();
        }
        assert_eq!(properties.application["Color"], "red");
        assert_eq!(properties.system[&SystemProperty::MessageId], "1");
        assert_eq!((properties.application.len(), properties.system.len()), (1, 1));
    }

    #[test]
    fn a_known_key_means_the_same_as_in_a_bag() {
        let properties = properties_from_headers(&headers(&[("iothub-app-iothub-ack", b"full")])).unwrap();
        assert_eq!(properties.system[&SystemProperty::Ack], "full");
        assert!(properties.application.is_empty());
    }

    #[test]
    fn the_last_of_equal_headers_wins() {
        let twice = headers(&[("iothub-app-a", b"1"), ("iothub-app-a", b"2")]);
        assert_eq!(properties_from_headers(&twice).unwrap().application["a"], "2");
    }

    #[test]
    fn what_is_no_property_is_refused() {
        for bad in [
            ("iothub-app-", b"x".as_slice()),
            ("iothub-app-a", b"\xff"),
            ("iothub-messageid", b"\xc3"),
        ] {
            let error = properties_from_headers(&headers(&[bad])).unwrap_err();
            assert_eq!(error.code, ErrorCode::ArgumentInvalid, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_properties_give_headers_that_can_be_read(
            system in proptest::collection::btree_map(proptest::sample::select(SystemProperty::ALL), ".*", 0..4),
            application in proptest::collection::btree_map(".{0,8}", ".*", 0..8),
        ) {
            let headers = headers_from_properties(&MessageProperties { system, application });
            prop_assume!(!headers.contains_key(APPLICATION));
            prop_assert!(properties_from_headers(&headers).is_ok());
        }
    }
}
