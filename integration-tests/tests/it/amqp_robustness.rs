//! AMQP: peers that break the rules, fall silent or do not read. Each is told
//! by its own condition, and nobody else notices.

use std::time::Duration;

use amqp_wire::engine::{CommandError, LinkId, Outgoing};
use amqp_wire::frame::{Protocol, put_amqp_frame};
use amqp_wire::message::{Message, Properties};
use amqp_wire::performative::{DeliveryState, Disposition, Flow, Open, Performative, Role, Transfer};
use bytes::BytesMut;
use emulator::Hub;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::amqp::{AmqpClient, AmqpTransport, policy_token};
use crate::support::device::unix_now;
use crate::support::transport::Socket;
use crate::support::{soon, start_hub, wait_for};

const SEND: &str = "/messages/devicebound";

fn to_device(id: &str) -> Message {
    Message {
        properties: Some(Box::new(Properties {
            to: Some(format!("/devices/{id}/messages/devicebound").into()),
            ..Properties::default()
        })),
        ..Message::with_data("hello")
    }
}

async fn works(client: &mut AmqpClient, link: LinkId) {
    let state = client.send(link, &to_device("d")).await;
    assert_eq!(state, DeliveryState::Accepted);
}

/// Everything that the hub says until it ends the stream.
async fn rest_of(socket: &mut Box<dyn Socket>) -> Vec<u8> {
    let mut bytes = Vec::new();
    soon("the end of the stream", async {
        // A reset is an end as well.
        let _ = socket.read_to_end(&mut bytes).await;
    })
    .await;
    bytes
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn frames(performatives: &[Performative]) -> BytesMut {
    let mut bytes = BytesMut::from(&Protocol::Amqp.header()[..]);
    for performative in performatives {
        put_amqp_frame(0, performative, &[], &mut bytes);
    }
    bytes
}

fn open() -> Performative {
    Performative::Open(Box::new(Open {
        container_id: "raw".into(),
        max_frame_size: 65_536,
        ..Open::default()
    }))
}

#[tokio::test]
async fn broken_rules_end_a_connection_with_their_condition_and_no_other() {
    let hub = start_hub().await;
    hub.create_device("d").unwrap();
    let mut other = AmqpClient::of_policy(&hub, "service").await;
    let link = other.sender(SEND).await.unwrap();
    let mut too_large = frames(&[open()]);
    too_large.extend_from_slice(&[0, 16, 0, 0, 2, 0, 0, 0]);
    let mut garbage = frames(&[open()]);
    garbage.extend_from_slice(&[0, 0, 0, 12, 2, 0, 0, 0, 0, 0x53, 0x10, 0xff]);
    let begin = || Performative::Begin(Box::default());
    let unknown_link = Performative::Transfer(Transfer {
        handle: 7,
        delivery_id: Some(0),
        ..Transfer::default()
    });
    let nothing_sent = Performative::Disposition(Disposition {
        role: Role::Receiver,
        first: 9,
        last: Some(u32::MAX),
        settled: true,
        state: Some(DeliveryState::Accepted),
        batchable: false,
    });
    for (bytes, condition) in [
        (BytesMut::from(&b"GET / HTTP/1.1\r\n\r\n"[..]), None),
        (too_large, Some("amqp:connection:framing-error")),
        (garbage, Some("amqp:decode-error")),
        (frames(&[begin()]), Some("amqp:illegal-state")),
        (frames(&[open(), open()]), Some("amqp:illegal-state")),
        (
            frames(&[open(), begin(), nothing_sent, unknown_link]),
            Some("amqp:session:unattached-handle"),
        ),
    ] {
        let mut socket = AmqpTransport::Tcp.open(&hub, None).await;
        socket.write_all(&bytes).await.unwrap();
        socket.shutdown().await.unwrap();
        let answer = rest_of(&mut socket).await;
        match condition {
            Some(condition) => assert!(contains(&answer, condition), "{condition}: {answer:?}"),
            None => assert_eq!(answer, Protocol::Amqp.header()),
        }
    }
    works(&mut other, link).await;
}

#[tokio::test]
async fn links_say_how_large_a_message_may_be() {
    let hub = start_hub().await;
    let mut client = AmqpClient::of_policy(&hub, "service").await;
    for (address, fits, too_large) in [("$cbs", 32, 33), (SEND, 256, 257)] {
        let link = client.sender(address).await.unwrap();
        // The client's engine keeps the limit that the hub has named.
        let mut send = |kilobytes: usize| {
            let outgoing = Outgoing::unsettled(vec![0_u8; kilobytes * 1024]);
            client.engine.send(link, outgoing).map(|_| ())
        };
        assert_eq!(send(too_large), Err(CommandError::TooLarge), "{address}");
        assert_eq!(send(fits), Ok(()), "{address}");
    }
}

#[tokio::test]
async fn tokens_of_a_connection_are_bounded() {
    let hub = start_hub().await;
    let mut client = AmqpClient::connect(&hub, AmqpTransport::Memory, None).await;
    let mut statuses = Vec::new();
    for n in 0..=hub_core::limits::AMQP_TOKENS {
        let token = policy_token(&format!("localhost/{n}"), "service", unix_now() + 3600);
        statuses.push(client.put_token(&token).await);
    }
    assert_eq!(statuses.pop(), Some(403));
    assert!(statuses.iter().all(|status| *status == 200));
    // One that is there already may be renewed.
    let token = policy_token("localhost/0", "service", unix_now() + 7200);
    assert_eq!(client.put_token(&token).await, 200);
}

#[tokio::test]
async fn what_a_client_holds_goes_back_when_its_socket_is_half_closed() {
    let hub = start_hub().await;
    hub.create_device("d").unwrap();
    crate::support::c2d::send(&hub, "d", 1);
    let rest = crate::support::rest::Rest::of(&hub);
    rest.call("DELETE", "/devices/d/commands").send().await.ok();
    let mut client = AmqpClient::connect(&hub, AmqpTransport::Tcp, None).await;
    let token = policy_token("localhost", "service", unix_now() + 3600);
    assert_eq!(client.put_token(&token).await, 200);
    let link = client
        .receiver("/messages/serviceBound/feedback", 1)
        .await
        .unwrap();
    client.receive(link).await;
    client.half_close().await;
    wait_for("feedback that is free again", async || {
        let reply = rest.get("/messages/serviceBound/feedback").await;
        if reply.status == 200 {
            Ok(())
        } else {
            Err(reply.status)
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_read_from() {
    let hub = start_hub().await;
    hub.create_device("d").unwrap();
    let mut flood = AmqpTransport::Memory.open(&hub, None).await;
    flood
        .write_all(&frames(&[open(), Performative::Begin(Box::default())]))
        .await
        .unwrap();
    let mut questions = BytesMut::new();
    let question = Performative::Flow(Flow {
        echo: true,
        ..Flow::default()
    });
    for _ in 0..1000 {
        put_amqp_frame(0, &question, &[], &mut questions);
    }
    // Each question has an answer, which nobody reads.
    let mut written = 0;
    let halted = tokio::time::timeout(Duration::from_millis(500), async {
        while written < 64 * 1024 * 1024 {
            written += flood.write(&questions).await.unwrap();
        }
    })
    .await;
    assert!(halted.is_err(), "the hub took {written} bytes");
    let mut other = AmqpClient::of_policy(&hub, "service").await;
    let link = other.sender(SEND).await.unwrap();
    works(&mut other, link).await;
}

/// Paused time: a minute of silence takes no time at all.
#[tokio::test(start_paused = true)]
async fn idle_peers_are_cut_off_and_slow_ones_too() {
    let hub: Hub = start_hub().await;
    let mut silent = hub.connect_amqp_in_memory();
    let mut opened = hub.connect_amqp_in_memory();
    opened.write_all(&frames(&[open()])).await.unwrap();
    let mut bytes = Vec::new();
    silent.read_to_end(&mut bytes).await.unwrap();
    assert!(bytes.is_empty());
    opened.read_to_end(&mut bytes).await.unwrap();
    assert!(contains(&bytes, "amqp:connection:forced"), "{bytes:?}");
}

#[tokio::test]
async fn peers_are_told_when_the_hub_stops() {
    let hub = start_hub().await;
    let mut client = AmqpClient::of_policy(&hub, "service").await;
    let link = client.sender(SEND).await.unwrap();
    // These do not keep the hub from stopping.
    let _silent = hub.connect_amqp_in_memory();
    let mut deaf = hub.connect_amqp_in_memory();
    deaf.write_all(&frames(&[open()])).await.unwrap();
    let stop = tokio::spawn(hub.shutdown());
    let error = client.expect_closed().await.unwrap();
    assert_eq!(error.condition, "amqp:connection:forced");
    assert_eq!(client.engine.credit(link), Err(CommandError::Gone));
    soon("the hub's end", stop).await.unwrap();
    let mut bytes = Vec::new();
    deaf.read_to_end(&mut bytes).await.unwrap();
    assert!(contains(&bytes, "amqp:connection:forced"), "{bytes:?}");
}
