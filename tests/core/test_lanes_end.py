"""``consume`` with a handler for each kind: signals, stores that fail for one kind, and cancelled tasks."""

from __future__ import annotations

import asyncio
import threading

from collections import Counter

import pytest

import pitstop

from core.kit import Running
from pitstop._consume._threads import Consuming
from pitstop._engine._intake import Intake
from pitstop_memory import MemoryBackend


PATIENCE = 60
KINDS = ("mail", "report")


class Unclosed(MemoryBackend):
    """Lives on when its Pitstop is closed."""

    def close(self):
        pass


class Program:
    """Consumes two kinds, one message of each at a time. Each handler waits for a word of the test."""

    def __init__(self, way, backend):
        self.way = way
        self.backend = backend
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()
        self.seen = []
        self.cancelled = Counter()
        self.task = None

    def start(self, **options):
        self._running = Running(lambda: self._run(options))
        return self

    def wait_for_handlers(self, count=2):
        for _ in range(count):
            assert self.begun.acquire(timeout=PATIENCE)

    def end(self, reason):
        """End as a signal does."""
        if self.way == "threads":
            (consuming,) = [each for each in self.pit._session.components if isinstance(each, Consuming)]
            consuming._end(reason)
        else:
            (consuming,) = self.pit._consuming
            self.loop.call_soon_threadsafe(consuming._finish, reason)

    def result(self):
        return self._running.result()

    def _run(self, options):
        if self.way == "event loop":
            return asyncio.run(self._main(options))
        with pitstop.init({"type": self.backend}) as self.pit:
            return self.pit.consume(dict.fromkeys(KINDS, self._handle), **options)

    async def _main(self, options):
        self.loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE), pitstop.init_async({"type": self.backend}) as self.pit:
            handlers = dict.fromkeys(KINDS, self._handle_async)
            self.task = asyncio.ensure_future(self.pit.consume(handlers, concurrency=1, **options))
            return await self.task

    def _handle(self, delivery):
        self.seen.append(delivery.kind)
        self.begun.release()
        self.go.wait(PATIENCE)

    async def _handle_async(self, delivery):
        self.seen.append(delivery.kind)
        self.begun.release()
        try:
            while not self.go.is_set():  # noqa: ASYNC110 - the test sets it in another thread
                await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            self.cancelled[delivery.kind] += 1
            raise


@pytest.fixture(params=["threads", "event loop"])
def way(request):
    return request.param


@pytest.fixture
def backend():
    return Unclosed()


@pytest.fixture
def program(way, backend):
    store(backend)
    program = Program(way, backend)
    yield program
    program.go.set()


def store(backend, count=3):
    with pitstop.init({"type": backend}) as pit:
        for n in range(count):
            for kind in KINDS:
                pit.store({"id": f"{kind} {n}"}, kind=kind)


def left(backend):
    """Return the kinds of the messages that are stored. Each is due, and no attempt counts against it."""
    found = backend.scan(None, 100, None)
    assert all(each.progress.token is None for each in found), found
    assert all(each.progress.attempts == each.progress.excused for each in found), found
    return Counter(each.kind for each in found)


def test_after_a_signal_the_handlers_of_all_kinds_finish_and_no_more_begin(program, backend):
    program.start()
    program.wait_for_handlers()
    program.end("signal")
    program.go.set()

    summary = program.result()

    assert (summary.acked, summary.unfinished, summary.reason) == (2, 0, "signal")
    assert sorted(program.seen) == ["mail", "report"]
    assert left(backend) == {"mail": 2, "report": 2}


@pytest.mark.parametrize("reason", ["signal", "second signal"])
def test_handlers_of_no_kind_are_waited_for_after_a_second_signal_or_the_drain(program, backend, reason):
    program.start(drain=0 if reason == "signal" else 3600)
    program.wait_for_handlers()
    program.end("signal")
    if reason != "signal":
        program.end(reason)

    summary = program.result()

    assert (summary.acked, summary.unfinished, summary.reason) == (0, 2, reason)
    assert left(backend) == {"mail": 3, "report": 3}


def test_all_kinds_end_at_the_same_time(program, monkeypatch):
    """A kind that takes long to write and to give back keeps no other waiting."""
    ending = threading.Barrier(2)
    original, met = Intake.close, []

    def together(self):
        if len(met) < 2:
            met.append(ending.wait(PATIENCE / 6))
        original(self)

    monkeypatch.setattr(Intake, "close", together)
    program.start(drain=0)
    program.wait_for_handlers()
    program.end("signal")

    assert program.result().unfinished == 2
    assert sorted(met) == [0, 1]
    assert left(program.backend) == {"mail": 3, "report": 3}


class Picky(Unclosed):
    """Answers claims of reports with an error, after a mail was handled. Before that, it does not answer them."""

    def __init__(self, config=None):
        super().__init__(config)
        self.handled = threading.Event()
        #: Raised by claims of reports, the last one first.
        self.errors = []

    def lease(self, limit, duration, kinds=None):
        if kinds == ("report",) and self.errors:
            assert self.handled.wait(PATIENCE)
            raise self.errors.pop()
        return super().lease(limit, duration, kinds)


class TestAStoreThatFailsTheClaimsOfOneKind:
    """The other kind is handled meanwhile."""

    @pytest.fixture
    def backend(self):
        return Picky()

    @staticmethod
    def run(way, backend, **options):
        store(backend, 1)
        program = Program(way, backend)
        program.go.set()
        program.start(**options)
        program.wait_for_handlers(1)
        backend.handled.set()
        return program

    @pytest.mark.parametrize("options", [{"until_idle": True}, {"max_messages": 2}])
    def test_for_a_while(self, way, backend, options):
        backend.errors = [pitstop.BackendUnavailable("away")]
        summary = self.run(way, backend, **options).result()
        assert (summary.acked, summary.nacked) == (2, 0)
        assert left(backend) == {}

    def test_for_good(self, way, backend):
        """It ends, as it does for one handler, and what the other kind did is written."""
        backend.errors = [pitstop.BackendUnavailable("refused", permanent=True)]
        with pytest.raises(pitstop.BackendUnavailable, match="refused"):
            self.run(way, backend).result()
        assert left(backend) == {"report": 1}


def test_a_task_that_is_cancelled_cancels_the_handlers_of_all_kinds(backend):
    store(backend)
    program = Program("event loop", backend).start()
    program.wait_for_handlers()
    program.loop.call_soon_threadsafe(program.task.cancel)

    with pytest.raises(asyncio.CancelledError):
        program.result()

    assert program.cancelled == {"mail": 1, "report": 1}
    assert left(backend) == {"mail": 3, "report": 3}
