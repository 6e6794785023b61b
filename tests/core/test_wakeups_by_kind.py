"""A store in this process wakes the listeners that want its kind, and costs the others no claim."""

from __future__ import annotations

import asyncio
import threading

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

import pitstop

from pitstop import testing
from pitstop._consume._course import Course
from pitstop._consume._lanes import Lane
from pitstop._consume._source import Source
from pitstop._engine._listener import intake_of
from pitstop._engine._waiting import Waiter
from pitstop.abc import Doorbell
from pitstop_memory import MemoryBackend


PATIENCE = 60
HOUR = timedelta(hours=1)


@pytest.fixture
def woken(pit):
    """Do something, and return the names of the listeners that it would wake."""

    def woken(do):
        rung = {}
        with (
            pit.listen() as anything,
            pit.listen(kinds=["mail"]) as mail,
            pit.listen(kinds=["report", ""]) as report,
        ):
            rest = intake_of(anything)
            intakes = {"all": rest, "mail": intake_of(mail), "report": intake_of(report)}
            for name, intake in intakes.items():
                waiter = rung[name] = Waiter(1)
                intake.waiting.waiters = (waiter,)
            do()
            for intake in intakes.values():
                intake.waiting.waiters = ()
        return sorted(name for name, waiter in rung.items() if waiter.bell.wait(0))

    return woken


class TestAListenerIsWokenByItsKinds:
    @pytest.mark.parametrize(
        ("kind", "names"), [("mail", ["all", "mail"]), ("", ["all", "report"]), ("other", ["all"])]
    )
    def test_at_a_store(self, pit, woken, kind, names):
        assert woken(lambda: pit.store({}, kind=kind)) == names
        assert woken(lambda: pit.store_many([({}, None), ({}, HOUR)], kind=kind)) == names

    def test_at_a_store_on_conditions(self, pit, woken):
        pit.store({"id": "a"}, HOUR, kind="mail")
        assert woken(lambda: pit.store({"id": "a"}, kind="report", if_exists="keep")) == ["all", "report"]

    @pytest.mark.parametrize("change", ["reschedule", "emit_now"])
    def test_at_a_change(self, pit, woken, change):
        pit.store({"id": "a"}, HOUR, kind="mail")
        assert woken(lambda: getattr(pit, change)("a")) == ["all", "mail"]

    def test_at_a_redrive(self, pit, woken):
        pit.store({"id": "a"}, kind="mail", retry={"max_attempts": 1})
        with pit.listen() as listener:
            listener.get(timeout=0).nack("no")
        assert woken(lambda: pit.redrive("a")) == ["all", "mail"]

    def test_at_a_release(self, pit, woken):
        pit.store({"id": "a"}, kind="mail")
        with pit.listen() as listener:
            assert listener.get(timeout=0)
            assert woken(lambda: pit.release("a")) == ["all", "mail"]

    def test_at_a_nack_and_the_ack_of_a_series(self, pit, woken):
        pit.store({"id": "a"}, kind="mail")
        pit.store({"id": "b"}, every="1h", kind="report")
        pit.clock.advance(HOUR)
        with pit.listen(kinds=["mail"]) as listener:
            delivery = listener.get(timeout=0)
            assert woken(lambda: delivery.nack(delay=timedelta(0))) == ["all", "mail"]
        with pit.listen(kinds=["report"]) as listener:
            delivery = listener.get(timeout=0)
            assert woken(delivery.ack) == ["all", "report"]

    def test_when_messages_are_given_back(self, pit, woken):
        for _ in range(2):
            pit.store({}, kind="mail")
        listener = pit.listen(prefetch=2)
        assert listener.get(timeout=0)
        assert woken(listener.close) == ["all", "mail"]

    def test_when_a_series_passes_over_an_occurrence(self, pit, woken):
        pit.store({"id": "a"}, pit.now(), None, "1h", kind="mail", expires="1m")
        pit.clock.advance(timedelta(minutes=30))
        with pit.listen() as listener:
            assert woken(lambda: listener.get(timeout=0)) == ["all", "mail"]

    def test_when_a_lease_is_ended_by_a_test(self, pit, woken):
        pit.store({"id": "a"}, kind="mail")
        with pit.listen() as listener:
            assert listener.get(timeout=0)
            assert woken(lambda: pit.faults.expire_lease("a")) == ["all", "mail"]

    def test_not_known_are_the_kinds_of_what_another_process_writes(self, pit, woken):
        """The watch of a backend says only when messages are due."""
        assert woken(lambda: pit._session.written(0)) == ["all", "mail", "report"]


@pytest.fixture
def pit():
    with testing.init() as pit:
        yield pit


def test_a_parked_worker_is_woken_by_its_kind(pit):
    bells = {"mail": Doorbell(), "report": Doorbell()}
    with pit.listen(kinds=["mail"]) as mail, pit.listen(kinds=["report"]) as report:
        lanes = {
            "mail": Lane(intake_of(mail), print, deliveries=False, workers=1),
            "report": Lane(intake_of(report), print, deliveries=False, workers=1),
        }
        source = Source(list(lanes.values()), Course(None, 1.0), until_idle=True, on_idle=lambda: None)
        source._parked = tuple((lanes[kind], bells[kind]) for kind in lanes)
        source.notice(None, ("mail",))
        assert (bells["mail"].wait(0), bells["report"].wait(0)) == (True, False)
        source.notice(pit.clock.time_us() // 1000 + 1000, ("report",))
        assert not bells["report"].wait(0), "it is not due"
        source.notice(None)
        assert (bells["mail"].wait(0), bells["report"].wait(0)) == (True, True)


class Counting(MemoryBackend):
    """Counts the claims of each kind. Its clock is real, so that threads sleep until they are woken."""

    def __init__(self, config=None):
        super().__init__(config)
        self.claims = Counter()
        self.asleep = threading.Event()
        self.looked = set()

    def lease(self, limit, duration, kinds=None):
        self.claims[kinds] += 1
        return super().lease(limit, duration, kinds)

    def next_due(self, kinds=None):
        due = super().next_due(kinds)
        if due is None:
            # The last question before it sleeps.
            self.looked.add(kinds)
            if len(self.looked) == 2:
                self.asleep.set()
        return due


@pytest.mark.parametrize("way", ["threads", "event loop"])
def test_stores_of_one_kind_cost_another_no_claim(way):
    """Each of 20 messages is handled before the next one is stored, so that each store would wake a lane that sleeps."""
    backend = Counting()
    handled = threading.Semaphore(0)

    def handle(message):
        handled.release()

    async def ahandle(message):
        handled.release()

    def store_all(store):
        assert backend.asleep.wait(PATIENCE)
        before = backend.claims["report",]
        for _ in range(20):
            store({}, kind="mail")
            assert handled.acquire(timeout=PATIENCE)
        return backend.claims["report",] - before

    def in_threads():
        with pitstop.init({"type": backend}) as pit, ThreadPoolExecutor() as pool:
            extra = pool.submit(store_all, pit.store)
            summary = pit.consume({"mail": handle, "report": print}, loop_time=3600, max_messages=20)
            return summary, extra.result(PATIENCE)

    async def in_a_loop():
        async with asyncio.timeout(PATIENCE), pitstop.init_async({"type": backend}) as pit:
            loop = asyncio.get_running_loop()

            def store(message, *, kind):
                asyncio.run_coroutine_threadsafe(pit.store(message, kind=kind), loop).result(PATIENCE)

            return await asyncio.gather(
                pit.consume({"mail": ahandle, "report": ahandle}, loop_time=3600, max_messages=20),
                asyncio.to_thread(store_all, store),
            )

    summary, extra = in_threads() if way == "threads" else asyncio.run(in_a_loop())
    assert summary.acked == 20
    assert extra == 0
