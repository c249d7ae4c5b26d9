//! One AMQP value of any type.
//!
//! The type system of AMQP 1.0 part 1. Maps keep their order and keys of any
//! type, and floats and decimals are bits, so that a value that passes through
//! leaves as it came.

use std::mem::discriminant;

use bytes::Bytes;
use bytestring::ByteString;

/// An AMQP value.
///
/// Texts and binaries are slices of what they were decoded from: copy what is
/// kept for longer, or the whole read stays in memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Value {
    /// No value.
    #[default]
    Null,
    /// `boolean`.
    Bool(bool),
    /// `ubyte`.
    Ubyte(u8),
    /// `ushort`.
    Ushort(u16),
    /// `uint`.
    Uint(u32),
    /// `ulong`.
    Ulong(u64),
    /// `byte`.
    Byte(i8),
    /// `short`.
    Short(i16),
    /// `int`.
    Int(i32),
    /// `long`.
    Long(i64),
    /// `float`, as the bits of IEEE 754; see [`Value::as_f64`].
    Float(u32),
    /// `double`, as the bits of IEEE 754; see [`Value::double`].
    Double(u64),
    /// `decimal32`, as its bytes.
    Decimal32([u8; 4]),
    /// `decimal64`, as its bytes.
    Decimal64([u8; 8]),
    /// `decimal128`, as its bytes.
    Decimal128([u8; 16]),
    /// `char`.
    Char(char),
    /// `timestamp`: milliseconds since 1970, negative before.
    Timestamp(i64),
    /// `uuid`, most significant byte first.
    Uuid([u8; 16]),
    /// `binary`.
    Binary(Bytes),
    /// `string`.
    String(ByteString),
    /// `symbol`. The standard wants ASCII; UTF-8 is let through both ways,
    /// because texts of other protocols end up in symbols (content types).
    Symbol(ByteString),
    /// `list`.
    List(Vec<Value>),
    /// `map`, in the order of the wire. Repeated keys are kept.
    Map(Vec<(Value, Value)>),
    /// `array`.
    Array(Array),
    /// A value with a descriptor.
    Described(Box<Described>),
}

/// A value whose meaning its descriptor names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// The descriptor, usually a [`Value::Ulong`] or a [`Value::Symbol`].
    pub descriptor: Value,
    /// What is described.
    pub value: Value,
}

/// Items of one and the same type, as an AMQP array wants them.
///
/// The type of an empty array is not kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Array(Vec<Value>);

impl Array {
    /// An array of `items`, or `None` if they differ in type (for described
    /// items: also in descriptor), are null, or have a descriptor that is
    /// neither `ulong` nor `symbol`.
    #[must_use]
    pub fn new(items: Vec<Value>) -> Option<Self> {
        let first = items.first();
        let uniform = first.is_none_or(|first| items.iter().all(|item| item.has_type_of(first)));
        (uniform && first.is_none_or(Value::fits_array)).then_some(Self(items))
    }

    /// An array of strings.
    #[must_use]
    pub fn of_strings<S: Into<ByteString>>(items: impl IntoIterator<Item = S>) -> Self {
        Self(items.into_iter().map(|item| Value::String(item.into())).collect())
    }

    /// An array of symbols.
    #[must_use]
    pub fn of_symbols<S: Into<ByteString>>(items: impl IntoIterator<Item = S>) -> Self {
        Self(items.into_iter().map(|item| Value::Symbol(item.into())).collect())
    }

    /// The items.
    #[must_use]
    pub fn items(&self) -> &[Value] {
        &self.0
    }
}

impl Value {
    /// A `string`.
    #[must_use]
    pub fn string(text: impl Into<ByteString>) -> Self {
        Self::String(text.into())
    }

    /// A `symbol`.
    #[must_use]
    pub fn symbol(text: impl Into<ByteString>) -> Self {
        Self::Symbol(text.into())
    }

    /// A `double`.
    #[must_use]
    pub fn double(number: f64) -> Self {
        Self::Double(number.to_bits())
    }

    /// A described value.
    #[must_use]
    pub fn described(descriptor: Value, value: Value) -> Self {
        Self::Described(Box::new(Described { descriptor, value }))
    }

    /// Whether this is [`Value::Null`].
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The text of a `string` or a `symbol`.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) | Self::Symbol(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if this is an integer of any width or a timestamp, and
    /// `i64` can hold it.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Self::Ubyte(n) => Some(n.into()),
            Self::Ushort(n) => Some(n.into()),
            Self::Uint(n) => Some(n.into()),
            Self::Ulong(n) => n.try_into().ok(),
            Self::Byte(n) => Some(n.into()),
            Self::Short(n) => Some(n.into()),
            Self::Int(n) => Some(n.into()),
            Self::Long(n) | Self::Timestamp(n) => Some(n),
            _ => None,
        }
    }

    /// The number of a `float` or a `double`.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::Float(bits) => Some(f32::from_bits(bits).into()),
            Self::Double(bits) => Some(f64::from_bits(bits)),
            _ => None,
        }
    }

    /// The truth of a `boolean`.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(truth) => Some(truth),
            _ => None,
        }
    }

    /// The entries of a `map`; none for anything else.
    #[must_use]
    pub fn entries(&self) -> &[(Value, Value)] {
        match self {
            Self::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The first value under `key`, a `string` or a `symbol`, of a `map`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        find(self.entries(), key)
    }

    /// Whether an array may hold both values.
    fn has_type_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Described(a), Self::Described(b)) => {
                a.descriptor == b.descriptor && a.value.has_type_of(&b.value)
            }
            _ => discriminant(self) == discriminant(other),
        }
    }

    /// Whether values of this type take bytes in an array. Null does not, so
    /// an array of it could claim any number of items.
    fn fits_array(&self) -> bool {
        match self {
            Self::Null => false,
            Self::Described(described) => {
                matches!(described.descriptor, Self::Ulong(_) | Self::Symbol(_))
                    && !matches!(described.value, Self::Null | Self::Described(_))
            }
            _ => true,
        }
    }
}

/// The first value under `key`, a `string` or a `symbol`, among `entries`.
#[must_use]
pub fn find<'a>(entries: &'a [(Value, Value)], key: &str) -> Option<&'a Value> {
    entries
        .iter()
        .find(|(name, _)| name.as_str() == Some(key))
        .map(|(_, value)| value)
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::String(ByteString::from_static(text))
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Bool(truth)
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Int(number)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Long(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Uint(number)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Ulong(number)
    }
}

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Self {
        Self::Binary(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_hold_one_type() {
        assert!(Array::new(vec![]).is_some());
        assert!(Array::new(vec![1_i32.into(), 2_i32.into()]).is_some());
        assert!(Array::new(vec![1_i32.into(), 2_i64.into()]).is_none());
        assert!(Array::new(vec![Value::Null]).is_none());
        let described = |code: u64, value| Value::described(code.into(), value);
        assert!(Array::new(vec![described(1, "a".into()), described(1, "b".into())]).is_some());
        assert!(Array::new(vec![described(1, "a".into()), described(2, "b".into())]).is_none());
        assert!(Array::new(vec![described(1, Value::Null)]).is_none());
    }

    #[test]
    fn maps_are_read_by_text_of_either_type() {
        let map = Value::Map(vec![
            (Value::symbol("a"), 1_i32.into()),
            ("b".into(), 2_i32.into()),
            (7_u32.into(), 3_i32.into()),
        ]);
        assert_eq!(map.get("a").and_then(Value::as_i64), Some(1));
        assert_eq!(map.get("b").and_then(Value::as_i64), Some(2));
        assert_eq!(map.get("c"), None);
        assert_eq!(Value::Null.get("a"), None);
    }
}
