"""Recurring messages of all kinds through store, emit, ack and next, on all backends."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import attrs
import pytest

import pitstop
import pitstop.testing

from pitstop import AtLeast, Calendar, Cron, Every, RRule, ScheduleError, Times


BERLIN = ZoneInfo("Europe/Berlin")
START = datetime(2026, 3, 27, 9, tzinfo=BERLIN)
RULES = [
    Every("1d"),
    Calendar(days=1, tz="Europe/Berlin"),
    Calendar(months=1, tz="Europe/Berlin"),
    Cron("0 9 * * MON-FRI", tz="Europe/Berlin"),
    RRule("FREQ=MONTHLY;BYDAY=-1FR", tz="Europe/Berlin"),
    Times([START + timedelta(hours=each) for each in range(5)]),
]


def emissions(pit, clock, count, *, id="a"):
    """Emit and acknowledge, each time at the moment at which the message is due."""
    found = []
    listener = pit.listen()
    while len(found) < count and (entry := pit.get(id)) is not None:
        clock.advance_to(max(pit.now(), entry.due))
        delivery = listener.get()
        found.append(delivery.scheduled_for)
        delivery.ack(wait=True)
    listener.stop()
    return found


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_each_kind_goes_from_occurrence_to_occurrence(pit, clock, rule):
    clock.advance_to(START - timedelta(days=1))
    pit.store({"id": "a"}, START, None, rule)
    entry = pit.get("a")
    assert entry.every == (rule.timedelta if isinstance(rule, Every) else rule)
    wanted = []
    for each in rule.occurrences(START):
        wanted.append(each)
        if len(wanted) == 4:
            break
    assert emissions(pit, clock, 4) == wanted


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_each_kind_can_be_stored_with_others(pit, clock, rule):
    clock.advance_to(START)
    pit.store_many([({"id": "a"}, None, None, rule), ({"id": "b"}, "1h")])
    assert pit.get("a").scheduled_for == next(rule.occurrences(START))
    assert pit.get("b").due == START + timedelta(hours=1)


def test_a_daily_message_from_berlin_keeps_its_hour(pit, clock):
    clock.advance_to(START - timedelta(days=1))
    pit.store({"id": "a"}, START, START + timedelta(days=4), Calendar(days=1, tz="Europe/Berlin"))
    assert [each.astimezone(BERLIN).hour for each in emissions(pit, clock, 9)] == [9, 9, 9, 9]
    assert pit.get("a") is None


def test_texts_are_intervals_and_distances(pit, clock):
    begin = pit.now()
    pit.store({"id": "a"}, "15m", "2h", "1h")
    assert emissions(pit, clock, 9) == [begin + timedelta(minutes=15), begin + timedelta(minutes=75)]
    for arguments, text in [
        (("soon",), "when='soon' is no distance from now. Give text such as '15m' or '1h30m'"),
        (("1h", "later", "1h"), "end='later' is no distance from now"),
        (("1h", None, "often"), "every='often' is no interval"),
    ]:
        with pytest.raises(ScheduleError, match=text):
            pit.store({"id": "b"}, *arguments)


def test_without_a_time_a_rule_begins_now_and_an_interval_comes_now(pit, clock):
    begin = pit.now()
    pit.store({"id": "rule"}, every=Cron("@daily"))
    pit.store({"id": "interval"}, every="1d")
    pit.store({"id": "once"})
    assert pit.get("rule").scheduled_for == next(Cron("@daily").occurrences(begin))
    assert pit.get("interval").scheduled_for == begin
    assert pit.get("once").scheduled_for == begin


def test_a_rule_without_an_occurrence_is_refused(pit, clock):
    now = pit.now()
    for every, end, text in [
        (Times([now - timedelta(days=1)]), None, r"has no occurrence from now\. Give other times\."),
        (Cron("@yearly"), now + timedelta(hours=1), r"has no occurrence from now until .*\. Give a later end\."),
        (RRule("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30"), None, "has no occurrence in the years"),
    ]:
        clock.advance("1ms")
        with pytest.raises(ScheduleError, match=text):
            pit.store({"id": "a"}, None, end, every)
    assert pit.get("a") is None


MISSED = [
    (Every("1m"), 5000, int),
    (Calendar(days=1), 400, int),
    (Cron("* * * * *"), 1000, AtLeast),
    (Cron("@hourly"), 500, int),
]


@pytest.mark.parametrize(("rule", "count", "kind"), MISSED, ids=[repr(each) for each, _, _ in MISSED])
def test_the_latest_of_the_missed_ones_comes_once(pit, clock, rule, count, kind):
    start = pit.now()
    pit.store({"id": "a"}, start, None, rule)
    times = rule.occurrences(start)
    for _ in range(count + 1):
        last = next(times)
    if kind is AtLeast:
        for _ in range(300):
            last = next(times)
    clock.advance_to(last)
    with pit.listen().get() as delivery:
        assert delivery.scheduled_for == last
        assert delivery.missed == count
        assert type(delivery.missed) is kind
    assert pit.get("a").scheduled_for == next(times)


def test_all_come_oldest_first_and_grace_bounds_how_old(pit, clock):
    start = pit.now()
    pit.store({"id": "a"}, start, None, Cron("@hourly"), catch_up="all", grace="3h")
    clock.advance("10h30m")
    found = []
    listener = pit.listen()
    while (delivery := listener.get()) is not None:
        found.append((delivery.scheduled_for - start, delivery.missed))
        delivery.ack(wait=True)
    first = start.replace(minute=0, second=0, microsecond=0)
    assert start == first
    assert found == [(timedelta(hours=8), 8), (timedelta(hours=9), 0), (timedelta(hours=10), 0)]


def test_skip_leaves_out_what_is_older_than_its_grace(pit, clock):
    start = pit.now()
    pit.store({"id": "a"}, start, None, Cron("@daily"), catch_up="skip", grace="10m")
    clock.advance("47h55m")
    assert pit.listen().get() is None
    assert pit.get("a").scheduled_for == start + timedelta(days=2)
    clock.advance("10m")
    with pit.listen().get() as delivery:
        assert delivery.scheduled_for == start + timedelta(days=2)


@pytest.mark.parametrize("kind", [{"v": 1, "kind": "acme.unknown", "port": "BRE"}, {"v": 9, "kind": "cron", "expr": "@daily", "tz": "UTC"}])  # fmt: skip
def test_a_kind_or_version_of_another_consumer_is_set_aside_and_keeps_nobody_waiting(pit, clock, kind):
    pit.store({"id": "unknown"}, every="1h")
    pit.store({"id": "known"}, every="1h")
    backend = pit._session.backend
    record = backend.get("unknown")
    backend.put([attrs.evolve(record, series={**record.series, "every": kind})])
    listener = pit.listen()
    with listener.get() as delivery:
        assert delivery.id == "known"
    assert listener.get() is None
    entry = pit.get("unknown")
    assert entry.state == "dead"
    assert "redrive" in entry.last_error


def test_a_year_of_half_past_two_in_berlin():
    """A daily message at 02:30, with a handler that runs each time.

    On 30 March 2025 the clocks go from 02:00 to 03:00. There is no 02:30, so the message comes at the first moment after the
    gap. On 26 October they go from 03:00 back to 02:00. 02:30 is shown twice, and the message comes in the first pass.
    """
    clock = pitstop.testing.ManualClock(datetime(2025, 1, 1, tzinfo=BERLIN))
    pit = pitstop.testing.init(clock=clock)
    pit.store({"id": "backup"}, every=Cron("30 2 * * *", tz="Europe/Berlin"))
    report = pit.run_for("365d", lambda message: None)
    shown = [each.astimezone(BERLIN) for each in report.times]
    assert len(shown) == len({each.date() for each in shown}) == 365
    odd = {each.date().isoformat(): each.strftime("%H:%M %z") for each in shown if each.strftime("%H:%M") != "02:30"}
    assert odd == {"2025-03-30": "03:00 +0200"}
    autumn = next(each for each in shown if each.date().isoformat() == "2025-10-26")
    assert autumn.strftime("%H:%M %z") == "02:30 +0200"


def test_a_weekly_calendar_keeps_its_hour_through_a_year_and_misses_no_week():
    clock = pitstop.testing.ManualClock(datetime(2024, 1, 1, 8, tzinfo=BERLIN))
    pit = pitstop.testing.init(clock=clock)
    first, end = datetime(2024, 1, 1, 8, 30, tzinfo=BERLIN), datetime(2025, 1, 1, 8, tzinfo=BERLIN)
    pit.store({"id": "digest"}, first, end, Calendar(weeks=1, tz=BERLIN), catch_up="skip", grace="1d")
    report = pit.run_for("366d", lambda message: None)
    assert [each.astimezone(BERLIN).strftime("%a %H:%M") for each in report.times] == ["Mon 08:30"] * 53
    assert pit.get("digest") is None
