//! Direct methods on the device's side of the wire.

use std::sync::Arc;

use hub_core::error::ErrorCode;
use hub_core::limits;
use serde_json::{Value, json};

use crate::support::back_end::BackEnd;
use crate::support::device::{Device, Identity, METHODS};
use crate::support::transport::Transport;
use crate::support::{soon, start_hub, wait_for};

#[tokio::test]
async fn requests_are_numbered_from_1_and_carry_the_bare_payload() {
    let hub = start_hub().await;
    let (identity, back_end) = (Identity::create(&hub, "d"), BackEnd::of(&hub));
    for transport in Transport::ALL {
        let mut device = Device::open(&hub, transport).await;
        device.connect(identity.connect()).await;
        device.subscribe(&[METHODS]).await;
        for (n, (name, payload, text)) in [
            ("lockDoor", json!({"lockTime": "10m"}), r#"{"lockTime":"10m"}"#),
            ("lock door", json!(null), "null"),
            ("Türe~%41", json!("ü"), r#""ü""#),
        ]
        .into_iter()
        .enumerate()
        {
            let rid = n + 1;
            let device = async {
                let request = device.expect_delivery().await;
                assert_eq!(request.topic, format!("$iothub/methods/POST/{name}/?$rid={rid}"));
                assert_eq!(request.payload, text);
                let answer = format!("$iothub/methods/res/200/?$rid={rid}");
                device.publish_acknowledged(&answer, text).await;
            };
            let (outcome, ()) = tokio::join!(back_end.call(&identity.target, name, payload.clone()), device);
            let response = outcome.unwrap();
            assert_eq!((response.status, response.payload.to_value()), (200, payload));
        }
    }
    assert_eq!(hub.counters().methods_invoked, 18);
    assert_eq!(hub.counters().method_responses, 18);
}

#[tokio::test]
async fn the_devices_status_and_payload_reach_the_caller_whatever_they_are() {
    let hub = start_hub().await;
    let (identity, back_end) = (Identity::create(&hub, "d"), BackEnd::of(&hub));
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&[METHODS]).await;
    for (rid, (status, body, payload)) in [
        ("200", "", json!(null)),
        ("-1", "null", json!(null)),
        (
            "500",
            r#"{"reason": [1, 2.5, "x"]}"#,
            json!({"reason": [1, 2.5, "x"]}),
        ),
        ("2147483647", "true", json!(true)),
        ("-2147483648", " 1 ", json!(1)),
        ("0", "\"\"", json!("")),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = format!("$iothub/methods/res/{status}/?$rid={}", rid + 1);
        let device = async {
            device.expect_delivery().await;
            device.publish(&answer, body).await;
        };
        let (outcome, ()) = tokio::join!(back_end.call(&identity.target, "m", json!({})), device);
        let response = outcome.unwrap();
        assert_eq!(response.status.to_string(), status);
        assert_eq!(response.payload.to_value(), payload);
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_or_no_json_fails_the_call_only() {
    let hub = start_hub().await;
    let (identity, back_end) = (Identity::create(&hub, "d"), BackEnd::of(&hub));
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&[METHODS]).await;
    let text_of = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    for (rid, (body, expected)) in [
        ("hello".to_owned(), Err(ErrorCode::GenericBadGateway)),
        (
            text_of(limits::METHOD_PAYLOAD_BYTES + 1),
            Err(ErrorCode::MessageTooLarge),
        ),
        (text_of(limits::METHOD_PAYLOAD_BYTES), Ok(200)),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = format!("$iothub/methods/res/200/?$rid={}", rid + 1);
        let device = async {
            device.expect_delivery().await;
            device.publish_acknowledged(&answer, body).await;
        };
        let (outcome, ()) = tokio::join!(back_end.call(&identity.target, "m", json!({})), device);
        assert_eq!(outcome.map(|response| response.status), expected);
    }
}

#[tokio::test]
async fn the_largest_payload_arrives_whole() {
    let hub = start_hub().await;
    let (identity, back_end) = (Identity::create(&hub, "d"), BackEnd::of(&hub));
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&[METHODS]).await;
    let payload = Value::from("x".repeat(limits::METHOD_PAYLOAD_BYTES - 2));
    let device = async {
        let request = device.expect_delivery().await;
        assert_eq!(request.payload.len(), limits::METHOD_PAYLOAD_BYTES);
        device
            .publish("$iothub/methods/res/200/?$rid=1", request.payload)
            .await;
    };
    let (outcome, ()) = tokio::join!(back_end.call(&identity.target, "m", payload.clone()), device);
    assert_eq!(outcome.unwrap().payload.to_value(), payload);
}

#[tokio::test]
async fn calls_at_once_may_be_answered_in_any_order() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let back_end = Arc::new(BackEnd::of(&hub));
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&[METHODS]).await;
    let calls: Vec<_> = (0..limits::METHODS_IN_FLIGHT)
        .map(|n| {
            let (back_end, target) = (back_end.clone(), identity.target.clone());
            tokio::spawn(async move { back_end.call(&target, "echo", json!(n)).await })
        })
        .collect();
    let mut requests = Vec::new();
    for rid in 1..=limits::METHODS_IN_FLIGHT {
        let request = device.expect_delivery().await;
        assert_eq!(request.topic, format!("$iothub/methods/POST/echo/?$rid={rid}"));
        requests.push((rid, request.payload));
    }
    let one_more = back_end.call(&identity.target, "echo", json!({})).await;
    assert_eq!(one_more, Err(ErrorCode::DeviceMaximumInflightMethodExceeded));
    for (rid, payload) in requests.into_iter().rev() {
        device
            .publish(&format!("$iothub/methods/res/200/?$rid={rid}"), payload)
            .await;
    }
    for (n, call) in calls.into_iter().enumerate() {
        let response = soon("an answer", call).await.unwrap().unwrap();
        assert_eq!(response.payload.to_value(), json!(n));
    }
}

#[tokio::test]
async fn answers_that_nobody_waits_for_are_dropped() {
    let hub = start_hub().await;
    let (identity, back_end) = (Identity::create(&hub, "d"), BackEnd::of(&hub));
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&[METHODS]).await;
    let device_and_clock = async {
        device.expect_delivery().await;
        hub.advance_clock(limits::METHOD_RESPONSE_DEFAULT);
    };
    let (outcome, ()) = tokio::join!(back_end.call(&identity.target, "m", json!({})), device_and_clock);
    assert_eq!(outcome, Err(ErrorCode::GatewayTimeout));
    // Late, never given out, and no number.
    for rid in ["1", "1", "99", "x", "-1", "99999999999999999999"] {
        let topic = format!("$iothub/methods/res/200/?$rid={rid}");
        device.publish_acknowledged(&topic, "{}").await;
    }
    let device = async {
        let request = device.expect_delivery().await;
        assert_eq!(request.topic, "$iothub/methods/POST/m/?$rid=2");
        device.publish("$iothub/methods/res/1/?$rid=1", "{}").await;
        device.publish("$iothub/methods/res/2/?$rid=2", "{}").await;
    };
    let (outcome, ()) = tokio::join!(back_end.call(&identity.target, "m", json!({})), device);
    assert_eq!(outcome.unwrap().status, 2);
}

#[tokio::test]
async fn one_device_cannot_answer_for_another() {
    let hub = start_hub().await;
    let (identity, back_end) = (Identity::create(&hub, "d"), BackEnd::of(&hub));
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&[METHODS]).await;
    let mut other = Device::online(&hub, "other").await;
    let device = async {
        device.expect_delivery().await;
        other
            .publish_acknowledged("$iothub/methods/res/1/?$rid=1", "1")
            .await;
        device.publish("$iothub/methods/res/2/?$rid=1", "2").await;
    };
    let (outcome, ()) = tokio::join!(back_end.call(&identity.target, "m", json!({})), device);
    assert_eq!(outcome.unwrap().status, 2);
}

#[tokio::test]
async fn a_device_that_leaves_in_mid_call_fails_the_call() {
    let hub = start_hub().await;
    let (identity, back_end) = (Identity::create(&hub, "d"), BackEnd::of(&hub));
    for orderly in [true, false] {
        let mut device = Device::online(&hub, "d").await;
        device.subscribe(&[METHODS]).await;
        let device = async {
            device.expect_delivery().await;
            if orderly {
                device.disconnect().await;
            }
        };
        let (outcome, ()) = tokio::join!(back_end.call(&identity.target, "m", json!({})), device);
        assert_eq!(outcome, Err(ErrorCode::DeviceNotOnline));
    }
}

#[tokio::test]
async fn a_caller_may_wait_for_the_device_to_subscribe() {
    let hub = start_hub().await;
    let (identity, back_end) = (Identity::create(&hub, "d"), BackEnd::of(&hub));
    let body = json!({"methodName": "m", "connectTimeoutInSeconds": 10});
    let invoked = hub.counters().methods_invoked;
    let device = async {
        let arrived = async || match hub.counters().methods_invoked - invoked {
            1 => Ok(()),
            n => Err(n),
        };
        wait_for("the call", arrived).await;
        // To be connected is not enough.
        let mut device = Device::online(&hub, "d").await;
        device.expect_silence().await;
        device.subscribe(&[METHODS]).await;
        let request = device.expect_delivery().await;
        assert_eq!(request.payload, "null");
        device.publish("$iothub/methods/res/200/?$rid=1", "").await;
        device.disconnect().await;
    };
    let (outcome, ()) = tokio::join!(back_end.call_with(&identity.target, body.clone()), device);
    assert_eq!(outcome.unwrap().status, 200);

    // With nobody there the wait ends at the connect timeout.
    let invoked = hub.counters().methods_invoked;
    let clock = async {
        let arrived = async || match hub.counters().methods_invoked - invoked {
            1 => Ok(()),
            n => Err(n),
        };
        wait_for("the call", arrived).await;
        hub.advance_clock(std::time::Duration::from_secs(10));
    };
    let (outcome, ()) = tokio::join!(back_end.call_with(&identity.target, body), clock);
    assert_eq!(outcome, Err(ErrorCode::DeviceNotOnline));
}

#[tokio::test]
async fn a_module_is_called_on_its_own_connection() {
    let hub = start_hub().await;
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&[METHODS]).await;
    let identity = Identity::create_module(&hub, "d", "m");
    let (mut module, _) = Device::connected(&hub, identity.connect()).await;
    module.subscribe(&[METHODS]).await;
    let back_end = BackEnd::of(&hub);
    let answer = async {
        let request = module.expect_delivery().await;
        assert_eq!(request.topic, "$iothub/methods/POST/m/?$rid=1");
        module
            .publish("$iothub/methods/res/200/?$rid=1", "\"module\"")
            .await;
    };
    let (outcome, ()) = tokio::join!(back_end.call(&identity.target, "m", json!({})), answer);
    assert_eq!(outcome.unwrap().payload.to_value(), "module");
    device.expect_silence().await;
}

#[tokio::test]
async fn a_malformed_answer_topic_ends_the_connection() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    for topic in [
        "$iothub/methods/res/200/",
        "$iothub/methods/res/200/?$rid=",
        "$iothub/methods/res/200",
        "$iothub/methods/res/ok/?$rid=1",
        "$iothub/methods/res/+1/?$rid=1",
        "$iothub/methods/res/2147483648/?$rid=1",
        "$iothub/methods/res//?$rid=1",
        "$iothub/methods/POST/m/?$rid=1",
    ] {
        let (mut device, _) = Device::connected(&hub, identity.connect()).await;
        device.publish(topic, "{}").await;
        device.expect_closed().await;
    }
    assert_eq!(hub.counters().protocol_violations, 8);
}
