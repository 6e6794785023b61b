"""Many seeds, in portions, in as many processes as there are cores.

This is not in ``__main__``, because a process of a pool cannot import its function from there.
"""

from __future__ import annotations

import multiprocessing

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice

import attrs

from simulation.simulate import shrink, simulate


__all__ = ["MOST_FAILURES", "Portion", "run_all"]

#: The number of failures after which a run stops.
MOST_FAILURES = 5
#: Seeds that a process takes at once.
_SIZE = 200


@attrs.frozen
class Portion:
    """The result of some seeds."""

    seeds: int
    #: Counts of events, by name.
    seen: Counter[str]
    #: Reports of the failed seeds, in the fewest steps.
    reports: list[str]


def run_all(seeds: range, jobs: int, variant: str | None, steps: int) -> Iterator[Portion]:
    """Run all seeds; yield the portions as they are done. Close the generator to stop early."""
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        starts = iter(seeds[::_SIZE])
        running: set[Future[Portion]] = set()
        try:
            while True:
                # Not all of them are handed to the pool at once.
                for start in islice(starts, 2 * jobs - len(running)):
                    portion = range(start, min(start + _SIZE, seeds.stop))
                    running.add(pool.submit(run, portion, variant, steps))
                if not running:
                    return
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for each in finished:
                    yield each.result()
        finally:
            pool.shutdown(cancel_futures=True)


def run(seeds: range, variant: str | None, steps: int) -> Portion:
    """Run some seeds, in this process."""
    seen, reports = Counter[str](), list[str]()
    for done, seed in enumerate(seeds, 1):
        each = simulate(seed, variant, steps)
        seen += each.seen
        if each.failed:
            reports.append(shrink(each).report())
            if len(reports) >= MOST_FAILURES:
                return Portion(done, seen, reports)
    return Portion(len(seeds), seen, reports)
