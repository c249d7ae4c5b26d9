//! Direct methods: what callers and devices exchange, and how long it is waited for.

use std::time::Duration;

use bytes::Bytes;
use emulator::Hub;
use hub_core::error::ErrorCode;
use hub_core::limits;
use hub_core::topic::Filter;
use serde_json::{Value, json};

use crate::support::answering::{Answer, AnsweringDevice};
use crate::support::methods::{begin, call, invoke, start};
use crate::support::rest::Details;
use crate::support::wait_for;

/// Waits until `count` calls have begun. A call that has begun has set its
/// deadlines: nothing between the two lets another task run.
async fn begun(hub: &Hub, count: u64) {
    wait_for("the calls to begin", async || {
        let begun = hub.counters().methods_invoked;
        if begun >= count { Ok(()) } else { Err(begun) }
    })
    .await;
}

fn not_online(timeout: &str) -> Details {
    Details {
        message: "Timed out waiting for device to connect.".into(),
        info: json!({ "timeout": timeout }),
    }
}

#[tokio::test]
async fn the_devices_answer_is_passed_through() {
    let (hub, rest) = start().await;
    let answer = json!({"Response": "lockDoor called successfully"});
    let device = AnsweringDevice::connect(&hub, "d", Answer::json(200, &answer)).await;
    let reply = invoke(
        &rest,
        &json!({"methodName": "lockDoor", "payload": {"lockTime": "10m"},
                "responseTimeoutInSeconds": 60, "connectTimeoutInSeconds": 5}),
    )
    .await;
    assert_eq!(reply.ok(), json!({ "status": 200, "payload": answer }));
    let seen = device.seen().calls;
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].name, "lockDoor");
    assert_eq!(&seen[0].payload[..], br#"{"lockTime":"10m"}"#);
    let counters = hub.counters();
    assert_eq!((counters.methods_invoked, counters.method_responses), (1, 1));
}

#[tokio::test]
async fn any_status_of_the_device_is_a_success() {
    let (hub, rest) = start().await;
    let mut device = AnsweringDevice::connect(&hub, "d", Answer::Nothing).await;
    for (number, status) in [0, 200, 404, 500, 501, i32::MAX, i32::MIN, -1]
        .into_iter()
        .enumerate()
    {
        let pending = begin(&rest, &call("m")).await;
        let seen = device.call(number + 1).await;
        device.respond(&seen, status, b"{}");
        assert_eq!(
            pending.reply().await.ok(),
            json!({"status": status, "payload": {}})
        );
    }
}

#[tokio::test]
async fn bodies_arrive_byte_for_byte() {
    let (hub, rest) = start().await;
    let mut device = AnsweringDevice::connect(&hub, "d", Answer::Nothing).await;
    for (number, (body, expected)) in [
        ("", "null"),
        ("null", "null"),
        ("[1, 2.50, 1e3]", "[1, 2.50, 1e3]"),
        ("\"text\"", "\"text\""),
        (
            "{\"b\":1,\"a\":12345678901234567890123}",
            "{\"b\":1,\"a\":12345678901234567890123}",
        ),
        ("false", "false"),
    ]
    .into_iter()
    .enumerate()
    {
        let pending = begin(&rest, &call("m")).await;
        let seen = device.call(number + 1).await;
        device.respond(&seen, 200, body.as_bytes());
        let reply = pending.reply().await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.text(), format!("{{\"status\":200,\"payload\":{expected}}}"));
    }
}

#[tokio::test]
async fn payloads_of_every_kind_reach_the_device() {
    let (hub, rest) = start().await;
    let device = AnsweringDevice::connect(&hub, "d", Answer::json(200, &json!(null))).await;
    let payloads = [
        json!(null),
        json!(0),
        json!("x"),
        json!([]),
        json!({"a": {"b": [1.5]}}),
        json!(false),
    ];
    for payload in &payloads {
        invoke(&rest, &json!({"methodName": "m", "payload": payload}))
            .await
            .ok();
    }
    invoke(&rest, &call("no payload")).await.ok();
    let seen: Vec<Value> = device
        .seen()
        .calls
        .iter()
        .map(|call| serde_json::from_slice(&call.payload).unwrap())
        .collect();
    assert_eq!(seen[..6], payloads);
    assert_eq!(seen[6], Value::Null);
}

#[tokio::test]
async fn modules_are_called_on_their_own_connection() {
    let (hub, rest) = start().await;
    let device = AnsweringDevice::connect(&hub, "d", Answer::json(200, &json!("device"))).await;
    let module = AnsweringDevice::connect(&hub, "d/m", Answer::json(201, &json!("module"))).await;
    let reply = rest.post("/twins/d/modules/m/methods", &call("x")).await;
    assert_eq!(reply.ok(), json!({"status": 201, "payload": "module"}));
    assert_eq!((device.seen().calls.len(), module.seen().calls.len()), (0, 1));
    drop(module);
    wait_for("the module to go", async || {
        let reply = rest.post("/twins/d/modules/m/methods", &call("x")).await;
        if reply.status == 404 {
            Ok(reply)
        } else {
            Err(reply)
        }
    })
    .await
    .refused_in_detail(ErrorCode::DeviceNotOnline);
}

#[tokio::test]
async fn an_offline_device_is_not_online_at_once() {
    let (hub, rest) = start().await;
    let reply = invoke(&rest, &call("m")).await;
    assert_eq!(
        reply.refused_in_detail(ErrorCode::DeviceNotOnline),
        not_online("00:00:00")
    );
    // Connected is not enough.
    let _device = AnsweringDevice::try_connect(&hub, "d", Answer::Nothing, &[Filter::DesiredChanges]).await;
    let reply = invoke(&rest, &call("m")).await;
    assert_eq!(
        reply.refused_in_detail(ErrorCode::DeviceNotOnline),
        not_online("00:00:00")
    );
}

#[tokio::test]
async fn a_call_waits_for_the_device_to_connect() {
    let (hub, rest) = start().await;
    let body = json!({"methodName": "m", "connectTimeoutInSeconds": 30});
    let pending = begin(&rest, &body).await;
    begun(&hub, 1).await;
    // Connecting alone does not make it callable.
    let device = AnsweringDevice::try_connect(&hub, "d", Answer::json(200, &json!("late")), &[])
        .await
        .unwrap();
    hub.advance_clock(Duration::from_secs(29));
    device.subscribe(Filter::Methods, "d");
    assert_eq!(
        pending.reply().await.ok(),
        json!({"status": 200, "payload": "late"})
    );
}

#[tokio::test]
async fn the_connect_timeout_ends_the_wait() {
    let (hub, rest) = start().await;
    for (number, (seconds, shown)) in [(61, "00:01:01"), (300, "00:05:00")].into_iter().enumerate() {
        let body = json!({"methodName": "m", "connectTimeoutInSeconds": seconds});
        let pending = begin(&rest, &body).await;
        begun(&hub, number as u64 + 1).await;
        hub.advance_clock(Duration::from_secs(seconds));
        let reply = pending.reply().await;
        assert_eq!(
            reply.refused_in_detail(ErrorCode::DeviceNotOnline),
            not_online(shown)
        );
    }
}

#[tokio::test]
async fn the_response_timeout_counts_from_the_request() {
    let (hub, rest) = start().await;
    let body = json!({"methodName": "m", "connectTimeoutInSeconds": 100, "responseTimeoutInSeconds": 50});
    let pending = begin(&rest, &body).await;
    begun(&hub, 1).await;
    hub.advance_clock(Duration::from_secs(99));
    let mut device = AnsweringDevice::connect(&hub, "d", Answer::Nothing).await;
    let late = device.call(1).await;
    hub.advance_clock(Duration::from_secs(49));
    rest.get("/twins/d").await.ok();
    assert_eq!(hub.counters().http_errors, 0, "the call still waits");
    hub.advance_clock(Duration::from_secs(1));
    let details = pending.reply().await.refused_in_detail(ErrorCode::GatewayTimeout);
    assert_eq!(
        details,
        Details {
            message: "Timed out waiting for the response from device.".into(),
            info: json!({}),
        }
    );
    // A late answer is dropped and disturbs nobody.
    device.respond(&late, 200, b"\"late\"");
    let pending = begin(&rest, &call("next")).await;
    let next = device.call(2).await;
    assert_ne!(next.rid, late.rid);
    device.respond(&late, 200, b"\"late again\"");
    device.respond(&next, 200, b"\"in time\"");
    assert_eq!(pending.reply().await.ok()["payload"], "in time");
}

#[tokio::test]
async fn an_answer_in_time_wins_over_the_clock() {
    let (hub, rest) = start().await;
    let mut device = AnsweringDevice::connect(&hub, "d", Answer::Nothing).await;
    let body = json!({"methodName": "m", "responseTimeoutInSeconds": 5});
    let pending = begin(&rest, &body).await;
    let seen = device.call(1).await;
    hub.advance_clock(Duration::from_secs(4));
    device.respond(&seen, 200, b"1");
    assert_eq!(pending.reply().await.ok()["payload"], 1);
}

/// Nobody waits for a device that cannot come any more.
#[tokio::test]
async fn a_waiting_call_ends_when_its_target_is_deleted() {
    let (hub, rest) = start().await;
    let body = json!({"methodName": "m", "connectTimeoutInSeconds": 300});
    let module = rest
        .call("POST", "/twins/d/modules/m/methods")
        .json(&body)
        .start()
        .await;
    begun(&hub, 1).await;
    rest.delete("/devices/d/modules/m").await.no_content();
    module.reply().await.refused_in_detail(ErrorCode::ModuleNotFound);

    let device = begin(&rest, &body).await;
    begun(&hub, 2).await;
    rest.delete("/devices/d").await.no_content();
    let details = device.reply().await.refused_in_detail(ErrorCode::DeviceNotFound);
    assert_eq!(details.message, "d");

    rest.create("d").await;
    let device = begin(&rest, &body).await;
    begun(&hub, 3).await;
    hub.reset();
    device.reply().await.refused_in_detail(ErrorCode::DeviceNotFound);
}

#[tokio::test]
async fn a_waiting_call_ends_when_its_device_is_disabled() {
    let (hub, rest) = start().await;
    let body = json!({"methodName": "m", "connectTimeoutInSeconds": 300});
    let waiting = begin(&rest, &body).await;
    begun(&hub, 1).await;
    let disabled = json!({"deviceId": "d", "status": "disabled"});
    rest.call("PUT", "/devices/d")
        .if_match("*")
        .json(&disabled)
        .send()
        .await
        .ok();
    waiting.reply().await.refused_in_detail(ErrorCode::DeviceNotFound);
}

#[tokio::test]
async fn a_device_has_a_cap_on_callers_that_wait_for_it() {
    let (hub, rest) = start().await;
    let patient = json!({"methodName": "m", "connectTimeoutInSeconds": 300});
    let call = || rest.call("POST", "/twins/d/methods").json(&patient);
    let mut waiting = Vec::new();
    for _ in 0..limits::METHODS_WAITING {
        waiting.push(call().start().await);
    }
    begun(&hub, limits::METHODS_WAITING as u64).await;
    let details = call()
        .send()
        .await
        .refused_in_detail(ErrorCode::DeviceMaximumInflightMethodExceeded);
    assert_eq!(
        details.message,
        "100 callers wait for the device to connect already"
    );
    // Who does not wait takes no place.
    let impatient = json!({"methodName": "m"});
    let refused = rest
        .call("POST", "/twins/d/methods")
        .json(&impatient)
        .send()
        .await;
    refused.refused_in_detail(ErrorCode::DeviceNotOnline);
    drop(waiting);
    wait_for("a free place", async || {
        let mut reply = std::pin::pin!(call().start().await.reply());
        let device = AnsweringDevice::connect(&hub, "d", Answer::json(200, &json!(null)));
        tokio::select! {
            refused = &mut reply => Err(refused.status),
            device = device => {
                let reply = reply.await;
                drop(device);
                if reply.status == 200 { Ok(()) } else { Err(reply.status) }
            }
        }
    })
    .await;
}

/// Each answer finds its own call, in whatever order it comes.
#[tokio::test]
async fn concurrent_calls_are_answered_in_any_order() {
    let (hub, rest) = start().await;
    let mut device = AnsweringDevice::connect(&hub, "d", Answer::Nothing).await;
    let mut pending = Vec::new();
    for number in 0..5 {
        let body = json!({"methodName": format!("m{number}"), "payload": number});
        pending.push(begin(&rest, &body).await);
        device.call(number + 1).await;
    }
    let mut calls = device.seen().calls;
    calls.swap(0, 3);
    calls.reverse();
    for call in &calls {
        device.respond(call, 200, &call.payload);
    }
    for (number, pending) in pending.into_iter().enumerate() {
        assert_eq!(pending.reply().await.ok()["payload"], number);
    }
}

#[tokio::test]
async fn an_answer_to_nothing_is_ignored() {
    let (hub, rest) = start().await;
    let device = AnsweringDevice::connect(&hub, "d", Answer::With(200, Bytes::new())).await;
    device.publish("$iothub/methods/res/200/?$rid=77", b"{}");
    assert_eq!(
        invoke(&rest, &call("m")).await.ok(),
        json!({"status": 200, "payload": null})
    );
    assert!(!device.seen().closed);
}
