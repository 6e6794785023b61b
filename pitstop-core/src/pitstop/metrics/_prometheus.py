"""Prometheus: a collector of a registry, or in its multi-process mode, metrics of prometheus-client.

Threads: the one that answers a scrape collects; in multi-process mode, any thread writes.
"""

from __future__ import annotations

import os

from collections.abc import Iterable

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge
from prometheus_client import Histogram as NativeHistogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from pitstop.metrics._gauges import Gauges
from pitstop.metrics._names import (
    BUCKETS,
    CLAIMED_AHEAD,
    CLOCK_SKEW,
    DELIVERED,
    HANDLING,
    IN_FLIGHT,
    LAST_POLL,
    LATENESS,
    MESSAGES,
    OLDEST_DUE,
    SETTLED,
    STORE_ERRORS,
    STORED,
    Metric,
)
from pitstop.metrics._tally import Counts, Histogram, Tally


__all__ = ["collector", "native"]

_COUNTERS = (STORED, DELIVERED, SETTLED, STORE_ERRORS)
_HISTOGRAMS = (LATENESS, HANDLING)
_GAUGES = (CLAIMED_AHEAD, LAST_POLL, MESSAGES, OLDEST_DUE, CLOCK_SKEW)
_Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


def native() -> _Native | None:
    """Return the function that writes each update in the multi-process mode; None if that mode is off."""
    return _Native() if "PROMETHEUS_MULTIPROC_DIR" in os.environ else None


def collector(tally: Tally, gauges: Gauges, registry: CollectorRegistry | None, *, gauges_only: bool) -> Collector:
    """Return the collector of the numbers. With ``gauges_only``, it is registered by the user, else here."""
    made = _Collector(tally, gauges, gauges_only=gauges_only)
    if not gauges_only:
        (REGISTRY if registry is None else registry).register(made)
    return made


class _Collector(Collector):
    """Reads the numbers of the plugin at each scrape."""

    def __init__(self, tally: Tally, gauges: Gauges, *, gauges_only: bool) -> None:
        self._tally, self._gauges, self._gauges_only = tally, gauges, gauges_only

    def describe(self) -> Iterable[_Family]:
        """Return the metrics without values. So the registry asks no store when the collector is registered."""
        return [*(() if self._gauges_only else self._counted({}, {})), *self._read(())]

    def collect(self) -> Iterable[_Family]:
        if not self._gauges_only:
            with self._tally.read() as (counts, histograms):
                families = list(self._counted(counts, histograms))
            yield from families
        yield from self._read(self._gauges.read())

    @staticmethod
    def _counted(counts: Counts, histograms: dict[Metric, Histogram]) -> Iterable[_Family]:
        for metric in (*_COUNTERS, IN_FLIGHT):
            made = GaugeMetricFamily if metric is IN_FLIGHT else CounterMetricFamily
            family = made(metric.name, metric.help, labels=metric.labels)
            values: dict[tuple[str, ...], float] = {} if metric.labels else {(): 0}
            for labels, value in {**values, **counts.get(metric, {})}.items():
                family.add_metric(labels, value)
            yield family
        for metric in _HISTOGRAMS:
            yield _histogram(metric, histograms.get(metric, Histogram()))

    @staticmethod
    def _read(samples: Iterable[tuple[Metric, tuple[str, ...], float]]) -> Iterable[_Family]:
        families = {each: GaugeMetricFamily(each.name, each.help, labels=each.labels) for each in _GAUGES}
        for metric, labels, value in samples:
            families[metric].add_metric(labels, value)
        return families.values()


def _histogram(metric: Metric, histogram: Histogram) -> HistogramMetricFamily:
    family = HistogramMetricFamily(metric.name, metric.help)
    total, buckets = 0, []
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), histogram.counts, strict=True):
        total += count
        buckets.append((bound, total))
    family.add_metric((), buckets, histogram.sum)
    return family


class _Native:
    """Writes to metrics of prometheus-client, which share their values with other processes."""

    def __init__(self) -> None:
        # No registry: the one that answers the scrape reads the files.
        self._counters = {each: Counter(each.name, each.help, each.labels, registry=None) for each in _COUNTERS}
        self._histograms = {
            each: NativeHistogram(each.name, each.help, buckets=BUCKETS, registry=None) for each in _HISTOGRAMS
        }
        self._in_flight = Gauge(IN_FLIGHT.name, IN_FLIGHT.help, registry=None, multiprocess_mode="livesum")

    def __call__(self, metric: Metric, labels: tuple[str, ...], amount: float) -> None:
        if metric in self._histograms:
            self._histograms[metric].observe(amount)
        elif metric is IN_FLIGHT:
            self._in_flight.inc(amount)
        elif labels:
            self._counters[metric].labels(*labels).inc(amount)
        else:
            self._counters[metric].inc(amount)
