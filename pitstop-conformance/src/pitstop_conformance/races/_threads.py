"""Threads that begin at one moment, and end in bounded time."""

from __future__ import annotations

import threading
import time

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest


__all__ = ["together"]

#: In which order threads are started. Whoever comes to the barrier last goes on without a wait, and so goes first: were
#: it always the same one, a race would have one winner in all its rounds. The same orders in each run.
_ORDER = Random(0)


def together(*functions: Callable[[], Any], timeout: float = 60.0) -> Sequence[Any]:
    """Call functions in a thread each, all released at once; what they returned, in their order.

    Fails when one of them raises, or is not done after ``timeout`` seconds.
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
        pytest.fail(f"{sum(each.is_alive() for each in threads)} threads are not done after {timeout} s.")
    return results
