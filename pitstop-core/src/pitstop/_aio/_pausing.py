"""AsyncPausing: the methods that pause messages, for event loops.

Threads: the loop's thread.
"""

from __future__ import annotations

from pitstop._aio._changing import AsyncChanging
from pitstop._pitstop import Pitstop
from pitstop._values._schedule import Moment


__all__ = ["AsyncPausing"]


class AsyncPausing(AsyncChanging):
    """A part of :class:`pitstop.AsyncPitstop`."""

    async def pause(self, id: str, until: Moment | None = None) -> bool:
        """Keep a message, and do not emit it until :meth:`resume`. Return True if it is paused now: see :meth:`pitstop.Pitstop.pause`.

        :raises MessageError: if ``id`` cannot be an id, or the stored document is damaged.
        :raises ScheduleError: if ``until`` makes no sense, or has passed.
        :raises Conflict: if other programs change the message all the time.
        :raises Unsupported: if the store cannot change a message on a condition, or keeps no policies of messages.
        """
        return await self._do(Pitstop.pause, id, until)

    async def resume(self, id: str) -> bool:
        """End the pause of a message. Return True if it was paused: see :meth:`pitstop.Pitstop.resume`.

        :raises MessageError: if ``id`` cannot be an id, or the stored document is damaged.
        :raises Conflict: if other programs change the message all the time.
        :raises Unsupported: if the store cannot change a message on a condition, or keeps no policies of messages.
        """
        return await self._do(Pitstop.resume, id)
