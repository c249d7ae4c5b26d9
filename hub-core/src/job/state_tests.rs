//! The state machines by example, in the service's JSON, and against a
//! reference model.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::error::{ErrorCode, ServiceError};
use crate::ids::{DeviceId, ModuleId, Target};
use crate::json::JsonText;
use crate::method::{self, MethodResponse};
use crate::time::Timestamp;

fn at(second: i64) -> Timestamp {
    Timestamp::from_unix_seconds(1_767_322_000 + second)
}

fn request() -> JobRequest {
    let body = json!({"type":"scheduleDeviceMethod","queryCondition":"deviceId IN ['d1']",
        "startTime":"2026-01-02T03:04:05.678Z","maxExecutionTimeInSeconds":60,
        "cloudToDeviceMethod":{"methodName":"lockDoor","payload":{"lockTime":"10m"}}});
    JobRequest::from_json("job01", &body, at(0)).unwrap()
}

fn targets(count: usize) -> Vec<Target> {
    (0..count)
        .map(|n| DeviceId::parse(&format!("d{n:03}")).unwrap().into())
        .collect()
}

fn queued(rule: PartialFailure) -> Job {
    Job::new(request(), rule, at(0))
}

fn running(rule: PartialFailure, devices: usize) -> Job {
    let mut job = queued(rule);
    job.plan();
    job.enqueue();
    assert!(job.start(at(1)));
    job.select(targets(devices), at(1));
    job
}

fn answered(status: i32) -> Result<Outcome, ServiceError> {
    Ok(Outcome::Method(MethodResponse {
        status,
        payload: JsonText::from_value(&json!({"Response":"ok"})),
    }))
}

fn offline() -> Result<Outcome, ServiceError> {
    Err(method::not_online(std::time::Duration::ZERO))
}

fn row(job: &Job, number: usize) -> Value {
    serde_json::to_value(job.record_view(number).unwrap()).unwrap()
}

#[test]
fn a_job_passes_through_every_state() {
    let mut job = queued(PartialFailure::default());
    assert_eq!(
        serde_json::to_value(job.created_view()).unwrap(),
        json!({"jobId":"job01","type":"scheduleDeviceMethod","status":"queued"})
    );
    assert_eq!(job.status(), JobStatus::Queued);
    job.plan();
    assert_eq!(job.status(), JobStatus::Scheduled);
    job.enqueue();
    assert_eq!(job.status(), JobStatus::Enqueued);
    let view = serde_json::to_value(job.view()).unwrap();
    assert!(view.get("endTime").is_none());
    assert!(view.get("deviceJobStatistics").is_none());
    assert!(job.start(at(1)));
    assert_eq!(job.status(), JobStatus::Running);
    assert!(!job.start(at(2)), "once only");
    job.select(targets(1), at(1));
    assert!(job.begin(0, at(2)));
    job.settle(0, answered(200), at(3));
    assert_eq!(
        serde_json::to_value(job.view()).unwrap(),
        json!({"jobId":"job01","queryCondition":"deviceId IN ['d1']",
            "createdTime":"2026-01-02T02:46:40Z","startTime":"2026-01-02T03:04:05.6780000Z",
            "endTime":"2026-01-02T02:46:43Z","maxExecutionTimeInSeconds":60,
            "type":"scheduleDeviceMethod",
            "cloudToDeviceMethod":{"methodName":"lockDoor","payload":{"lockTime":"10m"},
                "responseTimeoutInSeconds":30,"connectTimeoutInSeconds":0},
            "status":"completed",
            "deviceJobStatistics":{"deviceCount":1,"failedCount":0,"succeededCount":1,
                "runningCount":0,"pendingCount":0}})
    );
}

#[test]
fn a_twin_job_echoes_its_patch() {
    let body = json!({"type":"scheduleUpdateTwin","queryCondition":"*",
        "updateTwin":{"etag":"*","tags":{},"properties":{"desired":{"building":"43","floor":3}}}});
    let request = JobRequest::from_json("job02", &body, at(0)).unwrap();
    let view = Job::new(request, PartialFailure::default(), at(0)).view();
    let view = serde_json::to_value(view).unwrap();
    assert_eq!(view["updateTwin"], body["updateTwin"]);
    assert!(view.get("cloudToDeviceMethod").is_none());
}

#[test]
fn records_tell_what_became_of_each_device() {
    let mut job = running(PartialFailure::default(), 4);
    let never = "0001-01-01T00:00:00Z";
    assert_eq!(
        row(&job, 0),
        json!({"deviceId":"d000","jobId":"job01","jobType":"scheduleDeviceMethod","status":"pending",
            "startTimeUtc":never,"endTimeUtc":never,
            "createdDateTimeUtc":"2026-01-02T02:46:41Z","lastUpdatedDateTimeUtc":"2026-01-02T02:46:41Z"})
    );
    for number in 0..3 {
        assert!(job.begin(number, at(2)));
        assert!(!job.begin(number, at(2)), "only once");
    }
    assert_eq!(row(&job, 0)["status"], "running");
    assert_eq!(row(&job, 0)["lastUpdatedDateTimeUtc"], "2026-01-02T02:46:42Z");
    job.settle(0, answered(500), at(3));
    job.settle(1, Ok(Outcome::Twin), at(3));
    job.settle(2, offline(), at(3));
    assert_eq!(
        row(&job, 0)["status"],
        "completed",
        "whatever the device answered"
    );
    assert_eq!(
        row(&job, 0)["outcome"],
        json!({"deviceMethodResponse":{"status":500,"payload":{"Response":"ok"}}})
    );
    assert_eq!(row(&job, 1)["outcome"], json!({"deviceMethodResponse":null}));
    assert_eq!(row(&job, 2)["status"], "failed");
    assert_eq!(
        row(&job, 2)["error"],
        json!({"code":"DeviceNotOnline","description":"Timed out waiting for device to connect."})
    );
    job.close_window(at(61));
    assert_eq!(row(&job, 3)["error"]["code"], "JobTimedOut");
    assert_eq!(row(&job, 3)["startTimeUtc"], never);
    assert_eq!(row(&job, 3)["endTimeUtc"], "2026-01-02T02:47:41Z");
    assert_eq!(job.status(), JobStatus::Completed);
    assert!(job.record_view(4).is_none());
}

#[test]
fn targets_are_ordered_and_counted_once() {
    let mut job = queued(PartialFailure::default());
    job.enqueue();
    assert!(job.start(at(1)));
    let device = DeviceId::parse("b").unwrap();
    let module = Target {
        device: device.clone(),
        module: Some(ModuleId::parse("m").unwrap()),
    };
    let a = Target::device(DeviceId::parse("a").unwrap());
    let order = job.select(
        vec![module.clone(), device.clone().into(), a.clone(), module.clone()],
        at(1),
    );
    assert_eq!(order, [a, device.into(), module]);
    assert_eq!(job.statistics().device_count, 3);
    assert_eq!(row(&job, 2)["moduleId"], "m");
}

#[test]
fn the_result_depends_on_the_failures_and_the_rule() {
    use JobStatus::{Completed, Failed};
    use PartialFailure::{FailsWhenAllFailed, FailsWhenAnyFailed, NeverFails};
    for (rule, devices, failures, expected) in [
        (FailsWhenAllFailed, 0, 0, Completed),
        (FailsWhenAllFailed, 3, 2, Completed),
        (FailsWhenAllFailed, 3, 3, Failed),
        (FailsWhenAnyFailed, 3, 0, Completed),
        (FailsWhenAnyFailed, 3, 1, Failed),
        (FailsWhenAnyFailed, 0, 0, Completed),
        (NeverFails, 3, 3, Completed),
    ] {
        let mut job = running(rule, devices);
        for number in 0..devices {
            job.begin(number, at(2));
            let result = if number < failures {
                offline()
            } else {
                answered(200)
            };
            job.settle(number, result, at(3));
        }
        assert_eq!(job.status(), expected, "{rule:?} {failures} of {devices}");
        let reason = job.view().failure_reason;
        assert_eq!(reason.is_some(), expected == Failed);
        if let Some(reason) = reason {
            assert!(
                reason.starts_with(&format!("{failures} of {devices} devices failed")),
                "{reason}"
            );
            assert!(reason.contains("d000: DeviceNotOnline"), "{reason}");
        }
    }
}

#[test]
fn a_bad_condition_fails_the_job_with_the_parsers_words() {
    let mut job = queued(PartialFailure::NeverFails);
    job.enqueue();
    assert!(job.start(at(1)));
    job.fail("SQL query parse failed due to following errors: …", at(2));
    let view = serde_json::to_value(job.view()).unwrap();
    assert_eq!(view["status"], "failed");
    assert_eq!(
        view["failureReason"],
        "SQL query parse failed due to following errors: …"
    );
    assert_eq!(view["deviceJobStatistics"]["deviceCount"], 0);
}

#[test]
fn a_window_that_closes_before_the_query_answers_fails_the_job() {
    let mut job = queued(PartialFailure::NeverFails);
    job.enqueue();
    assert!(job.start(at(1)));
    job.close_window(at(61));
    assert_eq!(job.status(), JobStatus::Failed);
    assert!(job.select(targets(3), at(62)).is_empty());
    assert_eq!(job.statistics().device_count, 0);
}

#[test]
fn a_job_can_be_cancelled_until_it_runs() {
    let stage = |steps: usize| {
        let mut job = queued(PartialFailure::default());
        let all: [fn(&mut Job); 5] = [
            Job::plan,
            Job::enqueue,
            |job| {
                job.start(at(1));
            },
            |job| {
                job.select(targets(2), at(1));
            },
            |job| job.close_window(at(61)),
        ];
        all.iter().take(steps).for_each(|step| step(&mut job));
        job
    };
    for steps in 0..3 {
        let mut job = stage(steps);
        job.cancel(CancelRunning::Refused, at(5)).unwrap();
        assert_eq!(job.status(), JobStatus::Cancelled);
        assert_eq!(job.ended(), Some(at(5)));
        let again = job.cancel(CancelRunning::Stops, at(6)).unwrap_err();
        assert_eq!(again.code, ErrorCode::JobRunPreconditionFailed);
    }
    for steps in 3..6 {
        let mut job = stage(steps);
        let error = job.cancel(CancelRunning::Refused, at(5)).unwrap_err();
        assert_eq!(error.code, ErrorCode::JobRunPreconditionFailed);
    }
    let mut job = stage(4);
    job.begin(0, at(2));
    job.cancel(CancelRunning::Stops, at(5)).unwrap();
    assert_eq!(row(&job, 0)["status"], "canceled");
    assert_eq!(job.statistics().failed_count, 2);
    job.settle(0, answered(200), at(6));
    assert_eq!(
        row(&job, 0)["status"],
        "canceled",
        "a late answer changes nothing"
    );
}

#[test]
fn equal_descriptions_are_stored_once() {
    let mut job = running(PartialFailure::default(), 2);
    for number in 0..2 {
        job.begin(number, at(2));
        job.settle(number, offline(), at(3));
    }
    let description = |number: usize| match &job.records()[number].state {
        RecordState::Failed(error) => error.description.clone(),
        state => panic!("{state:?}"),
    };
    assert!(std::sync::Arc::ptr_eq(&description(0), &description(1)));
}

#[test]
fn a_listing_filters_by_type_and_status_in_either_spelling() {
    let view = running(PartialFailure::default(), 1).view();
    for (job_type, status, shown) in [
        (None, None, true),
        (Some(""), Some(""), true),
        (Some("scheduleDeviceMethod"), None, true),
        (Some("ScheduleDeviceMethod"), Some("Running"), true),
        (Some("scheduleUpdateTwin"), None, false),
        (Some("ExportDevices"), None, false),
        (None, Some("running"), true),
        (None, Some("Completed"), false),
        (None, Some("unknown"), false),
    ] {
        let filter = JobFilter::parse(job_type, status).unwrap();
        assert_eq!(filter.admits(&view), shown, "{job_type:?} {status:?}");
    }
    assert!(JobFilter::parse(Some("reboot"), None).is_err());
    assert!(JobFilter::parse(None, Some("finished")).is_err());
}

#[test]
fn an_unknown_job_is_an_answer_too() {
    assert_eq!(
        serde_json::to_value(UnknownJob { id: "nope" }).unwrap(),
        json!({"jobId":"nope","type":"unknown","status":"unknown"})
    );
}

#[derive(Debug, Clone)]
enum Event {
    Plan,
    Enqueue,
    Start,
    Select(usize),
    Begin(usize),
    Succeed(usize),
    Fail(usize),
    CloseWindow,
    FailJob,
    Cancel(CancelRunning),
}

fn arb_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => Just(Event::Plan),
        2 => Just(Event::Enqueue),
        2 => Just(Event::Start),
        2 => (0..5_usize).prop_map(Event::Select),
        8 => (0..6_usize).prop_map(Event::Begin),
        6 => (0..6_usize).prop_map(Event::Succeed),
        6 => (0..6_usize).prop_map(Event::Fail),
        1 => Just(Event::CloseWindow),
        1 => Just(Event::FailJob),
        1 => prop_oneof![Just(CancelRunning::Refused), Just(CancelRunning::Stops)].prop_map(Event::Cancel),
    ]
}

/// The rules once more, without sharing anything with the implementation: a
/// device is a letter of `PRSFC`, the job a word.
struct Model {
    job: &'static str,
    devices: Option<String>,
}

impl Model {
    fn apply(&mut self, event: &Event) {
        let over = ["completed", "failed", "cancelled"].contains(&self.job);
        match event {
            Event::Plan if self.job == "queued" => self.job = "scheduled",
            Event::Enqueue if ["queued", "scheduled"].contains(&self.job) => self.job = "enqueued",
            Event::Start if self.job == "enqueued" => self.job = "running",
            Event::Select(count) if self.job == "running" && self.devices.is_none() => {
                self.devices = Some("P".repeat(*count));
            }
            Event::Begin(n) if !over => self.replace(*n, "P", 'R'),
            Event::Succeed(n) if !over => self.replace(*n, "PR", 'S'),
            Event::Fail(n) if !over => self.replace(*n, "PR", 'F'),
            Event::CloseWindow if self.job == "running" => match &mut self.devices {
                Some(devices) => *devices = devices.replace(['P', 'R'], "F"),
                None => self.job = "failed",
            },
            Event::FailJob if !over => self.stop("failed", "F"),
            Event::Cancel(rule) if !over && (self.job != "running" || *rule == CancelRunning::Stops) => {
                self.stop("cancelled", "C");
            }
            _ => {}
        }
        if let (Some(devices), "running") = (&self.devices, self.job)
            && !devices.contains(['P', 'R'])
        {
            let all_failed = !devices.is_empty() && !devices.contains('S');
            self.job = if all_failed { "failed" } else { "completed" };
        }
    }

    fn stop(&mut self, job: &'static str, letter: &str) {
        self.job = job;
        self.devices = self.devices.take().map(|d| d.replace(['P', 'R'], letter));
    }

    fn replace(&mut self, number: usize, from: &str, to: char) {
        if let Some(devices) = &mut self.devices {
            *devices = devices
                .chars()
                .enumerate()
                .map(|(n, c)| if n == number && from.contains(c) { to } else { c })
                .collect();
        }
    }

    fn count(&self, letters: &str) -> usize {
        self.devices
            .iter()
            .flat_map(|d| d.chars())
            .filter(|c| letters.contains(*c))
            .count()
    }
}

proptest! {
    #[test]
    fn any_history_agrees_with_the_model(events in prop::collection::vec(arb_event(), 0..60)) {
        let mut job = queued(PartialFailure::FailsWhenAllFailed);
        let mut model = Model { job: "queued", devices: None };
        for (second, event) in events.iter().enumerate() {
            let now = at(second as i64);
            let before = (job.status().is_final(), job.view(), job.records().to_vec());
            match event {
                Event::Plan => job.plan(),
                Event::Enqueue => job.enqueue(),
                Event::Start => {
                    job.start(now);
                }
                Event::Select(count) => { job.select(targets(*count), now); }
                Event::Begin(n) => { job.begin(*n, now); }
                Event::Succeed(n) => job.settle(*n, answered(200), now),
                Event::Fail(n) => job.settle(*n, offline(), now),
                Event::CloseWindow => job.close_window(now),
                Event::FailJob => job.fail("reason", now),
                Event::Cancel(rule) => { let _ = job.cancel(*rule, now); }
            }
            model.apply(event);
            prop_assert_eq!(job.status().name(), model.job, "after {:?}", event);
            let s = job.statistics();
            prop_assert_eq!(
                s.failed_count + s.succeeded_count + s.running_count + s.pending_count,
                s.device_count
            );
            prop_assert_eq!(s.device_count, model.count("PRSFC"));
            prop_assert_eq!(
                (s.pending_count, s.running_count, s.succeeded_count, s.failed_count),
                (model.count("P"), model.count("R"), model.count("S"), model.count("FC"))
            );
            if before.0 {
                prop_assert_eq!(&before.1, &job.view());
                prop_assert_eq!(&before.2, &job.records());
            }
        }
    }
}

#[test]
fn changes_of_records_are_told_once() {
    let mut job = running(PartialFailure::default(), 3);
    let taken = |job: &mut Job| {
        let mut taken = Vec::new();
        job.take_changed(|view| taken.push((view.record.target.to_string(), view.record.state.name())));
        taken
    };
    let names: Vec<String> = job
        .records()
        .iter()
        .map(|record| record.target.to_string())
        .collect();
    assert_eq!(taken(&mut job), []);
    job.begin(1, at(2));
    job.begin(1, at(2));
    assert_eq!(taken(&mut job), [(names[1].clone(), "running")]);
    job.settle(1, answered(200), at(3));
    job.settle(1, answered(200), at(3));
    job.close_window(at(4));
    assert_eq!(
        taken(&mut job),
        [
            (names[1].clone(), "completed"),
            (names[0].clone(), "failed"),
            (names[2].clone(), "failed")
        ]
    );
    assert_eq!(taken(&mut job), []);
}
