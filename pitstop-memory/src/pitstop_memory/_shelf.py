"""Records in memory, by id and by due time."""

from __future__ import annotations

import heapq

from collections.abc import Iterator
from typing import Any

import attrs

from pitstop.abc import Progress, Record, copy_plain


__all__ = ["Shelf", "copy_record"]


@attrs.define
class _Slot:
    #: As it was put; its progress may have gone on since.
    _record: Record
    #: Grows with each new id: among records with one ``due`` the one that came in first goes first.
    order: int
    progress: Progress
    #: Whether the message holds neither mappings nor lists, so that to copy it is to copy one dict.
    flat: bool

    @property
    def record(self) -> Record:
        """As it is now."""
        record = self._record
        if record.progress is not self.progress:
            record = self._record = _with_progress(record, record.message, self.progress)
        return record

    def copy(self) -> Record:
        """As it is now; nobody can reach what is stored through it."""
        record = self._record
        # The series is nobody's to change, so it needs no copy.
        message = record.message.copy() if self.flat else copy_plain(record.message)
        return _with_progress(record, message, self.progress)

    def put(self, record: Record) -> None:
        self._record, self.progress, self.flat = record, record.progress, _is_flat(record.message)


class Shelf:
    """A dict by id, and a heap by ``(due, order)``. Not thread-safe, but safe from Ctrl-C at any step.

    What is leased together is due together, and nearly always gone before that. So it takes one place in the heap, as a
    bunch: ``(due, a number below 0, its ids)``. When a bunch comes up, what is left of it gets places of its own.

    Invariant: each record with a ``due`` has at least one heap item with its present ``(due, order)``, or is in a bunch
    with its present ``due``. Items that say something else are left over from earlier times and are dropped when they
    come up, or when there are too many.
    """

    def __init__(self) -> None:
        self._slots: dict[str, _Slot] = {}
        # A str, or the ids of a bunch. They are never compared: no two items have both numbers in common, but for equal ones.
        self._heap: list[tuple[int, int, Any]] = []
        self._orders = 0
        self._bunches = 0
        # How many ids the bunches in the heap hold.
        self._bunched = 0

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Record]:
        return (slot.record for slot in self._slots.values())

    def get(self, id: str) -> Record | None:
        slot = self._slots.get(id)
        return None if slot is None else slot.record

    def progress_of(self, id: str) -> Progress | None:
        slot = self._slots.get(id)
        return None if slot is None else slot.progress

    def put(self, record: Record) -> None:
        slot = self._slots.get(record.id)
        if slot is None:
            self._orders += 1
            slot = _Slot(record, self._orders, record.progress, _is_flat(record.message))
            self._slots[record.id] = slot
        else:
            slot.put(record)
        self._push(slot.progress.due, slot.order, record.id)

    def change(self, id: str, progress: Progress) -> None:
        slot = self._slots[id]
        slot.progress = progress
        self._push(progress.due, slot.order, id)

    def delete(self, id: str) -> bool:
        return self._slots.pop(id, None) is not None

    def first(self) -> Progress | None:
        """The progress of the record that is due first."""
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
        """Lease the first ones that are due; return copies of them."""
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
                # In this order: wherever it is interrupted, the record is found in the heap.
                bunch.append(id)
                slot.progress = slot.progress.leased(token, now, until, limit)
                leased.append(slot.copy())
            heapq.heappop(heap)
        self._bunched += len(bunch)
        self._sweep()
        return leased

    def _push(self, due: int | None, order: int, id: str) -> None:
        if due is not None:
            heapq.heappush(self._heap, (due, order, id))
            self._sweep()

    def _untie(self) -> None:
        """Give what is left of the bunch that came up places of its own: behind it, so that it stays where it is."""
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


def copy_record(record: Record) -> Record:
    """A record of which nobody who holds the other can reach anything."""
    series = None if record.series is None else copy_plain(dict(record.series))
    return Record(record.id, copy_plain(record.message), series, record.revision, record.progress)


def _with_progress(record: Record, message: dict[str, Any], progress: Progress) -> Record:
    return Record(record.id, message, record.series, record.revision, progress)


def _is_flat(message: dict[str, Any]) -> bool:
    return not any(isinstance(each, dict | list) for each in message.values())
