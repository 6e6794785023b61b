"""The claimer by itself: no listener, no thread, no wait."""

from __future__ import annotations

from datetime import timedelta

import pytest

import pitstop

from core.kit import LOCK, backend
from pitstop import BackendUnavailable
from pitstop._engine import _claimer
from pitstop._engine._buffer import ClaimBuffer
from pitstop._engine._claimer import Claimer
from pitstop._engine._suspects import Suspects
from pitstop.abc import Retry


DUE = timedelta(0)


@pytest.fixture
def buffer(pit):
    return ClaimBuffer(pit._session.clock.monotonic, LOCK, 10, refill=lambda: None)


@pytest.fixture
def claimer(pit, buffer):
    return Claimer(pit._session, buffer, LOCK)


def fill(pit, *ids):
    pit.store_many([({"id": id}, DUE) for id in ids])


def ids(leases):
    return [each.id for each in leases]


def test_it_needs_no_listener(pit, claimer, buffer):
    fill(pit, "a", "b")
    assert claimer.last_claim is None
    claimed = claimer.claim(1)
    assert (claimed.count, claimed.again) == (2, True)
    assert buffer.pop().id == "a"
    assert claimer.give_back(buffer.take_all()) == 0
    assert claimer.given_back == 1
    assert [entry.state for entry in pit.entries()] == ["due", "leased"]
    assert claimer.answered


def test_a_store_that_is_away_is_reported_to_the_caller(pit, claimer, store):
    store.down = True
    with pytest.raises(BackendUnavailable):
        claimer.claim(1)
    assert not claimer.answered


@pytest.fixture
def odd(monkeypatch):
    """The recurrence of the message "odd" raises an error that no one foresaw."""
    decide = _claimer.decide

    def raising(record, *args, **options):
        if record.id == "odd":
            raise ZeroDivisionError("s3cr3t")
        return decide(record, *args, **options)

    monkeypatch.setattr(_claimer, "decide", raising)


def test_one_recurrence_that_raises_does_not_strand_the_rest_of_the_claim(pit, claimer, buffer, odd, caplog):
    fill(pit, "a", "odd", "z")
    assert claimer.claim(1).count == 2
    assert ids(buffer.take_all()) == ["a", "z"]
    assert "'odd' was not emitted: its recurrence raised ZeroDivisionError" in caplog.text
    assert "s3cr3t" not in caplog.text
    assert pit.get("odd").state == "leased"


@pytest.mark.parametrize("error", [BackendUnavailable("away"), ZeroDivisionError("a bug")], ids=["away", "bug"])
def test_a_failure_to_settle_what_is_not_emitted_does_not_fail_the_claim(clock, monkeypatch, error):
    store = backend(clock=clock, retry={"max_attempts": 1})
    with pitstop.init({"type": store}) as pit:
        fill(pit, "spent")
        with pit.listen() as listener:
            listener.get()
        clock.advance(LOCK)
        fill(pit, "new")
        buffer = ClaimBuffer(clock.monotonic, LOCK, 10, refill=lambda: None)
        claimer = Claimer(pit._session, buffer, LOCK)

        def fail():
            raise error

        store.during["settle"] = fail
        assert claimer.claim(1).count == 1
        store.during.clear()
        assert ids(buffer.take_all()) == ["new"]
        assert pit.get("spent").state == "leased"


def test_messages_in_a_crash_are_kept_apart(pit, clock, buffer):
    suspects = Suspects(clock.monotonic, Retry())
    claimer = Claimer(pit._session, buffer, LOCK, suspects=suspects)
    fill(pit, "a")
    claimer.claim(1)
    buffer.clear()
    clock.advance(LOCK.total_seconds())
    fill(pit, "b")
    assert claimer.claim(2).count == 2
    assert (ids(suspects.waiting), ids(buffer.take_all())) == (["a"], ["b"])
