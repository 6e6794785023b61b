"""A listener in an event loop.

Threads: the loop's thread; any thread calls ``stop``.
"""

from __future__ import annotations

import asyncio

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Self
from weakref import finalize

from pitstop._aio._delivery import AsyncDelivery
from pitstop._aio._feeder import Feeder
from pitstop._aio._hands import Hands
from pitstop._engine._intake import Intake
from pitstop._engine._lease import Lease
from pitstop._errors import PitstopError
from pitstop._values._arguments import seconds_of


__all__ = ["AsyncListener"]

#: Messages handed out in a row without a wait, after which others in the loop have their turn.
_IN_A_ROW = 16


class AsyncListener:
    """Hands out messages as they become due. Made by :meth:`pitstop.AsyncPitstop.listen`; several tasks may share it.

    Iterate over it with ``async for``, or call :meth:`get`. ``async with`` closes it at the end. It belongs to the loop in
    which it is first used.

    A cancelled ``get`` or ``async for`` loses no message: each message is in the buffer of the listener until a task takes it,
    and a task that is cancelled has taken none. The next task gets the message; or it is given back within a tenth of a second,
    as if it had not been claimed (with ``prefetch``: at the end of the listener).
    """

    def __init__(self, open_intake: Callable[[], Intake], hands: Hands, add: Callable[[Feeder], None]) -> None:
        self._open = open_intake
        self._hands = hands
        self._add = add
        self._feeder: Feeder | None = None
        # Of the tasks that wait for a message, in their order.
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._in_a_row = 0
        self._stopped = False

    async def get(self, timeout: float | timedelta | str | None = 0) -> AsyncDelivery | None:  # noqa: ASYNC109 - as in Listener
        """Return the next message that is due.

        A call that is cancelled has taken no message: the buffer of the listener is as it would be without that call, or
        has the message that the call has claimed.

        :param timeout: how long to wait for a message, by the clock of the loop: seconds, a ``timedelta``, or text such as
            ``"5s"``. 0: take a message that is due now; its ack is written before that returns. None: wait until there is one.
        :return: None when there was none in that time, or the listener was stopped.
        :raises BackendUnavailable: as :meth:`pitstop.Listener.get`.
        :raises ConfigError: when ``timeout`` is negative, not finite, or no duration.
        :raises PitstopError: when the listener was first used in another event loop.
        """
        if timeout is None:
            return self._handed_out(await self._next())
        seconds = seconds_of(timeout)
        if seconds > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    return self._handed_out(await self._next())
        # At the end of the time it looks once more, also whether the store answers.
        return await self._get_now()

    def stop(self) -> None:
        """End the iteration, give back what was claimed ahead, and write the acks that are pending. Safe in any thread.

        Does not wait for that: :meth:`aclose` does. Deliveries that were handed out stay valid: settle them as ever.
        """
        self._stopped = True
        if self._feeder is not None:
            self._feeder.stop()

    async def aclose(self) -> None:
        """Stop, and return when messages that were claimed ahead are given back and all acks are written. Again is harmless.

        That holds for the settlements of tasks that were cancelled, too.
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
        delivery = self._handed_out(await self._next())
        if delivery is None:
            raise StopAsyncIteration
        return delivery

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
        """Return the feeder of the running loop.

        :raises PitstopError: when the listener belongs to another loop.
        """
        if self._feeder is None:
            self._feeder = feeder = Feeder(self._open, asyncio.get_running_loop(), self._hands, self._tell)
            # For a listener that is dropped without aclose(): the feeder refers to it weakly.
            finalize(self, feeder.end).atexit = False
            self._add(feeder)
        elif not self._feeder.is_here:
            # Its futures would be set in the thread of the other loop, so that this loop would not wake up.
            raise PitstopError(
                "This AsyncListener belongs to another event loop, in which it was used first. Make one in each loop, with "
                "pit.listen()."
            )
        return self._feeder

    def _handed_out(self, lease: Lease | None, *, at_once: bool = False) -> AsyncDelivery | None:
        """Return the handle of a message that a task has just taken."""
        if lease is None:
            return None
        feeder = self._feeder
        assert feeder is not None, "the message was taken from it"
        intake = feeder.intake
        assert intake is not None, "the message was taken from it"
        at_once = at_once or intake.acks_at_once
        return AsyncDelivery(lease, intake.deliver(lease, at_once=at_once), feeder, self._hands, at_once=at_once)

    async def _get_now(self) -> AsyncDelivery | None:
        feeder = self._ready()
        found = True
        while not self.stopped:
            lease = feeder.take()
            if lease is not None or not found:
                return self._handed_out(lease, at_once=True)
            # Another task may take the message that this finds. Then it looks again.
            try:
                found = await feeder.look()
            finally:
                # If this was cancelled, another task may want the message.
                self._ask()
        return None

    async def _next(self) -> Lease | None:
        if self._stopped:
            return None
        feeder = self._ready()
        self._in_a_row += 1
        if self._in_a_row >= _IN_A_ROW:
            self._in_a_row = 0
            # Before it takes a message, which a cancellation would lose.
            await asyncio.sleep(0)
        while True:
            # None, too, once it was stopped.
            lease = feeder.take()
            if lease is not None:
                return lease
            if self.stopped:
                return None
            if feeder.error is not None:
                error, feeder.error = feeder.error, None
                raise error
            self._in_a_row = 0
            await self._news(feeder)

    async def _news(self, feeder: Feeder) -> None:
        """Wait until there may be a message to take, an error, or the end."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            self._ask()
            if feeder.ready:
                # It came since then.
                self._tell()
            await future
        except BaseException:
            if len(self._waiting) == 1:
                # No other task is there to raise it.
                feeder.error = None
            raise
        finally:
            self._waiting.remove(future)
            self._ask()
            if future.done() and not future.cancelled() and self._waiting:
                # If this task was cancelled, the next one takes the message.
                self._tell()

    def _ask(self) -> None:
        if self._feeder is not None:
            self._feeder.want(len(self._waiting))

    def _tell(self) -> None:
        """Wake as many tasks as there are messages for; all of them at the end, and if there is an error."""
        feeder = self._feeder
        assert feeder is not None, "it calls this"
        if not self._waiting:
            # The task that wanted a message was cancelled. The next one looks at the store anew.
            feeder.error = None
        all_of_them = feeder.over or feeder.error is not None
        count = len(self._waiting) if all_of_them else feeder.ready
        for each in self._waiting:
            if count <= 0:
                break
            if not each.done():
                each.set_result(None)
            count -= 1
        if not all_of_them:
            self._ask()
