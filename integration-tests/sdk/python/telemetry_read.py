# feature: Reading telemetry (Event Hubs)
# transports: amqp, amqp-plain, amqp-ws
"""Back ends read what devices send with the Event Hubs SDK: properties, positions, epochs, checkpoints, refusals."""

import contextlib
import datetime
import os
import subprocess
import sys
import threading
import time

from azure.eventhub import CheckpointStore, EventData, EventHubConsumerClient, EventHubProducerClient, TransportType
from azure.eventhub.exceptions import AuthenticationError, EventHubError
from azure.iot.device import Message

from support import HOST, TRANSPORT, admin, case, connected, equal, eventually, new_device, new_module, raises, readme_program, run, unique

EVENT_HUB = os.environ["EVENT_HUB_CONNECTION_STRING"]

#: A consumer group of the script's own: readers with an epoch take partitions from others.
GROUP = unique("py")
admin("PUT", f"consumer-groups/{GROUP}")


def options():
    """How a client reaches the hub over the transport under test."""
    trust = {"connection_verify": os.environ["HUB_CA_FILE"]}
    return {
        "amqp": trust,
        "amqp-plain": {},
        "amqp-ws": {**trust, "transport_type": TransportType.AmqpOverWebsocket},
    }[TRANSPORT]


def connection_string():
    return f"{EVENT_HUB};UseDevelopmentEmulator=true" if TRANSPORT == "amqp-plain" else EVENT_HUB


def consumer(group=GROUP, string=None, **more):
    return EventHubConsumerClient.from_connection_string(
        string or connection_string(), group, retry_total=0, **options(), **more
    )


def text(value):
    """Strings of annotations and properties reach programs as bytes."""
    return value.decode() if isinstance(value, bytes) else value


def texts(values):
    return {text(key): text(value) for key, value in (values or {}).items()}


def device_of(event):
    return texts(event.system_properties).get("iothub-connection-device-id")


@contextlib.contextmanager
def reading(client=None, on_event=None, **how):
    """Reads in the background; gives a list of events and one of errors that grow, and closes the client in the end."""
    client = client or consumer()
    events, errors = [], []

    def take(context, event):
        if event is not None:
            events.append(event)
            if on_event:
                on_event(context, event)

    receive = {"on_event": take, "on_error": lambda _, error: errors.append(error), **how}
    thread = threading.Thread(target=client.receive, kwargs=receive, daemon=True)
    thread.start()
    try:
        yield events, errors
    finally:
        client.close()
        thread.join(10)


def received(device, count, **how):
    """Reads until `count` events of a device have come."""
    with reading(**how) as (events, errors):
        own = lambda: [event for event in list(events) if device_of(event) == device.id]
        eventually(lambda: len(own()) >= count or errors, f"{count} events of {device.id}")
        assert not errors, errors
        return own()


def send(device, *bodies):
    with connected(device) as client:
        for body in bodies:
            client.send_message(body)


def partition_of(device):
    """Where a device's events are; it must have sent one."""
    partitions = admin("GET", "events/partitions")["partitions"]
    for partition in range(len(partitions)):
        start = 0
        while listed := admin("GET", f"events?partition={partition}&from={start}&max=1000")["events"]:
            if any(event["annotations"]["iothub-connection-device-id"] == device.id for event in listed):
                return str(partition)
            start = listed[-1]["sequenceNumber"] + 1
    raise AssertionError(f"no events of {device.id}")


@case
def the_stream_and_its_partitions_are_described():
    device = new_device("read")
    send(device, "1", "2")
    partition = partition_of(device)
    with consumer() as client:
        stream = client.get_eventhub_properties()
        equal(stream["eventhub_name"], HOST.split(".")[0])
        equal(stream["partition_ids"], ["0", "1", "2", "3"])
        age = datetime.datetime.now(datetime.timezone.utc) - stream["created_at"]
        assert datetime.timedelta(0) <= age < datetime.timedelta(hours=1), stream
        equal(client.get_partition_ids(), stream["partition_ids"])
        info = client.get_partition_properties(partition)
        equal((info["id"], info["is_empty"]), (partition, False))
        assert info["last_enqueued_sequence_number"] >= info["beginning_sequence_number"] + 1, info
        assert info["last_enqueued_offset"].isdecimal(), info
        assert info["last_enqueued_time_utc"] > stream["created_at"], info
        with raises(EventHubError):
            client.get_partition_properties("99")


@case
def events_carry_what_devices_and_the_hub_said():
    device = new_device("read")
    module = new_module(device)
    message = Message('{"temperature": 21.5}')
    message.message_id, message.correlation_id, message.user_id = "id 1", "corr/2", "me"
    message.content_type, message.content_encoding = "application/json", "utf-8"
    message.custom_properties.update({"color": "rot ü", "empty": ""})
    send(device, message)
    send(module, "")
    of_device, of_module = received(device, 2, starting_position="-1", partition_id=partition_of(device))
    equal(of_device.body_as_json(), {"temperature": 21.5})
    equal((of_device.message_id, of_device.correlation_id), ("id 1", "corr/2"))
    equal(of_device.content_type, "application/json")
    equal(texts(of_device.properties), {"color": "rot ü", "empty": ""})
    system = texts(of_device.system_properties)
    equal(system["iothub-message-source"], "Telemetry")
    assert '"scope":"device","type":"sas"' in system["iothub-connection-auth-method"], system
    assert system["iothub-connection-auth-generation-id"], system
    equal((system["user-id"], system["content-encoding"]), ("me", "utf-8"))
    equal(system["x-opt-sequence-number"], of_device.sequence_number)
    assert of_device.offset.isdecimal(), of_device
    age = datetime.datetime.now(datetime.timezone.utc) - of_device.enqueued_time
    assert abs(age) < datetime.timedelta(hours=1), of_device
    system = texts(of_module.system_properties)
    equal((system["iothub-connection-device-id"], system["iothub-connection-module-id"]), (device.id, "mod"))
    equal(of_module.body_as_str(), "")


@case
def a_reader_begins_where_it_wants():
    device = new_device("read")
    send(device, "0", "1")
    time.sleep(0.01)
    send(device, "2", "3")
    partition = partition_of(device)
    events = received(device, 4, starting_position="-1", partition_id=partition)
    equal([event.body_as_str() for event in events], ["0", "1", "2", "3"])
    second = events[1]
    positions = [
        (second.sequence_number, False, "2"),
        (second.offset, True, "1"),
        (events[2].enqueued_time, True, "2"),
    ]
    # Over WebSockets the SDK waits for seconds before each.
    for position, inclusive, expected in positions[:1] if TRANSPORT == "amqp-ws" else positions:
        how = {"starting_position": position, "starting_position_inclusive": inclusive, "partition_id": partition}
        found = received(device, 4 - int(expected), **how)
        equal((position, found[0].body_as_str()), (position, expected))
    with reading(starting_position="@latest", partition_id=partition, track_last_enqueued_event_properties=True) as (new, errors):
        # Whoever begins at the end sees what comes after it has come.
        eventually(lambda: send(device, "late") or new or errors, "an event", 30)
        assert not errors, errors
        assert all(event.body_as_str() == "late" for event in new if device_of(event) == device.id), new


@case
def large_events_and_many_of_them():
    device = new_device("read")
    large = "x" * 200_000
    send(device, *[str(n) for n in range(300)], large)
    events = received(device, 301, starting_position="-1", partition_id=partition_of(device), prefetch=100)
    equal([event.body_as_str() for event in events], [str(n) for n in range(300)] + [large])


@case
def an_epoch_takes_the_partition():
    device = new_device("read")
    send(device, "1")
    how = {"partition_id": partition_of(device), "starting_position": "-1"}
    with reading(owner_level=1, **how) as (first, lost):
        eventually(lambda: first, "an event")
        with reading(owner_level=2, **how) as (second, errors):
            eventually(lambda: second, "an event")
            eventually(lambda: lost, "the loss of the partition")
            assert "amqp:link:stolen" in str(lost[0]), lost
            with reading(owner_level=0, **how) as (third, refused):
                eventually(lambda: refused, "a refusal")
                assert "amqp:link:stolen" in str(refused[0]), refused
                assert not third, third
            assert not errors, errors


class Checkpoints(CheckpointStore):
    """Checkpoints and ownership in memory, as a store in a database would keep them."""

    def __init__(self):
        self.owned, self.checkpoints = {}, {}
        self.lock = threading.Lock()

    def list_ownership(self, *_, **__):
        with self.lock:
            return list(self.owned.values())

    def claim_ownership(self, ownership_list, **_):
        claimed = [{**one, "etag": unique("etag"), "last_modified_time": time.time()} for one in ownership_list]
        with self.lock:
            self.owned.update((one["partition_id"], one) for one in claimed)
        return claimed

    def update_checkpoint(self, checkpoint, **_):
        with self.lock:
            self.checkpoints[checkpoint["partition_id"]] = checkpoint

    def list_checkpoints(self, *_, **__):
        with self.lock:
            return list(self.checkpoints.values())


@case
def a_consumer_goes_on_at_its_checkpoints():
    device = new_device("read")
    store = Checkpoints()
    seen, errors = [], []

    def remember(context, events):
        seen.extend(event.body_as_str() for event in events if device_of(event) == device.id)
        context.update_checkpoint(events[-1])

    # What other scripts have sent is of no interest.
    ends = {str(end["partition"]): end["lastSequenceNumber"] for end in admin("GET", "events/partitions")["partitions"]}
    for run_number in range(2):
        send(device, *[str(20 * run_number + n) for n in range(20)])
        client = consumer(checkpoint_store=store, load_balancing_interval=1)
        receive = {"on_event_batch": remember, "on_error": lambda _, error: errors.append(error), "starting_position": ends}
        thread = threading.Thread(target=client.receive_batch, kwargs=receive, daemon=True)
        thread.start()
        eventually(lambda: len(seen) >= 20 * (run_number + 1) or errors, "20 more events", 30)
        client.close()
        thread.join(10)
        assert not errors, errors
    equal(seen, [str(n) for n in range(40)])


@case
def the_program_of_the_readme_prints_telemetry():
    device = new_device("read")
    send(device, "for the README")
    program = subprocess.Popen(
        [sys.executable, "-c", readme_program("python", "EventHubConsumerClient")],
        env={**os.environ, "EVENTS": EVENT_HUB},
        stdout=subprocess.PIPE,
        text=True,
    )
    timer = threading.Timer(20, program.kill)
    timer.start()
    try:
        assert any(line == f"{device.id} for the README\n" for line in program.stdout), "the program did not print it"
    finally:
        timer.cancel()
        program.kill()


@case
def who_may_not_read_is_told():
    with reading(consumer("no-such-group"), partition_id="0") as (_, errors):
        eventually(lambda: errors, "a refusal")
        assert isinstance(errors[0], EventHubError), errors
    key = connection_string().split("SharedAccessKey=")[1].split(";")[0]
    wrong = connection_string().replace(key, "A" * 43 + "=")
    with consumer(string=wrong) as client, raises(AuthenticationError):
        client.get_partition_ids()
    unknown = connection_string().replace("EntityPath=", "EntityPath=not-")
    with consumer(string=unknown) as client, raises(EventHubError):
        client.get_eventhub_properties()
    producer = EventHubProducerClient.from_connection_string(connection_string(), retry_total=0, **options())
    with producer, raises(EventHubError):
        producer.send_event(EventData("not from a device"))


run()
