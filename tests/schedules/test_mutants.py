"""The old faults come back when their mends are taken out: the scenarios would find them."""

from __future__ import annotations

from contextlib import ExitStack
from importlib import import_module

import attrs
import pytest

from schedules.mutants import MUTANTS
from schedules.suite import run


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_scenario_fails(mutant):
    case = import_module(f"schedules.{mutant.suite}").cases.by_name[mutant.scenario]
    with ExitStack() as stack:
        mutant.patches(stack)
        runs, failure = run(attrs.evolve(case, runs=mutant.runs))
    assert failure is not None, f"{runs} schedules pass"
    assert mutant.error in f"{type(failure.error).__name__}: {failure.error}"
