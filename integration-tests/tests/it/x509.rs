//! Devices and modules that prove who they are with a certificate.

use emulator::Hub;
use hub_core::error::ErrorCode;
use hub_core::sas::{self, Key};
use mqtt_wire::{Connect, ConnectAckReason};
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, SupportedProtocolVersion};
use serde_json::{Value, json};

use crate::support::certificates::{DeviceCa, Holder, expired, named, not_yet_valid};
use crate::support::device::{Device, KEY};
use crate::support::rest::{FAR_FUTURE, Reply, Rest, development_key, start};
use crate::support::transport::{TlsClient, Transport};
use ConnectAckReason::{BadUserNameOrPassword, ConnectionAccepted as Accepted, NotAuthorized};

/// The ways that have TLS.
const DOORS: [Transport; 3] = [Transport::Tls12, Transport::Tls13, Transport::WebSocketOverTls];

fn by_thumbprints(primary: Option<&str>, secondary: Option<&str>) -> Value {
    let thumbprints = json!({"primaryThumbprint": primary, "secondaryThumbprint": secondary});
    json!({"type": "selfSigned", "x509Thumbprint": thumbprints})
}

fn by_authority() -> Value {
    json!({"type": "certificateAuthority"})
}

fn by_key() -> Value {
    json!({"type": "sas", "symmetricKey": {"primaryKey": KEY, "secondaryKey": KEY}})
}

/// Registers a device or module (`d`, `d/m`) or gives it other credentials.
async fn register(rest: &Rest, target: &str, authentication: Value) {
    let path = format!("/devices/{}", target.replacen('/', "/modules/", 1));
    let body = json!({ "authentication": authentication });
    let exists = rest.get(&path).await.status == 200;
    let call = rest.call("PUT", &path).json(&body);
    let call = if exists { call.if_match("*") } else { call };
    call.send().await.ok();
}

fn connect(target: &str, password: Option<&str>) -> Connect {
    Connect {
        client_id: target.to_owned().into(),
        username: Some(format!("localhost/{target}/?api-version=2021-04-12").into()),
        password: password.map(|text| text.to_owned().into()),
        ..Connect::default()
    }
}

/// A token of `target` signed with `key`, perhaps in a policy's name.
fn token(target: &str, key: &str, policy: Option<&str>) -> String {
    let resource = format!("localhost/devices/{}", target.replacen('/', "/modules/", 1));
    sas::sign(&resource, &Key::from_base64(key).unwrap(), FAR_FUTURE, policy)
}

/// What the hub answers to a CONNECT.
async fn answer(
    hub: &Hub,
    door: Transport,
    holder: Option<&Holder>,
    target: &str,
    password: Option<&str>,
) -> ConnectAckReason {
    let mut device = Device::over(door.open_as(hub, holder).await);
    device.connect(connect(target, password)).await.return_code
}

/// What the hub answers to a CONNECT without a password, on every way the same.
async fn answer_everywhere(hub: &Hub, holder: &Holder, target: &str) -> ConnectAckReason {
    let mut answers = Vec::new();
    for door in DOORS {
        answers.push(answer(hub, door, Some(holder), target, None).await);
    }
    assert!(
        answers.iter().all(|one| *one == answers[0]),
        "{target}: {answers:?}"
    );
    answers[0]
}

/// Asks for the modules of `device` over HTTPS as the device itself.
async fn modules(hub: &Hub, holder: Option<&Holder>, device: &str) -> Reply {
    let tls = TlsClient::new(hub, &TLS13, holder);
    let stream = tls.connect(hub.https_address().unwrap()).await;
    let device_itself = Rest::of(hub).authorized(None);
    let call = device_itself.call("GET", &format!("/devices/{device}/modules"));
    call.send_over(stream).await
}

#[tokio::test]
async fn a_registered_thumbprint_lets_in_however_it_is_written() {
    let (hub, rest) = start().await;
    let holder = Holder::self_signed("some name");
    let (sha1, sha256) = (holder.sha1(), holder.sha256());
    let bytes: Vec<&str> = (0..20).map(|i| &sha1[2 * i..2 * i + 2]).collect();
    let other = "0".repeat(40);
    for (primary, secondary) in [
        (Some(&sha1), None),
        (None, Some(&sha1)),
        (Some(&sha256), None),
        (Some(&other), Some(&sha256)),
        (Some(&sha1.to_lowercase()), Some(&other)),
        (Some(&bytes.join(":")), None),
    ] {
        let authentication = by_thumbprints(primary.map(|t| &**t), secondary.map(|t| &**t));
        register(&rest, "d", authentication).await;
        let answer = answer_everywhere(&hub, &holder, "d").await;
        assert_eq!(answer, Accepted, "{primary:?} {secondary:?}");
        modules(&hub, Some(&holder), "d").await.ok();
        let written = rest.get("/devices/d").await.ok();
        let thumbprint = &written["authentication"]["x509Thumbprint"]["primaryThumbprint"];
        assert_eq!(thumbprint.as_str(), primary.map(|t| &**t));
    }
}

#[tokio::test]
async fn a_device_with_a_certificate_is_a_device_like_any_other() {
    let (hub, rest) = start().await;
    let holder = Holder::self_signed("d");
    register(&rest, "d", by_thumbprints(Some(&holder.sha1()), None)).await;
    for door in DOORS {
        let mut device = Device::over(door.open_as(&hub, Some(&holder)).await);
        assert_eq!(device.connect(connect("d", None)).await.return_code, Accepted);
        device
            .publish_acknowledged("devices/d/messages/events/", "hello")
            .await;
        // What lets in need not stay registered for those who are in.
        register(&rest, "d", by_thumbprints(Some(&"0".repeat(40)), None)).await;
        assert!(device.is_alive().await);
        assert_eq!(answer(&hub, door, Some(&holder), "d", None).await, NotAuthorized);
        assert!(device.is_alive().await);
        register(&rest, "d", by_thumbprints(Some(&holder.sha1()), None)).await;
    }
    assert_eq!(hub.counters().telemetry_messages, 3);
}

#[tokio::test]
async fn what_does_not_match_is_refused() {
    let (hub, rest) = start().await;
    let holder = Holder::self_signed("d");
    let stale = Holder::self_signed_with(&expired("d"));
    let early = Holder::self_signed_with(&not_yet_valid("d"));
    register(&rest, "d", by_thumbprints(Some(&holder.sha1()), None)).await;
    register(
        &rest,
        "stale",
        by_thumbprints(Some(&stale.sha1()), Some(&early.sha256())),
    )
    .await;
    register(&rest, "empty", by_thumbprints(None, None)).await;
    for (holder, target) in [
        (&Holder::self_signed("d"), "d"),
        (&stale, "d"),
        (&stale, "stale"),
        (&early, "stale"),
        (&holder, "empty"),
        (&holder, "nobody"),
        (&holder, "d/nothing"),
    ] {
        assert_eq!(
            answer_everywhere(&hub, holder, target).await,
            NotAuthorized,
            "{target}"
        );
        let device = target.split('/').next().unwrap();
        if device == target {
            let reply = modules(&hub, Some(holder), device).await;
            let text = reply.refused(ErrorCode::IotHubUnauthorizedAccess);
            assert_eq!(text, "Unauthorized");
        }
    }
    // Without a certificate, and where there cannot be one.
    for door in Transport::ALL {
        assert_eq!(
            answer(&hub, door, None, "d", None).await,
            NotAuthorized,
            "{door:?}"
        );
    }
    let reply = modules(&hub, None, "d").await;
    reply.refused(ErrorCode::IotHubUnauthorizedAccess);
    modules(&hub, Some(&holder), "d").await.ok();
}

#[tokio::test]
async fn a_disabled_device_stays_outside() {
    let (hub, rest) = start().await;
    let holder = Holder::self_signed("d");
    let authentication = by_thumbprints(Some(&holder.sha1()), None);
    let body = json!({"status": "disabled", "authentication": authentication});
    rest.put("/devices/d", &body).await.ok();
    assert_eq!(answer_everywhere(&hub, &holder, "d").await, NotAuthorized);
    let reply = modules(&hub, Some(&holder), "d").await;
    reply.refused(ErrorCode::IotHubUnauthorizedAccess);
}

#[tokio::test]
async fn tokens_and_certificates_do_not_stand_in_for_each_other() {
    let (hub, rest) = start().await;
    let (holder, stranger) = (Holder::self_signed("d"), Holder::self_signed("d"));
    register(&rest, "x", by_thumbprints(Some(&holder.sha1()), None)).await;
    register(&rest, "k", by_key()).await;
    let own = |target| token(target, KEY, None);
    let policy_key = emulator::DEVELOPMENT_KEY;
    assert_eq!(development_key(), Key::from_base64(policy_key).unwrap());
    let gateway = |target| token(target, policy_key, Some("device"));
    for (what, holder, target, password, expected) in [
        (
            "a token for an identity without keys",
            None,
            "x",
            Some(own("x")),
            NotAuthorized,
        ),
        (
            "the same beside a stranger's certificate",
            Some(&stranger),
            "x",
            Some(own("x")),
            NotAuthorized,
        ),
        (
            "the certificate decides, its holder has no key",
            Some(&holder),
            "x",
            Some(own("x")),
            Accepted,
        ),
        (
            "a certificate for an identity with keys",
            Some(&holder),
            "k",
            None,
            NotAuthorized,
        ),
        (
            "a token beside a certificate that means nothing",
            Some(&stranger),
            "k",
            Some(own("k")),
            Accepted,
        ),
        (
            "a wrong token beside a certificate",
            Some(&holder),
            "k",
            Some(token("k", policy_key, None)),
            NotAuthorized,
        ),
        (
            "another's token beside the certificate",
            Some(&holder),
            "x",
            Some(own("k")),
            NotAuthorized,
        ),
        (
            "no token beside the certificate",
            Some(&holder),
            "x",
            Some("secret".into()),
            BadUserNameOrPassword,
        ),
        (
            "a policy for an identity without keys",
            None,
            "x",
            Some(gateway("x")),
            Accepted,
        ),
        (
            "a policy beside a certificate",
            Some(&stranger),
            "x",
            Some(gateway("x")),
            Accepted,
        ),
        (
            "a policy for an identity with keys",
            Some(&stranger),
            "k",
            Some(gateway("k")),
            Accepted,
        ),
    ] {
        for door in DOORS {
            let answer = answer(&hub, door, holder, target, password.as_deref()).await;
            assert_eq!(answer, expected, "{what}, {door:?}");
        }
    }
    let reply = modules(&hub, Some(&holder), "k").await;
    reply.refused(ErrorCode::IotHubUnauthorizedAccess);
}

#[tokio::test]
async fn modules_have_certificates_of_their_own() {
    let (hub, rest) = start().await;
    let (of_device, of_module) = (Holder::self_signed("d"), Holder::self_signed("m"));
    register(&rest, "d", by_thumbprints(Some(&of_device.sha1()), None)).await;
    register(&rest, "d/m", by_thumbprints(Some(&of_module.sha256()), None)).await;
    register(&rest, "d/k", by_key()).await;
    for (holder, target, expected) in [
        (&of_device, "d", Accepted),
        (&of_module, "d/m", Accepted),
        (&of_device, "d/m", NotAuthorized),
        (&of_module, "d", NotAuthorized),
        (&of_device, "d/k", NotAuthorized),
    ] {
        assert_eq!(
            answer_everywhere(&hub, holder, target).await,
            expected,
            "{target}"
        );
    }
    let key = token("d/k", KEY, None);
    let module = answer(&hub, Transport::Tls12, None, "d/k", Some(&key)).await;
    assert_eq!(module, Accepted);
    let list = modules(&hub, Some(&of_device), "d").await.ok();
    assert_eq!(list.as_array().unwrap().len(), 2);
    let reply = modules(&hub, Some(&of_module), "d").await;
    reply.refused(ErrorCode::IotHubUnauthorizedAccess);
}

#[tokio::test]
async fn a_registered_authority_vouches_for_names() {
    let root = DeviceCa::root("root");
    let builder = Hub::builder().device_ca(root.pem()).unwrap();
    let hub = builder.start().await.unwrap();
    let rest = Rest::of(&hub);
    let (middle, stranger) = (root.intermediate("middle"), DeviceCa::root("root"));
    register(&rest, "d", by_authority()).await;
    register(&rest, "d/m", by_authority()).await;
    for (what, holder, target, expected) in [
        ("by the root", root.issue(&named("d")), "d", Accepted),
        (
            "by the root, which is sent",
            root.issue(&named("d")).through(&[&root]),
            "d",
            Accepted,
        ),
        (
            "by another",
            middle.issue(&named("d")).through(&[&middle]),
            "d",
            Accepted,
        ),
        (
            "whose certificate is missing",
            middle.issue(&named("d")),
            "d",
            NotAuthorized,
        ),
        ("by a stranger", stranger.issue(&named("d")), "d", NotAuthorized),
        (
            "who is sent",
            stranger.issue(&named("d")).through(&[&stranger]),
            "d",
            NotAuthorized,
        ),
        ("by nobody", Holder::self_signed("d"), "d", NotAuthorized),
        ("another name", root.issue(&named("d2")), "d", NotAuthorized),
        (
            "the name in another case",
            root.issue(&named("D")),
            "d",
            NotAuthorized,
        ),
        ("too late", root.issue(&expired("d")), "d", NotAuthorized),
        ("too early", root.issue(&not_yet_valid("d")), "d", NotAuthorized),
        ("the module", root.issue(&named("d/m")), "d/m", Accepted),
        (
            "the device for its module",
            root.issue(&named("d")),
            "d/m",
            NotAuthorized,
        ),
        (
            "the module for its device",
            root.issue(&named("d/m")),
            "d",
            NotAuthorized,
        ),
    ] {
        assert_eq!(answer_everywhere(&hub, &holder, target).await, expected, "{what}");
    }
    // Which authority issued it does not matter where thumbprints count, and
    // the other way round.
    let issued = root.issue(&named("d"));
    register(&rest, "t", by_thumbprints(Some(&"0".repeat(40)), None)).await;
    assert_eq!(answer_everywhere(&hub, &issued, "t").await, NotAuthorized);
    // Over HTTP only thumbprints do.
    let reply = modules(&hub, Some(&issued), "d").await;
    reply.refused(ErrorCode::IotHubUnauthorizedAccess);
}

#[tokio::test]
async fn an_intermediate_authority_may_be_the_one_that_is_trusted() {
    let root = DeviceCa::root("root");
    let (ours, theirs) = (root.intermediate("ours"), root.intermediate("theirs"));
    let (hub, rest) = start().await;
    hub.add_device_ca(ours.pem()).unwrap();
    register(&rest, "d", by_authority()).await;
    let holder = ours.issue(&named("d")).through(&[&ours, &root]);
    assert_eq!(answer_everywhere(&hub, &holder, "d").await, Accepted);
    let holder = theirs.issue(&named("d")).through(&[&theirs, &root]);
    assert_eq!(answer_everywhere(&hub, &holder, "d").await, NotAuthorized);
}

#[tokio::test]
async fn a_device_cannot_issue_certificates() {
    let root = DeviceCa::root("root");
    let (hub, rest) = start().await;
    hub.add_device_ca(root.pem()).unwrap();
    register(&rest, "victim", by_authority()).await;
    // Its certificate does not say that it may, though it chains to the root.
    let key = rcgen::KeyPair::generate().unwrap();
    let device = root.issue(&named("thief"));
    let stolen_name = rcgen::Issuer::new(named("thief"), key);
    let own_key = rcgen::KeyPair::generate().unwrap();
    let forged = named("victim").signed_by(&own_key, &stolen_name).unwrap();
    let holder = Holder {
        chain: vec![forged.der().clone(), device.chain[0].clone()],
        key: rustls::pki_types::PrivateKeyDer::Pkcs8(own_key.serialize_der().into()),
    };
    assert_eq!(answer_everywhere(&hub, &holder, "victim").await, NotAuthorized);
}

#[tokio::test]
async fn authorities_come_and_go_while_the_hub_runs() {
    let (first, second) = (DeviceCa::root("first"), DeviceCa::root("second"));
    let builder = Hub::builder().device_ca(first.pem()).unwrap();
    let hub = builder.start().await.unwrap();
    let rest = Rest::of(&hub);
    let admin = rest.authorized(None);
    let holder = second.issue(&named("d"));
    register(&rest, "d", by_authority()).await;
    assert_eq!(answer_everywhere(&hub, &holder, "d").await, NotAuthorized);

    let add = || admin.exactly("POST", "/_emulator/device-cas").body(second.pem());
    for _ in 0..2 {
        let all = add().send().await.ok();
        let names: Vec<_> = all.as_array().unwrap().iter().map(|ca| &ca["name"]).collect();
        assert_eq!(names, ["first", "second"]);
        let listed = admin.exactly("GET", "/_emulator/device-cas").send().await.ok();
        assert_eq!(listed, all);
        assert_eq!(
            listed[1],
            json!({
                "name": "second",
                "subject": "CN=second",
                "thumbprint": second.sha1(),
                "sha256Thumbprint": second.sha256(),
                "notBefore": "1975-01-01T00:00:00Z",
                "notAfter": "4096-01-01T00:00:00Z",
            })
        );
    }
    let mut device = Device::over(Transport::Tls13.open_as(&hub, Some(&holder)).await);
    assert_eq!(device.connect(connect("d", None)).await.return_code, Accepted);

    let remove = |thumbprint: String| admin.exactly("DELETE", &format!("/_emulator/device-cas/{thumbprint}"));
    remove(second.sha256().to_lowercase()).send().await.no_content();
    assert!(device.is_alive().await);
    assert_eq!(answer_everywhere(&hub, &holder, "d").await, NotAuthorized);
    let gone = remove(second.sha1()).send().await;
    gone.refused(ErrorCode::GenericNotFound);

    // A reset forgets what came later and brings back what was taken away.
    remove(first.sha1()).send().await.no_content();
    add().send().await.ok();
    admin
        .exactly("DELETE", "/_emulator/state")
        .send()
        .await
        .no_content();
    let left = admin.exactly("GET", "/_emulator/device-cas").send().await.ok();
    assert_eq!(left.as_array().unwrap().len(), 1);
    assert_eq!(left[0]["name"], "first");
}

#[tokio::test]
async fn what_is_no_authority_is_refused_with_a_reason() {
    let (hub, rest) = start().await;
    let admin = rest.authorized(None);
    let ca = DeviceCa::root("root").pem();
    let mut leaf = named("leaf");
    leaf.is_ca = rcgen::IsCa::ExplicitNoCa;
    let leaf = leaf
        .self_signed(&rcgen::KeyPair::generate().unwrap())
        .unwrap()
        .pem();
    let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
    for (body, reason) in [
        (String::new(), "no certificate"),
        ("{}".into(), "no certificate"),
        (damaged.clone(), "certificate 1 "),
        (ca.clone() + &damaged, "certificate 2 "),
        (ca + &leaf, "certificate 2 (CN=leaf)"),
        (DeviceCa::root("one of many").pem(), ""),
    ] {
        let reply = admin
            .exactly("POST", "/_emulator/device-cas")
            .body(body.clone())
            .send()
            .await;
        if reason.is_empty() {
            reply.ok();
            continue;
        }
        let text = reply.refused(ErrorCode::ArgumentInvalid);
        assert!(text.contains(reason), "{text}");
        assert!(Hub::builder().device_ca(&body).is_err());
    }
    let many: String = (0..25).map(|_| DeviceCa::root("root").pem()).collect();
    let reply = admin
        .exactly("POST", "/_emulator/device-cas")
        .body(many)
        .send()
        .await;
    assert!(reply.refused(ErrorCode::ArgumentInvalid).contains("25"));
    let left = admin.exactly("GET", "/_emulator/device-cas").send().await.ok();
    assert_eq!(left.as_array().unwrap().len(), 1);
    let reply = admin.exactly("DELETE", "/_emulator/device-cas/12").send().await;
    reply.refused(ErrorCode::ArgumentInvalid);
    drop(hub);
}

#[tokio::test]
async fn a_resumed_tls_session_still_has_the_certificate() {
    let (hub, rest) = start().await;
    let holder = Holder::self_signed("d");
    register(&rest, "d", by_thumbprints(Some(&holder.sha1()), None)).await;
    let versions: [&'static SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
    for version in versions {
        let client = TlsClient::new(&hub, version, Some(&holder));
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let stream = client.connect(hub.mqtts_address().unwrap()).await;
            assert_eq!(
                stream.get_ref().1.handshake_kind(),
                Some(kind),
                "{:?}",
                version.version
            );
            let mut device = Device::over(stream);
            // The answer brings the session's ticket, too.
            let ack = device.connect(connect("d", None)).await;
            assert_eq!(ack.return_code, Accepted, "{:?}, {kind:?}", version.version);
        }
    }
}
