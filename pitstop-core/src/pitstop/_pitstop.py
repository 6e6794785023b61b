"""The facade: what an application holds in its hand."""

from __future__ import annotations

import os

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, get_args

from pitstop._decisions._describe import describe, summarize
from pitstop._decisions._settle import redrive
from pitstop._decisions._store import new_record
from pitstop._engine._consuming import Consuming, sync_handler
from pitstop._engine._handler import Handler, takes_delivery
from pitstop._engine._heartbeat import Heartbeat
from pitstop._engine._listener import Listener
from pitstop._engine._store import Store, unbroken
from pitstop._engine._watching import Watching
from pitstop._errors import ConfigError, MessageError, PitstopError, ScheduleError
from pitstop._plugins._hooks import Hooks
from pitstop._values._duration import parse_duration
from pitstop._values._entry import Entry, State, Stats
from pitstop._values._instant import floor_instant, from_instant
from pitstop._values._message import new_id, valid_id
from pitstop._values._recurrence import Recurrence
from pitstop._values._schedule import CatchUp
from pitstop._values._summary import Summary
from pitstop.abc import Backend, Damaged, Record, Writes


__all__ = ["OneShot", "Pitstop", "Recurring", "at_least_one"]

#: What ``store_many`` takes: the positional arguments of ``store``.
OneShot = tuple[Mapping[str, Any], datetime | timedelta]
Recurring = tuple[Mapping[str, Any], datetime | timedelta, datetime | timedelta | None, timedelta | Recurrence | None]


class Pitstop:
    """A store of messages that are to be emitted later. Made by :func:`pitstop.init`; thread-safe.

    Every method may raise :class:`pitstop.BackendUnavailable` when the store cannot be reached. As a context manager it
    is closed at the end.
    """

    def __init__(self, backend: Backend, hooks: Hooks) -> None:
        self._store = Store(backend, hooks)
        self._watching = Watching(self._store)

    @unbroken
    def store(
        self,
        message: Mapping[str, Any],
        when: datetime | timedelta,
        end: datetime | timedelta | None = None,
        every: timedelta | Recurrence | None = None,
        *,
        catch_up: CatchUp = "latest",
        grace: timedelta | None = None,
        session: Any = None,
    ) -> str:
        """Store a message, to be emitted at ``when``; with ``every``, again and again.

        A message with the ``"id"`` of a stored one takes its place, its schedule included, also while a listener has
        it: what that one does with its delivery changes nothing any more.

        :param message: a mapping with str keys. Values may be None, bool, int (64 bits), float, str, bytes, aware
            datetime, list, tuple, and mappings of these. What is stored is a copy.
        :param when: an aware datetime, or a ``timedelta`` from now. Rounded up to the millisecond.
        :param end: when a recurring message ends: an aware datetime, or a ``timedelta`` from now (not from ``when``).
            Exclusive, as in ``range()``. None: never.
        :param every: the time from one occurrence to the next. The k-th is at ``when + k * every``: no drift.
        :param catch_up: what is emitted for occurrences that nobody was there to receive: ``"latest"``, the last of
            them once; ``"all"``, each of them, oldest first; ``"skip"``, the last one if it is younger than ``grace``.
        :param grace: how late an occurrence may be and still be emitted; needed by, and only for, ``"skip"``.
        :param session: a session of the store's driver that is in a transaction: the message is stored if and when that
            commits. Let errors out of the transaction's block: those which say that it should be tried again are the
            driver's own, for the driver to see.
        :return: the message's id: its own, or a new UUID4.
        :raises MessageError: when the message or its id cannot be stored; the text names the path.
        :raises ScheduleError: when the times make no sense.
        :raises Unsupported: when a ``session`` is given, and the store has no transactions.
        :raises PitstopError: when the ``session`` cannot be used.
        """
        writes = self._writes(session)
        now_us = self._store.backend.now()
        record = new_record(
            message,
            when,
            end,
            every,
            catch_up=catch_up,
            grace=grace,
            now_us=now_us,
            revision=_revision(),
            make_id=self._new_id,
        )
        self._put(writes, [record], now_us, _known(message), at_once=session is None)
        return record.id

    @unbroken
    def store_many(self, items: Iterable[OneShot | Recurring], *, session: Any = None) -> list[str]:
        """Store many messages, in one round trip where the backend can.

        Each item is a tuple of the positional arguments of :meth:`store`: ``(message, when)`` or ``(message, start, end,
        every)``. All are checked before the first is stored. Of several with one id the last one counts.

        :param session: as in :meth:`store`. Then either all are stored or none is.
        :return: the ids, in the order of the items.
        :raises MessageError: when a message cannot be stored; the text names the item. Nothing was stored.
        :raises ScheduleError: when a schedule makes no sense; the text names the item. Nothing was stored.
        """
        writes = self._writes(session)
        now_us = self._store.backend.now()
        if not isinstance(items, Iterable):
            raise ScheduleError(f"items is a {type(items).__name__}. Give a list of (message, when) and the like.")
        known: set[str] = set()
        records = [self._record_of_item(index, item, now_us, known) for index, item in enumerate(items)]
        if records:
            distinct = list({record.id: record for record in records}.values())
            self._put(writes, distinct, now_us, known, at_once=session is None)
        return [record.id for record in records]

    @unbroken
    def remove(self, id: str, *, session: Any = None) -> bool:
        """Remove a message, also while a listener has it. True when it was there.

        :param session: as in :meth:`store`: it is removed if and when the session's transaction commits.
        :raises MessageError: when ``id`` cannot be an id.
        """
        writes, id = self._writes(session), valid_id(id)
        self._store.flush([id])
        removed = writes.delete(id)
        if session is None:
            self._store.forget([id])
        return removed

    @unbroken
    def get(self, id: str) -> Entry | None:
        """Look at a message; None when there is none with that id.

        :raises MessageError: when ``id`` cannot be an id.
        """
        backend, id = self._store.backend, valid_id(id)
        self._store.flush([id])
        stored = backend.get(id)
        return None if stored is None else describe(stored, backend.now() // 1000)

    @unbroken
    def entries(self, state: State | None = None, limit: int = 100, after: Entry | None = None) -> list[Entry]:
        """Look at stored messages, ordered by due time and then by id, dead ones last.

        :param state: only messages in this state.
        :param limit: at most so many.
        :param after: the last entry of the page before, to go on from there.
        :raises PitstopError: when ``state`` or ``limit`` is wrong.
        """
        if state is not None and state not in get_args(State):
            raise PitstopError(f"state={state!r} is unknown. Give one of: {', '.join(get_args(State))}.")
        if type(limit) is not int or limit < 1:
            raise PitstopError(f"limit={limit!r} cannot be used. Give a whole number of at least 1.")
        if after is not None and not isinstance(after, Entry):
            raise PitstopError(f"after={after!r} is no Entry. Give the last entry of the page before.")
        place = None if after is None else (None if after.due is None else floor_instant(after.due), after.id)
        backend = self._store.backend
        self._store.flush()
        stored = backend.scan(state, limit, place)
        now = backend.now() // 1000
        return [describe(each, now) for each in stored]

    @unbroken
    def stats(self) -> Stats:
        """Count the messages by state. Reads an index over all of them: not for a hot path."""
        backend = self._store.backend
        self._store.flush()
        return summarize(backend.tally())

    @unbroken
    def redrive(self, id: str) -> bool:
        """Make a dead message due now, with all its attempts before it. True when it was dead.

        :raises MessageError: when ``id`` cannot be an id, or the stored document is damaged.
        """
        backend = self._store.backend
        stored = backend.get(valid_id(id))
        if isinstance(stored, Damaged):
            raise MessageError(f"{id!r} cannot be redriven. {stored.error}")
        if stored is None or stored.progress.due is not None or stored.progress.token is None:
            return False
        (applied,) = backend.settle([redrive(stored, backend.now() // 1000)])
        self._store.written(None)
        return applied

    @unbroken
    def ping(self) -> None:
        """Ask the store for something small, to see whether it can be used; for health checks.

        :raises BackendUnavailable: when it cannot; the text says why.
        """
        self._store.backend.ping()

    @property
    def location(self) -> str:
        """Where the messages are, for people; without secrets."""
        return self._store.location

    @unbroken
    def now(self) -> datetime:
        """The time by the clock that decides what is due, in whole milliseconds."""
        return from_instant(self._store.backend.now() // 1000)

    @unbroken
    def listen(
        self,
        *,
        lock_time: timedelta | float | str | None = None,
        loop_time: timedelta | float | str | None = None,
        prefetch: int | None = None,
        heartbeat: bool = False,
        max_lease: timedelta | float | str | None = None,
    ) -> Listener:
        """Listen for messages as they become due.

        :param lock_time: how long a message is leased, in place of the configured time.
        :param loop_time: the longest time between two looks at the store, in place of the configured time.
        :param prefetch: how many messages are claimed at once. If not given, as many as the consumer handles in some
            milliseconds, one if it is slow, 500 at most. The ones that wait their turn are leased already, so nobody else
            gets them; one that another process updates or removes meanwhile may still be handed out as it was, and its ack
            is then too late.
        :param heartbeat: extend the lease of each delivery that is not settled yet, again and again, from another thread;
            ``delivery.lost`` tells when that failed. One that was dropped unsettled is let go of.
        :param max_lease: how long a delivery may be held so, from when it was handed out. If not given, without end.
        :raises ConfigError: when a value cannot be used.
        """
        if prefetch is not None:
            at_least_one(prefetch, "prefetch")
        store = self._store
        _ = store.backend  # raises when closed
        return Listener(
            store,
            self._watching,
            _positive(lock_time, "lock_time", store.lock_time),
            _positive(loop_time, "loop_time", store.loop_time),
            prefetch,
            self._heartbeat(heartbeat, max_lease),
        )

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
        """Handle messages as they become due, until a signal; acknowledge each for which the handler returns.

        One for which it raises is nacked: it comes back as ``retry`` says, and the error is logged, without its text, which
        is kept as ``last_error``. A delivery that the handler settled itself stays as it is. A store that is away does not
        end this: it is tried again and again.

        SIGTERM, SIGINT and SIGHUP end it, when this is called in the main thread: what no handler has seen is given back at once,
        running handlers finish, their acks are written, and the summary is returned. At a second signal nothing is waited
        for, and what handlers hold is given back, too. :meth:`close` ends it as a signal does.

        :param handler: called with the message, as ``delivery.msg`` has it; with the :class:`pitstop.Delivery` if its first
            parameter is annotated as one or named ``delivery``. From several threads, if there are several workers.
        :param workers: how many messages are handled at a time, each in a thread.
        :param lock_time: as for :meth:`listen`; also ``loop_time`` and ``prefetch``.
        :param heartbeat: hold the leases of messages that are being handled, as for :meth:`listen`; also ``max_lease``.
        :param max_messages: end when so many were handled.
        :param until_idle: end when nothing is due, and no handler runs.
        :param drain: how long running handlers may take once it is to end: a ``timedelta``, seconds, or text.
        :param deliveries: whether the handler is called with the delivery, if its signature does not tell.
        :raises ConfigError: when a value cannot be used.
        :raises PitstopError: when the handler cannot be called, or is async.
        :raises BackendUnavailable: when the store refuses at the first look (``error.permanent``).
        """
        at_least_one(workers, "workers")
        if max_messages is not None:
            at_least_one(max_messages, "max_messages")
        sync_handler(handler)
        patience = parse_duration(drain, "drain")
        listener = self.listen(
            lock_time=lock_time, loop_time=loop_time, prefetch=prefetch, heartbeat=heartbeat, max_lease=max_lease
        )
        return Consuming(
            self._store,
            listener,
            handler,
            deliveries=takes_delivery(handler, deliveries),
            workers=workers,
            max_messages=max_messages,
            until_idle=until_idle,
            drain=patience,
        ).run()

    def close(self) -> None:
        """Stop the listeners, give back what they claimed ahead, and let go of the store. Again is harmless.

        A :meth:`consume` ends as at a signal, and is waited for. Called by one of its handlers this returns at once, and is done
        when they have come to their end, before ``consume`` returns.
        """
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Pitstop on {self._store.location}{' (closed)' if self._store.closed else ''}>"

    def _heartbeat(self, wanted: bool, max_lease: timedelta | float | str | None) -> Heartbeat | None:
        if wanted:
            return Heartbeat(self._store, None if max_lease is None else parse_duration(max_lease, "max_lease"))
        if max_lease is not None:
            raise ConfigError(f"max_lease={max_lease!r} is of no use without heartbeat=True. Give both, or neither.")
        return None

    def _new_id(self) -> str:
        return new_id()

    def _record_of_item(self, index: int, item: Any, now_us: int, known: set[str]) -> Record:
        if not isinstance(item, tuple | list) or not 2 <= len(item) <= 4:
            raise ScheduleError(
                f"items[{index}] is no (message, when) or (message, start, end, every). Give a tuple of two to four."
            )
        try:
            record = new_record(*item, now_us=now_us, revision=_revision(), make_id=self._new_id)
        except (MessageError, ScheduleError) as error:
            raise type(error)(f"items[{index}]: {error}") from None
        known |= _known(item[0])
        return record

    def _writes(self, session: object) -> Writes:
        backend = self._store.backend
        return backend if session is None else backend.within(session)

    def _put(self, writes: Writes, records: list[Record], now_us: int, known: set[str], *, at_once: bool) -> None:
        if known:
            # Done is done, before it is stored anew.
            self._store.flush(known)
        writes.put(records)
        if known and at_once:
            self._store.forget(known)
        hooks = self._store.hooks
        if hooks.stored:
            for record in records:
                hooks.notify(hooks.stored, entry=describe(record, now_us // 1000))
        if at_once:
            # In a transaction nothing is there to be noticed yet. Its commit is like a store by another process.
            self._store.written(min(record.progress.due or 0 for record in records))


def at_least_one(value: object, field: str) -> None:
    """Refuse what is no count.

    :raises ConfigError: the text names the field.
    """
    if type(value) is not int or value < 1:
        raise ConfigError(f"{field}={value!r} cannot be used. Give a whole number of at least 1.")


def _known(message: Mapping[str, Any]) -> set[str]:
    """The id of a message that has one: it may be there already."""
    id = message.get("id")
    return set() if id is None else {id}


def _revision() -> str:
    return os.urandom(16).hex()


def _positive(value: timedelta | float | str | None, field: str, default: timedelta) -> timedelta:
    if value is None:
        return default
    duration = parse_duration(value, field)
    if duration < timedelta(milliseconds=1):
        raise ConfigError(f"{field}={value!r} is too short. Give at least one millisecond.")
    return duration
