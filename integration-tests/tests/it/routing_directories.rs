//! Directories that events are routed to: lines of JSON, in files that grow to
//! their size and are whole whatever happens to the disk.

use std::fs;

use serde_json::{Value, json};

use crate::support::device::{Device, Identity};
use crate::support::routing::{TestDirectory, large, report, route, routed, send, told, wait_for_report};
use crate::support::wait_for;

fn routing(directory: &TestDirectory, more: &Value) -> Value {
    let mut endpoint = json!({"name": "files", "path": directory.path()});
    for (name, value) in more.as_object().unwrap() {
        endpoint[name] = value.clone();
    }
    json!({
        "endpoints": {"directories": [endpoint]},
        "routes": [route("all", "DeviceMessages", "files"), route("built-in", "DeviceMessages", "events")],
    })
}

async fn lines(directory: &TestDirectory, count: usize) -> Vec<Value> {
    wait_for("the lines", async || {
        let lines = directory.lines();
        if lines.len() >= count {
            Ok(lines)
        } else {
            Err(lines.len())
        }
    })
    .await
}

#[tokio::test]
async fn events_are_lines_at_once() {
    let directory = TestDirectory::new();
    let (hub, rest) = routed(&routing(&directory, &json!({})), &["d"]).await;
    send(&rest, "d", "1\n2", &[("a", "b")]).await;
    let first = lines(&directory, 1).await.remove(0);
    assert_eq!(
        (&first["body"], &first["applicationProperties"]),
        (&json!("1\n2"), &json!({"a": "b"}))
    );
    assert_eq!(first["annotations"]["iothub-connection-device-id"], "d");
    let identity = Identity::create(&hub, "d");
    let mut device = Device::online(&hub, "d").await;
    for number in 0..300 {
        device.publish(&identity.events(""), number.to_string()).await;
    }
    let all = lines(&directory, 301).await;
    let expected: Vec<String> = (0..300).map(|number| number.to_string()).collect();
    assert_eq!(told(&all)[1..], expected);
    let sequence: Vec<_> = all
        .iter()
        .map(|line| line["sequenceNumber"].as_u64().unwrap())
        .collect();
    assert_eq!(sequence, (0..301).collect::<Vec<_>>());
    assert_eq!(directory.files()[0].0, "files-00000001.jsonl");
    let report = wait_for_report(&rest, "files", |report| report["backlog"] == 0).await;
    directory.assert_whole();
    assert_eq!(
        (&report["health"], &report["delivered"]),
        (&json!("healthy"), &json!(301))
    );

    // What is there when the hub stops is written, in a new file of the next hub too.
    device.publish_acknowledged(&identity.events(""), "last").await;
    hub.shutdown().await;
    assert_eq!(told(&directory.lines()).last().unwrap(), "last");
    let (_hub, rest) = routed(&routing(&directory, &json!({})), &["d"]).await;
    send(&rest, "d", "next", &[]).await;
    lines(&directory, 303).await;
    let names: Vec<_> = directory.files().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["files-00000001.jsonl", "files-00000002.jsonl"]);
}

#[tokio::test]
async fn files_are_bounded_in_size_and_number() {
    let directory = TestDirectory::new();
    fs::create_dir_all(directory.path()).unwrap();
    // Not the endpoint's: they stay.
    for other in ["files-1.jsonl", "files-00000001.txt", "file-00000001.jsonl"] {
        fs::write(directory.path().join(other), "").unwrap();
    }
    let (_hub, rest) = routed(
        &routing(&directory, &json!({"maxFileBytes": 2048, "maxFiles": 3})),
        &["d"],
    )
    .await;
    for number in 0..20 {
        send(&rest, "d", format!("{number:0300}"), &[]).await;
    }
    // Larger than a file may be: a file of its own.
    send(&rest, "d", "y".repeat(5000), &[]).await;
    send(&rest, "d", "last", &[]).await;
    wait_for_report(&rest, "files", |report| report["delivered"] == 22).await;
    directory.assert_whole();
    let files = directory.files();
    let (ours, others): (Vec<_>, Vec<_>) = files.into_iter().partition(|(_, text)| !text.is_empty());
    assert_eq!((ours.len(), others.len()), (3, 3));
    assert!(ours[0].1.len() <= 2048 && ours[1].1.len() > 5000);
    assert_eq!(ours[1].1.lines().count(), 1);
    assert_eq!(ours[2].1.lines().count(), 1);
}

#[tokio::test]
async fn a_path_that_cannot_be_written_is_reported_and_tried_again() {
    let directory = TestDirectory::new();
    fs::create_dir_all(directory.path().parent().unwrap()).unwrap();
    fs::write(directory.path(), "a file").unwrap();
    let (_hub, rest) = routed(&routing(&directory, &json!({})), &["d"]).await;
    assert_eq!(report(&rest, "files").await["health"], "unknown");
    send(&rest, "d", "1", &[]).await;
    let report = wait_for_report(&rest, "files", |report| report["retries"].as_u64() >= Some(1)).await;
    assert_eq!(
        (&report["health"], &report["backlog"]),
        (&json!("unhealthy"), &json!(1))
    );
    let error = report["lastError"]["text"].as_str().unwrap();
    assert!(error.contains(directory.path().to_str().unwrap()), "{error}");
    // Devices and other endpoints do not notice.
    send(&rest, "d", "2", &[]).await;
    fs::remove_file(directory.path()).unwrap();
    let all = lines(&directory, 2).await;
    assert_eq!(told(&all), ["1", "2"]);
    wait_for_report(&rest, "files", |report| report["health"] == "healthy").await;
    directory.assert_whole();
}

#[tokio::test]
async fn a_directory_that_vanishes_is_not_made_again() {
    let directory = TestDirectory::new();
    let (_hub, rest) = routed(&routing(&directory, &json!({})), &["d"]).await;
    send(&rest, "d", "1", &[]).await;
    lines(&directory, 1).await;
    fs::remove_dir_all(directory.path()).unwrap();
    send(&rest, "d", "2", &[]).await;
    wait_for_report(&rest, "files", |report| report["health"] == "unhealthy").await;
    assert!(!directory.path().exists());
    fs::create_dir(directory.path()).unwrap();
    assert_eq!(told(&lines(&directory, 1).await), ["2"]);
    let report = wait_for_report(&rest, "files", |report| report["health"] == "healthy").await;
    assert_eq!((&report["delivered"], &report["dropped"]), (&json!(2), &json!(0)));
}

#[tokio::test]
async fn a_stalled_directory_loses_the_oldest() {
    let directory = TestDirectory::new();
    fs::create_dir_all(directory.path().parent().unwrap()).unwrap();
    fs::write(directory.path(), "a file").unwrap();
    let (_hub, rest) = routed(&routing(&directory, &json!({})), &["d"]).await;
    // More than the 16 MiB that may wait.
    for number in 0..100 {
        send(&rest, "d", large(number), &[]).await;
    }
    let report = report(&rest, "files").await;
    let (backlog, dropped) = (
        report["backlog"].as_u64().unwrap(),
        report["dropped"].as_u64().unwrap(),
    );
    // Those that the task holds are not in the log any more.
    assert!(dropped >= 10 && backlog + dropped >= 99, "{report}");
    fs::remove_file(directory.path()).unwrap();
    let report = wait_for_report(&rest, "files", |report| report["backlog"] == 0).await;
    directory.assert_whole();
    assert_eq!(report["health"], "healthy");
    let (delivered, dropped) = (
        report["delivered"].as_u64().unwrap(),
        report["dropped"].as_u64().unwrap(),
    );
    assert_eq!(delivered + dropped, 100);
    assert!(report["lastError"]["text"].as_str().unwrap().contains("lost"));
    let lines = directory.lines();
    assert_eq!(lines.len() as u64, delivered);
    assert_eq!(lines.last().unwrap()["body"], large(99));
    assert_eq!(lines.last().unwrap()["sequenceNumber"], 99);
}

#[tokio::test]
async fn every_event_is_written_once_and_in_order_while_the_settings_change() {
    let directory = TestDirectory::new();
    let settings = |files: usize| routing(&directory, &json!({"maxFiles": files}));
    let (_hub, rest) = routed(&settings(100), &["d"]).await;
    for number in 0..60_usize {
        send(&rest, "d", number.to_string(), &[]).await;
        if number % 3 == 0 {
            rest.put("/_emulator/routing", &settings(101 + number)).await.ok();
        }
    }
    let expected: Vec<String> = (0..60).map(|number| number.to_string()).collect();
    wait_for_report(&rest, "files", |report| report["backlog"] == 0).await;
    assert_eq!(told(&directory.lines()), expected);
    directory.assert_whole();
}
