//! CONNECT: who is let in over which transport, who is refused with which
//! return code, and what happens to a peer that does not even send a CONNECT.

use std::num::NonZeroU16;
use std::time::Duration;

use bytes::Bytes;
use emulator::{DEVELOPMENT_KEY, Hub};
use hub_core::limits;
use hub_core::sas::{self, Key};
use mqtt_wire::{Connect, ConnectAckReason, LastWill, Packet, QoS, publish_qos0};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::back_end::BackEnd;
use crate::support::device::{Device, Identity, KEY, OTHER_KEY, bytes_of, expect_closed_after, unix_now};
use crate::support::transport::Transport;
use crate::support::{soon, start_hub};

use ConnectAckReason::{
    BadUserNameOrPassword, ConnectionAccepted, IdentifierRejected, NotAuthorized, UnacceptableProtocolVersion,
};

#[tokio::test]
async fn a_device_is_let_in_over_every_transport() {
    let hub = start_hub().await;
    for transport in Transport::ALL {
        let identity = Identity::create(&hub, &format!("{transport:?}"));
        let mut device = Device::open(&hub, transport).await;
        let ack = device.connect(identity.connect()).await;
        assert_eq!(
            (ack.return_code, ack.session_present),
            (ConnectionAccepted, false),
            "{transport:?}"
        );
        device.publish_acknowledged(&identity.events(""), "x").await;
        device.disconnect().await;
    }
    assert_eq!(hub.counters().connects_accepted, 6);
    assert_eq!(hub.counters().protocol_violations, 0);
    assert_eq!(hub.connected_count(), 0);
}

#[tokio::test]
async fn a_refused_connection_is_closed_in_order_over_every_transport() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let connect = Connect {
        password: Some(identity.token(1).into()),
        ..identity.connect()
    };
    for transport in Transport::ALL {
        let mut device = Device::open(&hub, transport).await;
        assert_eq!(device.connect(connect.clone()).await.return_code, NotAuthorized);
        // A TLS or WebSocket connection that is merely cut would be an error here.
        device.expect_closed().await;
    }
    assert_eq!(hub.counters().connects_refused, 6);
}

/// Checks the return code, and that the connection is closed unless it is 0.
async fn expect_code(hub: &Hub, connect: Connect, expected: ConnectAckReason, what: &str) {
    let mut device = Device::in_memory(hub);
    let ack = device.connect(connect).await;
    assert_eq!(ack.return_code, expected, "{what}");
    if expected == ConnectionAccepted {
        device.disconnect().await;
    } else {
        assert!(!ack.session_present, "{what}");
        device.expect_closed().await;
    }
}

#[tokio::test]
async fn other_versions_of_the_protocol_are_refused_with_1() {
    let hub = start_hub().await;
    let connect = bytes_of([Identity::create(&hub, "d").connect().into()]);
    let with_protocol = |protocol: &[u8]| {
        // The fixed header has two bytes of length: a CONNECT with a token has
        // more than 127 bytes and fewer than 16384.
        let rest = &connect[3 + 7..];
        let length = protocol.len() + rest.len();
        let mut bytes = vec![0x10, (length % 128) as u8 | 0x80, (length / 128) as u8];
        bytes.extend_from_slice(protocol);
        bytes.extend_from_slice(rest);
        bytes
    };
    assert_eq!(with_protocol(b"\x00\x04MQTT\x04"), connect);
    for protocol in [
        &b"\x00\x04MQTT\x05"[..],
        b"\x00\x04MQTT\x03",
        b"\x00\x06MQIsdp\x03",
        b"\x00\x04MQTT\x00",
        b"\x00\x04mqtt\x04",
        b"\x00\x04HTTP\x04",
    ] {
        let mut device = Device::in_memory(&hub);
        device.send_bytes(&with_protocol(protocol)).await;
        match device.expect_packet().await {
            Packet::ConnectAck(ack) => assert_eq!(ack.return_code, UnacceptableProtocolVersion),
            other => panic!("{other:?}"),
        }
        device.expect_closed().await;
    }
    assert_eq!(hub.counters().connects_refused, 6);
}

#[tokio::test]
async fn an_empty_client_id_is_refused_with_2() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    for connect in [identity.connect(), identity.connect_clean()] {
        expect_code(
            &hub,
            connect.client_id(""),
            IdentifierRejected,
            "an empty client id",
        )
        .await;
    }
}

#[tokio::test]
async fn a_malformed_user_name_or_password_is_refused_with_4() {
    let hub = start_hub().await;
    let good = Identity::create(&hub, "d").connect();
    for user_name in [
        "",
        "localhost",
        "localhost/",
        "/d/?api-version=2021-04-12",
        "localhost/d/m/x/?a=b",
    ] {
        let connect = Connect {
            username: Some(user_name.into()),
            ..good.clone()
        };
        expect_code(&hub, connect, BadUserNameOrPassword, user_name).await;
    }
    let none = Connect {
        username: None,
        ..good.clone()
    };
    expect_code(&hub, none, BadUserNameOrPassword, "no user name").await;
    for password in [
        &b"secret"[..],
        b"\xff\xfe",
        b"",
        b"SharedAccessSignature sr=x&se=1",
    ] {
        let connect = Connect {
            password: Some(Bytes::from_static(password)),
            ..good.clone()
        };
        expect_code(&hub, connect, BadUserNameOrPassword, &format!("{password:?}")).await;
    }
}

#[tokio::test]
async fn whoever_is_not_authorised_is_refused_with_5() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let other = Identity::create(&hub, "d2");
    let module = Identity::create_module(&hub, "d", "m");
    hub.import(r#"{"deviceId":"off","status":"disabled"}"#).unwrap();
    let disabled = Identity::create(&hub, "off");
    let unknown = Identity::of(&format!(
        "HostName=localhost;DeviceId=nobody;SharedAccessKey={KEY}"
    ));
    let unknown_module = Identity::of(&format!(
        "HostName=localhost;DeviceId=d;ModuleId=nobody;SharedAccessKey={KEY}"
    ));
    let wrong_key = Identity {
        key: Key::from_base64(OTHER_KEY).unwrap(),
        ..identity.clone()
    };
    let good = identity.connect();
    let with_token = |token: String| Connect {
        password: Some(token.into()),
        ..good.clone()
    };
    let hour = unix_now() + 3600;
    let policy = Key::from_base64(DEVELOPMENT_KEY).unwrap();
    let own_resource = sas::resource_text("localhost", &identity.target);
    for (what, connect) in [
        ("an unknown device", unknown.connect()),
        ("an unknown module", unknown_module.connect()),
        ("a disabled device", disabled.connect()),
        ("a wrong key", wrong_key.connect()),
        (
            "a device's key for its module",
            Identity {
                target: module.target.clone(),
                ..identity.clone()
            }
            .connect(),
        ),
        (
            "a token that ended beyond the tolerance",
            with_token(identity.token(unix_now() - 310)),
        ),
        ("another device's token", with_token(other.token(hour))),
        ("a module's token for its device", with_token(module.token(hour))),
        (
            "a device's own key for all devices",
            with_token(sas::sign("localhost%2Fdevices%2Fd2", &identity.key, hour, None)),
        ),
        (
            "a policy without the right",
            with_token(sas::sign(&own_resource, &policy, hour, Some("service"))),
        ),
        (
            "a policy that is none",
            with_token(sas::sign(&own_resource, &policy, hour, Some("nobody"))),
        ),
        (
            "a policy's name on a device's key",
            with_token(sas::sign(&own_resource, &identity.key, hour, Some("device"))),
        ),
        (
            "a policy's key without its name",
            with_token(sas::sign(&own_resource, &policy, hour, None)),
        ),
        (
            "no password",
            Connect {
                password: None,
                ..good.clone()
            },
        ),
        ("another client id", good.clone().client_id("d2")),
        ("a module's client id", good.clone().client_id("d/m")),
        ("a client id in another case", good.clone().client_id("D")),
    ] {
        expect_code(&hub, connect, NotAuthorized, what).await;
    }
    assert_eq!(hub.counters().connects_accepted, 0);
    assert_eq!(hub.connected_count(), 0);
}

#[tokio::test]
async fn every_key_and_policy_that_may_lets_in() {
    let hub = start_hub().await;
    let authentication =
        format!(r#"{{"symmetricKey":{{"primaryKey":"{KEY}","secondaryKey":"{OTHER_KEY}"}}}}"#);
    hub.import(&format!(
        r#"{{"deviceId":"d","authentication":{authentication}}}"#
    ))
    .unwrap();
    let primary = Identity::create(&hub, "d");
    let module = Identity::create_module(&hub, "d", "m");
    let secondary = |identity: &Identity| Identity {
        key: Key::from_base64(OTHER_KEY).unwrap(),
        ..identity.clone()
    };
    let policy = Key::from_base64(DEVELOPMENT_KEY).unwrap();
    let hour = unix_now() + 3600;
    let with = |identity: &Identity, resource: &str, name: Option<&str>| {
        let key = name.map_or(&identity.key, |_| &policy);
        Connect {
            password: Some(sas::sign(resource, key, hour, name).into()),
            ..identity.connect()
        }
    };
    for (what, connect) in [
        ("a primary key", primary.connect()),
        ("a secondary key", secondary(&primary).connect()),
        ("a module's primary key", module.connect()),
        ("a module's secondary key", secondary(&module).connect()),
        (
            "a policy, all devices",
            with(&primary, "localhost%2Fdevices", Some("device")),
        ),
        (
            "a policy, this device",
            with(&primary, "localhost%2Fdevices%2Fd", Some("iothubowner")),
        ),
        (
            "a policy, a module",
            with(&module, "localhost%2Fdevices%2Fd", Some("device")),
        ),
        (
            "a policy, the whole hub",
            with(&primary, "localhost", Some("device")),
        ),
        (
            "escapes in lower case",
            with(&primary, "localhost%2fdevices%2fd", None),
        ),
        ("no escapes", with(&primary, "localhost/devices/d", None)),
        (
            "a slash at the end",
            with(&primary, "localhost%2Fdevices%2Fd%2F", None),
        ),
        (
            "an old api-version",
            with(
                &primary,
                "localhost%2Fdevices%2Fd%2Fapi-version%3D2016-11-14",
                None,
            ),
        ),
        (
            "a host in capitals",
            with(&primary, "LOCALHOST%2Fdevices%2Fd", None),
        ),
    ] {
        expect_code(&hub, connect, ConnectionAccepted, what).await;
    }
    // Fields of the token in another order, as the .NET SDK has them.
    let token = primary.token(hour);
    let fields: Vec<&str> = token
        .strip_prefix("SharedAccessSignature ")
        .unwrap()
        .split('&')
        .collect();
    let token = format!("SharedAccessSignature {}&{}&{}", fields[1], fields[2], fields[0]);
    let connect = Connect {
        password: Some(token.into()),
        ..primary.connect()
    };
    expect_code(&hub, connect, ConnectionAccepted, "fields in another order").await;
}

#[tokio::test]
async fn an_awkward_id_may_be_encoded_once_or_twice_in_a_token() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "my$dev,1=x");
    for resource in [
        "localhost%2Fdevices%2Fmy%24dev%2C1%3Dx",
        "localhost%2Fdevices%2Fmy%2524dev%252C1%253Dx",
        "localhost%2fdevices%2fmy%2524dev%252c1%253dx",
        "localhost/devices/my$dev,1=x",
    ] {
        let token = sas::sign(resource, &identity.key, unix_now() + 3600, None);
        let connect = Connect {
            password: Some(token.into()),
            ..identity.connect()
        };
        expect_code(&hub, connect, ConnectionAccepted, resource).await;
    }
}

#[tokio::test]
async fn every_spelling_of_the_user_name_is_understood() {
    let hub = start_hub().await;
    let device = Identity::create(&hub, "d");
    let module = Identity::create_module(&hub, "d", "m");
    for (identity, user_name) in [
        (&device, "localhost/d/?api-version=2021-04-12"),
        (
            &device,
            "localhost/d/?api-version=2021-04-12&DeviceClientType=py%2F2.14%20%28x%29",
        ),
        (
            &device,
            "localhost/d/?DeviceClientType=c%2F1&api-version=2021-04-12",
        ),
        (&device, "localhost/d/api-version=2021-04-12"),
        (&device, "localhost/d?api-version=2021-04-12"),
        (
            &device,
            "localhost/d/?api-version=2021-04-12&unknown=1&api-version=x",
        ),
        (&device, "localhost/d"),
        (&device, "localhost/d/"),
        (&device, "127.0.0.1:8883/d/?api-version=2021-04-12"),
        (&device, "gateway.example.org/d/?api-version=2021-04-12"),
        (&module, "localhost/d/m/?api-version=2021-04-12"),
        (&module, "localhost/d/m/api-version=2021-04-12"),
        (&module, "localhost/d/m"),
    ] {
        let connect = Connect {
            username: Some(user_name.into()),
            ..identity.connect()
        };
        expect_code(&hub, connect, ConnectionAccepted, user_name).await;
    }
}

#[tokio::test]
async fn a_will_must_be_telemetry_of_the_device_itself() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let with_will = |topic: &str, qos| Connect {
        last_will: Some(LastWill {
            qos,
            retain: false,
            topic: topic.into(),
            message: Bytes::new(),
        }),
        ..identity.connect()
    };
    let own = identity.events("");
    for (connect, expected) in [
        (with_will(&own, QoS::AtMostOnce), ConnectionAccepted),
        (with_will(&own, QoS::AtLeastOnce), ConnectionAccepted),
        (
            with_will("devices/d/messages/events/a=b", QoS::AtLeastOnce),
            ConnectionAccepted,
        ),
        (with_will(&own, QoS::ExactlyOnce), NotAuthorized),
        (
            with_will("devices/d2/messages/events/", QoS::AtLeastOnce),
            NotAuthorized,
        ),
        (
            with_will("devices/d/messages/events/a=%", QoS::AtLeastOnce),
            NotAuthorized,
        ),
        (
            with_will("$iothub/twin/GET/?$rid=1", QoS::AtLeastOnce),
            NotAuthorized,
        ),
        (with_will("weather", QoS::AtLeastOnce), NotAuthorized),
    ] {
        let what = format!("{:?}", connect.last_will);
        expect_code(&hub, connect, expected, &what).await;
    }
    assert_eq!(hub.counters().telemetry_messages, 0);
}

#[tokio::test]
async fn whoever_does_not_begin_with_connect_is_closed_without_an_answer() {
    let hub = start_hub().await;
    let connect = bytes_of([Identity::create(&hub, "d").connect().into()]);
    let id = NonZeroU16::MIN;
    let publish = publish_qos0("devices/d/messages/events/", Bytes::new());
    let subscribe = Packet::Subscribe {
        packet_id: id,
        topic_filters: vec![("$iothub/methods/POST/#".into(), QoS::AtMostOnce)],
    };
    for packet in [
        publish,
        subscribe,
        Packet::PingRequest,
        Packet::Disconnect,
        Packet::PublishAck { packet_id: id },
    ] {
        let mut device = Device::in_memory(&hub);
        // Even a good CONNECT behind it does not help.
        let mut bytes = bytes_of([packet]);
        bytes.extend_from_slice(&connect);
        device.send_bytes(&bytes).await;
        device.expect_closed().await;
    }
    for garbage in [
        // A TLS hello on the port without TLS, a packet type that is none, a
        // length without end, reserved flags, a cut CONNECT, a text that is not UTF-8.
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\x00\x00",
        b"\x10\xff\xff\xff\xff\xff",
        b"\x11\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00",
        b"\x10\x0c\x00\x04MQTT\x04\x03\x00\x3c\x00\x00",
        b"\x10\x0b\x00\x04MQTT\x04\x02\x00\x3c\x00",
        b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01\xff",
    ] {
        let mut device = Device::in_memory(&hub);
        device.send_bytes(garbage).await;
        device.expect_closed().await;
    }
    // A CONNECT of more than 16 KiB is refused as soon as it announces itself.
    let mut device = Device::in_memory(&hub);
    device.send_bytes(b"\x10\x81\x80\x01").await;
    device.expect_closed().await;

    assert_eq!(hub.counters().connects_accepted, 0);
    Device::online(&hub, "d").await.disconnect().await;
}

#[tokio::test]
async fn the_tls_port_closes_on_plain_mqtt() {
    let hub = start_hub().await;
    let connect = bytes_of([Identity::create(&hub, "d").connect().into()]);
    let mut socket = TcpStream::connect(hub.mqtts_address().unwrap()).await.unwrap();
    socket.write_all(&connect).await.unwrap();
    let mut answer = Vec::new();
    let read = socket.read_to_end(&mut answer);
    soon("the end of the connection", read).await.unwrap();
    // At most a TLS alert.
    assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
    assert_eq!(hub.counters().connects_accepted, 0);
}

#[tokio::test]
async fn connect_may_arrive_byte_by_byte_and_with_packets_behind_it() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let bytes = bytes_of([
        identity.connect().into(),
        publish_qos0(identity.events(""), Bytes::from_static(b"at once")),
        Packet::PingRequest,
    ]);
    for portion in [1, 7, bytes.len()] {
        let mut device = Device::in_memory(&hub);
        for bytes in bytes.chunks(portion) {
            device.send_bytes(bytes).await;
            tokio::task::yield_now().await;
        }
        match device.expect_packet().await {
            Packet::ConnectAck(ack) => assert_eq!(ack.return_code, ConnectionAccepted),
            other => panic!("{other:?}"),
        }
        assert_eq!(device.expect_packet().await, Packet::PingResponse);
    }
    assert_eq!(hub.counters().telemetry_messages, 3);
}

#[tokio::test]
async fn whoever_says_nothing_is_closed_after_the_deadline() {
    let hub = start_hub().await;
    let mut silent = Device::in_memory(&hub);
    let mut slow = Device::in_memory(&hub);
    // Half a CONNECT is not one.
    slow.send_bytes(b"\x10\x0c\x00\x04MQTT").await;
    tokio::time::pause();
    expect_closed_after(&mut silent, limits::MQTT_CONNECT_DEADLINE).await;
    soon("the end of the slow connection", slow.closed()).await;
    assert_eq!(hub.counters().connects_refused, 0);
}

#[tokio::test]
async fn an_answer_may_be_delayed_for_clients_that_race_with_it() {
    let delay = Duration::from_millis(50);
    let hub = Hub::builder().connack_delay(delay).start().await.unwrap();
    let identity = Identity::create(&hub, "d");
    let asked = Instant::now();
    let (_device, _) = Device::connected(&hub, identity.connect()).await;
    assert!(asked.elapsed() >= delay);
}

#[tokio::test]
async fn the_model_id_of_connect_shows_in_the_twin() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let user_name = "localhost/d/?api-version=2020-09-30&model-id=dtmi%3Acom%3Aexample%3AThermostat%3B1";
    let connect = Connect {
        username: Some(user_name.into()),
        ..identity.connect()
    };
    let (_device, _) = Device::connected(&hub, connect).await;
    let twin = BackEnd::of(&hub).twin("d").await;
    assert_eq!(twin["modelId"], "dtmi:com:example:Thermostat;1");
    assert_eq!(twin["connectionState"], "Connected");
}
