"""A state machine that applies any operations of a user, in any order, while replies get lost and processes die."""

from __future__ import annotations

import sys

from collections.abc import Callable
from datetime import timedelta
from itertools import count
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, MultipleResults, RuleBasedStateMachine, initialize, multiple, precondition, rule

import pitstop

from pitstop.abc import Backend, floor_instant
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles
from pitstop_conformance._records import at
from pitstop_conformance._values import same
from pitstop_conformance.model._contract_machine import Times, emptied
from pitstop_conformance.model._messages import GIVEN, kept
from pitstop_conformance.model._uses import Held, Message
from pitstop_conformance.model._wire import Fault, Wire


__all__ = ["PitstopMachine"]

_MILLISECOND = timedelta(milliseconds=1)
#: The lock time of every listener, in milliseconds.
_LOCK = 60_000
_HOUR = 3_600_000
#: The wait at the end of a run. It is longer than all leases, delays and series with an end.
_LONG = timedelta(days=2)
#: More messages than are emitted at the end of any run.
_MANY = 1000

#: Few ids, so that a leased message is often stored again or removed.
_IDS = st.sampled_from(["a", "b", "A"])
_FAULTS: st.SearchStrategy[Fault | None] = st.sampled_from([None, None, None, None, "lost", "refused"])
#: The listeners, by the number of messages that they claim at once.
_LISTENERS = st.sampled_from([1, 2, 3])
#: Milliseconds from now.
_DUE_IN = st.sampled_from([0, -1, 1, 1000, -_HOUR, _HOUR])
_ITEMS = st.lists(st.tuples(_IDS, _DUE_IN), max_size=4)
# A series without end with this interval has too many occurrences in a day for "all".
_SERIES = st.tuples(st.sampled_from([1000, 1, 7, _HOUR]), st.none(), st.just("latest")) | st.tuples(
    st.sampled_from([1000, 1, 7, _HOUR]), st.integers(1, 4), st.sampled_from(["latest", "all"])
)
#: Mostly a time at which a message is due.
_WHEN_DUE = st.sampled_from(["when something is due", "when something is due", "now"])
_WHEN = st.sampled_from(["now", "now", "now", "when the lease ends", "just before that"])
_STEPS = st.sampled_from(
    [
        "to the next due time",
        "to just before it",
        "by a millisecond",
        "by half a millisecond",
        "by a second",
        "by a day",
    ]
)


class PitstopMachine(RuleBasedStateMachine):
    """Each rule is an operation of a user. At the end of a run every stored message must be emitted."""

    deliveries = Bundle("deliveries")

    def __init__(self, handles: Handles, clock: ManualClock) -> None:
        super().__init__()
        self._open: Callable[[], Backend] = lambda: handles.peer(lock_time=_LOCK / 1000)
        self._clock = clock
        self._times = Times(clock)
        self._messages: dict[str, Message] = {}
        self._versions = count()
        self._looks = count()
        # Versions that were acknowledged to their end, and versions that a listener may have claimed ahead.
        self._done: set[int] = set()
        self._ahead: set[int] = set()
        self._opened: list[Backend] = []
        self._start()

    @initialize(items=_ITEMS)
    def begin(self, items: list[tuple[str, int]]) -> None:
        """Store some messages first, as a rule, because most operations on an empty store show little."""
        emptied(self._opened[0])
        self._store_many(items, None)

    def teardown(self) -> None:
        try:
            # Skipped if a step has failed, because its error is to be reported.
            if sys.exc_info()[0] is None:
                self._drain()
        finally:
            for each in self._opened:
                each.close()

    # Operations of a user.

    @rule(id=_IDS, due_in=_DUE_IN, message=GIVEN, series=st.none() | _SERIES, fault=_FAULTS)
    def store(
        self,
        id: str,
        due_in: int,
        message: dict[str, Any],
        series: tuple[int, int | None, Any] | None,
        fault: Fault | None,
    ) -> None:
        """``series``: its interval in milliseconds, its number of occurrences (None: no end), and its catch-up."""
        version, given = self._given(id, message)
        if series is None:
            stored = Message(version, kept(given), self._from_now(due_in))
            times_of: tuple[Any, ...] = (due_in * _MILLISECOND,)
            options = {}
        else:
            every, times, catch_up = series
            start = self._times.now + due_in
            end = None if times is None else start + times * every
            stored = Message(version, kept(given), start, end, every, catch_up)
            times_of = (at(start), None if end is None else at(end), every * _MILLISECOND)
            options = {"catch_up": catch_up}
        with self._wire.fault(fault):
            if self._fails(lambda: self._pit.store(given, *times_of, **options), fault):
                self._messages[id] = stored
        self._look()

    @rule(items=_ITEMS, fault=_FAULTS)
    def store_many(self, items: list[tuple[str, int]], fault: Fault | None) -> None:
        """Of several messages with one id the last one counts."""
        self._store_many(items, fault)
        self._look()

    @rule(id=_IDS, fault=_FAULTS)
    def remove(self, id: str, fault: Fault | None) -> None:
        told: list[bool] = []
        with self._wire.fault(fault):
            done = self._fails(lambda: told.append(self._pit.remove(id)), fault)
        there = self._messages.pop(id, None) is not None if done else None
        assert not told or told == [there], f"remove({id!r}): expected {there}, got {told[0]}"
        self._look()

    @rule(by=_LISTENERS, when=_WHEN_DUE, fault=_FAULTS, target=deliveries)
    def get(self, by: int, when: str, fault: Fault | None) -> MultipleResults[Held]:
        """``by``: the listener that claims this number of messages at once."""
        held = self._get(by, when, fault)
        return multiple() if held is None else multiple(held)

    @rule(
        by=_LISTENERS,
        when=_WHEN_DUE,
        then=st.sampled_from(["ack", "nack", "store it anew", "wait too long"]),
        fault=_FAULTS,
        target=deliveries,
    )
    def handle(self, by: int, when: str, then: str, fault: Fault | None) -> MultipleResults[Held]:
        """Get a delivery, and settle it in this way."""
        held = self._get(by, when, None)
        if held is None:
            return multiple()
        if then == "ack":
            self._ack(held, fault)
        elif then == "nack":
            self._nack(held, 0, fault)
        elif then == "store it anew":
            self._store_many([(held.delivery.id, 0)], fault)
        else:
            self._wait(held, "when the lease ends")
        self._look()
        return multiple(held)

    @precondition(lambda self: self.bundles.get("deliveries"))
    @rule(held=deliveries, when=_WHEN, fault=_FAULTS)
    def ack(self, held: Held, when: str, fault: Fault | None) -> None:
        self._wait(held, when)
        self._ack(held, fault)
        self._look()

    @precondition(lambda self: self.bundles.get("deliveries"))
    @rule(held=deliveries, delay=st.sampled_from([None, 0, 1, 1000, _HOUR]), when=_WHEN, fault=_FAULTS)
    def nack(self, held: Held, delay: int | None, when: str, fault: Fault | None) -> None:
        """``delay``: milliseconds. None: until the lease runs out."""
        self._wait(held, when)
        self._nack(held, delay, fault)
        self._look()

    @precondition(lambda self: self.bundles.get("deliveries"))
    @rule(held=deliveries, span=st.sampled_from([1000, 1, 2 * _LOCK]), when=_WHEN, fault=_FAULTS)
    def extend(self, held: Held, span: int, when: str, fault: Fault | None) -> None:
        """``span``: milliseconds from now."""
        self._wait(held, when)
        self._extend(held, span, fault)
        self._look()

    # Events.

    @rule(step=_STEPS)
    def advance(self, step: str) -> None:
        self._times.advance(step, self._dues())
        self._look()

    @rule(what=st.sampled_from(["a listener is closed", "the process dies"]), by=_LISTENERS)
    def end(self, what: str, by: int) -> None:
        """A listener gives back the messages that it claimed ahead. Those of a dead process come back when the lease ends."""
        if what == "the process dies":
            self._wire.cut = True
            self._start()
        elif by in self._listeners:
            self._listeners.pop(by).close()
        self._look()

    def _store_many(self, items: list[tuple[str, int]], fault: Fault | None) -> None:
        made = [(*self._given(id, {}), due_in) for id, due_in in items]
        # An empty batch writes nothing, so it cannot fail.
        with self._wire.fault(fault if items else None):
            done = self._fails(
                lambda: self._pit.store_many([(given, due_in * _MILLISECOND) for _, given, due_in in made]),
                fault if items else None,
            )
        for version, given, due_in in made if done else []:
            self._messages[given["id"]] = Message(version, kept(given), self._from_now(due_in))

    def _get(self, by: int, when: str, fault: Fault | None) -> Held | None:
        now = self._times.now
        if when != "now" and not any(each.due <= now for each in self._messages.values()):
            self._times.advance("to the next due time", self._dues())
        got: list[pitstop.Delivery | None] = []
        with self._wire.fault(fault):
            self._fails(lambda: got.append(self._listener(by).get()), fault, quietly=True)
            failed = fault is not None and self._wire.failed
        held = self._emitted(got[0]) if got and got[0] is not None else None
        if by > 1 or (failed and fault == "lost"):
            self._claimed_ahead()
        if got == [None] and not failed:
            self._nothing_is_due()
        self._look()
        return held

    def _wait(self, held: Held, when: str) -> None:
        if when != "now":
            step = "to just before it" if when == "just before that" else "to the next due time"
            self._times.advance(step, [held.until])

    def _ack(self, held: Held, fault: Fault | None) -> None:
        message = self._holding(held)
        if self._settles(held, held.delivery.ack, fault) and message is not None and not message.acked():
            self._done.add(message.version)
            del self._messages[held.delivery.id]

    def _nack(self, held: Held, delay: int | None, fault: Fault | None) -> None:
        """``delay``: milliseconds. None: until the lease runs out."""
        message = self._holding(held)
        span = None if delay is None else delay * _MILLISECOND
        due = held.until if delay is None else self._from_now(delay)
        if self._settles(held, lambda: held.delivery.nack("failed", delay=span), fault) and message is not None:
            message.nacked(due)

    def _extend(self, held: Held, span: int, fault: Fault | None) -> None:
        """``span``: milliseconds from now."""
        message, until = self._holding(held), self._times.now + span
        if self._settles(held, lambda: held.delivery.extend(span * _MILLISECOND), fault, ends=False):
            if message is not None:
                message.due = until
            if fault is None:
                held.until = until

    def _start(self) -> None:
        backend = self._open()
        self._opened.append(backend)
        self._wire = Wire(backend)
        self._pit = pitstop.init({"type": self._wire})
        self._listeners: dict[int, pitstop.Listener] = {}

    def _listener(self, by: int) -> pitstop.Listener:
        if by not in self._listeners:
            self._listeners[by] = self._pit.listen(prefetch=by)
        return self._listeners[by]

    def _given(self, id: str, message: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        version = next(self._versions)
        return version, {**message, "id": id, "version": version}

    def _from_now(self, milliseconds: int) -> int:
        """Return an instant as a timedelta from now, rounded up, so that nothing is emitted early."""
        now_us = self._clock.time_us()
        wanted_us = now_us + milliseconds * 1000
        return -(-wanted_us // 1000) if wanted_us > now_us else min(-(-wanted_us // 1000), now_us // 1000)

    def _fails(self, use: Callable[[], Any], fault: Fault | None, *, quietly: bool = False) -> bool:
        """Use the store, and return whether the write was applied. A fault must reach the user as the right error.

        :param quietly: the fault may hit messages that are given back unseen, and then no error is raised.
        """
        error = _raised(use)
        if error is None:
            assert fault is None or quietly or not self._wire.failed, (
                f"a write was {fault}: expected an error, got none"
            )
            return True
        assert fault is not None, f"expected no error without a fault, got {error!r}"
        assert isinstance(error, pitstop.OutcomeUnknown) == (fault == "lost"), f"a {fault} write raised {error!r}"
        return fault == "lost"

    def _holding(self, held: Held) -> Message | None:
        """Return the message that the delivery may settle, or None if its lease is over."""
        message = self._messages.get(held.delivery.id)
        fine = message is not None and message.version == held.version and message.is_held_by(held, self._times.now)
        return message if fine else None

    def _settles(self, held: Held, settle: Callable[[], None], fault: Fault | None, *, ends: bool = True) -> bool:
        """Settle a delivery, and return whether the write was applied.

        LeaseLost must be raised if the lease is over, and only then. After a lost reply the lease may be over because the first
        settlement was applied. Then another one ends without an error, or with OutcomeUnknown.
        """
        holding, gone = self._holding(held) is not None, held.wire.cut
        with held.wire.fault(fault):
            error = _raised(settle)
        if isinstance(error, pitstop.LeaseLost):
            assert not holding, f"expected no error while the lease of {held} runs, got {error}"
            return False
        if error is not None:
            unknown = held.doubted and isinstance(error, pitstop.OutcomeUnknown)
            assert gone or unknown or fault is not None, f"expected no error without a fault, got {error!r}"
            held.doubted = held.doubted or (ends and fault == "lost")
            return holding and fault == "lost" and not gone
        assert holding or held.doubted, f"expected LeaseLost after the lease of {held}, but the settlement was applied"
        held.settled = ends
        return holding

    def _emitted(self, delivery: pitstop.Delivery) -> Held:
        now, id, version = self._times.now, delivery.id, delivery.msg["version"]
        held = Held(delivery, self._wire, version, floor_instant(delivery.leased_until))
        assert version not in self._done, f"{id!r} was acknowledged, and was emitted again"
        message = self._messages.get(id)
        if message is None or message.version != version:
            # As docs/listening.md says of prefetch: a message that was claimed ahead may be handed out in its old version.
            assert version in self._ahead, f"{id!r} was removed or stored anew, and was emitted in its old version"
            return held
        assert now >= message.due, (
            f"{id!r} was emitted {message.due - now} ms before it is due, or before its lease ends"
        )
        assert now < held.until <= now + _LOCK, (
            f"{id!r}: expected a lease of at most {_LOCK} ms, got {held.until - now} ms"
        )
        assert same(delivery.msg, message.content), (
            f"{id!r}: expected the message {message.content!r}, got {delivery.msg!r}"
        )
        chosen = (floor_instant(delivery.scheduled_for), delivery.missed)
        expected = message.chosen or message.choice(now)
        assert message.may_come_as(*chosen, now), f"{id!r}: expected the occurrence {expected}, got {chosen}"
        assert delivery.key == f"{id}:{chosen[0]}"
        least, attempt = message.attempts + 1, delivery.attempt
        fine = attempt >= least if message.unseen else attempt == least
        assert fine, f"{id!r}: expected the attempt {least}, got {attempt}"
        message.emitted(held, chosen, attempt)
        return held

    def _claimed_ahead(self) -> None:
        """Note that a claim may have taken each message that is due."""
        for each in self._messages.values():
            if each.due <= self._times.now:
                each.unseen = True
                self._ahead.add(each.version)

    def _nothing_is_due(self) -> None:
        """Compare the store with the model after a listener found no due message."""
        due = self._pit.entries("due")
        assert not due, (
            f"the listener found no due message, but the store has the due messages {[each.id for each in due]}"
        )
        now = self._times.now
        missing = [id for id, each in self._messages.items() if each.due <= now and not each.unseen]
        assert not missing, f"the listener found no due message, but {missing} should be due"

    def _look(self) -> None:
        """Compare the store with the model after each step: each message once, with its content, times and attempts."""
        stored = self._pit.entries()
        ids = [each.id for each in stored]
        assert sorted(ids) == sorted(self._messages), f"entries(): expected {sorted(self._messages)}, got {ids}"
        if next(self._looks) % 3 == 0:
            stats = self._pit.stats()
            counted = stats.scheduled + stats.due + stats.leased + stats.dead
            assert counted == len(ids), f"stats(): expected {len(ids)} messages, got {counted}: {stats}"
        for entry in stored:
            self._compare(entry, self._messages[entry.id])

    def _compare(self, entry: pitstop.Entry, message: Message) -> None:
        id, due = entry.id, None if entry.due is None else floor_instant(entry.due)
        assert same(entry.message, message.content), (
            f"{id!r}: expected the message {message.content!r}, got {entry.message!r}"
        )
        assert due is not None, f"{id!r}: expected a living message, got a dead one: {entry.last_error}"
        in_time = due >= message.due if message.unseen else due == message.due
        assert in_time, f"{id!r}: expected due in {message.due - self._times.now} ms, got {due - self._times.now} ms"
        counted = entry.attempts >= message.attempts if message.unseen else entry.attempts == message.attempts
        assert counted, f"{id!r}: expected {message.attempts} attempts, got {entry.attempts}"
        every = None if message.every is None else message.every * _MILLISECOND
        end = None if message.end is None else at(message.end)
        assert (entry.every, entry.end) == (every, end), (
            f"{id!r}: expected the schedule as it was stored, got every {entry.every} until {entry.end}"
        )
        if message.chosen is not None:
            assert entry.scheduled_for == at(message.chosen[0]), (
                f"{id!r} went on to its next occurrence before it was acknowledged"
            )

    def _dues(self) -> list[int]:
        return [each.due for each in self._messages.values()]

    def _drain(self) -> None:
        """Check that every stored message is emitted at least once after a long time, in which all leases end."""
        self._wire.cut = True
        self._start()
        self._clock.advance(_LONG)
        emitted = 0
        while (delivery := self._listener(1).get()) is not None:
            emitted += 1
            assert emitted <= _MANY, f"{delivery.id!r} and others are emitted again and again"
            held = self._emitted(delivery)
            message = self._holding(held)
            assert message is not None, f"{delivery.id!r} was emitted, although it is not stored"
            delivery.ack()
            if not message.acked():
                self._done.add(message.version)
                del self._messages[delivery.id]
            self._look()
        left = [id for id, each in self._messages.items() if each.every is None or each.end is not None]
        assert not left, f"{left} were never emitted"
        self._nothing_is_due()


def _raised(use: Callable[[], Any]) -> pitstop.LeaseLost | pitstop.BackendUnavailable | None:
    try:
        use()
    except (pitstop.LeaseLost, pitstop.BackendUnavailable) as error:
        return error
    return None
