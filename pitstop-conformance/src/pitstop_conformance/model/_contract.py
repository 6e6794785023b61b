"""The contract of :class:`pitstop.abc.Backend` as the simplest program: a dict of records without locks, indexes or a clock.

The state machine applies each operation to a backend and to this model, and compares the two.
"""

from __future__ import annotations

import copy

from collections.abc import Collection, Iterable, Sequence
from itertools import count

import attrs

from pitstop import State
from pitstop.abc import Aside, Progress, Record, Settlement, Tally, is_chosen, state_of


__all__ = ["ModelStore", "place_of"]


class ModelStore:
    """Records by id. Times are instants, and the caller passes the current time."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}
        # The place of each id in the order of first stores, which decides among records with equal `due`. An update keeps it.
        self._came: dict[str, int] = {}
        self._turns = count()

    def put(self, records: Iterable[Record]) -> None:
        """Store records. Each replaces the record with its id, and ends its lease. A repeated call changes nothing more."""
        for record in records:
            self._records[record.id] = copy.deepcopy(record)
            self._came.setdefault(record.id, next(self._turns))

    def put_if(self, record: Record, revision: str | None, progress: Progress | None) -> bool:
        """Store a record if the record with its id has this revision and progress (None: any), or is absent (None)."""
        there = self._records.get(record.id)
        if revision != (None if there is None else there.revision):
            return False
        if there is not None and progress not in (None, there.progress):
            return False
        self.put([record])
        return True

    def delete(self, id: str) -> bool:
        """Remove a record, leased or not. If the id is stored again, its place is the last."""
        self._came.pop(id, None)
        return self._records.pop(id, None) is not None

    def get(self, id: str) -> Record | None:
        return self._records.get(id)

    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None, now: int) -> list[Record]:
        """Return the records in the order of ``(due, id)``. Dead records are last."""
        found = [
            record
            for record in self._records.values()
            if state in (None, self.state(record.id, now))
            and (after is None or place_of(record.progress.due, record.id) > place_of(*after))
        ]
        return sorted(found, key=lambda record: place_of(record.progress.due, record.id))[:limit]

    def tally(self, now: int) -> Tally:
        states = [self.state(id, now) for id in self._records]
        due = self.claimable(now)
        oldest = due[0].progress.due if due else None
        return Tally(states.count("scheduled"), len(due), states.count("leased"), states.count("dead"), oldest)

    def next_due(self, kinds: Collection[str] | None = None) -> int | None:
        return min(self.dues(kinds), default=None)

    def dues(self, kinds: Collection[str] | None = None) -> list[int]:
        """Return the due times of all records of these kinds. The due time of a leased record is the end of its lease."""
        return [
            each.progress.due
            for each in self._records.values()
            if each.progress.due is not None and is_chosen(each.kind, kinds)
        ]

    def state(self, id: str, now: int) -> State | None:
        """Return the state of a record, or None if there is no such record."""
        record = self._records.get(id)
        return None if record is None else state_of(record.progress.due, record.progress.token, now)

    def claimable(self, now: int, kinds: Collection[str] | None = None) -> list[Record]:
        """Return the records that a claim may take, in its order: the oldest ``due`` first, then the id that was stored first."""
        due = [
            each for each in self._records.values() if is_chosen(each.kind, kinds) and self.state(each.id, now) == "due"
        ]
        return sorted(due, key=lambda record: (record.progress.due or 0, self._came[record.id]))

    def lease(self, id: str, token: str, now: int, until: int, limit: int) -> Record:
        """Claim one of these ids."""
        return self._write(id, self._records[id].progress.leased(token, now, until, limit))

    def settle(self, settlements: Sequence[Settlement], now: int) -> list[bool]:
        """Apply each settlement that has the record's token, if the lease runs or the record is dead."""
        return [self._settle(each, now) for each in settlements]

    def _settle(self, settlement: Settlement, now: int) -> bool:
        record = self._records.get(settlement.id)
        if record is None or record.progress.token != settlement.token or self.state(record.id, now) == "due":
            return False
        progress = settlement.progress
        if progress is None:
            return self.delete(record.id)
        if isinstance(progress, Aside):
            progress = attrs.evolve(record.progress, due=None, last_error=progress.last_error)
        self._write(record.id, progress)
        return True

    def _write(self, id: str, progress: Progress) -> Record:
        self._records[id] = attrs.evolve(self._records[id], progress=progress)
        return self._records[id]


def place_of(due: int | None, id: str) -> tuple[bool, int, str]:
    """Return the sort key of a record in a scan."""
    return (due is None, due or 0, id)
