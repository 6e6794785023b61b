"""``consume`` while its messages and kinds are changed: by their own handlers, by other programs, and at the end."""

from __future__ import annotations

import asyncio
import signal
import threading

from collections import Counter
from datetime import timedelta
from functools import partial
from itertools import pairwise

import pytest

import pitstop

from core.kit import Running
from core.test_rate import Jumping
from pitstop import Handle
from pitstop._consume._threads import Consuming
from pitstop_memory import MemoryBackend, MemoryConfig


PATIENCE = 30
HOUR = timedelta(hours=1)


class Unclosed(MemoryBackend):
    """Lives on when its Pitstop is closed."""

    def close(self):
        pass


@pytest.fixture(params=["threads", "event loop"])
def way(request):
    return request.param


@pytest.fixture
def clock():
    return Jumping()


@pytest.fixture
def backend(clock):
    # Several threads wait by the clock, and each of them lets it jump.
    return Unclosed(MemoryConfig(clock=clock, lock_time="30d", loop_time="10s", retry={"max_attempts": 5}))


@pytest.fixture
def other(backend):
    """Another program that uses the store."""
    with pitstop.init({"type": backend}) as pit:
        yield pit


def in_thread(pit, handler):
    """Return a handler for threads. A handler here yields the results of Pitstop's methods, which an event loop awaits."""

    def handle(argument):
        steps, value = handler(pit, argument), None
        try:
            while True:
                value = steps.send(value)
        except StopIteration:
            pass

    return handle


def in_loop(pit, handler):
    async def handle(argument):
        steps, value = handler(pit, argument), None
        try:
            while True:
                value = await steps.send(value)
        except StopIteration:
            pass

    return handle


def adapted(adapt, handlers):
    if isinstance(handlers, dict):
        return {kind: adapted(adapt, each) for kind, each in handlers.items()}
    if isinstance(handlers, Handle):
        return Handle(adapt(handlers.handler), rate=handlers.rate, batch=handlers.batch, deliveries=handlers.deliveries)
    return adapt(handlers)


def consume(way, backend, handlers, **options):
    options.setdefault("until_idle", True)
    if "batch" not in options:
        options["deliveries"] = True
    if way == "threads":
        with pitstop.init({"type": backend}) as pit:
            return pit.consume(adapted(partial(in_thread, pit), handlers), **options)

    async def main():
        async with asyncio.timeout(PATIENCE), pitstop.init_async({"type": backend}) as pit:
            return await pit.consume(adapted(partial(in_loop, pit), handlers), concurrency=1, **options)

    return asyncio.run(main())


def states(pit):
    return {each.id: (each.state, each.attempts) for each in pit.entries()}


def nothing(pit, delivery):
    """Handle a message."""
    yield from ()


class TestAHandlerThatChangesItsOwnMessage:
    @pytest.mark.parametrize("lanes", [False, True])
    def test_may_reschedule_it(self, way, backend, other, lanes):
        other.store({"id": "a"}, kind="mail")
        seen = []

        def handle(pit, delivery):
            seen.append(delivery.scheduled_for)
            assert (yield pit.reschedule("a", HOUR)) is True

        summary = consume(way, backend, {"mail": handle, "report": nothing} if lanes else handle)
        # The clock jumps while threads wait, so the message may come again at its new time.
        assert all(later - earlier >= HOUR for earlier, later in pairwise(seen))
        assert (summary.acked, summary.superseded, summary.lost, summary.nacked) == (0, len(seen), 0, 0)
        assert states(other) == {"a": ("scheduled", 0)}

    def test_may_reschedule_a_series(self, way, backend, other):
        start = other.now()
        other.store({"id": "a"}, start, None, "1d")
        seen = []

        def handle(pit, delivery):
            seen.append(other.now())
            yield pit.reschedule("a", HOUR)

        assert consume(way, backend, handle).superseded == len(seen)
        assert all(later - earlier >= HOUR for earlier, later in pairwise(seen))
        entry = other.get("a")
        assert (entry.state, entry.scheduled_for) == ("scheduled", start)

    def test_cannot_let_it_come_now(self, way, backend, other):
        """It has come. The answer is False, and its ack counts."""
        other.store({"id": "a"}, kind="mail")
        answers = []

        def handle(pit, delivery):
            answers.append((yield pit.emit_now("a")))

        summary = consume(way, backend, handle)
        assert (summary.acked, summary.superseded) == (1, 0)
        assert answers == [False]
        assert states(other) == {}

    def test_may_pause_it_and_fail(self, way, backend, other):
        other.store({"id": "a"}, retry={"delay": "0s"})

        def handle(pit, delivery):
            assert (yield pit.pause("a")) is True
            raise ValueError

        summary = consume(way, backend, handle)
        assert (summary.nacked, summary.superseded, summary.lost) == (1, 0, 0)
        assert states(other) == {"a": ("paused", 1)}
        other.resume("a")
        seen = []

        def again(pit, delivery):
            seen.append(delivery.attempt)
            yield from ()

        assert consume(way, backend, again).acked == 1
        assert seen == [2]

    def test_may_release_it(self, way, backend, other):
        other.store({"id": "a"})
        attempts = []

        def handle(pit, delivery):
            attempts.append(delivery.attempt)
            if len(attempts) == 1:
                assert (yield pit.release("a")) is True

        summary = consume(way, backend, handle)
        assert (summary.acked, summary.superseded, summary.lost) == (1, 1, 0)
        assert attempts == [1, 2]


class TestAHandlerThatPausesItsKind:
    @pytest.mark.parametrize("fails", [False, True])
    def test_is_the_last_one_of_its_kind(self, way, backend, other, fails):
        for n in range(3):
            other.store({"id": f"mail {n}"}, kind="mail", retry={"delay": "0s"})
            other.store({"id": f"report {n}"}, kind="report")
        seen = []

        def send(pit, delivery):
            seen.append(delivery.id)
            yield pit.pause(kind="mail")
            if fails:
                raise ValueError

        def build(pit, delivery):
            seen.append(delivery.id)
            yield from ()

        summary = consume(way, backend, {"mail": send, "report": build}, prefetch=1)
        assert Counter(each.partition(" ")[0] for each in seen) == {"mail": 1, "report": 3}
        assert (summary.acked, summary.nacked, summary.reason) == (3 if fails else 4, int(fails), "idle")
        assert len(states(other)) == (3 if fails else 2)
        other.resume(kind="mail")
        assert consume(way, backend, {"mail": nothing}).acked == (3 if fails else 2)


class TestAnotherProgram:
    @pytest.mark.parametrize("change", ["emit_now", "redrive"])
    def test_cannot_take_a_message_out_of_a_handler(self, way, backend, other, change):
        other.store({"id": "a"})
        answers = []

        def handle(pit, delivery):
            answers.append(getattr(other, change)("a"))
            yield from ()

        summary = consume(way, backend, handle)
        assert (answers, summary.acked, summary.lost) == ([False], 1, 0)

    @pytest.mark.parametrize("fails", [False, True])
    def test_may_release_it_and_then_the_settlement_of_the_first_handler_is_stale(self, way, backend, other, fails):
        other.store({"id": "a"})
        attempts = []

        def handle(pit, delivery):
            attempts.append(delivery.attempt)
            if len(attempts) == 1:
                assert other.release("a") is True
                if fails:
                    raise ValueError
            yield from ()

        summary = consume(way, backend, handle)
        assert (summary.acked, summary.nacked, summary.lost) == (1, 0, 1)
        assert attempts == [1, 2]
        assert states(other) == {}


class TestExpiry:
    def test_of_a_message_that_expires_during_its_pause(self, way, backend, other, clock):
        other.store({"id": "a"}, expires="10s")
        other.pause("a")
        clock.advance(60)
        assert states(other) == {"a": ("paused", 0)}
        assert consume(way, backend, nothing).handled == 0
        assert states(other) == {"a": ("paused", 0)}, "a person may look at it"
        other.resume("a")
        assert consume(way, backend, nothing).handled == 0
        assert states(other) == {}

    def test_of_a_message_that_expires_during_the_pause_of_its_kind(self, way, backend, other, clock):
        other.store({"id": "a"}, kind="mail", expires="10s")
        other.pause(kind="mail", until="30s")
        clock.advance(30)
        assert consume(way, backend, nothing).handled == 0
        assert states(other) == {}

    def test_a_pause_whose_end_has_passed_keeps_nothing(self, way, backend, other, clock):
        other.store({"id": "a"}, kind="mail")
        other.pause("a", until="10s")
        other.pause(kind="mail", until="20s")
        clock.advance(20)
        assert (other.resume("a"), other.resume(kind="mail"), other.paused_kinds()) == (False, False, {})
        assert consume(way, backend, nothing).acked == 1


class TestARateOfLessThanOnePerSecond:
    def test_waits_in_between(self, way, backend, other, clock):
        other.store_many([({"id": f"{n}"}, "0s") for n in range(4)])
        times = []

        def handle(pit, delivery):
            times.append(clock.monotonic())
            yield from ()

        assert consume(way, backend, handle, rate="1/10s").acked == 4
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert all(10 <= gap < 11 for gap in gaps), gaps

    def test_a_kind_that_is_paused_while_it_waits_for_its_turn_does_not_come(self, way, backend, other, clock):
        for n in range(3):
            other.store({"id": f"mail {n}"}, kind="mail")
            other.store({"id": f"report {n}"}, kind="report")
        seen, asleep = [], []
        wait = clock.wait

        def wait_and_pause(bell, seconds):
            if seen.count("mail") == 1 and not asleep:
                asleep.append(seconds)
                other.pause(kind="mail")
            return wait(bell, seconds)

        clock.wait = wait_and_pause

        def handle(pit, delivery):
            seen.append(delivery.kind)
            yield from ()

        summary = consume(way, backend, {"mail": Handle(handle, rate="1/h"), "report": handle})
        assert Counter(seen) == {"mail": 1, "report": 3}
        assert (summary.acked, summary.reason) == (4, "idle")
        assert asleep


def test_two_consumers_of_one_program_with_different_kinds(backend, other):
    """A message whose kind both want is handled once, and one whose kind none wants stays."""
    kinds = ["mail", "report", "both", "none"]
    for n in range(50):
        for kind in kinds:
            other.store({"id": f"{kind} {n}"}, kind=kind)
    seen, lock = [], threading.Lock()

    def handle(who, message):
        with lock:
            seen.append((who, message["id"]))

    with pitstop.init({"type": backend}) as pit:
        running = [
            Running(
                partial(
                    pit.consume,
                    {kind: partial(handle, kind), "both": partial(handle, kind)},
                    until_idle=True,
                    workers=2,
                )
            )
            for kind in ("mail", "report")
        ]
        summaries = [each.result() for each in running]
    assert sum(each.acked for each in summaries) == 150
    assert Counter(id.partition(" ")[0] for _, id in seen) == {"mail": 50, "report": 50, "both": 50}
    assert {who for who, id in seen if id.startswith("mail")} == {"mail"}
    assert {who for who, id in seen if id.startswith("report")} == {"report"}
    assert len(set(seen)) == 150
    assert {each.kind for each in other.entries()} == {"none"}


class TestASignalWhileABatchIsHalfSettled:
    @pytest.fixture
    def backend(self):
        # By real time: a signal ends a real wait.
        return Unclosed(MemoryConfig(lock_time="1m", retry={"max_attempts": 1}))

    @pytest.mark.parametrize("fails", [False, True])
    def test_the_handler_settles_the_rest(self, way, backend, other, fails):
        other.store_many([({"id": id}, "0s") for id in "abcd"])

        def handle(pit, batch):
            yield batch[0].ack()
            yield batch[1].nack("of its own", "1h")
            signal.raise_signal(signal.SIGTERM)
            yield batch[2].ack()
            if fails:
                raise ValueError

        summary = consume(way, backend, handle, batch=4, until_idle=False)
        assert summary.reason == "signal"
        if fails:
            assert (summary.acked, summary.nacked) == (2, 2)
            assert states(other) == {"b": ("dead", 1), "d": ("dead", 1)}
        else:
            assert (summary.acked, summary.nacked) == (3, 1)
            assert states(other) == {"b": ("dead", 1)}

    def test_a_handler_that_is_left_behind_loses_what_it_has_not_settled(self, way, backend, other):
        other.store_many([({"id": id}, "0s") for id in "abcd"])
        go, late = threading.Event(), []

        def handle_in_thread(batch):
            batch[0].ack()
            batch[1].nack("of its own")
            signal.raise_signal(signal.SIGTERM)
            go.wait(PATIENCE)
            try:
                batch[2].ack(wait=True)
            except pitstop.PitstopError as error:
                late.append(type(error))

        async def handle_in_loop(batch):
            await batch[0].ack()
            await batch[1].nack("of its own")
            signal.raise_signal(signal.SIGTERM)
            await asyncio.sleep(PATIENCE)

        if way == "threads":
            with pitstop.init({"type": backend}) as pit:
                summary = pit.consume(handle_in_thread, batch=4, drain=0)
                go.set()
        else:

            async def main():
                async with pitstop.init_async({"type": backend}) as pit:
                    return await pit.consume(handle_in_loop, batch=4, drain=0)

            summary = asyncio.run(main())
        assert (summary.acked, summary.nacked, summary.reason) == (1, 1, "signal")
        found = states(other)
        assert found.pop("b") == ("dead", 1)
        assert {id: state for id, (state, _) in found.items()} == {"c": "due", "d": "due"}
        with pitstop.init({"type": backend}) as pit:
            assert pit.consume(lambda message: None, until_idle=True).acked == 2, "the end of a program is no attempt"


@pytest.mark.parametrize("way", ["threads"])
def test_a_close_ends_the_wait_of_a_slow_rate_in_each_kind(way):
    """By real time: no wait for a turn keeps the end waiting."""
    with pitstop.init("memory://") as pit:
        for kind in ("mail", "report"):
            pit.store_many([({"id": f"{kind} {n}"}, "0s") for n in range(3)], kind=kind)
        seen = threading.Semaphore(0)
        handlers = {kind: Handle(lambda message: seen.release(), rate="1/h") for kind in ("mail", "report")}
        running = Running(lambda: pit.consume(handlers))
        for _ in range(2):
            assert seen.acquire(timeout=PATIENCE)
        (consuming,) = [each for each in pit._session.components if isinstance(each, Consuming)]
        consuming.begin_stop()
        summary = running.result()
        assert (summary.acked, summary.reason) == (2, "stopped")
        assert pit.stats().due == 4


def test_all_workers_together_are_bounded_as_those_of_one_kind_are():
    with pitstop.init("memory://") as pit, pytest.raises(pitstop.ConfigError, match="12000 workers together"):
        pit.consume({"mail": print, "report": print}, workers=6000)
    with pitstop.init("memory://") as pit:
        handlers = {"mail": Handle(print, workers=4000), "report": print}
        with pytest.raises(pitstop.ConfigError, match="10001 workers together"):
            pit.consume(handlers, workers=6001)
