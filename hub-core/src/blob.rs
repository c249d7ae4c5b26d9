//! Names of the hub's own blob storage: containers, and the blobs in them.
//!
//! The storage itself, a directory, belongs to the hub; here is which names
//! are legal and which file a name stands for. Permissions to a blob are
//! tokens of their own, see [`crate::sas::blob`].

use std::fmt;
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::limits;

/// The container for files that devices upload.
pub const UPLOADS_CONTAINER: &str = "device-uploads";

/// First segments of the hub's own paths, which a container of that name
/// would hide behind.
const RESERVED: [&str; 9] = [
    "certificates",
    "configurations",
    "devices",
    "digitaltwins",
    "enrollments",
    "jobs",
    "messages",
    "statistics",
    "twins",
];

/// What a file's name may not hold as it is: everything that some file system
/// gives a meaning, and `%`, which marks what was replaced.
const FILE_RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b' ')
    .remove(b'(')
    .remove(b')')
    .remove(b'+')
    .remove(b',')
    .remove(b'=')
    .remove(b'@')
    .remove(b'!')
    .remove(b'\'')
    .remove(b'$')
    .remove(b';');

/// What is percent-encoded in the path of a blob's address.
const PATH_RESERVED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Bytes of one file name; most file systems take 255.
const FILE_NAME_BYTES: usize = 250;

/// Why a text does not name a container or blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BlobNameError {
    /// Not 3 to 63 lower-case letters, digits and single dashes in between, or
    /// the first segment of one of the hub's own paths.
    #[error("not the name of a container")]
    Container,
    /// Nothing, or too much.
    #[error("the blob name must have 1 to {} characters", limits::BLOB_NAME_CHARS)]
    Length,
    /// A control character, bytes that are not UTF-8, or a character that XML
    /// does not have (U+FFFE and U+FFFF), so that no listing could show it.
    #[error("the blob name contains a control character or is not UTF-8")]
    Character,
    /// Too much between two slashes for a file's name.
    #[error("a part of the blob name between slashes is too long")]
    Segment,
}

/// The name of a container: 3 to 63 lower-case ASCII letters, digits and
/// single dashes between them (storage naming guide), and no segment that the
/// hub's own paths begin with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerName(Box<str>);

impl ContainerName {
    /// Checks `text` against the naming rules.
    ///
    /// # Errors
    /// When it breaks one.
    pub fn parse(text: &str) -> Result<Self, BlobNameError> {
        let legal = (3..=63).contains(&text.len())
            && !RESERVED.contains(&text)
            && text.split('-').all(|part| {
                !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            });
        if legal {
            Ok(Self(text.into()))
        } else {
            Err(BlobNameError::Container)
        }
    }

    /// The container for files that devices upload.
    #[must_use]
    pub fn uploads() -> Self {
        Self(UPLOADS_CONTAINER.into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a blob: 1 to [`limits::BLOB_NAME_CHARS`] characters without
/// control characters. Slashes part it for the eye only; case counts, except
/// where the file system that keeps the blobs ignores it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobName(Box<str>);

impl BlobName {
    /// Checks `text`, already decoded, against the naming rules.
    ///
    /// # Errors
    /// When it breaks one.
    pub fn parse(text: &str) -> Result<Self, BlobNameError> {
        if text.is_empty() || text.chars().count() > limits::BLOB_NAME_CHARS {
            return Err(BlobNameError::Length);
        }
        if text
            .chars()
            .any(|c| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'))
        {
            return Err(BlobNameError::Character);
        }
        if text
            .split('/')
            .any(|segment| file_name(segment).len() > FILE_NAME_BYTES)
        {
            return Err(BlobNameError::Segment);
        }
        Ok(Self(text.into()))
    }

    /// Reads the name in the path of an address, where clients encode what
    /// they like: `a%2Fb` and `a/b` are one name.
    ///
    /// # Errors
    /// When the decoded text breaks a rule.
    pub fn from_path(path: &str) -> Result<Self, BlobNameError> {
        let text = percent_decode_str(path)
            .decode_utf8()
            .map_err(|_| BlobNameError::Character)?;
        Self::parse(&text)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as it stands in the path of an address; slashes stay.
    #[must_use]
    pub fn to_path(&self) -> String {
        utf8_percent_encode(&self.0, PATH_RESERVED).to_string()
    }

    /// The file that the blob is kept in, relative to its container: a
    /// directory for each part before a slash. Different names have different
    /// files, and none leaves the directory.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.0.split('/').map(file_name).collect()
    }

    /// The name that [`BlobName::file`] made a relative path of; `None` for
    /// the path of some other file.
    #[must_use]
    pub fn from_file(path: &Path) -> Option<Self> {
        let parts: Option<Vec<_>> = path
            .iter()
            .map(|part| match part.to_str()? {
                EMPTY => Some("".into()),
                part => percent_decode_str(part).decode_utf8().ok(),
            })
            .collect();
        let name = parts?.join("/");
        Self::parse(&name).ok().filter(|name| name.file() == path)
    }
}

impl fmt::Display for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The file name of a part that is empty, as in `a//b`.
const EMPTY: &str = "%";

fn file_name(segment: &str) -> String {
    match segment {
        "" => EMPTY.into(),
        // A name of dots only means a directory; a dot or blank at the end is
        // dropped by some systems.
        _ if segment.ends_with(['.', ' ']) => {
            let body = &segment[..segment.len() - 1];
            let last = if segment.ends_with('.') { "%2E" } else { "%20" };
            format!("{}{last}", utf8_percent_encode(body, FILE_RESERVED))
        }
        _ if is_windows_device(segment) => {
            let (first, rest) = segment.split_at(1);
            format!(
                "%{:02X}{}",
                first.as_bytes()[0],
                utf8_percent_encode(rest, FILE_RESERVED)
            )
        }
        _ => utf8_percent_encode(segment, FILE_RESERVED).to_string(),
    }
}

/// Whether Windows takes the name for a device, whatever its extension.
fn is_windows_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).trim_end();
    let is = |device: &str| stem.eq_ignore_ascii_case(device);
    ["con", "prn", "aux", "nul"].into_iter().any(is)
        || stem.split_at_checked(3).is_some_and(|(kind, number)| {
            (kind.eq_ignore_ascii_case("com") || kind.eq_ignore_ascii_case("lpt"))
                && matches!(number.as_bytes(), [b'0'..=b'9'])
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Component;

    #[test]
    fn containers_have_plain_names() {
        for good in ["abc", "device-uploads", "a1-b2-c3", &"x".repeat(63)] {
            assert_eq!(ContainerName::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "ab",
            &"x".repeat(64),
            "Abc",
            "a--b",
            "-abc",
            "abc-",
            "a_b",
            "a.b",
            "..",
            "...",
            "a/b",
            "devices",
            "jobs",
            "$root",
            "caf\u{e9}",
        ] {
            assert_eq!(ContainerName::parse(bad), Err(BlobNameError::Container), "{bad}");
        }
    }

    #[test]
    fn names_of_files_stay_readable_and_inside() {
        for (name, file) in [
            ("dev1/myfile.txt", "dev1/myfile.txt"),
            ("d/a b(1)=@.log", "d/a b(1)=@.log"),
            ("d/../../etc/passwd", "d/.%2E/.%2E/etc/passwd"),
            ("d/./x", "d/%2E/x"),
            ("/abs", "%/abs"),
            ("a//b/", "a/%/b/%"),
            ("d/c:\\x", "d/c%3A%5Cx"),
            ("d/100%", "d/100%25"),
            ("d/\u{fc}", "d/%C3%BC"),
            ("d/end.", "d/end%2E"),
            ("NUL/com1.txt/console", "%4EUL/%63om1.txt/console"),
            ("com10/lpt\u{b9}", "com10/lpt%C2%B9"),
        ] {
            let blob = BlobName::parse(name).unwrap();
            assert_eq!(blob.file(), Path::new(file), "{name}");
            assert_eq!(BlobName::from_file(Path::new(file)), Some(blob));
        }
        assert_eq!(BlobName::from_file(Path::new("a/%41")), None);
    }

    #[test]
    fn names_are_bounded() {
        assert_eq!(BlobName::parse(""), Err(BlobNameError::Length));
        assert_eq!(BlobName::parse(&"a/".repeat(513)), Err(BlobNameError::Length));
        assert!(BlobName::parse(&"a/".repeat(512)).is_ok());
        assert_eq!(BlobName::parse(&"a".repeat(251)), Err(BlobNameError::Segment));
        assert_eq!(BlobName::parse("a\0b"), Err(BlobNameError::Character));
        assert_eq!(BlobName::from_path("a%00b"), Err(BlobNameError::Character));
        assert_eq!(BlobName::parse("a\u{ffff}"), Err(BlobNameError::Character));
        assert_eq!(BlobName::from_path("a%FF"), Err(BlobNameError::Character));
        assert_eq!(BlobName::from_path("a%2Fb+c").unwrap().as_str(), "a/b+c");
    }

    proptest! {
        #[test]
        fn a_file_is_inside_and_gives_its_name_back(text in "[a./%\\\\: \u{e9}]{1,12}|\\PC{1,20}") {
            if let Ok(name) = BlobName::parse(&text) {
                let file = name.file();
                for component in file.components() {
                    prop_assert!(matches!(component, Component::Normal(_)));
                }
                prop_assert_eq!(BlobName::from_file(&file), Some(name.clone()));
                prop_assert_eq!(BlobName::from_path(&name.to_path()), Ok(name));
            }
        }

        #[test]
        fn nothing_panics(text in ".*") {
            let _ = BlobName::parse(&text);
            let _ = BlobName::from_path(&text);
            let _ = BlobName::from_file(Path::new(&text));
            let _ = ContainerName::parse(&text);
        }
    }
}
