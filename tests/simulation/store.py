"""The one store of a world: the memory backend on its own clock, and a scribe that records its operations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from pitstop.abc import Progress, Record, Settlement
from pitstop.testing import ManualClock
from pitstop_memory import MemoryBackend, MemoryConfig
from simulation.history import History


class TrueStore(MemoryBackend):
    """The memory backend, as a separate class, so that a known-bad variant can break this class only."""


class Scribe:
    """Operates the store, and records the result. ``n`` is the number of the call."""

    def __init__(self, history: History, clock: ManualClock) -> None:
        self.clock = clock
        self.store = TrueStore(MemoryConfig(clock=clock))
        self._history = history
        #: For each record, the settlement that updated it last, until another write. A process that lost a reply can see by it that its
        #: update was done. MongoDB's documents carry such a mark, which a claim keeps.
        self.marks: dict[str, object] = {}
        #: Whether the present operation was sent long ago: its sender got no answer to it.
        self.late = False

    def now_ms(self) -> int:
        return self.clock.time_us() // 1000

    def note(self, who: str, what: str, *details: object) -> None:
        self._history.note(self.now_ms(), who, what, *details)

    def put(self, who: str, n: int, records: Sequence[Record]) -> None:
        self.store.put(records)
        for each in records:
            self.marks.pop(each.id, None)
        self.note(who, "put", n, tuple((r.id, r.message["v"], r.progress.due, _schedule(r)) for r in records))

    def put_if(self, who: str, n: int, record: Record, revision: str | None, progress: Progress | None) -> bool:
        stored = self.store.put_if(record, revision, progress)
        if stored:
            self.marks.pop(record.id, None)
            self.note(who, "put", n, ((record.id, record.message["v"], record.progress.due, _schedule(record)),))
        return stored

    def delete(self, who: str, n: int, id: str) -> bool:
        found = self.store.delete(id)
        self.note(who, "delete", n, id, found)
        return found

    def lease(self, who: str, n: int, limit: int, duration: int) -> Sequence[Record]:
        leased = self.store.lease(limit, duration)
        told = tuple(
            (r.id, r.message["v"], self._history.name(r.progress.token or ""), r.progress.attempts, r.progress.due)
            for r in leased
        )
        self.note(who, "lease", n, limit, duration, told)
        return leased

    def settle(self, who: str, n: int, settlements: Collection[Settlement], mark: object) -> Sequence[bool]:
        applied = self.store.settle(settlements)
        for each, done in zip(settlements, applied, strict=True):
            if done:
                self.marks[each.id] = mark
        told = tuple(
            (each.id, self._history.name(each.token), each.outcome.value, _progress(each), done)
            for each, done in zip(settlements, applied, strict=True)
        )
        self.note(who, "settle", n, told, self.late)
        return applied

    def left(self) -> None:
        """Record the stored messages."""
        there = sorted((r.id, r.message["v"], r.progress.due) for r in self.store.scan(None, 10_000, None))
        self.note("world", "left", tuple(there))


Write = Callable[[], object]


def _schedule(record: Record) -> tuple[object, ...] | None:
    series = record.series
    if series is None:
        return None
    return (series["start"], series["every"]["ms"], series["end"], series["catch_up"], series["grace"])


def _progress(settlement: Settlement) -> tuple[object, ...] | None:
    progress = settlement.progress
    if progress is None:
        return None
    assert isinstance(progress, Progress), "nothing damages documents here"
    return (
        progress.due,
        progress.scheduled_for,
        progress.attempts,
        progress.first_leased,
        progress.token is not None,
    )
