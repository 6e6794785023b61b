"""Durations in the forms that people write."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pitstop import ConfigError
from pitstop._values._duration import format_duration, parse_duration
from pitstop.abc import quoted


HUNDRED_YEARS = timedelta(days=36_525)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (timedelta(minutes=3), timedelta(minutes=3)),
        (timedelta(0), timedelta(0)),
        (90, timedelta(seconds=90)),
        (1.5, timedelta(milliseconds=1500)),
        ("90", timedelta(seconds=90)),
        ("1.5", timedelta(milliseconds=1500)),
        ("250ms", timedelta(milliseconds=250)),
        ("15m", timedelta(minutes=15)),
        ("1h30m", timedelta(minutes=90)),
        ("1.5h", timedelta(minutes=90)),
        ("2w3d4h5m6s7ms", timedelta(days=17, hours=4, minutes=5, seconds=6, milliseconds=7)),
        ("1m1ms", timedelta(minutes=1, milliseconds=1)),
        (" 15M ", timedelta(minutes=15)),
        ("0s", timedelta(0)),
        ("36525d", HUNDRED_YEARS),
    ],
)
def test_reads(value, expected):
    assert parse_duration(value, "lock_time") == expected


@given(st.integers(0, HUNDRED_YEARS // timedelta(milliseconds=1)).map(lambda ms: timedelta(milliseconds=ms)))
def test_what_is_written_is_read_again(duration):
    assert parse_duration(format_duration(duration), "x") == duration


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(minutes=90), "1h30m"),
        (timedelta(0), "0s"),
        (timedelta(days=14, milliseconds=5), "14d5ms"),
        (timedelta(minutes=-90), "-1h30m"),
        (timedelta(microseconds=1), "0s"),
    ],
)
def test_writes(duration, text):
    assert format_duration(duration) == text


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            "abc",
            "15 m",
            "15min",
            "m",
            "1h30",
            "30,5s",
            "-5s",
            "1e3",
            "1h-5m",
            "..5s",
            "5.s",
            "1h 30m",
            "inf",
            "nan",
        ),
        *(None, True, False, [15], b"15m", float("nan"), float("inf"), "9" * 400, "9" * 30 + "w", 10**400),
    ],
)
def test_what_is_no_duration_is_refused_with_what_to_give(value):
    with pytest.raises(ConfigError) as caught:
        parse_duration(value, "lock_time")
    assert str(caught.value) == (
        f"lock_time={quoted(value)} is not a duration. "
        f"Give a timedelta, a number of seconds, or text such as '15m', '1h30m' or '250ms'."
    )


@pytest.mark.parametrize("value", [-1, -0.001, timedelta(microseconds=-1)])
def test_a_negative_one_is_refused(value):
    with pytest.raises(ConfigError) as caught:
        parse_duration(value, "loop_time")
    assert str(caught.value) == f"loop_time={value!r} is negative. Give a duration of zero or more."


# A lease of timedelta.max would end beyond the last year that a datetime can name.
@pytest.mark.parametrize("value", [timedelta.max, HUNDRED_YEARS + timedelta(microseconds=1), "5218w"])
def test_one_that_nobody_can_mean_is_refused(value):
    with pytest.raises(ConfigError) as caught:
        parse_duration(value, "lock_time")
    assert str(caught.value) == f"lock_time={value!r} is longer than 100 years. Give a shorter duration."


@given(st.text() | st.integers() | st.floats())
def test_anything_is_read_or_refused_and_never_crashes(value):
    try:
        duration = parse_duration(value, "x")
    except ConfigError:
        return
    assert timedelta(0) <= duration <= HUNDRED_YEARS
