use super::*;
use crate::ids::{DeviceId, ModuleId};
use proptest::prelude::*;

/// The bytes 0 to 31.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn key() -> Key {
    Key::from_base64(KEY).unwrap()
}

fn device(id: &str) -> DeviceId {
    DeviceId::parse(id).unwrap()
}

fn module(id: &str) -> ModuleId {
    ModuleId::parse(id).unwrap()
}

/// Resource as transmitted, signature before percent-encoding; expiry 2000000000.
const VECTORS: [(&str, &str); 4] = [
    (
        "hub1.azure-devices.net",
        "BXom5XtRZQvz+L323MwPTIt6ji2f99WeNHqNOIm0kh0=",
    ),
    (
        "hub1.azure-devices.net%2Fdevices%2Fdev1",
        "3ojmTOJ/i+CvMefm/pOigWKHn1MOqda2jknE7dIsDOw=",
    ),
    (
        "hub1.azure-devices.net%2fdevices%2fdev1",
        "SwnSEaBNhz+sTJ1LDOMjJxiqdP+atLHU9aO6fPgFxQM=",
    ),
    (
        "hub1.azure-devices.net%2Fdevices%2Fdev1%2Fmodules%2Fm1",
        "1wI5eTc+xO/E+0VaL2muwf0Tsqgf6HwGxHFxfeLfy8c=",
    ),
];

#[test]
fn the_vectors_sign_and_verify_in_every_spelling() {
    for (resource, signature) in VECTORS {
        let encoded = signature
            .replace('+', "%2B")
            .replace('/', "%2F")
            .replace('=', "%3D");
        let signed = sign(resource, &key(), 2_000_000_000, None);
        assert_eq!(
            signed,
            format!("SharedAccessSignature sr={resource}&sig={encoded}&se=2000000000")
        );
        for text in [
            signed.clone(),
            format!("SharedAccessSignature sig={signature}&se=2000000000&sr={resource}"),
            format!(
                "SharedAccessSignature se=2000000000&sr={resource}&sig={}",
                lowercase_escapes(&encoded)
            ),
        ] {
            let token = Token::parse(&text).unwrap();
            assert!(token.verify(&key()), "{text}");
            assert!(!token.verify(&Key::from_bytes(&[7; 32])), "{text}");
            assert_eq!(token.policy(), None);
            assert_eq!(token.resource(), resource);
        }
    }
}

#[test]
fn the_signature_covers_resource_and_expiry_as_transmitted() {
    let (resource, signature) = VECTORS[1];
    for (resource, expiry) in [
        (VECTORS[2].0, "2000000000"),
        (resource, "2000000001"),
        (resource, "02000000000"),
    ] {
        let text = format!("SharedAccessSignature sr={resource}&sig={signature}&se={expiry}");
        assert!(!Token::parse(&text).unwrap().verify(&key()), "{text}");
    }
}

#[test]
fn a_policy_is_named_in_its_token() {
    let text = sign("hub1", &key(), 2_000_000_000, Some("read & write"));
    assert!(text.ends_with("&skn=read%20%26%20write"));
    let token = Token::parse(&text).unwrap();
    assert_eq!(token.policy(), Some("read & write"));
    assert!(token.verify(&key()));
}

#[test]
fn each_broken_token_names_its_fault() {
    let signature = VECTORS[0].1;
    let parse = |fields: String| Token::parse(&format!("SharedAccessSignature {fields}")).unwrap_err();
    assert_eq!(Token::parse("").unwrap_err(), TokenError::Scheme);
    assert_eq!(Token::parse("Bearer sr=h").unwrap_err(), TokenError::Scheme);
    assert_eq!(parse(String::new()), TokenError::Field);
    assert_eq!(parse("sr=h&sig".into()), TokenError::Field);
    assert_eq!(parse("sr=h&sr=g".into()), TokenError::Duplicate { name: "sr" });
    for (fields, name) in [
        (format!("sig={signature}&se=1"), "sr"),
        (format!("sr=&sig={signature}&se=1"), "sr"),
        ("sr=h&se=1".into(), "sig"),
        (format!("sr=h&sig={signature}"), "se"),
        (format!("sr=h&sig={signature}&se=1&skn="), "skn"),
    ] {
        assert_eq!(parse(fields), TokenError::Missing { name });
    }
    for expiry in ["-1", "+1", "1.5", "0x1", "1e9", " 1"] {
        assert_eq!(
            parse(format!("sr=h&sig={signature}&se={expiry}")),
            TokenError::Expiry
        );
    }
    for bad in [
        "AAAA",
        "%",
        &signature[1..],
        &format!("{signature}A"),
        &"A".repeat(44),
        &"*".repeat(44),
    ] {
        assert_eq!(parse(format!("sr=h&sig={bad}&se=1")), TokenError::Signature);
    }
}

#[test]
fn a_token_is_void_after_its_expiry_plus_the_skew() {
    let at = |expiry: &str, now: i64, skew: u64| {
        let text = format!("SharedAccessSignature sr=h&sig={}&se={expiry}", VECTORS[0].1);
        let token = Token::parse(&text).unwrap();
        token.is_expired(Timestamp::from_unix_seconds(now), Duration::from_secs(skew))
    };
    assert!(!at("1000", 1000, 0));
    assert!(at("1000", 1001, 0));
    assert!(!at("1000", 1300, 300));
    assert!(at("1000", 1301, 300));
    // Past 2^31, past the year 9999 and past every integer type.
    for expiry in ["4000000000", "999999999999999", "99999999999999999999999999"] {
        assert!(!at(expiry, 3_000_000_000, 0), "{expiry}");
    }
}

#[test]
fn a_scope_covers_what_lies_at_or_below_it() {
    let (d1, d10, m, n) = (device("d1"), device("d10"), module("m"), module("n"));
    let covered = |sr: &str| {
        let scope = Scope::of(sr);
        [
            Resource::Hub,
            Resource::Device(&d1),
            Resource::Device(&d10),
            Resource::Module(&d1, &m),
            Resource::Module(&d1, &n),
            Resource::Path("messages/events"),
        ]
        .map(|resource| scope.covers(&resource))
    };
    const ALL: [bool; 6] = [true; 6];
    const NONE: [bool; 6] = [false; 6];
    let devices = [false, true, true, true, true, false];
    let one_device = [false, true, false, true, true, false];
    let one_module = [false, false, false, true, false, false];
    let events = [false, false, false, false, false, true];
    for (sr, expected) in [
        ("h", ALL),
        ("h/", ALL),
        ("h:8883", ALL),
        ("h%3A8883%2F", ALL),
        ("h/api-version=2016-11-14", ALL),
        ("h%2fdevices", devices),
        ("h/devices/", devices),
        ("h%2Fdevices%2Fd1", one_device),
        ("h/devices/d1/", one_device),
        ("h/devices/d1/api-version=2016-11-14", one_device),
        ("h%252Fdevices%252Fd1", one_device),
        ("h%2Fdevices%2Fd1%2Fmodules%2Fm", one_module),
        ("h/messages", events),
        ("sb://h/messages/events", events),
        ("sb%3A%2F%2Fh%2Fmessages%2Fevents", events),
        ("h/devices/D1", NONE),
        ("h/devices/d", NONE),
        ("h/devices//", NONE),
        ("h//devices", NONE),
        ("h/devices/d1/modules/m/x", NONE),
        ("h/devices/api-version=1", NONE),
        ("h/messages/events/x", NONE),
        ("h/%FF", NONE),
        ("h%25252Fdevices%25252Fd1", NONE),
        ("", NONE),
        ("/", NONE),
        ("%2Fdevices%2Fd1", NONE),
        ("https://", NONE),
    ] {
        assert_eq!(covered(sr), expected, "{sr}");
    }
}

#[test]
fn an_id_with_special_characters_may_be_encoded_once_or_twice() {
    let id = device("a%41(b)?=$");
    let target = Target::device(id.clone());
    let once = resource_text("h", &target);
    assert_eq!(once, "h%2Fdevices%2Fa%2541%28b%29%3F%3D%24");
    assert!(Scope::of(&once).covers(&Resource::Device(&id)));
    let twice = once.replace('%', "%25");
    assert!(Scope::of(&twice).covers(&Resource::from(&target)));
    assert!(!Scope::of(&twice.replace('%', "%25")).covers(&Resource::Device(&id)));
}

#[test]
fn parts_of_an_event_hub_are_compared_without_case() {
    let partition = Resource::EventHub("my-hub/ConsumerGroups/$Default/Partitions/0");
    for sr in [
        "h",
        "sb%3A%2F%2Fh%2FMy-Hub",
        "sb://h/my-hub/consumergroups/%24default",
        "sb://h/my-hub/consumergroups/$default/partitions/0",
    ] {
        assert!(Scope::of(sr).covers(&partition), "{sr}");
    }
    for sr in [
        "sb://h/my-hub/consumergroups/other",
        "sb://h/my",
        "sb://h/my-hub/consumergroups/$default/partitions/0/x",
        "h/devices/d",
    ] {
        assert!(!Scope::of(sr).covers(&partition), "{sr}");
    }
}

#[test]
fn a_scope_names_the_identity_that_it_is_for() {
    let named = |sr, again| Scope::of(sr).target(again);
    let of = |id, module: Option<&str>| {
        let module = module.map(|id| ModuleId::parse(id).unwrap());
        Some(Target {
            device: device(id),
            module,
        })
    };
    assert_eq!(named("h%2Fdevices%2Fd1", false), of("d1", None));
    assert_eq!(
        named("h/devices/d1/api-version=2016-11-14", false),
        of("d1", None)
    );
    assert_eq!(
        named("h%2Fdevices%2Fd1%2Fmodules%2Fm", false),
        of("d1", Some("m"))
    );
    assert_eq!(named("h%2Fdevices%2Fa%2541", false), of("a%41", None));
    assert_eq!(named("h%2Fdevices%2Fa%2541", true), of("aA", None));
    for sr in [
        "h",
        "h/devices",
        "h/messages/events",
        "h/devices/a b",
        "h/devices/d/modules/",
    ] {
        assert_eq!(named(sr, false), None, "{sr}");
    }
}

#[test]
fn hosts_compare_without_case_and_port() {
    for (sr, host, path) in [
        (
            "Hub1.Azure-Devices.net%3A8883%2Fdevices",
            "Hub1.Azure-Devices.net",
            "devices",
        ),
        (
            "sb://h:5671/e/consumergroups/%24default",
            "h",
            "e/consumergroups/$default",
        ),
        ("[::1]:8883", "[::1]", ""),
        ("[::1]", "[::1]", ""),
    ] {
        let scope = Scope::of(sr);
        assert_eq!((scope.host(), scope.path()), (host, path), "{sr}");
    }
    assert!(same_host("Hub1:8883", "hub1"));
    assert!(!same_host("hub1", "hub2"));
}

#[test]
fn a_groups_key_derives_its_devices_keys() {
    let group = Key::from_base64(
        "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==",
    )
    .unwrap();
    assert_eq!(
        derive_device_key(&group, "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6").to_base64(),
        "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="
    );
}

#[test]
fn keys_are_checked_and_never_shown() {
    assert_eq!(key().to_base64(), KEY);
    assert_eq!(key(), Key::from_bytes(&(0..32).collect::<Vec<u8>>()));
    assert_ne!(key(), Key::from_bytes(&[0; 31]));
    for text in [
        "*",
        "AAA",
        "AAAAAAAAAAAAAAAAAAAAAB==",
        " AAECAwQFBgcICQoLDA0ODxAREhM=",
    ] {
        assert_eq!(Key::from_base64(text), Err(KeyError::Base64), "{text}");
    }
    let of_length = |n: usize| Key::from_base64(&STANDARD.encode(vec![1; n]));
    for n in [0, 1, 15, 65, 1000] {
        assert_eq!(of_length(n), Err(KeyError::Length { bytes: n }));
    }
    assert!(of_length(16).is_ok() && of_length(64).is_ok());
    let token = sign("h", &key(), 1, None);
    let token = Token::parse(&token).unwrap();
    assert_eq!(format!("{:?}", key()), "Key(..)");
    assert!(!format!("{token:?}").contains("signature"));
}

#[test]
fn a_key_longer_than_a_block_is_hashed_first() {
    // RFC 4231, test case 6.
    let mut mac = Key::from_bytes(&[0xaa; 131]).mac();
    mac.update(b"Test Using Larger Than Block-Size Key - Hash Key First");
    assert_eq!(
        mac.finalize().into_bytes()[..8],
        [0x60, 0xe4, 0x31, 0x59, 0x1e, 0xe0, 0xb6, 0x7f]
    );
}

proptest! {
    #[test]
    fn whatever_is_signed_verifies_and_covers_its_target(
        id in "[a-zA-Z0-9.%_*?!(),:=@$';-]{1,128}",
        module_id in proptest::option::of("[a-zA-Z0-9.%_*?!(),:=@$';-]{1,128}"),
        bytes in proptest::collection::vec(any::<u8>(), 1..100),
        expiry: u64,
        policy in proptest::option::of(".{1,20}"),
    ) {
        let target = Target { device: device(&id), module: module_id.as_deref().map(module) };
        let key = Key::from_bytes(&bytes);
        let text = sign(&resource_text("localhost:8883", &target), &key, expiry, policy.as_deref());
        let token = Token::parse(&text).unwrap();
        prop_assert!(token.verify(&key));
        prop_assert!(!token.verify(&Key::from_bytes(&[&bytes[..], &[1]].concat())));
        prop_assert_eq!(token.policy(), policy.as_deref());
        let scope = token.scope();
        prop_assert_eq!(scope.host(), "localhost");
        prop_assert!(scope.covers(&Resource::from(&target)));
        prop_assert!(!scope.covers(&Resource::Hub));
    }

    #[test]
    fn keys_survive_base64(bytes in proptest::collection::vec(any::<u8>(), 16..=64)) {
        let key = Key::from_bytes(&bytes);
        prop_assert_eq!(Key::from_base64(&key.to_base64()), Ok(key));
    }

    #[test]
    fn arbitrary_text_never_panics(text in ".*", fields in "(sr|sig|se|skn)?[=&%/:0-9A-Z+]{0,60}") {
        for text in [text.clone(), format!("SharedAccessSignature {text}"), format!("SharedAccessSignature {fields}")] {
            if let Ok(token) = Token::parse(&text) {
                let _ = token.verify(&key());
            }
        }
        for sr in [text.as_str(), fields.as_str()] {
            let scope = Scope::of(sr);
            let _ = (scope.host(), scope.path(), scope.covers(&Resource::Path(&text)));
        }
        let _ = Key::from_base64(&text);
    }
}

fn lowercase_escapes(text: &str) -> String {
    text.replace("%2B", "%2b")
        .replace("%2F", "%2f")
        .replace("%3D", "%3d")
}
