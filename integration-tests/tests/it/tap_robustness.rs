//! What goes on at the event tap does not reach devices and jobs, nor other
//! readers.

use emulator::Hub;
use hub_core::limits;
use mqtt_wire::{ConnectAckReason, LastWill, Packet, QoS, SubscribeReturnCode, publish_qos0};
use serde_json::json;

use crate::support::device::{Device, Identity, bytes_of};
use crate::support::jobs::{create, ended, statistics, twin_job};
use crate::support::rest::Rest;
use crate::support::tap::{client, expect, open, start_with_tap, subscriber};
use crate::support::wait_for;

/// A device sends and a job runs, as ever.
async fn is_well(hub: &Hub, sender: &mut Device, events: &str, job: &str) {
    sender.publish_acknowledged(events, job.to_owned()).await;
    let rest = Rest::of(hub);
    create(&rest, job, &twin_job("*", json!({}))).await;
    let done = ended(&rest, job).await;
    assert_eq!(done["deviceJobStatistics"], statistics([1, 0, 1, 0, 0]));
}

#[tokio::test]
async fn hostile_clients_hurt_nobody() {
    let hub = start_with_tap().await;
    let device = Identity::create(&hub, "d");
    let (mut sender, _) = Device::connected(&hub, device.connect()).await;
    let events = device.events("");
    let mut reader = subscriber(&hub, &["hub/#"]).await;

    let long = "x".repeat(60_000);
    let many: Vec<Packet> = (0..500)
        .map(|i| publish_qos0(format!("hub/{i}/t"), "x".into()))
        .collect();
    for (i, packets) in [
        vec![publish_qos0("ü", "x".into())],
        vec![publish_qos0("$SYS/broker", "x".into())],
        vec![publish_qos0(long.as_str(), "x".into())],
        vec![publish_qos0("hub/d/telemetry", vec![0; 200_000].into())],
        many,
    ]
    .into_iter()
    .enumerate()
    {
        let mut hostile = open(&hub).await;
        hostile.connect(client("h")).await;
        hostile.send_bytes(&bytes_of(packets)).await;
        hostile.expect_closed().await;
        let text = format!("j{i}");
        is_well(&hub, &mut sender, &events, &text).await;
        expect(&mut reader, "hub/d/telemetry", |json| json["body"] == text).await;
    }

    let mut last_words = client("w");
    last_words.last_will = Some(LastWill {
        qos: QoS::AtMostOnce,
        retain: true,
        topic: "ü".into(),
        message: "x".into(),
    });
    let mut hostile = open(&hub).await;
    let answer = hostile.connect(last_words).await;
    assert_eq!(answer.return_code, ConnectAckReason::NotAuthorized);
    hostile.expect_closed().await;

    // Filters that make no sense, or none that a topic could match.
    let mut hostile = open(&hub).await;
    hostile.connect(client("f")).await;
    let (good, bad) = (
        SubscribeReturnCode::Success(QoS::AtMostOnce),
        SubscribeReturnCode::Failure,
    );
    for (filter, answer) in [
        ("ü/#", good),
        ("$share/g/hub/#", good),
        (&long, good),
        ("hub/#/x", bad),
        ("hub/a+", bad),
    ] {
        let wanted = [(filter, QoS::AtMostOnce)];
        assert_eq!(hostile.subscribe_to(&wanted).await, [answer], "{filter:.20}");
    }
    is_well(&hub, &mut sender, &events, "last").await;
    expect(&mut reader, "hub/d/telemetry", |json| json["body"] == "last").await;
    hostile.expect_silence().await;
    assert_eq!(hub.connected_count(), 1);
    hub.shutdown().await;
}

#[tokio::test]
async fn filters_and_clients_are_bounded() {
    let hub = start_with_tap().await;
    let device = Identity::create(&hub, "d");
    let (mut sender, _) = Device::connected(&hub, device.connect()).await;
    let mut readers = vec![subscriber(&hub, &["hub/#"]).await];
    let reader = &mut readers[0];
    let mut answers = Vec::new();
    for i in 1..=limits::EVENT_TAP_FILTERS {
        let filter = format!("hub/{i}/#");
        answers.extend(reader.subscribe_to(&[(&filter, QoS::AtMostOnce)]).await);
    }
    assert_eq!(answers.pop(), Some(SubscribeReturnCode::Failure));
    assert!(!answers.contains(&SubscribeReturnCode::Failure));

    while readers.len() < limits::EVENT_TAP_CLIENTS {
        // The filter is known by now, so it costs nothing.
        readers.push(subscriber(&hub, &["hub/#"]).await);
    }
    let mut one_more = open(&hub).await;
    let answer = one_more.connect(client("one more")).await;
    assert_eq!(answer.return_code, ConnectAckReason::ServiceUnavailable);
    one_more.expect_closed().await;

    is_well(&hub, &mut sender, &device.events(""), "j").await;
    for reader in &mut readers {
        expect(reader, "hub/d/telemetry", |_| true).await;
    }
    // One that goes makes room.
    drop(readers.pop());
    wait_for("room for a client", async || {
        match open(&hub).await.connect(client("next")).await.return_code {
            ConnectAckReason::ConnectionAccepted => Ok(()),
            refused => Err(refused),
        }
    })
    .await;
    hub.shutdown().await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_nobody_up() {
    const MESSAGES: usize = 3000;
    let hub = start_with_tap().await;
    let device = Identity::create(&hub, "d");
    let (mut sender, _) = Device::connected(&hub, device.connect()).await;
    let mut slow = subscriber(&hub, &["hub/d/telemetry"]).await;
    let mut quick = subscriber(&hub, &["hub/d/telemetry"]).await;
    let last = format!("{}", MESSAGES - 1);
    let wanted = last.clone();
    let quick = tokio::spawn(async move {
        expect(&mut quick, "hub/d/telemetry", |json| {
            json["applicationProperties"]["i"] == *wanted
        })
        .await
    });
    let body = "x".repeat(10_000);
    for i in 0..MESSAGES {
        let topic = device.events(&format!("i={i}"));
        sender.publish_acknowledged(&topic, body.clone()).await;
    }
    quick.await.unwrap();
    is_well(&hub, &mut sender, &device.events(""), "j").await;

    // It finds the newest, in order, with some missing: all would be 30 MB.
    let (mut ids, mut seen) = (Vec::new(), String::new());
    while seen != last {
        let json = slow.expect_delivery().await.json();
        ids.push(json["id"].as_u64().unwrap());
        seen = json["applicationProperties"]["i"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
    }
    assert!(ids.is_sorted());
    assert!(ids.len() < MESSAGES, "nothing was lost");
    hub.shutdown().await;
}

#[tokio::test]
async fn connections_that_say_nothing_are_bounded() {
    let hub = start_with_tap().await;
    let mut silent = Vec::new();
    for _ in 0..2 * limits::EVENT_TAP_CLIENTS {
        silent.push(open(&hub).await);
    }
    open(&hub).await.expect_closed().await;
    // Those that are there are served.
    let answer = silent[0].connect(client("late")).await;
    assert_eq!(answer.return_code, ConnectAckReason::ConnectionAccepted);
    hub.shutdown().await;
}
