//! Where a reader of a partition begins.
//!
//! Readers say it as a filter over annotations, such as
//! `amqp.annotation.x-opt-offset > '42'`; every SDK writes it a little
//! differently. Whether the place exists is for the partition to say.

use std::fmt;

use crate::time::Timestamp;

/// The first event that a reader wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The oldest event that is kept.
    Earliest,
    /// The next event that will be kept.
    Latest,
    /// By offset.
    Offset {
        /// Offset of the event at which to begin.
        offset: u64,
        /// Whether that event is wanted itself.
        inclusive: bool,
    },
    /// By sequence number.
    Sequence {
        /// Sequence number of the event at which to begin.
        sequence: u64,
        /// Whether that event is wanted itself.
        inclusive: bool,
    },
    /// By time of arrival, compared in milliseconds, as readers know it.
    EnqueuedTime {
        /// The time; rounded down to the millisecond.
        time: Timestamp,
        /// Whether events of this very millisecond are wanted.
        inclusive: bool,
    },
}

/// Why a filter is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// It is not `amqp.annotation.{name} > '{value}'` or the same with `>=`.
    #[error("the filter {0:?} is not an annotation, > or >=, and a value")]
    Form(Shortened),
    /// It is about something that events are not found by.
    #[error("events cannot be found by {0:?}")]
    Annotation(Shortened),
    /// The value does not suit the annotation.
    #[error("{0:?} is no such value")]
    Value(Shortened),
}

/// A client's text for a message, cut to a line.
#[derive(Clone, PartialEq, Eq)]
pub struct Shortened(String);

impl Shortened {
    fn of(text: &str) -> Self {
        Self(text.chars().take(120).collect())
    }
}

impl fmt::Debug for Shortened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Start {
    /// Reads a selector filter. Values may be in single or double quotes or in
    /// none. A negative number is before everything; `@latest` as an offset is
    /// after everything. Times are milliseconds since 1970.
    ///
    /// # Errors
    /// When it is no such filter.
    pub fn parse(selector: &str) -> Result<Self, SelectorError> {
        let form = || SelectorError::Form(Shortened::of(selector));
        let (name, rest) = selector.split_once('>').ok_or_else(form)?;
        let name = name.trim().strip_prefix("amqp.annotation.").ok_or_else(form)?;
        let (inclusive, value) = match rest.strip_prefix('=') {
            Some(value) => (true, value),
            None => (false, rest),
        };
        let value = unquote(value.trim()).ok_or_else(form)?;
        let number = || {
            value
                .parse::<i64>()
                .map(|number| u64::try_from(number).ok())
                .map_err(|_| SelectorError::Value(Shortened::of(value)))
        };
        match name {
            "x-opt-offset" if value == "@latest" => Ok(Self::Latest),
            "x-opt-offset" => {
                Ok(number()?.map_or(Self::Earliest, |offset| Self::Offset { offset, inclusive }))
            }
            "x-opt-sequence-number" => {
                Ok(number()?.map_or(Self::Earliest, |sequence| Self::Sequence { sequence, inclusive }))
            }
            // The second name is that of the command line tools.
            "x-opt-enqueued-time" | "x-opt-enqueuedtimeutc" => Ok(number()?.map_or(
                Self::Earliest,
                |milliseconds| Self::EnqueuedTime {
                    time: Timestamp::from_unix_milliseconds(i64::try_from(milliseconds).unwrap_or(i64::MAX)),
                    inclusive,
                },
            )),
            _ => Err(SelectorError::Annotation(Shortened::of(name))),
        }
    }
}

/// The text between quotes, or a text without any.
fn unquote(text: &str) -> Option<&str> {
    for quote in ['\'', '"'] {
        if let Some(inner) = text.strip_prefix(quote) {
            return inner.strip_suffix(quote).filter(|inner| !inner.contains(quote));
        }
    }
    (!text.is_empty() && !text.contains(['\'', '"'])).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_readers_write_is_understood() {
        let time = Timestamp::from_unix_ticks(17_950_000_000_000_000);
        let offset = |offset, inclusive| Start::Offset { offset, inclusive };
        let sequence = |sequence, inclusive| Start::Sequence { sequence, inclusive };
        for (text, expected) in [
            ("amqp.annotation.x-opt-offset > '@latest'", Start::Latest),
            ("amqp.annotation.x-opt-offset > '-1'", Start::Earliest),
            ("amqp.annotation.x-opt-offset >= '-1'", Start::Earliest),
            ("amqp.annotation.x-opt-offset > '0'", offset(0, false)),
            ("amqp.annotation.x-opt-offset >= \"4096\"", offset(4096, true)),
            ("amqp.annotation.x-opt-offset>'12'", offset(12, false)),
            ("amqp.annotation.x-opt-sequence-number > '-1'", Start::Earliest),
            ("amqp.annotation.x-opt-sequence-number > '7'", sequence(7, false)),
            (
                "  amqp.annotation.x-opt-sequence-number  >=  7 ",
                sequence(7, true),
            ),
            (
                "amqp.annotation.x-opt-enqueued-time > '1795000000000'",
                Start::EnqueuedTime {
                    time,
                    inclusive: false,
                },
            ),
            (
                "amqp.annotation.x-opt-enqueuedtimeutc >= 1795000000000",
                Start::EnqueuedTime {
                    time,
                    inclusive: true,
                },
            ),
            (
                "amqp.annotation.x-opt-enqueued-time > '9223372036854775807'",
                Start::EnqueuedTime {
                    time: Timestamp::MAX,
                    inclusive: false,
                },
            ),
        ] {
            assert_eq!(Start::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for (text, expected) in [
            ("", "the filter \"\" is not an annotation, > or >=, and a value"),
            ("amqp.annotation.x-opt-offset", "the filter"),
            ("amqp.annotation.x-opt-offset = '1'", "the filter"),
            ("amqp.annotation.x-opt-offset > ", "the filter"),
            ("amqp.annotation.x-opt-offset > '1", "the filter"),
            ("amqp.annotation.x-opt-offset > 1'", "the filter"),
            (
                "amqp.annotation.x-opt-offset > '1' AND amqp.annotation.x-opt-offset > '2'",
                "the filter",
            ),
            ("x-opt-offset > '1'", "the filter"),
            (
                "amqp.annotation.x-opt-partition-key > '1'",
                "events cannot be found by",
            ),
            ("amqp.annotation.x-opt-offset > 'x'", "\"x\" is no such value"),
            ("amqp.annotation.x-opt-offset > ''", "\"\" is no such value"),
            (
                "amqp.annotation.x-opt-sequence-number > '@latest'",
                "\"@latest\" is no such value",
            ),
            (
                "amqp.annotation.x-opt-sequence-number > '9223372036854775808'",
                "\"9223372036854775808\" is",
            ),
            (
                "amqp.annotation.x-opt-enqueued-time > '2026-01-01'",
                "\"2026-01-01\" is no such value",
            ),
        ] {
            let error = Start::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "(amqp.annotation.)?(x-opt-offset)?.{0,20}") {
            let _ = Start::parse(&text);
        }
    }
}
