//! What a token is for: its `sr` field, decoded and compared.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::ids::{DeviceId, ModuleId, Target};

/// The resource that a token was made for, decoded once.
///
/// Device SDKs encode an id before they encode the whole resource, so each
/// segment also counts in its second decoding. Segments are cut before that:
/// what a device's token names must never read as a mere host, which would
/// stand for the whole hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope<'a>(Cow<'a, str>);

/// Something a caller addresses on a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource<'a> {
    /// The hub as a whole: registry, queries, jobs, service messages.
    Hub,
    /// A device.
    Device(&'a DeviceId),
    /// A module of a device.
    Module(&'a DeviceId, &'a ModuleId),
    /// Anything else below the host by its decoded path without a leading
    /// slash, such as `messages/events`. Compared case-sensitively.
    Path(&'a str),
    /// A part of the Event-Hub-compatible endpoint by its decoded path, such as
    /// `my-hub/ConsumerGroups/$Default`. Event Hubs ignores case, and its
    /// clients rely on that.
    EventHub(&'a str),
}

impl<'a> From<&'a Target> for Resource<'a> {
    fn from(target: &'a Target) -> Self {
        match &target.module {
            None => Self::Device(&target.device),
            Some(module) => Self::Module(&target.device, module),
        }
    }
}

impl<'a> Scope<'a> {
    /// Decodes a token's raw `sr`. Bytes that are not UTF-8 become U+FFFD,
    /// which no id contains.
    pub(super) fn of(raw: &'a str) -> Self {
        let once = percent_decode_str(raw).decode_utf8_lossy();
        if !split_host(&once).0.contains('%') {
            return Self(once);
        }
        // No host contains a `%`: the client encoded the whole resource twice.
        Self(percent_decode_str(&once).decode_utf8_lossy().into_owned().into())
    }

    /// The host as the token has it, without scheme and port. Whether it must
    /// be the hub's is up to the caller; see [`same_host`].
    #[must_use]
    pub fn host(&self) -> &str {
        without_port(split_host(&self.0).0)
    }

    /// The path below the host without a leading slash; empty when the
    /// token is for the whole hub.
    #[must_use]
    pub fn path(&self) -> &str {
        split_host(&self.0).1
    }

    /// The device or module that the token is for; `None` if it is for something
    /// else. Ids are taken as they are, or decoded once more if `again`: either
    /// may be what the client meant.
    #[must_use]
    pub fn target(&self, again: bool) -> Option<Target> {
        let id = |segment: &str| match again {
            true => percent_decode_str(segment).decode_utf8_lossy().into_owned(),
            false => segment.to_owned(),
        };
        let mut segments = segments(self.path());
        let device = match (segments.next(), segments.next()) {
            (Some("devices"), Some(device)) => DeviceId::parse(&id(device)).ok()?,
            _ => return None,
        };
        let module = match (segments.next(), segments.next()) {
            (Some("modules"), Some(module)) => Some(ModuleId::parse(&id(module)).ok()?),
            (Some("modules"), None) => return None,
            _ => None,
        };
        Some(Target { device, module })
    }

    /// Whether the token's resource is `resource` or one above it, segment by
    /// segment. Any host will do, because local clients reach one hub as
    /// `localhost`, by address or through a gateway; without one, nothing is
    /// covered.
    #[must_use]
    pub fn covers(&self, resource: &Resource<'_>) -> bool {
        let (host, path) = split_host(&self.0);
        if host.is_empty() || host.contains('%') {
            return false;
        }
        let granted = segments(path)
            .enumerate()
            // Old clients append their api-version. An id may look the same,
            // so only an even place counts, where `devices` or `modules`
            // would stand.
            .filter(|(at, segment)| at % 2 == 1 || !segment.starts_with("api-version="))
            .map(|(_, segment)| segment);
        match resource {
            Resource::Hub => is_prefix(granted, []),
            Resource::Device(device) => is_prefix(granted, ["devices", device.as_str()]),
            Resource::Module(device, module) => {
                is_prefix(granted, ["devices", device.as_str(), "modules", module.as_str()])
            }
            Resource::Path(path) => is_prefix(granted, segments(path)),
            Resource::EventHub(path) => {
                let mut wanted = segments(path);
                let mut granted = granted;
                granted.all(|segment| {
                    wanted
                        .next()
                        .is_some_and(|wanted| segment.eq_ignore_ascii_case(wanted))
                })
            }
        }
    }
}

/// Whether two host names are the same when case and port are ignored.
#[must_use]
pub fn same_host(a: &str, b: &str) -> bool {
    without_port(a).eq_ignore_ascii_case(without_port(b))
}

fn is_prefix<'s>(
    mut granted: impl Iterator<Item = &'s str>,
    wanted: impl IntoIterator<Item = &'s str>,
) -> bool {
    let mut wanted = wanted.into_iter();
    granted.all(|segment| wanted.next().is_some_and(|wanted| names(segment, wanted)))
}

/// Whether a segment is the wanted one, as it is or decoded again.
fn names(segment: &str, wanted: &str) -> bool {
    segment == wanted || segment.contains('%') && percent_decode_str(segment).eq(wanted.bytes())
}

/// Ignores one trailing slash; no segments at all in an empty path.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split_terminator('/')
}

/// Host (with its port) and path (without its leading slash). Event Hubs
/// clients put a scheme in front, `sb://` or `amqps://`.
fn split_host(resource: &str) -> (&str, &str) {
    let after_scheme = match resource.split_once("://") {
        Some((scheme, rest)) if scheme.bytes().all(|b| b.is_ascii_alphabetic()) => rest,
        _ => resource,
    };
    after_scheme.split_once('/').unwrap_or((after_scheme, ""))
}

/// An IPv6 address stands in brackets, so a colon before `]` is no port's.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}
