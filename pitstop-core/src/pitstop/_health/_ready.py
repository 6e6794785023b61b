"""Readiness: whether the store answers, asked when a probe asks, and kept for a moment so that probes cannot load the store.

Threads: the attendant's thread asks; a thread for each question runs ``_ask``.
"""

from __future__ import annotations

import logging

from collections.abc import Callable
from threading import Thread

from pitstop._engine._bugs import traceback_of
from pitstop._errors import BackendUnavailable
from pitstop.abc import log_fields


__all__ = ["PATIENCE", "Readiness"]

_log = logging.getLogger("pitstop.consumer")

#: Seconds for which an answer of the store is kept.
_FRESH = 1.0
#: Seconds after which a probe is answered, whatever the store does. Probes of Kubernetes wait for one second by default.
PATIENCE = 0.8


class Readiness:
    """The store of one consumer."""

    def __init__(self, ping: Callable[[], object], answered: Callable[[], None]) -> None:
        """Return a readiness that has not been asked.

        :param ping: ask the store, in a bounded time. It raises if the store cannot be used.
        :param answered: called by the thread that asked, after the answer. It must not raise.
        """
        self._ping = ping
        self._answered = answered
        # Written by the thread that asks; read after ``_asking`` is False.
        self._ready = False
        # When the last question began. Written by the attendant's thread.
        self._asked: float | None = None
        # Written by the attendant's thread before a question, and by the thread that asks after the answer.
        self._asking = False
        # Whether a bug of the backend was logged. Written by the thread that asks.
        self._reported = False

    def look(self, now: float) -> bool | None:
        """Return whether the store can be used. None: it is being asked, and ``answered`` will be called.

        :param now: seconds of the monotonic clock.
        """
        if self._asking:
            assert self._asked is not None, "a question is under way"
            return None if now - self._asked < PATIENCE else False
        if self._asked is not None and now - self._asked < _FRESH:
            return self._ready
        self._asked, self._asking = now, True
        try:
            Thread(target=self._ask, name="pitstop-ready", daemon=True).start()
        except RuntimeError:
            # The system gives no thread now. The next probe tries again.
            self._asking, self._asked = False, None
            return False
        return None

    def _ask(self) -> None:
        try:
            self._ping()
        except BackendUnavailable as error:
            # Listeners report a store that is away.
            _log.debug("not ready: %s", error, extra=log_fields("not_ready"))
            self._ready = False
        except Exception as bug:  # noqa: BLE001 - a bug of the backend: the store cannot be used
            if not self._reported:
                # Without the error's text, which may hold anything.
                told = type(bug).__name__, traceback_of(bug)
                _log.error("the store could not be asked: %s%s", *told, extra=log_fields("backend_bug"))
            self._ready, self._reported = False, True
        else:
            self._ready, self._reported = True, False
        finally:
            self._asking = False
            self._answered()
