"""Exploring: which schedules of a scenario are run, and the report of one that fails.

First runs without a preemption, in several orders in which threads may begin. Then runs with one preemption: at each point, to each
thread that could go on there. Points that differ in nothing but how often a thread has been there come last. Then runs with two or three preemptions,
drawn at random. Each failure names its schedule, by which :func:`replay` runs it alone.
"""

from __future__ import annotations

import gc
import random

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import attrs

from schedules.scheduler import Point, Scheduler


__all__ = ["Failure", "Scenario", "explore", "replay"]

#: Schedules that were drawn twice, after which there are hardly any new ones.
_MOST_MISSES = 1000
#: Points that a thread goes through while it does one thing.
_SOON = 150
#: Orders in which threads begin.
_MOST_ORDERS = 5


@attrs.frozen
class Scenario:
    """Code that starts some threads, and checks its invariants at the end of each run."""

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
    rng = random.Random(f"{scenario.name} {seed}")
    enabled = gc.isenabled()
    gc.collect()
    # Finalizers must not run in the middle of a run: they would be points that no schedule knows.
    gc.disable()
    done, failure = 0, None
    try:
        for scheduler, schedule in _schedulers(scenario, runs, rng):
            done += 1
            failure = _outcome(scenario, scheduler, schedule, done)
            if failure is not None or done >= runs:
                break
            # The next run must not find objects of this one. All of them are young.
            gc.collect(0)
    finally:
        if enabled:
            gc.enable()
        gc.collect()
    return done, failure


def _schedulers(scenario: Scenario, runs: int, rng: random.Random) -> Iterator[tuple[Scheduler, Mapping[int, int]]]:
    """Give schedulers, each of which is run before the next one is asked for."""
    bases: list[dict[int, int]] = [{}]
    recorded: list[list[Point]] = []
    for base in bases:
        scheduler = Scheduler(base, traced=scenario.traced, recording=True)
        yield scheduler, base
        assert scheduler.recorded is not None
        recorded.append(scheduler.recorded)
        if not base:
            bases += _orders(scheduler.recorded)
    # Up to two thirds of the runs have one preemption.
    share = max(1, (runs - len(bases)) * 2 // 3 // len(bases))
    for base, points in zip(bases, recorded, strict=True):
        for step, choice in _single(points, rng, after=max(base, default=0))[:share]:
            schedule = {**base, step: choice}
            yield Scheduler(schedule, traced=scenario.traced), schedule
    last = recorded[0][-1].step if recorded[0] else 0
    tried = set[tuple[tuple[int, int], ...]]()
    misses = 0
    while last and misses < _MOST_MISSES:
        drawn = _several(last, rng)
        schedule = {**rng.choice(bases), **drawn}
        known = tuple(sorted(schedule.items()))
        if known in tried:
            misses += 1
            continue
        tried.add(known)
        yield Scheduler(schedule, traced=scenario.traced), schedule


def _several(last: int, rng: random.Random) -> dict[int, int]:
    """Draw two or three preemptions; half of the time the next one comes soon, in the midst of what the other thread does."""
    first = rng.randint(1, last)
    steps = {first: rng.randrange(4)}
    for _ in range(rng.choice((1, 1, 2))):
        step = rng.randint(1, last) if rng.random() < 0.5 else first + rng.randint(1, _SOON)
        steps[step] = rng.randrange(4)
    return steps


def _orders(points: list[Point]) -> list[dict[int, int]]:
    """Give schedules in which the threads begin in another order: another one first, or a new one as soon as it is started."""
    orders = []
    first = next((each for each in points if each.thread == "main" and len(each.others) > 1), None)
    if first is not None:
        orders += [{first.step: choice} for choice in range(1, len(first.others))]
    for each in points:
        for choice, name in enumerate(each.others):
            if each.where.startswith(f"start of {name} "):
                orders.append({each.step: choice})
    return orders[:_MOST_ORDERS]


def _single(points: list[Point], rng: random.Random, *, after: int) -> list[tuple[int, int]]:
    """Return preemptions, those first at places where there was none before."""
    seen = Counter[tuple[str, str, str]]()
    single: list[tuple[int, int, int]] = []
    for point in points:
        if point.step <= after:
            continue
        for choice, name in enumerate(point.others):
            place = (point.thread, point.where, name)
            single.append((seen[place], point.step, choice))
            seen[place] += 1
    rng.shuffle(single)
    single.sort(key=lambda each: min(each[0], 3))
    return [(step, choice) for _, step, choice in single]


def _outcome(scenario: Scenario, scheduler: Scheduler, schedule: Mapping[int, int], runs: int) -> Failure | None:
    try:
        scheduler.run(lambda: scenario.main(scheduler))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return Failure(scenario, schedule, error, runs, scheduler.switches)
    return None
