"""The scheduler itself: it finds what is known to be wrong, says how, and does the same again."""

from __future__ import annotations

import asyncio
import threading

from contextlib import nullcontext
from importlib import import_module

import attrs
import pytest

from schedules import primitives
from schedules.exploring import Scenario, explore, replay
from schedules.loop import run_loop
from schedules.patching import modules, patched
from schedules.scheduler import Deadlock, Endless, Scheduler


def together(*functions):
    threads = [primitives.Thread(target=each, name=each.__name__) for each in functions]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def increments(lock=None):
    """Two threads that count: a race, unless there is a lock."""

    def main(scheduler):
        count = [0]

        guard = nullcontext() if lock is None else lock()

        def increment():
            with guard:
                seen = count[0]
                count[0] = seen + 1

        together(increment, increment)
        assert count[0] == 2

    return main


def this_file(path):
    return path == __file__


def test_a_race_between_two_lines_is_found():
    scenario = Scenario("race", increments(), this_file)
    _, failure = explore(scenario, 100)
    assert isinstance(failure.error, AssertionError)
    assert len(failure.schedule) == 1
    assert "test_scheduler.py" in failure.report()


@pytest.mark.parametrize("lock", [primitives.Lock, primitives.RLock, primitives.Condition])
def test_there_is_no_race_with_a_lock(lock):
    runs, failure = explore(Scenario("locked", increments(lock), this_file), 300)
    assert failure is None
    assert runs > 50


def test_a_failure_can_be_run_alone():
    scenario = Scenario("race", increments(), this_file)
    _, failure = explore(scenario, 100)
    for _ in range(3):
        again = replay(scenario, failure.schedule)
        assert again.switches == failure.switches
        assert str(again.error) == str(failure.error)
    assert replay(scenario, {}) is None


def test_the_same_seed_gives_the_same_schedules():
    seen = []

    def main(scheduler):
        seen.append([])

        def one():
            seen[-1].append(1)

        def two():
            seen[-1].append(2)

        together(one, two)

    explore(Scenario("same", main, this_file), 60, seed=3)
    first, seen = seen, []
    explore(Scenario("same", main, this_file), 60, seed=3)
    assert first == seen
    assert [1, 2] in seen
    assert [2, 1] in seen


def test_a_deadlock_is_reported_with_the_threads_that_wait():
    def main(scheduler):
        first, second = primitives.Lock(), primitives.Lock()

        def one():
            with first, second:
                pass

        def two():
            with second, first:
                pass

        together(one, two)

    _, failure = explore(Scenario("deadlock", main), 200)
    assert isinstance(failure.error, Deadlock)
    assert "one-1 waits for a Lock" in str(failure.error)
    assert "two-1 waits for a Lock" in str(failure.error)


def test_a_wake_up_that_is_lost_is_a_deadlock():
    def main(scheduler):
        event, ready = primitives.Event(), []

        def wait():
            if not ready:
                event.clear()
                event.wait()

        def wake():
            ready.append(True)
            event.set()

        together(wait, wake)

    _, failure = explore(Scenario("lost wake-up", main, this_file), 200)
    assert isinstance(failure.error, Deadlock)


def test_threads_that_keep_each_other_busy_are_reported():
    def main(scheduler):
        while True:
            scheduler.point("busy")

    _, failure = explore(Scenario("busy", main), 1)
    assert isinstance(failure.error, Endless)


def test_a_thread_that_is_left_at_the_end_is_reported():
    def main(scheduler):
        primitives.Thread(target=primitives.Event().wait, name="forgotten").start()

    _, failure = explore(Scenario("left", main), 1)
    assert "forgotten" in str(failure.error)


def test_time_passes_only_while_all_threads_wait():
    def main(scheduler):
        begun, event = scheduler.now_us, primitives.Event()
        ended = []

        def wait():
            assert not event.wait(900)
            ended.append(scheduler.now_us)

        def work():
            for _ in range(100):
                scheduler.point("work")
            assert scheduler.now_us == begun

        together(wait, work)
        assert ended == [begun + 900_000_000]

    assert explore(Scenario("time", main), 50)[1] is None


def test_a_short_wait_may_be_over_while_other_threads_work():
    late = []

    def main(scheduler):
        done = primitives.Event()

        def wait():
            late.append(not done.wait(0.01))

        def work():
            scheduler.point("work")
            done.set()

        together(wait, work)

    explore(Scenario("short", main), 50)
    assert set(late) == {True, False}


def test_the_error_of_any_thread_fails_the_run():
    def main(scheduler):
        def fails():
            raise KeyError("wrong")

        together(fails)

    _, failure = explore(Scenario("error", main), 5)
    assert isinstance(failure.error, KeyError)


def test_a_condition_wakes_as_many_as_it_is_told():
    def main(scheduler):
        condition, items, taken = primitives.Condition(), [], []

        def take():
            with condition:
                condition.wait_for(lambda: items)
                taken.append(items.pop())

        def put():
            for n in range(2):
                with condition:
                    items.append(n)
                    condition.notify()

        together(take, take, put)
        assert sorted(taken) == [0, 1]

    assert explore(Scenario("condition", main, this_file), 300)[1] is None


def test_a_loop_is_woken_by_other_threads():
    async def main(scheduler):
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        thread = primitives.Thread(target=lambda: loop.call_soon_threadsafe(event.set), name="wake")
        thread.start()
        await event.wait()
        await asyncio.sleep(30)

    scenario = Scenario("loop", lambda scheduler: run_loop(scheduler, main(scheduler)), this_file)
    runs, failure = explore(scenario, 100)
    assert failure is None, failure.report()
    assert runs > 5


def test_no_thread_can_be_started_when_the_scenario_says_so():
    def main(scheduler):
        scheduler.no_threads = True
        with pytest.raises(RuntimeError, match="can't start new thread"):
            primitives.Thread(target=print).start()

    assert explore(Scenario("no threads", main), 1)[1] is None


def test_the_modules_of_pitstop_are_as_before_after_a_run():
    from threading import Lock

    import pitstop.abc._clock as clock

    with patched():
        assert clock.Lock is primitives.Lock
        assert clock.SystemClock().time_us() == 1_577_836_800_000_000
    assert clock.Lock is Lock
    assert clock.SystemClock().time_us() > 1_700_000_000_000_000


def test_a_scheduler_runs_one_scenario_at_a_time():
    inner = Scheduler({})

    def main(scheduler):
        with pytest.raises(AssertionError):
            inner.run(lambda: None)

    assert explore(Scenario("nested", main), 1)[1] is None


def test_ten_thousand_schedules_are_explored():
    modules = [import_module(f"schedules.test_{name}") for name in ("storing", "waiting", "settling", "closing", "aio")]
    assert sum(case.runs for module in modules for case in module.cases.by_name.values()) >= 10_000


def test_no_object_of_a_module_has_a_lock_that_the_scheduler_does_not_know():
    """A thread that waits for such a lock stops the run, if the schedule lets another thread go on while it holds the lock."""
    locks = type(threading.Lock()), type(threading.RLock())
    with patched():
        found = [
            f"{module.__name__}.{name}.{attribute}"
            for module in modules()
            for name, value in vars(module).items()
            if type(value).__module__ == module.__name__
            for attribute, held in getattr(value, "__dict__", {}).items()
            if isinstance(held, locks)
        ]
    assert found == []


def test_no_class_of_a_module_makes_a_lock_that_the_scheduler_does_not_know():
    """The default of an attrs field is bound when the class is made, so that no patch of the module reaches it."""
    makers = threading.Lock, threading.RLock, threading.Condition, threading.Event
    found = {
        f"{value.__module__}.{value.__name__}.{field.name}"
        for module in modules()
        for value in vars(module).values()
        if attrs.has(value) and value.__module__ == module.__name__
        for field in attrs.fields(value)
        if isinstance(field.default, attrs.Factory) and field.default.factory in makers  # type: ignore[arg-type]
    }
    assert found == set()
