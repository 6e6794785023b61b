"""Known-bad engines and stores, with one defect each, which the simulation has to catch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from unittest import mock

import attrs

from pitstop import _changing
from pitstop._decisions import _attempts, _change, _describe, _emit, _move, _settle
from pitstop._engine import _claimer, _lease
from pitstop._engine._background import Background
from pitstop._engine._buffer import ClaimBuffer
from pitstop._engine._confirmer import Confirmer
from pitstop._engine._delivery import Delivery
from pitstop._engine._lease import Lease
from pitstop._engine._settler import Settler
from pitstop._errors import BackendUnavailable, OutcomeUnknown
from pitstop.abc import Outcome, Progress, Record, Retry, Settlement
from pitstop_memory import MemoryBackend
from simulation.remote import Remote
from simulation.store import TrueStore


_Variant = Callable[[], AbstractContextManager[object]]

#: The variants by name; each is a context manager with the defect inside of it.
VARIANTS: dict[str, _Variant] = {}


def _variant(function: Callable[[], Iterator[None]]) -> Callable[[], Iterator[None]]:
    VARIANTS[function.__name__.replace("_", "-")] = contextmanager(function)
    return function


_decide = Lease.decide


def _decided_in_time(self: Lease, now_us: int, retry: Retry) -> Settlement | None:
    """Decide as one millisecond before the end of the lease."""
    return _decide(self, min(now_us, self.due * 1000 - 1000), retry)


def _patch(target: object, name: str, value: object) -> AbstractContextManager[object]:
    return mock.patch.object(target, name, value)


# The store.


@_variant
def fencing_off() -> Iterator[None]:
    """A settlement is done with any token."""

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
    """Only the token counts: a settlement is done after the lease, unless the message has another lease."""

    def apply(self, settlement, now):
        return MemoryBackend._apply(self, settlement, 0)

    with _patch(TrueStore, "_apply", apply):
        yield


@_variant
def settle_upserts() -> Iterator[None]:
    """A settlement of a removed message stores it again."""

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
    """A claim also takes messages that are due in a second."""

    def lease(self, limit, duration, kinds=None):
        with _patch(TrueStore, "_now_ms", lambda self: self.clock.time_us() // 1000 + 1000):
            return MemoryBackend.lease(self, limit, duration - 1000, kinds)

    with _patch(TrueStore, "lease", lease):
        yield


@_variant
def lease_not_written() -> Iterator[None]:
    """A claim reads due messages, and only writes the first lease of a message."""

    def lease(self, limit, duration, kinds=None):
        leased = MemoryBackend.lease(self, limit, duration, kinds)
        for each in leased:
            if each.progress.attempts > 1:
                self._room.shelf.change(each.id, attrs.evolve(each.progress, due=self._now_ms()))
        return leased

    with _patch(TrueStore, "lease", lease):
        yield


@_variant
def update_keeps_lease() -> Iterator[None]:
    """A store replaces the message, and keeps its lease."""

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
    """A store of a known id changes nothing."""

    def put(self, records):
        MemoryBackend.put(self, [each for each in records if self._room.shelf.get(each.id) is None])

    with _patch(TrueStore, "put", put):
        yield


@_variant
def store_many_stores_one() -> Iterator[None]:
    """Only the first of several records is stored."""
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


# The repair of lost replies.


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
        except BackendUnavailable:
            return [True] * len(settlements)

    with _patch(Remote, "settle", hopeful):
        yield


@_variant
def unknown_is_lost() -> Iterator[None]:
    """A settlement whose reply got lost, and whose message was changed since, counts as not done."""
    was_done = Remote._was_done
    with _patch(Remote, "_was_done", lambda self, settlement, mark: bool(was_done(self, settlement, mark))):
        yield


# The engine.


@_variant
def deadline_ignored() -> Iterator[None]:
    """The listener hands out claimed messages, however long the claim has taken."""
    with _patch(_claimer, "LEAST_REMAINDER", -1e6):
        yield


@_variant
def deadline_from_the_answer() -> Iterator[None]:
    """The listener counts a lease from the answer to its claim, and not from before it was sent."""
    put = ClaimBuffer.put

    def late_put(self, leases, seconds):
        for each in leases:
            each.until = self._monotonic() + self._lease * 0.9
        put(self, leases, seconds)

    with _patch(_claimer, "LEAST_REMAINDER", -1e6), _patch(ClaimBuffer, "put", late_put):
        yield


@_variant
def ack_after_deadline() -> Iterator[None]:
    """A delivery does not check the end of its own lease. The fence does. But if a reply got lost, the delivery may take the effect of another
    settlement for its own.
    """

    with _patch(Lease, "is_over", lambda self, now_us: False), _patch(Lease, "decide", _decided_in_time):
        yield


@_variant
def nack_after_ack() -> Iterator[None]:
    """An ack keeps the token, and a delivery may be settled twice: a nack after the ack undoes the ack."""

    def acked(emission):
        settlement = _settle.ack(emission)
        if settlement.progress is None:
            return settlement
        return attrs.evolve(settlement, progress=attrs.evolve(settlement.progress, token=settlement.token))

    ask = Lease.ask

    def ask_again(self, *args, **options):
        self._right = None
        ask(self, *args, **options)

    with _patch(_lease, "ack", acked), _patch(Lease, "ask", ask_again):
        yield


@_variant
def next_from_ack_time() -> Iterator[None]:
    """The next occurrence is counted from the ack."""
    ack = Delivery.ack

    def acked(self, *, wait=False):
        schedule = self._lease.emission.schedule
        now, every = self._session.backend.now() // 1000, schedule and schedule.recurrence

        def drifting(emission):
            following = _settle.ack(emission)
            if following.progress is None:
                return following
            due = now + every.ms
            return attrs.evolve(following, progress=attrs.evolve(following.progress, due=due, scheduled_for=due))

        with _patch(_lease, "ack", drifting):
            ack(self, wait=wait)

    with _patch(Delivery, "ack", acked):
        yield


@_variant
def retry_chooses_anew() -> Iterator[None]:
    """A retry catches up once more: the occurrence, and with it the key, is another one than at the first attempt."""

    real = Progress.leased

    def leased(self, token, now, until, limit=1):
        return attrs.evolve(real(self, token, now, until, limit), first_leased=now)

    with _patch(Progress, "leased", leased):
        yield


@_variant
def key_of_each_attempt() -> Iterator[None]:
    """Each attempt has its own key."""
    with _patch(
        Delivery, "key", property(lambda self: f"{self.id}:{self._lease.emission.scheduled_for}:{self.attempt}")
    ):
        yield


@_variant
def give_back_counts() -> Iterator[None]:
    """A message that was claimed ahead and not handed out comes back with one more attempt."""

    def release(record, now, duration):
        given_back = _settle.release(record, now, duration)
        return attrs.evolve(given_back, progress=attrs.evolve(given_back.progress, attempts=record.progress.attempts))

    with _patch(_claimer, "release", release):
        yield


@_variant
def give_back_of_what_was_shown() -> Iterator[None]:
    """A stop also gives back messages that were handed out."""
    take = ClaimBuffer.pop

    def peek(self):
        lease = take(self)
        if lease is not None and len(self.unseen) == 1:
            self.unseen.append(Lease(lease.emission, 0.0))
        return lease

    with _patch(ClaimBuffer, "pop", peek):
        yield


# Acks that are written together, and messages that are claimed ahead.


@_variant
def writer_drops_what_is_in_doubt() -> Iterator[None]:
    """Acks whose reply got lost are forgotten, and not reported."""
    write = Settler.write

    def dropping(self, batch):
        try:
            write(self, batch)
        except OutcomeUnknown:
            if isinstance(batch, list):
                batch.clear()
            raise

    with _patch(Settler, "write", dropping):
        yield


@_variant
def writer_forgets_to_put_back() -> Iterator[None]:
    """Acks for which the store did not answer are not tried again."""
    write = Settler.write

    def forgetting(self, batch):
        try:
            write(self, batch)
        except BackendUnavailable:
            if isinstance(batch, list):
                batch.clear()
            raise

    with _patch(Settler, "write", forgetting):
        yield


@_variant
def writer_writes_after_the_lease() -> Iterator[None]:
    """Acks are also sent after their leases. The fence holds, but the effect of another settlement is taken for their own."""
    with _patch(Lease, "is_over", lambda self, now_us: False), _patch(Lease, "decide", _decided_in_time):
        yield


@_variant
def writer_reports_what_it_hopes() -> Iterator[None]:
    """A refused ack is reported as done."""

    def hopeful(self, lease):
        lease.done()
        self._session.events.acked(lease.delivery, lease)
        lease.release()

    with _patch(Settler, "_lost", hopeful):
        yield


@_variant
def writer_reports_the_batch() -> Iterator[None]:
    """If one ack is stale, all acks of its batch are reported as lost."""
    write = Settler.write

    def all_or_none(self, batch):
        settle = self._session.backend.settle

        def settled(settlements):
            applied = settle(settlements)
            return applied if all(applied) else [False] * len(applied)

        with _patch(self._session.backend, "settle", settled):
            write(self, batch)

    with _patch(Settler, "write", all_or_none):
        yield


@_variant
def buffer_forgets_nothing() -> Iterator[None]:
    """A message that this process stored again or removed is handed out in its old version."""
    with _patch(ClaimBuffer, "discard", lambda self, versions: []):
        yield


@_variant
def buffer_hands_out_twice() -> Iterator[None]:
    """A message is read, handed out, and sometimes kept."""
    pop = ClaimBuffer.pop

    def keeping(self):
        lease = pop(self)
        if lease is not None and self.unseen:
            self.unseen.append(Lease(lease.emission, lease.until))
        return lease

    with _patch(ClaimBuffer, "pop", keeping):
        yield


@_variant
def background_gives_back_what_is_handled() -> Iterator[None]:
    """A slow handler loses its message."""
    pop, turn = ClaimBuffer.pop, Background.turn
    handled: dict[ClaimBuffer, Lease] = {}

    def noting(self):
        lease = pop(self)
        if lease is not None:
            handled[self] = lease
        return lease

    def taking(self):
        lease = handled.pop(self._buffer, None)
        if lease is not None:
            self._give_back_all.__self__._claimer.give_back([lease])
        return turn(self)

    with _patch(ClaimBuffer, "pop", noting), _patch(Background, "turn", taking):
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

    with _patch(_claimer, "decide", decide):
        yield


@_variant
def suspects_not_confirmed() -> Iterator[None]:
    """A message that may have killed its worker is handed out without a write: its crashes are never certain."""
    with _patch(Confirmer, "_confirm", lambda self, lease: True):
        yield


@_variant
def uncertain_attempts_count() -> Iterator[None]:
    """A failure counts attempts that no handler need have had."""
    with _patch(_settle, "certain", _attempts.number):
        yield


@_variant
def claims_bury() -> Iterator[None]:
    """A message is buried after so many claims, whether a handler had it or not."""
    spent = lambda progress, most: most is not None and progress.attempts > most  # noqa: E731
    with _patch(_emit, "is_spent", spent):
        yield


# Kinds, policies, and changes of stored messages.


@_variant
def claims_of_kinds_take_others() -> Iterator[None]:
    """A claim of some kinds takes messages of all kinds."""
    with _patch(
        TrueStore, "lease", lambda self, limit, duration, kinds=None: MemoryBackend.lease(self, limit, duration)
    ):
        yield


@_variant
def expired_is_emitted() -> Iterator[None]:
    """A message that is older than its ``expires`` is emitted."""
    never = lambda self, lease, policy, begun: None  # noqa: E731
    with _patch(_emit, "_expire", lambda emission, now: emission), _patch(_claimer.Claimer, "_expire", never):
        yield


@_variant
def expired_in_the_buffer_is_emitted() -> Iterator[None]:
    """A message that expires after it was claimed is handed out."""
    with _patch(_claimer.Claimer, "_expire", lambda self, lease, policy, begun: None):
        yield


@_variant
def expired_series_ends() -> Iterator[None]:
    """A series ends when one of its occurrences expires."""
    with _patch(_emit, "_expire", lambda emission, now: _emit.settlement(emission.leased, Outcome.EXPIRE, None)):
        yield


@_variant
def lock_time_of_the_message_ignored() -> Iterator[None]:
    """A message is leased as long as all others."""
    with _patch(_claimer, "relock", lambda emission, duration: None):
        yield


@_variant
def retry_of_the_message_ignored() -> Iterator[None]:
    """A message comes back by the configured retry."""
    with _patch(_emit.Emission, "retry_over", lambda self, configured: configured):
        yield


@_variant
def attempts_of_the_message_ignored() -> Iterator[None]:
    """A message has as many attempts as all others."""
    retry_over = _emit.Emission.retry_over

    def configured_attempts(self, configured):
        return attrs.evolve(retry_over(self, configured), max_attempts=configured.max_attempts)

    with _patch(_emit.Emission, "retry_over", configured_attempts):
        yield


@_variant
def if_revision_ignored() -> Iterator[None]:
    """An edit replaces any message, whatever happened since it was read."""
    edit = _change._edit

    def careless(present, wanted, terms, now, holder):
        if present is not None:
            terms = attrs.evolve(terms, if_revision=_change.revision_of(present))
        return edit(present, wanted, terms, now, holder)

    with _patch(_change, "_edit", careless):
        yield


@_variant
def revision_of_the_store_alone() -> Iterator[None]:
    """The revision of an entry covers stores, and no claim and no settlement."""
    own = lambda stored: stored.revision  # noqa: E731
    with _patch(_change, "revision_of", own), _patch(_describe, "revision_of", own):
        yield


@_variant
def edited_series_begins_anew() -> Iterator[None]:
    """An edit of a series emits its earlier occurrences again."""
    anew = lambda present, wanted, now: _change.Change("replaced", wanted.record, present.revision, present.progress)  # noqa: E731
    with _patch(_change, "_going_on", anew):
        yield


@_variant
def rescheduled_series_is_anchored_anew() -> Iterator[None]:
    """A reschedule of a series moves its occurrence, and with it its key."""

    def anchored(present, due, now):
        moved = _move.reschedule(present, due, now)
        return attrs.evolve(moved, progress=attrs.evolve(moved.progress, scheduled_for=due))

    with _patch(_changing, "reschedule", anchored):
        yield


@_variant
def emission_now_of_the_leased() -> Iterator[None]:
    """An emission now takes the message from a listener that has it."""

    def hasten(present, now):
        return attrs.evolve(present, progress=attrs.evolve(present.progress, due=now, token=None))

    with _patch(_changing, "hasten", hasten):
        yield


@_variant
def moved_message_expires_as_before() -> Iterator[None]:
    """The expiry of a message that a person has moved counts from its nominal time."""
    with _patch(_move, "moved_policy", lambda policy, scheduled_for, at: policy):
        yield


@_variant
def release_forgets_the_attempt() -> Iterator[None]:
    """The end of a lease by hand takes back the attempt."""

    def forgetting(present, now):
        ended = _move.end_lease(present, now)
        if ended is None:
            return None
        fewer = attrs.evolve(ended.progress, attempts=ended.progress.attempts - 1)
        return attrs.evolve(ended, progress=fewer)

    with _patch(_changing, "end_lease", forgetting):
        yield


def _shadow(store: TrueStore) -> dict[str, Record]:
    return store.__dict__.setdefault("_shadow", {})


def _running(store: TrueStore, settlement: object) -> object:
    """The stored record: writing it again changes nothing."""
    record = store._room.shelf.get(settlement.id)
    return settlement.progress if record is None else record.progress
