//! Jobs on their way: start, devices, window, cancelling.

use std::time::Instant;

use super::*;

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
            .create(job(name, &json!({"startTime": time})))
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
        .create(job("j", &json!({"queryCondition":"never"})))
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
        .create(job("bad", &json!({"queryCondition":"SELECT"})))
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
async fn thousands_of_jobs_wait_without_a_task_and_run_in_order() {
    const JOBS: u64 = 5_000;
    let settings = EngineSettings {
        running_jobs: 1,
        ..EngineSettings::default()
    };
    let bench = Bench::with(FakeFleet::of(&["a1"]), settings);
    for n in 0..JOBS {
        // Created in an order that is not that of their times.
        let seconds = n * 1_237 % JOBS + 1;
        let body = json!({"type": "scheduleUpdateTwin", "queryCondition": "*",
            "updateTwin": {"etag": "*", "tags": {"start": seconds}},
            "startTime": start().saturating_add(Duration::from_secs(seconds))});
        let request = JobRequest::from_json(&format!("j{seconds:04}"), &body, start()).unwrap();
        bench.engine.create(request).unwrap();
    }
    bench.until_status("j5000", JobStatus::Scheduled).await;
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks, 1, "the scheduler and nobody else");
    let started = |count: u64| {
        let patches = bench.fleet.patches.lock().unwrap();
        let starts: Vec<u64> = patches
            .iter()
            .map(|p| p.1["tags"]["start"].as_u64().unwrap())
            .collect();
        assert_eq!(starts, (1..=count).collect::<Vec<_>>());
    };
    for (seconds, last) in [(1, 1), (99, 100), (0, 100), (JOBS, JOBS)] {
        bench.clock.advance(Duration::from_secs(seconds));
        bench.until_over(&format!("j{last:04}")).await;
        started(last);
    }
}

#[tokio::test]
async fn a_clock_that_is_set_back_leaves_the_window_as_long_as_it_was() {
    let bench = Bench::new(FakeFleet::of(&["s1"]));
    bench.clock.advance(WEEK);
    bench.engine.create(method_job("j")).unwrap();
    bench.until("j", |p| p.statistics.running_count == 1).await;
    bench.clock.advance(Duration::from_secs(30));
    bench.clock.reset();
    bench.clock.advance(Duration::from_secs(29));
    assert_eq!(bench.status("j"), JobStatus::Running);
    bench.clock.advance(Duration::from_secs(1));
    bench.until_over("j").await;
    assert_eq!(bench.records("j")["s1"], "JobTimedOut");
}

#[tokio::test]
async fn a_job_that_waits_follows_the_time_of_day_in_both_directions() {
    let bench = Bench::new(FakeFleet::of(&["a1"]));
    bench.engine.create(in_a_week("j")).unwrap();
    bench.clock.advance(WEEK - Duration::from_secs(1));
    bench.until_status("j", JobStatus::Scheduled).await;
    bench.clock.reset();
    bench.clock.advance(WEEK - Duration::from_secs(1));
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.status("j"), JobStatus::Scheduled);
    bench.clock.advance(Duration::from_secs(1));
    bench.until_status("j", JobStatus::Completed).await;
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
