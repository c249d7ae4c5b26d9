//! The Event-Hub-compatible endpoint: who reads which events, from where, at
//! which pace, and what is said about the stream.

use std::num::NonZeroUsize;

use amqp_wire::Value;
use amqp_wire::engine::{Event, LinkId, SentId};
use amqp_wire::message::{Body, Message, Properties};
use amqp_wire::performative::{Attach, Error, Role, SaslInit};
use amqp_wire::value::Array;
use emulator::{EventSettings, Hub};
use hub_core::events::Retention;
use serde_json::{Value as Json, json};

use crate::support::amqp::{AmqpClient, AmqpTransport, event_hub_token, policy_token};
use crate::support::device::{Device, Identity, unix_now};
use crate::support::rest::Rest;
use crate::support::wait_for;

const PARTITION: &str = "localhost/ConsumerGroups/$Default/Partitions/0";

/// A hub with one partition and a device.
async fn hub_with(retention: Retention) -> (Hub, Rest) {
    let mut settings = EventSettings::default().with_partitions(NonZeroUsize::MIN);
    settings.retention = retention;
    let hub = Hub::builder().events(settings).start().await.unwrap();
    hub.create_device("d").unwrap();
    let rest = Rest::of(&hub);
    (hub, rest)
}

/// Sends messages with the numbers of a range as bodies.
async fn send(rest: &Rest, numbers: std::ops::Range<usize>) {
    let bodies: Vec<Json> = numbers
        .map(|number| json!({"body": number.to_string(), "base64Encoded": false}))
        .collect();
    rest.call("POST", "/devices/d/messages/events")
        .header("Content-Type", "application/vnd.microsoft.iothub.json")
        .json(&Json::Array(bodies))
        .send()
        .await
        .no_content();
}

async fn admin(rest: &Rest, method: &str, path: &str) {
    let path = format!("/_emulator/{path}");
    rest.exactly(method, &path).send().await.no_content();
}

/// A connection as clients of Event Hubs make it.
async fn reader(hub: &Hub) -> AmqpClient {
    let mut client = AmqpClient::connect(hub, AmqpTransport::Memory, Some(SaslInit::anonymous())).await;
    let token = event_hub_token("sb%3a%2f%2flocalhost%2flocalhost", "service", unix_now() + 3600);
    assert_eq!(client.put_token(&token).await, 200);
    client
}

/// Attaches a reader that begins where `selector` says.
async fn read_from(client: &mut AmqpClient, selector: &str, credit: u32) -> Result<LinkId, Error> {
    let change = |attach: &mut Attach| {
        let name = || Value::symbol("apache.org:selector-filter:string");
        let filter = Value::described(name(), Value::string(selector.to_owned()));
        attach.source.as_mut().unwrap().filter = Value::Map(vec![(name(), filter)]);
    };
    let link = client.attach(Role::Receiver, PARTITION, change).await?;
    give(client, link, credit).await;
    Ok(link)
}

async fn give(client: &mut AmqpClient, link: LinkId, credit: u32) {
    client.engine.grant(link, credit).unwrap();
    client.flush().await;
}

async fn read_with_epoch(client: &mut AmqpClient, epoch: i64) -> Result<LinkId, Error> {
    let change = |attach: &mut Attach| {
        attach.properties = Value::Map(vec![(Value::symbol("com.microsoft:epoch"), epoch.into())]);
    };
    client.attach(Role::Receiver, PARTITION, change).await
}

fn body(message: &Message) -> String {
    String::from_utf8(message.body.data().unwrap().to_vec()).unwrap()
}

/// The bodies of the next messages.
async fn bodies(client: &mut AmqpClient, link: LinkId, count: usize) -> Vec<String> {
    let mut bodies = Vec::new();
    while bodies.len() < count {
        bodies.push(body(&client.receive(link).await.2));
    }
    bodies
}

fn texts(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

/// Whether a message of this link has come that nobody has taken.
async fn has_more(client: &mut AmqpClient, link: LinkId) -> bool {
    client.round_trip().await;
    client.has(|event| matches!(event, Event::Message { link: from, .. } if *from == link))
}

#[tokio::test]
async fn events_are_messages_with_everything_that_is_known() {
    let (hub, _) = hub_with(Retention::default()).await;
    let identity = Identity::create(&hub, "e");
    let (mut device, _) = Device::connected(&hub, identity.connect()).await;
    let bag = "%24.mid=1&%24.cid=c&%24.uid=u&%24.ct=application%2Fjson&%24.ce=utf-8&a=b";
    device
        .publish_acknowledged(&identity.events(bag), r#"{"t":1}"#)
        .await;
    let mut client = reader(&hub).await;
    let link = client.receiver(PARTITION, 10).await.unwrap();
    let (_, _, message) = client.receive(link).await;
    let properties = message.properties.as_deref().unwrap();
    assert_eq!(properties.message_id, "1".into());
    assert_eq!(properties.correlation_id, "c".into());
    assert_eq!(properties.user_id.as_deref(), Some(&b"u"[..]));
    assert_eq!(properties.content_type.as_deref(), Some("application/json"));
    assert_eq!(properties.content_encoding.as_deref(), Some("utf-8"));
    assert_eq!(message.application_properties, [("a".into(), "b".into())]);
    assert_eq!(message.body, Body::Data(r#"{"t":1}"#.into()));
    let annotation = |name| message.message_annotation(name).unwrap();
    assert_eq!(annotation("x-opt-sequence-number"), &Value::Long(0));
    assert_eq!(annotation("x-opt-offset"), &"0".into());
    assert_eq!(annotation("iothub-connection-device-id"), &"e".into());
    assert_eq!(annotation("iothub-message-source"), &"Telemetry".into());
    assert!(matches!(annotation("x-opt-enqueued-time"), Value::Timestamp(_)));
    assert_eq!(
        annotation("iothub-enqueuedtime"),
        annotation("x-opt-enqueued-time")
    );

    // Whoever waits is told at once.
    device.publish_acknowledged(&identity.events(""), "2").await;
    assert_eq!(bodies(&mut client, link, 1).await, ["2"]);
}

#[tokio::test]
async fn readers_have_paces_of_their_own() {
    let (hub, rest) = hub_with(Retention::default()).await;
    // More than a session's window and than the output's bound.
    send(&rest, 0..6_000).await;
    send(&rest, 6_000..12_000).await;
    let mut client = reader(&hub).await;
    let slow = client.receiver(PARTITION, 1).await.unwrap();
    let fast = client.receiver(PARTITION, 2_000).await.unwrap();
    let mut other = reader(&hub).await;
    let elsewhere = other.receiver(PARTITION, 500).await.unwrap();
    // A client's engine gives 2,048 at most at once.
    for start in (0..12_000).step_by(2_000) {
        give(&mut client, fast, 2_000).await;
        assert_eq!(
            bodies(&mut client, fast, 2_000).await,
            texts(start..start + 2_000)
        );
    }
    give(&mut client, fast, 10).await;
    assert_eq!(bodies(&mut client, slow, 1).await, ["0"]);
    assert!(!has_more(&mut client, slow).await);
    for number in 1..4 {
        give(&mut client, slow, 1).await;
        assert_eq!(bodies(&mut client, slow, 1).await, [number.to_string()]);
    }
    assert_eq!(bodies(&mut other, elsewhere, 500).await, texts(0..500));
    assert!(!has_more(&mut other, elsewhere).await);
    for start in (500..12_000).step_by(500) {
        give(&mut other, elsewhere, 500).await;
        assert_eq!(
            bodies(&mut other, elsewhere, 500).await,
            texts(start..start + 500)
        );
    }
    give(&mut other, elsewhere, 10).await;
    // What comes later comes to those who still have credit.
    send(&rest, 0..2).await;
    assert_eq!(bodies(&mut client, fast, 2).await, ["0", "1"]);
    assert_eq!(bodies(&mut other, elsewhere, 2).await, ["0", "1"]);
}

#[tokio::test]
async fn a_reader_that_drains_gets_what_is_there() {
    let (hub, rest) = hub_with(Retention::default()).await;
    send(&rest, 0..3).await;
    let mut client = reader(&hub).await;
    let link = client.attach(Role::Receiver, PARTITION, |_| {}).await.unwrap();
    client.engine.drain(link, 10).unwrap();
    client.flush().await;
    assert_eq!(bodies(&mut client, link, 3).await, texts(0..3));
    let left = client
        .wait("the end of the credit", |event| match event {
            Event::Credit { link: of, credit, .. } if *of == link => Some(*credit),
            _ => None,
        })
        .await;
    assert_eq!(left, 0);
    send(&rest, 3..4).await;
    assert!(!has_more(&mut client, link).await);
    give(&mut client, link, 1).await;
    assert_eq!(bodies(&mut client, link, 1).await, ["3"]);
}

#[tokio::test]
async fn a_reader_begins_where_it_says() {
    let (hub, rest) = hub_with(Retention::default()).await;
    send(&rest, 0..10).await;
    let mut client = reader(&hub).await;
    let all = client.receiver(PARTITION, 10).await.unwrap();
    let mut offsets = Vec::new();
    for _ in 0..10 {
        let (_, _, message) = client.receive(all).await;
        let offset = message.message_annotation("x-opt-offset").unwrap();
        offsets.push(offset.as_str().unwrap().to_owned());
    }
    let offset = &offsets[4];
    for (selector, first) in [
        ("amqp.annotation.x-opt-offset > '-1'".to_owned(), 0),
        (format!("amqp.annotation.x-opt-offset > '{offset}'"), 5),
        (format!("amqp.annotation.x-opt-offset >= '{offset}'"), 4),
        ("amqp.annotation.x-opt-sequence-number > '4'".into(), 5),
        ("amqp.annotation.x-opt-sequence-number >= '4'".into(), 4),
        ("amqp.annotation.x-opt-enqueued-time > '0'".into(), 0),
        ("amqp.annotation.x-opt-enqueuedtimeutc > 0".into(), 0),
    ] {
        // A connection each: a partition has five readers at most.
        let mut client = reader(&hub).await;
        let link = read_from(&mut client, &selector, 1).await.unwrap();
        assert_eq!(
            bodies(&mut client, link, 1).await,
            [first.to_string()],
            "{selector}"
        );
    }
    let latest = read_from(&mut client, "amqp.annotation.x-opt-offset > '@latest'", 10)
        .await
        .unwrap();
    assert!(!has_more(&mut client, latest).await);
    send(&rest, 10..11).await;
    assert_eq!(bodies(&mut client, latest, 1).await, ["10"]);

    for selector in [
        "amqp.annotation.x-opt-sequence-number > '11'",
        "amqp.annotation.x-opt-offset > '99999999'",
        "amqp.annotation.x-opt-offset = '0'",
        "nonsense",
    ] {
        let error = read_from(&mut client, selector, 1).await.unwrap_err();
        assert_eq!(error.condition, "com.microsoft:argument-error", "{selector}");
    }
}

#[tokio::test]
async fn epochs_take_partitions_away() {
    let (hub, rest) = hub_with(Retention::default()).await;
    send(&rest, 0..1).await;
    let mut client = reader(&hub).await;
    let plain = client.receiver(PARTITION, 10).await.unwrap();
    assert_eq!(bodies(&mut client, plain, 1).await, ["0"]);
    // Neither a reader that waits for events nor one that waits for nothing keeps its place.
    let first = read_with_epoch(&mut client, 1).await.unwrap();
    assert_eq!(client.expect_detached(plain).await.condition, "amqp:link:stolen");
    let mut thief = reader(&hub).await;
    let second = read_with_epoch(&mut thief, 2).await.unwrap();
    assert_eq!(client.expect_detached(first).await.condition, "amqp:link:stolen");
    for lower in [Some(1), None] {
        let refused = match lower {
            Some(epoch) => read_with_epoch(&mut client, epoch).await,
            None => client.receiver(PARTITION, 1).await,
        };
        assert_eq!(refused.unwrap_err().condition, "amqp:link:stolen");
    }
    give(&mut thief, second, 1).await;
    assert_eq!(bodies(&mut thief, second, 1).await, ["0"]);
    // Its place is free when it goes, however it goes.
    drop(thief);
    wait_for("a free place", async || {
        match read_with_epoch(&mut client, 0).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    })
    .await;
}

#[tokio::test]
async fn a_partition_has_five_readers_without_an_epoch() {
    let (hub, _) = hub_with(Retention::default()).await;
    let mut client = reader(&hub).await;
    let mut links = Vec::new();
    for _ in 0..5 {
        links.push(client.receiver(PARTITION, 1).await.unwrap());
    }
    let error = client.receiver(PARTITION, 1).await.unwrap_err();
    assert_eq!(error.condition, "amqp:resource-limit-exceeded");
    client.engine.detach(links[2], true, None).unwrap();
    client.round_trip().await;
    client.receiver(PARTITION, 1).await.unwrap();
}

#[tokio::test]
async fn a_slow_reader_goes_on_with_what_is_kept() {
    let retention = Retention {
        count: 10,
        ..Retention::default()
    };
    let (hub, rest) = hub_with(retention).await;
    send(&rest, 0..5).await;
    let mut client = reader(&hub).await;
    let link = client.receiver(PARTITION, 2).await.unwrap();
    assert_eq!(bodies(&mut client, link, 2).await, ["0", "1"]);
    send(&rest, 5..100).await;
    give(&mut client, link, 20).await;
    let (_, _, message) = client.receive(link).await;
    assert_eq!(body(&message), "90");
    let sequence = message.message_annotation("x-opt-sequence-number");
    assert_eq!(sequence, Some(&Value::Long(90)));
    assert_eq!(bodies(&mut client, link, 9).await, texts(91..100));
}

#[tokio::test]
async fn a_reader_may_be_told_how_far_its_partition_is() {
    let (hub, rest) = hub_with(Retention::default()).await;
    send(&rest, 0..3).await;
    let mut client = reader(&hub).await;
    let metric = "com.microsoft:enable-receiver-runtime-metric";
    let change = |attach: &mut Attach| {
        attach.desired_capabilities = Value::Array(Array::of_symbols([metric]));
    };
    let link = client.attach(Role::Receiver, PARTITION, change).await.unwrap();
    give(&mut client, link, 1).await;
    let (_, _, message) = client.receive(link).await;
    let of = |name| amqp_wire::value::find(&message.delivery_annotations, name).unwrap();
    assert_eq!(of("last_enqueued_sequence_number"), &Value::Long(2));
    assert!(of("last_enqueued_offset").as_str().is_some());
    assert!(matches!(of("last_enqueued_time_utc"), Value::Timestamp(1..)));
    assert!(matches!(
        of("runtime_info_retrieval_time_utc"),
        Value::Timestamp(1..)
    ));
}

#[tokio::test]
async fn readers_end_with_their_group_and_with_a_reset() {
    let (hub, rest) = hub_with(Retention::default()).await;
    admin(&rest, "PUT", "consumer-groups/mine").await;
    let mut client = reader(&hub).await;
    let address = "messages/events/consumergroups/MINE/partitions/0";
    let mine = client.receiver(address, 1).await.unwrap();
    let plain = client.receiver(PARTITION, 1).await.unwrap();
    admin(&rest, "DELETE", "consumer-groups/mine").await;
    assert_eq!(client.expect_detached(mine).await.condition, "amqp:not-found");
    let error = client.receiver(address, 1).await.unwrap_err();
    assert_eq!(error.condition, "amqp:not-found");
    admin(&rest, "DELETE", "state").await;
    assert_eq!(
        client.expect_detached(plain).await.condition,
        "amqp:link:detach-forced"
    );
}

#[tokio::test]
async fn nobody_else_gets_in() {
    let (hub, _) = hub_with(Retention::default()).await;
    let mut client = reader(&hub).await;
    for address in [
        "localhost/ConsumerGroups/none/Partitions/0",
        "localhost/ConsumerGroups/$Default/Partitions/1",
        "localhost/ConsumerGroups/$Default/Partitions/x",
        "other/ConsumerGroups/$Default/Partitions/0",
        "localhost",
    ] {
        let error = client.receiver(address, 1).await.unwrap_err();
        assert_eq!(error.condition, "amqp:not-found", "{address}");
        // One client looks for these words.
        let description = error.description.unwrap();
        let service = "The messaging entity that was asked for could not be found";
        assert!(description.starts_with(service), "{description}");
    }
    // Events come from devices only.
    for address in ["localhost", PARTITION] {
        let error = client.sender(address).await.unwrap_err();
        assert_eq!(error.condition, "amqp:unauthorized-access", "{address}");
    }
    for policy in ["device", "registryRead"] {
        let mut client = AmqpClient::of_policy(&hub, policy).await;
        let error = client.receiver(PARTITION, 1).await.unwrap_err();
        assert_eq!(error.condition, "amqp:unauthorized-access", "{policy}");
    }
}

#[tokio::test]
async fn readers_of_the_hub_are_sent_to_the_event_hub() {
    let (hub, rest) = hub_with(Retention::default()).await;
    send(&rest, 0..1).await;
    let mut client = AmqpClient::of_policy(&hub, "service").await;
    let port = hub.amqps_address().unwrap().port();
    for (address, suffix) in [
        ("/messages/events/", "/"),
        ("amqps://localhost/messages/events", "/"),
        ("/messages/events/$management", "/$management"),
    ] {
        let error = client.receiver(address, 1).await.unwrap_err();
        assert_eq!(error.condition, "amqp:link:redirect", "{address}");
        let info = |name| amqp_wire::value::find(&error.info, name);
        assert_eq!(info("hostname"), Some(&"localhost".into()));
        assert_eq!(info("network-host"), Some(&"localhost".into()));
        assert_eq!(info("port").and_then(Value::as_i64), Some(port.into()));
        let expected = format!("amqps://localhost:{port}/localhost{suffix}");
        assert_eq!(
            info("address").and_then(Value::as_str),
            Some(&*expected),
            "{address}"
        );
    }
    // Those who know of partitions are served here.
    let address = "/messages/events/ConsumerGroups/$Default/Partitions/0";
    let link = client.receiver(address, 1).await.unwrap();
    assert_eq!(bodies(&mut client, link, 1).await, ["0"]);
}

/// Sends a request to `$management`.
fn ask(client: &mut AmqpClient, sender: LinkId, id: u64, properties: &[(&'static str, &str)]) -> SentId {
    let request = Message {
        properties: Some(Box::new(Properties {
            message_id: id.into(),
            reply_to: Some("mine".into()),
            ..Properties::default()
        })),
        application_properties: properties
            .iter()
            .map(|(name, value)| (Value::from(*name), Value::string((*value).to_owned())))
            .collect(),
        ..Message::default()
    };
    let outgoing = amqp_wire::engine::Outgoing::unsettled(request.to_bytes());
    client.engine.send(sender, outgoing).unwrap()
}

#[tokio::test]
async fn management_answers_once_there_is_credit() {
    let (hub, rest) = hub_with(Retention::default()).await;
    send(&rest, 0..3).await;
    let mut client = reader(&hub).await;
    let sender = client.sender("$management").await.unwrap();
    let mine = |attach: &mut Attach| attach.target.as_mut().unwrap().address = "mine".into();
    let replies = client.attach(Role::Receiver, "$management", mine).await.unwrap();
    let good = event_hub_token("sb%3a%2f%2flocalhost%2flocalhost", "service", unix_now() + 3600);
    let bad = policy_token("localhost", "service", unix_now() - 3600);
    let read = ("operation", "READ");
    let of_hub = ("type", "com.microsoft:eventhub");
    let of_partition = ("type", "com.microsoft:partition");
    for (id, properties) in [
        vec![read, of_hub, ("name", "localhost"), ("security_token", &*good)],
        vec![
            read,
            of_partition,
            ("name", "localhost"),
            ("partition", "0"),
            ("security_token", &*good),
        ],
        vec![read, of_partition, ("name", "localhost"), ("partition", "7")],
        vec![read, of_hub, ("name", "localhost"), ("security_token", &*bad)],
        vec![("operation", "DELETE"), of_hub],
    ]
    .iter()
    .enumerate()
    {
        ask(&mut client, sender, id as u64, properties);
    }
    assert!(!has_more(&mut client, replies).await);
    give(&mut client, replies, 10).await;
    let mut answers = Vec::new();
    for id in 0..5_u64 {
        let (_, _, message) = client.receive(replies).await;
        assert_eq!(message.properties.as_deref().unwrap().correlation_id, id.into());
        let status = message.application_property("status-code").cloned();
        answers.push((status, message.body));
    }
    let statuses: Vec<_> = answers
        .iter()
        .map(|(status, _)| status.clone().unwrap())
        .collect();
    assert_eq!(statuses, [200, 200, 404, 401, 400].map(Value::Int));
    let Body::Value(stream) = &answers[0].1 else {
        panic!("{answers:?}")
    };
    assert_eq!(stream.get("name"), Some(&"localhost".into()));
    assert_eq!(
        stream.get("partition_ids"),
        Some(&Value::Array(Array::of_strings(["0"])))
    );
    let Body::Value(partition) = &answers[1].1 else {
        panic!("{answers:?}")
    };
    assert_eq!(
        partition.get("last_enqueued_sequence_number"),
        Some(&Value::Long(2))
    );
    assert_eq!(partition.get("is_partition_empty"), Some(&false.into()));
}
