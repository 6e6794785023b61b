"""Suite: declares scenarios, and runs each of them by many schedules."""

from __future__ import annotations

import logging
import os

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import attrs
import pytest

from schedules.exploring import Failure, Scenario, explore
from schedules.patching import patched
from schedules.scheduler import Scheduler
from schedules.world import LogWatch, World


__all__ = ["RUNS", "Case", "Cases", "run"]

#: Schedules of each scenario; far more of them with PITSTOP_TEST_LARGE.
RUNS = 3000 if os.environ.get("PITSTOP_TEST_LARGE") else 140


@attrs.frozen
class Case:
    """A scenario, and how it is explored."""

    scenario: Scenario
    runs: int


class Cases:
    """The scenarios of a module, by name."""

    def __init__(self, runs: int = RUNS) -> None:
        """Return a module without scenarios.

        :param runs: schedules of each scenario.
        """
        self._runs = runs
        self.by_name: dict[str, Case] = {}

    def add(self, *, lines: bool = True, runs: int | None = None) -> Callable[[Callable[[World], object]], None]:
        """Declare a scenario.

        :param lines: whether each line of the engine is a point. Else locks, waits and calls of the store alone are.
        :param runs: schedules of this scenario, if not as many as of the others.
        """

        def declare(function: Callable[[World], object]) -> None:
            def main(scheduler: Scheduler) -> None:
                _watch.world = world = World(scheduler)
                try:
                    function(world)
                except BaseException:
                    _failed.append(world)
                    raise
                finally:
                    _watch.world = None

            name = function.__name__.strip("_")
            traced = _of_the_engine if lines else None
            self.by_name[name] = Case(Scenario(name, main, traced), self._runs if runs is None else runs)

        return declare

    def run(self, name: str) -> None:
        """Explore a scenario; fail the test with a report if a schedule fails."""
        case = self.by_name[name]
        runs, failure = run(case)
        if failure is not None:
            pytest.fail(failure.report(), pytrace=False)
        assert runs == case.runs, f"{name} has only {runs} schedules"


def run(case: Case, *, seed: int = 0) -> tuple[int, Failure | None]:
    """Explore a scenario; return how many schedules were run, and the first failure."""
    with _under_watch():
        try:
            return explore(case.scenario, case.runs, seed=seed)
        finally:
            while _failed:
                _failed.pop().abandon()


_watch = LogWatch()
#: Worlds of runs that have failed.
_failed: list[World] = []


@contextmanager
def _under_watch() -> Iterator[None]:
    logger = logging.getLogger("pitstop")
    logger.addHandler(_watch)
    propagates, logger.propagate = logger.propagate, False
    try:
        with patched():
            yield
    finally:
        logger.removeHandler(_watch)
        logger.propagate = propagates
        _watch.world = None


@cache
def _of_the_engine(path: str) -> bool:
    """Whether a file has code of which each line is a point."""
    folders = ("/pitstop/_engine/", "/pitstop/_aio/", "/pitstop/_consume/")
    # A deque compares its items by a method that attrs has made, and another thread may change the deque meanwhile.
    return any(each in path for each in (*folders, "/schedules/mutants.py")) or (
        path.startswith("<attrs generated") and "_emit.Emission" in path
    )
