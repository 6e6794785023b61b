"""``store``, ``store_many`` and ``remove``: a message is stored whole, or refused with a reason."""

from __future__ import annotations

import uuid

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

import pitstop

from pitstop.testing import ManualClock
from pitstop_conformance._kit import Kit
from pitstop_conformance._records import START, at
from pitstop_conformance._values import GIVEN_AND_BACK, IDS, largest_message, same


_NOW = at(START)
_ENDLESS: list[Any] = []
_ENDLESS.append(_ENDLESS)


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


class _NotATime(datetime):
    """A datetime whose methods raise, like ``pandas.NaT``."""

    def utcoffset(self) -> timedelta:
        raise ValueError


class _Liar(Mapping[str, Any]):
    """A mapping that lists a key and cannot find it."""

    def __getitem__(self, key: str) -> Any:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


#: Bad messages, each with a part of the error that names the fault and its place.
BAD_MESSAGES: dict[str, tuple[Any, str]] = {
    "no_mapping": ("text", "must be a mapping with str keys, not str"),
    "a_list": ([("a", 1)], "must be a mapping with str keys, not list"),
    "none": (None, "must be a mapping with str keys, not NoneType"),
    "a_key_that_is_no_str": ({1: 2}, r"msg has a key of type int"),
    "an_inner_key_that_is_no_str": ({"a": [{None: 2}]}, r"msg\['a'\]\[0\] has a key of type NoneType"),
    "a_key_with_nul": ({"a": {"b\0c": 1}}, r"msg\['a'\] has a key with a NUL"),
    "a_key_with_a_lone_surrogate": ({"a\ud800": 1}, "a key of msg holds a lone surrogate"),
    "a_lone_surrogate": ({"a": ["x", "\udfff"]}, r"msg\['a'\]\[1\] holds a lone surrogate"),
    "an_int_beyond_64_bits": ({"a": [0, 1, 2, 2**63]}, r"msg\['a'\]\[3\] is an int beyond 64 bits"),
    "an_int_below_64_bits": ({"a": -(2**63) - 1}, r"msg\['a'\] is an int beyond 64 bits"),
    "a_set": ({"a": {1}}, r"msg\['a'\] is a set"),
    "a_date": ({"a": date(2024, 1, 1)}, r"msg\['a'\] is a date"),
    "a_time": ({"a": time(1)}, r"msg\['a'\] is a time"),
    "a_timedelta": ({"a": timedelta(1)}, r"msg\['a'\] is a timedelta"),
    "a_decimal": ({"a": Decimal(1)}, r"msg\['a'\] is a Decimal"),
    "a_complex": ({"a": 1j}, r"msg\['a'\] is a complex"),
    "a_uuid": ({"a": uuid.UUID(int=0)}, r"msg\['a'\] is a UUID"),
    "a_bytearray": ({"a": bytearray(b"x")}, r"msg\['a'\] is a bytearray"),
    "an_object": ({"a": {"b": object()}}, r"msg\['a'\]\['b'\] is a object"),
    "a_naive_datetime": ({"a": datetime(2024, 1, 1)}, r"msg\['a'\] is a naive datetime"),
    "a_datetime_beyond_utc": (
        {"a": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))},
        r"msg\['a'\] is a datetime outside",
    ),
    "too_deep": ({"a": _deep(100)}, r"more than 100 levels deep"),
    "itself": ({"a": _ENDLESS}, r"holds itself"),
    "a_datetime_whose_methods_raise": (
        {"a": [_NotATime(2024, 1, 1)]},
        r"msg\['a'\]\[0\] is a _NotATime that cannot be read",
    ),
    "a_mapping_that_lies": ({"a": [_Liar()]}, r"msg\['a'\]\[0\] is a _Liar, and reading it raised KeyError"),
    "too_large": ({"a": ["x" * 1_000_000] * 16}, "larger than"),
    "an_id_that_is_no_str": ({"id": 5}, "id must be a str, not int"),
    "an_id_that_is_none": ({"id": None}, "id must be a str, not NoneType"),
    "an_empty_id": ({"id": ""}, "id is empty"),
    "a_long_id": ({"id": "x" * 513}, "513 characters"),
    "an_id_with_nul": ({"id": "a\0"}, "NUL"),
}

#: Bad arguments of ``store`` after the message, each with a part of the error that names the fault.
BAD_TIMES: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "a_datetime_whose_methods_raise": ((_NotATime(2024, 1, 1),), {}, r"when=.* cannot be read"),
    "naive": ((datetime(2024, 1, 1),), {}, r"when=.* is naive.*\.replace\(tzinfo=UTC\)"),
    "no_time": ((5,), {}, "when=5 is a int"),
    "text": (("2024-01-01T00:00:00Z",), {}, "is a str"),
    "none": ((None,), {}, "when=None"),
    "before_1970": ((datetime(1969, 1, 1, tzinfo=UTC),), {}, "outside"),
    "beyond_9999": ((timedelta(days=365 * 8000),), {}, "outside"),
    "naive_end": ((_NOW, datetime(2024, 1, 1), timedelta(1)), {}, "end=.* is naive"),
    "end_is_start": ((_NOW, _NOW, timedelta(hours=1)), {}, "end=.* is not after the start"),
    "end_before_start": ((_NOW, _NOW - timedelta(1), timedelta(hours=1)), {}, "end=.* is not after the start"),
    "end_without_every": ((_NOW, _NOW + timedelta(1)), {}, "without every"),
    "every_zero": ((_NOW, None, timedelta(0)), {}, "every=.* is not positive"),
    "every_negative": ((_NOW, None, timedelta(hours=-1)), {}, "every=.* is not positive"),
    "every_part_of_a_millisecond": ((_NOW, None, timedelta(microseconds=1500)), {}, "whole number of milliseconds"),
    "every_number": ((_NOW, None, 60), {}, "every=60 is a int"),
    "catch_up_unknown": ((_NOW, None, timedelta(1)), {"catch_up": "some"}, "catch_up='some' is unknown"),
    "catch_up_of_a_one_shot": ((_NOW,), {"catch_up": "all"}, "for recurring messages"),
    "skip_without_grace": ((_NOW, None, timedelta(1)), {"catch_up": "skip"}, "'skip' needs a grace"),
    "grace_without_skip": ((_NOW, None, timedelta(1)), {"grace": timedelta(1)}, "only 'skip' has one"),
    "grace_negative": ((_NOW, None, timedelta(1)), {"catch_up": "skip", "grace": timedelta(-1)}, "grace="),
}


class Store(Kit):
    """Stores, updates and removals of messages."""

    rule = "docs/semantics.md, and pitstop.Pitstop.store"

    def test_a_deferred_message_is_emitted_at_its_time(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        """The first example of the API: ``pit.store({"msg": "object"}, timedelta(minutes=15))``."""
        id = pit.store({"msg": "object"}, timedelta(minutes=15))
        assert listener.get() is None
        clock.advance(timedelta(minutes=15, microseconds=-1))
        assert listener.get() is None

        clock.advance(timedelta(microseconds=1))

        delivery = listener.get()
        assert delivery is not None
        assert delivery.msg == {"id": id, "msg": "object"}
        assert delivery.scheduled_for == clock.now() == pit.now()
        assert (delivery.attempt, delivery.missed, delivery.last_error) == (1, 0, None)
        assert delivery.key == f"{id}:{START + 15 * 60_000}"
        delivery.ack()
        assert pit.get(id) is None

    def test_an_update_by_id_replaces_message_and_schedule(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        """The second example of the API: storing the same id again is an update."""
        assert pit.store({"id": "abc", "foo": 1, "old": True}, timedelta(minutes=5)) == "abc"
        assert pit.store({"id": "abc", "foo": 2}, timedelta(minutes=10)) == "abc"
        assert pit.stats().scheduled == 1
        clock.advance(timedelta(minutes=5))
        assert listener.get() is None

        clock.advance(timedelta(minutes=5))

        delivery = listener.get()
        assert delivery is not None
        assert delivery.msg == {"id": "abc", "foo": 2}
        delivery.ack()
        assert listener.get() is None
        assert pit.entries() == []

    def test_a_removed_message_is_never_emitted(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        """The fourth example of the API: ``pit.remove("abc")`` returns whether the message was there."""
        pit.store({"id": "abc"}, timedelta(minutes=5))
        pit.store({"id": "kept"}, timedelta(minutes=5))

        assert pit.remove("abc") is True
        assert pit.remove("abc") is False

        clock.advance(timedelta(minutes=5))
        delivery = listener.get()
        assert delivery is not None
        assert delivery.id == "kept"
        assert listener.get() is None

    def test_a_message_without_an_id_gets_a_uuid4(self, pit: pitstop.Pitstop) -> None:
        first, second = pit.store({"a": 1}, timedelta(0)), pit.store({"a": 1}, timedelta(0))

        assert first != second
        for each in (first, second):
            assert str(uuid.UUID(each)) == each
            assert uuid.UUID(each).version == 4

    def test_an_empty_message_is_a_message(self, pit: pitstop.Pitstop, listener: pitstop.Listener) -> None:
        id = pit.store({}, timedelta(0))

        delivery = listener.get()
        assert delivery is not None
        assert delivery.msg == {"id": id}

    def test_an_update_may_turn_a_one_shot_into_a_series_and_back(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        pit.store({"id": "a"}, timedelta(0))
        pit.store({"id": "a"}, timedelta(0), None, timedelta(minutes=1))
        delivery = listener.get()
        assert delivery is not None
        delivery.ack()
        assert pit.get("a") is not None

        pit.store({"id": "a", "last": True}, timedelta(minutes=1))
        clock.advance(timedelta(minutes=1))

        delivery = listener.get()
        assert delivery is not None
        assert delivery.msg == {"id": "a", "last": True}
        delivery.ack()
        assert pit.get("a") is None

    @pytest.mark.parametrize("when", [timedelta(0), timedelta(days=-400), _NOW, _NOW - timedelta(days=400)], ids=str)
    def test_a_time_that_has_come_is_due_at_once(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, when: Any
    ) -> None:
        pit.store({"id": "a"}, when)

        delivery = listener.get()
        assert delivery is not None
        assert delivery.scheduled_for == (_NOW + when if isinstance(when, timedelta) else when)

    def test_now_is_due_now_also_between_two_milliseconds(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        clock.advance(timedelta(microseconds=1234))

        pit.store({"id": "a"}, timedelta(0))
        pit.store({"id": "b"}, clock.now())

        assert {getattr(listener.get(), "id", None) for _ in "ab"} == {"a", "b"}

    def test_a_time_between_two_milliseconds_is_rounded_up(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        clock.advance(timedelta(microseconds=400))
        pit.store({"id": "point"}, clock.now() + timedelta(microseconds=1))
        pit.store({"id": "distance"}, timedelta(microseconds=1))
        pit.store({"id": "exact"}, timedelta(microseconds=600))
        assert [each.due for each in pit.entries()] == [at(START + 1)] * 3

        clock.advance(timedelta(microseconds=599))
        assert listener.get() is None
        clock.advance(timedelta(microseconds=1))

        assert {getattr(listener.get(), "id", None) for _ in range(3)} == {"point", "distance", "exact"}

    def test_a_time_in_any_zone_is_the_instant_that_it_means(self, pit: pitstop.Pitstop) -> None:
        there = timezone(timedelta(hours=-11, minutes=-30))
        pit.store({"id": "a"}, datetime(2024, 1, 1, 0, 0, tzinfo=there))

        entry = pit.get("a")
        assert entry is not None
        assert entry.due == datetime(2024, 1, 1, 11, 30, tzinfo=UTC)
        assert entry.due.tzinfo is UTC

    def test_the_size_of_a_message_is_counted_to_the_byte_as_bson_counts(self, pit: pitstop.Pitstop) -> None:
        """All backends share this rule, whatever format they write. The keys that BSON gives to items of a list count too."""
        for large, size in (
            (largest_message("a", over=1), 15728641),
            ({"id": "a", "blob": [0.5] * 1_200_000}, 19288916),
        ):
            text = rf"larger than 15728640 bytes \(at msg\['blob'\]: counted as BSON it is {size} bytes"
            with pytest.raises(pitstop.MessageError, match=text):
                pit.store(large, timedelta(0))
            with pytest.raises(pitstop.MessageError, match=rf"^items\[1\]: .*{text}"):
                pit.store_many([({}, timedelta(0)), (large, timedelta(0))])
        assert pit.entries() == []

        assert pit.store(largest_message("a"), timedelta(0)) == "a"
        assert pit.get("a") is not None

    @pytest.mark.parametrize("name", GIVEN_AND_BACK)
    def test_every_value_comes_back_the_same(self, pit: pitstop.Pitstop, listener: pitstop.Listener, name: str) -> None:
        given, back = GIVEN_AND_BACK[name]
        pit.store({"id": "a", "value": given}, timedelta(0))

        entry, delivery = pit.get("a"), listener.get()

        assert entry is not None
        assert delivery is not None
        assert same(entry.message, {"id": "a", "value": back})
        assert same(delivery.msg, {"id": "a", "value": back})

    @pytest.mark.parametrize("name", GIVEN_AND_BACK)
    def test_a_value_is_still_the_same_after_a_nack_and_an_occurrence(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock, name: str
    ) -> None:
        """A settlement writes the progress back and leaves the message alone."""
        given, back = GIVEN_AND_BACK[name]
        pit.store({"id": "a", "value": given}, timedelta(0), None, timedelta(minutes=1))
        first = listener.get()
        assert first is not None
        first.nack("again", delay=timedelta(0))
        second = listener.get()
        assert second is not None
        second.ack()
        clock.advance(timedelta(minutes=1))

        third = listener.get()

        assert third is not None
        assert same(third.msg, {"id": "a", "value": back})

    def test_the_message_of_a_user_is_copied(self, pit: pitstop.Pitstop, listener: pitstop.Listener) -> None:
        message = {"list": [1, {"x": 1}]}
        id = pit.store(message, timedelta(0))
        assert message == {"list": [1, {"x": 1}]}

        message["list"].append(2)
        message["more"] = [3]

        delivery = listener.get()
        assert delivery is not None
        assert delivery.msg == {"id": id, "list": [1, {"x": 1}]}

    def test_what_a_handler_does_to_its_message_stays_with_it(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener
    ) -> None:
        pit.store({"id": "a", "list": [1, {"x": 1}]}, timedelta(0))
        delivery = listener.get()
        assert delivery is not None
        delivery.msg["list"][1]["x"] = 2
        delivery.msg["id"] = "another"
        entry = pit.get("a")
        assert entry is not None
        entry.message["list"].clear()

        delivery.nack("again", delay=timedelta(0))

        again = listener.get()
        assert again is not None
        assert again.msg == {"id": "a", "list": [1, {"x": 1}]}

    @pytest.mark.parametrize("id", IDS, ids=range(len(IDS)))
    def test_an_id_is_data(self, pit: pitstop.Pitstop, listener: pitstop.Listener, id: str) -> None:
        pit.store_many([({"id": each}, timedelta(minutes=1)) for each in IDS])
        pit.store({"id": id, "updated": True}, timedelta(0))
        assert pit.stats().scheduled == len(IDS) - 1

        delivery = listener.get()

        assert delivery is not None
        assert delivery.msg == {"id": id, "updated": True}
        assert delivery.key == f"{id}:{START}"
        delivery.nack("again", delay=timedelta(0))
        assert pit.remove(id) is True
        assert pit.get(id) is None
        assert {each.id for each in pit.entries()} == set(IDS) - {id}

    @pytest.mark.parametrize("name", BAD_MESSAGES)
    def test_a_bad_message_is_refused_and_nothing_is_stored(self, pit: pitstop.Pitstop, name: str) -> None:
        message, text = BAD_MESSAGES[name]

        with pytest.raises(pitstop.MessageError, match=text):
            pit.store(message, timedelta(0))

        assert pit.entries() == []

    def test_a_bad_update_leaves_the_message_as_it_was(self, pit: pitstop.Pitstop) -> None:
        pit.store({"id": "a", "foo": 1}, timedelta(minutes=1))
        before = pit.get("a")

        with pytest.raises(pitstop.MessageError, match=r"msg\['foo'\] is a set"):
            pit.store({"id": "a", "foo": {1}}, timedelta(0))
        with pytest.raises(pitstop.ScheduleError, match="is naive"):
            pit.store({"id": "a", "foo": 2}, datetime(2024, 1, 1))

        assert pit.get("a") == before

    @pytest.mark.parametrize(
        "id",
        [5, None, b"a", "", "x" * 513, "a\0b", "\ud800"],
        ids=["int", "none", "bytes", "empty", "long", "nul", "surrogate"],
    )
    def test_a_bad_id_is_refused_wherever_one_is_given(self, pit: pitstop.Pitstop, id: Any) -> None:
        for call in (pit.get, pit.remove, pit.redrive):
            with pytest.raises(pitstop.MessageError, match="id"):
                call(id)

    @pytest.mark.parametrize("name", BAD_TIMES)
    def test_a_bad_time_is_refused_and_nothing_is_stored(self, pit: pitstop.Pitstop, name: str) -> None:
        times, options, text = BAD_TIMES[name]

        with pytest.raises(pitstop.ScheduleError, match=text):
            pit.store({"id": "a"}, *times, **options)

        assert pit.entries() == []

    def test_store_many_stores_all_and_returns_their_ids_in_order(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        given = pit.store_many(
            [
                ({"id": "b", "n": 1}, timedelta(minutes=1)),
                ({"n": 2}, timedelta(0)),
                ({"id": "a", "n": 3}, timedelta(0), None, timedelta(minutes=2)),
                [{"n": 4}, _NOW],  # type: ignore[list-item]  # what JSON makes of a tuple
            ]
        )

        assert len(given) == len(set(given)) == 4
        assert (given[0], given[2]) == ("b", "a")
        assert [each.msg["n"] for each in iter(listener.get, None)] == [2, 3, 4]
        clock.advance(timedelta(minutes=1))
        assert [each.msg["n"] for each in iter(listener.get, None)] == [1]
        entry = pit.get("a")
        assert entry is not None
        assert entry.every == timedelta(minutes=2)

    def test_store_many_of_nothing_stores_nothing(self, pit: pitstop.Pitstop) -> None:
        assert pit.store_many([]) == []
        assert pit.entries() == []

    def test_store_many_takes_the_place_of_stored_messages(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener
    ) -> None:
        pit.store({"id": "a", "n": 1}, timedelta(0))
        old = listener.get()
        assert old is not None

        pit.store_many([({"id": "a", "n": 2}, timedelta(0)), ({"id": "b", "n": 3}, timedelta(0))])

        with pytest.raises(pitstop.LeaseLost):
            old.ack()
        assert [each.msg["n"] for each in iter(listener.get, None)] == [2, 3]

    def test_of_several_with_one_id_in_store_many_the_last_one_counts(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener
    ) -> None:
        given = pit.store_many(
            [({"id": "a", "n": 1}, timedelta(0)), ({"id": "b"}, timedelta(0)), ({"id": "a", "n": 2}, timedelta(0))]
        )

        assert given == ["a", "b", "a"]
        assert {each.id: each.msg.get("n") for each in iter(listener.get, None)} == {"a": 2, "b": None}

    @pytest.mark.parametrize(
        ("item", "error", "text"),
        [
            (({"x": {1}}, timedelta(0)), pitstop.MessageError, r"items\[2\]: msg\['x'\] is a set"),
            (({"x": 1}, datetime(2024, 1, 1)), pitstop.ScheduleError, r"items\[2\]: when=.* is naive"),
            (({"x": 1},), pitstop.ScheduleError, r"items\[2\] is no \(message, when\)"),
            ({"x": 1}, pitstop.ScheduleError, r"items\[2\] is no \(message, when\)"),
            (5, pitstop.ScheduleError, r"items\[2\] is no \(message, when\)"),
        ],
        ids=["message", "time", "short", "mapping", "number"],
    )
    def test_store_many_stores_nothing_when_one_is_bad(
        self, pit: pitstop.Pitstop, item: Any, error: Any, text: str
    ) -> None:
        pit.store({"id": "a", "n": 1}, timedelta(minutes=1))
        before = pit.entries()
        good = [({"id": id, "n": 2}, timedelta(0)) for id in "abcd"]

        with pytest.raises(error, match=text):
            pit.store_many([*good[:2], item, *good[2:]])

        assert pit.entries() == before

    def test_a_store_or_a_removal_with_what_is_no_session_is_refused_and_not_done(self, pit: pitstop.Pitstop) -> None:
        pit.store({"id": "a", "n": 1}, timedelta(minutes=1))
        before = pit.entries()

        for call in (
            lambda: pit.store({"id": "a", "n": 2}, timedelta(0), session="session"),
            lambda: pit.store_many([({"id": "b"}, timedelta(0))], session="session"),
            lambda: pit.store_many([], session="session"),
            lambda: pit.remove("a", session="session"),
        ):
            with pytest.raises(pitstop.PitstopError, match=r"session|TRANSACTIONS"):
                call()

        assert pit.entries() == before

    def test_store_many_stores_a_thousand(self, pit: pitstop.Pitstop) -> None:
        given = pit.store_many([({"n": n}, timedelta(seconds=n)) for n in range(1000)])

        assert len(set(given)) == 1000
        stored = pit.entries(limit=2000)
        assert [each.message["n"] for each in stored] == list(range(1000))
        assert [each.id for each in stored] == given

    def test_a_revision_is_new_at_each_store(self, pit: pitstop.Pitstop) -> None:
        revisions = set()
        for _ in range(3):
            pit.store({"id": "a"}, timedelta(0))
            entry = pit.get("a")
            assert entry is not None
            revisions.add(entry.revision)

        assert len(revisions) == 3
        assert all(revisions)
