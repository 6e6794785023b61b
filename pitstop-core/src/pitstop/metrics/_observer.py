"""Metrics: the observer that counts, and the ways to export its numbers.

Threads: any.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pitstop._engine._delivery import Delivery
from pitstop._errors import BackendUnavailable, ConfigError
from pitstop._plugins._hookspecs import hookimpl
from pitstop._values._arguments import whole_number
from pitstop.abc import Clock, SystemClock
from pitstop.metrics._gauges import Gauges
from pitstop.metrics._names import DELIVERED, HANDLING, IN_FLIGHT, LATENESS, SETTLED, STORE_ERRORS, STORED, Metric
from pitstop.metrics._tally import Tally


if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from prometheus_client import CollectorRegistry
    from prometheus_client.registry import Collector

__all__ = ["Metrics"]

_OTHER = "other"
_FIRST, _AGAIN = "first", "again"


class Metrics:
    """A plugin that counts messages. Make it by :meth:`prometheus` or :meth:`opentelemetry`, once per process.

    Several Pitstops of a process share one object. Ids are never labels. Kinds are: the first ``kinds`` of them, and ``"other"``
    for all further kinds, so that a program that makes up kinds does not make a time series for each.
    """

    #: The collector of the gauges and, unless Prometheus is in multi-process mode, of all other metrics. None with OpenTelemetry.
    collector: Collector | None

    def __init__(
        self,
        *,
        kinds: int = 50,
        clock: Clock | None = None,
        forward: Callable[[Metric, tuple[str, ...], float], object] | None = None,
        at_once: bool = False,
    ) -> None:
        """Return a plugin whose numbers are not exported. Use the class methods instead.

        :param kinds: the most kinds that are labels.
        :param clock: the clock by which handlers are measured.
        :param forward: called with each update.
        :param at_once: whether an update is forwarded when it happens, rather than when the numbers are read.
        """
        self._most = whole_number(kinds, "kinds", least=0)
        self._clock = SystemClock() if clock is None else clock
        self._kinds: dict[str, str] = {}
        self.tally = Tally(forward, **({"most": 0} if at_once else {}))
        self.gauges = Gauges(clock)
        self.collector = None

    @classmethod
    def prometheus(
        cls, registry: CollectorRegistry | None = None, *, kinds: int = 50, clock: Clock | None = None
    ) -> Metrics:
        """Return a plugin whose numbers a registry of prometheus-client collects.

        If ``PROMETHEUS_MULTIPROC_DIR`` is set, the counters, the histograms and ``pitstop_in_flight`` are written there. Register
        :attr:`collector` with the registry that answers the scrape, so that it has the other gauges too.

        :param registry: the registry. Default: the one of prometheus-client.
        :param kinds: the most kinds that are labels; the others are ``"other"``.
        :param clock: the clock of this machine. Tests give their own.
        :raises ConfigError: if prometheus-client is not installed.
        """
        try:
            from pitstop.metrics import _prometheus as exporter  # noqa: PLC0415 - an extra
        except ModuleNotFoundError as error:
            raise _missing(error, "prometheus_client", "prometheus") from None
        forward = exporter.native()
        shared = forward is not None
        metrics = cls(kinds=kinds, clock=clock, forward=forward, at_once=shared)
        metrics.collector = exporter.collector(metrics.tally, metrics.gauges, registry, gauges_only=shared)
        return metrics

    @classmethod
    def opentelemetry(
        cls, meter_provider: MeterProvider | None = None, *, kinds: int = 50, clock: Clock | None = None
    ) -> Metrics:
        """Return a plugin whose numbers go to instruments of OpenTelemetry.

        :param meter_provider: the provider of the meter. Default: the global one.
        :param kinds: the most kinds that are attributes; the others are ``"other"``.
        :param clock: the clock of this machine. Tests give their own.
        :raises ConfigError: if opentelemetry-api is not installed.
        """
        try:
            from pitstop.metrics import _otel as exporter  # noqa: PLC0415 - an extra
        except ModuleNotFoundError as error:
            raise _missing(error, "opentelemetry", "otel") from None
        meter = exporter.meter_of(meter_provider)
        metrics = cls(kinds=kinds, clock=clock, forward=exporter.forwarder(meter), at_once=True)
        exporter.observe(meter, metrics.gauges)
        return metrics

    def _kind(self, kind: str) -> str:
        known = self._kinds.get(kind)
        if known is None:
            known = kind if len(self._kinds) < self._most else _OTHER
            if known is not _OTHER:
                self._kinds[kind] = kind
        return known

    @hookimpl
    def pitstop_opened(self, pit: Any) -> None:
        self.gauges.add(pit)

    @hookimpl
    def pitstop_message_stored(self, kind: str) -> None:
        self.tally.add(STORED, (self._kind(kind),))

    @hookimpl
    def pitstop_message_leased(self, delivery: Delivery, lateness: timedelta | None) -> None:
        first = lateness is not None or delivery.attempt == 1
        self.tally.add(DELIVERED, (self._kind(delivery.kind), _FIRST if first else _AGAIN))
        if lateness is not None:
            self.tally.observe(LATENESS, lateness.total_seconds())

    @hookimpl
    def pitstop_message_settled(self, kind: str, outcome: str) -> None:
        self.tally.add(SETTLED, (self._kind(kind), outcome))

    @hookimpl
    def pitstop_store_failed(self, error: BackendUnavailable) -> None:
        self.tally.add(STORE_ERRORS)

    @hookimpl
    def pitstop_handling(self) -> AbstractContextManager[None]:
        return _Handling(self.tally, self._clock)


class _Handling(AbstractContextManager[None]):
    """The time of one message in its handler."""

    __slots__ = ("_begun", "_clock", "_tally")

    def __init__(self, tally: Tally, clock: Clock) -> None:
        self._tally, self._clock = tally, clock

    def __enter__(self) -> None:
        self._begun = self._clock.monotonic()
        self._tally.add(IN_FLIGHT)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tally.add(IN_FLIGHT, amount=-1)
        self._tally.observe(HANDLING, self._clock.monotonic() - self._begun)


def _missing(error: ModuleNotFoundError, package: str, extra: str) -> Exception:
    if (error.name or "").partition(".")[0] != package:
        return error
    return ConfigError(f'These metrics need {package}. Install it with: pip install "pitstop-core[{extra}]"')
