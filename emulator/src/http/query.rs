//! `/devices/query`: the query language over twins and job records.

use std::ops::ControlFlow;
use std::time::Instant;

use axum::extract::State;
use hub_core::error::{ErrorCode, ServiceError};
use hub_core::ids::{DeviceId, JobId, ModuleId, Target};
use hub_core::query::{ItemType, Query, Source};
use job_service::engine::RecordKey;
use serde_json::{Value, json};

use super::App;
use super::auth::ServiceCaller;
use super::error::HttpError;
use super::reply::JsonReply;
use super::request::{JsonBody, Paging};
use crate::hub::explain::Explanation;
use crate::hub::query::{JsonRows, PageStart, QueryPage};

pub(super) async fn run(
    _: ServiceCaller,
    State(app): State<App>,
    paging: Paging,
    JsonBody(body): JsonBody,
) -> Result<JsonReply, HttpError> {
    let (text, query) = query_of(&app, &body)?;
    let continuation = paging.continuation.as_deref();
    let page = match query.source() {
        Source::Jobs => job_records(&app, text, &query, paging.size, continuation)?,
        Source::Devices | Source::Modules => {
            app.hub
                .query_page(text, &query, paging.size, continuation)
                .await?
        }
    };
    Ok(reply(page))
}

/// The query in a request's body.
///
/// # Errors
/// `ArgumentNull` without a text, `ArgumentInvalid` for one that is no query.
fn query_of<'t>(app: &App, body: &'t Value) -> Result<(&'t str, Query), ServiceError> {
    let text = match body.get("query") {
        Some(Value::String(text)) if !text.trim().is_empty() => text,
        Some(Value::String(_) | Value::Null) | None => {
            return Err(ServiceError::new(
                ErrorCode::ArgumentNull,
                "the query text is missing",
            ));
        }
        Some(_) => return Err(ServiceError::invalid("the query must be a string")),
    };
    let query = Query::parse_in(app.hub.settings.query_dialect, text)?;
    Ok((text, query))
}

/// `/_emulator/query/explain`: runs a query and tells how its rows were found
/// instead of what they are. Needs no credentials; refuses what the service's
/// own route refuses.
pub(super) async fn explain(
    State(app): State<App>,
    JsonBody(body): JsonBody,
) -> Result<JsonReply, HttpError> {
    let (text, query) = query_of(&app, &body)?;
    let explanation = match query.source() {
        Source::Jobs => explain_jobs(&app, &query),
        Source::Devices | Source::Modules => app.hub.explain(&query).await?,
    };
    JsonReply::of(&json!({
        "query": text,
        "collection": query.source().as_str(),
        "itemType": query.item_type().as_str(),
        "plan": explanation.plan,
        "explanation": explanation.text,
        "indexablePaths": explanation.indexable,
        "candidates": explanation.candidates,
        "matches": explanation.matches,
        "milliseconds": explanation.took.as_secs_f64() * 1000.0,
    }))
}

fn explain_jobs(app: &App, query: &Query) -> Explanation {
    let start = Instant::now();
    let (mut candidates, mut matches) = (0, 0);
    let jobs = only_jobs(query);
    app.jobs.for_each_record(jobs.as_deref(), None, |record| {
        candidates += 1;
        matches += u64::from(query.matches(record));
        ControlFlow::Continue(())
    });
    let (plan, text) = match jobs.as_deref() {
        Some([job]) => (
            "jobs",
            format!("the condition names the job {job}; only its records are looked at"),
        ),
        Some(jobs) => (
            "jobs",
            format!(
                "the condition names {} jobs; only their records are looked at",
                jobs.len()
            ),
        ),
        None => (
            "scan",
            match query.device_ids() {
                None => "the records of all jobs are looked at: the condition does not name jobs by their jobId",
                // Records are kept by job, and a scan of them is fast.
                Some(_) => {
                    "the records of all jobs are looked at: the condition names devices, but no jobs by their jobId"
                }
            }
            .into(),
        ),
    };
    Explanation {
        plan,
        text,
        indexable: Vec::new(),
        candidates,
        matches,
        took: start.elapsed(),
    }
}

/// The jobs whose records alone can match, sorted.
fn only_jobs(query: &Query) -> Option<Vec<JobId>> {
    let ids = query.job_ids()?;
    // What cannot be an id names no job.
    Some(ids.into_iter().filter_map(|id| JobId::parse(id).ok()).collect())
}

fn reply(page: QueryPage) -> JsonReply {
    let reply = JsonReply::raw(page.body).header("x-ms-item-type", page.item_type.as_str());
    match page.continuation {
        Some(token) => reply.header("x-ms-continuation", &token),
        None => reply,
    }
}

/// The records of jobs that match, one page of them.
fn job_records(
    app: &App,
    text: &str,
    query: &Query,
    size: usize,
    continuation: Option<&str>,
) -> Result<QueryPage, ServiceError> {
    let start = PageStart::new(text, query, size, continuation)?;
    let after = start.resume_after.as_deref().map(record_of).transpose()?;
    let (mut rows, mut last, mut next) = (JsonRows::new(), None, None);
    let mut failed = None;
    // Most queries name their job; those that name none look at all of them.
    let jobs = only_jobs(query);
    app.jobs
        .for_each_record(jobs.as_deref(), after.as_ref(), |record| {
            if !query.matches(record) {
                return ControlFlow::Continue(());
            }
            if rows.len >= start.size {
                next = last
                    .take()
                    .and_then(|key: RecordKey| start.next(query, record_text(&key), rows.len));
                return ControlFlow::Break(());
            }
            if let Err(error) = rows.push(record) {
                failed = Some(error);
                return ControlFlow::Break(());
            }
            last = Some(RecordKey::of(record));
            ControlFlow::Continue(())
        });
    match failed {
        Some(error) => Err(error),
        None => Ok(QueryPage {
            body: rows.finish(),
            item_type: ItemType::DeviceJob,
            continuation: next,
        }),
    }
}

/// A record's key as text for a token; `/` stands in none of the ids.
fn record_text(key: &RecordKey) -> String {
    format!("{}/{}", key.job, key.target)
}

fn record_of(text: &str) -> Result<RecordKey, ServiceError> {
    let bad = || ServiceError::invalid("the continuation token is damaged");
    let mut parts = text.splitn(3, '/');
    let mut part = || parts.next().ok_or_else(bad);
    let job = JobId::parse(part()?).map_err(|_| bad())?;
    let device = DeviceId::parse(part()?).map_err(|_| bad())?;
    let module = parts.next().map(ModuleId::parse).transpose().map_err(|_| bad())?;
    Ok(RecordKey {
        job,
        target: Target { device, module },
    })
}
