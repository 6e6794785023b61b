"""Mutants that claim wrongly."""

from __future__ import annotations

import itertools
import os

from collections.abc import Callable, Collection, Sequence

import attrs

from conformance.mutants.registry import mutant, right, round_trip
from pitstop.abc import LAST_INSTANT, Progress, Record, copy_plain, is_chosen
from pitstop_memory import MemoryBackend


@right
class OpenClaims(MemoryBackend):
    """Claims as the memory backend does, with each step open to change. This class is no mutant."""

    def due_records(self, now: int) -> list[Record]:
        """Return the due records in order. The slots of the shelf know the order in which the ids were first stored."""
        slots = [slot for slot in self._room.shelf._slots.values() if self.is_due(slot.record.progress.due, now)]
        slots.sort(key=lambda slot: (slot.record.progress.due or 0, slot.order))
        return [slot.record for slot in slots]

    def is_due(self, due: int | None, now: int) -> bool:
        return due is not None and due <= now

    def is_of(self, record: Record, kinds: Collection[str] | None) -> bool:
        return is_chosen(record.kind, kinds)

    def new_token(self) -> str:
        return os.urandom(16).hex()

    def leased(self, record: Record, token: str, now: int, until: int, limit: int) -> Progress:
        return record.progress.leased(token, now, until, limit)

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record]:
        with self._room.lock:
            return self._claim(limit, duration, self.due_records, kinds)

    def _claim(
        self, limit: int, duration: int, due: Callable[[int], list[Record]], kinds: Collection[str] | None
    ) -> list[Record]:
        token, now = self.new_token(), self._now_ms()
        until = min(now + duration, LAST_INSTANT)
        claimed: list[Record] = []
        for each in [each for each in due(now) if self.is_of(each, kinds)][:limit]:
            progress = self.leased(each, token, now, until, limit)
            self._room.shelf.change(each.id, progress)
            claimed.append(attrs.evolve(each, message=copy_plain(each.message), progress=progress))
        return claimed


@mutant("test_many_claimers_lease_each_record_once", "test_claimers_of_leases_that_ran_out_get_each_once")
class ClaimNotAtomic(OpenClaims):
    """Reads the due records, then writes the leases. Both steps take the lock, and the second does not check again."""

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record]:
        with self._room.lock:
            due = self.due_records(self._now_ms())
        round_trip()
        with self._room.lock:
            return self._claim(
                limit, duration, lambda _: [each for each in due if self._room.shelf.get(each.id)], kinds
            )


@mutant("test_many_claimers_get_something_while_enough_is_due")
class ContentionIsEmpty(MemoryBackend):
    """Returns nothing while another claim is running. To be quick, it does not wait for the lock."""

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record]:
        if not self._room.lock.acquire(blocking=False):
            return []
        try:
            round_trip()
            return self._lease(limit, duration) if kinds is None else self._lease_of(kinds, limit, duration)
        finally:
            self._room.lock.release()


@mutant("test_nothing_is_leased_a_microsecond_early", "test_a_time_between_two_milliseconds_is_rounded_up")
class EarlyByAMillisecond(OpenClaims):
    """Leases a millisecond early. It rounds the time to the nearest millisecond, or up, instead of down."""

    def is_due(self, due: int | None, now: int) -> bool:
        return due is not None and due * 1000 - 999 <= self.clock.time_us()


@mutant("test_a_lease_writes_what_progress_leased_says_and_nothing_else")
class FractionsOfAMillisecond(OpenClaims):
    """Keeps microseconds in the end of a lease. Divided with ``/``, where ``//`` was meant."""

    def leased(self, record: Record, token: str, now: int, until: int, limit: int) -> Progress:
        return record.progress.leased(token, now, self.clock.time_us() / 1000 + (until - now))  # type: ignore[arg-type]


@mutant("test_a_claim_is_in_order", "test_messages_are_emitted_in_the_order_of_their_times")
class NewestFirst(OpenClaims):
    """Leases the newest first. ``pop()`` from the end of a sorted list."""

    def due_records(self, now: int) -> list[Record]:
        return super().due_records(now)[::-1]


@mutant("test_ties_go_in_the_order_in_which_their_ids_came_in", "test_an_update_keeps_the_place_among_ties")
class TiesById(OpenClaims):
    """Leases ties in the order of their ids. ``ORDER BY due, id``, or a heap of ``(due, id)``."""

    def due_records(self, now: int) -> list[Record]:
        return sorted(super().due_records(now), key=lambda record: (record.progress.due or 0, record.id))


@mutant("test_a_lease_writes_what_progress_leased_says_and_nothing_else")
class LeaseFromDue(OpenClaims):
    """Counts the lease from when the record was due. One that waited long is out of its lease before it is handled."""

    def leased(self, record: Record, token: str, now: int, until: int, limit: int) -> Progress:
        return record.progress.leased(token, now, (record.progress.due or 0) + until - now)


@mutant("test_a_claim_holds_no_more_than_its_limit")
class OverItsLimit(OpenClaims):
    """Leases one more than its limit. It reads one more, to know whether there is more, and forgets to drop it."""

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record]:
        return super().lease(limit + 1, duration, kinds)


@mutant("test_an_older_record_that_a_peer_puts_is_leased_first")
class NeverLooksBack(OpenClaims):
    """Looks only from where it found something last. A watermark that nothing takes back."""

    _seen_until = 0

    def due_records(self, now: int) -> list[Record]:
        due = [each for each in super().due_records(now) if (each.progress.due or 0) >= self._seen_until]
        if due:
            self._seen_until = due[0].progress.due or 0
        return due


@mutant("test_future_records_do_not_stand_in_the_way")
class PageBeforeFilter(OpenClaims):
    """Reads the first records that came in and looks for due ones among those. ``LIMIT`` before ``WHERE``."""

    def due_records(self, now: int) -> list[Record]:
        page = list(self._room.shelf)[:500]
        return [each for each in page if self.is_due(each.progress.due, now)]


@mutant("test_a_record_is_leased_again_when_its_lease_ran_out", "test_leases_that_run_out_count_as_attempts")
class AttemptsNotCounted(OpenClaims):
    """Writes one attempt at each claim. A retry without end never becomes dead."""

    def leased(self, record: Record, token: str, now: int, until: int, limit: int) -> Progress:
        return attrs.evolve(super().leased(record, token, now, until, limit), attempts=1)


@mutant("test_a_retry_keeps_when_its_occurrence_was_leased_first")
class FirstLeasedOverwritten(OpenClaims):
    """Writes the time of each claim as that of the first. Retries of a series then pass on to later occurrences."""

    def leased(self, record: Record, token: str, now: int, until: int, limit: int) -> Progress:
        return attrs.evolve(super().leased(record, token, now, until, limit), first_leased=now)


@mutant("test_a_dead_record_is_never_leased")
class DeadIsLeasedAgain(OpenClaims):
    """Leases dead records. ``due or 0``, or a store in which null is less than every number."""

    def is_due(self, due: int | None, now: int) -> bool:
        return (due or 0) <= now


@mutant("test_a_record_is_leased_again_when_its_lease_ran_out", "test_the_token_of_another_record_changes_nothing")
class OneTokenForEver(OpenClaims):
    """Leases everything with one token: the name of the application."""

    def new_token(self) -> str:
        return "worker"


@mutant("test_many_claimers_lease_each_record_once", "test_a_record_is_leased_again_when_its_lease_ran_out")
class TokenPerHandle(OpenClaims):
    """Makes its token when it is opened. The same worker's old lease then settles its new one."""

    _own: str | None = None

    def new_token(self) -> str:
        self._own = self._own or super().new_token()
        return self._own


@mutant("test_the_old_lease_settles_nothing_once_somebody_else_has_a_new_one")
class TokenIsACounter(OpenClaims):
    """Numbers its claims. Two handles count alike, so that one settles what the other has leased."""

    def __init__(self, config=None):
        super().__init__(config)
        self._count = itertools.count()

    def new_token(self) -> str:
        return str(next(self._count))


@mutant("test_a_lease_writes_what_progress_leased_says_and_nothing_else", "test_complete_deletes")
class ReturnsTheDocumentBefore(MemoryBackend):
    """Returns records as they were before the claim. ``find_one_and_update`` does so by default."""

    def _lease(self, limit: int, duration: int) -> list[Record]:
        before = {each.id: each for each in self._room.shelf}
        return [before[each.id] for each in super()._lease(limit, duration)]


@mutant("test_a_record_is_leased_again_when_its_lease_ran_out", "test_a_crash_of_the_listener_brings_the_message_back")
class LeaseNeverEnds(OpenClaims):
    """Marks a record as leased until its holder removes the mark. After a crash the mark stays forever."""

    def due_records(self, now: int) -> list[Record]:
        return [each for each in super().due_records(now) if each.progress.token is None]
