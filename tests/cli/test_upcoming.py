"""``pitstop upcoming``: how many messages are to come, by the hour or by the day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

import pitstop

from pitstop import Cron
from pitstop.cli._upcoming import _Counting


@pytest.fixture
def count(invoke, lines):
    """The counts of the command: by the begin of the bucket, and by kind if that is asked."""

    def run(*args):
        result = invoke("upcoming", "--json", *args)
        assert result.exit_code == 0, result.stderr
        found = lines(result.stdout)
        return {(each["start"], each["kind"]) if "kind" in each else each["start"]: each["count"] for each in found}

    return run


def hour(when):
    return when.replace(minute=0, second=0, microsecond=0).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_messages_are_counted_by_the_hour_in_which_they_are_due(count, pit: pitstop.Pitstop):
    later = pit.now() + timedelta(hours=3)
    pit.store_many([({}, later) for _ in range(2500)])
    pit.store({}, later + timedelta(hours=1))
    pit.store({}, timedelta(days=2))
    assert count() == {hour(later): 2500, hour(later + timedelta(hours=1)): 1}
    assert sum(count("--for", "3d").values()) == 2502


def test_messages_that_are_due_come_first(count, pit: pitstop.Pitstop):
    pit.store_many([({}, timedelta(hours=-1)), ({}, timedelta(days=-3)), ({}, timedelta(hours=2))])
    counts = count()
    assert next(iter(counts)) is None
    assert counts[None] == 2


def test_messages_that_do_not_come_are_not_counted(count, pit: pitstop.Pitstop):
    pit.store({"id": "leased"}, timedelta(hours=-1))
    with pit.listen() as listener:
        assert listener.get().id == "leased"
        pit.store({"id": "paused"}, timedelta(hours=1))
        pit.pause("paused")
        pit.store({"id": "of a paused kind"}, timedelta(hours=1), kind="mail")
        pit.pause(kind="mail")
        assert count() == {}


def test_a_message_of_a_series_counts_each_occurrence(count, pit: pitstop.Pitstop):
    start = pit.now().replace(minute=30, second=0, microsecond=0) + timedelta(hours=1)
    pit.store({}, start, start + timedelta(hours=5), timedelta(hours=1))
    assert count() == {hour(start + timedelta(hours=n)): 1 for n in range(5)}
    assert sum(count("--for", "2h").values()) in {1, 2}


def test_the_later_occurrences_of_a_series_that_a_listener_has_are_counted(count, pit: pitstop.Pitstop):
    start = pit.now() - timedelta(minutes=1)
    pit.store({}, start, start + timedelta(hours=3), timedelta(hours=1))
    with pit.listen() as listener:
        assert listener.get() is not None
        assert sum(count().values()) == 2


@pytest.mark.parametrize(("catch_up", "due"), [("latest", 1), ("all", 4)])
def test_missed_occurrences_count_if_all_of_them_are_caught_up(count, pit: pitstop.Pitstop, catch_up, due):
    start = pit.now() - timedelta(minutes=35)
    pit.store({}, start, start + timedelta(minutes=60), timedelta(minutes=10), catch_up=catch_up)
    counts = count()
    assert counts.pop(None) == due
    assert sum(counts.values()) == 2


def test_kinds_are_counted_apart_or_chosen(count, pit: pitstop.Pitstop):
    when = pit.now() + timedelta(hours=1)
    pit.store({}, when, kind="mail")
    pit.store({}, when, kind="mail")
    pit.store({}, when)
    assert count("--by", "hour", "--by", "kind") == {(hour(when), ""): 1, (hour(when), "mail"): 2}
    assert count("--kind", "mail") == {hour(when): 2}
    assert count("--kind", "") == {hour(when): 1}


def test_a_series_that_comes_too_often_is_cut_and_the_user_reads_so(invoke, lines, pit: pitstop.Pitstop):
    pit.store({}, timedelta(hours=1), None, timedelta(seconds=1))
    result = invoke("upcoming", "--json")
    assert sum(each["count"] for each in lines(result.stdout)) == 10_000
    assert "1 series come more than 10,000 times" in result.stderr


def test_a_table_is_for_people(invoke, pit: pitstop.Pitstop):
    when = pit.now() + timedelta(days=1)
    pit.store_many([({}, when) for _ in range(1200)])
    pit.store({}, timedelta(0), kind="mail")
    result = invoke("upcoming", "--by", "day", "--by", "kind")
    assert result.exit_code == 0
    assert "due now" in result.stdout
    assert f"{when:%a %Y-%m-%d}" in result.stdout
    assert "1,200" in result.stdout
    assert "mail" in result.stdout


def test_an_empty_store_has_nothing_to_come(invoke, pit: pitstop.Pitstop):
    pit.ping()
    result = invoke("upcoming", "--json")
    assert (result.exit_code, result.stdout) == (0, "")
    assert invoke("upcoming").exit_code == 0


@pytest.mark.parametrize(
    "args", [("--by", "hour", "--by", "day"), ("--tz", "Mars/Base"), ("--by", "week"), ("--for", "x")]
)
def test_wrong_use(invoke, args):
    assert invoke("upcoming", *args).exit_code == 2


class TestZones:
    """Around a change of the clock, hours and days are those of the zone."""

    def counts(self, zone, times, *, daily=False, now="2026-10-24T00:00Z"):
        from zoneinfo import ZoneInfo

        counting = _Counting(
            now=datetime.fromisoformat(now),
            until=datetime.fromisoformat("2026-11-30T00:00Z"),
            zone=ZoneInfo(zone),
            daily=daily,
            by_kind=False,
            paused=frozenset(),
        )
        for each in times:
            when = datetime.fromisoformat(each)
            counting.add_entry(pitstop.Entry(id="a", message={}, state="scheduled", due=when, scheduled_for=when))
        return [(begin.isoformat(), count) for begin, _, count in counting.rows()]

    def test_an_hour_that_occurs_twice_has_two_rows(self):
        times = ["2026-10-25T00:10Z", "2026-10-25T00:50Z", "2026-10-25T01:10Z"]
        assert self.counts("Europe/Berlin", times) == [
            ("2026-10-25T02:00:00+02:00", 2),
            ("2026-10-25T02:00:00+01:00", 1),
        ]

    def test_a_day_of_25_hours_is_one_row(self):
        times = [
            "2026-10-24T22:00Z",
            "2026-10-25T00:30Z",
            "2026-10-25T01:30Z",
            "2026-10-25T22:59Z",
            "2026-10-25T23:00Z",
        ]
        assert self.counts("Europe/Berlin", times, daily=True) == [
            ("2026-10-25T00:00:00+02:00", 4),
            ("2026-10-26T00:00:00+01:00", 1),
        ]

    def test_zones_of_half_an_hour_have_hours_of_their_own(self):
        assert self.counts("Asia/Kolkata", ["2026-10-25T00:29Z", "2026-10-25T00:30Z"]) == [
            ("2026-10-25T05:00:00+05:30", 1),
            ("2026-10-25T06:00:00+05:30", 1),
        ]


def test_a_rule_by_the_calendar_is_counted_as_its_clock_shows_it(count, pit: pitstop.Pitstop):
    pit.store({}, None, None, Cron("0 9 * * *", tz="Europe/Berlin"))
    counts = count("--by", "day", "--for", "7d", "--tz", "Europe/Berlin")
    assert set(counts.values()) == {1}
    assert len(counts) == 7


def test_times_are_utc_without_a_zone(count, pit: pitstop.Pitstop):
    when = pit.now().astimezone(UTC) + timedelta(days=1)
    pit.store({}, when)
    (start,) = count("--by", "day")
    assert start == f"{when:%Y-%m-%d}T00:00:00.000Z"
