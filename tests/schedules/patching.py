"""Patching: puts the scheduler's locks, threads and time into the modules of Pitstop, by the names that they import."""

from __future__ import annotations

import _thread
import atexit
import importlib
import pkgutil
import queue
import random
import sys
import threading
import time

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import pitstop

from pitstop._consume import _signals
from pitstop.abc import SystemClock
from schedules import primitives
from schedules.scheduler import START_US, active


__all__ = ["exit_program", "modules", "patched"]

#: Modules that stay as they are: probes and metrics take no part in a schedule. The locks of a Turn are held only inside of a backend's call, which is one step here.
_AS_THEY_ARE = (
    "pitstop.abc._turn",
    "pitstop.testing",
    "pitstop.cli",
    "pitstop._check",
    "pitstop._plugins",
    "pitstop._health",
    "pitstop.metrics",
)

_NAMES: dict[Any, Any] = {
    threading.Lock: primitives.Lock,
    threading.RLock: primitives.RLock,
    threading.Condition: primitives.Condition,
    threading.Event: primitives.Event,
    threading.Thread: primitives.Thread,
    queue.SimpleQueue: primitives.SimpleQueue,
    _thread.start_new_thread: primitives.start_new_thread,
}

#: Functions that were registered to be called at the end of the program, the last one first.
_at_exit: list[Callable[[], object]] = []
_before_threads_end: list[Callable[[], object]] = []


class _Instead:
    """A module, with some names replaced."""

    def __init__(self, module: ModuleType, names: dict[str, Any]) -> None:
        self.__dict__.update(names)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _now_us() -> int:
    scheduler = active()
    return START_US if scheduler is None else scheduler.now_us


def _monotonic() -> float:
    return (_now_us() - START_US) / 1e6


def _register(function: Callable[[], object]) -> Callable[[], object]:
    _at_exit.insert(0, function)
    return function


def _unregister(function: Callable[[], object]) -> None:
    while function in _at_exit:
        _at_exit.remove(function)


class _Evenly:
    """In place of ``random``: the same in each run."""

    @staticmethod
    def uniform(low: float, high: float) -> float:
        return (low + high) / 2

    def __getattr__(self, name: str) -> Any:
        return getattr(random, name)


_MODULES: dict[Any, Any] = {
    threading: _Instead(
        threading,
        {
            **{name: getattr(primitives, name) for name in ("Lock", "RLock", "Condition", "Event", "Thread")},
            "_register_atexit": lambda function: _before_threads_end.insert(0, function),
        },
    ),
    _thread: _Instead(_thread, {"start_new_thread": primitives.start_new_thread}),
    time: _Instead(time, {"time_ns": lambda: _now_us() * 1000}),
    random: _Evenly(),
    atexit: _Instead(atexit, {"register": _register, "unregister": _unregister}),
}


def _load_all() -> None:
    """Import all modules of Pitstop, so that none is imported while others are patched."""
    for each in pkgutil.walk_packages(pitstop.__path__, "pitstop."):
        if not each.name.startswith(_AS_THEY_ARE) and not each.name.endswith("__main__"):
            importlib.import_module(each.name)


@contextmanager
def patched() -> Iterator[None]:
    """Give the modules of Pitstop the scheduler's locks, threads and time."""
    _load_all()
    with ExitStack() as stack:
        for module in modules():
            for attribute, value in list(vars(module).items()):
                new = _replacement(value)
                if new is not None:
                    stack.enter_context(mock.patch.object(module, attribute, new))
        stack.enter_context(mock.patch.object(SystemClock, "monotonic", staticmethod(_monotonic)))
        # It was made when its module was imported, with a lock of Python's.
        stack.enter_context(mock.patch.object(_signals, "_audience", _signals._Audience()))
        yield


def modules() -> list[ModuleType]:
    """Return the modules of Pitstop that are patched."""
    return [
        module
        for name, module in list(sys.modules.items())
        if (name == "pitstop" or name.startswith("pitstop.")) and not name.startswith(_AS_THEY_ARE)
    ]


def _replacement(value: object) -> Any:
    if isinstance(value, ModuleType):
        return _MODULES.get(value)
    if isinstance(value, type) or callable(value):
        return next((new for old, new in _NAMES.items() if value is old), None)
    return None


def exit_program() -> None:
    """Do what Python does at the end of a program."""
    # Those that were registered before the names were patched, too.
    earlier = [getattr(each, "func", each) for each in reversed(getattr(threading, "_threading_atexits", []))]
    of_pitstop = [each for each in earlier if getattr(each, "__module__", "").startswith("pitstop.")]
    for function in dict.fromkeys([*_before_threads_end, *of_pitstop, *_at_exit]):
        function()
