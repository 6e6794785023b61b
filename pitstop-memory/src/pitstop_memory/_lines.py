"""Lines: the records of each kind by due time, for claims that choose by kind."""

from __future__ import annotations

import heapq

from collections.abc import Collection, Mapping

from pitstop.abc import AllBut
from pitstop_memory._slots import Slot


__all__ = ["Lines", "Place"]

#: The ``due`` and the order of a record, and its id or its kind.
Place = tuple[int, int, str]


class Lines:
    """For each kind a heap of ``(due, order, id)``. It is not thread-safe, but safe from Ctrl-C at any step.

    Invariant: each record with a ``due`` has at least one item with its present ``(due, order)`` in the heap of its present
    kind. Other items are left over from earlier times, and are dropped when they reach the top. The shelf drops all lines
    when they hold too many items.
    """

    __slots__ = ("_heaps", "_slots", "items")

    def __init__(self, slots: Mapping[str, Slot]) -> None:
        self._slots = slots
        self._heaps: dict[str, list[Place]] = {}
        for slot in slots.values():
            if slot.progress.due is not None:
                self._heaps.setdefault(slot.kind, []).append((slot.progress.due, slot.order, slot.id))
        for heap in self._heaps.values():
            heapq.heapify(heap)
        #: The number of items in all heaps.
        self.items = sum(map(len, self._heaps.values()))

    def push(self, kind: str, item: Place) -> None:
        """Add the item of a record of this kind."""
        heap = self._heaps.get(kind)
        if heap is None:
            heap = self._heaps[kind] = []
        self.items += 1
        heapq.heappush(heap, item)

    def pop(self, kind: str) -> None:
        """Remove the first item of a kind."""
        heapq.heappop(self._heaps[kind])
        self.items -= 1

    def first(self, kind: str) -> Place | None:
        """Return the item of the record of this kind that is due first; None if there is none. Drop the items before it."""
        heap = self._heaps.get(kind)
        while heap:
            due, order, id = item = heap[0]
            slot = self._slots.get(id)
            if slot is not None and slot.order == order and slot.progress.due == due and slot.kind == kind:
                return item
            heapq.heappop(heap)
            self.items -= 1
        self._heaps.pop(kind, None)
        return None

    def tops(self, kinds: Collection[str]) -> list[Place]:
        """Return for each of these kinds that has a record the ``(due, order)`` of its first record, and the kind."""
        heaps = self._heaps
        chosen = heaps.keys() - kinds if isinstance(kinds, AllBut) else heaps.keys() & kinds
        return [(first[0], first[1], kind) for kind in chosen if (first := self.first(kind)) is not None]
