//! Queries over the hub's twins: which cells to look at, page by page.
//!
//! A page resumes after the id of the last row that came out, so rows are
//! neither lost nor repeated while devices come and go between pages.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use hub_core::error::ServiceError;
use hub_core::ids::{DeviceId, ModuleId, Target};
use hub_core::page::{Continuation, fingerprint};
use hub_core::query::{ItemType, Query, Selection, Source};

use super::HubState;
use super::cell::{DeviceCell, DeviceState};
use super::internal;
use super::lag::Lag;
use super::plan::{NoIndex, Plan};
use super::row::TwinRow;
use super::twins::twin_document;

/// Devices looked at before other tasks get a turn.
const CHUNK: usize = 256;

/// One page of a result.
pub(crate) struct QueryPage {
    /// A JSON array.
    pub(crate) body: Vec<u8>,
    pub(crate) item_type: ItemType,
    /// Present when there are more rows.
    pub(crate) continuation: Option<String>,
}

/// A JSON array that grows row by row.
pub(crate) struct JsonRows {
    body: Vec<u8>,
    pub(crate) len: usize,
}

impl JsonRows {
    pub(crate) fn new() -> Self {
        Self {
            body: vec![b'['],
            len: 0,
        }
    }

    pub(crate) fn push(&mut self, row: &impl serde::Serialize) -> Result<(), ServiceError> {
        if self.len > 0 {
            self.body.push(b',');
        }
        self.len += 1;
        serde_json::to_writer(&mut self.body, row).map_err(internal)
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.body.push(b']');
        self.body
    }
}

/// Where a page starts and how many rows it may have.
pub(crate) struct PageStart {
    pub(crate) resume_after: Option<String>,
    /// Rows delivered by the pages before.
    delivered: u64,
    fingerprint: u64,
    /// Rows of this page.
    pub(crate) size: usize,
}

impl PageStart {
    /// Reads the continuation token of a request.
    ///
    /// # Errors
    /// `ArgumentInvalid` for a token that is damaged or belongs to another query.
    pub(crate) fn new(
        text: &str,
        query: &Query,
        size: usize,
        continuation: Option<&str>,
    ) -> Result<Self, ServiceError> {
        let fingerprint = fingerprint(text);
        let (resume_after, delivered) = match continuation {
            None => (None, 0),
            Some(token) => {
                let token = Continuation::decode(token, fingerprint)?;
                (Some(token.resume_after), token.delivered)
            }
        };
        let left = query.top().map_or(u64::MAX, |top| top.saturating_sub(delivered));
        let size = size.min(usize::try_from(left).unwrap_or(usize::MAX));
        Ok(Self {
            resume_after,
            delivered,
            fingerprint,
            size,
        })
    }

    /// The token for the page after this one, unless `TOP` ends the result here.
    pub(crate) fn next(&self, query: &Query, last: String, rows: usize) -> Option<String> {
        let delivered = self.delivered + rows as u64;
        if query.top().is_some_and(|top| delivered >= top) {
            return None;
        }
        Some(
            Continuation {
                fingerprint: self.fingerprint,
                resume_after: last,
                delivered,
            }
            .encode(),
        )
    }
}

impl HubState {
    /// Runs a query over devices or modules and renders one page.
    ///
    /// # Errors
    /// `ArgumentInvalid` for a bad continuation token.
    pub(crate) async fn query_page(
        &self,
        text: &str,
        query: &Query,
        size: usize,
        continuation: Option<&str>,
    ) -> Result<QueryPage, ServiceError> {
        let start = PageStart::new(text, query, size, continuation)?;
        let mut rows = JsonRows::new();
        let mut next = None;
        match query.selection() {
            // All rows are needed before the first group comes out, and groups
            // are few: they make one page.
            Selection::Groups(grouping) => {
                let mut groups = grouping.aggregate();
                self.scan(query, None, |row, _| {
                    groups.add(row);
                    Ok(ControlFlow::Continue(()))
                })
                .await?;
                for group in groups.finish() {
                    rows.push(&group)?;
                }
            }
            selection => {
                let mut last = None;
                let after = start.resume_after.as_deref().map(target_of).transpose()?;
                self.scan(query, after, |row, target| {
                    if rows.len >= start.size {
                        // One row more than fits: there is another page.
                        next = last
                            .take()
                            .and_then(|last: Target| start.next(query, last.to_string(), rows.len));
                        return Ok(ControlFlow::Break(()));
                    }
                    match selection {
                        Selection::Fields(projection) => rows.push(&projection.project(row))?,
                        _ => rows.push(&row.0)?,
                    }
                    last = Some(target.clone());
                    Ok(ControlFlow::Continue(()))
                })
                .await?;
            }
        }
        Ok(QueryPage {
            body: rows.finish(),
            item_type: query.item_type(),
            continuation: next,
        })
    }

    /// All devices or modules that match, in order.
    ///
    /// # Errors
    /// None of its own.
    pub(crate) async fn matching_targets(&self, query: &Query) -> Result<Vec<Target>, ServiceError> {
        let mut targets = Vec::new();
        self.scan(query, None, |_, target| {
            targets.push(target.clone());
            Ok(ControlFlow::Continue(()))
        })
        .await?;
        Ok(targets)
    }

    /// Shows every matching row after `after` to `visit`, in order of ids,
    /// until it breaks off.
    async fn scan(
        &self,
        query: &Query,
        after: Option<Target>,
        visit: impl FnMut(&TwinRow<'_>, &Target) -> Result<ControlFlow<()>, ServiceError>,
    ) -> Result<(), ServiceError> {
        let plan = self.plan(query).await;
        self.scan_by(plan, query, after, visit).await
    }

    /// As [`HubState::scan`], by a plan that is given.
    pub(super) async fn scan_by(
        &self,
        mut plan: Plan,
        query: &Query,
        after: Option<Target>,
        mut visit: impl FnMut(&TwinRow<'_>, &Target) -> Result<ControlFlow<()>, ServiceError>,
    ) -> Result<(), ServiceError> {
        // The device that the last page ended in may have further modules.
        let mut from = match &after {
            None => Bound::Unbounded,
            Some(after) => Bound::Included(after.device.clone()),
        };
        loop {
            let (cells, last) = self.next_cells(&mut plan, from.as_ref());
            for cell in &cells {
                let flow = match cell {
                    Seen::Present(cell) => look(&cell.lock(), query, after.as_ref(), &mut visit)?,
                    Seen::Former(state) => look(state, query, after.as_ref(), &mut visit)?,
                };
                if flow.is_break() {
                    return Ok(());
                }
            }
            match last {
                Some(last) => from = Bound::Excluded(last),
                None => return Ok(()),
            }
            tokio::task::yield_now().await;
        }
    }

    /// The next devices to look at in the order of their ids, and the id of the
    /// last one; no id when there are no more.
    fn next_cells(&self, plan: &mut Plan, from: Bound<&DeviceId>) -> (Vec<Seen>, Option<DeviceId>) {
        let ids = match plan {
            Plan::Scan(_) => None,
            Plan::Devices(ids) => {
                let start = ids.partition_point(|id| match from {
                    Bound::Unbounded => false,
                    Bound::Included(from) => id < from,
                    Bound::Excluded(from) => id <= from,
                });
                Some(ids[start..].iter().take(CHUNK).cloned().collect())
            }
            Plan::Index(lookup) => lookup.next(from, CHUNK),
        };
        if let Some(lag) = &self.views.lag {
            let ids = ids.unwrap_or_else(|| {
                let mut ids = self.registry.ids_from(from, CHUNK);
                ids.extend(lag.ghosts_from(from, CHUNK));
                ids.sort_unstable();
                ids.dedup();
                ids.truncate(CHUNK);
                ids
            });
            let seen = ids.iter().filter_map(|id| self.former(lag, id)).collect();
            return (seen, ids.last().cloned());
        }
        match ids {
            Some(ids) => {
                let cells = ids.iter().filter_map(|id| self.registry.find(id));
                (cells.map(Seen::Present).collect(), ids.last().cloned())
            }
            None => {
                // The index has gone meanwhile, if there was one.
                *plan = Plan::Scan(NoIndex::Gone);
                let (cells, last) = self.registry.cells_from(from, CHUNK);
                (cells.into_iter().map(Seen::Present).collect(), last)
            }
        }
    }

    /// What is seen of a device when queries lag behind.
    fn former(&self, lag: &Lag, id: &DeviceId) -> Option<Seen> {
        if let Some(former) = lag.ghost(id) {
            return former.map(Seen::Former);
        }
        let cell = self.registry.find(id)?;
        let former = lag.seen(&cell.lock());
        match former {
            None => Some(Seen::Present(cell)),
            Some(former) => former.map(Seen::Former),
        }
    }
}

/// A device as a query sees it.
enum Seen {
    Present(Arc<DeviceCell>),
    /// As it was, for a query that lags behind.
    Former(Arc<DeviceState>),
}

/// Shows the rows of a device that match and come after `after` to `visit`.
fn look(
    state: &DeviceState,
    query: &Query,
    after: Option<&Target>,
    visit: &mut impl FnMut(&TwinRow<'_>, &Target) -> Result<ControlFlow<()>, ServiceError>,
) -> Result<ControlFlow<()>, ServiceError> {
    let mut look = |target: &Target| {
        if after.is_some_and(|after| target <= after) {
            return Ok(ControlFlow::Continue(()));
        }
        // A device deleted meanwhile is no row.
        match twin_document(state, target).map(TwinRow) {
            Ok(row) if query.matches(&row) => visit(&row, target),
            _ => Ok(ControlFlow::Continue(())),
        }
    };
    let mut target = Target::device(state.identity.id.clone());
    match query.source() {
        Source::Devices => look(&target),
        Source::Modules => {
            for module in state.modules.keys() {
                target.module = Some(module.clone());
                if look(&target)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        }
        Source::Jobs => Ok(ControlFlow::Continue(())),
    }
}

/// Reads a row's key back out of a token: `device` or `device/module`.
fn target_of(text: &str) -> Result<Target, ServiceError> {
    let bad = |_| ServiceError::invalid("the continuation token is damaged");
    match text.split_once('/') {
        None => DeviceId::parse(text).map(Target::device).map_err(bad),
        Some((device, module)) => Ok(Target {
            device: DeviceId::parse(device).map_err(bad)?,
            module: Some(ModuleId::parse(module).map_err(bad)?),
        }),
    }
}
