"""The threads that do for an event loop what would block it."""

from __future__ import annotations

import asyncio
import os

from collections.abc import Callable
from contextvars import copy_context
from queue import SimpleQueue
from threading import Event, RLock, Thread
from typing import Any, TypeVar

from pitstop.abc import SystemClock


__all__ = ["Hands", "tell"]

_T = TypeVar("_T")

#: Threads, at most. A backend's own locks let few calls through at a time; the rest would only wait in there.
_MOST = 8


def tell(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: object) -> bool:
    """Have ``function`` called in the loop's thread. False when the loop is closed."""
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        return False
    return True


class Hands:
    """A few daemon threads, begun when they are needed: unlike an executor's, they do not keep an interpreter from its end.

    Invariant: ``_idle`` is the number of threads that wait in ``_jobs``, less the jobs that are in there.
    """

    def __init__(self) -> None:
        self._ended = False
        self._left: set[Event] = set()
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # Reentrant: a signal handler may stop a listener in the middle of this.
        self._lock = RLock()
        self._threads = 0
        self._idle = 0

    def after_fork(self) -> None:
        """In the child of a fork: the threads are the parent's, and so is what they were given."""
        self._left = set()
        self._begin()

    def submit(self, job: Callable[[], None]) -> None:
        """Have a job done that raises nothing, by a thread of these; also when these are ended meanwhile."""
        if self._pid != os.getpid():
            self.after_fork()
        with self._lock:
            if not self._ended:
                self._jobs.put(job)
                self._idle -= 1
                if self._idle >= 0 or self._threads >= _MOST:
                    return
                self._threads += 1
                self._idle += 1
            ended = self._ended
        Thread(target=job if ended else self._run, name="pitstop-aio", daemon=True).start()

    def leave(self, job: Callable[[], None]) -> None:
        """Submit a job that its caller does not wait for. :meth:`wait_for_left` does."""
        done = Event()
        self._left.add(done)

        def run() -> None:
            try:
                job()
            finally:
                self._left.discard(done)
                done.set()

        self.submit(run)

    def wait_for_left(self, seconds: float) -> None:
        """Wait until the jobs that were left before are done, at most so long for all of them."""
        clock = SystemClock()
        ends = clock.monotonic() + seconds
        for done in tuple(self._left):
            done.wait(max(0.0, ends - clock.monotonic()))

    async def do(
        self, function: Callable[..., _T], *args: Any, abandoned: Callable[[_T], object] | None = None, **options: Any
    ) -> _T:
        """Call ``function`` in a thread of these, in a copy of the present context, and wait for what comes of it.

        To be cancelled ends the wait and not the call: that is done all the same.

        :param abandoned: called in the loop's thread with what it returned, if nobody waits for it any more.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        context = copy_context()

        def finish(result: Any, error: BaseException | None) -> None:
            if not future.done():
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)
            elif error is None and abandoned is not None:
                abandoned(result)

        def job() -> None:
            result, error = None, None
            try:
                result = context.run(function, *args, **options)
            except BaseException as raised:  # noqa: BLE001 - raised where it is waited for
                error = raised
            tell(loop, finish, result, error)

        self.submit(job)
        return await future

    def end(self) -> None:
        """Let the threads end once all jobs are done. Those that come later get a thread each."""
        with self._lock:
            if not self._ended:
                self._ended = True
                for _ in range(self._threads):
                    self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            # It refers to what was given, and to what came of it.
            del job
            with self._lock:
                self._idle += 1
