"""A paused message that is claimed is parked. If the store does not answer that write, the message loses no attempt by it."""

from __future__ import annotations

import contextlib

import pytest

import pitstop

from core.kit import Scripted, backend


@pytest.fixture
def store(clock):
    return backend(Scripted, clock, retry={"max_attempts": 2})


@pytest.fixture
def pit(store):
    with pitstop.init({"type": store}) as pit:
        yield pit


def paused_while_leased(pit):
    """Store a message that is paused while a handler has it, and whose retry is due."""
    pit.store({"id": "a"})
    with pit.listen(prefetch=1) as listener:
        delivery = listener.get()
        pit.pause("a")
        delivery.nack("failed", delay="0s")


def fail_next_settle(store):
    """Let the next write fail, and no other one."""

    def fail():
        del store.during["settle"]
        raise pitstop.BackendUnavailable("The test took the store away.")

    store.during["settle"] = fail


class TestAParkingThatFails:
    def test_is_tried_again_by_the_next_claim(self, pit, store):
        paused_while_leased(pit)
        with pit.listen(prefetch=1) as listener:
            fail_next_settle(store)
            with pytest.raises(pitstop.BackendUnavailable):
                listener.get()
            assert pit.get("a").state == "leased"
            assert listener.get() is None
            entry = pit.get("a")
            assert (entry.state, entry.attempts) == ("paused", 1)

    def test_is_tried_again_when_the_listener_is_closed(self, pit, store):
        paused_while_leased(pit)
        with pit.listen(prefetch=1) as listener:
            fail_next_settle(store)
            with contextlib.suppress(pitstop.BackendUnavailable):
                listener.get()
        entry = pit.get("a")
        assert (entry.state, entry.attempts) == ("paused", 1)

    def test_leaves_the_last_attempt_of_a_message(self, pit, store):
        paused_while_leased(pit)
        with pit.listen(prefetch=1) as listener:
            fail_next_settle(store)
            with contextlib.suppress(pitstop.BackendUnavailable):
                listener.get()
            listener.get()
            pit.resume("a")
            delivery = listener.get()
            assert delivery.attempt == 2
            delivery.ack()
        assert pit.get("a") is None

    def test_is_not_tried_again_after_its_lease(self, pit, store, clock):
        paused_while_leased(pit)
        with pit.listen(prefetch=1, lock_time="1m") as listener:
            fail_next_settle(store)
            with contextlib.suppress(pitstop.BackendUnavailable):
                listener.get()
            clock.advance(61)
            calls = len(store.batches)
            assert listener.get() is None
            assert store.batches[calls:] == [1], "the parking of the new claim alone"
        assert pit.get("a").state == "paused"

    def test_does_not_keep_the_other_messages_of_its_claim(self, pit, store):
        paused_while_leased(pit)
        pit.store({"id": "b"})
        with pit.listen(prefetch=5) as listener:
            fail_next_settle(store)
            listener.get().ack()
            assert listener.get() is None
        assert [(each.id, each.state) for each in pit.entries()] == [("a", "paused")]


def test_a_message_of_a_later_release_is_given_back_by_the_next_claim(pit, store, monkeypatch):
    """It keeps its attempts in the same way."""
    pit.store({"id": "a"}, expires="1h")
    record = store.get("a")
    object.__setattr__(record, "policy", {**record.policy, "unheard_of": 1})
    store.put([record])
    with pit.listen(prefetch=1) as listener:
        fail_next_settle(store)
        with contextlib.suppress(pitstop.BackendUnavailable):
            listener.get()
        listener.get()
    assert store.get("a").progress.attempts == 0
