"""Decide when the next messages may be claimed at a rate.

The messages are spread evenly over the period (the generic cell rate algorithm). A claim that comes a little late is made up
for, so that the delays of a machine do not add up; a longer pause is not.
"""

from __future__ import annotations

from datetime import timedelta

import attrs

from pitstop._values._rate import Rate


__all__ = ["Spacing"]

#: The longest delay that is made up for: this part of the period, or so many microseconds if that is less.
_PART_OF_PERIOD = 100
_LONGEST_DELAY = 10_000


@attrs.frozen
class Spacing:
    """The state of one rate. In any period, at most the messages of the rate are claimed.

    Instants are whole microseconds of a clock that never goes back. Inside, one microsecond is as many ticks as the rate has
    messages, so that no division is inexact.
    """

    rate: Rate
    #: In ticks: from when on the next message may be claimed. None: from now on, for none was claimed yet.
    _next: int | None = None

    @property
    def _delay(self) -> int:
        """Return the longest delay that is made up for, in microseconds."""
        return min(_LONGEST_DELAY, self.rate.period // timedelta(microseconds=1) // _PART_OF_PERIOD)

    @property
    def _step(self) -> int:
        """Return the ticks from one message to the next.

        Messages that make up for a delay come too early by that delay. So the steps of one period take longer than the period
        by as much.
        """
        return self.rate.period // timedelta(microseconds=1) + self._delay

    def _begin(self, now_us: int) -> int:
        now = now_us * self.rate.messages
        return now if self._next is None else max(self._next, now - self._delay * self.rate.messages)

    def allowed(self, now_us: int) -> int:
        """Return how many messages may be claimed now."""
        left = now_us * self.rate.messages - self._begin(now_us)
        return 0 if left < 0 else left // self._step + 1

    def after(self, claimed: int, now_us: int) -> Spacing:
        """Return the spacing once this number of messages is claimed. More than are allowed put off the next ones."""
        return attrs.evolve(self, next=self._begin(now_us) + claimed * self._step)

    def without(self, messages: int) -> Spacing:
        """Return the spacing if some of the claimed messages do not count. A negative number: if more messages do."""
        return self if self._next is None else attrs.evolve(self, next=self._next - messages * self._step)

    def pause(self, now_us: int) -> int:
        """Return the microseconds until a message may be claimed; 0: now."""
        left = self._begin(now_us) - now_us * self.rate.messages
        return max(0, -(-left // self.rate.messages))
