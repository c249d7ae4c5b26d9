use super::*;
use crate::ids::{DeviceId, ModuleId};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

const DEVICE: Address<'static> = Address {
    device: "d",
    module: None,
};
const MODULE: Address<'static> = Address {
    device: "d",
    module: Some("m"),
};

fn target(device: &str, module: Option<&str>) -> Target {
    Target {
        device: DeviceId::parse(device).unwrap(),
        module: module.map(|id| ModuleId::parse(id).unwrap()),
    }
}

fn device() -> Target {
    target("d", None)
}

fn module() -> Target {
    target("d", Some("m"))
}

#[test]
fn devices_publish_to_their_topics() {
    use DeviceTopic::{MethodResponse, Telemetry, TwinGet, TwinPatchReported};
    for (text, expected) in [
        (
            "devices/d/messages/events/",
            Telemetry {
                address: DEVICE,
                bag: "",
            },
        ),
        (
            "devices/d/messages/events/$.ct=a&b=c",
            Telemetry {
                address: DEVICE,
                bag: "$.ct=a&b=c",
            },
        ),
        ("$iothub/twin/GET/?$rid=1", TwinGet { rid: "1" }),
        (
            "$iothub/twin/PATCH/properties/reported/?$rid=a%20b",
            TwinPatchReported {
                rid: "a%20b",
                version: None,
            },
        ),
        (
            "$iothub/twin/PATCH/properties/reported/?$rid=2&$version=7",
            TwinPatchReported {
                rid: "2",
                version: Some(7),
            },
        ),
        (
            "$iothub/methods/res/200/?$rid=1f",
            MethodResponse {
                status: 200,
                rid: "1f",
            },
        ),
        (
            "$iothub/methods/res/-1/?$rid=1",
            MethodResponse { status: -1, rid: "1" },
        ),
    ] {
        assert_eq!(DeviceTopic::parse(text, &device()), Ok(expected), "{text}");
        assert_eq!(expected.to_string(), text);
    }
}

#[test]
fn other_spellings_of_device_topics_are_read() {
    use DeviceTopic::{Telemetry, TwinGet, TwinPatchReported};
    for (text, expected) in [
        (
            "devices/d/messages/events",
            Telemetry {
                address: DEVICE,
                bag: "",
            },
        ),
        (
            "devices/d/messages/events/a=b/",
            Telemetry {
                address: DEVICE,
                bag: "a=b",
            },
        ),
        (
            "devices/d/messages/events//",
            Telemetry {
                address: DEVICE,
                bag: "",
            },
        ),
        (
            "devices/d/messages/events/a/b",
            Telemetry {
                address: DEVICE,
                bag: "a/b",
            },
        ),
        ("$iothub/twin/GET/?x&y=z&$rid=1&$rid=2", TwinGet { rid: "1" }),
        ("$iothub/twin/GET/?$rid==?/", TwinGet { rid: "=?/" }),
        (
            "$iothub/twin/PATCH/properties/reported/?$version=0&$rid=1",
            TwinPatchReported {
                rid: "1",
                version: Some(0),
            },
        ),
    ] {
        assert_eq!(DeviceTopic::parse(text, &device()), Ok(expected), "{text}");
    }
}

#[test]
fn each_bad_device_topic_names_its_fault() {
    use TopicError::{ForeignIdentity, RequestId, Status, Unknown, Version};
    for (text, expected) in [
        ("", Unknown),
        ("/", Unknown),
        ("d/messages/events/", Unknown),
        ("devices/d", Unknown),
        ("devices/d/messages/event", Unknown),
        ("devices/d/messages/eventsx", Unknown),
        ("devices/d/messages/devicebound/", Unknown),
        ("Devices/d/messages/events/", Unknown),
        ("devices/d/modules/m", Unknown),
        ("$iothub/", Unknown),
        ("$iothub/twin/get/?$rid=1", Unknown),
        ("$iothub/twin/GET/$rid=1", Unknown),
        ("$iothub/twin/GET?$rid=1", Unknown),
        ("$iothub/twin/PATCH/properties/desired/?$rid=1", Unknown),
        ("$iothub/methods/res/200", Unknown),
        ("$iothub/methods/res/200/x?$rid=1", Unknown),
        ("$iothub/methods/POST/m/?$rid=1", Unknown),
        ("é/x", Unknown),
        ("devices/e/messages/events/", ForeignIdentity),
        ("devices/D/messages/events/", ForeignIdentity),
        ("devices/d/modules/m/messages/events/", ForeignIdentity),
        ("devices//messages/events/", ForeignIdentity),
        ("$iothub/twin/GET/", RequestId),
        ("$iothub/twin/GET/?", RequestId),
        ("$iothub/twin/GET/?$rid=", RequestId),
        ("$iothub/twin/GET/?$rid", RequestId),
        ("$iothub/twin/GET/?rid=1", RequestId),
        ("$iothub/methods/res/200/", RequestId),
        (
            "$iothub/twin/PATCH/properties/reported/?$rid=1&$version=",
            Version,
        ),
        (
            "$iothub/twin/PATCH/properties/reported/?$rid=1&$version=-1",
            Version,
        ),
        (
            "$iothub/twin/PATCH/properties/reported/?$rid=1&$version=+1",
            Version,
        ),
        ("$iothub/methods/res//?$rid=1", Status),
        ("$iothub/methods/res/ok/?$rid=1", Status),
        ("$iothub/methods/res/+200/?$rid=1", Status),
        ("$iothub/methods/res/2147483648/?$rid=1", Status),
    ] {
        assert_eq!(DeviceTopic::parse(text, &device()), Err(expected), "{text}");
    }
}

#[test]
fn a_module_publishes_under_its_own_name_only() {
    let parse = |text| DeviceTopic::parse(text, &module());
    assert_eq!(
        parse("devices/d/modules/m/messages/events/%24.on=o/"),
        parse("devices/d/modules/m/messages/events/%24.on=o")
    );
    assert_eq!(
        parse("devices/d/modules/m/messages/events"),
        Ok(DeviceTopic::Telemetry {
            address: MODULE,
            bag: ""
        })
    );
    for text in [
        "devices/d/messages/events/",
        "devices/d/modules/n/messages/events/",
        "devices/e/modules/m/messages/events/",
    ] {
        assert_eq!(parse(text), Err(TopicError::ForeignIdentity), "{text}");
    }
}

#[test]
fn the_hub_publishes_to_its_topics() {
    use HubTopic::{CloudToDevice, DesiredChanged, MethodRequest, TwinResponse};
    for (text, expected) in [
        (
            "$iothub/methods/POST/lockDoor/?$rid=1",
            MethodRequest {
                name: "lockDoor",
                rid: "1",
            },
        ),
        (
            "$iothub/methods/POST/é b/?$rid=ff",
            MethodRequest {
                name: "é b",
                rid: "ff",
            },
        ),
        (
            "$iothub/twin/res/200/?$rid=x=y",
            TwinResponse {
                status: 200,
                rid: "x=y",
                version: None,
            },
        ),
        (
            "$iothub/twin/res/204/?$rid=2&$version=6",
            TwinResponse {
                status: 204,
                rid: "2",
                version: Some(6),
            },
        ),
        (
            "$iothub/twin/PATCH/properties/desired/?$version=8",
            DesiredChanged { version: 8 },
        ),
        (
            "devices/d/messages/devicebound/%24.to=x",
            CloudToDevice {
                address: DEVICE,
                bag: "%24.to=x",
            },
        ),
        (
            "devices/d/modules/m/messages/devicebound/",
            CloudToDevice {
                address: MODULE,
                bag: "",
            },
        ),
    ] {
        assert_eq!(HubTopic::parse(text), Ok(expected), "{text}");
        assert_eq!(expected.to_string(), text);
    }
}

#[test]
fn each_bad_hub_topic_names_its_fault() {
    use TopicError::{RequestId, Status, Unknown, Version};
    for (text, expected) in [
        ("", Unknown),
        ("$iothub/methods/POST/m", Unknown),
        ("$iothub/methods/POST//?$rid=1", Unknown),
        ("$iothub/methods/POST/m/n/?$rid=1", Unknown),
        ("$iothub/methods/res/200/?$rid=1", Unknown),
        ("devices/d/messages/devicebound", Unknown),
        ("devices/d/messages/events/", Unknown),
        ("$iothub/methods/POST/m/", RequestId),
        ("$iothub/twin/res/200/?$version=1", RequestId),
        ("$iothub/twin/res/-1/?$rid=1", Status),
        ("$iothub/twin/res/200/?$rid=1&$version=x", Version),
        ("$iothub/twin/PATCH/properties/desired/", Version),
    ] {
        assert_eq!(HubTopic::parse(text), Err(expected), "{text}");
    }
}

#[test]
fn filters_are_read_and_written() {
    for (text, subscriber, expected) in [
        (
            "devices/d/messages/devicebound/#",
            device(),
            Filter::CloudToDevice,
        ),
        (
            "devices/d/modules/m/messages/devicebound/#",
            module(),
            Filter::CloudToDevice,
        ),
        ("$iothub/twin/res/#", device(), Filter::TwinResponses),
        (
            "$iothub/twin/PATCH/properties/desired/#",
            module(),
            Filter::DesiredChanges,
        ),
        ("$iothub/methods/POST/#", module(), Filter::Methods),
        ("devices/d/modules/m/#", module(), Filter::ModuleAll),
        ("devices/d/modules/m/inputs/#", module(), Filter::ModuleInputs),
    ] {
        assert_eq!(Filter::parse(text, &subscriber), Ok(expected), "{text}");
        assert_eq!(expected.text(&subscriber), text);
    }
    assert_eq!(
        Filter::parse("$iothub/methods/POST/lockDoor/#", &device()),
        Ok(Filter::Methods)
    );
}

#[test]
fn other_filters_are_refused() {
    for text in [
        "",
        "#",
        "+",
        "devices/#",
        "devices/d/#",
        "devices/d/inputs/#",
        "devices/d/messages/devicebound/",
        "devices/d/messages/devicebound/+",
        "devices/d/messages/events/#",
        "$iothub/#",
        "$iothub/twin/#",
        "$iothub/twin/res/200/#",
        "$iothub/methods/POST/+/#",
        "$iothub/methods/POST//#",
        "$iothub/methods/POST/a/b/#",
        "$iothub/methods/POST",
    ] {
        assert_eq!(Filter::parse(text, &device()), Err(TopicError::Unknown), "{text}");
    }
    for (text, subscriber) in [
        ("devices/e/messages/devicebound/#", device()),
        ("devices/+/messages/devicebound/#", device()),
        ("devices/d/modules/m/#", device()),
        ("devices/d/messages/devicebound/#", module()),
        ("devices/d/modules/n/inputs/#", module()),
        ("devices/d/modules/+/messages/devicebound/#", module()),
    ] {
        assert_eq!(
            Filter::parse(text, &subscriber),
            Err(TopicError::ForeignIdentity),
            "{text}"
        );
    }
}

#[test]
fn messages_take_the_better_of_their_filters() {
    let mut filters = FilterSet::EMPTY;
    assert_eq!(filters.cloud_to_device(), None);
    filters.insert(Filter::ModuleAll, Qos::granted(0));
    assert_eq!(filters.cloud_to_device(), Some(Qos::AtMostOnce));
    filters.insert(Filter::CloudToDevice, Qos::granted(2));
    assert_eq!(filters.cloud_to_device(), Some(Qos::AtLeastOnce));
    filters.insert(Filter::CloudToDevice, Qos::granted(0));
    assert_eq!(filters.cloud_to_device(), Some(Qos::AtMostOnce));
    assert_eq!(
        format!("{filters:?}"),
        "{CloudToDevice: AtMostOnce, ModuleAll: AtMostOnce}"
    );
    assert_eq!(size_of::<FilterSet>(), 2);
}

const ID: &str = "[a-zA-Z0-9.%_*?!(),:=@$';-]{1,128}";
/// Anything but the separator of parameters.
const RID: &str = "[^&]{1,20}";

proptest! {
    #[test]
    fn device_topics_survive(
        id in ID, module_id in proptest::option::of(ID), bag in "(.{0,30}[^/])?",
        rid in RID, version: Option<u64>, status: i32,
    ) {
        let sender = target(&id, module_id.as_deref());
        for topic in [
            DeviceTopic::Telemetry { address: Address::from(&sender), bag: &bag },
            DeviceTopic::TwinGet { rid: &rid },
            DeviceTopic::TwinPatchReported { rid: &rid, version },
            DeviceTopic::MethodResponse { status, rid: &rid },
        ] {
            let text = topic.to_string();
            prop_assert_eq!(DeviceTopic::parse(&text, &sender), Ok(topic));
        }
    }

    #[test]
    fn hub_topics_survive(
        id in ID, module_id in proptest::option::of(ID), bag in ".{0,30}",
        name in "[^/?#+]{1,20}", rid in RID, version: u64, status: u16,
    ) {
        let receiver = target(&id, module_id.as_deref());
        for topic in [
            HubTopic::MethodRequest { name: &name, rid: &rid },
            HubTopic::TwinResponse { status, rid: &rid, version: None },
            HubTopic::TwinResponse { status, rid: &rid, version: Some(version) },
            HubTopic::DesiredChanged { version },
            HubTopic::CloudToDevice { address: Address::from(&receiver), bag: &bag },
        ] {
            let text = topic.to_string();
            prop_assert_eq!(HubTopic::parse(&text), Ok(topic));
        }
    }

    #[test]
    fn filters_survive(id in ID, module_id in ID) {
        let subscriber = target(&id, Some(&module_id));
        for filter in Filter::ALL {
            prop_assert_eq!(Filter::parse(&filter.text(&subscriber), &subscriber), Ok(filter));
        }
    }

    #[test]
    fn a_filter_set_is_a_map(steps in vec((0..Filter::ALL.len(), proptest::option::of(0_u8..3)), 0..40)) {
        let mut set = FilterSet::EMPTY;
        let mut model = BTreeMap::new();
        for (index, requested) in steps {
            let filter = Filter::ALL[index];
            match requested.map(Qos::granted) {
                Some(granted) => {
                    set.insert(filter, granted);
                    model.insert(filter, granted);
                }
                None => {
                    set.remove(filter);
                    model.remove(&filter);
                }
            }
            prop_assert_eq!(set.iter().collect::<BTreeMap<_, _>>(), model.clone());
            prop_assert_eq!(set.is_empty(), model.is_empty());
            prop_assert_eq!(set.contains(filter), model.contains_key(&filter));
        }
    }

    #[test]
    fn arbitrary_text_never_panics(
        text in "([$]iothub/|devices/|d/|modules/|twin/|GET/|res/|POST/|methods/|messages/events|[?]|[$]rid=|[$]version=|#|.){0,12}",
    ) {
        for sender in [device(), module()] {
            let _ = DeviceTopic::parse(&text, &sender);
            let _ = Filter::parse(&text, &sender);
        }
        let _ = HubTopic::parse(&text);
    }
}
