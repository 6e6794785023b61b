"""The configuration that all backends share is read strictly. Errors name the key and say what to do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs
import pytest

import pitstop

from pitstop import ConfigError, ScheduleError
from pitstop.abc import BackendConfig, Retry, did_you_mean, duration_field, query_options, split_url
from pitstop.testing import ManualClock


def refusal(**options) -> str:
    with pytest.raises(ConfigError) as caught:
        pitstop.init({"type": "memory", **options})
    return str(caught.value)


class TestDefaults:
    def test_stand_in_the_contract(self):
        config = BackendConfig()
        assert config.lock_time == timedelta(minutes=15)
        assert config.loop_time == timedelta(seconds=1)
        assert config.retry == Retry(delay=None, factor=2, max_delay=timedelta(minutes=15), jitter=0, max_attempts=None)

    def test_none_for_retry_is_the_default(self):
        assert BackendConfig(retry=None).retry == Retry()


class TestKeys:
    @pytest.mark.parametrize(
        ("key", "hint"),
        [
            ("lok_time", "Did you mean 'lock_time'? "),
            ("looptime", "Did you mean 'loop_time'? "),
            ("retries", "Did you mean 'retry'? "),
            ("zzz", ""),
            ("", ""),
        ],
    )
    def test_that_are_unknown(self, key, hint):
        assert refusal(**{key: "hunter2"}) == (
            f"Unknown configuration key {key!r}. {hint}Known: announce, clock, consumer_name, create, lock_time, loop_time, name, retry."
        )

    def test_that_are_no_str(self):
        with pytest.raises(ConfigError, match=r"^Unknown configuration key 5\. Known: announce, clock, "):
            pitstop.init({"type": "memory", 5: 6})

    def test_of_a_url(self):
        with pytest.raises(ConfigError) as caught:
            pitstop.init("memory://?locktime=hunter2")
        assert str(caught.value) == (
            "Unknown configuration key 'locktime'. Did you mean 'lock_time'? "
            "Known: announce, clock, consumer_name, create, lock_time, loop_time, name, retry."
        )

    def test_of_retry(self):
        assert refusal(retry={"max_attemps": 3}) == (
            "retry: Unknown retry key 'max_attemps'. Did you mean 'max_attempts'? "
            "Known: delay, factor, jitter, max_attempts, max_delay."
        )

    def test_that_an_attrs_validator_refuses_are_named_and_not_shown(self):
        @attrs.frozen(kw_only=True)
        class Mine(BackendConfig):
            mode: str = attrs.field(default="on", validator=attrs.validators.in_(["on", "off"]))

        with pytest.raises(pitstop.ConfigError, match=r"^mode, a str, cannot be used: .*Mine refuses it") as raised:
            Mine.from_options({"mode": "s3cr3t"})

        assert "s3cr3t" not in str(raised.value)

    def test_that_are_words_of_python_are_spelled_by_their_metadata(self):
        @attrs.frozen(kw_only=True)
        class Config(BackendConfig):
            password: str = attrs.field(default="", repr=False, metadata={"key": "pass"})

        assert Config.from_options({"pass": "hunter2"}).password == "hunter2"
        with pytest.raises(ConfigError, match=r"Did you mean 'pass'\?"):
            Config.from_options({"passs": "hunter2"})


class TestValues:
    @pytest.mark.parametrize("field", ["lock_time", "loop_time"])
    @pytest.mark.parametrize("value", ["soon", "", None, True, [5], "-5s", float("nan"), "15 minutes"])
    def test_that_are_no_duration(self, field, value):
        assert refusal(**{field: value}) == (
            f"{field}={value!r} is not a duration. "
            f"Give a timedelta, a number of seconds, or text such as '15m', '1h30m' or '250ms'."
        )

    @pytest.mark.parametrize("value", [0, "0s", timedelta(microseconds=999), 0.0004])
    def test_that_are_too_short(self, value):
        assert refusal(lock_time=value) == f"lock_time={value!r} is too short. Give at least one millisecond."

    def test_that_are_negative_or_too_long(self):
        assert refusal(loop_time=-1) == "loop_time=-1 is negative. Give a duration of zero or more."
        assert refusal(lock_time=timedelta.max) == (
            f"lock_time={timedelta.max!r} is longer than 100 years. Give a shorter duration."
        )

    @pytest.mark.parametrize("value", ["system", 5, object()])
    def test_that_are_no_clock(self, value):
        assert refusal(clock=value) == (
            f"clock is a {type(value).__name__}, which is no clock. Give a pitstop.testing.ManualClock."
        )

    def test_that_are_a_clock(self):
        clock = ManualClock()
        with pitstop.init({"type": "memory", "clock": clock}) as pit:
            assert pit.now() == clock.now()


class TestRetry:
    def test_is_read_from_a_mapping_or_a_retry(self):
        given = {"delay": "5s", "factor": 2, "max_delay": "15m", "jitter": 0.1, "max_attempts": 20}
        retry = Retry(delay=timedelta(seconds=5), factor=2.0, jitter=0.1, max_attempts=20)
        assert BackendConfig(retry=given).retry == retry
        assert BackendConfig(retry=retry).retry is retry

    def test_text_is_read_as_in_a_url(self):
        assert Retry(factor="1.5", jitter="0.5", max_attempts="3") == Retry(factor=1.5, jitter=0.5, max_attempts=3)

    def test_a_delay_longer_than_the_default_maximum_is_its_own_maximum(self):
        assert Retry(delay="1h").max_delay == timedelta(hours=1)

    def test_a_delay_may_be_zero(self):
        assert Retry(delay=0).delay == timedelta(0)

    @pytest.mark.parametrize("value", ["5s", 5, [("delay", 5)], True])
    def test_of_another_type(self, value):
        assert refusal(retry=value) == (
            f"retry={value!r} is a {type(value).__name__}. Give a mapping, as in {{'delay': '5s', 'max_attempts': 20}}."
        )

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            (
                {"delay": "soon"},
                (
                    "delay='soon' is not a duration. "
                    "Give a timedelta, a number of seconds, or text such as '15m', '1h30m' or '250ms'."
                ),
            ),
            ({"delay": -1}, "delay=-1 is negative. Give a duration of zero or more."),
            ({"factor": 0.5}, "factor=0.5 cannot be used. Give a number of at least 1."),
            ({"factor": "fast"}, "factor='fast' cannot be used. Give a number of at least 1."),
            ({"factor": float("inf")}, "factor=inf cannot be used. Give a number of at least 1."),
            ({"factor": float("nan")}, "factor=nan cannot be used. Give a number of at least 1."),
            ({"factor": None}, "factor=None cannot be used. Give a number of at least 1."),
            ({"factor": True}, "factor=True cannot be used. Give a number of at least 1."),
            ({"jitter": -0.1}, "jitter=-0.1 cannot be used. Give a fraction from 0 to 1, such as 0.1."),
            ({"jitter": 1.1}, "jitter=1.1 cannot be used. Give a fraction from 0 to 1, such as 0.1."),
            (
                {"max_attempts": 0},
                "max_attempts=0 cannot be used. Give a whole number of at least 1, or None for no limit.",
            ),
            (
                {"max_attempts": 2.5},
                "max_attempts=2.5 cannot be used. Give a whole number of at least 1, or None for no limit.",
            ),
            (
                {"max_attempts": 10**400},
                "max_attempts=<an int of 1329 bits> cannot be used. Give a whole number of at least 1, or None for no limit.",
            ),
            (
                {"max_attempts": "many"},
                "max_attempts='many' cannot be used. Give a whole number of at least 1, or None for no limit.",
            ),
            (
                {"delay": "1h", "max_delay": "5m"},
                "max_delay=0:05:00 is shorter than delay=1:00:00. Give a longer max_delay.",
            ),
        ],
    )
    def test_with_wrong_values(self, options, text):
        assert refusal(retry=options) == f"retry: {text}"


class TestToolsForAuthors:
    def test_did_you_mean(self):
        assert did_you_mean("hots", ["host", "port"]) == "Did you mean 'host'? "
        assert did_you_mean("xyz", ["host", "port"]) == ""

    def test_a_duration_field_may_be_optional(self):
        @attrs.frozen(kw_only=True)
        class Config(BackendConfig):
            pause: timedelta | None = duration_field(None)

        assert Config().pause is None
        assert Config(pause="5s").pause == timedelta(seconds=5)
        assert Config(pause=None).pause is None

    def test_query_options(self):
        assert query_options("") == {}
        assert query_options("a=1&b.c=2&b.d=3&e=&f=x%20y") == {"a": "1", "b": {"c": "2", "d": "3"}, "e": "", "f": "x y"}

    def test_split_url_does_not_quote(self):
        assert split_url("a://b/c?d").query == "d"
        with pytest.raises(ConfigError) as caught:
            split_url("mongo://user:hunter2@[host/db")
        assert "hunter2" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


def test_the_class_of_a_clock_is_no_clock():
    with pytest.raises(ConfigError) as caught:
        pitstop.init({"type": "memory", "clock": ManualClock})
    assert str(caught.value) == "clock is the class ManualClock. Give an instance, as in ManualClock()."


def test_a_memory_url_with_a_password_is_refused_and_not_quoted():
    with pytest.raises(ConfigError) as caught:
        pitstop.init("memory://bob:hunter2@x")
    assert "hunter2" not in str(caught.value)


def test_a_manual_clock_takes_text_and_says_what_it_does_not_take():
    clock = ManualClock()
    assert clock.advance("1h30m") == datetime(2020, 1, 1, 1, 30, tzinfo=UTC)
    with pytest.raises(ConfigError, match="by='later' is not a duration"):
        clock.advance("later")
    with pytest.raises(ScheduleError, match="start=5 is no datetime"):
        ManualClock(5)
