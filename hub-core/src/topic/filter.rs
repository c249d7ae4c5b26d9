//! Topic filters that a device or module may subscribe to.

use std::fmt;

use super::{Address, TopicError};
use crate::ids::Target;

/// A topic filter that a device or module may subscribe to, by what it delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Filter {
    /// Messages from the cloud:
    /// `devices/{d}[/modules/{m}]/messages/devicebound/#`.
    CloudToDevice,
    /// Answers to twin requests: `$iothub/twin/res/#`.
    TwinResponses,
    /// Changes of desired properties: `$iothub/twin/PATCH/properties/desired/#`.
    DesiredChanges,
    /// Direct methods: `$iothub/methods/POST/#`.
    Methods,
    /// Everything that is addressed to a module: `devices/{d}/modules/{m}/#`.
    ModuleAll,
    /// Messages to a module's inputs: `devices/{d}/modules/{m}/inputs/#`.
    ModuleInputs,
}

impl Filter {
    /// Every filter.
    pub const ALL: [Self; 6] = [
        Self::CloudToDevice,
        Self::TwinResponses,
        Self::DesiredChanges,
        Self::Methods,
        Self::ModuleAll,
        Self::ModuleInputs,
    ];

    /// Reads a filter that `subscriber` subscribes to or unsubscribes from.
    ///
    /// `$iothub/methods/POST/{name}/#`, which older advice names, counts as the
    /// filter for all methods.
    ///
    /// # Errors
    /// When the hub has no such filter or it belongs to another identity.
    pub fn parse(text: &str, subscriber: &Target) -> Result<Self, TopicError> {
        if let Some(rest) = text.strip_prefix("$iothub/") {
            return match rest {
                "twin/res/#" => Ok(Self::TwinResponses),
                "twin/PATCH/properties/desired/#" => Ok(Self::DesiredChanges),
                "methods/POST/#" => Ok(Self::Methods),
                _ => one_method(rest)
                    .then_some(Self::Methods)
                    .ok_or(TopicError::Unknown),
            };
        }
        let (address, rest) = Address::split(text).ok_or(TopicError::Unknown)?;
        let filter = match rest {
            "messages/devicebound/#" => Self::CloudToDevice,
            "#" if address.module.is_some() => Self::ModuleAll,
            "inputs/#" if address.module.is_some() => Self::ModuleInputs,
            _ => return Err(TopicError::Unknown),
        };
        address.check(subscriber)?;
        Ok(filter)
    }

    /// The filter's text for one subscriber.
    ///
    /// [`Filter::ModuleAll`] and [`Filter::ModuleInputs`] are only for
    /// modules; of a device they make a text that the hub does not know.
    #[must_use]
    pub fn text(self, subscriber: &Target) -> String {
        let address = Address::from(subscriber);
        match self {
            Self::CloudToDevice => format!("{address}/messages/devicebound/#"),
            Self::TwinResponses => "$iothub/twin/res/#".into(),
            Self::DesiredChanges => "$iothub/twin/PATCH/properties/desired/#".into(),
            Self::Methods => "$iothub/methods/POST/#".into(),
            Self::ModuleAll => format!("{address}/#"),
            Self::ModuleInputs => format!("{address}/inputs/#"),
        }
    }

    fn shift(self) -> u32 {
        2 * self as u32
    }
}

/// Whether this is `methods/POST/{name}/#` with a name and no other wildcard.
fn one_method(rest: &str) -> bool {
    rest.strip_prefix("methods/POST/")
        .and_then(|rest| rest.strip_suffix("/#"))
        .is_some_and(|name| !name.is_empty() && !name.contains(['/', '+', '#']))
}

/// The quality of service that a subscription was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Qos {
    /// QoS 0.
    AtMostOnce,
    /// QoS 1.
    AtLeastOnce,
}

impl Qos {
    /// What the hub grants when `requested` is asked for: QoS 2 becomes 1 (MQTT guide).
    #[must_use]
    pub fn granted(requested: u8) -> Self {
        match requested {
            0 => Self::AtMostOnce,
            _ => Self::AtLeastOnce,
        }
    }
}

/// The filters of one session with the quality of service granted to each.
///
/// Two bytes, because the hub keeps one per device.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct FilterSet(u16);

impl FilterSet {
    /// No filters.
    pub const EMPTY: Self = Self(0);

    /// Adds a filter, or changes what it was granted.
    pub fn insert(&mut self, filter: Filter, granted: Qos) {
        self.remove(filter);
        self.0 |= (granted as u16 + 1) << filter.shift();
    }

    /// Takes a filter out, if it is there.
    pub fn remove(&mut self, filter: Filter) {
        self.0 &= !(0b11 << filter.shift());
    }

    /// What the filter was granted; `None` when it is not there.
    #[must_use]
    pub fn get(self, filter: Filter) -> Option<Qos> {
        match self.0 >> filter.shift() & 0b11 {
            0 => None,
            1 => Some(Qos::AtMostOnce),
            _ => Some(Qos::AtLeastOnce),
        }
    }

    /// Whether the filter is there.
    #[must_use]
    pub fn contains(self, filter: Filter) -> bool {
        self.get(filter).is_some()
    }

    /// How messages from the cloud are delivered: the better of the filters
    /// that select them. `None` when they have to wait.
    #[must_use]
    pub fn cloud_to_device(self) -> Option<Qos> {
        self.get(Filter::CloudToDevice).max(self.get(Filter::ModuleAll))
    }

    /// Whether there are no filters.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The filters in a fixed order with what they were granted.
    pub fn iter(self) -> impl Iterator<Item = (Filter, Qos)> {
        Filter::ALL
            .into_iter()
            .filter_map(move |filter| Some((filter, self.get(filter)?)))
    }
}

impl fmt::Debug for FilterSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
