"""Tools of the engine's tests: a clock that records its waits, threads that cannot get lost, and a memory backend that can fail, be
slow and be watched."""

from __future__ import annotations

import asyncio
import queue
import threading

from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Any, ClassVar

from pitstop import AsyncPitstop, BackendUnavailable, Delivery, Listener, Summary
from pitstop._engine._delivery import lease_of
from pitstop._engine._lease import Purpose
from pitstop._engine._listener import intake_of
from pitstop.abc import Backend, Capability, Doorbell, Record, Settlement
from pitstop.testing import ManualClock
from pitstop_memory import MemoryBackend, MemoryConfig


LOCK = timedelta(minutes=15)
LOOP = timedelta(minutes=1)


async def consume_until_closed(
    pit: AsyncPitstop, opened: list[Callable[[], None]], *handlers: Any, **options: Any
) -> Summary:
    """Consume, and add to ``opened`` a function by which another thread closes the Pitstop, and waits for that."""
    loop, closing = asyncio.get_running_loop(), list[Any]()

    async def close() -> None:
        closing.append(asyncio.current_task())
        await pit.aclose()

    opened.append(lambda: asyncio.run_coroutine_threadsafe(close(), loop).result(30))
    summary = await pit.consume(*handlers, **options)
    # The end of the loop would cancel it.
    await asyncio.gather(*closing)
    return summary


class Clock(ManualClock):
    """A clock that records the length of each wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []
        self._began = threading.Condition()

    def wait(self, bell: Doorbell, seconds: float | None) -> bool:
        with self._began:
            self.waits.append(seconds)
            self._began.notify_all()
        return super().wait(bell, seconds)

    def wait_for_waits(self, count: int) -> None:
        """Block until this number of waits has begun in total, and their threads sleep."""
        with self._began:
            assert self._began.wait_for(lambda: len(self.waits) >= count, 10), f"{len(self.waits)} waits, not {count}"
        assert self.wait_for_sleepers(1)


class Running:
    """A function in a thread of its own."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._outcome: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(function,), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[[], Any]) -> None:
        try:
            self._outcome.put((function(), None))
        except BaseException as error:  # noqa: BLE001 - told to the test
            self._outcome.put((None, error))

    @property
    def done(self) -> bool:
        return not self._outcome.empty()

    def result(self) -> Any:
        value, error = self._outcome.get(timeout=10)
        self._thread.join(10)
        if error is not None:
            raise error
        return value


class Scripted(MemoryBackend):
    """A memory backend with hooks before and after its calls."""

    def __init__(self, config: MemoryConfig | None = None) -> None:
        super().__init__(config)
        #: Whether every call fails; an error makes every call raise it.
        self.down: bool | BackendUnavailable = False
        self.calls: list[str] = []
        #: How many messages each call of settle was about.
        self.batches: list[int] = []
        #: Called before the method of that name (``lease``: after it), outside of the backend's lock.
        self.during: dict[str, Callable[[], None]] = {}

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record]:
        self._enter("lease", run=False)
        leased = super().lease(limit, duration, kinds)
        self.during.get("lease", _nothing)()
        return leased

    def settle(self, settlements: Any) -> Sequence[bool]:
        settlements = list[Settlement](settlements)
        self.batches.append(len(settlements))
        self._enter("settle")
        return super().settle(settlements)

    def now(self) -> int:
        # Not noted: the engine asks for the time in many places.
        self.during.get("now", _nothing)()
        return super().now()

    def next_due(self, kinds: Collection[str] | None = None) -> int | None:
        self._enter("next_due")
        return super().next_due(kinds)

    def _enter(self, name: str, *, run: bool = True) -> None:
        self.calls.append(name)
        if run:
            self.during.get(name, _nothing)()
        if isinstance(self.down, BackendUnavailable):
            raise self.down
        if self.down:
            raise BackendUnavailable("The test took the store away.")


class Watched(Scripted):
    """A memory backend with a watch that polls when a test tells it to."""

    capabilities: ClassVar[Capability] = Capability.WATCH | Capability.CONDITIONAL

    def __init__(self, config: MemoryConfig | None = None) -> None:
        super().__init__(config)
        self.watches: list[Watching] = []
        self.began = threading.Semaphore(0)

    def watch(self) -> Watching:
        self.watches.append(Watching())
        self.began.release()
        return self.watches[-1]


class Watching:
    """A watch whose polls return the values that a test puts into ``news``: a ``due``, None, or an error to raise."""

    pause = 0.0

    def __init__(self) -> None:
        self.news: queue.SimpleQueue[int | Exception | None] = queue.SimpleQueue()
        self.polls = threading.Semaphore(0)
        self.closed = threading.Event()

    def poll(self) -> int | None:
        self.polls.release()
        news = self.news.get(timeout=10)
        if isinstance(news, Exception):
            raise news
        return news

    def close(self) -> None:
        self.closed.set()


def take(listener: Listener, claimed: int | None = None) -> Delivery:
    """The next message of an iteration: of those in hand, else of a claim for ``claimed`` messages."""
    intake = intake_of(listener)
    lease = intake.take_at_hand() if claimed is None else intake.take(claimed)
    assert lease is not None
    return intake.deliver(lease)


def nack_later(listener: Listener, delivery: Delivery, error: str, delay: timedelta | None = None) -> None:
    """A nack that is written with others, as that of a handler of consume()."""
    lease = lease_of(delivery)
    lease.ask(Purpose.NACK, delivery, error, delay)
    intake_of(listener).writer.put(lease, blocking=False)


def ack_later(listener: Listener, delivery: Delivery) -> None:
    """An ack that is written with others, by another thread."""
    lease = lease_of(delivery)
    lease.ask(Purpose.ACK, delivery)
    intake_of(listener).writer.put(lease, blocking=False)


def watch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pitstop-watch"]


def backend(cls: type[Backend] = Scripted, clock: ManualClock | None = None, **options: Any) -> Any:
    return cls.from_options({"clock": clock or Clock(), "lock_time": LOCK, "loop_time": LOOP, **options})


def _nothing() -> None:
    pass
