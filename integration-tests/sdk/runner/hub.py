"""The hub under test: one process on the standard ports, which the SDKs cannot change.

Where the system allows it, hub and scripts live in a network namespace of their own, so
that a hub (or a web server) that runs already does not matter.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

from . import Problem

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
PR_SET_PDEATHSIG = 1

STANDARD_PORTS = {"mqtt": 1883, "mqtts": 8883, "amqp": 5672, "amqps": 5671, "http": 8080, "https": 443}
START_SECONDS = 20


class Hub:
    """A running hub; a context manager that ends it."""

    def __init__(self, binary: Path, target: Path) -> None:
        if not binary.is_file():
            raise Problem(f"there is no hub at {binary}")
        self.binary = binary
        self.data = target / "hub"
        self.log = target / "hub.log"
        self.info: dict = {}

    def __enter__(self) -> Hub:
        self.isolated = enter_private_network()
        self.data.mkdir(parents=True, exist_ok=True)
        info_file = self.data / "info.json"
        info_file.unlink(missing_ok=True)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [self.binary, "--data-dir", self.data, "--info-file", info_file],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        try:
            self.info = self.wait_for(info_file)
            self.check_ports()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        status = self.process.poll()
        self.stop()
        if status is not None:
            print(f"the hub ended during the run with status {status}:\n{self.output()}", file=sys.stderr)

    def wait_for(self, info_file: Path) -> dict:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Problem(f"the hub did not start:\n{self.output()}{self.advice()}")
            try:
                return json.loads(info_file.read_text())
            except (FileNotFoundError, json.JSONDecodeError):
                time.sleep(0.02)
        raise Problem(f"the hub was not ready after {START_SECONDS} s:\n{self.output()}")

    def check_ports(self) -> None:
        ports = self.info["ports"]
        wrong = [f"{name} on {ports.get(name)} instead of {port}" for name, port in STANDARD_PORTS.items() if ports.get(name) != port]
        if wrong:
            raise Problem(f"the SDKs need the standard ports, but the hub has {', '.join(wrong)}.{self.advice()}")

    def advice(self) -> str:
        if self.isolated:
            return ""
        return (
            "\nThis user may not make a network namespace, so the ports 443, 8883, 8080, 1883, 5671 and 5672 of this machine are used: they must"
            "\nbe free, and 443 must be allowed (run as root, or: sudo sysctl net.ipv4.ip_unprivileged_port_start=443)."
        )

    def environment(self) -> dict[str, str]:
        """What scripts learn about the hub."""
        ca = self.info["caFile"]
        trust = ("HUB_CA_FILE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
        return {
            "HUB_HOST": self.info["hostName"],
            "HUB_ADMIN": f"http://127.0.0.1:{self.info['ports']['http']}",
            "SERVICE_CONNECTION_STRING": self.info["serviceConnectionString"],
            **dict.fromkeys(trust, ca),
        }

    def output(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    def stop(self) -> None:
        kill_group(self.process)


def enter_private_network() -> bool:
    """Moves this process, and so its children, into a network of their own with a loopback
    interface. Answers whether that was allowed."""
    if sys.platform != "linux":
        return False
    # A child tries it first: some systems allow the namespace and then no interface in it,
    # and there is no way back.
    child = os.fork()
    if child == 0:
        try:
            make_private_network()
        except OSError:
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        return False
    make_private_network()
    return True


def make_private_network() -> None:
    user, group = os.getuid(), os.getgid()
    if not unshare(CLONE_NEWNET):
        if not unshare(CLONE_NEWUSER | CLONE_NEWNET):
            raise OSError("namespaces are not allowed")
        # Only root of the new user namespace may open ports below 1024 in it.
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    bring_loopback_up()


def unshare(flags: int) -> bool:
    return ctypes.CDLL(None).unshare(flags) == 0


def bring_loopback_up() -> None:
    request = struct.Struct("16sh14x")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, SIOCGIFFLAGS, request.pack(b"lo", 0))
        flags = request.unpack(answer)[1]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, request.pack(b"lo", flags | IFF_UP))


def die_with_parent() -> None:
    """For a child before it runs its program: even a killed runner leaves nothing behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def kill_group(process: subprocess.Popen) -> None:
    """Ends a process that leads its own session, and all that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
