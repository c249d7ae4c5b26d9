//! Finds properties in a bag without taking it apart: in one pass, and without
//! allocating unless values are long.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::property_bag::SystemProperty;

/// How many properties one pass finds; those behind are looked for one by one.
const AT_ONCE: usize = 24;
/// Room for values that are percent-encoded in the bag.
const DECODED_BYTES: usize = 128;

/// The properties that conditions ask for, each once.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    names: Vec<Name>,
    /// A bit for each name, without a leading `$.`, by [`bit`]: most keys of a bag
    /// are not asked for.
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
        self.filter |= bit(name.strip_prefix("$.").unwrap_or(name));
        self.place(Name::Application(name.to_ascii_lowercase().into()))
    }

    /// The place of a system property.
    pub(super) fn system(&mut self, property: SystemProperty) -> usize {
        let key = property.key();
        self.filter |= bit(key.strip_prefix("$.").unwrap_or(key));
        self.place(Name::System(property))
    }

    fn place(&mut self, name: Name) -> usize {
        let known = self.names.iter().position(|other| *other == name);
        known.unwrap_or_else(|| {
            self.names.push(name);
            self.names.len() - 1
        })
    }

    /// The place of the property that a key as it stands in a bag names.
    fn find(&self, raw: &str, is_encoded: bool) -> Option<usize> {
        // So the keys of system properties are written over MQTT; what follows
        // is the same in all their forms.
        let system = match raw.strip_prefix("%24.") {
            Some(rest) if !rest.contains('%') => Some(rest),
            Some(_) => None,
            None if is_encoded => None,
            None => raw.strip_prefix("$."),
        };
        if let Some(rest) = system {
            if self.filter & bit(rest) == 0 {
                return None;
            }
            let is = |name: &Name| match name {
                Name::System(property) => property.key().strip_prefix("$.") == Some(rest),
                Name::Application(name) => {
                    name.starts_with("$.")
                        && name.get(2..).is_some_and(|name| name.eq_ignore_ascii_case(rest))
                        && SystemProperty::from_key(&format!("$.{rest}")).is_none()
                }
            };
            return self.names.iter().position(is);
        }
        if is_encoded {
            return self.find_decoded(&percent_decode_str(raw).decode_utf8_lossy());
        }
        if self.filter & bit(raw) == 0 {
            return None;
        }
        self.find_decoded(raw)
    }

    fn find_decoded(&self, key: &str) -> Option<usize> {
        // What all system properties begin with.
        if (key.starts_with("$.") || key.starts_with("iothub-"))
            && let Some(property) = SystemProperty::from_key(key)
        {
            return self.names.iter().position(|name| *name == Name::System(property));
        }
        self.names
            .iter()
            .position(|name| matches!(name, Name::Application(name) if name.eq_ignore_ascii_case(key)))
    }
}

/// The bit of an application property's name, the same in any case.
fn bit(name: &str) -> u64 {
    let first = name.as_bytes().first().map_or(0, u8::to_ascii_lowercase);
    1 << ((usize::from(first) + 7 * name.len()) & 63)
}

/// The properties of one message that were asked for.
pub(super) struct Found<'a> {
    wanted: &'a Wanted,
    bag: &'a str,
    values: [Text; AT_ONCE],
    decoded: [u8; DECODED_BYTES],
}

/// Where a value is, from and to.
#[derive(Clone, Copy)]
enum Text {
    Absent,
    /// In the bag, as it is.
    Plain(u32, u32),
    /// In [`Found::decoded`].
    Decoded(u32, u32),
    /// In the bag, too long for the room that there is for decoded ones.
    Encoded(u32, u32),
}

impl<'a> Found<'a> {
    /// Reads a bag, which must be one that can be decoded. The last of equal
    /// names wins, whatever their case.
    pub(super) fn read(wanted: &'a Wanted, bag: &'a str) -> Self {
        let mut found = Self {
            wanted,
            bag,
            values: [Text::Absent; AT_ONCE],
            decoded: [0; DECODED_BYTES],
        };
        let mut used = 0;
        let mut pairs = Pairs(bag);
        while let Some(pair) = pairs.next() {
            let place = wanted.find(pair.key, pair.is_encoded);
            let Some(place) = place.filter(|place| *place < AT_ONCE) else {
                continue;
            };
            // Bags are bounded by what a request may carry, far below.
            let to = (bag.len() - pairs.0.len()) as u32;
            let from = to - pair.value.len() as u32;
            found.values[place] = if !pair.value.bytes().any(|byte| byte == b'%') {
                Text::Plain(from, to)
            } else if let Some((from, to)) = found.decode(pair.value, &mut used) {
                Text::Decoded(from, to)
            } else {
                Text::Encoded(from, to)
            };
        }
        found
    }

    /// Decodes a value into what is left of the room for it, if it fits.
    fn decode(&mut self, raw: &str, used: &mut usize) -> Option<(u32, u32)> {
        let from = *used;
        let mut to = from;
        for byte in percent_decode_str(raw) {
            *self.decoded.get_mut(to)? = byte;
            to += 1;
        }
        *used = to;
        Some((u32::try_from(from).ok()?, u32::try_from(to).ok()?))
    }

    /// The value of the property at a place of [`Wanted`].
    #[inline]
    pub(super) fn get(&self, place: usize) -> Option<Cow<'_, str>> {
        match self.values.get(place) {
            Some(Text::Absent) => None,
            Some(Text::Plain(from, to)) => self.bag.get(*from as usize..*to as usize).map(Cow::Borrowed),
            Some(Text::Decoded(from, to)) => {
                let bytes = self.decoded.get(*from as usize..*to as usize)?;
                std::str::from_utf8(bytes).ok().map(Cow::Borrowed)
            }
            Some(Text::Encoded(from, to)) => {
                let raw = self.bag.get(*from as usize..*to as usize)?;
                percent_decode_str(raw).decode_utf8().ok()
            }
            None => {
                let is = |pair: &Pair<'a>| self.wanted.find(pair.key, pair.is_encoded) == Some(place);
                let last = Pairs(self.bag).filter(is).last()?;
                percent_decode_str(last.value).decode_utf8().ok()
            }
        }
    }
}

/// A pair of a bag as it stands there.
struct Pair<'a> {
    key: &'a str,
    /// Whether there are escapes in the key.
    is_encoded: bool,
    value: &'a str,
}

/// The pairs of what is left of a bag.
struct Pairs<'a>(&'a str);

impl<'a> Iterator for Pairs<'a> {
    type Item = Pair<'a>;

    /// Looks at the bytes one by one: keys and most values are so short that
    /// every search of its own would cost more.
    #[inline]
    fn next(&mut self) -> Option<Pair<'a>> {
        let bytes = self.0.as_bytes();
        let start = bytes.iter().position(|byte| *byte != b'&')?;
        let (mut at, mut is_encoded) = (start, false);
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'=' | b'&' => break,
                b'%' => is_encoded = true,
                _ => {}
            }
            at += 1;
        }
        let key = self.0.get(start..at)?;
        let from = at + usize::from(bytes.get(at) == Some(&b'='));
        let length = bytes.get(from..)?.iter().position(|byte| *byte == b'&');
        let to = length.map_or(bytes.len(), |length| from + length);
        let value = self.0.get(from..to)?;
        self.0 = self.0.get(to..)?;
        Some(Pair {
            key,
            is_encoded,
            value,
        })
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
