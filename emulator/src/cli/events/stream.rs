//! Server-sent events of a hub, over one HTTP connection.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Silence after which the connection is given up; the hub says something every
/// 15 seconds.
const SILENCE: Duration = Duration::from_secs(45);
/// How long the hub may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Bytes of one event; the hub keeps up to 64 KiB of a body, and JSON may need
/// six for one.
const EVENT_BYTES: usize = 1024 * 1024;

/// Why there are no events.
#[derive(Debug)]
pub(super) enum Failure {
    /// The hub cannot be reached, or not any more.
    Unreachable(String),
    /// As many watch as may, at this moment.
    Busy(String),
    /// It does not do what is asked for.
    Refused(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(text) | Self::Busy(text) | Self::Refused(text) => f.write_str(text),
        }
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// A JSON object in one line.
    pub(super) data: String,
}

/// A connection that watches.
pub(super) struct Stream {
    body: Incoming,
    parser: Parser,
}

impl Stream {
    /// Watches, from the event behind `after` on if it is given.
    ///
    /// # Errors
    /// When the hub cannot be reached or refuses.
    pub(super) async fn open(url: &Uri, query: &str, after: Option<u64>) -> Result<Self, Failure> {
        let authority = match (url.scheme_str(), url.authority()) {
            (Some("http"), Some(authority)) => authority,
            _ => {
                return Err(Failure::Refused(format!(
                    "{url} is not the address of a hub's HTTP without TLS, such as http://127.0.0.1:8080"
                )));
            }
        };
        let unreachable = |error: &dyn fmt::Display| {
            Failure::Unreachable(format!(
                "cannot reach a hub at http://{authority}: {error}\n  is it running? `iothub-emulator` starts \
                 one; --url or --info-file tells where it is"
            ))
        };
        // An IPv6 address stands in brackets there.
        let host = authority.host().trim_matches(['[', ']']);
        let address = (host, authority.port_u16().unwrap_or(80));
        let stream = timeout(ANSWER, TcpStream::connect(address))
            .await
            .map_err(|error| unreachable(&error))?
            .map_err(|error| unreachable(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(&error))?;
        // Ends with the body.
        tokio::spawn(connection);
        let mut request = Request::get(format!("/_emulator/events?{query}"))
            .header(header::HOST, authority.as_str())
            .header(header::ACCEPT, "text/event-stream");
        if let Some(after) = after {
            request = request.header("Last-Event-ID", after);
        }
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(|error| Failure::Refused(error.to_string()))?;
        let response = timeout(ANSWER, sender.send_request(request))
            .await
            .map_err(|error| unreachable(&error))?
            .map_err(|error| unreachable(&error))?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        let is_stream = response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        if !is_stream {
            return Err(Failure::Refused(format!(
                "what answers at http://{authority} shows no events; is it a hub of this version?"
            )));
        }
        Ok(Self {
            body: response.into_body(),
            parser: Parser::default(),
        })
    }

    /// The next event, or nothing when the hub stops.
    ///
    /// # Errors
    /// When the connection breaks.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, Failure> {
        loop {
            if let Some(event) = self.parser.next() {
                return Ok(Some(event));
            }
            let lost = |error: &dyn fmt::Display| {
                Failure::Unreachable(format!("the connection to the hub is lost: {error}"))
            };
            let frame = match timeout(SILENCE, self.body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(lost(&error)),
                Err(_) => return Err(lost(&"it has gone silent")),
            };
            if let Some(bytes) = frame.data_ref() {
                self.parser.push(bytes).map_err(|error| lost(&error))?;
            }
        }
    }

    /// Where to go on: the last id that was seen.
    pub(super) fn position(&self) -> Option<u64> {
        self.parser.position
    }
}

/// The hub's words for what it refuses.
async fn refusal(response: Response<Incoming>) -> Failure {
    let status = response.status();
    let body = Limited::new(response.into_body(), EVENT_BYTES).collect().await;
    let bytes = body.map(|body| body.to_bytes()).unwrap_or_default();
    let message = serde_json::from_slice::<Value>(&bytes).ok().and_then(|json| {
        let message = json["Message"].as_str()?;
        // `ErrorCode:ArgumentInvalid;kind="x" is none of …`
        Some(
            message
                .split_once(';')
                .map_or(message, |(_, text)| text)
                .to_owned(),
        )
    });
    let message = message.unwrap_or_else(|| format!("the hub answers {status}"));
    if status == StatusCode::TOO_MANY_REQUESTS {
        return Failure::Busy(message);
    }
    Failure::Refused(message)
}

/// Takes the bytes of the stream apart.
#[derive(Default)]
struct Parser {
    bytes: Vec<u8>,
    /// Up to where `bytes` was taken.
    taken: usize,
    data: Option<String>,
    /// The id of the event that is not whole yet.
    id: Option<u64>,
    position: Option<u64>,
}

impl Parser {
    /// # Errors
    /// When an event is longer than any of the hub.
    fn push(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > EVENT_BYTES {
            return Err("an event is too long");
        }
        Ok(())
    }

    /// The next whole event.
    fn next(&mut self) -> Option<Event> {
        loop {
            let rest = &self.bytes[self.taken..];
            let end = rest.iter().position(|byte| *byte == b'\n')?;
            let line = String::from_utf8_lossy(&rest[..end]).into_owned();
            self.taken += end + 1;
            if line.is_empty() {
                self.position = self.id.take().or(self.position);
                match self.data.take() {
                    Some(data) => return Some(Event { data }),
                    None => continue,
                }
            }
            let (name, value) = line.split_once(": ").unwrap_or((&line, ""));
            match name {
                "id" => self.id = value.parse().ok(),
                "data" => self.data = Some(value.to_owned()),
                // The kind is part of the data; comments say nothing.
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_wherever_the_stream_is_cut() {
        let text = ": watching\nid: 6\n\nid: 7\nevent: twin\ndata: {\"a\":\"b: c\"}\n\n: keep-alive\nid: 9\n\ndata: 2\n\ndata: 3";
        for size in 1..text.len() {
            let mut parser = Parser::default();
            let mut events = Vec::new();
            for bytes in text.as_bytes().chunks(size) {
                parser.push(bytes).unwrap();
                while let Some(event) = parser.next() {
                    events.push((event.data, parser.position));
                }
            }
            let expected = [
                ("{\"a\":\"b: c\"}".to_owned(), Some(7)),
                ("2".to_owned(), Some(9)),
            ];
            assert_eq!(events, expected, "{size}");
        }
    }

    #[test]
    fn who_has_half_of_an_event_has_not_seen_it() {
        let mut parser = Parser::default();
        parser.push(b"id: 7\ndata: 1\n\nid: 8\nevent: twin\n").unwrap();
        assert!(parser.next().is_some());
        assert_eq!((parser.next(), parser.position), (None, Some(7)));
    }

    #[test]
    fn an_event_without_an_end_is_given_up() {
        let mut parser = Parser::default();
        let error = std::iter::repeat_n([b'x'; 4096], 1024).find_map(|bytes| parser.push(&bytes).err());
        assert!(error.is_some());
        assert!(parser.next().is_none());
    }
}
