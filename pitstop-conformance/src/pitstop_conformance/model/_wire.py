"""A connection to a backend that loses requests and replies when a test asks for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import ClassVar, Literal, TypeVar

from pitstop import BackendUnavailable, OutcomeUnknown, State
from pitstop.abc import API_VERSION, Backend, Capability, Damaged, Progress, Record, Settlement, Tally


__all__ = ["Fault", "Wire"]

_T = TypeVar("_T")

#: ``refused``: the write is not applied and raises. ``lost``: the write is applied and raises.
Fault = Literal["refused", "lost"]


class Wire(Backend):
    """Pass each call on to a backend, which this object does not own. It has no watch, because no test waits here."""

    api_version: ClassVar[int] = API_VERSION
    capabilities: ClassVar[Capability] = Capability(0)

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend.config)
        passed_on = Capability.CONDITIONAL | Capability.KINDS | Capability.POLICIES
        # Those of the backend, so not of the class.
        self.__dict__["capabilities"] = backend.capabilities & passed_on
        self._backend = backend
        self._next: Fault | None = None
        # The thread whose write is to fail.
        self._thread: int | None = None
        #: Whether the process that uses the connection is dead, so that none of its calls reach the store.
        self.cut = False

    @contextmanager
    def fault(self, fault: Fault | None) -> Iterator[None]:
        """Let the first write of this thread in this context fail in this way.

        On a slow machine, the background thread of a listener may give back messages meanwhile.
        """
        self._next, self._thread = fault, get_ident()
        try:
            yield
        finally:
            self._next = None

    @property
    def failed(self) -> bool:
        """Whether the fault of :meth:`fault` has struck, or no fault was asked for."""
        return self._next is None

    def now(self) -> int:
        return self._backend.now()

    def put(self, records: Sequence[Record]) -> None:
        self._write(lambda: self._backend.put(records), [each.id for each in records])

    def put_if(self, record: Record, revision: str | None, progress: Progress | None = None) -> bool:
        return self._write(lambda: self._backend.put_if(record, revision, progress), [record.id])

    def delete(self, id: str) -> bool:
        return self._write(lambda: self._backend.delete(id), [id])

    def get(self, id: str) -> Record | Damaged | None:
        return self._backend.get(id)

    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record | Damaged]:
        return self._backend.scan(state, limit, after)

    def tally(self) -> Tally:
        return self._backend.tally()

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record | Damaged]:
        # A backend that is older than kinds does not have the argument.
        chosen = [] if kinds is None else [kinds]
        return self._write(lambda: self._backend.lease(limit, duration, *chosen), [])

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool | None]:
        return self._write(lambda: self._backend.settle(settlements), [each.id for each in settlements])

    def next_due(self, kinds: Collection[str] | None = None) -> int | None:
        return self._backend.next_due() if kinds is None else self._backend.next_due(kinds)

    @property
    def location(self) -> str:
        return self._backend.location

    def _write(self, write: Callable[[], _T], ids: list[str]) -> _T:
        fault = None
        if self._thread == get_ident():
            fault, self._next = self._next, None
        if fault == "refused" or self.cut:
            raise BackendUnavailable("The test refused this call, so nothing was written.")
        done = write()
        if fault == "lost":
            raise OutcomeUnknown("The test lost the reply to this call. The write was applied.", ids=tuple(ids))
        return done
