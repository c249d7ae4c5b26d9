//! Live views: what is seen of what happens, filters, and coming back.

use std::time::Duration;

use emulator::{EventSettings, Hub};
use hub_core::events::{Source, Sources};
use hub_core::ids::{DeviceId, Target};
use hub_core::limits;
use hub_core::topic::Filter;
use serde_json::{Value, json};

use crate::support::answering::{Answer, AnsweringDevice};
use crate::support::device::{Device, Identity};
use crate::support::live::{Live, Seen};
use crate::support::rest::{self, Rest};
use crate::support::{routing, wait_for};

fn send(hub: &Hub, device: &str, body: &'static str) {
    let target = Target::device(DeviceId::parse(device).unwrap());
    hub.send_to_device(&target, Default::default(), body).unwrap();
}

async fn counted(rest: &Rest, query: &str) -> Value {
    let path = format!("/_emulator/events/counters{query}");
    rest.authorized(None).exactly("GET", &path).send().await.ok()
}

#[tokio::test]
async fn everything_that_happens_is_seen_in_its_order() {
    let (hub, rest) = rest::start().await;
    let mut live = Live::open(&hub, "").await;
    let identity = Identity::create(&hub, "d");
    assert_eq!(live.lines(1).await, ["lifecycle d createDeviceIdentity"]);
    let filters = [Filter::Methods, Filter::DesiredChanges, Filter::CloudToDevice];
    let answer = Answer::json(200, &json!({"ok": true}));
    let answering = AnsweringDevice::try_connect(&hub, "d", answer, &filters)
        .await
        .unwrap();
    rest.patch("/twins/d", &json!({"properties": {"desired": {"a": 1}}}))
        .await
        .ok();
    rest.patch("/twins/d", &json!({"tags": {"building": "43"}}))
        .await
        .ok();
    rest.post(
        "/twins/d/methods",
        &json!({"methodName": "lock", "payload": {"t": 1}}),
    )
    .await
    .ok();
    assert_eq!(
        live.lines(4).await,
        [
            "connection d deviceConnected",
            "twin d updateTwin",
            "twin d updateTwin",
            "method d answered",
        ]
    );
    drop(answering);
    assert_eq!(live.lines(1).await, ["connection d deviceDisconnected"]);

    send(&hub, "d", "wake up");
    let queued = live.next().await;
    assert_eq!(
        (queued.line(), &queued.data["body"]),
        ("c2d d queued".into(), &json!("wake up"))
    );
    let waiting = rest.call("GET", "/devices/d/messages/devicebound").send().await;
    let token = waiting.header("etag").unwrap().trim_matches('"').to_owned();
    rest.call("DELETE", &format!("/devices/d/messages/devicebound/{token}"))
        .send()
        .await
        .no_content();
    assert_eq!(live.lines(2).await, ["c2d d delivered", "c2d d completed"]);

    let (mut device, _) = Device::connected(&hub, identity.connect()).await;
    device
        .publish_acknowledged(
            &identity.events("%24.mid=1&%24.ct=application%2Fjson&a=b"),
            r#"{"t":1}"#,
        )
        .await;
    assert_eq!(live.lines(1).await, ["connection d deviceConnected"]);
    let telemetry = live.next().await;
    let data = &telemetry.data;
    assert_eq!(
        *data,
        json!({
            "id": telemetry.id,
            "time": data["time"],
            "kind": "telemetry",
            "deviceId": "d",
            "annotations": {
                "iothub-connection-device-id": "d",
                "iothub-connection-auth-method":
                    r#"{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}"#,
                "iothub-connection-auth-generation-id":
                    rest.get("/devices/d").await.ok()["generationId"],
                "iothub-enqueuedtime": data["time"],
                "iothub-message-source": "Telemetry",
            },
            "properties": {"message-id": "1", "content-type": "application/json"},
            "applicationProperties": {"a": "b"},
            "body": r#"{"t":1}"#,
            "routes": ["$fallback"],
        })
    );
    // Who takes over ends the one before.
    let (taking_over, _) = Device::connected(&hub, identity.connect()).await;
    rest.delete("/devices/d").await.no_content();
    assert_eq!(
        live.lines(4).await,
        [
            "connection d deviceDisconnected",
            "connection d deviceConnected",
            "connection d deviceDisconnected",
            "lifecycle d deleteDeviceIdentity",
        ]
    );
    drop((device, taking_over));
    // Nothing of it has entered the event stream but the telemetry.
    assert_eq!(hub.event_partitions().iter().map(|p| p.count).sum::<u64>(), 1);
    assert_eq!(hub.counters().events_emitted, 0);
}

#[tokio::test]
async fn a_method_call_is_seen_with_its_outcome() {
    let (hub, rest) = rest::start().await;
    rest.create("d").await;
    let mut live = Live::open(&hub, "?kind=method").await;
    let call = json!({"methodName": "m", "payload": [1], "connectTimeoutInSeconds": 0});
    let refused = rest.post("/twins/d/methods", &call).await;
    assert_eq!(refused.status, 404);
    let body = |seen: &Seen| -> Value { serde_json::from_str(seen.data["body"].as_str().unwrap()).unwrap() };
    let failed = live.next().await;
    assert_eq!(failed.data["operation"], "failed");
    let failed = body(&failed);
    assert_eq!(failed["errorCode"], 404_103);
    assert_eq!(failed["error"], "DeviceNotOnline");
    assert_eq!(failed["payload"], json!([1]));
    let _device = AnsweringDevice::connect(&hub, "d", Answer::json(418, &json!("tea"))).await;
    rest.post("/twins/d/methods", &call).await.ok();
    let answered = live.next().await;
    assert_eq!(answered.data["operation"], "answered");
    let answered = body(&answered);
    assert_eq!(
        (
            &answered["methodName"],
            &answered["status"],
            &answered["response"]
        ),
        (&json!("m"), &json!(418), &json!("tea"))
    );
    assert!(answered["durationMs"].is_u64());
}

#[tokio::test]
async fn what_a_job_does_and_digital_twins_are_seen() {
    let (hub, rest) = rest::start().await;
    let identity = Identity::create(&hub, "d");
    let mut connect = identity.connect();
    connect.username = Some(format!("{}&model-id=dtmi:a:b;1", identity.user_name()).into());
    let (_device, _) = Device::connected(&hub, connect).await;
    let mut live = Live::open(&hub, "?kind=job,digital-twin").await;
    let job = json!({"type": "scheduleUpdateTwin", "queryCondition": "*",
        "updateTwin": {"etag": "*", "properties": {"desired": {"a": 1}}}});
    rest.put("/jobs/v2/j", &job).await.ok();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|line| line != "job d deviceJobCompleted") {
        seen.extend(live.lines(1).await);
    }
    assert!(
        seen.iter().any(|line| line.starts_with("digital-twin d ")),
        "{seen:?}"
    );
    let counts = counted(&rest, "").await;
    let jobs = seen.iter().filter(|line| line.starts_with("job ")).count();
    assert_eq!(counts["totals"]["job"], jobs);
    assert_eq!(counts["devices"][0]["job"], jobs);
    assert_eq!(counts["totals"]["digital-twin"], 1);
}

#[tokio::test]
async fn filters_choose_devices_and_kinds() {
    let (hub, rest) = rest::start().await;
    for id in ["room-1", "room-2", "hall"] {
        rest.create(id).await;
    }
    let mut rooms = Live::open(&hub, "?device=room-*&kind=twin,c2d").await;
    let mut two = Live::open(&hub, "?device=hall&device=room-2&kind=c2d&kind=lifecycle").await;
    let mut routed = Live::open(&hub, "?route=nobody").await;
    for id in ["hall", "room-2", "room-1"] {
        rest.patch(&format!("/twins/{id}"), &json!({"tags": {"a": 1}}))
            .await
            .ok();
        send(&hub, id, "x");
    }
    rest.delete("/devices/hall").await.no_content();
    assert_eq!(
        rooms.lines(4).await,
        [
            "twin room-2 updateTwin",
            "c2d room-2 queued",
            "twin room-1 updateTwin",
            "c2d room-1 queued"
        ]
    );
    assert_eq!(
        two.lines(3).await,
        [
            "c2d hall queued",
            "c2d room-2 queued",
            "lifecycle hall deleteDeviceIdentity"
        ]
    );
    hub.shutdown().await;
    assert_eq!(rooms.next_or_end().await, None);
    assert_eq!(two.next_or_end().await, None);
    assert_eq!(routed.next_or_end().await, None);
}

#[tokio::test]
async fn events_that_are_kept_are_seen_once() {
    let mut settings = EventSettings::default();
    settings.sources = [Source::TwinChange, Source::DeviceConnectionState]
        .into_iter()
        .fold(Sources::default(), Sources::with);
    let hub = Hub::builder().events(settings).start().await.unwrap();
    let rest = Rest::of(&hub);
    let identity = Identity::create(&hub, "d");
    let mut live = Live::open(&hub, "").await;
    let (mut device, _) = Device::connected(&hub, identity.connect()).await;
    device.publish_acknowledged(&identity.events(""), "1").await;
    rest.patch("/twins/d", &json!({"tags": {"a": 1}})).await.ok();
    rest.delete("/devices/d").await.no_content();
    assert_eq!(
        live.lines(5).await,
        [
            "connection d deviceConnected",
            "telemetry d 1",
            "twin d updateTwin",
            "connection d deviceDisconnected",
            "lifecycle d deleteDeviceIdentity",
        ]
    );
    assert_eq!(hub.counters().events_emitted, 3);
}

#[tokio::test]
async fn who_comes_back_misses_nothing_and_sees_nothing_twice() {
    let (hub, rest) = rest::start().await;
    rest.create("d").await;
    let mut live = Live::open(&hub, "").await;
    send(&hub, "d", "1");
    send(&hub, "d", "2");
    let first = live.next().await;
    drop(live);
    send(&hub, "d", "3");
    let bodies = async |live: &mut Live, count: usize| {
        let mut bodies = Vec::new();
        for _ in 0..count {
            let seen = live.next().await;
            bodies.push(seen.data["body"].as_str().unwrap_or_default().to_owned());
        }
        bodies
    };
    let mut by_header = Live::resume(&hub, "", Some(first.id)).await;
    assert_eq!(bodies(&mut by_header, 2).await, ["2", "3"]);
    // The header is the newer of the two.
    let mut by_both = Live::resume(&hub, "?after=0", Some(by_header.position)).await;
    let mut by_parameter = Live::open(&hub, &format!("?after={}", first.id)).await;
    let mut all = Live::open(&hub, "?after=0").await;
    send(&hub, "d", "4");
    assert_eq!(bodies(&mut by_header, 1).await, ["4"]);
    assert_eq!(bodies(&mut by_both, 1).await, ["4"]);
    assert_eq!(bodies(&mut by_parameter, 3).await, ["2", "3", "4"]);
    assert_eq!(bodies(&mut all, 4).await, ["1", "2", "3", "4"]);
    // A comment's id counts as well: what is not wanted is not missed.
    let nothing = Live::open(&hub, "?kind=telemetry").await;
    assert_eq!(nothing.position, by_header.position);
    let last = by_header.position;
    drop((by_header, by_both, by_parameter, all, nothing));
    wait_for("the last watcher to leave", async || {
        match counted(&rest, "").await["watchers"].as_u64() {
            Some(0) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    hub.advance_clock(limits::JOURNAL_LINGER + Duration::from_secs(1));
    send(&hub, "d", "5");
    let mut late = Live::resume(&hub, "", Some(last)).await;
    send(&hub, "d", "6");
    let gap = late.next().await;
    assert_eq!((gap.event.as_str(), &gap.data["missed"]), ("gap", &json!(null)));
    assert_eq!(bodies(&mut late, 1).await, ["6"]);
    // After the gap one goes on behind it.
    let mut again = Live::resume(&hub, "", Some(gap.id)).await;
    assert_eq!(bodies(&mut again, 1).await, ["6"]);
}

#[tokio::test]
async fn what_is_shown_is_counted_by_device_and_kind() {
    let (hub, rest) = rest::start().await;
    let mut live = Live::open(&hub, "").await;
    let identity = Identity::create(&hub, "room-1");
    let module = Identity::create_module(&hub, "room-1", "m");
    for id in ["hall", "room-2", "room-3"] {
        rest.create(id).await;
    }
    let (mut device, _) = Device::connected(&hub, identity.connect()).await;
    device.publish_acknowledged(&identity.events(""), "1").await;
    device.publish_acknowledged(&identity.events(""), "2").await;
    let (mut of_module, _) = Device::connected(&hub, module.connect()).await;
    of_module.publish_acknowledged(&module.events(""), "3").await;
    rest.call("POST", "/devices/room-1/messages/events")
        .body("4")
        .send()
        .await
        .no_content();
    rest.patch("/twins/room-1", &json!({"tags": {"a": 1}})).await.ok();
    rest.patch("/twins/room-1", &json!({})).await.ok();
    let call = json!({"methodName": "m", "connectTimeoutInSeconds": 0});
    assert_eq!(rest.post("/twins/room-1/methods", &call).await.status, 404);
    send(&hub, "room-2", "x");
    send(&hub, "room-2", "y");
    let purged = rest.call("DELETE", "/devices/room-2/commands").send().await.ok();
    assert_eq!(purged["totalMessagesPurged"], 2);

    let one = json!({"deviceId": "room-1", "telemetry": 4, "connection": 2, "twin": 1, "method": 1});
    let two = json!({"deviceId": "room-2", "c2d": 4});
    let all = counted(&rest, "").await;
    assert_eq!(all["devices"], json!([one, two]));
    assert_eq!(
        all["totals"],
        json!({"telemetry": 4, "twin": 1, "lifecycle": 5, "connection": 2, "job": 0, "digital-twin": 0,
            "method": 1, "c2d": 4})
    );
    assert_eq!((&all["watchers"], &all["next"]), (&json!(1), &json!(null)));
    // As many as were seen.
    for _ in 0..17 {
        live.next().await;
    }
    assert_eq!(counted(&rest, "?device=room-1").await["devices"], json!([one]));
    assert_eq!(
        counted(&rest, "?device=room-3").await["devices"],
        json!([{"deviceId": "room-3"}])
    );
    assert_eq!(
        counted(&rest, "?device=room-*").await["devices"],
        json!([one, two])
    );
    assert_eq!(counted(&rest, "?device=hall*").await["devices"], json!([]));
    for (after, expected) in [
        ("hall", json!([one, two])),
        ("room-1", json!([two])),
        ("x", json!([])),
    ] {
        let query = format!("?device=room-*&after={after}");
        assert_eq!(counted(&rest, &query).await["devices"], expected, "{after}");
    }
    assert_eq!(counted(&rest, "?device=*").await["devices"], json!([one, two]));
    assert_eq!(counted(&rest, "?after=room-1").await["devices"], json!([two]));
    for (query, status) in [("?device=nobody", 404), ("?device=a%20b", 400), ("?after=", 400)] {
        let path = format!("/_emulator/events/counters{query}");
        assert_eq!(rest.exactly("GET", &path).send().await.status, status, "{query}");
    }
    // The totals remember devices that are gone.
    drop((device, of_module));
    rest.delete("/devices/room-2").await.no_content();
    assert_eq!(counted(&rest, "").await["totals"]["c2d"], 4);
    hub.reset();
    let none = counted(&rest, "").await;
    assert_eq!(
        (&none["totals"]["telemetry"], &none["devices"]),
        (&json!(0), &json!([]))
    );
}

#[tokio::test]
async fn routes_are_seen_where_everything_goes_to_the_built_in_endpoint() {
    let (hub, rest) = rest::start().await;
    rest.create("d").await;
    let mut fallback = Live::open(&hub, "?route=$fallback").await;
    routing::send(&rest, "d", "by the fallback route", &[]).await;
    assert_eq!(fallback.next().await.data["routes"], json!(["$fallback"]));

    let all = json!({"routes": [routing::route("all", "DeviceMessages", "events")]});
    let (hub, rest) = routing::routed(&all, &["d"]).await;
    let mut watching = Live::open(&hub, "?route=all").await;
    routing::send(&rest, "d", "by the route", &[]).await;
    assert_eq!(watching.next().await.data["routes"], json!(["all"]));
    assert_eq!(routing::kept(&rest, "events").await.len(), 1);
}

#[tokio::test]
async fn the_routes_that_a_message_took_are_seen() {
    let (hub, rest) = rest::start().await;
    let route = |name: &str, condition: &str| {
        json!({"name": name, "source": "DeviceMessages", "condition": condition,
            "endpointNames": ["events"], "isEnabled": true})
    };
    let routing = json!({"routes": [route("hot", "level = 'high'"), route("all", "true")]});
    rest.put("/_emulator/routing", &routing).await.ok();
    let identity = Identity::create(&hub, "d");
    let mut live = Live::open(&hub, "?kind=telemetry").await;
    let mut hot = Live::open(&hub, "?route=hot").await;
    let mut either = Live::open(&hub, "?route=hot&route=all").await;
    let (mut device, _) = Device::connected(&hub, identity.connect()).await;
    device.publish_acknowledged(&identity.events(""), "1").await;
    device
        .publish_acknowledged(&identity.events("level=high"), "2")
        .await;
    assert_eq!(live.next().await.data["routes"], json!(["all"]));
    assert_eq!(live.next().await.data["routes"], json!(["hot", "all"]));
    assert_eq!(hot.lines(1).await, ["telemetry d 2"]);
    assert_eq!(either.lines(2).await, ["telemetry d 1", "telemetry d 2"]);
}
