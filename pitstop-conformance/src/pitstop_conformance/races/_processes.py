"""Processes that are forked from a test. They work on its store, report their steps, and may be killed meanwhile."""

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

#: ``PITSTOP_TEST_LARGE=1`` in the environment: more processes, more records and more kills.
LARGE = bool(os.environ.get("PITSTOP_TEST_LARGE"))

#: Seconds for which a test waits for a process. All need far less, so that no test fails on a slow machine.
_PATIENCE = 240.0 if LARGE else 30.0

#: Reports a value to the test, as JSON. Once the call returned, the test receives the value, even if the process dies.
Say = Callable[[Any], None]
#: The work of a process, with its own handle on the store of the test. It returns a value, which is passed on as JSON.
Work = Callable[[Backend, Say], Any]


class Child:
    """A process that works on the store of a test."""

    def __init__(self, process: BaseProcess, pipe: int) -> None:
        #: The values that it has reported so far.
        self.said: list[Any] = []
        self._process = process
        self._pipe: int | None = pipe
        self._unread = b""
        self._result: list[Any] = []
        self._killed = False

    def hear(self, count: int) -> None:
        """Wait until the process has reported this number of further values."""
        until = len(self.said) + count
        deadline = time.monotonic() + _PATIENCE
        while len(self.said) < until:
            if not self._read(deadline - time.monotonic()):
                self._fail(f"has reported {len(self.said)} of {until} expected values")

    def hear_for(self, seconds: float) -> None:
        """Let the process work for this time, and read its reports."""
        deadline = time.monotonic() + seconds
        while self._read(deadline - time.monotonic()):
            pass

    def result(self) -> Any:
        """Wait for the end of the process, and return the result of its work."""
        self._read_to_end()
        if not self._result:
            self._fail("has returned nothing")
        return self._result[0]

    def kill(self) -> None:
        """End the process with SIGKILL. :attr:`said` then holds all its reports."""
        self._killed = True
        self._process.kill()
        self._read_to_end()

    def kill_in_the_middle(self, random: Random) -> None:
        """Kill the process after a few reports. Each step of its round is equally likely to be the last."""
        rounds = random.randint(2, 12)
        began = time.monotonic()
        self.hear(rounds)
        self.hear_for(random.uniform(0, 2 * (time.monotonic() - began) / rounds))
        self.kill()

    def close(self) -> None:
        """End the process if it has not ended by itself."""
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
        """Read the next reports. Return False if none came in time, or if the process has ended."""
        if self._pipe is None or not wait([self._pipe], max(seconds, 0)):
            return False
        read = os.read(self._pipe, 1 << 16)
        if not read:
            self._close_pipe()
            return False
        # The text after the last line break is an unfinished line. It stays unfinished if the process is dead.
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
        said = f"Its last report: {self.said[-1]!r}." if self.said else "It reported nothing."
        pytest.fail(f"A process that the test started {what}, {state}. {said}")


class Processes:
    """Start processes that work on the store of a test, and end them when the test ends.

    The processes are forked, so that their work can be a function inside the test, and nothing is pickled. Each process opens
    its own handle, with the machine's clock, and touches no handle of the test.
    """

    def __init__(self, open_backend: Handles) -> None:
        self._open_backend = open_backend
        self._children: list[Child] = []

    def start(self, work: Work, *, still_after: int | None = None) -> Child:
        """Start a process with this work. With ``still_after`` it stands still after this number of reports."""
        return self._fork(work, None, still_after)

    def together(self, *works: Work) -> list[Any]:
        """Run each work in its own process, all released at one moment. Return the results in the order of ``works``."""
        closed, gate = os.pipe()
        try:
            children = [self._fork(work, (closed, gate)) for work in works]
            for each in children:
                each.hear(1)  # the process has opened its handle
        finally:
            os.close(closed)
            # All processes read from this pipe, and see its end at the same moment.
            os.close(gate)
        return [each.result() for each in children]

    def close(self) -> None:
        for each in self._children:
            each.close()

    def _fork(self, work: Work, gate: tuple[int, int] | None, still_after: int | None = None) -> Child:
        heard, told = os.pipe()

        def run() -> None:
            # The test's ends of the pipes. A reader sees the end only when no process has them open.
            os.close(heard)
            if gate is not None:
                os.close(gate[1])
            _in_the_child(self._open_backend, work, told, None if gate is None else gate[0], still_after)

        process = multiprocessing.get_context("fork").Process(target=run, daemon=True)
        try:
            with warnings.catch_warnings():
                # Python 3.12 and later warn of a fork in a process with threads (of a driver, of a listener), because a
                # lock that such a thread holds is never released in the child. This child uses no object of the parent.
                # If the child hangs all the same, the test ends it after a bounded time and fails.
                warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
                # The child must not collect objects of the parent: their finalizers may close connections of the parent.
                # Called before the fork, because the first code in the child may start a collection.
                gc.freeze()
                process.start()
        finally:
            gc.unfreeze()
            os.close(told)
        self._children.append(Child(process, heard))
        return self._children[-1]


class Forking(Kit):
    """The base of the parts that need processes."""

    @pytest.fixture
    def processes(self, open_backend: Handles) -> Iterator[Processes]:
        if "fork" not in multiprocessing.get_all_start_methods():
            _matrix.end("not shown: the test forks processes, and this system has no fork")
        processes = Processes(open_backend)
        yield processes
        processes.close()


def _in_the_child(open_backend: Handles, work: Work, pipe: int, gate: int | None, still_after: int | None) -> NoReturn:
    """Do the work, and exit at once, so that no fixture, finalizer or buffer of the parent runs in the child."""
    # pytest-timeout and other tools may have set handlers for these signals. The alarm ends a child that was forgotten.
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
    """Return the results of several processes in one list."""
    return [each for some in several for each in some]
