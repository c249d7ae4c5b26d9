//! AMQP: messages to devices, and what back ends are told.

use std::time::Duration;

use amqp_wire::Value;
use amqp_wire::engine::LinkId;
use amqp_wire::message::{BATCH_FORMAT, Body, Message, Properties};
use amqp_wire::performative::DeliveryState;
use amqp_wire::{engine::Outgoing, performative::Error};
use emulator::Hub;
use hub_core::property_bag::SystemProperty;
use serde_json::{Value as Json, json};

use crate::support::amqp::AmqpClient;
use crate::support::c2d::{expect_message, filter, module, send, target};
use crate::support::device::{Device, Identity};
use crate::support::rest::{Rest, start};
use crate::support::storage::{upload, write};
use crate::support::{soon, start_hub};

const SEND: &str = "amqps://localhost/messages/deviceBound";
const FEEDBACK: &str = "/messages/serviceBound/feedback";
const FILES: &str = "/messages/serviceBound/filenotifications";

fn to(address: &str) -> Message {
    Message {
        properties: Some(Box::new(Properties {
            to: Some(address.to_owned().into()),
            ..Properties::default()
        })),
        ..Message::with_data("hello")
    }
}

fn to_device(id: &str) -> Message {
    to(&format!("/devices/{id}/messages/devicebound"))
}

async fn sender(hub: &Hub) -> (AmqpClient, LinkId) {
    let mut client = AmqpClient::of_policy(hub, "service").await;
    let link = client.sender(SEND).await.unwrap();
    (client, link)
}

fn rejection(state: DeliveryState) -> Error {
    match state {
        DeliveryState::Rejected { error } => error.expect("a reason"),
        other => panic!("not rejected: {other:?}"),
    }
}

#[tokio::test]
async fn a_message_reaches_its_device_with_its_properties() {
    let hub = start_hub().await;
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&[&filter("d")]).await;
    let (mut client, link) = sender(&hub).await;
    let text = |text: &str| Value::String(text.to_owned().into());
    let expiry = hub.now().saturating_add(Duration::from_secs(600));
    let milliseconds = expiry.unix_ticks() / 10_000;
    let message = Message {
        properties: Some(Box::new(Properties {
            message_id: Value::Uuid([7; 16]),
            correlation_id: Value::Ulong(9),
            user_id: Some("me".into()),
            to: Some("/devices/d/messages/devicebound".into()),
            content_type: Some("application/json".into()),
            content_encoding: Some("utf-8".into()),
            absolute_expiry_time: Some(milliseconds),
            ..Properties::default()
        })),
        application_properties: vec![
            (text("iothub-ack"), text("full")),
            (text("color"), text("röt & blue")),
            (text("count"), Value::Long(-3)),
            (text("hot"), Value::Bool(true)),
            (text("none"), Value::Null),
        ],
        body: Body::DataSections(vec!["{\"a\":".into(), "1}".into()]),
        ..Message::default()
    };
    assert_eq!(client.send(link, &message).await, DeliveryState::Accepted);

    let received = expect_message(&mut device, &target("d")).await;
    assert_eq!(received.text(), "{\"a\":1}");
    let system = |property| received.properties.system.get(&property).map(String::as_str);
    assert_eq!(
        system(SystemProperty::MessageId),
        Some("07070707-0707-0707-0707-070707070707")
    );
    assert_eq!(system(SystemProperty::CorrelationId), Some("9"));
    assert_eq!(system(SystemProperty::UserId), Some("me"));
    assert_eq!(system(SystemProperty::ContentType), Some("application/json"));
    assert_eq!(system(SystemProperty::Ack), Some("full"));
    let seen = hub_core::time::Timestamp::parse(system(SystemProperty::Expiry).unwrap()).unwrap();
    assert_eq!(seen.unix_ticks() / 10_000, milliseconds);
    let application: Vec<(&str, &str)> = received
        .properties
        .application
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        application,
        [
            ("color", "röt & blue"),
            ("count", "-3"),
            ("hot", "true"),
            ("none", "")
        ]
    );
}

#[tokio::test]
async fn a_module_and_an_encoded_id_are_addressed() {
    let hub = start_hub().await;
    hub.create_device("a:b").unwrap();
    hub.create_device("d").unwrap();
    let identity = Identity::create_module(&hub, "d", "m");
    let mut device = Device::in_memory(&hub);
    device.connect(identity.connect()).await;
    let of_module = module("d", "m");
    device
        .subscribe(&["devices/d/modules/m/messages/devicebound/#"])
        .await;
    let (mut client, link) = sender(&hub).await;
    let message = to("/devices/d/modules/m/messages/devicebound");
    assert_eq!(client.send(link, &message).await, DeliveryState::Accepted);
    assert_eq!(expect_message(&mut device, &of_module).await.text(), "hello");
    assert_eq!(
        client.send(link, &to_device("a%3Ab")).await,
        DeliveryState::Accepted
    );
}

#[tokio::test]
async fn what_cannot_be_queued_is_rejected_with_the_reason_and_the_link_stays() {
    let hub = start_hub().await;
    hub.create_device("d").unwrap();
    let (mut client, link) = sender(&hub).await;
    let mut large = to_device("d");
    large.body = Body::Data(vec![0; 65 * 1024].into());
    let mut with_value = to_device("d");
    with_value.body = Body::Value(Value::Int(1));
    let mut past = to_device("d");
    past.properties.as_mut().unwrap().absolute_expiry_time = Some(1);
    let mut ack = to_device("d");
    ack.application_properties = vec![(Value::String("iothub-ack".into()), Value::String("maybe".into()))];
    for (message, condition) in [
        (to_device("nobody"), "amqp:not-found"),
        (to("/devices/d/modules/m/messages/devicebound"), "amqp:not-found"),
        (to("/devices/d/messages/events"), "com.microsoft:argument-error"),
        (Message::with_data("to nobody"), "com.microsoft:argument-error"),
        (large, "amqp:link:message-size-exceeded"),
        (with_value, "com.microsoft:argument-error"),
        (ack, "com.microsoft:argument-error"),
    ] {
        let error = rejection(client.send(link, &message).await);
        assert_eq!(error.condition, condition, "{error:?}");
    }
    rejection(client.send(link, &past).await);

    let batch = Outgoing {
        format: BATCH_FORMAT,
        ..Outgoing::unsettled(to_device("d").to_bytes())
    };
    let garbage = Outgoing::unsettled(&b"no message"[..]);
    for (outgoing, condition) in [(batch, "amqp:not-implemented"), (garbage, "amqp:decode-error")] {
        let sent = client.engine.send(link, outgoing).unwrap();
        client.flush().await;
        let state = client
            .wait("the outcome", |event| match event {
                amqp_wire::engine::Event::Outcome { delivery, state, .. } if *delivery == sent => {
                    state.clone()
                }
                _ => None,
            })
            .await;
        assert_eq!(rejection(state).condition, condition);
    }

    for _ in 0..50 {
        assert_eq!(client.send(link, &to_device("d")).await, DeliveryState::Accepted);
    }
    let full = rejection(client.send(link, &to_device("d")).await);
    assert_eq!(full.condition, "amqp:resource-limit-exceeded");
}

#[tokio::test]
async fn more_messages_than_the_credit_all_arrive() {
    let hub = start_hub().await;
    for n in 0..20 {
        hub.create_device(&format!("d{n}")).unwrap();
    }
    let (mut client, link) = sender(&hub).await;
    let mut waiting = std::collections::BTreeSet::new();
    for n in 0..600 {
        let payload = to_device(&format!("d{}", n % 20)).to_bytes();
        waiting.insert(client.engine.send(link, Outgoing::unsettled(payload)).unwrap());
    }
    client.flush().await;
    while !waiting.is_empty() {
        let sent = client
            .wait("the outcomes", |event| match event {
                amqp_wire::engine::Event::Outcome { delivery, state, .. } => {
                    assert_eq!(*state, Some(DeliveryState::Accepted));
                    Some(*delivery)
                }
                _ => None,
            })
            .await;
        assert!(waiting.remove(&sent));
    }
    assert_eq!(hub.counters().c2d_sent, 600);
}

/// Ends all messages of `d`, which files feedback.
async fn purge(rest: &Rest) {
    rest.call("DELETE", "/devices/d/commands").send().await.ok();
}

fn json_of(message: &Message) -> Json {
    serde_json::from_slice(&message.body.data().unwrap()).unwrap()
}

fn ids(message: &Message) -> Vec<String> {
    let records = json_of(message);
    let records = records.as_array().unwrap().iter();
    records
        .map(|record| record["originalMessageId"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn feedback_comes_when_it_is_filed_and_goes_when_it_is_accepted() {
    let (hub, rest) = start().await;
    let identity = rest.create("d").await;
    let mut client = AmqpClient::of_policy(&hub, "service").await;
    let link = client.receiver(FEEDBACK, 100).await.unwrap();
    send(&hub, "d", 1);
    purge(&rest).await;
    let (delivery, tag, message) = client.receive(link).await;
    assert_eq!(tag.len(), 16);
    let properties = message.properties.as_deref().unwrap();
    assert_eq!(
        properties.content_type.as_deref(),
        Some("application/vnd.microsoft.iothub.feedback.json")
    );
    assert_eq!(properties.user_id.as_deref(), Some(&b"localhost"[..]));
    let records = json_of(&message);
    assert_eq!(
        records,
        json!([{
            "originalMessageId": "1", "description": "Purged", "statusCode": "Purged", "deviceId": "d",
            "deviceGenerationId": identity["generationId"], "enqueuedTimeUtc": records[0]["enqueuedTimeUtc"],
        }])
    );
    client.settle(link, delivery, DeliveryState::Accepted).await;
    client.round_trip().await;
    rest.get(FEEDBACK).await.no_content();
}

#[tokio::test]
async fn feedback_that_is_released_or_whose_reader_goes_comes_again() {
    let (hub, rest) = start().await;
    rest.create("d").await;
    send(&hub, "d", 1);
    purge(&rest).await;
    let mut first = AmqpClient::of_policy(&hub, "service").await;
    let link = first.receiver(FEEDBACK, 1).await.unwrap();
    let (delivery, _, message) = first.receive(link).await;
    assert_eq!(ids(&message), ["1"]);
    // It is held: nobody else gets it.
    rest.get(FEEDBACK).await.no_content();
    first.settle(link, delivery, DeliveryState::Released).await;
    first.engine.grant(link, 1).unwrap();
    first.flush().await;
    let (_, _, message) = first.receive(link).await;
    assert_eq!(ids(&message), ["1"]);

    // A second reader gets it as soon as the first is gone without a word.
    let mut second = AmqpClient::of_policy(&hub, "service").await;
    let waiting = second.receiver(FEEDBACK, 1).await.unwrap();
    drop(first);
    let (delivery, _, message) = second.receive(waiting).await;
    assert_eq!(ids(&message), ["1"]);
    // Also when only the link is detached.
    second.engine.detach(waiting, true, None).unwrap();
    let again = second.receiver(FEEDBACK, 1).await.unwrap();
    let (delivery_again, _, message) = second.receive(again).await;
    assert_ne!((waiting, delivery), (again, delivery_again));
    assert_eq!(ids(&message), ["1"]);
    second
        .settle(again, delivery_again, DeliveryState::Accepted)
        .await;
    second.round_trip().await;
    rest.get(FEEDBACK).await.no_content();
}

#[tokio::test]
async fn a_hold_on_feedback_ends_by_itself() {
    let (hub, rest) = start().await;
    rest.create("d").await;
    send(&hub, "d", 1);
    purge(&rest).await;
    let mut first = AmqpClient::of_policy(&hub, "service").await;
    let link = first.receiver(FEEDBACK, 1).await.unwrap();
    let (delivery, _, _) = first.receive(link).await;
    let mut second = AmqpClient::of_policy(&hub, "service").await;
    let waiting = second.receiver(FEEDBACK, 1).await.unwrap();
    second.round_trip().await;
    hub.advance_clock(Duration::from_secs(61));
    let (_, _, message) = second.receive(waiting).await;
    assert_eq!(ids(&message), ["1"]);
    // Too late, and no harm.
    first.settle(link, delivery, DeliveryState::Accepted).await;
    first.round_trip().await;
    assert_eq!(first.detached(link), None);
}

#[tokio::test]
async fn file_notifications_are_told() {
    let (hub, rest) = start().await;
    rest.create("d").await;
    let mut client = AmqpClient::of_policy(&hub, "service").await;
    let link = client.receiver(FILES, 10).await.unwrap();
    let (id, path) = upload(&hub, "log.txt").await;
    write(&rest, &path, "some text").await;
    let done = json!({"correlationId": id, "isSuccess": true, "statusCode": 200, "statusDescription": "ok"});
    rest.post("/devices/d/files/notifications", &done)
        .await
        .no_content();
    let (delivery, _, message) = client.receive(link).await;
    let body = json_of(&message);
    assert_eq!(body["blobName"], "d/log.txt");
    assert_eq!(body["deviceId"], "d");
    assert_eq!(body["blobSizeInBytes"], 9);
    client
        .settle(
            link,
            delivery,
            DeliveryState::Modified {
                delivery_failed: true,
                undeliverable_here: false,
                message_annotations: Value::Null,
            },
        )
        .await;
    let (delivery, _, again) = client.receive(link).await;
    assert_eq!(json_of(&again), body);
    client.settle(link, delivery, DeliveryState::Accepted).await;
    client.round_trip().await;
    hub.advance_clock(Duration::from_secs(61));
    client.round_trip().await;
    assert!(
        tokio::time::timeout(Duration::from_millis(20), client.receive(link))
            .await
            .is_err(),
        "told again after it was accepted"
    );
}

#[tokio::test]
async fn feedback_that_a_link_may_not_settle_is_settled_when_it_is_sent() {
    let (hub, rest) = start().await;
    rest.create("d").await;
    let mut client = AmqpClient::of_policy(&hub, "service").await;
    let link = client
        .attach(amqp_wire::performative::Role::Receiver, FEEDBACK, |attach| {
            attach.snd_settle_mode = amqp_wire::performative::SenderSettleMode::Settled;
        })
        .await
        .unwrap();
    client.engine.grant(link, 1).unwrap();
    client.flush().await;
    send(&hub, "d", 1);
    purge(&rest).await;
    let (_, _, message) = client.receive(link).await;
    assert_eq!(ids(&message), ["1"]);
    soon("the hold's end", async {
        hub.advance_clock(Duration::from_secs(61));
    })
    .await;
    rest.get(FEEDBACK).await.no_content();
}

/// A client that settles nothing is served again once its holds are over.
#[tokio::test]
async fn a_link_that_never_settles_goes_on_when_its_holds_are_over() {
    const HELD: u64 = 64;
    let (hub, rest) = start().await;
    rest.create("d").await;
    let mut client = AmqpClient::of_policy(&hub, "service").await;
    let link = client.receiver(FEEDBACK, 1_000).await.unwrap();
    for number in 1..=HELD {
        send(&hub, "d", number);
        purge(&rest).await;
        let (_, _, message) = client.receive(link).await;
        assert_eq!(ids(&message), [number.to_string()]);
    }
    hub.advance_clock(std::time::Duration::from_secs(61));
    let (_, _, message) = client.receive(link).await;
    assert_eq!(ids(&message), ["1"]);
}
