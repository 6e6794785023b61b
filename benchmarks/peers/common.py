"""The common part of the scripts of all peers: their task and their output. It uses only the standard library."""

from __future__ import annotations

import itertools
import json
import subprocess
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
        self.first = self.last = 0.0
        self.count = 0
        self.late: list[float] = []

    def one(self, due: float | None = None) -> None:
        """Count a message of the handler."""
        now, wall = time.perf_counter(), time.time()
        with self._lock:
            self.count += 1
            if self.count == 1:
                self.first = now
            self.last = now
            if due is not None:
                self.late.append((wall - due) * 1000)
            if self.count == self._wanted:
                self._enough.set()

    def wait(self, patience: float = 90) -> None:
        if not self._enough.wait(patience):
            sys.exit(f"{self.count} of {self._wanted} came")

    @property
    def rate(self) -> float:
        return (self.count - 1) / (self.last - self.first)


def alone() -> bool:
    """Whether this process is the script itself, and not one of several consumers that the script started."""
    return "--consume" not in sys.argv


def drained_by(processes: int, total: int, patience: float = 60) -> float:
    """Let processes of this script consume ``total`` messages that are stored. Return the messages per second of all.

    Each of them calls :func:`wait_for_go` and :func:`report`.
    """
    command = [sys.executable, sys.argv[0], sys.argv[1], "--consume"]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    try:
        for each in started:
            _read(each)  # connected
        for each in started:
            _say(each, "go")
        deadline = time.monotonic() + patience
        while True:
            for each in started:
                _say(each, "count")
            told = [json.loads(_read(each)) for each in started]
            count = sum(each["count"] for each in told)
            if count >= total or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        for each in started:
            _say(each, "end")
            each.communicate(timeout=patience)
    finally:
        for each in started:
            each.kill()
            each.wait()
    if count != total:
        sys.exit(f"{total} messages were stored, and the consumers had {[each['count'] for each in told]}")
    busy = [each for each in told if each["count"]]
    return (total - 1) / (max(each["last"] for each in busy) - min(each["first"] for each in busy))


def _say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def _read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline() or sys.exit("a consumer ended")


def wait_for_go() -> None:
    """Report that this process is connected, and wait for the common start."""
    print("ready", flush=True)
    sys.stdin.readline()


def report(seen: Seen) -> None:
    """Report the messages of this process whenever the script asks, until the script ends the drain."""
    while sys.stdin.readline() == "count\n":
        print(json.dumps({"count": seen.count, "first": seen.first, "last": seen.last}), flush=True)
