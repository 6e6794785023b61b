"""The view of a process on the store: a backend whose calls get lost, come late, or find that their process died.

A lost reply is repaired as in the MongoDB backend, because the promises of the engine depend on that. A settlement is sent again. A
message that is then gone, or marked by the first run, counts as done. If the message was changed meanwhile, the outcome is unknown.
A store is looked up by its revision, and sent again only if it is not due.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pitstop import BackendUnavailable, OutcomeUnknown, State
from pitstop.abc import Backend, Capability, Doorbell, Outcome, Progress, Record, Settlement, Tally
from pitstop_memory import MemoryConfig


if TYPE_CHECKING:
    from simulation.process import Process
    from simulation.world import World

_T = TypeVar("_T")

#: Times that a call is sent, the first one included.
_SENT = 3


class Crash(BaseException):
    """The process died inside of this call, and does nothing after it."""


class Broken(BaseException):
    """The engine did a forbidden thing: the run ends here, and its history shows why."""


class _Lost(Exception):
    """No reply. The store has done the operation or not, and will not do it later."""


class _Late(Exception):
    """No reply, and the call is still on its way: the store does it later."""


class ProcessClock:
    """The clock of a process: it begins at any time, and runs a little too fast or too slow."""

    def __init__(self, world: World, process: Process, origin: float, rate: float) -> None:
        self._world, self._process = world, process
        self._origin, self._rate = origin, rate

    def time_us(self) -> int:
        return round(self.monotonic() * 1e6)

    def monotonic(self) -> float:
        return self._origin + self._world.clock.monotonic() * self._rate

    def wait(self, bell: Doorbell, seconds: float | None) -> bool:
        assert seconds is not None, "a process of the simulation does not wait without end"
        until = self.monotonic() + seconds
        while self.monotonic() < until:
            if bell.wait(0):
                return True
            self._world.while_asleep(self._process, (until - self.monotonic()) / self._rate)
        return bell.wait(0)


class Remote(Backend):
    """The store, as one process sees it through a network."""

    api_version: ClassVar[int] = 1
    capabilities: ClassVar[Capability] = Capability.CONDITIONAL | Capability.KINDS | Capability.POLICIES

    def __init__(self, world: World, process: Process, clock: ProcessClock, offset_us: int, **options: Any) -> None:
        super().__init__(MemoryConfig(clock=clock, **options))
        self._world = world
        self._scribe = world.scribe
        self._process = process
        #: The error of the process about the store's clock.
        self._offset_us = offset_us
        self.dead = False
        #: The records that the process read last, by id, as they were in the store, and how often each was written before.
        self.seen: dict[str, tuple[Record, int]] = {}
        #: The record from which the process makes its present edit.
        self.edited: Record | None = None

    def now(self) -> int:
        return self._read("now", self._scribe.store.now, quiet=True) + self._offset_us

    def put(self, records: Sequence[Record]) -> None:
        ids = tuple(each.id for each in records)
        left = list(records)
        for run in range(_SENT):
            try:
                if run:
                    left = self._not_stored(left)
                write = partial(self._put, self._process.name, self._process.call, left, again=run > 0)
                self._send("put", write)
            except _Lost:
                continue
            except _Late:
                break
            except BackendUnavailable:
                if not run:
                    raise
                break  # the first run is as unknown as it was
            return
        raise OutcomeUnknown("The simulation lost the reply to a store.", ids=ids)

    def put_if(self, record: Record, revision: str | None, progress: Progress | None = None) -> bool:
        write = partial(self._put_if, self._process.name, self._process.call, record, revision, progress, self.edited)
        for run in range(_SENT):
            try:
                if run and not self._not_stored([record]):
                    return True
                # The command of an earlier run may have replaced the expected record just now.
                return self._send("put", partial(write, again=run > 0)) or bool(run and not self._not_stored([record]))
            except _Lost:
                continue
            except _Late:
                break
            except BackendUnavailable:
                if not run:
                    raise
                break
        raise OutcomeUnknown("The simulation lost the reply to a store.", ids=(record.id,))

    def delete(self, id: str) -> bool:
        try:
            return self._send("delete", partial(self._scribe.delete, self._process.name, self._process.call, id))
        except (_Lost, _Late):
            raise OutcomeUnknown("The simulation lost the reply to a removal.", ids=(id,)) from None

    def get(self, id: str) -> Record | None:
        def look() -> Record | None:
            found = self._scribe.store.get(id)
            if found is not None:
                self.seen[id] = found, self._scribe.writes[id]
            return found

        return self._read("get", look)

    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record]:
        return self._read("scan", partial(self._scribe.store.scan, state, limit, after))

    def tally(self) -> Tally:
        return self._read("tally", self._scribe.store.tally)

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record]:
        claim = partial(self._scribe.lease, self._process.name, self._process.call, limit, duration, kinds)
        try:
            return self._send("lease", claim)
        except (_Lost, _Late):
            raise BackendUnavailable("The simulation lost the reply to a claim.") from None

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool | None]:
        mark = object()
        write = partial(self._scribe.settle, self._process.name, self._process.call, list(settlements), mark)
        for run in range(_SENT):
            try:
                applied = self._send("settle", write)
            except _Lost:
                continue
            except _Late:
                # All its time was used up, or it was sent again on another connection.
                if self._world.rng.random() < 0.5:
                    break
                continue
            except BackendUnavailable:
                if not run:
                    raise
                break
            if not run:
                return applied
            return [done or self._was_done(each, mark) for each, done in zip(settlements, applied, strict=True)]
        raise OutcomeUnknown("The simulation lost the reply to a settlement.", ids=tuple(s.id for s in settlements))

    def next_due(self, kinds: Collection[str] | None = None) -> int | None:
        return self._read("next_due", partial(self._scribe.store.next_due, kinds))

    def _put(self, who: str, n: int, records: Sequence[Record], *, again: bool) -> None:
        # A write is only sent again until its first message is due.
        if again and self._is_due(records):
            raise _Lost
        self._scribe.put(who, n, records)

    def _put_if(
        self,
        who: str,
        n: int,
        record: Record,
        revision: str | None,
        progress: Progress | None,
        read: Record | None,
        *,
        again: bool,
    ) -> bool:
        if again and self._is_due([record]):
            raise _Lost
        return self._scribe.put_if(who, n, record, revision, progress, read)

    def _not_stored(self, records: Sequence[Record]) -> list[Record]:
        """Return the items that an earlier run has not stored.

        :raises OutcomeUnknown: if some of them are due: they may have been stored, emitted and acknowledged since.
        """
        look = self._scribe.store.get
        found = self._read("look", lambda: {r.revision for each in records if (r := look(each.id)) is not None})
        left = [each for each in records if each.revision not in found]
        if self._is_due(left):
            ids = tuple(each.id for each in left)
            raise OutcomeUnknown("The simulation lost the reply to a store, and it is due by now.", ids=ids)
        return left

    def _is_due(self, records: Sequence[Record]) -> bool:
        return any((each.progress.due or 0) <= self._scribe.now_ms() for each in records)

    def _was_done(self, settlement: Settlement, mark: object) -> bool | None:
        """Whether an earlier run had done a settlement that is refused now. None: that cannot be known."""
        found = self._scribe.store.get(settlement.id)
        if (found is None) if settlement.progress is None else (self._scribe.marks.get(settlement.id) is mark):
            return True
        unchanged = isinstance(found, Record) and found.progress.token == settlement.token
        return False if unchanged or settlement.outcome is Outcome.EXTEND else None

    def _read(self, name: str, look: Callable[[], _T], *, quiet: bool = False) -> _T:
        try:
            return self._send(name, look, quiet=quiet)
        except (_Lost, _Late):
            raise BackendUnavailable("The simulation lost the reply to a question.") from None

    def _send(self, name: str, write: Callable[[], _T], *, quiet: bool = False) -> _T:
        """Let the store do the operation, with other events before its effect and before its reply."""
        world, process = self._world, self._process
        self._live()
        fault = world.fault(process, name, quiet=quiet)
        if not quiet:
            world.between(process)
        self._before(fault, write)
        answer = write()
        self._after(fault)
        if not quiet:
            world.between(process)
        self._live()
        return answer

    def _before(self, fault: str | None, write: Callable[[], object]) -> None:
        world = self._world
        if fault == "crash before":
            self.dead = True
        if fault == "stuck":
            world.pause()
        self._live()
        if fault == "refused":
            raise BackendUnavailable("The simulation refuses.")
        if fault in ("dropped", "late"):
            if fault == "late":
                world.post(write)
            world.time_out()
            self._live()
            raise _Late if fault == "late" else _Lost

    def _after(self, fault: str | None) -> None:
        if fault == "crash after":
            self.dead = True
        if fault == "slow":
            self._world.pause()
        if fault == "lost":
            self._world.time_out()
        self._live()
        if fault == "lost":
            raise _Lost

    def _live(self) -> None:
        if self.dead:
            raise Crash
