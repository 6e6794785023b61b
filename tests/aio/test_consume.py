"""``consume`` in an event loop, on each backend."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time

from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest

import pitstop

from aio.kit import NOW, Outside, Stalls, Tasks, contention, run, until
from core.kit import Scripted
from patience import with_some_lease
from pitstop._aio._feeder import Feeder


pytestmark = pytest.mark.usefixtures("tasks")


def test_each_message_is_handled_once_and_acknowledged(opened, outside):
    ids = outside.store(500)

    async def main():
        seen = []

        async def handle(message):
            await asyncio.sleep(0.001)
            seen.append(message["id"])

        async with opened() as pit:
            summary = await pit.consume(handle, until_idle=True)
        assert sorted(seen) == ids
        assert (summary.acked, summary.nacked, summary.lost, summary.unfinished) == (500, 0, 0, 0)
        assert (summary.handled, summary.unsettled, summary.reason) == (500, 0, "idle")

    run(main())
    assert outside.counts() == (0, 0, 0)


def test_no_more_than_concurrency_are_handled_at_once_and_no_fewer(opened, outside):
    outside.store(60)

    async def main():
        running = most = 0

        async def handle(message):
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            running -= 1

        async with opened() as pit:
            await pit.consume(handle, concurrency=7, until_idle=True)
        assert most == 7

    run(main())


def test_slow_handlers_do_not_sit_on_what_others_could_take(opened, outside):
    outside.store(100)

    async def main():
        release = asyncio.Event()

        async def handle(message):
            await release.wait()

        async with opened() as pit:
            task = asyncio.create_task(pit.consume(handle, concurrency=5, max_messages=5))
            await asyncio.to_thread(outside.becomes, 95, 5)
            release.set()
            assert (await task).reason == "max_messages"

    run(main())
    assert outside.counts() == (95, 0, 0)


def test_a_handler_that_raises_nacks_and_is_logged_without_what_the_message_says(opened, outside, caplog):
    outside.store(10, secret="do not tell")

    async def main():
        async def handle(message):
            if message["id"] == "m00003":
                raise ValueError(message["secret"])

        async with opened(retry={"delay": "1h"}) as pit:
            return await pit.consume(handle, until_idle=True)

    with caplog.at_level(logging.ERROR, "pitstop"):
        summary = run(main())
    assert (summary.acked, summary.nacked, summary.handled) == (9, 1, 10)
    (record,) = caplog.records
    assert record.getMessage().startswith("'m00003' (attempt 1) failed: ValueError at ")
    assert "test_consume.py:" in record.getMessage()
    assert record.name == "pitstop.consumer"
    assert "do not tell" not in caplog.text
    assert outside.pit.get("m00003").last_error == "ValueError: do not tell"


def test_a_message_that_failed_is_handled_again_before_it_is_idle(opened, outside):
    outside.store(1)

    async def main():
        attempts = []

        async def handle(delivery):
            attempts.append(delivery.attempt)
            if delivery.attempt < 3:
                raise ValueError

        async with opened(retry={"delay": 0}) as pit:
            summary = await pit.consume(handle, until_idle=True)
        assert attempts == [1, 2, 3]
        assert (summary.acked, summary.nacked) == (1, 2)

    run(main())


def test_a_message_that_a_handler_stored_is_handled_before_it_is_idle(opened, outside):
    outside.store(1)

    async def main():
        async with opened() as pit:
            seen = []

            async def handle(message):
                seen.append(message["id"])
                if len(seen) < 5:
                    await pit.store({"id": f"next{len(seen)}"}, NOW)

            await pit.consume(handle, until_idle=True)
        assert len(seen) == 5

    run(main())


def test_what_was_claimed_ahead_while_nothing_was_found_is_handled_before_it_is_idle(opened, outside, monkeypatch):
    tell, ahead = Feeder._tell, []

    def telling(feeder):
        if feeder.nothing is not None and not ahead:
            ahead.extend(outside.store(1))
            # As the background thread does.
            assert feeder.intake.claimer.claim(1).count == 1
        tell(feeder)

    monkeypatch.setattr(Feeder, "_tell", telling)

    async def main():
        async def handle(message):
            pass

        async with opened() as pit:
            assert (await pit.consume(handle, until_idle=True)).acked == 1

    run(main())


def test_it_waits_for_what_its_handlers_may_store_without_asking_the_store_again_and_again():
    backend = Scripted.from_options({})

    async def main():
        begun, may_end = asyncio.Event(), asyncio.Event()

        async def handle(message):
            begun.set()
            if message["id"] == "first":
                await may_end.wait()

        async with pitstop.init_async({"type": backend}) as pit:
            await pit.store({"id": "first"}, NOW)
            task = asyncio.create_task(pit.consume(handle, until_idle=True, loop_time="1m"))
            await begun.wait()
            await until(lambda: backend.calls.count("next_due") >= 1)
            claims = backend.calls.count("lease")
            await asyncio.sleep(0.1)
            assert backend.calls.count("lease") == claims
            await pit.store({"id": "second"}, NOW)
            await until(lambda: backend.calls.count("lease") > claims)
            may_end.set()
            assert (await task).acked == 2

    run(main())


def test_a_handler_may_take_the_delivery_and_settle_it_itself(opened, outside):
    outside.store(4)

    async def main():
        async def handle(item: pitstop.AsyncDelivery) -> None:
            if item.id == "m00000":
                await item.ack(wait=True)
            elif item.id == "m00001":
                await item.nack("later", delay=timedelta(hours=1))
            elif item.id == "m00002":
                await item.extend()

        async with opened() as pit:
            return await pit.consume(handle, until_idle=True)

    summary = run(main())
    assert (summary.acked, summary.nacked, summary.handled) == (3, 1, 4)
    assert outside.pit.get("m00001").last_error == "later"


@pytest.mark.parametrize("deliveries", [True, False])
def test_what_the_handler_is_called_with_can_be_said(opened, outside, deliveries):
    outside.store(1)

    async def main():
        got = []

        async def handle(anything):
            got.append(type(anything))

        async with opened() as pit:
            await pit.consume(handle, until_idle=True, deliveries=deliveries)
        assert got == [pitstop.AsyncDelivery if deliveries else dict]

    run(main())


def test_a_lease_that_is_lost_is_counted(opened, outside):
    outside.store(2)

    async def main():
        loop = asyncio.get_running_loop()

        async def handle(message):
            if message["id"] == "m00000":
                # Stored anew, and not removed: an ack of what is gone may be told as done, together with others.
                await loop.run_in_executor(None, outside.pit.store, {"id": "m00000"}, timedelta(hours=1))

        async with opened() as pit:
            return await pit.consume(handle, until_idle=True)

    summary = run(main())
    assert (summary.acked, summary.lost) == (1, 1)


def test_cancelling_it_cancels_the_handlers_and_their_messages_are_due_at_once(opened, outside):
    outside.store(50)

    async def main():
        begun = cleaned = 0

        async def handle(message):
            nonlocal begun, cleaned
            begun += 1
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0)
                cleaned += 1

        async with opened(retry={"delay": "1h"}) as pit:
            task = asyncio.create_task(pit.consume(handle, concurrency=20))
            await until(lambda: begun == 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert cleaned == 20
            assert outside.counts() == (50, 0, 0)

    run(main())
    assert {each.attempts for each in outside.pit.entries()} == {0, 1}


@pytest.mark.parametrize("moment", range(8))
def test_cancelling_it_at_any_moment_loses_nothing(opened, outside, moment):
    outside.store(200)

    async def main():
        seen = set()

        async def handle(message):
            await asyncio.sleep(0)
            seen.add(message["id"])

        async with opened() as pit:
            task = asyncio.create_task(pit.consume(handle, concurrency=20))
            for _ in range(moment):
                await asyncio.sleep(0.002)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return len(seen)

    handled = run(main())
    due, leased, dead = outside.counts()
    assert (leased, dead) == (0, 0)
    assert due >= 200 - handled


def test_a_task_that_is_cancelled_alone_gives_back_its_message(opened, outside):
    outside.store(1)

    async def main():
        attempts = []

        async def handle(delivery):
            attempts.append(delivery.attempt)
            if delivery.attempt == 1:
                asyncio.current_task().cancel()
                await asyncio.sleep(60)

        async with opened() as pit:
            summary = await pit.consume(handle, until_idle=True)
        assert attempts == [1, 2]
        assert (summary.acked, summary.nacked) == (1, 0)

    run(main())


def test_a_handler_that_awaits_what_was_cancelled_has_failed(opened, outside):
    outside.store(1)

    async def main():
        async def handle(message):
            something = asyncio.get_running_loop().create_future()
            something.cancel()
            await something

        async with opened(retry={"delay": 0, "max_attempts": 3}) as pit:
            return await asyncio.wait_for(pit.consume(handle, until_idle=True), 10)

    summary = run(main())
    assert (summary.nacked, summary.unfinished) == (3, 0)
    assert outside.counts() == (0, 0, 1)


def test_closing_the_pitstop_ends_it_once_the_handlers_have_come_to_their_end(opened, outside):
    outside.store(5)

    async def main():
        begun, release = [], asyncio.Event()

        async def handle(message):
            begun.append(message)
            await release.wait()

        pit = opened()
        task = asyncio.create_task(pit.consume(handle))
        await until(lambda: len(begun) == 5)
        closing = asyncio.create_task(pit.aclose())
        await asyncio.sleep(0.01)
        release.set()
        await closing
        summary = await task
        assert summary.reason == "stopped"
        assert (summary.acked, summary.unsettled) == (5, 0)

    run(main())
    assert outside.counts() == (0, 0, 0)


def test_handlers_may_use_the_store_while_closing_waits_for_them(opened, outside):
    outside.store(1)

    async def main():
        begun = asyncio.Event()
        pit = opened()

        async def handle(message):
            begun.set()
            await until(lambda: pit._closed)
            await pit.store({"id": "next"}, timedelta(hours=1))

        task = asyncio.create_task(pit.consume(handle))
        await begun.wait()
        await pit.aclose()
        assert (await task).acked == 1
        with pytest.raises(pitstop.BackendUnavailable, match="init_async"):
            await pit.ping()

    run(main())
    assert outside.pit.get("next") is not None


def test_a_handler_may_close_the_pitstop(opened, outside, caplog):
    outside.store(1)

    async def main():
        pit = opened()

        async def handle(message):
            await pit.aclose()
            await pit.store({"id": "next"}, timedelta(hours=1))

        summary = await pit.consume(handle)
        assert (summary.acked, summary.reason) == (1, "stopped")
        with pytest.raises(pitstop.BackendUnavailable, match="init_async"):
            await pit.ping()

    run(main())
    assert outside.pit.get("next") is not None
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_each_handler_has_a_context_of_its_own(opened, outside):
    outside.store(3)
    variable = contextvars.ContextVar("variable", default="none")

    async def main():
        seen = []

        async def handle(message):
            seen.append(variable.get())
            variable.set(message["id"])

        async with opened() as pit:
            await pit.consume(handle, concurrency=1, until_idle=True)
        assert seen == ["none"] * 3

    run(main())


class Tracing:
    def __init__(self):
        self.seen = []

    @pitstop.hookimpl
    def pitstop_handling(self, delivery):
        return self._around(delivery.id)

    @pitstop.hookimpl
    def pitstop_message_acked(self, delivery):
        self.seen.append(f"acked {delivery.id}")

    def _around(self, id):
        @contextmanager
        def around():
            self.seen.append(f"enter {id}")
            try:
                yield
            finally:
                self.seen.append(f"leave {id}")

        return around()


def test_plugins_see_what_happens():
    tracing = Tracing()

    async def main():
        async with pitstop.init_async("memory://", plugins=[tracing]) as pit:
            await pit.store({"id": "a"}, NOW)

            async def handle(message):
                tracing.seen.append("handled")

            await pit.consume(handle, until_idle=True)

    run(main())
    assert tracing.seen == ["enter a", "handled", "leave a", "acked a"]


def test_a_handler_that_is_not_async_is_refused_and_told_of_init(opened):
    async def main():
        async with opened() as pit:
            with pytest.raises(pitstop.PitstopError, match=r"is not async.*pitstop\.init\(\)"):
                await pit.consume(lambda message: None)
            with pytest.raises(pitstop.PitstopError, match="cannot be called"):
                await pit.consume(None)
            with pytest.raises(pitstop.ConfigError, match="concurrency=0"):
                await pit.consume(asyncio.sleep, concurrency=0)
            with pytest.raises(pitstop.ConfigError, match="max_messages=0"):
                await pit.consume(asyncio.sleep, max_messages=0)
            with pytest.raises(pitstop.ConfigError, match="drain"):
                await pit.consume(asyncio.sleep, drain="long")

    run(main())


def test_a_partial_and_an_object_with_an_async_call_are_handlers(opened, outside):
    outside.store(2)

    class Handler:
        async def __call__(self, message):
            seen.append(message["id"])

    async def handle(prefix, message):
        seen.append(prefix + message["id"])

    seen = []

    async def main():
        async with opened() as pit:
            await pit.consume(Handler(), max_messages=1)
            await pit.consume(functools.partial(handle, "partial "), max_messages=1)

    run(main())
    assert seen == ["m00000", "partial m00001"]


#: Handlers of 10 ms each, of which 200 run at once.
_COUNT, _AT_ONCE, _EACH = 10_000 if os.environ.get("PITSTOP_TEST_LARGE") else 2_000, 200, 0.01


async def _bare() -> float:
    """Seconds that asyncio itself takes for that, with a task for each."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    places = asyncio.Semaphore(_AT_ONCE)

    async def handle() -> None:
        await asyncio.sleep(_EACH)
        places.release()

    async with asyncio.TaskGroup() as group:
        for _ in range(_COUNT):
            await places.acquire()
            group.create_task(handle())
    return loop.time() - begun


def test_many_short_handlers_take_little_longer_than_their_share_of_the_time_and_the_loop_never_stalls(
    opened, outside, config
):
    async def main():
        loop = asyncio.get_running_loop()

        async def handle(message):
            await asyncio.sleep(_EACH)

        bare = await _bare()
        async with opened() as pit, Stalls() as stalls:
            begun = loop.time()
            summary = await pit.consume(handle, concurrency=_AT_ONCE, until_idle=True)
            took = loop.time() - begun
        assert summary.acked == _COUNT
        return took / bare, stalls.longest

    # Other programs of this machine must not fail the test: it is the best of a few rounds that counts, and if hardly one of
    # them had a core for itself, less is asked for. On an idle machine: 1.1 in memory and on SQLite, 1.5 on MongoDB; 15 ms.
    # A server of its own has the same cores.
    most, in_a_crowd = (6 if config["type"] == "mongo" else 2, 0.05), (30, 1.5)
    rounds, calm = [], []
    for _ in range(5):
        outside.store(_COUNT)
        before = contention()
        rounds.append(run(main()))
        if max(before, contention()) < 1.25:
            calm.append(rounds[-1])
        if _is_best_within(most, rounds):
            return
    judged, bounds = (calm, most) if len(calm) > 1 else (rounds, in_a_crowd)
    assert _is_best_within(bounds, judged), (
        f"times of asyncio itself, and seconds of the longest stall: {rounds}, {calm=}"
    )


def _is_best_within(bounds, rounds):
    return all(min(column) < bound for column, bound in zip(zip(*rounds, strict=True), bounds, strict=True))


_PROGRAM = """
    import asyncio, os, sys, pitstop

    async def handle(message):
        print("begun", flush=True)
        try:
            while not os.path.exists(sys.argv[2]):
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            print("cancelled", flush=True)
            raise
        print("done", flush=True)

    async def main():
        async with pitstop.init_async(sys.argv[1]) as pit:
            print(await pit.consume(handle, concurrency=2, drain="30s"), flush=True)

    asyncio.run(main())
"""


@pytest.fixture
def program(tmp_path):
    """A program with two messages in its handlers, of five; its store; and a file: once it is there they finish."""
    url, may_go = f"sqlite:///{tmp_path / 'signals.db'}", tmp_path / "may go"
    with pitstop.init(url) as pit:
        pit.store_many([({}, NOW) for _ in range(5)])
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(_PROGRAM), url, str(may_go)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2):
            assert process.stdout.readline() == "begun\n"
        yield process, Outside(pit), may_go
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_running_handlers_finish_and_gives_back_the_rest(program, number):
    process, outside, may_go = program
    process.send_signal(number)
    outside.becomes(3, 2)
    may_go.touch()
    out, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (0, "")
    assert out == "done\ndone\n2 acked, 0 nacked; ended because a signal asked for it.\n"
    assert outside.counts() == (3, 0, 0)


def test_a_second_signal_cancels_the_handlers_and_leaves_no_lease(program):
    process, outside, _ = program
    process.send_signal(signal.SIGTERM)
    outside.becomes(3, 2)
    # One that comes within half a second is an echo of the first, so several are sent; but none once it has worked.
    while outside.counts() == (3, 2, 0):
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.8)
        process.send_signal(signal.SIGTERM)
        with suppress(AssertionError):
            outside.becomes(5, 0, within=1)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert out == (
        "cancelled\ncancelled\n0 acked, 0 nacked, 2 not finished; ended because a second signal asked for it.\n"
    )
    assert outside.counts() == (5, 0, 0)


def test_a_heartbeat_holds_a_lease_that_a_handler_outlives_though_the_loop_is_blocked(opened, outside):
    async def main(lease):
        attempts = []

        async def handle(delivery):
            attempts.append(delivery.attempt)
            time.sleep(1.8 * lease)  # noqa: ASYNC251 - it is what a handler must not do
            await asyncio.sleep(lease / 2)
            assert not delivery.lost

        async with opened() as pit:
            summary = await pit.consume(handle, lock_time=lease, heartbeat=True, until_idle=True)
        # An eager task begins when its message is taken, so the second message waited in the buffer, where no heart beats.
        assert attempts == [1, 2 if Tasks.eager else 1]
        assert (summary.acked, summary.lost) == (2, 0)

    def show(lease):
        outside.pit.remove("m00000")
        outside.pit.remove("m00001")
        outside.store(2)
        run(main(lease))

    with_some_lease(show)


def test_a_message_whose_lease_ran_out_while_the_loop_was_blocked_is_not_handled(opened, outside):
    async def main(lease):
        lost = []

        async def handle(delivery):
            lost.append(delivery.lost)
            if len(lost) == 1:
                # Until the next ones are claimed, and their leases are over.
                while outside.pit.stats().leased < 2:
                    time.sleep(0.001)  # noqa: ASYNC251 - it is what a handler must not do
                time.sleep(1.2 * lease)  # noqa: ASYNC251

        async with opened() as pit:
            summary = await pit.consume(handle, lock_time=lease, concurrency=3, until_idle=True)
        assert not any(lost)
        assert summary.acked == 6
        # The first one: its own lease was over when it was done.
        assert summary.lost >= 1

    def show(lease):
        outside.store(6)
        run(main(lease))

    with_some_lease(show)


@pytest.mark.parametrize("end", ["drain", "handler", "closed", "cancelled"])
def test_the_end_of_the_program_is_no_death_of_a_message(opened, outside, end):
    """Not even at the last attempt."""
    outside.store(1)

    async def main():
        begun = asyncio.Event()

        async def handle(message):
            begun.set()
            if end == "handler":
                raise SystemExit(3)
            await asyncio.sleep(3600)

        async with opened(retry={"max_attempts": 1}) as pit:
            if end == "handler":
                with pytest.raises(SystemExit):
                    await pit.consume(handle)
                return
            task = asyncio.create_task(pit.consume(handle, drain=0.01))
            await begun.wait()
            if end == "drain":
                signal.raise_signal(signal.SIGTERM)
            elif end == "closed":
                await pit.aclose()
            elif end == "cancelled":
                task.cancel()
            await asyncio.wait([task])
            if end in {"drain", "closed"}:
                assert (task.result().nacked, task.result().unfinished) == (0, 1)
            else:
                assert task.cancelled()

    run(main())
    (entry,) = outside.pit.entries()
    assert (entry.state, entry.attempts, entry.last_error) == ("due", 1, None)


@pytest.mark.parametrize("until_idle", [False, True])
def test_a_store_that_is_away_does_not_end_it(until_idle):
    """As with threads. By real time, since it is tried again after a pause."""
    backend = Scripted.from_options({})

    async def main():
        seen = []

        async def handle(message):
            seen.append(message["id"])

        async with pitstop.init_async({"type": backend}) as pit:
            await pit.store({"id": "a"}, NOW)
            backend.down = True
            task = asyncio.create_task(pit.consume(handle, max_messages=1, until_idle=until_idle))
            await until(lambda: backend.calls.count("lease") > 1)
            assert not task.done()
            backend.down = False
            assert (await task).acked == 1

    run(main())


@pytest.mark.parametrize("until_idle", [False, True])
def test_a_store_that_refuses_at_the_first_look_ends_it(until_idle):
    backend = Scripted.from_options({})

    async def main():
        async with pitstop.init_async({"type": backend}) as pit:
            await pit.ping()
            backend.down = pitstop.BackendUnavailable("wrong password", permanent=True)
            with pytest.raises(pitstop.BackendUnavailable, match="wrong password"):
                await pit.consume(asyncio.sleep, until_idle=until_idle)
            backend.down = False

    run(main())


def test_running_handlers_have_all_the_time_they_need_after_max_messages(opened, outside):
    """As with threads: ``drain`` is for the end of a program."""
    outside.store(3)

    async def main():
        begun = asyncio.Event()

        async def handle(message):
            begun.set()
            await asyncio.sleep(0.2)

        async with opened() as pit:
            summary = await pit.consume(handle, max_messages=1, drain=0)
        assert (summary.acked, summary.unfinished, summary.reason) == (1, 0, "max_messages")

    run(main())


def test_each_running_consume_is_a_consumer(opened, outside):
    outside.store(5)

    async def main():
        both, may_end = asyncio.Barrier(3), asyncio.Event()

        async def handle(message):
            await both.wait()
            await may_end.wait()

        before = datetime.now(UTC)
        async with opened() as pit:
            assert pit.consumers == ()
            task = asyncio.create_task(pit.consume(handle, concurrency=2, max_messages=2))
            await both.wait()
            (consumer,) = pit.consumers
            assert (consumer.healthy, consumer.in_hand, consumer.in_handlers) == (True, 0, 2)
            assert before - timedelta(milliseconds=1) <= consumer.since <= consumer.last_poll <= datetime.now(UTC)
            may_end.set()
            await task
            assert pit.consumers == ()

    run(main())


@pytest.mark.parametrize("others", [0, 5])
@pytest.mark.parametrize("change", ["stores", "removes"])
def test_a_handler_that_changes_its_own_message_ends_quietly(opened, outside, caplog, change, others):
    outside.pit.store({"id": "poll"}, NOW)
    outside.store(others)

    async def main():
        async def handle(message):
            if message["id"] == "poll":
                await change_own(pit, change)

        async with opened() as pit:
            return await pit.consume(handle, until_idle=True)

    summary = run(main())
    assert (summary.acked, summary.nacked, summary.lost, summary.superseded) == (others, 0, 0, 1)
    assert (summary.handled, summary.unsettled) == (others + 1, 0)
    assert_changed(outside, change)
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.INFO] == []


@pytest.mark.parametrize("settle", ["ack", "ack and wait", "nack"])
@pytest.mark.parametrize("change", ["stores", "removes"])
def test_a_handler_that_changed_its_own_message_may_settle_it(opened, outside, change, settle):
    outside.pit.store({"id": "poll"}, NOW)

    async def main():
        async def handle(delivery):
            await change_own(pit, change)
            if settle == "nack":
                await delivery.nack("no matter")
            else:
                await delivery.ack(wait=settle == "ack and wait")

        async with opened() as pit:
            return await pit.consume(handle, until_idle=True)

    summary = run(main())
    assert (summary.acked, summary.nacked, summary.lost, summary.superseded) == (0, 0, 0, 1)
    assert_changed(outside, change)


@pytest.mark.parametrize("change", ["stores", "removes"])
def test_a_handler_that_fails_after_it_changed_its_own_message_is_logged_with_its_traceback(
    opened, outside, caplog, change
):
    outside.pit.store({"id": "poll"}, NOW)

    async def main():
        async def handle(message):
            await change_own(pit, change)
            raise ConnectionError("mail away")

        async with opened() as pit:
            return await pit.consume(handle, until_idle=True)

    summary = run(main())
    assert (summary.nacked, summary.lost, summary.superseded) == (0, 0, 1)
    assert_changed(outside, change)
    (record,) = [each for each in caplog.records if each.name == "pitstop.consumer"]
    assert (
        record.getMessage() == "'poll' (attempt 1) failed after it had stored or removed its own message: that stands"
    )
    assert isinstance(record.exc_info[1], ConnectionError)


async def change_own(pit, change):
    if change == "stores":
        await pit.store({"id": "poll", "new": True}, timedelta(minutes=5))
    else:
        assert await pit.remove("poll")


def assert_changed(outside, change):
    entry = outside.pit.get("poll")
    if change == "stores":
        assert (entry.state, entry.attempts, entry.last_error) == ("scheduled", 0, None)
    else:
        assert entry is None


def test_a_task_that_is_cancelled_before_it_began_gives_back_its_message_as_unseen(opened, outside):
    outside.store(3)

    async def main():
        seen = []

        async def handle(message):
            seen.append(message["id"])
            task.cancel()
            await asyncio.sleep(60)

        async with opened() as pit:
            task = asyncio.create_task(pit.consume(handle, prefetch=3))
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(seen) in {1, 3}
        return seen

    seen = run(main())
    assert {each.id: each.attempts for each in outside.pit.entries()} == {
        f"m{n:05}": int(f"m{n:05}" in seen) for n in range(3)
    }
    assert outside.counts() == (3, 0, 0)
