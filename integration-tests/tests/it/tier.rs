//! A hub that keeps the limits of a tier.

use std::time::Duration;

use emulator::Hub;
use hub_core::error::ErrorCode;
use hub_core::tier::{Sku, Tier};
use serde_json::json;

use crate::support::device::{Device, Identity};
use crate::support::jobs::{create, ended, job, method_job, statistics, twin_job};
use crate::support::rest::{Rest, start};
use crate::support::wait_for;

const DAY: Duration = Duration::from_secs(24 * 3600);

async fn hub(sku: Sku, units: u32) -> (Hub, Rest) {
    let tier = Tier::new(sku, units).unwrap();
    let hub = Hub::builder().tier(tier).start().await.unwrap();
    let rest = Rest::of(&hub);
    (hub, rest)
}

#[tokio::test]
async fn ten_thousand_devices_on_s1_take_a_thousand_seconds_of_the_hub_s_clock() {
    let (hub, rest) = hub(Sku::S1, 1).await;
    let lines: Vec<String> = (0..10_000)
        .map(|n| format!("{{\"deviceId\":\"d{n:05}\"}}"))
        .collect();
    hub.import(&lines.join("\n")).unwrap();
    create(&rest, "j", &twin_job("*", json!({}))).await;
    // One job at a time: what is due now is refused, what is due later is taken.
    let mut next = twin_job("deviceId = 'd00000'", json!({}));
    let text = rest
        .put("/jobs/v2/next", &next)
        .await
        .refused(ErrorCode::ThrottlingMaxActiveJobCountExceeded);
    assert_eq!(text, "as many jobs are active as may be: 1");
    next["startTime"] = json!(hub.now().saturating_add(Duration::from_secs(300)));
    create(&rest, "next", &next).await;
    wait_for("the start", async || {
        let job = job(&rest, "j").await;
        if job["deviceJobStatistics"]["succeededCount"].as_u64() > Some(0) {
            Ok(())
        } else {
            Err(job)
        }
    })
    .await;
    hub.advance_clock(Duration::from_secs(500));
    wait_for("half of them", async || {
        let job = job(&rest, "j").await;
        let count = |name: &str| job["deviceJobStatistics"][name].as_u64().unwrap();
        let (pending, done) = (count("pendingCount"), count("succeededCount"));
        assert_eq!(pending + count("runningCount") + done, 10_000);
        assert_eq!(count("failedCount"), 0);
        // The clock goes on by itself as well, for as long as this test may take.
        assert!(done <= 6_000, "{done}");
        if done > 5_000 { Ok(()) } else { Err(job) }
    })
    .await;
    assert_eq!(job(&rest, "next").await["status"], "enqueued");
    hub.advance_clock(Duration::from_secs(500));
    let done = ended(&rest, "j").await;
    assert_eq!(done["status"], "completed");
    assert_eq!(done["deviceJobStatistics"], statistics([10_000, 0, 10_000, 0, 0]));
    assert_eq!(ended(&rest, "next").await["status"], "completed");
    create(&rest, "last", &twin_job("deviceId = 'd00000'", json!({}))).await;
    assert_eq!(ended(&rest, "last").await["status"], "completed");
}

#[tokio::test]
async fn messages_beyond_the_day_s_quota_are_refused() {
    let (hub, rest) = hub(Sku::F1, 1).await;
    let identity = Identity::create(&hub, "d");
    // 4,000 bytes are eight blocks of the free tier's 8,000.
    let mut device = Device::online(&hub, "d").await;
    for _ in 0..999 {
        device
            .publish_acknowledged(&identity.events(""), vec![b'x'; 4_000])
            .await;
    }
    let send = async |bytes: usize| {
        let call = rest.call("POST", "/devices/d/messages/events");
        call.body(vec![b'x'; bytes]).send().await
    };
    send(7 * 512).await.no_content();
    let batch = json!([{"body": "eA=="}, {"body": "eA=="}]);
    let text = rest
        .call("POST", "/devices/d/messages/events")
        .header("Content-Type", "application/vnd.microsoft.iothub.json")
        .json(&batch)
        .send()
        .await
        .refused(ErrorCode::IotHubQuotaExceeded);
    assert_eq!(text, "the hub has accepted 7999 of the 8000 messages of this day");
    let tier = rest.get("/_emulator/tier").await.ok();
    assert_eq!(tier["messagesToday"], 7_999);
    device
        .publish_acknowledged(&identity.events(""), "the last")
        .await;

    send(0).await.refused(ErrorCode::IotHubQuotaExceeded);
    device.publish(&identity.events(""), "one too many").await;
    device.expect_closed().await;
    let mut device = Device::online(&hub, "d").await;
    assert!(device.is_alive().await, "connecting is not a message");
    assert_eq!(hub.counters().telemetry_messages, 1_001);
    assert_eq!(hub.counters().protocol_violations, 0);

    hub.advance_clock(DAY);
    device
        .publish_acknowledged(&identity.events(""), "of the next day")
        .await;
    send(1).await.no_content();
    assert_eq!(rest.get("/_emulator/tier").await.ok()["messagesToday"], 2);
}

#[tokio::test]
async fn basic_tiers_have_no_jobs() {
    let (_hub, rest) = hub(Sku::B1, 1).await;
    let text = rest
        .put("/jobs/v2/j", &method_job("*", json!({})))
        .await
        .refused(ErrorCode::OperationNotAvailableInCurrentTier);
    assert_eq!(text, "jobs are not available in tier B1");
    // Looking is no job.
    assert_eq!(job(&rest, "j").await["status"], "unknown");
    assert_eq!(rest.get("/jobs/v2/query").await.ok(), json!([]));
    let tier = rest.get("/_emulator/tier?devices=1").await.ok();
    assert_eq!(tier["concurrentJobs"], json!(null));
    assert_eq!(tier["forecast"], json!({"devices": 1, "seconds": null}));
}

#[tokio::test]
async fn the_tier_and_a_forecast_can_be_read() {
    let (hub, rest) = hub(Sku::S1, 2).await;
    let tier = rest.get("/_emulator/tier?devices=10000").await.ok();
    let midnight = tier["quotaResets"].as_str().unwrap();
    assert!(
        midnight > &*hub.now().to_string() && midnight.ends_with("T00:00:00Z"),
        "{midnight}"
    );
    assert_eq!(
        tier,
        json!({
            "sku": "S1", "units": 2, "concurrentJobs": 1, "jobDeviceOperationsPerSecond": 10,
            "messagesPerDay": 800_000, "messageBlockBytes": 4096, "messagesToday": 0,
            "quotaResets": midnight, "forecast": {"devices": 10_000, "seconds": 1_000},
        })
    );
    rest.create("d").await;
    let tier = rest.get("/_emulator/tier").await.ok();
    assert_eq!(tier["forecast"], json!({"devices": 1, "seconds": 1}));
    rest.get("/_emulator/tier?devices=-1")
        .await
        .refused(ErrorCode::ArgumentInvalid);

    let (_hub, rest) = start().await;
    let tier = rest.get("/_emulator/tier?devices=10000").await.ok();
    assert_eq!(tier["sku"], json!(null));
    assert_eq!(tier["forecast"], json!({"devices": 10_000, "seconds": null}));
}
