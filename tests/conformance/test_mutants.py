"""The suite finds defects: each mutant is a backend with one defect, and the tests that it names fail on it.

Only those tests run here. ``nox -s mutants`` runs the whole suite on every mutant, and lists all tests that fail.
"""

from __future__ import annotations

import pytest

from conformance.mutants.catalogue import MUTANTS
from conformance.mutants.run import Run, run_kit
from pitstop.testing import BackendConformance
from pitstop_conformance import kit_tests


# The first test waits for the run below.
pytestmark = pytest.mark.timeout(1000)

_QUICK = {name: mutant for name, mutant in MUTANTS.items() if not mutant.slow}


@pytest.fixture(scope="module")
def run() -> Run:
    """Run the tests that the mutants name, on the mutants and on the backends without a defect, in one process."""
    tests = [f"Test{name}::{test}" for name, mutant in _QUICK.items() for test in mutant.killed_by]
    tests += [f"Test{mutant.origin.__name__}::{test}" for mutant in _QUICK.values() for test in mutant.killed_by]
    # Both limits are far above the seconds of an idle machine. A test at its limit fails, and the run goes on.
    run = run_kit(list(dict.fromkeys(tests)), timeout=900, each=120)
    assert run.results, run.output
    assert run.finished, run.output[-3000:]
    assert not run.ends, run.ends
    return run


@pytest.mark.parametrize("name", _QUICK)
def test_the_tests_that_are_named_kill_the_mutant(name: str, run: Run) -> None:
    for test in MUTANTS[name].killed_by:
        results = [each for each in run.results if each.cls == f"Test{name}" and test in {each.test, each.name}]
        assert any(each.by_kit for each in results), [(each.name, each.outcome, each.error) for each in results]


def test_the_backends_that_they_were_made_of_pass_those_tests(run: Run) -> None:
    right = {f"Test{mutant.origin.__name__}" for mutant in _QUICK.values()}
    results = [each for each in run.results if each.cls in right]

    assert {each.cls for each in results} == right
    assert [each for each in results if each.outcome != "passed"] == []


def test_a_mutant_names_tests_of_the_suite() -> None:
    named = {test.partition("[")[0] for mutant in MUTANTS.values() for test in mutant.killed_by}

    assert named <= set(kit_tests(BackendConformance))
    assert all(mutant.killed_by for mutant in MUTANTS.values())
