# feature: Twins, device side
# transports: mqtt, mqtt-ws
"""A device reads its twin, reports properties and is told of desired ones."""

from azure.iot.device.exceptions import ClientError, ServiceError
from azure.iot.hub.models import Twin, TwinProperties

from support import case, client_of, connected, equal, eventually, new_device, raises, registry, run


def desire(device_id, desired, replace=False):
    write = registry().replace_twin if replace else registry().update_twin
    return write(device_id, Twin(properties=TwinProperties(desired=desired)))


def reported(device_id):
    section = registry().get_twin(device_id).properties.reported
    return {key: value for key, value in section.items() if key != "$metadata"}


@case
def a_device_reads_its_twin():
    device = new_device("twin")
    registry().update_twin(device.id, Twin(tags={"secret": 1}, properties=TwinProperties(desired={"speed": {"max": 3}})))
    with connected(device) as client:
        equal(client.get_twin(), {"desired": {"speed": {"max": 3}, "$version": 2}, "reported": {"$version": 1}})


@case
def reported_properties_are_merged():
    device = new_device("twin")
    with connected(device) as client:
        client.patch_twin_reported_properties({"a": {"b": 1, "c": "ü €"}, "d": [1, {"e": 2}], "f": 1.5})
        equal(reported(device.id), {"a": {"b": 1, "c": "ü €"}, "d": [1, {"e": 2}], "f": 1.5, "$version": 2})
        client.patch_twin_reported_properties({"a": {"b": None}, "d": None, "f": {"g": False}, "absent": None})
        expected = {"a": {"c": "ü €"}, "f": {"g": False}, "$version": 3}
        equal(reported(device.id), expected)
        equal(client.get_twin()["reported"], expected)
    twin = registry().get_twin(device.id)
    assert twin.properties.reported["$metadata"]["a"]["c"]["$lastUpdated"].endswith("Z")
    equal(twin.version, 2)  # it counts tags and desired properties only


@case
def desired_properties_arrive():
    device = new_device("twin")
    with connected(device) as client:
        patches = []
        client.on_twin_desired_properties_patch_received = patches.append
        desire(device.id, {"a": 1, "b": {"c": "x"}})
        desire(device.id, {"a": None, "b": {"d": [1]}})
        registry().update_twin(device.id, Twin(tags={"unseen": True}))
        desire(device.id, {"e": True}, replace=True)
        expected = [
            {"a": 1, "b": {"c": "x"}, "$version": 2},
            {"a": None, "b": {"d": [1]}, "$version": 3},
            {"e": True, "$version": 4},
        ]
        eventually(lambda: len(patches) >= 3, "three patches")
        equal(patches, expected)
        equal(client.get_twin()["desired"], {"e": True, "$version": 4})


@case
def many_patches_arrive_in_order():
    device = new_device("twin")
    with connected(device) as client:
        versions = []
        client.on_twin_desired_properties_patch_received = lambda patch: versions.append(patch["$version"])
        manager = registry()
        for n in range(50):
            manager.update_twin(device.id, Twin(properties=TwinProperties(desired={"n": n})))
        eventually(lambda: len(versions) >= 50, "fifty patches")
        equal(versions, list(range(2, 52)))


@case
def changes_while_offline_are_found_in_the_twin():
    device = new_device("twin")
    client = client_of(device)
    client.connect()
    patches = []
    client.on_twin_desired_properties_patch_received = patches.append
    client.get_twin()  # subscribes to answers, which the SDK forgets when it reads the twin by itself
    desire(device.id, {"n": 1})
    eventually(lambda: patches == [{"n": 1, "$version": 2}], "the first patch")
    client.disconnect()
    desire(device.id, {"n": 2})
    desire(device.id, {"n": 3})
    client.connect()
    # The hub queues nothing; the SDK reads the twin when it is back.
    eventually(lambda: patches[1:] == [{"n": 3, "$version": 4}], "the state of now")
    desire(device.id, {"n": 4})
    eventually(lambda: patches[2:] == [{"n": 4, "$version": 5}], "the next patch")
    client.shutdown()


@case
def bad_reported_properties_are_refused():
    device = new_device("twin")
    nested = {"property": 1}
    for n in range(11):
        nested = {f"level{n}": nested}
    with connected(device) as client:
        client.patch_twin_reported_properties({"kept": 1})
        for bad in ({"a.b": 1}, {"a b": 1}, {"$a": 1}, {"n": 2**53}, {"l": [None]}, {"s": "x" * 4097}, nested, [1], "text"):
            equal(refusal(client, bad), "twin operation returned status 400")
        equal(refusal(client, {f"k{n}": "x" * 4000 for n in range(9)}), "twin operation returned status 413")
        assert client.connected
        equal(client.get_twin()["reported"], {"kept": 1, "$version": 2})


def refusal(client, patch):
    """The text of the service's error, which the SDK hides behind an error of its own."""
    with raises(ClientError) as caught:
        client.patch_twin_reported_properties(patch)
    cause = caught.error.__cause__
    equal(type(cause), ServiceError)
    return str(cause)


@case
def large_sections_pass():
    device = new_device("twin")
    large = {f"k{n}": "x" * 4000 for n in range(8)}
    with connected(device) as client:
        patches = []
        client.on_twin_desired_properties_patch_received = patches.append
        client.patch_twin_reported_properties(large)
        equal(client.get_twin()["reported"], {**large, "$version": 2})
        desire(device.id, large)
        eventually(lambda: patches == [{**large, "$version": 2}], "the large patch")


run()
