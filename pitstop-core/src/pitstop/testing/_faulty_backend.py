"""A backend whose calls fail as planned, around any other backend; and its clock, which may differ from the listeners' clock."""

from __future__ import annotations

import random

from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal, TypeVar

import attrs

from pitstop._errors import BackendUnavailable, OutcomeUnknown
from pitstop._values._entry import State
from pitstop.abc import (
    API_VERSION,
    Backend,
    Capability,
    Clock,
    Damaged,
    Doorbell,
    Legacy,
    LegacyPage,
    Outcome,
    Progress,
    Query,
    Record,
    Settlement,
    Tally,
    Watch,
    Writes,
    state_of,
)
from pitstop.testing._clock import ManualClock


__all__ = ["Fault", "FaultKind", "FaultyBackend", "ServerClock", "unfaulted"]

#: ``fail``: refused, nothing was done. ``lose``: it was done, and the answer got lost.
FaultKind = Literal["fail", "lose"]

_T = TypeVar("_T")


@attrs.frozen
class Fault:
    """One fault, as it struck."""

    operation: str
    #: The number of the call of the operation: 1 is the first one of this Pitstop.
    call: int
    kind: FaultKind
    #: The time by the clock of the test.
    at: datetime | None = attrs.field(default=None, eq=False)


class ServerClock:
    """The clock of a backend: the clock that the test moves, plus an offset."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.offset_us = 0

    def time_us(self) -> int:
        return self._clock.time_us() + self.offset_us

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def wait(self, bell: Doorbell, seconds: float | None) -> bool:
        return self._clock.wait(bell, seconds)

    def __repr__(self) -> str:
        return f"ServerClock({self._clock!r}, {self.offset_us / 1e6:+} s)"


@attrs.frozen
class _Dice:
    random: random.Random
    rate: float
    operations: set[str]
    kinds: Sequence[FaultKind]


class FaultyBackend(Backend):
    """A wrapper of another backend, whose calls fail as planned. Its own clock is the listeners' clock."""

    api_version: ClassVar[int] = API_VERSION

    def __init__(self, inner: Backend, clock: Clock, server_clock: ServerClock | None) -> None:
        self.inner = inner
        self.config = inner.config
        self.capabilities: Capability = inner.capabilities  # type: ignore[misc] # those of the backend behind
        self.clock = clock
        self.server_clock = server_clock
        self.log: list[Fault] = []
        #: The number of calls so far, by operation.
        self.calls: Counter[str] = Counter()
        #: Kinds of faults, by operation and number of the call.
        self.scripted: dict[tuple[str, int], FaultKind] = {}
        self.latencies: dict[str, tuple[timedelta, bool]] = {}
        self._planned: dict[str, deque[tuple[FaultKind, BackendUnavailable | None]]] = {}
        self._dice: _Dice | None = None
        # Whether anything is planned at all. Without a plan, a call costs next to nothing.
        self._armed = False
        self._last: BackendUnavailable | None = None
        # The tokens that listeners of this handle hold, by id; and the tokens of dead holders.
        self._held: dict[str, str] = {}
        self._crashed: set[str] = set()

    def arm(self) -> None:
        self._armed = True

    def plan(self, operation: str, kind: FaultKind, times: int, error: BackendUnavailable | None) -> None:
        self._planned.setdefault(operation, deque()).extend([(kind, error)] * times)
        self._armed = True

    def draw(self, dice: random.Random, rate: float, operations: set[str], kinds: Sequence[FaultKind]) -> None:
        self._dice = _Dice(dice, rate, operations, kinds)
        self._armed = True

    def clear(self) -> None:
        self._armed, self._dice = False, None
        self._planned.clear()
        self.scripted.clear()
        self.latencies.clear()

    def caused(self, error: BackendUnavailable) -> bool:
        """Whether this error is a fault of this wrapper."""
        return error is self._last

    def crash(self) -> int:
        """Refuse all settlements under the tokens that were given out so far. Return the number of live leases among them."""
        count = sum(self._is_live(id, token) for id, token in self._held.items())
        self._crashed.update(self._held.values())
        self._held.clear()
        return count

    def now(self) -> int:
        return self.inner.now()

    def put(self, records: Sequence[Record]) -> None:
        self._call("store", self.inner.put, records, ids=lambda: tuple(each.id for each in records))

    def put_if(self, record: Record, revision: str | None, progress: Progress | None = None) -> bool:
        return self._call("store", self.inner.put_if, record, revision, progress, ids=lambda: (record.id,))

    def delete(self, id: str) -> bool:
        return self._call("remove", self.inner.delete, id, ids=lambda: (id,))

    def delete_many(self, ids: Sequence[str], query: Query | None = None) -> Sequence[bool]:
        return self._call("remove", self.inner.delete_many, ids, query, ids=lambda: tuple(ids))

    def put_new(self, records: Sequence[Record]) -> Sequence[bool]:
        return self._call("store", self.inner.put_new, records, ids=lambda: tuple(each.id for each in records))

    def put_many_if(self, items: Sequence[tuple[Record, str, Progress]]) -> Sequence[bool]:
        return self._call("store", self.inner.put_many_if, items, ids=lambda: tuple(each.id for each, *_ in items))

    def get(self, id: str) -> Record | Damaged | None:
        return self._call("get", self.inner.get, id)

    def get_many(self, ids: Sequence[str]) -> Sequence[Record | Damaged]:
        return self._call("get", self.inner.get_many, ids)

    def get_portion(self, ids: Sequence[str]) -> tuple[Sequence[Record | Damaged], Sequence[str]]:
        return self._call("get", self.inner.get_portion, ids)

    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record | Damaged]:
        return self._call("entries", self.inner.scan, state, limit, after)

    def find(self, query: Query, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record | Damaged]:
        return self._call("entries", self.inner.find, query, limit, after)

    def find_places(
        self, query: Query, limit: int, after: tuple[int | None, str] | None
    ) -> Sequence[tuple[int | None, str]]:
        return self._call("entries", self.inner.find_places, query, limit, after)

    def tally(self) -> Tally:
        return self._call("stats", self.inner.tally)

    def tally_by_kind(self) -> Mapping[str, Tally]:
        return self._call("stats", self.inner.tally_by_kind)

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record | Damaged]:
        # A backend that is older than kinds does not have the argument.
        leased = self._call("lease", self.inner.lease, limit, duration, *([] if kinds is None else [kinds]))
        for each in leased:
            token = each.token if isinstance(each, Damaged) else each.progress.token
            if token is not None:
                self._held[each.id] = token
        return leased

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool | None]:
        if self._crashed:
            return self._settle_of_the_living(settlements)
        return self._settle(settlements)

    def next_due(self, kinds: Collection[str] | None = None) -> int | None:
        return self._call("next_due", self.inner.next_due, *([] if kinds is None else [kinds]))

    def pause_kind(self, kind: str, until: int | None) -> None:
        self.inner.pause_kind(kind, until)

    def resume_kind(self, kind: str) -> bool:
        return self.inner.resume_kind(kind)

    def paused_kinds(self) -> Mapping[str, int | None]:
        return self.inner.paused_kinds()

    def note(self, key: str, text: str, until: int) -> None:
        self.inner.note(key, text, until)

    def forget_note(self, key: str) -> None:
        self.inner.forget_note(key)

    def notes(self) -> Mapping[str, str]:
        return self.inner.notes()

    def within(self, session: object) -> Writes:
        return self.inner.within(session)

    def ping(self) -> None:
        self.inner.ping()

    def concerns(self) -> Sequence[str]:
        return self.inner.concerns()

    def watch(self) -> Watch | None:
        return self.inner.watch()

    def legacy(self, after: Any = None, *, locked_after: int | None = None) -> LegacyPage:
        return self.inner.legacy(after, locked_after=locked_after)

    def adopt(self, items: Sequence[tuple[Legacy, Record]]) -> Sequence[bool]:
        return self.inner.adopt(items)

    def bounded(self, seconds: float | None = None) -> AbstractContextManager[float]:
        return self.inner.bounded(seconds)

    def close(self) -> None:
        self.inner.close()

    @property
    def location(self) -> str:
        return self.inner.location

    def __repr__(self) -> str:
        return f"<FaultyBackend of {self.inner!r}>"

    def _settle(self, settlements: Collection[Settlement]) -> Sequence[bool | None]:
        applied = self._call(
            "settle", self.inner.settle, settlements, ids=lambda: tuple(each.id for each in settlements)
        )
        for each in settlements:
            if each.outcome is not Outcome.EXTEND and self._held.get(each.id) == each.token:
                del self._held[each.id]
        return applied

    def _is_live(self, id: str, token: str) -> bool:
        stored = self.inner.get(id)
        if stored is None:
            return False
        lease = stored if isinstance(stored, Damaged) else stored.progress
        return lease.token == token and state_of(lease.due, token, self.inner.now() // 1000) == "leased"

    def _settle_of_the_living(self, settlements: Collection[Settlement]) -> Sequence[bool | None]:
        living = [each for each in settlements if each.token not in self._crashed]
        applied = dict(zip((each.id for each in living), self._settle(living) if living else (), strict=True))
        return [applied.get(each.id, False) for each in settlements]

    def _call(
        self,
        operation: str,
        method: Callable[..., _T],
        *arguments: Any,
        ids: Callable[[], tuple[str, ...]] | None = None,
    ) -> _T:
        self.calls[operation] += 1
        if not self._armed:
            return method(*arguments)
        kind, error = self._strikes(operation)
        latency, before = self.latencies.get(operation, (timedelta(0), False))
        if before:
            self._pass(latency)
        if kind == "fail":
            self._pass(timedelta(0) if before else latency)
            text = f"A fault of the test: {operation!r} was refused, and nothing was done."
            raise self._remembered(error or BackendUnavailable(text))
        result = method(*arguments)
        if not before:
            self._pass(latency)
        if kind == "lose":
            text = f"A fault of the test: {operation!r} was done, and its answer got lost."
            lost = OutcomeUnknown(text, ids=ids()) if ids is not None else BackendUnavailable(text)
            raise self._remembered(lost)
        return result

    def _strikes(self, operation: str) -> tuple[FaultKind | None, BackendUnavailable | None]:
        """Return the fault of this call, if there is one."""
        call, kind, error = self.calls[operation], None, None
        planned, dice = self._planned.get(operation), self._dice
        if (operation, call) in self.scripted:
            kind = self.scripted.pop((operation, call))
        elif planned:
            kind, error = planned.popleft()
        elif dice is not None and operation in dice.operations and dice.random.random() < dice.rate:
            kind = dice.random.choice(dice.kinds)
        if kind is not None:
            at = self.clock.now() if isinstance(self.clock, ManualClock) else None
            self.log.append(Fault(operation, call, kind, at))
        return kind, error

    def _remembered(self, error: BackendUnavailable) -> BackendUnavailable:
        self._last = error
        return error

    def _pass(self, latency: timedelta) -> None:
        if latency and isinstance(self.clock, ManualClock):
            self.clock.advance(latency)


def unfaulted(backend: Backend) -> Backend:
    """Return the backend behind the faults of a test, to inspect it without setting off a fault."""
    return backend.inner if isinstance(backend, FaultyBackend) else backend
