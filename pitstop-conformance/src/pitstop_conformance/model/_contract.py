"""What a store does, in the plainest words: a dict of records. No lock, no index, no clock, no values of its own.

This is the contract of :class:`pitstop.abc.Backend` as a program. The state machine does each thing to a backend and to
this, and compares.
"""

from __future__ import annotations

import copy

from collections.abc import Iterable, Sequence
from itertools import count

import attrs

from pitstop import State
from pitstop.abc import Aside, Progress, Record, Settlement, Tally, state_of


__all__ = ["ModelStore", "place_of"]


class ModelStore:
    """Records by id. Times are instants; whoever asks says what time it is."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}
        # When its id came in: among records with one `due` the first goes first. An update keeps the place.
        self._came: dict[str, int] = {}
        self._turns = count()

    def put(self, records: Iterable[Record]) -> None:
        """Each in place of the one with its id, lease included. Twice is as once."""
        for record in records:
            self._records[record.id] = copy.deepcopy(record)
            self._came.setdefault(record.id, next(self._turns))

    def delete(self, id: str) -> bool:
        """Leased or not. An id that comes in again comes in last."""
        self._came.pop(id, None)
        return self._records.pop(id, None) is not None

    def get(self, id: str) -> Record | None:
        return self._records.get(id)

    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None, now: int) -> list[Record]:
        """By ``(due, id)``, the dead last."""
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

    def next_due(self) -> int | None:
        return min(self.dues(), default=None)

    def dues(self) -> list[int]:
        """When something becomes due, or became so: ends of leases too."""
        return [record.progress.due for record in self._records.values() if record.progress.due is not None]

    def state(self, id: str, now: int) -> State | None:
        """None: it is not there."""
        record = self._records.get(id)
        return None if record is None else state_of(record.progress.due, record.progress.token, now)

    def claimable(self, now: int) -> list[Record]:
        """What a claim may take, in the order in which it does: the oldest ``due`` first, then who came in first."""
        due = [record for record in self._records.values() if self.state(record.id, now) == "due"]
        return sorted(due, key=lambda record: (record.progress.due or 0, self._came[record.id]))

    def lease(self, id: str, token: str, now: int, until: int, limit: int) -> Record:
        """Claim one of those."""
        return self._write(id, self._records[id].progress.leased(token, now, until, limit))

    def settle(self, settlements: Sequence[Settlement], now: int) -> list[bool]:
        """Each is done if its token is the record's, and the lease runs or the record is dead; else nothing is."""
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
    """Where a record stands in a scan."""
    return (due is None, due or 0, id)
