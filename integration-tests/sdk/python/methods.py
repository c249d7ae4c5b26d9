# feature: Direct methods
# transports: mqtt, mqtt-ws
"""Direct methods of devices and modules: answers, time-outs, and what is refused."""

import threading
import time

from azure.iot.device import MethodResponse
from azure.iot.hub.models import CloudToDeviceMethod

from support import answer_methods, case, client_of, connected, equal, new_device, new_module, raises, refused, registry, rest, run, unique


def call(device_id, name="echo", payload=None, response=None, connect=None):
    request = CloudToDeviceMethod(
        method_name=name, payload=payload, response_timeout_in_seconds=response, connect_timeout_in_seconds=connect
    )
    return registry().invoke_device_method(device_id, request)


def echo(name, payload):
    return 200, payload


@case
def the_device_answers():
    device = new_device("methods")
    with connected(device) as client:
        calls = answer_methods(client, lambda name, payload: (200, {"Response": name + " called successfully"}))
        result = call(device.id, "lockDoor", {"lockTime": "10m"})
        equal((result.status, result.payload), (200, {"Response": "lockDoor called successfully"}))
        equal(calls, [("lockDoor", {"lockTime": "10m"})])


@case
def payloads_of_every_kind_pass_both_ways():
    nested = {"a": [1, 2.5, None, {"b": {"c": [[], {}]}}], "ü/€\n": "„✓“", "empty": "", "big": 2**52, "no": False}
    device = new_device("methods")
    with connected(device) as client:
        answer_methods(client, echo)
        for payload in (nested, "text", "", 0, -1.5, True, False, [], {}, [None], "x" * 100_000):
            result = call(device.id, payload=payload)
            equal((result.status, result.payload), (200, payload))


@case
def a_null_payload_is_a_payload():
    device = new_device("methods")
    with connected(device) as client:
        calls = answer_methods(client, lambda name, payload: (200, None))
        answer = rest("POST", f"/twins/{device.id}/methods", {"methodName": "nothing", "payload": None})
        equal((answer.status, answer.body), (200, {"status": 200, "payload": None}))
        answer = rest("POST", f"/twins/{device.id}/methods", {"methodName": "less"})
        equal((answer.status, answer.body), (200, {"status": 200, "payload": None}))
        call(device.id, "sdk", None)
        equal([name for name, _ in calls], ["nothing", "less", "sdk"])
        equal([payload for _, payload in calls[:2]], [None, None])
        assert calls[2][1] in (None, ""), calls


@case
def the_devices_status_is_passed_on():
    device = new_device("methods")
    with connected(device) as client:
        answer_methods(client, lambda name, payload: (int(payload), {"as": name}))
        for status in (200, 299, 404, 500, 0, -7, 2**31 - 1):
            result = call(device.id, "status", status)
            equal((result.status, result.payload), (status, {"as": "status"}))


@case
def names_are_passed_on():
    device = new_device("methods")
    with connected(device) as client:
        calls = answer_methods(client, echo)
        names = ["lockDoor", "LOCKDOOR", "with-dash_and.dot", "component*command", "x" * 100]
        for name in names:
            call(device.id, name)
        equal([name for name, _ in calls], names)


@case
def calls_do_not_wait_for_each_other():
    device = new_device("methods")
    release = threading.Event()
    with connected(device) as client:
        def on_request(request):
            if request.name == "slow":
                release.wait(10)
            else:
                release.set()
            client.send_method_response(MethodResponse.create_from_method_request(request, 200, request.name))

        client.on_method_request_received = on_request
        results = []
        threads = [threading.Thread(target=lambda n=n: results.append(call(device.id, n).payload)) for n in ("slow", "quick")]
        threads[0].start()
        time.sleep(0.1)  # the slow call is likely first; either order must work
        threads[1].start()
        for thread in threads:
            thread.join(15)
        equal(sorted(results), ["quick", "slow"])


@case
def modules_have_methods_of_their_own():
    device = new_device("methods")
    module = new_module(device)
    request = CloudToDeviceMethod(method_name="who", payload={"n": 1})
    with connected(device) as client, connected(module) as module_client:
        answer_methods(client, lambda name, payload: (200, "device"))
        answer_methods(module_client, lambda name, payload: (201, "module"))
        result = registry().invoke_device_module_method(device.id, module.id, request)
        equal((result.status, result.payload), (201, "module"))
        equal(call(device.id, "who").payload, "device")
    with raises(404, "DeviceNotOnline"):
        registry().invoke_device_module_method(device.id, module.id, request)
    with raises(404, "ModuleNotFound"):
        registry().invoke_device_module_method(device.id, "absent", request)


@case
def a_device_that_is_offline():
    device = new_device("methods")
    with raises(404, "DeviceNotOnline") as refusal:
        call(device.id)
    equal(refusal.detail["errorCode"], 404103)
    assert refusal.detail["message"] and refusal.detail["trackingId"] and refusal.detail["timestampUtc"], refusal.detail
    assert "info" in refusal.detail, refusal.detail
    with connected(device):
        with raises(404, "DeviceNotOnline"):  # connected, but not listening
            call(device.id)


@case
def devices_that_cannot_be_called():
    with raises(404, "DeviceNotFound"):
        call(unique("absent"))
    with raises(404) as refusal:
        call(new_device(status="disabled").id)
    assert refusal.error.response.headers["iothub-errorcode"] in ("DeviceNotFound", "DeviceNotOnline")


@case
def a_call_waits_for_the_device_to_connect():
    device = new_device("methods")
    result = []
    caller = threading.Thread(target=lambda: result.append(call(device.id, "early", "bird", connect=20)))
    caller.start()
    client = client_of(device)
    time.sleep(0.3)  # the call must find nobody; if it comes late the case still holds
    client.connect()
    answer_methods(client, echo)
    caller.join(20)
    client.shutdown()
    equal([(r.status, r.payload) for r in result], [(200, "bird")])


@case
def a_call_waits_no_longer_than_it_may():
    device = new_device("methods")
    started = time.monotonic()
    with raises(404, "DeviceNotOnline") as refusal:
        call(device.id, connect=1)
    assert 0.8 < time.monotonic() - started < 5, time.monotonic() - started
    equal(refusal.detail["errorCode"], 404103)


@case
def a_device_that_does_not_answer_in_time():
    device = new_device("methods")
    with connected(device) as client:
        asked = []
        client.on_method_request_received = asked.append
        started = time.monotonic()
        with raises(504, "GatewayTimeout") as refusal:
            call(device.id, "ignored", {}, response=5)
        assert 4.5 < time.monotonic() - started < 9, time.monotonic() - started
        equal(refusal.detail["errorCode"], 504101)
        equal(refusal.detail["message"], "Timed out waiting for the response from device.")
        equal(len(asked), 1)
        # A late answer harms nobody, and the next call is answered.
        client.send_method_response(MethodResponse.create_from_method_request(asked[0], 200, "late"))
        answer_methods(client, echo)
        equal(call(device.id, payload="next").payload, "next")


@case
def a_device_that_leaves_during_a_call():
    device = new_device("methods")
    client = client_of(device)
    client.connect()
    # The SDK cannot disconnect from inside a handler: it would wait for itself.
    client.on_method_request_received = lambda request: threading.Thread(target=client.disconnect).start()
    with raises(404, "DeviceNotOnline") as refusal:
        call(device.id, "leave", {}, response=30)
    equal(refusal.detail["errorCode"], 404103)
    client.shutdown()


@case
def requests_that_are_refused():
    device = new_device("methods")
    with connected(device) as client:
        calls = answer_methods(client, echo)
        for response, connect, text in ((4, 0, "[5; 300]"), (301, 0, "[5; 300]"), (30, 301, "[0; 300]"), (30, -1, "[0; 300]")):
            with raises(400, "ArgumentInvalid") as refusal:
                call(device.id, "bad", {}, response, connect)
            assert text in refusal.message, refusal.message
        for name in ("", "x" * 101, "a/b"):
            with raises(400) as refusal:
                call(device.id, name, {})
        with raises(400) as refusal:
            registry().invoke_device_method(device.id, CloudToDeviceMethod(payload={}))
        with raises(413, "MessageTooLarge"):
            call(device.id, "large", "x" * 131_072)
        refused(rest("POST", f"/twins/{device.id}/methods", b'{"methodName":'), 400, "ArgumentInvalid")
        equal(calls, [])


run()
