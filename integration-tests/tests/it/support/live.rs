//! Who watches a hub's events over HTTP: server-sent events, read byte by byte.

use emulator::Hub;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::soon;

/// One event of the stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub id: u64,
    /// The kind of event.
    pub event: String,
    pub data: Value,
}

impl Seen {
    /// Kind, device and operation (or body), in a line.
    pub fn line(&self) -> String {
        let text = |name: &str| self.data[name].as_str().unwrap_or_default().to_owned();
        let what = match text("operation") {
            none if none.is_empty() => text("body"),
            operation => operation,
        };
        format!("{} {} {what}", self.event, text("deviceId"))
    }
}

/// A connection that watches.
pub struct Live {
    stream: BufReader<TcpStream>,
    /// Decoded and not yet taken.
    text: String,
    /// The last id that the stream has named, in an event or a comment.
    pub position: u64,
}

impl Live {
    /// Watches with this query (`?kind=…`) and waits until the hub says that it
    /// does.
    pub async fn open(hub: &Hub, query: &str) -> Self {
        Self::resume(hub, query, None).await
    }

    /// The same, going on after an id as a browser does.
    pub async fn resume(hub: &Hub, query: &str, last_event_id: Option<u64>) -> Self {
        let mut stream = TcpStream::connect(hub.http_address().unwrap()).await.unwrap();
        let resume = last_event_id.map_or_else(String::new, |id| format!("Last-Event-ID: {id}\r\n"));
        let request = format!(
            "GET /_emulator/events{query} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{resume}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = soon("a head", stream.read_line(&mut head)).await.unwrap();
            assert_ne!(read, 0, "the head ends early: {head}");
        }
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains("content-type: text/event-stream\r\n"), "{head}");
        let mut live = Self {
            stream,
            text: String::new(),
            position: 0,
        };
        assert_eq!(live.block().await.unwrap().0, ": watching");
        live
    }

    /// The next event; comments are passed over.
    pub async fn next(&mut self) -> Seen {
        self.next_or_end()
            .await
            .unwrap_or_else(|| panic!("the stream has ended"))
    }

    /// The next event, or nothing when the hub has ended the stream in order.
    pub async fn next_or_end(&mut self) -> Option<Seen> {
        loop {
            let (block, id) = self.block().await?;
            let line = |name: &str| {
                let mut lines = block.lines();
                lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            };
            if let (Some(event), Some(data)) = (line("event"), line("data")) {
                return Some(Seen {
                    id,
                    event: event.into(),
                    data: serde_json::from_str(data).unwrap(),
                });
            }
        }
    }

    /// The lines of the next `count` events, see [`Seen::line`].
    pub async fn lines(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        for _ in 0..count {
            lines.push(self.next().await.line());
        }
        lines
    }

    /// The next block of lines without that of its id, and the id.
    async fn block(&mut self) -> Option<(String, u64)> {
        let end = loop {
            match self.text.find("\n\n") {
                Some(end) => break end,
                None => {
                    let chunk = soon("an event", self.chunk()).await?;
                    self.text.push_str(&chunk);
                }
            }
        };
        let block: String = self.text.drain(..end + 2).collect();
        let mut others = Vec::new();
        for line in block.trim_end().lines() {
            match line.strip_prefix("id: ") {
                Some(id) => self.position = id.parse().unwrap(),
                None => others.push(line),
            }
        }
        Some((others.join("\n"), self.position))
    }

    /// A chunk of the body; nothing after the last.
    async fn chunk(&mut self) -> Option<String> {
        let mut size = String::new();
        self.stream.read_line(&mut size).await.unwrap();
        let size = usize::from_str_radix(size.trim_end(), 16)
            .unwrap_or_else(|error| panic!("{size:?} is no size of a chunk: {error}"));
        let mut chunk = vec![0; size + 2];
        self.stream.read_exact(&mut chunk).await.unwrap();
        chunk.truncate(size);
        (size > 0).then(|| String::from_utf8(chunk).unwrap())
    }
}
