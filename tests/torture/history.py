"""History: the events of the processes of a fault test. Each process writes them to a file of its own, as lines of JSON.

An event has one line when it begins, and one when it ends. A process that is killed in between leaves only the first line, and
the outcome of the event is unknown. Nothing is flushed to the disk, because the processes crash here, and not the machine.
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
#: The kinds of events. A claim is no event, because a listener claims by itself. The end of the lease gives its instant. The
#: process that kills another one records its death.
Kind = Literal["store", "remove", "emit", "ack", "nack", "death"]


@attrs.frozen(kw_only=True)
class Event:
    """An operation of a process, from its beginning to its end."""

    kind: Kind
    process: str
    id: str = ""
    #: The version of the content. Each store of an id has another one.
    version: str = ""
    #: Seconds by the machine's monotonic clock, which all processes share, and by its wall clock.
    begun: float
    begun_wall: float
    #: None if it never ended.
    ended: float | None = None
    ended_wall: float | None = None
    #: ``fail`` means certainly not done. For an ack it means that the lease was lost.
    outcome: Outcome = "unknown"
    #: The class of the error, if there was one.
    error: str | None = None
    #: Of stores: the instant for which it was stored, in ms, the number of occurrences, and the ms between them.
    due: int = 0
    occurrences: int = 1
    every: int = 0
    #: Of emissions and their settlements: the occurrence, the attempt, and the instants of the lease, in ms.
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
    """Records the events of one process."""

    def __init__(self, path: Path, process: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._process = process
        self._numbers = itertools.count()

    def begin(self, kind: Kind, **fields: Any) -> int:
        """Record the beginning of an event. The returned number is for :meth:`end`."""
        number = next(self._numbers)
        self._write({"n": number, "kind": kind, "process": self._process, **_now("begun"), **fields})
        return number

    def end(self, number: int, outcome: Outcome, error: Exception | None = None) -> None:
        name = None if error is None else type(error).__name__
        self._write({"n": number, "outcome": outcome, "error": name, **_now("ended")})

    def note(self, kind: Kind, **fields: Any) -> None:
        """Record an event that took no time."""
        self.end(self.begin(kind, **fields), "ok")

    def close(self) -> None:
        os.close(self._file)

    def _write(self, fields: dict[str, Any]) -> None:
        # One write for each line, because threads may write at the same time.
        os.write(self._file, json.dumps(fields, separators=(",", ":")).encode() + b"\n")


def _now(what: str) -> dict[str, float]:
    return {what: time.monotonic(), f"{what}_wall": time.time()}


def read(folder: Path) -> list[Event]:
    """Return all events of all processes, in the order of their beginnings."""
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
