"""Messages with lock times of their own, and a store that is slow to claim them, or that fails the write of their leases."""

from __future__ import annotations

import logging

from datetime import UTC, datetime, timedelta

import pytest

import pitstop

from core.kit import backend as scripted
from pitstop._engine._listener import intake_of
from pitstop.abc import Outcome, Settlement
from pitstop.testing import ManualClock
from pitstop_memory import MemoryBackend


NOW = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def clock():
    return ManualClock()


def once(backend, name, function):
    """Call a function at the next call of a method of the backend alone."""

    def call():
        del backend.during[name]
        function()

    backend.during[name] = call


@pytest.mark.parametrize("slow", ["lease", "settle"])
@pytest.mark.parametrize("prefetch", [1, 10])
def test_a_store_that_takes_as_long_as_a_short_lock_time_kills_no_message(clock, slow, prefetch, caplog):
    """One claim or one write takes longer than the message is leased. The message may fail only once."""
    backend = scripted(clock=clock, retry={"max_attempts": 1}, lock_time="1m")
    with pitstop.init({"type": backend}) as pit:
        pit.store({"id": "a"}, NOW, lock_time="500ms")
        with pit.listen(prefetch=prefetch) as listener:
            for _ in range(3):
                once(backend, slow, lambda: clock.advance(0.6))
                assert listener.get() is None
                assert pit.get("a").state == "due"
            delivery = listener.get()
            assert delivery.id == "a"
            delivery.nack()
    assert "lock_time of 0.5 s that a message has of its own, so that 1 message was not emitted" in caplog.text


def test_a_claim_that_took_too_long_gives_the_message_back_as_if_it_had_not_been_claimed(clock):
    backend = scripted(clock=clock, lock_time="1m")
    with pitstop.init({"type": backend}) as pit:
        pit.store({"id": "a"}, NOW, lock_time="500ms")
        pit.store({"id": "b"}, NOW)
        with pit.listen(prefetch=2) as listener:
            once(backend, "lease", lambda: clock.advance(0.6))
            assert listener.get().id == "b"
            entry = pit.get("a")
            assert (entry.state, entry.attempts, entry.due) == ("due", 0, NOW)


def test_a_handler_that_dies_with_a_short_lock_time_still_ends_as_dead(clock):
    backend = scripted(clock=clock, retry={"max_attempts": 1}, lock_time="1m")
    with pitstop.init({"type": backend}) as pit:
        pit.store({"id": "a"}, NOW, lock_time="500ms")
        seen = 0
        for _ in range(5):
            with pit.listen(prefetch=1) as listener:
                seen += listener.get() is not None
            clock.advance(1)
        assert pit.get("a").state == "dead"
        assert seen == 2, "the first attempt is an uncertain one"


def test_claims_that_take_as_long_as_a_lease_are_followed_by_growing_pauses(clock):
    backend = scripted(clock=clock, lock_time="1m")
    with pitstop.init({"type": backend}) as pit:
        pit.store({"id": "a"}, NOW, lock_time="20ms")
        with pit.listen() as listener:
            claimer = intake_of(listener).claimer
            backend.during["lease"] = lambda: clock.advance(0.02)
            rests = []
            for _ in range(8):
                assert listener.get() is None
                rests.append(claimer.rest)
            assert rests == sorted(rests)
            assert (rests[0], rests[-1]) == (0.02, 1.0)
            del backend.during["lease"]
            assert listener.get() is not None
            assert claimer.rest == 0


class Failing(MemoryBackend):
    """A store that does not answer the writes of longer leases."""

    away = True

    def settle(self, settlements):
        batch = list[Settlement](settlements)
        if self.away and any(each.outcome is Outcome.EXTEND for each in batch):
            raise pitstop.BackendUnavailable("away")
        return super().settle(batch)


def test_a_write_that_fails_is_a_look_that_failed(clock, caplog):
    """The give-back works, so the message is due again at once. A pause follows, and the outage is logged."""
    backend = Failing.from_options({"clock": clock})
    with pitstop.init({"type": backend}) as pit:
        pit.store({"id": "a"}, NOW, lock_time="2h")
        with pit.listen(prefetch=10) as listener, caplog.at_level(logging.WARNING):
            bells = []
            intake = intake_of(listener)
            intake.notice = lambda due, kinds=None: bells.append((due, kinds))
            for _ in range(2):
                with pytest.raises(pitstop.BackendUnavailable, match="away"):
                    listener.get()
                assert (pit.get("a").state, pit.get("a").attempts) == ("due", 0)
                assert not listener.healthy
            assert bells == [], "its own listener is not woken by the messages that it has given back"
            pit.store({"id": "b"}, NOW + timedelta(seconds=1))
            clock.advance(1)
            assert listener.get().id == "b", "the others are handed out"
            assert not listener.healthy
            assert "the store does not answer" in caplog.text
            backend.away = False
            assert listener.get().id == "a"
            assert listener.healthy


def test_a_write_whose_reply_was_lost_gives_the_message_back(clock):
    """It may have been applied. Then the message would be leased for two hours, and no handler would have it."""

    class Doubtful(MemoryBackend):
        doubtful = True

        def settle(self, settlements):
            batch = list[Settlement](settlements)
            applied = super().settle(batch)
            return [None for _ in applied] if self.doubtful and batch[0].outcome is Outcome.EXTEND else applied

    backend = Doubtful.from_options({"clock": clock})
    with pitstop.init({"type": backend}) as pit:
        pit.store({"id": "a"}, NOW, lock_time="2h")
        with pit.listen() as listener:
            assert listener.get() is None
            assert (pit.get("a").state, pit.get("a").attempts) == ("due", 0)
            backend.doubtful = False
            assert listener.get().id == "a"
