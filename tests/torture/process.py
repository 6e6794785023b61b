"""The processes of a fault test: ``process.py`` and one argument, a :class:`Task` as JSON.

They work until they get a SIGTERM, and record their events. An error that Pitstop does not document ends the process with a
traceback, which the test that started it reports.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import random
import signal
import sys
import threading
import time

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import attrs

import pitstop

from pitstop import BackendUnavailable, LeaseLost
from pitstop.abc import SystemClock


sys.path.insert(0, str(Path(__file__).parents[1]))

from torture.history import History, Kind, Outcome


#: Raised if the outcome of a store is unknown. In versions without this class, any failure has an unknown outcome.
OUTCOME_UNKNOWN: type[BackendUnavailable] = getattr(pitstop, "OutcomeUnknown", BackendUnavailable)


#: How long ``consume`` waits for its handlers, in seconds. Some of them take longer than a lease.
_LEAST_DRAIN = 10.0


@attrs.frozen(kw_only=True)
class Task:
    """The task of a process."""

    role: str
    name: str
    #: The file of its history.
    history: str
    #: The options for :func:`pitstop.init`.
    options: dict[str, Any]
    seed: int = 0
    #: Of producers: stores per second, and the most seconds until a message is due.
    rate: float = 50.0
    latest: float = 1.5
    #: How many recurring messages a producer stores at its beginning, and the occurrences of each.
    series: int = 1
    occurrences: int = 5
    #: Of producers: if given, each store is of this many messages, which are due at once.
    burst: int | None = None
    #: Of consumers: the ``prefetch`` of ``listen``. None: at its own pace, the default of an iteration.
    prefetch: int | None = 1
    threads: int = 1
    #: The workers of ``consume``. None: threads iterate instead.
    workers: int | None = None
    #: The longest time of a handler, in seconds. If it is 0, many acks are written together.
    pace: float = 0.01
    #: Of consumers: the share of messages that fail, and of those that are held for longer than the lease.
    failing: float = 0.02
    overdue: float = 0.005
    #: Of consumers: a file that is written in a handler, which then holds its message without end.
    hold: str | None = None
    #: The seconds by which the clock of the process is wrong, and the seconds that a SIGUSR1 adds.
    wrong: float = 0.0
    jump: float = 0.0
    #: ``1``: writes are confirmed when the primary has them, which Pitstop never does. The test must notice the losses.
    write_concern: int | None = None

    def dump(self) -> str:
        return json.dumps(attrs.asdict(self))


def content(version: str) -> dict[str, Any]:
    """Return the message of a version. All its fields follow from the version, so that a mixture of two is noticed."""
    return {"version": version, "again": [version, {"reversed": version[::-1]}]}


def produce(task: Task, pit: pitstop.Pitstop, stopping: threading.Event) -> None:
    """Store messages: mostly new ones, some that replace earlier ones, some that are removed again, some due at once."""
    history, chance = History(Path(task.history), task.name), random.Random(task.seed)
    recent: list[str] = []
    for number in range(task.series):
        _store_series(history, pit, f"{task.name}-s{number}", task.occurrences)
    count = 0
    while not stopping.wait(chance.expovariate(task.rate)):
        count += 1
        choice = chance.random()
        if task.burst is not None:
            ids = [f"{task.name}-{count}-{part}" for part in range(task.burst)]
            _store(history, pit, [(id, f"{id}.0") for id in ids], 0.0)
        elif choice < 0.03 and recent:
            _remove(history, pit, recent.pop(chance.randrange(len(recent))))
        elif choice < 0.08 and recent:
            id = recent.pop(chance.randrange(len(recent)))
            _store(history, pit, [(id, f"{id}.{count}")], chance.uniform(0, task.latest))
        elif choice < 0.10:
            ids = [f"{task.name}-{count}-{part}" for part in range(10)]
            _store(history, pit, [(id, f"{id}.0") for id in ids], chance.uniform(0, task.latest))
        else:
            id = f"{task.name}-{count}"
            _store(history, pit, [(id, f"{id}.0")], chance.uniform(0, task.latest))
            recent = [*recent[-20:], id]


def consume(task: Task, pit: pitstop.Pitstop, stopping: threading.Event) -> None:
    """Handle messages in some threads. Some handlers fail, and some take longer than the lease."""
    history = History(Path(task.history), task.name)
    if task.workers is not None:
        _consume(task, history, pit, task.workers)
        return
    failed: list[BaseException] = []
    with pit.listen(prefetch=task.prefetch) as listener:

        def work(seed: int) -> None:
            chance = random.Random(seed)
            try:
                for delivery in listener:
                    _handle(task, history, delivery, chance, stopping)
            except BaseException as error:
                failed.append(error)
                raise
            finally:
                stopping.set()

        threads = [threading.Thread(target=work, args=(task.seed * 100 + n,)) for n in range(task.threads)]
        for each in threads:
            each.start()
        stopping.wait()
        listener.stop()
        for each in threads:
            each.join()
    if failed:
        sys.exit(1)


class _Failed(Exception):
    """A handler fails on purpose."""


def _consume(task: Task, history: History, pit: pitstop.Pitstop, workers: int) -> None:
    """Handle messages with ``consume``, which acks when its handler returns, and nacks when it raises."""
    chance = random.Random(task.seed)

    def handle(delivery: pitstop.Delivery) -> None:
        lease = _note_emission(task, history, delivery)
        choice = chance.random()
        if choice < task.failing:
            acks.begin(history, "nack", lease, delivery)
            raise _Failed
        _pause(task, choice, chance, threading.Event())
        acks.begin(history, "ack", lease, delivery)

    summary = pit.consume(handle, workers=workers, prefetch=task.prefetch, drain=_LEAST_DRAIN)
    counted = summary.acked + summary.nacked + summary.lost
    assert summary.unfinished == 0, summary
    assert (summary.handled, counted) == (acks.begun, acks.ended), (str(summary), acks.begun, acks.ended)


def _handle(
    task: Task, history: History, delivery: pitstop.Delivery, chance: random.Random, stopping: threading.Event
) -> None:
    lease = _note_emission(task, history, delivery)
    if task.hold is not None:
        Path(task.hold).write_text(delivery.id)
        stopping.wait()
    choice = chance.random()
    if choice < task.failing:
        _settle(history, "nack", lease, lambda: delivery.nack("failed on purpose", delay=timedelta(milliseconds=50)))
        return
    _pause(task, choice, chance, stopping)
    acks.settle(history, lease, delivery)


def _pause(task: Task, choice: float, chance: random.Random, stopping: threading.Event) -> None:
    if choice < task.failing + task.overdue:
        stopping.wait(_seconds(task.options["lock_time"]) * 1.2)
    elif task.pace:
        stopping.wait(chance.uniform(0, task.pace))


def _note_emission(task: Task, history: History, delivery: pitstop.Delivery) -> dict[str, Any]:
    """Record that it was handed out. Return the fields that the event of its settlement gets, too."""
    message = dict(delivery.msg)
    version = message.get("version", "")
    if message != {"id": delivery.id, **content(version)}:
        version = f"a mixture with {version}"
    lease = {
        "id": delivery.id,
        "version": version,
        "key": delivery.key,
        "scheduled_for": _ms(delivery.scheduled_for),
        "attempt": delivery.attempt,
        "leased_until": _ms(delivery.leased_until),
        "lock": _seconds(task.options["lock_time"]) * 1000,
    }
    history.note("emit", **lease)
    return lease


class Acks:
    """The outcomes of acks. An ack may return at once and be written later, so hooks report its outcome."""

    def __init__(self) -> None:
        self._ends: dict[pitstop.Delivery, Callable[..., None]] = {}
        self.begun = self.ended = 0
        self._lock = threading.Lock()

    def begin(self, history: History, kind: Kind, lease: dict[str, Any], delivery: pitstop.Delivery) -> None:
        self._ends[delivery] = partial(history.end, history.begin(kind, **lease))
        with self._lock:
            self.begun += 1

    def settle(self, history: History, lease: dict[str, Any], delivery: pitstop.Delivery) -> None:
        self.begin(history, "ack", lease, delivery)
        try:
            delivery.ack()
        except LeaseLost as error:
            self._end(delivery, "fail", error)
        except BackendUnavailable as error:
            self._end(delivery, "unknown", error)

    @pitstop.hookimpl
    def pitstop_message_acked(self, delivery: pitstop.Delivery) -> None:
        self._end(delivery, "ok")

    @pitstop.hookimpl
    def pitstop_message_retried(self, delivery: pitstop.Delivery) -> None:
        self._end(delivery, "ok")

    @pitstop.hookimpl
    def pitstop_lease_lost(self, delivery: pitstop.Delivery) -> None:
        self._end(delivery, "fail", LeaseLost())

    def _end(self, delivery: pitstop.Delivery, outcome: Outcome, error: Exception | None = None) -> None:
        end = self._ends.pop(delivery, None)
        if end is not None:
            end(outcome, error)
            with self._lock:
                self.ended += outcome != "unknown"


acks = Acks()


def _settle(history: History, kind: Any, lease: dict[str, Any], settle: Callable[[], None]) -> None:
    number = history.begin(kind, **lease)
    try:
        settle()
    except LeaseLost as error:
        history.end(number, "fail", error)
    except BackendUnavailable as error:
        history.end(number, "unknown", error)
    else:
        history.end(number, "ok")


def _store(history: History, pit: pitstop.Pitstop, some: list[tuple[str, str]], delay: float) -> None:
    due = int((time.time() + delay) * 1000)
    when = datetime.fromtimestamp(due / 1000, UTC)
    items = [({"id": id, **content(version)}, when) for id, version in some]
    numbers = [history.begin("store", id=id, version=version, due=due) for id, version in some]
    (outcome, error) = _outcome(lambda: pit.store(*items[0]) if len(items) == 1 else pit.store_many(items))
    for each in numbers:
        history.end(each, outcome, error)


def _store_series(history: History, pit: pitstop.Pitstop, id: str, occurrences: int) -> None:
    every = 400
    start = int(time.time() * 1000) + 200
    end = start + every * occurrences
    first, last = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (start, end))
    fields = {"id": id, "version": f"{id}.0", "due": start, "every": every, "occurrences": occurrences}
    number = history.begin("store", **fields)
    message = {"id": id, **content(f"{id}.0")}
    history.end(
        number, *_outcome(lambda: pit.store(message, first, last, timedelta(milliseconds=every), catch_up="all"))
    )


def _remove(history: History, pit: pitstop.Pitstop, id: str) -> None:
    number = history.begin("remove", id=id)
    outcome, error = _outcome(lambda: pit.remove(id))
    history.end(number, outcome, error)


def _outcome(call: Callable[[], object]) -> tuple[Outcome, Exception | None]:
    try:
        call()
    except OUTCOME_UNKNOWN as error:
        return "unknown", error
    except BackendUnavailable as error:
        # The outcome is not unknown, so it was not done. If it is emitted nevertheless, that is unexpected.
        return "fail", error
    return "ok", None


def _ms(instant: datetime) -> int:
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def _set_clock_wrong(task: Task) -> None:
    """Patch the only place that reads the time. The history uses the right time."""
    right, wrong = SystemClock.time_us, [task.wrong]
    SystemClock.time_us = lambda self: right(self) + int(wrong[0] * 1e6)  # type: ignore[method-assign]

    def jump(number: int, frame: object) -> None:
        wrong[0] += task.jump

    signal.signal(signal.SIGUSR1, jump)


def _confirm_early(write_concern: int) -> None:
    """Let Pitstop wait for this many members at a write, instead of a majority."""
    from pymongo.write_concern import WriteConcern

    from pitstop_mongo._client.dialect import Dialect

    rightly = Dialect.open

    def open_wrongly(self: Dialect, *arguments: Any, **options: Any) -> Any:
        handles = rightly(self, *arguments, **options)
        each = {field.name: getattr(handles, field.name) for field in attrs.fields(type(handles))}
        return type(handles)(
            **{
                name: one.with_options(write_concern=WriteConcern(write_concern)) if hasattr(one, "insert_one") else one
                for name, one in each.items()
            }
        )

    Dialect.open = open_wrongly  # type: ignore[method-assign]


def _told_to_stop() -> threading.Event:
    """Return an event that is set after a SIGTERM, by a thread that waits for the signal.

    A signal handler could not safely set an event that this thread waits for. It would also not wake this thread if the system
    gave the signal to another thread, after a pause.
    """
    stopping = threading.Event()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        signal.sigwait({signal.SIGTERM})
        stopping.set()

    threading.Thread(target=wait, daemon=True).start()
    return stopping


def main(task: Task) -> None:
    # consume() ends at a signal by itself.
    stopping = _told_to_stop() if task.workers is None else threading.Event()
    faulthandler.register(signal.SIGUSR2)  # shows where a process hangs that does not stop
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    _set_clock_wrong(task)
    if task.write_concern is not None:
        _confirm_early(task.write_concern)
    with pitstop.init(task.options, plugins=[acks]) as pit:
        {"produce": produce, "consume": consume}[task.role](task, pit, stopping)
        # How often outcomes were unknown or recovered.
        Path(task.history).with_suffix(".counters").write_text(json.dumps(pit._session.backend.counters))


if __name__ == "__main__":
    main(Task(**json.loads(sys.argv[1])))
