"""Cron against a scan of each minute, around changes of the clock in sixteen zones."""

from __future__ import annotations

import os

from datetime import timedelta

import pitstop

from recurrence import wall_scan


#: Raise it for a long run: PITSTOP_CRON_CASES=20000 PITSTOP_CRON_SEED=7 pytest tests/recurrence/test_cron_scan.py
CASES = int(os.environ.get("PITSTOP_CRON_CASES", "300"))
SEED = int(os.environ.get("PITSTOP_CRON_SEED", "1"))


def test_each_time_is_where_a_scan_of_all_minutes_finds_it():
    wrong = []
    for expression, zone, begin, end in wall_scan.cases(CASES, SEED):
        try:
            rule = pitstop.Cron(expression.text, tz=zone)
        except pitstop.ScheduleError as error:
            # An expression such as "0 0 31 2 *" is made now and then. It has no time in the scan either.
            assert "can never match" in str(error), expression.text
            found = []
        else:
            found = list(rule.occurrences(begin, end))
        wanted = wall_scan.scan(expression, zone, begin, end)
        if found != wanted:
            wrong.append((expression.text, zone, sorted(set(found) ^ set(wanted))[:4]))
    assert wrong == []


def test_from_each_time_within_a_change_the_next_one_is_found():
    """The next time does not depend on the times before: a rule may be asked in the middle of a fold."""
    wrong = []
    for expression, zone, begin, end in wall_scan.cases(max(CASES // 20, 10), SEED + 1):
        try:
            rule = pitstop.Cron(expression.text, tz=zone)
        except pitstop.ScheduleError:
            continue
        wanted = wall_scan.scan(expression, zone, begin, end)
        for step in range(0, 3 * 24 * 60, 17):
            start = begin + timedelta(minutes=step, seconds=1)
            later = [each for each in wanted if each >= start]
            found = next(rule.occurrences(start, end), None)
            if found != (later[0] if later else None):
                wrong.append((expression.text, zone, start, found))
    assert wrong == []
