"""Calls in the middle of a backend's own code: before each of its lines, in the thread that executes them."""

from __future__ import annotations

import sys

from collections.abc import Callable
from types import FrameType
from typing import Any

from pitstop.abc import Backend


__all__ = ["at_each_line"]


def at_each_line(backend: Backend, operation: Callable[[], Any], act: Callable[[int], Any]) -> Any:
    """Call ``operation``, and call ``act`` at each line that is executed in a module of the backend's package.

    ``act`` gets the number of the line: 0, 1, 2, ... It runs in the same thread, as a signal handler does. Return the result
    of ``operation``.
    """
    packages = {each.__module__.partition(".")[0] for each in type(backend).__mro__} - {"pitstop", "abc", "builtins"}
    number = 0

    def on_line(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal number
        if event == "line":
            act(number)
            number += 1
        return on_line

    def on_call(frame: FrameType, event: str, arg: object) -> Any:
        module = frame.f_globals.get("__name__", "")
        return on_line if module.partition(".")[0] in packages else None

    traced = sys.gettrace()
    sys.settrace(on_call)
    try:
        return operation()
    finally:
        sys.settrace(traced)
