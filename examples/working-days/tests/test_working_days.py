"""The rule passes the suite for recurrences, and skips what it has to skip."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from zoneinfo import ZoneInfo

import pytest

from pitstop import ScheduleError
from pitstop_conformance import RecurrenceSuite
from working_days import WorkingDays


class TestWorkingDays(RecurrenceSuite):
    rules = (WorkingDays("09:00", "Europe/Berlin", ["2031-05-01"]), WorkingDays("02:30", "America/New_York"))


def test_a_holiday_and_a_weekend_are_skipped():
    berlin = ZoneInfo("Europe/Berlin")
    rule = WorkingDays("09:00", "Europe/Berlin", ["2031-05-01"])
    found = islice(rule.occurrences(datetime(2031, 4, 30, tzinfo=berlin)), 3)
    assert [each.astimezone(berlin).isoformat() for each in found] == [
        "2031-04-30T09:00:00+02:00",
        "2031-05-02T09:00:00+02:00",
        "2031-05-05T09:00:00+02:00",
    ]


def test_a_zone_is_kept_by_its_name():
    assert WorkingDays("09:00", ZoneInfo("Europe/Berlin")) == WorkingDays("09:00", "Europe/Berlin")


@pytest.mark.parametrize(
    "arguments",
    [
        ("nine", "UTC"),
        ("09:00:30", "UTC"),
        ("09:00+01:00", "UTC"),
        ("09:00", "Mars"),
        ("09:00", "UTC", ["1 May"]),
        ("09:00", "UTC", 5),
    ],
)
def test_what_cannot_be_read_is_refused(arguments):
    with pytest.raises(ScheduleError):
        WorkingDays(*arguments)
