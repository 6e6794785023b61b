"""The facade: the object through which an application uses Pitstop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, Self

from pitstop._decisions._change import Terms, Wanted, refuse_new_id
from pitstop._decisions._describe import describe
from pitstop._decisions._policy import plain_policy
from pitstop._decisions._store import NO_LABELS, Labels, preview, record_of_store, records_of_items, wanted_of_items
from pitstop._engine._calls import entrance
from pitstop._engine._handling import supersede
from pitstop._engine._session import Session
from pitstop._finding import Finding
from pitstop._listening import Listening
from pitstop._many import ChangingMany
from pitstop._pausing import Pausing
from pitstop._plugins._hooks import Hooks
from pitstop._recurrence._preview import Upcoming
from pitstop._storing import Storing
from pitstop._transferring import Transferring
from pitstop._values._entry import Entry
from pitstop._values._id import new_id, new_ids, valid_id
from pitstop._values._instant import from_instant
from pitstop._values._kind import valid_kind
from pitstop._values._plugin import Plugin
from pitstop._values._schedule import CatchUp, Interval, Moment
from pitstop._values._stored import IfExists, Stored
from pitstop.abc import Backend, Capability, Writes
from pitstop.abc._backend import lacks_kinds, lacks_policies


__all__ = ["OneShot", "Pitstop", "Recurring", "session_of"]

OneShot = tuple[Mapping[str, Any], Moment | None]
Recurring = tuple[Mapping[str, Any], Moment | None, Moment | None, Interval | None]


class Pitstop(Listening, Finding, Pausing, ChangingMany, Transferring):
    """A store of messages that are to be emitted later. :func:`pitstop.init` makes it. It is thread-safe.

    Every method may raise :class:`pitstop.BackendUnavailable` if the store cannot be reached. As a context manager, a
    Pitstop is closed at the end.
    """

    def __init__(self, backend: Backend, hooks: Hooks) -> None:
        super().__init__(Session(backend, hooks))
        self._session.events.opened(self)

    @entrance
    def store(
        self,
        message: Mapping[str, Any],
        when: Moment | None = None,
        end: Moment | None = None,
        every: Interval | None = None,
        *,
        kind: str = "",
        retry: Mapping[str, Any] | None = None,
        lock_time: timedelta | str | None = None,
        expires: timedelta | str | None = None,
        jitter: timedelta | str | None = None,
        if_exists: IfExists = "replace",
        if_revision: str | None = None,
        keep_schedule: bool = False,
        catch_up: CatchUp | None = "latest",
        grace: timedelta | str | None = None,
        session: Any = None,
    ) -> Stored:
        """Store a message, to be emitted at ``when``; with ``every``, again and again.

        If a stored message has the same ``"id"``, the new one replaces it and its schedule, even while a listener has it.
        The listener's old delivery can then change nothing any more. ``if_exists`` and ``keep_schedule`` say otherwise.

        :param message: a mapping with str keys. Values may be None, bool, int (64 bits), float, str, bytes, aware
            datetime, list, tuple, and mappings of these. Pitstop stores a copy.
        :param when: an aware datetime; or a distance from now: a ``timedelta``, or text such as ``"15m"``. None: now. A rule with
            times of its own, such as a :class:`pitstop.Cron`, begins there. Rounded up to the millisecond.
        :param end: when a recurring message ends: an aware datetime, or a distance from now (not from ``when``).
            Exclusive, as in ``range()``. None: never.
        :param every: an interval, also as text (``"1h"``): the k-th occurrence is at ``when + k * every``. Or a rule:
            ``Calendar``, ``Cron``, ``RRule``, ``Times``.
        :param kind: a short text, such as ``"mail"``, by which listeners choose: see :meth:`listen`. Ids stay unique in the store,
            whatever the kind.
        :param retry: when this message comes back after a nack, and how often it may fail: a mapping, as in the configuration. Keys
            that are left out are as configured.
        :param lock_time: how long this message is leased, whatever its listener says.
        :param expires: how late an occurrence may be and still be emitted, counted from its nominal time. A later one is not
            emitted, also not as a retry. A one-shot message is then deleted, and a series goes on.
        :param jitter: delay each occurrence by up to this time, by the same time for each consumer and retry.
        :param if_exists: the treatment of a stored message with the id. ``"replace"``: the new message takes its place. ``"keep"``:
            it stays as it is, unless its schedule, kind or policy is another one. Then it is replaced. A start that is left out,
            or is a distance from now, is not compared. ``"error"``: :class:`pitstop.Conflict` is raised.
        :param if_revision: the ``revision`` of the entry that was read. The message is stored if it has not changed since: it was not
            claimed, settled, stored, redriven or removed. Otherwise, and while another listener has it, :class:`pitstop.Conflict`
            is raised. A series that keeps its start goes on with the current occurrence. Kind and policies are those of this call.
        :param keep_schedule: replace only body, kind and policies of a message that exists. A kind or policy that is left out is
            removed. Its times, attempts and error stay. The running delivery of a series is not disturbed. A one-shot message that
            a listener has comes once more, with the new body.
        :param catch_up: the rule for occurrences that passed while no listener took them: ``"latest"`` emits the last of them
            once; ``"all"`` emits each of them, oldest first; ``"skip"`` emits the last one if it is younger than ``grace``. None: the default.
        :param grace: how late an occurrence may be and still be emitted. ``"skip"`` needs it, ``"all"`` may have it.
        :param session: a session of the store's driver that is in a transaction. The message is stored if and when the
            transaction commits. Do not catch errors inside its block: some of them ask the driver for another try.
        :return: the message's id: its own, or a new UUID of version 7, which begins with the time; with its ``outcome``.
        :raises MessageError: if the message, its id or its kind cannot be stored; the text names the path. Also if the message that
            exists is damaged, so that its schedule cannot be kept.
        :raises ScheduleError: if the times make no sense.
        :raises Conflict: with ``if_exists="error"``, if the id exists; with ``if_revision``, if the message has changed; or if other
            programs change it all the time.
        :raises Unsupported: if the store cannot do what ``session``, ``kind``, a policy, ``if_exists``, ``if_revision`` or
            ``keep_schedule`` asks for.
        :raises PitstopError: if the ``session`` cannot be used.
        """
        terms = Terms.of(if_exists, keep_schedule, if_revision)
        labels = self._labels(kind, retry, lock_time, expires, jitter)
        writes = self._writes(session)
        now_us = self._session.backend.now()
        # The message may be a mapping whose methods call Pitstop.
        with self._session.calls.callout():
            make_id = self._new_id if if_revision is None else refuse_new_id
            record, made = record_of_store(
                message, when, end, every, catch_up, grace, jitter, labels, now_us=now_us, make_id=make_id
            )
            wanted = Wanted.of(record, when, end) if terms.look and not made else None
        storing = Storing(self._session, writes, now_us, at_once=session is None)
        return storing.put(record, made=made) if wanted is None else storing.put_on_terms(wanted, terms)

    def store_many(
        self,
        items: Iterable[OneShot | Recurring],
        *,
        kind: str = "",
        retry: Mapping[str, Any] | None = None,
        lock_time: timedelta | str | None = None,
        expires: timedelta | str | None = None,
        if_exists: IfExists = "replace",
        keep_schedule: bool = False,
        session: Any = None,
    ) -> list[Stored]:
        """Store many messages, in one round trip where the backend can.

        Each item is a tuple of the positional arguments of :meth:`store`: ``(message, when)`` or ``(message, start, end,
        every)``. All items are checked before the first is stored. If several items have one id, the last one counts.

        :param kind: the kind of all these messages, as in :meth:`store`; also ``retry``, ``lock_time`` and ``expires``.
        :param if_exists: as in :meth:`store`, for each item; also ``keep_schedule``. With these, messages whose ids are given are
            stored one after the other, in two round trips each. If one of them fails, those before it were stored.
        :param session: as in :meth:`store`. Then either all messages are stored or none is.
        :return: the ids, in the order of the items.
        :raises MessageError: if a message cannot be stored; the text names the item. Nothing was stored.
        :raises ScheduleError: if a schedule makes no sense; the text names the item. Nothing was stored.
        :raises Conflict: with ``if_exists="error"``, if one of the ids exists. Nothing was stored, unless another program
            stored the id meanwhile.
        """
        terms = Terms.of(if_exists, keep_schedule)
        labels = self._labels(kind, retry, lock_time, expires)
        writes, now_us = self._open(session)
        # Outside of any call of Pitstop: the items may come from a generator, which may call Pitstop itself.
        if terms.look:
            wanted, made = wanted_of_items(items, now_us, self._new_ids, labels)
            put = partial(Storing.put_all_on_terms, wanted=wanted, terms=terms, made=made)
        else:
            records, made = records_of_items(items, now_us, self._new_ids, labels)
            put = partial(Storing.put_all, records=records, made=made)
        return self._store_all(None if session is None else writes, now_us, put)

    @entrance
    def remove(self, id: str, *, session: Any = None) -> bool:
        """Remove a message, also while a listener has it. Return True if it was there.

        :param session: as in :meth:`store`: the message is removed if and when the session's transaction commits.
        :raises MessageError: if ``id`` cannot be an id.
        """
        writes, id = self._writes(session), valid_id(id)
        self._flush(id, session)
        removed = writes.delete(id)
        supersede(self._session.events, [id])
        if session is None:
            self._session.forget({id: None})
        return removed

    @entrance
    def get(self, id: str, *, session: Any = None) -> Entry | None:
        """Return the entry of a message; None if there is no message with that id.

        :param session: as in :meth:`store`: read the message as the session's transaction sees it, with its own writes.
        :raises MessageError: if ``id`` cannot be an id.
        """
        backend, writes, id = self._session.backend, self._writes(session), valid_id(id)
        self._flush(id, session)
        stored = writes.get(id)
        return None if stored is None else describe(stored, backend.now() // 1000)

    @entrance
    def ping(self) -> None:
        """Ask the store for something small, to see whether it can be used. Health checks call this.

        :raises BackendUnavailable: if it cannot be used; the text gives the reason.
        """
        self._session.backend.ping()

    @property
    def location(self) -> str:
        """The place where the messages are, for people, without secrets."""
        return self._session.location

    @property
    def plugins(self) -> list[Plugin]:
        """The installed plugins by name, and then those that were given to ``init``; with the errors of each."""
        return self._session.events.hooks.plugins

    @entrance
    def now(self) -> datetime:
        """Return the time by the clock that decides what is due, in whole milliseconds."""
        return from_instant(self._session.backend.now() // 1000)

    @entrance
    def preview(
        self, every: Interval, start: Moment | None = None, end: Moment | None = None, n: int = 5
    ) -> list[Upcoming]:
        """Return the next ``n`` occurrences of a rule, as the clock of its zone shows them. Nothing is stored."""
        return preview(every, start, end, n, self._session.backend.now())

    def close(self) -> None:
        """Stop the listeners, give back the messages that they claimed ahead, and close the store. A second call does nothing.

        A running :meth:`consume` ends as at a signal, and ``close`` waits for it. If one of its handlers calls ``close``, the
        call returns at once. The work is then done when the handlers have ended, before ``consume`` returns.
        """
        self._session.close()
        self._session.events.raise_kept()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Pitstop on {self._session.location}{' (closed)' if self._session.closed else ''}>"

    def _labels(self, kind: object, retry: object, lock_time: object, expires: object, jitter: object = None) -> Labels:
        """Check the kind and the policies of a message."""
        if type(kind) is str and not kind and retry is lock_time is expires is None:
            # The usual labels cost a store nothing.
            return NO_LABELS
        checked, policy = valid_kind(kind), plain_policy(retry, lock_time, expires, jitter)
        if checked and Capability.KINDS not in self._session.capabilities:
            raise lacks_kinds(self._session.backend)
        if policy is not None and Capability.POLICIES not in self._session.capabilities:
            raise lacks_policies(self._session.backend)
        return Labels(checked, policy)

    def _new_id(self, now_us: int) -> str:
        return new_id(now_us)

    def _new_ids(self, now_us: int, count: int) -> list[str]:
        return new_ids(now_us, count)

    def _flush(self, id: str, session: object) -> None:
        if session is None:
            self._session.flush([id])
        else:
            # An ack that waits for the end of the transaction comes after it.
            self._session.flush_aside([id])

    def _writes(self, session: object) -> Writes:
        backend = self._session.backend
        return backend if session is None else backend.within(session)

    @entrance
    def _open(self, session: object) -> tuple[Writes, int]:
        """Return the object that writes, and the time in microseconds."""
        return self._writes(session), self._session.backend.now()

    @entrance
    def _store_all(self, writes: Writes | None, now_us: int, put: Callable[[Storing], list[Stored]]) -> list[Stored]:
        # Read again, because the generator of the messages may have closed this Pitstop.
        backend = self._session.backend
        return put(Storing(self._session, backend if writes is None else writes, now_us, at_once=writes is None))


def session_of(pit: Pitstop) -> Session:
    """Return the session behind a Pitstop, for code of this library."""
    return pit._session
