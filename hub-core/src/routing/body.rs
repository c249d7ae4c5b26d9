//! The body of a message as JSON, if the message says that it is.

use std::borrow::Cow;
use std::fmt;

use serde_json::Value as Json;

use crate::json::check_depth;

/// Why conditions about the body are undefined for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoBody {
    ContentType,
    ContentEncoding,
    Malformed,
}

impl fmt::Display for NoBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ContentType => "the message's content type is not application/json",
            Self::ContentEncoding => "the message's content encoding is not utf-8, utf-16 or utf-32",
            Self::Malformed => "the message's body is not JSON",
        })
    }
}

/// Reads a body. The guide asks for both properties: without them the body is
/// not looked into.
pub(super) fn read(
    body: &[u8],
    content_type: Option<&str>,
    content_encoding: Option<&str>,
) -> Result<Json, NoBody> {
    let media_type = content_type.and_then(|text| text.split(';').next());
    if !media_type.is_some_and(|text| text.trim().eq_ignore_ascii_case("application/json")) {
        return Err(NoBody::ContentType);
    }
    let encoding = content_encoding.unwrap_or_default().trim();
    let is = |known: &str| encoding.eq_ignore_ascii_case(known);
    let text = match () {
        () if is("utf-8") => Some(Cow::Borrowed(
            body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body),
        )),
        () if is("utf-16") => utf16(body),
        () if is("utf-32") => utf32(body),
        () => return Err(NoBody::ContentEncoding),
    };
    let text = text.ok_or(NoBody::Malformed)?;
    check_depth(&text).map_err(|_| NoBody::Malformed)?;
    serde_json::from_slice(&text).map_err(|_| NoBody::Malformed)
}

/// Little-endian, unless a byte order mark says otherwise.
fn utf16(body: &[u8]) -> Option<Cow<'_, [u8]>> {
    let (units, rest) = body.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let is_big = units.first() == Some(&[0xFE, 0xFF]);
    let unit = |bytes: &[u8; 2]| {
        if is_big {
            u16::from_be_bytes(*bytes)
        } else {
            u16::from_le_bytes(*bytes)
        }
    };
    let text = char::decode_utf16(units.iter().map(unit))
        .collect::<Result<String, _>>()
        .ok()?;
    Some(without_mark(text))
}

/// Little-endian, unless a byte order mark says otherwise.
fn utf32(body: &[u8]) -> Option<Cow<'_, [u8]>> {
    let (units, rest) = body.as_chunks::<4>();
    if !rest.is_empty() {
        return None;
    }
    let is_big = units.first() == Some(&[0, 0, 0xFE, 0xFF]);
    let unit = |bytes: &[u8; 4]| {
        if is_big {
            u32::from_be_bytes(*bytes)
        } else {
            u32::from_le_bytes(*bytes)
        }
    };
    let text = units
        .iter()
        .map(|bytes| char::from_u32(unit(bytes)))
        .collect::<Option<String>>()?;
    Some(without_mark(text))
}

fn without_mark(mut text: String) -> Cow<'static, [u8]> {
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    Cow::Owned(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_body_is_json_when_the_message_says_so() {
        let json = Some("application/json");
        for (content_type, encoding, expected) in [
            (json, Some("utf-8"), Ok(json!({"a": 1}))),
            (
                Some("Application/JSON; charset=utf-8"),
                Some("UTF-8"),
                Ok(json!({"a": 1})),
            ),
            (json, None, Err(NoBody::ContentEncoding)),
            (json, Some("ascii"), Err(NoBody::ContentEncoding)),
            (json, Some("utf-16"), Err(NoBody::Malformed)),
            (None, Some("utf-8"), Err(NoBody::ContentType)),
            (Some("text/plain"), Some("utf-8"), Err(NoBody::ContentType)),
            (Some("application/json2"), Some("utf-8"), Err(NoBody::ContentType)),
        ] {
            assert_eq!(
                read(br#"{"a":1}"#, content_type, encoding),
                expected,
                "{content_type:?} {encoding:?}"
            );
        }
        let utf8 = Some("utf-8");
        for bad in ["", "{", "{\"a\":1} x", &"[".repeat(200)] {
            assert_eq!(read(bad.as_bytes(), json, utf8), Err(NoBody::Malformed), "{bad}");
        }
        assert_eq!(read("\u{feff}1".as_bytes(), json, utf8), Ok(json!(1)));
    }

    #[test]
    fn wide_encodings_are_decoded() {
        let json = Some("application/json");
        let text = "\"é😀\"";
        let (little, big): (Vec<u8>, Vec<u8>) = (
            text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            "\u{feff}"
                .encode_utf16()
                .chain(text.encode_utf16())
                .flat_map(u16::to_be_bytes)
                .collect(),
        );
        assert_eq!(read(&little, json, Some("utf-16")), Ok(json!("é😀")));
        assert_eq!(read(&big, json, Some("UTF-16")), Ok(json!("é😀")));
        let marked = format!("\u{feff}{text}");
        let little: Vec<u8> = marked.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
        let big: Vec<u8> = marked.chars().flat_map(|c| u32::from(c).to_be_bytes()).collect();
        assert_eq!(read(&little, json, Some("utf-32")), Ok(json!("é😀")));
        assert_eq!(read(&big, json, Some("utf-32")), Ok(json!("é😀")));
        for odd in [&[0x31, 0, 0][..], &[0, 0xD8]] {
            assert_eq!(read(odd, json, Some("utf-16")), Err(NoBody::Malformed));
        }
        assert_eq!(read(&[0, 0, 0, 1], json, Some("utf-32")), Err(NoBody::Malformed));
    }
}
