"""Paused kinds: how often listeners read them, and when they notice a change."""

from __future__ import annotations

from datetime import timedelta

import pytest

import pitstop

from core.kit import LOOP, Running, Watched, backend
from core.test_if_exists import Recording
from pitstop import BackendUnavailable, MessageError, PitstopError, ScheduleError, Unsupported
from pitstop._engine._listener import intake_of
from pitstop._engine._pauses import Pauses
from pitstop.abc import AllBut, Capability
from pitstop.testing import init
from pitstop_memory import MemoryBackend


NOW, HOUR = timedelta(0), timedelta(hours=1)


class Counting(Recording):
    """Counts the readings of the paused kinds, and the kinds of each claim."""

    def __init__(self, config=None):
        super().__init__(config)
        self.chosen = []

    def paused_kinds(self):
        self._enter("paused_kinds")
        return super().paused_kinds()

    def lease(self, limit, duration, kinds=None):
        self.chosen.append(kinds)
        return super().lease(limit, duration, kinds)


@pytest.fixture
def store(clock):
    return backend(Counting, clock)


class TestCost:
    def test_without_pauses_listeners_read_once_per_loop_time_and_claim_as_before(self, pit, store, clock):
        for n in range(30):
            pit.store({"id": f"{n}"}, NOW, kind="mail")
        store.calls.clear()
        with pit.listen(prefetch=1) as listener, pit.listen(prefetch=1) as other:
            for _ in range(10):
                for each in (listener, other):
                    each.get().ack()
            assert store.calls.count("paused_kinds") == 1
            assert set(store.chosen) == {None}
            clock.advance(LOOP)
            for each in (listener, other):
                each.get().ack()
            assert store.calls.count("paused_kinds") == 2

    def test_the_loop_time_of_the_listener_counts(self, pit, store, clock):
        with pit.listen(loop_time="5m") as listener:
            for _ in range(11):
                listener.get()
                clock.advance(LOOP)
        assert store.calls.count("paused_kinds") == 3

    def test_a_backend_without_paused_kinds_is_not_asked(self, clock):
        class Plain(Counting):
            capabilities = MemoryBackend.capabilities & ~Capability.PAUSES

        store = backend(Plain, clock)
        with pitstop.init({"type": store}) as pit, pit.listen() as listener:
            listener.get()
        assert "paused_kinds" not in store.calls
        assert store.calls.count("lease") == 1

    def test_a_listener_whose_kinds_are_all_paused_claims_nothing(self, pit, store):
        pit.store({"id": "a"}, NOW, kind="mail")
        pit.pause(kind="mail")
        store.calls.clear()
        with pit.listen(kinds=["mail"]) as listener:
            assert listener.get() is None
        assert store.calls == ["paused_kinds"]

    def test_a_store_that_answers_again_makes_such_a_listener_healthy_again(self, pit, store, clock):
        pit.pause(kind="mail")
        with pit.listen(kinds=["mail"]) as listener:
            claimer = intake_of(listener).claimer
            assert listener.get() is None
            assert claimer.last_claim == clock.monotonic()
            clock.advance(LOOP)
            store.down = True
            with pytest.raises(BackendUnavailable):
                listener.get()
            assert not claimer.healthy
            store.down = False
            clock.advance(LOOP)
            assert listener.get() is None
            assert claimer.healthy
            assert claimer.last_claim == clock.monotonic()


class TestNotice:
    @pytest.mark.usefixtures("alone")
    def test_a_listener_that_waits_notices_a_resume(self, pit, clock):
        pit.store({"id": "a"}, NOW, kind="mail")
        pit.pause(kind="mail")
        with pit.listen() as listener:
            thread = Running(lambda: listener.get(None))
            assert clock.wait_for_sleepers(1)
            assert pit.resume(kind="mail") is True
            assert thread.result().id == "a"

    @pytest.mark.usefixtures("alone")
    @pytest.mark.parametrize("change", ["pause", "resume"])
    def test_a_change_of_another_process_is_noticed_within_two_and_a_half_loop_times(
        self, pit, store, clock, monkeypatch, change
    ):
        """Without a watch. The worst case: a claim just before the next reading, and the longest sleep after it."""
        monkeypatch.setattr("random.uniform", lambda least, most: most)
        pit.store({"id": "a"}, LOOP * 2.5, kind="mail")
        if change == "resume":
            pit.pause(kind="mail")
        with pit.listen() as listener:
            thread = Running(lambda: listener.get(None))
            clock.wait_for_waits(1)
            # As another process does.
            store.pause_kind("mail", None) if change == "pause" else store.resume_kind("mail")
            clock.advance(LOOP * 0.99)
            pit._session.written(0)
            clock.wait_for_waits(2)
            clock.advance(LOOP * 1.51)
            if change == "resume":
                assert thread.result().id == "a"
            else:
                clock.wait_for_waits(3)
                assert not thread.done
                pit.resume(kind="mail")
                assert thread.result().id == "a"

    @pytest.mark.usefixtures("alone")
    @pytest.mark.parametrize("kinds", [None, ["mail"], ["mail", "bulk"]])
    def test_a_listener_sleeps_until_the_end_of_a_pause_and_does_not_spin(self, pit, store, clock, kinds):
        pit.store({"id": "a"}, NOW, kind="mail")
        pit.pause(kind="mail", until=timedelta(seconds=10))
        with pit.listen(kinds=kinds) as listener:
            thread = Running(lambda: listener.get(None))
            clock.wait_for_waits(1)
            assert clock.waits == [pytest.approx(10)]
            assert store.calls.count("lease") <= 1
            clock.advance(10)
            assert thread.result().id == "a"

    @pytest.mark.usefixtures("alone")
    def test_due_messages_of_a_paused_kind_do_not_keep_a_listener_awake(self, pit, store, clock):
        pit.store_many([({"id": f"{n}"}, NOW) for n in range(10)], kind="mail")
        pit.pause(kind="mail")
        with pit.listen() as listener:
            thread = Running(lambda: listener.get(None))
            clock.wait_for_waits(1)
            assert LOOP.total_seconds() / 2 <= clock.waits[0] <= LOOP.total_seconds() * 1.5
            assert store.calls.count("lease") == 1
            pit.resume(kind="mail")
            thread.result()

    @pytest.mark.usefixtures("alone")
    def test_a_watch_that_notices_a_change_has_the_kinds_read_again(self, clock):
        class Both(Watched):
            capabilities = MemoryBackend.capabilities | Capability.WATCH

        store = backend(Both, clock)
        with pitstop.init({"type": store}) as pit, pit.listen() as listener:
            pit.store({"id": "a"}, NOW, kind="mail")
            # By another process.
            store.pause_kind("mail", None)
            thread = Running(lambda: listener.get(None))
            assert store.began.acquire(timeout=10)
            (watch,) = store.watches
            assert watch.polls.acquire(timeout=10)
            assert clock.wait_for_sleepers(1)
            store.resume_kind("mail")
            watch.paused = True
            watch.news.put(0)
            assert thread.result().id == "a"
            watch.news.put(None)

    @pytest.mark.usefixtures("alone")
    def test_a_watch_that_begins_again_has_the_kinds_read_again(self, clock):
        class Both(Watched):
            capabilities = MemoryBackend.capabilities | Capability.WATCH

        store = backend(Both, clock)
        with pitstop.init({"type": store}) as pit, pit.listen() as listener:
            pit.store({"id": "a"}, NOW, kind="mail")
            store.pause_kind("mail", None)
            thread = Running(lambda: listener.get(None))
            assert store.began.acquire(timeout=10)
            (watch,) = store.watches
            assert watch.polls.acquire(timeout=10)
            watch.news.put(BackendUnavailable("gone"))
            assert watch.closed.wait(10)
            # The listener, and the watch for its next try.
            assert clock.wait_for_sleepers(2)
            # By another process, while there is no watch.
            store.resume_kind("mail")
            clock.advance(0.1)
            assert thread.result().id == "a"
            store.watches[-1].news.put(None)

    def test_messages_that_come_back_wait_as_well(self, pit, clock):
        pit.store({"id": "a"}, NOW, kind="mail")
        with pit.listen(prefetch=1) as listener:
            listener.get().nack("failed", NOW)
            pit.pause(kind="mail")
            assert listener.get() is None
        assert pit.get("a").attempts == 1


class TestReading:
    def test_a_reading_that_began_before_a_change_does_not_count(self, store):
        pauses = Pauses()
        pauses.read(store, 1.0)

        def change():
            store.during.clear()
            pauses.changed()

        store.pause_kind("a", None)
        store.during["paused_kinds"] = change
        pauses.read(store, 2.0)
        assert (pauses.ends, pauses.read_at) == ({}, float("-inf"))
        pauses.read(store, 3.0)
        assert (dict(pauses.ends), pauses.read_at) == ({"a": None}, 3.0)

    def test_a_change_while_a_reading_is_noted_is_not_lost(self, store):
        class Late(Pauses):
            def __setattr__(self, name, value):
                super().__setattr__(name, value)
                if name == "ends" and value:
                    # Another thread.
                    self.changed()

        store.pause_kind("a", None)
        pauses = Late()
        pauses.read(store, 1.0)
        assert pauses.read_at == float("-inf")

    def test_a_thread_that_claims_during_the_first_reading_reads_by_itself(self, pit, store):
        """The second listener must not take the kinds for those that were never read."""
        pit.store({"id": "a"}, NOW, kind="mail")
        store.pause_kind("mail", None)
        other = pit.listen()
        seen = []

        def claim():
            store.during.clear()
            seen.append(other.get())

        store.during["paused_kinds"] = lambda: Running(claim).result()
        with pit.listen() as listener:
            assert listener.get() is None
        assert seen == [None]
        other.close()

    def test_a_store_that_does_not_answer_is_an_outage(self, pit, store):
        pit.store({"id": "a"}, NOW)
        with pit.listen() as listener:
            store.down = True
            with pytest.raises(BackendUnavailable):
                listener.get()
            store.down = False
            assert listener.get().id == "a"

    @pytest.mark.parametrize(
        ("kinds", "paused", "chosen"),
        [
            (None, [], None),
            (None, ["a"], AllBut(["a"])),
            (AllBut(["a"]), ["a"], AllBut(["a"])),
            (AllBut(["a"]), ["b"], AllBut(["a", "b"])),
            (("a", "b"), ["c"], ("a", "b")),
            (("a", "b"), ["b"], frozenset(["a"])),
            (("a",), ["a"], frozenset()),
        ],
    )
    def test_the_choice_of_kinds(self, store, kinds, paused, chosen):
        pauses = Pauses()
        for kind in paused:
            store.pause_kind(kind, None)
        pauses.read(store, 0.0)
        found = pauses.choice(store, kinds)
        assert found == chosen
        assert isinstance(found, AllBut) == isinstance(chosen, AllBut)


def test_a_test_drives_the_messages_of_other_kinds_and_waits_for_the_end_of_a_pause():
    with init() as pit:
        start = pit.now()
        pit.store({"id": "a"}, kind="mail")
        pit.store({"id": "b"}, kind="bulk")
        pit.pause(kind="mail", until="1h")
        pit.pause(kind="never")
        assert pit.run_until_idle(lambda message: None).ids == ["b"]
        report = pit.run_for("2h", lambda message: None)
        assert [(step.id, step.at - start) for step in report.steps] == [("a", HOUR)]


class TestErrors:
    def test_of_neither_and_of_both(self, pit):
        for name in ("pause", "resume"):
            call = getattr(pit, name)
            with pytest.raises(PitstopError, match=rf"{name}\(\) got neither an id nor a kind. Give one of them"):
                call()
            with pytest.raises(PitstopError, match=rf"{name}\(\) got an id and a kind"):
                call("a", kind="mail")

    @pytest.mark.parametrize("kind", [7, "x" * 65, "*", "a\0"])
    def test_of_a_kind_that_cannot_be_one(self, pit, kind):
        for call in (pit.pause, pit.resume):
            with pytest.raises(MessageError, match="kind"):
                call(kind=kind)

    def test_of_an_end_that_has_passed(self, pit):
        with pytest.raises(ScheduleError, match="has passed"):
            pit.pause(kind="mail", until="0s")
        assert pit.paused_kinds() == {}

    def test_of_a_backend_that_cannot(self, clock):
        class Plain(MemoryBackend):
            capabilities = MemoryBackend.capabilities & ~Capability.PAUSES

        with pitstop.init({"type": backend(Plain, clock)}) as pit:
            for call in (lambda: pit.pause(kind="a"), lambda: pit.resume(kind="a"), pit.paused_kinds):
                with pytest.raises(Unsupported, match="does not have the capability PAUSES"):
                    call()
