"""The facade: the object through which an application uses Pitstop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, Self, get_args

from pitstop._changing import Changing
from pitstop._consume._course import checked_drain
from pitstop._consume._handler import Handler, takes_delivery
from pitstop._consume._threads import Consuming, sync_handler
from pitstop._decisions._change import Terms, Wanted, refuse_new_id
from pitstop._decisions._describe import describe, summarize
from pitstop._decisions._store import preview, record_of_store, records_of_items, wanted_of_items
from pitstop._engine._calls import entrance
from pitstop._engine._handling import supersede
from pitstop._engine._intake import Intake
from pitstop._engine._listener import Listener
from pitstop._engine._session import Session
from pitstop._engine._watcher import Watcher
from pitstop._errors import PitstopError
from pitstop._plugins._hooks import Hooks
from pitstop._recurrence._preview import Upcoming
from pitstop._storing import Storing
from pitstop._values._arguments import (
    MOST_RECORDS,
    MOST_THREADS,
    ListenOptions,
    place_after,
    whole_number,
)
from pitstop._values._consumer import Consumer
from pitstop._values._entry import Entry, State, Stats
from pitstop._values._id import new_id, new_ids, valid_id
from pitstop._values._instant import from_instant
from pitstop._values._quoting import quoted
from pitstop._values._schedule import CatchUp, Interval, Moment
from pitstop._values._stored import IfExists, Stored
from pitstop._values._summary import Summary
from pitstop.abc import Backend, Writes


__all__ = ["OneShot", "Pitstop", "Recurring", "open_intake", "session_of"]

OneShot = tuple[Mapping[str, Any], Moment | None]
Recurring = tuple[Mapping[str, Any], Moment | None, Moment | None, Interval | None]


class Pitstop(Changing):
    """A store of messages that are to be emitted later. :func:`pitstop.init` makes it. It is thread-safe.

    Every method may raise :class:`pitstop.BackendUnavailable` if the store cannot be reached. As a context manager, a
    Pitstop is closed at the end.
    """

    def __init__(self, backend: Backend, hooks: Hooks) -> None:
        self._session = Session(backend, hooks)
        self._watcher = Watcher(self._session)

    @entrance
    def store(
        self,
        message: Mapping[str, Any],
        when: Moment | None = None,
        end: Moment | None = None,
        every: Interval | None = None,
        *,
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
        :param jitter: delay each occurrence by up to this time, by the same time for each consumer and retry.
        :param if_exists: the treatment of a stored message with the id. ``"replace"``: the new message takes its place. ``"keep"``:
            it stays as it is, unless its schedule is another one. Then it is replaced. A start that is left out, or is a distance
            from now, is not compared. ``"error"``: :class:`pitstop.Conflict` is raised.
        :param if_revision: the ``revision`` of the entry that was read. The message is stored if it has not changed since: it was not
            claimed, settled, stored, redriven or removed. Otherwise, and while another listener has it, :class:`pitstop.Conflict`
            is raised. A series that keeps its start goes on with the current occurrence.
        :param keep_schedule: replace only the body of a message that exists. Its times, attempts and error stay. The running
            delivery of a series is not disturbed. A one-shot message that a listener has comes once more, with the new body.
        :param catch_up: the rule for occurrences that passed while no listener took them: ``"latest"`` emits the last of them
            once; ``"all"`` emits each of them, oldest first; ``"skip"`` emits the last one if it is younger than ``grace``. None: the default.
        :param grace: how late an occurrence may be and still be emitted. ``"skip"`` needs it, ``"all"`` may have it.
        :param session: a session of the store's driver that is in a transaction. The message is stored if and when the
            transaction commits. Do not catch errors inside its block: some of them ask the driver for another try.
        :return: the message's id: its own, or a new UUID of version 7, which begins with the time; with its ``outcome``.
        :raises MessageError: if the message or its id cannot be stored; the text names the path. Also if the message that
            exists is damaged, so that its schedule cannot be kept.
        :raises ScheduleError: if the times make no sense.
        :raises Conflict: with ``if_exists="error"``, if the id exists; with ``if_revision``, if the message has changed; or if other
            programs change it all the time.
        :raises Unsupported: if the store cannot do what ``session``, ``if_exists``, ``if_revision`` or ``keep_schedule`` asks for.
        :raises PitstopError: if the ``session`` cannot be used.
        """
        terms = Terms.of(if_exists, keep_schedule, if_revision)
        writes = self._writes(session)
        now_us = self._session.backend.now()
        # The message may be a mapping whose methods call Pitstop.
        with self._session.calls.callout():
            make_id = self._new_id if if_revision is None else refuse_new_id
            record, made = record_of_store(
                message, when, end, every, catch_up, grace, jitter, now_us=now_us, make_id=make_id
            )
            wanted = Wanted.of(record, when, end) if terms.look and not made else None
        storing = Storing(self._session, writes, now_us, at_once=session is None)
        return storing.put(record, made=made) if wanted is None else storing.put_on_terms(wanted, terms)

    def store_many(
        self,
        items: Iterable[OneShot | Recurring],
        *,
        if_exists: IfExists = "replace",
        keep_schedule: bool = False,
        session: Any = None,
    ) -> list[Stored]:
        """Store many messages, in one round trip where the backend can.

        Each item is a tuple of the positional arguments of :meth:`store`: ``(message, when)`` or ``(message, start, end,
        every)``. All items are checked before the first is stored. If several items have one id, the last one counts.

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
        writes, now_us = self._open(session)
        # Outside of any call of Pitstop: the items may come from a generator, which may call Pitstop itself.
        if terms.look:
            wanted, made = wanted_of_items(items, now_us, self._new_ids)
            put = partial(Storing.put_all_on_terms, wanted=wanted, terms=terms, made=made)
        else:
            records, made = records_of_items(items, now_us, self._new_ids)
            put = partial(Storing.put_all, records=records, made=made)
        return self._store_all(None if session is None else writes, now_us, put)

    @entrance
    def remove(self, id: str, *, session: Any = None) -> bool:
        """Remove a message, also while a listener has it. Return True if it was there.

        :param session: as in :meth:`store`: the message is removed if and when the session's transaction commits.
        :raises MessageError: if ``id`` cannot be an id.
        """
        writes, id = self._writes(session), valid_id(id)
        self._session.flush([id])
        removed = writes.delete(id)
        supersede(self._session.events, [id])
        if session is None:
            self._session.forget({id: None})
        return removed

    @entrance
    def get(self, id: str) -> Entry | None:
        """Return the entry of a message; None if there is no message with that id.

        :raises MessageError: if ``id`` cannot be an id.
        """
        backend, id = self._session.backend, valid_id(id)
        self._session.flush([id])
        stored = backend.get(id)
        return None if stored is None else describe(stored, backend.now() // 1000)

    @entrance
    def entries(self, state: State | None = None, limit: int = 100, after: Entry | None = None) -> list[Entry]:
        """Return the entries of stored messages, ordered by due time and then by id, dead messages last.

        :param state: only messages in this state.
        :param limit: the most entries to return.
        :param after: the last entry of the page before, to go on from there.
        :raises PitstopError: if an argument cannot be used; the text names it.
        """
        wanted: object = state
        if wanted is not None and not (isinstance(wanted, str) and wanted in get_args(State)):
            raise PitstopError(f"state={quoted(state)} is unknown. Give one of: {', '.join(get_args(State))}.")
        most = min(whole_number(limit, "limit", error=PitstopError), MOST_RECORDS)
        place = place_after(after)
        backend = self._session.backend
        self._session.flush()
        stored = backend.scan(state, most, place)
        now = backend.now() // 1000
        return [describe(each, now) for each in stored]

    @entrance
    def stats(self) -> Stats:
        """Return the number of messages in each state. This reads an index over all messages; avoid it in a hot path."""
        backend = self._session.backend
        self._session.flush()
        return summarize(backend.tally())

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

    @entrance
    def listen(
        self,
        *,
        lock_time: timedelta | float | str | None = None,
        loop_time: timedelta | float | str | None = None,
        prefetch: int | None = None,
        heartbeat: bool = False,
        max_lease: timedelta | float | str | None = None,
    ) -> Listener:
        """Return a listener for messages as they become due.

        :param lock_time: how long a message is leased, in place of the configured time.
        :param loop_time: the longest time between two polls of the store, in place of the configured time.
        :param prefetch: how many messages are claimed at once. By default, as many as the consumer handles in some
            milliseconds: one if it is slow, 500 at most. Claimed messages that wait for their turn are leased. If another
            process updates or removes one of them meanwhile, its ack is too late.
        :param heartbeat: extend the lease of each unsettled delivery, again and again, from another thread.
            ``delivery.lost`` tells if that failed. A delivery that was dropped unsettled is no longer extended.
        :param max_lease: how long a delivery may be held by the heartbeat, from when it was handed out. By default, without end.
        :raises ConfigError: if a value cannot be used.
        """
        options = ListenOptions.of(
            lock_time=lock_time, loop_time=loop_time, prefetch=prefetch, heartbeat=heartbeat, max_lease=max_lease
        )
        return Listener(open_intake(self, options))

    def consume(
        self,
        handler: Handler,
        *,
        workers: int = 1,
        lock_time: timedelta | float | str | None = None,
        loop_time: timedelta | float | str | None = None,
        prefetch: int | None = None,
        heartbeat: bool = False,
        max_lease: timedelta | float | str | None = None,
        max_messages: int | None = None,
        until_idle: bool = False,
        drain: timedelta | float | str = 30,
        deliveries: bool | None = None,
    ) -> Summary:
        """Handle messages as they become due, until a signal. Acknowledge each message for which the handler returns.

        A message for which the handler raises is nacked. It comes back as ``retry`` decides. The error is logged without its
        text, which is kept as ``last_error``. A delivery that the handler settled itself stays as it is. While the store is
        away, ``consume`` does not end: it polls again and again.

        In the main thread, SIGTERM, SIGINT and SIGHUP end it, and all other calls of ``consume`` in the process. Messages that
        no handler saw are given back at once, running handlers finish, their acks are written, and the summary is returned.
        At a second signal ``consume`` waits for nothing, and gives back the messages of running handlers as well.
        :meth:`close` ends it like a signal.

        :param handler: called with the message, as in ``delivery.msg``; or with the :class:`pitstop.Delivery`, if its first
            parameter is annotated as one or named ``delivery``. With several workers it is called from several threads.
        :param workers: how many messages are handled at a time, each in a thread.
        :param lock_time: as for :meth:`listen`; also ``loop_time`` and ``prefetch``.
        :param heartbeat: hold the leases of messages that are being handled, as for :meth:`listen`; also ``max_lease``.
        :param max_messages: end after this number of messages.
        :param until_idle: end when no message is due and no handler runs.
        :param drain: how long running handlers may still take at the end: a ``timedelta``, seconds, or text.
        :param deliveries: whether the handler is called with the delivery, if its signature does not show it.
        :return: the number of messages by outcome, and why it ended.
        :raises ConfigError: if a value cannot be used.
        :raises PitstopError: if the handler cannot be called, or is async.
        :raises BackendUnavailable: if the store refuses the first poll (``error.permanent``).
        """
        whole_number(workers, "workers", most=MOST_THREADS)
        patience = checked_drain(drain, max_messages, until_idle)
        sync_handler(handler)
        with_delivery = takes_delivery(handler, deliveries)
        options = ListenOptions.of(
            lock_time=lock_time, loop_time=loop_time, prefetch=prefetch, heartbeat=heartbeat, max_lease=max_lease
        )
        return Consuming(
            self._session,
            open_intake(self, options),
            handler,
            deliveries=with_delivery,
            workers=workers,
            max_messages=max_messages,
            until_idle=until_idle,
            drain=patience,
        ).run()

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        """The calls of :meth:`consume` that run now."""
        return tuple(each.consumer() for each in self._session.components if isinstance(each, Consuming))

    def close(self) -> None:
        """Stop the listeners, give back the messages that they claimed ahead, and close the store. A second call does nothing.

        A running :meth:`consume` ends as at a signal, and ``close`` waits for it. If one of its handlers calls ``close``, the
        call returns at once. The work is then done when the handlers have ended, before ``consume`` returns.
        """
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Pitstop on {self._session.location}{' (closed)' if self._session.closed else ''}>"

    def _new_id(self, now_us: int) -> str:
        return new_id(now_us)

    def _new_ids(self, now_us: int, count: int) -> list[str]:
        return new_ids(now_us, count)

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


def open_intake(pit: Pitstop, options: ListenOptions, *, claimed_apart: bool = False) -> Intake:
    """Return what is behind a new listener, for code of this library that claims on behalf of others.

    :param claimed_apart: whether the threads that handle messages never claim.
    :raises BackendUnavailable: if the Pitstop is closed.
    :raises ConfigError: if ``max_lease`` is shorter than a lease.
    """
    session = pit._session
    _ = session.backend  # raises if the Pitstop is closed
    return Intake(session, pit._watcher, options, claimed_apart=claimed_apart)
