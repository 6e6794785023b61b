"""The facade for event loops.

Threads: the loop's thread; methods that may block run in a pool of threads.
"""

from __future__ import annotations

import asyncio

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from threading import Lock
from types import TracebackType
from typing import Any, Self, TypeVar
from weakref import WeakSet, finalize

import attrs

from pitstop._aio._changing import AsyncChanging
from pitstop._aio._feeder import Feeder
from pitstop._aio._hands import Hands
from pitstop._aio._listener import AsyncListener
from pitstop._consume._course import checked_drain
from pitstop._consume._handler import AsyncHandler, async_handler
from pitstop._consume._tasks import Consuming
from pitstop._engine._lifecycle import renew_after_fork
from pitstop._errors import BackendUnavailable, PitstopError
from pitstop._init import prepare_backend
from pitstop._pitstop import OneShot, Pitstop, Recurring, open_intake
from pitstop._plugins._hooks import Hooks
from pitstop._recurrence._preview import Upcoming
from pitstop._values._arguments import ListenOptions, whole_number
from pitstop._values._consumer import Consumer
from pitstop._values._entry import Entry, State, Stats
from pitstop._values._schedule import CatchUp, Interval, Moment
from pitstop._values._stored import IfExists, Stored
from pitstop._values._summary import Summary
from pitstop.abc import Backend


__all__ = ["AsyncPitstop", "init_async", "pitstop_of"]

_T = TypeVar("_T")
#: Seconds for which a close waits until the messages of cancelled tasks are given back.
_PATIENCE = 15.0


def init_async(config: Mapping[str, Any] | str, *, plugins: Iterable[object] = ()) -> AsyncPitstop:
    """Open a store for an event loop, with the configuration of :func:`pitstop.init`.

    The configuration is checked here. The store itself is opened in another thread, by ``async with`` or at the first use.

    :raises UnknownBackend: when no installed backend has that name.
    :raises BackendLoadError: when it does not load.
    :raises ConfigError: when a key is unknown or a value is wrong; the text names it.
    :raises PluginConflict: when two plugins claim one name.
    """
    return AsyncPitstop(*prepare_backend(config, plugins))


class AsyncPitstop(AsyncChanging):
    """A store of messages that are to be emitted later, for event loops. Made by :func:`pitstop.init_async`.

    The methods are those of :class:`pitstop.Pitstop`, with the same arguments and errors. Methods that ask the store are
    awaited, and run in a thread, in a copy of the caller's context. If such a call is cancelled, the wait ends, and the call is
    done all the same.

    ``async with`` opens the store at the beginning and closes it at the end.
    """

    def __init__(self, make: Callable[[], Backend], hooks: Hooks) -> None:
        self._make = make
        self._hooks = hooks
        self._lock = Lock()
        self._pit: Pitstop | None = None
        self._closed = False
        self._hands = Hands()
        # Threads refer to what they serve, so a Pitstop that is dropped without aclose() ends them.
        finalize(self, self._hands.end).atexit = False
        self._feeders: WeakSet[Feeder] = WeakSet()
        self._consuming: set[Consuming] = set()
        renew_after_fork(self._after_fork)

    def _after_fork(self) -> None:
        # In the child: threads of the parent may hold the locks.
        self._lock = Lock()
        self._hands.after_fork()
        # The calls of consume are the parent's.
        self._consuming.clear()
        for each in self._feeders:
            each.after_fork()

    async def store(
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
        """Store a message, to be emitted at ``when``; with ``every``, again and again: see :meth:`pitstop.Pitstop.store`.

        :return: the message's id: its own, or a new UUID of version 7. Its ``outcome`` says what was done.
        :raises MessageError: when the message or its id cannot be stored; the text names the path.
        :raises ScheduleError: when the times make no sense.
        :raises Conflict: with ``if_exists="error"``, when the id exists; with ``if_revision``, when the message has changed.
        """
        return await self._do(
            Pitstop.store,
            message,
            when,
            end,
            every,
            if_exists=if_exists,
            if_revision=if_revision,
            keep_schedule=keep_schedule,
            jitter=jitter,
            catch_up=catch_up,
            grace=grace,
            session=session,
        )

    async def store_many(
        self,
        items: Iterable[OneShot | Recurring],
        *,
        if_exists: IfExists = "replace",
        keep_schedule: bool = False,
        session: Any = None,
    ) -> list[Stored]:
        """Store many messages, in one round trip where the backend can: see :meth:`pitstop.Pitstop.store_many`.

        :param items: read in another thread.
        :return: the ids, in the order of the items.
        :raises MessageError: when a message cannot be stored; the text names the item. Nothing was stored.
        :raises ScheduleError: when a schedule makes no sense; the text names the item. Nothing was stored.
        :raises Conflict: with ``if_exists="error"``, when one of the ids exists.
        """
        return await self._do(
            Pitstop.store_many, items, if_exists=if_exists, keep_schedule=keep_schedule, session=session
        )

    async def remove(self, id: str, *, session: Any = None) -> bool:
        """Remove a message, also while a listener has it. Return True if it was there.

        :raises MessageError: when ``id`` cannot be an id.
        """
        return await self._do(Pitstop.remove, id, session=session)

    async def get(self, id: str) -> Entry | None:
        """Return the entry of a message; None if there is no message with that id.

        :raises MessageError: when ``id`` cannot be an id.
        """
        return await self._do(Pitstop.get, id)

    async def entries(self, state: State | None = None, limit: int = 100, after: Entry | None = None) -> list[Entry]:
        """Return entries of stored messages, ordered by due time: see :meth:`pitstop.Pitstop.entries`.

        :raises PitstopError: when an argument cannot be used; the text names it.
        """
        return await self._do(Pitstop.entries, state, limit, after)

    async def stats(self) -> Stats:
        """Return the number of messages in each state. This reads an index over all messages; avoid it in a hot path."""
        return await self._do(Pitstop.stats)

    async def preview(
        self, every: Interval, start: Moment | None = None, end: Moment | None = None, n: int = 5
    ) -> list[Upcoming]:
        """Return the next ``n`` occurrences of a rule: see :meth:`pitstop.Pitstop.preview`."""
        return await self._do(Pitstop.preview, every, start, end, n)

    async def ping(self) -> None:
        """Ask the store for something small, to see whether it can be used. Health checks call this.

        :raises BackendUnavailable: when it cannot be used; the text gives the reason.
        """
        await self._do(Pitstop.ping)

    async def now(self) -> datetime:
        """Return the time by the clock that decides what is due, in whole milliseconds."""
        return await self._do(Pitstop.now)

    @property
    def location(self) -> str:
        """The place where the messages are, for people, without secrets.

        :raises PitstopError: before the first use, because the place is not known yet.
        """
        if self._pit is None:
            raise PitstopError(
                "This AsyncPitstop is not open yet. Ask for its location within 'async with', or after 'await pit.ping()'."
            )
        return self._pit.location

    def listen(
        self,
        *,
        lock_time: timedelta | float | str | None = None,
        loop_time: timedelta | float | str | None = None,
        prefetch: int | None = None,
        heartbeat: bool = False,
        max_lease: timedelta | float | str | None = None,
    ) -> AsyncListener:
        """Listen for messages as they become due: see :meth:`pitstop.Pitstop.listen`.

        This does not ask the store yet. A thread of the listener claims messages, as many at once as are consumed in some
        milliseconds.

        :raises ConfigError: when a value cannot be used.
        :raises BackendUnavailable: when this was closed.
        """
        if self._closed:
            raise _closed()
        opening = self._listening(
            lock_time=lock_time, loop_time=loop_time, prefetch=prefetch, heartbeat=heartbeat, max_lease=max_lease
        )
        return AsyncListener(opening, self._hands, self._feeders.add)

    async def consume(
        self,
        handler: AsyncHandler,
        *,
        concurrency: int = 100,
        lock_time: timedelta | float | str | None = None,
        loop_time: timedelta | float | str | None = None,
        prefetch: int | None = None,
        heartbeat: bool = False,
        max_lease: timedelta | float | str | None = None,
        max_messages: int | None = None,
        until_idle: bool = False,
        drain: timedelta | float | str = timedelta(seconds=30),
        deliveries: bool | None = None,
    ) -> Summary:
        """Handle messages as they become due, each by ``await handler(message)`` in a task of its own.

        A message is acknowledged when its handler returns, and nacked when the handler raises. The error is logged without its
        text, which may quote the message and is kept as ``last_error``. A delivery that the handler settled itself stays as it
        is. While the store is away, ``consume`` does not end: it polls again and again.

        In the main thread, SIGTERM, SIGINT and SIGHUP end it, and all other calls of ``consume`` in the process: no more handlers
        begin, and running handlers have ``drain`` to finish. A second signal cancels them. This holds for signals that the
        program does not handle itself. A task that awaits this and is cancelled cancels the handlers, too. The messages of
        cancelled handlers are due again at once, and no message becomes dead by it. Messages that were claimed ahead are given
        back in any case, and acks are written before this returns.

        :param handler: an async function. It is called with the message, or with the :class:`pitstop.AsyncDelivery` if its
            first parameter is annotated so or named ``delivery``.
        :param concurrency: how many messages are handled at a time.
        :param lock_time: how long a message is leased, in place of the configured time.
        :param loop_time: the longest time between two polls, in place of the configured time.
        :param prefetch: how many messages are claimed at once: see :meth:`pitstop.Pitstop.listen`.
        :param heartbeat: extend the leases of messages that are being handled, however busy the loop is.
        :param max_lease: the longest time for which leases are extended.
        :param max_messages: end after this number of messages.
        :param until_idle: end when no message is due and no handler runs.
        :param drain: how long running handlers may still take at the end.
        :param deliveries: whether the handler is called with the delivery, whatever its parameter is called.
        :return: the number of messages by outcome.
        :raises PitstopError: when the handler is not async.
        :raises ConfigError: when a value cannot be used.
        :raises BackendUnavailable: when the store refuses at the first look (``error.permanent``).
        """
        async_handler(handler)
        whole_number(concurrency, "concurrency")
        patience = checked_drain(drain, max_messages, until_idle)
        if self._closed:
            raise _closed()
        consuming = Consuming(
            self._listening(
                lock_time=lock_time, loop_time=loop_time, prefetch=prefetch, heartbeat=heartbeat, max_lease=max_lease
            ),
            self._hands,
            self._consuming,
            handler,
            concurrency=concurrency,
            max_messages=max_messages,
            until_idle=until_idle,
            drain=patience,
            deliveries=deliveries,
        )
        return await consuming.run()

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        """The calls of :meth:`consume` that run now. Does not ask the store."""
        return tuple(sorted((each.consumer() for each in list(self._consuming)), key=lambda each: each.since))

    async def aclose(self) -> None:
        """Stop the listeners, give back the messages that they claimed ahead, write all acks, and close the store.

        A running :meth:`consume` ends as at a signal, and ``aclose`` waits for it. If one of its handlers awaits ``aclose``, the
        call returns at once. The work is then done when the handlers have ended, before ``consume`` returns. (This holds for the
        handler's own task. A task that the handler begins, as ``asyncio.gather`` does, waits until ``drain`` is over.)

        A second call does nothing. If the caller is cancelled, the wait ends, and the closing goes on.
        """
        self._closed = True
        me = asyncio.current_task()
        # Each of them ends by this.
        later = [each.closes_later(me, self.aclose) for each in list(self._consuming)]
        if any(later):
            return
        feeders = list(self._feeders)
        for feeder in feeders:
            feeder.end()
        # The feeders of other loops are closed by the Pitstop itself.
        try:
            await self._hands.do(self._close, feeders)
        finally:
            # A job that has begun is done all the same.
            self._hands.end()

    async def __aenter__(self) -> Self:
        await self._hands.do(self._opened)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        if self._pit is None:
            return f"<AsyncPitstop ({'closed' if self._closed else 'not open yet'})>"
        return f"<AsyncPitstop on {self._pit.location}{' (closed)' if self._closed else ''}>"

    async def _do(self, method: Callable[..., _T], *args: Any, **options: Any) -> _T:
        return await self._hands.do(self._call, method, *args, **options)

    def _call(self, method: Callable[..., _T], *args: Any, **options: Any) -> _T:
        return method(self._opened(), *args, **options)

    def _opened(self) -> Pitstop:
        with self._lock:
            # Handlers that aclose() waits for may use the store until they end.
            if self._closed and not (self._pit is not None and self._consuming):
                raise _closed()
            if self._pit is None:
                self._pit = Pitstop(self._make(), self._hooks)
            return self._pit

    def _close(self, feeders: list[Feeder]) -> None:
        # All of them end before this waits for one of them. The store is open until then.
        for each in [each for each in list(self._consuming) if each.end()]:
            each.wait()
        for feeder in feeders:
            feeder.wait()
        with self._lock:
            pit = self._pit
        # The messages of tasks that were cancelled.
        self._hands.wait_for_left(_PATIENCE)
        if pit is not None:
            pit.close()

    def _listening(self, **options: Any) -> Any:
        """Return a function that opens an intake, in a thread. Wrong options raise here."""
        return partial(self._listen, **attrs.asdict(ListenOptions.of(**options)))

    def _listen(self, **options: Any) -> Any:
        return open_intake(self._opened(), ListenOptions(**options), claimed_apart=True)


def pitstop_of(pit: AsyncPitstop) -> Pitstop:
    """Return the Pitstop behind an AsyncPitstop, for code of this library. It is opened if need be.

    :raises BackendUnavailable: if the AsyncPitstop is closed.
    """
    return pit._opened()


def _closed() -> BackendUnavailable:
    return BackendUnavailable("This AsyncPitstop was closed. Make a new one with pitstop.init_async().")
