"""The scripts: which there are, and running them a few at a time."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import Problem
from .environment import Commands
from .hub import die_with_parent, kill_group

LANGUAGES = {"python": ".py", "node": ".js"}
TRANSPORTS = ("mqtt", "mqtt-ws", "amqp", "amqp-plain", "amqp-ws", "http", "rest")

#: Features in the order of the table.
FEATURES = (
    "identities",
    "etags",
    "bulk",
    "modules",
    "edge_scopes",
    "statistics",
    "twins",
    "device_twin",
    "methods",
    "jobs",
    "queries",
    "telemetry",
    "c2d",
    "c2d_service",
    "feedback",
    "sas_renewal",
    "sessions",
    "identity_changes",
    "x509",
    "plug_and_play",
    "http_device",
    "file_upload",
    "configurations",
    "import_export",
    "tutorial",
    "ports",
)

#: What a whole hub has one of. Scripts of features that need the same one run one after the other.
SHARED = {
    "c2d": "feedback",
    "c2d_service": "feedback",
    "feedback": "feedback",
    "http_device": "feedback",
    "statistics": "feedback",
    "import_export": "import and export job",
}


@dataclass(frozen=True)
class Script:
    """One file: a feature in a language."""

    path: Path
    language: str
    feature: str
    title: str
    transports: tuple[str, ...]


@dataclass
class Run:
    """A script over one transport, and how it ended."""

    script: Script
    transport: str
    log: Path
    #: Why it failed, in one line; None if it passed.
    failure: str | None = None
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.script.feature} {self.script.language} {self.transport}"

    def last_lines(self, count: int) -> list[str]:
        return self.log.read_text(errors="replace").rstrip().splitlines()[-count:]


def discover(sources: Path) -> list[Script]:
    """All scripts in the order of the table."""
    found = [
        read_header(path, language)
        for language, extension in LANGUAGES.items()
        for path in sorted((sources / language).glob(f"*{extension}"))
        if path.stem in FEATURES or "feature:" in path.open().readline()
    ]
    titles: dict[str, str] = {}
    for script in found:
        if titles.setdefault(script.feature, script.title) != script.title:
            raise Problem(f"{script.path} says {script.title!r}, the other language {titles[script.feature]!r}")
    return sorted(found, key=lambda s: (FEATURES.index(s.feature), list(LANGUAGES).index(s.language)))


def read_header(path: Path, language: str) -> Script:
    """Reads title and transports from a script's first two lines."""
    lines = path.read_text().splitlines()[:2]
    header = re.fullmatch(r"(?:#|//) feature: (.+)\n(?:#|//) transports: (.+)", "\n".join(lines))
    if not header:
        raise Problem(f"{path} does not start with a `feature:` and a `transports:` line")
    transports = tuple(name.strip() for name in header[2].split(","))
    if unknown := set(transports) - set(TRANSPORTS):
        raise Problem(f"{path} names unknown transports: {', '.join(sorted(unknown))}")
    if path.stem not in FEATURES:
        raise Problem(f"{path} is no feature that has a place in the table: {', '.join(FEATURES)}")
    return Script(path, language, path.stem, header[1].strip(), transports)


def select(
    found: list[Script], features: list[str], languages: list[str] | None, transports: list[str] | None
) -> list[Script]:
    """The scripts that were asked for."""
    if unknown := set(features) - {script.feature for script in found}:
        raise Problem(f"there is no script for {', '.join(sorted(unknown))}; --list names all")
    if unknown := set(transports or ()) - set(TRANSPORTS):
        raise Problem(f"there is no transport {', '.join(sorted(unknown))}: it is one of {', '.join(TRANSPORTS)}")
    chosen = []
    for script in found:
        kept = tuple(t for t in script.transports if not transports or t in transports)
        if kept and (not features or script.feature in features) and (not languages or script.language in languages):
            chosen.append(Script(script.path, script.language, script.feature, script.title, kept))
    if not chosen:
        raise Problem("nothing is left to run")
    return chosen


def pinned_versions(sources: Path, languages: list[str]) -> dict[str, list[str]]:
    """The SDK packages under test and their versions, by language, as pinned."""
    versions: dict[str, list[str]] = {}
    if "python" in languages:
        lines = (sources / "python" / "requirements.txt").read_text().splitlines()
        versions["python"] = [line.replace("==", " ") for line in lines if line.startswith("azure-")]
    if "node" in languages:
        dependencies = json.loads((sources / "node" / "package.json").read_text())["dependencies"]
        versions["node"] = [f"{name} {version}" for name, version in sorted(dependencies.items()) if name.startswith(("azure-", "@azure/"))]
    return versions


@dataclass
class Active:
    """A script that runs at this moment."""

    run: Run
    process: subprocess.Popen
    started: float


@dataclass
class Runner:
    """Runs scripts against a hub."""

    commands: Commands
    environment: dict[str, str]
    logs: Path
    timeout: float
    active: list[Active] = field(default_factory=list)

    def run(self, scripts: list[Script], jobs: int) -> list[Run]:
        """Runs each script over each of its transports, at most `jobs` at a time."""
        self.logs.mkdir(parents=True, exist_ok=True)
        runs = [
            Run(script, transport, self.logs / f"{script.feature}-{script.language}-{transport}.log")
            for script in scripts
            for transport in script.transports
        ]
        waiting = list(runs)
        progress = Progress(len(runs))
        try:
            while waiting or self.active:
                while len(self.active) < jobs and (run := self.next_of(waiting)):
                    waiting.remove(run)
                    self.start(run)
                    progress.show(self.active)
                time.sleep(0.02)
                for active in [a for a in self.active if self.has_ended(a)]:
                    self.active.remove(active)
                    progress.finished(active.run, self.active)
        finally:
            progress.clear()
            for active in self.active:
                kill_group(active.process)
        return runs

    def next_of(self, waiting: list[Run]) -> Run | None:
        """The first run that shares nothing with those that are active."""
        taken = {SHARED.get(active.run.script.feature) for active in self.active} - {None}
        return next((run for run in waiting if SHARED.get(run.script.feature) not in taken), None)

    def start(self, run: Run) -> None:
        command, variables = self.commands[run.script.language]
        with run.log.open("w") as log:
            process = subprocess.Popen(
                [*command, run.script.path],
                env={**os.environ, **variables, **self.environment, "TRANSPORT": run.transport},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self.active.append(Active(run, process, time.monotonic()))

    def has_ended(self, active: Active) -> bool:
        run = active.run
        run.seconds = time.monotonic() - active.started
        status = active.process.poll()
        if status is None and run.seconds < self.timeout:
            return False
        if status is None:
            run.failure = f"still running after {self.timeout:.0f} s"
        elif status != 0:
            run.failure = (run.last_lines(1) or [f"ended with status {status}"])[0].strip()
        kill_group(active.process)  # whatever the script has started ends with it
        return True


class Progress:
    """Progress on stderr: a status line on a terminal, otherwise a line per finished script."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.is_terminal = sys.stderr.isatty()

    def show(self, active: list[Active]) -> None:
        if self.is_terminal:
            line = f"{self.done}/{self.total}  {', '.join(str(a.run) for a in active)}"
            width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
            print(f"\r\x1b[K{line[: width - 1]}", end="", file=sys.stderr, flush=True)

    def finished(self, run: Run, active: list[Active]) -> None:
        self.done += 1
        if run.failure or not self.is_terminal:
            self.clear()
            verdict = f"FAILED  {run.failure}" if run.failure else "ok"
            print(f"{self.done:3}/{self.total}  {str(run):34} {run.seconds:5.1f} s  {verdict}", file=sys.stderr, flush=True)
        self.show(active)

    def clear(self) -> None:
        if self.is_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
