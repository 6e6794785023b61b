"""Run the suite on mutants, and print which tests found which mutant: ``nox -s mutants``.

Each run is a new process with pytest, so that a mutant that hangs or crashes disturbs no other run.
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
import time

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import attrs
import pytest

from conformance.mutants.catalogue import MUTANTS, RIGHT, Mutant
from pitstop.abc import did_you_mean
from pitstop.testing import BackendConformance
from pitstop_conformance import kit_tests


__all__ = ["DATABASE", "TIME_LIMIT", "Result", "Run", "run_kit"]

#: The variable of the environment with the limit of each test, in seconds.
TIME_LIMIT = "PITSTOP_MUTANTS_TIME_LIMIT"
#: The variable with the address of a database of PostgreSQL, for the mutants that need one.
DATABASE = "PITSTOP_MUTANTS_DATABASE"
#: The most processes of a run that may end by the fault of a test.
_MOST_ENDS = 5
#: The characters of an output that are kept with its end.
_LAST = 3000

_TESTS = Path(__file__).parents[2]
_KIT_ON_MUTANTS = Path(__file__).with_name("kit_on_mutants.py")
#: A folder in memory where the system has one. No result depends on a disk, and a disk slows everything down.
_FOLDER = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
#: Seconds for the suite on one mutant; and for its tests that try sequences of operations, and shrink those that fail.
_WHOLE = 300.0
#: Seconds for one test, but for those.
_ONE_TEST = 15.0
#: Tests that are named in a row of the table.
_NAMED = 2
_SUITE = kit_tests(BackendConformance)
#: The tests that compare a backend with a model of it.
_MODEL = [name for name, part in _SUITE.items() if ".model." in part.__module__]
assert _MODEL, "the suite has tests with a model"


@attrs.frozen
class Result:
    """The result of one test."""

    cls: str
    #: The module of the suite that has the test.
    part: str
    #: Its name without and with its parameters.
    test: str
    name: str
    outcome: str
    #: It failed with an assertion of the suite's, and not with an error of the mutant's.
    by_kit: bool
    error: str
    #: The steps of the example that hypothesis shrank to.
    steps: str
    #: Since the beginning of the run.
    seconds: float


@attrs.frozen
class Run:
    """The results of a run. If its time was over, only the tests before that have one."""

    results: list[Result]
    finished: bool
    output: str
    #: How each process of the run ended that did not end as pytest does.
    ends: list[str] = attrs.field(factory=list)

    @property
    def failed(self) -> list[Result]:
        return [each for each in self.results if each.outcome == "failed"]

    @property
    def kills(self) -> list[Result]:
        return [each for each in self.failed if each.by_kit]


def run_kit(tests: Sequence[str], *, timeout: float = _WHOLE, each: float = _ONE_TEST, first: bool = False) -> Run:
    """Run tests of the suite on mutants, each named ``TestMutant`` or ``TestMutant::test_name``, in bounded time.

    :param timeout: seconds for all of them.
    :param each: seconds for each.
    :param first: whether the run ends with the first test that finds the defect.
    """
    with tempfile.TemporaryDirectory(dir=_FOLDER) as folder:
        reports, wanted = Path(folder, "reports"), Path(folder, "wanted")
        reports.touch()
        wanted.write_text("\n".join(tests), encoding="utf-8")
        command = [
            *(sys.executable, "-m", "pytest", "-q", "--tb=short", "--noconftest", "--import-mode=importlib"),
            *("-c", os.devnull, "--rootdir", folder, "--basetemp", str(Path(folder, "tmp"))),
            # The suite has a limit of its own for each test.
            *("-p", "no:cacheprovider", "-W", "ignore::pytest.PytestUnknownMarkWarning", "-p", "no:timeout"),
            *("-p", "conformance.mutants.reports", "--reports", str(reports), "--wanted", str(wanted)),
            *(["--first"] if first else []),
            str(_KIT_ON_MUTANTS),
        ]
        where = os.pathsep.join([str(_TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": where, TIME_LIMIT: f"{each}"}
        deadline = time.monotonic() + timeout
        outputs, ends = [], list[str]()
        finished = False
        while not finished and len(ends) < _MOST_ENDS:
            code, output = _run_pytest(command, folder, environment, deadline - time.monotonic())
            outputs.append(output)
            if code is None:
                break
            finished = code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
            if not finished:
                # A mutant has ended the process, or broken pytest. The next process goes on after that test.
                ends.append(f"exit code {code}:\n{output[-_LAST:]}")
        lines = [
            json.loads(each)
            for each in reports.read_text(encoding="utf-8").splitlines(keepends=True)
            if each.endswith("\n")
        ]
    return Run([Result(**each) for each in lines if "begun" not in each], finished, "\n".join(outputs), ends)


def _run_pytest(command: list[str], folder: str, environment: dict[str, str], timeout: float) -> tuple[int | None, str]:
    """Return the exit code, or None if the time was over, and the output."""
    process = subprocess.Popen(
        command, cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=max(timeout, 0))
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return None, output
    return process.returncode, output


def _run_all(name: str, timeout: float = _WHOLE, *, first: bool = False) -> tuple[Run, Run]:
    """Run the suite without the model, and then the model, each within its time."""
    others = [test for test in _SUITE if test not in _MODEL]
    return (
        run_kit([f"Test{name}::{test}" for test in others], timeout=timeout, first=first),
        run_kit([f"Test{name}::{test}" for test in _MODEL], timeout=timeout, each=timeout, first=first),
    )


def _row(mutant: Mutant, run: Run, model: Run, *, whole: bool) -> str:
    tests = dict.fromkeys((each.part.split("_")[1], each.test) for each in run.kills)
    by = ", ".join(f"{number} {part}" for part, number in Counter(part for part, _ in tests).items())
    count = f"; {len(tests)} tests{f' ({by})' if by else ''}" if whole else ""
    lines = [
        f"{mutant.name}: {mutant.defect}.",
        f"    first kill {_first(run)}{count}: " + ", ".join([test for _, test in tests][:_NAMED]),
        f"    model: {_first(model)}",
    ]
    if not run.finished:
        lines.append(f"    ended after {_WHOLE:.0f} s, with {len(run.results)} results")
    if not run.kills:
        lines += [f"    {each}" for each in sorted({each.error for each in run.failed})[:_NAMED]]
    return "\n".join(lines)


def _first(run: Run) -> str:
    if run.kills:
        return f"after {run.kills[0].seconds:.1f} s"
    return "never" if run.finished and not run.failed else "not in time"


def _show(name: str) -> int:
    """Print the failures on one mutant, and the steps that hypothesis shrank a sequence to."""
    run, model = _run_all(name)
    for each in [*run.kills[:_NAMED], *model.kills]:
        print(f"{each.name}, after {each.seconds:.1f} s\n{each.error}\n{each.steps}\n")
    return 0 if run.kills or model.kills else 1


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Run the suite on every mutant, until a test finds the defect.")
    parser.add_argument("names", nargs="*", help="mutants; all, unless named")
    parser.add_argument("--show", metavar="NAME", help="print how one mutant is found, with the shrunk steps")
    parser.add_argument(
        "--whole", action="store_true", help="go on after the first test that finds a defect: some hours"
    )
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    options = parser.parse_args(arguments)
    for name in [*options.names, *filter(None, [options.show])]:
        if name not in MUTANTS:
            parser.error(f"{name!r} is no mutant. {did_you_mean(name, MUTANTS)}Known: {', '.join(MUTANTS)}.")
    if options.show:
        return _show(options.show)
    mutants = [MUTANTS[each] for each in options.names] if options.names else list(MUTANTS.values())
    failures = found_by_model = 0
    for name in RIGHT if not options.names else ():
        runs = _run_all(name, 3 * _WHOLE)
        wrong = [each.name for run in runs for each in run.failed]
        print(
            f"{name}, which is right: {sum(len(run.results) for run in runs)} tests, failed: {wrong or 'none'}",
            flush=True,
        )
        failures += bool(wrong) or not all(run.finished and run.results for run in runs)
    with ThreadPoolExecutor(options.jobs) as pool:
        runs_of = partial(_runs_of, first=not options.whole)
        for mutant, (run, model) in zip(mutants, pool.map(runs_of, mutants), strict=True):
            print(_row(mutant, run, model, whole=options.whole), flush=True)
            failures += not run.kills
            found_by_model += bool(model.kills)
    print(f"{len(mutants)} mutants, {_WHOLE:.0f} s for each; the model finds {found_by_model}; {failures} failures")
    return 1 if failures else 0


def _runs_of(mutant: Mutant, *, first: bool) -> tuple[Run, Run]:
    return _run_all(mutant.name, first=first)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
