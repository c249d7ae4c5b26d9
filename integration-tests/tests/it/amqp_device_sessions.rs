//! Devices over AMQP come and go: takeover, identities that change, many of
//! them on one connection, certificates.

use amqp_wire::message::Message;
use amqp_wire::performative::{DeliveryState, SaslInit};
use serde_json::json;

use crate::support::amqp::{AmqpClient, AmqpTransport, policy_token};
use crate::support::back_end::BackEnd;
use crate::support::certificates::Holder;
use crate::support::device::{Device, Identity, unix_now};
use crate::support::rest::start;
use crate::support::{start_hub, wait_for};

const EVENTS: &str = "/devices/d/messages/events";
const MESSAGES: &str = "/devices/d/messages/devicebound";

#[tokio::test]
async fn a_device_has_one_connection_over_whatever_protocol() {
    let hub = start_hub().await;
    let back = BackEnd::of(&hub);
    let identity = Identity::create(&hub, "d");
    let mut first = AmqpClient::of_identity(&hub, &identity).await;
    // Who only shows a token is not there yet.
    assert_eq!(hub.connected_count(), 0);
    let events = first.sender(EVENTS).await.unwrap();
    let messages = first.receiver(MESSAGES, 1).await.unwrap();
    assert_eq!(hub.connected_count(), 1);
    let twin = back.twin("d").await;
    assert_eq!(twin["connectionState"], "Connected");

    // The same link again takes the place of the older, the others stay.
    let newer = first.sender(EVENTS).await.unwrap();
    assert_eq!(
        first.expect_detached(events).await.condition,
        "amqp:link:detach-forced"
    );
    let hello = Message::with_data("hello");
    assert_eq!(first.send(newer, &hello).await, DeliveryState::Accepted);

    let mut second = AmqpClient::of_identity(&hub, &identity).await;
    let link = second.sender(EVENTS).await.unwrap();
    for taken in [newer, messages] {
        let error = first.expect_detached(taken).await;
        assert_eq!(error.condition, "amqp:link:detach-forced");
    }
    let (mut third, _) = Device::connected(&hub, identity.connect()).await;
    assert_eq!(
        second.expect_detached(link).await.condition,
        "amqp:link:detach-forced"
    );
    let link = second.sender(EVENTS).await.unwrap();
    third.expect_closed().await;
    assert_eq!(second.send(link, &hello).await, DeliveryState::Accepted);
    assert_eq!(hub.connected_count(), 1);
    assert_eq!(hub.counters().takeovers, 3);

    // The last link that goes takes the session along.
    second.engine.detach(link, true, None).unwrap();
    second.round_trip().await;
    assert_eq!(hub.connected_count(), 0);
}

#[tokio::test]
async fn a_connection_serves_many_identities_each_for_itself() {
    let hub = start_hub().await;
    let back = BackEnd::of(&hub);
    for id in ["a", "b", "c"] {
        Identity::create(&hub, id);
    }
    Identity::create_module(&hub, "a", "m");
    let mut client = AmqpClient::connect(&hub, AmqpTransport::Memory, None).await;
    let token = policy_token("localhost", "device", unix_now() + 3600);
    assert_eq!(client.put_token(&token).await, 200);
    let mut links = Vec::new();
    for address in [
        "/devices/a/messages/events",
        "/devices/a/modules/m/messages/events",
        "/devices/b/messages/events",
        "/devices/c/messages/events",
    ] {
        links.push(client.sender(address).await.unwrap());
    }
    assert_eq!(hub.connected_count(), 4);
    back.delete("a/modules/m").await;
    assert_eq!(client.expect_detached(links[1]).await.condition, "amqp:not-found");
    back.delete("b").await;
    assert_eq!(client.expect_detached(links[2]).await.condition, "amqp:not-found");
    back.set_status("c", "disabled").await;
    assert_eq!(
        client.expect_detached(links[3]).await.condition,
        "amqp:unauthorized-access"
    );
    for address in ["/devices/b/messages/events", "/devices/c/messages/events"] {
        let refused = client.sender(address).await.unwrap_err();
        assert_eq!(refused.condition, "amqp:unauthorized-access");
    }
    let hello = Message::with_data("hello");
    assert_eq!(client.send(links[0], &hello).await, DeliveryState::Accepted);
    assert_eq!(hub.connected_count(), 1);
    client.engine.close(None).unwrap();
    client.expect_closed().await;
    wait_for("all to be gone", async || match hub.connected_count() {
        0 => Ok(()),
        n => Err(n),
    })
    .await;
}

#[tokio::test]
async fn a_certificate_opens_the_links_of_its_device_only() {
    let (hub, rest) = start().await;
    let holder = Holder::self_signed("d");
    let thumbprints = json!({"primaryThumbprint": holder.sha1(), "secondaryThumbprint": null});
    for (id, authentication) in [
        ("d", json!({"type": "selfSigned", "x509Thumbprint": thumbprints})),
        ("e", json!({"type": "sas"})),
    ] {
        let path = format!("/devices/{id}");
        rest.put(&path, &json!({ "authentication": authentication }))
            .await
            .ok();
    }
    let external = SaslInit {
        mechanism: "EXTERNAL".into(),
        initial_response: None,
        hostname: None,
    };
    for login in [None, Some(SaslInit::anonymous()), Some(external)] {
        let socket = AmqpTransport::Tls.open(&hub, Some(&holder)).await;
        let mut client = AmqpClient::on(socket, login);
        client.begin().await;
        let link = client.sender(EVENTS).await.unwrap();
        let hello = Message::with_data("hello");
        assert_eq!(client.send(link, &hello).await, DeliveryState::Accepted);
        let refused = client.sender("/devices/e/messages/events").await.unwrap_err();
        assert_eq!(refused.condition, "amqp:unauthorized-access");
    }
    let stranger = Holder::self_signed("d");
    let socket = AmqpTransport::Tls.open(&hub, Some(&stranger)).await;
    let mut client = AmqpClient::on(socket, None);
    client.begin().await;
    let refused = client.sender(EVENTS).await.unwrap_err();
    assert_eq!(refused.condition, "amqp:unauthorized-access");
}
