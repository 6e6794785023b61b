"""Refusals: a bad message, id, time or session is refused with a reason, and nothing is stored."""

from __future__ import annotations

import uuid

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

import pitstop

from pitstop_conformance._kit import Kit
from pitstop_conformance._records import START, at


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
    "text": (("2024-01-01T00:00:00Z",), {}, "when='2024-01-01T00:00:00Z' is no"),
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
    "grace_without_skip": ((_NOW, None, timedelta(1)), {"grace": timedelta(1)}, "'latest' has none"),
    "grace_negative": ((_NOW, None, timedelta(1)), {"catch_up": "skip", "grace": timedelta(-1)}, "grace="),
}


class Refusals(Kit):
    """Bad messages, ids, times and sessions."""

    rule = "docs/semantics.md, and pitstop.Pitstop.store"

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
