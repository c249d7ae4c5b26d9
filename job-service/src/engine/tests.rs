//! The engine over a fleet in memory and a clock that stands still.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use hub_core::ids::DeviceId;
use hub_core::job::{JobStatus, RecordState, TwinUpdate};
use hub_core::json::JsonText;
use hub_core::method::{self, MethodCall, MethodResponse};
use hub_core::time::Timestamp;
use serde_json::{Value, json};

use super::*;

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// A device's first letter says how it behaves: `a`nswers, is `o`ffline, stays
/// `s`ilent, `g`ives its answer when the gate opens, or `c`rashes the fleet.
struct FakeFleet {
    devices: Mutex<Vec<Target>>,
    gate: watch::Sender<bool>,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
    patches: Mutex<Vec<(Target, Value)>>,
}

impl FakeFleet {
    fn of(devices: &[&str]) -> Arc<Self> {
        Arc::new(Self {
            devices: Mutex::new(devices.iter().map(|id| target(id)).collect()),
            gate: watch::Sender::new(false),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
            patches: Mutex::default(),
        })
    }

    fn many(count: usize) -> Arc<Self> {
        let fleet = Self::of(&[]);
        *fleet.devices.lock().unwrap() = (0..count).map(|n| target(&format!("a{n:06}"))).collect();
        fleet
    }
}

impl Fleet for FakeFleet {
    async fn query(&self, condition: &str) -> Result<Vec<Target>, ServiceError> {
        match condition {
            "*" => Ok(self.devices.lock().unwrap().clone()),
            "never" => pending().await,
            _ => Err(ServiceError::invalid("SQL query parse failed")),
        }
    }

    async fn update_twin(&self, target: &Target, update: &TwinUpdate) -> Result<(), ServiceError> {
        self.patches
            .lock()
            .unwrap()
            .push((target.clone(), (*update.body).clone()));
        Ok(())
    }

    async fn invoke_method(
        &self,
        target: &Target,
        call: &MethodCall,
    ) -> Result<MethodResponse, ServiceError> {
        let now = self.in_flight.fetch_add(1, SeqCst) + 1;
        self.most_in_flight.fetch_max(now, SeqCst);
        match &target.device.as_str()[..1] {
            "o" => {
                self.in_flight.fetch_sub(1, SeqCst);
                return Err(method::not_online(call.connect_timeout));
            }
            "s" => pending().await,
            "g" => {
                self.gate.subscribe().wait_for(|open| *open).await.unwrap();
            }
            "c" => panic!("as ordered by the test"),
            _ => {}
        }
        self.in_flight.fetch_sub(1, SeqCst);
        Ok(MethodResponse {
            status: 200,
            payload: JsonText::NULL,
        })
    }
}

fn target(id: &str) -> Target {
    DeviceId::parse(id).unwrap().into()
}

fn start() -> Timestamp {
    Timestamp::from_unix_seconds(1_767_322_000)
}

fn id(text: &str) -> JobId {
    JobId::parse(text).unwrap()
}

/// A method job over everything, due at once, with a window of a minute.
fn method_job(id: &str) -> JobRequest {
    job(id, json!({}))
}

fn job(id: &str, members: Value) -> JobRequest {
    let mut body = json!({"type":"scheduleDeviceMethod","queryCondition":"*",
        "maxExecutionTimeInSeconds":60,"cloudToDeviceMethod":{"methodName":"lockDoor"}});
    body.as_object_mut()
        .unwrap()
        .extend(members.as_object().unwrap().clone());
    JobRequest::from_json(id, &body, start()).unwrap()
}

fn in_a_week(id: &str) -> JobRequest {
    job(id, json!({"startTime": start().saturating_add(WEEK)}))
}

struct Bench {
    fleet: Arc<FakeFleet>,
    clock: Clock,
    engine: JobEngine<FakeFleet>,
}

impl Bench {
    fn new(fleet: Arc<FakeFleet>) -> Self {
        Self::with(fleet, EngineSettings::default())
    }

    fn with(fleet: Arc<FakeFleet>, settings: EngineSettings) -> Self {
        let clock = Clock::manual(start());
        let engine = JobEngine::new(fleet.clone(), clock.clone(), settings);
        Self { fleet, clock, engine }
    }

    async fn until(&self, job: &str, reached: impl FnMut(&Progress) -> bool) -> Progress {
        let mut progress = self.engine.watch(&id(job)).unwrap();
        let wait = progress.wait_for(reached);
        *tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .expect("in time")
            .unwrap()
    }

    async fn until_status(&self, job: &str, status: JobStatus) -> JobView {
        self.until(job, |p| p.status == status).await;
        self.engine.get(&id(job)).unwrap()
    }

    async fn until_over(&self, job: &str) -> JobView {
        self.until(job, |p| p.status.is_final()).await;
        self.engine.get(&id(job)).unwrap()
    }

    fn status(&self, job: &str) -> JobStatus {
        self.engine.get(&id(job)).unwrap().status
    }

    /// Device id to wire status and error code, for one job.
    fn records(&self, job: &str) -> BTreeMap<String, String> {
        let mut records = BTreeMap::new();
        self.engine.for_each_record(Some(&id(job)), None, |view| {
            let text = match &view.record.state {
                RecordState::Failed(error) => error.code.name(),
                state => state.name(),
            };
            records.insert(view.record.target.to_string(), text.to_owned());
            ControlFlow::Continue(())
        });
        records
    }
}

#[tokio::test]
async fn a_job_without_start_time_runs_at_once() {
    let bench = Bench::new(FakeFleet::of(&["a1", "a2", "o1"]));
    let created = bench.engine.create(method_job("j")).unwrap();
    assert_eq!(
        serde_json::to_value(created).unwrap(),
        json!({"jobId":"j","type":"scheduleDeviceMethod","status":"queued"})
    );
    let view = bench.until_over("j").await;
    assert_eq!(
        view.status,
        JobStatus::Completed,
        "single failures do not fail the job"
    );
    let statistics = view.statistics.unwrap();
    assert_eq!((statistics.succeeded_count, statistics.failed_count), (2, 1));
    let expected = [
        ("a1", "completed"),
        ("a2", "completed"),
        ("o1", "DeviceNotOnline"),
    ];
    assert_eq!(
        bench.records("j"),
        expected.map(|(k, v)| (k.into(), v.into())).into()
    );
}

#[tokio::test]
async fn a_twin_job_reaches_every_device() {
    let bench = Bench::new(FakeFleet::of(&["a1", "o1"]));
    let body = json!({"type":"scheduleUpdateTwin","queryCondition":"*",
        "updateTwin":{"etag":"*","properties":{"desired":{"building":43,"floor":3}}}});
    bench
        .engine
        .create(JobRequest::from_json("t", &body, start()).unwrap())
        .unwrap();
    assert_eq!(bench.until_over("t").await.statistics.unwrap().succeeded_count, 2);
    let patches = bench.fleet.patches.lock().unwrap();
    assert_eq!(patches.len(), 2);
    assert_eq!(
        patches[0].1,
        json!({"properties":{"desired":{"building":43,"floor":3}}})
    );
}

#[tokio::test]
async fn a_job_for_next_week_needs_a_call_not_a_week() {
    let bench = Bench::new(FakeFleet::of(&["a1"]));
    bench.engine.create(in_a_week("j")).unwrap();
    bench.until_status("j", JobStatus::Scheduled).await;
    bench.clock.advance(WEEK - Duration::from_secs(1));
    // Devices that turn up before the start belong to the job.
    bench.fleet.devices.lock().unwrap().push(target("a2"));
    assert_eq!(bench.status("j"), JobStatus::Scheduled);
    bench.clock.advance(Duration::from_secs(1));
    let view = bench.until_over("j").await;
    assert_eq!(view.statistics.unwrap().device_count, 2);
    assert_eq!(view.ended, Some(start().saturating_add(WEEK)));
}

#[tokio::test]
async fn jobs_start_in_the_order_of_their_times() {
    let settings = EngineSettings {
        running_jobs: 1,
        ..EngineSettings::default()
    };
    let bench = Bench::with(FakeFleet::of(&["g1"]), settings);
    for (name, seconds) in [("late", 30), ("early", 10), ("middle", 20)] {
        let time = start().saturating_add(Duration::from_secs(seconds));
        bench
            .engine
            .create(job(name, json!({"startTime": time})))
            .unwrap();
    }
    bench.clock.advance(Duration::from_secs(30));
    bench.until_status("early", JobStatus::Running).await;
    bench.until_status("middle", JobStatus::Enqueued).await;
    bench.until_status("late", JobStatus::Enqueued).await;
    bench.engine.cancel(&id("middle")).unwrap();
    bench.fleet.gate.send_replace(true);
    bench.until_status("early", JobStatus::Completed).await;
    bench.until_status("late", JobStatus::Completed).await;
    assert_eq!(bench.status("middle"), JobStatus::Cancelled);
}

#[tokio::test]
async fn the_window_ends_what_is_unfinished() {
    let settings = EngineSettings {
        fan_out: 2,
        ..EngineSettings::default()
    };
    let bench = Bench::with(FakeFleet::of(&["a1", "s1", "s2", "s3"]), settings);
    bench.engine.create(method_job("j")).unwrap();
    let progress = bench.until("j", |p| p.statistics.succeeded_count == 1).await;
    assert_eq!(progress.status, JobStatus::Running);
    bench.until("j", |p| p.statistics.running_count == 2).await;
    bench.clock.advance(Duration::from_secs(59));
    assert_eq!(bench.status("j"), JobStatus::Running);
    bench.clock.advance(Duration::from_secs(1));
    let view = bench.until_over("j").await;
    assert_eq!(view.status, JobStatus::Completed);
    assert_eq!(view.statistics.unwrap().failed_count, 3);
    let records = bench.records("j");
    assert_eq!(records["a1"], "completed");
    assert_eq!(records["s3"], "JobTimedOut", "pending devices count as well");
}

#[tokio::test]
async fn a_window_closes_over_a_query_that_does_not_answer() {
    let bench = Bench::new(FakeFleet::of(&[]));
    bench
        .engine
        .create(job("j", json!({"queryCondition":"never"})))
        .unwrap();
    bench.until_status("j", JobStatus::Running).await;
    bench.clock.advance(Duration::from_secs(60));
    bench.until_status("j", JobStatus::Failed).await;
}

#[tokio::test]
async fn a_job_fails_with_a_bad_condition_or_when_every_device_failed() {
    let bench = Bench::new(FakeFleet::of(&["o1", "o2"]));
    bench
        .engine
        .create(job("bad", json!({"queryCondition":"SELECT"})))
        .unwrap();
    let view = bench.until_over("bad").await;
    assert_eq!(view.status, JobStatus::Failed);
    assert_eq!(view.failure_reason.as_deref(), Some("SQL query parse failed"));
    bench.engine.create(method_job("all")).unwrap();
    let view = bench.until_over("all").await;
    assert_eq!(view.status, JobStatus::Failed);
    assert!(
        view.failure_reason
            .unwrap()
            .starts_with("2 of 2 devices failed; the first is o1")
    );
}

#[tokio::test]
async fn a_job_over_no_devices_completes() {
    let bench = Bench::new(FakeFleet::of(&[]));
    bench.engine.create(method_job("j")).unwrap();
    let view = bench.until_over("j").await;
    assert_eq!(view.status, JobStatus::Completed);
    assert_eq!(view.statistics.unwrap().device_count, 0);
}

#[tokio::test]
async fn a_crash_of_the_fleet_ends_the_job_and_nothing_else() {
    let bench = Bench::new(FakeFleet::of(&["c1"]));
    bench.engine.create(method_job("j")).unwrap();
    bench.until_status("j", JobStatus::Failed).await;
    *bench.fleet.devices.lock().unwrap() = vec![target("a1")];
    bench.engine.create(method_job("k")).unwrap();
    bench.until_status("k", JobStatus::Completed).await;
}

#[tokio::test]
async fn ids_are_used_once_and_active_jobs_are_bounded() {
    let settings = EngineSettings {
        active_jobs: 2,
        ..EngineSettings::default()
    };
    let bench = Bench::with(FakeFleet::of(&["a1"]), settings);
    let code = |request| bench.engine.create(request).unwrap_err().code;
    bench.engine.create(in_a_week("x")).unwrap();
    assert_eq!(code(in_a_week("x")), ErrorCode::JobAlreadyExists);
    bench.engine.create(in_a_week("y")).unwrap();
    assert_eq!(
        code(in_a_week("z")),
        ErrorCode::ThrottlingMaxActiveJobCountExceeded
    );
    bench.engine.cancel(&id("x")).unwrap();
    assert_eq!(
        code(in_a_week("x")),
        ErrorCode::JobAlreadyExists,
        "an ended job keeps its id"
    );
    bench.engine.create(in_a_week("z")).unwrap();
}

#[tokio::test]
async fn cancelling_depends_on_the_state() {
    let bench = Bench::new(FakeFleet::of(&["g1"]));
    let cancel = |name: &str| bench.engine.cancel(&id(name));
    assert_eq!(cancel("nope").unwrap_err().code, ErrorCode::JobNotFound);
    bench.engine.create(in_a_week("queued")).unwrap();
    assert_eq!(bench.status("queued"), JobStatus::Queued);
    assert_eq!(cancel("queued").unwrap().status, JobStatus::Cancelled);
    bench.engine.create(in_a_week("scheduled")).unwrap();
    bench.until_status("scheduled", JobStatus::Scheduled).await;
    let view = serde_json::to_value(cancel("scheduled").unwrap()).unwrap();
    assert_eq!(view["status"], "cancelled");
    assert_eq!(view["type"], "scheduleDeviceMethod");
    bench.clock.advance(WEEK);
    bench.engine.create(method_job("running")).unwrap();
    bench.until("running", |p| p.statistics.running_count == 1).await;
    let refused = ErrorCode::JobRunPreconditionFailed;
    assert_eq!(cancel("running").unwrap_err().code, refused);
    bench.fleet.gate.send_replace(true);
    bench.until_over("running").await;
    assert_eq!(cancel("running").unwrap_err().code, refused);
    assert_eq!(cancel("queued").unwrap_err().code, refused);
    assert_eq!(bench.status("scheduled"), JobStatus::Cancelled);
}

#[tokio::test]
async fn a_running_job_can_be_stopped_where_that_is_allowed() {
    let settings = EngineSettings {
        cancel_running: CancelRunning::Stops,
        ..EngineSettings::default()
    };
    let bench = Bench::with(FakeFleet::of(&["a1", "s1"]), settings);
    bench.engine.create(method_job("j")).unwrap();
    bench.until("j", |p| p.statistics.succeeded_count == 1).await;
    assert_eq!(
        bench.engine.cancel(&id("j")).unwrap().status,
        JobStatus::Cancelled
    );
    let expected = [("a1", "completed"), ("s1", "canceled")];
    assert_eq!(
        bench.records("j"),
        expected.map(|(k, v)| (k.into(), v.into())).into()
    );
}

#[tokio::test]
async fn fan_out_is_bounded_and_progress_is_visible_during_the_run() {
    let settings = EngineSettings {
        fan_out: 10,
        ..EngineSettings::default()
    };
    let names: Vec<String> = (0..100).map(|n| format!("g{n:03}")).collect();
    let bench = Bench::with(
        FakeFleet::of(&names.iter().map(String::as_str).collect::<Vec<_>>()),
        settings,
    );
    bench.engine.create(method_job("j")).unwrap();
    let progress = bench.until("j", |p| p.statistics.running_count == 10).await;
    assert_eq!(progress.statistics.pending_count, 90);
    let view = serde_json::to_value(bench.engine.get(&id("j")).unwrap()).unwrap();
    assert_eq!(view["deviceJobStatistics"]["runningCount"], 10);
    bench.fleet.gate.send_replace(true);
    bench.until_over("j").await;
    assert_eq!(bench.fleet.most_in_flight.load(SeqCst), 10);
}

#[tokio::test]
async fn thousands_of_jobs_may_wait() {
    let bench = Bench::new(FakeFleet::of(&["a1"]));
    for n in 0..5_000 {
        let time = start().saturating_add(Duration::from_secs(n));
        bench
            .engine
            .create(job(&format!("j{n:04}"), json!({"startTime": time})))
            .unwrap();
    }
    bench.clock.advance(Duration::from_secs(5_000));
    for n in 0..5_000 {
        let view = bench.until_over(&format!("j{n:04}")).await;
        assert_eq!(view.status, JobStatus::Completed);
    }
}

#[tokio::test]
async fn a_listing_goes_from_the_newest_back_page_by_page() {
    let bench = Bench::new(FakeFleet::of(&["a1"]));
    for n in 0..5 {
        bench.engine.create(in_a_week(&format!("j{n}"))).unwrap();
    }
    bench.engine.cancel(&id("j3")).unwrap();
    let all = JobFilter::default();
    let names = |page: &JobPage| {
        page.jobs
            .iter()
            .map(|job| job.request.id.to_string())
            .collect::<Vec<_>>()
    };
    let first = bench.engine.list(&all, None, 3);
    assert_eq!(names(&first), ["j4", "j3", "j2"]);
    let second = bench.engine.list(&all, first.next, 3);
    assert_eq!(names(&second), ["j1", "j0"]);
    assert_eq!(second.next, None);
    assert_eq!(
        bench.engine.list(&all, None, 5).next,
        None,
        "a full last page has no successor"
    );
    let cancelled = JobFilter::parse(None, Some("Cancelled")).unwrap();
    let page = bench.engine.list(&cancelled, None, 1);
    assert_eq!((names(&page), page.next), (vec!["j3".to_owned()], None));
}

#[tokio::test]
async fn records_can_be_read_in_pages_of_any_size() {
    let bench = Bench::new(FakeFleet::of(&["a1", "a2", "a3"]));
    for name in ["j2", "j1", "j3"] {
        bench.engine.create(method_job(name)).unwrap();
        bench.until_over(name).await;
    }
    let page = |job: Option<&JobId>, after: Option<&RecordKey>, size: usize| {
        let mut keys = Vec::new();
        bench.engine.for_each_record(job, after, |view| {
            keys.push(RecordKey::of(view));
            if keys.len() == size {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        keys
    };
    let whole = page(None, None, usize::MAX);
    assert_eq!(whole.len(), 9);
    assert!(whole.is_sorted());
    for size in 1..=9 {
        let mut read = Vec::new();
        loop {
            let next = page(None, read.last(), size);
            let over = next.is_empty();
            read.extend(next);
            if over {
                break;
            }
        }
        assert_eq!(read, whole, "pages of {size}");
    }
    let job = id("j2");
    assert_eq!(page(Some(&job), None, 9), whole[3..6]);
    assert_eq!(page(Some(&job), Some(&whole[3]), 9), whole[4..6]);
    assert_eq!(page(Some(&job), Some(&whole[0]), 9), whole[3..6]);
    assert!(page(Some(&job), Some(&whole[8]), 9).is_empty());
    assert!(page(Some(&id("nope")), None, 9).is_empty());
}

#[tokio::test]
async fn old_jobs_are_forgotten_by_age_and_by_number() {
    let settings = EngineSettings {
        records: 10,
        ..EngineSettings::default()
    };
    let bench = Bench::with(FakeFleet::of(&["a1", "a2", "a3"]), settings);
    for name in ["j1", "j2", "j3"] {
        bench.engine.create(method_job(name)).unwrap();
        bench.until_over(name).await;
        bench.clock.advance(Duration::from_secs(1));
    }
    assert!(
        bench.engine.get(&id("j1")).is_none(),
        "three jobs of weight four exceed ten"
    );
    assert!(bench.engine.get(&id("j2")).is_some());
    // Expiry wakes the scheduler by itself.
    let forgotten = bench.engine.watch(&id("j3")).unwrap();
    bench.clock.advance(limits::JOB_RETENTION);
    closed(forgotten).await;
    assert!(bench.engine.get(&id("j3")).is_none());
    bench.engine.create(method_job("j1")).unwrap();
}

async fn closed(mut progress: watch::Receiver<Progress>) {
    let wait = async { while progress.changed().await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect("forgotten in time");
}

#[tokio::test]
async fn a_job_over_more_devices_than_there_is_room_for_fails() {
    let settings = EngineSettings {
        records: 10,
        ..EngineSettings::default()
    };
    let bench = Bench::with(FakeFleet::many(11), settings);
    bench.engine.create(method_job("j")).unwrap();
    let view = bench.until_over("j").await;
    assert_eq!(view.status, JobStatus::Failed);
    assert_eq!(
        view.failure_reason.as_deref(),
        Some("there is no room for the records of 11 devices")
    );
}

#[tokio::test]
async fn reset_forgets_everything_and_the_engine_goes_on() {
    let bench = Bench::new(FakeFleet::of(&["s1"]));
    bench.engine.create(method_job("running")).unwrap();
    bench.engine.create(in_a_week("waiting")).unwrap();
    bench.until("running", |p| p.statistics.running_count == 1).await;
    let progress = bench.engine.watch(&id("running")).unwrap();
    bench.engine.reset();
    assert!(bench.engine.list(&JobFilter::default(), None, 10).jobs.is_empty());
    // The runner lets go of its job.
    closed(progress).await;
    *bench.fleet.devices.lock().unwrap() = vec![target("a1")];
    bench.engine.create(method_job("running")).unwrap();
    bench.until_status("running", JobStatus::Completed).await;
}

#[tokio::test]
async fn shutdown_is_prompt_and_keeps_what_was_recorded() {
    let bench = Bench::new(FakeFleet::of(&["a1", "s1"]));
    bench.engine.create(method_job("j")).unwrap();
    bench.until("j", |p| p.statistics.succeeded_count == 1).await;
    tokio::join!(bench.engine.shutdown(), bench.engine.shutdown());
    let expected = [("a1", "completed"), ("s1", "running")];
    assert_eq!(
        bench.records("j"),
        expected.map(|(k, v)| (k.into(), v.into())).into()
    );
    assert_eq!(Arc::strong_count(&bench.fleet), 2, "no task is left");
    let error = bench.engine.create(method_job("k")).unwrap_err();
    assert_eq!(error.code, ErrorCode::ServiceUnavailable);
}

#[tokio::test]
async fn the_last_handle_ends_the_tasks() {
    let bench = Bench::new(FakeFleet::of(&["s1"]));
    bench.engine.create(method_job("j")).unwrap();
    bench.until("j", |p| p.statistics.running_count == 1).await;
    let Bench { fleet, engine, .. } = bench;
    let progress = engine.watch(&id("j")).unwrap();
    drop(engine);
    closed(progress).await;
    // The scheduler goes right after its runners.
    while Arc::strong_count(&fleet) > 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_devices_take_milliseconds() {
    let bench = Bench::new(FakeFleet::many(10_000));
    let begin = Instant::now();
    bench.engine.create(method_job("j")).unwrap();
    let view = bench.until_over("j").await;
    let took = begin.elapsed();
    assert_eq!(view.statistics.unwrap().succeeded_count, 10_000);
    println!("10,000 devices: {took:?}");
    // Far above what it takes, to hold on a busy machine and unoptimised.
    assert!(took < Duration::from_secs(2), "{took:?}");
}
