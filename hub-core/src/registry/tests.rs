//! Tests of whole identities and of their documents, twins included.

#![expect(
    clippy::needless_pass_by_value,
    reason = "JSON literals read better without a reference"
)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::error::ErrorCode;
use crate::ids::{DeviceId, ModuleId};
use crate::time::Timestamp;
use crate::twin::{Twin, TwinDocument, TwinPatch};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODw==";

/// Runs `make` with bytes that count up, a second later each time.
struct Source(u8);

impl Source {
    fn with<T>(&mut self, make: impl FnOnce(&mut Fresh<'_>) -> T) -> T {
        self.0 += 1;
        let now = at(self.0.into());
        let mut next = self.0;
        let mut random = || {
            next = next.wrapping_add(16);
            [next; 32]
        };
        make(&mut Fresh {
            now,
            random: &mut random,
        })
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(1_600_000_000 + seconds)
}

fn device_id(id: &str) -> DeviceId {
    DeviceId::parse(id).unwrap()
}

fn spec(body: Value) -> DeviceSpec {
    DeviceSpec::from_json(&body, &device_id("dev1")).unwrap()
}

fn refusal(body: Value) -> ErrorCode {
    DeviceSpec::from_json(&body, &device_id("dev1")).unwrap_err().code
}

fn module_spec(body: Value) -> ModuleSpec {
    ModuleSpec::from_json(&body, &device_id("dev1"), &ModuleId::parse("m1").unwrap()).unwrap()
}

/// A device with readable values in place of the made ones.
fn plain_device() -> DeviceIdentity {
    let body = json!({"deviceId": "dev1", "status": "enabled",
        "authentication": {"symmetricKey": {"primaryKey": KEY, "secondaryKey": KEY}, "type": "sas"},
        "capabilities": {"iotEdge": false}});
    let mut device = Source(0).with(|fresh| DeviceIdentity::create(spec(body), fresh));
    device.generation_id = "637134923842394822".into();
    device.etag = "ODAxMjMyNDI2".into();
    device
}

#[test]
fn a_fresh_device_reads_as_the_service_prints_it() {
    let device = plain_device();
    assert_eq!(
        serde_json::to_string(&device.document(&Connection::default())).unwrap(),
        concat!(
            r#"{"deviceId":"dev1","generationId":"637134923842394822","etag":"ODAxMjMyNDI2","#,
            r#""connectionState":"Disconnected","status":"enabled","statusReason":null,"#,
            r#""connectionStateUpdatedTime":"0001-01-01T00:00:00Z","#,
            r#""statusUpdatedTime":"0001-01-01T00:00:00Z","lastActivityTime":"0001-01-01T00:00:00Z","#,
            r#""cloudToDeviceMessageCount":0,"authentication":{"symmetricKey":"#,
            r#"{"primaryKey":"AAECAwQFBgcICQoLDA0ODw==","secondaryKey":"AAECAwQFBgcICQoLDA0ODw=="},"#,
            r#""x509Thumbprint":{"primaryThumbprint":null,"secondaryThumbprint":null},"type":"sas"},"#,
            r#""capabilities":{"iotEdge":false}}"#
        )
    );
}

#[test]
fn a_fresh_twin_reads_as_the_service_prints_it() {
    let (device, twin) = (plain_device(), Twin::new(at(0)));
    let document = TwinDocument {
        owner: (&device).into(),
        connection: &Connection::default(),
        twin: &twin,
        configurations: None,
    };
    assert_eq!(
        serde_json::to_string(&document).unwrap(),
        concat!(
            r#"{"deviceId":"dev1","etag":"AAAAAAAAAAE=","deviceEtag":"ODAxMjMyNDI2","#,
            r#""status":"enabled","statusReason":null,"statusUpdateTime":"0001-01-01T00:00:00Z","#,
            r#""connectionState":"Disconnected","lastActivityTime":"0001-01-01T00:00:00Z","#,
            r#""cloudToDeviceMessageCount":0,"authenticationType":"sas","#,
            r#""x509Thumbprint":{"primaryThumbprint":null,"secondaryThumbprint":null},"#,
            r#""modelId":"","version":2,"tags":{},"#,
            r#""properties":{"desired":{"$metadata":{"$lastUpdated":"2020-09-13T12:26:40Z"},"$version":1},"#,
            r#""reported":{"$metadata":{"$lastUpdated":"2020-09-13T12:26:40Z"},"$version":1}},"#,
            r#""capabilities":{"iotEdge":false}}"#
        )
    );
}

#[test]
fn documents_show_what_is_known_of_the_connection() {
    let connection = Connection {
        state: ConnectionState::Connected,
        state_updated: at(5),
        last_activity: at(6),
        queued_messages: 3,
    };
    let (device, twin) = (plain_device(), Twin::new(at(0)));
    let identity = serde_json::to_value(device.document(&connection)).unwrap();
    let twin = serde_json::to_value(TwinDocument {
        owner: (&device).into(),
        connection: &connection,
        twin: &twin,
        configurations: None,
    })
    .unwrap();
    for document in [&identity, &twin] {
        assert_eq!(document["connectionState"], "Connected");
        assert_eq!(document["lastActivityTime"], at(6).to_string());
        assert_eq!(document["cloudToDeviceMessageCount"], 3);
    }
    assert_eq!(identity["connectionStateUpdatedTime"], at(5).to_string());
    assert_eq!(twin.get("connectionStateUpdatedTime"), None);
    assert_eq!(twin.get("generationId"), None);
}

#[test]
fn a_module_and_its_twin_read_as_the_service_prints_them() {
    let mut module =
        Source(0).with(|fresh| ModuleIdentity::create(module_spec(json!({"type": "none"})), fresh));
    module.generation_id = "1".into();
    module.etag = "MA==".into();
    let identity = serde_json::to_string(&module.document(&Connection::default())).unwrap();
    let head = concat!(
        r#"{"moduleId":"m1","managedBy":null,"deviceId":"dev1","generationId":"1","etag":"MA==","#,
        r#""connectionState":"Disconnected","connectionStateUpdatedTime":"0001-01-01T00:00:00Z","#,
        r#""lastActivityTime":"0001-01-01T00:00:00Z","cloudToDeviceMessageCount":0,"#,
        r#""authentication":{"symmetricKey":{"primaryKey":""#
    );
    assert!(identity.starts_with(head), "{identity}");
    let twin = serde_json::to_string(&TwinDocument {
        owner: (&module).into(),
        connection: &Connection::default(),
        twin: &Twin::new(at(0)),
        configurations: None,
    })
    .unwrap();
    let head = concat!(
        r#"{"deviceId":"dev1","moduleId":"m1","etag":"AAAAAAAAAAE=","deviceEtag":"MA==","#,
        r#""status":"enabled","statusReason":null,"#
    );
    assert!(twin.starts_with(head), "{twin}");
}

#[test]
fn every_replacement_changes_the_etag_and_drops_what_is_not_sent() {
    let mut source = Source(0);
    let full = json!({"deviceId": "dev1", "status": "disabled", "statusReason": "broken",
        "authentication": {"symmetricKey": {"primaryKey": KEY, "secondaryKey": KEY}},
        "capabilities": {"iotEdge": true}, "etag": "ignored", "generationId": "ignored"});
    let created = source.with(|fresh| DeviceIdentity::create(spec(full), fresh));
    // As created, though not with the default status.
    assert_eq!(created.status_updated, Timestamp::NEVER);
    assert_eq!(created.status_reason.as_deref(), Some("broken"));
    let replaced = source.with(|fresh| created.replace(spec(json!({"deviceId": "dev1"})), fresh));
    assert_eq!(
        (replaced.status, &replaced.status_reason),
        (Status::Enabled, &None)
    );
    assert_eq!(replaced.status_updated, at(2));
    assert_eq!(replaced.capabilities, Capabilities::default());
    assert_eq!(replaced.device_scope, None);
    assert_ne!(replaced.etag, created.etag);
    assert_eq!(replaced.generation_id, created.generation_id);
    let again = source.with(|fresh| replaced.replace(spec(json!({})), fresh));
    assert_eq!(again.status_updated, at(2), "the status is the same");
    assert_ne!(again.etag, replaced.etag);
    // Without keys in the body each replacement makes new ones.
    let keys: Vec<_> = [&created, &replaced, &again]
        .map(|d| d.authentication.keys().unwrap())
        .to_vec();
    assert!(keys[0] != keys[1] && keys[1] != keys[2]);
    assert_ne!(keys[1].primary, keys[1].secondary);
    assert_eq!(keys[1].primary.as_str().len(), 44);
    let recreated = source.with(|fresh| DeviceIdentity::create(spec(json!({})), fresh));
    assert_ne!(recreated.generation_id, created.generation_id);
}

#[test]
fn bad_device_bodies_are_refused() {
    for body in [
        json!([]),
        json!("dev1"),
        json!({"deviceId": "Dev1"}),
        json!({"deviceId": 1}),
        json!({"status": "off"}),
        json!({"status": true}),
        json!({"statusReason": "x".repeat(129)}),
        json!({"statusReason": 1}),
        json!({"capabilities": []}),
        json!({"capabilities": {"iotEdge": "yes"}}),
        json!({"deviceScope": 1}),
        json!({"parentScopes": "scope"}),
        json!({"parentScopes": ["a", "b"]}),
        json!({"authentication": {"type": "none"}}),
    ] {
        assert_eq!(refusal(body.clone()), ErrorCode::ArgumentInvalid, "{body}");
    }
    // Members without a value and members that only the hub writes do no harm.
    spec(
        json!({"deviceId": null, "status": null, "statusReason": null, "authentication": null,
        "capabilities": null, "deviceScope": null, "parentScopes": null, "etag": 1, "generationId": 2,
        "connectionState": "Connected", "lastActivityTime": "never", "unknown": {}}),
    );
    spec(
        json!({"status": "Disabled", "statusReason": "é".repeat(128), "deviceScope": "", "parentScopes": []}),
    );
}

#[test]
fn edge_devices_get_a_lasting_scope_and_two_modules() {
    let mut source = Source(0);
    let edge = json!({"capabilities": {"iotEdge": true}, "deviceScope": "mine", "parentScopes": ["parent"]});
    let device = source.with(|fresh| DeviceIdentity::create(spec(edge.clone()), fresh));
    let scope = device.edge_scope().unwrap();
    assert_eq!(scope_owner(scope), Some(device_id("dev1")));
    assert_eq!(device.parent_scope(), Some("parent"));
    let modules = source.with(|fresh| device.system_modules(fresh));
    let ids: Vec<_> = modules.iter().map(|m| m.id.as_str()).collect();
    assert_eq!(ids, ["$edgeAgent", "$edgeHub"]);
    for module in &modules {
        assert_eq!(module.managed_by.as_deref(), Some("iotEdge"));
        assert_eq!(module.authentication, Authentication::None);
    }
    let replaced = source.with(|fresh| device.replace(spec(edge), fresh));
    assert_eq!(replaced.edge_scope(), Some(scope));
    // Switched off by a client that sends back what it read.
    let off = json!({"capabilities": {"iotEdge": false}, "deviceScope": scope, "parentScopes": [scope]});
    let leaf = source.with(|fresh| replaced.replace(spec(off), fresh));
    assert_eq!(
        (leaf.edge_scope(), &leaf.device_scope, leaf.parent_scope()),
        (None, &None, None)
    );
    assert!(source.with(|fresh| leaf.system_modules(fresh)).is_empty());
    let on = json!({"capabilities": {"iotEdge": true}});
    let edge_again = source.with(|fresh| leaf.replace(spec(on), fresh));
    assert!(edge_again.edge_scope().is_some_and(|new| new != scope));
}

#[test]
fn a_leaf_names_its_parent_by_device_scope_alone() {
    let create = |body| Source(0).with(|fresh| DeviceIdentity::create(spec(body), fresh));
    let child = create(json!({"deviceScope": "s", "parentScopes": ["other"]}));
    let document = serde_json::to_value(child.document(&Connection::default())).unwrap();
    assert_eq!(document["deviceScope"], "s");
    assert_eq!(document["parentScopes"], json!(["s"]));
    assert_eq!(child.edge_scope(), None);
    let twin = TwinDocument {
        owner: (&child).into(),
        connection: &Connection::default(),
        twin: &Twin::new(at(0)),
        configurations: None,
    };
    let text = serde_json::to_string(&twin).unwrap();
    assert!(
        text.ends_with(r#""capabilities":{"iotEdge":false},"deviceScope":"s","parentScopes":["s"]}"#),
        "{text}"
    );
    let orphan = create(json!({"parentScopes": ["s"]}));
    assert_eq!((&orphan.device_scope, orphan.parent_scope()), (&None, None));
}

#[test]
fn modules_without_credentials_get_keys() {
    let none = module_spec(json!({"moduleId": "m1", "deviceId": "dev1", "managedBy": "me",
        "authentication": {"type": "none"}}));
    let mut source = Source(0);
    let module = source.with(|fresh| ModuleIdentity::create(none.clone(), fresh));
    assert_eq!(module.authentication.kind(), "sas");
    assert_eq!(module.managed_by.as_deref(), Some("me"));
    let replaced = source.with(|fresh| module.replace(module_spec(json!({})), fresh));
    assert_eq!(
        (&replaced.managed_by, &replaced.generation_id),
        (&None, &module.generation_id)
    );
    assert_ne!(replaced.etag, module.etag);
    for body in [
        json!({"moduleId": "m2"}),
        json!({"deviceId": "dev2"}),
        json!({"managedBy": 1}),
        json!(1),
    ] {
        let error = ModuleSpec::from_json(&body, &device_id("dev1"), &ModuleId::parse("m1").unwrap());
        assert_eq!(error.unwrap_err().code, ErrorCode::ArgumentInvalid, "{body}");
    }
}

/// Bodies made of the members that are looked at, with values of any kind.
fn arb_body() -> impl Strategy<Value = Value> {
    let key = prop::sample::select(vec![
        "id",
        "moduleId",
        "importMode",
        "eTag",
        "status",
        "statusReason",
        "authentication",
        "type",
        "symmetricKey",
        "primaryKey",
        "secondaryKey",
        "x509Thumbprint",
        "primaryThumbprint",
        "capabilities",
        "iotEdge",
        "deviceScope",
        "parentScopes",
        "tags",
        "properties",
        "desired",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::sample::select(vec![
            "",
            "sas",
            "selfSigned",
            "create",
            "update",
            "enabled",
            KEY,
            "é/"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(key.clone().prop_map(String::from), inner, 0..8)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn arbitrary_bodies_never_panic(body in arb_body()) {
        let (device, module) = (device_id("dev1"), ModuleId::parse("m1").unwrap());
        let mut source = Source(0);
        if let Ok(spec) = DeviceSpec::from_json(&body, &device) {
            let created = source.with(|fresh| DeviceIdentity::create(spec.clone(), fresh));
            let replaced = source.with(|fresh| created.replace(spec, fresh));
            prop_assert_ne!(&created.etag, &replaced.etag);
            prop_assert_eq!(created.edge_scope(), replaced.edge_scope());
        }
        let _ = ModuleSpec::from_json(&body, &device, &module);
        let _ = TwinPatch::from_json(&body);
        let _ = parse_bulk(&body);
        let _ = parse_bulk(&json!([body]));
    }
}
