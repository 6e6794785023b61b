"""An event loop in a thread of a run: it waits by the scheduler, and its time is the run's."""

from __future__ import annotations

import asyncio

from collections.abc import Coroutine
from typing import Any, TypeVar

from schedules.scheduler import START_US, Scheduler


__all__ = ["run_loop"]

_T = TypeVar("_T")


class ScheduledLoop(asyncio.BaseEventLoop):
    """A loop without sockets and pipes."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._rung = False
        # BaseEventLoop asks its selector for events: this object is its own selector.
        self._selector = self
        # Time stands still while the loop runs: a timer that is due now must count as due.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return (self._scheduler.now_us - START_US) / 1e6

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None or timeout > 0:
            self._scheduler.block(lambda: self._rung, timeout, "the loop's work")
        else:
            self._scheduler.point("a turn of the loop")
        self._rung = False
        return []

    def _process_events(self, event_list: list[Any]) -> None: ...

    def _write_to_self(self) -> None:
        self._rung = True
        if not self._scheduler.dying:
            self._scheduler.point("call_soon_threadsafe")


def run_loop(scheduler: Scheduler, main: Coroutine[Any, Any, _T], *, eager: bool = False) -> _T:
    """Run a coroutine in a new loop, as ``asyncio.run`` does."""
    loop = ScheduledLoop(scheduler)
    if eager:
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined] - since Python 3.12
    errors: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    asyncio.set_event_loop(loop)
    try:
        result = loop.run_until_complete(main)
        left = asyncio.all_tasks(loop)
        assert not left, f"tasks are left: {left}"
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    if errors:
        raise AssertionError(errors) from errors[0].get("exception")
    return result
