"""Children of this very process. They report what they saw, and end without a trace."""

from __future__ import annotations

import json
import os
import signal
import traceback
import warnings

from collections.abc import Callable
from typing import Any

import pytest


class Forked:
    """The child of a fork."""

    def __init__(self, pid: int, heard: int) -> None:
        self._pid, self._heard = pid, heard

    def result(self) -> Any:
        """Wait for the child's end, and return its result."""
        told = b""
        while some := os.read(self._heard, 1 << 16):
            told += some
        os.close(self._heard)
        _, status = os.waitpid(self._pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, told.decode() or "the child hung"
        return json.loads(told)


@pytest.fixture
def fork() -> Callable[..., Forked]:
    """Forks a child that calls a function, and returns a value that JSON can hold."""

    def start(function: Callable[[], Any]) -> Forked:
        heard, tell = os.pipe()
        with warnings.catch_warnings():
            # Python warns of forks with threads from 3.12 on. Such forks happen nevertheless.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid != 0:
            os.close(tell)
            return Forked(pid, heard)
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
            os.write(tell, json.dumps(function()).encode())
            code = 0
        except BaseException:  # noqa: BLE001 - the test reports any exception of the child
            os.write(tell, traceback.format_exc().encode())
        finally:
            os._exit(code)

    return start
