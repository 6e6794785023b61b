"""AsyncPausing: the methods that pause messages, for event loops.

Threads: the loop's thread.
"""

from __future__ import annotations

from datetime import datetime

from pitstop._aio._changing import AsyncChanging
from pitstop._pitstop import Pitstop
from pitstop._values._schedule import Moment


__all__ = ["AsyncPausing"]


class AsyncPausing(AsyncChanging):
    """A part of :class:`pitstop.AsyncPitstop`."""

    async def pause(self, id: str | None = None, until: Moment | None = None, *, kind: str | None = None) -> bool:
        """Keep a message, or all of a kind, and do not emit them. Return True if it is paused now: see :meth:`pitstop.Pitstop.pause`.

        :raises MessageError: if ``id`` cannot be an id, or the stored document is damaged; or if ``kind`` cannot be a kind.
        :raises PitstopError: if neither an id nor a kind is given, or both.
        :raises ScheduleError: if ``until`` makes no sense, or has passed.
        :raises Conflict: if other programs change the message all the time.
        :raises Unsupported: if the store cannot change a message on a condition, or keeps no policies of messages.
        """
        return await self._do(Pitstop.pause, id, until, kind=kind)

    async def resume(self, id: str | None = None, *, kind: str | None = None) -> bool:
        """End the pause of a message, or of a kind. Return True if it was paused: see :meth:`pitstop.Pitstop.resume`.

        :raises MessageError: if ``id`` cannot be an id, or the stored document is damaged; or if ``kind`` cannot be a kind.
        :raises PitstopError: if neither an id nor a kind is given, or both.
        :raises Conflict: if other programs change the message all the time.
        :raises Unsupported: if the store cannot change a message on a condition, or keeps no policies of messages.
        """
        return await self._do(Pitstop.resume, id, kind=kind)

    async def paused_kinds(self) -> dict[str, datetime | None]:
        """Return the paused kinds with the ends of their pauses: see :meth:`pitstop.Pitstop.paused_kinds`.

        :raises Unsupported: if the store has no paused kinds.
        """
        return await self._do(Pitstop.paused_kinds)
