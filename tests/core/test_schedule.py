"""Schedules: the occurrences of a series, and those that a late listener gets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import attrs
import pytest

from hypothesis import given
from hypothesis import strategies as st

from pitstop import Recurrence, ScheduleError
from pitstop._decisions._emit import Emission, decide
from pitstop._decisions._settle import ack
from pitstop._recurrence import _registry
from pitstop._recurrence._every import Every
from pitstop._recurrence._registry import load_recurrence
from pitstop._values._instant import LAST_INSTANT, end_of, floor_instant, from_instant, instant_of
from pitstop._values._schedule import Choice, Schedule, plan
from pitstop.abc import Progress, Record, Retry


NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOON_MS = floor_instant(NOON)
NOON_US = NOON_MS * 1000
HOUR = timedelta(hours=1)
HOUR_MS = 3_600_000

instants = st.integers(0, 4_102_444_800_000)
intervals = st.integers(1, 10 * 365 * 86_400_000)


def every_hour(end: int | None = None, catch_up="latest", grace: int | None = None) -> Schedule:
    return Schedule(NOON_MS, end, Every.of_ms(HOUR_MS), catch_up, grace)


def emissions(schedule: Schedule, looks: list[int]) -> tuple[list[tuple[int, Emission]], Progress | None]:
    """Return the emissions of a listener that looks at those times and acknowledges, and the final progress."""
    first = schedule.recurrence.first(schedule.start)
    record: Record | None = Record("a", {}, schedule.to_plain(), "r", Progress(first, first))
    emitted = []
    for now in looks:
        while record is not None and record.progress.due <= now:
            leased = attrs.evolve(record, progress=record.progress.leased("token", now, now + 1))
            decided = decide(leased, Retry(), duration=HOUR_MS)
            if isinstance(decided, Emission):
                emitted.append((now, decided))
                decided = ack(decided)
            record = None if decided.progress is None else attrs.evolve(record, progress=decided.progress)
    return emitted, None if record is None else record.progress


@st.composite
def histories(draw):
    """A series and the times of a listener's looks, with so few occurrences that a test can list them all."""
    start, every = draw(instants), draw(st.integers(1, 10_000))
    length = draw(st.integers(1, 300 * every))
    end = draw(st.none() | st.integers(start + 1, start + length))
    looks = sorted(draw(st.lists(st.integers(start, start + length), min_size=1, max_size=8)))
    return start, every, end, looks


def came_due(start: int, every: int, end: int | None, now: int) -> list[int]:
    return list(range(start, min(now + 1, LAST_INSTANT if end is None else end), every))


class TestAnchoring:
    @given(instants, intervals, st.integers(0, 10**6))
    def test_the_kth_occurrence_is_start_plus_k_intervals(self, start, every, k):
        schedule = Schedule(start, None, Every.of_ms(every), "latest", None)
        kth = start + k * every
        following = kth + every
        assert schedule.next(kth) == (following if following <= LAST_INSTANT else None)

    @given(instants, intervals, instants)
    def test_the_next_occurrence_is_the_least_one_later_than_now(self, start, every, now):
        following = Every.of_ms(every).after(now, start)
        assert following > now
        assert following >= start
        assert (following - start) % every == 0
        assert following == start or following - every <= now

    @given(histories(), st.sampled_from(["latest", "all"]))
    def test_late_acks_do_not_make_it_drift(self, history, catch_up):
        start, every, end, looks = history
        emitted, left = emissions(Schedule(start, end, Every.of_ms(every), catch_up, None), looks)
        assert all((emission.scheduled_for - start) % every == 0 for _, emission in emitted)
        assert left is None or (left.due - start) % every == 0

    def test_a_start_20_years_ago_every_millisecond_takes_no_more_steps_than_one_of_today(self):
        calls = []

        class Counted(int):
            """An int that counts its operations, so that a loop over occurrences is noticed."""

            def __sub__(self, other):
                calls.append("-")
                return Counted(int(self) - int(other))

            def __rsub__(self, other):
                calls.append("-")
                return Counted(int(other) - int(self))

            def __add__(self, other):
                calls.append("+")
                return Counted(int(self) + int(other))

            __radd__ = __add__

            def __floordiv__(self, other):
                calls.append("//")
                return Counted(int(self) // int(other))

            def __mul__(self, other):
                calls.append("*")
                return Counted(int(self) * int(other))

            __rmul__ = __mul__

        start = Counted(NOON_MS - 20 * 365 * 86_400_000)
        schedule = Schedule(start, None, Every.of_ms(Counted(1)), "latest", None)
        chosen = schedule.choose(start, NOON_MS)
        assert chosen == Choice(NOON_MS, 20 * 365 * 86_400_000)
        assert schedule.next(chosen.occurrence) == NOON_MS + 1
        assert 0 < len(calls) < 20

    def test_storing_a_start_20_years_ago_takes_one_emission_to_be_up_to_date(self):
        start = NOON_MS - 20 * 365 * 86_400_000
        emitted, left = emissions(Schedule(start, None, Every.of_ms(1), "latest", None), [NOON_MS])
        assert [(each.scheduled_for, each.missed) for _, each in emitted] == [(NOON_MS, NOON_MS - start)]
        assert left == Progress(NOON_MS + 1, NOON_MS + 1)


class TestEnd:
    def test_the_end_is_exclusive_every_hour_for_a_day_is_24(self):
        emitted, left = emissions(
            every_hour(NOON_MS + 24 * HOUR_MS, "all"), list(range(NOON_MS, NOON_MS + 48 * HOUR_MS, 600_000))
        )
        assert len(emitted) == 24
        assert left is None

    @given(histories())
    def test_all_emits_exactly_the_occurrences_of_the_range_oldest_first(self, history):
        start, every, end, looks = history
        emitted, _ = emissions(Schedule(start, end, Every.of_ms(every), "all", None), looks)
        assert [each.scheduled_for for _, each in emitted] == came_due(start, every, end, looks[-1])
        assert {each.missed for _, each in emitted} <= {0}

    @given(histories())
    def test_a_listener_that_comes_after_the_end_gets_the_last_occurrence(self, history):
        start, every, end, looks = history
        end = end or start + 1
        late = end + looks[-1]
        emitted, left = emissions(Schedule(start, end, Every.of_ms(every), "latest", None), [late])
        occurrences = came_due(start, every, end, late)
        assert [(each.scheduled_for, each.missed) for _, each in emitted] == [(occurrences[-1], len(occurrences) - 1)]
        assert left is None

    def test_without_an_end_it_ends_with_the_year_9999_and_no_error(self):
        schedule = Schedule(LAST_INSTANT - 5, None, Every.of_ms(5), "latest", None)
        assert schedule.next(LAST_INSTANT - 5) == LAST_INSTANT
        assert schedule.next(LAST_INSTANT) is None

    # A clock knows microseconds, an instant does not: the start of "now" is not rounded up, and so the end must not be.
    @given(st.integers(0, 999), st.integers(0, 999), st.integers(1, 48))
    def test_n_hours_from_now_on_are_n_occurrences_whatever_the_clock_says(self, fraction, before, hours):
        now_us = NOON_US + fraction
        began = NOON + timedelta(microseconds=min(before, fraction))
        for when, end in [
            (timedelta(0), timedelta(hours=hours)),
            (timedelta(microseconds=1), timedelta(hours=hours, microseconds=1)),
            (timedelta(minutes=-1), timedelta(hours=hours, minutes=-1)),
            (began, began + timedelta(hours=hours)),
            (began + HOUR, began + HOUR + timedelta(hours=hours)),
        ]:
            first, schedule = plan(when, end, HOUR, "all", None, now_us)
            emitted, left = emissions(schedule, [NOON_MS + 100 * HOUR_MS])
            assert len(emitted) == hours
            assert emitted[0][1].scheduled_for == first
            assert left is None


class TestCatchUp:
    @given(histories())
    def test_latest_emitted_and_missed_add_up_to_what_came_due(self, history):
        start, every, end, looks = history
        emitted, left = emissions(Schedule(start, end, Every.of_ms(every), "latest", None), looks)
        occurrences = came_due(start, every, end, looks[-1])
        assert sum(1 + each.missed for _, each in emitted) == len(occurrences)
        assert emitted[-1][1].scheduled_for == occurrences[-1]
        following = occurrences[-1] + every
        assert left == (None if end is not None and following >= end else Progress(following, following))

    @given(histories())
    def test_latest_emits_one_for_a_backlog_at_each_look(self, history):
        start, every, end, looks = history
        emitted, _ = emissions(Schedule(start, end, Every.of_ms(every), "latest", None), looks)
        assert len({now for now, _ in emitted}) == len(emitted)
        for now, each in emitted:
            assert each.scheduled_for == came_due(start, every, end, now)[-1]

    @given(histories(), st.integers(0, 20_000))
    def test_skip_emits_the_last_one_if_it_is_within_its_grace_and_nothing_else(self, history, grace):
        start, every, end, looks = history
        emitted, left = emissions(Schedule(start, end, Every.of_ms(every), "skip", grace), looks)
        expected, dealt_with = [], start - 1
        for now in looks:
            fresh = [each for each in came_due(start, every, end, now) if each > dealt_with]
            if fresh:
                dealt_with = fresh[-1]
                if now - fresh[-1] <= grace:
                    expected.append((now, fresh[-1], len(fresh) - 1))
        assert [(now, each.scheduled_for, each.missed) for now, each in emitted] == expected
        following = dealt_with + every
        assert left == (None if end is not None and following >= end else Progress(following, following))

    def test_skip_forgets_the_error_of_no_occurrence_that_it_passes_over(self):
        progress = Progress(NOON_MS, NOON_MS, last_error="boom").leased("t", NOON_MS + 600_000, NOON_MS + 700_000)
        record = Record("a", {}, every_hour(catch_up="skip", grace=1000).to_plain(), "r", progress)
        assert decide(record, Retry(), duration=HOUR_MS).progress == Progress(
            NOON_MS + HOUR_MS, NOON_MS + HOUR_MS, last_error="boom"
        )

    @given(
        histories(),
        st.sampled_from(["latest", "all", "skip"]),
        st.lists(st.integers(1, 10**7), min_size=1, max_size=5),
    )
    def test_a_retry_chooses_the_same_occurrence_whenever_it_happens(self, history, catch_up, waits):
        start, every, end, looks = history
        schedule = Schedule(start, end, Every.of_ms(every), catch_up, 10**9 if catch_up == "skip" else None)
        progress = Progress(start, start).leased("0", looks[-1], looks[-1] + 1)
        first = decide(Record("a", {}, schedule.to_plain(), "r", progress), Retry(), duration=HOUR_MS)
        now = looks[-1]
        for wait in waits:
            now += wait
            progress = progress.leased(str(now), now, now + 1)
            again = decide(Record("a", {}, schedule.to_plain(), "r", progress), Retry(), duration=HOUR_MS)
            assert (again.scheduled_for, again.missed) == (first.scheduled_for, first.missed)


class TestInstants:
    @given(st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30), timezones=st.timezones()), instants)
    def test_a_time_is_rounded_up_to_the_millisecond_and_never_comes_early(self, when, now):
        now_us = min(now * 1000, (when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) - 1)
        instant = instant_of(when, now_us)
        assert timedelta(0) <= from_instant(instant) - when < timedelta(milliseconds=1)

    @given(st.integers(0, 10**15), st.timedeltas(timedelta(microseconds=1), timedelta(days=10_000)))
    def test_a_distance_is_rounded_up_to_the_millisecond(self, now_us, distance):
        wanted = now_us + distance // timedelta(microseconds=1)
        assert 0 <= instant_of(distance, now_us) * 1000 - wanted < 1000

    @given(st.integers(10**9, 10**15), st.timedeltas(timedelta(seconds=-10), timedelta(0)))
    def test_what_has_come_already_is_due_at_once(self, now_us, distance):
        assert instant_of(distance, now_us) <= now_us // 1000

    @pytest.mark.parametrize(
        ("when", "now_us", "expected"),
        [
            (timedelta(microseconds=1), NOON_US, NOON_MS + 1),
            (timedelta(microseconds=1), NOON_US + 999, NOON_MS + 1),
            (timedelta(microseconds=1), NOON_US + 998, NOON_MS + 1),
            (timedelta(0), NOON_US + 1, NOON_MS),
            (NOON, NOON_US - 1, NOON_MS),
            (NOON + timedelta(microseconds=1), NOON_US, NOON_MS + 1),
            (NOON.astimezone(timezone(timedelta(hours=-11, minutes=-30))), 0, NOON_MS),
            (datetime(1970, 1, 1, tzinfo=UTC), NOON_US, 0),
            (datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC), NOON_US, LAST_INSTANT),
        ],
    )
    def test_at_the_edges(self, when, now_us, expected):
        assert instant_of(when, now_us) == expected

    @pytest.mark.parametrize(
        "when",
        [
            datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC),
            datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
            datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
            datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
            timedelta.max,
            timedelta.min,
        ],
    )
    def test_years_that_no_store_keeps_are_refused(self, when):
        with pytest.raises(ScheduleError) as caught:
            instant_of(when, NOON_US)
        assert str(caught.value) == f"when={when!r} is outside of the years 1970 to 9999."

    def test_a_naive_datetime_is_refused_with_the_fix(self):
        with pytest.raises(ScheduleError) as caught:
            instant_of(datetime(2026, 3, 1, 12), NOON_US)
        assert str(caught.value) == (
            "when=datetime.datetime(2026, 3, 1, 12, 0) is naive: it does not say in which zone. "
            "For a time of a place, add its zone: .replace(tzinfo=ZoneInfo('Europe/Berlin')). "
            "For a time in UTC, add that: .replace(tzinfo=UTC)."
        )

    @pytest.mark.parametrize("when", [None, 15, 1.5, "15m", NOON.date()])
    def test_anything_else_is_refused_with_what_to_give(self, when):
        with pytest.raises(ScheduleError) as caught:
            instant_of(when, NOON_US)
        assert str(caught.value) == (
            f"when={when!r} is a {type(when).__name__}. "
            f"Give an aware datetime (a point in time) or a timedelta (from now)."
        )

    def test_the_end_is_named_as_such(self):
        with pytest.raises(ScheduleError, match=r"^end=datetime\.datetime\(2026, 3, 1, 0, 0\) is naive"):
            end_of(datetime(2026, 3, 1), timedelta(0), NOON_US)
        with pytest.raises(ScheduleError, match=r"^end='x' is a str"):
            end_of("x", timedelta(0), NOON_US)
        with pytest.raises(ScheduleError, match=r"^end=datetime\.timedelta\(.*\) is outside of the years"):
            end_of(timedelta.max, timedelta(0), NOON_US)


class TestPlan:
    def test_one_shot(self):
        assert plan(HOUR, None, None, "latest", None, NOON_US) == (NOON_MS + HOUR_MS, None)

    def test_recurring(self):
        assert plan(NOON, NOON + HOUR, timedelta(minutes=1), "skip", timedelta(seconds=5), NOON_US) == (
            NOON_MS,
            Schedule(NOON_MS, NOON_MS + HOUR_MS, Every.of_ms(60_000), "skip", 5000),
        )

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (
                (NOON, NOON, HOUR, "latest", None),
                f"end={NOON!r} is not after the start {NOON!r}. A distance counts from now. The end is exclusive; None means never.",
            ),
            (
                (timedelta(hours=2), HOUR, HOUR, "latest", None),
                (
                    "end=datetime.timedelta(seconds=3600) is not after the start datetime.timedelta(seconds=7200). "
                    "A distance counts from now. The end is exclusive; None means never."
                ),
            ),
            (
                (NOON, HOUR, None, "latest", None),
                "end=datetime.timedelta(seconds=3600) is given without every. Give every=timedelta(...), or leave end out.",
            ),
            (
                (NOON, None, None, "all", None),
                "catch_up and grace are for recurring messages. Give every=timedelta(...), or leave them out.",
            ),
            (
                (NOON, None, None, "latest", HOUR),
                "catch_up and grace are for recurring messages. Give every=timedelta(...), or leave them out.",
            ),
            (
                (NOON, None, timedelta(0), "latest", None),
                "every=datetime.timedelta(0) is not positive. Give the time from one occurrence to the next.",
            ),
            (
                (NOON, None, -HOUR, "latest", None),
                (
                    "every=datetime.timedelta(days=-1, seconds=82800) is not positive. "
                    "Give the time from one occurrence to the next."
                ),
            ),
            (
                (NOON, None, timedelta(microseconds=1500), "latest", None),
                (
                    "every=datetime.timedelta(microseconds=1500) is not a whole number of milliseconds. "
                    "Round it, or it would drift."
                ),
            ),
            (
                (NOON, None, 60, "latest", None),
                "every=60 is a int. Give a timedelta, text such as '1h', or a rule such as Cron(...) or Calendar(months=1).",
            ),
            (
                (NOON, None, HOUR, "newest", None),
                "catch_up='newest' is unknown. Give one of: latest, all, skip.",
            ),
            (
                (NOON, None, HOUR, "skip", None),
                (
                    "catch_up='skip' with grace=None: 'skip' needs a grace, 'all' may have one, and 'latest' has "
                    "none. "
                    "The grace is the time by which an occurrence may be late and still be emitted."
                ),
            ),
            (
                (NOON, None, HOUR, "latest", HOUR),
                (
                    "catch_up='latest' with grace=datetime.timedelta(seconds=3600): 'skip' needs a grace, 'all' may have "
                    "one, and 'latest' has none. The grace is the time by which an occurrence may be late and still be emitted."
                ),
            ),
            (
                (NOON, None, HOUR, "skip", -HOUR),
                "grace=datetime.timedelta(days=-1, seconds=82800) cannot be used. Give a timedelta of zero or more, or text such as '15m'.",
            ),
            (
                (NOON, None, HOUR, "skip", 5),
                "grace=5 cannot be used. Give a timedelta of zero or more, or text such as '15m'.",
            ),
        ],
    )
    def test_times_that_make_no_sense_are_refused_with_what_to_do(self, arguments, text):
        with pytest.raises(ScheduleError) as caught:
            plan(*arguments, NOON_US)
        assert str(caught.value) == text

    def test_a_recurrence_that_no_listener_could_read_again_is_refused_at_the_store(self):
        class Tides(Every):
            kind = "acme.tides"

            def __repr__(self):
                return "Tides()"

        with pytest.raises(ScheduleError) as caught:
            plan(NOON, None, Tides.of_ms(5), "latest", None, NOON_US)
        assert str(caught.value) == (
            "every=Tides() is a recurrence of a kind that is not registered, so no listener could read it. "
            "Register its class under the entry-point group 'pitstop.recurrences', or by pitstop.register_recurrence()."
        )

    def test_a_recurrence_object_is_as_good_as_its_interval(self):
        assert plan(NOON, None, Every.of_ms(5), "latest", None, 0) == plan(
            NOON, None, timedelta(milliseconds=5), "latest", None, 0
        )


class TestStoredForm:
    def test_an_interval_is_a_tagged_versioned_dict_of_plain_values(self):
        assert Every(HOUR).to_plain() == {"v": 1, "kind": "every", "ms": 3600000}

    @given(intervals)
    def test_what_was_written_is_read_again(self, ms):
        assert load_recurrence(Every.of_ms(ms).to_plain()) == Every.of_ms(ms)

    def test_the_longest_timedelta_can_be_stored_and_shown(self):
        longest = Every(timedelta(days=999_999_999, milliseconds=86_399_999))
        assert load_recurrence(longest.to_plain()).timedelta == timedelta(days=999_999_999, milliseconds=86_399_999)

    @given(
        instants,
        st.none() | intervals,
        intervals,
        st.sampled_from(["latest", "all"]),
        st.none() | st.integers(0, 10**9),
    )
    def test_a_schedule_is_read_again(self, start, length, every, catch_up, grace):
        end = None if length is None else start + length
        schedule = Schedule(start, end, Every.of_ms(every), catch_up if grace is None else "skip", grace)
        assert Schedule.from_plain(schedule.to_plain()) == schedule

    @pytest.mark.parametrize(
        ("plain", "text"),
        [
            ("every", "A stored recurrence must be a mapping, not str. Store the message again, or remove it."),
            (None, "A stored recurrence must be a mapping, not NoneType. Store the message again, or remove it."),
            (
                {"v": 1, "kind": "acme.tides", "port": "BRE"},
                (
                    "Unknown recurrence kind 'acme.tides'. Known here: calendar, cron, every, rrule, times. Upgrade pitstop-core, or install the plugin "
                    "that it was stored with, then redrive the message."
                ),
            ),
            (
                {"v": 1, "ms": 5},
                (
                    "Unknown recurrence kind None. Known here: calendar, cron, every, rrule, times. Upgrade pitstop-core, or install the plugin "
                    "that it was stored with, then redrive the message."
                ),
            ),
            (
                {"v": 1, "kind": ["every"], "ms": 5},
                (
                    "Unknown recurrence kind ['every']. Known here: calendar, cron, every, rrule, times. Upgrade pitstop-core, or install the plugin "
                    "that it was stored with, then redrive the message."
                ),
            ),
            (
                {"v": 2, "kind": "every", "ms": 5},
                (
                    "Recurrence kind 'every' is stored in version 2; this pitstop-core reads 1. "
                    "Upgrade it, then redrive the message."
                ),
            ),
            (
                {"kind": "every", "ms": 5},
                (
                    "Recurrence kind 'every' is stored in version None; this pitstop-core reads 1. "
                    "Upgrade it, then redrive the message."
                ),
            ),
        ],
    )
    def test_what_is_unknown_here_is_an_error_that_says_what_to_do(self, plain, text):
        with pytest.raises(ScheduleError) as caught:
            load_recurrence(plain)
        assert str(caught.value) == text

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"ms": 0},
            {"ms": -1},
            {"ms": True},
            {"ms": 5.0},
            {"ms": "5"},
            {"ms": None},
            {"ms": 5, "jitter": 1},
            {"seconds": 5},
            # A store can hold this value and a timedelta cannot: shown to a user, it would raise an OverflowError.
            {"ms": 2**63 - 1},
        ],
    )
    def test_a_field_too_many_too_few_or_wrong_is_an_error(self, fields):
        with pytest.raises(ScheduleError) as caught:
            load_recurrence({"v": 1, "kind": "every", **fields})
        assert (
            str(caught.value)
            == "A stored recurrence of kind 'every' must have the one field 'ms', a positive int. Store the message again, or remove it."
        )

    @pytest.mark.parametrize(
        "change",
        [
            {"start": None},
            {"start": 1.0},
            {"start": True},
            {"start": -1},
            {"start": LAST_INSTANT + 1},
            {"end": NOON_MS},
            {"end": 2**62},
            {"end": "soon"},
            {"catch_up": "newest"},
            {"catch_up": None},
            {"catch_up": ["all"]},
            {"catch_up": "skip"},
            {"grace": 5},
            {"catch_up": "skip", "grace": -1},
            {"catch_up": "skip", "grace": 1.5},
            {"more": 1},
        ],
    )
    def test_a_damaged_schedule_is_an_error(self, change):
        with pytest.raises(ScheduleError) as caught:
            Schedule.from_plain({**every_hour().to_plain(), **change})
        assert str(caught.value) == "The stored schedule is malformed. Store the message again, or remove it."

    @pytest.mark.parametrize(
        "change",
        [
            {"start": True},
            {"start": 1.0},
            {"every": {"v": 1, "kind": "every", "ms": True}},
            {"every": {"v": 1, "kind": "every", "ms": 1.0}},
            {"every": {"v": 1, "kind": "every", "ms": 1, "more": 1}},
            {"every": {"v": 1, "kind": "every", "ms": [1]}},
            {"every": {"v": 2, "kind": "every", "ms": 1}},
            {"every": {"kind": 1, "every": "every", "v": "ms"}},
            {"end": 2.0},
            {"more": 1},
        ],
    )
    def test_what_equals_a_schedule_that_was_read_before_is_read_as_strictly(self, change):
        sound = Schedule(1, 2, Every.of_ms(1), "latest", None)
        for _ in range(2):
            assert Schedule.from_plain(sound.to_plain()) == sound
            with pytest.raises(ScheduleError):
                Schedule.from_plain({**sound.to_plain(), **change})

    def test_a_recurrence_that_takes_apart_what_it_is_given_changes_no_stored_form(self, monkeypatch):
        class Listed(Every):
            kind = "listed"

            @classmethod
            def load(cls, fields):
                return cls.of_ms(fields["deep"]["list"].pop())

        monkeypatch.setitem(_registry._KINDS, "listed", Listed)
        every = {"v": 1, "kind": "listed", "deep": {"list": [1, 2]}}
        plain = {**every_hour().to_plain(), "every": every}
        for _ in range(2):
            assert Schedule.from_plain(plain).recurrence == Listed.of_ms(2)

    def test_a_stored_form_that_changes_afterwards_is_read_anew(self):
        plain = every_hour().to_plain()
        assert Schedule.from_plain(plain).recurrence == Every.of_ms(3_600_000)
        plain["every"]["ms"] = 1
        assert Schedule.from_plain(plain).recurrence == Every.of_ms(1)

    def test_the_abstract_recurrence_asks_for_all_that_core_calls(self):
        assert Recurrence.__abstractmethods__ == {"after", "dump", "load"}

    @given(st.lists(instants, min_size=2, max_size=20), instants, intervals)
    def test_after_and_latest_are_monotone_and_agree(self, nows, start, every):
        recurrence = Every.of_ms(every)
        for earlier, later in pairwise(sorted(nows)):
            assert recurrence.after(earlier, start) <= recurrence.after(later, start)
        now = start + max(nows)
        assert recurrence.latest(now, start) <= now < recurrence.after(now, start)
        assert recurrence.after(recurrence.latest(now, start), start) == recurrence.after(now, start)
        assert recurrence.count(start, recurrence.latest(now, start), start) == (now - start) // every
