"""Run seeds: ``nox -s simulate -- --seeds 100000`` for a night, ``--seed 12345`` to see one again."""

from __future__ import annotations

import argparse
import os
import sys
import time

from collections import Counter

from simulation.history import line
from simulation.portions import MOST_FAILURES, run_all
from simulation.simulate import STEPS, Run, simulate
from simulation.variants import VARIANTS


#: Seconds between two lines that say how far it is.
_SAY_EVERY = 10.0
#: Seeds after which a known-bad variant counts as not caught.
_MOST_SEEDS = 5000


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="nox -s simulate --", description="Simulate the engine, and judge what it did."
    )
    parser.add_argument("--seeds", type=int, default=2000, help="run so many seeds (default: 2000)")
    parser.add_argument("--first", type=int, default=0, help="begin with this one (default: 0)")
    parser.add_argument("--seed", type=int, help="run this one alone, and print its history")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps of a world before it heals (default: {STEPS})")
    parser.add_argument("--variant", choices=sorted(VARIANTS), help="run a variant that is known to be bad")
    parser.add_argument("--variants", action="store_true", help="say how many seeds it takes to catch each of these")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    given = parser.parse_args(arguments)
    if given.variants:
        return _variants(given.steps)
    if given.seed is not None:
        return _again(simulate(given.seed, given.variant, given.steps))
    return _many(given)


def _again(run: Run) -> int:
    for event in run.history.events:
        print(line(event))
    for each in run.violations:
        print(f"\nseed {run.seed}, event {each.event + 1}: {each}")
    if not run.violations:
        print(f"\nseed {run.seed}: {len(run.history.events)} events, and every rule was kept")
    return bool(run.violations)


def _variants(steps: int) -> int:
    missed = False
    for name in VARIANTS:
        began = time.perf_counter()
        caught = next((run for seed in range(_MOST_SEEDS) if (run := simulate(seed, name, steps)).failed), None)
        seconds = time.perf_counter() - began
        missed = missed or caught is None
        if caught is None:
            print(f"{name:<30} NOT CAUGHT by {_MOST_SEEDS} seeds ({seconds:.1f} s)", flush=True)
        else:
            print(f"{name:<30} {caught.seed + 1:>5} seeds  {seconds:>5.1f} s  {caught.violations[0].rule}", flush=True)
    return missed


def _many(given: argparse.Namespace) -> int:
    began = said = time.perf_counter()
    done, failed, seen = 0, 0, Counter[str]()
    seeds = range(given.first, given.first + given.seeds)
    for portion in run_all(seeds, given.jobs, given.variant, given.steps):
        done += portion.seeds
        seen += portion.seen
        failed += len(portion.reports)
        for report in portion.reports:
            print(report, end="\n\n", flush=True)
        if time.perf_counter() - said > _SAY_EVERY:
            said = time.perf_counter()
            print(f"{done} of {given.seeds} seeds, {done / (said - began):.0f} per second", flush=True)
        if failed >= MOST_FAILURES:
            break
    seconds = time.perf_counter() - began
    print("\n".join(f"{number:>10}  {name}" for name, number in sorted(seen.items())))
    print(f"{done} seeds in {seconds:.1f} s ({done / seconds:.0f} per second), {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
