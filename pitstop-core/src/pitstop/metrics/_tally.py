"""Tally: counts and histograms that any thread adds to, without a lock.

A signal handler may interrupt an update, and store a message itself. So an update is only appended to a queue, in one step.
A thread that has the lock applies the queue. A thread that does not get the lock at once leaves that to the other one.

Threads: any.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock

import attrs

from pitstop._engine._lifecycle import renew_after_fork
from pitstop.metrics._names import BUCKETS, Metric


__all__ = ["Counts", "Histogram", "Tally"]

#: Updates that may wait until the tally is read.
_MOST = 1000
#: Counters and gauges: values by label values, by metric.
Counts = dict[Metric, dict[tuple[str, ...], float]]
#: A metric, its label values, and the amount that is added or observed.
_Update = tuple[Metric, tuple[str, ...], float]


@attrs.define
class Histogram:
    """Observations by bucket."""

    #: One more than there are bounds. Not cumulative.
    counts: list[int] = attrs.field(factory=lambda: [0] * (len(BUCKETS) + 1))
    sum: float = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(BUCKETS, value)] += 1
        self.sum += value


class Tally:
    """The numbers of one process. In the child of a fork they begin at zero."""

    def __init__(
        self, forward: Callable[[Metric, tuple[str, ...], float], object] | None = None, *, most: int = _MOST
    ) -> None:
        """Return a tally with nothing in it.

        :param forward: called with each update, by one thread at a time. None: nothing is.
        :param most: the number of updates that may wait until the tally is read.
        """
        self._forward = forward
        self._most = most
        self._begin()
        renew_after_fork(self._begin)

    def _begin(self) -> None:
        # A thread of the parent may have the lock.
        self._lock = Lock()
        self._waiting: deque[_Update] = deque()
        # Written by the thread that has the lock.
        self._counts: Counts = {}
        self._histograms: dict[Metric, Histogram] = {}

    def __len__(self) -> int:
        """Return the number of updates that wait."""
        return len(self._waiting)

    def add(self, metric: Metric, labels: tuple[str, ...] = (), amount: float = 1) -> None:
        """Add to a counter or a gauge."""
        self._put((metric, labels, amount))

    def observe(self, metric: Metric, value: float) -> None:
        """Add an observation to a histogram."""
        self._put((metric, _OBSERVED, value))

    def _put(self, update: _Update) -> None:
        self._waiting.append(update)
        if len(self._waiting) > self._most and self._lock.acquire(blocking=False):
            try:
                self._apply()
            finally:
                self._lock.release()

    @contextmanager
    def read(self) -> Iterator[tuple[Counts, dict[Metric, Histogram]]]:
        """Yield the counts and the histograms, which do not change meanwhile. Not for signal handlers."""
        with self._lock:
            self._apply()
            yield self._counts, self._histograms

    def _apply(self) -> None:
        waiting, counts_of, forward = self._waiting.popleft, self._counts, self._forward
        with suppress(IndexError):
            while True:
                metric, labels, amount = waiting()
                if labels is _OBSERVED:
                    histogram = self._histograms.get(metric)
                    if histogram is None:
                        histogram = self._histograms[metric] = Histogram()
                    histogram.observe(amount)
                else:
                    counts = counts_of.get(metric)
                    if counts is None:
                        counts = counts_of[metric] = {}
                    counts[labels] = counts.get(labels, 0) + amount
                if forward is not None:
                    forward(metric, () if labels is _OBSERVED else labels, amount)


#: Stands for the labels of an observation. No counter has these.
_OBSERVED = ("observed",)
