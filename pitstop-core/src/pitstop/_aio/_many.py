"""AsyncChangingMany: the methods that remove, redrive or reschedule many messages, for event loops.

Threads: the loop's thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from pitstop._pitstop import Pitstop
from pitstop._values._entry import State
from pitstop._values._schedule import Moment


__all__ = ["AsyncChangingMany"]

_T = TypeVar("_T")


class AsyncChangingMany(ABC):
    """A part of :class:`pitstop.AsyncPitstop`."""

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
        return await self._do(
            Pitstop.remove_many,
            ids,
            state=state,
            kind=kind,
            prefix=prefix,
            due_before=due_before,
            due_after=due_after,
            failing=failing,
            progress=progress,
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
        return await self._do(
            Pitstop.redrive_many,
            ids,
            state=state,
            kind=kind,
            prefix=prefix,
            due_before=due_before,
            due_after=due_after,
            failing=failing,
            progress=progress,
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
        return await self._do(
            Pitstop.reschedule_many,
            ids,
            when=when,
            state=state,
            kind=kind,
            prefix=prefix,
            due_before=due_before,
            due_after=due_after,
            failing=failing,
            progress=progress,
        )
