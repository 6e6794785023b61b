"""Runs the suite on mutants, and tells which of its tests found which: ``nox -s mutants``.

Each run is a pytest in a process of its own, so that a mutant that hangs or falls over takes nothing else along.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs

from conformance.mutants.catalogue import MUTANTS, RIGHT, Mutant


__all__ = ["Result", "Run", "run_kit"]

_TESTS = Path(__file__).parents[2]
_KIT_ON_MUTANTS = Path(__file__).with_name("kit_on_mutants.py")
#: Seconds for the whole suite on one mutant, and for one test of it.
_WHOLE = 60.0
_ONE_TEST = 10
#: Tests that are named in a row of the table.
_NAMED = 2
#: The test that tries sequences of operations and shrinks those that fail.
_MODEL = "test_any_sequence"


@attrs.frozen
class Result:
    """What became of one test."""

    cls: str
    #: The module of the suite that it is from.
    part: str
    #: Its name without and with its parameters.
    test: str
    name: str
    outcome: str
    #: It failed with an assertion of the suite's, and not with an error of the mutant's.
    by_kit: bool
    error: str
    #: The steps that hypothesis came down to.
    steps: str
    #: Since the beginning of the run.
    seconds: float


@attrs.frozen
class Run:
    """What became of the tests that were run. Of a run that took too long: of those that were done in time."""

    results: list[Result]
    finished: bool
    output: str

    @property
    def failed(self) -> list[Result]:
        return [each for each in self.results if each.outcome == "failed"]

    @property
    def kills(self) -> list[Result]:
        return [each for each in self.failed if each.by_kit]


def run_kit(tests: Sequence[str], *, timeout: float = _WHOLE) -> Run:
    """Run tests of the suite on mutants, each named ``TestMutant`` or ``TestMutant::test_name``."""
    with tempfile.TemporaryDirectory() as folder:
        reports, wanted = Path(folder, "reports"), Path(folder, "wanted")
        reports.touch()
        wanted.write_text("\n".join(tests), encoding="utf-8")
        command = [
            *(sys.executable, "-m", "pytest", "-q", "--tb=short", "--noconftest", "--import-mode=importlib"),
            *("-c", os.devnull, "--rootdir", folder, "--basetemp", str(Path(folder, "tmp"))),
            *("-p", "no:cacheprovider", "-W", "ignore::pytest.PytestUnknownMarkWarning", f"--timeout={_ONE_TEST}"),
            *("-p", "conformance.mutants.reports", "--reports", str(reports), "--wanted", str(wanted)),
            str(_KIT_ON_MUTANTS),
        ]
        where = os.pathsep.join([str(_TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, "PYTHONPATH": where}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=timeout)
            finished = True
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            finished = False
        lines = reports.read_text(encoding="utf-8").splitlines(keepends=True)
    return Run([Result(**json.loads(each)) for each in lines if each.endswith("\n")], finished, output)


def _row(mutant: Mutant, run: Run) -> str:
    kills = list(dict.fromkeys(each.test for each in run.kills))
    parts = Counter(part for part, _ in dict.fromkeys((each.part, each.test) for each in run.kills))
    by = ", ".join(f"{part.strip('_').partition('_')[0]} {n}" for part, n in _by_kind(parts).items())
    first = f"{run.kills[0].seconds:.1f} s" if run.kills else "NEVER"
    model = next((each for each in run.kills if each.test.startswith(_MODEL)), None)
    with_model = f"; model after {model.seconds:.1f} s" if model else ""
    lines = [
        f"{mutant.name}: {mutant.defect}.",
        f"    first kill after {first}{with_model}; {len(kills)} tests ({by}): {', '.join(kills[:_NAMED])}",
    ]
    if not run.finished:
        lines.append(f"    ended after {_WHOLE:.0f} s, with {len(run.results)} results")
    others = {each.error for each in run.failed if not each.by_kit}
    if others and not run.kills:
        lines += [f"    {each}" for each in sorted(others)[:_NAMED]]
    return "\n".join(lines)


def _by_kind(parts: Counter[str]) -> Counter[str]:
    kinds: Counter[str] = Counter()
    for part, number in parts.items():
        kinds[part.strip("_").partition("_")[0]] += number
    return kinds


def _show(name: str) -> int:
    """Print how the suite tells what is wrong with one mutant, the steps that hypothesis shrank first."""
    run = run_kit([f"Test{name}"])
    shrunk = [each for each in run.kills if each.steps]
    for each in shrunk or run.kills[:_NAMED]:
        print(f"{each.name}\n{each.error}\n{each.steps}\n")
    return 0 if run.kills else 1


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Run the whole suite on every mutant.")
    parser.add_argument("names", nargs="*", help="mutants; all, unless named")
    parser.add_argument("--show", metavar="NAME", help="print how one mutant is found, with the shrunk steps")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    options = parser.parse_args(arguments)
    if options.show:
        return _show(options.show)
    mutants = [MUTANTS[each] for each in options.names] if options.names else list(MUTANTS.values())
    failures = 0
    for name in RIGHT:
        run = run_kit([f"Test{name}"], timeout=5 * _WHOLE)
        wrong = [each.name for each in run.failed]
        print(f"{name}, which is right: {len(run.results)} tests, failed: {wrong or 'none'}", flush=True)
        failures += bool(wrong) or not run.finished or not run.results
    with ThreadPoolExecutor(options.jobs) as pool:
        for mutant, run in zip(mutants, pool.map(lambda each: run_kit([f"Test{each.name}"]), mutants), strict=True):
            print(_row(mutant, run), flush=True)
            failures += not run.kills
    print(f"{len(mutants)} mutants, each given {_WHOLE:.0f} s; {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
