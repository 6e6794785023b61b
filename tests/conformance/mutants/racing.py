"""Mutants that read, and write a round trip later. They are right alone, and wrong if another write comes in between."""

from __future__ import annotations

import threading

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar

import attrs

from conformance.mutants.claiming import OpenClaims
from conformance.mutants.registry import mutant, round_trip
from pitstop import BackendUnavailable
from pitstop.abc import LAST_INSTANT, Record, Settlement, is_chosen
from pitstop_memory import MemoryBackend


class _OneAtATime(MemoryBackend):
    """Some operations exclude each other, over their round trips, on all handles of a store."""

    _locks: ClassVar[dict[str | None, threading.RLock]] = defaultdict(threading.RLock)

    @property
    def alone(self) -> threading.RLock:
        return self._locks[self._name]

    def holds(self, settlement: Settlement) -> Record | None:
        """Return the record if this settlement applies to it."""
        with self._room.lock:
            record = self._room.shelf.get(settlement.id)
            if record is None or record.progress.token != settlement.token:
                return None
            due = record.progress.due
            return record if due is None or due > self._now_ms() else None


class _WritesLater(_OneAtATime):
    """Checks the token of a settlement, and then writes the whole document as it was read, but for the progress."""

    def write(self, record: Record) -> bool:
        raise NotImplementedError

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record]:
        with self.alone:
            return super().lease(limit, duration, kinds)

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        with self.alone:
            return [self._settle(each) for each in settlements]

    def _settle(self, settlement: Settlement) -> bool:
        record = self.holds(settlement)
        if record is None or not isinstance(settlement.progress, type(record.progress)):
            return super().settle([settlement])[0]
        round_trip()
        with self._room.lock:
            return self.write(attrs.evolve(record, progress=settlement.progress))


@mutant("test_no_settlement_changes_a_version_that_was_stored_since")
class NackOverwritesTheNewer(_WritesLater):
    """Writes a settlement by id, after it checked the token. A record that is stored in between is overwritten."""

    def write(self, record: Record) -> bool:
        there = self._room.shelf.get(record.id) is not None
        if there:
            self._room.shelf.put(record)
        return there


@mutant("test_a_nack_never_brings_back_what_is_removed")
class NackBringsBackInARace(_WritesLater):
    """Upserts a settlement, after it checked the token. A record that is removed in between is there again."""

    def write(self, record: Record) -> bool:
        self._room.shelf.put(record)
        return True


@mutant("test_an_ack_never_deletes_a_version_that_was_stored_since")
class AckDeletesTheNewer(_OneAtATime):
    """Deletes by id what is acknowledged, after it checked the token. A put is not excluded in between."""

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record]:
        with self.alone:
            return super().lease(limit, duration, kinds)

    def delete(self, id: str) -> bool:
        with self.alone:
            return super().delete(id)

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        with self.alone:
            return [self._settle(each) for each in settlements]

    def _settle(self, settlement: Settlement) -> bool:
        if settlement.progress is not None:
            return super().settle([settlement])[0]
        if self.holds(settlement) is None:
            return False
        round_trip()
        return super().delete(settlement.id)


@mutant("test_a_claim_never_brings_back_what_is_removed")
class ClaimBringsBackTheRemoved(OpenClaims, _OneAtATime):
    """Reads what is due, and upserts it with its lease. A delete is not excluded in between."""

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record]:
        with self.alone:
            with self._room.lock:
                now = self._now_ms()
                due = [each for each in self.due_records(now) if is_chosen(each.kind, kinds)][:limit]
            round_trip()
            token, until = self.new_token(), min(now + duration, LAST_INSTANT)
            leased = [attrs.evolve(each, progress=self.leased(each, token, now, until, limit)) for each in due]
            with self._room.lock:
                for each in leased:
                    self._room.shelf.put(each)
            return leased

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        with self.alone:
            return super().settle(settlements)

    def put(self, records: Collection[Record]) -> None:
        with self.alone:
            super().put(records)


class _Deadlock(Exception):
    """The error of a driver: the server has ended a transaction that waits for another one, which waits for it."""


class _RowLocks(MemoryBackend):
    """Locks the rows of a batch one after the other, in the order of the batch, until its end."""

    _tables: ClassVar[dict[str | None, dict[str, threading.Lock]]] = defaultdict(lambda: defaultdict(threading.Lock))

    def in_rows(self, rows: Sequence[str], work: Callable[[], Any]) -> Any:
        table, held = self._tables[self._name], list[threading.Lock]()
        try:
            for each in rows:
                if not table[each].acquire(timeout=0.5):
                    raise _Deadlock
                held.append(table[each])
                if len(held) % 20 == 0:
                    round_trip()
            return work()
        finally:
            for lock in held:
                lock.release()


@mutant("test_stores_of_the_same_ids_in_other_orders_do_not_hinder_each_other")
class StoresInTheOrderGiven(_RowLocks):
    """Stores a batch in the order given, and lets the error of a deadlock out."""

    def put(self, records: Sequence[Record]) -> None:
        self.in_rows([each.id for each in records], lambda: super(StoresInTheOrderGiven, self).put(records))


@mutant("test_settlements_of_the_same_leases_in_other_orders_apply_once_each")
class SettlesInTheOrderGiven(_RowLocks):
    """Settles a batch in the order given, and gives up at a deadlock: some settlements are lost."""

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        apply = super().settle
        try:
            done: Sequence[bool] = self.in_rows([each.id for each in settlements], lambda: apply(settlements))
        except _Deadlock:
            raise BackendUnavailable("The server has ended the transaction. Try again.") from None
        return done
