"""The server's clock, which decides what is due."""

from __future__ import annotations

import logging

from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any

from pymongo.errors import PyMongoError

from pitstop.abc import Clock, log_fields
from pitstop_mongo._client.dialect import Dialect


__all__ = ["ServerTime"]

_log = logging.getLogger("pitstop.mongo")

#: Seconds for which a measured difference of the clocks is used.
_MEASURE_EVERY = 60.0
#: Seconds after which a measurement that failed is repeated.
_MEASURE_AGAIN = 1.0
_MEASUREMENTS = 3
_WORTH_A_WARNING_US = 1_000_000


class ServerTime:
    """The server's clock, computed from this machine's clock and the measured difference.

    Between two measurements it advances with the monotonic clock. So if this machine's clock is set, no message comes early,
    and no lease seems to be over.
    """

    def __init__(self, clock: Clock, dialect: Dialect, client: Any) -> None:
        self._clock = clock
        self._dialect = dialect
        self._client = client
        #: The server's time, in microseconds, when the monotonic clock was at zero.
        self._origin_us: int | None = None
        self._skewed = False
        self._measured = 0.0
        self._busy = Lock()

    def now_us(self) -> int:
        """Return the microseconds since the epoch. The first call asks the server, and then one call each minute."""
        origin = self._origin_us
        if origin is None:
            origin = self._measure()
        elif self._is_old() and self._dialect.has_primary(self._client) and self._busy.acquire(blocking=False):
            # One thread asks. The others go on with the last measurement.
            try:
                origin = self._measure()
            except PyMongoError as error:
                # The clocks do not change when the server is away, so the last measurement is still right.
                extra = log_fields("clock_not_measured", backend="mongodb")
                text = "the difference to the server's clock could not be measured: %s"
                _log.debug(text, type(error).__name__, extra=extra)
                self._measured = self._clock.monotonic() - _MEASURE_EVERY + _MEASURE_AGAIN
            finally:
                self._busy.release()
        return origin + _us(self._clock.monotonic())

    def known_us(self) -> int | None:
        """Return the microseconds since the epoch without a look at the server; None if it is time to measure."""
        origin, now = self._origin_us, self._clock.monotonic()
        return None if origin is None or now - self._measured >= _MEASURE_EVERY else origin + _us(now)

    def outdate(self) -> None:
        """Measure again soon: a connection was lost, and another server, with another clock, may answer next."""
        self._measured = float("-inf")

    def _is_old(self) -> bool:
        return self._clock.monotonic() - self._measured >= _MEASURE_EVERY

    def _measure(self) -> int:
        samples = []
        for _ in range(_MEASUREMENTS):
            sent = self._clock.time_us()
            answer = self._dialect.server_time(self._client)
            received = self._clock.time_us()
            if answer is None:
                samples = [(0, 0)]
                break
            samples.append((_microseconds(answer) - (sent + received) // 2, received - sent))
        samples.sort()
        offset, trip = samples[len(samples) // 2]
        # The server gives whole milliseconds, of some instant within the round trip. A difference that this explains counts
        # as none. Otherwise the clocks of processes on one machine would differ.
        if abs(offset) <= trip // 2 + 1000:
            offset = 0
        skewed = abs(offset) > _WORTH_A_WARNING_US
        if skewed and not self._skewed:
            _log.warning(
                "the server's clock and this machine's differ by %.1f s. The server's clock decides",
                offset / 1e6,
                extra=log_fields("clock_skew", backend="mongodb"),
            )
        self._skewed, self._measured = skewed, self._clock.monotonic()
        self._origin_us = origin = self._clock.time_us() - _us(self._clock.monotonic()) + offset
        return origin


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


def _microseconds(answer: datetime) -> int:
    aware = answer if answer.tzinfo is not None else answer.replace(tzinfo=UTC)
    return (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
