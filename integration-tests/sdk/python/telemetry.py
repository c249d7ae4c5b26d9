# feature: Telemetry
# transports: mqtt, mqtt-ws
"""Messages of devices and modules: properties, sizes, order. The emulator keeps them for its admin endpoint."""

import datetime
import threading

from azure.iot.device import Message

from support import case, connected, equal, eventually, new_device, new_module, raises, run, telemetry_of, telemetry_position

telemetry_position()


def received(device_id, count=1):
    return eventually(lambda: (lambda seen: seen if len(seen) >= count else None)(telemetry_of(device_id)), f"{count} messages")


@case
def a_bare_message():
    device = new_device("telemetry")
    with connected(device) as client:
        client.send_message("hello ü €")
        (message,) = received(device.id)
    equal((message["body"], message["properties"], message["systemProperties"]), ("hello ü €", {}, {}))
    equal((message["deviceId"], message["moduleId"]), (device.id, None))
    assert message["enqueuedTimeUtc"].endswith("Z"), message


@case
def properties_arrive_as_they_were_set():
    device = new_device("telemetry")
    message = Message('{"temperature": 21.5}')
    message.message_id = "id-1:2.3"
    message.correlation_id = "corr 1/2"
    message.user_id = "user=1&2"
    message.content_type = "application/json"
    message.content_encoding = "utf-8"
    custom = {
        "plain": "value", "empty": "", "sp ace": "v al", "a/b": "c/d", "a&b": "c=d", "q?": "#+", "ü€": "ключ 値",
        "percent%20": "%2F%", "$dollar": "$1", "quote\"'": "\\", "+": "+", "UPPER": "Case",
    }  # fmt: skip
    message.custom_properties.update(custom)
    with connected(device) as client:
        client.send_message(message)
        (seen,) = received(device.id)
    equal(seen["properties"], custom)
    system = {"$.mid": "id-1:2.3", "$.cid": "corr 1/2", "$.uid": "user=1&2", "$.ct": "application/json", "$.ce": "utf-8"}
    equal(seen["systemProperties"], system)
    equal(seen["body"], '{"temperature": 21.5}')


@case
def further_system_properties():
    device = new_device("telemetry")
    message = Message("x")
    message.expiry_time_utc = datetime.datetime(2030, 1, 2, 3, 4, 5)
    message.ack = "full"
    message.set_as_security_message()
    with connected(device) as client:
        client.send_message(message)
        (seen,) = received(device.id)
    everything = {**seen["systemProperties"], **seen["properties"]}
    assert "urn:azureiot:Security:SecurityAgent:1" in everything.values(), everything
    assert "2030-01-02T03:04:05" in everything.values(), everything


@case
def a_module_sends_to_its_outputs():
    device = new_device("telemetry")
    module = new_module(device)
    with connected(module) as client:
        client.send_message("plain")
        message = Message("with output")
        message.custom_properties["k"] = "v"
        client.send_message_to_output(message, "alerts/1")
        first, second = received(device.id, 2)
    equal([m["moduleId"] for m in (first, second)], ["mod", "mod"])
    equal((first["body"], first["systemProperties"]), ("plain", {}))
    equal((second["body"], second["systemProperties"], second["properties"]), ("with output", {"$.on": "alerts/1"}, {"k": "v"}))


@case
def bodies_of_any_size():
    device = new_device("telemetry")
    sizes = [0, 1, 125, 126, 16_384, 65_536, 200_000, 262_000]
    with connected(device) as client:
        for size in sizes:
            client.send_message("x" * size)
        seen = received(device.id, len(sizes))
    equal([len(m["body"]) for m in seen], sizes)
    with connected(device) as client, raises(ValueError):  # the SDK's own limit
        client.send_message("x" * (256 * 1024 + 1))


@case
def messages_keep_their_order():
    device = new_device("telemetry")
    with connected(device) as client:
        for n in range(100):
            client.send_message(str(n))
        seen = received(device.id, 100)
    equal([m["body"] for m in seen], [str(n) for n in range(100)])


@case
def many_senders_at_once():
    devices = [new_device("telemetry") for _ in range(5)]

    def send(device):
        with connected(device) as client:
            for n in range(20):
                client.send_message(str(n))

    threads = [threading.Thread(target=send, args=(device,)) for device in devices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for device in devices:
        equal([m["body"] for m in received(device.id, 20)], [str(n) for n in range(20)])


@case
def bytes_need_not_be_text():
    device = new_device("telemetry")
    with connected(device) as client:
        client.send_message(Message(bytes(range(128))))
        (seen,) = received(device.id)
    equal(seen["body"], bytes(range(128)).decode())


run()
