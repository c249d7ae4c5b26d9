use std::collections::BTreeSet;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::*;
use crate::behaviour::{Conduct, Telemetry};
use crate::units::Share;
use bytes::{Bytes, BytesMut};
use hub_core::connection_string::{ConnectionString, ServiceConnection};
use mqtt_wire::{
    ConnectAck, ConnectAckReason, Packet, PacketBuffer, QoS, SubscribeReturnCode, encode, fill, publish_qos0,
};
use serde_json::json;
use tokio::io::{AsyncWriteExt as _, DuplexStream};
use tokio::sync::broadcast;

/// How long anything may take that happens at once unless it never does.
const LONG: Duration = Duration::from_secs(30);

/// A hub of few words: it accepts everybody, has empty twins, and publishes
/// to all what the test publishes.
#[derive(Clone)]
struct Hub {
    everybody: broadcast::Sender<Word>,
    clients: Arc<Mutex<BTreeSet<String>>>,
    connections: Arc<AtomicUsize>,
    refuse_first: usize,
}

#[derive(Clone)]
enum Word {
    Publish(String, &'static str),
    HangUp,
}

impl Hub {
    fn new(refuse_first: usize) -> Self {
        Self {
            everybody: broadcast::channel(64).0,
            clients: Arc::default(),
            connections: Arc::default(),
            refuse_first,
        }
    }

    fn transport(&self) -> Transport {
        let hub = self.clone();
        Transport::memory(move || {
            if hub.connections.fetch_add(1, Relaxed) < hub.refuse_first {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (near, far) = tokio::io::duplex(1 << 16);
            tokio::spawn(hub.clone().serve(far));
            Ok(near)
        })
    }

    async fn serve(self, mut stream: DuplexStream) {
        let mut words = self.everybody.subscribe();
        let mut buffer = PacketBuffer::new(1 << 20);
        loop {
            let mut out = BytesMut::new();
            tokio::select! {
                read = fill(&mut stream, &mut buffer) => {
                    if read.unwrap() == 0 {
                        return;
                    }
                    while let Some(packet) = buffer.next_packet().unwrap() {
                        if let Some(answer) = self.answer(packet) {
                            encode(answer, &mut out).unwrap();
                        }
                    }
                }
                word = words.recv() => match word.unwrap() {
                    Word::HangUp => return,
                    Word::Publish(topic, body) => {
                        encode(publish_qos0(topic, Bytes::from_static(body.as_bytes())), &mut out).unwrap();
                    }
                }
            }
            if stream.write_all(&out).await.is_err() {
                return;
            }
        }
    }

    fn answer(&self, packet: Packet) -> Option<Packet> {
        match packet {
            Packet::Connect(connect) => {
                self.clients.lock().unwrap().insert(connect.client_id.to_string());
                Some(Packet::ConnectAck(ConnectAck {
                    return_code: ConnectAckReason::ConnectionAccepted,
                    session_present: false,
                }))
            }
            Packet::Subscribe { packet_id, .. } => Some(Packet::SubscribeAck {
                packet_id,
                status: vec![SubscribeReturnCode::Success(QoS::AtMostOnce); 3],
            }),
            Packet::Publish(publish) => match publish.packet_id {
                Some(packet_id) => Some(Packet::PublishAck { packet_id }),
                None => {
                    let rid = publish.topic.split_once("/GET/")?.1;
                    let twin = br#"{"desired":{"room":1,"$version":1},"reported":{"$version":1}}"#;
                    Some(publish_qos0(
                        format!("$iothub/twin/res/200/{rid}"),
                        Bytes::from_static(twin),
                    ))
                }
            },
            _ => None,
        }
    }

    fn say(&self, topic: &str, body: &'static str) {
        let _ = self.everybody.send(Word::Publish(topic.to_owned(), body));
    }
}

fn service() -> ServiceConnection {
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let text = format!("HostName=h;SharedAccessKeyName=owner;SharedAccessKey={key}");
    match ConnectionString::parse(&text).unwrap() {
        ConnectionString::Service(service) => service,
        other => panic!("{other:?}"),
    }
}

fn builder(hub: &Hub) -> FleetBuilder {
    Fleet::builder(hub.transport(), Credentials::derived(&service()))
}

#[tokio::test]
async fn every_device_receives_and_is_counted() {
    let hub = Hub::new(0);
    let shares = Shares {
        offline: Share::new(0.1).unwrap(),
        failing: Share::new(0.05).unwrap(),
        silent: Share::new(0.05).unwrap(),
    };
    let fleet = builder(&hub)
        .numbered("dev", 200)
        .shares(shares)
        .seed(3)
        .start()
        .unwrap();
    fleet.wait_connected(LONG).await.unwrap();
    assert_eq!((fleet.expected(), fleet.connected()), (180, 180));
    let online: BTreeSet<String> = fleet
        .devices()
        .filter(|(_, role)| *role != Role::Offline)
        .map(|(target, _)| target.to_string())
        .collect();
    assert_eq!(*hub.clients.lock().unwrap(), online);
    let read = fleet.wait_for(LONG, |fleet| {
        fleet.devices_with_desired(&json!({"room": 1})) == 180
    });
    assert!(read.await);

    hub.say("$iothub/methods/POST/lockDoor/?$rid=1", "{}");
    hub.say("$iothub/methods/POST/unknown/?$rid=2", "{}");
    hub.say(
        "$iothub/twin/PATCH/properties/desired/?$version=2",
        r#"{"building":43,"floor":3,"$version":2}"#,
    );
    let wanted = json!({"building": 43, "floor": 3});
    let all = fleet.wait_for(LONG, |fleet| fleet.devices_with_desired(&wanted) == 180);
    assert!(all.await);
    assert_eq!(fleet.devices_with_method("lockDoor"), 180);
    assert_eq!(fleet.devices_with_method("other"), 0);
    let counts = fleet.counts();
    // All but the ten silent devices answer both.
    assert_eq!((counts.methods_received, counts.methods_answered), (360, 340));

    let report = fleet.stop().await;
    assert_eq!(report.devices.connected, 180);
    assert_eq!(report.devices.failing, 10);
    assert_eq!(report.methods.by_name["lockDoor"].devices, 180);
    assert_eq!(report.twins.desired.len(), 1);
    assert_eq!(
        report.twins.desired[0].desired,
        json!({"building": 43, "floor": 3, "room": 1})
    );
    assert_eq!(report.latency.connect.unwrap().count, 180);
    assert_eq!(report.failures, [].into());
}

#[tokio::test(start_paused = true)]
async fn failures_to_connect_are_retried_and_counted() {
    let hub = Hub::new(30);
    let fleet = builder(&hub).numbered("dev", 10).start().unwrap();
    let error = fleet.wait_connected(Duration::from_millis(1)).await.unwrap_err();
    assert_eq!((error.connected, error.expected), (0, 10));
    assert!(error.to_string().contains("connection refused"), "{error}");
    fleet.wait_connected(LONG).await.unwrap();
    let report = fleet.stop().await;
    assert_eq!(
        report.failures,
        [("cannot connect: connection refused".to_owned(), 30)].into()
    );
    assert_eq!(report.connections.opened, 10);
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_opened_again() {
    let hub = Hub::new(0);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let causes = Arc::clone(&seen);
    let fleet = builder(&hub)
        .numbered("dev", 5)
        .observer(move |target, event| {
            if let Event::Disconnected { cause, .. } = event {
                causes.lock().unwrap().push(format!("{target}: {cause}"));
            }
        })
        .start()
        .unwrap();
    fleet.wait_connected(LONG).await.unwrap();
    let _ = hub.everybody.send(Word::HangUp);
    assert!(fleet.wait_for(LONG, |fleet| fleet.counts().lost == 5).await);
    fleet.wait_connected(LONG).await.unwrap();
    let counts = fleet.counts();
    assert_eq!((counts.opened, counts.lost), (10, 5));
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 5);
    assert!(
        seen.iter()
            .all(|text| text.ends_with("connection closed by the hub")),
        "{seen:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn tokens_are_renewed_by_reconnecting() {
    let hub = Hub::new(0);
    let credentials = Credentials::policy(&service()).with_lifetime(Duration::from_secs(100));
    let fleet = Fleet::builder(hub.transport(), credentials)
        .numbered("dev", 3)
        .start()
        .unwrap();
    fleet.wait_connected(LONG).await.unwrap();
    let renewed = fleet.wait_for(Duration::from_secs(90), |fleet| fleet.counts().renewed == 3);
    assert!(renewed.await);
    fleet.wait_connected(LONG).await.unwrap();
    let report = fleet.stop().await;
    assert_eq!((report.connections.opened, report.connections.lost), (6, 0));
    assert_eq!(report.failures, [].into());
}

#[tokio::test(start_paused = true)]
async fn the_ramp_is_kept() {
    let hub = Hub::new(0);
    let started = Instant::now();
    let fleet = builder(&hub).numbered("dev", 101).ramp(10).start().unwrap();
    fleet.wait_connected(LONG).await.unwrap();
    let took = started.elapsed().as_secs_f64();
    assert!((10.0..10.5).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn telemetry_is_spread_and_acknowledged() {
    let hub = Hub::new(0);
    let telemetry = Telemetry::every(Duration::from_secs(10));
    let fleet = builder(&hub)
        .numbered("dev", 50)
        .behaviour(Behaviour::default().with_telemetry(telemetry))
        .start()
        .unwrap();
    fleet.wait_connected(LONG).await.unwrap();
    let some = fleet
        .wait_for(LONG, |fleet| fleet.counts().telemetry_acknowledged >= 20)
        .await;
    assert!(
        some && fleet.counts().telemetry_sent < 50,
        "all devices send at once"
    );
    assert!(
        fleet
            .wait_for(LONG, |fleet| fleet.counts().telemetry_acknowledged >= 100)
            .await
    );
    assert!(fleet.report().latency.telemetry.is_some());
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_devices_that_wait_to_reconnect() {
    let hub = Hub::new(usize::MAX);
    let fleet = builder(&hub).numbered("dev", 3).start().unwrap();
    assert!(fleet.wait_connected(Duration::from_secs(5)).await.is_err());
    let started = Instant::now();
    fleet.stop().await;
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn impossible_fleets_are_refused() {
    let hub = Hub::new(0);
    assert!(matches!(builder(&hub).start(), Err(StartError::Empty)));
    let illegal = builder(&hub).numbered("a/b", 1).start();
    assert!(matches!(illegal, Err(StartError::Prefix(_))));
    let shares = Shares {
        offline: Share::new(1.0).unwrap(),
        failing: Share::new(1.0).unwrap(),
        silent: Share::NONE,
    };
    let too_many = builder(&hub).numbered("dev", 2).shares(shares).start();
    assert!(matches!(too_many, Err(StartError::Shares(_))));
    let error = check_descriptors(10_000, Some(1024)).unwrap_err();
    assert!(error.to_string().ends_with("ulimit -n 10032"), "{error}");
    assert!(check_descriptors(10_000, None).is_ok());
}

#[test]
fn a_device_task_is_small() {
    let hub = Hub::new(0);
    let shares = Shares::default();
    let (targets, roles) = (Vec::new(), shares.assign(0, 0).unwrap());
    let behaviour = Behaviour::default();
    let shared = Arc::new(Shared {
        tally: Tally::new(targets, &roles, &behaviour, None),
        transport: hub.transport(),
        credentials: Credentials::derived(&service()),
        behaviour: Arc::new(behaviour),
        settings: Arc::default(),
        backoff: Backoff::default(),
        seed: 0,
        connecting: Arc::new(Semaphore::new(1)),
        stop: CancellationToken::new(),
    });
    let permit = Arc::clone(&shared.connecting).try_acquire_owned().unwrap();
    let task = device::run(shared, 0, Conduct::Normal, permit);
    assert!(size_of_val(&task) <= 2048, "{} bytes", size_of_val(&task));
}
