"""Gauges: numbers that are read when they are asked for, of the process and of its stores.

A store is asked at most every ten seconds, by a thread of its own. A store that is away delays no reader for more than a second. Its
numbers are then left out, once they are older than a minute.

Threads: any thread reads; a thread of its own asks the stores.
"""

from __future__ import annotations

import logging

from collections import Counter
from collections.abc import Iterable
from threading import Event, Lock, Thread
from weakref import WeakSet

import attrs

from pitstop._engine._bugs import traceback_of
from pitstop._engine._intake import Intake
from pitstop._engine._lifecycle import renew_after_fork
from pitstop._errors import PitstopError
from pitstop._pitstop import Pitstop, session_of
from pitstop.abc import Clock, SystemClock, log_fields
from pitstop.metrics._names import CLAIMED_AHEAD, CLOCK_SKEW, LAST_POLL, MESSAGES, OLDEST_DUE, Metric


__all__ = ["Gauges"]

_log = logging.getLogger("pitstop.metrics")

#: Seconds between two questions to the stores, for which a reader waits, and after which an answer is left out.
_EVERY, _PATIENCE, _STALE = 10.0, 1.0, 60.0
_STATES = ("scheduled", "due", "leased", "dead", "paused")


@attrs.frozen
class _Answer:
    at: float
    messages: dict[str, int]
    #: When the oldest due message became due, by the monotonic clock. None: no message is due.
    due_at: float | None
    skew: float


class Gauges:
    """The gauges of the Pitstops that were added. Pitstops that are closed or dropped do not count."""

    def __init__(self, clock: Clock | None = None) -> None:
        """Return gauges of no Pitstop.

        :param clock: measures the times between questions, and is this machine's clock for the skew.
        """
        self._clock = SystemClock() if clock is None else clock
        self._pits: WeakSet[Pitstop] = WeakSet()
        self._begin()
        renew_after_fork(self._begin)

    def _begin(self) -> None:
        # In the child of a fork, the thread is the parent's.
        self._lock = Lock()
        # Written under the lock.
        self._asking: Event | None = None
        self._asked_at = float("-inf")
        #: The last answer of each store. Written by the thread that asks.
        self._answers: dict[str, _Answer] = {}

    def add(self, pit: Pitstop) -> None:
        """Count a Pitstop in."""
        self._pits.add(pit)

    def read(self) -> Iterable[tuple[Metric, tuple[str, ...], float]]:
        """Return the samples: a metric, its label values, and the value. Never raises because of a store."""
        pits = [each for each in tuple(self._pits) if not session_of(each).closed]
        intakes = [part for pit in pits for part in session_of(pit).components if isinstance(part, Intake)]
        samples: list[tuple[Metric, tuple[str, ...], float]] = [
            (CLAIMED_AHEAD, (), sum(each.in_hand for each in intakes))
        ]
        polls = [
            each.session.clock.monotonic() - last for each in intakes if (last := each.claimer.last_claim) is not None
        ]
        if polls:
            # The oldest one: a listener that is stuck must not be hidden by another one.
            samples.append((LAST_POLL, (), self._clock.time_us() / 1e6 - max(polls)))
        self._ask(pits)
        now = self._clock.monotonic()
        places = {pit.location for pit in pits}
        answers = [each for place, each in tuple(self._answers.items()) if place in places and now - each.at <= _STALE]
        if answers:
            messages: Counter[str] = Counter()
            for each in answers:
                messages.update(each.messages)
            samples += [(MESSAGES, (state,), messages[state]) for state in _STATES]
            samples.append(
                (OLDEST_DUE, (), max([now - each.due_at for each in answers if each.due_at is not None], default=0.0))
            )
            samples.append((CLOCK_SKEW, (), max((each.skew for each in answers), key=abs)))
        return samples

    def _ask(self, pits: list[Pitstop]) -> None:
        """Ask the stores, unless they were asked a moment ago. Wait for the answer, but not for long."""
        now = self._clock.monotonic()
        with self._lock:
            asking = self._asking
            if asking is None and pits and now - self._asked_at >= _EVERY:
                asking = self._asking = Event()
                self._asked_at = now
                # One Pitstop of each store.
                stores = list({pit.location: pit for pit in pits}.values())
                try:
                    Thread(target=self._run, args=(stores, asking), name="pitstop-metrics", daemon=True).start()
                except RuntimeError:
                    # No thread can be started now, for example at the end of the program.
                    self._asking = None
                    return
        if asking is not None:
            asking.wait(_PATIENCE)

    def _run(self, stores: list[Pitstop], done: Event) -> None:
        try:
            for pit in stores:
                try:
                    self._answers[pit.location] = self._answer(pit)
                except PitstopError as error:
                    extra = log_fields("metrics_not_answered", backend=pit.location.partition(":")[0])
                    _log.debug("the store did not answer a question for metrics: %s", error, extra=extra)
                except Exception as bug:  # noqa: BLE001 - a bug of the backend; the other stores are asked, and the scrape goes on
                    # Without the error's text, which may hold anything. Once for each question, every ten seconds at most.
                    extra = log_fields("backend_bug", backend=pit.location.partition(":")[0])
                    _log.error(
                        "a question for metrics failed: %s%s", type(bug).__name__, traceback_of(bug), extra=extra
                    )
        finally:
            with self._lock:
                if self._asking is done:
                    self._asking = None
            done.set()

    def _answer(self, pit: Pitstop) -> _Answer:
        begun = self._clock.time_us()
        there = pit.now()
        here = (begun + self._clock.time_us()) / 2e6
        stats = pit.stats()
        now = self._clock.monotonic()
        age = None if stats.oldest_due is None else max(0.0, (there - stats.oldest_due).total_seconds())
        return _Answer(
            at=now,
            messages={state: getattr(stats, state) for state in _STATES},
            due_at=None if age is None else now - age,
            skew=there.timestamp() - here,
        )
