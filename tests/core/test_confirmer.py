"""A suspect that cannot be confirmed, because the store is away or the backend has a bug, stops no other message."""

from __future__ import annotations

from datetime import timedelta

import pytest

from core.kit import LOCK, Running, backend
from pitstop import BackendUnavailable
from pitstop._engine._listener import intake_of
from pitstop.abc import Outcome


DUE = timedelta(0)


@pytest.fixture
def store(clock):
    return backend(clock=clock, retry={"max_attempts": 3})


@pytest.fixture
def suspects(pit, clock):
    """Two messages whose listener died, and after that two new ones."""
    pit.store_many([({"id": id}, DUE) for id in ("bad", "good")])
    dying = pit.listen(prefetch=5)
    assert dying.get().id == "bad"
    intake_of(dying).drop_all()
    clock.advance(LOCK)
    pit.store_many([({"id": id}, DUE) for id in ("new", "newer")])


def away():
    raise BackendUnavailable("The test took the store away.")


def fail_for_one(store, outcome):
    """The backend raises when it settles the message "bad" with this outcome."""
    settle = store.settle

    def broken(settlements):
        if any((each.id, each.outcome) == ("bad", outcome) for each in settlements):
            raise ZeroDivisionError("s3cr3t")
        return settle(settlements)

    store.settle = broken


def test_a_store_that_cannot_tell_the_time_does_not_end_the_iteration(pit, store, clock, suspects, alone):
    with pit.listen(prefetch=5) as listener:
        now = store.now
        store.during["lease"] = lambda: setattr(store, "now", away)
        assert [next(listener).id for _ in range(2)] == ["new", "newer"]
        store.now = now
        store.during.clear()
        clock.advance(10)
        assert next(listener).id == "bad"


def test_a_suspect_that_the_backend_cannot_confirm_keeps_no_other_one_from_its_handler(
    pit, store, suspects, caplog, alone
):
    fail_for_one(store, Outcome.EXTEND)
    with pit.listen(prefetch=5) as listener:
        assert [next(listener).id for _ in range(3)] == ["good", "new", "newer"]
    assert "'bad' could not be confirmed: ZeroDivisionError" in caplog.text
    assert "s3cr3t" not in caplog.text
    assert pit.get("bad").state == "leased"


def test_suspects_that_the_backend_cannot_defer_do_not_fail_the_claim(pit, store, clock, alone):
    pit.store_many([({"id": id}, DUE) for id in ("good", "bad")])
    dying = pit.listen(prefetch=1)
    assert [dying.get().id for _ in range(2)] == ["good", "bad"]
    intake_of(dying).drop_all()
    clock.advance(LOCK)
    with pit.listen(prefetch=1) as listener:
        first = listener.get()
        fail_for_one(store, Outcome.EXTEND)
        assert listener.get() is None
        first.ack()
        del store.settle
        assert listener.get().id == "bad"


def test_a_suspect_is_not_handed_out_after_its_lease_though_the_process_has_the_time_of_the_store_wrong(
    pit, store, clock, suspects, alone
):
    with pit.listen(prefetch=5) as listener:
        intake = intake_of(listener)
        intake.claimer.claim(1)
        intake.give_back(intake.buffer.take_all())
        half = LOCK / 2
        clock.advance(half)
        now, settle = store.now, store.settle
        store.now = lambda: now() - half // timedelta(microseconds=1)

        def slow(settlements):
            store.settle = settle
            answer = settle(settlements)
            clock.advance(half)
            return answer

        store.settle = slow
        assert intake.confirmer.take() is None
        store.now = now
        assert pit.get("bad").state == "due"


def test_the_background_thread_asks_the_store_nothing_when_it_looks_for_work(pit, store, suspects, alone):
    """An error there would end the thread."""
    with pit.listen(prefetch=5) as listener:
        intake = intake_of(listener)
        intake.claimer.claim(1)
        intake.buffer.take_all()
        now, store.now = store.now, away
        assert intake.background._has_work()
        store.now = now


def test_the_background_thread_survives_a_store_that_is_away_while_it_offers_a_suspect(pit, store, suspects, alone):
    with pit.listen(prefetch=5) as listener:
        intake = intake_of(listener)
        intake.claimer.claim(1)
        now, store.now = store.now, away
        intake.confirmer.tend(offer=True)
        store.now = now
        assert len(intake.suspects.waiting) == 2


@pytest.mark.parametrize("change", ["remove", "store"])
def test_a_suspect_that_is_replaced_while_it_is_offered_is_not_handed_out(pit, store, clock, suspects, alone, change):
    """An event loop takes its messages out of the buffer alone, so that suspects are put there."""
    with pit.listen(prefetch=5) as listener:
        intake = intake_of(listener)
        intake.claimer.claim(1)
        intake.give_back(intake.buffer.take_all())
        settle = store.settle

        def changed(settlements):
            store.settle = settle
            answer = settle(settlements)
            new = {"id": "bad", "new": True}
            Running(lambda: pit.remove("bad") if change == "remove" else pit.store(new, timedelta(hours=9))).result()
            return answer

        store.settle = changed
        intake.confirmer.offer()
        assert [each.id for each in intake.buffer.unseen] == []
        assert (pit.get("bad") is None) == (change == "remove")
