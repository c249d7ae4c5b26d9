//! What a watcher of the journal wants to see.

use std::sync::Arc;

use super::{Entry, Kind};

/// Devices, and routes, that one filter may name; the emulator's own: every name
/// is compared with every entry.
pub(crate) const FILTER_NAMES: usize = 100;

/// Which entries are wanted: of one of the devices, of one of the kinds and by
/// one of the routes, where any are named. The default wants everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Ids of devices; one that ends with `*` stands for all that begin so. What
    /// is about no device is not wanted when devices are named.
    pub(crate) devices: Vec<Box<str>>,
    pub(crate) kinds: Vec<Kind>,
    /// Names of routes that the message took.
    pub(crate) routes: Vec<Arc<str>>,
}

impl Filter {
    /// Whether the entry is wanted.
    pub(crate) fn accepts(&self, entry: &Entry) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&entry.kind))
            && (self.devices.is_empty() || self.accepts_device(entry))
            && (self.routes.is_empty()
                || entry
                    .routes
                    .iter()
                    .flat_map(|routes| routes.iter())
                    .any(|route| self.routes.contains(route)))
    }

    fn accepts_device(&self, entry: &Entry) -> bool {
        let Some(target) = entry.target() else {
            return false;
        };
        let id = target.device.as_str();
        self.devices.iter().any(|wanted| {
            id == &**wanted
                || wanted
                    .strip_suffix('*')
                    .is_some_and(|prefix| id.starts_with(prefix))
        })
    }
}
