"""Mutants that keep kinds wrongly, or choose wrongly by them."""

from __future__ import annotations

import os
import threading

from collections import defaultdict
from collections.abc import Collection, Sequence

import attrs

from conformance.mutants.claiming import OpenClaims
from conformance.mutants.registry import mutant, round_trip
from pitstop.abc import LAST_INSTANT, AllBut, Damaged, Progress, Record, Settlement, is_chosen
from pitstop_memory import MemoryBackend
from pitstop_sqlite import SqliteBackend, _statements
from pitstop_sqlite._rows import read_leased_row
from pitstop_sqlite._selection import selection


@mutant("test_a_kind_comes_back_as_it_was_stored", "test_a_claim_of_some_kinds_brings_these_alone")
class DropsTheKind(MemoryBackend):
    """Does not store the kind: a record is written field by field, and the new field was forgotten."""

    def _put(self, records: Sequence[Record]) -> None:
        super()._put([attrs.evolve(each, kind="") for each in records])


@mutant("test_a_new_version_has_its_own_kind")
class KeepsTheOldKind(MemoryBackend):
    """Leaves the kind of the old version if the new version has none."""

    def _put(self, records: Sequence[Record]) -> None:
        for each in records:
            old = self._room.shelf.get(each.id)
            super()._put([attrs.evolve(each, kind=old.kind) if old is not None and not each.kind else each])


@mutant("test_a_conditional_store_writes_the_kind")
class PutIfDropsTheKind(MemoryBackend):
    """Does not store the kind on a condition: the method has a list of the fields of its own."""

    def _put_if(self, record: Record, revision: str | None, progress: Progress | None) -> bool:
        return super()._put_if(attrs.evolve(record, kind=""), revision, progress)


@mutant("test_a_conditional_store_that_is_refused_leaves_the_kind")
class PutIfWritesTheKindFirst(MemoryBackend):
    """Writes the kind before the condition is checked, in a statement of its own."""

    def _put_if(self, record: Record, revision: str | None, progress: Progress | None) -> bool:
        old = self._room.shelf.get(record.id)
        if old is not None:
            self._room.shelf.put(attrs.evolve(old, kind=record.kind))
        return super()._put_if(record, revision, progress)


@mutant("test_a_settlement_leaves_the_kind")
class SettleDropsTheKind(MemoryBackend):
    """Writes a settlement as a new document, without the kind."""

    def _apply(self, settlement: Settlement, now: int) -> bool:
        applied = super()._apply(settlement, now)
        record = self._room.shelf.get(settlement.id)
        if applied and record is not None:
            self._room.shelf.put(attrs.evolve(record, kind=""))
        return applied


@mutant("test_a_claim_of_some_kinds_brings_these_alone", "test_many_of_another_kind_are_not_in_the_way")
class IgnoresTheChoice(MemoryBackend):
    """Claims records of all kinds: it has the argument, and does nothing with it."""

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record]:
        return super().lease(limit, duration)


@mutant("test_a_claim_of_all_but_some_kinds_brings_the_rest")
class TakesAllButForThese(MemoryBackend):
    """Takes ``AllBut(kinds)`` for ``kinds``, since both are collections."""

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record]:
        return super().lease(limit, duration, kinds if kinds is None else list(kinds))


@mutant("test_many_of_another_kind_are_not_in_the_way")
class FiltersTheFirst(SqliteBackend):
    """Reads the first records that are due, and then leaves out those of other kinds. A backlog hides the rest."""

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record | Damaged]:
        if kinds is None:
            return super().lease(limit, duration)
        first = self.scan("due", limit, None)
        there = {each.kind for each in first if isinstance(each, Record)}
        chosen = there - kinds if isinstance(kinds, AllBut) else there & set(kinds)
        return super().lease(limit, duration, chosen) if chosen else []


@mutant(
    "test_next_due_of_some_kinds",
    "test_the_end_of_a_lease_is_next_due_of_its_kind",
    "test_a_listener_sleeps_until_its_own_next_message",
)
class NextDueOfAll(MemoryBackend):
    """Returns the next due time of all kinds. Listeners of a kind wake up for the backlogs of others."""

    def next_due(self, kinds: Collection[str] | None = None) -> int | None:
        return super().next_due()


@mutant("test_a_claim_of_one_kind_takes_no_similar_one")
class ComparesWithoutCase(MemoryBackend):
    """Compares kinds without regard to case, as a collation of the database does."""

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record]:
        if kinds is None or isinstance(kinds, AllBut):
            return super().lease(limit, duration, kinds)
        stored = {record.kind for record in self._room.shelf}
        folded = {each.casefold() for each in kinds}
        return super().lease(limit, duration, [each for each in stored if each.casefold() in folded] or kinds)


@mutant("test_a_claim_of_some_kinds_is_in_the_order_of_due_and_then_of_the_first_stores")
class OneKindAfterTheOther(SqliteBackend):
    """Claims from the parts of the index one after the other, in the order of the ids."""

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record | Damaged]:
        leased = super().lease(limit, duration, kinds)
        return leased if kinds is None else sorted(leased, key=lambda each: each.id)


@mutant("test_messages_of_two_kinds_are_merged_by_due")
class FillsUpWithTheNextKind(MemoryBackend):
    """Claims from the first kind as many as it can, and then from the next kind. It never merges them by due."""

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record]:
        if kinds is None or isinstance(kinds, AllBut):
            return super().lease(limit, duration, kinds)
        leased: list[Record] = []
        for each in kinds:
            leased += super().lease(limit - len(leased), duration, [each]) if len(leased) < limit else []
        return leased


@mutant("test_a_claim_of_all_but_some_kinds_brings_the_rest")
class RemembersTheKinds(MemoryBackend):
    """Lists the stored kinds once, at the first claim of all kinds but some. It never claims a kind that is new."""

    _known: frozenset[str] | None = None

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record]:
        if not isinstance(kinds, AllBut):
            return super().lease(limit, duration, kinds)
        if self._known is None:
            self._known = frozenset(record.kind for record in self._room.shelf)
        return super().lease(limit, duration, self._known - kinds)


@mutant("test_more_kinds_than_a_statement_has_room_for")
class TwoHundredKindsAtMost(MemoryBackend):
    """Lists the first 200 of the stored kinds, because a statement has no room for more, and looks at no other kind."""

    def _named(self, kinds: Collection[str] | None) -> Collection[str] | None:
        if not isinstance(kinds, AllBut):
            return kinds
        return sorted({record.kind for record in self._room.shelf} - kinds)[:200]

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record]:
        return super().lease(limit, duration, self._named(kinds))

    def next_due(self, kinds: Collection[str] | None = None) -> int | None:
        return super().next_due(self._named(kinds))


@mutant("test_a_claim_of_one_kind_takes_no_similar_one", "test_a_listener_of_a_kind_gets_its_messages_alone")
class NoKindIsNeverChosen(MemoryBackend):
    """Drops the empty kind from a choice: ``filter(None, kinds)``. Messages without a kind wait forever."""

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record]:
        if kinds is None or isinstance(kinds, AllBut):
            return super().lease(limit, duration, kinds)
        return super().lease(limit, duration, list(filter(None, kinds)))


@mutant("test_a_peer_claims_by_the_kinds_that_another_handle_stored")
class KnowsItsOwnKinds(OpenClaims):
    """Chooses by an index in its own memory. It takes the messages that other handles stored for messages without a kind."""

    def __init__(self, config=None):
        super().__init__(config)
        self._kinds: dict[str, str] = {}

    def _put(self, records: Sequence[Record]) -> None:
        super()._put(records)
        self._kinds.update((each.id, each.kind) for each in records)

    def is_of(self, record: Record, kinds: Collection[str] | None) -> bool:
        return is_chosen(self._kinds.get(record.id, ""), kinds)


@mutant("test_a_claim_of_some_kinds_never_holds_a_version_of_another_kind")
class ChoosesBeforeItClaims(OpenClaims):
    """Looks for the ids of the kinds, and then claims these ids if they are due. By now a version of another kind is there."""

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record]:
        with self._room.lock:
            ids = {each.id for each in self.due_records(self._now_ms()) if is_chosen(each.kind, kinds)}
        round_trip()
        with self._room.lock:
            return self._claim(limit, duration, lambda now: [e for e in self.due_records(now) if e.id in ids], None)


class _OfKindsInTwoStatements(SqliteBackend):
    """Claims some kinds in two statements, and no transaction holds them together. A claim without kinds is right."""

    def _claim_of(self, kinds: Collection[str], limit: int, duration: int) -> Sequence[Record | Damaged]:
        token, now = os.urandom(16).hex(), self._now_ms()
        until = min(now + duration, LAST_INSTANT)
        with self._database.lock, self._database as connection:
            chosen = selection(connection, kinds)
            if chosen is None:
                return []
            read = _statements.read_due_of(chosen.first)
            rows = connection.execute(read, chosen.bounds(now, limit)).fetchall()
        round_trip()
        with self._database.lock, self._database as connection:
            for row in rows:
                lease = f"{_statements._LEASE} WHERE id = CAST(? AS TEXT)"
                connection.execute(lease, (until, int(limit > 1), now, token, row[0]))
        return [read_leased_row(row, token, now, until, limit) for row in rows]


@mutant("test_many_claimers_lease_each_record_once", "test_many_claimers_who_settle_at_once_leave_nothing")
class ClaimOfKindsInTwoStatements(_OfKindsInTwoStatements):
    """Has a claim of some kinds that was written later, and without a transaction."""

    def _lease_of(self, kinds: Collection[str], limit: int, duration: int) -> Sequence[Record | Damaged]:
        return self._claim_of(kinds, limit, duration)


_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


@mutant("test_processes_claim_and_settle_each_record_once")
class LockOfOneProcessForKinds(_OfKindsInTwoStatements):
    """Holds a lock of the process around a claim of some kinds, and says that several processes may share the store."""

    def _lease_of(self, kinds: Collection[str], limit: int, duration: int) -> Sequence[Record | Damaged]:
        with _locks[self._path]:
            return self._claim_of(kinds, limit, duration)
