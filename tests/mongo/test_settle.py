"""Settlements in batches: exact, conditional on their tokens, and harmless when they are repeated."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import pytest

import pitstop
import pitstop_mongo._messages.settler

from mongo.conftest import START
from pitstop._engine._delivery import lease_of
from pitstop._engine._lease import Purpose
from pitstop._engine._listener import intake_of
from pitstop.abc import Outcome, Progress, Settlement


MINUTE = 60_000


@pytest.fixture
def leased(backend, record):
    backend.put([record(f"{n}") for n in range(6)])
    return backend.lease(6, MINUTE)


def test_a_batch_of_deletes_finds_out_what_was_done_by_the_messages_that_are_left(backend, leased, complete):
    """A message that another program removed is gone as well. To tell them apart, each batch would have to read first."""
    backend.delete("1")
    backend.put([_anew(leased[2])])
    assert backend.settle([complete(each) for each in leased]) == [True, True, False, True, True, True]


def test_an_ack_after_the_handler_removed_its_message_is_no_ack_in_a_batch_either(mongo_uri, mongo_dbname):
    """The engine writes it by itself, because a batch of deletes counts it as deleted."""
    with pitstop.init({"type": "mongo", "uri": mongo_uri, "dbname": mongo_dbname}) as pit:
        pit.store_many([({"id": f"{n}"}, timedelta(0)) for n in range(6)])
        with pit.listen() as listener:
            deliveries = [listener.get() for _ in range(6)]
            with suppress(InterruptedError), deliveries[0]:
                lease_of(deliveries[0]).ask(Purpose.ACK, deliveries[0])
                pit.remove(deliveries[0].id)
                raise InterruptedError
            for each in deliveries[1:]:
                lease_of(each).ask(Purpose.ACK, each)
            intake_of(listener)._settler.write([lease_of(each) for each in deliveries])
            counts = intake_of(listener).counts
            assert (counts.acked, counts.superseded, counts.lost) == (5, 1, 0)


def test_a_batch_of_deletes_of_which_none_is_there_tells_so(backend, leased, complete):
    for each in leased:
        backend.delete(each.id)
    assert backend.settle([complete(each) for each in leased]) == [False] * 6


def test_a_repeated_batch_does_nothing(backend, coll, leased, complete, reschedule):
    """As after a lost reply. A message that was completed and stored again meanwhile stays."""
    batch = [*(complete(each) for each in leased[:3]), *(reschedule(each, START + MINUTE) for each in leased[3:])]
    assert all(backend.settle(batch))
    before = list(coll.find().sort("_id", 1))

    assert backend.settle(batch) == [False] * 6
    assert list(coll.find().sort("_id", 1)) == before


def test_a_message_that_another_claims_at_once_counts_as_released(backend, open_backend, clock, leased, monkeypatch):
    """One message of the batch was stored again, so the count is short. Meanwhile another process claims the released ones."""
    backend.put([_anew(leased[0])])
    other, calls = open_backend(clock=clock), []
    original = pitstop_mongo._messages.settler.Settler._updated

    def claim_first(self, run, some, count):
        calls.append(other.lease(10, MINUTE))
        return original(self, run, some, count)

    monkeypatch.setattr(pitstop_mongo._messages.settler.Settler, "_updated", claim_first)
    back = Progress(START, START, 1, START)
    applied = backend.settle([Settlement(each.id, each.progress.token, Outcome.RELEASE, back) for each in leased])

    assert applied == [False] + [True] * 5
    assert len(calls[0]) == 6


def test_the_tokens_of_a_batch_are_not_taken_for_one_another(backend, record, complete):
    """Two claims are acknowledged together. A token counts only for the messages that were claimed by it."""
    backend.put([record(f"{n}") for n in range(6)])
    first, second = backend.lease(3, MINUTE), backend.lease(3, MINUTE)
    wrong = Settlement(first[0].id, second[0].progress.token, Outcome.COMPLETE, None)

    batch = [wrong, *(complete(each) for each in (*first[1:], *second))]
    assert backend.settle(batch) == [False] + [True] * 5
    assert [each.id for each in backend.scan(None, 9, None)] == [first[0].id]


def test_a_batch_of_very_many_claims_is_settled_in_full(backend, record, complete):
    backend.put([record(f"{n:02}") for n in range(80)])
    leased = [each for _ in range(40) for each in backend.lease(2, MINUTE)]
    assert len({each.progress.token for each in leased}) == 40

    assert backend.settle([complete(each) for each in leased]) == [True] * 80


def _anew(leased):
    from pitstop.abc import Record

    return Record(leased.id, {"version": 2}, None, "new", Progress(START, START))


def test_settlements_of_several_claims_are_told_apart(backend, record, complete, reschedule):
    backend.put([record(f"{n}") for n in range(6)])
    leased = [backend.lease(1, MINUTE)[0] for _ in range(6)]
    backend.put([record("1"), record("3")])

    applied = backend.settle(
        [
            complete(leased[0]),
            complete(leased[1]),
            reschedule(leased[2], START + MINUTE),
            reschedule(leased[3], START + MINUTE),
            complete(leased[4]),
            Settlement("5", "another", Outcome.COMPLETE, None),
        ]
    )

    assert applied == [True, False, True, False, True, False]
    assert {each.id for each in backend.scan(None, 9, None)} == {"1", "2", "3", "5"}


def test_an_update_of_many_writes_the_own_values_of_each(backend, record):
    """The batch needs several commands, and its ids and errors look like operators."""
    ids = [f"${n}.x" for n in range(250)]
    backend.put([record(id) for id in ids])
    leased = backend.lease(250, MINUTE)
    progress = {
        each.id: Progress(START + 1 + n, START + n, n, START if n % 2 else None, f"$msg {n}" if n % 3 else None, None)
        for n, each in enumerate(leased)
    }

    applied = backend.settle(
        [Settlement(each.id, each.progress.token, Outcome.RELEASE, progress[each.id]) for each in leased]
    )

    assert applied == [True] * 250
    assert {each.id: each.progress for each in backend.scan(None, 300, None)} == progress
