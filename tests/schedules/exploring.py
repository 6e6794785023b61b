"""Exploring: which schedules of a scenario are run, and the report of one that fails.

First the run without a preemption, then runs with one preemption: at each point, to each thread that could go on there.
Points that differ in nothing but how often a thread has been there come last. Then runs with two or three preemptions,
drawn at random. Each failure names its schedule, by which :func:`replay` runs it alone.
"""

from __future__ import annotations

import gc
import random

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import attrs

from schedules.scheduler import Scheduler


__all__ = ["Failure", "Scenario", "explore", "replay"]

#: Schedules after which what they left behind is collected. Not during a run: that would put points anywhere.
_COLLECT = 100


@attrs.frozen
class Scenario:
    """What some threads do, and what must hold whatever the schedule is."""

    name: str
    #: Called in the first thread of a run.
    main: Callable[[Scheduler], object]
    #: True for the path of a file in which each line is a point. None: only locks, waits and calls of the store are.
    traced: Callable[[str], bool] | None = None


@attrs.frozen
class Failure:
    """A schedule by which a scenario fails."""

    scenario: Scenario
    schedule: Mapping[int, int]
    error: BaseException
    #: Runs so far, this one included.
    runs: int
    #: Switches of the run, for reading.
    switches: list[tuple[int, str, str, str]]

    def report(self) -> str:
        lines = [
            f"{self.scenario.name} fails by the schedule {dict(self.schedule)!r}, after {self.runs} runs:",
            f"  {type(self.error).__name__}: {self.error}",
        ]
        lines += [f"  point {n}: {name} at {where} -> {other}" for n, name, where, other in self.switches]
        return "\n".join(lines)


def replay(scenario: Scenario, schedule: Mapping[int, int]) -> Failure | None:
    """Run a scenario by one schedule; return the failure, if it fails."""
    scheduler = Scheduler(schedule, traced=scenario.traced)
    return _outcome(scenario, scheduler, schedule, 1)


def explore(scenario: Scenario, runs: int, *, seed: int = 0) -> tuple[int, Failure | None]:
    """Run a scenario by up to ``runs`` schedules; return how many were run, and the first failure."""
    scheduler = Scheduler({}, traced=scenario.traced, recording=True)
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    done = 1
    try:
        failure = _outcome(scenario, scheduler, {}, done)
        assert scheduler.recorded is not None
        schedules = _schedules(scheduler.recorded, runs - 1, random.Random(f"{scenario.name} {seed}"))
        while failure is None:
            schedule = next(schedules, None)
            if schedule is None:
                break
            done += 1
            failure = _outcome(scenario, Scheduler(schedule, traced=scenario.traced), schedule, done)
            if done % _COLLECT == 0:
                gc.collect()
    finally:
        if enabled:
            gc.enable()
        gc.collect()
    return done, failure


def _outcome(scenario: Scenario, scheduler: Scheduler, schedule: Mapping[int, int], runs: int) -> Failure | None:
    try:
        scheduler.run(lambda: scenario.main(scheduler))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return Failure(scenario, schedule, error, runs, scheduler.switches)
    return None


def _schedules(recorded: list[tuple[int, str, object, int]], runs: int, rng: random.Random) -> Iterator[dict[int, int]]:
    """Give as many schedules: two thirds of them with one preemption, if there are so many of these."""
    seen = Counter[tuple[str, object, int]]()
    single: list[tuple[int, int, int]] = []
    for step, thread, where, count in recorded:
        for choice in range(count):
            place = (thread, where, choice)
            single.append((seen[place], step, choice))
            seen[place] += 1
    # New places first; among those that are equally new, all over the run.
    rng.shuffle(single)
    single.sort(key=lambda each: min(each[0], 3))
    left = runs
    for _, step, choice in single[: runs * 2 // 3]:
        left -= 1
        yield {step: choice}
    last = recorded[-1][0] if recorded else 0
    tried = set[tuple[tuple[int, int], ...]]()
    misses = 0
    while left and last and misses < 1000:
        schedule = {rng.randint(1, last): rng.randrange(4) for _ in range(rng.choice((2, 2, 3)))}
        known = tuple(sorted(schedule.items()))
        if known in tried or len(schedule) < 2:
            misses += 1
            continue
        tried.add(known)
        left -= 1
        yield dict(known)
