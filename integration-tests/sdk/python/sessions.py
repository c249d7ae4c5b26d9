# feature: Sessions
# transports: mqtt, mqtt-ws
"""One connection per identity, lost connections, and subscriptions that outlive them."""

import ssl
import threading
import time

import paho.mqtt.client as mqtt
from azure.iot.device.exceptions import CredentialError
from azure.iot.hub.models import CloudToDeviceMethod, Twin, TwinProperties

from support import (
    HOST, Device, answer_methods, case, client_of, connected, connection_state, equal, eventually, new_device, new_module, raises,
    random_key, registry, run, sas_token, telemetry_of, telemetry_position, unique,
)  # fmt: skip


def call(device_id, name="echo", payload=None, connect=0):
    request = CloudToDeviceMethod(method_name=name, payload=payload, connect_timeout_in_seconds=connect)
    return registry().invoke_device_method(device_id, request)


def echo(name, payload):
    return 200, payload


def desire(device_id, **desired):
    registry().update_twin(device_id, Twin(properties=TwinProperties(desired=desired)))


def intrude(device):
    """Connects once as the device, without its SDK, and leaves: the SDK's connection is closed by the hub."""
    entered = threading.Event()
    intruder = mqtt.Client(device.id, clean_session=False)
    intruder.username_pw_set(f"{HOST}/{device.id}/?api-version=2021-04-12", sas_token(f"{HOST}/devices/{device.id}", device.key))
    intruder.tls_set_context(ssl.create_default_context())
    intruder.on_connect = lambda *_: entered.set()
    intruder.connect(HOST, 8883)
    intruder.loop_start()
    assert entered.wait(10), "the intruder did not connect"
    intruder.disconnect()
    intruder.loop_stop()


@case
def the_hub_knows_who_is_connected():
    device = new_device("session")
    client = client_of(device)
    equal(connection_state(device.id), "Disconnected")
    client.connect()
    equal((client.connected, connection_state(device.id)), (True, "Connected"))
    client.disconnect()
    eventually(lambda: connection_state(device.id) == "Disconnected", "the device to be gone")
    client.connect()
    equal(connection_state(device.id), "Connected")
    client.shutdown()
    eventually(lambda: connection_state(device.id) == "Disconnected", "the device to be gone")


@case
def a_second_connection_takes_over():
    device = new_device("session")
    with connected(device, connection_retry=False) as first:
        answer_methods(first, lambda *_: (200, "first"))
        equal(call(device.id).payload, "first")
        with connected(device) as second:
            eventually(lambda: not first.connected, "the first connection to be closed")
            answer_methods(second, lambda *_: (200, "second"))
            equal(call(device.id).payload, "second")
            equal(connection_state(device.id), "Connected")


@case
def a_call_in_flight_does_not_survive_a_takeover():
    device = new_device("session")
    called, outcome = threading.Event(), []

    def caller():
        with raises(400, "ConnectionForcefullyClosedOnNewConnection") as refusal:
            call(device.id, "hang")
        outcome.append(refusal.detail["errorCode"])

    with connected(device, connection_retry=False) as first:
        first.on_method_request_received = lambda request: called.set()
        thread = threading.Thread(target=caller)
        thread.start()
        assert called.wait(10), "the call did not arrive"
        with connected(device):
            thread.join(10)
    equal(outcome, [400027])


@case
def a_device_and_its_module_connect_side_by_side():
    device = new_device("session")
    module = new_module(device)
    with connected(device) as client, connected(module) as module_client:
        client.send_message("device")
        module_client.send_message("module")
        equal((client.connected, module_client.connected), (True, True))


@case
def a_lost_connection_is_restored_with_its_subscriptions():
    telemetry_position()
    device = new_device("session")
    with connected(device) as client:
        states, patches = [], []
        client.on_connection_state_change = lambda: states.append(client.connected)
        answer_methods(client, echo)
        client.on_twin_desired_properties_patch_received = patches.append
        client.get_twin()
        for round in (1, 2):
            intrude(device)
            eventually(lambda: states == [False, True] * round, "the client to be back")
            equal(call(device.id, payload=round, connect=5).payload, round)
            desire(device.id, round=round)
            eventually(lambda: round in [patch.get("round") for patch in patches], "the desired properties")
            client.patch_twin_reported_properties({"round": round})
            client.send_message(f"round {round}")
        bodies = [m["body"] for m in telemetry_of(device.id)]
        equal(bodies, ["round 1", "round 2"])


@case
def subscriptions_outlive_a_disconnect():
    device = new_device("session")
    client = client_of(device)
    client.connect()
    answer_methods(client, echo)
    patches = []
    client.on_twin_desired_properties_patch_received = patches.append
    client.disconnect()
    eventually(lambda: connection_state(device.id) == "Disconnected", "the device to be gone")
    with raises(404, "DeviceNotOnline"):
        call(device.id)
    client.connect()
    equal(call(device.id, payload="back").payload, "back")
    desire(device.id, n=1)
    eventually(lambda: patches and patches[-1]["n"] == 1, "the desired properties")
    client.shutdown()


@case
def a_session_without_subscriptions_hears_nothing():
    device = new_device("session")
    with connected(device) as client:
        desire(device.id, n=1)
        with raises(404, "DeviceNotOnline"):
            call(device.id)
        patches = []
        client.on_twin_desired_properties_patch_received = patches.append
        answer_methods(client, echo)
        equal(call(device.id, payload="now").payload, "now")
        desire(device.id, n=2)
        eventually(lambda: len(patches) == 1, "the desired properties")
        equal(patches, [{"n": 2, "$version": 3}])
        client.on_method_request_received = None  # the SDK unsubscribes
        eventually(lambda: not can_be_called(device.id), "the subscription to end")


def can_be_called(device_id):
    try:
        with raises(404, "DeviceNotOnline"):
            call(device_id)
        return False
    except AssertionError:
        return True


@case
def an_idle_connection_stays():
    device = new_device("session")
    with connected(device, keep_alive=1) as client:
        states = []
        client.on_connection_state_change = lambda: states.append(client.connected)
        time.sleep(3)  # twice the time after which a silent client would be closed
        equal((states, connection_state(device.id)), ([], "Connected"))


@case
def operations_connect_by_themselves():
    device = new_device("session")
    client = client_of(device)
    equal(client.get_twin()["desired"], {"$version": 1})
    equal(connection_state(device.id), "Connected")
    client.shutdown()


@case
def strangers_are_refused():
    device = new_device("session")
    for stranger in (Device(device.id, random_key()), Device(unique("absent"), device.key), Device(new_device(status="disabled").id, device.key)):
        client = client_of(stranger, connection_retry=False)
        with raises(CredentialError):
            client.connect()
        equal(client.connected, False)
        client.shutdown()
    equal(connection_state(device.id), "Disconnected")


run()
