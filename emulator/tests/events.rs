//! `iothub-emulator events` as its users run it, against a hub over real sockets.

// A failure in a test's helper is a failure of the test.
#![allow(clippy::unwrap_used, missing_docs)]

use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use emulator::{Hub, Listen, Ports};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(30);

/// A running program.
struct Program {
    child: Child,
    out: Lines<BufReader<ChildStdout>>,
    err: Lines<BufReader<ChildStderr>>,
}

impl Program {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_iothub-emulator"))
            .arg("events")
            .args(arguments)
            .env_remove("IOTHUB_EMULATOR_URL")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            out: BufReader::new(child.stdout.take().unwrap()).lines(),
            err: BufReader::new(child.stderr.take().unwrap()).lines(),
            child,
        }
    }

    async fn line(&mut self) -> String {
        timeout(DEADLINE, self.out.next_line())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
    }

    async fn json(&mut self) -> Value {
        serde_json::from_str(&self.line().await).unwrap()
    }

    async fn note(&mut self) -> String {
        timeout(DEADLINE, self.err.next_line())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
    }

    async fn end(&mut self) -> ExitStatus {
        timeout(DEADLINE, self.child.wait()).await.unwrap().unwrap()
    }
}

fn url(hub: &Hub) -> String {
    format!("http://{}", hub.http_address().unwrap())
}

/// Waits until this many programs watch; asks over HTTP as anybody could.
async fn watched_by(hub: &Hub, count: u64) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    timeout(DEADLINE, async {
        loop {
            let mut stream = tokio::net::TcpStream::connect(hub.http_address().unwrap())
                .await
                .unwrap();
            let request = "GET /_emulator/events/counters HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut reply = String::new();
            stream.read_to_string(&mut reply).await.unwrap();
            let body: Value = serde_json::from_str(reply.split_once("\r\n\r\n").unwrap().1).unwrap();
            if body["watchers"] == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn events_are_lines_of_json_or_text() {
    let hub = Hub::builder().start().await.unwrap();
    let mut json = Program::start(&["--url", &url(&hub), "--device", "room-*"]);
    let mut text = Program::start(&[
        "--url",
        &url(&hub),
        "--output",
        "text",
        "--kind",
        "lifecycle,method",
    ]);
    watched_by(&hub, 2).await;
    hub.create_device("hall").unwrap();
    hub.create_device("room-1").unwrap();
    let event = json.json().await;
    assert_eq!(
        (&event["kind"], &event["deviceId"], &event["operation"]),
        (
            &"lifecycle".into(),
            &"room-1".into(),
            &"createDeviceIdentity".into()
        )
    );
    let line = text.line().await;
    assert!(
        line.ends_with("  hall              lifecycle     created"),
        "{line}"
    );
    // What has been is shown to who asks for it.
    let after = event["id"].as_u64().unwrap() - 1;
    let mut later = Program::start(&[
        "--url",
        &url(&hub),
        "--after",
        &after.to_string(),
        "--output",
        "json",
    ]);
    assert_eq!(later.json().await["id"], event["id"]);
    hub.shutdown().await;
}

#[tokio::test]
async fn what_cannot_be_shown_is_said() {
    let hub = Hub::builder().start().await.unwrap();
    let hub_url = url(&hub);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    for (arguments, code, expected) in [
        (
            &["--url", &hub_url, "--kind", "twins"][..],
            1,
            "kind=\"twins\" is none of telemetry, twin",
        ),
        (
            &["--url", &hub_url, "--device", "a b"],
            1,
            "device=\"a b\" is no device id",
        ),
        (&["--url", &nobody], 1, "cannot reach a hub at http://127.0.0.1:"),
        (
            &["--url", "https://localhost"],
            1,
            "is not the address of a hub's HTTP without TLS",
        ),
        (&["--info-file", "/no/such/file"], 1, "cannot read /no/such/file"),
        (&["--after", "x"], 2, "invalid value 'x' for '--after"),
        (
            &["--url", &hub_url, "--info-file", "/no/such/file"],
            1,
            "cannot read /no/such/file",
        ),
    ] {
        let mut program = Program::start(arguments);
        let note = program.note().await;
        assert!(note.contains(expected), "{arguments:?}: {note}");
        assert_eq!(program.end().await.code(), Some(code), "{arguments:?}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_cannot_be_written_is_an_error() {
    let hub = Hub::builder().start().await.unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_iothub-emulator"))
        .args(["events", "--url", &url(&hub)])
        .stdin(Stdio::null())
        .stdout(std::fs::File::options().write(true).open("/dev/full").unwrap())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    watched_by(&hub, 1).await;
    hub.create_device("d").unwrap();
    let output = timeout(DEADLINE, child.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("cannot write: "), "{error}");
}

#[tokio::test]
async fn a_hub_that_comes_back_is_watched_again() {
    let start = async |address: Option<SocketAddr>| {
        let http = Listen::On(address.map_or(0, |address| address.port()));
        let builder = Hub::builder().ports(Ports { http, ..Ports::ANY });
        // Somebody else may have the port for a moment, as any free one.
        let started = async {
            loop {
                match builder.clone().start().await {
                    Ok(hub) => return hub,
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        timeout(DEADLINE, started).await.unwrap()
    };
    let hub = start(None).await;
    let address = hub.http_address();
    let mut program = Program::start(&["--url", &url(&hub)]);
    watched_by(&hub, 1).await;
    hub.create_device("a").unwrap();
    assert_eq!(program.json().await["deviceId"], "a");
    hub.shutdown().await;
    let note = program.note().await;
    assert!(
        note.contains("the hub has stopped; waiting for it to come back"),
        "{note}"
    );
    let hub = start(address).await;
    let note = program.note().await;
    assert!(note.contains("the hub is back"), "{note}");
    watched_by(&hub, 1).await;
    hub.create_device("b").unwrap();
    // Nobody watched the new hub from its start.
    assert_eq!(program.json().await["kind"], "gap");
    assert_eq!(program.json().await["deviceId"], "b");
    // Nobody reads any more: a quiet end.
    drop(program.out);
    hub.create_device("c").unwrap();
    let status = timeout(DEADLINE, program.child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(
        timeout(DEADLINE, program.err.next_line()).await.unwrap().unwrap(),
        None
    );
}
