//! Direct methods that fail: what the caller is told.

use emulator::Hub;
use hub_core::error::ErrorCode;
use hub_core::limits;
use serde_json::{Value, json};

use crate::support::answering::{Answer, AnsweringDevice};
use crate::support::methods::{begin, call, invoke, start};
use crate::support::rest::{Details, Rest};
use crate::support::wait_for;

/// The whole body, as clients take it apart.
#[tokio::test]
async fn the_nested_body_has_its_exact_form() {
    let (_hub, rest) = start().await;
    let reply = invoke(&rest, &call("m")).await;
    let outer = reply.json();
    let inner: Value = serde_json::from_str(outer["Message"].as_str().unwrap()).unwrap();
    assert_eq!(
        outer,
        json!({"Message": inner.to_string(), "ExceptionMessage": ""})
    );
    assert_eq!(
        inner,
        json!({
            "errorCode": 404_103,
            "trackingId": inner["trackingId"],
            "message": "Timed out waiting for device to connect.",
            "info": {"timeout": "00:00:00"},
            "timestampUtc": inner["timestampUtc"],
        })
    );
}

#[tokio::test]
async fn unknown_and_disabled_devices_are_not_found() {
    let (_hub, rest) = start().await;
    // Before the body is looked at.
    for body in [call("m"), json!({})] {
        // In the classic form, the only one by which the Node SDK knows it.
        for path in ["/twins/x/methods", "/twins/x/modules/m/methods"] {
            let reply = rest.post(path, &body).await;
            assert_eq!(reply.refused(ErrorCode::DeviceNotFound), "x", "{path}");
        }
        let reply = rest.post("/twins/d/modules/x/methods", &body).await;
        let details = reply.refused_in_detail(ErrorCode::ModuleNotFound);
        let message = "Module x on device d not found.".into();
        let info = json!({});
        assert_eq!(details, Details { message, info });
    }
    let call_and_wait = json!({"methodName": "m", "connectTimeoutInSeconds": 300});
    rest.put("/devices/off", &json!({"status": "disabled"}))
        .await
        .ok();
    let reply = rest.post("/twins/off/methods", &call_and_wait).await;
    let details = reply.refused_in_detail(ErrorCode::DeviceNotFound);
    assert_eq!(details.message, "Device off is disabled");
}

#[tokio::test]
async fn bad_requests_are_refused_in_detail() {
    let (hub, rest) = start().await;
    let device = AnsweringDevice::connect(&hub, "d", Answer::json(200, &json!(null))).await;
    let response = "responseTimeoutInSeconds must be within [5; 300].";
    let connect = "connectTimeoutInSeconds must be within [0; 300].";
    let invalid = ErrorCode::ArgumentInvalid;
    let with = |member: &str, value: Value| json!({"methodName": "m", member: value});
    let long = "n".repeat(101);
    for (body, code, message) in [
        (with("responseTimeoutInSeconds", json!(4)), invalid, response),
        (with("responseTimeoutInSeconds", json!(301)), invalid, response),
        (with("responseTimeoutInSeconds", json!(-5)), invalid, response),
        (with("responseTimeoutInSeconds", json!(5.5)), invalid, response),
        (with("responseTimeoutInSeconds", json!("30")), invalid, response),
        (with("connectTimeoutInSeconds", json!(301)), invalid, connect),
        (with("connectTimeoutInSeconds", json!(-1)), invalid, connect),
        (json!({}), ErrorCode::ArgumentNull, "methodName is required"),
        (
            json!({"methodName": null}),
            ErrorCode::ArgumentNull,
            "methodName is required",
        ),
        (json!({"methodName": 5}), invalid, "methodName must be a string"),
        (call(""), invalid, "methodName must not be empty"),
        (call("a/b"), invalid, "methodName must not contain '/'"),
        (call("a?"), invalid, "methodName must not contain '?'"),
        (call("#"), invalid, "methodName must not contain '#'"),
        (call("a\n"), invalid, "methodName must not contain '\\n'"),
        (
            call(&long),
            invalid,
            "methodName must not be longer than 100 characters",
        ),
        (json!([]), invalid, "the method request must be a JSON object"),
    ] {
        let details = invoke(&rest, &body).await.refused_in_detail(code);
        assert_eq!(details.message, message, "{body}");
    }
    assert!(device.seen().calls.is_empty());
    // The bounds themselves, null as absent, and a name that needs care.
    for (response, connect) in [
        (json!(5), json!(0)),
        (json!(300), json!(300)),
        (json!(null), json!(null)),
    ] {
        let body = json!({"methodName": "größe 100%", "responseTimeoutInSeconds": response,
                          "connectTimeoutInSeconds": connect});
        invoke(&rest, &body).await.ok();
    }
    invoke(&rest, &call(&long[1..])).await.ok();
    assert_eq!(device.seen().calls[0].name, "größe 100%");
}

#[tokio::test]
async fn payloads_have_a_limit_both_ways() {
    let (hub, rest) = start().await;
    let text = |bytes: usize| "x".repeat(bytes - 2);
    let mut device = AnsweringDevice::connect(&hub, "d", Answer::Nothing).await;
    let largest = text(limits::METHOD_PAYLOAD_BYTES);
    let body = json!({"methodName": "m", "payload": format!("{largest}x")});
    let details = invoke(&rest, &body)
        .await
        .refused_in_detail(ErrorCode::MessageTooLarge);
    assert_eq!(details.message, "'payload' size should be less than 131072 bytes");

    let body = json!({"methodName": "m", "payload": largest});
    let pending = begin(&rest, &body).await;
    let seen = device.call(1).await;
    assert_eq!(seen.payload.len(), limits::METHOD_PAYLOAD_BYTES);
    // The largest comes back as well.
    device.respond(&seen, 200, &seen.payload);
    assert_eq!(pending.reply().await.ok()["payload"], *largest);

    let pending = begin(&rest, &call("m")).await;
    let seen = device.call(2).await;
    device.respond(&seen, 200, format!("\"{largest}x\"").as_bytes());
    let details = pending
        .reply()
        .await
        .refused_in_detail(ErrorCode::MessageTooLarge);
    assert_eq!(details.message, "the device answered with more than 131072 bytes");
}

#[tokio::test]
async fn an_answer_that_is_not_json_is_a_bad_gateway() {
    let (hub, rest) = start().await;
    let mut device = AnsweringDevice::connect(&hub, "d", Answer::Nothing).await;
    let deep = "[".repeat(limits::JSON_DEPTH + 1);
    for (number, body) in ["door locked", "{\"a\":", "\u{feff}1", &deep, " "]
        .into_iter()
        .enumerate()
    {
        let pending = begin(&rest, &call("m")).await;
        let seen = device.call(number + 1).await;
        device.respond(&seen, 200, body.as_bytes());
        let details = pending
            .reply()
            .await
            .refused_in_detail(ErrorCode::GenericBadGateway);
        assert!(
            details.message.starts_with("the device's answer is "),
            "{body}: {}",
            details.message
        );
    }
    let pending = begin(&rest, &call("m")).await;
    let seen = device.call(6).await;
    device.respond(&seen, 200, b"\"\xff\"");
    pending
        .reply()
        .await
        .refused_in_detail(ErrorCode::GenericBadGateway);
}

#[tokio::test]
async fn a_device_that_goes_mid_call_is_not_online() {
    let (hub, rest) = start().await;
    let _device = AnsweringDevice::connect(&hub, "d", Answer::Vanish).await;
    let details = invoke(&rest, &call("m"))
        .await
        .refused_in_detail(ErrorCode::DeviceNotOnline);
    assert_eq!(details.message, "The device disconnected before it answered.");

    let mut device = AnsweringDevice::connect(&hub, "d", Answer::Nothing).await;
    let pending = begin(&rest, &call("m")).await;
    device.call(1).await;
    let _again = AnsweringDevice::connect(&hub, "d", Answer::Nothing).await;
    let details = pending
        .reply()
        .await
        .refused_in_detail(ErrorCode::ConnectionForcefullyClosedOnNewConnection);
    assert_eq!(details.message, "The device connected again before it answered.");
}

#[tokio::test]
async fn a_device_that_is_disabled_or_deleted_mid_call_is_not_online() {
    let (hub, rest) = start().await;
    for end in ["disable", "delete"] {
        let mut device = AnsweringDevice::connect(&hub, "d", Answer::Nothing).await;
        let pending = begin(&rest, &call("m")).await;
        device.call(1).await;
        let mut identity = rest.get("/devices/d").await.ok();
        if end == "delete" {
            rest.delete("/devices/d").await.no_content();
            rest.put("/devices/d", &identity).await.ok();
        } else {
            let original = identity.clone();
            identity["status"] = "disabled".into();
            let put = |body: &Value| rest.call("PUT", "/devices/d").if_match("*").json(body);
            put(&identity).send().await.ok();
            put(&original).send().await.ok();
        }
        let details = pending
            .reply()
            .await
            .refused_in_detail(ErrorCode::DeviceNotOnline);
        assert_eq!(
            details.message, "The device disconnected before it answered.",
            "{end}"
        );
    }
}

#[tokio::test]
async fn a_device_has_a_cap_on_calls_in_flight() {
    let hub = Hub::builder().methods_in_flight(3).start().await.unwrap();
    let rest = Rest::of(&hub);
    rest.create("d").await;
    let mut device = AnsweringDevice::connect(&hub, "d", Answer::Nothing).await;
    let mut pending = Vec::new();
    for number in 1..=3 {
        pending.push(begin(&rest, &call("m")).await);
        device.call(number).await;
    }
    let reply = invoke(&rest, &call("one too many")).await;
    let details = reply.refused_in_detail(ErrorCode::DeviceMaximumInflightMethodExceeded);
    assert_eq!(
        details.message,
        "the device has 3 direct methods in flight already"
    );

    // A caller that goes away frees its place.
    drop(pending.remove(0));
    let answered = wait_for("a free place", async || {
        let call = rest.call("POST", "/twins/d/methods").json(&call("the fourth"));
        let mut reply = std::pin::pin!(call.start().await.reply());
        tokio::select! {
            seen = device.call(4) => {
                device.respond(&seen, 200, b"4");
                Ok(reply.await.ok())
            }
            refused = &mut reply => Err(refused.status),
        }
    })
    .await;
    assert_eq!(answered, json!({"status": 200, "payload": 4}));
}
