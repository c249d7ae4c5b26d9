//! Jobs on their way as somebody sees them who looks again and again: what the
//! statistics say, how prompt a cancellation is, what a move of the clock does.

use std::time::Duration;

use emulator::Hub;
use hub_core::job::CancelRunning;
use hub_core::tier::{Sku, Tier};
use job_service::EngineSettings;
use serde_json::{Value, json};

use crate::support::answering::{Answer, AnsweringDevice};
use crate::support::jobs::{
    create, ended, has_status, job, method_job, outcomes, patient_job, records, statistics, timed_out,
    twin_job,
};
use crate::support::rest::{Rest, start};
use crate::support::wait_for;

fn import(hub: &Hub, count: usize) {
    let lines: Vec<String> = (0..count)
        .map(|n| json!({"deviceId": format!("d{n:04}")}).to_string())
        .collect();
    hub.import(&lines.join("\n")).unwrap();
}

/// The parts of a job's statistics, which must add up, without `deviceCount`:
/// failed, succeeded, running, pending.
fn parts(job: &Value, devices: u64) -> [u64; 4] {
    let statistics = &job["deviceJobStatistics"];
    let parts = ["failedCount", "succeededCount", "runningCount", "pendingCount"]
        .map(|name| statistics[name].as_u64().unwrap());
    assert_eq!(statistics["deviceCount"], devices, "{job}");
    assert_eq!(parts.iter().sum::<u64>(), devices, "{job}");
    parts
}

#[tokio::test]
async fn the_statistics_add_up_at_every_look() {
    const DEVICES: u64 = 1_000;
    let tier = Tier::new(Sku::S1, 1).unwrap();
    let hub = Hub::builder().tier(tier).start().await.unwrap();
    let rest = Rest::of(&hub);
    import(&hub, DEVICES as usize);
    create(
        &rest,
        "j",
        &twin_job("*", json!({"maxExecutionTimeInSeconds": 3600})),
    )
    .await;
    // One client looks all the time, the other moves the clock by a second for
    // every look of its own.
    let watch = async {
        let (mut looks, mut last) = (0, 0);
        loop {
            let job = job(&rest, "j").await;
            let over = job["status"] == "completed";
            if job.get("deviceJobStatistics").is_none() || job["deviceJobStatistics"]["deviceCount"] == 0 {
                continue;
            }
            let [failed, succeeded, _, _] = parts(&job, DEVICES);
            assert_eq!(failed, 0);
            assert!(succeeded >= last, "{succeeded} after {last}");
            looks += u64::from(succeeded > last);
            last = succeeded;
            if over {
                assert_eq!(succeeded, DEVICES);
                return looks;
            }
            assert_eq!(job["status"], "running");
        }
    };
    let drive = async {
        for _ in 0..100 {
            hub.advance_clock(Duration::from_secs(1));
            let job = job(&rest, "j").await;
            let known = job["deviceJobStatistics"]["succeededCount"].as_u64().unwrap_or(0);
            // Records and statistics are of one piece: what is counted as done
            // can be read.
            let query = "SELECT * FROM devices.jobs WHERE jobId = 'j' AND status = 'completed'";
            let done = rest.query(query).await.ok().as_array().unwrap().len() as u64;
            assert!(done >= known.min(100), "{done} of {known}");
        }
    };
    let (looks, ()) = tokio::join!(watch, drive);
    assert!(looks > 10, "the run was seen to move only {looks} times");
}

#[tokio::test]
async fn a_running_job_is_cancelled_at_once_where_that_is_allowed() {
    let settings = EngineSettings {
        cancel_running: CancelRunning::Stops,
        fan_out: 100,
        ..EngineSettings::default()
    };
    let hub = Hub::builder().jobs(settings).start().await.unwrap();
    let rest = Rest::of(&hub);
    import(&hub, 1_000);
    let _answers = AnsweringDevice::connect(&hub, "d0000", Answer::json(200, &json!(1))).await;
    create(&rest, "j", &patient_job("*", 300, 300, 3600)).await;
    wait_for("a hundred calls", async || {
        let job = job(&rest, "j").await;
        if job["deviceJobStatistics"] == statistics([1_000, 0, 1, 100, 899]) {
            Ok(())
        } else {
            Err(job)
        }
    })
    .await;
    // The answer itself shows the end, and nothing of the job goes on.
    let cancelled = rest.post("/jobs/v2/j/cancel", &Value::Null).await.ok();
    assert_eq!(cancelled["status"], "cancelled");
    assert!(cancelled["endTime"].is_string());
    assert_eq!(
        cancelled["deviceJobStatistics"],
        statistics([1_000, 999, 1, 0, 0])
    );
    assert_eq!(job(&rest, "j").await, cancelled);
    let mut late = AnsweringDevice::connect(&hub, "d0001", Answer::Nothing).await;
    let first = &outcomes(&rest, "j").await[..3];
    let words: Vec<&Value> = first.iter().map(|(_, word)| word).collect();
    assert_eq!(words, ["completed", "canceled", "canceled"]);
    create(&rest, "next", &method_job("deviceId = 'd0001'", json!({}))).await;
    let call = late.call(1).await;
    late.respond(&call, 200, b"1");
    assert_eq!(ended(&rest, "next").await["status"], "completed");
    assert_eq!(late.seen().calls.len(), 1, "the cancelled job called nobody");
}

#[tokio::test]
async fn a_cancelled_job_never_runs_however_late_it_is_cancelled() {
    let (hub, rest) = start().await;
    rest.create("d").await;
    let start = hub.now().saturating_add(Duration::from_secs(3600));
    create(&rest, "j", &twin_job("*", json!({ "startTime": start }))).await;
    has_status(&rest, "j", "scheduled").await;
    hub.advance_clock(Duration::from_secs(3590));
    assert_eq!(
        rest.post("/jobs/v2/j/cancel", &Value::Null).await.ok()["status"],
        "cancelled"
    );
    hub.advance_clock(Duration::from_secs(3600));
    create(&rest, "after", &twin_job("deviceId = 'none'", json!({}))).await;
    ended(&rest, "after").await;
    assert_eq!(job(&rest, "j").await["status"], "cancelled");
    assert!(records(&rest, "j").await.is_empty());
    assert_eq!(rest.get("/twins/d").await.ok()["version"], 2);
}

#[tokio::test]
async fn thousands_of_jobs_wait_and_each_runs_when_it_is_due() {
    const JOBS: u64 = 2_000;
    let (hub, rest) = start().await;
    rest.create("d").await;
    let begin = hub.now();
    let time = |n: u64| begin.saturating_add(Duration::from_secs(3600 + 60 * n));
    for n in 0..JOBS {
        let n = n * 737 % JOBS;
        create(
            &rest,
            &format!("j{n:04}"),
            &twin_job("*", json!({"startTime": time(n)})),
        )
        .await;
    }
    let count = async |status: &str| {
        let (mut total, mut token) = (0, None::<String>);
        loop {
            let path = format!("/jobs/v2/query?jobStatus={status}");
            let mut call = rest.call("GET", &path);
            if let Some(token) = &token {
                call = call.header("x-ms-continuation", token);
            }
            let reply = call.send().await;
            total += reply.ok().as_array().unwrap().len() as u64;
            token = reply.header("x-ms-continuation").map(str::to_owned);
            if token.is_none() {
                return total;
            }
        }
    };
    hub.advance_clock(Duration::from_secs(3600 + 60 * (JOBS / 2)));
    ended(&rest, &format!("j{:04}", JOBS / 2)).await;
    wait_for("half of the jobs", async || {
        let completed = count("completed").await;
        // The clock goes on by itself as well.
        if completed > JOBS / 2 {
            Ok(())
        } else {
            Err(completed)
        }
    })
    .await;
    assert!(count("scheduled").await > JOBS / 2 - 10);
    assert_eq!(job(&rest, "j1999").await["status"], "scheduled");
    hub.advance_clock(Duration::from_secs(60 * JOBS));
    wait_for("all of the jobs", async || {
        let completed = count("completed").await;
        if completed == JOBS { Ok(()) } else { Err(completed) }
    })
    .await;
    assert_eq!(rest.get("/twins/d").await.ok()["version"], 2 + JOBS);
}

#[tokio::test]
async fn a_window_counts_the_time_that_the_job_has_seen() {
    let (hub, rest) = start().await;
    rest.create("d").await;
    let mut device = AnsweringDevice::connect(&hub, "d", Answer::Nothing).await;
    create(&rest, "j", &patient_job("*", 0, 300, 120)).await;
    device.call(1).await;
    for _ in 0..11 {
        hub.advance_clock(Duration::from_secs(10));
    }
    assert_eq!(job(&rest, "j").await["status"], "running");
    hub.advance_clock(Duration::from_secs(10));
    ended(&rest, "j").await;
    assert_eq!(outcomes(&rest, "j").await, [("d".to_owned(), timed_out())]);
}
