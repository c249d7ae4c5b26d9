//! What a reader says when it attaches: where it begins, its epoch, and whether
//! it wants to know how far its partition is.
//!
//! Source: what the Event Hubs clients send, and the service's command line
//! tools, which spell some of it differently.

use amqp_wire::Value;
use amqp_wire::performative::{Attach, Error};
use hub_core::events::Start;

use crate::amqp::condition;

/// Name and descriptor of the filter that says where a reader begins.
const SELECTOR: &str = "apache.org:selector-filter:string";
/// The descriptor as a number.
const SELECTOR_CODE: u64 = 0x468c_0000_0004;
/// Link property: the reader's epoch, a long.
const EPOCH: &str = "com.microsoft:epoch";
/// Capability: every event says which is the partition's last.
pub(super) const RUNTIME_METRIC: &str = "com.microsoft:enable-receiver-runtime-metric";

/// What a reader wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wishes {
    pub(super) start: Start,
    pub(super) epoch: Option<i64>,
    pub(super) metrics: bool,
}

impl Wishes {
    /// Reads a receiver's attach. Without a filter it begins with the oldest
    /// event; filters of other kinds are nothing that is known here.
    ///
    /// # Errors
    /// `com.microsoft:argument-error` when filter or epoch cannot be understood.
    pub(super) fn of(attach: &Attach) -> Result<Self, Error> {
        let filters = attach
            .source
            .as_ref()
            .map_or(&[][..], |source| source.filter.entries());
        let start = match filters.iter().find_map(|(name, filter)| selector(name, filter)) {
            None => Start::Earliest,
            Some(selector) => selector
                .as_str()
                .ok_or_else(|| argument_error("the filter is no text".into()))
                .and_then(|text| Start::parse(text).map_err(|error| argument_error(error.to_string())))?,
        };
        let epoch = match attach.properties.get(EPOCH) {
            None | Some(Value::Null) => None,
            Some(epoch) => Some(
                epoch
                    .as_i64()
                    .ok_or_else(|| argument_error("the epoch is no whole number".into()))?,
            ),
        };
        Ok(Self {
            start,
            epoch,
            metrics: has(&attach.desired_capabilities, RUNTIME_METRIC),
        })
    }
}

/// The text of a selector filter, whichever way it is marked as one.
fn selector<'a>(name: &Value, filter: &'a Value) -> Option<&'a Value> {
    let is_named = name.as_str() == Some(SELECTOR);
    match filter {
        Value::Described(described) => {
            let is_described = match &described.descriptor {
                Value::Ulong(code) => *code == SELECTOR_CODE,
                other => other.as_str() == Some(SELECTOR),
            };
            (is_named || is_described).then_some(&described.value)
        }
        Value::Null => None,
        plain => is_named.then_some(plain),
    }
}

/// Whether capabilities, one or an array of them, hold this one.
fn has(capabilities: &Value, name: &str) -> bool {
    match capabilities {
        Value::Array(all) => all.items().iter().any(|one| one.as_str() == Some(name)),
        one => one.as_str() == Some(name),
    }
}

pub(super) fn argument_error(description: String) -> Error {
    Error::new(condition::ARGUMENT, description)
}

#[cfg(test)]
mod tests {
    use super::*;
    use amqp_wire::performative::{Role, Source, Target};
    use amqp_wire::value::Array;

    fn wishes(filter: Value, properties: Value, capabilities: Value) -> Result<Wishes, Error> {
        let source = Source {
            filter,
            ..Source::default()
        };
        let mut attach = Attach::new("r", Role::Receiver, source, Target::default());
        attach.properties = properties;
        attach.desired_capabilities = capabilities;
        Wishes::of(&attach)
    }

    fn filter(name: &'static str, filter: Value) -> Value {
        Value::Map(vec![(Value::symbol(name), filter)])
    }

    #[test]
    fn filters_are_marked_in_several_ways() {
        let text = || Value::from("amqp.annotation.x-opt-sequence-number >= '7'");
        let expected = Start::Sequence {
            sequence: 7,
            inclusive: true,
        };
        for filter in [
            filter(SELECTOR, Value::described(Value::symbol(SELECTOR), text())),
            filter(SELECTOR, Value::described(SELECTOR_CODE.into(), text())),
            filter("selector", Value::described(SELECTOR_CODE.into(), text())),
            filter(SELECTOR, text()),
        ] {
            let wishes = wishes(filter.clone(), Value::Null, Value::Null);
            assert_eq!(wishes.map(|wishes| wishes.start), Ok(expected), "{filter:?}");
        }
        for filter in [
            Value::Null,
            filter("other", text()),
            filter(SELECTOR, Value::Null),
        ] {
            let wishes = wishes(filter.clone(), Value::Null, Value::Null);
            assert_eq!(
                wishes.map(|wishes| wishes.start),
                Ok(Start::Earliest),
                "{filter:?}"
            );
        }
        for text in [Value::from("x > 1"), 1_i32.into()] {
            let error = wishes(filter(SELECTOR, text), Value::Null, Value::Null).unwrap_err();
            assert_eq!(error.condition, "com.microsoft:argument-error");
        }
    }

    #[test]
    fn epochs_and_capabilities() {
        let epoch = |value| wishes(Value::Null, filter(EPOCH, value), Value::Null).map(|wishes| wishes.epoch);
        assert_eq!(epoch(Value::Long(3)), Ok(Some(3)));
        assert_eq!(epoch(Value::Uint(0)), Ok(Some(0)));
        assert_eq!(epoch(Value::Null), Ok(None));
        assert!(epoch("3".into()).is_err());
        let metrics = |value| wishes(Value::Null, Value::Null, value).map(|wishes| wishes.metrics);
        let several = Array::of_symbols(["com.microsoft:georeplication", RUNTIME_METRIC]);
        assert_eq!(metrics(Value::Array(several)), Ok(true));
        assert_eq!(metrics(Value::symbol(RUNTIME_METRIC)), Ok(true));
        assert_eq!(metrics(Value::Null), Ok(false));
    }
}
