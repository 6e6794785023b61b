"""Paused messages: the calls of the backend, old and foreign records, and what observers and a test's driver hear."""

from __future__ import annotations

from datetime import timedelta

import attrs
import pytest

import pitstop

from core.kit import Running, backend
from core.test_if_exists import Recording
from pitstop import Conflict, MessageError, ScheduleError, Unsupported
from pitstop.abc import PAUSED, Capability, Damaged, state_of
from pitstop.testing import init
from pitstop_memory import MemoryBackend


NOW, MINUTE, HOUR = timedelta(0), timedelta(minutes=1), timedelta(hours=1)


@pytest.fixture
def store(clock):
    return backend(Recording, clock)


def change(store, id, *, policy="as it is", **progress):
    """Change a stored record as another program does."""
    record = store.get(id)
    policy = record.policy if policy == "as it is" else policy
    store.put([attrs.evolve(record, policy=policy, progress=attrs.evolve(record.progress, **progress))])


class TestCalls:
    @pytest.mark.parametrize("change", ["pause", "resume"])
    def test_each_is_a_read_and_a_write(self, pit, store, change):
        pit.store({"id": "a"}, HOUR)
        pit.pause("a", HOUR)
        store.calls.clear()
        getattr(pit, change)("a")
        assert store.calls == ["get", "put_if"]

    @pytest.mark.parametrize("change", ["pause", "resume"])
    def test_a_message_that_is_not_there_is_read_alone(self, pit, store, change):
        assert getattr(pit, change)("a") is False
        assert store.calls == ["get"]

    def test_a_claim_that_finds_a_paused_message_parks_it_in_one_write(self, pit, store, clock):
        pit.store_many([({"id": id}, NOW, None, HOUR) for id in "ab"])
        with pit.listen(prefetch=2) as listener:
            for each in (listener.get(), listener.get()):
                pit.pause(each.id)
                each.ack()
            clock.advance(HOUR)
            store.calls.clear()
            assert listener.get() is None
            parked = [store.get(id).progress for id in "ab"]
        assert store.calls.count("settle") == 1
        assert [(each.due, each.token, each.attempts, each.first_leased) for each in parked] == [
            (None, PAUSED, 0, None)
        ] * 2


class TestRecords:
    def test_a_message_without_policies_has_none_again(self, pit, store):
        pit.store({"id": "a"}, HOUR)
        before = store.get("a")
        pit.pause("a")
        assert store.get("a").policy == {"paused": {"until": None, "due": before.progress.due}}
        pit.resume("a")
        after = store.get("a")
        assert (after.policy, after.progress) == (None, before.progress)

    def test_the_policies_of_the_message_stay(self, pit, store):
        pit.store({"id": "a"}, HOUR, lock_time="2h", expires="1h")
        before = store.get("a").policy
        pit.pause("a", "1d")
        assert {**before, "paused": store.get("a").policy["paused"]} == store.get("a").policy
        assert pit.get("a").lock_time == 2 * HOUR
        pit.resume("a")
        assert store.get("a").policy == before

    def test_an_older_release_takes_a_parked_message_for_a_dead_or_a_leased_one(self, pit, store, clock):
        """It compares ``due`` and asks whether there is a token."""
        pit.store_many([({"id": id}, NOW) for id in "ab"])
        pit.pause("a")
        pit.pause("b", HOUR)
        a, b = store.get("a").progress, store.get("b").progress
        assert (a.due, a.token is None) == (None, False)
        assert (b.due, b.token is None) == (clock.time_us() // 1000 + 3_600_000, False)

    def test_a_message_that_an_older_release_redrives_is_parked_again(self, pit, store, clock):
        pit.store({"id": "a"}, HOUR)
        pit.pause("a")
        change(store, "a", due=clock.time_us() // 1000, token=None)
        with pit.listen() as listener:
            assert listener.get() is None
        assert pit.get("a").state == "paused"
        pit.resume("a")
        assert pit.get("a").due == pit.get("a").scheduled_for

    @pytest.mark.parametrize("until", [None, HOUR])
    def test_a_parked_message_whose_policies_an_older_release_has_replaced_can_be_resumed(
        self, pit, store, clock, until
    ):
        pit.store({"id": "a"}, 2 * HOUR)
        pit.pause("a", until)
        change(store, "a", policy=None)
        assert pit.get("a").state == "paused"
        assert pit.pause("a", 3 * HOUR) is True
        change(store, "a", policy=None)
        assert pit.reschedule("a", 3 * HOUR) is True
        assert pit.get("a").state == "paused"
        change(store, "a", policy=None)
        assert pit.resume("a") is True
        assert pit.get("a").due == pit.get("a").scheduled_for

    @pytest.mark.parametrize("damage", [7, {"until": "soon"}, {"until": -1, "due": None}, {"other": 1}, [None, None]])
    def test_a_pause_that_cannot_be_read_is_an_error_of_the_message(self, pit, store, damage):
        pit.store({"id": "a"}, NOW)
        change(store, "a", policy={"paused": damage})
        with pit.listen() as listener:
            assert listener.get() is None
        entry = pit.get("a")
        assert (entry.state, entry.last_error) == (
            "dead",
            "The stored policy is malformed. Store the message again, or remove it.",
        )

    def test_a_pause_that_has_ended_leaves_nothing_behind(self, pit, store, clock):
        """A later change takes the traces away. Until then they have no effect."""
        changes = {"reschedule": lambda: pit.reschedule("a", NOW), "emit_now": lambda: pit.emit_now("a")}
        for name, call in changes.items():
            pit.store({"id": "a"}, 3 * HOUR)
            pit.pause("a", HOUR)
            clock.advance(HOUR)
            entry = pit.get("a")
            assert (entry.state, entry.paused_until) == ("paused", None), "it waits for its own time"
            assert call() is True, name
            assert store.get("a").policy is None
            assert store.get("a").progress.token is None
            with pit.listen() as listener:
                listener.get().ack()

    def test_a_pause_that_has_ended_ends_by_hand_too(self, pit, clock):
        pit.store({"id": "a"}, 3 * HOUR)
        pit.pause("a", HOUR)
        clock.advance(HOUR)
        assert pit.resume("a") is True, "it is shown as paused until its own time"
        entry = pit.get("a")
        assert (entry.state, entry.due) == ("scheduled", entry.scheduled_for)

    def test_a_new_pause_begins_where_an_old_one_has_ended(self, pit, store, clock):
        pit.store({"id": "a"}, NOW)
        pit.pause("a", HOUR)
        clock.advance(2 * HOUR)
        assert pit.get("a").state == "due"
        assert pit.pause("a") is True
        assert (pit.get("a").state, store.get("a").progress.due) == ("paused", None)
        assert pit.resume("a") is True
        assert pit.get("a").state == "due"

    def test_a_release_and_a_redrive_of_a_leased_message_with_a_pause(self, pit):
        pit.store({"id": "a"}, NOW)
        with pit.listen(prefetch=1) as listener:
            listener.get()
            pit.pause("a")
            assert pit.redrive("a") is False
            assert pit.release("a") is True
            assert listener.get() is None
        entry = pit.get("a")
        assert (entry.state, entry.attempts) == ("paused", 1)

    def test_a_resume_during_the_lease_leaves_the_lease_alone(self, pit, store):
        pit.store({"id": "a"}, NOW)
        with pit.listen(prefetch=1) as listener:
            delivery = listener.get()
            before = store.get("a")
            pit.pause("a")
            assert pit.resume("a") is True
            after = store.get("a")
            assert (after.progress, after.policy) == (before.progress, None)
            assert after.revision != before.revision
            delivery.ack()
        assert pit.get("a") is None


@pytest.mark.parametrize(
    ("due", "token", "state"),
    [
        (None, PAUSED, "paused"),
        (11, PAUSED, "paused"),
        (10, PAUSED, "due"),
        (None, "t", "dead"),
        (None, None, "dead"),
        (11, "t", "leased"),
        (11, None, "scheduled"),
    ],
)
def test_the_state_of_a_record(due, token, state):
    assert state_of(due, token, 10) == state


class TestHandlers:
    def test_a_handler_may_pause_its_own_message(self, pit, clock):
        pit.store_many([({"id": "one"}, NOW), ({"id": "series"}, NOW, None, HOUR)])
        summary = pit.consume(lambda message: pit.pause(message["id"]), until_idle=True)
        assert (summary.acked, summary.superseded, summary.lost) == (2, 0, 0)
        clock.advance(HOUR)
        assert pit.consume(lambda message: None, until_idle=True).acked == 0
        assert [(each.id, each.state) for each in pit.entries()] == [("series", "paused")]

    @pytest.mark.usefixtures("alone")
    def test_a_listener_that_waits_takes_a_message_that_is_resumed(self, pit, clock):
        pit.store({"id": "a"}, NOW)
        pit.pause("a")
        with pit.listen() as listener:
            thread = Running(lambda: listener.get(None))
            assert clock.wait_for_sleepers(1)
            assert pit.resume("a") is True
            assert thread.result().id == "a"


class TestDriver:
    def test_a_message_that_is_parked_is_no_step(self):
        with init() as pit:
            start = pit.now()
            pit.store({"id": "a"}, start, None, HOUR)

            def handle(message):
                pit.pause("a", start + 150 * MINUTE)

            assert pit.run_until_idle(handle).acked == 1
            report = pit.run_for(2 * HOUR, handle)
            assert report.steps == (), "the claim after an hour finds the message paused"
            assert pit.get("a").state == "paused"
            report = pit.run_for(HOUR, lambda message: None)
            assert [(step.at - start, step.scheduled_for - start, step.missed) for step in report.steps] == [
                (150 * MINUTE, 2 * HOUR, 1),
                (3 * HOUR, 3 * HOUR, 0),
            ]


class TestErrors:
    def test_of_an_end_that_has_passed(self, pit):
        pit.store({"id": "a"}, NOW)
        for until in (NOW, "0s", pit.now() - HOUR):
            with pytest.raises(ScheduleError, match=r"until=.* has passed, so the pause would end at once"):
                pit.pause("a", until)
        assert pit.get("a").state == "due"

    @pytest.mark.parametrize("until", ["soon", 7, pytest.param(None, id="naive")])
    def test_of_an_end_that_is_no_time(self, pit, until):
        if until is None:
            until = pit.now().replace(tzinfo=None)
        with pytest.raises(ScheduleError, match="until"):
            pit.pause("a", until)

    @pytest.mark.parametrize("change", ["pause", "resume"])
    def test_of_an_id_that_cannot_be_one(self, pit, change):
        for id in (7, ""):
            with pytest.raises(MessageError):
                getattr(pit, change)(id)

    @pytest.mark.parametrize("change", ["pause", "resume"])
    @pytest.mark.parametrize("lacks", [Capability.POLICIES, Capability.CONDITIONAL])
    def test_of_a_backend_that_cannot(self, clock, change, lacks):
        class Plain(MemoryBackend):
            capabilities = (Capability.POLICIES | Capability.CONDITIONAL) & ~lacks

        with pitstop.init({"type": backend(Plain, clock)}) as pit:
            pit.store({"id": "a"}, NOW)
            with pytest.raises(Unsupported, match=rf"{lacks.name}, which .* pause\(\) need"):
                getattr(pit, change)("a")

    @pytest.mark.parametrize("change", ["pause", "resume"])
    def test_of_a_damaged_message(self, pit, store, monkeypatch, change):
        monkeypatch.setattr(store, "get", lambda _: Damaged("a", "Damaged: msg cannot be read.", None, PAUSED))
        with pytest.raises(MessageError, match=f"'a' cannot be {change}d. Damaged: msg cannot be read."):
            getattr(pit, change)("a")
        assert pit.get("a").state == "paused"

    @pytest.mark.parametrize("change", ["pause", "resume"])
    def test_of_a_message_that_changes_all_the_time(self, pit, store, monkeypatch, change):
        pit.store({"id": "a"}, HOUR)
        pit.pause("a", HOUR)
        monkeypatch.setattr(store, "put_if", lambda *args: False)
        with pytest.raises(Conflict, match=f"'a' was not {change}d"):
            getattr(pit, change)("a")
