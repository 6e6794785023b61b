"""The one store of a world: the memory backend on its own clock, and a scribe that records its operations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence

from pitstop.abc import Outcome, Progress, Record, Settlement
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
        #: How often each record was written.
        self.writes: Counter[str] = Counter()
        #: Whether the present operation was sent long ago: its sender got no answer to it.
        self.late = False

    def now_ms(self) -> int:
        return self.clock.time_us() // 1000

    def note(self, who: str, what: str, *details: object) -> None:
        self._history.note(self.now_ms(), who, what, *details)

    def put(self, who: str, n: int, records: Sequence[Record]) -> None:
        self.store.put(records)
        for each in records:
            self._written(each.id)
        told = tuple((r.id, r.message["v"], r.progress.due, _schedule(r), *_labels(r)) for r in records)
        self.note(who, "put", n, told)

    def put_if(
        self,
        who: str,
        n: int,
        record: Record,
        revision: str | None,
        progress: Progress | None,
        read: Record | None,
    ) -> bool:
        """Put a record on a condition: an edit if it has a new version of the message, else a move.

        :param read: the record from which the user made the edit.
        """
        present = self.store.get(record.id)
        stored = self.store.put_if(record, revision, progress)
        if not stored:
            return False
        assert present is not None, "no process of the simulation stores on the condition that there is no record"
        self._written(record.id)
        id, version, new = record.id, record.message["v"], record.progress
        if present.message["v"] == version:
            self.note(who, "move", n, id, version, _written(new), _moved(record))
            return True
        unchanged = read is not None and (present.revision, present.progress) == (read.revision, read.progress)
        told = (id, version, new.due, new.scheduled_for, _schedule(record), *_labels(record))
        self.note(who, "edit", n, told, _moved(record), unchanged)
        return True

    def is_edit_refused_rightly(self, read: Record, writes: int, skew_ms: int) -> bool:
        """Whether a message has changed since it was read with so many writes, or may be leased."""
        present = self.store.get(read.id)
        if present is None or self.writes[read.id] != writes:
            return True
        due = present.progress.due
        return present.progress.token is not None and due is not None and due + skew_ms + 1 >= self.now_ms()

    def _written(self, id: str) -> None:
        self.marks.pop(id, None)
        self.writes[id] += 1

    def delete(self, who: str, n: int, id: str) -> bool:
        found = self.store.delete(id)
        self.writes[id] += 1
        self.note(who, "delete", n, id, found)
        return found

    def lease(
        self, who: str, n: int, limit: int, duration: int, kinds: Collection[str] | None = None
    ) -> Sequence[Record]:
        chosen = () if kinds is None else (tuple(sorted(kinds)),)
        leased = self.store.lease(limit, duration, *chosen)
        self.writes.update(each.id for each in leased)
        told = tuple(
            (r.id, r.message["v"], self._history.name(r.progress.token or ""), r.progress.attempts, r.progress.due)
            for r in leased
        )
        self.note(who, "lease", n, limit, duration, told, *chosen)
        return leased

    def settle(self, who: str, n: int, settlements: Collection[Settlement], mark: object) -> Sequence[bool]:
        applied = self.store.settle(settlements)
        for each, done in zip(settlements, applied, strict=True):
            if done:
                self.marks[each.id] = mark
                self.writes[each.id] += 1
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


def _labels(record: Record) -> tuple[object, ...]:
    """Return the kind, and the expiry, the lock time, the delay of retries (all in milliseconds) and the number of attempts; nothing if
    it has none of them.
    """
    policy = record.policy or {}
    retry = policy.get("retry", {})
    times = (policy.get("expires"), policy.get("lock_time"), retry.get("delay"))
    labels = (record.kind, *times, retry.get("max_attempts"))
    return labels if any(each not in ("", None) for each in labels) else ()


def _moved(record: Record) -> tuple[object, ...] | None:
    moved = (record.policy or {}).get("moved")
    return None if moved is None else tuple(moved)


def _progress(settlement: Settlement) -> tuple[object, ...] | None:
    progress = settlement.progress
    if progress is None:
        return None
    assert isinstance(progress, Progress), "nothing damages documents here"
    if settlement.outcome is Outcome.EXTEND:
        # The count shows whether the write makes the attempt certain.
        return (*_written(progress), progress.ahead)
    return _written(progress)


def _written(progress: Progress) -> tuple[object, ...]:
    return (
        progress.due,
        progress.scheduled_for,
        progress.attempts,
        progress.first_leased,
        progress.token is not None,
    )
