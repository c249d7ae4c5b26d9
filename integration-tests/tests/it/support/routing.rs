//! What tests of message routing need: hubs with a configuration, a look at
//! endpoints, a directory and a webhook.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use emulator::Hub;
use hub_core::routing::Routing;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use super::rest::Rest;
use super::wait_for;

/// A hub with this routing, and with devices.
pub async fn routed(routing: &Value, devices: &[&str]) -> (Hub, Rest) {
    let routing = Routing::from_json(routing).unwrap();
    let hub = Hub::builder().routing(routing).start().await.unwrap();
    for device in devices {
        hub.create_device(device).unwrap();
    }
    let rest = Rest::of(&hub);
    (hub, rest)
}

/// A stream with one partition.
pub fn stream(name: &str) -> Value {
    json!({"name": name, "partitions": 1})
}

/// A route of everything of a source.
pub fn route(name: &str, source: &str, endpoint: &str) -> Value {
    json!({"name": name, "source": source, "endpointNames": [endpoint]})
}

/// Sends a message of a device over HTTP, with application properties.
pub async fn send(rest: &Rest, device: &str, body: impl Into<Vec<u8>>, properties: &[(&str, &str)]) {
    let mut call = rest
        .call("POST", &format!("/devices/{device}/messages/events"))
        .body(body);
    for (name, value) in properties {
        call = call.header(&format!("iothub-app-{name}"), value);
    }
    call.send().await.no_content();
}

/// A body of 200,000 bytes: a hundred are more than may wait for a directory or a
/// webhook.
pub fn large(number: usize) -> String {
    format!("{number:03}").repeat(66_667)
}

/// Asks an admin endpoint.
pub async fn admin(rest: &Rest, path: &str) -> Value {
    let path = format!("/_emulator/{path}");
    rest.authorized(None).exactly("GET", &path).send().await.ok()
}

/// All events of an endpoint's log, of all partitions.
pub async fn kept(rest: &Rest, endpoint: &str) -> Vec<Value> {
    let partitions = admin(rest, &format!("events/partitions?endpoint={endpoint}")).await;
    let mut events = Vec::new();
    for partition in 0..partitions["partitions"].as_array().unwrap().len() {
        let path = format!("events?endpoint={endpoint}&partition={partition}&max=1000");
        events.extend(admin(rest, &path).await["events"].as_array().unwrap().clone());
    }
    events
}

/// The bodies of events, or what happened where there is one.
pub fn told(events: &[Value]) -> Vec<String> {
    let told = |event: &Value| {
        let operation = event["applicationProperties"]["opType"].as_str();
        operation
            .or(event["body"].as_str())
            .unwrap_or_default()
            .to_owned()
    };
    events.iter().map(told).collect()
}

/// How an endpoint is doing.
pub async fn report(rest: &Rest, name: &str) -> Value {
    let reports = admin(rest, "routing/endpoints").await;
    let mut reports = reports["endpoints"].as_array().unwrap().iter();
    reports.find(|report| report["name"] == name).unwrap().clone()
}

/// Waits until an endpoint is as it should be.
pub async fn wait_for_report(rest: &Rest, name: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    wait_for(&format!("a report of {name}"), async || {
        let report = report(rest, name).await;
        if is_it(&report) { Ok(report) } else { Err(report) }
    })
    .await
}

/// A directory that goes with the test.
pub struct TestDirectory(PathBuf);

impl TestDirectory {
    /// A place where nothing is yet.
    pub fn new() -> Self {
        Self(
            std::env::temp_dir()
                .join(format!("iothub-routing-{}", std::process::id()))
                .join(unique()),
        )
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Names and contents of the files, in the order of their names.
    pub fn files(&self) -> Vec<(String, String)> {
        let Ok(entries) = std::fs::read_dir(&self.0) else {
            return Vec::new();
        };
        let mut files: Vec<_> = entries
            .map(|entry| {
                let entry = entry.unwrap();
                let text = std::fs::read_to_string(entry.path()).unwrap();
                (entry.file_name().into_string().unwrap(), text)
            })
            .collect();
        files.sort();
        files
    }

    /// All whole lines of all files. A file that is being written may end in
    /// half a line, for as long as the write takes.
    pub fn lines(&self) -> Vec<Value> {
        let files = self.files();
        let whole = files
            .iter()
            .flat_map(|(_, text)| text.split_inclusive('\n').filter(|line| line.ends_with('\n')));
        whole.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Asserts that every file ends with its last line.
    pub fn assert_whole(&self) {
        for (name, text) in self.files() {
            assert!(
                text.is_empty() || text.ends_with('\n'),
                "{name} ends in half a line"
            );
        }
    }
}

impl Drop for TestDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn unique() -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
        .to_string()
}

/// What a webhook does with a request.
#[derive(Debug, Clone)]
pub enum Reaction {
    /// It answers with this status, these header lines and this body.
    Answer(u16, String, String),
    /// It answers with this status when there is such a body among the events,
    /// otherwise with 200.
    Refuse(u16, String),
    /// It reads the request and says nothing.
    Hang,
    /// It does not even read.
    Ignore,
}

impl Reaction {
    pub fn status(status: u16) -> Self {
        Self::Answer(status, String::new(), String::new())
    }
}

/// A request as a webhook saw it.
#[derive(Debug, Clone)]
pub struct Posted {
    pub head: String,
    pub events: Vec<Value>,
    pub at: tokio::time::Instant,
}

/// A webhook that remembers what it was posted and reacts as it is told.
pub struct Hook {
    pub url: String,
    state: Arc<Mutex<(Reaction, Vec<Posted>)>>,
    task: AbortHandle,
}

impl Hook {
    pub async fn start(reaction: Reaction) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new((reaction, Vec::new())));
        let shared = state.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        Self {
            url,
            state,
            task: task.abort_handle(),
        }
    }

    pub fn react(&self, reaction: Reaction) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 = reaction;
    }

    /// The requests so far.
    pub fn posted(&self) -> Vec<Posted> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1.clone()
    }

    /// The bodies of all events so far.
    pub fn bodies(&self) -> Vec<String> {
        let events: Vec<Value> = self
            .posted()
            .into_iter()
            .flat_map(|posted| posted.events)
            .collect();
        told(&events)
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<(Reaction, Vec<Posted>)>>) {
    let reaction = || state.lock().unwrap_or_else(PoisonError::into_inner).0.clone();
    if matches!(reaction(), Reaction::Ignore) {
        tokio::time::sleep(Duration::from_secs(60)).await;
        return;
    }
    let mut bytes = Vec::new();
    loop {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
            continue;
        };
        let head = String::from_utf8(bytes[..end].to_vec())
            .unwrap()
            .to_ascii_lowercase();
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().unwrap());
        while bytes.len() < end + 4 + length {
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let body: Vec<u8> = bytes.drain(..end + 4 + length).skip(end + 4).collect();
        let is_refused = |text: &str| {
            let events: Vec<Value> = serde_json::from_slice(&body).unwrap();
            told(&events).iter().any(|body| body == text)
        };
        let reaction = match reaction() {
            Reaction::Refuse(status, text) if is_refused(&text) => Reaction::status(status),
            Reaction::Refuse(..) => Reaction::status(200),
            other => other,
        };
        let posted = Posted {
            head,
            events: serde_json::from_slice(&body).unwrap(),
            at: tokio::time::Instant::now(),
        };
        state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .push(posted);
        match reaction {
            Reaction::Answer(status, headers, body) => {
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            Reaction::Hang | Reaction::Ignore | Reaction::Refuse(..) => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                return;
            }
        }
    }
}
