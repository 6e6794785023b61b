"""Async functions of a driver, called by a backend: its methods run in a thread, and the driver's objects belong to a loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from pitstop._errors import PitstopError


__all__ = ["CALLER", "Caller", "run_in_loop"]

_T = TypeVar("_T")


class Caller(Protocol):
    """The event loop in which a method of an ``AsyncPitstop`` is awaited."""

    def run(self, function: Callable[..., Awaitable[_T]], *args: Any, **options: Any) -> _T:
        """Await the function there, and return its result."""
        ...


#: The caller of the method that this thread runs; None: the method was not called with a session in an event loop.
CALLER: ContextVar[Caller | None] = ContextVar("pitstop_caller", default=None)


def run_in_loop(function: Callable[..., Awaitable[_T]], *args: Any, **options: Any) -> _T:
    """Await an async function in the event loop of the caller, and return its result.

    A backend uses it for a session of an asynchronous driver, in the writes of :meth:`Backend.within`. Context variables of
    the calling thread hold in the function, too. If the caller is cancelled meanwhile, so is the function.

    :raises pitstop.PitstopError: if the method was not called by an ``AsyncPitstop``, with the session as its argument.
    """
    caller = CALLER.get()
    if caller is None:
        raise PitstopError(
            "The session belongs to an event loop, and this Pitstop does not. Open the store with pitstop.init_async(), and "
            "await its methods."
        )
    return caller.run(function, *args, **options)
