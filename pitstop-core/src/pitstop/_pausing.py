"""Pausing: the methods of the facade that pause messages, and end their pauses.

Threads: the one that calls.
"""

from __future__ import annotations

from pitstop._changing import Changing
from pitstop._decisions._pause import pause, resume
from pitstop._engine._calls import entrance
from pitstop._engine._session import Session
from pitstop._errors import ScheduleError
from pitstop._values._id import valid_id
from pitstop._values._instant import instant_of
from pitstop._values._plain import shown
from pitstop._values._schedule import Moment, moment_of
from pitstop.abc import Capability
from pitstop.abc._backend import lacks_policies


__all__ = ["Pausing"]


class Pausing(Changing):
    """A part of :class:`pitstop.Pitstop`."""

    @entrance
    def pause(self, id: str, until: Moment | None = None) -> bool:
        """Keep a message, and do not emit it until :meth:`resume`. Return True if it is paused now.

        If a listener has the message, the handler goes on, and its ack counts. A retry, and the next occurrence of a series, are
        not emitted. A message that is paused already gets the new ``until``. Return False if there is no such message, or if it is
        dead.

        :param until: when the pause ends by itself: an aware datetime, or a distance from now. None: only by :meth:`resume`.
        :raises MessageError: if ``id`` cannot be an id, or the stored document is damaged.
        :raises ScheduleError: if ``until`` makes no sense, or has passed.
        :raises Conflict: if other programs change the message all the time.
        :raises Unsupported: if the store cannot change a message on a condition, or keeps no policies of messages.
        """
        id = valid_id(id)
        now_us = self._session.backend.now()
        end = _end(until, now_us)
        _check_policies(self._session)
        return self._move(id, "paused", now_us, lambda present: pause(present, end, now_us // 1000))

    @entrance
    def resume(self, id: str) -> bool:
        """End the pause of a message. Return True if it was paused.

        The message comes when it was due before the pause, and now if that time has passed. In a series, ``catch_up`` and
        ``grace`` decide about the occurrences that have passed, as after a downtime. ``expires`` counts as usual.

        :raises MessageError: if ``id`` cannot be an id, or the stored document is damaged.
        :raises Conflict: if other programs change the message all the time.
        :raises Unsupported: if the store cannot change a message on a condition, or keeps no policies of messages.
        """
        id = valid_id(id)
        _check_policies(self._session)
        now_us = self._session.backend.now()
        return self._move(id, "resumed", now_us, lambda present: resume(present, now_us // 1000))


def _end(until: Moment | None, now_us: int) -> int | None:
    if until is None:
        return None
    end = instant_of(moment_of(until, "until"), now_us, "until")
    if end <= now_us // 1000:
        raise ScheduleError(
            f"until={shown(until)} has passed, so the pause would end at once. Give a later time, or None: then resume() ends the pause."
        )
    return end


def _check_policies(session: Session) -> None:
    if Capability.POLICIES not in session.capabilities:
        raise lacks_policies(session.backend)
