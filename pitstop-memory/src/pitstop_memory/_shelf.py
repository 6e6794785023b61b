"""Records in memory, by id and by due time."""

from __future__ import annotations

import heapq

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from pitstop.abc import Progress, Record, copy_plain


__all__ = ["Shelf"]


@attrs.define
class _Slot:
    """A record, field by field, because the progress changes often and the rest seldom."""

    id: str
    message: dict[str, Any]
    series: Mapping[str, Any] | None
    revision: str
    progress: Progress
    #: Grows with each new id: among records with one ``due``, the id that came in first goes first.
    order: int

    @property
    def record(self) -> Record:
        """The record as it is now, with the very message that is stored."""
        return Record(self.id, self.message, self.series, self.revision, self.progress)

    def copy(self) -> Record:
        """Return a copy of the record as it is now. No change to the copy reaches the stored record."""
        # The series must not be changed by any user of the record, so it needs no copy.
        return Record(self.id, copy_plain(self.message), self.series, self.revision, self.progress)


class Shelf:
    """A dict by id, and a heap by ``(due, order)``. It is not thread-safe, but safe from Ctrl-C at any step.

    Records that are leased together are due together, and are nearly always gone before that. So they share one item of the
    heap, a bunch: ``(due, a number below 0, the ids)``. When a bunch reaches the top, its remaining records get items of their
    own.

    Invariant: each record with a ``due`` has at least one heap item with its present ``(due, order)``, or is in a bunch
    with its present ``due``. Other items are left over from earlier times. They are dropped when they reach the top, or when
    there are too many of them.
    """

    def __init__(self) -> None:
        self._slots: dict[str, _Slot] = {}
        # The third part is a str, or the ids of a bunch. It is never compared: only equal items share both numbers.
        self._heap: list[tuple[int, int, Any]] = []
        self._orders = 0
        self._bunches = 0
        # The number of ids in all bunches of the heap.
        self._bunched = 0

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Record]:
        return (slot.record for slot in self._slots.values())

    def progress(self) -> Iterator[tuple[str, Progress]]:
        """Iterate over the ids and the progress of all records."""
        return ((id, slot.progress) for id, slot in self._slots.items())

    def get(self, id: str) -> Record | None:
        slot = self._slots.get(id)
        return None if slot is None else slot.record

    def copy(self, id: str) -> Record | None:
        """Return a copy of a record."""
        slot = self._slots.get(id)
        return None if slot is None else slot.copy()

    def progress_of(self, id: str) -> Progress | None:
        slot = self._slots.get(id)
        return None if slot is None else slot.progress

    def put(self, record: Record) -> None:
        """Keep a copy of a record."""
        id, progress = record.id, record.progress
        message, series = copy_plain(record.message), _copy_series(record.series)
        slot = self._slots.get(id)
        if slot is None:
            self._orders += 1
            slot = _Slot(id, message, series, record.revision, progress, self._orders)
            self._push(progress.due, slot.order, id)
            self._slots[id] = slot
        else:
            self._push(progress.due, slot.order, id)
            slot.message, slot.series, slot.revision, slot.progress = message, series, record.revision, progress
        self._sweep()

    def change(self, id: str, progress: Progress) -> None:
        slot = self._slots[id]
        self._push(progress.due, slot.order, id)
        slot.progress = progress
        self._sweep()

    def delete(self, id: str) -> bool:
        return self._slots.pop(id, None) is not None

    def first(self) -> Progress | None:
        """Return the progress of the record that is due first."""
        while self._heap:
            due, order, id = self._heap[0]
            if order < 0:
                self._untie()
                continue
            slot = self._slots.get(id)
            if slot is not None and slot.order == order and slot.progress.due == due:
                return slot.progress
            heapq.heappop(self._heap)
        return None

    def lease(self, limit: int, token: str, now: int, until: int) -> list[Record]:
        """Lease the first ``limit`` records that are due. Return copies of them."""
        heap, slots = self._heap, self._slots
        bunch: list[str] = []
        leased: list[Record] = []
        while heap and len(leased) < limit:
            due, order, id = heap[0]
            if due > now:
                break
            if order < 0:
                self._untie()
                continue
            slot = slots.get(id)
            if slot is not None and slot.order == order and slot.progress.due == due:
                if not bunch:
                    self._bunches += 1
                    heapq.heappush(heap, (until, -self._bunches, bunch))
                # In this order the heap knows the record wherever this is interrupted.
                bunch.append(id)
                slot.progress = slot.progress.leased(token, now, until, limit)
                leased.append(slot.copy())
            heapq.heappop(heap)
        self._bunched += len(bunch)
        self._sweep()
        return leased

    def _push(self, due: int | None, order: int, id: str) -> None:
        """Add an item for a record that gets this ``due`` next. An interruption in between leaves an item too many."""
        if due is not None:
            heapq.heappush(self._heap, (due, order, id))

    def _untie(self) -> None:
        """Give the remaining records of the top bunch items of their own, behind the bunch, so that the bunch stays on top."""
        due, _, bunch = self._heap[0]
        for id in bunch:
            slot = self._slots.get(id)
            if slot is not None and slot.progress.due == due:
                heapq.heappush(self._heap, (due, slot.order, id))
        heapq.heappop(self._heap)
        self._bunched -= len(bunch)

    def _sweep(self) -> None:
        if len(self._heap) + self._bunched <= 2 * len(self._slots) + 64:
            return
        items = [
            (each.progress.due, each.order, id) for id, each in self._slots.items() if each.progress.due is not None
        ]
        heapq.heapify(items)
        self._heap[:] = items
        self._bunched = 0


def _copy_series(series: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if series is None else copy_plain(dict(series))
