use super::*;
use proptest::prelude::*;

const B64: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn signature() -> String {
    crate::sas::sign(
        "h",
        &Key::from_base64(B64).unwrap(),
        2_000_000_000,
        Some("device"),
    )
}

fn device(text: &str) -> DeviceConnection {
    match ConnectionString::parse(text) {
        Ok(ConnectionString::Device(device)) => device,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn every_kind_is_read_and_written_back() {
    let token = signature();
    for text in [
        format!("HostName=h.azure-devices.net;SharedAccessKeyName=iothubowner;SharedAccessKey={B64}"),
        format!("HostName=h;DeviceId=d;SharedAccessKey={B64}"),
        format!("HostName=localhost:8443;DeviceId=d=1;SharedAccessKey={B64};GatewayHostName=[::1]:8883"),
        format!("HostName=h;DeviceId=d;ModuleId=m;SharedAccessKey={B64}"),
        format!("HostName=h;DeviceId=d;SharedAccessKeyName=device;SharedAccessKey={B64}"),
        format!("HostName=h;DeviceId=d;SharedAccessSignature={token}"),
        "HostName=h;DeviceId=d;x509=true".to_owned(),
    ] {
        let parsed = ConnectionString::parse(&text).unwrap();
        assert_eq!(parsed.to_string(), text);
    }
}

#[test]
fn parts_may_stand_in_any_order() {
    let text = format!(" SharedAccessKey={B64};GatewayHostName=gw;ModuleId=m;DeviceId=d;HostName=h;\n");
    let connection = device(&text);
    assert_eq!(connection.host.to_string(), "h");
    assert_eq!(connection.gateway.unwrap().to_string(), "gw");
    assert_eq!(connection.target.to_string(), "d/m");
    assert_eq!(
        connection.credential,
        Credential::Key(Key::from_base64(B64).unwrap())
    );
    assert_eq!(
        device("x509=True;HostName=h;DeviceId=d").credential,
        Credential::Certificate
    );
}

#[test]
fn each_broken_string_names_its_fault() {
    use ConnectionStringError::{Conflict, Duplicate, Missing, Part, Unknown};
    let error = |text: &str| ConnectionString::parse(text).unwrap_err();
    let key = format!("SharedAccessKey={B64}");
    let token = format!("SharedAccessSignature={}", signature());

    assert_eq!(error(""), Part { number: 1 });
    assert_eq!(error("HostName=h;DeviceId"), Part { number: 2 });
    assert_eq!(error("HostName=h;;DeviceId=d"), Part { number: 2 });
    assert_eq!(error("Hostname=h"), Unknown { number: 1 });
    let bare_key = error(B64);
    assert_eq!(bare_key, Unknown { number: 1 });
    assert!(bare_key.to_string().ends_with(
        "is none of HostName, DeviceId, ModuleId, SharedAccessKeyName, \
        SharedAccessKey, SharedAccessSignature, x509, GatewayHostName"
    ));
    assert_eq!(error("HostName=h;HostName=h"), Duplicate { name: "HostName" });
    for (text, name) in [
        (format!("DeviceId=d;{key}"), "HostName"),
        (format!("HostName=;DeviceId=d;{key}"), "HostName"),
        ("HostName=h".into(), "SharedAccessKeyName"),
        (format!("HostName=h;{key}"), "SharedAccessKeyName"),
        ("HostName=h;SharedAccessKeyName=p".into(), "SharedAccessKey"),
        ("HostName=h;DeviceId=d".into(), "SharedAccessKey"),
        (
            "HostName=h;DeviceId=d;SharedAccessKeyName=p".into(),
            "SharedAccessKey",
        ),
        (format!("HostName=h;ModuleId=m;{key}"), "DeviceId"),
        ("HostName=h;x509=true".into(), "DeviceId"),
        (
            format!("HostName=h;DeviceId=d;{key};GatewayHostName="),
            "GatewayHostName",
        ),
    ] {
        assert_eq!(error(&text), Missing { name }, "{text}");
    }
    for (text, first, second) in [
        (format!("HostName=h;DeviceId=d;{key};x509=true"), KEY, X509),
        (format!("HostName=h;DeviceId=d;{key};{token}"), KEY, TOKEN),
        (
            "HostName=h;DeviceId=d;SharedAccessKeyName=p;x509=true".into(),
            POLICY,
            X509,
        ),
        (
            format!("HostName=h;SharedAccessKeyName=p;{key};GatewayHostName=g"),
            POLICY,
            GATEWAY,
        ),
    ] {
        assert_eq!(error(&text), Conflict { first, second }, "{text}");
    }
    for (text, expected) in [
        (
            "HostName=h/;DeviceId=d;x509=true",
            "HostName is not a host name with an optional port",
        ),
        ("HostName=h;DeviceId=a/b;x509=true", "DeviceId is not a legal id"),
        (
            "HostName=h;DeviceId=d;ModuleId=#;x509=true",
            "ModuleId is not a legal id",
        ),
        (
            "HostName=h;DeviceId=d;SharedAccessKey=secret",
            "SharedAccessKey is not a symmetric key",
        ),
        (
            "HostName=h;DeviceId=d;SharedAccessSignature=sr=h",
            "SharedAccessSignature is not a token",
        ),
        ("HostName=h;DeviceId=d;x509=false", "x509 can only be \"true\""),
    ] {
        assert_eq!(error(text).to_string(), expected);
    }
}

#[test]
fn debug_output_holds_no_secret() {
    for text in [
        format!("HostName=h;SharedAccessKeyName=p;SharedAccessKey={B64}"),
        format!("HostName=h;DeviceId=d;SharedAccessKey={B64}"),
        format!("HostName=h;DeviceId=d;SharedAccessSignature={}", signature()),
    ] {
        let debug = format!("{:?}", ConnectionString::parse(&text).unwrap());
        assert!(!debug.contains(&B64[..8]) && !debug.contains("sig="), "{debug}");
    }
}

#[test]
fn hosts_are_checked() {
    let host = Host::parse("localhost:8443").unwrap();
    assert_eq!((host.name(), host.port()), ("localhost", Some(8443)));
    let host = Host::parse("[fe80::1]").unwrap();
    assert_eq!((host.name(), host.port()), ("[fe80::1]", None));
    for (text, expected) in [
        ("", HostError::Empty),
        (":1", HostError::Empty),
        ("[]:1", HostError::Empty),
        ("h/x", HostError::Character { found: '/' }),
        ("[::1", HostError::Character { found: '[' }),
        ("[h]", HostError::Character { found: 'h' }),
        ("hé", HostError::Character { found: 'é' }),
        ("h:", HostError::Port),
        ("h:0", HostError::Port),
        ("h:+1", HostError::Port),
        ("h:65536", HostError::Port),
        ("::1", HostError::Empty),
        ("[::1]1", HostError::Port),
    ] {
        assert_eq!(Host::parse(text), Err(expected), "{text:?}");
    }
}

fn arb_host() -> impl Strategy<Value = Host> {
    (
        "[a-zA-Z0-9._-]{1,20}|\\[[0-9a-f:.]{1,20}\\]",
        proptest::option::of(1..=u16::MAX),
    )
        .prop_map(|(name, port)| {
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            Host::parse(&format!("{name}{port}")).unwrap()
        })
}

fn arb_key() -> impl Strategy<Value = Key> {
    proptest::collection::vec(any::<u8>(), 16..=64).prop_map(|bytes| Key::from_bytes(&bytes))
}

fn arb_credential() -> impl Strategy<Value = Credential> {
    prop_oneof![
        arb_key().prop_map(Credential::Key),
        ("[a-zA-Z0-9]{1,20}", arb_key()).prop_map(|(policy, key)| Credential::PolicyKey { policy, key }),
        (arb_key(), any::<u64>())
            .prop_map(|(key, expiry)| Credential::Token(crate::sas::sign("h", &key, expiry, None))),
        Just(Credential::Certificate),
    ]
}

fn arb_connection() -> impl Strategy<Value = ConnectionString> {
    let id = "[a-zA-Z0-9.%_*?!(),:=@$'-]{1,128}";
    let service = (arb_host(), "[a-zA-Z0-9]{1,20}", arb_key())
        .prop_map(|(host, policy, key)| ConnectionString::Service(ServiceConnection { host, policy, key }));
    let device = (
        arb_host(),
        id,
        proptest::option::of(id),
        arb_credential(),
        proptest::option::of(arb_host()),
    )
        .prop_map(|(host, device, module, credential, gateway)| {
            ConnectionString::Device(DeviceConnection {
                host,
                target: Target {
                    device: DeviceId::parse(&device).unwrap(),
                    module: module.map(|id| ModuleId::parse(&id).unwrap()),
                },
                credential,
                gateway,
            })
        });
    prop_oneof![service, device]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(connection in arb_connection()) {
        prop_assert_eq!(ConnectionString::parse(&connection.to_string()), Ok(connection));
    }

    #[test]
    fn arbitrary_text_never_panics(
        text in ".*",
        parts in "((HostName|DeviceId|ModuleId|SharedAccess(Key|KeyName|Signature)|x509|GatewayHostName)=[^;]{0,9};){0,6}",
    ) {
        let _ = Host::parse(&text);
        let _ = ConnectionString::parse(&text);
        let _ = ConnectionString::parse(&parts);
    }
}
