//! Automatic configurations: desired properties that the hub keeps on every
//! twin that a condition selects.
//!
//! The body of a PUT becomes a [`ConfigurationSpec`], [`check_put`] says
//! whether it may go ahead, and a [`Configuration`] is made or updated. When
//! the hub evaluates its configurations, those that select a twin, strongest
//! first ([`Configuration::precedence`]), make an [`Overlay`]; what has to be
//! written to the twin is the difference between the overlay before and the
//! overlay after ([`Overlay::patch`]).
//!
//! When to evaluate, over which twins, and the writing itself belong to the
//! hub. Source of the rules: the guide to automatic device management.

mod content;
mod document;
mod overlay;
#[cfg(test)]
mod overlay_tests;
mod precondition;
mod spec;
mod target;
#[cfg(test)]
mod tests;

pub use content::{Content, ContentKind, ContentSettings, Settings};
pub use document::{Configuration, ConfigurationDocument, MetricResults};
pub use overlay::{ConfigurationStatus, Overlay, difference};
pub use precondition::{check_delete, check_put, not_found, parse_if_match};
pub use spec::{ConfigurationSpec, Metric, QueryVerdicts, test_queries};
pub use target::TargetCondition;
