"""The part of the facade for event loops through which an application gets its messages: listeners, and consumers.

Threads: an event loop's; a thread of :class:`Hands` or of a feeder calls ``_opened``.
"""

from __future__ import annotations

import asyncio

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from datetime import timedelta
from functools import partial
from os import PathLike
from typing import Any, cast
from weakref import WeakSet

from pitstop._aio._feeder import Feeder
from pitstop._aio._hands import Hands
from pitstop._aio._listener import AsyncListener
from pitstop._consume._attended import attended
from pitstop._consume._course import Course, checked_drain
from pitstop._consume._handler import AsyncHandler, async_handler
from pitstop._consume._lanes import AsyncHandlers, Opening, Plan, named, planned
from pitstop._consume._tasks import Consuming
from pitstop._engine._throttle import Throttle
from pitstop._errors import BackendUnavailable
from pitstop._health._place import parse_place
from pitstop._listening import ask_in_time, open_intake
from pitstop._pitstop import Pitstop
from pitstop._values._arguments import MOST_TASKS, ListenOptions
from pitstop._values._consumer import Consumer
from pitstop._values._summary import Summary


__all__ = ["AsyncListening", "closed_error"]


class AsyncListening(ABC):
    """The methods of :class:`pitstop.AsyncPitstop` that get messages."""

    def __init__(self) -> None:
        # Written once, by the loop's thread.
        self._closed = False
        self._hands = Hands()
        self._feeders: WeakSet[Feeder] = WeakSet()
        self._consuming: set[Consuming] = set()

    @abstractmethod
    def _opened(self) -> Pitstop:
        """Return the Pitstop behind this, and open it at its first use.

        :raises BackendUnavailable: when this was closed.
        """

    def listen(
        self,
        *,
        lock_time: timedelta | float | str | None = None,
        loop_time: timedelta | float | str | None = None,
        prefetch: int | None = None,
        heartbeat: bool = False,
        max_lease: timedelta | float | str | None = None,
        kinds: Collection[str] | None = None,
    ) -> AsyncListener:
        """Listen for messages as they become due: see :meth:`pitstop.Pitstop.listen`.

        This does not ask the store yet. A thread of the listener claims messages, as many at once as are consumed in some
        milliseconds.

        :raises ConfigError: when a value cannot be used.
        :raises BackendUnavailable: when this was closed.
        """
        if self._closed:
            raise closed_error()
        opening = self._listening(
            lock_time=lock_time,
            loop_time=loop_time,
            prefetch=prefetch,
            heartbeat=heartbeat,
            max_lease=max_lease,
            kinds=kinds,
        )
        return AsyncListener(opening, self._hands, self._feeders.add)

    async def consume(
        self,
        handler: AsyncHandlers,
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
        kinds: Collection[str] | None = None,
        deliveries: bool | None = None,
        rate: str | None = None,
        batch: int | None = None,
        health: str | PathLike[str] | None = None,
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
            A mapping gives each kind a handler or a :class:`pitstop.Handle`: see :meth:`pitstop.Pitstop.consume`.
        :param concurrency: how many messages are handled at a time. In a mapping: of each kind.
        :param lock_time: how long a message is leased, in place of the configured time.
        :param loop_time: the longest time between two polls, in place of the configured time.
        :param prefetch: how many messages are claimed at once: see :meth:`pitstop.Pitstop.listen`.
        :param heartbeat: extend the leases of messages that are being handled, however busy the loop is.
        :param max_lease: the longest time for which leases are extended.
        :param max_messages: end after this number of messages.
        :param until_idle: end when no message is due and no handler runs.
        :param drain: how long running handlers may still take at the end.
        :param kinds: handle only messages of these kinds: see :meth:`pitstop.Pitstop.listen`.
        :param deliveries: whether the handler is called with the delivery, whatever its parameter is called.
        :param rate: the most messages in a time, as in ``"50/s"``: see :meth:`pitstop.Pitstop.consume`.
        :param batch: call the handler with a list of deliveries, of this number at most: see :meth:`pitstop.Pitstop.consume`.
        :param health: the place where probes ask whether this consumer, and its event loop, are alive: see
            :meth:`pitstop.Pitstop.consume`.
        :return: the number of messages by outcome.
        :raises PitstopError: when the handler is not async.
        :raises ConfigError: when a value cannot be used.
        :raises BackendUnavailable: when the store refuses at the first look (``error.permanent``).
        """
        plans = planned(
            handler,
            field="concurrency",
            workers=concurrency,
            most=MOST_TASKS,
            deliveries=deliveries,
            kinds=kinds,
            rate=rate,
            options={
                "lock_time": lock_time,
                "loop_time": loop_time,
                "prefetch": prefetch,
                "heartbeat": heartbeat,
                "max_lease": max_lease,
                "batch": batch,
            },
        )
        for each in plans:
            with named(each.kind):
                async_handler(cast("AsyncHandler", each.handler))
        patience = checked_drain(drain, max_messages, until_idle)
        place, course = parse_place(health), Course(max_messages, patience.total_seconds())
        if self._closed:
            raise closed_error()
        consuming = Consuming(
            [Opening(each, partial(self._listen_for, each)) for each in plans],
            self._hands,
            self._consuming,
            course,
            until_idle=until_idle,
        )
        loop = asyncio.get_running_loop()
        with attended(place, course, lambda: consuming.intakes, lambda: ask_in_time(self._opened()), loop):
            return await consuming.run()

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        """The calls of :meth:`consume` that run now. Does not ask the store."""
        return tuple(sorted((each.consumer() for each in list(self._consuming)), key=lambda each: each.since))

    def _listening(self, **options: Any) -> Any:
        """Return a function that opens an intake, in a thread. Wrong options raise here."""
        return partial(self._listen, ListenOptions.of(**options))

    def _listen_for(self, plan: Plan) -> Any:
        with named(plan.kind):
            return self._listen(plan.options, plan.throttles)

    def _listen(self, options: ListenOptions, throttles: Sequence[Throttle] = ()) -> Any:
        return open_intake(self._opened(), options, claimed_apart=True, throttles=throttles)


def closed_error() -> BackendUnavailable:
    """Return the error of a call after the close."""
    return BackendUnavailable("This AsyncPitstop was closed. Make a new one with pitstop.init_async().")
