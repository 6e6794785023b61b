"""The thread that follows a backend's watch, for as long as a listener sleeps on it."""

from __future__ import annotations

import logging

from threading import RLock, Thread
from weakref import WeakSet

from pitstop._engine._backoff import Backoff
from pitstop._engine._lifecycle import Component
from pitstop._engine._session import Session
from pitstop.abc import Doorbell, Watch


__all__ = ["Watcher"]

_log = logging.getLogger("pitstop.listener")

#: Seconds for which a watch may fail without a word: of a store that is away the listeners tell, and the rest mends itself.
_QUIET = 60.0


class Watcher:
    """One thread per :class:`pitstop.Pitstop`, begun by the first listener that sleeps and ended with the last."""

    def __init__(self, store: Session) -> None:
        self._session = store
        # Reentrant: for signal handlers.
        self._lock = RLock()
        # Weak, so that the thread ends after the last listener also when that was dropped without close().
        self._joined: WeakSet[Component] = WeakSet()
        self._end: Doorbell | None = None

    def join(self, component: Component) -> None:
        """``component`` wants to be woken by changes that others make. Again is harmless, and cheap."""
        if component in self._joined:
            return
        with self._lock:
            self._joined.add(component)
            if self._end is None:
                self._end = Doorbell()
                thread = Thread(target=self._follow, args=(self._end,), name="pitstop-watch", daemon=True)
                thread.start()

    def leave(self, component: Component) -> None:
        """``component`` is done."""
        with self._lock:
            self._joined.discard(component)
            if not self._joined and self._end is not None:
                self._end.ring()

    def after_fork(self) -> None:
        """In the child of a fork: the thread is the parent's, and so is who holds the lock."""
        self._lock, self._joined, self._end = RLock(), WeakSet(), None

    def _follow(self, end: Doorbell) -> None:
        clock, backoff = self._session.clock, Backoff(self._session.log.watch_outages, _QUIET)
        watch: Watch | None = None
        while True:
            try:
                if watch is None:
                    watch = self._session.backend.watch()
                    if watch is None:
                        break
                    # What changed before the watch began went unseen.
                    self._session.written(0)
                due = watch.poll()
                if due is not None:
                    # Who would look before that anyway sleeps on.
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
    except Exception:  # noqa: BLE001 - as above
        _log.debug("a watch could not be closed", exc_info=True)
