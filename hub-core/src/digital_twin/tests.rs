use super::*;
use crate::time::Timestamp;
use crate::twin::ReportedPatch;
use proptest::prelude::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(1_600_000_000 + seconds)
}

/// A twin with these desired and reported properties.
fn twin(desired: &Value, reported: &Value) -> Twin {
    let mut twin = Twin::new(at(0));
    let body = json!({ "properties": { "desired": desired } });
    twin.patch(&TwinPatch::from_json(&body).unwrap(), at(1)).unwrap();
    let reported = ReportedPatch::parse(reported.to_string().as_bytes()).unwrap();
    twin.patch_reported(&reported, None, at(2)).unwrap();
    twin
}

fn patch(operations: &Value) -> Result<DigitalTwinPatch, ErrorCode> {
    DigitalTwinPatch::from_json(operations).map_err(|e| e.code)
}

#[test]
fn desired_and_reported_properties_become_one_tree() {
    let mut twin = twin(
        &json!({"fanSpeed": 2.0, "waiting": 1, "thermostat1": {"__t": "c", "target": 21.8}}),
        &json!({
            "serial": "s1",
            "fanSpeed": {"value": 3.0, "ac": 200, "av": 1, "ad": "done"},
            "thermostat1": {"__t": "c", "highest": 25.3, "target": {"value": 20.4, "ac": 202, "av": 1}},
        }),
    );
    twin.set_model_id(Some("dtmi:com:example:Controller;1".into()));
    let device = DeviceId::parse("d").unwrap();
    let updated = "2020-09-13T12:26:42Z";
    assert_eq!(
        document(&device, &twin),
        json!({
            "$dtId": "d",
            "serial": "s1",
            "fanSpeed": 3.0,
            "thermostat1": {
                "highest": 25.3,
                "target": 20.4,
                "$metadata": {
                    "highest": {"lastUpdateTime": updated},
                    "target": {
                        "desiredValue": 21.8, "desiredVersion": 2, "ackVersion": 1, "ackCode": 202,
                        "lastUpdateTime": updated,
                    },
                },
            },
            "$metadata": {
                "$model": "dtmi:com:example:Controller;1",
                "serial": {"lastUpdateTime": updated},
                "waiting": {"desiredValue": 1, "desiredVersion": 2},
                "fanSpeed": {
                    "desiredValue": 2.0, "desiredVersion": 2, "ackVersion": 1, "ackCode": 200,
                    "ackDescription": "done", "lastUpdateTime": updated,
                },
            },
        })
    );
    assert_eq!(
        document(&device, &Twin::new(at(0))),
        json!({"$dtId": "d", "$metadata": {}})
    );
}

#[test]
fn operations_become_desired_properties() {
    let component = json!({"t": {"__t": "c", "a": 1, "b": 2}, "p": 1});
    for (before, operations, after) in [
        (json!({}), json!([]), json!({})),
        (
            json!({}),
            json!([{"op": "add", "path": "/p", "value": {"x": 1}}]),
            json!({"p": {"x": 1}}),
        ),
        (
            json!({"p": {"x": 1, "y": 2}}),
            json!([{"op": "replace", "path": "/p", "value": {"x": 3}}]),
            json!({"p": {"x": 3}}),
        ),
        (
            json!({}),
            json!([{"op": "add", "path": "/t/a", "value": 5}]),
            json!({"t": {"__t": "c", "a": 5}}),
        ),
        (
            component.clone(),
            json!([{"op": "replace", "path": "/t/a", "value": 5}]),
            json!({"t": {"__t": "c", "a": 5, "b": 2}, "p": 1}),
        ),
        (
            component.clone(),
            json!([{"op": "replace", "path": "/t", "value": {"a": 9, "$metadata": {}}}]),
            json!({"t": {"__t": "c", "a": 9}, "p": 1}),
        ),
        (
            component.clone(),
            json!([{"op": "remove", "path": "/t/a"}, {"op": "remove", "path": "/p"}]),
            json!({"t": {"__t": "c", "b": 2}}),
        ),
        (
            component.clone(),
            json!([{"op": "remove", "path": "/t/a"}, {"op": "remove", "path": "/t/b"}]),
            json!({"p": 1}),
        ),
        (
            component,
            json!([{"op": "remove", "path": "/t"}, {"op": "add", "path": "/t/c", "value": 1}]),
            json!({"t": {"__t": "c", "c": 1}, "p": 1}),
        ),
        (json!({}), json!([{"op": "remove", "path": "/t/a"}]), json!({})),
    ] {
        let mut twin = twin(&before, &json!({}));
        let merge = patch(&operations).unwrap().to_twin_patch(&twin).unwrap();
        twin.patch(&merge, at(3)).unwrap();
        let found = Value::Object(twin.desired().properties().to_json());
        assert_eq!(found, after, "{before} {operations}");
    }
}

#[test]
fn what_is_no_such_patch_is_refused() {
    use ErrorCode::{
        InvalidDigitalTwinJsonPatch as Patch, InvalidDigitalTwinPatchPath as Path,
        InvalidDigitalTwinPayload as Payload,
    };
    let add = |path: &str| json!([{"op": "add", "path": path, "value": 1}]);
    let many: Vec<Value> = (0..101).map(|_| add("/a")[0].clone()).collect();
    for (operations, expected) in [
        (json!({}), Patch),
        (json!([1]), Patch),
        (json!([{}]), Patch),
        (json!([{"op": "add", "value": 1}]), Patch),
        (json!([{"op": "move", "path": "/a", "from": "/b"}]), Patch),
        (json!([{"op": "test", "path": "/a", "value": 1}]), Patch),
        (json!([{"op": 1, "path": "/a"}]), Patch),
        (json!(many), Patch),
        (add(""), Path),
        (add("/"), Path),
        (add("a"), Path),
        (add("/a/"), Path),
        (add("/a/b/c"), Path),
        (add("/$metadata"), Path),
        (add("/t/$metadata"), Path),
        (add("/t/__t"), Path),
        (add("/a_"), Path),
        (add("/1a"), Path),
        (add("/ä"), Path),
        (add(&format!("/{}", "a".repeat(65))), Path),
        (json!([{"op": "add", "path": "/a"}]), Payload),
        (json!([{"op": "add", "path": "/a", "value": null}]), Payload),
        (json!([{"op": "add", "path": "/a", "value": [1]}]), Payload),
        (json!([{"op": "add", "path": "/a", "value": {"b": [1]}}]), Payload),
    ] {
        assert_eq!(patch(&operations).unwrap_err(), expected, "{operations}");
    }
}

#[test]
fn components_and_properties_are_not_mistaken() {
    let twin = twin(
        &json!({"p": 1, "t": {"__t": "c", "a": 1}}),
        &json!({"o": {"x": 1}, "u": {"__t": "c", "b": 2}}),
    );
    for (operation, expected) in [
        (
            json!({"op": "add", "path": "/p/a", "value": 1}),
            Err(ErrorCode::ArgumentInvalid),
        ),
        (
            json!({"op": "add", "path": "/o/x", "value": 1}),
            Err(ErrorCode::ArgumentInvalid),
        ),
        (
            json!({"op": "add", "path": "/p", "value": {"a": 1, "$metadata": {}}}),
            Err(ErrorCode::ArgumentInvalid),
        ),
        (
            json!({"op": "replace", "path": "/t", "value": {"a": 1}}),
            Err(ErrorCode::InvalidDigitalTwinPayload),
        ),
        (
            json!({"op": "add", "path": "/n", "value": {"$other": 1}}),
            Err(ErrorCode::InvalidDigitalTwinPayload),
        ),
        // Only reported so far, but known as a component.
        (json!({"op": "replace", "path": "/u/b", "value": 1}), Ok(())),
        (json!({"op": "remove", "path": "/t"}), Ok(())),
    ] {
        let result = patch(&json!([operation])).unwrap().to_twin_patch(&twin);
        assert_eq!(result.map(|_| ()).map_err(|e| e.code), expected, "{operation}");
    }
}

/// Applies a JSON patch, as RFC 6902 has it for objects.
fn apply(document: &mut Value, operations: &[Value]) {
    for operation in operations {
        let path = operation["path"].as_str().unwrap();
        let (parent, name) = path.rsplit_once('/').unwrap();
        let name = name.replace("~1", "/").replace("~0", "~");
        let parent = document.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        let known = parent.contains_key(&name);
        match operation["op"].as_str().unwrap() {
            "add" => assert!(!known, "{path}"),
            "replace" | "remove" => assert!(known, "{path}"),
            other => panic!("{other}"),
        }
        match operation.get("value") {
            Some(value) => parent.insert(name, value.clone()),
            None => parent.remove(&name),
        };
    }
}

#[test]
fn a_difference_names_what_has_changed() {
    let before = document(
        &DeviceId::parse("d").unwrap(),
        &twin(
            &json!({"t": {"__t": "c", "target": 20}}),
            &json!({"serial": "1", "gone": 1}),
        ),
    );
    let mut changed = twin(
        &json!({"t": {"__t": "c", "target": 20}}),
        &json!({"serial": "1", "gone": 1}),
    );
    assert_eq!(difference(&before, &before), Vec::<Value>::new());
    let report = ReportedPatch::parse(br#"{"serial": "2", "gone": null, "a/b~": [1]}"#).unwrap();
    changed.patch_reported(&report, None, at(3)).unwrap();
    let after = document(&DeviceId::parse("d").unwrap(), &changed);
    let operations = difference(&before, &after);
    let values: Vec<_> = operations
        .iter()
        .filter(|operation| !operation["path"].as_str().unwrap().starts_with("/$metadata"))
        .collect();
    assert_eq!(
        json!(values),
        json!([
            {"op": "add", "path": "/a~1b~0", "value": [1]},
            {"op": "remove", "path": "/gone"},
            {"op": "replace", "path": "/serial", "value": "2"},
        ])
    );
}

fn arb_document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        (0..3).prop_map(|number| json!(number)),
        Just(json!([1, {"a": 1}])),
        Just(json!(null)),
    ];
    let members =
        |value| proptest::collection::btree_map("[ab~/]{1,2}", value, 0..4).prop_map(|map| json!(map));
    members(
        leaf.prop_recursive(3, 20, 4, move |inner| members(inner).boxed())
            .boxed(),
    )
}

proptest! {
    #[test]
    fn a_difference_leads_from_one_document_to_the_other(before in arb_document(), after in arb_document()) {
        let mut document = before.clone();
        apply(&mut document, &difference(&before, &after));
        prop_assert_eq!(document, after);
    }

    #[test]
    fn arbitrary_paths_never_panic(path in ".*", slashed in "/[a-z/~$_]{0,12}") {
        for path in [path, slashed] {
            let operations = json!([{"op": "add", "path": path, "value": {"a": 1}}]);
            if let Ok(patch) = DigitalTwinPatch::from_json(&operations) {
                let _ = patch.to_twin_patch(&twin(&json!({"a": 1}), &json!({})));
            }
        }
    }
}
