//! mosquitto beside the hub, if it is installed: requests to every device and
//! their answers, and telemetry that nobody reads.

use std::collections::HashSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use benches::DEADLINE;
use benches::peer::{Hello, Peer};
use bytes::{Bytes, BytesMut};
use mqtt_wire::{Packet, QoS, encode, publish_qos0};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::child::Process;
use super::device_id;

/// Where Debian and Homebrew put it; it is not always in the path.
const PLACES: [&str; 4] = [
    "/usr/sbin/mosquitto",
    "/usr/local/sbin/mosquitto",
    "/opt/homebrew/sbin/mosquitto",
    "/usr/bin/mosquitto",
];

/// A running mosquitto.
pub(crate) struct Broker {
    pub(crate) process: Process,
    pub(crate) address: String,
}

/// Where mosquitto is.
pub(crate) fn installed() -> Option<PathBuf> {
    PLACES.iter().map(PathBuf::from).find(|place| place.exists())
}

impl Broker {
    /// Starts it with what it needs to keep up: no limit of messages in flight
    /// and none of Nagle's delays.
    pub(crate) fn start(program: &Path, directory: &Path) -> Self {
        // It binds by itself, so a free port can only be guessed.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let config = directory.join("mosquitto.conf");
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 0\nmax_queued_messages 0\n\
             set_tcp_nodelay true\nlog_type none\n"
        );
        fs::write(&config, text).expect("a directory of our own");
        let process = Process::start(Command::new(program).arg("-c").arg(config)).expect("mosquitto starts");
        let address = format!("127.0.0.1:{port}");
        let reachable = || std::net::TcpStream::connect(&address).is_ok();
        let tries = (0..200).find(|_| {
            let is_there = reachable();
            if !is_there {
                std::thread::sleep(Duration::from_millis(10));
            }
            is_there
        });
        assert!(tries.is_some(), "mosquitto does not listen");
        Self { process, address }
    }

    /// A back end that hears every answer.
    pub(crate) async fn service(&self) -> Peer<TcpStream> {
        let stream = TcpStream::connect(&self.address)
            .await
            .expect("mosquitto listens");
        stream.set_nodelay(true).expect("a TCP option");
        let hello = Hello::new("service", "service", None, &["res/+"], QoS::AtMostOnce);
        Peer::open(stream, &hello).await
    }
}

/// Sends a request to every device and waits for an answer of each.
pub(crate) async fn call_all(service: &mut Peer<TcpStream>, devices: usize) {
    let mut awaited: HashSet<String> = (0..devices).map(|i| format!("res/{}", device_id(i))).collect();
    let mut out = BytesMut::new();
    for i in 0..devices {
        let request = publish_qos0(format!("req/{}", device_id(i)), Bytes::from_static(b"{}"));
        encode(request, &mut out).expect("a legal packet");
    }
    service.send(&out).await;
    while !awaited.is_empty() {
        match timeout(DEADLINE, service.receive()).await.expect("an answer") {
            Some(Packet::Publish(publish)) => {
                assert!(
                    awaited.remove(&*publish.topic),
                    "{} answered twice",
                    publish.topic
                );
            }
            other => panic!("{other:?} instead of an answer"),
        }
    }
}
