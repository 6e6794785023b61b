"""Engines and stores that are known to be bad: what the simulation is there to catch, one defect each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from unittest import mock

import attrs

from pitstop._engine._hand import Hand
from pitstop._engine._outbox import Outbox

from pitstop._decisions import _emit, _settle
from pitstop._engine import _delivery, _hand, _listener
from pitstop._engine._delivery import Delivery
from pitstop._errors import BackendUnavailable, LeaseLost, OutcomeUnknown
from pitstop.abc import Outcome, Progress, Record
from pitstop_memory import MemoryBackend
from simulation.remote import Remote
from simulation.store import TrueStore


_Variant = Callable[[], AbstractContextManager[object]]

#: By name; each is a context manager, inside of which it is bad.
VARIANTS: dict[str, _Variant] = {}


def _variant(function: Callable[[], Iterator[None]]) -> Callable[[], Iterator[None]]:
    VARIANTS[function.__name__.replace("_", "-")] = contextmanager(function)
    return function


def _patch(target: object, name: str, value: object) -> AbstractContextManager[object]:
    return mock.patch.object(target, name, value)


# The store.


@_variant
def fencing_off() -> Iterator[None]:
    """Whoever settles is believed, whatever its token."""

    def apply(self, settlement, now):
        record = self._room.shelf.get(settlement.id)
        if record is None:
            return False
        held = attrs.evolve(record.progress, token=settlement.token, due=now + 1)
        self._room.shelf.change(settlement.id, held)
        return MemoryBackend._apply(self, settlement, now)

    with _patch(TrueStore, "_apply", apply):
        yield


@_variant
def lease_end_not_fenced() -> Iterator[None]:
    """The token alone counts: it settles also after its lease, as long as nobody else has the message."""

    def apply(self, settlement, now):
        return MemoryBackend._apply(self, settlement, 0)

    with _patch(TrueStore, "_apply", apply):
        yield


@_variant
def settle_upserts() -> Iterator[None]:
    """A settlement of what is gone puts it back."""

    def put(self, records):
        for each in records:
            _shadow(self)[each.id] = each
        MemoryBackend.put(self, records)

    def apply(self, settlement, now):
        shelf, progress = self._room.shelf, settlement.progress
        if shelf.get(settlement.id) is None and isinstance(progress, Progress):
            shelf.put(attrs.evolve(_shadow(self)[settlement.id], progress=progress))
            return True
        return MemoryBackend._apply(self, settlement, now)

    with _patch(TrueStore, "put", put), _patch(TrueStore, "_apply", apply):
        yield


@_variant
def lease_early() -> Iterator[None]:
    """A claim takes what is due in a second, too."""

    def lease(self, limit, duration):
        with _patch(TrueStore, "_now_ms", lambda self: self.clock.time_us() // 1000 + 1000):
            return MemoryBackend.lease(self, limit, duration - 1000)

    with _patch(TrueStore, "lease", lease):
        yield


@_variant
def lease_not_written() -> Iterator[None]:
    """A claim reads what is due, and writes its lease only if it is the first one of its message."""

    def lease(self, limit, duration):
        leased = MemoryBackend.lease(self, limit, duration)
        for each in leased:
            if each.progress.attempts > 1:
                self._room.shelf.change(each.id, attrs.evolve(each.progress, due=self._now_ms()))
        return leased

    with _patch(TrueStore, "lease", lease):
        yield


@_variant
def update_keeps_lease() -> Iterator[None]:
    """A store replaces the message, and leaves the lease on it."""

    def put(self, records):
        for each in records:
            old = self._room.shelf.get(each.id)
            MemoryBackend.put(self, [each])
            if old is not None and old.progress.token is not None:
                self._room.shelf.change(
                    each.id, attrs.evolve(each.progress, due=old.progress.due, token=old.progress.token)
                )

    with _patch(TrueStore, "put", put):
        yield


@_variant
def store_keeps_the_first() -> Iterator[None]:
    """A store of an id that is there changes nothing."""

    def put(self, records):
        MemoryBackend.put(self, [each for each in records if self._room.shelf.get(each.id) is None])

    with _patch(TrueStore, "put", put):
        yield


@_variant
def store_many_stores_one() -> Iterator[None]:
    """Of several records the first is stored."""
    with _patch(TrueStore, "put", lambda self, records: MemoryBackend.put(self, records[:1])):
        yield


@_variant
def nack_lost() -> Iterator[None]:
    """A release is confirmed, and not done."""

    def apply(self, settlement, now):
        progress = settlement.progress
        if settlement.outcome is Outcome.RELEASE and progress is not None and progress.attempts:
            return MemoryBackend._apply(self, attrs.evolve(settlement, progress=_running(self, settlement)), now)
        return MemoryBackend._apply(self, settlement, now)

    with _patch(TrueStore, "_apply", apply):
        yield


# What mends lost replies.


@_variant
def store_repeated_blindly() -> Iterator[None]:
    """A store whose reply got lost is sent again, although the message may have been emitted and acked since."""
    with (
        _patch(Remote, "_not_stored", lambda self, records: records),
        _patch(Remote, "_is_due", lambda self, records: False),
    ):
        yield


@_variant
def lost_reply_is_success() -> Iterator[None]:
    """A settlement whose reply got lost counts as done."""
    settle = Remote.settle

    def hopeful(self, settlements):
        try:
            return settle(self, settlements)
        except _delivery.BackendUnavailable:
            return [True] * len(settlements)

    with _patch(Remote, "settle", hopeful):
        yield


# The engine.


@_variant
def deadline_ignored() -> Iterator[None]:
    """The listener hands out what it claimed, however long that has taken."""
    with _patch(_listener, "LEAST_REMAINDER", -1e6):
        yield


@_variant
def deadline_from_the_answer() -> Iterator[None]:
    """The listener counts a lease from the answer to its claim, and not from before it was sent."""
    put = Hand.put

    def late_put(self, emissions, until, seconds):
        put(self, emissions, self._monotonic() + self._lock_time.total_seconds() * 0.9, seconds)

    with _patch(_listener, "LEAST_REMAINDER", -1e6), _patch(Hand, "put", late_put):
        yield


@_variant
def ack_after_deadline() -> Iterator[None]:
    """A delivery does not look at the end of its own lease. The fence does; but one whose reply got lost may then take
    the work of somebody else for its own.
    """

    def apply(self, settlement, what):
        if self._settled is not None or not self._session.backend.settle([settlement])[0]:
            raise LeaseLost

    with _patch(Delivery, "_apply", apply):
        yield


@_variant
def nack_after_ack() -> Iterator[None]:
    """An ack leaves the token, and a delivery may be settled twice: the nack after the ack undoes it."""

    def acked(emission):
        settlement = _settle.ack(emission)
        if settlement.progress is None:
            return settlement
        return attrs.evolve(settlement, progress=attrs.evolve(settlement.progress, token=settlement.token))

    def apply(self, settlement, what):
        if not self._session.backend.settle([settlement])[0]:
            raise LeaseLost

    with _patch(_delivery, "ack", acked), _patch(Delivery, "_apply", apply):
        yield


@_variant
def next_from_ack_time() -> Iterator[None]:
    """The next occurrence is counted from the ack."""
    ack = Delivery.ack

    def acked(self, *, wait=False):
        now, every = self._session.backend.now() // 1000, self._emission.schedule and self._emission.schedule.recurrence

        def drifting(emission):
            following = _settle.ack(emission)
            if following.progress is None:
                return following
            due = now + every.ms
            return attrs.evolve(following, progress=attrs.evolve(following.progress, due=due, scheduled_for=due))

        with _patch(_delivery, "ack", drifting):
            ack(self, wait=wait)

    with _patch(Delivery, "ack", acked):
        yield


@_variant
def retry_chooses_anew() -> Iterator[None]:
    """A retry catches up once more: the occurrence, and with it the key, is another one than at the first attempt."""

    def leased(self, token, now, until):
        return Progress(until, self.scheduled_for, self.attempts + 1, now, self.last_error, token)

    with _patch(Progress, "leased", leased):
        yield


@_variant
def key_of_each_attempt() -> Iterator[None]:
    """Each attempt has a key of its own."""
    with _patch(Delivery, "key", property(lambda self: f"{self.id}:{self._emission.scheduled_for}:{self.attempt}")):
        yield


@_variant
def give_back_counts() -> Iterator[None]:
    """What was claimed ahead and nobody saw comes back with an attempt more."""

    def release(record, now, duration):
        given_back = _settle.release(record, now, duration)
        return attrs.evolve(given_back, progress=attrs.evolve(given_back.progress, attempts=record.progress.attempts))

    with _patch(_hand, "release", release):
        yield


@_variant
def give_back_of_what_was_shown() -> Iterator[None]:
    """A stop gives back what was handed out as well."""
    take = Hand.pop

    def peek(self):
        emission = take(self)
        if emission is not None and len(self.unseen) == 1:
            self.unseen.append((emission, 0.0))
        return emission

    with _patch(Hand, "pop", peek):
        yield


# The acks that are written together, and what is claimed ahead.


@_variant
def outbox_drops_what_is_in_doubt() -> Iterator[None]:
    """Acks whose reply got lost are forgotten: nobody hears of them."""
    write = Outbox._write

    def dropping(self, batch):
        try:
            write(self, batch)
        except OutcomeUnknown:
            batch.clear()
            raise

    with _patch(Outbox, "_write", dropping):
        yield


@_variant
def outbox_forgets_to_put_back() -> Iterator[None]:
    """Acks for which the store did not answer are not tried again."""
    write = Outbox._write

    def forgetting(self, batch):
        try:
            write(self, batch)
        except BackendUnavailable:
            batch.clear()
            raise

    with _patch(Outbox, "_write", forgetting):
        yield


@_variant
def outbox_writes_after_the_lease() -> Iterator[None]:
    """Acks are sent also after their leases. The fence holds; but the work of somebody else is taken for their own."""
    with _patch(Delivery, "_is_over", lambda self, now_us: False):
        yield


@_variant
def outbox_tells_what_it_hopes() -> Iterator[None]:
    """An ack that was refused is told as done."""

    def hopeful(self):
        self._known = True
        self._session.events.acked(self)

    with _patch(Delivery, "_lose", hopeful):
        yield


@_variant
def outbox_tells_the_batch() -> Iterator[None]:
    """One stale ack, and all that were written with it are told to be lost."""
    write = Outbox._write

    def all_or_none(self, batch):
        settle = self._session.backend.settle

        def settled(settlements):
            applied = settle(settlements)
            return applied if all(applied) else [False] * len(applied)

        with _patch(self._session.backend, "settle", settled):
            write(self, batch)

    with _patch(Outbox, "_write", all_or_none):
        yield


@_variant
def hand_forgets_nothing() -> Iterator[None]:
    """What this process stored anew or removed is handed out as it was when it was claimed."""
    with _patch(Hand, "forget", lambda self, ids: None):
        yield


@_variant
def hand_hands_out_twice() -> Iterator[None]:
    """A message is looked at, handed out, and sometimes left in hand."""
    pop = Hand.pop

    def keeping(self):
        first = self.unseen[0] if len(self.unseen) > 1 else None
        emission = pop(self)
        if first is not None and emission is first[0]:
            self.unseen.append(first)
        return emission

    with _patch(Hand, "pop", keeping):
        yield


@_variant
def pump_gives_back_what_is_handled() -> Iterator[None]:
    """Whoever is slow loses what it is at."""
    pop, work = Hand.pop, _listener.Pump._work
    handled: dict[Hand, object] = {}

    def noting(self):
        emission = pop(self)
        if emission is not None:
            handled[self] = emission
        return emission

    def taking(self):
        emission = handled.pop(self._hand, None)
        if emission is not None:
            self._hand.give_back([emission])
        return work(self)

    with _patch(Hand, "pop", noting), _patch(_listener.Pump, "_work", taking):
        yield


@_variant
def series_dies() -> Iterator[None]:
    """A series whose occurrence failed too often is buried."""
    bury = lambda emission, error: _emit.bury(emission.record, error)  # noqa: E731
    with _patch(_settle, "give_up", bury), _patch(_emit, "give_up", bury):
        yield


@_variant
def attempts_without_end() -> Iterator[None]:
    """A message whose handler dies each time is not given up."""

    def decide(leased, retry, **how):
        return _emit.decide(leased, attrs.evolve(retry, max_attempts=None), **how)

    with _patch(_listener, "decide", decide):
        yield


def _shadow(store: TrueStore) -> dict[str, Record]:
    return store.__dict__.setdefault("_shadow", {})


def _running(store: TrueStore, settlement: object) -> object:
    """What is there: to write it again changes nothing."""
    record = store._room.shelf.get(settlement.id)
    return settlement.progress if record is None else record.progress
