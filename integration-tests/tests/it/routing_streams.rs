//! Streams that events are routed to: read over AMQP by their own names, like
//! the built-in endpoint.

use amqp_wire::Value;
use amqp_wire::message::{Body, Message, Properties};
use amqp_wire::performative::{Role, SaslInit};
use emulator::Hub;
use serde_json::json;

use crate::support::amqp::{AmqpClient, AmqpTransport, event_hub_token};
use crate::support::device::unix_now;
use crate::support::rest::Rest;
use crate::support::routing::{admin, kept, report, route, routed, send, stream, told};

const PARTITION: &str = "alerts/ConsumerGroups/$Default/Partitions/0";

fn routing() -> serde_json::Value {
    json!({
        "endpoints": {"streams": [
            {"name": "Alerts", "partitions": 1, "consumerGroups": ["mine"]},
            {"name": "spread", "partitions": 3, "retentionCount": 2},
        ]},
        "routes": [
            {"name": "alerts", "source": "DeviceMessages", "condition": "level = 'high'", "endpointNames": ["alerts"]},
            route("spread", "DeviceMessages", "spread"),
        ],
    })
}

/// A connection with a token for this entity.
async fn reader(hub: &Hub, entity: &str) -> AmqpClient {
    let mut client = AmqpClient::connect(hub, AmqpTransport::Memory, Some(SaslInit::anonymous())).await;
    let resource = format!("sb%3a%2f%2flocalhost%2f{entity}");
    let token = event_hub_token(&resource, "service", unix_now() + 3600);
    assert_eq!(client.put_token(&token).await, 200);
    client
}

/// Asks `$management` at an address, about a name.
async fn ask(client: &mut AmqpClient, address: &str, name: Option<&str>) -> Message {
    let requests = client.sender(address).await.unwrap();
    let answers = client.receiver(address, 10).await.unwrap();
    let mut properties = vec![
        ("operation".into(), "READ".into()),
        ("type".into(), "com.microsoft:eventhub".into()),
    ];
    properties.extend(name.map(|name| (Value::from("name"), Value::string(name.to_owned()))));
    let request = Message {
        properties: Some(Box::new(Properties {
            message_id: "1".into(),
            ..Properties::default()
        })),
        application_properties: properties,
        ..Message::default()
    };
    client.send(requests, &request).await;
    client.receive(answers).await.2
}

async fn put(rest: &Rest, routing: &serde_json::Value) {
    rest.exactly("PUT", "/_emulator/routing")
        .json(routing)
        .send()
        .await
        .ok();
}

#[tokio::test]
async fn a_stream_is_read_by_its_name() {
    let (hub, rest) = routed(&routing(), &["d"]).await;
    send(&rest, "d", "1", &[("level", "high")]).await;
    send(&rest, "d", "2", &[]).await;
    let mut client = reader(&hub, "alerts").await;
    let link = client.receiver(PARTITION, 10).await.unwrap();
    let (_, _, message) = client.receive(link).await;
    assert_eq!(message.body, Body::Data("1".into()));
    assert_eq!(message.application_properties, [("level".into(), "high".into())]);
    assert_eq!(
        message.message_annotation("x-opt-sequence-number"),
        Some(&Value::Long(0))
    );
    // Whoever waits is told at once, and other groups have places of their own.
    let mine = client
        .receiver("ALERTS/ConsumerGroups/mine/Partitions/0", 10)
        .await
        .unwrap();
    assert_eq!(client.receive(mine).await.2.body, Body::Data("1".into()));
    send(&rest, "d", "3", &[("level", "high")]).await;
    assert_eq!(client.receive(link).await.2.body, Body::Data("3".into()));
    assert_eq!(client.receive(mine).await.2.body, Body::Data("3".into()));

    let address = "alerts/ConsumerGroups/none/Partitions/0";
    let refused = client.receiver(address, 1).await.unwrap_err();
    assert_eq!(refused.condition, "amqp:not-found");
    let refused = client.sender("alerts").await.unwrap_err();
    assert_eq!(refused.condition, "amqp:unauthorized-access");
}

#[tokio::test]
async fn a_token_is_for_its_stream() {
    let (hub, _) = routed(&routing(), &["d"]).await;
    let elsewhere = [
        ("alerts", "spread/ConsumerGroups/$Default/Partitions/0"),
        ("alerts", "localhost/ConsumerGroups/$Default/Partitions/0"),
        ("localhost", PARTITION),
    ];
    for (entity, address) in elsewhere {
        let mut client = reader(&hub, entity).await;
        let refused = client.receiver(address, 1).await.unwrap_err();
        assert_eq!(
            refused.condition, "amqp:unauthorized-access",
            "{entity}: {address}"
        );
    }
    // As for the hub's own name: a token for the whole hub opens them all.
    let mut client = reader(&hub, "").await;
    for address in [PARTITION, "localhost/ConsumerGroups/$Default/Partitions/0"] {
        client.receiver(address, 1).await.unwrap();
    }
    let refused = client
        .receiver("other/ConsumerGroups/$Default/Partitions/0", 1)
        .await
        .unwrap_err();
    assert_eq!(refused.condition, "amqp:not-found");
}

#[tokio::test]
async fn a_stream_is_described() {
    let (hub, _) = routed(&routing(), &[]).await;
    let mut client = reader(&hub, "spread").await;
    let count = |message: &Message| match &message.body {
        Body::Value(body) => body.get("partition_count").cloned(),
        _ => None,
    };
    let status = |message: &Message| message.application_property("status-code").cloned();
    // By the link's address, and by what the request names.
    let answer = ask(&mut client, "spread/$management", None).await;
    assert_eq!(
        (status(&answer), count(&answer)),
        (Some(200.into()), Some(3.into()))
    );
    let answer = ask(&mut client, "$management", Some("Spread")).await;
    assert_eq!(
        (status(&answer), count(&answer)),
        (Some(200.into()), Some(3.into()))
    );
    // Nothing else, and not with this token.
    let answer = ask(&mut client, "spread/$management", Some("alerts")).await;
    assert_eq!(status(&answer), Some(404.into()));
    let answer = ask(&mut client, "$management", Some("alerts")).await;
    assert_eq!(status(&answer), Some(401.into()));
    let answer = ask(&mut client, "$management", None).await;
    assert_eq!(status(&answer), Some(401.into()));
}

#[tokio::test]
async fn each_stream_has_its_retention_and_its_connection_string() {
    let (hub, rest) = routed(&routing(), &["d"]).await;
    for number in 0..5 {
        send(&rest, "d", number.to_string(), &[]).await;
    }
    assert_eq!(told(&kept(&rest, "spread").await), ["3", "4"]);
    let report = report(&rest, "spread").await;
    let strings = hub.stream_connection_strings();
    let (_, string) = strings.iter().find(|(name, _)| name == "spread").unwrap();
    assert!(string.ends_with(";EntityPath=spread"), "{string}");
    // Reports are for anyone; the key is not.
    let key = string.split_once("SharedAccessKey=").unwrap().1;
    let key = key.split(';').next().unwrap();
    let reports = admin(&rest, "routing/endpoints").await.to_string();
    assert!(
        !reports.contains(key) && !reports.contains("SharedAccessKey"),
        "{reports}"
    );
    assert_eq!(
        (&report["health"], &report["delivered"]),
        (&json!("healthy"), &json!(5))
    );
    assert_eq!(
        (&report["kind"], &report["dropped"]),
        (&json!("stream"), &json!(0))
    );
}

#[tokio::test]
async fn another_configuration_keeps_what_is_the_same_in_it() {
    let (hub, rest) = routed(&routing(), &["d"]).await;
    send(&rest, "d", "1", &[("level", "high")]).await;
    let mut client = reader(&hub, "").await;
    let alerts = client.receiver(PARTITION, 10).await.unwrap();
    assert_eq!(client.receive(alerts).await.2.body, Body::Data("1".into()));
    let spread = client
        .receiver("spread/ConsumerGroups/$Default/Partitions/0", 10)
        .await
        .unwrap();
    // The streams in another order, one with another retention, and a new one.
    let other = json!({
        "endpoints": {"streams": [
            stream("new"),
            {"name": "spread", "partitions": 3, "retentionCount": 3},
            {"name": "Alerts", "partitions": 1, "consumerGroups": ["mine"]},
        ]},
        "routes": [route("alerts", "DeviceMessages", "alerts"), route("new", "DeviceMessages", "new")],
    });
    put(&rest, &other).await;
    assert_eq!(
        client.expect_detached(spread).await.condition,
        "amqp:link:detach-forced"
    );
    client
        .receiver("spread/ConsumerGroups/$Default/Partitions/0", 10)
        .await
        .unwrap();
    let new = client
        .receiver("new/ConsumerGroups/$Default/Partitions/0", 10)
        .await
        .unwrap();
    send(&rest, "d", "2", &[]).await;
    assert_eq!(client.receive(alerts).await.2.body, Body::Data("2".into()));
    assert_eq!(told(&kept(&rest, "alerts").await), ["1", "2"]);
    assert_eq!(told(&kept(&rest, "new").await), ["2"]);
    assert_eq!(kept(&rest, "spread").await.len(), 0);

    // A reset goes back to the first configuration, without events.
    rest.exactly("DELETE", "/_emulator/state")
        .send()
        .await
        .no_content();
    assert_eq!(
        client.expect_detached(alerts).await.condition,
        "amqp:link:detach-forced"
    );
    // The one that the first configuration does not have.
    assert_eq!(client.expect_detached(new).await.condition, "amqp:not-found");
    let names: Vec<_> = admin(&rest, "routing/endpoints").await["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|endpoint| endpoint["name"].clone())
        .collect();
    assert_eq!(names, ["events", "Alerts", "spread"]);
    assert_eq!(kept(&rest, "alerts").await.len(), 0);
    client.receiver(PARTITION, 1).await.unwrap();
    client.attach(Role::Receiver, PARTITION, |_| {}).await.unwrap();
}
