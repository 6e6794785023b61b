"""The coming occurrences, as the clock of their zone shows them."""

from __future__ import annotations

import asyncio

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

import pitstop

from pitstop import Calendar, Cron, Every, PitstopError, RRule, ScheduleError


BERLIN = ZoneInfo("Europe/Berlin")
SPRING = datetime(2026, 3, 28, 2, 30, tzinfo=BERLIN)
AUTUMN = datetime(2026, 10, 24, 2, 30, tzinfo=BERLIN)
SKIPPED = "moved: the clock skips its time"
TWICE = "the clock shows this time twice: first pass"


@pytest.mark.parametrize(
    ("rule", "start", "wanted"),
    [
        (Cron("30 2 * * *", tz=BERLIN), SPRING, [("28 02:30 +01:00", None), ("29 03:00 +02:00", SKIPPED)]),
        (Calendar(days=1, tz=BERLIN), SPRING, [("28 02:30 +01:00", None), ("29 03:00 +02:00", SKIPPED)]),
        (RRule("FREQ=DAILY", tz=BERLIN), SPRING, [("28 02:30 +01:00", None), ("30 02:30 +02:00", None)]),
        (Cron("30 2 * * *", tz=BERLIN), AUTUMN, [("24 02:30 +02:00", None), ("25 02:30 +02:00", TWICE)]),
        (Calendar(days=1, tz=BERLIN), AUTUMN, [("24 02:30 +02:00", None), ("25 02:30 +02:00", TWICE)]),
        (Every("1d"), SPRING, [("28 01:30 +00:00", None), ("29 01:30 +00:00", None)]),
    ],
    ids=repr,
)
def test_each_kind_shows_its_clock_and_its_marks(pit, rule, start, wanted):
    found = pit.preview(rule, start, n=2)
    assert [(f"{each.local:%d %H:%M} {each.offset}", each.note) for each in found] == wanted
    assert [each.at for each in found] == [each for each, _ in zip(rule.occurrences(start), range(2), strict=False)]


def test_a_clock_that_goes_through_a_fold_twice_is_marked_in_both_passes(pit):
    found = pit.preview(Cron("30 * * * *", tz=BERLIN), datetime(2026, 10, 25, 0, 30, tzinfo=UTC), n=3)
    assert [str(each) for each in found] == [
        "Sun 2026-10-25 02:30:00 +02:00 Europe/Berlin (the clock shows this time twice: first pass)",
        "Sun 2026-10-25 02:30:00 +01:00 Europe/Berlin (the clock shows this time twice: second pass)",
        "Sun 2026-10-25 03:30:00 +01:00 Europe/Berlin",
    ]


def test_texts_and_now_are_as_for_store(pit):
    assert [each.at for each in pit.preview("1h", n=2)] == [pit.now(), pit.now() + timedelta(hours=1)]
    assert [each.at for each in pit.preview("1h", "30m", "2h")] == [
        pit.now() + timedelta(minutes=each) for each in (30, 90)
    ]
    assert pit.entries() == []


def test_wrong_arguments_are_refused(pit):
    with pytest.raises(PitstopError, match="n=0 cannot be used"):
        pit.preview("1h", n=0)
    with pytest.raises(PitstopError, match="n=1000000 cannot be used"):
        pit.preview("1h", n=10**6)
    with pytest.raises(ScheduleError, match="every=None is no rule"):
        pit.preview(None)
    with pytest.raises(ScheduleError, match="is not after the start"):
        pit.preview("1h", "2h", "1h")


def test_an_entry_shows_its_own_and_begins_with_the_current_one(pit, clock):
    clock.advance_to(SPRING - timedelta(days=1))
    rule = Cron("30 2 * * *", tz="Europe/Berlin")
    pit.store({"id": "a"}, SPRING, SPRING + timedelta(days=3), rule, catch_up="skip", grace="1h", jitter="5m")
    entry = pit.get("a")
    assert [each.at.day for each in entry.upcoming()] == [28, 29, 30]
    assert [each.at.day for each in entry.upcoming(1)] == [28]
    assert (entry.start, entry.catch_up, entry.grace, entry.jitter) == (
        SPRING, "skip", timedelta(hours=1), timedelta(minutes=5),
    )  # fmt: skip
    clock.advance("2d")
    pit.listen().get().ack(wait=True)
    assert [each.at.day for each in pit.get("a").upcoming()] == [30]


@pytest.mark.parametrize("every", [None, "1h"])
@pytest.mark.parametrize("n", [0, -1, 10**6, True, 1.5])
def test_an_entry_refuses_a_number_that_cannot_be_shown(pit, every, n):
    pit.store({"id": "a"}, every=every)
    with pytest.raises(PitstopError, match="Give a whole number from 1 to 10000"):
        pit.get("a").upcoming(n)


def test_a_message_that_comes_once_has_one_time(pit):
    pit.store({"id": "a"}, "1h")
    assert [each.at for each in pit.get("a").upcoming()] == [pit.now() + timedelta(hours=1)]
    assert pit.get("a").start is None


def test_the_async_facade_shows_the_same():
    async def main():
        async with pitstop.init_async("memory://") as pit:
            return await pit.preview(Cron("@daily"), SPRING, n=1)

    (found,) = asyncio.run(main())
    assert str(found) == "Sun 2026-03-29 00:00:00 +00:00 UTC"
