"""A listener in an event loop."""

from __future__ import annotations

import asyncio

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Self
from weakref import WeakMethod, finalize

from pitstop._aio._delivery import AsyncDelivery
from pitstop._aio._feeder import Feeder, Handed
from pitstop._aio._hands import Hands
from pitstop._engine._intake import Intake
from pitstop._values._arguments import seconds_of


__all__ = ["AsyncListener"]

#: Messages handed out in a row without a wait, after which others in the loop have their turn.
_IN_A_ROW = 16


class AsyncListener:
    """Hands out messages as they become due. Made by :meth:`pitstop.AsyncPitstop.listen`; several tasks may share it.

    Iterate over it with ``async for``, or call :meth:`get`. ``async with`` closes it at the end. It belongs to the loop in
    which it is first used.
    """

    def __init__(self, open_intake: Callable[[], Intake], hands: Hands, add: Callable[[Feeder], None]) -> None:
        self._open = open_intake
        self._hands = hands
        self._add = add
        self._feeder: Feeder | None = None
        # Of those who wait for a message, in their order.
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._in_a_row = 0
        self._stopped = False

    async def get(self, timeout: float | timedelta | str | None = 0) -> AsyncDelivery | None:  # noqa: ASYNC109 - as in Listener
        """The next message that is due.

        :param timeout: how long to wait for one, by the clock of the loop: seconds, a ``timedelta``, or text such as
            ``"5s"``. 0: take what is due now; its ack is written before that returns. None: wait until there is one.
        :return: None when there was none in that time, or the listener was stopped.
        :raises BackendUnavailable: as :meth:`pitstop.Listener.get`.
        :raises ConfigError: when ``timeout`` is negative, not finite, or no duration.
        """
        if timeout is None:
            return self._wrapped(await self._next())
        seconds = seconds_of(timeout)
        if seconds > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    return self._wrapped(await self._next())
            # It may have come in the moment in which the time was over.
            if (delivery := self._ready().take()) is not None:
                return self._wrapped(delivery)
        # A look of its own at the end of its time, also at what is wrong.
        if self.stopped:
            return None
        feeder = self._ready()
        return self._wrapped(feeder.taken(await self._hands.do(feeder.look, abandoned=feeder.put_back)))

    def stop(self) -> None:
        """End the iteration, give back what was claimed ahead, and write the acks that are pending. Safe in any thread.

        Does not wait for that: :meth:`aclose` does. Deliveries that were handed out stay valid: settle them as ever.
        """
        self._stopped = True
        if self._feeder is not None:
            self._feeder.stop()

    async def aclose(self) -> None:
        """Stop, and return when what was claimed ahead is given back and all acks are written. Again is harmless.

        To be cancelled ends the wait, and not the closing.
        """
        self._stopped = True
        if self._feeder is not None:
            await self._feeder.close()

    @property
    def stopped(self) -> bool:
        """Whether it was stopped, or closed."""
        return self._stopped or (self._feeder is not None and self._feeder.over)

    @property
    def healthy(self) -> bool:
        """Whether the last look at the store succeeded."""
        intake = None if self._feeder is None else self._feeder.intake
        return intake is None or intake.healthy

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AsyncDelivery:
        delivery = await self._next()
        if delivery is None:
            raise StopAsyncIteration
        return AsyncDelivery(delivery, self._ready(), self._hands)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        state = "stopped" if self.stopped else "healthy" if self.healthy else "failing"
        return f"<AsyncListener {state}>"

    def _ready(self) -> Feeder:
        if self._feeder is None:
            # It holds this weakly, so that one that was dropped without aclose() ends it.
            told = WeakMethod(self._tell)
            self._feeder = feeder = Feeder(self._open, asyncio.get_running_loop(), self._hands, lambda: _call(told))
            finalize(self, feeder.end).atexit = False
            self._add(feeder)
        return self._feeder

    def _wrapped(self, handed: Handed | None) -> AsyncDelivery | None:
        return None if handed is None else AsyncDelivery(handed, self._ready(), self._hands)

    async def _next(self) -> Handed | None:
        if self._stopped:
            return None
        feeder = self._ready()
        self._in_a_row += 1
        if self._in_a_row >= _IN_A_ROW:
            self._in_a_row = 0
            # Before there is a message in hand that a cancellation would lose.
            await asyncio.sleep(0)
        while True:
            if self.stopped:
                return None
            delivery = feeder.take()
            if delivery is not None:
                return delivery
            if feeder.error is not None:
                error, feeder.error = feeder.error, None
                raise error
            self._in_a_row = 0
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            self._ask()
            try:
                await future
            finally:
                self._waiting.remove(future)
                self._ask()
                if future.done() and not future.cancelled():
                    # If this one does not take it, for it was cancelled, the next one is to.
                    self._tell_next()

    def _ask(self) -> None:
        if self._feeder is not None:
            self._feeder.want(len(self._waiting))

    def _tell(self) -> None:
        """There is something to take, or the end: as many go on as there are messages for."""
        feeder = self._feeder
        assert feeder is not None, "it is what tells"
        count = len(self._waiting) if feeder.over or feeder.error is not None else feeder.ready
        for each in self._waiting:
            if count <= 0:
                break
            if not each.done():
                each.set_result(None)
            count -= 1

    def _tell_next(self) -> None:
        if self._waiting:
            self._tell()


def _call(method: WeakMethod[Callable[[], None]]) -> None:
    function = method()
    if function is not None:
        function()
