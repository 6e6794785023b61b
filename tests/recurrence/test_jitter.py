"""Jitter delays an occurrence by a time that depends on the id and the occurrence alone."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pitstop import Calendar, Cron, Every, ScheduleError
from pitstop._values._jitter import spread
from pitstop._values._schedule import Schedule


HOUR = 3_600_000
START = 1_900_000_800_000


def test_each_occurrence_comes_late_by_its_own_time_and_the_rhythm_stays(pit, clock):
    start = pit.now()
    pit.store({"id": "a"}, start, None, "1h", jitter="10m")
    late = []
    listener = pit.listen()
    for index in range(6):
        entry = pit.get("a")
        assert entry.scheduled_for == start + timedelta(hours=index)
        late.append(entry.due - entry.scheduled_for)
        clock.advance_to(entry.due - timedelta(milliseconds=1))
        assert listener.get() is None or late[-1] == timedelta(0)
        clock.advance_to(entry.due)
        with listener.get() as delivery:
            assert delivery.scheduled_for == entry.scheduled_for
            assert delivery.missed == 0
    assert len(set(late)) > 3
    assert all(timedelta(0) <= each <= timedelta(minutes=10) for each in late)


def test_another_process_computes_the_same(pit):
    pit.store({"id": "a"}, "1h", jitter="10m")
    first = pit.get("a").due
    pit.store({"id": "a"}, pit.get("a").scheduled_for, jitter="10m")
    assert pit.get("a").due == first
    assert spread("a", 0, 1000) == 505
    assert spread("b", 0, 1000) != spread("a", 0, 1000)


@pytest.mark.parametrize("catch_up", ["latest", "all"])
def test_a_missed_occurrence_whose_jitter_is_not_over_does_not_come_early(catch_up):
    """The listener comes just after an occurrence, while that one still has to wait."""
    schedule = Schedule(START, None, Every("1h"), catch_up, None, 30 * 60_000)
    late = next(n for n in range(2, 99) if spread("a", START + n * HOUR, schedule.jitter) > 60_000)
    at = START + late * HOUR + 1
    choice = schedule.choose(START, at, "a")
    assert choice.occurrence == (START if catch_up == "all" else START + (late - 1) * HOUR)
    following = schedule.next(choice.occurrence)
    assert schedule.due(following, "a") > at or catch_up == "all"


@pytest.mark.parametrize("catch_up", ["skip", "all"])
def test_the_jitter_of_an_occurrence_does_not_use_up_its_grace(pit, clock, catch_up):
    """Each hour, up to 40 minutes later, and at most a minute late. The listener takes each occurrence when it is due."""
    start = pit.now()
    pit.store({"id": "a"}, start, None, "1h", catch_up=catch_up, grace="1m", jitter="40m")
    emitted = []
    listener = pit.listen()
    for _ in range(6):
        clock.advance_to(max(pit.now(), pit.get("a").due))
        with listener.get() as delivery:
            emitted.append(delivery.scheduled_for - start)
    assert emitted == [timedelta(hours=hour) for hour in range(6)]


@pytest.mark.parametrize("catch_up", ["skip", "all"])
def test_an_occurrence_whose_jitter_is_not_over_is_not_skipped_with_older_ones(pit, clock, catch_up):
    start = pit.now()
    ms = round(start.timestamp() * 1000)
    jitter = 40 * 60_000
    late = next(n for n in range(5, 99) if spread("a", ms + n * HOUR, jitter) > 10 * 60_000)
    pit.store({"id": "a"}, start, None, "1h", catch_up=catch_up, grace="1m", jitter="40m")
    clock.advance_to(start + timedelta(hours=late, minutes=5))
    listener = pit.listen()
    assert listener.get() is None
    assert pit.get("a").scheduled_for == start + timedelta(hours=late)
    clock.advance_to(pit.get("a").due)
    with listener.get() as delivery:
        assert delivery.scheduled_for == start + timedelta(hours=late)


@given(
    st.sampled_from(["skip", "all"]),
    st.integers(0, 3 * HOUR),
    st.integers(0, 3 * HOUR),
    st.lists(st.integers(1, 5 * HOUR), min_size=1, max_size=9),
)
def test_each_occurrence_that_is_in_time_is_emitted_once_however_the_listener_looks(catch_up, grace, jitter, steps):
    """Each occurrence is emitted, or was older than its grace at each look after it came, or came together with a newer one."""
    schedule = Schedule(START, None, Cron("0 * * * *"), catch_up, grace, jitter)
    pending, at, emitted = schedule.first(), START - 1, []
    for step in steps:
        at += step
        looks = 0
        while pending is not None and schedule.due(pending, "a") <= at:
            looks += 1
            assert looks < 50
            choice = schedule.choose(pending, at, "a")
            if choice is None:
                pending = schedule.resume(pending, at, "a")
                assert schedule.due(pending, "a") > at
                continue
            late = at - schedule.due(choice.occurrence, "a")
            assert 0 <= late <= grace
            emitted.append(choice.occurrence)
            pending = schedule.next(choice.occurrence)
    assert emitted == sorted(set(emitted))
    if catch_up == "all" and jitter < HOUR and grace >= 5 * HOUR:
        assert emitted == list(range(schedule.first(), pending, HOUR))


@given(st.text(max_size=9), st.integers(0, 10**13), st.integers(0, 10**9))
def test_it_is_never_early_and_never_more_than_was_asked_for(id, occurrence, jitter):
    assert 0 <= spread(id, occurrence, jitter) <= jitter


@given(st.integers(0, 100), st.integers(0, HOUR), st.integers(1, 3 * HOUR))
def test_nothing_that_comes_later_is_chosen(hours, more, jitter):
    schedule = Schedule(START, None, Cron("0 * * * *"), "latest", None, jitter)
    first = schedule.first()
    at = schedule.due(first, "a") + hours * HOUR + more
    choice = schedule.choose(first, at, "a")
    assert schedule.due(choice.occurrence, "a") <= at
    assert schedule.choose(first, at, "a") == choice


def test_the_stored_form_without_jitter_is_that_of_before():
    plain = Schedule(START, None, Every("1h"), "latest", None).to_plain()
    assert "jitter" not in plain
    jittered = Schedule(START, None, Every("1h"), "latest", None, 5)
    assert Schedule.from_plain(jittered.to_plain()) == jittered
    assert Schedule.from_plain(plain).jitter == 0
    for wrong in (0, -1, None, "none", 1.5, True):
        with pytest.raises(ScheduleError, match="malformed"):
            Schedule.from_plain({**plain, "jitter": wrong})


def test_a_jitter_shorter_than_each_distance_is_taken(pit):
    pit.store({"id": "a"}, every=Cron("0 9,18,20 * * *"), jitter="119m")
    pit.store({"id": "b"}, None, "1h", every="2h", jitter="3h")
    assert pit.get("b").jitter == timedelta(hours=3)


def test_a_jitter_that_is_no_time_or_longer_than_the_interval_is_refused(pit):
    for jitter, every, text in [
        (
            "1h",
            "1h",
            "jitter='1h' is not shorter than the 1h between two occurrences, so they would overtake each other",
        ),
        ("1d", Calendar(days=1), "jitter='1d' is not shorter than the 1d between two occurrences"),
        ("4h", Cron("0 9,18,20 * * *"), "jitter='4h' is not shorter than the 2h between two occurrences"),
        (-timedelta(1), "1h", "cannot be used. Give a timedelta of zero or more"),
        ("soon", "1h", "jitter='soon' cannot be used. Give a timedelta of zero or more, or text such as '15m'."),
        (5, None, "jitter=5 cannot be used"),
    ]:
        with pytest.raises(ScheduleError, match=text):
            pit.store({"id": "a"}, "1m", None, every, jitter=jitter)
