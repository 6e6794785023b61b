"""Handling: the context in which a handler runs.

Threads: the one of the handler, or of its task.
"""

from __future__ import annotations

from collections.abc import Collection
from contextvars import ContextVar

from pitstop._engine._events import Entered, Events
from pitstop._engine._lease import Lease


__all__ = ["Handling", "supersede", "token_in_hand"]


class Handling:
    """One message in its handler: from the constructor, which enters the contexts of plugins, to :meth:`end`.

    While it lasts, a store or a removal of the message by the same context of ``contextvars`` is the handler's own: the
    thread of the handler, its task, and threads that ``asyncio.to_thread`` and the like begin for it.
    """

    __slots__ = ("_entered", "ended", "events", "lease", "outer")

    def __init__(self, events: Events, lease: Lease, delivery: object) -> None:
        #: The events of the session that the message is of.
        self.events = events
        self.lease = lease
        #: Whether the handler has ended. It stays the context's own until the next one begins, which is cheaper.
        self.ended = False
        outer = _innermost.get()
        #: The handler in whose body this one runs.
        self.outer = None if outer is None or outer.ended else outer
        events.running[self] = None
        self._entered: Entered | None = None
        if events.observes_handling:
            self._entered = events.enter(delivery)
        _innermost.set(self)

    def end(self, failure: BaseException | None) -> None:
        """Leave the contexts of plugins.

        :param failure: the error that the handler raised. None: it returned.
        """
        self.ended = True
        self.events.running.pop(self, None)
        if self.outer is not None:
            # Not by a token: the end may come in another context than the beginning, as in fixtures of async tests.
            _innermost.set(self.outer)
        if self._entered is not None:
            self.events.leave(self._entered, failure)


_innermost: ContextVar[Handling | None] = ContextVar("pitstop_handling", default=None)


def supersede(events: Events, ids: Collection[str]) -> None:
    """Note that the calling code stores or removes these messages of a session, for the handlers that it is part of."""
    handling = _innermost.get()
    while handling is not None:
        if handling.lease.id in ids and handling.events is events and not handling.ended:
            handling.lease.supersede()
        handling = handling.outer


def token_in_hand(events: Events, id: str) -> str | None:
    """Return the token of the lease under which the calling code handles a message of a session; None if it does not."""
    handling = _innermost.get()
    while handling is not None:
        if handling.lease.id == id and handling.events is events and not handling.ended:
            return handling.lease.record.progress.token
        handling = handling.outer
    return None
