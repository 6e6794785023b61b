"""AsyncChangingMany: the methods that remove, redrive or reschedule many messages, for event loops.

Each call runs in one thread, batch by batch. If its caller is cancelled, that thread begins no further batch.

Threads: the loop's thread sets :class:`Reins`; the thread of the call reads it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from asyncio import CancelledError
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from pitstop._decisions._search import some_ids
from pitstop._pitstop import Pitstop
from pitstop._values._entry import State
from pitstop._values._schedule import Moment


__all__ = ["AsyncChangingMany", "Ended", "Reins"]

_T = TypeVar("_T")


class AsyncChangingMany(ABC):
    """A part of :class:`pitstop.AsyncPitstop`.

    If one of these calls is cancelled, the wait ends at once. The batch that is being written is still written, and no other
    batch is begun.
    """

    @abstractmethod
    async def _do(self, method: Callable[..., _T], *args: Any, **options: Any) -> _T:
        """Run a method of the :class:`pitstop.Pitstop` in a thread, and return its result."""

    async def remove_many(
        self,
        ids: Iterable[str] | None = None,
        *,
        state: State | None = None,
        kind: str | None = None,
        prefix: str | None = None,
        due_before: Moment | None = None,
        due_after: Moment | None = None,
        failing: bool | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """Remove many messages. Return how many were removed: see :meth:`pitstop.Pitstop.remove_many`.

        :param ids: read in another thread, in which ``progress`` is called, too.
        """
        return await self._many(
            Pitstop.remove_many,
            ids,
            progress,
            state=state,
            kind=kind,
            prefix=prefix,
            due_before=due_before,
            due_after=due_after,
            failing=failing,
        )

    async def redrive_many(
        self,
        ids: Iterable[str] | None = None,
        *,
        state: State | None = None,
        kind: str | None = None,
        prefix: str | None = None,
        due_before: Moment | None = None,
        due_after: Moment | None = None,
        failing: bool | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """Make many dead messages due now. Return how many were redriven: see :meth:`pitstop.Pitstop.redrive_many`.

        :param ids: read in another thread, in which ``progress`` is called, too.
        """
        return await self._many(
            Pitstop.redrive_many,
            ids,
            progress,
            state=state,
            kind=kind,
            prefix=prefix,
            due_before=due_before,
            due_after=due_after,
            failing=failing,
        )

    async def reschedule_many(
        self,
        ids: Iterable[str] | None = None,
        *,
        when: Moment | None,
        state: State | None = None,
        kind: str | None = None,
        prefix: str | None = None,
        due_before: Moment | None = None,
        due_after: Moment | None = None,
        failing: bool | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """Let many messages come at ``when``. Return how many were changed: see :meth:`pitstop.Pitstop.reschedule_many`.

        :param ids: read in another thread, in which ``progress`` is called, too.
        """
        return await self._many(
            Pitstop.reschedule_many,
            ids,
            progress,
            when=when,
            state=state,
            kind=kind,
            prefix=prefix,
            due_before=due_before,
            due_after=due_after,
            failing=failing,
        )

    async def _many(
        self,
        method: Callable[..., int],
        ids: Iterable[str] | None,
        progress: Callable[[int], object] | None,
        **options: Any,
    ) -> int:
        reins = Reins(progress)

        def call(pit: Pitstop) -> int:
            try:
                reins.check()
                return method(pit, None if ids is None else reins.over(some_ids(ids)), progress=reins.note, **options)
            except Ended:
                # The caller does not wait any more, so it gets no count.
                return 0

        try:
            return await self._do(call)
        except CancelledError:
            reins.cancelled = True
            raise


class Ended(Exception):
    """The caller of a call was cancelled."""


class Reins:
    """Ends a call between two batches, and between two ids, once its caller was cancelled."""

    def __init__(self, progress: Callable[[int], object] | None) -> None:
        self._progress = progress
        self.cancelled = False

    def check(self) -> None:
        if self.cancelled:
            raise Ended

    def over(self, ids: Iterator[Any]) -> Iterator[Any]:
        for each in ids:
            self.check()
            yield each
        self.check()

    def note(self, count: int) -> None:
        if self._progress is not None:
            self._progress(count)
        self.check()
