"""Hands: a pool of threads that run the blocking calls of an event loop.

Threads: any thread submits jobs; the threads of the pool run ``_run``.
"""

from __future__ import annotations

import asyncio
import os

from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from threading import Event, RLock, Thread
from typing import Any, TypeVar

from pitstop.abc import SystemClock


__all__ = ["Hands", "resolve", "tell"]

_T = TypeVar("_T")

#: The most threads of a pool. The locks of a backend let few calls through at a time; more threads would only wait there.
_MOST = 8


def tell(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: object) -> bool:
    """Call ``function`` in the loop's thread, soon. Return False if the loop is closed."""
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        return False
    return True


def resolve(future: asyncio.Future[_T], result: _T, error: BaseException | None) -> None:
    """End the wait for ``future``, unless it was cancelled. In the loop's thread.

    :param error: raised by the task that waits; None: the task gets ``result``.
    """
    if future.done():
        return
    if error is None:
        future.set_result(result)
        return
    if isinstance(error, StopIteration):
        # A future does not take it. An async function that raises it raises this instead, too.
        cause, error = error, RuntimeError("a call of Pitstop raised StopIteration")
        error.__cause__ = cause
    future.set_exception(error)


class Hands:
    """A few daemon threads, begun when they are needed. Unlike the threads of an executor they do not keep the interpreter alive.

    Invariant: ``_idle`` is the number of threads that wait for ``_jobs``, less the number of waiting jobs.
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
        """Forget the threads and their jobs: this is the child of a fork, and they are the parent's."""
        self._left = set()
        self._begin()

    def submit(self, job: Callable[[], None], *, at_once: bool = False) -> None:
        """Run ``job`` in the pool. The job must not raise. After :meth:`end` it runs in a thread of its own.

        :param at_once: whether the job runs in a thread of its own, too, if all threads of the pool are busy.
        :raises RuntimeError: when the system gives no thread, and the pool has none. The job is not run.
        """
        if self._pid != os.getpid():
            self.after_fork()
        with self._lock:
            if not self._ended:
                if self._idle < 1 and self._threads < _MOST:
                    self._add_thread()
                if self._idle >= 1 or not at_once:
                    self._jobs.put(job)
                    self._idle -= 1
                    return
        try:
            Thread(target=job, name="pitstop-aio", daemon=True).start()
        except RuntimeError:
            with self._lock:
                if self._ended or not self._threads:
                    raise
                # The job waits for one of the others.
                self._jobs.put(job)
                self._idle -= 1

    def _add_thread(self) -> None:
        try:
            Thread(target=self._run, name="pitstop-aio", daemon=True).start()
        except RuntimeError:
            if not self._threads:
                raise
            # The job waits for one of the others.
            return
        self._threads += 1
        self._idle += 1

    def leave(self, job: Callable[[], None]) -> None:
        """Run ``job`` in the pool. The caller need not wait for it, since :meth:`wait_for_left` does.

        :raises RuntimeError: see :meth:`submit`.
        """
        done = Event()
        self._left.add(done)

        def end() -> None:
            self._left.discard(done)
            done.set()

        def run() -> None:
            try:
                job()
            finally:
                end()

        try:
            self.submit(run)
        except BaseException:
            end()
            raise

    def wait_for_left(self, seconds: float) -> None:
        """Wait until the jobs of :meth:`leave` are done, but no longer than ``seconds`` in all."""
        clock = SystemClock()
        ends = clock.monotonic() + seconds
        for done in tuple(self._left):
            done.wait(max(0.0, ends - clock.monotonic()))

    async def do(self, function: Callable[..., _T], *args: Any, **options: Any) -> _T:
        """Call ``function`` in the pool, in a copy of the present context, and return its result.

        If the caller is cancelled, the wait ends. The call is done all the same.
        """
        return await self.begin(partial(function, *args, **options))

    def begin(
        self, function: Callable[..., _T], *args: Any, at_once: bool = False, left: bool = False
    ) -> asyncio.Future[_T]:
        """Do as :meth:`do`, and return what its caller awaits.

        :param at_once: see :meth:`submit`.
        :param left: whether :meth:`wait_for_left` waits for it, because its caller may be cancelled.
        :raises RuntimeError: when no thread can be started. The function is not called.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        context = copy_context()

        def job() -> None:
            result, error = None, None
            try:
                result = context.run(function, *args)
            except BaseException as raised:  # noqa: BLE001 - the waiting task raises it
                error = raised
            tell(loop, resolve, future, result, error)

        if left:
            self.leave(job)
        else:
            self.submit(job, at_once=at_once)
        return future

    def end(self) -> None:
        """Let the threads end when all jobs are done. Later jobs run in a thread each. Again is harmless."""
        with self._lock:
            if not self._ended:
                self._ended = True
                for _ in range(self._threads):
                    self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            # The job refers to its arguments and to its result.
            del job
            with self._lock:
                self._idle += 1
