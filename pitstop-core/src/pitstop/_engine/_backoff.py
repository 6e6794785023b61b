"""Pauses between tries while a store is away, and a log that says so once and then rarely."""

from __future__ import annotations

import logging
import random

from pitstop._errors import BackendUnavailable


__all__ = ["Backoff"]

_log = logging.getLogger("pitstop.listener")

_FIRST = 0.1
_LONGEST = 5.0
#: Between tries that are no use before somebody has changed something. Not never: they may have.
_PERMANENT = 30.0
_LOG_EVERY = 60.0


class Backoff:
    """The failures in a row of one listener, or of a watch.

    :param quiet: seconds of failures of which nobody is told: what others tell of at once, or what mends itself.
    """

    def __init__(self, what: str = "the store", quiet: float = 0.0) -> None:
        self._what = what
        self._quiet = quiet
        self._failures = 0
        self._since = 0.0
        self._logged: float | None = None

    @property
    def healthy(self) -> bool:
        return self._failures == 0

    def failed(self, error: Exception, now: float, *, log: bool = True) -> float:
        """Note a failure at ``now`` (seconds, monotonic); say how long to wait before the next try.

        :param log: False when somebody is told by an exception.
        """
        self._failures += 1
        if self._failures == 1:
            self._since = now
        permanent = isinstance(error, BackendUnavailable) and error.permanent
        # What is no failure of the store is a bug.
        told = isinstance(error, BackendUnavailable) and now - self._since < self._quiet
        if log and not told and (self._logged is None or now - self._logged >= _LOG_EVERY):
            self._logged = now
            level = logging.ERROR if permanent else logging.WARNING
            what = "refuses" if permanent else "does not answer"
            _log.log(level, "%s %s (failure %d in a row); trying again: %s", self._what, what, self._failures, error)
        longest = _PERMANENT if permanent else min(_LONGEST, _FIRST * 2.0 ** min(self._failures - 1, 10))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, hides nothing

    def succeeded(self, now: float) -> None:
        """Note a success at ``now`` (seconds, monotonic)."""
        if self._logged is not None:
            _log.info("%s answers again after %.1f s and %d failures", self._what, now - self._since, self._failures)
        self._failures, self._logged = 0, None
