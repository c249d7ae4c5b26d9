"""The table of what works: rendering it, and keeping the README's copy true."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

from . import Problem
from .scripts import Run

START, END = "<!-- conformance table -->", "<!-- end -->"

LANGUAGE_NAMES = {"python": "Python", "node": "Node"}
TRANSPORT_NAMES = {
    "mqtt": "MQTT",
    "mqtt-ws": "MQTT-WS",
    "amqp": "AMQP",
    "amqp-plain": "AMQP without TLS",
    "amqp-ws": "AMQP-WS",
    "http": "HTTP",
    "rest": "REST",
}

#: Why a language has no script for a feature.
REASONS = {
    ("http_device", "python"): "the SDK has no HTTP transport for messages",
    ("feedback", "python"): "the SDK cannot receive it",
    ("ports", "python"): "the preload is for Node; the Python SDK has fixed ports",
}
DEFAULT_REASON = "not tested in this language"


def render(runs: list[Run], languages: list[str], versions: dict[str, list[str]]) -> str:
    """The table as Markdown, the same for the same outcome."""
    titles = {run.script.feature: run.script.title for run in runs}
    names = [LANGUAGE_NAMES[language] for language in languages]
    lines = ["| feature | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    notes: list[str] = []
    for feature, title in titles.items():
        cells = []
        for language in languages:
            mine = [run for run in runs if run.script.feature == feature and run.script.language == language]
            cells.append(cell(mine))
            if not mine:
                reason = REASONS.get((feature, language), DEFAULT_REASON)
                notes.append(f"– {title}, {LANGUAGE_NAMES[language]}: {reason}")
            notes += [
                f"✗ {title}, {LANGUAGE_NAMES[language]}, {TRANSPORT_NAMES[run.transport]}: {run.failure}" for run in mine if run.failure
            ]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    tested = [f"{LANGUAGE_NAMES[language]}: {', '.join(packages)}" for language, packages in versions.items()]
    return "\n".join([*lines, "", *bullets(notes), *bullets(tested)])


def cell(runs: list[Run]) -> str:
    """The transports of one feature in one language."""
    return ", ".join(TRANSPORT_NAMES[run.transport] + (" ✗" if run.failure else "") for run in runs) or "–"


def bullets(texts: list[str]) -> list[str]:
    return [f"* {text}" for text in texts]


def find_markers(file: Path) -> tuple[str, str, str]:
    """A file's text before, between and after the markers."""
    try:
        text = file.read_text()
    except OSError as error:
        raise Problem(f"cannot read {file}: {error.strerror}") from error
    before, start, rest = text.partition(START + "\n")
    between, end, after = rest.partition(END)
    if not start or not end:
        raise Problem(f"{file} has no lines {START} and {END}")
    return before, between, after


def update(file: Path, table: str) -> None:
    """Writes the table between the markers."""
    before, _, after = find_markers(file)
    file.write_text(f"{before}{START}\n{table}\n{END}{after}")


def check(file: Path, table: str) -> int:
    """Compares the table between the markers with the one found; 1 if they differ."""
    _, between, _ = find_markers(file)
    difference = list(
        difflib.unified_diff(
            between.strip().splitlines(), table.splitlines(), fromfile=str(file), tofile="this run", lineterm="", n=1
        )
    )
    if difference:
        print("\n".join([f"the table in {file} is out of date (--update {file} writes it):", *difference]), file=sys.stderr)
    return 1 if difference else 0
