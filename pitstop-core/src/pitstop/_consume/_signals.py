"""Signals that end a program which handles messages, and the calls of ``consume`` that hear them.

Threads: the main thread installs handlers and runs them; any thread may begin to hear signals.
"""

from __future__ import annotations

import functools
import os
import signal
import threading

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from threading import RLock
from types import MethodType
from typing import Any
from weakref import WeakMethod

from pitstop.abc import SystemClock


__all__ = ["ENDING", "Urgency", "catching", "disposition", "hearing", "is_free", "is_hangup"]

#: Signals that end a program in good order. Some systems do not have all of them.
ENDING = ("SIGINT", "SIGTERM", "SIGHUP")

#: A second signal within this time, in seconds, counts as the first one. Some launchers forward Ctrl-C to a child that
#: already received it from the terminal.
_ECHO = 0.5


class Urgency:
    """How often the user has asked the program to end. Signal handlers write it."""

    def __init__(self) -> None:
        self.asked = 0
        self._clock = SystemClock()
        self._last = float("-inf")

    def ask(self) -> bool:
        """Note a signal. False if it is the echo of the signal before."""
        now = self._clock.monotonic()
        if now - self._last < _ECHO:
            return False
        self._last = now
        self.asked += 1
        return True


def is_hangup(number: int) -> bool:
    """True for SIGHUP. A terminal that closes may send it more than once, and no user waits there impatiently."""
    return number == getattr(signal, "SIGHUP", None)


def disposition(name: str) -> tuple[int, Any] | None:
    """Return the number of a signal and the Python handler that it has; None if the signal is to be left alone.

    Left alone are signals that this system has not got, signals that are ignored, and signals whose handler was installed by
    code in C. A shell ignores SIGINT for ``command &`` in a script, and nohup ignores SIGHUP: the user who started the program
    wants them to stay ignored. A handler of C code could not be put back.

    :param name: such as ``"SIGTERM"``.
    """
    number = getattr(signal, name, None)
    if number is None:
        return None
    handler = signal.getsignal(number)
    return None if handler is None or handler is signal.SIG_IGN else (number, handler)


@contextmanager
def catching(names: Iterable[str], handle: Callable[[int], None]) -> Iterator[None]:
    """Call ``handle`` with the number of each signal of these names; afterwards put back the handlers that were there.

    Only the main thread may install handlers. In any other thread this does nothing.

    :param names: such as ``"SIGTERM"``. Signals that :func:`disposition` leaves alone are left out.
    """
    before = {}
    if _is_main_thread():
        for name in names:
            if (found := disposition(name)) is not None:
                number, before[number] = found
                signal.signal(number, lambda number, _: handle(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Audience:
    """All calls of ``consume`` in this process: one signal ends them all.

    Invariant: ``_call_all`` is installed for a signal while a call in the main thread wants that signal. Only the main thread
    may install it. The calls of other threads hear the signals for which it is installed.
    """

    def __init__(self) -> None:
        # Held by threads that change ``_hearers``. Reentrant: a signal handler may call consume().
        self._lock = RLock()
        # Replaced, never changed: a signal handler may be reading it.
        # Methods are weak: a call whose loop was closed ends when it is collected.
        self._hearers: tuple[Callable[[], Callable[[int], None] | None], ...] = ()
        # Written by the main thread alone: how many calls want a signal, and the handler that it had before the first one.
        self._wanted: dict[int, int] = {}
        self._before: dict[int, Any] = {}

    @contextmanager
    def joined(self, hear: Callable[[int], None], takes: Callable[[object], bool]) -> Iterator[None]:
        """See :func:`hearing`."""
        # Taken along to the end: other calls may begin and end meanwhile, in any order.
        taken: list[int] = []
        hearer = WeakMethod(hear) if isinstance(hear, MethodType) else lambda: hear
        with self._lock:
            self._hearers = (*self._hearers, hearer)
        try:
            if _is_main_thread():
                for name in ENDING:
                    self._take(name, takes, taken)
            yield
        finally:
            for number in taken:
                self._leave(number)
            with self._lock:
                self._hearers = tuple(each for each in self._hearers if each is not hearer)

    def _take(self, name: str, takes: Callable[[object], bool], taken: list[int]) -> None:
        found = disposition(name)
        if found is None:
            return
        number, handler = found
        # Compared by ==: a bound method is made anew each time it is looked up.
        installed = handler == self._call_all
        if not installed and not takes(handler):
            return
        taken.append(number)
        self._wanted[number] = self._wanted.get(number, 0) + 1
        if not installed:
            self._before[number] = handler
            signal.signal(number, self._call_all)

    def _leave(self, number: int) -> None:
        left = self._wanted.get(number, 0) - 1
        if left > 0:
            self._wanted[number] = left
        # In the child of a fork there is nothing to leave. Another thread leaves when it collects a call whose loop was closed;
        # then the next signal restores the handler.
        elif self._wanted.pop(number, None) is not None and _is_main_thread():
            self._restore(number)

    def _restore(self, number: int) -> None:
        before = self._before.pop(number)
        # The program may have installed a handler of its own meanwhile. It stays.
        if signal.getsignal(number) == self._call_all:
            signal.signal(number, before)

    def _call_all(self, number: int, _: object) -> None:
        if number not in self._wanted:
            self._restore(number)
            signal.raise_signal(number)
            return
        for each in self._hearers:
            hear = each()
            if hear is not None:
                hear(number)

    def after_fork(self) -> None:
        """In the child of a fork: the calls are the parent's. Without this, the child would ignore the signals."""
        self._lock, self._hearers, self._wanted = RLock(), (), {}
        for number in tuple(self._before):
            # A fork by another thread than the main one, on a system that does not make it the main thread of the child.
            with suppress(ValueError):
                self._restore(number)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


_audience = _Audience()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_audience.after_fork)


def hearing(
    hear: Callable[[int], None], takes: Callable[[object], bool] = lambda _: True
) -> AbstractContextManager[None]:
    """Call ``hear`` with the number of each signal that ends the program, while the context lasts.

    The main thread installs a handler for these signals. It calls every call of ``consume`` in the process, also those of
    other threads, and it is removed when the last call of the main thread has ended. If none runs in the main thread, no
    signal is heard.

    :param takes: whether a handler that is installed may be replaced.
    """
    return _audience.joined(hear, takes)


def is_free(handler: object) -> bool:
    """Whether the program does not handle a signal itself. A server, say, has its own way to end, and ends this with it."""
    return handler is signal.SIG_DFL or handler is signal.default_int_handler or _is_of_asyncio(handler)


def _is_of_asyncio(handler: object) -> bool:
    """Whether this handler is the one that asyncio.run() installs for SIGINT: it cancels the program's main task."""
    return isinstance(handler, functools.partial) and getattr(handler.func, "__module__", "") == "asyncio.runners"
