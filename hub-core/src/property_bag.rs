//! The property bag: message properties as they travel at the end of a
//! message topic, `%24.mid=7&%24.ct=application%2Fjson&color=red`.
//!
//! [`crate::topic`] cuts the bag out of a topic; this module turns it into
//! [`MessageProperties`] and back. It does not decide which properties a
//! sender may set or what they mean. Source: the developer guide's page on
//! MQTT. A bag is at most as long as a topic, 65,535 bytes, which also bounds
//! the number of properties.

use std::borrow::Cow;
use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// What is percent-encoded in bags, tokens and user names: everything but
/// RFC 3986's unreserved characters. Clients cut bags at every raw `/` and
/// `=`, so nothing less will do.
pub(crate) const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

macro_rules! system_properties {
    ($($(#[$doc:meta])* $name:ident = $wire:literal,)*) => {
        /// A property of a message that the hub or its clients give a meaning.
        ///
        /// The order of the variants is the order in a bag.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum SystemProperty {
            $($(#[$doc])* $name,)*
        }

        impl SystemProperty {
            /// Every system property, in the order of a bag.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The decoded key in a bag, such as `$.mid`.
            #[must_use]
            pub fn key(self) -> &'static str {
                match self { $(Self::$name => $wire,)* }
            }

            /// The system property that a decoded key names. `None` for every
            /// other key, `$.` in front or not: that is an application property.
            #[must_use]
            pub fn from_key(key: &str) -> Option<Self> {
                match key { $($wire => Some(Self::$name),)* _ => None }
            }
        }
    };
}

system_properties! {
    /// Message id.
    MessageId = "$.mid",
    /// Correlation id.
    CorrelationId = "$.cid",
    /// User id.
    UserId = "$.uid",
    /// Destination of a cloud-to-device message.
    To = "$.to",
    /// Absolute expiry of a cloud-to-device message, ISO 8601.
    Expiry = "$.exp",
    /// Content type.
    ContentType = "$.ct",
    /// Content encoding.
    ContentEncoding = "$.ce",
    /// When the device made the message, ISO 8601.
    CreationTime = "$.ctime",
    /// Message schema.
    Schema = "$.schema",
    /// Interface id, a plug-and-play property of older devices.
    InterfaceId = "$.ifid",
    /// Component of a plug-and-play device that sends.
    Subject = "$.sub",
    /// Output of an Edge module.
    Output = "$.on",
    /// Device that sent to an Edge module's input.
    ConnectionDeviceId = "$.cdid",
    /// Module that sent to an Edge module's input.
    ConnectionModuleId = "$.cmid",
    /// Id of a distributed trace.
    DiagnosticId = "$.diagid",
    /// Context of a distributed trace.
    DiagnosticContext = "$.diagctx",
    /// Feedback that the sender of a cloud-to-device message asked for.
    Ack = "iothub-ack",
    /// Operation.
    Operation = "iothub-operation",
}

/// The properties of one message, decoded.
///
/// The same in both directions; that a device must not set an expiry is for
/// the receiver of its message to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessageProperties {
    /// Properties with a meaning of their own.
    pub system: BTreeMap<SystemProperty, String>,
    /// Everything else, by case-sensitive name. A name that
    /// [`SystemProperty::from_key`] knows does not belong here: a bag cannot
    /// tell the two apart.
    pub application: BTreeMap<String, String>,
}

/// Why a text is not a property bag. A device that sends one is disconnected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BagError {
    /// A `%` is not followed by two hexadecimal digits.
    #[error("the property bag has a '%' without two hexadecimal digits")]
    Escape,
    /// A key or value is not UTF-8 after decoding.
    #[error("the property bag is not valid UTF-8 after percent-decoding")]
    Utf8,
}

impl MessageProperties {
    /// Reads a bag: pairs between `&`, key and value separated by the first
    /// `=` and percent-decoded. `+` stays `+`; a key without `=` has the empty
    /// value; the last of equal keys wins; empty pairs are skipped.
    ///
    /// # Errors
    /// When a key or value cannot be decoded.
    pub fn decode(bag: &str) -> Result<Self, BagError> {
        let mut properties = Self::default();
        for pair in bag.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (decode(key)?, decode(value)?.into_owned());
            match SystemProperty::from_key(&key) {
                Some(property) => properties.system.insert(property, value),
                None => properties.application.insert(key.into_owned(), value),
            };
        }
        Ok(properties)
    }

    /// Bytes as the service counts them: values of system properties, names
    /// and values of application properties.
    #[must_use]
    pub fn size(&self) -> usize {
        let system: usize = self.system.values().map(String::len).sum();
        let application = self
            .application
            .iter()
            .map(|(name, value)| name.len() + value.len());
        system + application.sum::<usize>()
    }

    /// Writes the bag: system properties in their order, then application
    /// properties by name.
    #[must_use]
    pub fn encode(&self) -> String {
        let system = self
            .system
            .iter()
            .map(|(property, value)| (property.key(), value));
        let application = self
            .application
            .iter()
            .map(|(name, value)| (name.as_str(), value));
        let mut bag = String::new();
        for (key, value) in system.chain(application) {
            if !bag.is_empty() {
                bag.push('&');
            }
            bag.extend(utf8_percent_encode(key, RESERVED));
            bag.push('=');
            bag.extend(utf8_percent_encode(value, RESERVED));
        }
        bag
    }
}

impl From<&MessageProperties> for Bag<'static> {
    fn from(properties: &MessageProperties) -> Self {
        Self(Cow::Owned(properties.encode()))
    }
}

/// A text that is known to be a property bag: the properties of a message as
/// they are kept, because most messages are never read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bag<'a>(Cow<'a, str>);

impl<'a> Bag<'a> {
    /// Takes over a text that [`MessageProperties::decode`] accepts.
    ///
    /// # Errors
    /// Those of [`MessageProperties::decode`].
    pub fn parse(text: &'a str) -> Result<Self, BagError> {
        for pair in text.split('&').filter(|pair| pair.contains('%')) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            for text in [key, value] {
                if check_escapes(text)? {
                    decode(text)?;
                }
            }
        }
        Ok(Self(Cow::Borrowed(text)))
    }

    /// Adds an application property, instead of one that has its name.
    pub fn push(&mut self, name: &str, value: &str) {
        let text = self.0.to_mut();
        if !text.is_empty() {
            text.push('&');
        }
        text.extend(utf8_percent_encode(name, RESERVED));
        text.push('=');
        text.extend(utf8_percent_encode(value, RESERVED));
    }

    /// The bag's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The properties in the bag.
    #[must_use]
    pub fn decode(&self) -> MessageProperties {
        // A bag can be decoded: its constructors have seen to that.
        MessageProperties::decode(&self.0).unwrap_or_default()
    }
}

/// Whether a text has escapes beyond ASCII, so that decoding decides whether
/// they make UTF-8: an ASCII character is in order wherever a `%` was.
fn check_escapes(text: &str) -> Result<bool, BagError> {
    let mut rest = text.as_bytes();
    let mut beyond_ascii = false;
    while let Some(at) = rest.iter().position(|b| *b == b'%') {
        match rest.get(at + 1..at + 3) {
            Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => {
                beyond_ascii |= digits[0] > b'7';
                rest = &rest[at + 3..];
            }
            _ => return Err(BagError::Escape),
        }
    }
    Ok(beyond_ascii)
}

fn decode(text: &str) -> Result<Cow<'_, str>, BagError> {
    check_escapes(text)?;
    percent_decode_str(text).decode_utf8().map_err(|_| BagError::Utf8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn properties(system: &[(SystemProperty, &str)], application: &[(&str, &str)]) -> MessageProperties {
        MessageProperties {
            system: system.iter().map(|(p, v)| (*p, (*v).to_owned())).collect(),
            application: application
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn a_message_to_a_device_encodes_everything() {
        let to_device = properties(
            &[
                (SystemProperty::Ack, "full"),
                (SystemProperty::MessageId, "7"),
                (SystemProperty::To, "/devices/dev1/messages/devicebound"),
                (SystemProperty::ContentType, "application/json"),
                (SystemProperty::ContentEncoding, "utf-8"),
            ],
            &[("color", "red"), ("a =+#?", "é~")],
        );
        let bag = "%24.mid=7&%24.to=%2Fdevices%2Fdev1%2Fmessages%2Fdevicebound&%24.ct=application%2Fjson\
                   &%24.ce=utf-8&iothub-ack=full&a%20%3D%2B%23%3F=%C3%A9~&color=red";
        assert_eq!(to_device.encode(), bag);
        assert_eq!(MessageProperties::decode(bag), Ok(to_device));
        assert_eq!(MessageProperties::default().encode(), "");
    }

    #[test]
    fn what_devices_send_is_read() {
        use SystemProperty::{CorrelationId, MessageId, Output};
        for (bag, expected) in [
            ("", properties(&[], &[])),
            ("$.mid=1", properties(&[(MessageId, "1")], &[])),
            (
                "%24.mid=1&%24%2ecid=2",
                properties(&[(MessageId, "1"), (CorrelationId, "2")], &[]),
            ),
            ("%24.on=out&a=b", properties(&[(Output, "out")], &[("a", "b")])),
            // A plus sign is itself, and only the first equals sign separates.
            ("a+b=c+d=e", properties(&[], &[("a+b", "c+d=e")])),
            ("null&empty=", properties(&[], &[("null", ""), ("empty", "")])),
            ("a=1&&a=2&", properties(&[], &[("a", "2")])),
            ("a=1&A=2", properties(&[], &[("a", "1"), ("A", "2")])),
            ("=v", properties(&[], &[("", "v")])),
            ("?a=1", properties(&[], &[("?a", "1")])),
            (
                "$.unknown=x&$.MID=y",
                properties(&[], &[("$.unknown", "x"), ("$.MID", "y")]),
            ),
            ("a=b/c", properties(&[], &[("a", "b/c")])),
        ] {
            assert_eq!(MessageProperties::decode(bag), Ok(expected), "{bag}");
        }
    }

    #[test]
    fn what_cannot_be_decoded_is_refused() {
        for bag in ["a=%", "a=%4", "%zz=1", "a=%%41", "a=b&c=%2", "a=%é"] {
            assert_eq!(MessageProperties::decode(bag), Err(BagError::Escape), "{bag}");
        }
        for bag in ["a=%ff", "%C3=1", "a=%C3&b=%A9"] {
            assert_eq!(MessageProperties::decode(bag), Err(BagError::Utf8), "{bag}");
        }
    }

    #[test]
    fn system_keys_are_distinct_and_read_back() {
        for property in SystemProperty::ALL {
            assert_eq!(SystemProperty::from_key(property.key()), Some(*property));
        }
    }

    proptest! {
        #[test]
        fn every_set_of_properties_survives(
            system in proptest::collection::btree_map(proptest::sample::select(SystemProperty::ALL), ".*", 0..8),
            application in proptest::collection::btree_map(".*", ".*", 0..8),
        ) {
            prop_assume!(application.keys().all(|key| SystemProperty::from_key(key).is_none()));
            let properties = MessageProperties { system, application };
            let bag = properties.encode();
            prop_assert!(bag.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%&=".contains(&b)));
            prop_assert_eq!(MessageProperties::decode(&bag), Ok(properties));
        }

        #[test]
        fn a_bag_is_what_can_be_decoded(text in "(é|[%&=a-fA-F0-9$.]){0,30}") {
            let bag = Bag::parse(&text);
            prop_assert_eq!(
                bag.as_ref().map(Bag::decode).map_err(|e| *e),
                MessageProperties::decode(&text)
            );
            if let Ok(mut bag) = bag {
                let mut expected = bag.decode();
                bag.push("a b", "é&");
                expected.application.insert("a b".into(), "é&".into());
                prop_assert_eq!(bag.decode(), expected);
            }
        }

        #[test]
        fn arbitrary_text_never_panics_and_decodes_stably(text in "(.|[%&=a-f0-9$.]){0,60}") {
            if let Ok(properties) = MessageProperties::decode(&text) {
                prop_assert_eq!(MessageProperties::decode(&properties.encode()), Ok(properties));
            }
        }
    }
}
