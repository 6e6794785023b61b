"""Pausing: the methods of the facade that pause messages, and end their pauses.

Threads: the one that calls.
"""

from __future__ import annotations

from datetime import datetime

from pitstop._changing import Changing
from pitstop._decisions._pause import pause, resume
from pitstop._engine._calls import entrance
from pitstop._engine._session import Session
from pitstop._errors import PitstopError, ScheduleError
from pitstop._values._id import valid_id
from pitstop._values._instant import from_instant, instant_of
from pitstop._values._kind import valid_kind
from pitstop._values._plain import shown
from pitstop._values._schedule import Moment, moment_of
from pitstop.abc import Capability
from pitstop.abc._backend import lacks_policies
from pitstop.abc._lacks import lacks_pauses


__all__ = ["Pausing"]


class Pausing(Changing):
    """A part of :class:`pitstop.Pitstop`."""

    @entrance
    def pause(self, id: str | None = None, until: Moment | None = None, *, kind: str | None = None) -> bool:
        """Keep a message, or all messages of a kind, and do not emit them until :meth:`resume`. Return True if it is paused now.

        If a listener has the message, the handler goes on, and its ack counts. A retry, and the next occurrence of a series, are
        not emitted. A message that is paused already gets the new ``until``. Return False if there is no such message, or if it is
        dead.

        A pause of a kind also holds for messages that are stored later. Listeners of other processes notice it after two and a half
        ``loop_time`` at most, or at once if the backend tells them. Messages that a listener has claimed already are handled.

        :param id: the message. Give an id or a kind.
        :param until: when the pause ends by itself: an aware datetime, or a distance from now. None: only by :meth:`resume`.
        :param kind: the kind; the empty text is that of messages without a kind.
        :raises MessageError: if ``id`` cannot be an id, or the stored document is damaged; or if ``kind`` cannot be a kind.
        :raises PitstopError: if neither an id nor a kind is given, or both.
        :raises ScheduleError: if ``until`` makes no sense, or has passed.
        :raises Conflict: if other programs change the message all the time.
        :raises Unsupported: if the store cannot change a message on a condition, or keeps no policies of messages; or if it has no
            paused kinds.
        """
        now_us = self._session.backend.now()
        if kind is not None or id is None:
            checked = _kind(id, kind, "pause")
            end = _end(until, now_us)
            _check_pauses(self._session)
            self._session.backend.pause_kind(checked, end)
            self._noted()
            return True
        id = valid_id(id)
        end = _end(until, now_us)
        _check_policies(self._session)
        return self._move(id, "paused", now_us, lambda present: pause(present, end, now_us // 1000))

    @entrance
    def resume(self, id: str | None = None, *, kind: str | None = None) -> bool:
        """End the pause of a message, or that of a kind. Return True if it was paused.

        Return False if there is no such message, or if it is not paused or dead. A message that died during its pause is paused
        again after its redrive.

        The message comes when it was due before the pause, and now if that time has passed. In a series, ``catch_up`` and
        ``grace`` decide about the occurrences that have passed, as after a downtime. ``expires`` counts as usual. The end of the
        pause of a kind leaves single messages paused.

        :param id: the message. Give an id or a kind.
        :param kind: the kind; the empty text is that of messages without a kind.
        :raises MessageError: if ``id`` cannot be an id, or the stored document is damaged; or if ``kind`` cannot be a kind.
        :raises PitstopError: if neither an id nor a kind is given, or both.
        :raises Conflict: if other programs change the message all the time.
        :raises Unsupported: if the store cannot change a message on a condition, or keeps no policies of messages; or if it has no
            paused kinds.
        """
        if kind is not None or id is None:
            checked = _kind(id, kind, "resume")
            _check_pauses(self._session)
            resumed = self._session.backend.resume_kind(checked)
            self._noted()
            return resumed
        id = valid_id(id)
        _check_policies(self._session)
        now_us = self._session.backend.now()
        return self._move(id, "resumed", now_us, lambda present: resume(present, now_us // 1000))

    @entrance
    def paused_kinds(self) -> dict[str, datetime | None]:
        """Return the paused kinds, in the order of their names, each with the end of its pause. None: a person has to end it.

        :raises Unsupported: if the store has no paused kinds.
        """
        _check_pauses(self._session)
        found = self._session.backend.paused_kinds()
        return {kind: None if end is None else from_instant(end) for kind, end in sorted(found.items())}

    def _noted(self) -> None:
        """Let the listeners of this process see the paused kinds as they are now."""
        session = self._session
        if session.pauses is not None:
            session.pauses.changed()
        session.written(None)


def _kind(id: object, kind: object, method: str) -> str:
    if id is not None or kind is None:
        given = "neither an id nor a kind" if id is None else "an id and a kind"
        raise PitstopError(
            f"{method}() got {given}. Give one of them: {method}('report-7') for a message, or {method}(kind='mail') for all "
            f"messages of a kind."
        )
    return valid_kind(kind)


def _check_pauses(session: Session) -> None:
    if Capability.PAUSES not in session.capabilities:
        raise lacks_pauses(session.backend, session.location)


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
