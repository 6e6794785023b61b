"""Pool: the sessions of one handle. Each call borrows one, and the thread that needs a further one opens it.

The pool has no thread of its own, so it works in the child of a fork, and a call knows how long it may wait. The child opens
sessions of its own. It neither uses nor closes those of its parent, because the two processes share the sockets.
"""

from __future__ import annotations

import contextlib
import os

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Semaphore

import psycopg

from pitstop import BackendUnavailable
from pitstop.abc import SystemClock
from pitstop_postgres._config import PostgresConfig
from pitstop_postgres._session import Identity, Session, open_session


__all__ = ["Pool"]

#: Seconds after which a session that was not used is asked for an answer before it is used: a firewall may have dropped it.
_IDLE = 30.0
_clock = SystemClock()


class _Sessions:
    """The sessions of one process."""

    def __init__(self, most: int) -> None:
        self.owner = os.getpid()
        self.free = Semaphore(most)
        #: The last one that came back is the first one that is used.
        self.idle: deque[Session] = deque()
        #: Sessions that were lost in the middle of a write. The server may still be executing it.
        self.lost: deque[Identity] = deque()


class Pool:
    """Opens sessions, and keeps those that are idle."""

    def __init__(self, config: PostgresConfig) -> None:
        self._config = config
        self._closed = False
        self._sessions = _Sessions(config.pool_size)
        # The sessions of the parent. If they were dropped, Python would warn that they are open.
        self._inherited: list[_Sessions] = []

    @property
    def is_closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    @property
    def lost(self) -> deque[Identity]:
        """The sessions that have to be ended before a write is repeated."""
        return self._current().lost

    @contextmanager
    def session(self, deadline: float) -> Iterator[Session]:
        """Lend a session. One that is lost in the body is closed.

        :raises BackendUnavailable: if the pool was closed, or all sessions are in use until ``deadline``.
        :raises psycopg.Error: if no session can be opened.
        """
        sessions = self._current()
        if not sessions.free.acquire(timeout=max(deadline - _clock.monotonic(), 0.001)):
            raise BackendUnavailable(
                f"PostgreSQL at {self._config.location} was not asked: all {self._config.pool_size} connections of this handle are in "
                f"use. Nothing was changed. Raise pool_size."
            )
        session: Session | None = None
        try:
            session = self._take(sessions, deadline)
            session.deadline = deadline
            yield session
        finally:
            self._give_back(sessions, session)
            sessions.free.release()

    def open(self, deadline: float) -> Session:
        """Return a new session that does not come back.

        :raises psycopg.Error: if it cannot be opened.
        """
        return open_session(self._config, deadline)

    def discard_idle(self) -> None:
        """Close the sessions that are idle, because their prepared statements are outdated."""
        self._close_idle(self._current())

    def close(self) -> None:
        """Close the sessions that are idle. Those that are in use are closed when they come back."""
        self._closed = True
        self._close_idle(self._sessions)

    def _current(self) -> _Sessions:
        sessions = self._sessions
        if sessions.owner != os.getpid():
            self._inherited.append(sessions)
            sessions = self._sessions = _Sessions(self._config.pool_size)
        return sessions

    def _take(self, sessions: _Sessions, deadline: float) -> Session:
        if self._closed:
            raise BackendUnavailable(f"PostgreSQL at {self._config.location} cannot be used: this backend was closed.")
        while sessions.idle:
            try:
                session = sessions.idle.pop()
            except IndexError:
                break
            if _is_usable(session, deadline):
                return session
            session.close()
        return open_session(self._config, deadline)

    def _give_back(self, sessions: _Sessions, session: Session | None) -> None:
        if session is None:
            return
        if session.is_lost:
            if session.identity is not None:
                sessions.lost.append(session.identity)
            session.close()
            return
        session.used = _clock.monotonic()
        sessions.idle.append(session)
        if self._closed:
            self._close_idle(sessions)

    def _close_idle(self, sessions: _Sessions) -> None:
        if sessions.owner != os.getpid():
            return
        with contextlib.suppress(IndexError):
            while True:
                sessions.idle.pop().close()


def _is_usable(session: Session, deadline: float) -> bool:
    if session.is_lost or session.has_news:
        return False
    if _clock.monotonic() - session.used < _IDLE:
        return True
    session.deadline = deadline
    try:
        session.fetch("SELECT 1")
    except psycopg.Error:
        return False
    return True
