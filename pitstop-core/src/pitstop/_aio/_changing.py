"""AsyncChanging: the methods that change a stored message in place, for event loops.

Threads: the loop's thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

from pitstop._pitstop import Pitstop
from pitstop._values._schedule import Moment


__all__ = ["AsyncChanging"]

_T = TypeVar("_T")


class AsyncChanging(ABC):
    """A part of :class:`pitstop.AsyncPitstop`."""

    @abstractmethod
    async def _do(self, method: Callable[..., _T], *args: Any, **options: Any) -> _T:
        """Run a method of the :class:`pitstop.Pitstop` in a thread, and return its result."""

    async def redrive(self, id: str) -> bool:
        """Make a dead message due now, and count its attempts from zero. Return True if it was dead.

        :raises MessageError: if ``id`` cannot be an id, or the stored document is damaged.
        :raises OutcomeUnknown: if the reply was lost, and cannot be found out any more.
        """
        return await self._do(Pitstop.redrive, id)

    async def reschedule(self, id: str, when: Moment | None = None) -> bool:
        """Let a message come at ``when``. Return True if it was there: see :meth:`pitstop.Pitstop.reschedule`.

        :raises MessageError: if ``id`` cannot be an id, or the stored document is damaged.
        :raises ScheduleError: if ``when`` makes no sense.
        :raises Conflict: if other programs change the message all the time.
        :raises Unsupported: if the store cannot change a message on a condition.
        """
        return await self._do(Pitstop.reschedule, id, when)

    async def emit_now(self, id: str) -> bool:
        """Let the current occurrence of a message come now. Return True if it is due now: see :meth:`pitstop.Pitstop.emit_now`.

        :raises MessageError: if ``id`` cannot be an id, or the stored document is damaged.
        :raises Conflict: if other programs change the message all the time.
        :raises Unsupported: if the store cannot change a message on a condition.
        """
        return await self._do(Pitstop.emit_now, id)

    async def release(self, id: str) -> bool:
        """End the lease of a message whose consumer is dead. Return True if it was leased: see :meth:`pitstop.Pitstop.release`.

        :raises MessageError: if ``id`` cannot be an id, or the stored document is damaged.
        :raises OutcomeUnknown: if the reply was lost, and cannot be found out any more.
        """
        return await self._do(Pitstop.release, id)
