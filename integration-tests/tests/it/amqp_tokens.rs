//! AMQP: how connections come about, who may attach what, and for how long.

use amqp_wire::message::{Message, Properties};
use amqp_wire::performative::{DeliveryState, Role, SaslInit};
use emulator::DEVELOPMENT_KEY;

use crate::support::amqp::{AmqpClient, AmqpTransport, event_hub_token, policy_token};
use crate::support::device::{Identity, unix_now};
use crate::support::start_hub;

const SEND: &str = "/messages/devicebound";

fn in_an_hour() -> u64 {
    unix_now() + 3600
}

fn to_device(id: &str) -> Message {
    Message {
        properties: Some(Box::new(Properties {
            to: Some(format!("/devices/{id}/messages/devicebound").into()),
            ..Properties::default()
        })),
        ..Message::with_data("hello")
    }
}

#[tokio::test]
async fn every_transport_and_login_serves_a_back_end() {
    let hub = start_hub().await;
    hub.create_device("d").unwrap();
    let token = policy_token("localhost", "service", in_an_hour());
    let anonymous = |mechanism: &'static str| {
        let mut login = SaslInit::anonymous();
        login.mechanism = mechanism.into();
        login
    };
    let logins = [None, Some(anonymous("ANONYMOUS")), Some(anonymous("MSSBCBS"))];
    for transport in AmqpTransport::ALL {
        for login in logins.clone() {
            let mut client = AmqpClient::connect(&hub, transport, login).await;
            assert_eq!(client.put_token(&token).await, 200);
            let link = client.sender(SEND).await.unwrap();
            assert_eq!(client.send(link, &to_device("d")).await, DeliveryState::Accepted);
        }
    }
    // A policy's token, and its key as clients of Event Hubs log in.
    for login in [
        SaslInit::plain("service@sas.root.localhost", &token),
        SaslInit::plain("service", DEVELOPMENT_KEY),
    ] {
        let mut client = AmqpClient::connect(&hub, AmqpTransport::Tls, Some(login)).await;
        client.sender(SEND).await.unwrap();
    }
}

#[tokio::test]
async fn a_login_that_proves_nothing_is_refused() {
    let hub = start_hub().await;
    let expired = policy_token("localhost", "service", unix_now() - 3600);
    let good = policy_token("localhost", "service", in_an_hour());
    for login in [
        SaslInit::plain("service@sas.root.localhost", &expired),
        SaslInit::plain("iothubowner@sas.root.localhost", &good),
        SaslInit::plain("device@sas.localhost", "no token"),
        SaslInit {
            mechanism: "EXTERNAL".into(),
            initial_response: None,
            hostname: None,
        },
        SaslInit {
            mechanism: "SCRAM-SHA-256".into(),
            initial_response: None,
            hostname: None,
        },
    ] {
        let mut client = AmqpClient::on(AmqpTransport::Tcp.open(&hub, None).await, Some(login));
        let error = client.expect_closed().await.unwrap();
        assert_eq!(error.condition, "amqp:unauthorized-access");
    }
}

#[tokio::test]
async fn only_good_tokens_are_taken() {
    let hub = start_hub().await;
    let mut client = AmqpClient::connect(&hub, AmqpTransport::Tcp, None).await;
    let foreign = hub_core::sas::sign(
        "localhost",
        &hub_core::sas::Key::from_bytes(b"another hub's key"),
        in_an_hour(),
        Some("service"),
    );
    for bad in [
        foreign,
        policy_token("localhost", "service", unix_now() - 3600),
        policy_token("localhost", "nobody", in_an_hour()),
        "SharedAccessSignature nonsense".into(),
        String::new(),
    ] {
        assert_eq!(client.put_token(&bad).await, 401, "{bad}");
    }
    assert_eq!(client.put_token_of_type("jwt", "e30.e30.e30").await, 401);
    let refused = client.sender(SEND).await.unwrap_err();
    assert_eq!(refused.condition, "amqp:unauthorized-access");
    // The connection is none the worse.
    assert_eq!(
        client
            .put_token(&policy_token("localhost", "service", in_an_hour()))
            .await,
        200
    );
    client.sender(SEND).await.unwrap();
}

#[tokio::test]
async fn a_token_opens_what_it_is_for() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let of_service = |resource: &str| policy_token(resource, "service", in_an_hour());
    let events = "localhost/ConsumerGroups/$Default/Partitions/0";
    // Which of sending, feedback and events each opens.
    let cases = [
        (
            policy_token("localhost", "iothubowner", in_an_hour()),
            [true, true, true],
        ),
        (of_service("amqps%3A%2F%2Fother%2F"), [true, true, true]),
        (of_service("localhost/messages"), [true, true, true]),
        (of_service("localhost/messages/events"), [false, false, true]),
        (
            policy_token("localhost", "device", in_an_hour()),
            [false, false, false],
        ),
        (
            policy_token("localhost", "registryRead", in_an_hour()),
            [false, false, false],
        ),
        (
            event_hub_token("localhost", "service", in_an_hour()),
            [false, false, true],
        ),
        (identity.token(in_an_hour()), [false, false, false]),
    ];
    for (token, allowed) in cases {
        let mut client = AmqpClient::connect(&hub, AmqpTransport::Memory, None).await;
        assert_eq!(client.put_token(&token).await, 200, "{token}");
        let links = [
            client.sender(SEND).await,
            client.receiver("/messages/serviceBound/feedback", 1).await,
            client.receiver(events, 1).await,
        ];
        for error in links.iter().filter_map(|link| link.as_ref().err()) {
            assert_eq!(error.condition, "amqp:unauthorized-access");
        }
        assert_eq!(links.map(|link| link.is_ok()), allowed, "{token}");
    }
}

#[tokio::test]
async fn links_end_with_their_token_unless_it_is_renewed() {
    let hub = start_hub().await;
    let lasting = |seconds| policy_token("localhost", "service", unix_now() + seconds);
    let mut client = AmqpClient::connect(&hub, AmqpTransport::Memory, None).await;
    assert_eq!(client.put_token(&lasting(1)).await, 200);
    let renewed = client.sender(SEND).await.unwrap();
    assert_eq!(client.put_token(&lasting(3600)).await, 200);

    let mut other = AmqpClient::connect(&hub, AmqpTransport::Memory, None).await;
    assert_eq!(other.put_token(&lasting(2)).await, 200);
    let left_alone = other.sender(SEND).await.unwrap();
    // By then the first token has ended as well.
    let error = other.expect_detached(left_alone).await;
    assert_eq!(error.condition, "amqp:unauthorized-access");
    assert_eq!(
        other.sender(SEND).await.unwrap_err().condition,
        "amqp:unauthorized-access"
    );

    client.round_trip().await;
    assert_eq!(client.detached(renewed), None);
}

/// A link stays while any token allows it, whichever let it in.
#[tokio::test]
async fn another_token_may_stand_in_for_one_that_has_ended() {
    let hub = start_hub().await;
    let lasting = |resource: &str, seconds| policy_token(resource, "service", unix_now() + seconds);
    let mut client = AmqpClient::connect(&hub, AmqpTransport::Memory, None).await;
    assert_eq!(client.put_token(&lasting("localhost", 1)).await, 200);
    let feedback = client
        .receiver("/messages/serviceBound/feedback", 1)
        .await
        .unwrap();
    let sender = client.sender(SEND).await.unwrap();
    let narrower = lasting("localhost/messages/devicebound", 3600);
    assert_eq!(client.put_token(&narrower).await, 200);
    let error = client.expect_detached(feedback).await;
    assert_eq!(error.condition, "amqp:unauthorized-access");
    client.round_trip().await;
    assert_eq!(client.detached(sender), None);
}

#[tokio::test]
async fn unknown_addresses_are_answered_and_detached() {
    let hub = start_hub().await;
    let mut client = AmqpClient::of_policy(&hub, "service").await;
    for (role, address, condition) in [
        (Role::Sender, "/messages/nowhere", "amqp:not-found"),
        (Role::Receiver, "", "amqp:not-found"),
        (
            Role::Receiver,
            "otherhub/ConsumerGroups/$Default/Partitions/0",
            "amqp:not-found",
        ),
        (Role::Receiver, SEND, "amqp:not-allowed"),
        (
            Role::Sender,
            "/messages/serviceBound/feedback",
            "amqp:not-allowed",
        ),
    ] {
        let error = client.attach(role, address, |_| {}).await.unwrap_err();
        assert_eq!(error.condition, condition, "{address}");
    }
}
