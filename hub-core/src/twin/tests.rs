//! Tests of whole twins: golden cases, and sequences of random writes against
//! a naive model of merge patch.

#![expect(
    clippy::needless_pass_by_value,
    reason = "JSON literals read better without a reference"
)]

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::error::ErrorCode;
use crate::limits;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(1_600_000_000 + seconds)
}

fn patch(body: Value) -> TwinPatch {
    TwinPatch::from_json(&body).unwrap()
}

fn desired(members: Value) -> TwinPatch {
    patch(json!({"properties": {"desired": members}}))
}

fn reported(members: Value) -> ReportedPatch {
    ReportedPatch::parse(members.to_string().as_bytes()).unwrap()
}

fn payload(change: Option<DesiredChange>) -> String {
    String::from_utf8(change.unwrap().payload.to_vec()).unwrap()
}

fn tree(members: &Object) -> Value {
    Value::Object(members.to_json())
}

#[test]
fn a_fresh_twin_is_small_and_owns_no_memory() {
    assert!(size_of::<Twin>() <= 256, "{} bytes", size_of::<Twin>());
    let twin = Twin::new(at(0));
    assert_eq!((twin.version(), twin.etag().as_str()), (2, "AAAAAAAAAAE="));
    assert_eq!((twin.desired().version(), twin.reported().version()), (1, 1));
    assert_eq!(twin.model_id(), None);
    assert_eq!(
        twin.device_view(),
        r#"{"desired":{"$version":1},"reported":{"$version":1}}"#
    );
}

#[test]
fn merging_follows_the_service_in_each_case() {
    for (before, merged, after) in [
        (json!({"a": 1}), json!({}), json!({"a": 1})),
        (
            json!({"a": {"x": 1, "y": 2}}),
            json!({"a": {"x": 3}}),
            json!({"a": {"x": 3, "y": 2}}),
        ),
        (
            json!({}),
            json!({"a": {"b": {"c": 1}}}),
            json!({"a": {"b": {"c": 1}}}),
        ),
        (json!({"a": 1, "b": 2}), json!({"a": null}), json!({"b": 2})),
        (json!({"b": 2}), json!({"a": null}), json!({"b": 2})),
        (
            json!({"a": {"b": 1}}),
            json!({"a": {"b": null}}),
            json!({"a": {}}),
        ),
        (json!({}), json!({"a": {}}), json!({"a": {}})),
        (json!({}), json!({"a": {"b": null}}), json!({"a": {}})),
        (json!({"a": {"b": 1}}), json!({"a": 5}), json!({"a": 5})),
        (
            json!({"a": 5}),
            json!({"a": {"b": 1, "c": null}}),
            json!({"a": {"b": 1}}),
        ),
        (
            json!({"a": [1, 2, 3]}),
            json!({"a": [{"b": 4}]}),
            json!({"a": [{"b": 4}]}),
        ),
        (json!({"a": {"b": 1}}), json!({"a": []}), json!({"a": []})),
        (
            json!({}),
            json!({"$metadata": {"a": 1}, "$version": 7, "a": "2020-01-02T03:04:05.6Z"}),
            json!({"a": "2020-01-02T03:04:05.6Z"}),
        ),
    ] {
        let mut twin = Twin::new(at(0));
        let both = |members: &Value| patch(json!({"tags": members, "properties": {"desired": members}}));
        twin.patch(&both(&before), at(1)).unwrap();
        twin.patch_reported(&reported(before.clone()), None, at(1))
            .unwrap();
        twin.patch(&both(&merged), at(2)).unwrap();
        twin.patch_reported(&reported(merged.clone()), None, at(2))
            .unwrap();
        assert_eq!(tree(twin.tags()), after, "{before} + {merged}");
        assert_eq!(tree(twin.desired().properties()), after, "{before} + {merged}");
        assert_eq!(tree(twin.reported().properties()), after, "{before} + {merged}");
    }
}

#[test]
fn each_kind_of_write_counts_its_own_versions() {
    let mut twin = Twin::new(at(0));
    let numbers = |twin: &Twin| {
        let (desired, reported) = (twin.desired().version(), twin.reported().version());
        (twin.version(), desired, reported, twin.etag())
    };
    // Neither tags nor desired: not a write.
    assert_eq!(twin.patch(&patch(json!({"deviceId": "d"})), at(1)), Ok(None));
    assert_eq!(numbers(&twin), (2, 1, 1, "AAAAAAAAAAE=".into()));
    assert_eq!(twin.patch(&patch(json!({"tags": {}})), at(1)), Ok(None));
    assert_eq!(numbers(&twin), (3, 1, 1, "AAAAAAAAAAI=".into()));
    // Counted although nothing changes, and once for both sections.
    let both = patch(json!({"tags": {"a": 1}, "properties": {"desired": {}, "reported": {"x": 1}}}));
    assert_eq!(payload(twin.patch(&both, at(2)).unwrap()), r#"{"$version":2}"#);
    assert_eq!(numbers(&twin), (4, 2, 1, "AAAAAAAAAAM=".into()));
    assert_eq!(
        twin.patch_reported(&reported(json!({"t": 1})), None, at(3)),
        Ok(2)
    );
    assert_eq!(numbers(&twin), (4, 2, 2, "AAAAAAAAAAM=".into()));
    twin.set_model_id(Some("dtmi:x;1".into()));
    assert_eq!(numbers(&twin), (4, 2, 2, "AAAAAAAAAAM=".into()));
    assert_eq!(twin.model_id(), Some("dtmi:x;1"));
}

#[test]
fn the_device_is_told_the_patch_with_its_nulls() {
    let mut twin = Twin::new(at(0));
    let change = twin
        .patch(&desired(json!({"a": {"b": null}, "c": 1})), at(1))
        .unwrap();
    assert_eq!(payload(change), r#"{"a":{"b":null},"c":1,"$version":2}"#);
    for version in 3..=12 {
        let change = twin
            .patch(&desired(json!({"c": version})), at(2))
            .unwrap()
            .unwrap();
        assert_eq!(change.version, version);
        assert_eq!(
            change.payload,
            format!(r#"{{"c":{version},"$version":{version}}}"#)
        );
    }
}

#[test]
fn emptying_the_desired_section_names_every_key_that_goes() {
    let mut twin = Twin::new(at(0));
    twin.patch(&desired(json!({"a": 1, "b\"": {"c": 2}})), at(1))
        .unwrap();
    let change = twin.patch(&desired(json!(null)), at(2)).unwrap();
    assert_eq!(payload(change), r#"{"a":null,"b\"":null,"$version":3}"#);
    assert_eq!(tree(twin.desired().properties()), json!({}));
    assert_eq!(twin.desired().metadata_at(&["a"]), None);
    let again = twin.patch(&desired(json!(null)), at(3)).unwrap();
    assert_eq!(payload(again), r#"{"$version":4}"#);
    twin.patch(&patch(json!({"tags": {"a": 1}})), at(4)).unwrap();
    twin.patch(&patch(json!({"tags": null})), at(4)).unwrap();
    assert_eq!(tree(twin.tags()), json!({}));
}

#[test]
fn replacing_drops_what_is_not_sent_but_leaves_reported_alone() {
    let mut twin = Twin::new(at(0));
    let content = patch(json!({"tags": {"t": 1}, "properties": {"desired": {"a": 1, "b": 2}}}));
    twin.patch(&content, at(1)).unwrap();
    twin.patch_reported(&reported(json!({"r": 1})), None, at(1))
        .unwrap();
    let change = twin
        .replace(&desired(json!({"b": {"x": null}, "c": null, "d": 4})), at(2))
        .unwrap();
    assert_eq!(payload(change), r#"{"b":{},"d":4,"$version":3}"#);
    assert_eq!(tree(twin.tags()), json!({}));
    assert_eq!(tree(twin.desired().properties()), json!({"b": {}, "d": 4}));
    assert_eq!(tree(twin.reported().properties()), json!({"r": 1}));
    assert_eq!((twin.version(), twin.etag().as_str()), (4, "AAAAAAAAAAM="));
    assert_eq!(twin.desired().metadata_at(&["b"]), Some((at(2), Some(3))));
    let emptied = twin.replace(&patch(json!({"tags": {"t": 2}})), at(3)).unwrap();
    assert_eq!(payload(emptied), r#"{"$version":4}"#);
    assert_eq!(tree(twin.tags()), json!({"t": 2}));
}

#[test]
fn metadata_records_who_changed_and_their_ancestors() {
    let mut twin = Twin::new(at(0));
    twin.patch(&desired(json!({"a": {"x": 1, "y": 1}, "b": 1})), at(1))
        .unwrap();
    twin.patch(&desired(json!({"a": {"y": 2, "x": null}})), at(2))
        .unwrap();
    assert_eq!(
        serde_json::to_string(twin.desired()).unwrap(),
        concat!(
            r#"{"a":{"y":2},"b":1,"$metadata":{"$lastUpdated":"2020-09-13T12:26:42Z","$lastUpdatedVersion":3,"#,
            r#""a":{"$lastUpdated":"2020-09-13T12:26:42Z","$lastUpdatedVersion":3,"#,
            r#""y":{"$lastUpdated":"2020-09-13T12:26:42Z","$lastUpdatedVersion":3}},"#,
            r#""b":{"$lastUpdated":"2020-09-13T12:26:41Z","$lastUpdatedVersion":2}},"$version":3}"#
        )
    );
    assert_eq!(twin.desired().metadata_at(&[""; 0]), Some((at(2), Some(3))));
    assert_eq!(twin.desired().metadata_at(&["b"]), Some((at(1), Some(2))));
    assert_eq!(twin.desired().metadata_at(&["a", "x"]), None);
    // A leaf has no members, an array's elements are none.
    twin.patch_reported(&reported(json!({"a": [{"b": 1}]})), None, at(3))
        .unwrap();
    assert_eq!(
        serde_json::to_string(twin.reported().metadata()).unwrap(),
        r#"{"$lastUpdated":"2020-09-13T12:26:43Z","a":{"$lastUpdated":"2020-09-13T12:26:43Z"}}"#
    );
}

#[test]
fn preconditions_compare_the_twins_own_etag() {
    let twin = Twin::new(at(0));
    let check = |value| twin.check(&IfMatch::parse(value)).map_err(|e| e.code);
    for value in [
        None,
        Some("*"),
        Some("\"*\""),
        Some("\"AAAAAAAAAAE=\""),
        Some("AAAAAAAAAAE="),
    ] {
        assert_eq!(check(value), Ok(()), "{value:?}");
    }
    for value in [Some("\"AAAAAAAAAAI=\""), Some("MA=="), Some("\"\"")] {
        assert_eq!(check(value), Err(ErrorCode::PreconditionFailed), "{value:?}");
    }
    let mut twin = twin.clone();
    let body = reported(json!({"a": 1}));
    let stale = twin.patch_reported(&body, Some(2), at(1)).unwrap_err();
    assert_eq!(stale.code, ErrorCode::PreconditionFailed);
    assert_eq!(twin, Twin::new(at(0)));
    assert_eq!(twin.patch_reported(&body, Some(1), at(1)), Ok(2));
}

#[test]
fn bodies_of_the_wrong_shape_are_refused() {
    for body in [
        json!([]),
        json!(null),
        json!({"tags": 1}),
        json!({"tags": []}),
        json!({"properties": []}),
        json!({"properties": {"desired": "x"}}),
        json!({"tags": {"$x": 1}}),
        json!({"tags": {"a": {"$version": 1}}}),
    ] {
        let error = TwinPatch::from_json(&body).unwrap_err();
        assert_eq!(error.code, ErrorCode::ArgumentInvalid, "{body}");
    }
    // What a service says of reported properties has no effect, right or wrong.
    for body in [
        json!({}),
        json!({"properties": null}),
        json!({"properties": {"reported": {"$x": [null]}}}),
    ] {
        assert!(patch(body).is_empty());
    }
    let deep = [vec![b'['; 200], vec![b']'; 200]].concat();
    for body in [
        &b""[..],
        b" ",
        b"{",
        b"[]",
        b"null",
        b"{\"a b\":1}",
        b"\xff",
        &deep,
    ] {
        let error = ReportedPatch::parse(body).unwrap_err();
        assert_eq!(error.code, ErrorCode::ArgumentInvalid, "{body:?}");
    }
}

#[test]
fn a_section_may_not_grow_beyond_its_limit() {
    let chunk = |n: usize| json!({ (format!("k{n}")): "x".repeat(4094) });
    let mut twin = Twin::new(at(0));
    for n in 0..8 {
        twin.patch(&desired(chunk(n)), at(1)).unwrap();
        twin.patch_reported(&reported(chunk(n)), None, at(1)).unwrap();
    }
    assert_eq!(twin.desired().size(), limits::TWIN_PROPERTIES_SIZE);
    let full = twin.clone();
    let more = patch(json!({"tags": {"t": 1}, "properties": {"desired": {"m": 1}}}));
    let error = twin.patch(&more, at(2)).unwrap_err();
    assert_eq!(error.code, ErrorCode::ArgumentInvalid);
    assert_eq!(
        error.message,
        "the size of properties.desired would be 32777, which exceeds the limit of 32768"
    );
    let error = twin
        .patch_reported(&reported(json!({"m": 1})), None, at(2))
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::GenericRequestEntityTooLarge);
    assert_eq!(
        twin, full,
        "a refused write leaves no trace, not even in the other section"
    );
    // Room made by the same patch counts.
    twin.patch(&desired(json!({"k0": null, "m": 1})), at(3)).unwrap();
    twin.patch(
        &patch(json!({"tags": {"k0": "x".repeat(4096), "k1": "x".repeat(4092)}})),
        at(3),
    )
    .unwrap();
    let error = twin
        .patch(&patch(json!({"tags": {"b": true}})), at(3))
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::ArgumentInvalid);
}

#[test]
fn size_counts_characters_without_control_characters() {
    let mut twin = Twin::new(at(0));
    let members = json!({"é": "ü\u{7}\u{85}x", "n": 1.5, "b": true, "a": [1, "xy", {"k": false}], "o": {}});
    twin.patch(&desired(members), at(1)).unwrap();
    assert_eq!(
        twin.desired().size(),
        (1 + 2) + (1 + 8) + (1 + 4) + (1 + 8 + 2 + 5) + 1
    );
}

/// A service's or device's request in the random sequences.
#[derive(Debug, Clone)]
enum Write {
    Patch {
        tags: Option<Value>,
        desired: Option<Value>,
    },
    Replace {
        tags: Option<Value>,
        desired: Option<Value>,
    },
    Reported(Value),
}

/// Trees over few keys, so that writes meet; with texts long enough that the
/// limits are met as well.
fn arb_members() -> impl Strategy<Value = Value> {
    let key = || prop::sample::select(vec!["a", "b", "c", "d", "é"]).prop_map(String::from);
    let leaf = prop_oneof![
        3 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        1 => (-5_i64..5).prop_map(Value::from),
        1 => "[a-z\u{7}é]{0,6}".prop_map(Value::from),
        3 => (0_usize..4096).prop_map(|n| "x".repeat(n).into()),
        1 => Just(json!([1, [{"k": "v"}]])),
    ];
    let value = leaf.prop_recursive(3, 24, 4, move |inner| {
        prop::collection::btree_map(key(), inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect()))
    });
    prop::collection::btree_map(key(), value, 0..5).prop_map(|m| Value::Object(m.into_iter().collect()))
}

fn arb_section() -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        2 => Just(None),
        1 => Just(Some(Value::Null)),
        6 => arb_members().prop_map(Some),
    ]
}

fn arb_write() -> impl Strategy<Value = Write> {
    prop_oneof![
        4 => (arb_section(), arb_section()).prop_map(|(tags, desired)| Write::Patch { tags, desired }),
        1 => (arb_section(), arb_section()).prop_map(|(tags, desired)| Write::Replace { tags, desired }),
        3 => arb_members().prop_map(Write::Reported),
    ]
}

/// The rules in their simplest form, on whole JSON values.
#[derive(Debug, Clone, PartialEq)]
struct Model {
    tags: Value,
    desired: Value,
    reported: Value,
    versions: (u64, u64, u64),
}

impl Model {
    fn new() -> Self {
        let empty = json!({});
        Self {
            tags: empty.clone(),
            desired: empty.clone(),
            reported: empty,
            versions: (2, 1, 1),
        }
    }

    /// The state after a write, or `None` if it must be refused.
    fn after(&self, write: &Write) -> Option<Self> {
        let mut next = self.clone();
        match write {
            Write::Patch { tags, desired } => {
                let merged = |before: &Value, section: &Option<Value>| match section {
                    None => before.clone(),
                    Some(Value::Null) => json!({}),
                    Some(patch) => merge_patch(before.clone(), patch),
                };
                next.tags = merged(&self.tags, tags);
                next.desired = merged(&self.desired, desired);
                next.versions.0 += u64::from(tags.is_some() || desired.is_some());
                next.versions.1 += u64::from(desired.is_some());
            }
            Write::Replace { tags, desired } => {
                let content = |section: &Option<Value>| match section {
                    None | Some(Value::Null) => json!({}),
                    Some(content) => merge_patch(json!({}), content),
                };
                next.tags = content(tags);
                next.desired = content(desired);
                next.versions.0 += 1;
                next.versions.1 += 1;
            }
            Write::Reported(patch) => {
                next.reported = merge_patch(next.reported, patch);
                next.versions.2 += 1;
            }
        }
        let fits = |before: &Value, after: &Value, limit| recount(after) <= recount(before).max(limit);
        let legal = fits(&self.tags, &next.tags, limits::TWIN_TAGS_SIZE)
            && fits(&self.desired, &next.desired, limits::TWIN_PROPERTIES_SIZE)
            && fits(&self.reported, &next.reported, limits::TWIN_PROPERTIES_SIZE);
        legal.then_some(next)
    }
}

/// RFC 7386, word for word.
fn merge_patch(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch.clone();
    };
    let mut target = match target {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    for (key, value) in patch {
        let before = target.remove(key);
        if !value.is_null() {
            let after = merge_patch(before.unwrap_or(Value::Null), value);
            target.insert(key.clone(), after);
        }
    }
    Value::Object(target)
}

fn recount(value: &Value) -> usize {
    let characters = |text: &str| text.chars().filter(|c| !c.is_control()).count();
    match value {
        Value::Null => panic!("a twin stores no null"),
        Value::Bool(_) => 4,
        Value::Number(_) => 8,
        Value::String(text) => characters(text),
        Value::Array(items) => items.iter().map(recount).sum(),
        Value::Object(members) => members.iter().map(|(k, v)| characters(k) + recount(v)).sum(),
    }
}

fn apply(twin: &mut Twin, write: &Write, now: Timestamp) -> Result<Option<DesiredChange>, ServiceError> {
    let body = |tags: &Option<Value>, desired: &Option<Value>| {
        let mut body = json!({"etag": "ignored", "properties": {}});
        if let Some(tags) = tags {
            body["tags"] = tags.clone();
        }
        if let Some(desired) = desired {
            body["properties"]["desired"] = desired.clone();
        }
        TwinPatch::from_json(&body)
    };
    match write {
        Write::Patch { tags, desired } => twin.patch(&body(tags, desired)?, now),
        Write::Replace { tags, desired } => twin.replace(&body(tags, desired)?, now),
        Write::Reported(members) => {
            let patch = ReportedPatch::parse(members.to_string().as_bytes())?;
            twin.patch_reported(&patch, None, now).map(|_| None)
        }
    }
}

/// Metadata must have the keys of the properties, and no member may be newer
/// than the object it is in.
fn assert_mirrors(metadata: &Value, properties: &Value) {
    let mut keys = Vec::new();
    for (key, member) in metadata.as_object().unwrap() {
        if key == "$lastUpdated" || key == "$lastUpdatedVersion" {
            continue;
        }
        keys.push(key.as_str());
        assert_mirrors(member, &properties[key]);
        assert!(member["$lastUpdated"].as_str() <= metadata["$lastUpdated"].as_str());
        assert!(member["$lastUpdatedVersion"].as_u64() <= metadata["$lastUpdatedVersion"].as_u64());
    }
    let expected: Vec<&str> = match properties {
        Value::Object(members) => members.keys().map(String::as_str).collect(),
        _ => Vec::new(),
    };
    assert_eq!(keys, expected);
}

/// What a write mentions and keeps must carry its version.
fn assert_stamped(metadata: &Value, written: &Value, version: u64) {
    assert_eq!(metadata["$lastUpdatedVersion"], version);
    for (key, value) in written.as_object().into_iter().flatten() {
        if !value.is_null() {
            assert_stamped(&metadata[key], value, version);
        }
    }
}

proptest! {
    #[test]
    fn any_sequence_of_writes_agrees_with_the_model(writes in prop::collection::vec(arb_write(), 1..24)) {
        let mut twin = Twin::new(at(0));
        let mut model = Model::new();
        for (write, second) in writes.iter().zip(1..) {
            let before = twin.clone();
            let result = apply(&mut twin, write, at(second));
            let Some(next) = model.after(write) else {
                prop_assert!(result.is_err());
                prop_assert_eq!(&twin, &before);
                continue;
            };
            let change = result.unwrap();
            // A device that merges what it is told knows the whole section,
            // unless a replacement removed keys.
            if let (Some(change), Write::Patch { desired: Some(desired), .. }) = (&change, write) {
                let told: Value = serde_json::from_slice(&change.payload).unwrap();
                let mut expected = next.desired.clone();
                expected["$version"] = next.versions.1.into();
                prop_assert_eq!(merge_patch(model.desired.clone(), &told), expected);
                let metadata = serde_json::to_value(twin.desired().metadata()).unwrap();
                assert_stamped(&metadata, desired, next.versions.1);
            }
            prop_assert_eq!(change.map(|c| c.version), (next.versions.1 > model.versions.1).then_some(next.versions.1));
            model = next;
            let versions = (twin.version(), twin.desired().version(), twin.reported().version());
            prop_assert_eq!(versions, model.versions);
            prop_assert_eq!(&tree(twin.tags()), &model.tags);
            prop_assert_eq!(twin.tags.size(), recount(&model.tags));
            for (section, content) in [(twin.desired(), &model.desired), (twin.reported(), &model.reported)] {
                prop_assert_eq!(&tree(section.properties()), content);
                prop_assert_eq!(section.size(), recount(content));
                assert_mirrors(&serde_json::to_value(section.metadata()).unwrap(), content);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}\":,a1.e\\-]{0,60}") {
        let _ = ReportedPatch::parse(&bytes);
        let _ = ReportedPatch::parse(text.as_bytes());
        if let Ok(body) = serde_json::from_str(&text) {
            let _ = TwinPatch::from_json(&body);
        }
    }
}
