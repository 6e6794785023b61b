"""Every, Calendar, RRule and Times beside other ways to compute the same; and the rules that are refused."""

from __future__ import annotations

import random

from datetime import UTC, datetime, timedelta, timezone
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest

from dateutil.relativedelta import relativedelta
from dateutil.rrule import rrulestr
from hypothesis import given
from hypothesis import strategies as st

import pitstop

from pitstop import Calendar, Cron, Every, RRule, ScheduleError, Times
from pitstop._recurrence._base import following
from pitstop._recurrence._registry import load_recurrence


NOON = datetime(2031, 5, 4, 12, tzinfo=UTC)
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kolkata"]


def as_the_clock_shows(reading, zone):
    """Return the UTC time of a reading: the first pass of a fold, and the end of a gap."""
    at = reading.replace(tzinfo=zone, fold=0)
    back = at.astimezone(UTC).astimezone(zone)
    if back.replace(tzinfo=None) == reading:
        return at.astimezone(UTC)
    # The reading is skipped. Step back to the last minute before the gap, and then to the first after it.
    at = at.astimezone(UTC)
    offset = at.astimezone(zone).utcoffset()
    while (at - timedelta(minutes=1)).astimezone(zone).utcoffset() == offset:
        at -= timedelta(minutes=1)
    return at


class TestEvery:
    def test_a_text_a_timedelta_and_the_rule_are_the_same(self):
        assert Every("1h30m") == Every(timedelta(minutes=90)) == Every("90m")
        assert repr(Every(timedelta(hours=1))) == "Every('1h')"
        assert Every("1h").timedelta == timedelta(hours=1)

    def test_each_millisecond_since_1970_takes_no_longer_than_one_of_today(self):
        begin = datetime(1970, 1, 1, tzinfo=UTC)
        rule = Every("1ms")
        now = 1_900_000_000_123
        for _ in range(1000):
            assert rule.after(now, 0) == now + 1
            assert rule.latest(now, 0) == now
            assert rule.count(0, now, 0) == now
        assert list(islice(rule.occurrences(begin), 2)) == [begin, begin + timedelta(milliseconds=1)]

    @pytest.mark.parametrize(
        ("every", "text"),
        [
            (timedelta(0), "every=datetime.timedelta(0) is not positive. Give the time from one occurrence to the next."),
            ("0s", "every='0s' is not positive. Give the time from one occurrence to the next."),
            (timedelta(microseconds=1), "every=datetime.timedelta(microseconds=1) is not a whole number of milliseconds. Round it, or it would drift."),
            ("often", "every='often' is no interval. Give a timedelta, or text such as '15m', '1h30m' or '250ms'."),
            ("0 9 * * MON-FRI", "every='0 9 * * MON-FRI' is no interval. For a cron expression, give Cron('0 9 * * *')."),
            ("@daily", "every='@daily' is no interval. For a cron expression, give Cron('0 9 * * *')."),
            ("1mo", "every='1mo' is no interval. For months and years, give Calendar(months=1)."),
            ("every month", "every='every month' is no interval. For months and years, give Calendar(months=1)."),
            ("FREQ=DAILY", "every='FREQ=DAILY' is no interval. For a rule of RFC 5545, give RRule('FREQ=DAILY')."),
            ("200000d", "every='200000d' is longer than 100 years. Give a shorter duration."),
            (60, "every=60 is no interval. Give a timedelta, or text such as '1h30m'."),
            (float("inf"), "every=inf is no interval. Give a timedelta, or text such as '1h30m'."),
        ],
    )  # fmt: skip
    def test_what_is_no_interval_is_refused(self, every, text):
        with pytest.raises(ScheduleError) as caught:
            Every(every)
        assert str(caught.value) == text

    def test_a_duration_of_months_that_counts_as_days_is_refused(self):
        """As the Duration of pendulum, which is a timedelta."""

        class Duration(timedelta):
            months = years = 0

        month = Duration(days=30)
        month.months = 1
        with pitstop.init("memory://") as pit:
            pit.store({"id": "a"}, every=Duration(days=30))
            with pytest.raises(
                ScheduleError, match=r"has months or years, whose length varies. Give Calendar\(months=1\)"
            ):
                pit.store({"id": "b"}, every=month)


class TestCalendar:
    def test_the_day_is_counted_from_the_start(self):
        found = Calendar(months=1, tz="UTC").occurrences(datetime(2031, 1, 31, 9, tzinfo=UTC))
        assert [each.day for each in islice(found, 5)] == [31, 28, 31, 30, 31]

    def test_the_29th_of_february_comes_back(self):
        found = Calendar(years=1).occurrences(datetime(2024, 2, 29, tzinfo=UTC))
        assert [(each.month, each.day) for each in islice(found, 5)] == [(2, 29), (2, 28), (2, 28), (2, 28), (2, 29)]

    def test_nine_in_berlin_stays_nine_in_berlin(self):
        zone = ZoneInfo("Europe/Berlin")
        found = Calendar(days=1, tz=zone).occurrences(datetime(2026, 3, 27, 9, tzinfo=zone))
        assert [each.astimezone(zone).hour for each in islice(found, 4)] == [9, 9, 9, 9]
        assert [
            each.hour
            for each in islice(Calendar(days=1, tz=zone).occurrences(datetime(2026, 3, 27, 9, tzinfo=zone)), 4)
        ] == [8, 8, 7, 7]

    def test_is_dateutils_relativedelta_from_the_start_in_4000_cases(self):
        rng = random.Random(1)
        for case in range(4000):
            name = rng.choice(ZONES)
            zone = ZoneInfo(name)
            unit = rng.choice(["days", "weeks", "months", "years"])
            number = rng.choice([1, 1, 2, 3, 5, 12])
            anchor = datetime(2009, 1, 1) + timedelta(minutes=rng.randrange(8 * 365 * 24 * 60))
            start = as_the_clock_shows(anchor, zone)
            anchor = start.astimezone(zone).replace(tzinfo=None)
            index = rng.randrange(60)
            wanted = as_the_clock_shows(anchor + relativedelta(**{unit: number * (index + 1)}), zone)
            before = as_the_clock_shows(anchor + relativedelta(**{unit: number * index}), zone) if index else start
            rule = Calendar(**{unit: number}, tz=name)
            ms = [round(each.timestamp() * 1000) for each in (before, wanted, start)]
            where = (case, name, unit, number, start, index)
            if ms[0] == ms[1]:
                # Apia had no 30 December 2011: two days become one.
                assert name == "Pacific/Apia"
                continue
            assert rule.after(ms[0], ms[2]) == ms[1], where
            assert rule.after(ms[1] - 1, ms[2]) == ms[1], where
            assert rule.latest(ms[1], ms[2]) == ms[1], where
            if ms[1] - 1 > ms[0]:
                assert rule.latest(ms[1] - 1, ms[2]) == ms[0], where

    def test_a_time_that_the_clock_skips_comes_at_the_first_instant_after_the_gap(self):
        zone = ZoneInfo("Europe/Berlin")
        found = islice(Calendar(days=1, tz=zone).occurrences(datetime(2026, 3, 28, 2, 30, tzinfo=zone)), 3)
        assert list(found) == [
            datetime(2026, 3, 28, 1, 30, tzinfo=UTC),
            datetime(2026, 3, 29, 1, 0, tzinfo=UTC),
            datetime(2026, 3, 30, 0, 30, tzinfo=UTC),
        ]

    def test_a_midnight_that_came_does_not_come_again_when_the_clock_goes_back_to_the_day_before(self):
        """In St. John's the clock went from 00:01 on 7 November 2010 back to 23:01 on the 6th."""
        zone = ZoneInfo("America/St_Johns")
        rule, start = Calendar(days=1, tz=zone), datetime(2010, 11, 1, tzinfo=zone)
        midnight = datetime(2010, 11, 7, tzinfo=zone)
        begin, came = (round(each.timestamp() * 1000) for each in (start, midnight))
        second_pass = came + 15 * 60_000
        assert rule.latest(second_pass, begin) == came
        assert rule.after(second_pass, begin) == came + 25 * 3_600_000
        assert rule.count(begin, came, begin) == 6

    def test_occurrences_are_counted_by_arithmetic(self):
        rule, start = Calendar(days=1, tz="Europe/Berlin"), 1_900_000_000_000
        last = rule.latest(start + 86_400_000 * 36_500, start)
        assert rule.count(start, last, start) == 36_500

    def test_it_ends_with_the_year_9999(self):
        start = datetime(9990, 6, 1, tzinfo=UTC)
        assert len(list(Calendar(years=1).occurrences(start))) == 10
        assert len(list(Calendar(weeks=100_000).occurrences(start))) == 1

    @pytest.mark.parametrize(
        ("units", "text"),
        [
            ({}, "Calendar() has no units. Give one of: days, weeks, months, years. A month and some days have no fixed length."),
            ({"months": 1, "days": 10}, "Calendar(days=10, months=1) has 2 units. Give one of: days, weeks, months, years. A month and some days have no fixed length."),
            ({"days": 0}, "Calendar(days=0) cannot be used. Give a whole number from 1 to 100000."),
            ({"days": True}, "Calendar(days=True) cannot be used. Give a whole number from 1 to 100000."),
            ({"months": 1.5}, "Calendar(months=1.5) cannot be used. Give a whole number from 1 to 100000."),
            ({"years": 10**30}, "Calendar(years=1000000000000000000000000000000) cannot be used. Give a whole number from 1 to 100000."),
        ],
    )  # fmt: skip
    def test_what_is_no_unit_is_refused(self, units, text):
        with pytest.raises(ScheduleError) as caught:
            Calendar(**units)
        assert str(caught.value) == text


class TestRRule:
    def test_the_start_gives_what_the_rule_leaves_out(self):
        start = datetime(2031, 5, 4, 9, 30, 15, tzinfo=UTC)
        assert list(islice(RRule("FREQ=WEEKLY;INTERVAL=2").occurrences(start), 2)) == [
            start,
            start + timedelta(days=14),
        ]
        assert [each.day for each in islice(RRule("FREQ=MONTHLY;BYDAY=-1FR").occurrences(start), 3)] == [30, 27, 25]

    def test_it_is_dateutils_rule_in_random_cases(self):
        rng = random.Random(2)
        compared = 0
        for _ in range(400):
            text = random_rule(rng)
            start = datetime(2020, 1, 1) + timedelta(minutes=rng.randrange(3 * 365 * 24 * 60))
            # A week that the start cuts in two is cut by dateutil before BYSETPOS counts.
            if "BYSETPOS" in text and "WEEKLY" in text:
                start -= timedelta(days=start.weekday())
            until = start + timedelta(days=rng.choice([40, 400, 2000]))
            begin, end = (each.replace(tzinfo=UTC) for each in (start, until))
            try:
                found = [each.replace(tzinfo=None) for each in islice(RRule(text).occurrences(begin, end), 40)]
                next(RRule(text).occurrences(begin))
            except ScheduleError:
                # It never occurs. Some of these rules make dateutil search without end.
                continue
            compared += 1
            last = until - timedelta(microseconds=1)
            wanted = list(islice(rrulestr(text, dtstart=start).replace(until=last), 40))
            assert found == wanted, (text, start)
        assert compared > 370

    def test_a_time_that_the_clock_skips_is_left_out(self):
        zone = ZoneInfo("Europe/Berlin")
        start = datetime(2025, 3, 29, 2, 30, tzinfo=zone)
        found = islice(RRule("FREQ=DAILY", tz=zone).occurrences(start), 3)
        assert [each.astimezone(zone).day for each in found] == [29, 31, 1]

    def test_a_time_that_the_clock_shows_twice_comes_once(self):
        zone = ZoneInfo("Europe/Berlin")
        start = datetime(2025, 10, 25, 2, 30, tzinfo=zone)
        found = [each.isoformat() for each in islice(RRule("FREQ=DAILY", tz=zone).occurrences(start), 3)]
        assert found == ["2025-10-25T00:30:00+00:00", "2025-10-26T00:30:00+00:00", "2025-10-27T01:30:00+00:00"]

    def test_an_old_start_makes_it_no_slower(self):
        rule, start = RRule("FREQ=DAILY;INTERVAL=3"), 0
        at = 1_900_000_000_000
        assert rule.after(at, start) == (at // (3 * 86_400_000) + 1) * 3 * 86_400_000

    @pytest.mark.parametrize(
        ("rule", "text"),
        [
            ("every day", "'EVERY DAY' is no part of a rule. Give parts as in 'FREQ=MONTHLY;BYDAY=-1FR'."),
            ("BYDAY=MO", "FREQ is missing. Give FREQ= and one of: YEARLY, MONTHLY, WEEKLY, DAILY."),
            ("FREQ=FORTNIGHTLY", "FREQ='FORTNIGHTLY' is unknown. Give FREQ= and one of: YEARLY, MONTHLY, WEEKLY, DAILY."),
            ("FREQ=HOURLY", "FREQ=HOURLY is not taken here. Give Every('1h') or a Cron in place of it."),
            ("FREQ=DAILY;INTERVAL=0", "INTERVAL=0 cannot be used. Give a whole number from 1 to 1000."),
            ("FREQ=DAILY;INTERVAL=-1", "INTERVAL=-1 cannot be used. Give a whole number from 1 to 1000."),
            ("FREQ=DAILY;COUNT=3", "COUNT is not taken here. Give an end in place of it: store(..., end=...)."),
            ("FREQ=DAILY;UNTIL=20310101", "UNTIL is not taken here. The end of the series is the 'end' of store(), and it is exclusive."),
            ("DTSTART=20310101;FREQ=DAILY", "DTSTART is not taken here. The start of the series is the 'when' of store()."),
            ("FREQ=DAILY;EXRULE=1", "EXRULE is not taken here. Store a Recurrence of your own, or let the handler skip these times."),
            ("FREQ=DAILY;BYDAYS=MO", "'BYDAYS' is unknown. Did you mean 'BYDAY'? Known: FREQ, INTERVAL, WKST, BYDAY, BYMONTH, BYMONTHDAY, BYYEARDAY, BYWEEKNO, BYSETPOS, BYHOUR, BYMINUTE, BYSECOND."),
            ("FREQ=DAILY;BYHOUR=24", "BYHOUR has '24'. Give numbers from 0 to 23."),
            ("FREQ=MONTHLY;BYMONTHDAY=0", "BYMONTHDAY has '0'. Give numbers from 1 to 31, or -31 to -1."),
            ("FREQ=WEEKLY;BYDAY=1MO", "a number before a day of the week needs FREQ=MONTHLY or YEARLY, and no BYWEEKNO. Give the day alone."),
            ("FREQ=DAILY;FREQ=DAILY", "FREQ is given twice. Give one list, as in FREQ=1,2."),
            ("FREQ=DAILY;BYSETPOS=1", "BYSETPOS chooses from a list, and there is none. Give BYDAY or another list."),
        ],
    )  # fmt: skip
    def test_what_a_schedule_cannot_have_is_refused(self, rule, text):
        with pytest.raises(ScheduleError) as caught:
            RRule(rule)
        assert str(caught.value) == f"RRule({rule!r}): {text}"

    def test_each_minute_of_a_day_is_allowed_and_each_second_is_not(self):
        numbers = {name: ",".join(map(str, range(count))) for name, count in (("BYHOUR", 24), ("BYMINUTE", 60))}
        each_minute = "FREQ=DAILY;" + ";".join(f"{name}={values}" for name, values in numbers.items())
        found = list(RRule(each_minute + ";BYSECOND=0").occurrences(NOON, NOON + timedelta(days=2)))
        assert found == [NOON + timedelta(minutes=each) for each in range(2 * 24 * 60)]
        with pytest.raises(
            ScheduleError, match=r"has 2880 times a day\. Give at most 1440, or Every\('1s'\) or a Cron"
        ):
            RRule(each_minute + ";BYSECOND=0,30")

    def test_several_lines_are_refused(self):
        with pytest.raises(ScheduleError, match="has several lines"):
            RRule("DTSTART:20310101T000000\nRRULE:FREQ=DAILY")


def random_rule(rng):  # noqa: C901 - one choice after the other
    def some(least, most, count=3):
        return ",".join(str(each) for each in sorted({rng.randint(least, most) for _ in range(rng.randint(1, count))}))

    frequency = rng.choice(["YEARLY", "MONTHLY", "WEEKLY", "DAILY"])
    parts = [f"FREQ={frequency}", f"INTERVAL={rng.choice([1, 1, 1, 2, 3, 7])}"]
    days = ["MO", "TU", "WE", "TH", "FR", "SA", "SU"]
    lists = 0
    if rng.random() < 0.3:
        parts.append(f"BYMONTH={some(1, 12, 6)}")
    if rng.random() < 0.5:
        chosen = sorted(set(rng.choices(days, k=rng.randint(1, 4))), key=days.index)
        if frequency in ("YEARLY", "MONTHLY") and rng.random() < 0.6:
            # Numbered days alone: mixed lists mean nothing to dateutil.
            chosen = [f"{rng.choice([1, 2, 3, 4, 5, -1, -2])}{each}" for each in chosen]
        parts.append(f"BYDAY={','.join(chosen)}")
        lists += 1
    elif frequency in ("YEARLY", "MONTHLY", "DAILY") and rng.random() < 0.5:
        parts.append(f"BYMONTHDAY={rng.choice([some(1, 31), some(-31, -1), '13,-1'])}")
        lists += 1
    elif frequency == "YEARLY" and rng.random() < 0.6:
        parts.append(
            rng.choice([f"BYYEARDAY={some(1, 366)}", f"BYYEARDAY={some(-366, -1)}", f"BYWEEKNO={some(1, 53)}"])
        )
        lists += 1
    if rng.random() < 0.3:
        parts.append(f"BYHOUR={some(0, 23)}")
        lists += 1
    if rng.random() < 0.2:
        parts.append(f"BYMINUTE={some(0, 59)}")
        lists += 1
    if lists and rng.random() < 0.3:
        parts.append(f"BYSETPOS={rng.choice(['1', '-1', '2', '1,-1'])}")
    if rng.random() < 0.2 and not any("BYSETPOS" in each for each in parts):
        parts.append(f"WKST={rng.choice(['SU', 'MO', 'WE'])}")
    return ";".join(parts)


class TestTimes:
    def test_they_are_sorted_and_each_comes_once(self):
        later = NOON + timedelta(hours=1)
        assert list(Times([later, NOON, NOON.astimezone(ZoneInfo("Asia/Tokyo"))]).occurrences(NOON)) == [NOON, later]

    def test_the_latest_and_the_count_are_exact(self):
        rule = Times([NOON + timedelta(days=each) for each in range(1000)])
        start, day = round(NOON.timestamp() * 1000), 86_400_000
        assert rule.latest(start + 10 * day + 5, start) == start + 10 * day
        assert rule.count(start, start + 999 * day, start) == 999
        assert rule.after(start + 999 * day, start) is None
        assert rule.latest(start + 5, start + 1) is None

    def test_what_is_no_list_of_times_is_refused(self):
        for times, text in [
            ([], r"Times\(\[\]\) has no occurrence"),
            ([datetime(2031, 1, 1)], r"times\[0\]=.* is naive"),
            (["2031-01-01"], "entry 0 is a str. Give aware datetimes"),
            ("2031", "is no list"),
            (5, "is no list"),
            ([NOON] * 1001, "more than 1000 entries"),
            (iter(lambda: NOON, None), "more than 1000 entries"),
            ([datetime(1969, 1, 1, tzinfo=UTC)], "outside of the years 1970 to 9999"),
            ([datetime.max.replace(tzinfo=UTC)], "outside of the years 1970 to 9999"),
        ]:
            with pytest.raises(ScheduleError, match=text):
                Times(times)


WEST = ZoneInfo("America/New_York")


@pytest.mark.parametrize("rule", [Calendar(days=1, tz=WEST), RRule("FREQ=DAILY", tz=WEST), Cron("0 22 * * *", tz=WEST)])
def test_the_end_of_all_dates_ends_a_series_west_of_greenwich(rule):
    """Ten in the evening of the last day is in the year 10000 by UTC."""
    start = datetime(9999, 12, 29, 22, tzinfo=WEST)
    assert [each.day for each in rule.occurrences(start)] == [30, 31]
    begin = round(start.timestamp() * 1000)
    last = begin + 86_400_000
    assert rule.latest(last + 1, begin) == last
    assert following(rule, last, begin) is None


rules = st.one_of(
    st.builds(Every.of_ms, st.integers(1, 10**12)),
    st.builds(
        lambda unit, number, tz: Calendar(**{unit: number}, tz=tz),
        st.sampled_from(["days", "weeks", "months", "years"]), st.integers(1, 500), st.sampled_from(ZONES),
    ),
    st.builds(Cron, st.sampled_from(["* * * * *", "0 9 * * MON-FRI", "*/7 */2 L * *", "30 0 2 * * *", "@daily"]), st.sampled_from(ZONES)),
    st.builds(RRule, st.sampled_from(["FREQ=DAILY", "FREQ=MONTHLY;BYDAY=-1FR", "FREQ=YEARLY;BYWEEKNO=20"]), st.sampled_from(ZONES)),
    st.builds(Times, st.lists(st.datetimes(datetime(1970, 1, 2), datetime(9999, 1, 1), timezones=st.just(UTC)), min_size=1, max_size=9)),
)  # fmt: skip


@given(rules)
def test_the_stored_form_gives_back_an_equal_rule(rule):
    plain = rule.to_plain()
    assert load_recurrence(plain) == rule
    assert load_recurrence(plain).to_plain() == plain
    assert hash(load_recurrence(plain)) == hash(rule)
    assert plain["v"] == 1
    assert all(isinstance(each, int | str | list) for each in plain.values())


@given(rules, st.integers(0, 4_000_000_000_000), st.integers(0, 10**12))
def test_the_next_is_later_and_the_latest_is_the_one_before_it(rule, start, later):
    instant = start + later
    found = rule.after(instant, start)
    last = rule.latest(instant, start)
    assert found is None or found > instant
    assert last is None or start <= last <= instant
    if last is not None:
        assert rule.after(last, start) == found
        assert rule.after(last - 1, start) == last
    if found is not None:
        assert rule.latest(found, start) == found


@given(rules, st.integers(0, 4_000_000_000_000))
def test_occurrences_are_in_order_and_in_their_bounds(rule, start):
    begin = datetime.fromtimestamp(start / 1000, UTC)
    found = list(islice(rule.occurrences(begin), 5))
    assert all(one < other for one, other in pairwise(found))
    assert all(each.tzinfo is UTC for each in found)
    if found:
        assert list(rule.occurrences(begin, found[-1])) == found[:-1]


@pytest.mark.parametrize(
    "plain",
    [
        {"v": 1, "kind": "cron", "expr": "* * * * *"},
        {"v": 1, "kind": "cron", "expr": "* * * * *", "tz": "UTC", "more": 1},
        {"v": 1, "kind": "cron", "expr": 5, "tz": "UTC"},
        {"v": 1, "kind": "cron", "expr": "0 0 31 2 *", "tz": "UTC"},
        {"v": 1, "kind": "cron", "expr": "* * * * *", "tz": "Mars/Olympus"},
        {"v": 2, "kind": "cron", "expr": "* * * * *", "tz": "UTC"},
        {"v": 1, "kind": "calendar", "months": 1},
        {"v": 1, "kind": "calendar", "months": 1, "days": 1, "tz": "UTC"},
        {"v": 1, "kind": "calendar", "months": "1", "tz": "UTC"},
        {"v": 1, "kind": "rrule", "rule": "FREQ=HOURLY", "tz": "UTC"},
        {"v": 1, "kind": "times", "ms": []},
        {"v": 1, "kind": "times", "ms": [2, 1]},
        {"v": 1, "kind": "times", "ms": "12"},
        {"v": 1, "kind": "acme.unknown"},
        {"v": 1, "kind": "pitstop._recurrence._cron:Cron", "expr": "* * * * *", "tz": "UTC"},
    ],
)
def test_a_stored_form_that_is_not_known_exactly_is_an_error(plain):
    with pytest.raises(ScheduleError):
        load_recurrence(plain)


def test_a_fixed_offset_is_no_zone():
    with pytest.raises(ScheduleError, match="zone without a name"):
        Calendar(days=1, tz=timezone(timedelta(hours=2)))


def test_all_rules_are_public_and_say_what_they_are():
    for each in (Every("1h"), Calendar(days=1), Cron("@daily"), RRule("FREQ=DAILY"), Times([NOON])):
        assert isinstance(each, pitstop.Recurrence)
        assert repr(each).startswith(type(each).__name__)
