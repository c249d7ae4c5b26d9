use std::cell::RefCell;

use super::*;
use crate::behaviour::{Behaviour, Conduct, MethodAnswer, Telemetry};
use hub_core::ids::{DeviceId, Target};
use mqtt_wire::{PacketBuffer, Publish};
use proptest::prelude::*;
use serde_json::json;

const METHODS: &str = "$iothub/methods/POST/#";
const DESIRED: &str = "$iothub/twin/PATCH/properties/desired/#";
const RESPONSES: &str = "$iothub/twin/res/#";

/// A session with a clock that the test moves.
struct Bench {
    session: Session,
    now: Instant,
    events: RefCell<Vec<String>>,
}

impl Bench {
    fn new(behaviour: Behaviour, settings: SessionSettings) -> Self {
        let target = Target::device(DeviceId::parse("dev1").unwrap());
        let device = Device::new(target, Arc::new(behaviour), Conduct::Normal);
        Self {
            session: Session::new(device, Arc::new(settings), 0.5),
            now: Instant::now(),
            events: RefCell::default(),
        }
    }

    /// A device that is connected, has read an empty twin and is asked for nothing.
    fn ready(behaviour: Behaviour) -> Self {
        let mut bench = Self::new(behaviour, SessionSettings::default());
        bench.open(None);
        bench.give(accepted()).unwrap();
        bench.give(subscribed()).unwrap();
        let twin = r#"{"desired":{"$version":1},"reported":{"$version":1}}"#;
        assert_eq!(bench.hub("$iothub/twin/res/200/?$rid=1", twin), []);
        bench.events.take();
        bench
    }

    fn open(&mut self, valid_for: Option<Duration>) -> Vec<Packet> {
        let login = Login {
            user_name: "h/dev1/?api-version=2021-04-12".into(),
            password: Some("sig".into()),
            valid_for,
        };
        let mut out = BytesMut::new();
        self.session.open(&login, self.now, &mut out).unwrap();
        decode(&out)
    }

    fn give(&mut self, packet: Packet) -> Result<Vec<Packet>, SessionError> {
        let mut out = BytesMut::new();
        let note = |event: Event<'_>| self.events.borrow_mut().push(note(&event));
        self.session.handle_packet(packet, self.now, &mut out, &note)?;
        Ok(decode(&out))
    }

    /// The hub publishes; returns topics and bodies of what the device publishes.
    fn hub(&mut self, topic: &str, body: &str) -> Vec<(String, String)> {
        let packet = publish_qos0(topic.to_owned(), Bytes::from(body.to_owned()));
        published(self.give(packet).unwrap())
    }

    /// Moves the clock to the session's next timeout.
    fn next_timeout(&mut self) -> Result<(Course, Vec<Packet>), SessionError> {
        self.now = self.session.next_timeout();
        self.timeout()
    }

    fn timeout(&mut self) -> Result<(Course, Vec<Packet>), SessionError> {
        let mut out = BytesMut::new();
        let note = |event: Event<'_>| self.events.borrow_mut().push(note(&event));
        let course = self.session.handle_timeout(self.now, &mut out, &note)?;
        Ok((course, decode(&out)))
    }

    fn seconds_to_timeout(&self) -> f64 {
        (self.session.next_timeout() - self.now).as_secs_f64()
    }
}

fn note(event: &Event<'_>) -> String {
    match event {
        Event::Method { name, .. } => format!("method {name}"),
        Event::DesiredChanged { version, patch } => format!("desired {version} {}", json!(patch)),
        Event::TwinRead { desired, .. } => format!("twin {}", json!(desired)),
        Event::Message { bag, body } => format!("message {bag} {}", String::from_utf8_lossy(body)),
        Event::Failure(failure) => failure.to_string(),
        Event::ReportAccepted { took } | Event::TelemetryAcknowledged { took } => {
            format!("accepted after {} s", took.as_secs())
        }
        other => format!("{other:?}").split(' ').next().unwrap().to_owned(),
    }
}

fn decode(bytes: &[u8]) -> Vec<Packet> {
    let mut buffer = PacketBuffer::new(1 << 20);
    buffer.extend(bytes);
    std::iter::from_fn(|| buffer.next_packet().unwrap()).collect()
}

fn published(packets: Vec<Packet>) -> Vec<(String, String)> {
    let text = |publish: Box<Publish>| {
        let body = String::from_utf8(publish.payload.to_vec()).unwrap();
        (publish.topic.to_string(), body)
    };
    packets
        .into_iter()
        .map(|packet| match packet {
            Packet::Publish(publish) => text(publish),
            other => panic!("{other:?} is no message"),
        })
        .collect()
}

fn accepted() -> Packet {
    Packet::ConnectAck(ConnectAck {
        return_code: ConnectAckReason::ConnectionAccepted,
        session_present: false,
    })
}

fn subscribed() -> Packet {
    Packet::SubscribeAck {
        packet_id: NonZeroU16::MIN,
        status: vec![SubscribeReturnCode::Success(QoS::AtMostOnce); 3],
    }
}

fn pair(topic: &str, body: &str) -> (String, String) {
    (topic.to_owned(), body.to_owned())
}

#[test]
fn connecting_is_connect_subscribe_and_read_the_twin() {
    let mut bench = Bench::new(Behaviour::default(), SessionSettings::default());
    let connect = mqtt_wire::connect(
        "dev1",
        "h/dev1/?api-version=2021-04-12",
        Some("sig"),
        60,
        CleanSession::Yes,
    );
    assert_eq!(bench.open(None), [connect]);
    let subscribe = Packet::Subscribe {
        packet_id: NonZeroU16::MIN,
        topic_filters: [METHODS, DESIRED, RESPONSES]
            .map(|filter| (filter.into(), QoS::AtMostOnce))
            .to_vec(),
    };
    assert_eq!(bench.give(accepted()).unwrap(), [subscribe]);
    assert!(!bench.session.is_ready());
    let read = publish_qos0("$iothub/twin/GET/?$rid=1", Bytes::new());
    assert_eq!(bench.give(subscribed()).unwrap(), [read]);
    assert!(bench.session.is_ready());
}

#[test]
fn settings_add_messages_and_leave_the_twin_alone() {
    let settings = SessionSettings {
        read_twin: false,
        receive_messages: true,
        ..SessionSettings::default()
    };
    let mut bench = Bench::new(Behaviour::default(), settings);
    bench.open(None);
    let packets = bench.give(accepted()).unwrap();
    let [Packet::Subscribe { topic_filters, .. }] = &packets[..] else {
        panic!("{packets:?}");
    };
    assert_eq!(
        topic_filters[3],
        ("devices/dev1/messages/devicebound/#".into(), QoS::AtLeastOnce)
    );
    assert_eq!(bench.give(subscribed()).unwrap(), []);
    let id = NonZeroU16::new(9).unwrap();
    let message = publish_qos1(
        "devices/dev1/messages/devicebound/%24.mid=1",
        Bytes::from_static(b"hi"),
        id,
    );
    assert_eq!(
        bench.give(message).unwrap(),
        [Packet::PublishAck { packet_id: id }]
    );
    assert_eq!(bench.events.take().last().unwrap(), "message %24.mid=1 hi");
}

#[test]
fn each_way_to_be_refused_is_told_apart() {
    let refused = |packet: Packet| {
        let mut bench = Bench::new(Behaviour::default(), SessionSettings::default());
        bench.open(None);
        bench.give(packet)
    };
    let code = Packet::ConnectAck(ConnectAck {
        return_code: ConnectAckReason::NotAuthorized,
        session_present: false,
    });
    let error = refused(code).unwrap_err();
    assert_eq!(error, SessionError::Refused(ConnectAckReason::NotAuthorized));
    assert!(error.to_string().contains("not authorised"), "{error}");
    assert_eq!(refused(subscribed()), Err(SessionError::Unexpected));
    assert_eq!(refused(Packet::PingRequest), Err(SessionError::Unexpected));

    let mut bench = Bench::new(Behaviour::default(), SessionSettings::default());
    bench.open(None);
    bench.give(accepted()).unwrap();
    let failure = Packet::SubscribeAck {
        packet_id: NonZeroU16::MIN,
        status: vec![SubscribeReturnCode::Failure],
    };
    assert_eq!(bench.give(failure), Err(SessionError::Subscription));
}

#[test]
fn a_hub_that_does_not_accept_in_time_is_given_up() {
    let mut bench = Bench::new(Behaviour::default(), SessionSettings::default());
    bench.open(None);
    assert_eq!(bench.seconds_to_timeout(), 60.0);
    assert_eq!(bench.timeout(), Ok((Course::Continue, vec![])));
    assert_eq!(bench.next_timeout(), Err(SessionError::ConnectTimeout));
}

#[test]
fn a_method_is_answered_under_its_request_id() {
    let mut bench = Bench::ready(Behaviour::default());
    assert_eq!(
        bench.hub("$iothub/methods/POST/lockDoor/?$rid=a%1", r#"{"lockTime":"10m"}"#),
        [pair(
            "$iothub/methods/res/200/?$rid=a%1",
            r#"{"Response":"lockDoor called successfully"}"#
        )]
    );
    let other = bench.hub("$iothub/methods/POST/other/?$rid=2", "null");
    assert_eq!(other[0].0, "$iothub/methods/res/404/?$rid=2");
    assert_eq!(
        bench.events.take(),
        [
            "method lockDoor",
            "MethodAnswered",
            "method other",
            "MethodAnswered"
        ]
    );
}

#[test]
fn a_delayed_answer_comes_when_it_is_due_and_no_earlier() {
    let slow = MethodAnswer::new(200, &json!(1)).after(Duration::from_secs(3));
    let quick = MethodAnswer::new(201, &json!(2)).after(Duration::from_secs(1));
    let behaviour = Behaviour::default()
        .with_method("slow", slow)
        .with_method("quick", quick);
    let mut bench = Bench::ready(behaviour);
    assert_eq!(bench.hub("$iothub/methods/POST/slow/?$rid=1", ""), []);
    assert_eq!(bench.hub("$iothub/methods/POST/quick/?$rid=2", ""), []);
    assert_eq!(bench.timeout(), Ok((Course::Continue, vec![])));
    assert_eq!(bench.seconds_to_timeout(), 1.0);
    let (_, packets) = bench.next_timeout().unwrap();
    assert_eq!(published(packets), [pair("$iothub/methods/res/201/?$rid=2", "2")]);
    assert_eq!(bench.seconds_to_timeout(), 2.0);
    let (_, packets) = bench.next_timeout().unwrap();
    assert_eq!(published(packets), [pair("$iothub/methods/res/200/?$rid=1", "1")]);
}

#[test]
fn a_device_with_too_much_to_do_says_so() {
    let slow = MethodAnswer::new(200, &json!(1)).after(Duration::from_secs(3));
    let mut bench = Bench::ready(Behaviour::default().with_method("slow", slow));
    for rid in 0..IN_FLIGHT {
        assert_eq!(
            bench.hub(&format!("$iothub/methods/POST/slow/?$rid={rid}"), ""),
            []
        );
    }
    let answers = bench.hub("$iothub/methods/POST/slow/?$rid=x", "");
    assert_eq!(answers[0].0, "$iothub/methods/res/429/?$rid=x");
}

#[test]
fn desired_changes_are_reported_back_and_old_ones_ignored() {
    let mut bench = Bench::ready(Behaviour::default().with_reflection());
    let change = |version: u64| format!("$iothub/twin/PATCH/properties/desired/?$version={version}");
    let body = r#"{"building":43,"$version":2}"#;
    let report = pair(
        "$iothub/twin/PATCH/properties/reported/?$rid=2",
        r#"{"building":43}"#,
    );
    assert_eq!(bench.hub(&change(2), body), [report]);
    assert_eq!(bench.hub(&change(2), body), []);
    bench.now += Duration::from_secs(2);
    assert_eq!(bench.hub("$iothub/twin/res/204/?$rid=2&$version=2", ""), []);
    assert_eq!(
        bench.events.take(),
        [
            r#"desired 2 {"$version":2,"building":43}"#,
            "ReportSent",
            "accepted after 2 s"
        ]
    );
}

#[test]
fn a_twin_that_a_change_overtook_is_read_again() {
    let mut bench = Bench::new(Behaviour::default(), SessionSettings::default());
    bench.open(None);
    bench.give(accepted()).unwrap();
    bench.give(subscribed()).unwrap();
    bench.hub("$iothub/twin/PATCH/properties/desired/?$version=5", r#"{"a":5}"#);
    let twin = |version: u64| format!(r#"{{"desired":{{"$version":{version}}},"reported":{{}}}}"#);
    let again = bench.hub("$iothub/twin/res/200/?$rid=1", &twin(4));
    assert_eq!(again, [pair("$iothub/twin/GET/?$rid=2", "")]);
    assert_eq!(bench.hub("$iothub/twin/res/200/?$rid=2", &twin(5)), []);
    assert_eq!(bench.events.take().last().unwrap(), r#"twin {"$version":5}"#);
}

#[test]
fn what_the_hub_does_wrong_is_a_failure_but_not_the_end() {
    let mut bench = Bench::ready(Behaviour::default().with_reflection());
    for (topic, body, failure) in [
        ("$iothub/nothing", "", Failure::Topic),
        ("$iothub/methods/POST/m/", "", Failure::Topic),
        (
            "$iothub/twin/PATCH/properties/desired/?$version=2",
            "[]",
            Failure::Twin,
        ),
        (
            "$iothub/twin/PATCH/properties/desired/?$version=x",
            "{}",
            Failure::Topic,
        ),
    ] {
        assert_eq!(bench.hub(topic, body), [], "{topic}");
        assert_eq!(bench.events.take(), [failure.to_string()], "{topic}");
    }
    bench.hub("$iothub/twin/PATCH/properties/desired/?$version=3", r#"{"a":1}"#);
    bench.hub("$iothub/twin/res/429/?$rid=2", "");
    let refused = Failure::TwinRefused { status: 429 }.to_string();
    assert_eq!(bench.events.take().last(), Some(&refused));
    // A response to a request that nobody waits for.
    assert_eq!(bench.hub("$iothub/twin/res/200/?$rid=2", ""), []);
    assert_eq!(bench.events.take(), [""; 0]);
}

#[test]
fn pings_go_out_when_nothing_else_does_and_must_be_answered() {
    let mut bench = Bench::ready(Behaviour::default());
    assert_eq!(bench.seconds_to_timeout(), 60.0);
    bench.now += Duration::from_secs(59);
    bench.hub("$iothub/methods/POST/lockDoor/?$rid=1", "");
    bench.now += Duration::from_secs(1);
    assert_eq!(bench.timeout(), Ok((Course::Continue, vec![])));
    assert_eq!(
        bench.next_timeout(),
        Ok((Course::Continue, vec![Packet::PingRequest]))
    );
    assert_eq!(bench.give(Packet::PingResponse), Ok(vec![]));
    assert_eq!(bench.seconds_to_timeout(), 60.0);
    assert_eq!(
        bench.next_timeout(),
        Ok((Course::Continue, vec![Packet::PingRequest]))
    );
    assert_eq!(bench.seconds_to_timeout(), 30.0);
    assert_eq!(bench.next_timeout(), Err(SessionError::PingTimeout));
}

#[test]
fn telemetry_starts_within_its_interval_and_is_acknowledged() {
    let behaviour = Behaviour::default().with_telemetry(Telemetry::every(Duration::from_secs(10)));
    let mut bench = Bench::ready(behaviour);
    assert_eq!(bench.seconds_to_timeout(), 5.0);
    let (_, packets) = bench.next_timeout().unwrap();
    let id = NonZeroU16::new(2).unwrap();
    let topic = "devices/dev1/messages/events/%24.ct=application%2Fjson&%24.ce=utf-8";
    let body = Bytes::from_static(br#"{"deviceId":"dev1","messageId":1}"#);
    assert_eq!(packets, [publish_qos1(topic, body, id)]);
    bench.now += Duration::from_secs(1);
    assert_eq!(bench.give(Packet::PublishAck { packet_id: id }), Ok(vec![]));
    assert_eq!(bench.events.take(), ["TelemetrySent", "accepted after 1 s"]);
    assert_eq!(bench.seconds_to_timeout(), 9.0);

    // A device that slept through intervals does not make up for them.
    bench.now += Duration::from_secs(35);
    assert_eq!(bench.timeout().unwrap().1.len(), 1);
    assert_eq!(bench.seconds_to_timeout(), 10.0);
    bench.events.take();
    for _ in 0..6 {
        bench.next_timeout().unwrap();
        bench.give(Packet::PingResponse).unwrap();
    }
    let lost = Failure::TelemetryUnacknowledged.to_string();
    assert!(bench.events.take().contains(&lost));
}

#[test]
fn a_hub_that_acknowledges_nothing_is_not_flooded() {
    let behaviour = Behaviour::default().with_telemetry(Telemetry::every(Duration::from_millis(1)));
    let mut bench = Bench::ready(behaviour);
    let mut sent = 0;
    for _ in 0..2 * IN_FLIGHT {
        sent += bench.next_timeout().unwrap().1.len();
    }
    assert_eq!(sent, IN_FLIGHT);
    assert!(bench.events.take().contains(&Failure::Skipped.to_string()));
}

#[test]
fn a_token_is_renewed_before_it_expires() {
    let mut bench = Bench::ready(Behaviour::default());
    bench.open(Some(Duration::from_secs(100)));
    bench.give(accepted()).unwrap();
    bench.give(subscribed()).unwrap();
    bench.hub("$iothub/twin/res/200/?$rid=1", r#"{"desired":{},"reported":{}}"#);
    let opened = bench.now;
    let (course, _) = bench.next_timeout().unwrap();
    assert_eq!(course, Course::Continue);
    let (course, _) = bench.next_timeout().unwrap();
    assert_eq!(course, Course::Renew);
    assert_eq!(bench.now - opened, Duration::from_secs(85));
}

proptest! {
    #[test]
    fn arbitrary_messages_never_panic(
        messages in proptest::collection::vec(
            (prop_oneof![
                ".*",
                r"\$iothub/methods/POST/[a-z/?]{0,8}\$rid=[0-9]?",
                r"\$iothub/twin/res/(200|204|500)/\?\$rid=[0-3]",
                r"\$iothub/twin/PATCH/properties/desired/\?\$version=[0-9]{1,2}",
            ], prop_oneof![".*", r#"\{"(desired|a)":[0-9]\}"#]), 0..20),
    ) {
        let mut bench = Bench::ready(Behaviour::default().with_reflection());
        for (topic, body) in messages {
            let packet = publish_qos0(topic, Bytes::from(body));
            prop_assert!(bench.give(packet).is_ok());
        }
    }
}
