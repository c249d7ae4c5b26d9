"""What the scripts need: the SDKs from PyPI and npm, and the hub's binary.

Packages are installed once and again only when the pinned lists change.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from . import Problem

#: Start of the command line that runs a script, by language, and variables it needs.
Commands = dict[str, tuple[list[str], dict[str, str]]]


def prepare(sources: Path, target: Path, languages: set[str]) -> Commands:
    """Installs what `languages` need into `target`."""
    target.mkdir(parents=True, exist_ok=True)
    commands: Commands = {}
    if "python" in languages:
        python = prepare_python(sources / "python" / "requirements.txt", target / "venv")
        commands["python"] = ([str(python)], {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"})
    if "node" in languages:
        modules = prepare_node(sources / "node", target)
        commands["node"] = (["node"], {"NODE_PATH": str(modules), "NODE_NO_WARNINGS": "1"})
    return commands


def prepare_python(requirements: Path, venv: Path) -> Path:
    """Makes the virtual environment; answers its interpreter."""
    python = venv / "bin" / "python"
    stamp = Stamp(venv / ".installed", [requirements], salt=sys.version)
    if not stamp.is_current():
        if sys.version_info >= (3, 14):
            raise Problem("azure-iot-hub needs uamqp, which has no package for Python 3.14: start this with Python 3.9 to 3.13")
        say(f"installing {requirements.name} into {venv}")
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", venv], capture_output=True, text=True)
        if made.returncode != 0:
            raise Problem(
                "python3 -m venv does not work; on Debian and Ubuntu: apt-get install python3-venv\n" + made.stdout + made.stderr
            )
        step([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements], "pip install")
        stamp.write()
    return python


def prepare_node(sources: Path, target: Path) -> Path:
    """Installs the locked packages; answers the directory with the modules."""
    for tool in ("node", "npm"):
        if not shutil.which(tool):
            raise Problem(f"{tool} is missing: install Node.js 18 or newer with npm, or run with --python")
    lists = [sources / "package.json", sources / "package-lock.json"]
    modules = target / "node_modules"
    stamp = Stamp(modules / ".installed", lists)
    if not stamp.is_current():
        say(f"installing package-lock.json into {modules}")
        for file in lists:
            shutil.copy(file, target)
        step(["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], "npm ci", directory=target)
        stamp.write()
    return modules


def build_hub(root: Path, target: Path) -> Path:
    """Builds the hub as the tests do; answers its binary."""
    if not shutil.which("cargo"):
        raise Problem("cargo is missing: install Rust, or give a hub's binary with --hub")
    say("building the hub")
    # The directory is said again: cargo would look for a relative one elsewhere.
    command = ["cargo", "build", "--quiet", "--locked", "-p", "emulator", "--target-dir", target]
    step(command, "cargo build", directory=root)
    return target / "debug" / "iothub-emulator"


class Stamp:
    """A file that remembers which lists were installed."""

    def __init__(self, path: Path, lists: list[Path], salt: str = "") -> None:
        self.path = path
        digest = hashlib.sha256(salt.encode())
        for file in lists:
            digest.update(file.read_bytes())
        self.digest = digest.hexdigest()

    def is_current(self) -> bool:
        return self.path.is_file() and self.path.read_text() == self.digest

    def write(self) -> None:
        self.path.write_text(self.digest)


def step(command: list[object], name: str, directory: Path | None = None) -> None:
    """Runs a command of the set-up; its output is shown only when it fails."""
    done = subprocess.run([str(word) for word in command], cwd=directory, capture_output=True, text=True)
    if done.returncode != 0:
        output = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise Problem(f"{name} failed with status {done.returncode}:\n{output}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
