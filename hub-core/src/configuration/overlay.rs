//! What configurations make of one twin: who wins where, and what has to be
//! written.
//!
//! The rule is that of a stack of sheets. Of the configurations that select a
//! twin the strongest supplies each property that it names, and weaker ones
//! supply what is still free; an object is no property of its own but the sum
//! of what is in it. All of it together lies over what was written by other
//! means:
//!
//! * a property that a configuration takes over loses its former value for
//!   good;
//! * a property that someone else overwrites or removes is written again at
//!   the next run;
//! * a property that no configuration supplies any more is removed, unless
//!   someone has overwritten it since; objects that are left empty by that go
//!   with it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::content::Settings;
use crate::ids::ConfigurationId;

/// What a configuration is for a twin that it selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ConfigurationStatus {
    /// It selects the twin, but others supply all that it would set, or the
    /// twin could not be written.
    Targeted,
    /// At least one property of the twin is as this configuration wants it
    /// because it does, or it has no settings.
    Applied,
}

impl ConfigurationStatus {
    /// The service's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Targeted => "Targeted",
            Self::Applied => "Applied",
        }
    }
}

/// What configurations make of one twin.
///
/// Serializes as twins show it in queries: the status of each configuration.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Overlay {
    statuses: BTreeMap<ConfigurationId, ConfigurationStatus>,
    settings: Map<String, Value>,
}

impl Overlay {
    /// The outcome for a twin that these configurations select, strongest
    /// first.
    pub fn of<'a>(candidates: impl IntoIterator<Item = (&'a ConfigurationId, &'a Settings)>) -> Self {
        let mut overlay = Self::default();
        for (id, settings) in candidates {
            let filled = fill(&mut overlay.settings, settings.tree());
            let status = if filled.added || settings.tree().is_empty() {
                ConfigurationStatus::Applied
            } else {
                ConfigurationStatus::Targeted
            };
            overlay.statuses.insert(id.clone(), status);
        }
        overlay
    }

    /// Enters a configuration whose settings are not for this very twin.
    pub fn note(&mut self, id: &ConfigurationId, status: ConfigurationStatus) {
        self.statuses.insert(id.clone(), status);
    }

    /// The status of a configuration; `None` when it does not select the twin.
    #[must_use]
    pub fn status(&self, id: &str) -> Option<ConfigurationStatus> {
        self.statuses.get(id).copied()
    }

    /// All configurations that select the twin, in the order of their ids.
    pub fn statuses(&self) -> impl Iterator<Item = (&ConfigurationId, ConfigurationStatus)> {
        self.statuses.iter().map(|(id, status)| (id, *status))
    }

    /// Whether no configuration selects the twin.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.statuses.is_empty()
    }

    /// What has to be merged into `desired` so that it is as this overlay wants
    /// it, `before` having been in force until now. `None` when nothing has to
    /// be written.
    #[must_use]
    pub fn patch(&self, before: &Self, desired: &Map<String, Value>) -> Option<Map<String, Value>> {
        let patch = difference(desired, &before.settings, &self.settings);
        (!patch.is_empty()).then_some(patch)
    }

    /// The outcome when the twin refused [`Overlay::patch`]: everyone is still
    /// waiting, and what was set `before` is still there.
    #[must_use]
    pub fn refused(mut self, before: &Self) -> Self {
        for status in self.statuses.values_mut() {
            *status = ConfigurationStatus::Targeted;
        }
        self.settings.clone_from(&before.settings);
        self
    }

    /// What is left to want of a twin that refused [`Overlay::patch`]: that what
    /// was set `before` and is wanted no more goes, and nothing new comes.
    #[must_use]
    pub fn reduced(&self, before: &Self) -> Self {
        Self {
            settings: within(&before.settings, &self.settings),
            ..self.clone().refused(before)
        }
    }
}

impl Serialize for Overlay {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Entry {
            status: ConfigurationStatus,
        }
        serializer.collect_map(
            self.statuses
                .iter()
                .map(|(id, status)| (id, Entry { status: *status })),
        )
    }
}

/// What became of settings that were added to others.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Filled {
    /// Something was still free.
    pub(super) added: bool,
    /// Something was taken.
    pub(super) conflicts: bool,
}

/// Adds what is still free in `target`.
pub(super) fn fill(target: &mut Map<String, Value>, settings: &Map<String, Value>) -> Filled {
    let mut filled = Filled::default();
    for (key, value) in settings {
        match (target.get_mut(key), value) {
            (None, value) => {
                target.insert(key.clone(), value.clone());
                filled.added = true;
            }
            (Some(Value::Object(inner)), Value::Object(members)) => {
                let inside = fill(inner, members);
                filled.added |= inside.added;
                filled.conflicts |= inside.conflicts;
            }
            (Some(_), _) => filled.conflicts = true,
        }
    }
    filled
}

/// What of `settings` has a place in `wanted`, whatever stands there.
fn within(settings: &Map<String, Value>, wanted: &Map<String, Value>) -> Map<String, Value> {
    let both = settings
        .iter()
        .filter_map(|(key, value)| Some((key, value, wanted.get(key)?)));
    both.map(|(key, value, wanted)| match (value, wanted) {
        (Value::Object(inner), Value::Object(wanted)) => (key.clone(), within(inner, wanted).into()),
        _ => (key.clone(), value.clone()),
    })
    .collect()
}

/// The merge patch that takes `current` to where it has everything in `wanted`
/// and no longer has what is in `owned` but not in `wanted`. It names nothing
/// that is right already, and leaves alone what is in neither or was changed
/// since it was owned.
///
/// With `current` itself as `owned` this is the patch that replaces it.
#[must_use]
pub fn difference(
    current: &Map<String, Value>,
    owned: &Map<String, Value>,
    wanted: &Map<String, Value>,
) -> Map<String, Value> {
    let given_up = owned.keys().filter(|key| !wanted.contains_key(*key));
    wanted
        .keys()
        .chain(given_up)
        .filter_map(|key| {
            let change = change(current.get(key), owned.get(key), wanted.get(key))?;
            Some((key.clone(), change))
        })
        .collect()
}

fn change(current: Option<&Value>, owned: Option<&Value>, wanted: Option<&Value>) -> Option<Value> {
    let none = Map::new();
    match (wanted, current) {
        (Some(Value::Object(wanted)), Some(Value::Object(current))) => {
            let owned = owned.and_then(Value::as_object).unwrap_or(&none);
            let patch = difference(current, owned, wanted);
            (!patch.is_empty()).then_some(Value::Object(patch))
        }
        (Some(wanted), current) => (current != Some(wanted)).then(|| wanted.clone()),
        (None, Some(Value::Object(current))) => {
            let Some(Value::Object(owned)) = owned else {
                return None;
            };
            let patch = difference(current, owned, &none);
            let is_emptied = current.keys().all(|key| patch.get(key) == Some(&Value::Null));
            if is_emptied {
                Some(Value::Null)
            } else {
                (!patch.is_empty()).then_some(Value::Object(patch))
            }
        }
        (None, Some(current)) => (owned == Some(current)).then_some(Value::Null),
        (None, None) => None,
    }
}
