//! The job routes: creating, reading, cancelling and listing. What jobs do to
//! devices is in `rest_job_runs`.

use std::time::Duration;

use emulator::Hub;
use hub_core::error::ErrorCode;
use job_service::EngineSettings;
use serde_json::{Value, json};

use crate::support::answering::{Answer, AnsweringDevice};
use crate::support::jobs::{create, ended, has_status, job, method_job, statistics, twin_job};
use crate::support::rest::{Rest, start};

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
/// Long after any test, whatever it does to the clock.
const FAR: &str = "2999-01-01T00:00:00Z";

async fn start_with(settings: EngineSettings) -> (Hub, Rest) {
    let hub = Hub::builder().jobs(settings).start().await.unwrap();
    let rest = Rest::of(&hub);
    (hub, rest)
}

#[tokio::test]
async fn creating_answers_three_members() {
    let (_hub, rest) = start().await;
    for (id, body, job_type) in [
        ("job-01", method_job("*", json!({})), "scheduleDeviceMethod"),
        (
            "Job2",
            twin_job("*", json!({"jobId": "Job2"})),
            "scheduleUpdateTwin",
        ),
        (
            &"j".repeat(64),
            method_job("*", json!({"startTime": FAR})),
            "scheduleDeviceMethod",
        ),
    ] {
        let reply = rest.put(&format!("/jobs/v2/{id}"), &body).await;
        assert_eq!(
            reply.ok(),
            json!({"jobId": id, "type": job_type, "status": "queued"})
        );
        assert_eq!(reply.header("x-ms-item-type"), None);
    }
}

#[tokio::test]
async fn a_scheduled_job_reads_as_it_was_sent() {
    let (hub, rest) = start().await;
    let before = hub.now().to_string();
    let method = json!({"methodName": "lockDoor", "payload": {"lockTime": "10m"},
                        "responseTimeoutInSeconds": 30, "connectTimeoutInSeconds": 10});
    let body = method_job(
        "deviceId IN ['d1']",
        json!({"cloudToDeviceMethod": method, "updateTwin": null, "startTime": FAR, "maxExecutionTimeInSeconds": 60}),
    );
    create(&rest, "m", &body).await;
    let read = has_status(&rest, "m", "scheduled").await;
    let created = read["createdTime"].as_str().unwrap();
    assert!(
        created >= &*before && created <= &*hub.now().to_string(),
        "{created}"
    );
    assert_eq!(
        read,
        json!({
            "jobId": "m",
            "queryCondition": "deviceId IN ['d1']",
            "createdTime": created,
            "startTime": "2999-01-01T00:00:00Z",
            "maxExecutionTimeInSeconds": 60,
            "type": "scheduleDeviceMethod",
            "cloudToDeviceMethod": method,
            "status": "scheduled",
        })
    );
    // A whole twin is sent by some clients; only the patch counts.
    let twin = json!({
        "etag": null, "deviceId": "x", "version": 9, "tags": {"a": 1},
        "properties": {"desired": {"floor": 3, "building": "43"}, "reported": {"x": 1}, "$version": 3},
    });
    create(
        &rest,
        "t",
        &twin_job(
            "*",
            json!({"updateTwin": twin, "cloudToDeviceMethod": null, "startTime": FAR}),
        ),
    )
    .await;
    let read = has_status(&rest, "t", "scheduled").await;
    assert_eq!(
        read["updateTwin"],
        json!({"etag": "*", "tags": {"a": 1}, "properties": {"desired": {"floor": 3, "building": "43"}}})
    );
    assert!(read.get("cloudToDeviceMethod").is_none());
    // An hour unless said otherwise.
    assert_eq!(read["maxExecutionTimeInSeconds"], 3600);
}

#[tokio::test]
async fn an_unknown_job_is_a_success() {
    let (_hub, rest) = start().await;
    let reply = rest.get("/jobs/v2/nobody").await;
    assert_eq!(
        reply.ok(),
        json!({"jobId": "nobody", "type": "unknown", "status": "unknown"})
    );
    let text = rest
        .get("/jobs/v2/no_body")
        .await
        .refused(ErrorCode::ArgumentInvalid);
    assert!(text.starts_with("bad job id: "), "{text}");
}

#[tokio::test]
async fn an_id_is_used_once() {
    let (hub, rest) = start().await;
    create(&rest, "j", &method_job("*", json!({"startTime": FAR}))).await;
    let again = twin_job("*", json!({}));
    let text = rest
        .put("/jobs/v2/j", &again)
        .await
        .refused(ErrorCode::JobAlreadyExists);
    assert_eq!(text, "job j already exists");
    rest.post("/jobs/v2/j/cancel", &Value::Null).await.ok();
    rest.put("/jobs/v2/j", &again)
        .await
        .refused(ErrorCode::JobAlreadyExists);
    // Ids are case-sensitive.
    create(&rest, "J", &again).await;
    ended(&rest, "J").await;
    rest.put("/jobs/v2/J", &again)
        .await
        .refused(ErrorCode::JobAlreadyExists);
    // For thirty days it is remembered, in full; then by nobody.
    let done = job(&rest, "J").await;
    hub.advance_clock(Duration::from_secs(30 * 24 * 3600 - 600));
    assert_eq!(job(&rest, "J").await, done);
    rest.put("/jobs/v2/J", &again)
        .await
        .refused(ErrorCode::JobAlreadyExists);
    assert_eq!(listing(&rest, "/jobs/v2/query", "10").await, [["J", "j"]]);
    hub.advance_clock(Duration::from_secs(600));
    has_status(&rest, "J", "unknown").await;
    create(&rest, "J", &again).await;
}

#[tokio::test]
async fn bad_jobs_are_refused() {
    let (_hub, rest) = start().await;
    let force = "Missing or invalid etag for job type ScheduleUpdateTwin. ScheduleUpdateTwin job type is a force \
                 update, which only accepts '*' as the Etag.";
    let invalid = ErrorCode::ArgumentInvalid;
    let null = ErrorCode::ArgumentNull;
    let generic = ErrorCode::GenericBadRequest;
    let method = |member: &str, value: Value| method_job("*", json!({ member: value }));
    let call = |call: Value| method("cloudToDeviceMethod", call);
    let twin = |update: Value| twin_job("*", json!({ "updateTwin": update }));
    let time = "startTime must be an ISO 8601 time";
    let window = "maxExecutionTimeInSeconds must be a positive integer";
    for (body, code, text) in [
        (json!([]), generic, "BadRequest"),
        (json!("job"), generic, "BadRequest"),
        (json!({}), generic, "BadRequest"),
        (
            method("type", json!("scheduleDirectMethod")),
            generic,
            "BadRequest",
        ),
        (method("type", json!("scheduleTwinUpdate")), generic, "BadRequest"),
        (
            method("type", json!("ScheduleDeviceMethod")),
            generic,
            "BadRequest",
        ),
        (method("type", json!(null)), generic, "BadRequest"),
        (method("type", json!("export")), generic, "BadRequest"),
        (
            method("jobId", json!("other")),
            invalid,
            "the jobId in the body differs from the one in the URL",
        ),
        (
            method("jobId", json!(5)),
            invalid,
            "the jobId in the body differs from the one in the URL",
        ),
        (
            method("queryCondition", json!(null)),
            null,
            "queryCondition is required",
        ),
        (
            method("queryCondition", json!(" ")),
            null,
            "queryCondition is required",
        ),
        (
            method("queryCondition", json!(5)),
            invalid,
            "queryCondition must be a string",
        ),
        (
            method("queryCondition", json!("x".repeat(8193))),
            invalid,
            "queryCondition is longer than 8192 characters",
        ),
        (method("startTime", json!(null)), invalid, time),
        (method("startTime", json!(1_767_322_000)), invalid, time),
        (method("maxExecutionTimeInSeconds", json!(null)), invalid, window),
        (method("maxExecutionTimeInSeconds", json!(0)), invalid, window),
        (method("maxExecutionTimeInSeconds", json!(-1)), invalid, window),
        (method("maxExecutionTimeInSeconds", json!(1.5)), invalid, window),
        (method("maxExecutionTimeInSeconds", json!("60")), invalid, window),
        (call(json!(null)), null, "cloudToDeviceMethod is required"),
        (call(json!({})), null, "methodName is required"),
        (
            call(json!({"methodName": ""})),
            invalid,
            "methodName must not be empty",
        ),
        (
            call(json!({"methodName": "m", "responseTimeoutInSeconds": 4})),
            invalid,
            "responseTimeoutInSeconds must be within [5; 300].",
        ),
        (
            call(json!({"methodName": "m", "connectTimeoutInSeconds": 301})),
            invalid,
            "connectTimeoutInSeconds must be within [0; 300].",
        ),
        (
            call(json!({"methodName": "m", "payload": "x".repeat(131_072)})),
            ErrorCode::MessageTooLarge,
            "'payload' size should be less than 131072 bytes",
        ),
        (twin(json!(null)), null, "updateTwin is required"),
        (twin(json!([])), invalid, "updateTwin must be a JSON object"),
        (twin(json!({"tags": {}})), invalid, force),
        (twin(json!({"etag": "AAAAAAAAAAE=", "tags": {}})), invalid, force),
        (
            twin(json!({"etag": "*"})),
            invalid,
            "updateTwin must contain tags or properties.desired",
        ),
        // What the old tutorial sends.
        (
            twin(json!({"etag": "*", "desired": {"a": 1}})),
            invalid,
            "updateTwin must contain tags or properties.desired",
        ),
        (
            twin(json!({"etag": "*", "tags": 5})),
            invalid,
            "tags of updateTwin must be a JSON object",
        ),
        (
            twin(json!({"etag": "*", "tags": {"a.b": 1}})),
            invalid,
            "property name of tags.a.b contains an invalid character",
        ),
        (
            twin(json!({"etag": "*", "properties": {"desired": {"a": [null]}}})),
            invalid,
            "properties.desired.a: arrays cannot contain null",
        ),
    ] {
        let reply = rest.put("/jobs/v2/bad", &body).await;
        assert_eq!(reply.refused(code), text, "{body}");
    }
    let missing = |member: &str| {
        let mut body = method_job("*", json!({}));
        body.as_object_mut().unwrap().remove(member);
        body
    };
    for (member, text) in [
        ("queryCondition", "queryCondition is required"),
        ("cloudToDeviceMethod", "cloudToDeviceMethod is required"),
    ] {
        assert_eq!(
            rest.put("/jobs/v2/bad", &missing(member)).await.refused(null),
            text
        );
    }
    let text = rest
        .put("/jobs/v2/bad", &method("startTime", json!("tomorrow")))
        .await
        .refused(invalid);
    assert!(text.starts_with("startTime: "), "{text}");
    for id in ["a_b", "a.b", "%20", &"j".repeat(65)] {
        let text = rest
            .put(&format!("/jobs/v2/{id}"), &method_job("*", json!({})))
            .await
            .refused(invalid);
        assert!(text.starts_with("bad job id: "), "{text}");
    }
    assert_eq!(job(&rest, "bad").await["status"], "unknown");
    assert_eq!(rest.get("/jobs/v2/query").await.ok(), json!([]));
}

#[tokio::test]
async fn times_are_read_in_every_iso_form() {
    let (_hub, rest) = start().await;
    for (id, sent, read) in [
        ("a", "2999-01-02T03:04:05Z", "2999-01-02T03:04:05Z"),
        (
            "b",
            "2999-01-02T03:04:05.1234567Z",
            "2999-01-02T03:04:05.1234567Z",
        ),
        ("c", "2999-01-02T03:04:05.1", "2999-01-02T03:04:05.1000000Z"),
        (
            "d",
            "2999-01-02T03:04:05.123456+02:00",
            "2999-01-02T01:04:05.1234560Z",
        ),
        ("e", "2999-01-02T03:04Z", "2999-01-02T03:04:00Z"),
        ("f", "2999-01-02T03:04:05", "2999-01-02T03:04:05Z"),
        (
            "g",
            "2999-01-02T03:04:05.123456789Z",
            "2999-01-02T03:04:05.1234567Z",
        ),
        ("h", "2999-01-01T22:04:05-05:00", "2999-01-02T03:04:05Z"),
    ] {
        create(&rest, id, &twin_job("*", json!({ "startTime": sent }))).await;
        assert_eq!(job(&rest, id).await["startTime"], read, "{sent}");
    }
}

#[tokio::test]
async fn a_job_of_next_week_runs_next_week() {
    let (hub, rest) = start().await;
    rest.create("d").await;
    let start = hub.now().saturating_add(WEEK);
    create(&rest, "j", &twin_job("*", json!({ "startTime": start }))).await;
    has_status(&rest, "j", "scheduled").await;
    hub.advance_clock(WEEK - Duration::from_secs(3600));
    rest.get("/twins/d").await.ok();
    let early = job(&rest, "j").await;
    assert_eq!(early["status"], "scheduled");
    assert!(
        early.get("deviceJobStatistics").is_none() && early.get("endTime").is_none(),
        "{early}"
    );
    assert_eq!(rest.get("/twins/d").await.ok()["tags"], json!({}));

    hub.advance_clock(Duration::from_secs(3600));
    let done = ended(&rest, "j").await;
    assert_eq!(done["status"], "completed");
    assert_eq!(done["deviceJobStatistics"], statistics([1, 0, 1, 0, 0]));
    assert!(done["endTime"].as_str().unwrap() >= &*start.to_string());
    assert_eq!(done["startTime"], start.to_string());
    assert_eq!(rest.get("/twins/d").await.ok()["tags"], json!({"patched": true}));
}

#[tokio::test]
async fn a_job_without_a_start_or_with_a_past_one_runs_at_once() {
    let (_hub, rest) = start().await;
    rest.create("d").await;
    for (id, more) in [
        ("none", json!({})),
        ("empty", json!({"startTime": ""})),
        ("past", json!({"startTime": "2001-01-01T00:00:00Z"})),
    ] {
        create(&rest, id, &twin_job("*", more)).await;
        assert_eq!(ended(&rest, id).await["status"], "completed", "{id}");
    }
    assert_eq!(job(&rest, "past").await["startTime"], "2001-01-01T00:00:00Z");
}

#[tokio::test]
async fn a_job_can_be_cancelled_until_it_runs() {
    let (hub, rest) = start_with(EngineSettings {
        running_jobs: 1,
        ..EngineSettings::default()
    })
    .await;
    rest.create("d").await;
    let mut device = AnsweringDevice::connect(&hub, "d", Answer::Nothing).await;
    let cancel = async |id: &str| rest.call("POST", &format!("/jobs/v2/{id}/cancel")).send().await;
    assert_eq!(
        cancel("nobody").await.refused(ErrorCode::JobNotFound),
        "job nobody does not exist"
    );

    create(&rest, "scheduled", &method_job("*", json!({"startTime": FAR}))).await;
    has_status(&rest, "scheduled", "scheduled").await;
    create(&rest, "running", &method_job("*", json!({}))).await;
    let call = device.call(1).await;
    assert_eq!(job(&rest, "running").await["status"], "running");
    // The only place is taken.
    create(&rest, "enqueued", &method_job("*", json!({}))).await;
    has_status(&rest, "enqueued", "enqueued").await;
    create(&rest, "next", &method_job("*", json!({}))).await;

    for id in ["scheduled", "enqueued"] {
        let cancelled = cancel(id).await.ok();
        assert_eq!(cancelled["status"], "cancelled");
        assert!(cancelled["endTime"].is_string());
        assert_eq!(cancelled, job(&rest, id).await);
        assert_eq!(
            cancel(id).await.refused(ErrorCode::JobRunPreconditionFailed),
            "the job has ended already"
        );
    }
    let text = rest
        .post("/jobs/v2/running/cancel", &Value::Null)
        .await
        .refused(ErrorCode::JobRunPreconditionFailed);
    assert_eq!(text, "the job is running and can no longer be cancelled");

    device.respond(&call, 200, b"1");
    assert_eq!(ended(&rest, "running").await["status"], "completed");
    assert_eq!(
        cancel("running")
            .await
            .refused(ErrorCode::JobRunPreconditionFailed),
        "the job has ended already"
    );
    // The one behind the cancelled one has its turn.
    let call = device.call(2).await;
    device.respond(&call, 200, b"2");
    assert_eq!(ended(&rest, "next").await["status"], "completed");
    hub.advance_clock(WEEK);
    assert_eq!(device.seen().calls.len(), 2);
}

#[tokio::test]
async fn active_jobs_have_a_cap() {
    let (_hub, rest) = start_with(EngineSettings {
        active_jobs: 2,
        ..EngineSettings::default()
    })
    .await;
    let later = method_job("*", json!({"startTime": FAR}));
    create(&rest, "a", &later).await;
    create(&rest, "b", &later).await;
    let text = rest
        .put("/jobs/v2/c", &later)
        .await
        .refused(ErrorCode::ThrottlingMaxActiveJobCountExceeded);
    assert_eq!(text, "as many jobs are active as may be: 2");
    rest.post("/jobs/v2/a/cancel", &Value::Null).await.ok();
    create(&rest, "c", &later).await;
}

/// The ids of a listing, page by page.
async fn listing(rest: &Rest, path: &str, size: &str) -> Vec<Vec<String>> {
    let (mut pages, mut token) = (Vec::new(), None::<String>);
    loop {
        let mut call = rest.call("GET", path).header("x-ms-max-item-count", size);
        if let Some(token) = &token {
            call = call.header("x-ms-continuation", token);
        }
        let reply = call.send().await;
        assert_eq!(reply.header("x-ms-item-type"), Some("JobResponse"));
        let jobs = reply.ok();
        let ids = jobs
            .as_array()
            .unwrap()
            .iter()
            .map(|job| job["jobId"].as_str().unwrap().to_owned());
        pages.push(ids.collect());
        token = reply.header("x-ms-continuation").map(str::to_owned);
        if token.is_none() {
            return pages;
        }
    }
}

#[tokio::test]
async fn a_listing_is_filtered() {
    let (_hub, rest) = start().await;
    assert_eq!(
        listing(&rest, "/jobs/v2/query", "10").await,
        [Vec::<String>::new()]
    );
    rest.create("d").await;
    create(&rest, "method", &method_job("deviceId = 'none'", json!({}))).await;
    create(&rest, "twin", &twin_job("*", json!({}))).await;
    create(&rest, "failed", &method_job("*", json!({}))).await;
    create(&rest, "later", &twin_job("*", json!({"startTime": FAR}))).await;
    create(&rest, "cancelled", &method_job("*", json!({"startTime": FAR}))).await;
    rest.post("/jobs/v2/cancelled/cancel", &Value::Null).await.ok();
    for id in ["method", "twin", "failed"] {
        ended(&rest, id).await;
    }
    has_status(&rest, "later", "scheduled").await;
    for (query, expected) in [
        ("", &["cancelled", "later", "failed", "twin", "method"][..]),
        (
            "?jobType=&jobStatus=",
            &["cancelled", "later", "failed", "twin", "method"],
        ),
        (
            "?jobType=scheduleDeviceMethod",
            &["cancelled", "failed", "method"],
        ),
        ("?jobType=ScheduleUpdateTwin", &["later", "twin"]),
        ("?jobStatus=completed", &["twin", "method"]),
        ("?jobStatus=Scheduled", &["later"]),
        ("?jobStatus=failed", &["failed"]),
        ("?jobStatus=cancelled", &["cancelled"]),
        ("?jobStatus=running", &[]),
        ("?jobStatus=queued", &[]),
        ("?jobType=scheduleUpdateTwin&jobStatus=completed", &["twin"]),
        ("?jobType=SCHEDULEDEVICEMETHOD&jobStatus=FAILED", &["failed"]),
        ("?jobStatus=Cancelled", &["cancelled"]),
        ("?jobStatus=canceled", &["cancelled"]),
        ("?jobStatus=Enqueued", &[]),
        ("?jobType=ExportDevices", &[]),
        ("?jobType=importDevices", &[]),
        ("?jobType=export", &[]),
        ("?jobType=import", &[]),
        ("?jobType=Unknown", &[]),
        ("?jobStatus=unknown", &[]),
    ] {
        let pages = listing(&rest, &format!("/jobs/v2/query{query}"), "10").await;
        assert_eq!(pages, [expected], "{query}");
    }
    for (query, text) in [
        ("?jobType=other", "jobType \"other\" is not known"),
        ("?jobStatus=done", "jobStatus \"done\" is not known"),
    ] {
        let reply = rest.get(&format!("/jobs/v2/query{query}")).await;
        assert_eq!(reply.refused(ErrorCode::ArgumentInvalid), text);
    }
    let listed = rest.get("/jobs/v2/query?jobStatus=failed").await.ok();
    assert_eq!(listed[0], job(&rest, "failed").await);
}

#[tokio::test]
async fn a_listing_is_paged_newest_first() {
    let (_hub, rest) = start().await;
    for n in 0..10 {
        let body = if n % 2 == 0 {
            twin_job("*", json!({"startTime": FAR}))
        } else {
            method_job("*", json!({"startTime": FAR}))
        };
        create(&rest, &format!("j{n}"), &body).await;
    }
    let pages = listing(&rest, "/jobs/v2/query", "4").await;
    assert_eq!(
        pages,
        [
            vec!["j9", "j8", "j7", "j6"],
            vec!["j5", "j4", "j3", "j2"],
            vec!["j1", "j0"]
        ]
    );
    let pages = listing(&rest, "/jobs/v2/query?jobType=scheduleUpdateTwin", "2").await;
    assert_eq!(pages, [vec!["j8", "j6"], vec!["j4", "j2"], vec!["j0"]]);
    // No empty last page.
    assert_eq!(listing(&rest, "/jobs/v2/query", "5").await.len(), 2);
    for size in ["0", "many", "1000"] {
        assert_eq!(listing(&rest, "/jobs/v2/query", size).await.len(), 1, "{size}");
    }

    // The page size and the token may also be query parameters; jobs that come
    // meanwhile are newer and disturb nothing.
    let first = rest.get("/jobs/v2/query?pageSize=3").await;
    let token = first.header("x-ms-continuation").unwrap();
    create(&rest, "new", &twin_job("*", json!({"startTime": FAR}))).await;
    let second = rest
        .get(&format!("/jobs/v2/query?pageSize=3&continuationToken={token}"))
        .await
        .ok();
    let ids: Vec<&Value> = second
        .as_array()
        .unwrap()
        .iter()
        .map(|job| &job["jobId"])
        .collect();
    assert_eq!(ids, ["j6", "j5", "j4"]);

    let other = rest
        .get(&format!(
            "/jobs/v2/query?jobStatus=scheduled&continuationToken={token}"
        ))
        .await;
    assert_eq!(
        other.refused(ErrorCode::ArgumentInvalid),
        "the continuation token belongs to another query"
    );
    let damaged = rest.get("/jobs/v2/query?continuationToken=nonsense").await;
    assert_eq!(
        damaged.refused(ErrorCode::ArgumentInvalid),
        "the continuation token is not valid"
    );
}
