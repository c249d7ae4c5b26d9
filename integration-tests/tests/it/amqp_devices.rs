//! Devices and modules over AMQP: telemetry, direct methods, twins.

use amqp_wire::Value;
use amqp_wire::engine::{LinkId, Outgoing};
use amqp_wire::message::{BATCH_FORMAT, Body, Message, Properties, batch};
use amqp_wire::performative::{DeliveryState, Role};
use emulator::Hub;
use hub_core::error::ErrorCode;
use hub_core::property_bag::SystemProperty;
use hub_core::tier::{Sku, Tier};
use serde_json::json;

use crate::support::amqp::AmqpClient;
use crate::support::back_end::BackEnd;
use crate::support::c2d::target;
use crate::support::device::Identity;
use crate::support::{start_hub, wait_for};

const TWIN: &str = "/devices/d/twin";
const METHODS: &str = "/devices/d/methods/devicebound";
const EVENTS: &str = "/devices/d/messages/events";

/// A connection that has shown the token of a device that is made for it.
async fn device(hub: &Hub, id: &str) -> AmqpClient {
    AmqpClient::of_identity(hub, &Identity::create(hub, id)).await
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned().into())
}

fn condition(outcome: DeliveryState) -> String {
    match outcome {
        DeliveryState::Rejected { error: Some(error) } => error.condition.to_string(),
        other => panic!("{other:?} is no refusal"),
    }
}

fn bodies(hub: &Hub) -> Vec<String> {
    let kept = hub.telemetry_after(0);
    kept.iter()
        .map(|message| String::from_utf8_lossy(&message.body).into_owned())
        .collect()
}

#[tokio::test]
async fn telemetry_is_kept_before_it_is_accepted() {
    let hub = start_hub().await;
    let mut client = device(&hub, "d").await;
    let link = client.sender(EVENTS).await.unwrap();
    let mut message = Message::with_data("hello");
    message.properties = Some(Box::new(Properties {
        message_id: Value::Uuid([0x11; 16]),
        content_type: Some("text/plain".into()),
        to: Some(EVENTS.into()),
        ..Properties::default()
    }));
    message.application_properties = vec![(text("color"), text("red")), (text("n"), Value::Int(7))];
    message.message_annotations = vec![(Value::symbol("dt-subject"), text("thermostat"))];
    assert_eq!(client.send(link, &message).await, DeliveryState::Accepted);
    let kept = hub.telemetry_after(0);
    let [kept] = &kept[..] else { panic!("{kept:?}") };
    assert_eq!((&kept.source, &kept.body[..]), (&target("d"), &b"hello"[..]));
    assert_eq!(
        kept.properties.encode(),
        "%24.mid=11111111-1111-1111-1111-111111111111&%24.ct=text%2Fplain&%24.sub=thermostat&color=red&n=7"
    );

    // A batch is several messages, and all of them or none.
    let batched = |messages: &[Message]| Outgoing {
        format: BATCH_FORMAT,
        ..Outgoing::settled(batch(messages))
    };
    let [one, two] = ["one", "two"].map(Message::with_data);
    client.engine.send(link, batched(&[one.clone(), two])).unwrap();
    client.round_trip().await;
    assert_eq!(bodies(&hub), ["hello", "one", "two"]);
    let mut bad = Message::with_data("bad");
    bad.application_properties = vec![(text("list"), Value::List(vec![]))];
    client.engine.send(link, batched(&[one, bad.clone()])).unwrap();
    client.flush().await;
    // It was settled: nothing but the end of the link can tell.
    let error = client.expect_detached(link).await;
    assert_eq!(error.condition, "com.microsoft:argument-error");

    // What is not settled is rejected, and the link stays.
    let link = client.sender(EVENTS).await.unwrap();
    assert_eq!(
        condition(client.send(link, &bad).await),
        "com.microsoft:argument-error"
    );
    let last = Message::with_data("last");
    assert_eq!(client.send(link, &last).await, DeliveryState::Accepted);
    assert_eq!(bodies(&hub), ["hello", "one", "two", "last"]);
    let huge = Message::with_data(vec![0; 300_000]);
    if client
        .engine
        .send(link, Outgoing::unsettled(huge.to_bytes()))
        .is_ok()
    {
        client.flush().await;
        let error = client.expect_detached(link).await;
        assert_eq!(error.condition, "amqp:link:message-size-exceeded");
    }
}

#[tokio::test]
async fn a_quota_that_is_used_up_rejects_telemetry() {
    let tier = Tier::new(Sku::F1, 1).unwrap();
    let hub = Hub::builder().tier(tier).start().await.unwrap();
    let mut client = device(&hub, "d").await;
    let link = client.sender(EVENTS).await.unwrap();
    let large = Message::with_data(vec![b'x'; 250_000]);
    let mut kept = 0;
    let refusal = loop {
        match client.send(link, &large).await {
            DeliveryState::Accepted => kept += 1,
            refusal => break condition(refusal),
        }
        assert!(kept < 100, "there is no quota");
    };
    assert_eq!(refusal, "amqp:resource-limit-exceeded");
    assert_eq!(hub.telemetry_after(0).len(), kept);
}

/// The request that comes next on a link for method calls: id, name and payload.
async fn request(client: &mut AmqpClient, link: LinkId) -> (Value, String, Body) {
    let (_, _, message) = client.receive(link).await;
    let name = message.application_property("IoThub-methodname").unwrap();
    let name = name.as_str().unwrap().to_owned();
    (message.properties.unwrap().correlation_id, name, message.body)
}

fn answer(id: Value, status: i32, body: &'static str) -> Message {
    Message {
        properties: Some(Box::new(Properties {
            correlation_id: id,
            ..Properties::default()
        })),
        application_properties: vec![(text("IoThub-status"), Value::Int(status))],
        ..Message::with_data(body)
    }
}

#[tokio::test]
async fn methods_are_called_while_their_link_is_there() {
    let hub = start_hub().await;
    let back = BackEnd::of(&hub);
    let mut client = device(&hub, "d").await;
    let answers = client.sender(METHODS).await.unwrap();
    // Connected, yet not listening.
    assert_eq!(
        back.call(&target("d"), "m", json!(1)).await.unwrap_err(),
        ErrorCode::DeviceNotOnline
    );
    let requests = client.receiver(METHODS, 10).await.unwrap();
    for as_uuid in [false, true] {
        let device = async {
            let (id, name, body) = request(&mut client, requests).await;
            assert_eq!((&*name, body), ("lock", Body::Data("{\"a\":[1]}".into())));
            let id = match id.as_str() {
                Some(hex) if as_uuid => {
                    let hex = hex.replace('-', "");
                    Value::Uuid(u128::from_str_radix(&hex, 16).unwrap().to_be_bytes())
                }
                _ => id,
            };
            let sent = client.send(answers, &answer(id, -7, "\"done\"")).await;
            assert_eq!(sent, DeliveryState::Accepted);
        };
        let target = target("d");
        let called = back.call(&target, "lock", json!({"a": [1]}));
        let (called, ()) = tokio::join!(called, device);
        let called = called.unwrap();
        assert_eq!((called.status, called.payload.to_value()), (-7, json!("done")));
    }

    // Answers that say too little are rejected; one that nobody waits for is
    // just late.
    let late = answer(text("00000000-0000-4000-8000-000000000001"), 200, "");
    assert_eq!(client.send(answers, &late).await, DeliveryState::Accepted);
    for bad in [answer(Value::Null, 200, ""), Message::with_data("")] {
        assert_eq!(
            condition(client.send(answers, &bad).await),
            "com.microsoft:argument-error"
        );
    }

    client.engine.detach(requests, true, None).unwrap();
    client.round_trip().await;
    assert_eq!(
        back.call(&target("d"), "m", json!(1)).await.unwrap_err(),
        ErrorCode::DeviceNotOnline
    );
    assert_eq!(hub.connected_count(), 1);
    // A call that is under way when the device goes away is told.
    let requests = client.receiver(METHODS, 10).await.unwrap();
    let target = target("d");
    let called = back.call(&target, "m", json!(1));
    let device = async {
        request(&mut client, requests).await;
        drop(client);
    };
    assert_eq!(
        tokio::join!(called, device).0.unwrap_err(),
        ErrorCode::DeviceNotOnline
    );
    wait_for("the device to be gone", async || match hub.connected_count() {
        0 => Ok(()),
        n => Err(n),
    })
    .await;
}

/// A request of a device for its twin.
fn twin_request(id: &str, operation: &'static str, resource: &'static str, body: &'static str) -> Message {
    Message {
        properties: Some(Box::new(Properties {
            correlation_id: text(id),
            ..Properties::default()
        })),
        message_annotations: vec![
            (Value::symbol("operation"), operation.into()),
            (Value::symbol("resource"), resource.into()),
        ],
        ..Message::with_data(body)
    }
}

/// Asks and gives status, version and body of the answer.
async fn ask(
    client: &mut AmqpClient,
    (requests, answers): (LinkId, LinkId),
    message: Message,
) -> (i64, Option<i64>, serde_json::Value) {
    let sent = client.send(requests, &message).await;
    assert_eq!(sent, DeliveryState::Accepted);
    let (_, _, answer) = client.receive(answers).await;
    let id = |message: &Message| message.properties.as_ref().unwrap().correlation_id.clone();
    assert_eq!(id(&answer), id(&message));
    let number = |name| answer.message_annotation(name).and_then(Value::as_i64);
    let Body::Data(body) = &answer.body else {
        panic!("{:?}", answer.body)
    };
    let body = if body.is_empty() {
        json!(null)
    } else {
        serde_json::from_slice(body).unwrap()
    };
    (number("status").unwrap(), number("version"), body)
}

#[tokio::test]
async fn a_device_works_on_its_twin() {
    const DESIRED: &str = "/notifications/twin/properties/desired";
    let hub = start_hub().await;
    let back = BackEnd::of(&hub);
    let mut client = device(&hub, "d").await;
    back.patch_desired("d", json!({"speed": 5})).await;
    let links = (
        client.sender(TWIN).await.unwrap(),
        client.receiver(TWIN, 100).await.unwrap(),
    );
    let whole = ask(&mut client, links, twin_request("1", "GET", "", " ")).await;
    let expected = json!({"desired": {"speed": 5, "$version": 2}, "reported": {"$version": 1}});
    assert_eq!(whole, (200, None, expected));
    let patch = twin_request("2", "PATCH", "/properties/reported", "{\"on\":true}");
    let patched = ask(&mut client, links, patch.clone()).await;
    assert_eq!(patched, (204, Some(2), json!(null)));
    assert_eq!(back.twin("d").await["properties"]["reported"]["on"], true);

    // A version that is not the one, and what is no patch or no operation.
    let mut stale = patch.clone();
    stale
        .message_annotations
        .push((Value::symbol("version"), Value::Long(1)));
    let (status, _, body) = ask(&mut client, links, stale).await;
    assert_eq!((status, &body["errorCode"]), (412, &json!(412_001)));
    for (operation, resource, body) in [
        ("PATCH", "/properties/reported", "no JSON"),
        ("PATCH", "/properties/reported", "{\"a.b\":1}"),
        ("PATCH", "/properties/desired", "{}"),
        ("FETCH", "", ""),
    ] {
        let (status, _, body) = ask(&mut client, links, twin_request("3", operation, resource, body)).await;
        assert_eq!(status, 400, "{operation} {resource} {body}");
    }
    let nameless = Message {
        properties: None,
        ..patch
    };
    assert_eq!(
        condition(client.send(links.0, &nameless).await),
        "com.microsoft:argument-error"
    );
    assert_eq!(back.twin("d").await["properties"]["reported"]["$version"], 2);

    // Changes come while they are asked for, in their order.
    back.patch_desired("d", json!({"speed": 6})).await;
    let (status, _, _) = ask(&mut client, links, twin_request("4", "PUT", DESIRED, " ")).await;
    assert_eq!(status, 200);
    for speed in 7..10 {
        let version = back.patch_desired("d", json!({ "speed": speed })).await;
        let (_, _, change) = client.receive(links.1).await;
        assert_eq!(change.properties, None);
        assert_eq!(
            change.message_annotation("version").and_then(Value::as_i64),
            i64::try_from(version).ok()
        );
        let Body::Data(body) = change.body else { panic!() };
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body, json!({"speed": speed, "$version": version}));
    }
    let (status, _, _) = ask(&mut client, links, twin_request("5", "DELETE", DESIRED, " ")).await;
    assert_eq!(status, 200);
    back.patch_desired("d", json!({"speed": 10})).await;
    let whole = ask(&mut client, links, twin_request("6", "GET", "", " ")).await;
    assert_eq!(whole.2["desired"]["speed"], 10);
}

#[tokio::test]
async fn a_module_has_links_of_its_own() {
    let hub = start_hub().await;
    Identity::create(&hub, "d");
    let module = Identity::create_module(&hub, "d", "m");
    let mut client = AmqpClient::of_identity(&hub, &module).await;
    let link = client
        .sender("/devices/d/modules/m/messages/events")
        .await
        .unwrap();
    let mut message = Message::with_data("x");
    message.application_properties = vec![(text("iothub-outputname"), text("out"))];
    assert_eq!(client.send(link, &message).await, DeliveryState::Accepted);
    let kept = hub.telemetry_after(0);
    assert_eq!(kept[0].source, module.target);
    assert_eq!(kept[0].properties.system[&SystemProperty::Output], "out");
    // Inputs are for modules, and devices do not send where they receive.
    client
        .receiver("/devices/d/modules/m/messages/events", 1)
        .await
        .unwrap();
    let refused = client.sender("/devices/d/modules/m/messages/devicebound").await;
    assert_eq!(refused.unwrap_err().condition, "amqp:not-allowed");
    let back = BackEnd::of(&hub);
    let state = back.twin("d/modules/m").await["connectionState"].clone();
    assert_eq!(state, "Connected");
    assert_eq!(back.twin("d").await["connectionState"], "Disconnected");
    // The module's token is for nobody else.
    let refused = client.attach(Role::Sender, EVENTS, |_| {}).await;
    assert_eq!(refused.unwrap_err().condition, "amqp:unauthorized-access");
}
