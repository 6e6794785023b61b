"""Records in memory, by id and by due time."""

from __future__ import annotations

import heapq

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import attrs

from pitstop.abc import Progress, Record, copy_plain, is_chosen


__all__ = ["Shelf"]


class _Line:
    """The records of one kind, by ``(due, order)``: a heap."""

    __slots__ = ("bunched", "bunches", "heap", "kind")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        # The third part is a str, or the ids of a bunch. It is never compared: only equal items share both numbers.
        self.heap: list[tuple[int, int, Any]] = []
        self.bunches = 0
        #: The number of ids in all bunches of the heap.
        self.bunched = 0


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
    policy: Mapping[str, Any] | None
    #: Of its kind.
    line: _Line

    @property
    def record(self) -> Record:
        """The record as it is now, with the very message that is stored."""
        return Record(self.id, self.message, self.series, self.revision, self.progress, self.line.kind, self.policy)

    def copy(self) -> Record:
        """Return a copy of the record as it is now. No change to the copy reaches the stored record."""
        # Neither the series nor the policy must be changed by any user of the record, so they need no copy.
        return Record(
            self.id, copy_plain(self.message), self.series, self.revision, self.progress, self.line.kind, self.policy
        )


class Shelf:
    """A dict by id, and for each kind a heap by ``(due, order)``. It is not thread-safe, but safe from Ctrl-C at any step.

    Records that are leased together are due together, and are nearly always gone before that. So those of one kind share one
    item of the heap, a bunch: ``(due, a number below 0, the ids)``. When a bunch reaches the top, its remaining records get
    items of their own.

    Invariant: each record with a ``due`` has at least one item with its present ``(due, order)`` in the heap of its kind, or is
    in a bunch there with its present ``due``. Other items are left over from earlier times. They are dropped when they reach the
    top, or when there are too many of them.
    """

    def __init__(self) -> None:
        self._slots: dict[str, _Slot] = {}
        self._lines: dict[str, _Line] = {}
        self._orders = 0

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
        message, series, policy = copy_plain(record.message), record.series, record.policy
        if series is not None:
            series = copy_plain(dict(series))
        if policy is not None:
            policy = copy_plain(dict(policy))
        slot, line = self._slots.get(id), self._lines.get(record.kind)
        if line is None:
            line = self._lines[record.kind] = _Line(record.kind)
        if slot is None:
            self._orders += 1
            slot = _Slot(id, message, series, record.revision, progress, self._orders, policy, line)
            self._push(line, progress.due, slot.order, id)
            self._slots[id] = slot
        else:
            self._push(line, progress.due, slot.order, id)
            if slot.line is not line:
                # It has its old due for a moment.
                self._push(line, slot.progress.due, slot.order, id)
                slot.line = line
            slot.message, slot.series, slot.revision, slot.progress = message, series, record.revision, progress
            slot.policy = policy
        self._sweep(line)

    def change(self, id: str, progress: Progress) -> None:
        slot = self._slots[id]
        self._push(slot.line, progress.due, slot.order, id)
        slot.progress = progress
        self._sweep(slot.line)

    def delete(self, id: str) -> bool:
        return self._slots.pop(id, None) is not None

    def first(self, kinds: Collection[str] | None = None) -> Progress | None:
        """Return the progress of the record that is due first, of all records of these kinds."""
        line = self._first_line(kinds)
        if line is None:
            return None
        _, _, id = line.heap[0]
        return self._slots[id].progress

    def lease(self, limit: int, token: str, now: int, until: int, kinds: Collection[str] | None = None) -> list[Record]:
        """Lease the first ``limit`` records of these kinds that are due. Return copies of them."""
        leased: list[Record] = []
        bunches: dict[_Line, list[str]] = {}
        while len(leased) < limit:
            line = self._first_line(kinds)
            if line is None or line.heap[0][0] > now:
                break
            # Up to the first record of another kind.
            bound = self._bound(line, kinds)
            bunch = bunches.setdefault(line, [])
            self._lease_of(line, bunch, bound, limit, token, now, until, leased)
        for line, bunch in bunches.items():
            line.bunched += len(bunch)
            self._sweep(line)
        return leased

    def _lease_of(
        self,
        line: _Line,
        bunch: list[str],
        bound: tuple[int, int] | None,
        limit: int,
        token: str,
        now: int,
        until: int,
        leased: list[Record],
    ) -> None:
        """Lease the first records of one kind, up to the place ``bound``. None: all that are due."""
        heap, slots = line.heap, self._slots
        while heap and len(leased) < limit:
            due, order, id = heap[0]
            if due > now or (bound is not None and (due, order) > bound):
                return
            if order < 0:
                self._untie(line)
                continue
            slot = slots.get(id)
            if slot is not None and slot.order == order and slot.progress.due == due and slot.line is line:
                if not bunch:
                    line.bunches += 1
                    heapq.heappush(heap, (until, -line.bunches, bunch))
                # In this order the heap knows the record wherever this is interrupted.
                bunch.append(id)
                slot.progress = slot.progress.leased(token, now, until, limit)
                leased.append(slot.copy())
            heapq.heappop(heap)

    def _first_line(self, kinds: Collection[str] | None) -> _Line | None:
        """Return the heap whose top is due first, of those of these kinds. Its top is the item of a record."""
        if kinds is None and len(self._lines) == 1:
            (line,) = self._lines.values()
            return line if self._tidy(line) else None
        tidy = [each for kind, each in self._lines.items() if is_chosen(kind, kinds) and self._tidy(each)]
        return min(tidy, key=_top, default=None)

    def _bound(self, line: _Line, kinds: Collection[str] | None) -> tuple[int, int] | None:
        others = [
            _top(each)
            for kind, each in self._lines.items()
            if each is not line and is_chosen(kind, kinds) and each.heap and self._tidy(each)
        ]
        return min(others, default=None)

    def _tidy(self, line: _Line) -> bool:
        """Drop items from the top of a heap until it is the item of a record. Return whether there is one."""
        heap = line.heap
        while heap:
            due, order, id = heap[0]
            if order < 0:
                self._untie(line)
                continue
            slot = self._slots.get(id)
            if slot is not None and slot.order == order and slot.progress.due == due and slot.line is line:
                return True
            heapq.heappop(heap)
        return False

    def _push(self, line: _Line, due: int | None, order: int, id: str) -> None:
        """Add an item for a record that gets this ``due`` next. An interruption in between leaves an item too many."""
        if due is not None:
            heapq.heappush(line.heap, (due, order, id))

    def _untie(self, line: _Line) -> None:
        """Give the remaining records of the top bunch items of their own, behind the bunch, so that the bunch stays on top."""
        heap = line.heap
        due, _, bunch = heap[0]
        for id in bunch:
            slot = self._slots.get(id)
            if slot is not None and slot.progress.due == due and slot.line is line:
                heapq.heappush(heap, (due, slot.order, id))
        heapq.heappop(heap)
        line.bunched -= len(bunch)

    def _sweep(self, line: _Line) -> None:
        if len(line.heap) + line.bunched <= 2 * len(self._slots) + 64:
            return
        items = [
            (each.progress.due, each.order, id)
            for id, each in self._slots.items()
            if each.progress.due is not None and each.line is line
        ]
        heapq.heapify(items)
        line.heap[:] = items
        line.bunched = 0


def _top(line: _Line) -> tuple[int, int]:
    due, order, _ = line.heap[0]
    return due, order
