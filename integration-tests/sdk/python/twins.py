# feature: Twins, service side
# transports: rest
"""Reading, patching and replacing twins by the service: merge rules, versions, limits."""

from azure.iot.hub.models import Twin, TwinProperties

from support import case, equal, new_device, raises, refused, registry, rest, run, unique


def patch(device_id, tags=None, desired=None):
    return registry().update_twin(device_id, Twin(tags=tags, properties=desired_properties(desired)))


def replace(device_id, tags=None, desired=None):
    return registry().replace_twin(device_id, Twin(tags=tags, properties=desired_properties(desired)))


def desired_properties(desired):
    return None if desired is None else TwinProperties(desired=desired)


def plain(section):
    """A section without what the hub adds."""
    return {key: value for key, value in section.items() if not key.startswith("$")}


@case
def a_fresh_twin():
    device = new_device("twins")
    twin = registry().get_twin(device.id)
    equal((twin.device_id, twin.module_id), (device.id, None))
    equal((twin.tags, plain(twin.properties.desired), plain(twin.properties.reported)), ({}, {}, {}))
    equal((twin.properties.desired["$version"], twin.properties.reported["$version"], twin.version), (1, 1, 2))
    assert twin.properties.desired["$metadata"]["$lastUpdated"].endswith("Z")
    equal(twin.etag, "AAAAAAAAAAE=")
    equal((twin.status, twin.connection_state, twin.authentication_type), ("enabled", "Disconnected", "sas"))
    equal((twin.cloud_to_device_message_count, twin.capabilities.iot_edge), (0, False))
    equal(twin.additional_properties.get("modelId"), "")


@case
def a_patch_merges():
    device = new_device("twins")
    patch(device.id, {"a": {"b": 1, "c": [1, 2]}, "d": "x"}, {"p": {"q": {"r": 1}}, "s": True})
    twin = patch(device.id, {"a": {"b": None, "e": {}}, "absent": None}, {"p": {"q": {"t": None, "u": 2.5}}, "s": {"now": "object"}})
    equal(twin.tags, {"a": {"c": [1, 2], "e": {}}, "d": "x"})
    equal(plain(twin.properties.desired), {"p": {"q": {"r": 1, "u": 2.5}}, "s": {"now": "object"}})
    twin = patch(device.id, {"a": {"c": [3]}, "d": {"n": {"m": None}}}, {"p": {"q": {"r": None, "u": None}}, "s": 0})
    equal(twin.tags, {"a": {"c": [3], "e": {}}, "d": {"n": {}}})
    equal(plain(twin.properties.desired), {"p": {"q": {}}, "s": 0})
    equal(registry().get_twin(device.id).as_dict(), twin.as_dict())


@case
def a_replacement_replaces():
    device = new_device("twins")
    patch(device.id, {"old": 1}, {"old": 1})
    twin = replace(device.id, {"new": {"n": 1}}, {"new": 2})
    equal((twin.tags, plain(twin.properties.desired)), ({"new": {"n": 1}}, {"new": 2}))
    twin = replace(device.id, {"newer": 3})
    equal((twin.tags, plain(twin.properties.desired)), ({"newer": 3}, {}))


@case
def versions_grow_by_one_with_each_write():
    device = new_device("twins")

    def numbers(twin):
        return twin.version, twin.properties.desired["$version"], twin.properties.reported["$version"]

    equal(numbers(patch(device.id, {"t": 1})), (3, 1, 1))
    equal(numbers(patch(device.id, None, {"d": 1})), (4, 2, 1))
    both = patch(device.id, {"t": 2}, {"d": 2})
    equal(numbers(both), (5, 3, 1))
    equal(numbers(replace(device.id, {}, {})), (6, 4, 1))
    equal(both.etag, "AAAAAAAAAAQ=")


@case
def metadata_follows_the_properties():
    device = new_device("twins")
    first = patch(device.id, None, {"a": {"b": 1, "c": [1, 2]}, "d": 1}).properties.desired["$metadata"]
    equal(sorted(first), ["$lastUpdated", "$lastUpdatedVersion", "a", "d"])
    equal(sorted(first["a"]), ["$lastUpdated", "$lastUpdatedVersion", "b", "c"])
    equal(first["a"]["c"]["$lastUpdatedVersion"], 2)
    second = patch(device.id, None, {"a": {"b": 2}, "d": None}).properties.desired["$metadata"]
    equal((second["a"]["b"]["$lastUpdatedVersion"], second["a"]["$lastUpdatedVersion"]), (3, 3))
    equal(second["a"]["c"], first["a"]["c"])
    assert "d" not in second and second["$lastUpdated"] > first["$lastUpdated"], second


@case
def a_twin_that_was_read_can_be_sent_back():
    device = new_device("twins")
    patch(device.id, {"a": 1}, {"b": 2})
    twin = registry().get_twin(device.id)
    twin.tags["c"] = 3
    twin.properties.reported["spoofed"] = True
    again = registry().update_twin(device.id, twin, twin.etag)
    equal(again.tags, {"a": 1, "c": 3})
    equal((plain(again.properties.desired), plain(again.properties.reported)), ({"b": 2}, {}))
    again = registry().replace_twin(device.id, again, again.etag)
    equal((again.tags, plain(again.properties.desired)), ({"a": 1, "c": 3}, {"b": 2}))


@case
def values_come_back_as_they_were():
    device = new_device("twins")
    values = {
        "zero": 0, "float": 0.1, "negative": -4503599627370496, "large": 4503599627370495, "exponent": 1e100,
        "text": "ü € 𝄞 \" \\ \n", "date": "2024-01-01T00:00:00.0000000Z", "empty": "", "flag": False,
        "list": [1, "a", True, {"k": [2]}, []], "object": {}, "ключ": "値", "with-dash_and:colon": 1, "long": "x" * 4096,
    }  # fmt: skip
    twin = patch(device.id, values, values)
    equal((twin.tags, plain(twin.properties.desired)), (values, values))


@case
def depth_has_a_limit():
    device = new_device("twins")

    def nested(objects):
        return nested_in(objects, {"property": "value"})

    def nested_in(objects, inner):
        for n in range(objects):
            inner = {f"level{n}": inner}
        return inner

    equal(patch(device.id, nested(10), nested(10)).tags, nested(10))
    for tags, desired in ((nested(11), None), (None, nested(11))):
        with raises(400, "ArgumentInvalid"):
            patch(device.id, tags, desired)


@case
def documents_that_are_refused():
    device = new_device("twins")
    patch(device.id, {"kept": 1}, {"kept": 1})
    before = registry().get_twin(device.id).as_dict()
    bad_values = (
        {"a.b": 1}, {"$a": 1}, {"a b": 1}, {"a\n": 1}, {"k" * 1025: 1}, {"s": "x" * 4097},
        {"n": 4503599627370496}, {"n": -4503599627370497}, {"list": [1, None]},
    )  # fmt: skip
    for bad in bad_values:
        for tags, desired in ((bad, None), (None, bad), ({"fine": 1, **bad}, {"fine": 1})):
            with raises(400, "ArgumentInvalid"):
                patch(device.id, tags, desired)
            with raises(400, "ArgumentInvalid"):
                replace(device.id, tags, desired)
    for body in ([], "text", {"tags": 1}, {"tags": []}, {"properties": {"desired": "x"}}, b"{", b""):
        assert rest("PATCH", f"/twins/{device.id}", body).status == 400, body
    equal(registry().get_twin(device.id).as_dict(), before)


@case
def sizes_have_limits():
    device = new_device("twins")
    text = "x" * 4000
    tags = {"a": text, "b": text}  # 8,002 of 8,192
    equal(patch(device.id, tags).tags, tags)
    with raises(400, "ArgumentInvalid"):
        patch(device.id, {"c": text})
    desired = {f"k{n}": text for n in range(8)}  # 32,016 of 32,768
    patch(device.id, None, desired)
    with raises(400, "ArgumentInvalid"):
        patch(device.id, None, {"more": text})
    patch(device.id, {"a": None, "c": text})  # nothing grows


@case
def twins_that_do_not_exist():
    absent = unique("absent")
    for act in (registry().get_twin, lambda device_id: patch(device_id, {"a": 1}), lambda device_id: replace(device_id, {"a": 1})):
        with raises(404, "DeviceNotFound") as refusal:
            act(absent)
        assert absent in refusal.message, refusal.message
    refused(rest("GET", f"/twins/{new_device().id}/modules/absent"), 404, "DeviceNotFound")


@case
def a_disabled_device_has_its_twin():
    device = new_device("twins", status="disabled")
    equal(patch(device.id, {"a": 1}, {"b": 1}).status, "disabled")
    equal(registry().get_twin(device.id).tags, {"a": 1})


run()
