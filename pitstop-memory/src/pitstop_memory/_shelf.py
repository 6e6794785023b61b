"""Records in memory, by id and by due time."""

from __future__ import annotations

import heapq

from collections.abc import Iterator

import attrs

from pitstop.abc import Progress, Record


__all__ = ["Shelf"]


@attrs.define
class _Slot:
    record: Record
    #: Grows with each new id: among records with one ``due`` the one that came in first goes first.
    order: int


class Shelf:
    """A dict by id, and a heap by ``(due, order)``. Not thread-safe.

    Invariant: each record with a ``due`` has at least one heap item with its present ``(due, order)``. Items that say
    something else are left over from earlier times and are dropped when they come up, or when there are too many.
    """

    def __init__(self) -> None:
        self._slots: dict[str, _Slot] = {}
        self._heap: list[tuple[int, int, str]] = []
        self._orders = 0

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Record]:
        return (slot.record for slot in self._slots.values())

    def get(self, id: str) -> Record | None:
        slot = self._slots.get(id)
        return None if slot is None else slot.record

    def put(self, record: Record) -> None:
        slot = self._slots.get(record.id)
        if slot is None:
            self._orders += 1
            slot = self._slots[record.id] = _Slot(record, self._orders)
        else:
            slot.record = record
        self._push(slot)

    def change(self, id: str, progress: Progress) -> Record:
        slot = self._slots[id]
        old = slot.record
        slot.record = Record(old.id, old.message, old.series, old.revision, progress)
        self._push(slot)
        return slot.record

    def delete(self, id: str) -> bool:
        return self._slots.pop(id, None) is not None

    def first(self) -> Record | None:
        """The record that is due first."""
        while self._heap:
            due, order, id = self._heap[0]
            slot = self._slots.get(id)
            if slot is not None and slot.order == order and slot.record.progress.due == due:
                return slot.record
            heapq.heappop(self._heap)
        return None

    def _push(self, slot: _Slot) -> None:
        due = slot.record.progress.due
        if due is None:
            return
        heapq.heappush(self._heap, (due, slot.order, slot.record.id))
        if len(self._heap) > 2 * len(self._slots) + 64:
            self._heap = [
                (each.record.progress.due, each.order, id)
                for id, each in self._slots.items()
                if each.record.progress.due is not None
            ]
            heapq.heapify(self._heap)
