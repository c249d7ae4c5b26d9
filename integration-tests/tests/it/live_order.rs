//! Live views: what is shown in the order of what happens, and once.

use hub_core::ids::{DeviceId, Target};
use hub_core::topic::Filter;
use serde_json::{Value, json};

use crate::support::answering::{Answer, AnsweringDevice};
use crate::support::device::{Device, Identity};
use crate::support::live::Live;
use crate::support::rest::{self, Rest};
use crate::support::wait_for;

async fn totals(rest: &Rest) -> Value {
    let counters = rest.exactly("GET", "/_emulator/events/counters");
    counters.send().await.ok()["totals"].clone()
}

#[tokio::test]
async fn a_connection_begins_and_ends_once_whatever_routing_does() {
    let (hub, rest) = rest::start().await;
    let identity = Identity::create(&hub, "d");
    let mut live = Live::open(&hub, "?kind=connection").await;
    let route = |is_enabled: bool| {
        json!({"routes": [{"name": "presence", "source": "DeviceConnectionStateEvents", "condition": "true",
            "endpointNames": ["events"], "isEnabled": is_enabled}]})
    };
    // Shown at its begin, wanted by a route before its end, and the other way round.
    for is_enabled in [true, false] {
        let (mut device, _) = Device::connected(&hub, identity.connect()).await;
        device.publish_acknowledged(&identity.events(""), "1").await;
        rest.put("/_emulator/routing", &route(is_enabled)).await.ok();
        device.publish_acknowledged(&identity.events(""), "2").await;
        drop(device);
        assert_eq!(
            live.lines(2).await,
            ["connection d deviceConnected", "connection d deviceDisconnected"],
            "{is_enabled}"
        );
    }
    assert_eq!(totals(&rest).await["connection"], 4);
}

#[tokio::test]
async fn an_end_by_the_hub_is_shown_before_the_next_begin() {
    let (hub, rest) = rest::start().await;
    let identity = Identity::create(&hub, "d");
    let mut live = Live::open(&hub, "?kind=connection").await;
    let (stalled, _) = Device::connected(&hub, identity.connect()).await;
    let status = async |status: &str| {
        let document = json!({"deviceId": "d", "status": status, "authentication":
            rest.get("/devices/d").await.ok()["authentication"]});
        let call = rest.call("PUT", "/devices/d").header("If-Match", "*");
        call.json(&document).send().await.ok();
    };
    status("disabled").await;
    assert_eq!(totals(&rest).await["connection"], 2);
    status("enabled").await;
    let (next, _) = Device::connected(&hub, identity.connect()).await;
    assert_eq!(
        live.lines(3).await,
        [
            "connection d deviceConnected",
            "connection d deviceDisconnected",
            "connection d deviceConnected",
        ]
    );
    drop(stalled);
    // What a reset ends belongs to what it forgets.
    hub.reset();
    wait_for("the end of the connections", async || {
        match hub.connected_count() {
            0 => Ok(()),
            count => Err(count),
        }
    })
    .await;
    drop(next);
    assert_eq!(totals(&rest).await["connection"], 0);
    // A hub that stops shows the ends as well.
    let identity = Identity::create(&hub, "e");
    let mut live = Live::open(&hub, "?kind=connection&device=e").await;
    let (_device, _) = Device::connected(&hub, identity.connect()).await;
    assert_eq!(live.lines(1).await, ["connection e deviceConnected"]);
    hub.shutdown().await;
    assert_eq!(live.lines(1).await, ["connection e deviceDisconnected"]);
    assert_eq!(live.next_or_end().await, None);
}

#[tokio::test]
async fn steps_of_messages_are_shown_as_they_happen() {
    let (hub, rest) = rest::start().await;
    rest.create("d").await;
    let mut live = Live::open(&hub, "?kind=c2d").await;
    let target = Target::device(DeviceId::parse("d").unwrap());
    hub.send_to_device(&target, Default::default(), "a").unwrap();
    let waiting = rest.call("GET", "/devices/d/messages/devicebound").send().await;
    let token = waiting.header("etag").unwrap().trim_matches('"').to_owned();
    // The hold and the message are over by the time that it is given back.
    hub.advance_clock(std::time::Duration::from_secs(2 * 60 * 60));
    let abandon = format!("/devices/d/messages/devicebound/{token}/abandon");
    let refused = rest.call("POST", &abandon).send().await;
    assert_eq!(refused.status, 412);
    hub.send_to_device(&target, Default::default(), "b").unwrap();
    assert_eq!(
        live.lines(4).await,
        ["c2d d queued", "c2d d delivered", "c2d d expired", "c2d d queued"]
    );
    assert_eq!(totals(&rest).await["c2d"], 4);
}

#[tokio::test]
async fn a_method_call_whose_caller_goes_is_seen_as_canceled() {
    let (hub, rest) = rest::start().await;
    rest.create("d").await;
    let mut live = Live::open(&hub, "?kind=method").await;
    let call = json!({"methodName": "m", "payload": 1, "connectTimeoutInSeconds": 300});
    let caller = rest.call("POST", "/twins/d/methods").json(&call).start().await;
    wait_for("the call", async || {
        match totals(&rest).await["method"].as_u64() {
            Some(1) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    drop(caller);
    let seen = live.next().await;
    assert_eq!(seen.line(), "method d canceled");
    let body: Value = serde_json::from_str(seen.data["body"].as_str().unwrap()).unwrap();
    assert_eq!((&body["methodName"], &body["payload"]), (&json!("m"), &json!(1)));
    let filters = [Filter::Methods];
    let _device = AnsweringDevice::try_connect(&hub, "d", Answer::json(200, &json!(null)), &filters)
        .await
        .unwrap();
    rest.post("/twins/d/methods", &call).await.ok();
    assert_eq!(live.lines(1).await, ["method d answered"]);
}
