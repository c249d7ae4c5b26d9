//! Finds properties in a bag without taking it apart: in one pass, and without
//! allocating unless values are long.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::property_bag::SystemProperty;

/// How many properties one pass finds; those behind are looked for one by one.
const AT_ONCE: usize = 32;
/// Room for values that are percent-encoded in the bag.
const DECODED_BYTES: usize = 256;
/// Longest key that is decoded on the stack.
const KEY_BYTES: usize = 128;

/// The properties that conditions ask for, each once.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    names: Vec<Name>,
    /// A bit for each application property, by [`bit`]: most keys of a bag are
    /// not asked for.
    filter: u64,
}

#[derive(Debug, Clone, PartialEq)]
enum Name {
    /// An application property in small letters.
    Application(Box<str>),
    System(SystemProperty),
}

impl Wanted {
    /// The place of an application property, whose name matches in any case.
    pub(super) fn application(&mut self, name: &str) -> usize {
        self.filter |= bit(name);
        self.place(Name::Application(name.to_ascii_lowercase().into()))
    }

    /// The place of a system property.
    pub(super) fn system(&mut self, property: SystemProperty) -> usize {
        self.place(Name::System(property))
    }

    fn place(&mut self, name: Name) -> usize {
        let known = self.names.iter().position(|other| *other == name);
        known.unwrap_or_else(|| {
            self.names.push(name);
            self.names.len() - 1
        })
    }

    /// Calls `found` with the place of each property that the decoded key names.
    fn find(&self, key: &str, mut found: impl FnMut(usize)) {
        if key.starts_with(['$', 'i'])
            && let Some(property) = SystemProperty::from_key(key)
        {
            let is = |name: &Name| matches!(name, Name::System(other) if *other == property);
            if let Some(place) = self.names.iter().position(is) {
                found(place);
            }
            return;
        }
        if self.filter & bit(key) == 0 {
            return;
        }
        let is = |name: &Name| matches!(name, Name::Application(name) if name.eq_ignore_ascii_case(key));
        if let Some(place) = self.names.iter().position(is) {
            found(place);
        }
    }
}

/// The bit of an application property's name, the same in any case.
fn bit(name: &str) -> u64 {
    let first = name.bytes().next().unwrap_or_default().to_ascii_lowercase();
    1 << ((usize::from(first) + 7 * name.len()) & 63)
}

/// The properties of one message that were asked for.
pub(super) struct Found<'a> {
    wanted: &'a Wanted,
    bag: &'a str,
    values: [Text<'a>; AT_ONCE],
    decoded: [u8; DECODED_BYTES],
}

/// A value, its escapes resolved.
enum Text<'a> {
    Absent,
    /// As it is in the bag.
    Plain(&'a str),
    /// In [`Found::decoded`], from and to.
    Decoded(u16, u16),
    Long(String),
}

impl<'a> Found<'a> {
    /// Reads a bag, which must be one that can be decoded. The last of equal
    /// names wins, whatever their case.
    pub(super) fn read(wanted: &'a Wanted, bag: &'a str) -> Self {
        let mut values = [const { Text::Absent }; AT_ONCE];
        let mut decoded = [0; DECODED_BYTES];
        let mut used = 0;
        for_each_pair(bag, |key, raw| {
            wanted.find(key, |place| {
                if let Some(value) = values.get_mut(place) {
                    *value = if raw.contains('%') {
                        decode(raw, &mut decoded, &mut used)
                    } else {
                        Text::Plain(raw)
                    };
                }
            });
        });
        Self {
            wanted,
            bag,
            values,
            decoded,
        }
    }

    /// The value of the property at a place of [`Wanted`].
    pub(super) fn get(&self, place: usize) -> Option<Cow<'_, str>> {
        match self.values.get(place) {
            Some(Text::Absent) => None,
            Some(Text::Plain(text)) => Some(Cow::Borrowed(*text)),
            Some(Text::Decoded(from, to)) => {
                let bytes = self.decoded.get(usize::from(*from)..usize::from(*to))?;
                std::str::from_utf8(bytes).ok().map(Cow::Borrowed)
            }
            Some(Text::Long(text)) => Some(Cow::Borrowed(text)),
            None => self.look_for(place),
        }
    }

    fn look_for(&self, place: usize) -> Option<Cow<'_, str>> {
        let mut last = None;
        for_each_pair(self.bag, |key, raw| {
            self.wanted.find(key, |found| {
                if found == place {
                    last = Some(raw);
                }
            });
        });
        percent_decode_str(last?).decode_utf8().ok()
    }
}

/// Takes a bag apart into decoded keys and values as they are.
fn for_each_pair<'a>(bag: &'a str, mut pair: impl FnMut(&str, &'a str)) {
    for text in bag.split('&').filter(|text| !text.is_empty()) {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        if !key.contains('%') {
            pair(key, value);
            continue;
        }
        // Keys of system properties always come with escapes over MQTT.
        let mut buffer = [0; KEY_BYTES];
        let mut length = 0;
        let mut bytes = percent_decode_str(key);
        for (place, byte) in buffer.iter_mut().zip(&mut bytes) {
            *place = byte;
            length += 1;
        }
        if bytes.next().is_some() {
            pair(&percent_decode_str(key).decode_utf8_lossy(), value);
        } else if let Some(Ok(key)) = buffer.get(..length).map(std::str::from_utf8) {
            pair(key, value);
        }
    }
}

/// Decodes a value into what is left of the buffer, or on the heap.
fn decode(raw: &str, buffer: &mut [u8; DECODED_BYTES], used: &mut usize) -> Text<'static> {
    let from = *used;
    let mut to = from;
    for byte in percent_decode_str(raw) {
        let Some(place) = buffer.get_mut(to) else {
            return Text::Long(percent_decode_str(raw).decode_utf8_lossy().into_owned());
        };
        *place = byte;
        to += 1;
    }
    *used = to;
    match (u16::try_from(from), u16::try_from(to)) {
        (Ok(from), Ok(to)) => Text::Decoded(from, to),
        _ => Text::Absent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::property_bag::{Bag, MessageProperties};

    fn find(bag: &str, name: &str) -> Option<String> {
        let mut wanted = Wanted::default();
        let place = wanted.application(name);
        Found::read(&wanted, bag).get(place).map(Cow::into_owned)
    }

    #[test]
    fn names_match_in_any_case_and_the_last_wins() {
        assert_eq!(find("level=hot", "Level").as_deref(), Some("hot"));
        assert_eq!(find("a=1&LEVEL=x&level=hot&b", "level").as_deref(), Some("hot"));
        assert_eq!(find("level=hot&Level=%41", "level").as_deref(), Some("A"));
        assert_eq!(find("le%76el=a%20b", "level").as_deref(), Some("a b"));
        assert_eq!(find("level", "level").as_deref(), Some(""));
        assert_eq!(find("levels=1&leve=2", "level"), None);
        assert_eq!(find("", "level"), None);
        // A system property is no application property, whatever it is called.
        assert_eq!(find("%24.mid=1&iothub-ack=full", "iothub-ack"), None);
        assert_eq!(find("%24.MID=1", "$.mid").as_deref(), Some("1"));
    }

    #[test]
    fn long_values_and_many_names_are_found_too() {
        let value = "é".repeat(200);
        let key = "k".repeat(300);
        let bag = Bag::from(&MessageProperties {
            application: [(key.clone(), value.clone()), ("ä".into(), value.clone())].into(),
            ..MessageProperties::default()
        });
        assert_eq!(find(bag.as_str(), &key).as_ref(), Some(&value));
        assert_eq!(find(bag.as_str(), "ä").as_ref(), Some(&value));

        let mut wanted = Wanted::default();
        let places: Vec<usize> = (0..100).map(|i| wanted.application(&format!("p{i}"))).collect();
        let bag: Vec<String> = (0..100).map(|i| format!("P{i}=%2B{i}")).collect();
        let bag = bag.join("&");
        let found = Found::read(&wanted, &bag);
        for (i, place) in places.iter().enumerate() {
            assert_eq!(found.get(*place).as_deref(), Some(&*format!("+{i}")));
        }
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_decoding_gives(text in "(a|b|A|é|%24|\\.mid|ct|[%&=]|%[0-7][0-9a-f]){0,40}") {
            let Ok(bag) = Bag::parse(&text) else { return Ok(()) };
            let properties = bag.decode();
            let mut wanted = Wanted::default();
            let system = wanted.system(SystemProperty::MessageId);
            let names: Vec<(&String, usize)> =
                properties.application.keys().map(|name| (name, wanted.application(name))).collect();
            let found = Found::read(&wanted, &text);
            let expected = properties.system.get(&SystemProperty::MessageId).map(String::as_str);
            let value = found.get(system);
            prop_assert_eq!(value.as_deref(), expected);
            for (name, place) in names {
                let same = properties.application.keys().filter(|other| other.eq_ignore_ascii_case(name)).count();
                let value = found.get(place);
                prop_assert!(value.is_some());
                if same == 1 {
                    prop_assert_eq!(value.as_deref(), properties.application.get(name).map(String::as_str));
                }
            }
        }
    }
}
