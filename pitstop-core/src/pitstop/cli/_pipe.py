"""A stdout that is a pipe, closed by its reader while we wait for messages: ``pitstop listen | head -1``."""

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
    """Call ``call`` in another thread when nobody can read our stdout any more.

    A write would tell as well, but only when the next message comes, and by then that message has been claimed. Where
    the system cannot tell (Windows, or a stdout that is no file), it is left to the write.
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
    # No events are asked for: errors and hang-ups are told in any case.
    poll.register(stdout, 0)
    poll.register(ended, 0)
    for descriptor, _ in poll.poll():
        if descriptor == stdout:
            call()
