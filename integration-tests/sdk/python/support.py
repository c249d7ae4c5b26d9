"""What the scripts share: cases, clients for the transport under test, raw REST, waiting.

A script is a list of functions marked `@case` and a call of `run()`. Cases run in order;
the first failure ends the script, and the last line on stderr says why.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import logging
import os
import re
import sys
import threading
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request
import uuid
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator

from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient, MethodResponse
from azure.iot.hub import (
    DigitalTwinClient,
    IoTHubConfigurationManager,
    IoTHubHttpRuntimeManager,
    IoTHubJobManager,
    IoTHubRegistryManager,
)
from msrest.exceptions import HttpOperationError

TRANSPORT = os.environ["TRANSPORT"]
HOST = os.environ["HUB_HOST"]
SERVICE = os.environ["SERVICE_CONNECTION_STRING"]
ADMIN = os.environ["HUB_ADMIN"]

#: The version of the REST API that the service SDK speaks.
API_VERSION = "2021-04-12"

#: How long a condition may take to come true, in seconds.
DEADLINE = 15.0

#: How long a whole script may take, in seconds.
SCRIPT_SECONDS = 80.0

_cases: list[Callable[[], None]] = []


def case(function: Callable[[], None]) -> Callable[[], None]:
    """Marks a case of the script; its name says what it shows."""
    _cases.append(function)
    return function


def run() -> None:
    """Runs the script's cases and ends the process, whatever threads the SDKs have left."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    watchdog = threading.Timer(SCRIPT_SECONDS, lambda: end(f"not done after {SCRIPT_SECONDS:.0f} s"))
    watchdog.daemon = True
    watchdog.start()
    for function in _cases:
        started = time.monotonic()
        name = function.__name__.replace("_", " ")
        try:
            function()
        except BaseException as error:  # also what the SDK raises as BaseException
            traceback.print_exc()
            end(f"{name}: {reason(error)}")
        print(f"ok  {name} ({time.monotonic() - started:.2f} s)", flush=True)
    end()


def end(failure: str | None = None) -> None:
    if failure:
        print(" ".join(failure.split())[:400], file=sys.stderr, flush=True)
    os._exit(1 if failure else 0)


def reason(error: BaseException) -> str:
    """An error in one line, with the line of the script that it comes from."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == sys.argv[0]]
    place = f" [{os.path.basename(frames[-1].filename)}:{frames[-1].lineno} {frames[-1].line}]" if frames else ""
    text = str(error)
    if isinstance(error, HttpOperationError):
        text = f"{error.response.status_code} {error.response.text}"
    return f"{type(error).__name__}: {text}{place}" if text else f"{type(error).__name__}{place}"


# --- expectations


def equal(actual: Any, expected: Any) -> None:
    assert actual == expected, f"{actual!r} is not {expected!r}"


def eventually(condition: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
    """Asks again until the condition is true, and answers what it answered."""
    last = None
    until = time.monotonic() + deadline
    while time.monotonic() < until:
        last = condition()
        if last:
            return last
        time.sleep(0.02)
    raise AssertionError(f"waited {deadline:.0f} s for {what}; last seen: {last!r}")


@dataclass
class Refusal:
    """An error that was expected."""

    error: BaseException | None = None
    #: The classic envelope's text.
    message: str = ""
    #: The object that some errors carry as JSON inside `message`.
    detail: dict = field(default_factory=dict)


@contextlib.contextmanager
def raises(expected: int | type[BaseException], code: str | None = None) -> Iterator[Refusal]:
    """Expects an exception class or, of the service SDK, an HTTP status with the service's error code."""
    refusal = Refusal()
    try:
        yield refusal
    except BaseException as error:
        if isinstance(expected, int):
            if not isinstance(error, HttpOperationError):
                raise
            response = error.response
            read_refusal(refusal, response.status_code, response.headers, response.text, expected, code)
        elif not isinstance(error, expected):
            raise
        refusal.error = error
    else:
        raise AssertionError(f"no error, {expected} {code or ''} was expected")


def read_refusal(refusal: Refusal, status: int, headers: Any, text: str, expected: int, code: str | None) -> None:
    """Checks an error answer: status, code in header and body, envelope."""
    got = f"{status} {headers.get('iothub-errorcode')} {text}"
    equal((status, got), (expected, got))
    assert "x-ms-request-id" in headers, "an error without x-ms-request-id"
    if code is None:
        return
    assert headers.get("iothub-errorcode") == code, f"{code} was expected: {got}"
    assert headers.get("content-type", "").startswith("application/json"), got
    body = json.loads(text)
    assert {"Message", "ExceptionMessage"} <= set(body), got
    refusal.message = body["Message"]
    if refusal.message.startswith("{"):
        refusal.detail = json.loads(refusal.message)
        equal(refusal.detail["errorCode"] // 1000, expected)
    else:
        assert refusal.message.startswith(f"ErrorCode:{code};"), got


# --- the service's side


def registry() -> IoTHubRegistryManager:
    return IoTHubRegistryManager.from_connection_string(SERVICE)


def scheduled_jobs() -> IoTHubJobManager:
    return IoTHubJobManager.from_connection_string(SERVICE)


def configurations() -> IoTHubConfigurationManager:
    return IoTHubConfigurationManager.from_connection_string(SERVICE)


def digital_twins() -> DigitalTwinClient:
    return DigitalTwinClient.from_connection_string(SERVICE)


def http_runtime() -> IoTHubHttpRuntimeManager:
    return IoTHubHttpRuntimeManager.from_connection_string(SERVICE)


def service_string(policy: str = "iothubowner", key: str | None = None) -> str:
    """The service's connection string with another policy or another key."""
    key = key or fields(SERVICE)["SharedAccessKey"]
    return f"HostName={HOST};SharedAccessKeyName={policy};SharedAccessKey={key}"


def fields(connection_string: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in connection_string.split(";"))


def unique(name: str) -> str:
    """An id that no other script and no other run uses."""
    return f"{name}-{uuid.uuid4().hex[:12]}"


def readme_program(language: str, word: str) -> str:
    """The README's program in a language that has this word in it."""
    readme = Path(__file__).parents[3] / "README.md"
    programs = re.findall(rf"```{language}\n(.*?)```", readme.read_text(), re.DOTALL)
    (program,) = [program for program in programs if word in program]
    return program


def random_key(length: int = 32) -> str:
    return base64.b64encode(os.urandom(length)).decode()


@dataclass
class Device:
    """A device of a script's own."""

    id: str
    key: str

    @property
    def connection_string(self) -> str:
        return f"HostName={HOST};DeviceId={self.id};SharedAccessKey={self.key}"


@dataclass
class Module:
    """A module of a script's own."""

    device_id: str
    id: str
    key: str

    @property
    def connection_string(self) -> str:
        return f"HostName={HOST};DeviceId={self.device_id};ModuleId={self.id};SharedAccessKey={self.key}"


def new_device(name: str = "py", status: str = "enabled", iot_edge: bool = False) -> Device:
    made = registry().create_device_with_sas(unique(name), None, None, status, iot_edge)
    return Device(made.device_id, made.authentication.symmetric_key.primary_key)


def new_module(device: Device, module_id: str = "mod") -> Module:
    made = registry().create_module_with_sas(device.id, module_id, "me", None, None)
    return Module(device.id, module_id, made.authentication.symmetric_key.primary_key)


# --- the device's side


def client_of(identity: Device | Module, **options: Any) -> Any:
    """A device or module client for the transport under test, not connected."""
    return client_from(identity.connection_string, **options)


def client_from(connection_string: str, **options: Any) -> Any:
    kind = IoTHubModuleClient if "ModuleId=" in connection_string else IoTHubDeviceClient
    return kind.create_from_connection_string(connection_string, **transport_options(), **options)


def transport_options() -> dict[str, Any]:
    return {"websockets": TRANSPORT == "mqtt-ws"}


@contextlib.contextmanager
def connected(identity: Device | Module, **options: Any) -> Iterator[Any]:
    """A connected client that is shut down in the end."""
    client = client_of(identity, **options)
    client.connect()
    try:
        yield client
    finally:
        client.shutdown()


def answer_methods(client: Any, answer: Callable[[str, Any], tuple[int, Any]]) -> list[tuple[str, Any]]:
    """Answers direct methods by a function of name and payload; answers a list that calls are added to."""
    calls: list[tuple[str, Any]] = []

    def on_request(request: Any) -> None:
        calls.append((request.name, request.payload))
        status, payload = answer(request.name, request.payload)
        client.send_method_response(MethodResponse.create_from_method_request(request, status, payload))

    client.on_method_request_received = on_request
    return calls


def connection_state(device_id: str) -> str:
    return registry().get_device(device_id).connection_state


# --- without an SDK


@dataclass
class Answer:
    """What a raw request brought back."""

    status: int
    headers: Any
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)


def sas_token(resource: str, key: str, policy: str | None = None, ttl: float = 3600) -> str:
    quoted = urllib.parse.quote(resource, safe="")
    expiry = int(time.time() + ttl)
    digest = hmac.new(base64.b64decode(key), f"{quoted}\n{expiry}".encode(), hashlib.sha256).digest()
    token = f"SharedAccessSignature sr={quoted}&sig={urllib.parse.quote(base64.b64encode(digest), safe='')}&se={expiry}"
    return f"{token}&skn={policy}" if policy else token


def rest(
    method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, token: str | None = None
) -> Answer:
    """A REST request as the SDK would send it, for what the SDK cannot send or does not show."""
    token = token or sas_token(HOST, fields(SERVICE)["SharedAccessKey"], "iothubowner")
    separator = "&" if "?" in path else "?"
    url = f"https://{HOST}{path}{separator}api-version={API_VERSION}"
    return http(method, url, body, {"Authorization": token, **(headers or {})})


def refused(answer: Answer, status: int, code: str) -> Refusal:
    """Checks that a raw request was refused."""
    refusal = Refusal()
    read_refusal(refusal, answer.status, answer.headers, answer.text, status, code)
    return refusal


def admin(method: str, path: str, body: Any = None) -> Any:
    """An admin endpoint of the emulator; answers its JSON."""
    answer = http(method, f"{ADMIN}/_emulator/{path}", body, {})
    assert answer.status < 300, f"{method} {path}: {answer.status} {answer.text}"
    return json.loads(answer.text) if answer.text else None


def http(method: str, url: str, body: Any, headers: dict[str, str]) -> Answer:
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        response = urllib.request.urlopen(request, timeout=DEADLINE)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        return Answer(response.status, response.headers, response.read().decode())


_telemetry_start = None


def telemetry_of(device_id: str) -> list[dict]:
    """The telemetry of a device since the script's first look, oldest first."""
    return [m for m in admin("GET", f"telemetry?after={telemetry_position()}")["messages"] if m["deviceId"] == device_id]


def telemetry_position() -> int:
    global _telemetry_start
    if _telemetry_start is None:
        _telemetry_start = admin("GET", f"telemetry?after={2**62}")["total"]
    return _telemetry_start
