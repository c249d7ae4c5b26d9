//! Identifiers, parsed once at the edge and carried as types from there on.
//!
//! A value of these types is always legal: the only way to get one is through
//! a check of the naming rules.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::limits;

/// Why a text is not a legal identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text has no characters.
    #[error("the id is empty")]
    Empty,
    /// The text is longer than the rule for this kind of id allows.
    #[error("the id is longer than {max} characters")]
    TooLong {
        /// Greatest legal length in characters.
        max: usize,
    },
    /// The text contains a character that the rule for this kind of id excludes.
    #[error("the id contains the character {found:?}, which is not allowed")]
    Character {
        /// The first offending character.
        found: char,
    },
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text` against the naming rules.
            ///
            /// # Errors
            /// Names the first rule that `text` breaks.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                $check(text)?;
                Ok(Self(text.into()))
            }

            /// The id as clients wrote it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}

id_type!(
    /// Id of a device. Case-sensitive, 1 to 128 ASCII letters, digits or
    /// ``- . % _ * ? ! ( ) , : = @ $ ' ;``.
    ///
    /// `+` and `#` are refused although an old API description lists them:
    /// they would turn a device's topics into wildcards.
    DeviceId,
    check_identity
);
id_type!(
    /// Id of a module, unique within its device; same alphabet as [`DeviceId`].
    ModuleId,
    check_identity
);
id_type!(
    /// Id of a scheduled job: 1 to 64 ASCII letters, digits or `-`.
    JobId,
    check_job
);

id_type!(
    /// Id of an automatic configuration: 1 to 128 lower-case ASCII letters,
    /// digits or `- + % _ * ! '`.
    ConfigurationId,
    check_configuration
);

impl ModuleId {
    /// Whether this is one of the modules that the hub itself gives an Edge
    /// device (`$edgeAgent`, `$edgeHub`); clients may not create such ids.
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.0.starts_with('$')
    }
}

/// A device or one of its modules: whatever has a twin, a connection and
/// methods of its own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The device, or the device that the module belongs to.
    pub device: DeviceId,
    /// The module, when a module is meant.
    pub module: Option<ModuleId>,
}

impl Target {
    /// The device itself.
    #[must_use]
    pub fn device(device: DeviceId) -> Self {
        Self { device, module: None }
    }
}

impl From<DeviceId> for Target {
    fn from(device: DeviceId) -> Self {
        Self::device(device)
    }
}

/// `dev1` or `dev1/module1`, the form of an MQTT client id.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.module {
            None => f.write_str(self.device.as_str()),
            Some(module) => write!(f, "{}/{module}", self.device),
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn check_identity(text: &str) -> Result<(), IdError> {
    check(text, limits::IDENTITY_ID_CHARS, |c| {
        c.is_ascii_alphanumeric() || "-.%_*?!(),:=@$';".contains(c)
    })
}

fn check_job(text: &str) -> Result<(), IdError> {
    check(text, limits::JOB_ID_CHARS, |c| {
        c.is_ascii_alphanumeric() || c == '-'
    })
}

fn check_configuration(text: &str) -> Result<(), IdError> {
    check(text, limits::CONFIGURATION_ID_CHARS, |c| {
        c.is_ascii_lowercase() || c.is_ascii_digit() || "-+%_*!'".contains(c)
    })
}

fn check(text: &str, max: usize, legal: impl Fn(char) -> bool) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if let Some(found) = text.chars().find(|c| !legal(*c)) {
        return Err(IdError::Character { found });
    }
    // Legal characters are ASCII, so bytes are characters.
    if text.len() > max {
        return Err(IdError::TooLong { max });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_ids_follow_the_documented_alphabet() {
        let everything = "aZ9-.%_*?!(),:=@$';";
        assert_eq!(DeviceId::parse(everything).unwrap().as_str(), everything);
        for (text, found) in [
            ("a b", ' '),
            ("a/b", '/'),
            ("a+", '+'),
            ("#", '#'),
            ("é", 'é'),
            ("a\u{0}", '\u{0}'),
        ] {
            assert_eq!(
                DeviceId::parse(text),
                Err(IdError::Character { found }),
                "{text:?}"
            );
        }
        assert_eq!(DeviceId::parse(""), Err(IdError::Empty));
        assert!(DeviceId::parse(&"x".repeat(128)).is_ok());
        assert_eq!(
            DeviceId::parse(&"x".repeat(129)),
            Err(IdError::TooLong { max: 128 })
        );
    }

    #[test]
    fn job_ids_are_letters_digits_and_hyphens() {
        assert!(JobId::parse("Job-01").is_ok());
        assert_eq!(JobId::parse("job_1"), Err(IdError::Character { found: '_' }));
        assert_eq!(JobId::parse(&"j".repeat(65)), Err(IdError::TooLong { max: 64 }));
    }

    #[test]
    fn configuration_ids_have_no_capitals() {
        let everything = "az09-+%_*!'";
        assert_eq!(ConfigurationId::parse(everything).unwrap().as_str(), everything);
        for found in ['A', '.', '$', '(', ' ', '/', 'ä', '#', ':'] {
            let text = format!("a{found}");
            assert_eq!(ConfigurationId::parse(&text), Err(IdError::Character { found }));
        }
        assert_eq!(ConfigurationId::parse(""), Err(IdError::Empty));
        assert!(ConfigurationId::parse(&"c".repeat(128)).is_ok());
        assert_eq!(
            ConfigurationId::parse(&"c".repeat(129)),
            Err(IdError::TooLong { max: 128 })
        );
    }

    #[test]
    fn a_target_reads_like_an_mqtt_client_id() {
        let device = DeviceId::parse("d").unwrap();
        let module = Some(ModuleId::parse("m").unwrap());
        assert_eq!(Target::device(device.clone()).to_string(), "d");
        assert_eq!(Target { device, module }.to_string(), "d/m");
    }
}
