"""Calls with a session of the user: if the session belongs to the loop, the driver's calls are awaited there.

The session's transaction is the caller's. So a cancelled caller gets its session back only when no call uses it any more.

Threads: the loop's thread calls ``do_within``; a thread of the pool calls ``LoopCaller.run``.
"""

from __future__ import annotations

import asyncio

from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future, wait
from functools import partial
from typing import Any, TypeVar

from pitstop._aio._hands import Hands, tell
from pitstop._errors import BackendUnavailable
from pitstop.abc._loops import CALLER


__all__ = ["LoopCaller", "do_within"]

_T = TypeVar("_T")

#: Seconds between two looks at a loop that has to await a function.
_LOOK = 0.5
#: The number of looks, one after another, at which a loop does not run, until it counts as ended.
_MOST_LOOKS = 20


class LoopCaller:
    """The task that awaits one call of an ``AsyncPitstop`` with a session."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # Written by the loop's thread, as is the next one.
        self._cancelled = False
        self._task: asyncio.Task[Any] | None = None

    def run(self, function: Callable[..., Awaitable[_T]], *args: Any, **options: Any) -> _T:
        """Await the function in the loop. See :func:`pitstop.abc.run_in_loop`.

        :raises BackendUnavailable: if the loop was closed, or does not run any more.
        """
        done: Future[_T] = Future()

        async def awaited() -> _T:
            return await function(*args, **options)

        def begin() -> None:
            if self._cancelled:
                if done.set_running_or_notify_cancel():
                    done.set_exception(CancelledError())
            elif done.set_running_or_notify_cancel():
                self._task = self._loop.create_task(awaited())
                self._task.add_done_callback(end)

        def end(task: asyncio.Task[_T]) -> None:
            error = CancelledError() if task.cancelled() else task.exception()
            if error is None:
                done.set_result(task.result())
            else:
                done.set_exception(error)

        # The task takes the context of this thread along.
        if tell(self._loop, begin) and self._is_done(done):
            return done.result()
        # If the loop runs again, the function does not begin.
        done.cancel()
        raise BackendUnavailable(
            "The event loop of this call was stopped or closed, so the call has not ended. Await all calls before the loop ends."
        )

    def _is_done(self, done: Future[Any]) -> bool:
        """Wait for the end of the function. Return False if the loop has ended before."""
        still = 0
        while still < _MOST_LOOKS:
            if wait([done], _LOOK).done:
                return True
            if self._loop.is_closed():
                break
            # A loop that was stopped may run again.
            still = 0 if self._loop.is_running() else still + 1
        return done.done()

    def cancel(self) -> None:
        """Cancel the function that is awaited, and those that come. In the loop's thread."""
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()


async def do_within(hands: Hands, function: Callable[..., _T], *args: Any, **options: Any) -> _T:
    """Call ``function`` in the pool, and return its result. If the caller is cancelled, the end of the call is waited for."""
    caller = LoopCaller(asyncio.get_running_loop())
    token = CALLER.set(caller)
    try:
        # The calls that keep the threads of the pool busy may wait for the end of this very transaction.
        future = hands.begin(partial(function, *args, **options), at_once=True)
    finally:
        CALLER.reset(token)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        caller.cancel()
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue
        if not future.cancelled():
            # Read, so that asyncio does not warn that it was not.
            future.exception()
        raise
