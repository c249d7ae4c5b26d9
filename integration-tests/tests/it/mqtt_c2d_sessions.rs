//! Messages from the cloud over several connections, and over time.

use std::time::Duration;

use emulator::Hub;
use hub_core::c2d::Settings;
use hub_core::property_bag::{MessageProperties, SystemProperty};
use serde_json::json;

use crate::support::c2d::{
    expect_message, expect_numbered, feedback, filter, module, properties, send, target,
};
use crate::support::device::{Device, Identity};
use crate::support::rest::{Rest, start};
use crate::support::{start_hub, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Waits for feedback that comes by itself.
async fn expect_feedback(rest: &Rest, expected: &[(&str, &str)]) {
    let mut seen = Vec::new();
    wait_for("the feedback", async || {
        seen.extend(feedback(rest).await);
        let seen_so_far: Vec<_> = seen.iter().map(|(id, status)| (&**id, &**status)).collect();
        if seen_so_far == expected {
            Ok(())
        } else {
            Err(seen.clone())
        }
    })
    .await;
}

#[tokio::test]
async fn a_stored_session_gets_what_it_has_not_acknowledged_again() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let (mut device, _) = Device::connected(&hub, identity.connect()).await;
    device.subscribe(&[&filter("d")]).await;
    for n in 1..=3 {
        send(&hub, "d", n);
    }
    let ids = [
        expect_numbered(&mut device, "d", 1).await,
        expect_numbered(&mut device, "d", 2).await,
        expect_numbered(&mut device, "d", 3).await,
    ];
    device.acknowledge(ids[1]).await;
    device.disconnect().await;
    send(&hub, "d", 4);

    // Right after CONNACK, in order, under the same packet ids.
    let (mut device, resumed) = Device::connected(&hub, identity.connect()).await;
    assert!(resumed);
    for (n, dup) in [(1, true), (3, true), (4, false)] {
        let received = expect_message(&mut device, &target("d")).await;
        assert_eq!((received.text(), received.dup), (&*n.to_string(), dup));
        assert_eq!(received.packet_id.unwrap().get(), n);
    }
    drop(device);

    // To a clean session everything is new, and nothing comes by itself.
    let (mut device, _) = Device::connected(&hub, identity.connect_clean()).await;
    device.expect_silence().await;
    device.subscribe(&[&filter("d")]).await;
    for n in [1, 3, 4] {
        let received = expect_message(&mut device, &target("d")).await;
        assert_eq!((received.text(), received.dup), (&*n.to_string(), false));
    }
    drop(device);

    // The clean session has dropped the stored one.
    let (mut device, resumed) = Device::connected(&hub, identity.connect()).await;
    assert!(!resumed);
    device.expect_silence().await;
    device.subscribe(&[&filter("d")]).await;
    let received = expect_message(&mut device, &target("d")).await;
    assert_eq!((received.text(), received.dup), ("1", false));
}

#[tokio::test]
async fn a_takeover_moves_what_is_not_acknowledged() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let mut first = Device::online(&hub, "d").await;
    first.subscribe(&[&filter("d")]).await;
    send(&hub, "d", 1);
    let id = expect_numbered(&mut first, "d", 1).await;
    let (mut second, _) = Device::connected(&hub, identity.connect()).await;
    // Too late: the first connection counts no more.
    first.acknowledge(id).await;
    first.expect_closed().await;
    let received = expect_message(&mut second, &target("d")).await;
    assert_eq!((received.text(), received.dup), ("1", true));
    assert_eq!(hub.counters().c2d_completed, 0);
    second.acknowledge(received.packet_id.unwrap()).await;
    second.expect_silence().await;
    assert_eq!(hub.counters().c2d_completed, 1);
}

#[tokio::test]
async fn connections_that_break_are_not_counted_against_a_message() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&[&filter("d")]).await;
    send(&hub, "d", 1);
    for _ in 0..15 {
        expect_numbered(&mut device, "d", 1).await;
        drop(device);
        (device, _) = Device::connected(&hub, identity.connect()).await;
    }
    expect_numbered(&mut device, "d", 1).await;
}

#[tokio::test]
async fn a_message_that_is_not_acknowledged_within_a_minute_is_sent_again() {
    let hub = start_hub().await;
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&[&filter("d")]).await;
    send(&hub, "d", 1);
    let id = expect_numbered(&mut device, "d", 1).await;
    for _ in 0..12 {
        hub.advance_clock(MINUTE);
        let again = expect_message(&mut device, &target("d")).await;
        assert_eq!((again.text(), again.dup, again.packet_id), ("1", true, Some(id)));
    }
    device.acknowledge(id).await;
    device.expect_silence().await;
    hub.advance_clock(MINUTE);
    device.expect_silence().await;
    assert_eq!(hub.counters().c2d_completed, 1);
}

#[tokio::test]
async fn a_message_expires_while_nobody_touches_its_device() {
    let (hub, rest) = start().await;
    hub.create_device("d").unwrap();
    send(&hub, "d", 1);
    hub.advance_clock(HOUR - Duration::from_secs(1));
    let expiry = hub.now().saturating_add(MINUTE).to_string();
    let short = properties(
        &[
            (SystemProperty::MessageId, "short"),
            (SystemProperty::Ack, "negative"),
            (SystemProperty::Expiry, &expiry),
        ],
        &[],
    );
    hub.send_to_device(&target("d"), short, "").unwrap();
    assert_eq!(rest.get("/twins/d").await.ok()["cloudToDeviceMessageCount"], 2);
    hub.advance_clock(Duration::from_secs(1));
    expect_feedback(&rest, &[("1", "Expired")]).await;
    assert_eq!(rest.get("/twins/d").await.ok()["cloudToDeviceMessageCount"], 1);
    hub.advance_clock(MINUTE);
    expect_feedback(&rest, &[("short", "Expired")]).await;
    assert_eq!(rest.get("/twins/d").await.ok()["cloudToDeviceMessageCount"], 0);
    assert_eq!(hub.counters().c2d_expired, 2);
    // A device that comes then finds nothing.
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&[&filter("d")]).await;
    device.expect_silence().await;
}

#[tokio::test]
async fn what_a_device_gives_back_expires_in_time() {
    let (hub, rest) = start().await;
    for end in ["disconnect", "disable"] {
        let mut device = Device::online(&hub, end).await;
        device.subscribe(&[&filter(end)]).await;
        let expiry = hub.now().saturating_add(Duration::from_secs(30)).to_string();
        let short = properties(
            &[
                (SystemProperty::MessageId, end),
                (SystemProperty::Ack, "negative"),
                (SystemProperty::Expiry, &expiry),
            ],
            &[],
        );
        hub.send_to_device(&target(end), short, "").unwrap();
        expect_message(&mut device, &target(end)).await;
        match end {
            "disconnect" => device.disconnect().await,
            _ => {
                let body = json!({"status": "disabled"});
                let call = rest.call("PUT", "/devices/disable").if_match("*").json(&body);
                call.send().await.ok();
                device.expect_closed().await;
            }
        }
        // Less than the minute for which the device might have held it.
        hub.advance_clock(Duration::from_secs(31));
        expect_feedback(&rest, &[(end, "Expired")]).await;
    }
}

#[tokio::test]
async fn many_devices_expire_together() {
    const DEVICES: usize = 600;
    let hub = start_hub().await;
    for n in 0..DEVICES {
        hub.create_device(&format!("d{n}")).unwrap();
        send(&hub, &format!("d{n}"), 1);
    }
    hub.advance_clock(HOUR);
    let expired = async || match hub.counters().c2d_expired {
        n if n == DEVICES as u64 => Ok(()),
        n => Err(n),
    };
    wait_for("the end of all messages", expired).await;
}

#[tokio::test]
async fn a_held_message_may_be_completed_after_its_expiry() {
    let (hub, rest) = start().await;
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&[&filter("d")]).await;
    hub.advance_clock(Duration::from_secs(1));
    let expiry = hub.now().saturating_add(Duration::from_secs(30)).to_string();
    let short = properties(
        &[(SystemProperty::Ack, "full"), (SystemProperty::Expiry, &expiry)],
        &[],
    );
    hub.send_to_device(&target("d"), short, "").unwrap();
    let received = expect_message(&mut device, &target("d")).await;
    hub.advance_clock(Duration::from_secs(40));
    device.acknowledge(received.packet_id.unwrap()).await;
    device.expect_silence().await;
    // It has no id that the feedback could name.
    assert_eq!(feedback(&rest).await, [(String::new(), "Success".to_owned())]);
}

#[tokio::test]
async fn the_default_time_to_live_is_the_hubs() {
    let settings = Settings {
        default_ttl: Duration::from_secs(300),
        ..Settings::default()
    };
    let hub = Hub::builder().cloud_to_device(settings).start().await.unwrap();
    hub.create_device("d").unwrap();
    send(&hub, "d", 1);
    hub.advance_clock(Duration::from_secs(300));
    let expired = async || match hub.counters().c2d_expired {
        1 => Ok(()),
        n => Err(n),
    };
    wait_for("the end of the message", expired).await;
}

#[tokio::test]
async fn a_disabled_device_is_sent_messages_for_later() {
    let (hub, rest) = start().await;
    let identity = Identity::create(&hub, "d");
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&[&filter("d")]).await;
    let authentication = rest.get("/devices/d").await.ok()["authentication"].clone();
    let set_status = async |status: &str| {
        let body = json!({"status": status, "authentication": authentication});
        let call = rest.call("PUT", "/devices/d").if_match("*").json(&body);
        call.send().await.ok();
    };
    set_status("disabled").await;
    device.expect_closed().await;
    send(&hub, "d", 1);
    set_status("enabled").await;
    let (mut device, _) = Device::connected(&hub, identity.connect()).await;
    expect_numbered(&mut device, "d", 1).await;
}

#[tokio::test]
async fn messages_and_feedback_go_with_their_device() {
    let (hub, rest) = start().await;
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&[&filter("d")]).await;
    Identity::create(&hub, "other");
    Identity::create_module(&hub, "d", "m");
    send(&hub, "d", 1);
    let id = expect_numbered(&mut device, "d", 1).await;
    device.acknowledge(id).await;
    device.expect_silence().await;
    send(&hub, "d", 2);
    let asking = properties(&[(SystemProperty::Ack, "full")], &[]);
    hub.send_to_device(&module("d", "m"), asking, "").unwrap();
    send(&hub, "other", 1);
    rest.delete("/devices/d").await.no_content();
    let gone = hub.send_to_device(&target("d"), MessageProperties::default(), "");
    assert_eq!(gone.unwrap_err().code, hub_core::error::ErrorCode::DeviceNotFound);

    // A device of the same name is another one.
    hub.create_device("d").unwrap();
    assert_eq!(rest.get("/twins/d").await.ok()["cloudToDeviceMessageCount"], 0);
    hub.advance_clock(HOUR);
    expect_feedback(&rest, &[("1", "Expired")]).await;
    assert_eq!(hub.counters().c2d_expired, 1);
    send(&hub, "d", 1);

    hub.reset();
    hub.create_device("d").unwrap();
    assert!(feedback(&rest).await.is_empty());
    assert_eq!(rest.get("/twins/d").await.ok()["cloudToDeviceMessageCount"], 0);
    send(&hub, "d", 1);
}

#[tokio::test]
async fn messages_of_a_deleted_module_go() {
    let (hub, rest) = start().await;
    hub.create_device("d").unwrap();
    Identity::create_module(&hub, "d", "m");
    hub.send_to_device(&module("d", "m"), MessageProperties::default(), "")
        .unwrap();
    // Neither does anybody learn of those that had ended.
    let asking = properties(&[(SystemProperty::Ack, "full")], &[]);
    hub.send_to_device(&module("d", "m"), asking, "").unwrap();
    rest.delete("/devices/d/modules/m/commands").await.ok();
    hub.send_to_device(&module("d", "m"), MessageProperties::default(), "")
        .unwrap();
    rest.delete("/devices/d/modules/m").await.no_content();
    assert!(feedback(&rest).await.is_empty());
    Identity::create_module(&hub, "d", "m");
    let twin = rest.get("/twins/d/modules/m").await.ok();
    assert_eq!(twin["cloudToDeviceMessageCount"], 0);
    let sequence = hub.send_to_device(&module("d", "m"), MessageProperties::default(), "");
    assert_eq!(sequence, Ok(1));
}
