"""What the processes of a fault test did and saw, as lines of JSON in a file for each: written as it happens.

One line when something begins and one when it ends. A process that is killed in between leaves the first one alone:
then nobody knows whether it was done. Nothing is flushed to the disk: the processes crash here, not the machine.
"""

from __future__ import annotations

import itertools
import json
import os
import time

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import attrs


Outcome = Literal["ok", "fail", "unknown"]
#: What is written down. A claim has no beginning of its own: a listener claims when it likes. Its instant is told by
#: the end of the lease. Deaths are written down by who kills.
Kind = Literal["store", "remove", "emit", "ack", "nack", "death"]


@attrs.frozen(kw_only=True)
class Event:
    """Something that a process did, from its beginning to its end."""

    kind: Kind
    process: str
    id: str = ""
    #: Of the content: each store of an id has another.
    version: str = ""
    #: Seconds by the machine's monotonic clock, which all its processes share, and by its wall clock.
    begun: float
    begun_wall: float
    #: None: it never ended.
    ended: float | None = None
    ended_wall: float | None = None
    #: ``fail`` means not done, for sure: for an ack, that the lease was lost.
    outcome: Outcome = "unknown"
    #: The class of the error, if there was one.
    error: str | None = None
    #: Of stores: the instant for which it was stored, in ms; how often it is to be emitted, and how many ms apart.
    due: int = 0
    occurrences: int = 1
    every: int = 0
    #: Of emissions and their settlements: which occurrence, which attempt, and the instants of its lease, in ms.
    key: str = ""
    scheduled_for: int = 0
    attempt: int = 0
    leased_until: int = 0
    lock: int = 0

    @property
    def claimed(self) -> int:
        """The instant, in ms, from which the lease was counted."""
        return self.leased_until - self.lock


class History:
    """Writes down what one process does."""

    def __init__(self, path: Path, process: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._process = process
        self._numbers = itertools.count()

    def begin(self, kind: Kind, **fields: Any) -> int:
        """Write down that something begins; the number is for :meth:`end`."""
        number = next(self._numbers)
        self._write({"n": number, "kind": kind, "process": self._process, **_now("begun"), **fields})
        return number

    def end(self, number: int, outcome: Outcome, error: Exception | None = None) -> None:
        name = None if error is None else type(error).__name__
        self._write({"n": number, "outcome": outcome, "error": name, **_now("ended")})

    def note(self, kind: Kind, **fields: Any) -> None:
        """Write down something that took no time."""
        self.end(self.begin(kind, **fields), "ok")

    def close(self) -> None:
        os.close(self._file)

    def _write(self, fields: dict[str, Any]) -> None:
        # One write, so that it is there whole or not at all; threads may write at the same time.
        os.write(self._file, json.dumps(fields, separators=(",", ":")).encode() + b"\n")


def _now(what: str) -> dict[str, float]:
    return {what: time.monotonic(), f"{what}_wall": time.time()}


def read(folder: Path) -> list[Event]:
    """All events of all processes, by their beginnings."""
    events = [event for path in folder.glob("*.jsonl") for event in _read_file(path)]
    return sorted(events, key=lambda event: event.begun)


def _read_file(path: Path) -> Iterator[Event]:
    fields: dict[int, dict[str, Any]] = {}
    # A line that is being written at this moment may be read in part. Each complete line ends in a line break.
    *lines, _ = path.read_bytes().split(b"\n")
    for line in lines:
        told = json.loads(line)
        fields.setdefault(told.pop("n"), {}).update(told)
    for each in fields.values():
        yield Event(**each)
