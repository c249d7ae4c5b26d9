//! The service's side: HTTP requests on a connection that stays open.

use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use emulator::Hub;
use http_body_util::{BodyExt as _, Full};
use hub_core::connection_string::ServiceConnection;
use hub_core::sas;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::DEADLINE;
use crate::site::{self, CONDITION};

/// One keep-alive connection to a hub's service API over plain HTTP.
///
/// Far cheaper than a general HTTP client, so that what is measured is the hub.
pub struct RestConnection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    token: String,
}

/// What the hub answered.
pub struct Reply {
    /// The HTTP status.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// The body as JSON.
    ///
    /// # Panics
    /// When the status is no success or the body no JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        assert!(self.status.is_success(), "{}: {:?}", self.status, self.body);
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

impl RestConnection {
    /// Connects with a token of the policy that may do everything.
    ///
    /// # Panics
    /// When the hub does not accept HTTP.
    pub async fn open(hub: &Hub) -> Self {
        let address = hub.http_address().expect("the hub accepts HTTP");
        Self::to(&address.to_string(), &site::service_connection(hub)).await
    }

    /// The same to a hub in another process, which accepts HTTP at `address`.
    ///
    /// # Panics
    /// When it does not.
    pub async fn to(address: &str, service: &ServiceConnection) -> Self {
        let token = sas::sign(
            service.host.name(),
            &service.key,
            site::token_expiry(),
            Some(&service.policy),
        );
        let stream = TcpStream::connect(address).await.expect("the hub is there");
        stream.set_nodelay(true).expect("a TCP option");
        let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        Self {
            sender,
            host: address.to_owned(),
            token,
        }
    }

    /// Sends one request and waits for the whole answer. `path` lacks the
    /// `api-version`.
    ///
    /// # Panics
    /// When the connection breaks.
    pub async fn call(&mut self, method: Method, path: &str, body: Bytes) -> Reply {
        let request = Request::builder()
            .method(method)
            .uri(format!("{path}?api-version=2021-04-12"))
            .header(HOST, &self.host)
            .header(AUTHORIZATION, &self.token)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .expect("a legal request");
        self.sender.ready().await.expect("the connection stays");
        let response = self.sender.send_request(request).await.expect("an answer");
        let status = response.status();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        Reply { status, body }
    }

    /// Creates a job over all devices of a [`site::Site`], with `action` as the
    /// members that say what it does, and waits until the hub reports its end.
    /// It is asked every millisecond, so the end is seen up to 2 ms late.
    ///
    /// # Panics
    /// When the job does not succeed on each of `devices` devices.
    pub async fn run_job(&mut self, id: &str, action: &Value, devices: usize) {
        let path = format!("/jobs/v2/{id}");
        let mut job = json!({"queryCondition": CONDITION, "maxExecutionTimeInSeconds": 600});
        for (name, value) in action.as_object().expect("an object") {
            job[name] = value.clone();
        }
        let body = Bytes::from(job.to_string());
        let end = Instant::now() + DEADLINE;
        let mut view = self.call(Method::PUT, &path, body).await.json();
        while view["status"] != "completed" {
            assert!(view["status"] != "failed" && Instant::now() < end, "{view}");
            sleep(Duration::from_millis(1)).await;
            view = self.call(Method::GET, &path, Bytes::new()).await.json();
        }
        let statistics = &view["deviceJobStatistics"];
        let succeeded = statistics["succeededCount"].as_u64();
        assert_eq!(succeeded, Some(devices as u64), "{view}");
        assert_eq!(statistics["deviceCount"], devices, "{view}");
    }
}

/// One keep-alive connection that costs its own side next to nothing, for loads:
/// what is sent is written as text, and of an answer only the status and the
/// length are looked at.
pub struct LoadConnection {
    stream: TcpStream,
    /// The header lines that all requests have in common.
    headers: String,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl LoadConnection {
    /// Connects to a hub that accepts HTTP at `address`.
    ///
    /// # Panics
    /// When it does not.
    pub async fn open(address: &str, service: &ServiceConnection) -> Self {
        let (host, policy) = (service.host.name(), Some(service.policy.as_str()));
        let token = sas::sign(host, &service.key, site::token_expiry(), policy);
        let stream = TcpStream::connect(address).await.expect("the hub is there");
        stream.set_nodelay(true).expect("a TCP option");
        Self {
            stream,
            headers: format!(
                "host: {address}\r\nauthorization: {token}\r\ncontent-type: application/json\r\n"
            ),
            request: Vec::new(),
            answer: Vec::new(),
        }
    }

    /// Sends one request and waits for the whole answer. `path` lacks the
    /// `api-version`.
    ///
    /// # Panics
    /// When the connection breaks, or the answer is no success.
    pub async fn call(&mut self, method: &Method, path: &str, body: &[u8]) {
        self.request.clear();
        let (headers, length) = (&self.headers, body.len());
        // Writing to memory cannot fail.
        let _ = write!(
            self.request,
            "{method} {path}?api-version=2021-04-12 HTTP/1.1\r\n{headers}content-length: {length}\r\n\r\n"
        );
        self.request.extend_from_slice(body);
        let sent = self.stream.write_all(&self.request).await;
        sent.expect("the connection stays");
        self.answer.clear();
        while !is_whole(&self.answer) {
            let read = self.stream.read_buf(&mut self.answer).await;
            assert!(read.expect("the connection stays") > 0, "the hub closed it");
        }
        let text = || String::from_utf8_lossy(&self.answer);
        assert!(self.answer.starts_with(b"HTTP/1.1 2"), "{}", text());
    }
}

/// Whether the bytes are an answer with all of its body.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return false;
    };
    let head = std::str::from_utf8(&answer[..end]).expect("a head is text");
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse::<usize>().expect("a length"))
    });
    answer.len() >= end + 4 + length.expect("every answer has a length")
}
