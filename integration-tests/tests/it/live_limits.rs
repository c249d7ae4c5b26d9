//! Live views: what cannot be wished for, who does not read, and how many watch.

use std::time::Duration;

use emulator::Hub;
use hub_core::error::ErrorCode;
use hub_core::limits;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::device::{Device, Identity};
use crate::support::live::Live;
use crate::support::rest::{self, Rest};
use crate::support::{start_hub, wait_for};

#[tokio::test]
async fn what_is_no_wish_is_refused() {
    let (hub, rest) = rest::start().await;
    let watch = async |query: &str, id: Option<&str>| {
        let call = rest
            .authorized(None)
            .exactly("GET", &format!("/_emulator/events{query}"))
            .header("Accept", "text/event-stream");
        let call = match id {
            Some(id) => call.header("Last-Event-ID", id),
            None => call,
        };
        let reply = call.send().await;
        (reply.status, reply.text().to_owned())
    };
    for (query, id, expected) in [
        (
            "?kind=twins",
            None,
            "is none of telemetry, twin, lifecycle, connection",
        ),
        ("?kind=twin,", None, "is none of"),
        ("?device=a%2Fb", None, "is no device id or beginning of one"),
        (
            "?devices=a",
            None,
            "is no parameter here; there are device, kind, route and after",
        ),
        ("?partition=0", None, "is no parameter here"),
        ("?after=x", None, "is no id of an event"),
        ("?after=-1", None, "is no id of an event"),
        ("", Some("99999999999999999999"), "is no id of an event"),
    ] {
        let (status, text) = watch(query, id).await;
        assert_eq!(status, 400, "{query}: {text}");
        assert!(
            text.contains("ErrorCode:ArgumentInvalid;") && text.contains(expected),
            "{query}: {text}"
        );
    }
    let many = format!("?{}", ["device=a"; 101].join("&"));
    let (status, text) = watch(&many, None).await;
    assert_eq!(status, 400, "{text}");
    assert!(text.contains("device may be given 100 times at most"), "{text}");
    // A list is a list, and says what only a stream can do.
    let list = async |query: &str| {
        let path = format!("/_emulator/events{query}");
        rest.authorized(None).exactly("GET", &path).send().await
    };
    assert_eq!(list("?partition=0&max=1").await.ok(), json!({"events": []}));
    let refused = list("?device=d").await;
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("text/event-stream"), "{}", refused.text());
    drop(hub);
}

#[tokio::test]
async fn as_many_watch_as_may_and_a_place_becomes_free() {
    let hub = start_hub().await;
    let rest = Rest::of(&hub);
    let mut watchers = Vec::new();
    for _ in 0..limits::JOURNAL_WATCHERS {
        watchers.push(Live::open(&hub, "").await);
    }
    let one_more = async || {
        rest.authorized(None)
            .exactly("GET", "/_emulator/events")
            .header("Accept", "text/event-stream")
            .send()
            .await
    };
    let refused = one_more().await;
    assert_eq!(refused.status, 429);
    let text = refused.text();
    assert!(
        text.contains(ErrorCode::ThrottlingException.name())
            && text.contains("64 watch the hub's events already"),
        "{text}"
    );
    rest.create("d").await;
    for live in &mut watchers {
        assert_eq!(live.lines(1).await, ["lifecycle d createDeviceIdentity"]);
    }
    watchers.pop();
    // The hub finds out when it next writes, or at once by the closed connection.
    wait_for("a free place", async || {
        let stream = TcpStream::connect(hub.http_address().unwrap()).await.unwrap();
        watch_silently(stream).await
    })
    .await;
}

/// Asks to watch and gives the connection, unless it is refused.
async fn watch_silently(mut stream: TcpStream) -> Result<TcpStream, String> {
    stream
        .write_all(b"GET /_emulator/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        .await
        .unwrap();
    let mut head = [0; 15];
    stream.read_exact(&mut head).await.unwrap();
    match &head {
        b"HTTP/1.1 200 OK" => Ok(stream),
        other => Err(String::from_utf8_lossy(other).into_owned()),
    }
}

/// Sends telemetry until the ring cannot hold it.
async fn overflow(hub: &Hub, identity: &Identity) -> Device {
    let (mut device, _) = Device::connected(hub, identity.connect()).await;
    let body = bytes::Bytes::from("x".repeat(limits::JOURNAL_BODY_BYTES));
    for _ in 0..2 * limits::JOURNAL_BYTES / limits::JOURNAL_BODY_BYTES {
        device
            .publish_acknowledged(&identity.events(""), body.clone())
            .await;
    }
    device
}

#[tokio::test]
async fn who_does_not_read_finds_a_gap_and_holds_up_nobody() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let mut stalled = Live::open(&hub, "").await;
    let mut reading = Live::open(&hub, "?kind=connection").await;
    let mut device = overflow(&hub, &identity).await;
    assert_eq!(reading.lines(1).await, ["connection d deviceConnected"]);
    device.publish_acknowledged(&identity.events(""), "last").await;
    // What was under way when it stopped, then the gap, then the newest.
    let (mut last, mut missed) = (stalled.position, 0);
    loop {
        let seen = stalled.next().await;
        if seen.event == "gap" {
            missed += seen.data["missed"].as_u64().unwrap();
            assert_eq!(seen.id, last + seen.data["missed"].as_u64().unwrap());
        } else {
            assert_eq!(seen.id, last + 1);
        }
        last = seen.id;
        if seen.data["body"] == "last" {
            break;
        }
    }
    assert!(missed > 0);
    let counters = Rest::of(&hub).exactly("GET", "/_emulator/events/counters");
    let counted = counters.send().await.ok();
    assert_eq!(counted["missed"], missed);
    assert!(counted["gaps"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn a_hub_that_stops_does_not_wait_for_who_does_not_read() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let stalled = Live::open(&hub, "").await;
    let mut reading = Live::open(&hub, "?kind=lifecycle").await;
    let device = overflow(&hub, &identity).await;
    drop(device);
    tokio::time::timeout(Duration::from_secs(10), hub.shutdown())
        .await
        .expect("a stop");
    assert_eq!(reading.next_or_end().await, None);
    drop(stalled);
}
