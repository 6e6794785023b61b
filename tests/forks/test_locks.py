"""A child works although a thread of its parent held a lock at the fork. Each lock is tested, one after the other."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid

from datetime import timedelta

import pytest

import pitstop

from pitstop.testing import ManualClock


pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

HOUR = timedelta(hours=1)

#: The place where a thread of a parent may be, by the place of the lock.
SYNC = {
    "writer": lambda pit, listener: listener._intake.writer._writing,
    "background": lambda pit, listener: listener._intake.background._lock,
    "buffer": lambda pit, listener: listener._intake.leftovers._giving_back,
    "waiting": lambda pit, listener: listener._intake.waiting._changed,
    "heartbeat": lambda pit, listener: listener._intake._heartbeat._beginning,
    "extending": lambda pit, listener: listener._intake._heartbeat.extending,
    "watcher": lambda pit, listener: pit._watcher._lock,
}
ASYNC = {
    "opening": lambda pit, listener: pit._lock,
    "threads": lambda pit, listener: pit._hands._lock,
    "giving back": lambda pit, listener: listener._feeder.intake.leftovers._giving_back,
}


class Holder:
    """A thread that holds a lock until the test releases it."""

    def __init__(self, lock):
        self._lock = lock
        self._inside, self._go = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold)

    def _hold(self):
        with self._lock:
            self._inside.set()
            self._go.wait()

    def __enter__(self):
        self._thread.start()
        self._inside.wait()

    def __exit__(self, *_):
        self._go.set()
        self._thread.join()


@pytest.fixture(params=["memory", "sqlite", "mongo"])
def config(request, tmp_path):
    if request.param == "memory":
        return {"type": "memory", "name": uuid.uuid4().hex}
    if request.param == "sqlite":
        return {"type": "sqlite", "path": str(tmp_path / "pitstop.db")}
    uri, name = request.getfixturevalue("mongo_uri"), request.getfixturevalue("mongo_dbname")
    return {"type": "mongo", "uri": uri, "dbname": name, "coll": uuid.uuid4().hex}


@pytest.mark.parametrize("place", SYNC)
def test_a_child_does_not_wait_for_a_thread_of_its_parent(config, fork, place):
    with pitstop.init(config) as pit, pit.listen(heartbeat=True) as listener:

        def child():
            pit.store({"id": "a"}, timedelta(0))
            delivery = listener.get(timeout=10)
            delivery.extend(HOUR)
            delivery.ack()
            done = [delivery.id, pit.get("a")]
            listener.close()
            pit.close()
            return done

        with Holder(SYNC[place](pit, listener)):
            assert fork(child).result() == ["a", None]


@pytest.mark.parametrize("place", ASYNC)
def test_a_child_of_a_program_with_an_event_loop_does_not_either(config, fork, place):
    pit = pitstop.init_async(config)

    async def use(name):
        await pit.store({"id": name}, HOUR)
        async with pit.listen() as listener:
            assert await listener.get(timeout=0) is None
            return listener

    async def main():
        listener = await use("before")

        def child():
            async def inside():
                await use("child")
                found = await pit.get("child")
                await pit.aclose()
                return found.id

            asyncio.set_event_loop(None)
            asyncio._set_running_loop(None)
            return asyncio.run(inside())

        with Holder(ASYNC[place](pit, listener)):
            assert fork(child).result() == "child"
        await pit.aclose()

    asyncio.run(main())


def test_a_clock_that_a_thread_was_moving_goes_on_in_a_child(fork):
    clock = ManualClock()
    with Holder(clock._moved):
        told = fork(lambda: clock.advance(1).second)
    assert told.result() == 1


def test_a_child_closes_while_its_parent_consumes(tmp_path, fork):
    """The consuming threads are the parent's. The child does not wait for their end."""
    config = {"type": "sqlite", "path": str(tmp_path / "pitstop.db")}
    with pitstop.init(config) as pit:
        pit.store({"id": "a"}, timedelta(0))
        handled = threading.Event()
        thread = threading.Thread(target=lambda: pit.consume(lambda message: handled.set()))
        thread.start()
        handled.wait()

        def child():
            pit.store({"id": "b"}, HOUR)
            pit.close()
            return "closed"

        assert fork(child).result() == "closed"
        assert pit.get("b") is not None
    thread.join()
