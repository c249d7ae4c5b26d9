# feature: Cloud-to-device messages
# transports: mqtt, mqtt-ws
"""Messages to devices: delivery, waiting for devices that are away, and feedback.

The service SDK sends them over AMQP, so the emulator's own endpoint sends them here;
feedback comes by REST. What is under test is the device."""

import datetime
import time

from support import (
    ADMIN, case, client_of, connected, equal, eventually, http, http_runtime, new_device, refused, registry, rest, run, unique,
)  # fmt: skip


def post(device, body, **more):
    return http("POST", f"{ADMIN}/_emulator/c2d", {"deviceId": device.id, "body": body, **more}, {})


def send(device, body, **more):
    answer = post(device, body, **more)
    equal(answer.status, 200)
    return answer.body["sequenceNumber"]


def queued(device):
    return registry().get_device(device.id).cloud_to_device_message_count


def listen(client):
    messages = []
    client.on_message_received = messages.append
    return messages


def arrived(messages, count):
    eventually(lambda: len(messages) >= count, f"{count} messages")
    return [message.data.decode() for message in messages]


def soon(seconds):
    return (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)).isoformat()


@case
def a_message_arrives_with_its_properties():
    device = new_device("c2d")
    custom = {
        "plain": "value", "empty": "", "sp ace": "v al", "a/b": "c/d", "a&b": "c=d", "q?": "#+", "ü€": "ключ 値", "percent%20": "%2F%",
        "UPPER": "Case",
    }  # fmt: skip
    with connected(device) as client:
        messages = listen(client)
        send(device, "bare")
        expiry = soon(600)
        send(
            device, '{"ü": "€"}', messageId="id-1:2", correlationId="corr 1/2", userId="user=1", contentType="application/json",
            contentEncoding="utf-8", expiryTimeUtc=expiry, ack="full", properties=custom,
        )  # fmt: skip
        equal(arrived(messages, 2), ["bare", '{"ü": "€"}'])
    bare, full = messages
    equal((bare.message_id, bare.correlation_id, bare.user_id, bare.custom_properties), (None, None, None, {}))
    equal((full.message_id, full.correlation_id, full.user_id), ("id-1:2", "corr 1/2", "user=1"))
    equal((full.content_type, full.content_encoding, full.ack), ("application/json", "utf-8", "full"))
    assert full.expiry_time_utc.startswith(expiry[:19]), full.expiry_time_utc
    equal(full.custom_properties, custom)


@case
def messages_wait_for_a_device_that_is_away():
    device = new_device("c2d")
    equal([send(device, str(n)) for n in range(10)], list(range(1, 11)))
    equal(queued(device), 10)
    equal(registry().get_twin(device.id).cloud_to_device_message_count, 10)
    with connected(device) as client:
        equal(queued(device), 10)  # connected, but not listening
        messages = listen(client)
        equal(arrived(messages, 10), [str(n) for n in range(10)])
        eventually(lambda: queued(device) == 0, "the queue to be empty")
        send(device, "at once")
        equal(arrived(messages, 11)[-1], "at once")


@case
def the_subscription_outlives_a_disconnect():
    device = new_device("c2d")
    client = client_of(device)
    client.connect()
    messages = listen(client)
    send(device, "first")
    arrived(messages, 1)
    client.disconnect()
    send(device, "second")
    send(device, "third")
    client.connect()
    equal(arrived(messages, 3), ["first", "second", "third"])
    eventually(lambda: queued(device) == 0, "the queue to be empty")
    client.shutdown()


@case
def bodies_of_any_size():
    device = new_device("c2d")
    with connected(device) as client:
        messages = listen(client)
        for size in (0, 1, 128, 16_384, 65_000):
            send(device, "x" * size)
        equal([len(body) for body in arrived(messages, 5)], [0, 1, 128, 16_384, 65_000])


@case
def a_queue_holds_fifty_messages():
    device = new_device("c2d")
    for n in range(50):
        send(device, str(n))
    refused(post(device, "one too many"), 403, "DeviceMaximumQueueDepthExceeded")
    equal(queued(device), 50)
    with connected(device) as client:
        equal(arrived(listen(client), 50), [str(n) for n in range(50)])


@case
def what_is_expired_is_not_delivered():
    device = new_device("c2d")
    send(device, "short", expiryTimeUtc=soon(0.5), ack="full", messageId=unique("expired"))
    send(device, "long", expiryTimeUtc=soon(600))
    eventually(lambda: queued(device) == 1, "the message to expire")
    with connected(device) as client:
        messages = listen(client)
        equal(arrived(messages, 1), ["long"])


@case
def messages_that_are_refused():
    device = new_device("c2d")
    absent = new_device("c2d")
    registry().delete_device(absent.id)
    refused(post(absent, "x"), 404, "DeviceNotFound")
    refused(post(device, "x" * 65_537), 413, "MessageTooLarge")
    refused(post(device, "x", expiryTimeUtc=soon(-60)), 403, "InvalidMessageExpiryTime")
    refused(post(device, "x", expiryTimeUtc=soon(3 * 86_400)), 403, "InvalidMessageExpiryTime")
    for bad in ({"ack": "perhaps"}, {"expiryTimeUtc": "tomorrow"}, {"messageId": "x" * 129}):
        refused(post(device, "x", **bad), 400, "ArgumentInvalid")
    equal(queued(device), 0)


@case
def the_queue_of_a_disabled_device_stays():
    device = new_device("c2d")
    keys = registry().get_device(device.id).authentication.symmetric_key
    registry().update_device_with_sas(device.id, None, keys.primary_key, keys.secondary_key, "disabled")
    send(device, "waits")
    registry().update_device_with_sas(device.id, None, keys.primary_key, keys.secondary_key, "enabled")
    with connected(device) as client:
        equal(arrived(listen(client), 1), ["waits"])


@case
def a_back_end_sends_by_rest():
    device = new_device("c2d")
    headers = {"iothub-messageid": "by-rest", "iothub-app-level": "high", "Content-Type": "text/plain"}
    answer = rest("POST", f"/devices/{device.id}/messages/devicebound", "by REST".encode(), headers)
    equal(answer.status, 204)
    with connected(device) as client:
        messages = listen(client)
        equal(arrived(messages, 1), ["by REST"])
    equal((messages[0].message_id, messages[0].custom_properties), ("by-rest", {"level": "high"}))


def receive_feedback():
    """A batch of feedback, as the SDK's own call does not show it: records and lock token."""
    raw = http_runtime().protocol.cloud_to_device_messages.receive_feedback_notification(raw=True)
    if raw.response.status_code == 204:
        return [], None
    equal(raw.response.headers["Content-Type"].split(";")[0], "application/vnd.microsoft.iothub.feedback.json")
    return raw.response.json(), raw.response.headers["ETag"].strip('"')


def feedback_for(*message_ids):
    """Completes batches until every message has a record; answers the records by message."""
    records = {}
    until = time.monotonic() + 15
    while not set(message_ids) <= set(records):
        assert time.monotonic() < until, f"feedback for {set(message_ids) - set(records)}"
        batch, token = receive_feedback()
        if token:
            http_runtime().complete_feedback_notification(token)
        else:
            time.sleep(0.02)
        for record in batch:
            assert record["originalMessageId"] not in records, record
            records[record["originalMessageId"]] = record
    return {message_id: records[message_id] for message_id in message_ids}


@case
def feedback_tells_how_messages_ended():
    device = new_device("c2d")
    generation = registry().get_device(device.id).generation_id
    ids = {name: unique(name) for name in ("full", "positive", "negative", "silent", "expired", "purged", "last")}
    send(device, "expires", ack="negative", messageId=ids["expired"], expiryTimeUtc=soon(0.3))
    eventually(lambda: queued(device) == 0, "the message to expire")
    send(device, "purged", ack="full", messageId=ids["purged"])
    purged = registry().protocol.cloud_to_device_messages.purge_cloud_to_device_message_queue(device.id)
    equal(purged.total_messages_purged, 1)
    for name in ("full", "positive", "negative"):
        send(device, name, ack=name, messageId=ids[name])
    send(device, "silent", messageId=ids["silent"])
    send(device, "last", ack="positive", messageId=ids["last"])
    with connected(device) as client:
        arrived(listen(client), 5)
        found = feedback_for(*(ids[name] for name in ("expired", "purged", "full", "positive", "last")))
    told = {name: found[ids[name]]["statusCode"] for name in ids if ids[name] in found}
    equal(told, {"full": "Success", "positive": "Success", "expired": "Expired", "purged": "Purged", "last": "Success"})
    record = found[ids["full"]]
    equal((record["deviceId"], record["deviceGenerationId"], record["description"]), (device.id, generation, "Success"))
    assert record["enqueuedTimeUtc"].endswith("Z"), record


@case
def feedback_that_is_abandoned_comes_again():
    device = new_device("c2d")
    message_id = unique("abandoned")
    send(device, "x", ack="full", messageId=message_id)
    registry().protocol.cloud_to_device_messages.purge_cloud_to_device_message_queue(device.id)

    def mine():
        batch, token = receive_feedback()
        if token and message_id not in [record["originalMessageId"] for record in batch]:
            http_runtime().complete_feedback_notification(token)
            return None
        return token

    token = eventually(mine, "the feedback")
    equal(receive_feedback(), ([], None))  # nobody else gets it meanwhile
    http_runtime().abandon_feedback_notification(token)
    again = eventually(mine, "the feedback again")
    assert again != token
    http_runtime().complete_feedback_notification(again)
    refused(rest("DELETE", f"/messages/serviceBound/feedback/{again}"), 412, "DeviceMessageLockLost")


run()
