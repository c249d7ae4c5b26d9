//! Jobs at the pace of a tier, on a clock that stands still.

use super::*;
use hub_core::tier::{Sku, Tier};

fn bench(fleet: Arc<FakeFleet>, sku: Sku, units: u32) -> Bench {
    let limits = Tier::new(sku, units).unwrap().jobs().unwrap();
    Bench::with(fleet, EngineSettings::default().within(limits))
}

fn slow_job(name: &str) -> JobRequest {
    job(name, &json!({"maxExecutionTimeInSeconds": 3600}))
}

#[tokio::test]
async fn ten_thousand_devices_take_a_thousand_seconds_of_the_clock() {
    let bench = bench(FakeFleet::many(10_000), Sku::S1, 1);
    bench.engine.create(slow_job("j")).unwrap();
    let done = |count| move |p: &Progress| p.statistics.succeeded_count == count;
    let first = bench.until("j", done(1)).await;
    assert_eq!(first.statistics.pending_count, 9_999);
    bench.clock.advance(Duration::from_secs(1));
    bench.until("j", done(11)).await;
    bench.clock.advance(Duration::from_millis(99));
    bench.clock.advance(Duration::from_millis(1));
    bench.until("j", done(12)).await;
    bench.clock.advance(Duration::from_millis(998_700));
    let nearly = bench.until("j", done(9_999)).await;
    assert_eq!(nearly.status, JobStatus::Running);
    assert_eq!(nearly.statistics.pending_count, 1);
    bench.clock.advance(Duration::from_millis(100));
    let view = bench.until_over("j").await;
    assert_eq!(view.status, JobStatus::Completed);
    let took = view.ended.unwrap().saturating_since(start());
    assert_eq!(took, Duration::from_millis(999_900));
}

#[tokio::test]
async fn a_jump_over_everything_is_as_good() {
    let bench = bench(FakeFleet::many(10_000), Sku::S1, 1);
    bench.engine.create(slow_job("j")).unwrap();
    bench.until("j", |p| p.statistics.succeeded_count == 1).await;
    bench.clock.advance(Duration::from_secs(1_000));
    let view = bench.until_over("j").await;
    assert_eq!(view.statistics.unwrap().succeeded_count, 10_000);
}

/// A twin that changes late is as it would have been in time; the answer of a
/// device comes too late, so it is not even asked.
#[tokio::test]
async fn the_window_closes_over_devices_whose_turn_never_came() {
    let twin = json!({"type": "scheduleUpdateTwin", "updateTwin": {"etag": "*", "tags": {"seen": true}}});
    let twin_job = |name| job(name, &twin);
    for (request, steps, done) in [
        (twin_job("j"), &[60][..], 601),
        (twin_job("j"), &[1_000], 601),
        (method_job("j"), &[59, 1], 591),
        (method_job("j"), &[59, 941], 591),
        (method_job("j"), &[1_000], 1),
    ] {
        let bench = bench(FakeFleet::many(10_000), Sku::S1, 1);
        bench.engine.create(request).unwrap();
        let mut statistics = bench
            .until("j", |p| p.statistics.succeeded_count == 1)
            .await
            .statistics;
        for step in steps {
            bench.clock.advance(Duration::from_secs(*step));
            let at_least = statistics.succeeded_count + 1;
            statistics = bench
                .until("j", |p| {
                    p.statistics.succeeded_count >= at_least || p.status.is_final()
                })
                .await
                .statistics;
            while bench.status("j") == JobStatus::Running && statistics.succeeded_count < 591 {
                tokio::task::yield_now().await;
                statistics = bench.engine.get(&id("j")).unwrap().statistics.unwrap();
            }
        }
        let statistics = bench.until_over("j").await.statistics.unwrap();
        assert_eq!(
            (statistics.succeeded_count, statistics.failed_count),
            (done, 10_000 - done),
            "steps of {steps:?} s"
        );
    }
}

/// A job that starts after a jump takes nothing from those that waited for it.
#[tokio::test]
async fn slots_belong_to_all_who_waited_for_them() {
    let bench = bench(FakeFleet::many(1_000), Sku::S2, 1);
    let later = start().saturating_add(Duration::from_secs(250));
    let late = json!({"maxExecutionTimeInSeconds": 3600, "startTime": later});
    for request in [slow_job("a"), slow_job("b"), job("c", &late)] {
        bench.engine.create(request).unwrap();
    }
    for name in ["a", "b"] {
        bench.until_status(name, JobStatus::Running).await;
    }
    bench.until("a", |p| p.statistics.succeeded_count == 1).await;
    bench.clock.advance(Duration::from_secs(250));
    // Of the 2,501 slots that have come, 2,000 were theirs. The third waits since
    // now only, so it has the one that comes at this moment.
    for name in ["a", "b"] {
        bench.until_status(name, JobStatus::Completed).await;
    }
    bench.until("c", |p| p.statistics.succeeded_count == 1).await;
}

#[tokio::test]
async fn jobs_share_the_pace_and_wait_for_a_place() {
    let bench = bench(FakeFleet::many(1_000), Sku::S2, 1);
    for n in 0..5 {
        bench.engine.create(slow_job(&format!("j{n}"))).unwrap();
    }
    let second = Duration::from_secs(1);
    let soon = json!({"maxExecutionTimeInSeconds": 3600, "startTime": start().saturating_add(second)});
    // Five run, so what is due at once is refused and what is due later waits.
    let refused = bench.engine.create(slow_job("now")).unwrap_err();
    assert_eq!(refused.code, ErrorCode::ThrottlingMaxActiveJobCountExceeded);
    assert_eq!(refused.message, "as many jobs are active as may be: 5");
    bench.engine.create(job("j5", &soon)).unwrap();
    bench.clock.advance(second);
    bench.until_status("j5", JobStatus::Enqueued).await;
    let refused = bench.engine.create(slow_job("now")).unwrap_err();
    assert_eq!(refused.code, ErrorCode::ThrottlingMaxActiveJobCountExceeded);
    bench.until("j0", |p| p.statistics.succeeded_count == 1).await;
    // Every one of the five that run has its turn.
    for _ in 0..20 {
        bench.clock.advance(Duration::from_millis(100));
        tokio::task::yield_now().await;
    }
    for n in 0..5 {
        bench
            .until(&format!("j{n}"), |p| p.statistics.succeeded_count >= 3)
            .await;
    }
    assert_eq!(bench.status("j5"), JobStatus::Enqueued);
    bench.clock.advance(Duration::from_secs(500));
    for n in 0..5 {
        bench.until_status(&format!("j{n}"), JobStatus::Completed).await;
    }
    bench.until_status("j5", JobStatus::Running).await;
    bench.clock.advance(Duration::from_secs(100));
    bench.until_status("j5", JobStatus::Completed).await;
    bench.engine.create(slow_job("now")).unwrap();
    bench.until("now", |p| p.statistics.succeeded_count == 1).await;
    bench.clock.advance(Duration::from_secs(100));
    bench.until_status("now", JobStatus::Completed).await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_changes_no_pace() {
    let bench = bench(FakeFleet::many(100), Sku::S1, 1);
    bench.clock.advance(WEEK);
    bench.engine.create(slow_job("j")).unwrap();
    bench.until("j", |p| p.statistics.succeeded_count == 1).await;
    bench.clock.advance(Duration::from_millis(50));
    bench.clock.reset();
    bench.clock.advance(Duration::from_millis(50));
    bench.until("j", |p| p.statistics.succeeded_count == 2).await;
    bench.clock.advance(Duration::from_secs(10));
    bench.until_status("j", JobStatus::Completed).await;
}

#[tokio::test]
async fn a_paced_job_can_be_stopped_at_any_time() {
    let limits = Tier::new(Sku::S1, 1).unwrap().jobs().unwrap();
    let settings = EngineSettings {
        cancel_running: CancelRunning::Stops,
        ..EngineSettings::default().within(limits)
    };
    let bench = Bench::with(FakeFleet::many(100), settings);
    bench.engine.create(slow_job("j")).unwrap();
    bench.until("j", |p| p.statistics.succeeded_count == 1).await;
    bench.engine.cancel(&id("j")).unwrap();
    // The next one has the place and the pace.
    bench.engine.create(slow_job("k")).unwrap();
    bench.clock.advance(Duration::from_secs(10));
    bench.until_status("k", JobStatus::Running).await;
    bench.clock.advance(Duration::from_secs(10));
    bench.until_status("k", JobStatus::Completed).await;
    assert_eq!(
        bench
            .engine
            .get(&id("j"))
            .unwrap()
            .statistics
            .unwrap()
            .failed_count,
        99
    );
}
