//! The event tap with the program that its documentation names.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::interval;

use crate::support::device::{Device, Identity};
use crate::support::jobs;
use crate::support::rest::Rest;
use crate::support::soon;
use crate::support::tap::start_with_tap;

/// Whether the program is there. It may be missing only where nobody has
/// promised it: on machines that are not CI's.
#[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
fn is_installed(program: &str) -> bool {
    match std::process::Command::new(program).arg("--help").output() {
        Ok(_) => true,
        Err(error) if std::env::var_os("CI").is_none() => {
            println!("skipped, because {program} cannot be run: {error}");
            false
        }
        Err(error) => panic!("{program} (Debian: mosquitto-clients) cannot be run: {error}"),
    }
}

#[tokio::test]
async fn mosquitto_sub_shows_what_happens() {
    if !is_installed("mosquitto_sub") {
        return;
    }
    let hub = start_with_tap().await;
    let address = hub.event_tap_address().unwrap();
    let mut program = Command::new("mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &address.port().to_string()])
        .args(["-t", "hub/#", "-v"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let device = Identity::create(&hub, "my-device");
    let (mut sender, _) = Device::connected(&hub, device.connect()).await;
    // It does not say when it has subscribed, so the device sends until it shows.
    let topic = device.events("unit=C");
    let seen = async {
        let mut beat = interval(Duration::from_millis(50));
        loop {
            tokio::select! {
                _ = beat.tick() => sender.publish_acknowledged(&topic, "warm").await,
                line = lines.next_line() => {
                    let line = line.unwrap().expect("mosquitto_sub has ended");
                    if line.starts_with("hub/my-device/telemetry ") {
                        return line;
                    }
                }
            }
        }
    };
    let line = soon("a line of mosquitto_sub", seen).await;
    let (_, json) = line.split_once(' ').unwrap();
    let json: Value = serde_json::from_str(json).unwrap();
    assert_eq!(json["body"], "warm");
    assert_eq!(json["applicationProperties"]["unit"], "C");

    let rest = Rest::of(&hub);
    jobs::create(&rest, "j", &jobs::twin_job("*", json!({}))).await;
    jobs::ended(&rest, "j").await;
    let mut missing = vec!["hub/my-device/twin ", "hub/my-device/job "];
    let seen = async {
        while !missing.is_empty() {
            let line = lines.next_line().await.unwrap().expect("mosquitto_sub has ended");
            missing.retain(|topic| !line.starts_with(topic));
        }
    };
    soon("the twin's change and the job", seen).await;
    hub.shutdown().await;
}
