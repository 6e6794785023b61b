"""Records in memory, by id, by due time, and by kind and due time."""

from __future__ import annotations

import heapq

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from pitstop.abc import Progress, Record, copy_plain
from pitstop_memory._lines import Lines
from pitstop_memory._slots import Slot


__all__ = ["Shelf"]


class Shelf:
    """A dict by id, and a heap by ``(due, order)``. It is not thread-safe, but safe from Ctrl-C at any step.

    Records that are leased together are due together, and are nearly always gone before that. So they share one item of the
    heap, a bunch: ``(due, a number below 0, the ids)``. When a bunch reaches the top, its remaining records get items of their
    own.

    Invariant: each record with a ``due`` has at least one heap item with its present ``(due, order)``, or is in a bunch
    with its present ``due``. Other items are left over from earlier times. They are dropped when they reach the top, or when
    there are too many of them.

    Claims that choose by kind use :class:`Lines`. The first of these claims builds the lines from the records, and each write
    updates them from then on. When the lines hold too many items that are left over, the shelf drops them all, and the next such
    claim builds them anew. So a program without such claims does not pay for them.
    """

    def __init__(self) -> None:
        self._slots: dict[str, Slot] = {}
        # The third part is a str, or the ids of a bunch. It is never compared: only equal items share both numbers.
        self._heap: list[tuple[int, int, Any]] = []
        self._orders = 0
        self._bunches = 0
        # The number of ids in all bunches of the heap.
        self._bunched = 0
        self._lines: Lines | None = None

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Record]:
        return (slot.record for slot in self._slots.values())

    def progress(self) -> Iterator[tuple[str, Progress]]:
        """Iterate over the ids and the progress of all records."""
        return ((id, slot.progress) for id, slot in self._slots.items())

    def slots(self) -> Iterator[Slot]:
        """Iterate over all records as they are kept."""
        return iter(self._slots.values())

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
        message, series, policy = copy_plain(record.message), _copied(record.series), _copied(record.policy)
        slot = self._slots.get(id)
        if slot is None:
            self._orders += 1
            slot = Slot(id, message, series, record.revision, progress, self._orders, record.kind, policy)
            self._push(progress.due, slot.order, id, record.kind)
            self._slots[id] = slot
        else:
            self._push(progress.due, slot.order, id, record.kind)
            # One statement, so that an interruption leaves the old version or the new one.
            new = message, series, record.revision, progress, record.kind, policy
            slot.message, slot.series, slot.revision, slot.progress, slot.kind, slot.policy = new
        self._sweep()

    def change(self, id: str, progress: Progress) -> None:
        slot = self._slots[id]
        self._push(progress.due, slot.order, id, slot.kind)
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
        heap, slots, lines = self._heap, self._slots, self._lines
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
                # In this order the heap and the lines know the record wherever this is interrupted.
                bunch.append(id)
                if lines is not None:
                    lines.push(slot.kind, (until, order, id))
                slot.progress = slot.progress.leased(token, now, until, limit)
                leased.append(slot.copy())
            heapq.heappop(heap)
        self._bunched += len(bunch)
        self._sweep()
        return leased

    def first_of(self, kinds: Collection[str]) -> Progress | None:
        """Return the progress of the record that is due first, of all records of these kinds."""
        lines = self._lines_now()
        first = min(lines.tops(kinds), default=None)
        if first is None:
            return None
        item = lines.first(first[2])
        return None if item is None else self._slots[item[2]].progress

    def lease_of(
        self, kinds: Collection[str], limit: int, new_token: Callable[[], str], now: int, until: int
    ) -> list[Record]:
        """Lease the first ``limit`` records of these kinds that are due. Return copies of them.

        :param new_token: called if there is one, and only then.
        """
        lines, slots = self._lines_now(), self._slots
        tops = lines.tops(kinds)
        heapq.heapify(tops)
        if not tops or tops[0][0] > now:
            return []
        token, bunch = new_token(), list[str]()
        self._bunches += 1
        heapq.heappush(self._heap, (until, -self._bunches, bunch))
        leased: list[Record] = []
        while tops and tops[0][0] <= now and len(leased) < limit:
            kind = tops[0][2]
            item = lines.first(kind)
            if item is not None:
                _, order, id = item
                slot = slots[id]
                # In this order the heap and the lines know the record wherever this is interrupted.
                bunch.append(id)
                lines.push(kind, (until, order, id))
                slot.progress = slot.progress.leased(token, now, until, limit)
                leased.append(slot.copy())
                lines.pop(kind)
            following = lines.first(kind)
            if following is None:
                heapq.heappop(tops)
            else:
                heapq.heapreplace(tops, (following[0], following[1], kind))
        self._bunched += len(bunch)
        self._sweep()
        return leased

    def _lines_now(self) -> Lines:
        lines = self._lines
        if lines is None:
            lines = self._lines = Lines(self._slots)
        return lines

    def _push(self, due: int | None, order: int, id: str, kind: str) -> None:
        """Add items for a record that gets this ``due`` next. An interruption in between leaves an item too many."""
        if due is not None:
            heapq.heappush(self._heap, (due, order, id))
            if self._lines is not None:
                self._lines.push(kind, (due, order, id))

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
        room = 2 * len(self._slots) + 64
        if self._lines is not None and self._lines.items > room:
            self._lines = None
        if len(self._heap) + self._bunched <= room:
            return
        items = [
            (each.progress.due, each.order, id) for id, each in self._slots.items() if each.progress.due is not None
        ]
        heapq.heapify(items)
        self._heap[:] = items
        self._bunched = 0


def _copied(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if values is None else copy_plain(dict(values))
