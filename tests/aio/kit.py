"""Tools that the tests of event loops share."""

from __future__ import annotations

import asyncio
import threading
import time

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Self

import pitstop


NOW = timedelta(0)


class Tasks:
    """How the tasks of a loop begin: eagerly, within the call that creates them, or in the loop's next turn."""

    eager = False


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """Run it in a loop of its own, and no longer than a minute; nothing may be left that runs."""

    async def bounded() -> Any:
        if Tasks.eager:
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        async with asyncio.timeout(60):
            result = await main
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks are left: {left}"
        return result

    return asyncio.run(bounded())


class Outside:
    """A store looked at from outside, synchronously."""

    def __init__(self, pit: pitstop.Pitstop) -> None:
        self.pit = pit

    def store(self, count: int, **fields: Any) -> list[str]:
        return self.pit.store_many([({"id": f"m{number:05}", **fields}, NOW) for number in range(count)])

    def counts(self) -> tuple[int, int, int]:
        """Messages that are due, leased, dead."""
        stats = self.pit.stats()
        return stats.due, stats.leased, stats.dead

    def becomes(self, due: int, leased: int, dead: int = 0, within: float = 20) -> None:
        """Wait until the counts are these."""
        ends = time.monotonic() + within
        while self.counts() != (due, leased, dead):
            assert time.monotonic() < ends, f"(due, leased, dead) is {self.counts()}, not {(due, leased, dead)}"
            time.sleep(0.005)


def threads() -> list[str]:
    return sorted(
        each.name for each in threading.enumerate() if each.name.startswith(("pitstop-aio", "pitstop-feeder"))
    )


async def until(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - it is about what no event tells of
            await asyncio.sleep(0.002)


def contention() -> float:
    """Seconds that pure work takes for each that it should: about 1 where others leave this machine alone."""
    begun, worked = time.monotonic(), time.thread_time()
    while time.thread_time() - worked < 0.02:
        pass
    return (time.monotonic() - begun) / 0.02


class Stalls:
    """The longest time for which the loop did not get round to a task that wants to run each millisecond."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(0.001)
            now = loop.time()
            self.longest = max(self.longest, now - last)
            last = now
