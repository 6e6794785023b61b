"""Messages that are moved in time by hand: the calls of the backend, others in between, and what listeners and observers hear."""

from __future__ import annotations

from datetime import datetime, timedelta

import attrs
import pytest

import pitstop

from core.kit import Running, backend
from core.test_if_exists import Recording
from pitstop import Conflict, MessageError, ScheduleError, Unsupported
from pitstop.abc import Capability, Damaged, Progress, Record
from pitstop_memory import MemoryBackend


NOW, HOUR = timedelta(0), timedelta(hours=1)
MOVES = {
    "reschedule": lambda pit: pit.reschedule("a", HOUR / 2),
    "emit_now": lambda pit: pit.emit_now("a"),
    "release": lambda pit: pit.release("a"),
}
each_move = pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)


@pytest.fixture
def store(clock):
    return backend(Recording, clock)


class TestCalls:
    def test_of_a_reschedule(self, pit, store):
        pit.store({"id": "a"}, HOUR)
        store.calls.clear()
        pit.reschedule("a", 2 * HOUR)
        assert store.calls == ["get", "put_if"]

    def test_of_a_release(self, pit, store):
        pit.store({"id": "a"}, NOW)
        pit.listen().get()
        store.calls.clear()
        pit.release("a")
        assert store.calls == ["get", "settle"]

    @each_move
    def test_of_a_message_that_is_not_there(self, pit, store, move):
        assert move(pit) is False
        assert store.calls == ["get"]

    def test_of_a_message_that_is_due_already(self, pit, store):
        pit.store({"id": "a"}, NOW)
        store.calls.clear()
        assert pit.emit_now("a") is True
        assert store.calls == ["get"]


class TestOthersInBetween:
    def test_a_message_that_is_claimed_meanwhile_does_not_come_now(self, pit, store, clock):
        pit.store({"id": "a"}, HOUR)

        def claim():
            store.during.clear()
            clock.advance(HOUR)
            assert store.lease(1, 60_000)

        store.during["put_if"] = claim
        assert pit.emit_now("a") is False
        assert pit.get("a").state == "leased"

    @pytest.mark.parametrize("move", ["reschedule", "emit_now"])
    def test_a_message_that_is_stored_meanwhile_is_moved_with_its_new_body(self, pit, store, move):
        pit.store({"id": "a", "n": 1}, HOUR)

        def store_anew():
            store.during.clear()
            store.put([Record("a", {"n": 2}, None, "2", Progress(2**41, 2**41))])

        store.during["put_if"] = store_anew
        assert MOVES[move](pit) is True
        assert (pit.get("a").message["n"], pit.get("a").due <= pit.now() + HOUR) == (2, True)

    @each_move
    def test_a_message_that_is_removed_meanwhile_is_not_brought_back(self, pit, store, move):
        pit.store({"id": "a"}, HOUR)
        if move is MOVES["release"]:
            pit.reschedule("a")
            pit.listen().get()
        store.during["put_if"] = store.during["settle"] = lambda: MemoryBackend.delete(store, "a")
        assert move(pit) is False
        assert pit.get("a") is None

    def test_a_message_that_changes_all_the_time_is_a_conflict(self, pit, store):
        pit.store({"id": "a"}, HOUR)
        versions = iter(range(1000))
        store.during["put_if"] = lambda: store.put([Record("a", {}, None, f"{next(versions)}", Progress(2**41, 2**41))])
        with pytest.raises(Conflict, match="'a' was not rescheduled, because other programs have changed it 50 times"):
            pit.reschedule("a", 2 * HOUR)

    def test_a_holder_that_acknowledges_before_a_release_has_acknowledged(self, pit, store):
        pit.store({"id": "a"}, NOW)
        delivery = pit.listen().get()

        def ack():
            store.during.clear()
            delivery.ack()

        store.during["settle"] = ack
        assert pit.release("a") is False
        assert pit.get("a") is None


class TestErrors:
    @each_move
    def test_of_an_id_that_is_none(self, pit, move):
        for call in (pit.reschedule, pit.emit_now, pit.release):
            with pytest.raises(MessageError):
                call("")

    @pytest.mark.parametrize("when", ["soon", 5, datetime(2031, 5, 4)])
    def test_of_a_time_that_makes_no_sense(self, pit, when):
        pit.store({"id": "a"}, HOUR)
        before = pit.get("a")
        with pytest.raises(ScheduleError, match="when="):
            pit.reschedule("a", when)
        assert pit.get("a") == before

    @pytest.mark.parametrize(
        ("move", "done"), list(zip(MOVES.values(), ("rescheduled", "emitted", "released"), strict=True))
    )
    def test_of_a_damaged_message(self, clock, move, done):
        class Broken(MemoryBackend):
            def get(self, id):
                return Damaged(id, "Damaged: msg cannot be read.", 5, None)

        text = f"'a' cannot be {done}. Damaged: msg cannot be read."
        with pitstop.init({"type": backend(Broken, clock)}) as pit, pytest.raises(MessageError, match=text):
            move(pit)

    def test_of_a_backend_that_cannot_compare(self, clock):
        """It can release all the same."""

        class Plain(MemoryBackend):
            capabilities = Capability(0)

        with pitstop.init({"type": backend(Plain, clock)}) as pit:
            pit.store({"id": "a"}, NOW)
            for call in (pit.reschedule, pit.emit_now):
                with pytest.raises(Unsupported, match=r"reschedule\(\), emit_now\(\) and pause\(\) need"):
                    call("a")
            assert pit.listen().get() is not None
            assert pit.release("a") is True


class TestProgress:
    def test_a_rule_that_is_broken_does_not_keep_a_message_from_being_moved(self, pit, store):
        """Its listener sets it aside."""
        series = {"start": 0, "end": None, "every": {"v": 1, "kind": "acme.x"}, "catch_up": "skip", "grace": 5}
        store.put([Record("a", {}, series, "1", Progress(2**41, 2**41))])
        assert pit.reschedule("a") is True
        assert pit.listen().get() is None
        assert pit.get("a").state == "dead"

    def test_the_jitter_does_not_delay_a_message_that_was_moved(self, pit):
        pit.store({"id": "a"}, HOUR, None, HOUR, jitter="30m")
        pit.reschedule("a", HOUR / 2)
        assert pit.get("a").due == pit.now() + HOUR / 2

    def test_a_message_never_comes_before_its_first_lease(self, pit, store):
        """The clock of the store may have been set back since."""
        now = store.now() // 1000
        waiting = Progress(now + 9000, now, 1, now + 5000, "failed")
        store.put(
            [
                Record(
                    "a",
                    {},
                    {
                        "start": now,
                        "end": None,
                        "every": {"v": 1, "kind": "every", "ms": 1},
                        "catch_up": "latest",
                        "grace": None,
                    },
                    "1",
                    waiting,
                )
            ]
        )
        assert pit.emit_now("a") is True
        assert store.get("a").progress == attrs.evolve(waiting, due=now + 5000)
        pit.reschedule("a")
        assert store.get("a").progress.due == now + 5000


class TestNews:
    @each_move
    def test_a_listener_that_sleeps_wakes_up(self, pit, clock, move):
        pit.store({"id": "a"}, NOW if move is MOVES["release"] else 9 * HOUR)
        if move is MOVES["release"]:
            assert pit.listen(lock_time="9h").get() is not None
        with pit.listen(loop_time="9h") as listener:
            thread = Running(lambda: listener.get(None))
            assert clock.wait_for_sleepers(1)
            assert move(pit) is True
            if move is MOVES["reschedule"]:
                assert clock.wait_for_sleepers(1)
                clock.advance(HOUR)
            assert thread.result().id == "a"

    @each_move
    def test_a_handler_that_moves_its_own_message_ends_quietly(self, pit, move):
        pit.store({"id": "a"}, NOW)
        summary = pit.consume(lambda message: move(pit), max_messages=1)
        if move is MOVES["emit_now"]:
            assert (summary.acked, pit.get("a")) == (1, None)
        else:
            assert (summary.superseded, summary.lost) == (1, 0)

    def test_observers_hear_of_a_message_that_was_moved(self, clock):
        seen = []

        class Observer:
            @pitstop.hookimpl
            def pitstop_message_stored(self, entry):
                seen.append((entry.id, entry.due, entry.revision))

        with pitstop.init({"type": "memory", "clock": clock}, plugins=[Observer()]) as pit:
            pit.store({"id": "a"}, HOUR)
            pit.reschedule("a", 2 * HOUR)
            assert seen[-1] == ("a", pit.now() + 2 * HOUR, pit.get("a").revision)
            pit.emit_now("a")
            assert seen[-1] == ("a", pit.now(), pit.get("a").revision)
            assert len(seen) == 3
