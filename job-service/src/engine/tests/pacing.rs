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

#[tokio::test]
async fn the_window_closes_over_devices_whose_turn_never_came() {
    for jump in [60, 1_000] {
        let bench = bench(FakeFleet::many(10_000), Sku::S1, 1);
        bench.engine.create(method_job("j")).unwrap();
        bench.until("j", |p| p.statistics.succeeded_count == 1).await;
        bench.clock.advance(Duration::from_secs(jump));
        let statistics = bench.until_over("j").await.statistics.unwrap();
        assert_eq!(
            (statistics.succeeded_count, statistics.failed_count),
            (601, 9_399),
            "a jump of {jump} s"
        );
    }
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
    assert_eq!(refused.message, "5 jobs are active already");
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
