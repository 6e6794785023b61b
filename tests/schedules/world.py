"""World: a Pitstop on a store that is watched, and what must hold of it by whatever schedule its threads run."""

from __future__ import annotations

import copy
import logging

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, ClassVar

import attrs

import pitstop

from pitstop import BackendUnavailable, Delivery, Listener, OutcomeUnknown, Pitstop
from pitstop._plugins._hooks import Hooks, implementation, plugin_manager
from pitstop.abc import Capability, Outcome, Progress, Record, Settlement
from pitstop_memory import MemoryBackend, MemoryConfig
from schedules.primitives import Thread
from schedules.scheduler import Scheduler


__all__ = ["NOW", "World"]

NOW = timedelta(0)
#: Seconds in which a thread that waits for a message gets one that is due. Far less than ``loop_time`` below.
PROMPT = 2.0


class Watched(MemoryBackend):
    """A store in memory whose calls are points: other threads may go on before and after each of them."""

    api_version: ClassVar[int] = 1
    capabilities: ClassVar[Capability] = Capability.CONDITIONAL | Capability.KINDS

    def __init__(self, world: World, config: MemoryConfig) -> None:
        super().__init__(config)
        self._world = world
        #: Faults to come: the name of a call, and what it does in place of answering.
        self.faults: list[tuple[str, str]] = []

    def put(self, records: Sequence[Record]) -> None:
        self._call("put", lambda: (super(Watched, self).put(records), self._world.was_put(records)))

    def put_if(self, record: Record, revision: str | None, progress: Progress | None = None) -> bool:
        def put_if() -> bool:
            stored = super(Watched, self).put_if(record, revision, progress)
            if stored:
                self._world.was_put([record])
            return stored

        return self._call("put_if", put_if)

    def delete(self, id: str) -> bool:
        def delete() -> bool:
            self._world.was_deleted(id)
            return super(Watched, self).delete(id)

        return self._call("delete", delete)

    def get(self, id: str) -> Record | None:
        return self._call("get", lambda: super(Watched, self).get(id))

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record]:
        def lease() -> Sequence[Record]:
            leased = super(Watched, self).lease(limit, duration, kinds)
            self._world.was_leased(leased)
            return leased

        return self._call("lease", lease)

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        def settle() -> Sequence[bool]:
            applied = super(Watched, self).settle(settlements)
            for each, done in zip(settlements, applied, strict=True):
                if done and each.outcome is not Outcome.EXTEND:
                    self._world.settled.append(each)
            return applied

        return self._call("settle", settle)

    def next_due(self, kinds: Collection[str] | None = None) -> int | None:
        return self._call("next_due", lambda: super(Watched, self).next_due(kinds))

    def contents(self) -> Sequence[Record]:
        """All that is stored."""
        return super().scan(None, 1000, None)

    def _call(self, name: str, function: Callable[[], Any]) -> Any:
        scheduler = self._world.scheduler
        scheduler.point(name)
        fault = next((each for each in self.faults if each[0] == name), None)
        if fault is not None:
            self.faults.remove(fault)
            if fault[1] == "away":
                raise BackendUnavailable("The store is away.")
            if fault[1] == "broken":
                raise ZeroDivisionError("a fault in the backend")
        result = function()
        if fault is not None and fault[1] == "reply lost":
            scheduler.point(name)
            raise OutcomeUnknown("The reply was lost.")
        scheduler.point(f"after {name}")
        return result


@cache
def _no_hooks() -> Hooks:
    return Hooks(plugin_manager((), object()))


@attrs.define(eq=False)
class _Given:
    """A delivery that was handed out."""

    id: str
    version: int
    attempt: int
    until: datetime
    #: The settlements that were asked for: "ack", "nack".
    asked: list[str]
    #: Whether a settlement returned.
    settled: str | None = None
    #: Whether Pitstop said that the lease is lost.
    lost: bool = False


class World:
    """One run: its Pitstop, and the calls and messages so far. All fields are written by the thread that has the baton."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        #: Numbers of the versions that were stored, and of what happened to each id.
        self._versions = 0
        self._order = 0
        #: By version: when it was written.
        self._written: dict[int, int] = {}
        #: By id: the last thing that was written, a version or None if it was removed, and when.
        self.last: dict[str, tuple[int | None, int]] = {}
        #: By id: the last write before a call that has returned.
        self._floor: dict[str, int] = {}
        self._given: dict[Any, _Given] = {}
        self._shown = Counter[tuple[str, int, Any, int]]()
        self.counts_attempts = True
        #: Versions that are due when they are stored.
        self._due_at_once: set[int] = set()
        #: Settlements that the store applied.
        self.settled: list[Settlement] = []
        #: Texts of log records that are no failure.
        self.expected_logs: tuple[str, ...] = ()
        self.logged: list[str] = []
        self.observed: list[tuple[str, str]] = []
        self.pit: Pitstop = None  # type: ignore[assignment] - set by open()
        self.backend: Watched = None  # type: ignore[assignment] - set by open()

    # The parts.

    def make(self, **options: Any) -> tuple[Watched, Hooks]:
        """Make a store, and hooks that note what they see."""
        options = {"lock_time": timedelta(minutes=15), "loop_time": timedelta(minutes=1), **options}
        self.backend = Watched(self, MemoryConfig(**options))
        hooks = copy.copy(_no_hooks())
        hooks.acked = (
            implementation(
                "pitstop_message_acked", lambda delivery: self.observed.append(("acked", delivery.id)), ["delivery"]
            ),
        )
        hooks.lease_lost = (implementation("pitstop_lease_lost", self._was_lost, ["delivery"]),)
        return self.backend, hooks

    def open(self, **options: Any) -> Pitstop:
        with self.scheduler.calm():
            self.pit = Pitstop(*self.make(**options))
        return self.pit

    def together(self, *functions: Callable[[], object]) -> None:
        """Run each in a thread of its own; return when all have come to their end."""
        threads = [Thread(target=each, name=each.__name__) for each in functions]
        with self.scheduler.calm():
            for each in threads:
                each.start()
        for each in threads:
            each.join()

    def start(self, function: Callable[[], object]) -> Thread:
        thread = Thread(target=function, name=function.__name__)
        thread.start()
        return thread

    def sleep(self, seconds: float) -> None:
        self.scheduler.sleep(seconds)

    @property
    def seconds(self) -> float:
        return self.scheduler.now_us / 1e6

    # Calls that users make.

    def message(self, id: str) -> dict[str, Any]:
        self._versions += 1
        return {"id": id, "v": self._versions}

    def store(self, id: str, when: timedelta = NOW, **options: Any) -> int:
        """Store a new version of a message."""
        message = self.message(id)
        version = self._versions
        if when <= NOW:
            self._due_at_once.add(version)
        self.pit.store(message, when, **options)
        self._done(id, self._written[version])
        return version

    def store_many(self, *ids: str) -> None:
        messages = [self.message(id) for id in ids]
        self._due_at_once |= {each["v"] for each in messages}
        self.pit.store_many([(each, NOW) for each in messages])
        for each in messages:
            self._done(each["id"], self._written[each["v"]])

    def remove(self, id: str) -> bool:
        order = self._order
        removed = self.pit.remove(id)
        self._done(id, order)
        return removed

    def get(self, listener: Listener, timeout: float | None = 0) -> Delivery | None:
        floor = dict(self._floor)
        delivery = listener.get(timeout)
        if delivery is not None:
            self.note(delivery, floor)
        return delivery

    def note(self, delivery: Any, floor: dict[str, int] | None = None) -> None:
        """Note that this delivery was handed out, by a call that began when ``floor`` was written."""
        version = delivery.msg["v"]
        shown = (delivery.id, version, delivery.scheduled_for, delivery.attempt)
        self._shown[shown] += 1
        assert self._shown[shown] == 1, f"handed out twice: {shown}"
        if floor is not None:
            assert self._written[version] >= floor.get(delivery.id, 0), (
                f"{delivery.id!r} was handed out as version {version}, although a newer one was stored, or it was removed, "
                f"before it was asked for"
            )
        self._given[delivery] = _Given(delivery.id, version, delivery.attempt, delivery.leased_until, [])

    def each(self, listener: Listener, most: int | None = None) -> Any:
        """Iterate over a listener."""
        while most is None or most > 0:
            delivery = self.get(listener, None)
            if delivery is None:
                return
            yield delivery
            if most is not None:
                most -= 1

    def ack(self, delivery: Delivery, *, wait: bool = False, closing: bool = False) -> bool:
        return self.settle(delivery, "ack", lambda: delivery.ack(wait=wait), closing=closing)

    def nack(self, delivery: Delivery, delay: timedelta | None = None, *, closing: bool = False) -> bool:
        return self.settle(delivery, "nack", lambda: delivery.nack("failed", delay), closing=closing)

    def settle(self, delivery: Delivery, what: str, function: Callable[[], object], *, closing: bool = False) -> bool:
        """Settle a delivery; return whether that succeeded, as far as the caller was told."""
        given = self._given[delivery]
        given.asked.append(what)
        try:
            function()
        except pitstop.LeaseLost as error:
            self._check_lost(delivery, str(error))
            return False
        except BackendUnavailable:
            if not closing:
                raise
            return False
        assert given.settled is None, f"{delivery.id!r} was settled twice: {given.asked}"
        given.settled = what
        return True

    async def asettle(self, delivery: Any, what: str, settling: Awaitable[object], *, closing: bool = False) -> bool:
        """Do as :meth:`settle`, in an event loop."""
        given = self._given[delivery]
        given.asked.append(what)
        try:
            await settling
        except pitstop.LeaseLost as error:
            self._check_lost(delivery, str(error))
            return False
        except BackendUnavailable:
            if not closing:
                raise
            return False
        assert given.settled is None, f"{delivery.id!r} was settled twice: {given.asked}"
        given.settled = what
        return True

    def expect_lost(self, delivery: Delivery) -> None:
        """Expect that this delivery may be told as lost: its handler stores or removes its own id."""
        self._given[delivery].asked.append("ack")

    def given_back(self, given: _Given) -> None:
        """Note that a handler was interrupted: its message comes back as the same attempt."""
        self._shown = Counter({key: n for key, n in self._shown.items() if key[:2] != (given.id, given.version)})
        self.counts_attempts = False
        given.settled = "given back"

    def drain(self, listener: Listener, *, wait: float = 0.5) -> list[str]:
        """Handle all that can be had, without preemption."""
        with self.scheduler.calm():
            self.sleep(wait)
            ids = []
            while (delivery := self.get(listener)) is not None:
                ids.append(delivery.id)
                self.ack(delivery)
            return ids

    def stored(self, id: str) -> Record | None:
        """Read a record without a call that is a point."""
        return next((each for each in self.backend.contents() if each.id == id), None)

    def was_settled(self, delivery: Delivery) -> bool:
        return self._given[delivery].settled is not None

    def closing(self, function: Callable[[], Any]) -> Any:
        """Call a function while the Pitstop may be closed: it may say that it is."""
        try:
            return function()
        except BackendUnavailable as error:
            assert "closed" in str(error), error
            return None

    async def aclosing(self, awaitable: Awaitable[Any]) -> Any:
        """Do as :meth:`closing`, in an event loop."""
        try:
            return await awaitable
        except BackendUnavailable as error:
            assert "closed" in str(error), error
            return None

    def note_handled(self, message: Any) -> _Given:
        """Note that a handler of ``consume`` was called."""
        record = self.stored(message["id"])
        assert record is not None, f"{message['id']!r} is handled, and not stored"
        attempt = record.progress.attempts
        shown = (message["id"], message["v"], record.progress.scheduled_for, attempt)
        self._shown[shown] += 1
        assert self._shown[shown] == 1, f"handled twice: {shown}"
        given = _Given(message["id"], message["v"], attempt, datetime.max.replace(tzinfo=UTC), ["ack"])
        self._given[object()] = given
        return given

    def forget_shown(self) -> None:
        """Do not compare attempts: some of them were not noted."""
        self.counts_attempts = False

    def attempts_begin_anew(self) -> None:
        """The attempts that were shown may be shown again: their messages are redriven."""
        self._shown.clear()

    def forget_given(self) -> None:
        """Drop all deliveries, as a program does that has handled them."""
        self._given = dict(enumerate(self._given.values()))

    # Invariants.

    def check_at_rest(self) -> None:
        """Check that no message is leased but those which a handler has: nothing is out of reach until its lease ends."""
        for record in self.backend.contents():
            state = self._state(record)
            if state == "leased" and not self._is_held(record):
                raise AssertionError(
                    f"{record.id!r} is leased, and no handler has it: {record.message} {record.progress}"
                )
        self._check_versions()

    def finish(self) -> None:
        """Close the Pitstop, without preemption, and check what is left."""
        with self.scheduler.calm():
            self.pit.close()
        self.check_closed()

    def abandon(self) -> None:
        """Close the Pitstop of a run that has failed, so that the end of the program in a later run does not find it."""
        if self.pit is not None:
            # Locks are no obstacle outside of a run; but its threads were killed in the middle of anything.
            with suppress(Exception):
                self.pit.close()

    def check_closed(self) -> None:
        """Check what must hold of the store when the Pitstop is closed."""
        self.check_at_rest()
        stored = {record.id: record for record in self.backend.contents()}
        for given in self._given.values():
            if given.settled != "ack" or given.lost:
                continue
            record = stored.get(given.id)
            if record is not None and record.message["v"] == given.version and record.series is None:
                raise AssertionError(f"the ack of {given.id!r} returned, and was not written: {record.progress}")
        unexpected = [each for each in self.logged if not any(text in each for text in self.expected_logs)]
        assert not unexpected, unexpected

    def _check_versions(self) -> None:
        """Check that each message stands as it was stored last, unless it was acked, and that no message died unseen."""
        stored = {record.id: record for record in self.backend.contents()}
        for id, (version, _) in self.last.items():
            record = stored.get(id)
            if version is None:
                assert record is None, f"{id!r} was removed, and is there: {record}"
                continue
            seen = sum(count for (each, v, *_), count in self._shown.items() if each == id and v == version)
            acked = any(
                each.version == version and each.id == id and "ack" in each.asked for each in self._given.values()
            )
            if record is None:
                assert acked, f"version {version} of {id!r} is gone, and was not acked"
                continue
            assert record.message["v"] == version, f"{id!r} is {record.message}, and not version {version}"
            if record.series is None and self.counts_attempts:
                attempts = record.progress.attempts
                assert attempts <= seen, (
                    f"{id!r} has {attempts} attempts, and was emitted {seen} times: {record.progress}"
                )

    def _state(self, record: Record) -> str:
        due, now = record.progress.due, self.scheduler.now_us // 1000
        if due is None:
            return "dead"
        if due <= now:
            return "due"
        return "scheduled" if record.progress.token is None or record.progress.last_error == "failed" else "leased"

    def _is_held(self, record: Record) -> bool:
        return any(
            each.id == record.id and each.version == record.message["v"] and each.attempt == record.progress.attempts
            for each in self._given.values()
            if each.settled is None or each.settled == "nack"
        )

    # Reports of the store and of the hooks.

    def was_put(self, records: Sequence[Record]) -> None:
        for each in records:
            self._order += 1
            self._written[each.message["v"]] = self._order
            self.last[each.id] = (each.message["v"], self._order)

    def was_deleted(self, id: str) -> None:
        self._order += 1
        self.last[id] = (None, self._order)

    def was_leased(self, records: Sequence[Record]) -> None:
        now = self.scheduler.now_us / 1e6
        for record in records:
            for each in self._given.values():
                same = each.id == record.id and each.version == record.message["v"]
                if same and not each.asked and each.until.timestamp() > now:
                    self.scheduler.fail(AssertionError(f"{record.id!r} is leased again, while a handler has it"))

    def _done(self, id: str, order: int) -> None:
        self._floor[id] = max(self._floor.get(id, 0), order)

    def _was_lost(self, delivery: Delivery) -> None:
        self.observed.append(("lost", delivery.id))
        try:
            self._check_lost(delivery, "told to observers")
        except AssertionError as error:
            self.scheduler.fail(error)

    def _check_lost(self, delivery: Delivery, told: str) -> None:
        """Check that a delivery is told as lost only if another call may have settled its message, or its lease is over."""
        given = self._given.get(delivery)
        if given is None:
            return
        given.lost = True
        _, order = self.last[given.id]
        anew = order > self._written[given.version]
        over = given.until.timestamp() * 1e6 <= self.scheduler.now_us
        if not (anew or over or len(given.asked) > 1):
            raise AssertionError(f"{given.id!r} is told as lost, and nothing else has settled it: {told}")


class LogWatch(logging.Handler):
    """Notes what Pitstop logs, for the world of the present run."""

    world: World | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self.world is not None and record.levelno >= logging.WARNING:
            text = record.getMessage()
            if "ran out before the message was settled" in text:
                # Scenarios let leases end on purpose.
                return
            if record.exc_info:
                text += " " + logging.Formatter().formatException(record.exc_info)
            self.world.logged.append(text)
