"""DrivenLanes: the kinds of one driven run, each with its handler and its messages, as ``consume`` has them.

Threads: the thread that does the run.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from datetime import timedelta
from typing import Any, NamedTuple, Self

from pitstop._consume._batches import gathered
from pitstop._consume._handler import takes_delivery
from pitstop._consume._lanes import Lane, Plan, named
from pitstop._decisions._describe import describe
from pitstop._engine._delivery import Delivery
from pitstop._engine._lease import Lease
from pitstop._engine._waiting import Waiter
from pitstop._listening import open_intakes
from pitstop._pitstop import Pitstop, session_of
from pitstop._values._duration import format_duration
from pitstop.abc import Record
from pitstop.abc._kinds import is_chosen
from pitstop.testing._faulty_backend import unfaulted
from pitstop.testing._report import clock_text


__all__ = ["DrivenLanes", "Turn"]

#: The most messages that are read to name some of those that are left.
_MOST_READ = 1000
_NEVER = float("inf")


class Turn(NamedTuple):
    """A message that is to be handled now, or a batch of them."""

    lane: Lane
    deliveries: Sequence[Delivery]

    @property
    def argument(self) -> Any:
        """The argument of the handler."""
        if self.lane.batch is not None:
            return self.deliveries
        return self.deliveries[0] if self.lane.deliveries else self.deliveries[0].msg


class DrivenLanes:
    """The lanes of one run. They are open in its context."""

    def __init__(self, pit: Pitstop, plans: Sequence[Plan]) -> None:
        """Prepare.

        :param plans: at least one.
        :raises ConfigError: if ``deliveries`` is no bool.
        """
        self._pit = pit
        self._session = session_of(pit)
        self._plans = plans
        self._deliveries = []
        for each in plans:
            with named(each.kind):
                self._deliveries.append(takes_delivery(each.handler, each.deliveries))
        #: The kinds of each lane; None: all kinds.
        self._choices: list[Collection[str] | None] = [each.options.kinds for each in plans]
        self._lanes: list[Lane] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        intakes = open_intakes(self._pit, self._plans)
        for intake in intakes:
            self._stack.callback(intake.close)
        self._lanes = [
            Lane(intake, plan.handler, deliveries, plan.workers, plan.options.batch)
            for intake, plan, deliveries in zip(intakes, self._plans, self._deliveries, strict=True)
        ]
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def take(self) -> tuple[Lane, Sequence[Lease]] | None:
        """Take the message that has been due for longest, of any lane, or a batch of the lane. None: there is none.

        :raises BackendUnavailable: if the store fails a claim.
        """
        now = self._session.clock.monotonic()
        for lane in self._in_order():
            lease = lane.intake.wait(Waiter(lane.batch or 0), now)
            if lease is not None:
                return lane, [lease] if lane.batch is None else gathered(lane.intake, lease, lane.batch)
        return None

    def next_due(self) -> int | None:
        """Return when the next message of any lane is due, in milliseconds. No fault of the test hits this."""
        return min((due for each in self._choices if (due := self._due(each)) is not None), default=None)

    def left(self, now: int) -> str:
        """Describe some of the messages that the lanes have not handled."""
        records = unfaulted(self._session.backend).scan(None, _MOST_READ, None)
        kinds = [each.kind if isinstance(each, Record) else None for each in records]
        some = [
            describe(each, now)
            for each, kind in zip(records, kinds, strict=True)
            if any(is_chosen(kind, choice) for choice in self._choices)
        ]
        if not some:
            return f"messages beyond the first {_MOST_READ}"
        described = []
        for entry in some[:3]:
            every = f", every {format_duration(entry.every)}" if isinstance(entry.every, timedelta) else ""
            tries = f", {entry.attempts} attempts" if entry.attempts else ""
            described.append(f"{entry.id!r} (due {clock_text(entry.due)}{every}{tries})")
        return ", ".join(described) + (", and more" if len(some) > 3 else "")

    def _in_order(self) -> list[Lane]:
        """Return the lanes by the time of their next message. A message in hand was due before."""
        if len(self._lanes) == 1:
            return self._lanes
        order: list[tuple[float, int]] = []
        for number, (lane, choice) in enumerate(zip(self._lanes, self._choices, strict=True)):
            due = None if lane.intake.in_hand else self._due(choice)
            order.append((-_NEVER if lane.intake.in_hand else _NEVER if due is None else due, number))
        return [self._lanes[number] for _, number in sorted(order)]

    def _due(self, choice: Collection[str] | None) -> int | None:
        backend, pauses = unfaulted(self._session.backend), self._session.pauses
        if pauses is not None and pauses.ends:
            return pauses.next_due(backend, choice)
        return backend.next_due() if choice is None else backend.next_due(choice)
