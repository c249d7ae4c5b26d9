//! `/devices/query`: the query language over twins and job records.

use std::ops::ControlFlow;

use axum::extract::State;
use hub_core::error::{ErrorCode, ServiceError};
use hub_core::ids::{DeviceId, JobId, ModuleId, Target};
use hub_core::query::{ItemType, Query, Source};
use job_service::engine::RecordKey;
use serde_json::Value;

use super::App;
use super::auth::ServiceCaller;
use super::error::HttpError;
use super::reply::JsonReply;
use super::request::{JsonBody, Paging};
use crate::hub::query::{JsonRows, PageStart, QueryPage};

pub(super) async fn run(
    _: ServiceCaller,
    State(app): State<App>,
    paging: Paging,
    JsonBody(body): JsonBody,
) -> Result<JsonReply, HttpError> {
    let text = match body.get("query") {
        Some(Value::String(text)) if !text.trim().is_empty() => text,
        Some(Value::String(_) | Value::Null) | None => {
            return Err(ServiceError::new(ErrorCode::ArgumentNull, "the query text is missing").into());
        }
        Some(_) => return Err(ServiceError::invalid("the query must be a string").into()),
    };
    let query = Query::parse(text).map_err(|e| ServiceError::invalid(e.to_string()))?;
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
    // Most queries name their job; those that do not look at all of them.
    let job = match query.job_ids().as_deref() {
        Some([id]) => JobId::parse(id).ok(),
        _ => None,
    };
    app.jobs.for_each_record(job.as_ref(), after.as_ref(), |record| {
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
