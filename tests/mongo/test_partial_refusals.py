"""A server that refuses a part of a batch of settlements: no settlement that was done is reported as not done."""

from __future__ import annotations

import pytest

from pymongo.collection import Collection
from pymongo.errors import AutoReconnect, OperationFailure

from mongo.conftest import START
from pitstop import OutcomeUnknown


MINUTE = 60_000
REFUSED = OperationFailure("the server refuses", 8)


@pytest.fixture
def other(open_backend, clock):
    return open_backend(clock=clock)


@pytest.fixture
def leased(backend, record):
    """Leases so many messages: "00", "01" and so on, by one claim."""

    def leased(count):
        backend.put([record(f"{number:02}") for number in range(count)])
        return sorted(backend.lease(count, MINUTE), key=lambda each: each.id)

    return leased


@pytest.fixture
def instead(monkeypatch):
    """Replaces a method of the driver's collections. The new function gets the original one first."""

    def instead(method, new):
        original = getattr(Collection, method)
        monkeypatch.setattr(Collection, method, lambda self, *args, **options: new(original, self, *args, **options))

    return instead


@pytest.fixture
def refuses(instead):
    """Lets the server refuse writes of one message, except of these."""

    def refuses(*accepted):
        def refusing(original, self, filter, *args, **options):
            if filter["_id"]["$eq"] not in accepted:
                raise REFUSED
            return original(self, filter, *args, **options)

        for method in ("delete_one", "update_one"):
            instead(method, refusing)

    return refuses


@pytest.fixture
def stops_halfway(instead):
    """Lets the server delete some messages of a batch, and refuse the others."""

    def stops_halfway(ids):
        def stopping(original, self, filter, *args, **options):
            original(self, {**filter, "_id": {"$in": ids}}, *args, **options)
            raise REFUSED

        instead("delete_many", stopping)

    return stops_halfway


@pytest.mark.parametrize("stale", [False, True])
def test_settlements_that_were_not_tried_again_one_by_one_are_unknown(
    backend, other, record, complete, leased, refuses, stops_halfway, stale
):
    """After ten refusals the others are not tried."""
    records = leased(20)
    if stale:
        other.put([record("00", START + MINUTE)])
    stops_halfway([each.id for each in records[15:]])
    refuses(*["00"] if stale else [])
    with pytest.raises(OutcomeUnknown) as caught:
        backend.settle([complete(each) for each in records])
    assert {each.id for each in records[15:]} <= set(caught.value.ids)


def test_a_settlement_that_was_done_before_the_server_refused_it_is_done(
    backend, complete, leased, refuses, stops_halfway
):
    records = leased(3)
    stops_halfway(["02"])
    refuses("00", "01")
    assert backend.settle([complete(each) for each in records]) == [True, True, True]


def test_a_settlement_whose_reply_was_lost_is_done_although_the_server_refuses_it_the_second_time(
    backend, complete, leased, refuses, instead
):
    records, left = leased(3), [AutoReconnect("the reply was lost")]

    def losing(original, self, *args, **options):
        if not left:
            raise REFUSED
        original(self, *args, **options)
        raise left.pop()

    instead("delete_many", losing)
    refuses("00", "01")
    assert backend.settle([complete(each) for each in records]) == [True, True, True]


def test_a_command_that_is_refused_beside_one_of_unknown_outcome_is_not_reported_as_not_applied(
    backend, other, record, complete, reschedule, leased, refuses, instead
):
    records, left = leased(4), [AutoReconnect("the reply was lost")]

    def losing(original, self, *args, **options):
        result = original(self, *args, **options)
        if left:
            other.put([record(each.id, START + MINUTE) for each in records[:2]])
            raise left.pop()
        return result

    def refusing(original, self, *args, **options):
        raise REFUSED

    instead("delete_many", losing)
    instead("update_many", refusing)
    refuses()
    batch = [*(complete(each) for each in records[:2]), *(reschedule(each, START + MINUTE) for each in records[2:])]
    with pytest.raises(OutcomeUnknown) as caught:
        backend.settle(batch)
    assert set(caught.value.ids) == {each.id for each in records}


@pytest.mark.parametrize("method", ["delete_many", "update_many"])
def test_a_message_that_is_stored_anew_just_after_its_settlement_is_not_reported_as_lost(
    backend, other, record, complete, reschedule, leased, instead, method
):
    """No reply is lost. A read finds out which settlements of the batch were done, and comes after the other program's write."""
    records = leased(3)
    other.put([record("02", START + MINUTE)])

    def storing(original, self, *args, **options):
        result = original(self, *args, **options)
        other.put([record("00", START + MINUTE)])
        return result

    instead(method, storing)
    make = complete if method == "delete_many" else lambda each: reschedule(each, START + MINUTE)
    answers = backend.settle([make(each) for each in records])
    assert (answers[0], answers[1]) == (None, True)
    assert not answers[2]
