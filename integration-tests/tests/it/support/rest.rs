//! A back end that sees every byte of a reply: HTTP/1.1 over a plain socket,
//! a connection per call, so that status, headers and body are asserted as
//! they are sent.

use std::net::SocketAddr;

use emulator::{DEVELOPMENT_KEY, Hub, OWNER_POLICY};
use hub_core::error::ErrorCode;
use hub_core::sas::{self, Key};
use hub_core::time::Timestamp;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::transport::Socket;
use super::{soon, start_hub};

/// The version that every call asks for unless it says otherwise.
const API_VERSION: &str = "2021-04-12";

/// Media type of everything that the service answers.
const JSON_UTF8: &str = "application/json; charset=utf-8";

/// An expiry that no test lives to see, in seconds since 1970.
pub const FAR_FUTURE: u64 = 4_000_000_000;

/// A token of one of the hub's policies, for the hub as a whole.
pub fn policy_token(policy: &str) -> String {
    sas::sign("localhost", &development_key(), FAR_FUTURE, Some(policy))
}

/// The key that all policies of a hub share by default.
pub fn development_key() -> Key {
    Key::from_base64(DEVELOPMENT_KEY).unwrap()
}

/// A hub of the test's own, and a back end that may do everything.
pub async fn start() -> (Hub, Rest) {
    let hub = start_hub().await;
    let rest = Rest::of(&hub);
    (hub, rest)
}

/// A back end of one hub.
#[derive(Debug, Clone)]
pub struct Rest {
    address: SocketAddr,
    authorization: Option<String>,
}

impl Rest {
    /// A back end that may do everything.
    pub fn of(hub: &Hub) -> Self {
        Self {
            address: hub.http_address().unwrap(),
            authorization: Some(policy_token(OWNER_POLICY)),
        }
    }

    /// The same back end with other credentials, or without any.
    pub fn authorized(&self, authorization: Option<&str>) -> Self {
        Self {
            address: self.address,
            authorization: authorization.map(str::to_owned),
        }
    }

    /// A call that is yet to be sent; the api-version is added to `path`.
    pub fn call(&self, method: &str, path: &str) -> Call {
        let separator = if path.contains('?') { '&' } else { '?' };
        self.exactly(method, &format!("{path}{separator}api-version={API_VERSION}"))
    }

    /// A call to exactly this path and query.
    pub fn exactly(&self, method: &str, path: &str) -> Call {
        Call {
            address: self.address,
            method: method.into(),
            path: path.into(),
            headers: self
                .authorization
                .iter()
                .map(|token| format!("Authorization: {token}"))
                .collect(),
            body: None,
            framing: Framing::Length,
        }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.call("GET", path).send().await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Reply {
        self.call("PUT", path).json(body).send().await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Reply {
        self.call("PATCH", path).json(body).send().await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.call("POST", path).json(body).send().await
    }

    /// Deletes whatever its ETag is.
    pub async fn delete(&self, path: &str) -> Reply {
        self.call("DELETE", path).if_match("*").send().await
    }

    /// Registers a device with keys of the hub's making.
    pub async fn create(&self, device: &str) -> Value {
        self.put(&format!("/devices/{device}"), &serde_json::json!({}))
            .await
            .ok()
    }

    /// The first page of a query.
    pub async fn query(&self, query: &str) -> Reply {
        self.post("/devices/query", &serde_json::json!({ "query": query }))
            .await
    }
}

/// A call that is yet to be sent.
#[must_use = "a call does nothing until it is sent"]
#[derive(Debug)]
pub struct Call {
    address: SocketAddr,
    method: String,
    path: String,
    headers: Vec<String>,
    body: Option<Vec<u8>>,
    framing: Framing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length,
    Chunked,
}

impl Call {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push(format!("{name}: {value}"));
        self
    }

    pub fn if_match(self, value: &str) -> Self {
        self.header("If-Match", value)
    }

    pub fn json(self, body: &Value) -> Self {
        self.body(body.to_string())
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Sends the body in chunks of a few bytes instead of announcing its length.
    pub fn chunked(mut self) -> Self {
        self.framing = Framing::Chunked;
        self
    }

    /// Sends the call and waits for the reply.
    pub async fn send(self) -> Reply {
        self.start().await.reply().await
    }

    /// Sends the call on a connection of the test's making.
    pub async fn send_over(self, mut stream: impl Socket) -> Reply {
        let line = format!("{} {}", self.method, self.path);
        let _ = stream.write_all(&self.bytes()).await;
        let mut bytes = Vec::new();
        // A missing farewell after a complete reply is no matter.
        let _ = soon(&line, stream.read_to_end(&mut bytes)).await;
        Reply::parse(line, &bytes)
    }

    /// Sends the call and leaves the reply for later; dropping what this
    /// gives closes the connection.
    pub async fn start(self) -> Pending {
        let line = format!("{} {}", self.method, self.path);
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // A hub that refuses early may close before it has read everything.
        let _ = stream.write_all(&self.bytes()).await;
        Pending { stream, line }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n",
            self.method, self.path
        );
        for header in &self.headers {
            head.push_str(header);
            head.push_str("\r\n");
        }
        let body = self.body.as_deref().unwrap_or_default();
        match self.framing {
            Framing::Length => {
                head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
                [head.as_bytes(), body].concat()
            }
            Framing::Chunked => {
                head.push_str("Transfer-Encoding: chunked\r\n\r\n");
                let mut bytes = head.into_bytes();
                for chunk in body.chunks(7) {
                    bytes.extend(format!("{:x}\r\n", chunk.len()).as_bytes());
                    bytes.extend(chunk);
                    bytes.extend(b"\r\n");
                }
                bytes.extend(b"0\r\n\r\n");
                bytes
            }
        }
    }
}

/// A call that was sent and not answered yet.
#[must_use = "dropping it closes the connection"]
#[derive(Debug)]
pub struct Pending {
    stream: TcpStream,
    line: String,
}

impl Pending {
    pub async fn reply(mut self) -> Reply {
        let mut bytes = Vec::new();
        let read = soon(&self.line, self.stream.read_to_end(&mut bytes)).await;
        // A reset after a complete reply is only the end of the connection.
        if let Err(error) = read {
            assert!(!bytes.is_empty(), "{}: {error}", self.line);
        }
        Reply::parse(self.line, &bytes)
    }
}

/// What the hub answered.
#[must_use = "a reply is there to be checked"]
#[derive(Debug, Clone)]
pub struct Reply {
    /// Method and path of the call, for messages.
    line: String,
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    fn parse(line: String, bytes: &[u8]) -> Self {
        let end = bytes
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap_or_else(|| panic!("{line}: no complete head in {:?}", String::from_utf8_lossy(bytes)));
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let reply = Self {
            status: status.parse().unwrap(),
            headers: lines
                .map(|header| {
                    let (name, value) = header.split_once(':').unwrap();
                    (name.to_ascii_lowercase(), value.trim().to_owned())
                })
                .collect(),
            body: bytes[end + 4..].to_vec(),
            line,
        };
        reply.check_head();
        reply
    }

    /// What every answer of the hub has, a success or not.
    fn check_head(&self) {
        assert_eq!(self.header("server"), Some("Microsoft-HTTPAPI/2.0"), "{self:?}");
        assert_eq!(self.header("vary"), Some("Origin"), "{self:?}");
        assert!(self.header("date").is_some(), "{self:?}");
        let id = self.header("x-ms-request-id").unwrap_or_default();
        let groups: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12], "{self:?}");
        // A HEAD is told the length of what it does not get.
        if self.status != 204 && !self.line.starts_with("HEAD ") {
            let length = self.header("content-length").map(|text| text.parse().unwrap());
            assert_eq!(length, Some(self.body.len()), "{self:?}");
        }
    }

    /// A header's only value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(known, _)| known == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{}: {name} occurs twice", self.line);
        value
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body of a success.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}: {}", self.line, self.text());
        assert_eq!(self.header("iothub-errorcode"), None, "{}", self.line);
        self.json()
    }

    /// A success without a body.
    #[track_caller]
    pub fn no_content(&self) {
        assert_eq!(self.status, 204, "{}: {}", self.line, self.text());
        assert!(self.body.is_empty(), "{}: {}", self.line, self.text());
    }

    /// The body, which must be JSON and say so.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some(JSON_UTF8), "{}", self.line);
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{}: {error} in {}", self.line, self.text()))
    }

    /// The text of a refusal in the classic envelope:
    /// `{"Message":"ErrorCode:<Name>;<text>","ExceptionMessage":"Tracking ID:…"}`.
    #[track_caller]
    pub fn refused(&self, code: ErrorCode) -> String {
        let body = self.envelope(code);
        let tracking = body["ExceptionMessage"].as_str().unwrap();
        let id = tracking.strip_prefix("Tracking ID:");
        assert!(id.is_some_and(is_tracking_id), "{}: {tracking}", self.line);
        let message = body["Message"].as_str().unwrap();
        let text = message.strip_prefix(&format!("ErrorCode:{};", code.name()));
        text.unwrap_or_else(|| panic!("{}: {message} is not about {code:?}", self.line))
            .to_owned()
    }

    /// The details of a refusal that stand as a JSON text inside `Message`.
    /// What is the same in all of them is checked; `message` and `info` are
    /// for the caller.
    #[track_caller]
    pub fn refused_in_detail(&self, code: ErrorCode) -> Details {
        let body = self.envelope(code);
        assert_eq!(body["ExceptionMessage"], "", "{}", self.line);
        let details: Value = serde_json::from_str(body["Message"].as_str().unwrap())
            .unwrap_or_else(|error| panic!("{}: {error} in {body}", self.line));
        Details::of(&details, code)
    }

    /// The details of a refusal that are its body, without an envelope.
    #[track_caller]
    pub fn refused_bare(&self, code: ErrorCode) -> Details {
        assert_eq!(self.status, code.status(), "{}: {}", self.line, self.text());
        assert_eq!(
            self.header("iothub-errorcode"),
            Some(code.name()),
            "{}",
            self.line
        );
        Details::of(&self.json(), code)
    }

    /// Code and text of a refusal, in whichever of the forms it is.
    #[track_caller]
    pub fn refusal(&self) -> (ErrorCode, String) {
        let name = self.header("iothub-errorcode");
        let Some(code) = name.and_then(ErrorCode::from_name) else {
            panic!("{} is no refusal: {} {}", self.line, self.status, self.text());
        };
        let text = match self.json()["Message"].as_str() {
            None => self.refused_bare(code).message,
            Some(details) if details.starts_with('{') => self.refused_in_detail(code).message,
            Some(_) => self.refused(code),
        };
        (code, text)
    }

    /// Method and path of the call.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Status and header of a refusal; gives the body, which must have exactly
    /// the two members of the envelope.
    #[track_caller]
    fn envelope(&self, code: ErrorCode) -> Value {
        assert_eq!(self.status, code.status(), "{}: {}", self.line, self.text());
        assert_eq!(
            self.header("iothub-errorcode"),
            Some(code.name()),
            "{}: {}",
            self.line,
            self.text()
        );
        let body = self.json();
        let members: Vec<&String> = body.as_object().unwrap().keys().collect();
        assert_eq!(members.len(), 2, "{body}");
        body
    }
}

/// The part of a detailed refusal that differs.
#[derive(Debug, PartialEq)]
pub struct Details {
    pub message: String,
    pub info: Value,
}

impl Details {
    #[track_caller]
    fn of(details: &Value, code: ErrorCode) -> Self {
        let mut members: Vec<&String> = details.as_object().unwrap().keys().collect();
        members.sort();
        assert_eq!(
            members,
            ["errorCode", "info", "message", "timestampUtc", "trackingId"]
        );
        assert_eq!(details["errorCode"], code.number(), "{details}");
        assert!(
            is_tracking_id(details["trackingId"].as_str().unwrap()),
            "{details}"
        );
        Timestamp::parse(details["timestampUtc"].as_str().unwrap()).unwrap();
        Self {
            message: details["message"].as_str().unwrap().to_owned(),
            info: details["info"].clone(),
        }
    }
}

/// `<32 hex>-G:<n>-TimeStamp:MM/dd/yyyy HH:mm:ss`
fn is_tracking_id(text: &str) -> bool {
    let Some((hex, rest)) = text.split_at_checked(32) else {
        return false;
    };
    let shape: String = rest
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    hex.bytes().all(|b| b.is_ascii_hexdigit()) && shape == "-G:0-TimeStamp:00/00/0000 00:00:00"
}
