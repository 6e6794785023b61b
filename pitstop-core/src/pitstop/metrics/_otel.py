"""OpenTelemetry: instruments of a meter. Only the API is used, so an application without the SDK pays next to nothing.

Threads: any thread records; the thread of the exporter reads the gauges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter_provider

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


__all__ = ["forwarder", "meter_of", "observe"]

_UNITS = {STORED: "{message}", DELIVERED: "{message}", SETTLED: "{message}", STORE_ERRORS: "{error}"}


def meter_of(provider: MeterProvider | None) -> Meter:
    """Return the meter of a provider. None: the global one."""
    return (get_meter_provider() if provider is None else provider).get_meter("pitstop")


def forwarder(meter: Meter) -> Callable[[Metric, tuple[str, ...], float], None]:
    """Return the function that gives each update to its instrument."""
    counters = {each: meter.create_counter(each.dotted, unit, each.help) for each, unit in _UNITS.items()}
    in_flight = meter.create_up_down_counter(IN_FLIGHT.dotted, "{message}", IN_FLIGHT.help)
    histograms = {
        each: meter.create_histogram(each.dotted, each.unit, each.help, explicit_bucket_boundaries_advisory=BUCKETS)
        for each in (LATENESS, HANDLING)
    }

    def forward(metric: Metric, labels: tuple[str, ...], amount: float) -> None:
        attributes = dict(zip(metric.labels, labels, strict=True))
        if metric in histograms:
            histograms[metric].record(amount, attributes)
        elif metric is IN_FLIGHT:
            in_flight.add(amount, attributes)
        else:
            counters[metric].add(amount, attributes)

    return forward


def observe(meter: Meter, gauges: Gauges) -> None:
    """Let the exporter read the gauges."""
    for each in (CLAIMED_AHEAD, LAST_POLL, MESSAGES, OLDEST_DUE, CLOCK_SKEW):
        meter.create_observable_gauge(each.dotted, [_callback(gauges, each)], each.unit or "{message}", each.help)


def _callback(gauges: Gauges, metric: Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def read(_: CallbackOptions) -> Iterable[Observation]:
        # The stores are asked by the first of the callbacks of an export alone: see Gauges.
        return [
            Observation(value, dict(zip(metric.labels, labels, strict=True)))
            for each, labels, value in gauges.read()
            if each is metric
        ]

    return read
