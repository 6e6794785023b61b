"""Threads that start at one moment, and end within a bounded time."""

from __future__ import annotations

import threading
import time

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest


__all__ = ["together"]

#: The orders in which threads are started, the same in each run. The last thread at a barrier goes on without a wait, and so
#: goes first. With one fixed order, a race would have the same winner in all its rounds.
_ORDER = Random(0)


def together(*functions: Callable[[], Any], timeout: float = 60.0) -> Sequence[Any]:
    """Call each function in its own thread, all released at one moment. Return the results in the order of the functions.

    Fail if a function raises, or has not returned after ``timeout`` seconds.
    """
    barrier = threading.Barrier(len(functions))
    results: list[Any] = [None] * len(functions)
    errors: list[BaseException] = []

    def run(index: int, function: Callable[[], Any]) -> None:
        try:
            barrier.wait(timeout)
            results[index] = function()
        except BaseException as error:  # noqa: BLE001 - raised again in the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate(functions)]
    deadline = time.monotonic() + timeout
    for each in _ORDER.sample(threads, len(threads)):
        each.start()
    for each in threads:
        each.join(max(deadline - time.monotonic(), 0))
    if errors:
        raise errors[0]
    if any(each.is_alive() for each in threads):
        pytest.fail(f"{sum(each.is_alive() for each in threads)} threads have not ended after {timeout} s.")
    return results
