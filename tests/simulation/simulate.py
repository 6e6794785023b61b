"""One run for a seed: a world, its history, and the verdict of the rules."""

from __future__ import annotations

import logging

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unittest import mock

import attrs

from pitstop._engine import _intake, _leftovers
from pitstop._engine._background import Background
from simulation.chance import all_from
from simulation.history import Event, History, line
from simulation.remote import Crash
from simulation.rules import Violation, judge
from simulation.variants import VARIANTS
from simulation.world import World


#: Steps of a world before it heals.
STEPS = 60
#: Events of the history that are shown with a failure.
_TAIL = 40


@attrs.frozen
class Run:
    """The result of a seed."""

    seed: int
    steps: int
    variant: str | None
    history: History
    violations: list[Violation]
    #: Counts of events, by name.
    seen: Counter[str]

    @property
    def failed(self) -> bool:
        return bool(self.violations)

    def report(self) -> str:
        """Return the seed, the rule, the history up to the failure, and the command that repeats it."""
        first = self.violations[0]
        events = self.history.events[: first.event + 1]
        return "\n".join(
            [
                f"seed {self.seed}, {self.steps} steps: {first}",
                *(line(each) for each in relevant(events)[-_TAIL:]),
                f"again: {self.command}",
            ]
        )

    @property
    def command(self) -> str:
        variant = f" --variant {self.variant}" if self.variant else ""
        steps = f" --steps {self.steps}" if self.steps != STEPS else ""
        return f"nox -s simulate -- --seed {self.seed}{steps}{variant}"


def relevant(events: list[Event]) -> list[Event]:
    """Leave out claims that returned nothing."""
    return [each for each in events if not (each[2] == "lease" and not each[6])]


def simulate(seed: int, variant: str | None = None, steps: int = STEPS) -> Run:
    """Run one seed, on the engine as it is or on a known-bad variant."""
    with _alone(), VARIANTS[variant]() if variant else _as_it_is(), all_from(seed) as rng:
        history = World(rng, steps).run()
    judged = judge(history.events)
    return Run(seed, steps, variant, history, judged.violations, judged.seen)


def shrink(run: Run) -> Run:
    """Run the same seed in the fewest steps with which it fails by the same rule."""
    for steps in range(run.steps):
        shorter = simulate(run.seed, run.variant, steps)
        if shorter.failed and shorter.violations[0].rule == run.violations[0].rule:
            return shorter
    return run


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


class _Threads:
    """A replacement of the module ``_thread`` that does the work of a new thread at once."""

    @staticmethod
    def start_new_thread(function: Callable[..., object], args: tuple[Any, ...]) -> None:
        function(*args)


class _Finalizers:
    """As :class:`_Threads`, for the end of a dropped listener, which may come after the death of its process."""

    @staticmethod
    def start_new_thread(function: Callable[..., object], args: tuple[Any, ...]) -> None:
        with suppress(Crash):
            function(*args)


@contextmanager
def _alone() -> Iterator[None]:
    """Run without threads, and without a log, because the engine logs each of the many faults."""
    log = logging.getLogger("pitstop")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        # The work of the listener's thread is a step of the world.
        with (
            mock.patch.object(_intake, "_thread", _Finalizers),
            mock.patch.object(_leftovers, "_thread", _Threads),
            mock.patch.object(Background, "begin"),
        ):
            yield
    finally:
        log.setLevel(level)
