//! The endpoints under `/_emulator`: what tests and tools do to a hub.

use std::time::Duration;

use emulator::Hub;
use hub_core::error::ErrorCode;
use hub_core::time::Timestamp;
use serde_json::{Value, json};

use crate::support::answering::{Answer, AnsweringDevice};
use crate::support::jobs::{create, ended, job, method_job, twin_job};
use crate::support::rest::Rest;
use crate::support::{start_hub, wait_for};

/// A hub, its back end, and a caller without credentials.
async fn start() -> (Hub, Rest, Rest) {
    let hub = start_hub().await;
    let rest = Rest::of(&hub);
    let anybody = rest.authorized(None);
    (hub, rest, anybody)
}

async fn get(anybody: &Rest, path: &str) -> Value {
    anybody.exactly("GET", path).send().await.ok()
}

#[tokio::test]
async fn health_names_the_hub() {
    let hub = Hub::builder().host_name("my-hub.local").start().await.unwrap();
    let health = get(&Rest::of(&hub), "/_emulator/health").await;
    assert_eq!(health, json!({"status": "ok", "hostName": "my-hub.local"}));
}

#[tokio::test]
async fn counters_tell_what_happened() {
    let (hub, rest, anybody) = start().await;
    let zero = get(&anybody, "/_emulator/counters").await;
    assert_eq!(zero["httpRequests"], 1, "this one");
    for (name, value) in zero.as_object().unwrap() {
        assert!(name == "httpRequests" || *value == 0, "{name}: {value}");
    }
    rest.create("d").await;
    rest.put("/devices/d/modules/m", &json!({})).await.ok();
    let device = AnsweringDevice::connect(&hub, "d", Answer::json(200, &json!(1))).await;
    let _module = AnsweringDevice::connect(&hub, "d/m", Answer::Nothing).await;
    let _refused = AnsweringDevice::connect(&hub, "d", Answer::json(200, &json!(1))).await;
    drop(device);
    rest.post("/twins/d/methods", &json!({"methodName": "m"}))
        .await
        .ok();
    rest.patch("/twins/d", &json!({"tags": {"a": 1}})).await.ok();
    rest.get("/devices/x").await.refused(ErrorCode::DeviceNotFound);
    let counters = get(&anybody, "/_emulator/counters").await;
    for (name, value) in [
        ("devices", 1),
        ("connected", 2),
        ("connectsAccepted", 3),
        ("connectsRefused", 0),
        ("takeovers", 1),
        ("protocolViolations", 0),
        ("telemetryMessages", 0),
        ("methodsInvoked", 1),
        ("methodResponses", 1),
        ("twinWrites", 1),
        ("httpErrors", 1),
    ] {
        assert_eq!(counters[name], value, "{name} in {counters}");
    }
    assert_eq!(counters["httpRequests"], hub.counters().http_requests);
}

#[tokio::test]
async fn telemetry_is_listed_with_its_properties() {
    let (hub, rest, anybody) = start().await;
    assert_eq!(
        get(&anybody, "/_emulator/telemetry").await,
        json!({"total": 0, "messages": []})
    );
    rest.create("d").await;
    rest.put("/devices/d/modules/m", &json!({})).await.ok();
    let device = AnsweringDevice::connect(&hub, "d", Answer::Nothing).await;
    let module = AnsweringDevice::connect(&hub, "d/m", Answer::Nothing).await;
    device.publish("devices/d/messages/events/%24.mid=1&alarm=a%20b", br#"{"t":21}"#);
    device.publish_acknowledged("devices/d/messages/events/", b"\xff");
    let total = async |expected: u64| {
        wait_for("the telemetry", async || {
            let log = get(&anybody, "/_emulator/telemetry").await;
            if log["total"] == expected {
                Ok(log)
            } else {
                Err(log)
            }
        })
        .await
    };
    total(2).await;
    module.publish("devices/d/modules/m/messages/events/", b"from the module");
    let log = total(3).await;
    let message = |number: usize, module: Value, system: Value, application: Value, body: &str| {
        json!({
            "sequence": number,
            "deviceId": "d",
            "moduleId": module,
            "enqueuedTimeUtc": log["messages"][number - 1]["enqueuedTimeUtc"],
            "systemProperties": system,
            "properties": application,
            "body": body,
        })
    };
    assert_eq!(
        log["messages"],
        json!([
            message(
                1,
                Value::Null,
                json!({"$.mid": "1"}),
                json!({"alarm": "a b"}),
                r#"{"t":21}"#
            ),
            message(2, Value::Null, json!({}), json!({}), "\u{fffd}"),
            message(3, json!("m"), json!({}), json!({}), "from the module"),
        ])
    );
    let rest_of = get(&anybody, "/_emulator/telemetry?after=2").await;
    assert_eq!(rest_of["total"], 3);
    assert_eq!(rest_of["messages"], json!([log["messages"][2]]));
    assert_eq!(
        get(&anybody, "/_emulator/telemetry?after=99").await["messages"],
        json!([])
    );
    for bad in ["x", "-1", ""] {
        let reply = anybody
            .exactly("GET", &format!("/_emulator/telemetry?after={bad}"))
            .send()
            .await;
        let text = reply.refused(ErrorCode::ArgumentInvalid);
        assert_eq!(text, format!("after={bad:?} is not a position"));
    }
    assert_eq!(hub.telemetry_after(1).len(), 2);
}

#[tokio::test]
async fn the_clock_moves_forward_by_seconds_or_to_a_time() {
    let (hub, rest, anybody) = start().await;
    let now = async || {
        let clock = get(&anybody, "/_emulator/clock").await;
        Timestamp::parse(clock["now"].as_str().unwrap()).unwrap()
    };
    let advance = async |body: Value| {
        anybody
            .exactly("POST", "/_emulator/clock/advance")
            .json(&body)
            .send()
            .await
    };
    let start = now().await;
    assert!(hub.now().saturating_since(start) < Duration::from_secs(60));

    for seconds in [json!(3600), json!(0), json!(0.5)] {
        let before = now().await;
        let reply = advance(json!({ "seconds": seconds })).await;
        let after = Timestamp::parse(reply.ok()["now"].as_str().unwrap()).unwrap();
        let moved = after.saturating_since(before).as_secs_f64();
        let wanted = seconds.as_f64().unwrap();
        assert!(moved >= wanted && moved < wanted + 60.0, "{seconds}: {moved}");
    }
    let to = hub.now().saturating_add(Duration::from_secs(7 * 24 * 3600));
    advance(json!({ "to": to })).await.ok();
    assert!(now().await >= to);
    assert!(now().await.saturating_since(to) < Duration::from_secs(60));

    let one = "give either seconds or to";
    let number = "seconds must be a number that is not negative";
    for (body, text) in [
        (json!({}), one),
        (json!([]), one),
        (json!({"seconds": 1, "to": to}), one),
        (json!({"seconds": -1}), number),
        (json!({"seconds": "1"}), number),
        (json!({"seconds": null}), number),
        (json!({"seconds": 1e300}), number),
    ] {
        assert_eq!(
            advance(body.clone()).await.refused(ErrorCode::ArgumentInvalid),
            text,
            "{body}"
        );
    }
    let text = advance(json!({"to": "tomorrow"}))
        .await
        .refused(ErrorCode::ArgumentInvalid);
    assert!(text.starts_with("to: "), "{text}");
    let text = advance(json!({"to": 5}))
        .await
        .refused(ErrorCode::ArgumentInvalid);
    assert!(text.starts_with("to: "), "{text}");
    let text = advance(json!({ "to": start }))
        .await
        .refused(ErrorCode::ArgumentInvalid);
    assert!(
        text.starts_with("the clock is at ") && text.ends_with(" and moves only forward"),
        "{text}"
    );

    // A job that is due by then runs.
    rest.create("d").await;
    let start = hub.now().saturating_add(Duration::from_secs(1000));
    create(&rest, "j", &twin_job("*", json!({ "startTime": start }))).await;
    advance(json!({ "to": start })).await.ok();
    assert_eq!(ended(&rest, "j").await["status"], "completed");
    // As far as time goes.
    advance(json!({"seconds": 1e19})).await.ok();
    assert_eq!(now().await, Timestamp::MAX);
}

#[tokio::test]
async fn a_reset_forgets_everything() {
    let (hub, rest, anybody) = start().await;
    rest.create("d").await;
    rest.put("/devices/d/modules/m", &json!({})).await.ok();
    let mut device = AnsweringDevice::connect(&hub, "d", Answer::Nothing).await;
    let mut module = AnsweringDevice::connect(&hub, "d/m", Answer::Nothing).await;
    device.publish("devices/d/messages/events/", b"1");
    hub.advance_clock(Duration::from_secs(1_000_000));
    create(&rest, "running", &method_job("*", json!({}))).await;
    device.call(1).await;
    create(
        &rest,
        "later",
        &method_job("*", json!({"startTime": "2999-01-01T00:00:00Z"})),
    )
    .await;
    let call = rest
        .call("POST", "/twins/d/methods")
        .json(&json!({"methodName": "m"}))
        .start()
        .await;
    device.call(2).await;

    anybody
        .exactly("DELETE", "/_emulator/state")
        .send()
        .await
        .no_content();
    device.saw("the end of the connection", |seen| seen.closed).await;
    module.saw("the end of the connection", |seen| seen.closed).await;
    call.reply().await.refused_in_detail(ErrorCode::DeviceNotOnline);
    assert_eq!(rest.get("/devices").await.ok(), json!([]));
    assert_eq!(rest.query("SELECT * FROM devices.modules").await.ok(), json!([]));
    assert_eq!(rest.get("/jobs/v2/query").await.ok(), json!([]));
    assert_eq!(job(&rest, "running").await["status"], "unknown");
    assert_eq!(
        get(&anybody, "/_emulator/telemetry").await,
        json!({"total": 0, "messages": []})
    );
    let counters = get(&anybody, "/_emulator/counters").await;
    for name in [
        "devices",
        "connected",
        "connectsAccepted",
        "telemetryMessages",
        "methodsInvoked",
        "twinWrites",
    ] {
        assert_eq!(counters[name], 0, "{name} in {counters}");
    }
    assert!(hub.now().saturating_since(job_service::Clock::system_now()) < Duration::from_secs(60));

    // Ids are free again, and the hub works as before.
    rest.create("d").await;
    create(&rest, "running", &twin_job("*", json!({}))).await;
    assert_eq!(ended(&rest, "running").await["status"], "completed");
    let _device = AnsweringDevice::connect(&hub, "d", Answer::json(200, &json!(1))).await;
    rest.post("/twins/d/methods", &json!({"methodName": "m"}))
        .await
        .ok();
}

#[tokio::test]
async fn the_ca_is_handed_out() {
    let (hub, _rest, anybody) = start().await;
    let reply = anybody.exactly("GET", "/_emulator/ca.pem").send().await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("application/x-pem-file"));
    assert_eq!(reply.text(), hub.ca_pem());
    assert!(reply.text().starts_with("-----BEGIN CERTIFICATE-----\n"));
}
