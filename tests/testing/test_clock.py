"""The clock of a test: the test moves it, it never goes back, and every wait obeys it."""

from __future__ import annotations

import threading

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

import pitstop

from pitstop.abc import Doorbell
from pitstop.testing import ManualClock


HOUR = timedelta(hours=1)
START = datetime(2020, 1, 1, tzinfo=UTC)


def test_starts_at_the_same_time_in_every_run():
    assert ManualClock().now() == START


def test_starts_where_it_is_told():
    start = datetime(2031, 5, 6, 7, 8, 9, 123000, tzinfo=UTC)
    assert ManualClock(start).now() == ManualClock(start=start).now() == start


def test_starts_at_a_whole_millisecond_and_is_moved_by_less():
    clock = ManualClock(START.replace(microsecond=123456))
    assert clock.now() == START.replace(microsecond=123000)
    assert clock.advance(timedelta(microseconds=7)) == START.replace(microsecond=123007)


@pytest.mark.parametrize(
    "start", [datetime(2020, 1, 1), datetime(1969, 12, 31, tzinfo=UTC)], ids=["naive", "too early"]
)
def test_a_start_that_no_store_could_count_from_is_refused(start):
    with pytest.raises(pitstop.ScheduleError, match="start="):
        ManualClock(start)


@pytest.mark.parametrize("by", [HOUR, 3600, 3600.0, "1h", "60m"])
def test_advances_by_a_timedelta_by_seconds_and_by_text(by):
    clock = ManualClock()
    assert clock.advance(by) == clock.now() == START + HOUR


def test_advances_to_a_time_in_any_zone():
    clock = ManualClock()
    assert clock.advance_to((START + HOUR).astimezone()) == START + HOUR


def test_stands_still_in_between():
    clock = ManualClock()
    assert clock.time_us() == clock.time_us()
    assert clock.monotonic() == clock.monotonic()


def test_does_not_go_back():
    clock = ManualClock()
    with pytest.raises(pitstop.PitstopError, match="does not go back"):
        clock.advance(-1)
    with pytest.raises(pitstop.PitstopError, match="does not go back"):
        clock.advance_to(START - timedelta(microseconds=1))
    assert clock.now() == START
    assert clock.advance(0) == clock.advance_to(START) == START


@pytest.mark.parametrize("by", [float("nan"), float("inf"), 1e300, "soon", None, True], ids=repr)
def test_a_value_that_is_no_length_of_time_is_refused(by):
    clock = ManualClock()
    with pytest.raises(pitstop.PitstopError, match="by="):
        clock.advance(by)
    assert clock.now() == START


def test_does_not_leave_the_years_that_a_datetime_can_name():
    clock = ManualClock()
    with pytest.raises(pitstop.PitstopError, match="9999"):
        clock.advance(timedelta(days=365 * 9000))
    assert clock.now() == START


def test_threads_that_advance_it_at_once_lose_no_time():
    clock, go = ManualClock(), threading.Barrier(4)

    def advance():
        go.wait(10)
        for _ in range(500):
            clock.advance(1)

    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(advance) for _ in range(4)]:
            each.result(10)
    assert clock.now() == START + timedelta(seconds=2000)


def test_a_wait_ends_when_the_clock_passes_its_time_and_not_before():
    clock, bell = ManualClock(), Doorbell()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(clock.wait, bell, 3600.0)
        assert clock.wait_for_sleepers(1)
        clock.advance(3599.999)
        assert clock.wait_for_sleepers(1)
        assert not waiting.done()
        clock.advance(0.001)
        assert waiting.result(10) is False


def test_a_wait_ends_at_a_ring():
    clock, bell = ManualClock(), Doorbell()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(clock.wait, bell, 3600.0)
        assert clock.wait_for_sleepers(1)
        bell.ring()
        assert waiting.result(10) is True
    assert not clock.wait_for_sleepers(1, timeout=0)


def test_one_move_ends_every_wait_that_it_passes():
    clock = ManualClock()
    with ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(clock.wait, Doorbell(), float(seconds)) for seconds in (1, 2, 3, 4, 50)]
        assert clock.wait_for_sleepers(5)
        clock.advance(10)
        assert [each.result(10) for each in waiting[:4]] == [False] * 4
        assert clock.wait_for_sleepers(1, timeout=0)
        clock.advance(40)
        assert waiting[4].result(10) is False


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
def test_a_listener_that_blocks_in_another_thread_wakes_when_a_message_is_due(backend, tmp_path):
    """This holds for all jumps that the test makes: the listener sleeps by this clock alone."""
    clock = ManualClock()
    options = {"path": str(tmp_path / "pit.db")} if backend == "sqlite" else {}
    with (
        pitstop.init({"type": backend, "clock": clock, "loop_time": "1w", **options}) as pit,
        ThreadPoolExecutor(1) as pool,
        pit.listen() as listener,
    ):
        pit.store({"id": "a"}, HOUR)
        waiting = pool.submit(listener.get, None)
        assert clock.wait_for_sleepers(1)
        clock.advance("59m")
        assert not waiting.done()
        clock.advance("1m")
        assert waiting.result(10).id == "a"


def test_a_lease_ends_for_a_listener_that_blocks_in_another_thread():
    clock = ManualClock()
    with (
        pitstop.init({"type": "memory", "clock": clock, "lock_time": "5m", "loop_time": "1w"}) as pit,
        ThreadPoolExecutor(1) as pool,
        pit.listen() as listener,
    ):
        pit.store({"id": "a"}, timedelta(0))
        assert listener.get().attempt == 1
        waiting = pool.submit(listener.get, None)
        assert clock.wait_for_sleepers(1)
        clock.advance("5m")
        assert waiting.result(10).attempt == 2
