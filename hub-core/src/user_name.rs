//! The user name of an MQTT CONNECT: which hub, which identity, and facts
//! about the client.
//!
//! Reads the union of what real clients send and writes the documented form
//! `{host}/{device}[/{module}]/?api-version=…&…`. Whether the host is this hub
//! and the identity may connect is decided elsewhere. Source: the developer
//! guide's page on MQTT and the Edge hub's parser.

use std::fmt;

use percent_encoding::{percent_decode_str, utf8_percent_encode};

use crate::ids::{DeviceId, IdError, ModuleId, Target};
use crate::property_bag::RESERVED;

/// An MQTT user name, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserName {
    /// The hub or gateway that the client believes to talk to, perhaps with a
    /// port. Not checked: local clients use any name that reaches the hub.
    pub host: String,
    /// The device or module that connects.
    pub target: Target,
    /// The protocol's version, as in `2021-04-12`; the service tolerates its absence.
    pub api_version: Option<String>,
    /// The plug-and-play model, as in `dtmi:com:example:Thermostat;1`.
    pub model_id: Option<String>,
    /// Name and version of the client's software.
    pub device_client_type: Option<String>,
}

/// Why a text is not the user name of a device or module.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserNameError {
    /// Nothing stands before the first slash.
    #[error("the user name has no host")]
    Host,
    /// Nothing stands between the host and the parameters.
    #[error("the user name has no device id")]
    NoDevice,
    /// The device id breaks the naming rules.
    #[error("the user name's device id is not legal")]
    Device(#[source] IdError),
    /// The module id breaks the naming rules.
    #[error("the user name's module id is not legal")]
    Module(#[source] IdError),
    /// More than a device and a module are named.
    #[error("the user name has too many segments")]
    TooManySegments,
}

impl UserName {
    /// Reads `{host}/{device}[/{module}][/][?]{parameters}`.
    ///
    /// Ids are taken as they are; values of parameters are percent-decoded,
    /// leaving alone what is not an escape. Unknown parameters are ignored, of
    /// equal ones the first counts. `?` is legal in ids, so it begins the
    /// parameters only at the start of the last segment or before
    /// `api-version=` or `DeviceClientType=`.
    ///
    /// # Errors
    /// When host or device id are absent, or an id is not legal.
    pub fn parse(text: &str) -> Result<Self, UserNameError> {
        let (host, rest) = text.split_once('/').unwrap_or((text, ""));
        if host.is_empty() {
            return Err(UserNameError::Host);
        }
        let (ids, parameters) = split_parameters(rest);
        let (device, module) = match ids.split_once('/') {
            None => (ids, None),
            Some((_, module)) if module.contains('/') => return Err(UserNameError::TooManySegments),
            Some((device, module)) => (device, Some(module)),
        };
        if device.is_empty() {
            return Err(UserNameError::NoDevice);
        }
        let parameter = |name| {
            let mut pairs = parameters.split('&').filter_map(|pair| pair.split_once('='));
            let (_, value) = pairs.find(|(key, _)| *key == name)?;
            Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
        };
        Ok(Self {
            host: host.to_owned(),
            target: Target {
                device: DeviceId::parse(device).map_err(UserNameError::Device)?,
                module: module
                    .map(ModuleId::parse)
                    .transpose()
                    .map_err(UserNameError::Module)?,
            },
            api_version: parameter("api-version"),
            // The second name belongs to previews of plug and play.
            model_id: parameter("model-id").or_else(|| parameter("digital-twin-model-id")),
            device_client_type: parameter("DeviceClientType"),
        })
    }

    /// Whether a CONNECT's client id names the same identity:
    /// `{device}` or `{device}/{module}`. The hub refuses any other.
    #[must_use]
    pub fn matches_client_id(&self, client_id: &str) -> bool {
        let Some(rest) = client_id.strip_prefix(self.target.device.as_str()) else {
            return false;
        };
        match &self.target.module {
            None => rest.is_empty(),
            Some(module) => rest.strip_prefix('/') == Some(module.as_str()),
        }
    }
}

/// Cuts what follows the host into ids and parameters, without the slash or
/// question mark between them.
fn split_parameters(rest: &str) -> (&str, &str) {
    // The usual spellings, wherever they stand: some clients do not encode the
    // slashes in the value of `DeviceClientType`.
    let starts = [
        "?api-version=",
        "?DeviceClientType=",
        "/api-version=",
        "/DeviceClientType=",
    ];
    let start = starts.iter().filter_map(|start| rest.find(start)).min();
    if let Some(start) = start {
        let ids = &rest[..start];
        return (ids.strip_suffix('/').unwrap_or(ids), &rest[start + 1..]);
    }
    match rest.rsplit_once('/') {
        // An empty last segment comes from a trailing slash.
        Some((ids, "")) => (ids, ""),
        Some((ids, last)) => match last.strip_prefix('?') {
            Some(parameters) => (ids, parameters),
            // No id contains `&`, and no module has one more segment.
            None if last.contains('&') || ids.contains('/') => (ids, last),
            None => (rest, ""),
        },
        None => (rest, ""),
    }
}

/// The documented form. Parameters that are absent are left out, but `/?` is
/// always there, so that no id can be taken for a parameter.
impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/", self.host, self.target)?;
        let parameters = [
            ("api-version", &self.api_version),
            ("DeviceClientType", &self.device_client_type),
            ("model-id", &self.model_id),
        ];
        let mut separator = '?';
        for (name, value) in parameters {
            if let Some(value) = value {
                write!(f, "{separator}{name}={}", utf8_percent_encode(value, RESERVED))?;
                separator = '&';
            }
        }
        if separator == '?' {
            f.write_str("?")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn summary(text: &str) -> (String, Option<String>) {
        let name = UserName::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(name.host, "h", "{text}");
        (name.target.to_string(), name.api_version)
    }

    #[test]
    fn every_spelling_of_real_clients_is_read() {
        let version = Some("2021-04-12".to_owned());
        for text in [
            "h/d/?api-version=2021-04-12",
            "h/d/?api-version=2021-04-12&DeviceClientType=py-2.14%2F%28x%29",
            "h/d/?DeviceClientType=c%2F1&api-version=2021-04-12",
            "h/d/?model-id=dtmi%3Aa%3B1&api-version=2021-04-12",
            "h/d/?unknown=1&api-version=2021-04-12&api-version=2",
            "h/d/api-version=2021-04-12",
            "h/d/DeviceClientType=c&api-version=2021-04-12",
            "h/d/model-id=dtmi&api-version=2021-04-12",
            "h/d?api-version=2021-04-12",
            "h/d?DeviceClientType=c&api-version=2021-04-12",
            "h/d/?api-version=2021-04-12&DeviceClientType=raw/1.0",
            "h/d/?api%2dversion=1&api-version=2021%2D04-12",
        ] {
            assert_eq!(summary(text), ("d".into(), version.clone()), "{text}");
        }
        for text in [
            "h/d/m/?api-version=2021-04-12",
            "h/d/m/api-version=2021-04-12",
            "h/d/m?api-version=2021-04-12",
            "h/d/m/model-id=dtmi&api-version=2021-04-12",
        ] {
            assert_eq!(summary(text), ("d/m".into(), version.clone()), "{text}");
        }
        for (text, target) in [
            ("h/d", "d"),
            ("h/d/", "d"),
            ("h/d/?", "d"),
            ("h/d/m", "d/m"),
            ("h/d/m/", "d/m"),
            ("h/d/m/auth-chain=x", "d/m"),
        ] {
            assert_eq!(summary(text), (target.into(), None), "{text}");
        }
    }

    #[test]
    fn a_question_mark_may_belong_to_an_id() {
        for (text, target) in [
            ("h/d?", "d?"),
            ("h/?d", "?d"),
            ("h/d?x=1", "d?x=1"),
            ("h/d?/?api-version=1", "d?"),
            ("h/d??api-version=1", "d?"),
            ("h/d/?m/?api-version=1", "d/?m"),
            ("h/d/m?model-id=1", "d/m?model-id=1"),
        ] {
            assert_eq!(summary(text).0, target, "{text}");
        }
    }

    #[test]
    fn parameters_are_decoded() {
        let name = UserName::parse(
            "localhost:8883/d/?api-version=2020-09-30&DeviceClientType=a%20b+c%2F1%&model-id=dtmi%3Acom%3Ax%3B1",
        )
        .unwrap();
        assert_eq!(name.host, "localhost:8883");
        assert_eq!(name.device_client_type.as_deref(), Some("a b+c/1%"));
        assert_eq!(name.model_id.as_deref(), Some("dtmi:com:x;1"));
        let preview = UserName::parse("h/d/?api-version=1&digital-twin-model-id=dtmi%3Ax%3B1").unwrap();
        assert_eq!(preview.model_id.as_deref(), Some("dtmi:x;1"));
    }

    #[test]
    fn each_broken_name_names_its_fault() {
        for (text, expected) in [
            ("", UserNameError::Host),
            ("/d", UserNameError::Host),
            ("h", UserNameError::NoDevice),
            ("h/", UserNameError::NoDevice),
            ("h/?api-version=1", UserNameError::NoDevice),
            ("h//m", UserNameError::NoDevice),
            ("h/a b", UserNameError::Device(IdError::Character { found: ' ' })),
            ("h/d/m#", UserNameError::Module(IdError::Character { found: '#' })),
            ("h/d//?api-version=1", UserNameError::Module(IdError::Empty)),
            ("h/d/m/x/?api-version=1", UserNameError::TooManySegments),
        ] {
            assert_eq!(UserName::parse(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn the_client_id_names_the_same_identity() {
        let device = UserName::parse("h/d/?").unwrap();
        let module = UserName::parse("h/d/m/?").unwrap();
        assert!(device.matches_client_id("d") && module.matches_client_id("d/m"));
        for other in ["", "D", "d/", "d/m/", "d/M", "dm", "d2", "/m"] {
            assert!(!device.matches_client_id(other), "{other}");
            assert!(!module.matches_client_id(other), "{other}");
        }
        assert!(!device.matches_client_id("d/m") && !module.matches_client_id("d"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            host in "[a-zA-Z0-9.:-]{1,20}",
            // An id with a parameter's name in it cannot be told from one.
            device in "[a-zA-Z0-9.%_*?!(),:=@$';-]{1,10}",
            module in proptest::option::of("[a-zA-Z0-9.%_*?!(),:=@$';-]{1,10}"),
            api_version in proptest::option::of(".*"),
            model_id in proptest::option::of(".*"),
            device_client_type in proptest::option::of(".*"),
        ) {
            let target = Target {
                device: DeviceId::parse(&device).unwrap(),
                module: module.map(|id| ModuleId::parse(&id).unwrap()),
            };
            let name = UserName { host, target, api_version, model_id, device_client_type };
            prop_assert!(name.matches_client_id(&name.target.to_string()));
            prop_assert_eq!(UserName::parse(&name.to_string()), Ok(name));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "(.|[/?&=%]|api-version=|DeviceClientType=){0,30}") {
            let _ = UserName::parse(&text);
        }
    }
}
