"""The suite finds defects that only a real PostgreSQL shows: row locks, collations, notifications, sessions.

A file of its own, so that these mutants run beside the others.
"""

from __future__ import annotations

import os

import pytest

from conformance.mutants.hooks import new_database
from conformance.mutants.on_postgres import ON_POSTGRES
from conformance.mutants.run import DATABASE, Run, run_kit
from pitstop.testing import BackendConformance
from pitstop_conformance import kit_tests
from servers import postgres


pytestmark = [
    # The first test waits for the run below.
    pytest.mark.timeout(1000),
    pytest.mark.skipif(not postgres.available(), reason="no PostgreSQL: set PITSTOP_TEST_POSTGRES_URI, or install it"),
]


@pytest.fixture(scope="module")
def run() -> Run:
    tests = [f"Test{name}::{test}" for name, mutant in ON_POSTGRES.items() for test in mutant.killed_by]
    tests += [f"TestPostgresBackend::{test}" for mutant in ON_POSTGRES.values() for test in mutant.killed_by]
    with new_database() as uri, pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, DATABASE, uri)
        run = run_kit(list(dict.fromkeys(tests)), timeout=900, each=120)
    assert run.finished, run.output[-3000:]
    assert not run.ends, run.ends
    return run


@pytest.mark.parametrize("name", ON_POSTGRES)
def test_the_tests_that_are_named_kill_the_mutant(name: str, run: Run) -> None:
    for test in ON_POSTGRES[name].killed_by:
        results = [each for each in run.results if each.cls == f"Test{name}" and test in {each.test, each.name}]
        assert any(each.by_kit for each in results), [(each.name, each.outcome, each.error) for each in results]


def test_the_backend_that_they_were_made_of_passes_those_tests(run: Run) -> None:
    results = [each for each in run.results if each.cls == "TestPostgresBackend"]

    assert results
    assert [each for each in results if each.outcome != "passed"] == []


def test_a_mutant_names_tests_of_the_suite() -> None:
    named = {test.partition("[")[0] for mutant in ON_POSTGRES.values() for test in mutant.killed_by}

    assert named <= set(kit_tests(BackendConformance))
