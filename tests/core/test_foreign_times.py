"""Times and spans of other libraries are accepted with their exact value, or refused with the argument, the path and the item.

An error of their code never leaves Pitstop unchanged, and their code never changes the time that is meant.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import attrs
import pytest

import pitstop

from core.foreign import SPANS, UNREADABLE, Duration, Moment, NotATime, facades, zoned
from pitstop import ConfigError, MessageError, PitstopError, ScheduleError
from pitstop._values._duration import parse_duration
from pitstop._values._plain import shown
from pitstop.testing import ManualClock


NOW = timedelta(0)
HOUR = timedelta(hours=1)
START = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(params=["sync", "async"])
def pit(request):
    """A memory store behind each of the facades."""
    yield from facades(request.param)


class TestTimes:
    @pytest.mark.parametrize("kind", SPANS)
    def test_spans_are_taken_as_when_every_end_and_grace(self, pit, kind):
        span = SPANS[kind]
        pit.store({"id": "a"}, span(60), span(3 * 3600), span(3600), catch_up="skip", grace=span(5))

        entry = pit.get("a")
        assert entry.due == START + timedelta(minutes=1)
        assert entry.end == START + 3 * HOUR
        assert entry.every == HOUR
        assert type(entry.every) is timedelta

    @pytest.mark.parametrize("kind", SPANS)
    def test_a_span_in_the_past_is_due_since_then(self, pit, kind):
        pit.store({"id": "a"}, SPANS[kind](-90_061))

        assert pit.get("a").due == START - timedelta(seconds=90_061)

    def test_datetimes_are_taken_as_when_end_and_values(self, pit):
        moment = Moment(2031, 5, 4, 12, 0, 0, 123_000, tzinfo=ZoneInfo("Europe/Paris"))
        pit.store({"id": "a", "at": [moment]}, moment, Moment(2032, 1, 1, tzinfo=UTC), HOUR)

        entry = pit.get("a")
        expected = datetime(2031, 5, 4, 10, 0, 0, 123_000, tzinfo=UTC)
        assert entry.due == entry.message["at"][0] == expected
        assert type(entry.message["at"][0]) is datetime
        assert entry.message["at"][0].tzinfo is UTC
        assert entry.end == datetime(2032, 1, 1, tzinfo=UTC)

    def test_the_place_of_a_listing_may_be_one(self, pit):
        pit.store_many([({"id": "a"}, NOW), ({"id": "b"}, HOUR)])
        first, second = pit.entries()
        due = first.due
        moment = Moment(due.year, due.month, due.day, due.hour, due.minute, due.second, due.microsecond, UTC)
        assert pit.entries(after=attrs.evolve(first, due=moment)) == [second]
        for unreadable in UNREADABLE.values():
            with pytest.raises(PitstopError, match=r"^after\.due="):
                pit.entries(after=attrs.evolve(first, due=unreadable()))

    @pytest.mark.parametrize(("fold", "hour"), [(0, 0), (1, 1)])
    def test_both_passes_of_a_fold_are_told_apart(self, pit, fold, hour):
        moment = Moment(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Paris"), fold=fold)
        pit.store({"id": "a", "at": moment}, moment)

        entry = pit.get("a")
        assert entry.due == entry.message["at"] == datetime(2024, 10, 27, hour, 30, tzinfo=UTC)

    def test_an_offset_may_be_a_span_of_their_own(self, pit):
        pit.store({"id": "a"}, zoned(Duration(hours=1)))

        assert pit.get("a").due == datetime(2030, 12, 31, 23, tzinfo=UTC)

    @pytest.mark.parametrize("name", UNREADABLE)
    def test_one_that_cannot_be_read_is_refused_with_the_path_the_field_and_the_item(self, pit, name):
        bad = UNREADABLE[name]()
        with pytest.raises(MessageError, match=r"^msg\['at'\]\['last'\]\[0\] is a \w+ that cannot be read: "):
            pit.store({"at": {"last": [bad]}}, NOW)
        with pytest.raises(MessageError, match=r"^items\[1\]: msg\['at'\] is a "):
            pit.store_many([({"id": "a"}, NOW), ({"id": "b", "at": bad}, NOW)])
        for field, times in {"when": (bad,), "end": (NOW, bad, HOUR), "every": (NOW, None, bad)}.items():
            with pytest.raises(ScheduleError, match=rf"^{field}=") as caught:
                pit.store({"id": "c"}, *times)
            assert "hunter2" not in str(caught.value)
            with pytest.raises(ScheduleError, match=rf"^items\[0\]: {field}="):
                pit.store_many([({"id": "c"}, *times)])
        assert pit.entries() == []

    def test_a_span_that_contradicts_itself_is_refused(self, pit):
        class Liar(timedelta):
            def total_seconds(self):
                return 5.0

        class Broken(timedelta):
            def total_seconds(self):
                raise ZeroDivisionError

        for bad, why in ((Liar(hours=1), "are not what its total_seconds"), (Broken(1), "raised ZeroDivisionError")):
            for field, times in {"when": (bad,), "end": (NOW, bad, HOUR), "every": (NOW, None, bad)}.items():
                with pytest.raises(ScheduleError, match=rf"^{field}=.* cannot be read: its .*{why}"):
                    pit.store({"id": "a"}, *times)
            with pytest.raises(ScheduleError, match=r"^grace=.* cannot be read"):
                pit.store({"id": "a"}, NOW, None, HOUR, catch_up="skip", grace=bad)

    def test_a_catch_up_that_compares_in_its_own_way_is_what_its_text_is(self, pit):
        class Word(str):
            __slots__ = ()
            __hash__ = str.__hash__

            def __eq__(self, other):
                return True

        pit.store({"id": "a"}, NOW, None, HOUR, catch_up=Word("all"))
        with pytest.raises(ScheduleError, match=r"^catch_up='sometimes' is unknown"):
            pit.store({"id": "a"}, NOW, None, HOUR, catch_up=Word("sometimes"))

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
    def test_what_is_no_fault_of_the_value_passes_through(self, pit, error):
        if error in {KeyboardInterrupt, SystemExit} and type(pit).__name__ == "InLoop":
            return  # it would be raised in a thread of asyncio, which ends the loop: asyncio decides that
        for message, when in (({"at": zoned(error())}, NOW), ({}, zoned(error()))):
            with pytest.raises(error):
                pit.store(message, when)


class TestDeliveries:
    @pytest.mark.parametrize("kind", SPANS)
    def test_extend_and_nack_take_spans(self, kind):
        clock = ManualClock()
        with pitstop.init({"type": "memory", "clock": clock}) as pit:
            pit.store({"id": "a"}, NOW)
            delivery = pit.listen().get()
            delivery.extend(SPANS[kind](7200))
            assert delivery.leased_until == START + 2 * HOUR
            delivery.nack("x", SPANS[kind](60))
            assert pit.get("a").due == START + timedelta(minutes=1)

    def test_extend_and_nack_refuse_what_cannot_be_read(self):
        class Broken(timedelta):
            def total_seconds(self):
                raise ZeroDivisionError

        with pitstop.init("memory://") as pit:
            pit.store({"id": "a"}, NOW)
            delivery = pit.listen().get()
            for bad in (Broken(1), NotATime(2031, 1, 1), {"password": "hunter2"}):
                with pytest.raises(PitstopError, match=r"^duration=") as caught:
                    delivery.extend(bad)
                assert "hunter2" not in str(caught.value)
                with pytest.raises(ScheduleError, match=r"^delay=") as caught:
                    delivery.nack("x", bad)
                assert "hunter2" not in str(caught.value)
            delivery.ack()

    def test_an_error_whose_text_is_of_a_class_of_its_own_is_kept(self):
        class Text(str):
            __slots__ = ()

            def encode(self, *args):
                raise ZeroDivisionError

        class Failure(Exception):
            def __str__(self):
                return Text("no luck")

        with pitstop.init("memory://") as pit:
            pit.store({"id": "a"}, NOW)
            pit.listen().get().nack(Failure(), timedelta(hours=1))
            assert pit.get("a").last_error == "Failure: no luck"


class TestDurationsInOptions:
    @pytest.mark.parametrize("kind", SPANS)
    def test_spans_and_numbers_of_other_libraries_are_taken(self, kind):
        class Number(float):
            """Like numpy.float64."""

        class Text(str):
            __slots__ = ()

            def strip(self, *args):
                return "hunter2"

        for given in (SPANS[kind](90), Number(90), Text("1m30s")):
            read = parse_duration(given, "lock_time")
            assert (read, type(read)) == (timedelta(seconds=90), timedelta)
        with pitstop.init({"type": "memory", "lock_time": SPANS[kind](90), "retry": {"delay": SPANS[kind](5)}}) as pit:
            pit.store({"id": "a"}, NOW)
            with pit.listen(lock_time=SPANS[kind](60)) as listener:
                assert listener.get(timeout=SPANS[kind](1)).id == "a"

    def test_what_cannot_be_read_is_refused_whatever_its_repr_does(self):
        class Broken(timedelta):
            def total_seconds(self):
                raise ZeroDivisionError

            def __repr__(self):
                raise ZeroDivisionError

        with pytest.raises(ConfigError) as caught:
            parse_duration(Broken(1), "lock_time")
        assert str(caught.value).startswith(
            "lock_time=<Broken whose repr() raised ZeroDivisionError> is not a duration. "
        )
        with pytest.raises(ConfigError, match="lock_time=<an int of"):
            parse_duration(10**5000, "lock_time")

    def test_a_clock_of_a_test_takes_them(self):
        clock = ManualClock(Moment(2031, 1, 1, tzinfo=ZoneInfo("Europe/Paris")))
        assert clock.now() == datetime(2030, 12, 31, 23, tzinfo=UTC)
        assert clock.advance(Duration(hours=1)) == datetime(2031, 1, 1, tzinfo=UTC)
        assert clock.advance_to(Moment(2031, 1, 2, tzinfo=UTC)) == datetime(2031, 1, 2, tzinfo=UTC)
        with pytest.raises(ScheduleError, match=r"^when=NaT cannot be read"):
            clock.advance_to(NotATime(2031, 1, 1))
        with pytest.raises(ScheduleError, match=r"^start=NaT cannot be read"):
            ManualClock(NotATime(2031, 1, 1))

    def test_assertions_of_a_test_find_what_was_stored_by_what_it_was(self):
        with pitstop.testing.init() as pit:
            moment = Moment(2031, 1, 1, tzinfo=UTC)
            pit.store({"id": "a", "at": moment}, Duration(hours=1))
            pit.assert_stored({"at": moment}, id="a", due_in=Duration(hours=1))
            with pytest.raises(AssertionError, match="NaT wanted"):
                pit.assert_stored({"at": NotATime(2031, 1, 1)})


class TestShown:
    def test_what_may_hold_a_message_is_shown_by_its_type(self):
        for value in ({"password": "hunter2"}, ["hunter2"], b"hunter2", SimpleNamespace(a="hunter2")):
            assert shown(value) == f"<{type(value).__name__}>"

    def test_times_numbers_and_text_are_shown_as_they_are(self):
        for value in (
            None,
            True,
            1,
            1.5,
            "15m",
            timedelta(1),
            datetime(2031, 1, 1, tzinfo=timezone(timedelta(hours=1))),
        ):
            assert shown(value) == repr(value)

    def test_long_ones_are_cut(self):
        assert len(shown("x" * 10_000)) < 200
