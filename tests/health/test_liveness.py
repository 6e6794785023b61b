"""Liveness: a consumer is alive if its loops turn, whether the store is there or not, and whatever handlers of threads do."""

from __future__ import annotations

import asyncio
import threading

import pytest

import pitstop

from health.kit import consuming, place_of, probe, until
from pitstop._engine._intake import Intake
from pitstop._health._attendant import Attendant, Member
from pitstop._health._loops import engine_pulses
from pitstop._health._place import parse_place
from pitstop._health._pulse import Pulse
from pitstop._pitstop import session_of
from pitstop.abc import SystemClock
from servers.mongod import standalone_server


class Turns:
    """A loop whose turns a test makes."""

    def __init__(self, limit=10.0):
        self.turn = 1
        self.pulse = Pulse("the loop", lambda: self.turn, lambda: limit)

    def samples(self, *seconds):
        for each in seconds:
            self.pulse.sample(each)
        return self.pulse.fault()


class TestPulse:
    def test_a_loop_that_turns_between_two_samples_is_alive_however_long_they_are_apart(self):
        loop = Turns()
        for loop.turn in range(5):
            assert loop.samples(100.0) is None

    def test_a_loop_that_does_not_turn_is_at_fault_after_its_limit(self):
        loop = Turns()
        assert loop.samples(1.0, *[2.0] * 5) is None
        assert loop.samples(2.0) == "the loop has not turned for 12 s"
        assert loop.samples(2.0) == "the loop has not turned for 14 s"

    def test_a_loop_that_turns_again_is_alive_at_once(self):
        loop = Turns()
        assert loop.samples(1.0, 20.0)
        loop.turn += 1
        assert loop.samples(20.0) is None

    def test_a_loop_that_sleeps_on_purpose_is_alive(self):
        loop = Turns()
        loop.turn = None
        assert loop.samples(*[100.0] * 5) is None


class TestThreads:
    @pytest.fixture
    def pit(self):
        with pitstop.init("memory://") as pit:
            yield pit

    def test_a_handler_that_takes_long_is_no_fault(self, pit):
        """Whatever it waits for. Each worker may be in a handler."""
        goes_on = threading.Event()
        begun = []

        def wait(message):
            begun.append(message)
            goes_on.wait(60)

        pit.store_many([({}, "0s"), ({}, "0s")])
        with consuming(pit, wait, workers=2, health="127.0.0.1:0?within=100ms") as place:
            until(lambda: len(begun) == 2)
            intakes = [each for each in session_of(pit).components if isinstance(each, Intake)]
            pulses = engine_pulses(lambda: intakes, 0.1)
            for pulse in pulses * 3:
                pulse.sample(10_000.0)
            assert [pulse.fault() for pulse in pulses] == [None, None]
            assert probe(place).status == 200
            goes_on.set()

    def test_a_listener_that_sleeps_until_the_next_message_is_alive(self, pit):
        pit.store({}, "1h")
        pulses = engine_pulses(lambda: intakes, 0.1)
        with consuming(pit, loop_time="1h", health="127.0.0.1:0"):
            intakes = [each for each in session_of(pit).components if isinstance(each, Intake)]
            until(lambda: intakes[0].waiting.waiters and intakes[0].waiting.turn is None)
            for pulse in pulses * 3:
                pulse.sample(10_000.0)
            assert [pulse.fault() for pulse in pulses] == [None, None]

    def test_a_claim_that_never_comes_back_is_a_fault(self, pit, monkeypatch):
        goes_on, hangs = threading.Event(), threading.Event()
        backend = session_of(pit).backend
        lease = backend.lease

        def hang(*arguments):
            hangs.set()
            goes_on.wait(60)
            return lease(*arguments)

        monkeypatch.setattr(backend, "lease", hang)
        with consuming(pit, health="127.0.0.1:0") as place:
            assert hangs.wait(60)
            intakes = [each for each in session_of(pit).components if isinstance(each, Intake)]
            pulses = engine_pulses(lambda: intakes, 10.0)
            pulses[0].sample(1.0)
            with session_of(pit).bounded() as longest_call:
                pulses[0].sample(10.0 + 8 * longest_call)
            assert pulses[0].fault() is None, "a store that is away may take as long"
            pulses[0].sample(1.0)
            assert pulses[0].fault().startswith("the thread that claims messages has not turned for")
            until(lambda: probe(place, "/readyz").status == 200)
            goes_on.set()
            until(lambda: (pulses[0].sample(1.0), pulses[0].fault())[1] is None)

    def test_a_write_of_acks_that_never_comes_back_is_a_fault(self, monkeypatch):
        """The thread of the engine writes acks that the worker left to it."""
        goes_on, hangs = threading.Event(), threading.Event()
        with pitstop.init("memory://") as pit:
            backend = session_of(pit).backend
            settle = backend.settle

            def hang(settlements):
                if threading.current_thread().name == "pitstop-background":
                    hangs.set()
                    goes_on.wait(60)
                return settle(settlements)

            monkeypatch.setattr(backend, "settle", hang)
            blocks = threading.Event()
            pit.store_many([({"n": n}, "0s") for n in range(2)])
            # The second handler runs while the ack of the first one is on its way.
            with consuming(pit, lambda m: m["n"] and blocks.wait(60), prefetch=2, health="127.0.0.1:0"):
                assert hangs.wait(60)
                intakes = [each for each in session_of(pit).components if isinstance(each, Intake)]
                pulses = engine_pulses(lambda: intakes, 10.0)
                for _ in range(3):
                    pulses[1].sample(10_000.0)
                assert pulses[1].fault().startswith("the thread that writes acks has not turned for")
                goes_on.set()
                blocks.set()
                until(lambda: (pulses[1].sample(1.0), pulses[1].fault())[1] is None)


class TestEventLoops:
    @pytest.mark.parametrize("kind", ["memory", "sqlite"])
    def test_a_handler_that_blocks_the_loop_is_a_fault_until_it_goes_on(self, kind, tmp_path):
        url = "memory://" if kind == "memory" else f"sqlite:///{tmp_path}/p.db"
        seen, blocks, goes_on = [], threading.Event(), threading.Event()

        def watch(pit):
            place = place_of(pit)
            seen.append(probe(place)[::2])
            blocks.wait(60)
            seen.append(until(lambda: (answer := probe(place)).status == 503 and answer)[::2])
            # The store is well.
            seen.append(until(lambda: (answer := probe(place, "/readyz")).status == 200 and answer).status)
            goes_on.set()
            seen.append(until(lambda: (answer := probe(place)).status == 200 and answer).status)
            ends.set()

        async def handle(message):
            blocks.set()
            goes_on.wait(60)
            await asyncio.to_thread(ends.wait, 60)

        async def main():
            async with pitstop.init_async(url) as pit:
                watcher = threading.Thread(target=watch, args=(pit,))
                watcher.start()
                await pit.store({}, "200ms")
                await pit.consume(handle, max_messages=1, health="127.0.0.1:0?within=300ms")
                watcher.join()

        ends = threading.Event()
        asyncio.run(main())
        assert seen[0] == (200, "ok\n")
        assert seen[1][0] == 503
        assert seen[1][1].startswith("the event loop has not turned for ")
        assert seen[2:] == [200, 200]

    def test_a_file_is_not_touched_while_the_loop_is_blocked(self, tmp_path):
        """Its time is older than the limit before the loop goes on."""
        path = tmp_path / "alive"
        seen = []

        async def handle(message):
            # The samples of the blocked loop come to their limit here.
            last = -1.0
            patience = threading.Event()
            while path.stat().st_mtime != last:
                last = path.stat().st_mtime
                patience.wait(1.0)
            seen.append(last)

        async def main():
            async with pitstop.init_async("memory://") as pit:
                await pit.store({}, "0s")
                await pit.consume(handle, max_messages=1, health=f"{path}?within=200ms")
                assert not path.exists()

        asyncio.run(main())
        assert len(seen) == 1

    def test_many_tasks_that_wait_are_no_fault_and_the_end_closes_the_place(self):
        async def main():
            async with pitstop.init_async("memory://") as pit:

                async def handle(message):
                    for _ in range(3):
                        answer = await asyncio.to_thread(probe, pit.consumers[0].health, "/livez")
                        assert answer.status == 200

                await pit.store_many([({}, "0s") for _ in range(20)])
                summary = await pit.consume(handle, until_idle=True, health="127.0.0.1:0")
                assert summary.acked == 20
                assert pit.consumers == ()

        asyncio.run(main())
        assert "pitstop-health" not in [each.name for each in threading.enumerate()]

    def test_a_consume_that_is_cancelled_closes_its_place(self):
        async def main():
            async with pitstop.init_async("memory://") as pit:

                async def handle(message): ...

                task = asyncio.create_task(pit.consume(handle, health="127.0.0.1:0"))
                await asyncio.to_thread(place_of, pit)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

        asyncio.run(main())
        assert "pitstop-health" not in [each.name for each in threading.enumerate()]


@pytest.mark.parametrize("opened", ["threads", "tasks"])
def test_a_store_that_is_away_is_no_reason_to_restart(opened):
    """MongoDB is killed while a consumer runs, and starts again."""
    with standalone_server() as server:
        config = {
            "type": "mongo",
            "uri": server.uri,
            "dbname": "pitstop_test_health",
            "loop_time": "100ms",
            "operation_timeout": "1s",
        }
        handled = []

        def watch(pit):
            place = place_of(pit)
            until(lambda: probe(place, "/readyz").status == 200)
            server.kill()
            until(lambda: probe(place, "/readyz").status == 503)
            # The listener has noticed, too, and fails again and again.
            until(lambda: not pit.consumers[0].healthy)
            for _ in range(50):
                assert probe(place, "/livez")[::2] == (200, "ok\n")
                assert probe(place, "/readyz").status == 503
                threading.Event().wait(0.03)
            server.start()
            until(lambda: probe(place, "/readyz").status == 200)
            assert probe(place, "/livez").status == 200
            until(lambda: pit.consumers[0].healthy)

        if opened == "threads":
            with pitstop.init(config) as pit, consuming(pit, handled.append, health="127.0.0.1:0?within=5s"):
                watch(pit)
                pit.store({}, "0s")
                until(lambda: handled)
        else:
            asyncio.run(_consume_while(config, watch, handled))
        assert len(handled) == 1


async def _consume_while(config, watch, handled):
    async def handle(message):
        handled.append(message)

    async with pitstop.init_async(config) as pit:
        consumer = asyncio.create_task(pit.consume(handle, max_messages=1, health="127.0.0.1:0?within=5s"))
        await asyncio.to_thread(watch, pit)
        await pit.store({}, "0s")
        await consumer


class JumpingClock(SystemClock):
    """A clock that may jump, as that of a machine that slept."""

    ahead = 0.0

    def monotonic(self) -> float:
        return SystemClock().monotonic() + self.ahead


def test_the_time_while_the_whole_process_was_stopped_is_not_held_against_its_loops():
    """A frozen container, or a laptop that slept: no loop could turn, and no sample was taken."""
    clock, turns = JumpingClock(), []

    def turn():
        turns.append(1)
        return "always the same"

    def sampled():
        before = len(turns)
        until(lambda: len(turns) > before)

    attendant = Attendant(parse_place("127.0.0.1:0"), clock)
    attendant.join(Member([Pulse("the loop", turn, lambda: 10.0)], lambda: None, 10.0))
    attendant.start()
    try:
        sampled()
        clock.ahead = 3 * 86_400.0
        sampled()
        assert probe(attendant.text).status == 200
        for _ in range(10):
            clock.ahead += 1.5
            sampled()
        assert probe(attendant.text).status == 503
    finally:
        attendant.close()
