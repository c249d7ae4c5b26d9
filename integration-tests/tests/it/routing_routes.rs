//! Message routing: which messages and events go to which endpoints, whatever
//! they came over, and what is added to them.

use emulator::{EventSettings, Hub};
use hub_core::events::{Source, Sources};
use serde_json::{Value, json};

use crate::support::device::{Device, Identity, TWIN_RESPONSES};
use crate::support::jobs;
use crate::support::rest::Rest;
use crate::support::routing::{admin, kept, report, route, routed, send, stream, told};
use crate::support::wait_for;

/// Waits until an endpoint has got as many events, and gives what they tell.
async fn wait_for_events(rest: &Rest, endpoint: &str, count: usize) -> Vec<String> {
    wait_for("events", async || {
        let told = told(&kept(rest, endpoint).await);
        if told.len() >= count { Ok(told) } else { Err(told) }
    })
    .await
}

#[tokio::test]
async fn every_source_goes_where_its_routes_lead() {
    let routing = json!({
        "endpoints": {"streams": [stream("telemetry"), stream("twins"), stream("lives"), stream("connections")]},
        "routes": [
            route("m", "DeviceMessages", "telemetry"),
            route("t", "TwinChangeEvents", "twins"),
            route("l", "DeviceLifecycleEvents", "lives"),
            route("c", "DeviceConnectionStateEvents", "connections"),
        ],
    });
    let (hub, rest) = routed(&routing, &[]).await;
    let identity = Identity::create(&hub, "d");
    let (mut device, _) = Device::connected(&hub, identity.connect()).await;
    device
        .publish_acknowledged(&identity.events(""), "over MQTT")
        .await;
    send(&rest, "d", "over HTTP", &[]).await;
    rest.patch("/twins/d", &json!({"tags": {"a": 1}})).await.ok();
    device.subscribe(&[TWIN_RESPONSES]).await;
    device
        .publish("$iothub/twin/PATCH/properties/reported/?$rid=1", r#"{"b":2}"#)
        .await;
    device.expect_delivery().await;
    device.disconnect().await;
    wait_for_events(&rest, "connections", 2).await;
    rest.delete("/devices/d").await.no_content();

    let all = async |endpoint| told(&kept(&rest, endpoint).await);
    assert_eq!(all("telemetry").await, ["over MQTT", "over HTTP"]);
    assert_eq!(all("twins").await, ["updateTwin", "updateTwin"]);
    assert_eq!(
        all("lives").await,
        ["createDeviceIdentity", "deleteDeviceIdentity"]
    );
    assert_eq!(
        all("connections").await,
        ["deviceConnected", "deviceDisconnected"]
    );
    assert_eq!(all("events").await, [""; 0]);
    // What routing leaves as it is: order, source, sequence numbers of each endpoint.
    let second = &kept(&rest, "twins").await[1];
    assert_eq!(second["sequenceNumber"], 1);
    assert_eq!(second["annotations"]["iothub-message-source"], "twinChangeEvents");
}

#[tokio::test]
async fn jobs_and_digital_twins_are_sources_too() {
    let routing = json!({
        "endpoints": {"streams": [stream("jobs"), stream("digital")]},
        "routes": [
            {"name": "j", "source": "DeviceJobLifecycleEvents",
             "condition": "jobId = 'j' AND $body.status = 'completed'", "endpointNames": ["jobs"]},
            {"name": "d", "source": "DigitalTwinChangeEvents",
             "condition": "$twin.tags.place = 'roof'", "endpointNames": ["digital"]},
        ],
    });
    let (hub, rest) = routed(&routing, &[]).await;
    let identity = Identity::create(&hub, "d");
    let mut connect = identity.connect();
    connect.username = Some(format!("{}&model-id=dtmi:a:b;1", identity.user_name()).into());
    let (_device, _) = Device::connected(&hub, connect).await;
    let tags = json!({"tags": {"place": "roof"}});
    rest.patch("/twins/d", &tags).await.ok();
    let action = json!({"updateTwin": {"etag": "*", "properties": {"desired": {"speed": 1}}}});
    jobs::create(&rest, "j", &jobs::twin_job("*", action)).await;
    jobs::ended(&rest, "j").await;

    let told = wait_for_events(&rest, "jobs", 1).await;
    assert_eq!(told, ["deviceJobCompleted"]);
    let told = wait_for_events(&rest, "digital", 1).await;
    assert_eq!(told, ["updateDigitalTwin"]);
    assert_eq!(wait_for_events(&rest, "events", 0).await, [""; 0]);
}

#[tokio::test]
async fn conditions_see_properties_body_and_twin() {
    let routing = json!({
        "endpoints": {"streams": [stream("hot"), stream("north"), stream("urgent")]},
        "routes": [
            {"name": "hot", "source": "DeviceMessages", "condition": "$body.t > 30", "endpointNames": ["hot"]},
            {"name": "north", "source": "DeviceMessages", "condition": "$twin.tags.region = 'north'",
             "endpointNames": ["north"]},
            {"name": "urgent", "source": "DeviceMessages", "condition": "level = 'urgent'",
             "endpointNames": ["urgent"]},
            {"name": "urgent-too", "source": "DeviceMessages", "condition": "level = 'urgent'",
             "endpointNames": ["urgent"]},
            {"name": "off", "source": "DeviceMessages", "endpointNames": ["hot"], "isEnabled": false},
            {"name": "north-twins", "source": "TwinChangeEvents",
             "condition": "$twin.tags.region = 'north'", "endpointNames": ["north"]},
            {"name": "north-lives", "source": "DeviceLifecycleEvents",
             "condition": "$twin.tags.region = 'north'", "endpointNames": ["north"]},
            {"name": "north-connections", "source": "DeviceConnectionStateEvents",
             "condition": "$twin.tags.region = 'north'", "endpointNames": ["north"]},
        ],
        "fallbackRoute": {"isEnabled": true},
    });
    let (hub, rest) = routed(&routing, &["d", "n"]).await;
    rest.patch("/twins/n", &json!({"tags": {"region": "north"}}))
        .await
        .ok();
    let json = async |device: &str, body: &str, level: Option<&str>| {
        let mut call = rest
            .call("POST", &format!("/devices/{device}/messages/events"))
            .header("iothub-contenttype", "application/json")
            .header("iothub-contentencoding", "utf-8");
        if let Some(level) = level {
            call = call.header("iothub-app-level", level);
        }
        call.body(body).send().await.no_content();
    };
    json("d", r#"{"t":31}"#, None).await;
    json("d", r#"{"t":1}"#, None).await;
    json("d", r#"{"t":2}"#, Some("urgent")).await;
    json("n", r#"{"t":32}"#, Some("urgent")).await;
    let mut device = Device::online(&hub, "n").await;
    let identity = Identity::create(&hub, "n");
    device.publish_acknowledged(&identity.events(""), "of n").await;
    device.disconnect().await;
    // The twin of the time: this event is about the change itself.
    wait_for_events(&rest, "north", 5).await;
    rest.patch("/twins/n", &json!({"tags": {"region": "south"}}))
        .await
        .ok();
    rest.patch("/twins/n", &json!({"tags": {"region": "north"}}))
        .await
        .ok();
    rest.delete("/devices/n").await.no_content();

    let all = async |endpoint| told(&kept(&rest, endpoint).await);
    assert_eq!(all("hot").await, [r#"{"t":31}"#, r#"{"t":32}"#]);
    // Two routes to an endpoint deliver once.
    assert_eq!(all("urgent").await, [r#"{"t":2}"#, r#"{"t":32}"#]);
    assert_eq!(
        all("north").await,
        [
            "updateTwin",
            r#"{"t":32}"#,
            "deviceConnected",
            "of n",
            "deviceDisconnected",
            "updateTwin",
            "deleteDeviceIdentity",
        ]
    );
    // What nobody else takes; events of the hub itself never.
    assert_eq!(all("events").await, [r#"{"t":1}"#]);
}

#[tokio::test]
async fn the_fallback_route_is_for_messages_that_no_other_takes() {
    let routes = |fallback: Value| {
        json!({
            "endpoints": {"streams": [stream("some")]},
            "routes": [
                {"name": "some", "source": "DeviceMessages", "condition": "a = '1'", "endpointNames": ["some"]},
                {"name": "lives", "source": "DeviceLifecycleEvents", "condition": "false",
                 "endpointNames": ["some"]},
            ],
            "fallbackRoute": fallback,
        })
    };
    let (hub, rest) = routed(&routes(json!({"isEnabled": true})), &["d"]).await;
    send(&rest, "d", "taken", &[("a", "1")]).await;
    send(&rest, "d", "left", &[]).await;
    let all = async |endpoint| told(&kept(&rest, endpoint).await);
    assert_eq!(all("some").await, ["taken"]);
    assert_eq!(all("events").await, ["left"]);
    // The creation of the device, which the fallback route is not for.
    assert_eq!(hub.counters().events_orphaned, 1);
    assert_eq!(hub.counters().events_emitted, 0);

    let off = routes(json!({"isEnabled": false}));
    rest.exactly("PUT", "/_emulator/routing")
        .json(&off)
        .send()
        .await
        .ok();
    send(&rest, "d", "nowhere", &[]).await;
    assert_eq!(all("events").await, ["left"]);
    assert_eq!(hub.counters().events_orphaned, 2);
    assert_eq!(hub.counters().telemetry_messages, 3);
}

#[tokio::test]
async fn enrichments_are_for_their_endpoints() {
    let routing = json!({
        "endpoints": {"streams": [stream("one"), stream("two")]},
        "routes": [
            route("one", "DeviceMessages", "one"),
            route("two", "DeviceMessages", "two"),
            route("built-in", "DeviceMessages", "events"),
            route("twins", "TwinChangeEvents", "one"),
        ],
        "enrichments": [
            {"key": "hub", "value": "$iothubname", "endpointNames": ["one", "events"]},
            {"key": "where", "value": "$twin.tags.place", "endpointNames": ["one"]},
            {"key": "a", "value": "over it", "endpointNames": ["two"]},
        ],
    });
    let (hub, rest) = routed(&routing, &["d"]).await;
    Identity::create_module(&hub, "d", "m");
    rest.patch("/twins/d", &json!({"tags": {"place": "roof"}}))
        .await
        .ok();
    send(&rest, "d", "x", &[("a", "1")]).await;
    send(&rest, "d/modules/m", "of the module", &[]).await;
    let properties = async |endpoint| -> Vec<Value> {
        let events = kept(&rest, endpoint).await;
        let events = events
            .iter()
            .filter(|event| event["applicationProperties"]["opType"].is_null());
        events
            .map(|event| event["applicationProperties"].clone())
            .collect()
    };
    assert_eq!(
        properties("one").await,
        [
            json!({"a": "1", "hub": "localhost", "where": "roof"}),
            // Its own twin has no such tag.
            json!({"hub": "localhost", "where": "$twin.tags.place"}),
        ]
    );
    assert_eq!(
        properties("two").await,
        [json!({"a": "over it"}), json!({"a": "over it"})]
    );
    assert_eq!(
        properties("events").await,
        [json!({"a": "1", "hub": "localhost"}), json!({"hub": "localhost"})]
    );
    let twin = &kept(&rest, "one").await[0]["applicationProperties"];
    assert_eq!(
        (&twin["opType"], &twin["where"]),
        (&json!("updateTwin"), &json!("roof"))
    );
}

#[tokio::test]
async fn what_enrichments_make_too_large_is_dropped_for_their_endpoint() {
    let routing = json!({
        "endpoints": {"streams": [stream("one"), stream("two")]},
        "routes": [route("one", "DeviceMessages", "one"), route("two", "DeviceMessages", "two")],
        "enrichments": [{"key": "k", "value": "v", "endpointNames": ["one"]}],
    });
    let (_hub, rest) = routed(&routing, &["d"]).await;
    send(&rest, "d", vec![b'x'; 256 * 1024], &[]).await;
    send(&rest, "d", "small", &[]).await;
    assert_eq!(told(&kept(&rest, "one").await), ["small"]);
    assert_eq!(kept(&rest, "two").await.len(), 2);
    let report = report(&rest, "one").await;
    assert_eq!((&report["delivered"], &report["dropped"]), (&json!(1), &json!(1)));
    assert!(
        report["lastError"]["text"]
            .as_str()
            .unwrap()
            .contains("enrichments")
    );
}

#[tokio::test]
async fn without_a_configuration_the_settings_are_the_routing() {
    let mut settings = EventSettings::default();
    settings.sources = Sources::default().with(Source::TwinChange);
    let hub = Hub::builder().events(settings).start().await.unwrap();
    let rest = Rest::of(&hub);
    hub.create_device("d").unwrap();
    let routing = admin(&rest, "routing").await;
    assert_eq!(routing["routes"].as_array().unwrap().len(), 1);
    assert_eq!(routing["routes"][0]["source"], "TwinChangeEvents");
    assert_eq!(routing["routes"][0]["endpointNames"], json!(["events"]));
    assert_eq!(routing["fallbackRoute"]["isEnabled"], true);
    rest.patch("/twins/d", &json!({"tags": {"a": 1}})).await.ok();
    send(&rest, "d", "m", &[]).await;
    assert_eq!(told(&kept(&rest, "events").await), ["updateTwin", "m"]);
    // It can be read, changed and given back.
    rest.exactly("PUT", "/_emulator/routing")
        .json(&routing)
        .send()
        .await
        .ok();
    rest.patch("/twins/d", &json!({"tags": {"a": 2}})).await.ok();
    assert_eq!(kept(&rest, "events").await.len(), 3);
    assert_eq!(admin(&rest, "routing").await, routing);
}
