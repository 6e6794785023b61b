"""A signal at the n-th line that a thread executes in Pitstop's own code. The place of the signal is chosen, not random."""

from __future__ import annotations

import signal
import sys

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pitstop
import pitstop_memory
import pitstop_mongo
import pitstop_sqlite


__all__ = ["Line", "signal_at_line"]

_FOLDERS = tuple(
    str(Path(each.__file__).parent)
    for each in (pitstop, pitstop_memory, pitstop_mongo, pitstop_sqlite)
    if each.__file__
)
_SIGNAL = signal.SIGUSR1


class Line:
    """The place at which the signal came."""

    def __init__(self) -> None:
        #: None: fewer lines were executed.
        self.place: str | None = None
        #: The error that the handler raised, if it was one of Pitstop's.
        self.error: pitstop.PitstopError | None = None


@contextmanager
def signal_at_line(number: int, handler: Callable[[], object]) -> Iterator[Line]:
    """Call ``handler`` in a real signal handler at the line with this number, counted in the lines that this thread executes."""
    line = Line()
    left = number

    def on_signal(*_: object) -> None:
        try:
            handler()
        except pitstop.PitstopError as error:
            line.error = error

    def on_line(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal left
        if event == "line" and line.place is None:
            if left == 0:
                line.place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                signal.raise_signal(_SIGNAL)
            left -= 1
        return on_line

    def on_call(frame: FrameType, event: str, arg: object) -> Any:
        return on_line if frame.f_code.co_filename.startswith(_FOLDERS) else None

    before, traced = signal.signal(_SIGNAL, on_signal), sys.gettrace()
    sys.settrace(on_call)
    try:
        yield line
    finally:
        sys.settrace(traced)
        signal.signal(_SIGNAL, before)
