//! The router dies, again and again, while devices and jobs are at work; readers
//! cannot kill it.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;

use bytes::BytesMut;
use futures_util::FutureExt as _;
use hub_core::connection_string::{ConnectionString, Credential};
use hub_core::job::JobRequest;
use hub_core::sas;
use mqtt_wire::{CleanSession, Connect, Packet, PacketBuffer, QoS, connect, encode, fill, publish_qos1};
use rumqttd::Notification;
use rumqttd::protocol::Unsubscribe;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::Hub;

const DEADLINE: Duration = Duration::from_secs(30);
const ID: NonZeroU16 = NonZeroU16::MIN;

/// One end of an MQTT connection.
struct Peer<S> {
    stream: S,
    packets: PacketBuffer,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    fn new(stream: S) -> Self {
        let packets = PacketBuffer::new(1024 * 1024);
        Self { stream, packets }
    }

    async fn send(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        encode(packet, &mut bytes).unwrap();
        // What has ended shows in what comes back.
        let _ = self.stream.write_all(&bytes).await;
    }

    /// The next packet; `None` at the end.
    async fn next(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.packets.next_packet().unwrap() {
                return Some(packet);
            }
            if fill(&mut self.stream, &mut self.packets).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }
}

/// A reader of everything; tries until it gets through.
async fn reader(address: SocketAddr) -> Peer<TcpStream> {
    loop {
        let mut peer = Peer::new(TcpStream::connect(address).await.unwrap());
        let hello = Connect {
            clean_session: true,
            keep_alive: 60,
            ..Connect::default()
        };
        peer.send(hello.into()).await;
        peer.send(Packet::Subscribe {
            packet_id: ID,
            topic_filters: vec![("hub/#".into(), QoS::AtMostOnce)],
        })
        .await;
        while let Some(packet) = peer.next().await {
            if matches!(packet, Packet::SubscribeAck { .. }) {
                return peer;
            }
        }
    }
}

/// A device that has connected.
async fn device(hub: &Hub, id: &str) -> Peer<tokio::io::DuplexStream> {
    let text = hub.create_device(id).unwrap();
    let ConnectionString::Device(device) = ConnectionString::parse(&text).unwrap() else {
        panic!("{text}");
    };
    let Credential::Key(key) = &device.credential else {
        panic!("{text}");
    };
    let host = hub.host_name();
    let token = sas::sign(
        &sas::resource_text(host, &device.target),
        key,
        u32::MAX.into(),
        None,
    );
    let user = format!("{host}/{id}/?api-version=2021-04-12");
    let mut peer = Peer::new(hub.connect_in_memory());
    peer.send(connect(id, &user, Some(&token), 60, CleanSession::Yes))
        .await;
    assert!(matches!(peer.next().await, Some(Packet::ConnectAck(ack)) if ack.return_code as u8 == 0));
    peer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_dies_under_load_is_replaced_and_nobody_else_notices() {
    const DEATHS: usize = 3;
    let hub = Hub::builder().start().await.unwrap();
    let listener = crate::listen::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let taps = watch::Sender::new(std::sync::Weak::<Tap>::new());
    let mut began = taps.subscribe();
    let journal = hub.app.hub.events.journal.clone();
    let stop = CancellationToken::new();
    let tap = EventTap::start_with(listener, journal, stop.clone(), move |tap| {
        taps.send_replace(Arc::downgrade(tap));
    })
    .unwrap();

    let mut sender = device(&hub, "d").await;
    let mut reader = reader(tap.address).await;
    for death in 0..DEATHS {
        let body = json!({"type": "scheduleUpdateTwin", "queryCondition": "*",
            "updateTwin": {"etag": "*", "tags": {"death": death}}});
        let request = JobRequest::from_json(&format!("j{death}"), &body, hub.now()).unwrap();
        let job = request.id.clone();
        let mut sent = 0;
        let publish =
            |i: usize| publish_qos1("devices/d/messages/events/", format!("{death}/{i}").into(), ID);

        // It is there.
        sender.send(publish(sent)).await;
        let shown = async {
            loop {
                match reader.next().await {
                    Some(Packet::Publish(publish)) if &*publish.topic == "hub/d/telemetry" => return,
                    Some(_) => {}
                    None => panic!("the tap has closed the connection"),
                }
            }
        };
        timeout(DEADLINE, shown).await.unwrap();
        assert!(matches!(sender.next().await, Some(Packet::PublishAck { .. })));
        sent += 1;

        // The known fault of its router, with everything at work.
        let broken = began.borrow_and_update().upgrade().unwrap();
        hub.app.jobs.create(request).unwrap();
        let mut killer = broken.link("killer").await.unwrap();
        killer.tx.publish("ü", "x").unwrap();
        drop(broken);
        while sent < 200 {
            sender.send(publish(sent)).await;
            assert!(matches!(sender.next().await, Some(Packet::PublishAck { .. })));
            sent += 1;
        }
        let mut progress = hub.app.jobs.watch(&job).unwrap();
        let done = progress.wait_for(|p| p.statistics.succeeded_count == 1);
        timeout(DEADLINE, done).await.unwrap().unwrap();

        // Its reader is cut off and comes back to the same port.
        let cut = async { while reader.next().await.is_some() {} };
        timeout(DEADLINE, cut).await.unwrap();
        timeout(DEADLINE, began.changed()).await.unwrap().unwrap();
        reader = timeout(DEADLINE, self::reader(tap.address)).await.unwrap();
    }
    let counters = hub.counters();
    assert_eq!(counters.telemetry_messages, 200 * DEATHS as u64);
    assert_eq!((counters.protocol_violations, hub.connected_count()), (0, 1));
    stop.cancel();
    let address = tap.address;
    tap.ended().await;
    assert!(TcpStream::connect(address).await.is_err());
    hub.shutdown().await;
}

/// Keeps the router from everything else for a while.
fn occupy(link: &mut Link) {
    for _ in 0..30_000 {
        let nothing = Unsubscribe {
            pkid: 0,
            filters: vec!["-".into(); 100],
        };
        let packet = rumqttd::protocol::Packet::Unsubscribe(nothing, None);
        link.tx.buffer().push_back(packet);
    }
    assert!(link.call());
}

#[tokio::test]
async fn a_reader_that_is_woken_subscribes_and_goes_cannot_kill_the_router() {
    const ROUNDS: usize = 10;
    let tap = Tap::new();
    let mut publisher = tap.link("publisher").await.unwrap();
    let mut busy = tap.link("busy").await.unwrap();
    for round in 0..ROUNDS {
        let mut reader = tap.link("reader").await.unwrap();
        reader.subscribe("hub/#").await.unwrap();
        let stopped = async {
            loop {
                // More than the router lets wait for a reader.
                for _ in 0..300 {
                    publisher.tx.publish("hub/d/telemetry", "x").unwrap();
                }
                sleep(Duration::from_millis(1)).await;
                while let Some(news) = reader.next().now_or_never() {
                    if matches!(news.unwrap(), Some(Notification::Unschedule)) {
                        return;
                    }
                }
            }
        };
        timeout(DEADLINE, stopped).await.unwrap();
        occupy(&mut busy);
        reader.subscribe(&format!("hub/{round}/+")).await.unwrap();
        reader.wake().await.unwrap();
        drop(reader);
    }
    let mut reader = tap.link("reader").await.unwrap();
    reader.subscribe("hub/last/+").await.unwrap();
    reader.taken().await.unwrap();
    publisher.tx.publish("hub/last/telemetry", "x").unwrap();
    let seen = async { while !matches!(reader.next().await.unwrap(), Some(Notification::Forward(_))) {} };
    timeout(DEADLINE, seen).await.unwrap();
}
