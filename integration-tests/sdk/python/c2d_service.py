# feature: Sending messages to devices
# transports: amqp, amqp-ws
"""The service SDK sends messages to devices, over AMQP; the devices are connected over MQTT."""

import os

from uamqp import TransportType

from azure.iot.device import IoTHubDeviceClient
from azure.iot.hub import IoTHubRegistryManager
from support import SERVICE, case, equal, eventually, new_device, rest, registry, run

TYPES = {"amqp": TransportType.Amqp, "amqp-ws": TransportType.AmqpOverWebsocket}


def service():
    return IoTHubRegistryManager.from_connection_string(SERVICE, transport_type=TYPES[os.environ["TRANSPORT"]])


def listen(device):
    client = IoTHubDeviceClient.create_from_connection_string(device.connection_string)
    messages = []
    client.on_message_received = messages.append
    client.connect()
    return client, messages


def queued(device):
    return registry().get_device(device.id).cloud_to_device_message_count


@case
def a_message_reaches_its_device_with_its_properties():
    device = new_device("c2ds")
    client, messages = listen(device)
    sender = service()
    properties = {
        "messageId": "id-1", "correlationId": "corr/1", "contentType": "application/json", "contentEncoding": "utf-8",
        "ack": "full", "plain": "value", "sp ace": "ü&=",
    }  # fmt: skip
    sender.send_c2d_message(device.id, '{"a": "ü"}', properties)
    sender.send_c2d_message(device.id, "bare")
    eventually(lambda: len(messages) == 2, "two messages")
    full, bare = messages
    equal((full.data.decode(), bare.data.decode()), ('{"a": "ü"}', "bare"))
    equal((full.message_id, full.correlation_id), ("id-1", "corr/1"))
    equal((full.content_type, full.content_encoding), ("application/json", "utf-8"))
    equal({name: full.custom_properties.get(name) for name in ("plain", "sp ace")}, {"plain": "value", "sp ace": "ü&="})
    client.shutdown()


@case
def messages_wait_for_a_device_that_is_away():
    device = new_device("c2ds")
    sender = service()
    for number in range(20):
        sender.send_c2d_message(device.id, str(number))
    equal(queued(device), 20)
    client, messages = listen(device)
    eventually(lambda: len(messages) == 20, "twenty messages")
    equal([message.data.decode() for message in messages], [str(number) for number in range(20)])
    client.shutdown()


@case
def a_message_that_cannot_be_queued_is_refused():
    def is_refused(device_id):
        try:
            service().send_c2d_message(device_id, "hello")
        except Exception as error:  # the SDK tells no reason
            equal(str(error), "C2D message send failure")
        else:
            raise AssertionError(f"{device_id} took a message")

    is_refused("nobody-at-all")
    device = new_device("c2ds")
    sender = service()
    for _ in range(50):
        sender.send_c2d_message(device.id, "x")
    is_refused(device.id)
    equal(queued(device), 50)
    rest("DELETE", f"/devices/{device.id}/commands")


@case
def a_wrong_key_is_refused():
    wrong = SERVICE.split("SharedAccessKey=")[0] + "SharedAccessKey=d3Jvbmcga2V5IHdyb25nIGtleSE="
    device = new_device("c2ds")
    sender = IoTHubRegistryManager.from_connection_string(wrong, transport_type=TYPES[os.environ["TRANSPORT"]])
    try:
        sender.send_c2d_message(device.id, "hello")
    except Exception:  # the SDK's own class of it is private
        pass
    else:
        raise AssertionError("a wrong key was taken")
    equal(queued(device), 0)


run()
