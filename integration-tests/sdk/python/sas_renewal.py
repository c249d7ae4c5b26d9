# feature: SAS tokens and their renewal
# transports: mqtt, mqtt-ws
"""The SDK renews its token by connecting again, two minutes before expiry: tokens of little
more than two minutes are renewed at once. What was subscribed must still be."""

import time

from azure.iot.device import IoTHubDeviceClient
from azure.iot.device.exceptions import CredentialError
from azure.iot.hub.models import CloudToDeviceMethod, Twin, TwinProperties

from support import (
    HOST, SERVICE, answer_methods, case, client_of, connection_state, equal, eventually, fields, new_device, new_module, raises,
    random_key, registry, run, sas_token, telemetry_of, telemetry_position, transport_options,
)  # fmt: skip

#: The SDK renews a token this long before it expires, in seconds.
MARGIN = 120


def watch(client):
    """A list of connection states that grows as they change."""
    states = []
    client.on_connection_state_change = lambda: states.append(client.connected)
    return states


def works(client, device_id, patches, round):
    """Checks every direction without subscribing to anything."""
    result = registry().invoke_device_method(device_id, CloudToDeviceMethod(method_name="echo", payload=round, connect_timeout_in_seconds=5))
    equal(result.payload, round)
    registry().update_twin(device_id, Twin(properties=TwinProperties(desired={"round": round})))
    eventually(lambda: {"round": round} in [{"round": p.get("round")} for p in patches], "the desired properties")
    client.patch_twin_reported_properties({"round": round})
    equal(client.get_twin()["reported"]["round"], round)
    client.send_message(f"round {round}")


def device_token(device, key=None, policy=None, ttl=3600.0, resource=None):
    return sas_token(resource or f"{HOST}/devices/{device.id}", key or device.key, policy, ttl)


@case
def tokens_are_renewed_and_subscriptions_remembered():
    telemetry_position()
    device = new_device("renewal")
    client = client_of(device, sastoken_ttl=MARGIN + 3)
    states, patches = watch(client), []
    client.connect()
    calls = answer_methods(client, lambda name, payload: (200, payload))
    client.on_twin_desired_properties_patch_received = patches.append
    works(client, device.id, patches, 1)
    eventually(lambda: states == [True, False, True], "the first renewal")
    works(client, device.id, patches, 2)
    eventually(lambda: states[3:] == [False, True], "the second renewal")
    works(client, device.id, patches, 3)
    client.shutdown()
    equal([payload for _, payload in calls], [1, 2, 3])
    bodies = eventually(lambda: (lambda seen: seen if len(seen) == 3 else None)(telemetry_of(device.id)), "three messages")
    equal([m["body"] for m in bodies], ["round 1", "round 2", "round 3"])


@case
def a_module_renews_its_token():
    device = new_device("renewal")
    module = new_module(device)
    client = client_of(module, sastoken_ttl=MARGIN + 3)
    states = watch(client)
    client.connect()
    answer_methods(client, lambda name, payload: (200, payload))
    eventually(lambda: states[1:3] == [False, True], "the renewal")
    request = CloudToDeviceMethod(method_name="echo", payload="again", connect_timeout_in_seconds=5)
    equal(registry().invoke_device_module_method(device.id, module.id, request).payload, "again")
    client.shutdown()


@case
def an_application_supplies_its_tokens():
    device = new_device("renewal")
    client = IoTHubDeviceClient.create_from_sastoken(device_token(device, ttl=MARGIN + 3), **transport_options())
    states, asked = watch(client), []

    def on_required():
        asked.append(True)
        client.update_sastoken(device_token(device))

    client.on_new_sastoken_required = on_required
    client.connect()
    answer_methods(client, lambda name, payload: (200, "still here"))
    eventually(lambda: states == [True, False, True], "the new token to be used")
    equal(asked, [True])
    request = CloudToDeviceMethod(method_name="echo", connect_timeout_in_seconds=5)
    equal(registry().invoke_device_method(device.id, request).payload, "still here")
    client.shutdown()


@case
def a_policys_key_makes_tokens_too():
    device = new_device("renewal")
    key = fields(SERVICE)["SharedAccessKey"]
    client = IoTHubDeviceClient.create_from_sastoken(device_token(device, key, "device"), **transport_options())
    client.connect()
    equal(connection_state(device.id), "Connected")
    client.shutdown()
    for token in (device_token(device, key, "service"), device_token(device, random_key(), "device"), device_token(device, key)):
        client = IoTHubDeviceClient.create_from_sastoken(token, connection_retry=False, **transport_options())
        with raises(CredentialError):
            client.connect()
        client.shutdown()


@case
def a_connection_ends_with_its_token():
    device = new_device("renewal")
    started = time.monotonic()
    token = device_token(device, ttl=3)
    client = IoTHubDeviceClient.create_from_sastoken(token, connection_retry=False, **transport_options())
    states = watch(client)
    client.connect()
    eventually(lambda: states == [True, False], "the connection to be closed")
    assert time.monotonic() - started > 1.5, "the token was good for longer"
    eventually(lambda: connection_state(device.id) == "Disconnected", "the hub to know")
    client.update_sastoken(device_token(device))
    client.connect()
    equal(connection_state(device.id), "Connected")
    client.shutdown()


run()
