//! Jobs as things that are kept: listed, read, forgotten, given up.

use super::*;

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
    let page = |jobs: Option<&[JobId]>, after: Option<&RecordKey>, size: usize| {
        let mut keys = Vec::new();
        bench.engine.for_each_record(jobs, after, |view| {
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
    let job = [id("j2")];
    assert_eq!(page(Some(&job), None, 9), whole[3..6]);
    assert_eq!(page(Some(&job), Some(&whole[3]), 9), whole[4..6]);
    assert_eq!(page(Some(&job), Some(&whole[0]), 9), whole[3..6]);
    assert!(page(Some(&job), Some(&whole[8]), 9).is_empty());
    assert!(page(Some(&[id("nope")]), None, 9).is_empty());
    assert!(page(Some(&[]), None, 9).is_empty());
    let some = [id("a"), id("j1"), id("j2x"), id("j3"), id("z")];
    let both = [&whole[..3], &whole[6..]].concat();
    for size in 1..=6 {
        let mut read = Vec::new();
        loop {
            let next = page(Some(&some), read.last(), size);
            if next.is_empty() {
                break;
            }
            read.extend(next);
        }
        assert_eq!(read, both, "pages of {size}");
    }
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
