"""Many seeds, in portions, in as many processes as there are cores.

Not in ``__main__``: a process of a pool cannot import what it is to do from there.
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

#: Failures after which it is known that something is wrong.
MOST_FAILURES = 5
#: Seeds that a process takes at once.
_SIZE = 200


@attrs.frozen
class Portion:
    """What came of some seeds."""

    seeds: int
    #: What there was to see, by name.
    seen: Counter[str]
    #: Of those that failed, in as few steps as they fail in.
    reports: list[str]


def run_all(seeds: range, jobs: int, variant: str | None, steps: int) -> Iterator[Portion]:
    """Run all seeds; give the portions as they are done. To stop early, close this."""
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
