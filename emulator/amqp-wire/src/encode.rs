//! Values to bytes.
//!
//! Scalars take their smallest form. Lists, maps and arrays take the one-byte
//! sizes where they fit, and never the empty form `0x45`: the pure Python
//! stack of Event Hubs has no branch for it. Items of an array share one wide
//! constructor.

use bytes::{BufMut as _, BytesMut};

use crate::value::Value;

/// Appends `value` to `out`.
pub fn encode_value(value: &Value, out: &mut BytesMut) {
    match value {
        Value::Null => out.put_u8(0x40),
        Value::Bool(truth) => put_bool(*truth, out),
        Value::Ubyte(number) => out.put_slice(&[0x50, *number]),
        Value::Uint(number) => put_uint(*number, out),
        Value::Ulong(number) => put_ulong(*number, out),
        Value::Int(number) => match i8::try_from(*number) {
            Ok(small) => {
                out.put_u8(0x54);
                out.put_i8(small);
            }
            Err(_) => put_wide(value, out),
        },
        Value::Long(number) => match i8::try_from(*number) {
            Ok(small) => {
                out.put_u8(0x55);
                out.put_i8(small);
            }
            Err(_) => put_wide(value, out),
        },
        Value::Binary(bytes) => put_binary(bytes, out),
        Value::String(text) => put_string(text, out),
        Value::Symbol(text) => put_symbol(text, out),
        Value::List(items) => compound(LIST, out, |out| {
            items.iter().for_each(|item| encode_value(item, out));
            items.len()
        }),
        Value::Map(entries) => put_map(entries, out),
        Value::Array(array) => compound(ARRAY, out, |out| {
            match array.items() {
                // No item tells the type; symbols are what empty arrays of capabilities hold.
                [] => out.put_u8(0xa3),
                items => {
                    put_constructor(&items[0], out);
                    items.iter().for_each(|item| put_item(item, out));
                }
            }
            array.items().len()
        }),
        Value::Described(described) => {
            out.put_u8(0x00);
            encode_value(&described.descriptor, out);
            encode_value(&described.value, out);
        }
        wide => put_wide(wide, out),
    }
}

/// A value behind the constructor that [`put_constructor`] writes.
fn put_wide(value: &Value, out: &mut BytesMut) {
    put_constructor(value, out);
    put_item(value, out);
}

/// The constructor that fits every value of this type.
fn put_constructor(value: &Value, out: &mut BytesMut) {
    let code = match value {
        Value::Null => 0x40,
        Value::Bool(_) => 0x56,
        Value::Ubyte(_) => 0x50,
        Value::Ushort(_) => 0x60,
        Value::Uint(_) => 0x70,
        Value::Ulong(_) => 0x80,
        Value::Byte(_) => 0x51,
        Value::Short(_) => 0x61,
        Value::Int(_) => 0x71,
        Value::Long(_) => 0x81,
        Value::Float(_) => 0x72,
        Value::Double(_) => 0x82,
        Value::Decimal32(_) => 0x74,
        Value::Decimal64(_) => 0x84,
        Value::Decimal128(_) => 0x94,
        Value::Char(_) => 0x73,
        Value::Timestamp(_) => 0x83,
        Value::Uuid(_) => 0x98,
        Value::Binary(_) => 0xb0,
        Value::String(_) => 0xb1,
        Value::Symbol(_) => 0xb3,
        Value::List(_) => 0xd0,
        Value::Map(_) => 0xd1,
        Value::Array(_) => 0xf0,
        Value::Described(described) => {
            out.put_u8(0x00);
            encode_value(&described.descriptor, out);
            return put_constructor(&described.value, out);
        }
    };
    out.put_u8(code);
}

/// A value without constructor, in the form that [`put_constructor`] names.
fn put_item(value: &Value, out: &mut BytesMut) {
    match value {
        Value::Null => {}
        Value::Bool(truth) => out.put_u8(u8::from(*truth)),
        Value::Ubyte(number) => out.put_u8(*number),
        Value::Ushort(number) => out.put_u16(*number),
        Value::Uint(number) | Value::Float(number) => out.put_u32(*number),
        Value::Ulong(number) | Value::Double(number) => out.put_u64(*number),
        Value::Byte(number) => out.put_i8(*number),
        Value::Short(number) => out.put_i16(*number),
        Value::Int(number) => out.put_i32(*number),
        Value::Long(number) | Value::Timestamp(number) => out.put_i64(*number),
        Value::Decimal32(bytes) => out.put_slice(bytes),
        Value::Decimal64(bytes) => out.put_slice(bytes),
        Value::Decimal128(bytes) | Value::Uuid(bytes) => out.put_slice(bytes),
        Value::Char(character) => out.put_u32(u32::from(*character)),
        Value::Binary(bytes) => put_sized(bytes, out),
        Value::String(text) | Value::Symbol(text) => put_sized(text.as_bytes(), out),
        Value::List(items) => wide_compound(out, |out| {
            items.iter().for_each(|item| encode_value(item, out));
            items.len()
        }),
        Value::Map(entries) => wide_compound(out, |out| {
            entries.iter().for_each(|entry| put_entry(entry, out));
            2 * entries.len()
        }),
        Value::Array(array) => wide_compound(out, |out| {
            match array.items() {
                [] => out.put_u8(0xa3),
                items => {
                    put_constructor(&items[0], out);
                    items.iter().for_each(|item| put_item(item, out));
                }
            }
            array.items().len()
        }),
        Value::Described(described) => put_item(&described.value, out),
    }
}

fn put_sized(bytes: &[u8], out: &mut BytesMut) {
    out.put_u32(length(bytes.len()));
    out.put_slice(bytes);
}

fn put_entry((key, value): &(Value, Value), out: &mut BytesMut) {
    encode_value(key, out);
    encode_value(value, out);
}

pub(crate) fn put_bool(truth: bool, out: &mut BytesMut) {
    out.put_u8(if truth { 0x41 } else { 0x42 });
}

pub(crate) fn put_uint(number: u32, out: &mut BytesMut) {
    match u8::try_from(number) {
        Ok(0) => out.put_u8(0x43),
        Ok(small) => out.put_slice(&[0x52, small]),
        Err(_) => {
            out.put_u8(0x70);
            out.put_u32(number);
        }
    }
}

pub(crate) fn put_ulong(number: u64, out: &mut BytesMut) {
    match u8::try_from(number) {
        Ok(0) => out.put_u8(0x44),
        Ok(small) => out.put_slice(&[0x53, small]),
        Err(_) => {
            out.put_u8(0x80);
            out.put_u64(number);
        }
    }
}

pub(crate) fn put_binary(bytes: &[u8], out: &mut BytesMut) {
    put_variable(0xa0, bytes, out);
}

pub(crate) fn put_string(text: &str, out: &mut BytesMut) {
    put_variable(0xa1, text.as_bytes(), out);
}

pub(crate) fn put_symbol(text: &str, out: &mut BytesMut) {
    put_variable(0xa3, text.as_bytes(), out);
}

/// Bytes behind the constructor `narrow` and one byte of length, or behind the
/// wide constructor, which is always 16 more, and four.
fn put_variable(narrow: u8, bytes: &[u8], out: &mut BytesMut) {
    match u8::try_from(bytes.len()) {
        Ok(length) => out.put_slice(&[narrow, length]),
        Err(_) => {
            out.put_u8(narrow + 0x10);
            out.put_u32(length(bytes.len()));
        }
    }
    out.put_slice(bytes);
}

pub(crate) fn put_map(entries: &[(Value, Value)], out: &mut BytesMut) {
    compound(MAP, out, |out| {
        entries.iter().for_each(|entry| put_entry(entry, out));
        2 * entries.len()
    });
}

/// Narrow constructors of the compound types; the wide ones are 16 more.
pub(crate) const LIST: u8 = 0xc0;
const MAP: u8 = 0xc1;
const ARRAY: u8 = 0xe0;

/// Writes a compound value whose items `body` writes and counts.
///
/// The narrow header is tried first and widened when the items turn out not
/// to fit; nearly all do.
pub(crate) fn compound(narrow: u8, out: &mut BytesMut, body: impl FnOnce(&mut BytesMut) -> usize) {
    const NARROW_HEADER: usize = 3;
    const WIDE_HEADER: usize = 9;
    let start = out.len();
    out.put_slice(&[narrow, 0, 0]);
    let count = body(out);
    let size = out.len() - start - NARROW_HEADER;
    if let (Ok(size), Ok(count)) = (u8::try_from(size + 1), u8::try_from(count)) {
        out[start + 1] = size;
        out[start + 2] = count;
        return;
    }
    out.put_bytes(0, WIDE_HEADER - NARROW_HEADER);
    out.copy_within(
        start + NARROW_HEADER..start + NARROW_HEADER + size,
        start + WIDE_HEADER,
    );
    out[start] = narrow + 0x10;
    out[start + 1..start + 5].copy_from_slice(&length(size + 4).to_be_bytes());
    out[start + 5..start + 9].copy_from_slice(&length(count).to_be_bytes());
}

/// As [`compound`] with the wide header and without constructor.
fn wide_compound(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut) -> usize) {
    let start = out.len();
    out.put_bytes(0, 8);
    let count = body(out);
    let size = out.len() - start - 4;
    out[start..start + 4].copy_from_slice(&length(size).to_be_bytes());
    out[start + 4..start + 8].copy_from_slice(&length(count).to_be_bytes());
}

/// A length as the wire has it. What does not fit does not fit in the
/// memory bounds of any frame or message either.
fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// A described list with its fields, in order: performatives, outcomes,
/// termini, sections.
pub(crate) struct Fields<'a> {
    out: &'a mut BytesMut,
    count: usize,
}

impl Fields<'_> {
    /// Writes the descriptor `code`, always as `smallulong`, and a list of the
    /// fields that `body` writes.
    pub(crate) fn write(code: u8, out: &mut BytesMut, body: impl FnOnce(&mut Fields<'_>)) {
        out.put_slice(&[0x00, 0x53, code]);
        compound(LIST, out, |out| {
            let mut fields = Fields { out, count: 0 };
            body(&mut fields);
            fields.count
        });
    }

    /// Makes room for one field.
    pub(crate) fn next(&mut self) -> &mut BytesMut {
        self.count += 1;
        self.out
    }

    pub(crate) fn null(&mut self) {
        self.next().put_u8(0x40);
    }

    pub(crate) fn bool(&mut self, truth: bool) {
        put_bool(truth, self.next());
    }

    pub(crate) fn ubyte(&mut self, number: u8) {
        self.next().put_slice(&[0x50, number]);
    }

    pub(crate) fn ushort(&mut self, number: u16) {
        let out = self.next();
        out.put_u8(0x60);
        out.put_u16(number);
    }

    pub(crate) fn uint(&mut self, number: impl Into<Option<u32>>) {
        match number.into() {
            Some(number) => put_uint(number, self.next()),
            None => self.null(),
        }
    }

    pub(crate) fn ulong(&mut self, number: Option<u64>) {
        match number {
            Some(number) => put_ulong(number, self.next()),
            None => self.null(),
        }
    }

    pub(crate) fn timestamp(&mut self, number: Option<i64>) {
        self.value(&number.map_or(Value::Null, Value::Timestamp));
    }

    pub(crate) fn string(&mut self, text: Option<&str>) {
        match text {
            Some(text) => put_string(text, self.next()),
            None => self.null(),
        }
    }

    pub(crate) fn symbol(&mut self, text: Option<&str>) {
        match text {
            Some(text) => put_symbol(text, self.next()),
            None => self.null(),
        }
    }

    pub(crate) fn binary(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => put_binary(bytes, self.next()),
            None => self.null(),
        }
    }

    pub(crate) fn value(&mut self, value: &Value) {
        encode_value(value, self.next());
    }
}
