"""The limit in time of each test: a backend that hangs gets a verdict with the name of the test, and the run goes on.

A signal interrupts the test in its own thread. Without signals, and beside another limit such as that of pytest-timeout, there is
none. Code in C that ignores signals ends the run a while later, with the places of all threads.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import tempfile
import threading

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType, TracebackType
from typing import Any

import pytest


__all__ = ["limited", "readable"]

#: Seconds after the limit, for code that ignores signals.
_GRACE = 10.0
#: No ``fail.Exception``: hypothesis would call a test that fails again and again, to find a shorter sequence that hangs.
_Outcome: Any = pytest.fail.Exception.__base__


class _Hung(_Outcome):  # type: ignore[misc]
    """Raised in a test at its limit, from any line of it."""


@contextmanager
def limited(seconds: float, test: pytest.Item) -> Iterator[None]:
    """Interrupt the block after this time, and each further part of it that takes as long, such as the closing of handles."""
    if (
        not hasattr(signal, "setitimer")
        or threading.current_thread() is not threading.main_thread()
        or signal.getitimer(signal.ITIMER_REAL)[0]
    ):
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not _is_in_a_test(frame):
            # In code of pytest, which reports the interruption before. An error there would end the run.
            return
        end.begin()
        raise _Hung(
            f"{test.name} has not ended after {seconds:g} s. The backend hangs, or the machine is slow: a class may set time_limit, in "
            f"seconds.\n{_places()}"
        )

    end = _EndOfAll(seconds + _GRACE, test.config)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    end.begin()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        end.cancel()


def _is_in_a_test(frame: FrameType | None) -> bool:
    """Whether pytest waits for code of a test or a fixture here, and catches its errors."""
    inner = frame
    while frame is not None and frame.f_code.co_name != "from_call":
        frame = frame.f_back
    return frame is not None and frame is not inner


def readable(error: pytest.ExceptionInfo[BaseException]) -> pytest.ExceptionInfo[BaseException]:
    """Return an error that pytest can report.

    An error that a signal raises may come from an instruction that belongs to no line. At its traceback pytest itself fails, and
    the run ends.
    """
    value = error.value
    if isinstance(value, _Hung):
        # Not the traceback, which is that of the interruption.
        try:
            pytest.fail(str(value), pytrace=False)
        except pytest.fail.Exception as verdict:
            return pytest.ExceptionInfo.from_exception(verdict)
    seen: set[int] = set()
    mended = False
    each: BaseException | None = value
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        if _lacks_a_line(each.__traceback__):
            each.__traceback__ = _with_lines(each.__traceback__)
            mended = True
        each = each.__cause__ or each.__context__
    return pytest.ExceptionInfo.from_exception(value) if mended else error


def _lacks_a_line(trace: Any) -> bool:
    while trace is not None:
        if trace.tb_lineno is None:
            return True
        trace = trace.tb_next
    return False


def _with_lines(trace: TracebackType | None) -> TracebackType | None:
    # Lines are None in spite of their type.
    entries: list[Any] = []
    while trace is not None:
        entries.append(trace)
        trace = trace.tb_next
    for each in reversed(entries):
        line = each.tb_lineno if each.tb_lineno is not None else each.tb_frame.f_code.co_firstlineno
        trace = TracebackType(trace, each.tb_frame, each.tb_lasti, line)
    return trace


def _places() -> str:
    """Return the calls of all threads, the innermost first."""
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file=file.fileno())
        file.seek(0)
        return file.read().decode(errors="replace")


class _EndOfAll:
    """Ends the process after a time, and prints the places of its threads. A signal does not interrupt all code in C."""

    def __init__(self, seconds: float, config: pytest.Config) -> None:
        self._seconds = seconds
        self._stderr: int | None = None
        if not _is_taken(config):
            capture = config.pluginmanager.getplugin("capturemanager")
            with nullcontext() if capture is None else capture.global_and_fixture_disabled():
                self._stderr = os.dup(2)

    def begin(self) -> None:
        """Begin, or begin again."""
        if self._stderr is not None:
            faulthandler.dump_traceback_later(self._seconds, exit=True, file=self._stderr)

    def cancel(self) -> None:
        if self._stderr is not None:
            faulthandler.cancel_dump_traceback_later()
            os.close(self._stderr)


def _is_taken(config: pytest.Config) -> bool:
    """Whether pytest uses the timer of faulthandler itself."""
    try:
        return bool(float(config.getini("faulthandler_timeout") or 0))
    except (KeyError, ValueError):
        return False
