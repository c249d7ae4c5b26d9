# feature: Plug and Play
# transports: mqtt, mqtt-ws
"""Devices with a model: digital twins, their patches, and commands."""

from azure.iot.hub.models import QuerySpecification

from support import answer_methods, case, connected, digital_twins, equal, eventually, new_device, raises, registry, run, unique

MODEL = "dtmi:com:example:Thermostat;1"


def new_thermostat():
    """A device that has told its model once."""
    device = new_device("pnp")
    with connected(device, product_info=MODEL):
        pass
    return device


def desired(device):
    section = registry().get_twin(device.id).properties.desired
    return {key: value for key, value in section.items() if not key.startswith("$")}


@case
def the_model_is_known_from_the_connection():
    device = new_device("pnp")
    equal(registry().get_twin(device.id).additional_properties["modelId"], "")
    with connected(device, product_info=MODEL):
        equal(registry().get_twin(device.id).additional_properties["modelId"], MODEL)
    equal(registry().get_twin(device.id).additional_properties["modelId"], MODEL)
    query = QuerySpecification(query=f"SELECT * FROM devices WHERE modelId = '{MODEL}' AND deviceId = '{device.id}'")
    equal([twin.device_id for twin in registry().query_iot_hub(query).items], [device.id])


@case
def a_digital_twin_shows_properties_and_model():
    device = new_device("pnp")
    with connected(device, product_info=MODEL) as client:
        client.patch_twin_reported_properties({"temperature": 21.5, "thermostat1": {"__t": "c", "maxTemp": 30}})
    twin = digital_twins().get_digital_twin(device.id)
    equal((twin["$dtId"], twin["$metadata"]["$model"]), (device.id, MODEL))
    equal((twin["temperature"], twin["thermostat1"]["maxTemp"]), (21.5, 30))
    assert "$metadata" in twin["thermostat1"], twin
    with raises(404):
        digital_twins().get_digital_twin(unique("absent"))


@case
def patches_become_desired_properties():
    device = new_device("pnp")
    with connected(device, product_info=MODEL) as client:
        patches = []
        client.on_twin_desired_properties_patch_received = patches.append
        twins = digital_twins()
        equal(twins.update_digital_twin(device.id, [{"op": "add", "path": "/target", "value": 42}]), None)
        eventually(lambda: patches and patches[0]["target"] == 42, "the desired properties")
        equal(desired(device), {"target": 42})
        twins.update_digital_twin(device.id, [{"op": "replace", "path": "/target", "value": 43}])
        twins.update_digital_twin(device.id, [{"op": "add", "path": "/thermostat1", "value": {"target": 25, "$metadata": {}}}])
        equal(desired(device), {"target": 43, "thermostat1": {"__t": "c", "target": 25}})
        twins.update_digital_twin(device.id, [{"op": "remove", "path": "/target"}])
        equal(desired(device), {"thermostat1": {"__t": "c", "target": 25}})


@case
def patches_that_are_refused():
    device = new_thermostat()
    twins = digital_twins()
    good = {"op": "add", "path": "/target", "value": 1}
    etag = twins.protocol.digital_twin.get_digital_twin(device.id, raw=True).headers["ETag"]
    assert etag, "a digital twin has an ETag"
    twins.update_digital_twin(device.id, [good], etag)
    with raises(412):
        twins.update_digital_twin(device.id, [good], etag)
    for bad in ([{"op": "jump", "path": "/x", "value": 1}], [{"op": "add", "path": "x", "value": 1}], [{"op": "add", "value": 1}], [good, {}]):
        with raises(400):
            twins.update_digital_twin(device.id, bad)
    with raises(404):
        twins.update_digital_twin(unique("absent"), [good])
    equal(desired(device), {"target": 1})


@case
def commands_are_direct_methods():
    device = new_device("pnp")
    with connected(device, product_info=MODEL) as client:
        calls = answer_methods(client, lambda name, payload: (201 if "*" in name else 200, {"answer": payload}))
        twins = digital_twins()
        equal(twins.invoke_command(device.id, "reboot", {"delay": 3}), {"answer": {"delay": 3}})
        equal(twins.invoke_component_command(device.id, "thermostat1", "report", "since", 5, 10), {"answer": "since"})
        equal(calls, [("reboot", {"delay": 3}), ("thermostat1*report", "since")])
        operations = twins.protocol.digital_twin
        raw = operations.invoke_component_command(device.id, "thermostat1", "report", 1, raw=True)
        equal(int(raw.headers["x-ms-command-statuscode"]), 201)
        assert raw.headers["x-ms-request-id"], raw.headers


@case
def commands_that_fail():
    device = new_thermostat()
    twins = digital_twins()
    with raises(404):
        twins.invoke_command(device.id, "reboot", {})
    with raises(404):
        twins.invoke_command(unique("absent"), "reboot", {})
    with raises(400):
        twins.invoke_command(device.id, "reboot", {}, 0, 1)


run()
