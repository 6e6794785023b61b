"""The memory backend: a shelf of records behind a lock."""

from __future__ import annotations

import heapq
import os

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from threading import RLock
from typing import ClassVar, get_args
from weakref import WeakValueDictionary

import attrs

from pitstop import State
from pitstop.abc import (
    LAST_INSTANT,
    Aside,
    Backend,
    BackendConfig,
    Capability,
    Progress,
    Query,
    Record,
    Settlement,
    Tally,
    Turn,
    state_of,
    tallies,
)
from pitstop_memory._config import MemoryConfig
from pitstop_memory._shelf import Shelf


__all__ = ["MemoryBackend"]


class _Room:
    """A shelf and its turn. Handles with one name share a room. A fork waits for the thread that changes the shelf."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        #: The paused kinds with the ends of their pauses.
        self.pauses: dict[str, int | None] = {}
        #: The notes with their ends.
        self.notes: dict[str, tuple[str, int]] = {}
        self.turn = Turn()

    @property
    def lock(self) -> RLock:
        """The lock of the turn."""
        return self.turn.lock


_rooms: WeakValueDictionary[str, _Room] = WeakValueDictionary()
_rooms_turn = Turn()


class MemoryBackend(Backend):
    """Messages in this process. The backend is as strict and as lossy with values as the backends that write to disk."""

    api_version: ClassVar[int] = 1
    suite_version: ClassVar[int | None] = 6
    Config: ClassVar[type[BackendConfig]] = MemoryConfig
    capabilities: ClassVar[Capability] = (
        Capability.SCRATCH
        | Capability.CONDITIONAL
        | Capability.KINDS
        | Capability.POLICIES
        | Capability.FIND
        | Capability.BULK
        | Capability.PAUSES
        | Capability.NOTES
    )

    def __init__(self, config: MemoryConfig | None = None) -> None:
        config = config or MemoryConfig()
        super().__init__(config)
        self._config = config
        self._name = config.name
        if config.name is None:
            self._room = _Room()
        else:
            room = _Room()
            with _rooms_turn.lock, _rooms_turn.call():
                self._room = _rooms.setdefault(config.name, room)

    @property
    def location(self) -> str:
        return f"memory://{self._name or ''}"

    def now(self) -> int:
        return self.clock.time_us()

    def put(self, records: Sequence[Record]) -> None:
        turn = self._room.turn
        with turn.lock, turn.call():
            self._put(records)

    def put_if(self, record: Record, revision: str | None, progress: Progress | None = None) -> bool:
        turn = self._room.turn
        with turn.lock, turn.call():
            return self._put_if(record, revision, progress)

    def delete(self, id: str) -> bool:
        turn = self._room.turn
        with turn.lock, turn.call():
            return self._room.shelf.delete(id)

    def delete_many(self, ids: Sequence[str], query: Query | None = None) -> Sequence[bool]:
        turn = self._room.turn
        with turn.lock, turn.call():
            return self._delete_many(ids, query)

    def put_new(self, records: Sequence[Record]) -> Sequence[bool]:
        turn = self._room.turn
        with turn.lock, turn.call():
            return [self._put_if(record, None, None) for record in records]

    def put_many_if(self, items: Sequence[tuple[Record, str, Progress]]) -> Sequence[bool]:
        turn = self._room.turn
        with turn.lock, turn.call():
            return [self._put_if(*item) for item in items]

    def get(self, id: str) -> Record | None:
        turn = self._room.turn
        with turn.lock, turn.call():
            return self._room.shelf.copy(id)

    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record]:
        now = self._now_ms()
        behind = None if after is None else _place(*after)
        turn = self._room.turn
        with turn.lock, turn.call():
            shelf = self._room.shelf
            wanted = (
                _place(progress.due, id)
                for id, progress in shelf.progress()
                if state is None or state_of(progress.due, progress.token, now) == state
            )
            places = heapq.nsmallest(limit, (place for place in wanted if behind is None or place > behind))
            return [record for *_, id in places if (record := shelf.copy(id)) is not None]

    def find(self, query: Query, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record]:
        now = self._now_ms()
        turn = self._room.turn
        with turn.lock, turn.call():
            slots = (
                slot for slot in self._room.shelf.slots() if query.matches(slot, now) and query.is_behind(slot, after)
            )
            return [slot.copy() for slot in heapq.nsmallest(limit, slots, key=query.in_order)]

    def find_places(
        self, query: Query, limit: int, after: tuple[int | None, str] | None
    ) -> Sequence[tuple[int | None, str]]:
        now = self._now_ms()
        turn = self._room.turn
        with turn.lock, turn.call():
            slots = (
                slot for slot in self._room.shelf.slots() if query.matches(slot, now) and query.is_behind(slot, after)
            )
            return [(slot.progress.due, slot.id) for slot in heapq.nsmallest(limit, slots, key=query.in_order)]

    def tally_by_kind(self) -> Mapping[str, Tally]:
        turn = self._room.turn
        with turn.lock, turn.call():
            held = [(slot.kind, slot.progress) for slot in self._room.shelf.slots()]
        return tallies(((kind, each.due, each.token) for kind, each in held), self._now_ms())

    def tally(self) -> Tally:
        now = self._now_ms()
        counts: dict[State, int] = dict.fromkeys(get_args(State), 0)
        oldest: int | None = None
        turn = self._room.turn
        with turn.lock, turn.call():
            found = list(self._room.shelf.progress())
        for _, progress in found:
            due = progress.due
            state = state_of(due, progress.token, now)
            counts[state] += 1
            if state == "due" and due is not None and (oldest is None or due < oldest):
                oldest = due
        return Tally(**counts, oldest_due=oldest)

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record]:
        turn = self._room.turn
        with turn.lock, turn.call():
            return self._lease(limit, duration) if kinds is None else self._lease_of(kinds, limit, duration)

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        turn = self._room.turn
        with turn.lock, turn.call():
            return self._apply_all(settlements)

    def next_due(self, kinds: Collection[str] | None = None) -> int | None:
        turn = self._room.turn
        with turn.lock, turn.call():
            shelf = self._room.shelf
            first = shelf.first() if kinds is None else shelf.first_of(kinds)
            return None if first is None else first.due

    def pause_kind(self, kind: str, until: int | None) -> None:
        room = self._room
        with room.turn.lock, room.turn.call():
            # One statement, for an interruption. Pauses that have ended go with it.
            room.pauses = self._lasting() | {kind: until}

    def resume_kind(self, kind: str) -> bool:
        room = self._room
        with room.turn.lock, room.turn.call():
            pauses = self._lasting()
            found = kind in pauses
            room.pauses = {each: end for each, end in pauses.items() if each != kind}
            return found

    def paused_kinds(self) -> Mapping[str, int | None]:
        turn = self._room.turn
        with turn.lock, turn.call():
            return self._lasting()

    def note(self, key: str, text: str, until: int) -> None:
        room = self._room
        with room.turn.lock, room.turn.call():
            room.notes = self._lasting_notes() | {key: (text, until)}

    def forget_note(self, key: str) -> None:
        room = self._room
        with room.turn.lock, room.turn.call():
            room.notes = {each: note for each, note in self._lasting_notes().items() if each != key}

    def notes(self) -> Mapping[str, str]:
        turn = self._room.turn
        with turn.lock, turn.call():
            return {key: text for key, (text, _) in self._lasting_notes().items()}

    @contextmanager
    def scratch(self) -> Iterator[Backend]:
        # A handle without a name has a room of its own, which goes away with the handle.
        with closing(type(self)(attrs.evolve(self._config, name=None))) as scratch:
            yield scratch

    def _lease(self, limit: int, duration: int) -> list[Record]:
        # This stands outside the body of the `with` that holds the lock. In CPython 3.13.0 an interruption at the jump of a
        # loop in that body leaves it without giving the lock back.
        shelf, now = self._room.shelf, self._now_ms()
        first = shelf.first()
        # A token is made only when something is due: a test asks once more after each message.
        if first is None or first.due is None or first.due > now:
            return []
        return shelf.lease(limit, _new_token(), now, min(now + duration, LAST_INSTANT))

    def _lease_of(self, kinds: Collection[str], limit: int, duration: int) -> list[Record]:
        now = self._now_ms()
        return self._room.shelf.lease_of(kinds, limit, _new_token, now, min(now + duration, LAST_INSTANT))

    def _apply_all(self, settlements: Collection[Settlement]) -> list[bool]:
        now = self._now_ms()
        return [self._apply(each, now) for each in settlements]

    def _put(self, records: Sequence[Record]) -> None:
        shelf = self._room.shelf
        for record in records:
            shelf.put(record)

    def _put_if(self, record: Record, revision: str | None, progress: Progress | None) -> bool:
        present = self._room.shelf.get(record.id)
        if revision != (None if present is None else present.revision):
            return False
        if progress is not None and (present is None or present.progress != progress):
            return False
        self._room.shelf.put(record)
        return True

    def _delete_many(self, ids: Sequence[str], query: Query | None) -> list[bool]:
        shelf, now = self._room.shelf, self._now_ms()
        gone = []
        for id in ids:
            record = None if query is None else shelf.get(id)
            chosen = query is None or (record is not None and query.matches(record, now))
            gone.append(chosen and shelf.delete(id))
        return gone

    def _apply(self, settlement: Settlement, now: int) -> bool:
        shelf = self._room.shelf
        present = shelf.progress_of(settlement.id)
        if present is None or present.token != settlement.token:
            return False
        if present.due is not None and present.due <= now:
            return False
        progress = settlement.progress
        if progress is None:
            shelf.delete(settlement.id)
        elif isinstance(progress, Aside):
            shelf.change(settlement.id, attrs.evolve(present, due=None, last_error=progress.last_error))
        else:
            shelf.change(settlement.id, progress)
        return True

    def _lasting(self) -> dict[str, int | None]:
        now = self._now_ms()
        return {kind: end for kind, end in self._room.pauses.items() if end is None or end > now}

    def _lasting_notes(self) -> dict[str, tuple[str, int]]:
        now = self._now_ms()
        return {key: note for key, note in self._room.notes.items() if note[1] > now}

    def _now_ms(self) -> int:
        return self.clock.time_us() // 1000


def _new_token() -> str:
    return os.urandom(16).hex()


def _place(due: int | None, id: str) -> tuple[bool, int, str]:
    return (due is None, due or 0, id)
