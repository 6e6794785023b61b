"""Processes that are forked from a test, work on its store, tell what they do, and may be killed while they do it."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import threading
import time
import traceback
import warnings

from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from random import Random
from typing import Any, NoReturn

import pytest

from pitstop.abc import Backend
from pitstop_conformance import _matrix
from pitstop_conformance._kit import Handles, Kit


__all__ = ["LARGE", "Child", "Forking", "Processes", "Say", "Work"]

#: ``PITSTOP_TEST_LARGE=1``: with more of everything.
LARGE = bool(os.environ.get("PITSTOP_TEST_LARGE"))

#: Seconds that a process may keep a test waiting: far more than any needs, so that a slow machine fails no test.
_PATIENCE = 240.0 if LARGE else 30.0

#: Tells the test a value that JSON can hold. When it returned, the test will hear of it, whatever becomes of the process.
Say = Callable[[Any], None]
#: What a process does, with a handle of its own on the store of the test; returns a value that JSON can hold.
Work = Callable[[Backend, Say], Any]


class Child:
    """A process that works on the store of a test."""

    def __init__(self, process: BaseProcess, pipe: int) -> None:
        #: What it has told so far.
        self.said: list[Any] = []
        self._process = process
        self._pipe: int | None = pipe
        self._unread = b""
        self._result: list[Any] = []
        self._killed = False

    def hear(self, count: int) -> None:
        """Wait until it has told so many more values."""
        until = len(self.said) + count
        deadline = time.monotonic() + _PATIENCE
        while len(self.said) < until:
            if not self._read(deadline - time.monotonic()):
                self._fail(f"has told {len(self.said)} values, and not the {until} that are waited for,")

    def hear_for(self, seconds: float) -> None:
        """Let it work for so long."""
        deadline = time.monotonic() + seconds
        while self._read(deadline - time.monotonic()):
            pass

    def result(self) -> Any:
        """Wait for its end, and return what its work returned."""
        self._read_to_end()
        if not self._result:
            self._fail("has returned nothing")
        return self._result[0]

    def kill(self) -> None:
        """End it with SIGKILL, wherever it is; :attr:`said` then holds all that it told."""
        self._killed = True
        self._process.kill()
        self._read_to_end()

    def kill_in_the_middle(self, random: Random) -> None:
        """Kill it at some moment of its work, once it has told a few values: at each step of a round as likely."""
        rounds = random.randint(2, 12)
        began = time.monotonic()
        self.hear(rounds)
        self.hear_for(random.uniform(0, 2 * (time.monotonic() - began) / rounds))
        self.kill()

    def close(self) -> None:
        """End it, if it has not ended by itself."""
        self._process.kill()
        self._close_pipe()
        self._process.join(_PATIENCE)
        self._process.close()

    def _read_to_end(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while self._read(deadline - time.monotonic()):
            pass
        if self._pipe is not None:
            self._fail(f"has not ended after {_PATIENCE:.0f} s")
        self._process.join(_PATIENCE)

    def _read(self, seconds: float) -> bool:
        """Read what it tells next; False when that took longer, or when it has ended."""
        if self._pipe is None or not wait([self._pipe], max(seconds, 0)):
            return False
        read = os.read(self._pipe, 1 << 16)
        if not read:
            self._close_pipe()
            return False
        # What stands behind the last end of a line is half a line yet, and stays so if the process is dead.
        *lines, self._unread = (self._unread + read).split(b"\n")
        for kind, value in map(json.loads, lines):
            if kind == "failed":
                pytest.fail(f"A process that the test started failed:\n{value}")
            (self._result if kind == "returned" else self.said).append(value)
        return True

    def _close_pipe(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    def _fail(self, what: str) -> NoReturn:
        self._process.join(0 if self._pipe is not None else _PATIENCE)
        code = self._process.exitcode
        state = "and still runs" if code is None else f"and ended with {code}"
        said = f"It told last: {self.said[-1]!r}." if self.said else "It told nothing."
        pytest.fail(f"A process that the test started {what} {state}. {said}")


class Processes:
    """Starts processes which work on the one store of a test, and ends them with it.

    They are forked, so that what they do may stand in the test and nothing is pickled. Each opens a handle of its own,
    by the machine's clock, and touches none of the test's.
    """

    def __init__(self, open_backend: Handles) -> None:
        self._open_backend = open_backend
        self._children: list[Child] = []

    def start(self, work: Work, *, still_after: int | None = None) -> Child:
        """A process that does this at once; when it has told so many values it stands still, if that is said."""
        return self._fork(work, None, still_after)

    def together(self, *works: Work) -> list[Any]:
        """Have each done in a process of its own, all released at one moment; what they returned, in their order."""
        closed, gate = os.pipe()
        try:
            children = [self._fork(work, (closed, gate)) for work in works]
            for each in children:
                each.hear(1)  # it has opened its handle
        finally:
            os.close(closed)
            # All of them read there, and are told of the end at once.
            os.close(gate)
        return [each.result() for each in children]

    def close(self) -> None:
        for each in self._children:
            each.close()

    def _fork(self, work: Work, gate: tuple[int, int] | None, still_after: int | None = None) -> Child:
        heard, told = os.pipe()

        def run() -> None:
            # The test's ends: as long as anybody holds them open, nobody is told of the end.
            os.close(heard)
            if gate is not None:
                os.close(gate[1])
            _in_the_child(self._open_backend, work, told, None if gate is None else gate[0], still_after)

        process = multiprocessing.get_context("fork").Process(target=run, daemon=True)
        try:
            with warnings.catch_warnings():
                # Python 3.12 and later warn of a fork where there are threads (a driver's, a listener's), since a lock
                # that one of them holds is never let go of in the child. The child touches nothing of the parent's, and
                # if it hangs nevertheless, that ends in bounded time and is told.
                warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
                # What is held here is not collected in the child: that might close, or say goodbye on, connections that
                # are this process's own. Before the fork, since what runs first thing in the child may set off a collection.
                gc.freeze()
                process.start()
        finally:
            gc.unfreeze()
            os.close(told)
        self._children.append(Child(process, heard))
        return self._children[-1]


class Forking(Kit):
    """A part of the suite that needs processes."""

    @pytest.fixture
    def processes(self, open_backend: Handles) -> Iterator[Processes]:
        if "fork" not in multiprocessing.get_all_start_methods():
            _matrix.end("not shown: processes are forked, and this system cannot do that")
        processes = Processes(open_backend)
        yield processes
        processes.close()


def _in_the_child(open_backend: Handles, work: Work, pipe: int, gate: int | None, still_after: int | None) -> NoReturn:
    """Work, and end without a trace of the parent: none of its fixtures, finalizers and buffers is the child's to end."""
    # pytest-timeout, and whoever else runs the tests, may have handlers there. A child that was forgotten ends by itself.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(each, signal.SIG_DFL)
    signal.alarm(round(2 * _PATIENCE))

    def tell(kind: str, value: Any) -> None:
        line = json.dumps([kind, value]).encode() + b"\n"
        while line:
            line = line[os.write(pipe, line) :]

    said = 0

    def say(value: Any) -> None:
        nonlocal said
        tell("said", value)
        said += 1
        if said == still_after:
            threading.Event().wait()

    try:
        backend = open_backend.peer(clock=None)
        if gate is not None:
            tell("said", "ready")
            os.read(gate, 1)
        tell("returned", work(backend, say))
    except BaseException:  # noqa: BLE001 - pytest's own, too: the test fails with it
        try:
            tell("failed", traceback.format_exc())
        finally:
            os._exit(1)
    os._exit(0)


def flat(several: Sequence[Sequence[Any]]) -> list[Any]:
    """What several processes returned, in one list."""
    return [each for some in several for each in some]
