"""Changing: the methods of the facade that change a stored message in place, under its id.

Threads: the one that calls.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from pitstop._decisions._move import end_lease, hasten, reschedule, revive
from pitstop._decisions._settle import redrive
from pitstop._decisions._store import new_revision
from pitstop._engine._calls import entrance
from pitstop._engine._handling import supersede
from pitstop._engine._session import Session
from pitstop._errors import Conflict, MessageError, OutcomeUnknown
from pitstop._storing import MOST_READS, Storing, check_conditional
from pitstop._values._id import valid_id
from pitstop._values._schedule import Moment, plan
from pitstop.abc import PAUSED, Backend, Damaged, Record


__all__ = ["Changing"]


class Changing:
    """A part of :class:`pitstop.Pitstop`."""

    _session: Session

    @entrance
    def redrive(self, id: str) -> bool:
        """Make a dead message due now, and count its attempts from zero. Return True if it was dead.

        Its ``expires`` counts from now for this occurrence.

        :raises MessageError: if ``id`` cannot be an id, or the stored document is damaged.
        :raises Unsupported: if the message has ``expires``, and the store cannot change a message on a condition.
        :raises OutcomeUnknown: if the reply was lost, and cannot be found out any more.
        """
        backend, id = self._session.backend, valid_id(id)
        stored = _sound(backend, id, "redriven")
        if stored is None or stored.progress.due is not None or stored.progress.token in {None, PAUSED}:
            return False
        now_us = backend.now()
        applied: bool | None
        alive = revive(stored, now_us // 1000)
        if alive is not None:
            # Without the new time, the next claim would find the message expired and delete it.
            check_conditional(self._session)
            alive = attrs.evolve(alive, revision=new_revision())
            applied = backend.put_if(alive, stored.revision, stored.progress)
        else:
            (applied,) = backend.settle([redrive(stored, now_us // 1000)])
        self._session.written(None, (stored.kind,))
        return _known(applied, id)

    @entrance
    def reschedule(self, id: str, when: Moment | None = None) -> bool:
        """Let a message come at ``when``, whatever its state is. Return True if it was there.

        A one-shot message is for that time then: its ``scheduled_for``, its key and its attempts are new, as if it had been
        stored for that time. Of a series, the current occurrence comes at that time. Its ``scheduled_for`` and its key stay,
        and the occurrences after it come as before. If some of these have passed by then, ``catch_up`` decides. In a series with
        a ``grace``, the moved occurrence is always emitted. Its attempts so far do not count against ``max_attempts``.
        ``expires`` counts from ``when``, if that is later than ``scheduled_for``.

        If a listener has the message, the lease ends, and the listener's delivery can change nothing any more. A dead message
        comes to life. A paused message stays paused, and comes at that time, or when its pause ends if that is later.

        :param when: as in :meth:`pitstop.Pitstop.store`. None: now.
        :raises MessageError: if ``id`` cannot be an id, or the stored document is damaged.
        :raises ScheduleError: if ``when`` makes no sense.
        :raises Conflict: if other programs change the message all the time.
        :raises Unsupported: if the store cannot change a message on a condition.
        """
        id = valid_id(id)
        now_us = self._session.backend.now()
        due, _ = plan(when, None, None, None, None, now_us)
        return self._move(id, "rescheduled", now_us, lambda present: reschedule(present, due, now_us // 1000))

    @entrance
    def emit_now(self, id: str) -> bool:
        """Let the current occurrence of a message come now. Return True if the message is due now.

        The occurrence also comes if it waits for a retry, is older than its ``grace``, or has expired: its ``expires`` counts
        from now. ``scheduled_for``, key, attempts and error stay, and the next occurrence of a series comes as before. Return
        False if there is no such message, if a listener has it, if it is paused, or if it is dead: see :meth:`redrive`.

        :raises MessageError: if ``id`` cannot be an id, or the stored document is damaged.
        :raises Conflict: if other programs change the message all the time.
        :raises Unsupported: if the store cannot change a message on a condition.
        """
        now_us = self._session.backend.now()
        return self._move(valid_id(id), "emitted", now_us, lambda present: hasten(present, now_us // 1000))

    @entrance
    def release(self, id: str) -> bool:
        """End the lease of a message whose consumer is dead, so that the message is due now. Return True if it was leased.

        If the consumer is alive all the same, its delivery can change nothing any more, and the message is emitted twice. The
        attempt counts as one whose lease ran out.

        :raises MessageError: if ``id`` cannot be an id, or the stored document is damaged.
        :raises OutcomeUnknown: if the reply was lost, and cannot be found out any more.
        """
        session = self._session
        backend, id = session.backend, valid_id(id)
        session.flush([id])
        stored = _sound(backend, id, "released")
        ended = None if stored is None else end_lease(stored, backend.now() // 1000)
        if stored is None or ended is None:
            return False
        (applied,) = backend.settle([ended])
        if applied is not False:
            supersede(session.events, [id])
            # A listener of this process may have claimed the message ahead.
            session.forget({id: None})
            session.written(None, (stored.kind,))
        return _known(applied, id)

    def _move(self, id: str, done: str, now_us: int, decide: Callable[[Record], Record | None]) -> bool:
        """Put the record that ``decide`` returns in the place of the stored one. Return False if there is no such record."""
        session = self._session
        check_conditional(session)
        session.flush([id])
        for _ in range(MOST_READS):
            present = _sound(session.backend, id, done)
            moved = None if present is None else decide(present)
            if present is None or moved is None:
                return False
            if moved == present:
                return True
            moved = attrs.evolve(moved, revision=new_revision())
            if session.backend.put_if(moved, present.revision, present.progress):
                # The delivery of a message that is paused while a listener has it can still be settled.
                keeps_lease = moved.progress == present.progress
                Storing(session, session.backend, now_us, at_once=True).replaced(moved, keeps_lease=keeps_lease)
                return True
        raise Conflict(
            f"The message {id!r} was not {done}, because other programs have changed it {MOST_READS} times meanwhile. Try again.",
            id=id,
        )


def _known(applied: bool | None, id: str) -> bool:
    """Return whether a settlement was applied.

    :raises OutcomeUnknown: if that cannot be known, because another program has changed the message meanwhile.
    """
    if applied is None:
        raise OutcomeUnknown(
            f"The message {id!r} may have been changed: the reply was lost, and another program has changed the message since. "
            f"Call get() to see its state.",
            ids=(id,),
        )
    return applied


def _sound(backend: Backend, id: str, done: str) -> Record | None:
    stored = backend.get(id)
    if isinstance(stored, Damaged):
        raise MessageError(f"{id!r} cannot be {done}. {stored.error}")
    return stored
