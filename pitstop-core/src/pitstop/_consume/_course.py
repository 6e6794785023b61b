"""The course of one ``consume``: how many messages it may still take, why and by when it ends, and its Summary.

Both kinds of ``consume``, with threads and with tasks, use this module. It does no I/O and never waits.

Threads: the caller's thread, the workers and signal handlers; in an event loop, the loop's thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from threading import Lock

from pitstop._consume._signals import Urgency, is_hangup
from pitstop._engine._intake import Intake
from pitstop._values._arguments import flag, whole_number
from pitstop._values._consumer import Consumer
from pitstop._values._duration import parse_duration
from pitstop._values._instant import from_instant
from pitstop._values._summary import Reason, Summary
from pitstop.abc import SystemClock


__all__ = ["LAST_PATIENCE", "Course", "checked_drain"]

#: Seconds that the end waits for the store to answer: after a second signal, and beyond the deadline.
LAST_PATIENCE = 1.0


def checked_drain(drain: object, max_messages: object, until_idle: object) -> timedelta:
    """Check the options that both kinds of ``consume`` have. Return ``drain``.

    :raises ConfigError: if a value cannot be used.
    """
    if max_messages is not None:
        whole_number(max_messages, "max_messages")
    flag(until_idle, "until_idle")
    return parse_duration(drain, "drain")


class Course:
    """The state of one ``consume``.

    Any thread, and any signal handler, may call :meth:`end` and :meth:`signalled`: they take no lock. The counters of
    messages are changed under ``_lock``.
    """

    def __init__(self, max_messages: int | None, drain: float) -> None:
        """Begin.

        :param max_messages: how many messages may be handled; None: any number.
        :param drain: seconds that running handlers have to finish.
        """
        #: Seconds that running handlers have to finish.
        self.drain = drain
        #: The place where this ``consume`` shows its health; None: nowhere. Written by the caller's thread.
        self.health: str | None = None
        # Measures ``drain``, whatever clock the store has: people wait for the program to end.
        self._clock = SystemClock()
        self._since = self._clock.time_us()
        self._urgency = Urgency()
        self._lock = Lock()
        # Messages that may still be asked for.
        self._to_ask = max_messages
        #: How many messages may still come; None: any number. Written under the lock.
        self.wanted = max_messages
        #: Why it ends; None while it goes on. Written with `ended`, by the thread that ends it.
        self.reason: Reason | None = None
        #: Whether no more messages are to be taken.
        self.ended = False
        #: When running handlers are not waited for any longer, by :meth:`monotonic`; None: they are waited for.
        self.deadline: float | None = None
        #: True after a second signal: nothing is waited for.
        self.urgent = False
        #: The exception that ``consume`` raises once all is settled.
        self.error: BaseException | None = None

    # The end.

    def monotonic(self) -> float:
        """Seconds by the clock of the deadline."""
        return self._clock.monotonic()

    def end(self, reason: Reason) -> None:
        """Take no more messages. The first reason is kept, unless a second signal comes later."""
        if reason == "second signal":
            self.reason, self.urgent = reason, True
        elif self.reason is None:
            self.reason = reason
        # In this order: the end has a reason.
        self.ended = True
        # After max_messages, and when nothing is due, the running handlers have all the time that they need.
        if self.deadline is None and reason not in {"max_messages", "idle"}:
            self.deadline = self._clock.monotonic() + self.drain

    def signalled(self, number: int) -> Reason | None:
        """Return the reason to end that a signal gives; None if the signal changes nothing."""
        if is_hangup(number):
            return "signal"
        if not self._urgency.ask():
            return None
        return "signal" if self._urgency.asked == 1 else "second signal"

    def left(self) -> float | None:
        """Seconds until the deadline; None if there is no deadline."""
        return None if self.deadline is None else self.deadline - self._clock.monotonic()

    def last_write_by(self) -> float:
        """Return until when acks are tried again if the store does not answer: as long as handlers may take."""
        return self._clock.monotonic() + self.drain if self.deadline is None else self.deadline

    def fail(self, error: BaseException) -> None:
        """Keep the first exception that ``consume`` is to raise."""
        # Not by its truth: an exception may have a length of zero.
        if self.error is None:
            self.error = error

    def consumer(self, intakes: Sequence[Intake | None], *, in_hand: int, in_handlers: int) -> Consumer:
        """Return a snapshot.

        :param intakes: the sources of the messages, of all lanes. None: it is not open yet.
        """
        opened = [each for each in intakes if each is not None]
        claims = [each.claimer.last_claim for each in opened]
        # The oldest one: a lane that is stuck must not be hidden by another one.
        oldest = min((each for each in claims if each is not None), default=None)
        polled = None
        if oldest is not None and None not in claims and len(opened) == len(intakes):
            ago = opened[0].session.clock.monotonic() - oldest
            polled = from_instant((self._clock.time_us() - round(ago * 1e6)) // 1000)
        return Consumer(
            healthy=all(each.healthy for each in opened),
            last_poll=polled,
            in_hand=in_hand,
            in_handlers=in_handlers,
            since=from_instant(self._since // 1000),
            health=self.health,
        )

    # Messages.

    def may_ask(self) -> bool:
        """Reserve one message for a worker that is about to wait for it. False if all are reserved."""
        if self._to_ask is None:
            return True
        with self._lock:
            if self._to_ask == 0:
                return False
            self._to_ask -= 1
            return True

    def room(self, most: int) -> int:
        """Return how many messages to take at once: ``most`` of them, unless fewer may still come. At least one."""
        return most if self.wanted is None else max(1, min(most, self.wanted))

    def reserve(self, most: int) -> int:
        """Reserve messages that have come. Return how many may be handled."""
        if self._to_ask is None:
            return most
        with self._lock:
            reserved = min(most, self._to_ask)
            self._to_ask -= reserved
            return reserved

    def count(self, messages: int = 1) -> bool:
        """Count messages that came, or (a negative number) that were passed on unhandled. True if no more are to come."""
        if self.wanted is None:
            return False
        with self._lock:
            self.wanted -= messages
            return self.wanted == 0

    def summary(self, intakes: Sequence[Intake], *, handled: int, unfinished: int) -> Summary:
        """Return the summary, at the end.

        :param intakes: the sources of the messages that were opened.
        :param handled: deliveries whose handler returned or raised.
        :raises PluginFailed: if the plugins are strict, and one has raised.
        """
        for each in intakes:
            each.session.events.raise_kept()
        counts = [each.counts for each in intakes]
        acked, nacked = sum(each.acked for each in counts), sum(each.nacked for each in counts)
        lost, superseded = sum(each.lost for each in counts), sum(each.superseded for each in counts)
        known = acked + nacked + lost + superseded
        return Summary(
            acked=acked,
            nacked=nacked,
            lost=lost,
            superseded=superseded,
            unsettled=max(0, handled - known),
            unfinished=unfinished,
            given_back=sum(each.claimer.given_back for each in intakes),
            reason=self.reason or "stopped",
        )
