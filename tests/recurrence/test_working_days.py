"""The example of a kind of another author: its own tests, and its entry point."""

from __future__ import annotations

import sys
import threading
import tomllib

from pathlib import Path

import pytest

import pitstop

from pitstop._recurrence import _registry


EXAMPLE = Path(__file__).parents[2] / "examples" / "working-days"
sys.path.insert(0, str(EXAMPLE / "src"))

from pitstop_conformance import RecurrenceSuite  # noqa: E402 - as above
from working_days import WorkingDays  # noqa: E402 - the example is not installed


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(_registry, "_KINDS", dict(_registry._KINDS))
    pitstop.register_recurrence(WorkingDays)


class TestWorkingDays(RecurrenceSuite):
    rules = (WorkingDays("09:00", "Europe/Berlin", ["2031-05-01"]), WorkingDays("02:30", "America/New_York"))


def test_the_entry_point_names_the_class_by_its_kind():
    points = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]["entry-points"]["pitstop.recurrences"]
    assert points == {WorkingDays.kind: "working_days:WorkingDays"}


def test_a_rule_that_works_in_its_own_thread_alone_fails_the_suite():
    class Bound(WorkingDays):
        def after(self, instant, start):
            if threading.current_thread() is not threading.main_thread():
                raise RuntimeError("another thread")
            return super().after(instant, start)

    class Suite(RecurrenceSuite):
        rules = (Bound("09:00", "UTC"),)

    with pytest.raises(AssertionError, match="another thread"):
        Suite().test_the_answer_depends_on_the_arguments_alone([(Suite.rules[0], 0, [0, 1])])


def test_a_rule_that_goes_back_fails_the_suite():
    class Stuck(WorkingDays):
        def after(self, instant, start):
            return start

    class Suite(RecurrenceSuite):
        rules = (Stuck("09:00", "UTC"),)

    with pytest.raises(AssertionError):
        Suite().test_the_next_occurrence_is_an_int_and_later([(Suite.rules[0], 0, [0])])
