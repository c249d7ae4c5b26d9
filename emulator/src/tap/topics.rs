//! Names of the tap's topics.
//!
//! `hub/{device}/{kind}`, with the device's id percent-encoded outside
//! `A-Z a-z 0-9 . _ -`, so that no id makes a level or a wildcard. What is about a
//! module stands under its device. `hub/-/{kind}` is for what is about no device,
//! `hub/other/{kind}` for the devices beyond the first
//! [`limits::EVENT_TAP_DEVICES`]; devices that are called so are encoded.

use std::collections::HashSet;

use hub_core::ids::{DeviceId, Target};
use hub_core::limits;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The first level of all topics.
pub(super) const ROOT: &str = "hub";
/// In the place of a device, for what is about none.
const NO_DEVICE: &str = "-";
/// In the place of a device, for those that have no topic of their own.
const OTHER_DEVICES: &str = "other";

const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b'-');

/// The devices that have topics of their own.
#[derive(Debug, Default)]
pub(super) struct Topics(HashSet<DeviceId>);

impl Topics {
    /// The topic for something of this kind, about `target` if it is about anybody.
    pub(super) fn name(&mut self, target: Option<&Target>, kind: &str) -> String {
        let Some(Target { device, .. }) = target else {
            return format!("{ROOT}/{NO_DEVICE}/{kind}");
        };
        if !self.0.contains(device) {
            if self.0.len() >= limits::EVENT_TAP_DEVICES {
                return format!("{ROOT}/{OTHER_DEVICES}/{kind}");
            }
            self.0.insert(device.clone());
        }
        let id = device.as_str();
        let level = match id {
            NO_DEVICE | OTHER_DEVICES => {
                let first = id.as_bytes().first().copied().unwrap_or_default();
                format!("%{first:02X}{}", &id[1..])
            }
            id => utf8_percent_encode(id, ENCODED).to_string(),
        };
        format!("{ROOT}/{level}/{kind}")
    }
}

#[cfg(test)]
mod tests {
    use hub_core::ids::ModuleId;

    use super::*;

    fn device(id: &str) -> Target {
        Target::device(DeviceId::parse(id).unwrap())
    }

    #[test]
    fn ids_are_levels_of_their_own() {
        let mut topics = Topics::default();
        let mut name = |id: &str| topics.name(Some(&device(id)), "twin");
        assert_eq!(name("dev-1.a_b"), "hub/dev-1.a_b/twin");
        assert_eq!(name("a*b?c$d"), "hub/a%2Ab%3Fc%24d/twin");
        assert_eq!(name("$"), "hub/%24/twin");
        assert_eq!(name("a%23"), "hub/a%2523/twin");
        assert_eq!(name("other"), "hub/%6Fther/twin");
        assert_eq!(name("-"), "hub/%2D/twin");
        let module = Target {
            module: Some(ModuleId::parse("m").unwrap()),
            ..device("d")
        };
        assert_eq!(topics.name(Some(&module), "method"), "hub/d/method");
        assert_eq!(topics.name(None, "job"), "hub/-/job");
    }

    #[test]
    fn the_number_of_topics_is_bounded() {
        let mut topics = Topics::default();
        let mut names = HashSet::new();
        for i in 0..limits::EVENT_TAP_DEVICES + 500 {
            names.insert(topics.name(Some(&device(&format!("d{i}"))), "telemetry"));
        }
        assert_eq!(names.len(), limits::EVENT_TAP_DEVICES + 1);
        assert!(names.contains("hub/other/telemetry"));
        // Those that were there first keep theirs.
        assert_eq!(topics.name(Some(&device("d7")), "c2d"), "hub/d7/c2d");
    }
}
