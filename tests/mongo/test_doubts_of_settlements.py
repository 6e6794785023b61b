"""Writes that were done before a later step of the same call failed: their outcome is unknown, never "not done".

The engine repeats a settlement that was not done, and finds then that the lease is gone. If it did not know that the first
try may have been done, it would call the lease lost.
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from bson.errors import InvalidBSON
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect, OperationFailure, ServerSelectionTimeoutError, WaitQueueTimeoutError

import pitstop

from mongo.conftest import START
from pitstop import BackendUnavailable, OutcomeUnknown
from pitstop._engine._lease import Purpose
from pitstop._engine._listener import intake_of
from pitstop.abc import Outcome, Progress, Settlement


MINUTE = 60_000

#: Errors that say of the command which raises them that it was not done.
PASSING = [
    pytest.param(ServerSelectionTimeoutError("no server"), id="no server"),
    pytest.param(WaitQueueTimeoutError("no connection"), id="no connection"),
    pytest.param(OperationFailure("refused", 8), id="refused"),
]
LASTING = [
    pytest.param(OperationFailure("not allowed", 13), id="not allowed"),
    pytest.param(InvalidBSON("damaged"), id="damaged"),
]
ALWAYS = 1000


@pytest.fixture
def fails(monkeypatch):
    """Lets a method of the driver's collections raise an error so many times, in place of sending anything."""

    def fails(method, error, times):
        original, left = getattr(Collection, method), [error] * times

        def failing(self, *args, **options):
            if left:
                raise left.pop()
            return original(self, *args, **options)

        monkeypatch.setattr(Collection, method, failing)

    return fails


@pytest.fixture
def fails_after(monkeypatch):
    """Lets the reply of the next write get lost: after the write, a function is called and the driver raises."""

    def fails_after(then):
        left = [then]

        def losing(original):
            def lose(self, *args, **options):
                result = original(self, *args, **options)
                if left:
                    left.pop()()
                    raise AutoReconnect("the reply was lost")
                return result

            return lose

        for method in ("delete_one", "delete_many", "update_one", "update_many", "bulk_write"):
            monkeypatch.setattr(Collection, method, losing(getattr(Collection, method)))

    return fails_after


@pytest.fixture
def batch(request, backend, record, complete, reschedule):
    """Settlements of four messages, of which the first one was stored again, so that its lease is over."""
    backend.put([record(f"{n}") for n in range(4)])
    claims = [4] if request.param != "several claims" else [1, 1, 1, 1]
    leased = [each for limit in claims for each in backend.lease(limit, MINUTE)]
    backend.put([record(leased[0].id, START + MINUTE)])
    if request.param == "deletes":
        return [complete(each) for each in leased]
    if request.param == "updates":
        return [reschedule(each, START + MINUTE) for each in leased]
    return [*(complete(each) for each in leased[:2]), *(reschedule(each, START + MINUTE) for each in leased[2:])]


KINDS = pytest.mark.parametrize("batch", ["deletes", "updates", "several claims"], indirect=True)


@KINDS
@pytest.mark.parametrize("error", PASSING)
def test_a_read_that_fails_once_after_a_settlement_is_repeated(backend, batch, fails, error):
    """It is not known any more then whether the first message was stored again before the first try, or after it."""
    fails("find", error, 1)
    assert backend.settle(batch) == [None, True, True, True]


class TestAfterALostReply:
    """The message is changed by another program before the second try."""

    SETTLE = pytest.mark.parametrize("settle", ["complete", "reschedule"])

    @pytest.fixture
    def other(self, open_backend, clock):
        return open_backend(clock=clock)

    @pytest.fixture
    def make(self, request, settle):
        made = request.getfixturevalue(settle)
        return made if settle == "complete" else lambda leased: made(leased, START + 2 * MINUTE)

    @SETTLE
    @pytest.mark.parametrize("count", [1, 3])
    def test_a_message_that_was_stored_anew_leaves_only_its_own_outcome_unknown(
        self, backend, other, record, fails_after, make, count
    ):
        backend.put([record(f"{n}") for n in range(count)])
        leased = backend.lease(count, MINUTE)
        fails_after(lambda: other.put([record("0", START + MINUTE)]))
        answers = dict(zip([each.id for each in leased], backend.settle([make(each) for each in leased]), strict=True))
        assert answers == {f"{n}": True for n in range(count)} | {"0": None}

    def test_the_other_commands_of_a_batch_are_sent_all_the_same(
        self, backend, other, record, complete, reschedule, fails_after
    ):
        """Updates, deletes and single writes go to the server in a command each, in this order."""
        backend.put([record(f"{n}") for n in range(6)])
        leased = [each for limit in (2, 2, 1, 1) for each in backend.lease(limit, MINUTE)]
        first = leased[2].id
        fails_after(lambda: other.put([record(first, START + MINUTE)]))
        settlements = [
            *(complete(each) for each in leased[:2]),
            *(reschedule(each, START + MINUTE) for each in leased[2:5]),
            complete(leased[5]),
        ]
        assert backend.settle(settlements) == [True, True, None, True, True, True]

    def test_a_nack_of_a_message_that_is_gone_is_unknown(self, backend, other, record, reschedule, fails_after):
        """It may have been done, and another consumer acked the message then. Or another user removed the message before it."""
        backend.put([record("a")])
        (leased,) = backend.lease(1, MINUTE)
        fails_after(lambda: other.delete("a"))
        assert backend.settle([reschedule(leased, START + MINUTE)]) == [None]

    @SETTLE
    def test_it_is_not_done_if_the_lease_had_ended(self, backend, clock, record, fails_after, make):
        backend.put([record("a")])
        (leased,) = backend.lease(1, MINUTE)
        clock.advance(61)
        fails_after(lambda: None)
        assert backend.settle([make(leased)]) == [False]

    def test_the_error_of_the_user_names_no_lost_lease(self, mongo_uri, mongo_dbname, fails_after):
        config = {"type": "mongo", "uri": mongo_uri, "dbname": mongo_dbname}
        with pitstop.init(config) as pit, pitstop.init(config) as other:
            pit.store_many([({"id": id}, timedelta(0)) for id in "abc"])
            with pit.listen(prefetch=3) as listener:
                deliveries = {each.id: each for each in (listener.get(5) for _ in range(3))}
                fails_after(lambda: other.store({"id": "a"}, timedelta(days=1)))
                with pytest.raises(OutcomeUnknown) as caught:
                    deliveries["a"].ack(wait=True)
                for id in "bc":
                    deliveries[id].ack()
            assert caught.value.ids == ("a",)
            assert [each.id for each in pit.entries()] == ["a"]

    def test_acks_are_written_when_the_listener_closes(self, mongo_uri, mongo_dbname, fails_after, caplog):
        config = {"type": "mongo", "uri": mongo_uri, "dbname": mongo_dbname}
        with pitstop.init(config) as pit, pitstop.init(config) as other:
            pit.store_many([({"id": f"{n}"}, timedelta(0)) for n in range(5)])
            listener = pit.listen(prefetch=5)
            deliveries = [listener.get(5) for _ in range(5)]
            writer = intake_of(listener).writer
            for each in deliveries:
                each._lease.ask(Purpose.ACK, each)
                writer.take_along(each._lease)
            fails_after(lambda: other.store({"id": "0"}, timedelta(days=1)))
            listener.close()
            assert [(each.id, each.state) for each in pit.entries()] == [("0", "scheduled")]
            assert (writer.counts.acked, writer.counts.lost) == (4, 0)
        assert not caplog.records


@KINDS
@pytest.mark.parametrize("error", [*PASSING, *LASTING])
def test_a_read_that_fails_after_a_settlement_leaves_its_outcome_unknown(backend, batch, fails, error):
    fails("find", error, ALWAYS)
    with pytest.raises(OutcomeUnknown, match="Whether it was done is not known") as caught:
        backend.settle(batch)
    assert set(caught.value.ids) == {each.id for each in batch}
    assert caught.value.permanent == (error.__class__ is InvalidBSON or getattr(error, "code", None) == 13)


def test_a_refusal_of_a_repeated_settlement_does_not_hide_the_first_try(backend, record, complete, fails):
    backend.put([record("a")])
    (leased,) = backend.lease(1, MINUTE)
    fails("delete_one", OperationFailure("refused", 8), ALWAYS)
    fails("delete_one", AutoReconnect("the reply was lost"), 1)
    with pytest.raises(OutcomeUnknown, match="did not answer: AutoReconnect"):
        backend.settle([complete(leased)])


def test_a_settlement_that_was_refused_at_once_is_known_not_to_be_done(backend, record, complete, fails):
    backend.put([record("a")])
    (leased,) = backend.lease(1, MINUTE)
    fails("delete_one", OperationFailure("refused", 8), ALWAYS)
    with pytest.raises(BackendUnavailable) as caught:
        backend.settle([complete(leased)])
    assert not isinstance(caught.value, OutcomeUnknown)


def test_a_batch_of_updates_that_is_refused_halfway_may_be_done_in_part(backend, coll, record):
    """By a unique index of another program, which PyMongo reports as a permanent error."""
    backend.put([record(id) for id in "abc"])
    leased = backend.lease(3, MINUTE)
    coll.create_index("last_error", unique=True, sparse=True)
    back = Progress(START, START, 1, START, "no luck")
    with pytest.raises(OutcomeUnknown, match="index") as caught:
        backend.settle([Settlement(each.id, each.progress.token, Outcome.RELEASE, back) for each in leased])
    assert caught.value.permanent
    assert coll.count_documents({"last_error": "no luck"}) == 1


def test_updates_that_were_done_before_the_deletes_are_refused_are_unknown(failing, record, complete, reschedule):
    backend = failing.backend
    backend.put([record(id) for id in "ab"])
    first, second = (backend.lease(1, MINUTE)[0] for _ in range(2))
    with failing("delete", errorCode=13), pytest.raises(OutcomeUnknown, match="does not allow this user") as caught:
        backend.settle([complete(first), reschedule(second, START + MINUTE)])
    assert caught.value.permanent
    assert backend.get(second.id).progress.due == START + MINUTE


@pytest.mark.parametrize("error", [WaitQueueTimeoutError("no connection"), OperationFailure("no login", 18)])
@pytest.mark.parametrize("uri", ["mongo_uri", "replica_set_uri"])
def test_an_error_before_sending_hides_no_first_try_of_the_driver(
    request, open_backend, clock, record, complete, fails, error, uri
):
    """On a replica set the driver may have sent the command once before it found no connection."""
    backend = open_backend(uri=request.getfixturevalue(uri), clock=clock)
    backend.put([record("a")])
    (leased,) = backend.lease(1, MINUTE)
    fails("delete_one", error, ALWAYS)
    with pytest.raises(BackendUnavailable) as caught:
        backend.settle([complete(leased)])
    assert isinstance(caught.value, OutcomeUnknown) == (uri == "replica_set_uri")


def test_a_store_of_many_whose_second_command_fails_may_be_done_in_part(backend, record, fails):
    backend.put([record("old", START + MINUTE)])
    for method in ("bulk_write", "replace_one"):
        fails(method, ServerSelectionTimeoutError("no server"), ALWAYS)
    with pytest.raises(OutcomeUnknown, match="Store again under the same ids") as caught:
        backend.put([record(id, START + MINUTE) for id in ("new", "old")])
    assert set(caught.value.ids) == {"new", "old"}
    assert backend.get("new") is not None


def test_a_store_of_many_that_has_inserted_nothing_yet_is_known_not_to_be_done(backend, record, fails):
    backend.put([record(id, START + MINUTE) for id in "ab"])
    fails("bulk_write", ServerSelectionTimeoutError("no server"), ALWAYS)
    with pytest.raises(BackendUnavailable) as caught:
        backend.put([record(id, START + 2 * MINUTE) for id in "ab"])
    assert not isinstance(caught.value, OutcomeUnknown)
