//! Messages from the cloud over AMQP: outcomes, credit, what goes back.

use amqp_wire::Value;
use amqp_wire::performative::{DeliveryState, Role, SenderSettleMode};
use emulator::Hub;
use hub_core::property_bag::SystemProperty;

use crate::support::amqp::AmqpClient;
use crate::support::c2d::{feedback, properties, send, target};
use crate::support::device::Identity;
use crate::support::rest::Rest;
use crate::support::{start_hub, wait_for};

const MESSAGES: &str = "/devices/d/messages/deviceBound";

async fn device(hub: &Hub) -> AmqpClient {
    AmqpClient::of_identity(hub, &Identity::create(hub, "d")).await
}

fn modified() -> DeliveryState {
    DeliveryState::Modified {
        delivery_failed: true,
        undeliverable_here: false,
        message_annotations: Value::Null,
    }
}

async fn expect_queue(hub: &Hub, length: u64) {
    let rest = Rest::of(hub);
    let count = async || {
        let twin = rest.get("/twins/d").await.ok();
        match twin["cloudToDeviceMessageCount"].as_u64() {
            Some(count) if count == length => Ok(()),
            other => Err(other),
        }
    };
    wait_for("the number of messages", count).await;
}

#[tokio::test]
async fn every_outcome_has_its_meaning() {
    let hub = start_hub().await;
    let mut client = device(&hub).await;
    let sent = properties(
        &[
            (SystemProperty::MessageId, "id"),
            (SystemProperty::UserId, "me"),
            (SystemProperty::Ack, "full"),
        ],
        &[("color", "red")],
    );
    hub.send_to_device(&target("d"), sent, "hello").unwrap();
    let link = client.receiver(MESSAGES, 100).await.unwrap();
    for (count, state) in [
        (0, DeliveryState::Released),
        (1, modified()),
        (2, DeliveryState::Accepted),
    ] {
        let (delivery, tag, message) = client.receive(link).await;
        assert_eq!(tag.len(), 16);
        assert_eq!(message.header.as_ref().unwrap().delivery_count, count);
        assert_eq!(
            message.message_annotation("x-opt-sequence-number"),
            Some(&Value::Long(1))
        );
        assert_eq!(message.body.data().unwrap(), "hello");
        assert_eq!(message.application_property("color"), Some(&"red".into()));
        assert_eq!(message.application_property("iothub-ack"), Some(&"full".into()));
        let section = message.properties.unwrap();
        assert_eq!(section.message_id, "id".into());
        assert_eq!(section.to.as_deref(), Some("/devices/d/messages/devicebound"));
        client.settle(link, delivery, state).await;
    }
    expect_queue(&hub, 0).await;
    let rest = Rest::of(&hub);
    assert_eq!(feedback(&rest).await, [("id".into(), "Success".into())]);
    send(&hub, "d", 2);
    let (delivery, ..) = client.receive(link).await;
    client
        .settle(link, delivery, DeliveryState::Rejected { error: None })
        .await;
    expect_queue(&hub, 0).await;
    let counters = hub.counters();
    assert_eq!((counters.c2d_completed, counters.c2d_rejected), (1, 1));
    assert_eq!(counters.c2d_abandoned, 2);
    assert_eq!(feedback(&rest).await, [("2".into(), "Rejected".into())]);
}

#[tokio::test]
async fn messages_come_as_far_as_there_is_credit() {
    let hub = start_hub().await;
    let mut client = device(&hub).await;
    let link = client.receiver(MESSAGES, 2).await.unwrap();
    for n in 1..=5 {
        send(&hub, "d", n);
    }
    for _ in 0..2 {
        let (delivery, ..) = client.receive(link).await;
        client.settle(link, delivery, DeliveryState::Accepted).await;
    }
    client.round_trip().await;
    assert_eq!(client.waiting(link), 0);
    expect_queue(&hub, 3).await;
    // A client that drains gets what there is, and no more afterwards.
    client.engine.drain(link, 10).unwrap();
    client.flush().await;
    for expected in 3..=5 {
        let (delivery, _, message) = client.receive(link).await;
        assert_eq!(message.body.data().unwrap(), expected.to_string());
        client.settle(link, delivery, DeliveryState::Accepted).await;
    }
    client.round_trip().await;
    send(&hub, "d", 6);
    client.round_trip().await;
    assert_eq!(client.waiting(link), 0);
    client.engine.grant(link, 1).unwrap();
    client.flush().await;
    let (_, _, message) = client.receive(link).await;
    assert_eq!(message.body.data().unwrap(), "6");
}

#[tokio::test]
async fn what_a_link_or_a_connection_held_waits_again() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let mut client = AmqpClient::of_identity(&hub, &identity).await;
    send(&hub, "d", 1);
    let link = client.receiver(MESSAGES, 10).await.unwrap();
    let (_, first_tag, _) = client.receive(link).await;
    client.engine.detach(link, true, None).unwrap();
    client.round_trip().await;
    // Held by nobody, and that is not counted.
    let link = client.receiver(MESSAGES, 10).await.unwrap();
    let (_, tag, message) = client.receive(link).await;
    assert_ne!(tag, first_tag);
    assert_eq!(message.header.unwrap().delivery_count, 0);
    drop(client);
    let mut client = AmqpClient::of_identity(&hub, &identity).await;
    // A link that wants its messages settled has got them with that.
    let settled = client
        .attach(Role::Receiver, MESSAGES, |attach| {
            attach.snd_settle_mode = SenderSettleMode::Settled;
        })
        .await
        .unwrap();
    client.engine.grant(settled, 1).unwrap();
    client.flush().await;
    let (_, _, message) = client.receive(settled).await;
    assert_eq!(message.body.data().unwrap(), "1");
    expect_queue(&hub, 0).await;
    assert_eq!(hub.counters().c2d_completed, 1);
}
