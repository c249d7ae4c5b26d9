//! Digital twins and their commands over REST.

use emulator::Hub;
use hub_core::error::ErrorCode;
use serde_json::{Value, json};

use crate::support::answering::{Answer, AnsweringDevice};
use crate::support::device::{Device, Identity};
use crate::support::rest::{Rest, start as start_empty};
use crate::support::wait_for;

/// A hub with a device `d`.
async fn start() -> (Hub, Rest) {
    let (hub, rest) = start_empty().await;
    rest.create("d").await;
    (hub, rest)
}

fn add(path: &str, value: &Value) -> Value {
    json!([{"op": "add", "path": path, "value": value}])
}

#[tokio::test]
async fn desired_values_are_set_told_and_acknowledged() {
    let (hub, rest) = start().await;
    let fresh = rest.get("/digitaltwins/d").await;
    assert_eq!(fresh.header("etag"), Some("\"AAAAAAAAAAE=\""));
    assert_eq!(fresh.ok(), json!({"$dtId": "d", "$metadata": {}}));

    let mut device = AnsweringDevice::connect(&hub, "d", Answer::Nothing).await;
    let updated = rest
        .patch("/digitaltwins/d", &add("/thermostat1/target", &json!(21.5)))
        .await;
    assert_eq!(updated.status, 202, "{}", updated.text());
    assert!(updated.body.is_empty());
    assert_eq!(updated.header("etag"), Some("\"AAAAAAAAAAI=\""));
    assert_eq!(
        updated.header("location"),
        Some("https://localhost/digitaltwins/d")
    );
    let seen = device
        .saw("a notification", |seen| !seen.desired.is_empty())
        .await;
    let expected = json!({"thermostat1": {"__t": "c", "target": 21.5}, "$version": 2});
    assert_eq!(seen.desired[0], expected);
    let twin = rest.get("/digitaltwins/d").await.ok();
    assert_eq!(
        twin["thermostat1"],
        json!({"$metadata": {"target": {"desiredValue": 21.5, "desiredVersion": 2}}})
    );
    let report = json!({"thermostat1": {"__t": "c", "target": {"value": 21.5, "ac": 200, "av": 2}}});
    device.publish(
        "$iothub/twin/PATCH/properties/reported/?$rid=1",
        report.to_string().as_bytes(),
    );
    wait_for("the value", async || {
        let twin = rest.get("/digitaltwins/d").await.ok();
        if twin["thermostat1"]["target"] == 21.5 {
            Ok(())
        } else {
            Err(twin)
        }
    })
    .await;
}

#[tokio::test]
async fn the_model_is_the_one_that_the_device_announced() {
    let (hub, rest) = start_empty().await;
    let mut connect = Identity::create(&hub, "d").connect();
    let user = format!(
        "{}&model-id=dtmi%3Acom%3Aexample%3AThermostat%3B1",
        connect.username.unwrap()
    );
    connect.username = Some(user.into());
    let _device = Device::connected(&hub, connect).await;
    let twin = rest.get("/digitaltwins/d").await.ok();
    assert_eq!(twin["$metadata"]["$model"], "dtmi:com:example:Thermostat;1");
}

#[tokio::test]
async fn a_patch_has_a_precondition_and_leaves_no_trace_when_it_is_refused() {
    let (_hub, rest) = start().await;
    let patch = async |if_match: &str, body: &Value| {
        rest.call("PATCH", "/digitaltwins/d")
            .if_match(if_match)
            .json(body)
            .send()
            .await
    };
    let good = add("/p", &json!(1));
    patch("\"AAAAAAAAAAk=\"", &good)
        .await
        .refused_bare(ErrorCode::PreconditionFailed);
    assert_eq!(patch("\"AAAAAAAAAAE=\"", &good).await.status, 202);
    assert_eq!(patch("*", &good).await.status, 202);
    let before = rest.get("/twins/d").await.ok();
    for (body, code) in [
        (json!({}), ErrorCode::InvalidDigitalTwinJsonPatch),
        (
            json!([{"op": "move", "from": "/a", "path": "/b"}]),
            ErrorCode::InvalidDigitalTwinJsonPatch,
        ),
        (add("/a/b/c", &json!(1)), ErrorCode::InvalidDigitalTwinPatchPath),
        (
            add("/$metadata", &json!(1)),
            ErrorCode::InvalidDigitalTwinPatchPath,
        ),
        (add("/a", &json!(null)), ErrorCode::InvalidDigitalTwinPayload),
        (add("/a", &json!([1])), ErrorCode::InvalidDigitalTwinPayload),
        (
            add("/a", &json!("x".repeat(5000))),
            ErrorCode::InvalidDigitalTwinPayload,
        ),
        (add("/p/inner", &json!(1)), ErrorCode::ArgumentInvalid),
        (
            json!([{"op": "add", "path": "/good", "value": 1}, {"op": "add", "path": "/", "value": 1}]),
            ErrorCode::InvalidDigitalTwinPatchPath,
        ),
    ] {
        rest.patch("/digitaltwins/d", &body).await.refused_bare(code);
    }
    assert_eq!(rest.get("/twins/d").await.ok(), before);
    rest.get("/digitaltwins/nobody")
        .await
        .refused_bare(ErrorCode::DeviceNotFound);
    rest.patch("/digitaltwins/nobody", &good)
        .await
        .refused_bare(ErrorCode::DeviceNotFound);
    rest.get("/digitaltwins/a%20b")
        .await
        .refused(ErrorCode::ArgumentInvalid);
    let empty = rest.call("PATCH", "/digitaltwins/d").send().await;
    empty.refused(ErrorCode::ArgumentNull);
}

#[tokio::test]
async fn commands_are_direct_methods() {
    let (hub, rest) = start().await;
    let answer = Answer::json(202, &json!({"done": true}));
    let mut device = AnsweringDevice::connect(&hub, "d", answer).await;
    for (number, (path, name)) in [
        ("commands/reboot", "reboot"),
        (
            "components/thermostat1/commands/getReport",
            "thermostat1*getReport",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/digitaltwins/d/{path}?connectTimeoutInSeconds=5&responseTimeoutInSeconds=10");
        let reply = rest.post(&path, &json!({"delay": 1})).await;
        assert_eq!(reply.header("x-ms-command-statuscode"), Some("202"));
        assert_eq!(reply.ok(), json!({"done": true}));
        let call = device.call(number + 1).await;
        assert_eq!(
            (call.name.as_str(), &*call.payload),
            (name, &b"{\"delay\":1}"[..])
        );
    }
    rest.call("POST", "/digitaltwins/d/commands/bare")
        .send()
        .await
        .ok();
    assert_eq!(&*device.call(3).await.payload, b"null");
    for query in [
        "responseTimeoutInSeconds=4",
        "connectTimeoutInSeconds=x",
        "connectTimeoutInSeconds=301",
    ] {
        let reply = rest
            .post(&format!("/digitaltwins/d/commands/x?{query}"), &json!(1))
            .await;
        reply.refused_bare(ErrorCode::ArgumentInvalid);
    }
    let long = format!("/digitaltwins/d/commands/{}", "x".repeat(101));
    rest.post(&long, &json!(1))
        .await
        .refused_bare(ErrorCode::ArgumentInvalid);
    let reply = rest
        .call("POST", "/digitaltwins/d/commands/x")
        .body("{")
        .send()
        .await;
    reply.refused(ErrorCode::ArgumentInvalid);
    rest.create("offline").await;
    let reply = rest.post("/digitaltwins/offline/commands/x", &json!(1)).await;
    reply.refused_bare(ErrorCode::DeviceNotOnline);
    let reply = rest.post("/digitaltwins/nobody/commands/x", &json!(1)).await;
    reply.refused_bare(ErrorCode::DeviceNotFound);
}
