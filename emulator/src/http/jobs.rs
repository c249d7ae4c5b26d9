//! `/jobs/v2/…`: scheduled jobs.

use axum::extract::{RawQuery, State};
use hub_core::error::ServiceError;
use hub_core::job::{JobFilter, JobRequest, UnknownJob};
use hub_core::page::{Continuation, fingerprint, page_size};

use super::App;
use super::auth::ServiceCaller;
use super::error::HttpError;
use super::reply::JsonReply;
use super::request::{JobPath, JsonBody, Paging, query_parameter};

pub(super) async fn create(
    _: ServiceCaller,
    State(app): State<App>,
    JobPath(id): JobPath,
    JsonBody(body): JsonBody,
) -> Result<JsonReply, HttpError> {
    app.hub.check_jobs_available()?;
    let request = JobRequest::from_json(id.as_str(), &body, app.hub.clock.now())?;
    JsonReply::of(&app.jobs.create(request)?)
}

/// Never 404: an unknown job is answered as the service does, with 200 and the
/// status `unknown`.
pub(super) async fn read(
    _: ServiceCaller,
    State(app): State<App>,
    JobPath(id): JobPath,
) -> Result<JsonReply, HttpError> {
    match app.jobs.get(&id) {
        Some(job) => JsonReply::of(&job),
        None => JsonReply::of(&UnknownJob { id: id.as_str() }),
    }
}

pub(super) async fn cancel(
    _: ServiceCaller,
    State(app): State<App>,
    JobPath(id): JobPath,
) -> Result<JsonReply, HttpError> {
    JsonReply::of(&app.jobs.cancel(&id)?)
}

/// Newest first. Page size and token may also come as query parameters.
pub(super) async fn list(
    _: ServiceCaller,
    State(app): State<App>,
    RawQuery(query): RawQuery,
    paging: Paging,
) -> Result<JsonReply, HttpError> {
    let parameter = |name| query_parameter(query.as_deref(), name).filter(|value| !value.is_empty());
    let (job_type, job_status) = (parameter("jobType"), parameter("jobStatus"));
    let filter = JobFilter::parse(job_type.as_deref(), job_status.as_deref())?;
    let size = parameter("pageSize").map_or(paging.size, |size| page_size(Some(&size)));
    let fingerprint = fingerprint(&format!("jobs {job_type:?} {job_status:?}"));
    let after = match paging.continuation.or_else(|| parameter("continuationToken")) {
        None => None,
        Some(token) => {
            let token = Continuation::decode(&token, fingerprint)?;
            let position = token.resume_after.parse();
            Some(position.map_err(|_| ServiceError::invalid("the continuation token is damaged"))?)
        }
    };
    let page = app.jobs.list(&filter, after, size);
    let reply = JsonReply::of(&page.jobs)?.header("x-ms-item-type", "JobResponse");
    Ok(match page.next {
        None => reply,
        Some(next) => {
            let token = Continuation {
                fingerprint,
                resume_after: next.to_string(),
                delivered: 0,
            };
            reply.header("x-ms-continuation", &token.encode())
        }
    })
}
