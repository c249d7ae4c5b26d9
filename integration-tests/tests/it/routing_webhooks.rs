//! Webhooks that events are routed to: posted in batches, again and again until
//! they are taken, whatever the other side does.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::routing::{Hook, Reaction, large, report, route, routed, send, told, wait_for_report};
use crate::support::wait_for;

fn routing(url: &str, more: &Value) -> Value {
    let mut endpoint = json!({"name": "hook", "url": url});
    for (name, value) in more.as_object().unwrap() {
        endpoint[name] = value.clone();
    }
    json!({
        "endpoints": {"webhooks": [endpoint]},
        "routes": [route("all", "DeviceMessages", "hook")],
    })
}

async fn bodies(hook: &Hook, count: usize) -> Vec<String> {
    wait_for("the events", async || {
        let bodies = hook.bodies();
        if bodies.len() >= count {
            Ok(bodies)
        } else {
            Err(bodies)
        }
    })
    .await
}

#[tokio::test]
async fn events_are_posted() {
    let hook = Hook::start(Reaction::status(204)).await;
    let (_hub, rest) = routed(&routing(&hook.url, &json!({})), &["d"]).await;
    send(&rest, "d", "1", &[("a", "b")]).await;
    bodies(&hook, 1).await;
    let posted = hook.posted().remove(0);
    assert!(posted.head.starts_with("post /hook http/1.1"), "{}", posted.head);
    assert!(
        posted
            .head
            .contains("content-type: application/json; charset=utf-8")
    );
    assert_eq!(posted.events[0]["applicationProperties"], json!({"a": "b"}));
    assert_eq!(
        posted.events[0]["annotations"]["iothub-connection-device-id"],
        "d"
    );
    send(&rest, "d", "2", &[]).await;
    assert_eq!(bodies(&hook, 2).await, ["1", "2"]);
    let report = wait_for_report(&rest, "hook", |report| report["backlog"] == 0).await;
    assert_eq!(
        (&report["health"], &report["delivered"]),
        (&json!("healthy"), &json!(2))
    );
    assert_eq!(
        (&report["retries"], &report["lastError"]),
        (&json!(0), &Value::Null)
    );
}

#[tokio::test]
async fn a_batch_has_a_size_and_a_time() {
    let hook = Hook::start(Reaction::status(200)).await;
    let settings = json!({"batchCount": 3, "batchWait": "60s"});
    let (hub, rest) = routed(&routing(&hook.url, &settings), &["d"]).await;
    for number in 0..7 {
        send(&rest, "d", number.to_string(), &[]).await;
    }
    bodies(&hook, 6).await;
    let sizes: Vec<_> = hook.posted().iter().map(|posted| posted.events.len()).collect();
    assert_eq!(sizes, [3, 3]);
    // What still waits for others goes when the hub stops.
    hub.shutdown().await;
    assert_eq!(bodies(&hook, 7).await.last().unwrap(), "6");

    let hook = Hook::start(Reaction::status(200)).await;
    let settings = json!({"batchCount": 3, "batchWait": "20ms"});
    let (_hub, rest) = routed(&routing(&hook.url, &settings), &["d"]).await;
    send(&rest, "d", "alone", &[]).await;
    assert_eq!(bodies(&hook, 1).await, ["alone"]);
}

#[tokio::test]
async fn a_refusal_is_reported_and_the_same_events_come_again() {
    let hook = Hook::start(Reaction::Answer(500, String::new(), "out of order".into())).await;
    let (_hub, rest) = routed(&routing(&hook.url, &json!({"batchCount": 1})), &["d"]).await;
    send(&rest, "d", "1", &[]).await;
    send(&rest, "d", "2", &[]).await;
    let report = wait_for_report(&rest, "hook", |report| report["retries"].as_u64() >= Some(1)).await;
    assert_eq!(
        (&report["health"], &report["backlog"]),
        (&json!("unhealthy"), &json!(2))
    );
    let error = report["lastError"]["text"].as_str().unwrap();
    assert!(error.contains("500") && error.contains("out of order"), "{error}");
    hook.react(Reaction::status(200));
    wait_for_report(&rest, "hook", |report| report["backlog"] == 0).await;
    let bodies = hook.bodies();
    assert_eq!(bodies.last().unwrap(), "2");
    assert!(
        bodies.iter().filter(|body| **body == "1").count() >= 2,
        "{bodies:?}"
    );
    let report = self::report(&rest, "hook").await;
    assert_eq!(
        (&report["health"], &report["delivered"]),
        (&json!("healthy"), &json!(2))
    );
}

#[tokio::test]
async fn a_webhook_says_when_to_try_again() {
    let wait = |seconds: &str| Reaction::Answer(429, format!("Retry-After: {seconds}\r\n"), String::new());
    let hook = Hook::start(wait("1")).await;
    let (_hub, rest) = routed(&routing(&hook.url, &json!({})), &["d"]).await;
    send(&rest, "d", "1", &[]).await;
    bodies(&hook, 2).await;
    let posted = hook.posted();
    assert!(posted[1].at - posted[0].at >= Duration::from_millis(950));

    // It cannot have the hub try without pauses, which grow.
    let hook = Hook::start(wait("0")).await;
    let (_hub, rest) = routed(&routing(&hook.url, &json!({})), &["d"]).await;
    send(&rest, "d", "1", &[]).await;
    bodies(&hook, 3).await;
    let posted = hook.posted();
    assert!(posted[1].at - posted[0].at >= Duration::from_millis(190));
    assert!(posted[2].at - posted[1].at >= Duration::from_millis(390));
}

#[tokio::test]
async fn one_that_hangs_or_never_reads_holds_up_nobody_else() {
    for reaction in [Reaction::Hang, Reaction::Ignore] {
        let hook = Hook::start(reaction).await;
        let other = Hook::start(Reaction::status(200)).await;
        let routing = json!({
            "endpoints": {"webhooks": [
                {"name": "hook", "url": hook.url, "timeout": "100ms"},
                {"name": "other", "url": other.url},
            ]},
            "routes": [route("a", "DeviceMessages", "hook"), route("b", "DeviceMessages", "other")],
        });
        let (hub, rest) = routed(&routing, &["d"]).await;
        for number in 0..20 {
            // More than a socket takes that nobody reads.
            send(&rest, "d", large(number), &[]).await;
        }
        assert_eq!(bodies(&other, 20).await.len(), 20);
        let report = wait_for_report(&rest, "hook", |report| report["health"] == "unhealthy").await;
        let error = report["lastError"]["text"].as_str().unwrap();
        assert!(error.contains("no answer within 100ms"), "{error}");
        assert_eq!((&report["backlog"], &report["dropped"]), (&json!(20), &json!(0)));
        let start = Instant::now();
        hub.shutdown().await;
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test]
async fn an_event_that_is_refused_for_good_holds_up_no_others() {
    for status in [400, 413, 422] {
        let hook = Hook::start(Reaction::Refuse(status, "5".into())).await;
        let settings = json!({"batchCount": 8, "batchWait": "60s"});
        let (_hub, rest) = routed(&routing(&hook.url, &settings), &["d"]).await;
        for number in 0..16 {
            send(&rest, "d", number.to_string(), &[]).await;
        }
        let report = wait_for_report(&rest, "hook", |report| {
            report["backlog"] == 0 && report["health"] == "healthy"
        })
        .await;
        assert_eq!(
            (&report["delivered"], &report["dropped"], &report["health"]),
            (&json!(15), &json!(1), &json!("healthy"))
        );
        let error = report["lastError"]["text"].as_str().unwrap();
        assert!(
            error.contains("dropped") && error.contains(&status.to_string()),
            "{error}"
        );
        let posted = hook.posted();
        let (refused, taken): (Vec<_>, Vec<_>) = posted
            .iter()
            .map(|posted| told(&posted.events))
            .partition(|bodies| bodies.contains(&"5".to_owned()));
        // Alone in the end, and everything else once and in order.
        assert_eq!(refused.last().unwrap(), &["5"]);
        let expected: Vec<_> = (0..16).filter(|n| *n != 5).map(|n| n.to_string()).collect();
        assert_eq!(taken.concat(), expected);
    }
}

#[tokio::test]
async fn what_may_be_put_right_is_not_dropped() {
    for status in [401, 404, 408] {
        let hook = Hook::start(Reaction::status(status)).await;
        let (_hub, rest) = routed(&routing(&hook.url, &json!({})), &["d"]).await;
        send(&rest, "d", "1", &[]).await;
        bodies(&hook, 2).await;
        hook.react(Reaction::status(200));
        let report = wait_for_report(&rest, "hook", |report| report["backlog"] == 0).await;
        assert_eq!((&report["delivered"], &report["dropped"]), (&json!(1), &json!(0)));
    }
}

#[tokio::test]
async fn one_that_hangs_for_long_does_not_hold_up_the_end() {
    let hook = Hook::start(Reaction::Hang).await;
    let settings = json!({"timeout": "300s", "batchCount": 1});
    let (hub, rest) = routed(&routing(&hook.url, &settings), &["d"]).await;
    for body in ["1", "2", "3"] {
        send(&rest, "d", body, &[]).await;
    }
    bodies(&hook, 1).await;
    let start = Instant::now();
    hub.shutdown().await;
    assert!(start.elapsed() < Duration::from_secs(20));
    // What comes behind events without an answer was not sent ahead of them.
    assert_eq!(hook.bodies(), ["1"]);
}

#[tokio::test]
async fn what_waits_is_bounded() {
    let hook = Hook::start(Reaction::status(503)).await;
    let (_hub, rest) = routed(&routing(&hook.url, &json!({})), &["d"]).await;
    for number in 0..100 {
        send(&rest, "d", large(number), &[]).await;
    }
    let report = report(&rest, "hook").await;
    assert!(report["dropped"].as_u64() >= Some(10), "{report}");
    hook.react(Reaction::status(200));
    let report = wait_for_report(&rest, "hook", |report| report["backlog"] == 0).await;
    let (delivered, dropped) = (
        report["delivered"].as_u64().unwrap(),
        report["dropped"].as_u64().unwrap(),
    );
    assert_eq!(delivered + dropped, 100);
    assert_eq!(hook.bodies().last().unwrap(), &large(99));
}

#[tokio::test]
async fn nobody_at_the_address() {
    let hook = Hook::start(Reaction::status(200)).await;
    let url = hook.url.clone();
    drop(hook);
    let (_hub, rest) = routed(&routing(&url, &json!({})), &["d"]).await;
    send(&rest, "d", "1", &[]).await;
    let report = wait_for_report(&rest, "hook", |report| report["health"] == "unhealthy").await;
    assert!(
        report["lastError"]["text"].as_str().unwrap().contains("onnect"),
        "{report}"
    );
}

#[tokio::test]
async fn a_webhook_must_not_lead_back_into_the_hub() {
    let (hub, rest) = routed(&json!({}), &["d"]).await;
    let own = format!(
        "http://{}/devices/d/messages/events?api-version=2021-04-12",
        hub.http_address().unwrap()
    );
    rest.exactly("PUT", "/_emulator/routing")
        .json(&routing(&own, &json!({})))
        .send()
        .await
        .ok();
    send(&rest, "d", "1", &[]).await;
    let report = wait_for_report(&rest, "hook", |report| report["health"] == "unhealthy").await;
    let error = report["lastError"]["text"].as_str().unwrap();
    assert!(
        error.contains("400") && error.contains("must not lead back into the hub"),
        "{error}"
    );
    assert_eq!(hub.counters().telemetry_messages, 1);
    // Another hub's webhook may.
    let (_other, there) = routed(
        &routing(
            &format!("http://{}/_emulator/none", hub.http_address().unwrap()),
            &json!({}),
        ),
        &["d"],
    )
    .await;
    send(&there, "d", "1", &[]).await;
    let report = wait_for_report(&there, "hook", |report| report["health"] == "unhealthy").await;
    let error = report["lastError"]["text"].as_str().unwrap();
    assert!(error.contains("404"), "{error}");
}

#[tokio::test]
async fn what_waits_goes_the_new_way_when_the_settings_change() {
    let (refusing, hook) = (
        Hook::start(Reaction::status(503)).await,
        Hook::start(Reaction::status(200)).await,
    );
    let (_hub, rest) = routed(&routing(&refusing.url, &json!({})), &["d"]).await;
    for number in 1..=3 {
        send(&rest, "d", number.to_string(), &[]).await;
    }
    wait_for_report(&rest, "hook", |report| report["health"] == "unhealthy").await;
    let other = routing(&hook.url, &json!({"batchCount": 2}));
    rest.put("/_emulator/routing", &other).await.ok();
    send(&rest, "d", "4", &[]).await;
    assert_eq!(bodies(&hook, 4).await, ["1", "2", "3", "4"]);
    let report = wait_for_report(&rest, "hook", |report| report["backlog"] == 0).await;
    assert_eq!((&report["delivered"], &report["dropped"]), (&json!(4), &json!(0)));
}
