"""A state machine that applies any operations of a user, in any order, while replies get lost and processes die."""

from __future__ import annotations

import sys

from collections.abc import Callable, Collection
from datetime import timedelta
from itertools import count
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, MultipleResults, RuleBasedStateMachine, initialize, multiple, precondition, rule

import pitstop

from pitstop.abc import Backend, Capability, Record, floor_instant
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles
from pitstop_conformance._records import at
from pitstop_conformance._values import same
from pitstop_conformance.model._contract_machine import Times, emptied
from pitstop_conformance.model._messages import GIVEN, kept
from pitstop_conformance.model._uses import NO_POLICIES, Held, Message, Policies
from pitstop_conformance.model._wire import Fault, Wire


__all__ = ["FAULTS", "HOUR", "IDS", "PitstopMachine"]

_MILLISECOND = timedelta(milliseconds=1)
#: The lock time of every listener, in milliseconds.
_LOCK = 60_000
#: How many times a message is looked for that others may come before.
_PATIENCE = 12
HOUR = 3_600_000
#: The wait at the end of a run. It is longer than all leases, delays and series with an end.
_LONG = timedelta(days=2)
#: More messages than are emitted at the end of any run.
_MANY = 1000

#: Few ids, so that a leased message is often stored again or removed.
IDS = st.sampled_from(["a", "b", "A"])
FAULTS: st.SearchStrategy[Fault | None] = st.sampled_from([None, None, None, None, "lost", "refused"])
#: The listeners, by the number of messages that they claim at once.
_LISTENERS = st.sampled_from([1, 2, 3])
#: Milliseconds from now.
_DUE_IN = st.sampled_from([0, -1, 1, 1000, -HOUR, HOUR])
_ITEMS = st.lists(st.tuples(IDS, _DUE_IN), max_size=4)
# A series without end with this interval has too many occurrences in a day for "all".
_SERIES = st.tuples(st.sampled_from([1000, 1, 7, HOUR]), st.none(), st.just("latest")) | st.tuples(
    st.sampled_from([1000, 1, 7, HOUR]), st.integers(1, 4), st.sampled_from(["latest", "all"])
)
#: A careless store may mistake one of them for another.
_KINDS = st.sampled_from(["", "mail", "Mail"])
#: The kinds of a listener. None: all.
_CHOICES: st.SearchStrategy[tuple[str, ...] | None] = st.sampled_from([None, None, None, ("mail",), ("", "Mail")])
_POLICIES = st.just(NO_POLICIES) | st.builds(
    Policies,
    lock_time=st.sampled_from([None, 5000, 2 * _LOCK]),
    expires=st.sampled_from([None, 1, 1000, HOUR]),
    retry=st.sampled_from([None, 1000]),
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

    @rule(
        id=IDS, due_in=_DUE_IN, message=GIVEN, series=st.none() | _SERIES, kind=_KINDS, policies=_POLICIES, fault=FAULTS
    )
    def store(
        self,
        id: str,
        due_in: int,
        message: dict[str, Any],
        series: tuple[int, int | None, Any] | None,
        kind: str,
        policies: Policies,
        fault: Fault | None,
    ) -> None:
        """``series``: its interval in milliseconds, its number of occurrences (None: no end), and its catch-up."""
        version, given = self._given(id, message)
        kind = kind if self._has(Capability.KINDS) else ""
        policies = policies if self._has(Capability.POLICIES) else NO_POLICIES
        if series is None:
            stored = Message(version, kept(given), self._from_now(due_in))
            times_of: tuple[Any, ...] = (due_in * _MILLISECOND,)
            options: dict[str, Any] = {}
        else:
            every, times, catch_up = series
            start = self._times.now + due_in
            end = None if times is None else start + times * every
            stored = Message(version, kept(given), start, end, every, catch_up)
            times_of = (at(start), None if end is None else at(end), every * _MILLISECOND)
            options = {"catch_up": catch_up}
        stored.kind, stored.policies = kind, policies
        options |= {"kind": kind, **policies.given}
        with self._wire.fault(fault):
            if self._fails(lambda: self._pit.store(given, *times_of, **options), fault):
                self._messages[id] = stored
        self._look()

    @rule(items=_ITEMS, fault=FAULTS)
    def store_many(self, items: list[tuple[str, int]], fault: Fault | None) -> None:
        """Of several messages with one id the last one counts."""
        self._store_many(items, fault)
        self._look()

    @rule(id=IDS, fault=FAULTS)
    def remove(self, id: str, fault: Fault | None) -> None:
        told: list[bool] = []
        with self._wire.fault(fault):
            done = self._fails(lambda: told.append(self._pit.remove(id)), fault)
        there = self._messages.pop(id, None) is not None if done else None
        assert not told or told == [there], f"remove({id!r}): expected {there}, got {told[0]}"
        self._look()

    @rule(by=_LISTENERS, kinds=_CHOICES, when=_WHEN_DUE, fault=FAULTS, target=deliveries)
    def get(self, by: int, kinds: tuple[str, ...] | None, when: str, fault: Fault | None) -> MultipleResults[Held]:
        """``by``: the listener of these kinds that claims this number of messages at once."""
        held = self._get(by, when, fault, kinds)
        return multiple() if held is None else multiple(held)

    @rule(by=st.sampled_from([2, 3]), expires=st.sampled_from([1, 1000]), step=_STEPS)
    def claim_ahead(self, by: int, expires: int, step: str) -> None:
        """Get one of two messages that expire, let time pass, and get the other one, which waits in the listener."""
        for id in ("a", "b"):
            self.store(id, 0, {}, None, "", Policies(expires=expires), None)
        self._get(by, "now", None)
        self._times.advance(step, self._dues())
        self._get(by, "now", None)

    @rule(
        id=IDS,
        times=st.sampled_from([None, 1, 2]),
        ends=st.lists(st.sampled_from(["nack", "wait too long"]), min_size=1, max_size=3),
        then=st.sampled_from(["redrive it", "remove it", "store it anew"]),
    )
    def give_up(self, id: str, times: int | None, ends: list[str], then: str) -> None:
        """Let a message use up the attempts that it has of its own. It ends in this rule, because most uses know no dead message.

        :param times: the occurrences of a series; None: a one-shot message.
        """
        if not self._has(Capability.POLICIES):
            return
        self.store(
            id, 0, {}, None if times is None else (HOUR, times, "latest"), "", Policies(retry=0, most=len(ends)), None
        )
        for end in ends:
            held = self._get_one(id)
            assert held.delivery.attempt == self._messages[id].attempts
            if end == "nack":
                self._nack(held, None, None)
            else:
                self._wait(held, "when the lease ends")
            self._look()
        message = self._messages[id]
        for _ in range(_PATIENCE):
            # Its last lease ran out. A claim finds it out, perhaps after those of other messages that may have killed their worker.
            if message.is_used_up() and not message.dead and self._get(1, "now", None) is None and not message.dead:
                self._clock.advance(_LOCK // 1000)
        assert message.dead == (times != 2), f"{id!r} has used up its attempts, and is not given up"
        assert self._pit.redrive(id) is message.dead
        if message.dead:
            message.revived(self._times.now)
        self._look()
        if then == "redrive it":
            self._ack(self._get_one(id), None)
        if then == "store it anew":
            self._store_many([(id, 0)], None)
        elif id in self._messages:
            assert self._pit.remove(id)
            del self._messages[id]
        self._look()

    @rule(
        by=_LISTENERS,
        when=_WHEN_DUE,
        then=st.sampled_from(["ack", "nack", "nack without a delay", "store it anew", "wait too long"]),
        fault=FAULTS,
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
        elif then == "nack without a delay":
            self._nack(held, None, fault)
        elif then == "store it anew":
            self._store_many([(held.delivery.id, 0)], fault)
        else:
            self._wait(held, "when the lease ends")
        self._look()
        return multiple(held)

    @precondition(lambda self: self.bundles.get("deliveries"))
    @rule(held=deliveries, when=_WHEN, fault=FAULTS)
    def ack(self, held: Held, when: str, fault: Fault | None) -> None:
        self._wait(held, when)
        self._ack(held, fault)
        self._look()

    @precondition(lambda self: self.bundles.get("deliveries"))
    @rule(held=deliveries, delay=st.sampled_from([None, 0, 1, 1000, HOUR]), when=_WHEN, fault=FAULTS)
    def nack(self, held: Held, delay: int | None, when: str, fault: Fault | None) -> None:
        """``delay``: milliseconds. None: until the lease runs out."""
        self._wait(held, when)
        self._nack(held, delay, fault)
        self._look()

    @precondition(lambda self: self.bundles.get("deliveries"))
    @rule(held=deliveries, span=st.sampled_from([1000, 1, 2 * _LOCK]), when=_WHEN, fault=FAULTS)
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
        for each in [each for each in self._listeners if each[0] == by]:
            self._listeners.pop(each).close()
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

    def _get(self, by: int, when: str, fault: Fault | None, kinds: tuple[str, ...] | None = None) -> Held | None:
        kinds = kinds if self._has(Capability.KINDS) else None
        now = self._times.now
        if when != "now" and not any(each.due <= now and each.is_of(kinds) for each in self._messages.values()):
            self._times.advance("to the next due time", self._dues(kinds))
        got: list[pitstop.Delivery | None] = []
        with self._wire.fault(fault):
            self._fails(lambda: got.append(self._listener(by, kinds).get()), fault, quietly=True)
            failed = fault is not None and self._wire.failed
        self._note_expired(kinds)
        self._note_given_up()
        held = self._emitted(got[0], kinds) if got and got[0] is not None else None
        # A message that may have killed its worker waits in the listener for others that may have done so, or they for it.
        waits = got == [None] and any(each.policies.most is not None for each in self._messages.values())
        if by > 1 or (failed and fault == "lost") or waits:
            self._claimed_ahead(kinds, in_doubt=failed)
        if got == [None] and not (failed or waits):
            self._nothing_is_due(kinds)
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
        gives_up = message is not None and message.is_used_up()
        waits = delay if delay is not None or message is None else message.policies.retry
        due = held.until if waits is None else self._from_now(waits)
        if self._settles(held, lambda: held.delivery.nack("failed", delay=span), fault) and message is not None:
            if gives_up:
                message.given_up()
            else:
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
        self._listeners: dict[tuple[int, tuple[str, ...] | None], pitstop.Listener] = {}

    def _has(self, capability: Capability) -> bool:
        return capability in self._wire.capabilities

    def _listener(self, by: int, kinds: tuple[str, ...] | None = None) -> pitstop.Listener:
        if (by, kinds) not in self._listeners:
            self._listeners[by, kinds] = self._pit.listen(prefetch=by, kinds=kinds)
        return self._listeners[by, kinds]

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

    def _emitted(self, delivery: pitstop.Delivery, kinds: Collection[str] | None = None) -> Held:
        now, id, version = self._times.now, delivery.id, delivery.msg["version"]
        held = Held(delivery, self._wire, version, floor_instant(delivery.leased_until))
        if id in self._messages and self._messages[id].version == version:
            assert not self._messages[id].is_used_up(), f"{id!r} has used up its attempts, and was emitted"
        assert version not in self._done, f"{id!r} was acknowledged, and was emitted again"
        message = self._messages.get(id)
        if message is None or message.version != version:
            # As docs/listening.md says of prefetch: a message that was claimed ahead may be handed out in its old version.
            assert version in self._ahead, f"{id!r} was removed or stored anew, and was emitted in its old version"
            return held
        assert now >= message.due, (
            f"{id!r} was emitted {message.due - now} ms before it is due, or before its lease ends"
        )
        lock = message.policies.lock_time or _LOCK
        assert now < held.until <= now + lock, (
            f"{id!r}: expected a lease of at most {lock} ms, got {held.until - now} ms"
        )
        assert message.is_of(kinds), f"a listener of {kinds} got {id!r}, which is of kind {message.kind!r}"
        assert delivery.kind == message.kind, f"{id!r}: expected the kind {message.kind!r}, got {delivery.kind!r}"
        assert same(delivery.msg, message.content), (
            f"{id!r}: expected the message {message.content!r}, got {delivery.msg!r}"
        )
        chosen = (floor_instant(delivery.scheduled_for), delivery.missed)
        expected = message.chosen or message.choice(now)
        assert message.may_come_as(*chosen, now), f"{id!r}: expected the occurrence {expected}, got {chosen}"
        # A listener knows the time of its claim in whole milliseconds. So a message that waited there may be late by a part of one.
        late_from = now - 1 if message.unseen else now
        assert not message.is_too_late(chosen[0], late_from), (
            f"{id!r} was emitted for {self._ago(chosen[0])}, and has expired"
        )
        assert delivery.key == f"{id}:{chosen[0]}"
        least, attempt = message.attempts + 1, delivery.attempt
        fine = attempt >= least if message.unseen else attempt == least
        assert fine, f"{id!r}: expected the attempt {least}, got {attempt}"
        message.emitted(held, chosen, attempt)
        return held

    def _note_expired(self, kinds: Collection[str] | None) -> None:
        """Note which messages a claim of these kinds has ended as too late: it need not have claimed all that are due."""
        now = self._times.now
        for id, message in [each for each in self._messages.items() if each[1].is_of(kinds)]:
            if not message.may_expire(now):
                continue
            stored, following = self._opened[-1].get(id), message.after_expiry(now)
            if stored is None:
                assert following is None, (
                    f"the series {id!r} is gone, but its occurrence {self._ago(following)} is to come"
                )
                self._done.add(message.version)
                del self._messages[id]
            elif isinstance(stored, Record) and stored.progress.scheduled_for == following:
                message.expired(following)

    def _note_given_up(self) -> None:
        """Note which messages a claim has given up, because their last attempts ended without a settlement."""
        now = self._times.now
        for id, message in self._messages.items():
            if not message.is_used_up() or message.due > now:
                continue
            stored = self._opened[-1].get(id)
            assert isinstance(stored, Record), f"{id!r} has used up its attempts, and is gone"
            assert message.chosen is not None, "it was emitted"
            if stored.progress.due is None or stored.progress.scheduled_for != message.chosen[0]:
                message.given_up()

    def _get_one(self, id: str) -> Held:
        """Get this message. Others that are due may come before it, and are put off."""
        for _ in range(_PATIENCE):
            held = self._get(1, "when something is due", None)
            if held is None:
                # It may have killed its worker, and waits until others that may have done so were handled.
                self._clock.advance(_LOCK // 1000)
            elif held.delivery.id == id and self._holding(held) is not None:
                return held
            else:
                self._nack(held, HOUR, None)
        raise AssertionError(f"{id!r} does not come")

    def _claimed_ahead(self, kinds: Collection[str] | None, *, in_doubt: bool) -> None:
        """Note that a claim may have taken each message of these kinds that is due.

        :param in_doubt: whether its reply was lost. Else a claim that takes a message without further attempts gives it up.
        """
        for each in self._messages.values():
            if each.due <= self._times.now and each.is_of(kinds) and (in_doubt or not each.is_used_up()):
                each.unseen = True
                self._ahead.add(each.version)

    def _nothing_is_due(self, kinds: Collection[str] | None = None) -> None:
        """Compare the store with the model after a listener of these kinds found no due message."""
        due = [each for each in self._pit.entries("due") if kinds is None or each.kind in kinds]
        assert not due, (
            f"the listener found no due message, but the store has the due messages {[each.id for each in due]}"
        )
        now = self._times.now
        missing = [
            id for id, each in self._messages.items() if each.due <= now and not each.unseen and each.is_of(kinds)
        ]
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
        if message.dead:
            assert (due, entry.state) == (None, "dead"), f"{id!r}: expected a dead message, got {entry.state}"
            return
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
        policies = {"lock_time": entry.lock_time, "expires": entry.expires, "retry": entry.retry}
        assert (entry.kind, policies) == (message.kind, message.policies.given), (
            f"{id!r}: expected the kind and the policies as they were stored, got {entry.kind!r} and {policies}"
        )
        if message.chosen is not None:
            assert entry.scheduled_for == at(message.chosen[0]), (
                f"{id!r} went on to its next occurrence before it was acknowledged"
            )

    def _dues(self, kinds: Collection[str] | None = None) -> list[int]:
        return [each.due for each in self._messages.values() if each.is_of(kinds) and not each.dead]

    def _ago(self, instant: int | None) -> str:
        return "never" if instant is None else f"now{instant - self._times.now:+}"

    def _drain(self) -> None:
        """Check that every stored message is emitted at least once after a long time, in which all leases end."""
        self._wire.cut = True
        self._start()
        self._clock.advance(_LONG)
        emitted = 0
        while (delivery := self._listener(1).get()) is not None:
            self._note_expired(None)
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
        self._note_expired(None)
        left = [id for id, each in self._messages.items() if each.every is None or each.end is not None]
        assert not left, f"{left} were never emitted"
        self._nothing_is_due()


def _raised(use: Callable[[], Any]) -> pitstop.LeaseLost | pitstop.BackendUnavailable | None:
    try:
        use()
    except (pitstop.LeaseLost, pitstop.BackendUnavailable) as error:
        return error
    return None
