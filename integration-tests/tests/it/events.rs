//! The event stream: what is kept of what devices send and of what happens to
//! them, and who may read it.

use std::num::NonZeroUsize;

use emulator::{EventSettings, Hub, ReadEnd};
use hub_core::error::ErrorCode;
use hub_core::events::{DEFAULT_GROUP, Event, Retention, Source, Sources, Start};
use serde_json::{Value, json};

use crate::support::device::{Device, Identity, TWIN_RESPONSES};
use crate::support::jobs;
use crate::support::rest::Rest;
use crate::support::{soon, start_hub, wait_for};

/// A hub with one partition, which keeps events of these sources.
async fn hub_with(sources: &[Source]) -> (Hub, Rest) {
    let mut settings = EventSettings::default().with_partitions(NonZeroUsize::MIN);
    settings.sources = sources.iter().fold(Sources::default(), |all, s| all.with(*s));
    let hub = Hub::builder().events(settings).start().await.unwrap();
    let rest = Rest::of(&hub);
    (hub, rest)
}

/// Everything in the first partition.
fn all(hub: &Hub) -> Vec<Event> {
    let mut reader = hub.read_events(DEFAULT_GROUP, 0, Start::Earliest, None).unwrap();
    reader.take(usize::MAX).unwrap()
}

fn operations(hub: &Hub) -> Vec<String> {
    let name = |event: &Event| match event.properties.application.get("opType") {
        Some(operation) => operation.clone(),
        None => String::from_utf8_lossy(&event.body).into_owned(),
    };
    all(hub).iter().map(name).collect()
}

async fn get(rest: &Rest, path: &str) -> Value {
    rest.authorized(None).exactly("GET", path).send().await.ok()
}

#[tokio::test]
async fn telemetry_has_every_annotation_however_it_came() {
    let (hub, rest) = hub_with(&[]).await;
    let identity = Identity::create(&hub, "d");
    let module = Identity::create_module(&hub, "d", "m");
    let mut connect = identity.connect();
    connect.username = Some(format!("{}&model-id=dtmi:a:b;1", identity.user_name()).into());
    let (mut device, _) = Device::connected(&hub, connect).await;
    let bag = "%24.mid=1&%24.ct=application%2Fjson&%24.ce=utf-8&%24.sub=part&a=b";
    device
        .publish_acknowledged(&identity.events(bag), r#"{"t":1}"#)
        .await;
    let (mut of_module, _) = Device::connected(&hub, module.connect()).await;
    of_module.publish(&module.events(""), "qos 0").await;
    // Its answer says that the message before it was handled.
    of_module.expect_silence().await;
    rest.call("POST", "/devices/d/messages/events")
        .header("iothub-app-k", "v%20")
        .body(b"\xff".as_slice())
        .send()
        .await
        .no_content();
    rest.call("POST", "/devices/d/messages/events")
        .header("Content-Type", "application/vnd.microsoft.iothub.json")
        .json(&json!([{"body": "Mg=="}, {"body": "Mw==", "properties": {"iothub-app-n": "3"}}]))
        .send()
        .await
        .no_content();

    let generation = async |path: &str| rest.get(path).await.ok()["generationId"].clone();
    let of_device = generation("/devices/d").await;
    let of_module = generation("/devices/d/modules/m").await;
    let auth = |scope: &str| {
        format!(r#"{{"scope":"{scope}","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}}"#)
    };
    let listed = get(&rest, "/_emulator/events?partition=0&from=0").await;
    let events = listed["events"].as_array().unwrap();
    let expected = |number: usize, more: Value| {
        let seen = &events[number]["annotations"];
        let mut annotations = json!({
            "x-opt-sequence-number": number,
            "x-opt-offset": seen["x-opt-offset"],
            "x-opt-enqueued-time": seen["iothub-enqueuedtime"],
            "x-opt-partition-key": "d",
            "iothub-connection-device-id": "d",
            "iothub-connection-auth-generation-id": of_device,
            "iothub-enqueuedtime": seen["iothub-enqueuedtime"],
            "iothub-message-source": "Telemetry",
        });
        for (name, value) in more.as_object().unwrap() {
            annotations[name] = value.clone();
        }
        annotations
    };
    assert_eq!(
        events[0],
        json!({
            "sequenceNumber": 0,
            "annotations": expected(0, json!({
                "iothub-connection-auth-method": auth("device"),
                "dt-dataschema": "dtmi:a:b;1",
                "dt-subject": "part",
            })),
            "properties": {"message-id": "1", "content-type": "application/json", "content-encoding": "utf-8"},
            "applicationProperties": {"a": "b"},
            "body": r#"{"t":1}"#,
        })
    );
    assert_eq!(
        events[1]["annotations"],
        expected(
            1,
            json!({
                "iothub-connection-module-id": "m",
                "iothub-connection-auth-method": auth("module"),
                "iothub-connection-auth-generation-id": of_module,
            })
        )
    );
    let by_policy = json!({"iothub-connection-auth-method": auth("hub")});
    assert_eq!(
        events[2],
        json!({
            "sequenceNumber": 2,
            "annotations": expected(2, by_policy.clone()),
            "properties": {},
            "applicationProperties": {"k": "v%20"},
            "bodyBase64": "/w==",
        })
    );
    assert_eq!(events[3]["annotations"], expected(3, by_policy));
    assert_eq!(events[4]["applicationProperties"], json!({"n": "3"}));
    let bodies: Vec<_> = events[3..].iter().map(|event| &event["body"]).collect();
    assert_eq!(bodies, ["2", "3"]);
    let offsets: Vec<u64> = events
        .iter()
        .map(|event| {
            event["annotations"]["x-opt-offset"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect();
    assert!(offsets.is_sorted_by(|a, b| a < b), "{offsets:?}");

    let last = get(&rest, "/_emulator/events?from=4&max=1").await;
    assert_eq!(last["events"], json!([events[4]]));
    let anybody = rest.authorized(None);
    for (query, text) in [
        ("partition=1", "there is no partition 1"),
        ("from=x", "from=\"x\" is not a number"),
        ("max=-1", "max=\"-1\" is not a number"),
    ] {
        let reply = anybody
            .exactly("GET", &format!("/_emulator/events?{query}"))
            .send()
            .await;
        assert_eq!(reply.refused(ErrorCode::ArgumentInvalid), text);
    }
}

#[tokio::test]
async fn a_devices_events_stay_in_order_and_in_one_partition() {
    const MESSAGES: usize = 200;
    let hub = start_hub().await;
    let mut sending = Vec::new();
    for id in ["a", "b", "c", "d", "e"] {
        let mut device = Device::online(&hub, id).await;
        sending.push(tokio::spawn(async move {
            for number in 0..MESSAGES {
                let topic = format!("devices/{id}/messages/events/");
                device.publish_acknowledged(&topic, number.to_string()).await;
            }
        }));
    }
    let mut bodies = std::collections::BTreeMap::<String, Vec<(usize, String)>>::new();
    let mut readers: Vec<_> = (0..4)
        .map(|partition| {
            hub.read_events(DEFAULT_GROUP, partition, Start::Earliest, None)
                .unwrap()
        })
        .collect();
    let mut missing = 5 * MESSAGES;
    while missing > 0 {
        for reader in &mut readers {
            for event in reader.take(17).unwrap() {
                let device = event.origin.target.device.to_string();
                let body = String::from_utf8_lossy(&event.body).into_owned();
                bodies.entry(device).or_default().push((reader.partition(), body));
                missing -= 1;
            }
        }
        tokio::task::yield_now().await;
    }
    for task in sending {
        soon("the end of sending", task).await.unwrap();
    }
    assert_eq!(bodies.len(), 5);
    for (device, received) in bodies {
        let partition = received[0].0;
        let expected: Vec<_> = (0..MESSAGES).map(|n| (partition, n.to_string())).collect();
        assert_eq!(received, expected, "{device}");
    }
    assert_eq!(hub.counters().events_read, 5 * MESSAGES as u64);
    let kept: u64 = hub.event_partitions().iter().map(|p| p.count).sum();
    assert_eq!(kept, 5 * MESSAGES as u64);
}

#[tokio::test]
async fn what_is_cut_off_shows_as_a_gap() {
    let mut settings = EventSettings::default().with_partitions(NonZeroUsize::MIN);
    settings.retention = Retention {
        count: 3,
        ..Retention::default()
    };
    let hub = Hub::builder().events(settings).start().await.unwrap();
    let rest = Rest::of(&hub);
    let empty = get(&rest, "/_emulator/events/partitions").await;
    assert_eq!(
        empty["partitions"],
        json!([{
            "partition": 0, "beginSequenceNumber": 0, "lastSequenceNumber": -1, "lastOffset": "-1",
            "lastEnqueuedTimeUtc": null, "isEmpty": true, "count": 0, "bytes": 0,
        }])
    );
    let mut device = Device::online(&hub, "d").await;
    let mut slow = hub.read_events(DEFAULT_GROUP, 0, Start::Earliest, None).unwrap();
    for number in 0..10 {
        device
            .publish_acknowledged("devices/d/messages/events/", number.to_string())
            .await;
    }
    let sequences: Vec<_> = slow.take(10).unwrap().iter().map(|e| e.sequence).collect();
    assert_eq!(sequences, [7, 8, 9]);
    let full = get(&rest, "/_emulator/events/partitions").await;
    let partition = &full["partitions"][0];
    assert_eq!(partition["beginSequenceNumber"], 7);
    assert_eq!(partition["lastSequenceNumber"], 9);
    assert_eq!(partition["count"], 3);
    // By time, as the hub's clock goes, also when nothing new comes.
    hub.advance_clock(std::time::Duration::from_secs(25 * 3600));
    let old = hub.event_partitions()[0];
    assert_eq!(
        (old.begin_sequence, old.last_sequence, old.count),
        (10, Some(9), 0)
    );
    assert_eq!(hub.counters().telemetry_messages, 10);
}

#[tokio::test]
async fn nothing_but_telemetry_is_kept_unless_it_is_wanted() {
    let (hub, rest) = hub_with(&[]).await;
    rest.create("d").await;
    let mut device = Device::online(&hub, "d").await;
    rest.patch("/twins/d", &json!({"tags": {"a": 1}})).await.ok();
    device
        .publish_acknowledged("devices/d/messages/events/", "x")
        .await;
    drop(device);
    rest.delete("/devices/d").await.no_content();
    assert_eq!(operations(&hub), ["x"]);
    assert_eq!(hub.counters().events_emitted, 0);
}

#[tokio::test]
async fn twin_changes_come_in_the_order_of_their_versions() {
    let (hub, rest) = hub_with(&[Source::TwinChange]).await;
    let identity = Identity::create(&hub, "d");
    let (mut device, _) = Device::connected(&hub, identity.connect()).await;
    device.subscribe(&[TWIN_RESPONSES]).await;
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let rest = rest.clone();
            tokio::spawn(async move {
                for number in 0..10 {
                    let desired = json!({"properties": {"desired": {format!("k{writer}"): number}}});
                    rest.patch("/twins/d", &desired).await.ok();
                }
            })
        })
        .collect();
    for writer in writers {
        soon("the end of writing", writer).await.unwrap();
    }
    let versions: Vec<_> = all(&hub)
        .iter()
        .map(|event| {
            let body: Value = serde_json::from_slice(&event.body).unwrap();
            body["properties"]["desired"]["$version"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(versions, (2..=41).collect::<Vec<_>>());

    device
        .publish(
            "$iothub/twin/PATCH/properties/reported/?$rid=1",
            r#"{"r":{"s":1}}"#,
        )
        .await;
    device.expect_delivery().await;
    device
        .publish(
            "$iothub/twin/PATCH/properties/reported/?$rid=2",
            r#"{"r":{"s.":1}}"#,
        )
        .await;
    device.expect_delivery().await;
    // A refused write, and one that says nothing, are no changes.
    rest.patch("/twins/d", &json!({"tags": {"$": 1}}))
        .await
        .refused(ErrorCode::ArgumentInvalid);
    rest.patch("/twins/d", &json!({})).await.ok();
    rest.put("/twins/d", &json!({"tags": {"t": 1}})).await.ok();
    let events = all(&hub);
    assert_eq!(events.len(), 42);
    let listed = get(&rest, "/_emulator/events?from=40").await;
    let reported = &listed["events"][0];
    let at = reported["applicationProperties"]["operationTimestamp"].clone();
    assert_eq!(
        reported["applicationProperties"],
        json!({
            "hubName": "localhost", "deviceId": "d", "opType": "updateTwin",
            "operationTimestamp": at, "iothub-message-schema": "twinChangeNotification",
        })
    );
    assert_eq!(
        reported["annotations"]["iothub-message-source"],
        "twinChangeEvents"
    );
    assert_eq!(reported["annotations"]["iothub-connection-device-id"], "d");
    assert_eq!(reported["annotations"].get("iothub-connection-auth-method"), None);
    assert_eq!(reported["properties"]["user-id"], "localhost");
    assert_eq!(reported["properties"]["content-type"], "application/json");
    let body: Value = serde_json::from_str(reported["body"].as_str().unwrap()).unwrap();
    assert_eq!(
        body,
        json!({"version": 42, "properties": {"reported": {
            "r": {"s": 1},
            "$metadata": {"$lastUpdated": at, "r": {"$lastUpdated": at, "s": {"$lastUpdated": at}}},
            "$version": 2,
        }}})
    );
    assert_eq!(events[41].properties.application["opType"], "replaceTwin");
    assert_eq!(hub.counters().events_emitted, 42);
}

#[tokio::test]
async fn identities_come_and_go() {
    let (hub, rest) = hub_with(&[Source::DeviceLifecycle, Source::TwinChange]).await;
    rest.create("d").await;
    // An identity that is written again is no new one.
    rest.call("PUT", "/devices/d")
        .if_match("*")
        .json(&json!({"statusReason": "x"}))
        .send()
        .await
        .ok();
    rest.put("/devices/d/modules/m", &json!({})).await.ok();
    rest.patch("/twins/d/modules/m", &json!({"tags": {"a": 1}}))
        .await
        .ok();
    rest.delete("/devices/d/modules/m").await.no_content();
    rest.delete("/devices/d").await.no_content();
    rest.put("/devices/edge", &json!({"capabilities": {"iotEdge": true}}))
        .await
        .ok();
    assert_eq!(
        operations(&hub),
        [
            "createDeviceIdentity",
            "createDeviceIdentity",
            "updateTwin",
            "deleteDeviceIdentity",
            "deleteDeviceIdentity",
            "createDeviceIdentity",
        ]
    );
    let events = all(&hub);
    let about: Vec<_> = events
        .iter()
        .map(|event| event.origin.target.to_string())
        .collect();
    assert_eq!(about, ["d", "d/m", "d/m", "d/m", "d", "edge"]);
    let deleted: Value = serde_json::from_slice(&events[3].body).unwrap();
    assert_eq!(
        (&deleted["moduleId"], &deleted["version"], &deleted["tags"]),
        (&json!("m"), &json!(3), &json!({"a": 1}))
    );
}

#[tokio::test]
async fn a_device_is_there_once_it_sends_or_listens() {
    let (hub, rest) = hub_with(&[Source::DeviceConnectionState]).await;
    let identity = Identity::create(&hub, "d");
    let gone = async || {
        let disconnected = async || match hub.connected_count() {
            0 => Ok(()),
            n => Err(n),
        };
        wait_for("the end of the connection", disconnected).await;
    };
    // Only its twin: never reported. Neither is HTTP.
    let (mut device, _) = Device::connected(&hub, identity.connect_clean()).await;
    device.subscribe(&[TWIN_RESPONSES]).await;
    drop(device);
    gone().await;
    rest.call("POST", "/devices/d/messages/events")
        .body("http")
        .send()
        .await
        .no_content();
    assert_eq!(operations(&hub), ["http"]);

    let (mut device, _) = Device::connected(&hub, identity.connect_clean()).await;
    device.publish_acknowledged(&identity.events(""), "1").await;
    device.publish_acknowledged(&identity.events(""), "2").await;
    device.disconnect().await;
    gone().await;
    let (mut device, _) = Device::connected(&hub, identity.connect_clean()).await;
    device.subscribe(&["devices/d/messages/devicebound/#"]).await;
    rest.delete("/devices/d").await.no_content();
    device.expect_closed().await;
    assert_eq!(
        operations(&hub),
        [
            "http",
            "deviceConnected",
            "1",
            "2",
            "deviceDisconnected",
            "deviceConnected",
            "deviceDisconnected",
        ]
    );
    let numbers: Vec<_> = all(&hub)
        .iter()
        .filter(|event| event.source == Source::DeviceConnectionState)
        .map(|event| {
            let body: Value = serde_json::from_slice(&event.body).unwrap();
            body["sequenceNumber"].as_str().unwrap().to_owned()
        })
        .collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
}

#[tokio::test]
async fn consumer_groups_are_made_and_removed() {
    let (hub, rest) = hub_with(&[]).await;
    let anybody = rest.authorized(None);
    let call = async |method: &str, name: &str| {
        anybody
            .exactly(method, &format!("/_emulator/consumer-groups/{name}"))
            .send()
            .await
    };
    call("PUT", "mine").await.no_content();
    call("PUT", "Mine").await.no_content();
    let names = async || get(&rest, "/_emulator/events/partitions").await["consumerGroups"].clone();
    assert_eq!(names().await, json!(["$Default", "mine"]));
    call("PUT", "a%20b").await.refused(ErrorCode::ArgumentInvalid);
    call("DELETE", "$Default")
        .await
        .refused(ErrorCode::ArgumentInvalid);
    call("DELETE", "other").await.no_content();
    let mut reader = hub.read_events("MINE", 0, Start::Latest, None).unwrap();
    let waiting = tokio::spawn(async move { reader.next(1).await });
    call("DELETE", "mine").await.no_content();
    assert_eq!(
        soon("the end of the reader", waiting).await.unwrap(),
        Err(ReadEnd::GroupDeleted)
    );
    call("PUT", "mine").await.no_content();
    let mut reader = hub.read_events("mine", 0, Start::Latest, Some(1)).unwrap();
    hub.reset();
    assert_eq!(names().await, json!(["$Default"]));
    assert_eq!(reader.take(1), Err(ReadEnd::Reset));
}

#[tokio::test]
async fn what_a_job_does_to_each_device_is_told() {
    let (hub, rest) = hub_with(&[Source::DeviceJobLifecycle]).await;
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&["$iothub/methods/POST/#"]).await;
    hub.create_device("offline").unwrap();
    let answer = tokio::spawn(async move {
        let call = device.expect_delivery().await;
        let (_, rid) = call.topic.split_once("$rid=").unwrap();
        device
            .publish(&format!("$iothub/methods/res/200/?$rid={rid}"), "{}")
            .await;
        device
    });
    jobs::create(&rest, "j", &jobs::method_job("*", json!({}))).await;
    jobs::ended(&rest, "j").await;
    let _device = soon("the answer", answer).await.unwrap();

    // The operations begin in the order of the devices; who is done first is open.
    assert_eq!(operations(&hub)[..2], ["deviceJobStarted", "deviceJobStarted"]);
    let ends: std::collections::BTreeMap<String, Event> = all(&hub)
        .into_iter()
        .skip(2)
        .map(|event| (event.origin.target.device.to_string(), event))
        .collect();
    assert_eq!(ends.len(), 2);
    for record in jobs::records(&rest, "j").await {
        let event = &ends[record["deviceId"].as_str().unwrap()];
        assert_eq!(event.source.name(), "deviceJobLifecycleEvents");
        let told: Value = serde_json::from_slice(&event.body).unwrap();
        assert_eq!(told, record);
        let properties = &event.properties.application;
        assert_eq!(properties["jobId"], "j");
        assert_eq!(
            properties["iothub-message-schema"],
            "deviceJobLifecycleNotification"
        );
        let operation = match record["status"].as_str().unwrap() {
            "completed" => "deviceJobCompleted",
            "failed" => "deviceJobFailed",
            other => panic!("{other}"),
        };
        assert_eq!(properties["opType"], operation);
    }
}

#[tokio::test]
async fn digital_twins_tell_of_their_changes() {
    let (hub, rest) = hub_with(&[Source::DigitalTwinChange]).await;
    let identity = Identity::create(&hub, "d");
    let mut connect = identity.connect();
    connect.username = Some(format!("{}&model-id=dtmi:a:b;1", identity.user_name()).into());
    let (mut device, _) = Device::connected(&hub, connect).await;
    device.subscribe(&[TWIN_RESPONSES]).await;
    // No model, no digital twin.
    hub.create_device("plain").unwrap();
    let desired = json!({"properties": {"desired": {"speed": 1}}});
    for id in ["plain", "d"] {
        rest.call("PATCH", &format!("/twins/{id}"))
            .json(&desired)
            .send()
            .await
            .ok();
    }
    device
        .publish("$iothub/twin/PATCH/properties/reported/?$rid=1", r#"{"speed":1}"#)
        .await;
    device.expect_delivery().await;
    // Nothing of it is the digital twin's.
    rest.call("PATCH", "/twins/d")
        .json(&json!({"tags": {"a": 1}}))
        .send()
        .await
        .ok();

    let events = all(&hub);
    let changes: Vec<Value> = events
        .iter()
        .map(|event| {
            assert_eq!(event.source.name(), "digitalTwinChangeEvents");
            assert_eq!(event.origin.target.device.as_str(), "d");
            serde_json::from_slice(&event.body).unwrap()
        })
        .collect();
    let [wanted, reported] = &changes[..] else {
        panic!("{changes:?}")
    };
    assert_eq!(
        *wanted,
        json!([{"op": "add", "path": "/$metadata/speed", "value": {"desiredValue": 1, "desiredVersion": 2}}])
    );
    assert_eq!(
        reported.as_array().unwrap().last().unwrap(),
        &json!({"op": "add", "path": "/speed", "value": 1})
    );
}
