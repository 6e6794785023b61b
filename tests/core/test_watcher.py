"""Listeners that are woken by changes of other processes."""

from __future__ import annotations

import gc
import threading
import weakref

from datetime import timedelta

import pytest

import pitstop

from core.kit import Running, Scripted, Watched, backend, watch_threads
from pitstop import BackendUnavailable


def ids(deliveries) -> list[str]:
    return [delivery.id for delivery in deliveries]


class TestWatch:
    @pytest.fixture
    def store(self, clock):
        return backend(Watched, clock)

    @pytest.fixture(autouse=True)
    def earlier(self):
        # A thread of an earlier test in this process may still be in its last poll.
        self.before = set(watch_threads())

    def threads(self) -> list[threading.Thread]:
        return [thread for thread in watch_threads() if thread not in self.before]

    def ended(self) -> bool:
        for thread in self.threads():
            thread.join(10)
        return not self.threads()

    def test_begins_with_the_first_sleeper_and_ends_with_the_last(self, pit, store, clock):
        one, two = pit.listen(), pit.listen()
        assert self.threads() == []
        sleeping = [Running(lambda: ids(one)), Running(lambda: ids(two))]
        assert store.began.acquire(timeout=10)
        (watch,) = store.watches
        assert watch.polls.acquire(timeout=10)
        assert clock.wait_for_sleepers(2)
        one.close()
        watch.news.put(None)
        assert watch.polls.acquire(timeout=10), "the other listener still sleeps on it"
        assert len(self.threads()) == 1
        two.close()
        # Its thread may be about to sleep, and then joins once more before it leaves.
        assert [each.result() for each in sleeping] == [[], []]
        watch.news.put(None)
        assert self.ended()
        assert watch.closed.is_set()
        assert len(store.watches) == 1

    def test_ends_with_a_listener_that_was_stopped_and_not_closed(self, pit, store):
        listener = pit.listen()
        got = Running(lambda: ids(listener))
        assert store.began.acquire(timeout=10)
        (watch,) = store.watches
        assert watch.polls.acquire(timeout=10)
        listener.stop()
        assert got.result() == []
        watch.news.put(None)
        assert self.ended()

    def test_wakes_those_who_sleep(self, pit, store, clock):
        with pit.listen() as listener:
            got = Running(lambda: next(listener))
            assert store.began.acquire(timeout=10)
            (watch,) = store.watches
            assert watch.polls.acquire(timeout=10)
            other = pitstop.init({"type": backend(Scripted, clock)})
            other._session._backend._room = store._room
            other.store({"id": "a"}, timedelta(0))
            assert not got.done
            watch.news.put(0)
            assert got.result().id == "a"
        watch.news.put(None)
        assert self.ended()

    def test_lets_those_sleep_on_who_would_look_before_that_anyway(self, pit, store, clock):
        with pit.listen() as listener:
            got = Running(lambda: next(listener))
            assert store.began.acquire(timeout=10)
            (watch,) = store.watches
            assert watch.polls.acquire(timeout=10)
            # The first look, and a second one: a store may have come before the watch began.
            clock.wait_for_waits(2)
            other = pitstop.init({"type": backend(Scripted, clock)})
            other._session._backend._room = store._room
            other.store({"id": "a"}, timedelta(0))
            now = store.now() // 1000
            for due in (now + 90_000, now + 86_400_000, None):
                watch.news.put(due)
                assert watch.polls.acquire(timeout=10)
                assert listener._intake.waiting.waiters[0].bell.wait(0) is False
            assert store.calls.count("lease") == 2
            watch.news.put(now + 20_000)
            assert got.result().id == "a"
        watch.news.put(None)
        assert self.ended()

    def test_one_who_joins_while_it_still_polls_for_one_who_left_shares_it(self, pit, store, clock):
        leaving, joining = pit.listen(), pit.listen()
        left = Running(lambda: ids(leaving))
        assert store.began.acquire(timeout=10)
        (watch,) = store.watches
        assert watch.polls.acquire(timeout=10)
        leaving.close()
        assert left.result() == []
        joined = Running(lambda: next(joining))
        clock.wait_for_waits(2)
        assert clock.wait_for_sleepers(1)
        watch.news.put(None)
        assert watch.polls.acquire(timeout=10), "a thread sleeps on it"
        other = pitstop.init({"type": backend(Scripted, clock)})
        other._session._backend._room = store._room
        other.store({"id": "a"}, timedelta(0))
        watch.news.put(0)
        assert joined.result().id == "a"
        assert len(store.watches) == 1
        joining.close()
        watch.news.put(None)
        assert self.ended()

    def test_nobody_asks_again_where_there_is_none_to_be_had(self, pit, store, clock, monkeypatch):
        monkeypatch.setattr(store, "watch", store.began.release)
        for _ in range(2):
            with pit.listen() as listener:
                moving = Running(lambda: (clock.wait_for_sleepers(1), clock.advance(1)))
                assert listener.get(timeout=1) is None
                moving.result()
        assert self.ended()
        assert store.began.acquire(timeout=10)
        assert not store.began.acquire(timeout=0)

    def test_a_close_does_not_wait_for_a_poll(self, pit, store, caplog):
        got = Running(lambda: ids(pit.listen()))
        assert store.began.acquire(timeout=10)
        (watch,) = store.watches
        assert watch.polls.acquire(timeout=10)
        closing = Running(pit.close)
        closing.result()
        assert got.result() == []
        assert len(self.threads()) == 1, "it still sits in its poll"
        watch.news.put(0)
        assert self.ended()
        assert watch.closed.is_set()
        assert caplog.records == []

    @pytest.mark.parametrize("error", [BackendUnavailable("gone"), RuntimeError("a bug")])
    def test_survives_a_poll_that_raises(self, pit, store, clock, caplog, error):
        with pit.listen() as listener:
            got = Running(lambda: next(listener))
            assert store.began.acquire(timeout=10)
            (watch,) = store.watches
            watch.news.put(error)
            # Two threads wait by the clock now: the listener, and the watch for its next try.
            assert watch.closed.wait(10)
            assert clock.wait_for_sleepers(2)
            clock.advance(0.1)
            assert store.began.acquire(timeout=10)
            # Of a store that is away the listener tells, and a watch that begins anew has mended itself.
            assert ("trying again: RuntimeError" in caplog.text) == isinstance(error, RuntimeError)
            assert isinstance(error, RuntimeError) or caplog.records == []
            watch = store.watches[1]
            watch.news.put(None)
            assert watch.polls.acquire(timeout=10)
            assert not got.done
            pit.store({"id": "a"}, timedelta(0))
            assert got.result().id == "a"
        watch.news.put(None)
        assert self.ended()

    def test_a_watch_that_fails_for_a_minute_is_told(self, pit, store, clock, caplog):
        with pit.listen() as listener:
            got = Running(lambda: next(listener))
            for number in range(14):
                assert store.began.acquire(timeout=10)
                assert ("the watch for messages of other processes does not answer" in caplog.text) == (number >= 13)
                watch = store.watches[-1]
                watch.news.put(BackendUnavailable("gone"))
                assert watch.closed.wait(10)
                assert clock.wait_for_sleepers(2)
                clock.advance(5)
            assert store.began.acquire(timeout=10)
            pit.store({"id": "a"}, timedelta(0))
            assert got.result().id == "a"
        store.watches[-1].news.put(None)
        assert self.ended()

    def test_a_watch_that_fails_because_of_the_close_is_no_news(self, pit, store, caplog):
        got = Running(lambda: ids(pit.listen()))
        assert store.began.acquire(timeout=10)
        (watch,) = store.watches
        assert watch.polls.acquire(timeout=10)
        pit.close()
        watch.news.put(BackendUnavailable("closed under my feet"))
        assert self.ended()
        assert got.result() == []
        assert caplog.records == []

    def test_ends_after_a_listener_that_was_dropped_without_close(self, pit, store, clock):
        listener = pit.listen()
        moving = Running(lambda: (clock.wait_for_waits(1), clock.advance(1)))
        assert listener.get(timeout=1) is None
        moving.result()
        assert store.began.acquire(timeout=10)
        dropped = weakref.ref(listener)
        (watch,) = store.watches
        del listener
        gc.collect()
        assert dropped() is None
        watch.news.put(None)
        watch.news.put(None)
        assert self.ended()

    def test_begins_anew_after_it_ended(self, pit, store, clock):
        for number in range(2):
            listener = pit.listen()
            got = Running(lambda listener=listener: ids(listener))
            assert store.began.acquire(timeout=10)
            listener.close()
            store.watches[number].news.put(None)
            assert self.ended()
            assert got.result() == []
