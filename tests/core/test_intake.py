"""The parts behind a listener, when the listener is dropped or closed, or cannot get a thread."""

from __future__ import annotations

import gc
import threading
import uuid

from datetime import timedelta

import pytest

import pitstop

from core.kit import LOCK, Running, Watched, backend, take
from pitstop._engine._glance import wait_for_all
from pitstop._engine._listener import intake_of


DUE = timedelta(0)


def fill(pit, count):
    pit.store_many([({"id": f"{number:04}"}, DUE) for number in range(count)])


def refuse(*_, **__):
    raise RuntimeError("can't start new thread")


def acked(pit, count, claimed):
    """Acks so many messages of a listener that is dropped then, as the one in ``for delivery in pit.listen()``."""
    listener = pit.listen(prefetch=claimed)
    for _ in range(count):
        take(listener, claimed).ack()
    return intake_of(listener)


class TestDropped:
    """The session holds the intake until all is written and given back."""

    @pytest.fixture
    def config(self, clock):
        # The threads of another test may still have the store of that test.
        return {"type": "memory", "name": f"dropped-{uuid.uuid4()}", "clock": clock}

    @pytest.fixture
    def watch(self, config):
        with pitstop.init(config) as watch:
            yield watch

    @pytest.fixture
    def late(self, monkeypatch):
        """The thread that a dropped listener begins does not come to its work before the program goes on."""
        monkeypatch.setattr("pitstop._engine._intake._thread.start_new_thread", lambda *_: None)

    def test_its_acks_are_written_when_the_pitstop_closes(self, config, watch, alone, late):
        with pitstop.init(config) as pit:
            fill(pit, 10)
            acked(pit, 4, 10)
            gc.collect()
            assert watch.stats().leased == 10
        assert (watch.stats().leased, watch.stats().due) == (0, 6)

    def test_its_acks_are_written_when_the_program_ends(self, config, watch, alone, monkeypatch):
        with pitstop.init(config) as pit:
            fill(pit, 10)
            with monkeypatch.context() as patch:
                patch.setattr("pitstop._engine._intake._thread.start_new_thread", lambda *_: None)
                acked(pit, 4, 10)
                gc.collect()
            wait_for_all([each.at_exit() for each in pit._session.components], 10)
            assert (watch.stats().leased, watch.stats().due) == (0, 6)

    @pytest.mark.parametrize("look", ["stats", "get"])
    def test_looks_see_its_acks(self, config, alone, late, look):
        with pitstop.init(config) as pit:
            fill(pit, 10)
            acked(pit, 4, 10)
            gc.collect()
            assert pit.get("0003") is None if look == "get" else pit.stats().leased == 6

    def test_it_gives_back_and_writes_without_a_close(self, config, watch, alone):
        with pitstop.init(config) as pit:
            fill(pit, 10)
            intake = acked(pit, 4, 10)
            gc.collect()
            while intake in pit._session.components:
                threading.Event().wait(0.001)
            assert (watch.stats().leased, watch.stats().due) == (0, 6)

    def test_a_message_that_has_waited_for_too_long_is_given_back(self, config, watch, clock, alone, late):
        with pitstop.init(config) as pit:
            fill(pit, 2)
            listener = pit.listen(prefetch=2)
            intake = intake_of(listener)
            take(listener, 2).ack(wait=True)
            clock.advance(LOCK * 0.95)
            assert intake.buffer.pop() is None
            del listener
            gc.collect()
            assert watch.stats().leased == 1
        assert (watch.stats().leased, watch.stats().due) == (0, 1)

    def test_one_with_nothing_to_write_is_forgotten_at_once(self, config):
        with pitstop.init(config) as pit:
            pit.listen()
            gc.collect()
            assert pit._session.components == []


def test_the_end_of_the_program_waits_for_acks_that_are_being_written(pit, store, alone):
    fill(pit, 3)
    with pit.listen(prefetch=3) as listener:
        delivery = take(listener, 3)
        intake_of(listener).leftovers.give_back_all()
        asked, may_go = threading.Event(), threading.Event()
        store.during["settle"] = lambda: (store.during.clear(), asked.set(), may_go.wait(10))
        writing = Running(lambda: delivery.ack(wait=True))
        assert asked.wait(10)
        assert not intake_of(listener).writer, "nothing is pending: it is being written"
        ending = Running(lambda: wait_for_all([intake_of(listener).at_exit()], 10))
        assert not ending.done
        may_go.set()
        ending.result()
        assert store.get("0000") is None
        writing.result()


class TestWithoutThreads:
    def test_an_ack_is_written_by_its_own_thread(self, pit, store, monkeypatch):
        fill(pit, 3)
        with pit.listen(prefetch=3) as listener:
            delivery = take(listener, 3)
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", refuse)
                delivery.ack()
            assert store.get("0000") is None
            assert intake_of(listener).counts.acked == 1

    def test_a_message_is_handed_out_though_its_store_cannot_be_watched(self, clock, monkeypatch):
        store = backend(Watched, clock)
        with pitstop.init({"type": store}) as pit, pit.listen() as listener:
            with monkeypatch.context() as patch:
                patch.setattr("pitstop._engine._watcher.Thread.start", refuse)
                real = clock.wait

                def stored(bell, seconds):
                    pit.store({"id": "a"}, DUE)
                    return real(bell, seconds)

                patch.setattr(clock, "wait", stored)
                assert next(listener).id == "a"
            assert store.watches == []

    def test_the_next_sleep_tries_to_watch_again(self, clock, monkeypatch):
        store = backend(Watched, clock)
        with pitstop.init({"type": store}) as pit, pit.listen() as listener:
            with monkeypatch.context() as patch:
                patch.setattr("pitstop._engine._watcher.Thread.start", refuse)
                intake_of(listener)._watch()
            intake_of(listener)._watch()
            assert store.began.acquire(timeout=10)
            store.watches[0].news.put(None)


@pytest.mark.parametrize("where", ["join", "look"])
def test_ctrl_c_leaves_no_waiter(pit, monkeypatch, where):
    with pit.listen() as listener:
        waiting = intake_of(listener).waiting

        def interrupt(waiter, *_):
            if where == "join":
                join(waiter)
            raise KeyboardInterrupt

        join = waiting._join
        monkeypatch.setattr(waiting, "_join" if where == "join" else "_look", interrupt)
        with pytest.raises(KeyboardInterrupt):
            listener.get()
        assert waiting.waiters == ()


class TestNewVersions:
    """A message that is stored anew while a listener claims."""

    def test_a_new_version_that_was_claimed_before_the_old_one_is_forgotten_is_handed_out(self, pit, store, alone):
        """Another thread claims between the write of the new version and the end of the call of store."""
        fill(pit, 1)
        with pit.listen(prefetch=10) as listener:
            put, got = store.put, []

            def claimed_meanwhile(records):
                put(records)
                store.put = put
                got.append(Running(lambda: next(listener)).result())

            store.put = claimed_meanwhile
            pit.store({"id": "a", "version": 2}, DUE)
            assert [each.id for each in got] == ["0000"]
            assert next(listener).msg == {"id": "a", "version": 2}

    def test_a_still_newer_version_is_given_back_and_not_left_leased(self, pit, store, alone):
        fill(pit, 1)
        with pit.listen(prefetch=10) as listener:
            put = store.put
            take(listener, 1)

            def claimed(records):
                put(records)
                store.put = put
                pit.store({"id": "a", "version": 3}, DUE)
                assert intake_of(listener).claimer.claim(1).count == 1

            store.put = claimed
            pit.store({"id": "a", "version": 2}, DUE)
            entry = pit.get("a")
            assert (entry.state, entry.attempts, entry.message["version"]) == ("due", 0, 3)
            assert next(listener).msg["version"] == 3

    def test_a_removed_message_that_waits_is_not_handed_out_while_others_are_taken(self, pit, alone):
        fill(pit, 5)
        with pit.listen(prefetch=5) as listener:
            take(listener, 5)
            buffer = intake_of(listener).buffer

            class Popping(type(buffer.unseen)):
                """Another thread takes a message while this one goes through them."""

                def copy(self):
                    copied = super().copy()
                    buffer.pop()
                    return copied

            buffer.unseen = Popping(buffer.unseen)
            assert pit.remove("0004")
            assert [each.id for each in buffer.unseen] == ["0002", "0003"]


def test_a_message_is_not_handed_out_after_its_lease_because_it_took_long_to_give_another_one_back(pit, store, clock):
    listener = pit.listen(prefetch=5)
    intake = intake_of(listener)
    for id in ("old", "new"):
        pit.store({"id": id}, DUE)
        intake.claimer.claim(1)
        clock.advance(LOCK.total_seconds() * 0.95 if id == "old" else 0)

    def take_long():
        store.during.clear()
        clock.advance(LOCK.total_seconds())

    store.during["settle"] = take_long
    assert intake.take_at_hand() is None
    listener.close()
