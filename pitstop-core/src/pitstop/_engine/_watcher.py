"""Watcher: the thread that follows a backend's watch, for as long as a listener sleeps on it.

Threads: its own thread runs ``_follow``; any thread joins and leaves.
"""

from __future__ import annotations

import logging

from threading import RLock, Thread
from weakref import WeakSet

from pitstop._engine._backoff import Backoff
from pitstop._engine._bugs import traceback_of
from pitstop._engine._lifecycle import Component
from pitstop._engine._session import Session
from pitstop.abc import Doorbell, Watch, log_fields


__all__ = ["Watcher"]

_log = logging.getLogger("pitstop.listener")

#: Seconds for which a watch may fail without a log line: listeners report a store that is away, and the rest mends itself.
_QUIET = 60.0


class Watcher:
    """One thread per :class:`pitstop.Pitstop`, begun by the first listener that sleeps and ended with the last."""

    def __init__(self, session: Session) -> None:
        self._session = session
        # Reentrant: for signal handlers.
        self._lock = RLock()
        # The listeners that sleep. Any thread adds, under the lock, and discards.
        self._joined: WeakSet[Component] = WeakSet()
        # Ends the thread. None: there is none. Written under the lock.
        self._end: Doorbell | None = None

    def join(self, component: Component) -> None:
        """Wake ``component`` when another process changes the store. Again is harmless, and cheap.

        If the system gives no thread, the next call tries again: until then ``loop_time`` decides how late a message is.
        """
        if component in self._joined:
            return
        with self._lock:
            self._joined.add(component)
            if self._end is None:
                # Before its start: a signal handler that comes here meanwhile begins no other one.
                self._end = end = Doorbell()
                try:
                    Thread(target=self._follow, args=(end,), name="pitstop-watch", daemon=True).start()
                except RuntimeError as error:
                    self._end = None
                    self._joined.discard(component)
                    _log.debug("the store is not watched: %s", error, extra=log_fields("not_watched"))

    def leave(self, component: Component) -> None:
        """Wake ``component`` no more. Takes no lock: the thread looks under the lock whether it is needed still."""
        self._joined.discard(component)
        end = self._end
        if end is not None and not self._joined:
            end.ring()

    def after_fork(self) -> None:
        """Forget the thread and the listeners: they are the parent's, and so is the thread that may hold the lock."""
        self._lock, self._joined, self._end = RLock(), WeakSet(), None

    def _follow(self, end: Doorbell) -> None:
        clock, backoff = self._session.clock, Backoff(self._session.log.watch_outages, _QUIET)
        watch: Watch | None = None
        while True:
            try:
                pauses = self._session.pauses
                if watch is None:
                    watch = self._session.backend.watch()
                    if watch is None:
                        break
                    # Changes before the watch began went unseen.
                    if pauses is not None:
                        pauses.changed()
                    self._session.written(0)
                due = watch.poll()
                if pauses is not None and getattr(watch, "paused", False):
                    # Before the listeners wake up.
                    pauses.changed()
                if due is not None:
                    # A listener that would look before that anyway sleeps on.
                    self._session.written(due)
                pause = watch.pause
                backoff.succeeded(clock.monotonic())
            except Exception as error:  # noqa: BLE001 - whatever it was: a thread that died of it would watch no more
                _closed(watch)
                watch = None
                # After the close a watch may well fail; that is no news.
                pause = 0.0 if self._session.closed else backoff.failed(error, clock.monotonic())
            clock.wait(end, pause)
            with self._lock:
                if not self._joined or self._session.closed:
                    self._end = None
                    break
        _closed(watch)


def _closed(watch: Watch | None) -> None:
    try:
        if watch is not None:
            watch.close()
    except Exception as error:  # noqa: BLE001 - as above
        told = type(error).__name__, traceback_of(error)
        _log.debug("a watch could not be closed: %s%s", *told, extra=log_fields("watch_not_closed"))
