"""The common part of the scripts of all peers: their task and their output. It uses only the standard library."""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any


def task() -> dict[str, Any]:
    given: dict[str, Any] = json.loads(sys.argv[1])
    return given


def tell(distribution: str, config: str, **figures: object) -> None:
    print(json.dumps({"version": version(distribution), "config": config, **figures}), flush=True)


def per_second(count: int, begin: float) -> float:
    return count / (time.perf_counter() - begin)


def dues(gaps: Sequence[float], ahead: float = 2.0) -> list[float]:
    """Return the due times in seconds since the epoch, this far apart, beginning soon."""
    begin = time.time() + ahead
    return [begin + offset for offset in itertools.accumulate(gaps)]


class Seen:
    """The messages of a handler so far. The rate runs from the first to the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._enough = threading.Event()
        self.start(0)

    def start(self, wanted: int) -> None:
        """Begin to count up to this number."""
        self._enough.clear()
        self._wanted = wanted
        self._first = self._last = 0.0
        self.count = 0
        self.late: list[float] = []

    def one(self, due: float | None = None) -> None:
        """Count a message of the handler."""
        now, wall = time.perf_counter(), time.time()
        with self._lock:
            self.count += 1
            if self.count == 1:
                self._first = now
            self._last = now
            if due is not None:
                self.late.append((wall - due) * 1000)
            if self.count == self._wanted:
                self._enough.set()

    def wait(self, patience: float = 90) -> None:
        if not self._enough.wait(patience):
            sys.exit(f"{self.count} of {self._wanted} came")

    @property
    def rate(self) -> float:
        return (self.count - 1) / (self._last - self._first)
