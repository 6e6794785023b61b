"""Notice that the reader of stdout has gone while we wait for messages: ``pitstop listen | head -1``."""

from __future__ import annotations

import io
import os
import select
import sys
import threading

from collections.abc import Callable, Iterator
from contextlib import contextmanager


__all__ = ["when_stdout_closes"]


@contextmanager
def when_stdout_closes(call: Callable[[], None]) -> Iterator[None]:
    """Call ``call`` in another thread when the reader of our stdout has gone.

    A write would fail as well, but only when the next message comes, and that message has then been claimed. Some systems
    cannot notice it earlier (Windows, or a stdout that is not a file). There the write fails.
    """
    try:
        stdout = sys.stdout.fileno()
    except (io.UnsupportedOperation, ValueError):
        stdout = -1
    if stdout < 0 or not hasattr(select, "poll"):
        yield
        return
    ended, end = os.pipe()
    thread = threading.Thread(target=_watch, args=(stdout, ended, call), name="pitstop-stdout", daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(end)
        thread.join()
        os.close(ended)


def _watch(stdout: int, ended: int, call: Callable[[], None]) -> None:
    poll = select.poll()
    # No events are requested: poll() reports errors and hang-ups in any case.
    poll.register(stdout, 0)
    poll.register(ended, 0)
    for descriptor, _ in poll.poll():
        if descriptor == stdout:
            call()
