"""A way to a backend on which requests and replies get lost, when a test says so."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Literal, TypeVar

from pitstop import BackendUnavailable, OutcomeUnknown, State
from pitstop.abc import API_VERSION, Backend, Capability, Damaged, Record, Settlement, Tally


__all__ = ["Fault", "Wire"]

_T = TypeVar("_T")

#: ``refused``: it is not done, and raises. ``lost``: it is done, and raises.
Fault = Literal["refused", "lost"]


class Wire(Backend):
    """Passes everything on to a backend, which it does not own. Without its watch: nobody here waits."""

    api_version: ClassVar[int] = API_VERSION
    capabilities: ClassVar[Capability] = Capability(0)

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend.config)
        self._backend = backend
        self._next: Fault | None = None
        #: Whether the process that uses it is gone, so that nothing of it gets through any more.
        self.cut = False

    @contextmanager
    def fault(self, fault: Fault | None) -> Iterator[None]:
        """What becomes of the first write in here."""
        self._next = fault
        try:
            yield
        finally:
            self._next = None

    @property
    def failed(self) -> bool:
        """Asked within :meth:`fault`: whether that has come to pass, or nothing was to."""
        return self._next is None

    def now(self) -> int:
        return self._backend.now()

    def put(self, records: Sequence[Record]) -> None:
        self._write(lambda: self._backend.put(records), [each.id for each in records])

    def delete(self, id: str) -> bool:
        return self._write(lambda: self._backend.delete(id), [id])

    def get(self, id: str) -> Record | Damaged | None:
        return self._backend.get(id)

    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record | Damaged]:
        return self._backend.scan(state, limit, after)

    def tally(self) -> Tally:
        return self._backend.tally()

    def lease(self, limit: int, duration: int) -> Sequence[Record | Damaged]:
        return self._write(lambda: self._backend.lease(limit, duration), [])

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        return self._write(lambda: self._backend.settle(settlements), [each.id for each in settlements])

    def next_due(self) -> int | None:
        return self._backend.next_due()

    @property
    def location(self) -> str:
        return self._backend.location

    def _write(self, write: Callable[[], _T], ids: list[str]) -> _T:
        fault, self._next = self._next, None
        if fault == "refused" or self.cut:
            raise BackendUnavailable("The test refuses it: nothing was done.")
        done = write()
        if fault == "lost":
            raise OutcomeUnknown("The test loses the reply: it was done.", ids=tuple(ids))
        return done
