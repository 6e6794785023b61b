"""Pauses between tries while a store is away. All users of the store share the decision which of their failures are logged.

Threads: any; each object belongs to one thread.
"""

from __future__ import annotations

import logging
import random

from pitstop._decisions._logs import Outages
from pitstop._engine._bugs import traceback_of
from pitstop._errors import BackendUnavailable


__all__ = ["Backoff"]

_log = logging.getLogger("pitstop.listener")

_FIRST = 0.1
_LONGEST = 5.0
#: Seconds between tries that are of no use before an operator has changed something. The operator may have done so.
_PERMANENT = 30.0


class Backoff:
    """The failures in a row of one listener, or of a watch.

    :param outages: decides which lines are logged.
    :param quiet: seconds of failures that are not logged, because they mend themselves or another thread logs them.
    """

    def __init__(self, outages: Outages, quiet: float = 0.0) -> None:
        self._outages = outages
        self._quiet = quiet
        self._failures = 0
        self._since = 0.0

    @property
    def healthy(self) -> bool:
        return self._failures == 0

    def failed(self, error: Exception, now: float, *, log: bool = True) -> float:
        """Note a failure at ``now`` (seconds, monotonic); return how long to wait before the next try.

        :param log: False when the caller gets an exception.
        """
        self._failures += 1
        if self._failures == 1:
            self._since = now
        permanent = False
        if isinstance(error, BackendUnavailable):
            permanent = error.permanent
            self._outages.report(error)
        # Any other error is a bug.
        told = isinstance(error, BackendUnavailable) and now - self._since < self._quiet
        if log and not told:
            line = self._outages.failed(now, self._since, permanent=permanent)
            if line is not None:
                # The text of a bug may hold anything.
                bug = "" if isinstance(error, BackendUnavailable) else f"{type(error).__name__}{traceback_of(error)}"
                extra = self._outages.fields(away=True)
                _log.log(line.level, "%s; trying again: %s", line.text, bug or error, extra=extra)
        longest = _PERMANENT if permanent else min(_LONGEST, _FIRST * 2.0 ** min(self._failures - 1, 10))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, hides nothing

    def succeeded(self, now: float) -> None:
        """Note a success at ``now`` (seconds, monotonic)."""
        self._failures = 0
        line = self._outages.answered(now)
        if line is not None:
            _log.log(line.level, "%s", line.text, extra=self._outages.fields(away=False))
