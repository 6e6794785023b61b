"""The server's clock, computed from this machine's clock and the measured difference."""

from __future__ import annotations

import logging

from collections.abc import Callable

from pitstop import BackendUnavailable
from pitstop.abc import Clock, log_fields


__all__ = ["ServerTime"]

_log = logging.getLogger("pitstop.postgres")

#: Seconds for which a measured difference of the clocks is used.
_MEASURE_EVERY = 60.0
#: Seconds after which a measurement that failed is repeated.
_MEASURE_AGAIN = 1.0
_MEASUREMENTS = 3
_WORTH_A_WARNING_US = 1_000_000


class ServerTime:
    """The server's clock. Between two measurements it advances with the monotonic clock of this machine.

    So if this machine's clock is set, no message comes early, and no lease seems to be over. Statements read the server's
    clock itself. This is for decisions that are made here.
    """

    def __init__(self, clock: Clock, ask: Callable[[], int]) -> None:
        """Measure nothing yet.

        :param ask: returns the server's time in microseconds. It may raise :class:`BackendUnavailable`.
        """
        self._clock = clock
        self._ask = ask
        #: The server's time, in microseconds, when the monotonic clock was at zero, and when that was measured. Replaced as one
        #: value, by any thread.
        self._origin: tuple[int, float] | None = None
        self._skewed = False

    def now_us(self) -> int:
        """Return the microseconds since the epoch. The first call asks the server, and then one call each minute."""
        origin = self._origin
        if origin is None:
            origin = self._measure()
        elif self._clock.monotonic() - origin[1] >= _MEASURE_EVERY:
            # The other threads go on with the last measurement meanwhile.
            self._origin = (origin[0], self._clock.monotonic() - _MEASURE_EVERY + _MEASURE_AGAIN)
            try:
                origin = self._measure()
            except BackendUnavailable as error:
                # The clocks do not change when the server is away, so the last measurement is still right.
                extra = log_fields("clock_not_measured", backend="postgresql")
                _log.debug("the difference to the server's clock could not be measured: %s", error, extra=extra)
        return origin[0] + _us(self._clock.monotonic())

    def _measure(self) -> tuple[int, float]:
        samples = []
        for _ in range(_MEASUREMENTS):
            sent = _us(self._clock.monotonic())
            answer = self._ask()
            received = _us(self._clock.monotonic())
            samples.append((received - sent, answer - (sent + received) // 2))
        # The shortest round trip has the smallest error.
        trip, measured = min(samples)
        here = self._clock.time_us() - _us(self._clock.monotonic())
        offset = measured - here
        # A difference that the round trip explains counts as none. Otherwise the clocks of processes on one machine would differ.
        if abs(offset) <= trip // 2 + 1000:
            measured = here
        skewed = abs(offset) > _WORTH_A_WARNING_US
        if skewed and not self._skewed:
            _log.warning(
                "the server's clock and this machine's differ by %.1f s. The server's clock decides",
                offset / 1e6,
                extra=log_fields("clock_skew", backend="postgresql"),
            )
        self._skewed = skewed
        self._origin = origin = (measured, self._clock.monotonic())
        return origin


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
