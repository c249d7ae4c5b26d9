//! Bytes to values.
//!
//! Every constructor of AMQP 1.0 part 1 is accepted. Nesting is limited, and a
//! count is checked against the bytes that remain before anything is reserved
//! for it, so what a value costs is bounded by the length of its bytes.

use bytes::Bytes;
use bytestring::ByteString;

use crate::value::{Array, Value};

/// Greatest depth of nested lists, maps, arrays and descriptors. Ours: the
/// deepest value of a known client is five levels down, in an ATTACH.
pub const MAX_DEPTH: u32 = 32;

/// Items accepted in an array whose items take no bytes. Ours: without a limit
/// eight bytes could announce four thousand million of them.
const MAX_WIDTHLESS_ITEMS: usize = 16;

/// Items reserved for at once; more are added as they are found to be there.
const RESERVED_ITEMS: usize = 32;

/// Why bytes are not an acceptable AMQP value, performative or section.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside a value.
    #[error("the bytes end inside a value")]
    Truncated,
    /// A constructor that AMQP 1.0 does not define.
    #[error("there is no constructor {0:#04x}")]
    Constructor(u8),
    /// A size or count that contradicts the bytes.
    #[error("a size or count contradicts the bytes")]
    Size,
    /// More than [`MAX_DEPTH`] levels of nesting.
    #[error("values are nested more than {MAX_DEPTH} levels deep")]
    Depth,
    /// A boolean, character or text with impossible bytes.
    #[error("the bytes of a {0} are impossible")]
    Content(&'static str),
    /// An array whose items differ in type or take no bytes.
    #[error("the items of an array have no common type with a width")]
    Items,
    /// A field that must be there is not.
    #[error("the field {0} is missing")]
    Missing(&'static str),
    /// A field with a value of another type or range than its definition.
    #[error("the field {0} has a value of a wrong type or range")]
    Field(&'static str),
    /// A descriptor that has no meaning in this place.
    #[error("an unexpected descriptor: {0}")]
    Descriptor(String),
}

/// Decodes the value that `bytes` holds from its first to its last byte.
///
/// # Errors
/// When the bytes are no value, or more follow it.
pub fn decode_value(bytes: &Bytes) -> Result<Value, DecodeError> {
    let mut reader = Reader::new(bytes);
    let value = reader.value()?;
    if reader.is_empty() {
        Ok(value)
    } else {
        Err(DecodeError::Size)
    }
}

/// A position in bytes.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    source: &'a Bytes,
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(source: &'a Bytes) -> Self {
        Self { source, at: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at >= self.source.len()
    }

    fn remaining(&self) -> usize {
        self.source.len() - self.at
    }

    /// What follows the values read so far.
    pub(crate) fn rest(&self) -> Bytes {
        self.source.slice(self.at..)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let end = self.at.checked_add(count).ok_or(DecodeError::Truncated)?;
        let taken = self.source.get(self.at..end).ok_or(DecodeError::Truncated)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A size or count of one byte, or of four if `wide`.
    fn size(&mut self, wide: bool) -> Result<usize, DecodeError> {
        if wide {
            Ok(self.u32()? as usize)
        } else {
            Ok(self.u8()?.into())
        }
    }

    fn bytes(&mut self, wide: bool) -> Result<Bytes, DecodeError> {
        let length = self.size(wide)?;
        let start = self.at;
        self.take(length)?;
        Ok(self.source.slice(start..self.at))
    }

    fn text(&mut self, wide: bool) -> Result<ByteString, DecodeError> {
        ByteString::try_from(self.bytes(wide)?).map_err(|_| DecodeError::Content("text"))
    }

    /// Size and count of a compound value: the number of items and where it ends.
    fn extent(&mut self, wide: bool) -> Result<(usize, usize), DecodeError> {
        let size = self.size(wide)?;
        let end = self.at.checked_add(size).ok_or(DecodeError::Truncated)?;
        if size > self.remaining() {
            return Err(DecodeError::Truncated);
        }
        let count = self.size(wide)?;
        if self.at > end {
            return Err(DecodeError::Size);
        }
        Ok((count, end))
    }

    /// Checks that a compound value ended where it said.
    fn ends_at(&self, end: usize) -> Result<(), DecodeError> {
        if self.at == end {
            Ok(())
        } else {
            Err(DecodeError::Size)
        }
    }

    /// Decodes one value of any type.
    pub(crate) fn value(&mut self) -> Result<Value, DecodeError> {
        self.nested(0)
    }

    fn nested(&mut self, depth: u32) -> Result<Value, DecodeError> {
        if depth > MAX_DEPTH {
            return Err(DecodeError::Depth);
        }
        match self.u8()? {
            0x00 => {
                let descriptor = self.nested(depth + 1)?;
                let value = self.nested(depth + 1)?;
                Ok(Value::described(descriptor, value))
            }
            code => self.body(code, depth),
        }
    }

    /// Decodes what follows the constructor `code`.
    fn body(&mut self, code: u8, depth: u32) -> Result<Value, DecodeError> {
        // The upper half byte is the width, so 0xb0, 0xd0 and 0xf0 are the wide forms.
        let wide = code & 0x10 != 0;
        Ok(match code {
            0x40 => Value::Null,
            0x41 => Value::Bool(true),
            0x42 => Value::Bool(false),
            0x56 => match self.u8()? {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                _ => return Err(DecodeError::Content("boolean")),
            },
            0x50 => Value::Ubyte(self.u8()?),
            0x51 => Value::Byte(self.array().map(i8::from_be_bytes)?),
            0x60 => Value::Ushort(self.array().map(u16::from_be_bytes)?),
            0x61 => Value::Short(self.array().map(i16::from_be_bytes)?),
            0x43 => Value::Uint(0),
            0x52 => Value::Uint(self.u8()?.into()),
            0x70 => Value::Uint(self.u32()?),
            0x44 => Value::Ulong(0),
            0x53 => Value::Ulong(self.u8()?.into()),
            0x80 => Value::Ulong(self.u64()?),
            0x54 => Value::Int(self.array().map(i8::from_be_bytes)?.into()),
            0x71 => Value::Int(self.array().map(i32::from_be_bytes)?),
            0x55 => Value::Long(self.array().map(i8::from_be_bytes)?.into()),
            0x81 => Value::Long(self.array().map(i64::from_be_bytes)?),
            0x72 => Value::Float(self.u32()?),
            0x82 => Value::Double(self.u64()?),
            0x74 => Value::Decimal32(self.array()?),
            0x84 => Value::Decimal64(self.array()?),
            0x94 => Value::Decimal128(self.array()?),
            0x73 => Value::Char(char::from_u32(self.u32()?).ok_or(DecodeError::Content("char"))?),
            0x83 => Value::Timestamp(self.array().map(i64::from_be_bytes)?),
            0x98 => Value::Uuid(self.array()?),
            0xa0 | 0xb0 => Value::Binary(self.bytes(wide)?),
            0xa1 | 0xb1 => Value::String(self.text(wide)?),
            0xa3 | 0xb3 => Value::Symbol(self.text(wide)?),
            0x45 => Value::List(Vec::new()),
            0xc0 | 0xd0 => {
                let (count, end) = self.extent(wide)?;
                let mut items = self.room(count, end)?;
                for _ in 0..count {
                    items.push(self.nested(depth + 1)?);
                }
                self.ends_at(end)?;
                Value::List(items)
            }
            0xc1 | 0xd1 => {
                let (count, end) = self.extent(wide)?;
                if count % 2 != 0 {
                    return Err(DecodeError::Size);
                }
                let mut entries = self.room(count, end)?;
                for _ in 0..count / 2 {
                    entries.push((self.nested(depth + 1)?, self.nested(depth + 1)?));
                }
                self.ends_at(end)?;
                Value::Map(entries)
            }
            0xe0 | 0xf0 => {
                let (count, end) = self.extent(wide)?;
                let items = self.items(count, end, depth + 1)?;
                self.ends_at(end)?;
                Value::Array(Array::new(items).ok_or(DecodeError::Items)?)
            }
            unknown => return Err(DecodeError::Constructor(unknown)),
        })
    }

    /// Room for the first of `count` items that take at least a byte each.
    fn room<T>(&self, count: usize, end: usize) -> Result<Vec<T>, DecodeError> {
        if count > end - self.at {
            return Err(DecodeError::Size);
        }
        Ok(Vec::with_capacity(count.min(RESERVED_ITEMS)))
    }

    /// The items of an array: one constructor, then bodies.
    fn items(&mut self, count: usize, end: usize, depth: u32) -> Result<Vec<Value>, DecodeError> {
        if depth > MAX_DEPTH {
            return Err(DecodeError::Depth);
        }
        let mut code = self.u8()?;
        let mut descriptor = None;
        if code == 0x00 {
            // The descriptor is repeated with every item, so it must be cheap to repeat.
            descriptor = match self.nested(depth + 1)? {
                scalar @ (Value::Ulong(_) | Value::Symbol(_)) => Some(scalar),
                _ => return Err(DecodeError::Items),
            };
            code = self.u8()?;
        }
        let left = end.checked_sub(self.at).ok_or(DecodeError::Size)?;
        // 0x40 to 0x45 stand for a value by themselves.
        if count > left && (code & 0xf0 != 0x40 || count > MAX_WIDTHLESS_ITEMS) {
            return Err(DecodeError::Size);
        }
        let mut items = Vec::with_capacity(count.min(RESERVED_ITEMS));
        for _ in 0..count {
            let item = self.body(code, depth + 1)?;
            items.push(match &descriptor {
                Some(descriptor) => Value::described(descriptor.clone(), item),
                None => item,
            });
        }
        Ok(items)
    }

    /// Reads a described list: its descriptor, and its fields to be taken in
    /// order. The form `0x45` is a list without fields.
    pub(crate) fn composite(&mut self) -> Result<(u64, Fields<'_, 'a>), DecodeError> {
        let code = self.descriptor()?;
        Ok((code, self.fields()?))
    }

    /// Reads `0x00` and a descriptor, as a number.
    pub(crate) fn descriptor(&mut self) -> Result<u64, DecodeError> {
        match self.u8()? {
            0x00 => {}
            code => {
                return Err(DecodeError::Descriptor(format!(
                    "none, but constructor {code:#04x}"
                )));
            }
        }
        match self.nested(1)? {
            Value::Ulong(code) => Ok(code),
            Value::Symbol(name) => {
                code_of(&name).ok_or_else(|| DecodeError::Descriptor(name.chars().take(64).collect()))
            }
            _ => Err(DecodeError::Descriptor("neither ulong nor symbol".into())),
        }
    }

    /// Reads the header of a list.
    pub(crate) fn fields(&mut self) -> Result<Fields<'_, 'a>, DecodeError> {
        let (left, end) = match self.u8()? {
            0x45 => (0, self.at),
            code @ (0xc0 | 0xd0) => {
                let (count, end) = self.extent(code == 0xd0)?;
                if count > end - self.at {
                    return Err(DecodeError::Size);
                }
                (count, end)
            }
            _ => return Err(DecodeError::Descriptor("of something that is no list".into())),
        };
        Ok(Fields {
            reader: self,
            left,
            end,
        })
    }
}

/// The fields of a described list. A field that the list has not is null.
pub(crate) struct Fields<'r, 'a> {
    reader: &'r mut Reader<'a>,
    left: usize,
    end: usize,
}

impl Fields<'_, '_> {
    /// The next field.
    pub(crate) fn value(&mut self) -> Result<Value, DecodeError> {
        if self.left == 0 {
            return Ok(Value::Null);
        }
        self.left -= 1;
        self.reader.nested(2)
    }

    /// The constructor of the next field; that of null after the last one.
    fn code(&mut self) -> Result<u8, DecodeError> {
        if self.left == 0 {
            return Ok(0x40);
        }
        self.left -= 1;
        self.reader.u8()
    }

    /// The next field if it is an unsigned integer; the width that the client
    /// chose does not matter.
    pub(crate) fn ulong(&mut self, name: &'static str) -> Result<Option<u64>, DecodeError> {
        // Numbers, texts and truths are most of what is read: no detour over `Value`.
        Ok(Some(match self.code()? {
            0x40 => return Ok(None),
            0x43 | 0x44 => 0,
            0x50 | 0x52 | 0x53 => self.reader.u8()?.into(),
            0x60 => self.reader.array().map(u16::from_be_bytes)?.into(),
            0x70 => self.reader.u32()?.into(),
            0x80 => self.reader.u64()?,
            _ => return Err(DecodeError::Field(name)),
        }))
    }

    /// As [`Fields::ulong`], in the range of a narrower type.
    fn narrow<T: TryFrom<u64>>(&mut self, name: &'static str) -> Result<Option<T>, DecodeError> {
        self.ulong(name)?
            .map(|number| T::try_from(number).map_err(|_| DecodeError::Field(name)))
            .transpose()
    }

    pub(crate) fn uint(&mut self, name: &'static str) -> Result<Option<u32>, DecodeError> {
        self.narrow(name)
    }

    pub(crate) fn ushort(&mut self, name: &'static str) -> Result<Option<u16>, DecodeError> {
        self.narrow(name)
    }

    pub(crate) fn ubyte(&mut self, name: &'static str) -> Result<Option<u8>, DecodeError> {
        self.narrow(name)
    }

    pub(crate) fn bool(&mut self, name: &'static str) -> Result<Option<bool>, DecodeError> {
        match self.code()? {
            0x40 => Ok(None),
            0x41 => Ok(Some(true)),
            0x42 => Ok(Some(false)),
            0x56 => match self.reader.u8()? {
                0 => Ok(Some(false)),
                1 => Ok(Some(true)),
                _ => Err(DecodeError::Content("boolean")),
            },
            _ => Err(DecodeError::Field(name)),
        }
    }

    pub(crate) fn timestamp(&mut self, name: &'static str) -> Result<Option<i64>, DecodeError> {
        match self.value()? {
            Value::Null => Ok(None),
            value => value.as_i64().ok_or(DecodeError::Field(name)).map(Some),
        }
    }

    /// The next field if it is a string or a symbol: clients mix them up.
    pub(crate) fn text(&mut self, name: &'static str) -> Result<Option<ByteString>, DecodeError> {
        match self.code()? {
            0x40 => Ok(None),
            code @ (0xa1 | 0xa3 | 0xb1 | 0xb3) => self.reader.text(code & 0x10 != 0).map(Some),
            _ => Err(DecodeError::Field(name)),
        }
    }

    pub(crate) fn binary(&mut self, name: &'static str) -> Result<Option<Bytes>, DecodeError> {
        match self.code()? {
            0x40 => Ok(None),
            code @ (0xa0 | 0xb0) => self.reader.bytes(code & 0x10 != 0).map(Some),
            _ => Err(DecodeError::Field(name)),
        }
    }

    /// The next field if it is a map.
    pub(crate) fn map(&mut self, name: &'static str) -> Result<Vec<(Value, Value)>, DecodeError> {
        match self.value()? {
            Value::Null => Ok(Vec::new()),
            Value::Map(entries) => Ok(entries),
            _ => Err(DecodeError::Field(name)),
        }
    }

    /// The next field if it is a described list, which `read` reads.
    pub(crate) fn composite<T>(
        &mut self,
        read: impl FnOnce(u64, &mut Fields<'_, '_>) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        if self.reader.source.get(self.reader.at) == Some(&0x40) {
            self.reader.at += 1;
            return Ok(None);
        }
        let (code, mut fields) = self.reader.composite()?;
        let read = read(code, &mut fields)?;
        fields.finish()?;
        Ok(Some(read))
    }

    /// Skips fields that are not known, and checks that the list ends there.
    pub(crate) fn finish(&mut self) -> Result<(), DecodeError> {
        while self.left > 0 {
            self.value()?;
        }
        self.reader.ends_at(self.end)
    }
}

/// The number for a descriptor given by its symbolic name.
fn code_of(name: &str) -> Option<u64> {
    Some(match name {
        "amqp:open:list" => 0x10,
        "amqp:begin:list" => 0x11,
        "amqp:attach:list" => 0x12,
        "amqp:flow:list" => 0x13,
        "amqp:transfer:list" => 0x14,
        "amqp:disposition:list" => 0x15,
        "amqp:detach:list" => 0x16,
        "amqp:end:list" => 0x17,
        "amqp:close:list" => 0x18,
        "amqp:error:list" => 0x1d,
        "amqp:received:list" => 0x23,
        "amqp:accepted:list" => 0x24,
        "amqp:rejected:list" => 0x25,
        "amqp:released:list" => 0x26,
        "amqp:modified:list" => 0x27,
        "amqp:source:list" => 0x28,
        "amqp:target:list" => 0x29,
        "amqp:sasl-mechanisms:list" => 0x40,
        "amqp:sasl-init:list" => 0x41,
        "amqp:sasl-challenge:list" => 0x42,
        "amqp:sasl-response:list" => 0x43,
        "amqp:sasl-outcome:list" => 0x44,
        "amqp:header:list" => 0x70,
        "amqp:delivery-annotations:map" => 0x71,
        "amqp:message-annotations:map" => 0x72,
        "amqp:properties:list" => 0x73,
        "amqp:application-properties:map" => 0x74,
        "amqp:data:binary" => 0x75,
        "amqp:amqp-sequence:list" => 0x76,
        "amqp:amqp-value:*" => 0x77,
        "amqp:footer:map" => 0x78,
        _ => return None,
    })
}
