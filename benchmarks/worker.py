"""A process that measures on command. Commands and answers are lines of JSON.

:mod:`crew` starts it. Each process has one consumer; in memory, the consumers of one store are threads.
"""

from __future__ import annotations

import cProfile
import io
import json
import mmap
import os
import pstats
import struct
import sys
import threading
import time
import traceback

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

from subjects import EVERY, FAR, Ours, Subject, Tally, subject


#: Seconds between two checks whether all messages are consumed: so long that the checks cost nothing.
_LOOK = 0.02
#: Seconds without a message after which a consumer gives up. The sum shows the loss.
_PATIENCE = 15.0
_SLOT = struct.Struct("q")


class Progress:
    """The messages of all consumers of a drain so far: a slot for each process in a file that all have mapped."""

    def __init__(self, path: str, slot: int, slots: int) -> None:
        self._slot, self._slots = slot, slots
        with Path(path).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), slots * _SLOT.size)

    def tell(self, count: int) -> int:
        """Publish the number of this process; return the sum of all."""
        _SLOT.pack_into(self._map, self._slot * _SLOT.size, count)
        return sum(_SLOT.unpack_from(self._map, n * _SLOT.size)[0] for n in range(self._slots))


@attrs.define
class _Meeting:
    """A place where the consumers of this process wait for all others."""

    expected: int
    stops: list[Callable[[], None]] = attrs.field(factory=list)
    all_here: threading.Event = attrs.field(factory=threading.Event)
    go: threading.Event = attrs.field(factory=threading.Event)

    def meet(self, stop: Callable[[], None]) -> None:
        self.stops.append(stop)
        if len(self.stops) == self.expected:
            self.all_here.set()
        self.go.wait()


class Worker:
    def __init__(self, spec: dict[str, Any]) -> None:
        self._subject: Subject = subject(spec["who"], spec["config"], spec["options"])
        self._slot = spec["slot"]

    def store(self, count: int) -> float:
        return _seconds(lambda: self._subject.store(count))

    def store_many(self, count: int, recurring: bool = False) -> float:
        return _seconds(lambda: self._subject.store_many(count, every=EVERY if recurring else None))

    def backlog(self, count: int) -> float:
        return _seconds(lambda: self._subject.store_many(count, FAR))

    def clear(self) -> None:
        self._subject.clear()

    def claims(self, count: int) -> list[float]:
        return self._subject.claims(count)

    def lateness(self, gaps: list[float]) -> list[float]:
        assert isinstance(self._subject, Ours)
        return self._subject.lateness(gaps)

    def drain(self, total: int, path: str, slots: int, threads: int, profile: bool = False) -> dict[str, Any]:
        """Consume until all processes together have this number of messages."""
        progress = Progress(path, self._slot, slots)
        meeting, tallies = _Meeting(threads), [Tally() for _ in range(threads)]
        profiler = cProfile.Profile() if profile else None

        def consume(tally: Tally) -> None:
            try:
                if profiler is None:
                    self._subject.drain(tally, meeting.meet)
                else:
                    profiler.runcall(self._subject.drain, tally, meeting.meet)
            except BaseException:  # noqa: BLE001 - whatever it was
                # Otherwise all others would wait for this process.
                traceback.print_exc()
                os._exit(1)

        consumers = [threading.Thread(target=consume, args=(each,)) for each in tallies]
        for each in consumers:
            each.start()
        meeting.all_here.wait()
        _say("ready")
        sys.stdin.readline()
        meeting.go.set()
        _wait_for(total, progress, tallies)
        for stop in meeting.stops:
            stop()
        for each in consumers:
            each.join()
        result: dict[str, Any] = {"tallies": [attrs.asdict(each) for each in tallies if each.count]}
        if profiler is not None:
            text = io.StringIO()
            pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(25)
            result["profile"] = text.getvalue()
        return result

    def close(self) -> None:
        self._subject.close()


def _wait_for(total: int, progress: Progress, tallies: Sequence[Tally]) -> None:
    """Wait until all processes together have this number, or until the number no longer grows."""
    best, since = 0, time.monotonic()
    while best < total and time.monotonic() - since < _PATIENCE:
        time.sleep(_LOOK)
        got = progress.tell(sum(each.count for each in tallies))
        if got > best:
            best, since = got, time.monotonic()


def _seconds(action: Callable[[], None]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def _say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


def main() -> None:
    worker = Worker(json.loads(sys.argv[1]))
    _say("here")
    for line in iter(sys.stdin.readline, ""):
        command = json.loads(line)
        name = command.pop("do")
        _say({"result": getattr(worker, name)(**command)})
        if name == "close":
            return


if __name__ == "__main__":
    main()
