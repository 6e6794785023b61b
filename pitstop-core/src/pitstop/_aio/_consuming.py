"""``consume`` in an event loop: a task per message, so many at once."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal

from collections.abc import Awaitable, Callable
from contextvars import copy_context
from datetime import timedelta
from threading import TIMEOUT_MAX, Event
from typing import Any

from pitstop._aio._delivery import AsyncDelivery, current_task, is_interruption
from pitstop._aio._feeder import Feeder
from pitstop._aio._hands import Hands, tell
from pitstop._decisions._ending import ends_program
from pitstop._engine._delivery import Delivery
from pitstop._engine._handler import callable_handler, is_async, log_failure, takes_delivery
from pitstop._engine._listener import Listener
from pitstop._engine._signals import ENDING, Urgency, catching, disposition, is_hangup
from pitstop._errors import PitstopError
from pitstop._values._summary import Reason, Summary


__all__ = ["AsyncHandler", "Consuming", "checked_handler"]

#: What handles a message: called with the message, or with the delivery.
AsyncHandler = Callable[[Any], Awaitable[object]]

_log = logging.getLogger("pitstop.consumer")

#: Tasks begun in a row, after which others in the loop have their turn.
_IN_A_ROW = 50
#: Seconds that handlers which were cancelled have to come to their end.
_CANCEL_PATIENCE = 5.0


class Consuming:
    """One ``consume``.

    Invariant: each delivery that was taken is in ``_running`` until it is settled, or its handler was interrupted; and
    ``_fill`` runs, or is about to, whenever there may be both a message and a place for it.
    """

    def __init__(
        self,
        open_listener: Callable[[], Listener],
        hands: Hands,
        running: set[Consuming],
        handler: AsyncHandler,
        *,
        concurrency: int,
        max_messages: int | None,
        until_idle: bool,
        drain: timedelta,
        deliveries: bool | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._hands = hands
        self._handler = handler
        self._deliveries = takes_delivery(handler, deliveries, AsyncDelivery)
        self._concurrency = concurrency
        self._left = max_messages
        self._until_idle = until_idle
        self._drain = drain.total_seconds()
        self._feeder = Feeder(open_listener, self._loop, hands, self._fill, once=until_idle, pinned_acks=False)
        # Those of one Pitstop: what has to end before its store is closed.
        self._all = running
        self._running: dict[Delivery, asyncio.Task[None]] = {}
        #: Deliveries that were taken, and of which the handler was interrupted.
        self._taken = self._interrupted = 0
        self._filling = False
        self._error: BaseException | None = None
        self._ended: Reason | None = None
        self._end = self._loop.create_future()
        self._empty = self._loop.create_future()
        self._pid = os.getpid()
        self._closed = Event()
        # What closes the Pitstop at the end: one of the handlers wanted to, and is waited for.
        self._close_pitstop: Callable[[], Awaitable[None]] | None = None

    async def run(self) -> Summary:
        """Consume until there is a reason to end.

        :raises BackendUnavailable: when the store refuses at the first look; with ``until_idle`` when it is away.
        """
        self._all.add(self)
        try:
            return await self._run()
        finally:
            self._all.discard(self)
            self._closed.set()
            if self._close_pitstop is not None:
                await self._close_pitstop()

    def end(self) -> bool:
        """End, for the Pitstop is about to be closed; say whether to wait until handlers have come to their end. Any thread."""
        if os.getpid() != self._pid:
            # In the child of a fork this is the parent's.
            return False
        if tell(self._loop, self._finish, "stopped"):
            return True
        # The loop was closed in the midst of it: no handler goes on.
        self._give_back_running()
        return False

    def closes_later(self, closer: object, close: Callable[[], Awaitable[None]]) -> bool:
        """Whether ``closer``, a task, is one of the handlers, which cannot wait for itself. Then this ends, and closes the
        Pitstop after that.
        """
        if all(each is not closer for each in list(self._running.values())):
            return False
        self._close_pitstop = close
        return self.end()

    def wait(self) -> None:
        """Wait until it has ended, but no longer than it may take. Not in the loop's thread."""
        self._closed.wait(min(self._drain + _CANCEL_PATIENCE, TIMEOUT_MAX))

    async def _run(self) -> Summary:
        urgency = Urgency()

        def on_signal(number: int) -> None:
            if is_hangup(number):
                tell(self._loop, self._finish, "signal")
            elif urgency.ask():
                tell(self._loop, self._finish, "signal" if urgency.asked == 1 else "second signal")

        with catching(_free_signals(), on_signal):
            try:
                self._fill()
                await self._end
                self._feeder.stop()
                if self._running and self._ended != "second signal":
                    # A second signal ends this wait.
                    await asyncio.wait([self._empty], timeout=self._drain)
                unfinished = len(self._running)
                if unfinished:
                    ids = ", ".join(repr(each.id) for each in self._running)
                    _log.warning("%d handlers are not waited for any longer: of %s", unfinished, ids)
                    await self._interrupt()
                await self._feeder.close()
            except GeneratorExit:
                # The coroutine is closed, so that nothing can be awaited: its loop is gone.
                self._finish("stopped")
                self._feeder.end()
                self._give_back_running()
                raise
            except BaseException:
                await self._give_up()
                raise
        if self._error is not None:
            raise self._error
        return self._summary(unfinished)

    async def _give_up(self) -> None:
        """Whoever waited for this was cancelled: what runs is, too, and comes back at once."""
        self._finish("stopped")
        self._feeder.stop()
        try:
            await self._interrupt()
        finally:
            # Reason in its own thread, whether somebody waits or not.
            await self._feeder.close()

    def _summary(self, unfinished: int) -> Summary:
        feed = self._feeder.feed
        reason = self._ended or "stopped"
        if feed is None:
            return Summary(reason=reason)
        counts = feed.counts
        handled = self._taken - self._interrupted
        return Summary(
            acked=counts.acked,
            nacked=counts.nacked,
            lost=counts.lost,
            unsettled=max(0, handled - counts.acked - counts.nacked - counts.lost),
            unfinished=unfinished,
            given_back=feed.given_back,
            reason=reason,
        )

    # What is begun.

    def _fill(self) -> None:
        """Begin handlers, as many as there are messages and places for."""
        self._filling = False
        feeder = self._feeder
        if self._ended is not None:
            return
        if feeder.error is not None or feeder.over:
            self._error = feeder.error
            self._finish("stopped")
            return
        free = self._concurrency - len(self._running)
        if self._left is not None:
            free = min(free, self._left)
        begun = self._begin(free)
        if self._left is not None:
            self._left -= begun
            if self._left == 0:
                feeder.want(0)
                self._finish("max_messages")
                return
        if not self._filling:
            feeder.want(free - begun)
            self._look_whether_idle()

    def _begin(self, free: int) -> int:
        """Begin handlers, so many at most. Say how many."""
        take, handle, create, running = self._feeder.take, self._handle, self._loop.create_task, self._running
        # Of whoever began this, not of the handler or the thread by which it got here.
        context = self._context
        begun = 0
        while begun < free:
            delivery = take()
            if delivery is None:
                break
            running[delivery] = create(handle(delivery), context=context.copy())
            begun += 1
            if begun >= _IN_A_ROW:
                # The rest in the next turn: those that begin may want theirs first.
                self._fill_soon()
                break
        self._taken += begun
        return begun

    def _look_whether_idle(self) -> None:
        feeder = self._feeder
        # In this order: what came before nothing was found is still to be taken, perhaps.
        if feeder.nothing is None or self._running or feeder.ready:
            return
        if feeder.nothing == feeder.stamp:
            self._finish("idle")
        else:
            # Handlers came to their end since then, and may have stored something.
            feeder.nothing = None

    def _fill_soon(self) -> None:
        # A loop that was closed in the midst of it leaves tasks, whose coroutines are closed with them.
        if not self._filling and not self._loop.is_closed():
            self._filling = True
            self._loop.call_soon(self._fill)

    def _finish(self, ended: Reason) -> None:
        if self._ended is None or ended == "second signal":
            self._ended = ended
        if self._loop.is_closed():
            return
        if not self._end.done():
            self._end.set_result(None)
        if (not self._running or ended == "second signal") and not self._empty.done():
            self._empty.set_result(None)

    # What is handled.

    async def _handle(self, delivery: Delivery) -> None:
        if self._feeder.is_late(delivery):
            # Tasks that began before this one have blocked the loop.
            self._pass_on(delivery)
            return
        events = delivery._session.events
        entered = events.enter(delivery)
        task = current_task()
        try:
            result = self._handler(
                AsyncDelivery(delivery, self._feeder, self._hands) if self._deliveries else delivery.msg
            )
            await result
        except BaseException as error:
            events.leave(entered, error)
            if is_interruption(error, task):
                if delivery._settled is None:
                    self._interrupted += 1
                    delivery._give_back_later()
                raise
            self._failed(delivery, error)
        else:
            events.leave(entered, None)
            if delivery._settled is None:
                delivery._settled = "acknowledged"
                assert delivery._outbox is not None, "made by a listener that writes together"
                delivery._outbox.put(delivery, blocking=False)
        finally:
            self._over(delivery)

    def _pass_on(self, delivery: Delivery) -> None:
        self._feeder.give_back(delivery)
        self._taken -= 1
        if self._left is not None:
            self._left += 1
        self._over(delivery)

    def _over(self, delivery: Delivery) -> None:
        del self._running[delivery]
        self._feeder.stamp += 1
        if self._ended is None:
            self._fill_soon()
        elif not self._running and not self._empty.done() and not self._loop.is_closed():
            self._empty.set_result(None)

    def _failed(self, delivery: Delivery, error: BaseException) -> None:
        """Nack a message whose handler raised, whatever it was."""
        if ends_program(error):
            # Raised once more when all is settled.
            self._error = error if self._error is None else self._error
            self._finish("handler")
        elif error is not delivery._told:
            log_failure(delivery.id, delivery.attempt, error, delivery._session._backend)
        if delivery._settled is None:
            delivery._nack_later(error, blocking=False)

    # What is interrupted.

    async def _interrupt(self) -> None:
        """Cancel what runs, and see to it that its messages come back at once."""
        for task in self._running.values():
            task.cancel()
        if self._running:
            await asyncio.wait(list(self._running.values()), timeout=_CANCEL_PATIENCE)
        # Tasks that never began, and handlers that do not end: the message comes back while they still run.
        self._give_back_running()

    def _give_back_running(self) -> None:
        for delivery in tuple(self._running):
            if delivery._settled is None:
                self._interrupted += 1
                delivery._give_back_later()


def checked_handler(handler: AsyncHandler) -> AsyncHandler:
    """The handler, if it is async.

    :raises PitstopError: when it is not.
    """
    callable_handler(handler)
    if not is_async(handler):
        raise PitstopError(
            f"The handler {getattr(handler, '__qualname__', type(handler).__qualname__)} is not async, so it would block the "
            f"event loop. Write it with 'async def', or open the store with pitstop.init() and use its consume(), which "
            f"calls handlers in threads."
        )
    return handler


def _free_signals() -> list[str]:
    """Signals that nobody handles: a server, say, has its own way to end, and ends this with it."""
    free = []
    for name in ENDING:
        found = disposition(name)
        if found is not None and (found[1] in {signal.SIG_DFL, signal.default_int_handler} or _is_of_asyncio(found[1])):
            free.append(name)
    return free


def _is_of_asyncio(handler: object) -> bool:
    """Whether this is what asyncio.run() does at SIGINT: it cancels the program's main task."""
    return isinstance(handler, functools.partial) and getattr(handler.func, "__module__", "") == "asyncio.runners"
