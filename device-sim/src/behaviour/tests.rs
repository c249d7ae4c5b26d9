use super::*;
use hub_core::ids::DeviceId;
use proptest::prelude::*;

fn device(behaviour: Behaviour, conduct: Conduct) -> Device {
    let id = DeviceId::parse("dev1").unwrap();
    Device::new(Target::device(id), Arc::new(behaviour), conduct)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{other} is not an object"),
    }
}

fn answer(device: &mut Device, name: &str) -> Option<(i32, String)> {
    match device.handle(Input::Method { name })? {
        Action::Respond(answer) => {
            let payload = String::from_utf8(answer.payload.to_vec()).unwrap();
            Some((answer.status, payload))
        }
        other => panic!("{other:?} is no answer"),
    }
}

#[test]
fn the_default_device_is_the_tutorials() {
    let mut device = device(Behaviour::default(), Conduct::Normal);
    let success = r#"{"Response":"lockDoor called successfully"}"#.to_owned();
    assert_eq!(answer(&mut device, "lockDoor"), Some((200, success)));
    let patch = object(json!({"building": 43, "$version": 2}));
    assert_eq!(device.handle(Input::DesiredChanged { patch: &patch }), None);
    assert_eq!(device.handle(Input::TelemetryDue), None);
}

#[test]
fn an_unknown_method_is_explained_in_json() {
    let mut device = device(Behaviour::default(), Conduct::Normal);
    let (status, body) = answer(&mut device, "open\"Door").unwrap();
    assert_eq!(status, 404);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body, json!({"error": r#"the device has no method "open\"Door""#}));
}

#[test]
fn failing_and_silent_devices_do_not_look_at_the_method() {
    let mut failing = device(Behaviour::default(), Conduct::Failing);
    for name in ["lockDoor", "other"] {
        assert_eq!(answer(&mut failing, name).unwrap().0, 500);
    }
    let mut silent = device(Behaviour::default(), Conduct::Silent);
    assert_eq!(answer(&mut silent, "lockDoor"), None);
}

#[test]
fn a_reflecting_device_reports_what_it_is_asked_for() {
    let mut device = device(Behaviour::default().with_reflection(), Conduct::Normal);
    let reported = |action| match action {
        Some(Action::Report(patch)) => Some(serde_json::from_slice::<Value>(&patch).unwrap()),
        None => None,
        other => panic!("{other:?} is no report"),
    };
    let patch = object(json!({"building": 43, "old": null, "$version": 2}));
    let action = device.handle(Input::DesiredChanged { patch: &patch });
    assert_eq!(reported(action), Some(json!({"building": 43, "old": null})));

    let patch = object(json!({"$version": 3}));
    assert_eq!(device.handle(Input::DesiredChanged { patch: &patch }), None);

    let desired = object(json!({"building": 43, "$version": 3}));
    let up_to_date = object(json!({"building": 43, "more": 1, "$version": 9}));
    let behind = object(json!({"building": 42, "$version": 9}));
    let read = |device: &mut Device, reported_section: &Map<String, Value>| {
        reported(device.handle(Input::TwinRead {
            desired: &desired,
            reported: reported_section,
        }))
    };
    assert_eq!(read(&mut device, &up_to_date), None);
    assert_eq!(read(&mut device, &behind), Some(json!({"building": 43})));
}

#[test]
fn telemetry_counts_and_names_the_device() {
    let body = json!({"d": "${device}", "n": "${sequence}", "t": "#${sequence} ${x}"});
    let properties = [("alert".to_owned(), "a b".to_owned())].into();
    let telemetry = Telemetry::new(Duration::from_secs(1), &body, properties);
    assert_eq!(telemetry.bag(), "%24.ct=application%2Fjson&%24.ce=utf-8&alert=a%20b");
    let mut device = device(Behaviour::default().with_telemetry(telemetry), Conduct::Normal);
    for number in 1..=2 {
        let Some(Action::Publish(body)) = device.handle(Input::TelemetryDue) else {
            panic!("no telemetry");
        };
        let expected = json!({"d": "dev1", "n": number, "t": format!("#{number} ${{x}}")});
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected);
    }
}

#[test]
fn a_method_is_read_from_one_argument() {
    for (text, name, status, payload, delay) in [
        ("reboot=200", "reboot", 200, "", 0),
        (r#"a=409:{"b":[1,":"]}"#, "a", 409, r#"{"b":[1,":"]}"#, 0),
        (r#"a=-1:{"b": 1}:250ms"#, "a", -1, r#"{"b": 1}"#, 250),
        ("a=200:null:2", "a", 200, "null", 2000),
    ] {
        let (found, answer) = MethodAnswer::parse(text).unwrap();
        assert_eq!((found.as_str(), answer.status), (name, status), "{text}");
        assert_eq!(answer.payload, payload, "{text}");
        assert_eq!(answer.delay, Duration::from_millis(delay), "{text}");
    }
    for text in ["", "a", "=200", "a=ok", "a=200:", "a=200:{", "a=200:{}x", "a=200:{}:soon"] {
        assert!(MethodAnswer::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_behaviour_is_read_from_json() {
    let behaviour = Behaviour::from_json(
        r#"{"methods":{"a":{"payload":{"x":1},"delay":"5ms"},"b":{"status":201}},
            "reflectDesired":true,"telemetry":{"interval":2}}"#,
    )
    .unwrap();
    let five = MethodAnswer::new(200, &json!({"x": 1})).after(Duration::from_millis(5));
    assert_eq!(behaviour.method("a"), Some(&five));
    assert_eq!(behaviour.method("b").unwrap().payload, "");
    assert_eq!(behaviour.method("lockDoor"), None);
    assert_eq!(behaviour.telemetry().unwrap().interval(), Duration::from_secs(2));

    assert_eq!(Behaviour::from_json("{}").unwrap(), Behaviour::default());
    for text in ["", "[]", r#"{"method":{}}"#, r#"{"telemetry":{}}"#, r#"{"telemetry":{"interval":"x"}}"#] {
        assert!(Behaviour::from_json(text).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn arbitrary_texts_never_panic(text in ".*") {
        let _ = Behaviour::from_json(&text);
        let _ = MethodAnswer::parse(&text);
        let _ = MethodAnswer::parse(&format!("a=200:{text}"));
    }

    #[test]
    fn any_name_gets_a_json_answer(name in ".*") {
        let mut device = device(Behaviour::default(), Conduct::Normal);
        let (_, body) = answer(&mut device, &name).unwrap();
        prop_assert!(serde_json::from_str::<Value>(&body).is_ok());
    }
}
