# feature: Changes to identities of connected devices
# transports: mqtt, mqtt-ws
"""What disabling, deleting and new keys do to devices that are connected."""

from azure.iot.device.exceptions import CredentialError
from azure.iot.hub.models import CloudToDeviceMethod, Twin

from support import (
    Device, answer_methods, case, client_of, connected, connection_state, equal, eventually, new_device, new_module, raises, random_key,
    registry, run, telemetry_of, telemetry_position,
)  # fmt: skip


def keys_of(device_id):
    keys = registry().get_device(device_id).authentication.symmetric_key
    return keys.primary_key, keys.secondary_key


def set_status(device, status):
    registry().update_device_with_sas(device.id, None, *keys_of(device.id), status)


def refused(device):
    client = client_of(device, connection_retry=False)
    with raises(CredentialError):
        client.connect()
    client.shutdown()


def accepted(device):
    with connected(device):
        equal(connection_state(device.id), "Connected")


@case
def a_disabled_device_is_cut_off():
    device = new_device("changes")
    client = client_of(device)
    failures = []
    client.on_background_exception = failures.append
    client.connect()
    answer_methods(client, lambda *_: (200, None))
    registry().update_twin(device.id, Twin(tags={"kept": 1}))
    set_status(device, "disabled")
    eventually(lambda: not client.connected, "the connection to be closed")
    # The SDK tries again by itself and is refused for good.
    eventually(lambda: "Connection Refused: not authorised." in [str(e) for e in failures], "the refusal")
    equal(connection_state(device.id), "Disconnected")
    with raises(404) as refusal:
        registry().invoke_device_method(device.id, CloudToDeviceMethod(method_name="x", payload={}))
    assert refusal.error.response.headers["iothub-errorcode"] in ("DeviceNotFound", "DeviceNotOnline")
    refused(device)
    equal(registry().get_twin(device.id).tags, {"kept": 1})
    set_status(device, "enabled")
    client.connect()
    equal(registry().invoke_device_method(device.id, CloudToDeviceMethod(method_name="x", payload={}, connect_timeout_in_seconds=5)).status, 200)
    client.shutdown()


@case
def the_modules_of_a_disabled_device_are_cut_off():
    device = new_device("changes")
    module = new_module(device)
    with connected(module, connection_retry=False) as client:
        set_status(device, "disabled")
        eventually(lambda: not client.connected, "the module's connection to be closed")
    refused(module)
    set_status(device, "enabled")
    with connected(module):
        pass


@case
def a_deleted_device_is_cut_off():
    device = new_device("changes")
    with connected(device, connection_retry=False) as client:
        client.patch_twin_reported_properties({"old": 1})
        registry().delete_device(device.id)
        eventually(lambda: not client.connected, "the connection to be closed")
    refused(device)
    registry().create_device_with_sas(device.id, device.key, random_key(), "enabled")
    with connected(device) as client:
        equal(client.get_twin(), {"desired": {"$version": 1}, "reported": {"$version": 1}})


@case
def new_keys_are_needed_at_the_next_connection():
    telemetry_position()
    device = new_device("changes")
    keys = random_key(), random_key()
    with connected(device) as client:
        registry().update_device_with_sas(device.id, None, *keys, "enabled")
        client.send_message("still here")  # the connection was authenticated and stays
        equal(connection_state(device.id), "Connected")
        eventually(lambda: [m["body"] for m in telemetry_of(device.id)] == ["still here"], "the message")
    refused(device)
    for key in keys:
        accepted(Device(device.id, key))


@case
def keys_are_rolled_one_after_the_other():
    device = new_device("changes")
    _, secondary = keys_of(device.id)
    fresh = random_key()
    registry().update_device_with_sas(device.id, None, fresh, secondary, "enabled")
    refused(device)
    accepted(Device(device.id, secondary))
    accepted(Device(device.id, fresh))


@case
def a_device_that_changes_to_certificates_has_no_key():
    device = new_device("changes")
    registry().update_device_with_x509(device.id, None, "AB" * 20, None, "enabled")
    refused(device)
    registry().update_device_with_sas(device.id, None, device.key, random_key(), "enabled")
    accepted(device)


@case
def a_deleted_module_is_cut_off():
    device = new_device("changes")
    module = new_module(device)
    with connected(device) as client, connected(module, connection_retry=False) as module_client:
        registry().delete_module(device.id, module.id)
        eventually(lambda: not module_client.connected, "the module's connection to be closed")
        equal((client.connected, connection_state(device.id)), (True, "Connected"))
    refused(module)


run()
