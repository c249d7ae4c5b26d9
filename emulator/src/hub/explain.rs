//! How a query finds its rows, in words for people.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use hub_core::error::ServiceError;
use hub_core::query::Query;

use super::HubState;
use super::index::usable;
use super::plan::{NoIndex, Plan};

/// What a query did.
pub(crate) struct Explanation {
    /// One word: `devices`, `index`, `scan`, or `jobs` for the records of certain
    /// jobs.
    pub(crate) plan: &'static str,
    /// A sentence about it and, for a scan, why no index was used.
    pub(crate) text: String,
    /// Paths of the condition that an index could answer.
    pub(crate) indexable: Vec<String>,
    /// Devices, or records of jobs, that were looked at.
    pub(crate) candidates: u64,
    /// Rows that match the condition; TOP is not applied.
    pub(crate) matches: u64,
    pub(crate) took: Duration,
}

impl HubState {
    /// Runs a query over devices or modules by the plan that it has at this
    /// moment. Does not count as a question that leads to an index.
    ///
    /// # Errors
    /// None of its own.
    pub(crate) async fn explain(&self, query: &Query) -> Result<Explanation, ServiceError> {
        let start = Instant::now();
        let plan = self.existing_plan(query);
        let indexable: Vec<String> = usable(query.source(), &query.equalities())
            .map(|term| term.path.to_string())
            .collect();
        let devices = self.registry.len();
        let (name, candidates, text) = match &plan {
            Plan::Devices(ids) => (
                "devices",
                ids.len(),
                format!(
                    "the condition names {}, only these are looked at",
                    count(ids.len(), "device")
                ),
            ),
            Plan::Index(lookup) => (
                "index",
                lookup.candidates,
                format!(
                    "the index on {} leaves {} of {devices} to look at",
                    lookup.index.subject.path,
                    count(lookup.candidates, "device"),
                ),
            ),
            Plan::Scan(reason) => (
                "scan",
                devices,
                format!(
                    "all of {} are looked at: {}",
                    count(devices, "device"),
                    self.reason(*reason, &indexable)
                ),
            ),
        };
        let mut matches = 0;
        self.scan_by(plan, query, None, |_, _| {
            matches += 1;
            Ok(ControlFlow::Continue(()))
        })
        .await?;
        Ok(Explanation {
            plan: name,
            text,
            indexable,
            candidates: candidates as u64,
            matches,
            took: start.elapsed(),
        })
    }

    fn reason(&self, reason: NoIndex, paths: &[String]) -> String {
        let paths = paths.join(" or ");
        let worth = self.views.indexes.worth;
        match reason {
            NoIndex::NoEquality => {
                "the condition does not require a tag, a property or a simple attribute to \
                                    equal a constant, so no index can help"
                    .into()
            }
            NoIndex::FewDevices => {
                format!(
                    "with fewer than {} a scan is as fast as an index",
                    count(worth.devices, "device")
                )
            }
            NoIndex::NotAskedOften => format!(
                "there is no index on {paths}; one is made when {} have asked for the same path",
                count(worth.scans as usize, "scan"),
            ),
            NoIndex::TooManyCandidates => {
                format!("the index on {paths} leaves so many devices that a scan is as fast")
            }
            NoIndex::Lag => "queries lag behind by choice, and an index knows only the present".into(),
            NoIndex::Gone => "the index has just made place for another one".into(),
        }
    }
}

fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}
