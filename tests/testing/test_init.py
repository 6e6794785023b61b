"""A Pitstop for a test: any backend that takes the clock, ids that are the same in each run, and no real time."""

from __future__ import annotations

import subprocess
import sys

from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest

import pitstop

from pitstop import ConfigError, testing
from pitstop.abc import BackendConfig, SystemClock
from pitstop.testing import ManualClock, TestPitstop
from pitstop_memory import MemoryBackend, MemoryConfig


NOW, HOUR = timedelta(0), timedelta(hours=1)
START = datetime(2020, 1, 1, tzinfo=UTC)


def test_is_in_memory_with_a_clock_of_its_own_unless_told_otherwise():
    with testing.init() as one, testing.init() as other:
        one.store({"id": "a"}, NOW)
        one.clock.advance(HOUR)
        assert isinstance(one, pitstop.Pitstop)
        assert other.entries() == []
        assert other.now() == other.clock.now() == START


@pytest.mark.parametrize("way", ["argument", "configuration", "both"])
def test_takes_a_clock(way):
    clock = ManualClock(datetime(2031, 1, 1, tzinfo=UTC))
    config = {"type": "memory"} if way == "argument" else {"type": "memory", "clock": clock}
    with testing.init(config, clock=None if way == "configuration" else clock) as pit:
        assert pit.clock is clock
        clock.advance(HOUR)
        assert pit.now() == datetime(2031, 1, 1, 1, tzinfo=UTC)


def test_takes_a_url_and_other_backends(tmp_path):
    with testing.init(f"sqlite:///{tmp_path}/pit.db?lock_time=1m") as pit:
        pit.store({"id": "a"}, HOUR)
        pit.clock.advance(HOUR)
        assert pit.listen().get().leased_until == START + HOUR + timedelta(minutes=1)
        assert pit.location.startswith("sqlite://")


def test_takes_a_class_and_a_ready_backend():
    with testing.init({"type": MemoryBackend, "lock_time": "1m"}) as pit:
        pit.store({}, HOUR)
        assert pit.drain(lambda msg: None).acked == 1
    backend = MemoryBackend(MemoryConfig(clock=ManualClock()))
    with testing.init({"type": backend}) as pit:
        assert pit.clock is backend.clock


def test_leaves_the_configuration_as_it_was():
    config = {"type": "memory"}
    testing.init(config).close()
    assert config == {"type": "memory"}


@pytest.mark.parametrize("clock", [SystemClock(), SystemClock, object()], ids=["real", "class", "none"])
@pytest.mark.parametrize("way", ["argument", "configuration"])
def test_refuses_a_clock_that_a_test_cannot_move(clock, way):
    config = {"type": "memory", **({"clock": clock} if way == "configuration" else {})}
    with pytest.raises(ConfigError, match=r"which a test cannot move\. Give a pitstop\.testing\.ManualClock"):
        testing.init(config, clock=clock if way == "argument" else None)


def test_refuses_a_ready_backend_that_goes_by_a_real_clock():
    with pytest.raises(ConfigError, match="SystemClock, which a test cannot move"):
        testing.init({"type": MemoryBackend()})


def test_refuses_a_backend_that_does_not_take_the_clock():
    class OwnTime(MemoryBackend):
        Config: ClassVar[type[BackendConfig]] = MemoryConfig

        def __init__(self, config):
            super().__init__(config)
            self.clock = SystemClock()

    with pytest.raises(ConfigError, match="OwnTime uses a clock of its own"):
        testing.init({"type": OwnTime})


@pytest.mark.parametrize("config", [5, ["memory"]], ids=repr)
def test_refuses_a_value_that_is_no_configuration(config):
    with pytest.raises(ConfigError, match="Give a mapping, a URL, or nothing"):
        testing.init(config)


def test_refuses_two_clocks():
    with pytest.raises(ConfigError, match="two clocks"):
        testing.init({"type": "memory", "clock": ManualClock()}, clock=ManualClock())


class TestIds:
    def test_are_uuids_unless_told_otherwise(self):
        with testing.init() as pit:
            assert pit.store({}, NOW) != pit.store({}, NOW)

    @pytest.mark.parametrize("ids", ["msg-{n}", lambda n: f"msg-{n}"], ids=["text", "function"])
    def test_are_numbered_when_asked_for(self, ids):
        with testing.init(ids=ids) as pit:
            assert pit.store({}, NOW) == "msg-1"
            assert pit.store({"id": "mine"}, NOW) == "mine"
            assert pit.store_many([({}, NOW), ({}, NOW)]) == ["msg-2", "msg-3"]

    def test_take_no_message_away(self):
        """This includes messages of another handle on the same store."""
        clock = ManualClock()
        config = {"type": "memory", "clock": clock, "name": "ids of two handles"}
        with testing.init(config, ids="msg-{n}") as one, testing.init(config, ids="msg-{n}") as other:
            one.store({"id": "msg-2"}, NOW)
            assert [one.store({}, NOW), other.store({}, NOW)] == ["msg-1", "msg-3"]

    @pytest.mark.parametrize("ids", ["msg", 5], ids=repr)
    def test_that_would_all_be_one_are_refused(self, ids):
        with pytest.raises(ConfigError, match="ids="):
            testing.init(ids=ids)

    def test_that_are_given_to_others_of_the_same_batch_are_passed_over(self):
        with testing.init(ids="msg-{n}") as pit:
            items = [({"a": 1}, HOUR), ({"id": "msg-1"}, HOUR), ({"a": 2}, HOUR)]
            assert pit.store_many(items) == ["msg-2", "msg-1", "msg-3"]
            assert pit.stats().scheduled == 3

    def test_that_repeat_for_ever_are_refused_instead_of_tried_for_ever(self):
        with testing.init(ids=lambda n: f"m-{n % 2}") as pit:
            assert [pit.store({}, HOUR), pit.store({}, HOUR)] == ["m-1", "m-0"]
            with pytest.raises(ConfigError, match=r"repeats ids that are stored already: 'm-\d'"):
                pit.store({}, HOUR)
        with testing.init(ids=lambda n: "same") as pit, pytest.raises(ConfigError, match="stored already"):
            pit.store_many([({}, HOUR), ({}, HOUR)])

    def test_that_cannot_be_ids_are_refused_as_ever(self):
        with testing.init(ids=lambda n: n) as pit, pytest.raises(pitstop.MessageError, match="The id must be a str"):
            pit.store({}, NOW)


def test_plugins_are_called_with_the_events():
    seen = []

    class Plugin:
        @pitstop.hookimpl
        def pitstop_message_stored(self, entry):
            seen.append(entry.id)

    with testing.init(plugins=[Plugin()], ids="msg-{n}") as pit:
        pit.store({}, NOW)
    assert seen == ["msg-1"]
    assert len(pit.events) == 1


def test_is_not_taken_for_a_class_of_tests():
    assert TestPitstop.__test__ is False


def test_needs_neither_pytest_nor_hypothesis_nor_asyncio():
    code = "import sys, pitstop.testing; pitstop.testing.init(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pytest", "hypothesis", "asyncio", "sqlite3", "pymongo"} & set(done.stdout.split())
