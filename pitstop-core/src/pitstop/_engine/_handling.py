"""Handling: the context in which a handler runs. Used by the thread or the task of the handler."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

from pitstop._engine._events import Events
from pitstop._engine._lease import Lease


__all__ = ["Handling", "supersede"]


class Handling:
    """One message in its handler: from the constructor, which enters the contexts of plugins, to :meth:`end`.

    While it lasts, a store or a removal of the message by the same context of ``contextvars`` is the handler's own: the
    thread of the handler, its task, and threads that ``asyncio.to_thread`` and the like begin for it.
    """

    __slots__ = ("_entered", "_events", "_outer", "lease")

    def __init__(self, events: Events, lease: Lease, delivery: object) -> None:
        self._events = events
        self.lease = lease
        #: The handler that has begun this one in its own body.
        self._outer = _innermost.get()
        self._entered: list[AbstractContextManager[Any]] = events.enter(delivery)
        _innermost.set(self)

    @property
    def outer(self) -> Handling | None:
        """The handler in whose body this one runs."""
        return self._outer

    def end(self, failure: BaseException | None) -> None:
        """Leave the contexts of plugins.

        :param failure: the error that the handler raised. None: it returned.
        """
        # Not by a token: the end may come in another context than the beginning, as in fixtures of async tests.
        _innermost.set(self._outer)
        self._events.leave(self._entered, failure)


_innermost: ContextVar[Handling | None] = ContextVar("pitstop_handling", default=None)


def supersede(ids: Collection[str]) -> None:
    """Note that the calling code stores or removes these messages, for the handlers that it is part of."""
    handling = _innermost.get()
    while handling is not None:
        if handling.lease.id in ids:
            handling.lease.supersede()
        handling = handling.outer
