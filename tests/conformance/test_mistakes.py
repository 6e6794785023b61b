"""The table of mistakes in docs/writing-a-backend.md is that of the mutants, and says truly what version 5 of the suite found."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.mutants.mistakes import MISTAKES, NEW, Mistake, table
from pitstop.testing import BackendConformance
from pitstop_conformance import kit_tests


_PAGE = Path(__file__).parents[2] / "docs" / "writing-a-backend.md"


def test_the_page_has_the_table():
    """If not: PYTHONPATH=tests python -m conformance.mutants.mistakes"""
    assert table() in _PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda each: each.mutants[0])
def test_a_mistake_was_missed_before_if_all_its_tests_are_new(mistake: Mistake):
    parts = kit_tests(BackendConformance)

    new = [test in NEW or parts[test].__module__.rpartition(".")[2] in NEW for test in mistake.tests]

    assert all(new) is not mistake.before
