"""The facade for event loops.

Threads: the loop's thread; methods that may block run in a pool of threads.
"""

from __future__ import annotations

import asyncio

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from threading import Lock
from types import TracebackType
from typing import Any, Self, TypeVar
from weakref import finalize

from pitstop._aio._feeder import Feeder
from pitstop._aio._finding import AsyncFinding
from pitstop._aio._listening import AsyncListening, closed_error
from pitstop._aio._many import AsyncChangingMany
from pitstop._aio._pausing import AsyncPausing
from pitstop._aio._transferring import AsyncTransferring
from pitstop._aio._within import do_within
from pitstop._engine._lifecycle import renew_after_fork
from pitstop._errors import PitstopError
from pitstop._init import prepare_backend
from pitstop._pitstop import OneShot, Pitstop, Recurring
from pitstop._plugins._hooks import Hooks
from pitstop._recurrence._preview import Upcoming
from pitstop._values._entry import Entry
from pitstop._values._plugin import Plugin
from pitstop._values._schedule import CatchUp, Interval, Moment
from pitstop._values._stored import IfExists, Stored
from pitstop.abc import Backend


__all__ = ["AsyncPitstop", "init_async", "pitstop_of"]

_T = TypeVar("_T")
#: Seconds for which a close waits until the messages of cancelled tasks are given back.
_PATIENCE = 15.0


def init_async(
    config: Mapping[str, Any] | str, *, plugins: Iterable[object] = (), strict_plugins: bool = False
) -> AsyncPitstop:
    """Open a store for an event loop, with the configuration of :func:`pitstop.init`.

    The configuration is checked here. The store itself is opened in another thread, by ``async with`` or at the first use.

    :raises UnknownBackend: when no installed backend has that name.
    :raises BackendLoadError: when it does not load.
    :raises ConfigError: when a key is unknown or a value is wrong; the text names it.
    :raises PluginConflict: when two plugins claim one name.
    :raises PluginLoadError: with ``strict_plugins``, when an installed plugin does not load or does not fit the hooks.
    """
    return AsyncPitstop(*prepare_backend(config, plugins, strict=strict_plugins))


class AsyncPitstop(AsyncListening, AsyncFinding, AsyncPausing, AsyncChangingMany, AsyncTransferring):
    """A store of messages that are to be emitted later, for event loops. Made by :func:`pitstop.init_async`.

    The methods are those of :class:`pitstop.Pitstop`, with the same arguments and errors. Methods that ask the store are
    awaited, and run in a thread, in a copy of the caller's context. If such a call is cancelled, the wait ends, and the call is
    done all the same. A call that changes many messages ends after the batch that is being written.

    ``async with`` opens the store at the beginning and closes it at the end.
    """

    def __init__(self, make: Callable[[], Backend], hooks: Hooks) -> None:
        self._make = make
        self._hooks = hooks
        super().__init__()
        self._lock = Lock()
        self._pit: Pitstop | None = None
        # Threads refer to what they serve, so a Pitstop that is dropped without aclose() ends them.
        finalize(self, self._hands.end).atexit = False
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
            kind=kind,
            retry=retry,
            lock_time=lock_time,
            expires=expires,
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
        kind: str = "",
        retry: Mapping[str, Any] | None = None,
        lock_time: timedelta | str | None = None,
        expires: timedelta | str | None = None,
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
            Pitstop.store_many,
            items,
            kind=kind,
            retry=retry,
            lock_time=lock_time,
            expires=expires,
            if_exists=if_exists,
            keep_schedule=keep_schedule,
            session=session,
        )

    async def remove(self, id: str, *, session: Any = None) -> bool:
        """Remove a message, also while a listener has it. Return True if it was there.

        :raises MessageError: when ``id`` cannot be an id.
        """
        return await self._do(Pitstop.remove, id, session=session)

    async def get(self, id: str, *, session: Any = None) -> Entry | None:
        """Return the entry of a message; None if there is no message with that id.

        :param session: read the message as the session's transaction sees it: see :meth:`pitstop.Pitstop.get`.
        :raises MessageError: when ``id`` cannot be an id.
        """
        return await self._do(Pitstop.get, id, session=session)

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

    @property
    def plugins(self) -> list[Plugin]:
        """The plugins, and what became of each: see :attr:`pitstop.Pitstop.plugins`."""
        return self._hooks.plugins

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
        if options.get("session") is not None:
            return await do_within(self._hands, self._call, method, *args, **options)
        return await self._hands.do(self._call, method, *args, **options)

    def _call(self, method: Callable[..., _T], *args: Any, **options: Any) -> _T:
        return method(self._opened(), *args, **options)

    def _opened(self) -> Pitstop:
        with self._lock:
            # Handlers that aclose() waits for may use the store until they end.
            if self._closed and not (self._pit is not None and self._consuming):
                raise closed_error()
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


def pitstop_of(pit: AsyncPitstop) -> Pitstop:
    """Return the Pitstop behind an AsyncPitstop, for code of this library. It is opened if need be.

    :raises BackendUnavailable: if the AsyncPitstop is closed.
    """
    return pit._opened()
