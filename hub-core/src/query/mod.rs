//! The twin query language: which devices, modules or job records a text
//! selects, and what it asks for of each.
//!
//! ```text
//! text --lexer--> tokens --parser, expression--> Statement --check--> Query
//!
//! Query --plan--> the rows worth looking at
//!       --eval--> whether a Row matches
//!       --select--> columns of a row, or groups of rows
//! ```
//!
//! A text is parsed once and the [`Query`] runs over any number of rows. What a
//! row is made of is its owner's business: it implements [`Row`], which looks
//! up a [`Path`]. Nothing here knows about pages, continuation tokens or HTTP,
//! and nothing holds devices.
//!
//! Conditions follow a three-valued logic: a path that leads nowhere is
//! *undefined*, whatever is compared with it is undefined too, and only rows
//! for which the whole condition is true match. `NOT tags.x = 1` therefore
//! does not select devices without `tags.x`.
//!
//! Message routing has a dialect of its own for conditions about messages,
//! [`Condition`]: the same stages, other names.

mod ast;
mod check;
mod error;
mod eval;
mod expression;
mod functions;
mod lexer;
mod message;
mod parser;
mod plan;
mod row;
mod select;
mod types;
mod value;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use crate::limits;
use ast::{Expr, Statement};
use error::Fault;
use value::Truth;

pub use error::QueryError;
pub use message::{Condition, Reference, Step, SystemReference};
pub use plan::{Equality, ValueKey};
pub use row::{Attribute, Path, Row, walk};
pub use select::{Aggregation, Grouping, Projection, Selection};
pub use value::{Members, Value};

/// A query that has been parsed and checked, ready to run over rows.
#[derive(Debug, Clone)]
pub struct Query {
    source: Source,
    top: Option<u64>,
    condition: Option<Expr<Path>>,
    output: Output,
}

/// The owned form of [`Selection`].
#[derive(Debug, Clone)]
enum Output {
    Whole,
    Fields(Projection),
    Groups(Grouping),
}

impl Query {
    /// Reads a query: `SELECT … FROM … [WHERE …] [GROUP BY …]`.
    ///
    /// # Errors
    /// Says where the text breaks a rule of the language, or that it has more
    /// than [`limits::QUERY_CHARS`] characters.
    pub fn parse(text: &str) -> Result<Self, QueryError> {
        Self::parse_in(Dialect::Service, text)
    }

    /// As [`Query::parse`], in a dialect.
    ///
    /// # Errors
    /// As [`Query::parse`].
    pub fn parse_in(dialect: Dialect, text: &str) -> Result<Self, QueryError> {
        check_length(text)?;
        compile(text, dialect, check::check)
    }

    /// Reads the condition of a job or a configuration: what would follow
    /// `SELECT * FROM devices WHERE`, or `*` for all devices, or a text that
    /// names its collection, as in `FROM devices.modules WHERE moduleId = 'm'`.
    ///
    /// # Errors
    /// As [`Query::parse`], and when the collection is `devices.jobs`. The
    /// place is that in the complete query which the condition stands for: its
    /// first character is in column 29, or in column 10 when it starts with
    /// FROM.
    pub fn from_condition(condition: &str) -> Result<Self, QueryError> {
        Self::from_condition_in(Dialect::Service, condition)
    }

    /// As [`Query::from_condition`], in a dialect.
    ///
    /// # Errors
    /// As [`Query::from_condition`].
    pub fn from_condition_in(dialect: Dialect, condition: &str) -> Result<Self, QueryError> {
        check_length(condition)?;
        compile(&complete(condition), dialect, check::check_condition)
    }

    /// The collection that the rows come from.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }

    /// How many rows may come out altogether, over all pages; no bound when
    /// `None`. [`Aggregation::finish`] applies it to groups by itself.
    #[must_use]
    pub fn top(&self) -> Option<u64> {
        self.top
    }

    /// What kind of items comes out.
    #[must_use]
    pub fn item_type(&self) -> ItemType {
        match (&self.output, self.source) {
            (Output::Whole, Source::Jobs) => ItemType::DeviceJob,
            (Output::Whole, _) => ItemType::Twin,
            _ => ItemType::Raw,
        }
    }

    /// Whether the condition is exactly true for `row`; every row matches a
    /// query without condition.
    #[must_use]
    pub fn matches<R: Row + ?Sized>(&self, row: &R) -> bool {
        self.condition
            .as_ref()
            .is_none_or(|condition| eval::truth(condition, row) == Truth::True)
    }

    /// The attributes that the condition looks at, in the order of the text and
    /// as often as they occur.
    #[must_use]
    pub fn condition_attributes(&self) -> Vec<Attribute> {
        let mut attributes = Vec::new();
        if let Some(condition) = &self.condition {
            condition.visit(&mut |path| attributes.push(path.attribute()));
        }
        attributes
    }

    /// What the condition requires of single paths: a row in which one of these
    /// does not hold does not match.
    #[must_use]
    pub fn equalities(&self) -> Vec<Equality<'_>> {
        self.condition.as_ref().map(plan::equalities).unwrap_or_default()
    }

    /// What to make of the rows that match.
    #[must_use]
    pub fn selection(&self) -> Selection<'_> {
        match &self.output {
            Output::Whole => Selection::Whole,
            Output::Fields(projection) => Selection::Fields(projection),
            Output::Groups(grouping) => Selection::Groups(grouping),
        }
    }

    /// The only devices whose rows can match, when the condition requires
    /// `deviceId = '…'` or `deviceId IN […]`; sorted, each once, and not
    /// necessarily existing. `None` when any device may match.
    #[must_use]
    pub fn device_ids(&self) -> Option<Vec<&str>> {
        plan::only_values(self.condition.as_ref()?, Attribute::DeviceId)
    }

    /// The only jobs whose records can match, in the same way.
    #[must_use]
    pub fn job_ids(&self) -> Option<Vec<&str>> {
        plan::only_values(self.condition.as_ref()?, Attribute::JobId)
    }
}

/// How much of a text is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// What the service accepts.
    #[default]
    Service,
    /// Also the functions that are documented for message routing only
    /// (`LOWER`, `IS_STRING`, `CONTAINS`, …; not `TWIN_CHANGE_INCLUDES`, which
    /// asks about a message), and lists in parentheses, `IN ('a', 'b')`. The
    /// service answers 400 to these.
    Lenient,
    /// Conditions of message routing, which [`Condition::parse`] reads: about
    /// messages, with the functions of routing, `||`, `??`, comments, and without
    /// `IN` and `[[ ]]`. There are no queries in it, so that [`Query::parse_in`]
    /// refuses every text.
    Routing,
}

/// The collection that a query is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// `devices`: one row per device twin.
    Devices,
    /// `devices.modules`: one row per module twin.
    Modules,
    /// `devices.jobs`: one row per job and device.
    Jobs,
}

impl Source {
    /// The collection's name in a query.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Devices => "devices",
            Self::Modules => "devices.modules",
            Self::Jobs => "devices.jobs",
        }
    }
}

/// What the items of a result are; the value of the `x-ms-item-type` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ItemType {
    /// Whole twins.
    Twin,
    /// Objects made of selected columns or aggregates.
    Raw,
    /// Whole job records.
    DeviceJob,
}

impl ItemType {
    /// The spelling of the header, which SDKs compare exactly.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Twin => "Twin",
            Self::Raw => "Raw",
            Self::DeviceJob => "DeviceJob",
        }
    }
}

fn compile(
    text: &str,
    dialect: Dialect,
    check: fn(Statement) -> Result<Query, Fault>,
) -> Result<Query, QueryError> {
    parser::statement(text, dialect)
        .and_then(check)
        .map_err(|fault| fault.locate(text))
}

fn check_length(text: &str) -> Result<(), QueryError> {
    let Some((excess, _)) = text.char_indices().nth(limits::QUERY_CHARS) else {
        return Ok(());
    };
    let message = format!("The query is longer than {} characters", limits::QUERY_CHARS);
    Err(Fault::new(excess, message).locate(text))
}

/// The query that a condition stands for.
fn complete(condition: &str) -> Cow<'static, str> {
    let trimmed = condition.trim();
    if trimmed == "*" {
        return Cow::Borrowed("SELECT * FROM devices");
    }
    let is_from = |word: &str| word.eq_ignore_ascii_case("FROM");
    Cow::Owned(if trimmed.split_whitespace().next().is_some_and(is_from) {
        format!("SELECT * {condition}")
    } else {
        format!("SELECT * FROM devices WHERE {condition}")
    })
}
