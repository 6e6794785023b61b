"""Writes whose outcome is unknown: they are neither lost nor done twice, and if it stays unknown, the caller is told.

``applied``: the server does the write, and answers that it is not confirmed. ``lost``: the connection closes before the write.
"""

from __future__ import annotations

import attrs
import pymongo
import pytest

from pymongo.collection import Collection
from pymongo.errors import WaitQueueTimeoutError

import pitstop
import pitstop_mongo._messages.storer

from mongo.commands import Commands
from mongo.conftest import START
from pitstop import BackendUnavailable, OutcomeUnknown
from pitstop.abc import Outcome, Progress, Settlement
from pitstop_mongo import MongoBackend


MINUTE = 60_000

APPLIED = {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}}
LOST = {"closeConnection": True}
DOUBTS = pytest.mark.parametrize("how", [APPLIED, LOST], ids=["applied", "lost"])
ONCE = {"times": 1}
WRITES = {"insert", "update", "delete", "findAndModify"}


@pytest.mark.parametrize("limit", [1, 5])
@DOUBTS
def test_a_claim_in_doubt_is_found_again_in_the_same_call(failing, record, how, limit):
    backend = failing.backend
    backend.put([record(id) for id in "abc"])
    with failing("update", "findAndModify", mode=ONCE, **how) as backend:
        leased = backend.lease(limit, MINUTE)

    assert len(leased) == min(limit, 3)
    assert [each.progress.attempts for each in leased] == [1] * len(leased)
    assert all(backend.get(each.id).progress == each.progress for each in leased)
    assert backend.counters["claim_unknown"] == 1
    assert backend.counters["claim_recovered"] == (len(leased) if how is APPLIED else 0)


@pytest.mark.parametrize("limit", [1, 5])
def test_a_claim_that_stays_in_doubt_is_taken_up_when_the_server_answers(failing, record, clock, limit):
    backend = failing.backend
    backend.put([record(id) for id in "abc"[:limit]])
    with failing("update", "findAndModify", **APPLIED), pytest.raises(BackendUnavailable, match="did not confirm"):
        backend.lease(limit, MINUTE)
    clock.advance(20)

    leased = backend.lease(limit, MINUTE)

    assert [each.id for each in leased] == list("abc"[:limit])
    for each in leased:
        assert each.progress.attempts == 1
        assert each.progress.first_leased == START
        assert each.progress.due == START + 20_000 + MINUTE
        assert backend.get(each.id).progress == each.progress
    assert backend.lease(limit, MINUTE) == []


def test_a_claim_in_doubt_is_taken_up_in_portions(failing, record):
    backend = failing.backend
    backend.put([record(id) for id in "abcde"])
    with failing("update", **APPLIED), pytest.raises(BackendUnavailable):
        backend.lease(5, MINUTE)

    portions = [sorted(each.id for each in backend.lease(2, MINUTE)) for _ in range(4)]
    assert sorted(map(len, portions)) == [0, 1, 2, 2]
    assert sorted(id for portion in portions for id in portion) == list("abcde")


def test_a_claim_whose_lease_is_over_is_not_found_again(failing, record, clock, open_backend):
    backend = failing.backend
    backend.put([record(id) for id in "ab"])
    with failing("update", **APPLIED), pytest.raises(BackendUnavailable):
        backend.lease(2, MINUTE)
    clock.advance(60)
    other = open_backend(clock=clock)
    (theirs,) = other.lease(1, MINUTE)

    (ours,) = backend.lease(2, MINUTE)

    assert {ours.id, theirs.id} == {"a", "b"}
    assert (ours.progress.attempts, theirs.progress.attempts) == (2, 2)
    assert backend.counters["claim_recovered"] == 0


def test_a_claim_in_doubt_is_taken_up_by_one_of_many(failing, record):
    """Only one backend knows the token that was written. Another backend does not lease these messages."""
    backend = failing.backend
    backend.put([record(id) for id in "ab"])
    with failing("update", **APPLIED), pytest.raises(BackendUnavailable):
        backend.lease(2, MINUTE)
    backend.put([record("a", message={"version": 2})])

    leased = {each.id: each for _ in range(3) for each in backend.lease(5, MINUTE)}
    assert leased.keys() == {"a", "b"}
    assert leased["a"].message == {"version": 2}
    assert leased["a"].progress.attempts == 1


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("what", ["complete", "reschedule", "mixed"])
@DOUBTS
def test_a_settlement_in_doubt_is_done_once_and_its_outcome_is_right(
    failing, record, complete, reschedule, clock, how, what, count
):
    backend = failing.backend
    backend.put([record(id) for id in "abcd"])
    claims = [1] * count if what == "mixed" else [count]
    leased = [each for limit in claims for each in backend.lease(limit, MINUTE)]
    not_ours = Settlement("d", "another token", Outcome.COMPLETE, None)
    batch = [
        complete(each) if what == "complete" or (what == "mixed" and index % 2) else reschedule(each, START + MINUTE)
        for index, each in enumerate(leased)
    ]

    with failing("update", "delete", mode=ONCE, **how):
        applied = backend.settle([*batch, not_ours])

    assert applied[:-1] == [True] * count
    # It is None if it was in the command that was repeated.
    assert not applied[-1]
    for each in batch:
        stored = backend.get(each.id)
        assert (stored is None) == (each.progress is None)
        if stored is not None:
            assert stored.progress == each.progress
    assert backend.counters["outcome_unknown"] == 1


def test_a_settlement_in_doubt_does_not_change_a_version_that_was_stored_since(failing, record, complete):
    backend = failing.backend
    backend.put([record(id) for id in "abc"])
    leased = backend.lease(3, MINUTE)
    backend.put([record("b", message={"version": 2})])

    with failing("delete", mode=ONCE, **APPLIED):
        # The message "b" may also have been stored after the first try, which had deleted it then.
        assert backend.settle([complete(each) for each in leased]) == [True, None, True]

    assert backend.get("b").message == {"version": 2}


def test_an_extension_in_doubt_is_refused_if_the_message_was_stored_since(failing, record):
    backend = failing.backend
    backend.put([record(id) for id in "ab"])
    leased = backend.lease(2, MINUTE)
    backend.put([record("b")])
    longer = [
        Settlement(each.id, each.progress.token, Outcome.EXTEND, attrs.evolve(each.progress, due=START + 2 * MINUTE))
        for each in leased
    ]
    with failing("update", mode=ONCE, **APPLIED):
        assert backend.settle(longer) == [True, False]


def test_a_settlement_that_stays_in_doubt_says_so(failing, record, complete):
    backend = failing.backend
    backend.put([record(id) for id in "ab"])
    leased = backend.lease(2, MINUTE)

    with (
        failing("delete", **LOST),
        pytest.raises(OutcomeUnknown, match=r"not known.*comes back when its lease") as caught,
    ):
        backend.settle([complete(each) for each in leased])

    assert sorted(caught.value.ids) == ["a", "b"]
    assert backend.settle([complete(each) for each in leased]) == [True, True]


@pytest.mark.parametrize("ids", ["a", "abc"])
@pytest.mark.parametrize("update", [False, True])
def test_a_store_in_doubt_that_was_done_is_not_done_again(failing, record, ids, update):
    backend = failing.backend
    if update:
        backend.put([record(id, message={"version": 1}) for id in ids])
    # If all ids exist, the insert has written nothing, and its outcome is known. The replacements after it are in doubt.
    mode = {"times": 2} if update and len(ids) > 1 else ONCE
    with failing("insert", "update", mode=mode, **APPLIED):
        backend.put([record(id, message={"version": 2}) for id in ids])

    assert [each.message for each in backend.scan(None, 9, None)] == [{"version": 2}] * len(ids)
    assert backend.counters["store_recovered"] == len(ids)


@pytest.mark.parametrize("ids", ["a", "abc"])
@pytest.mark.parametrize("update", [False, True])
def test_a_store_in_doubt_of_a_later_message_is_tried_again(failing, record, ids, update):
    backend = failing.backend
    if update:
        backend.put([record(id, START + MINUTE, message={"version": 1}) for id in ids])
    with failing("insert", "update", mode=ONCE, **LOST):
        backend.put([record(id, START + MINUTE, message={"version": 2}) for id in ids])

    assert [each.message for each in backend.scan(None, 9, None)] == [{"version": 2}] * len(ids)


@pytest.mark.parametrize("ids", ["a", "abc"])
def test_a_store_in_doubt_of_a_due_message_raises_outcome_unknown(failing, record, ids):
    """By now it may have been emitted and acknowledged. If it were stored again, it could be emitted twice."""
    with (
        failing("insert", "update", mode=ONCE, **LOST) as backend,
        pytest.raises(
            OutcomeUnknown, match=r"Whether it was done is not known.*Store again under the same ids"
        ) as caught,
    ):
        backend.put([record(id) for id in ids])

    assert caught.value.ids == tuple(ids)
    assert not caught.value.permanent
    backend.put([record(id) for id in ids])
    assert len(backend.scan(None, 9, None)) == len(ids)


def test_a_store_that_stays_in_doubt_says_so(failing, record):
    with failing("update", **LOST) as backend, pytest.raises(OutcomeUnknown, match=r"did not answer.*not known"):
        backend.put([record("a", START + MINUTE)])


@pytest.mark.parametrize("uri", ["mongo_uri", "replica_set_uri"])
def test_a_claim_may_have_been_sent_before_the_driver_found_no_connection(
    request, monkeypatch, open_backend, clock, record, uri
):
    """On a replica set the driver repeats a claim of one message by itself."""
    backend = open_backend(uri=request.getfixturevalue(uri), clock=clock)
    backend.put([record("a")])
    claim = Collection.find_one_and_update

    def claim_and_fail(self, *args, **options):
        claim(self, *args, **options)
        raise WaitQueueTimeoutError("no connection")

    with monkeypatch.context() as patch:
        patch.setattr(Collection, "find_one_and_update", claim_and_fail)
        if uri == "mongo_uri":
            # There it is not sent, so the lease of this test stays unknown.
            with pytest.raises(BackendUnavailable):
                backend.lease(1, MINUTE)
            assert backend.counters["claim_unknown"] == 0
            return
        leased = backend.lease(1, MINUTE)
    assert [each.id for each in leased] == ["a"]
    assert backend.get("a").progress == leased[0].progress


@DOUBTS
def test_a_conditional_store_in_doubt_is_done_once_and_its_outcome_is_right(failing, record, how):
    backend = failing.backend
    with failing("insert", mode=ONCE, **how):
        assert backend.put_if(record("a", revision="1", due=START + MINUTE), None) is True
    with failing("insert", mode=ONCE, **LOST):
        assert backend.put_if(record("a", revision="2", due=START + MINUTE), None) is False
    with failing("update", mode=ONCE, **how):
        assert backend.put_if(record("a", revision="3", due=START + MINUTE), "1") is True
    with failing("update", mode=ONCE, **LOST):
        assert backend.put_if(record("a", revision="4", due=START + MINUTE), "1") is False

    assert backend.get("a").revision == "3"
    assert backend.counters["store_recovered"] == (2 if how is APPLIED else 0)


def test_a_conditional_store_in_doubt_that_is_due_and_not_there_is_unknown(failing, record):
    """The message may have been emitted and acknowledged meanwhile."""
    with failing("insert", mode=ONCE, **LOST) as backend, pytest.raises(OutcomeUnknown, match="get") as caught:
        backend.put_if(record("a"), None)
    assert caught.value.ids == ("a",)
    assert backend.get("a") is None


def test_a_late_conditional_store_is_found_after_its_repetition_was_refused(failing, open_backend, record, monkeypatch):
    """The server does the command of the first run after the second run has looked for its record."""
    backend, server = failing.backend, open_backend()
    stored = record("a", revision="1", due=START + MINUTE)
    left = backend._storer._left

    def late(link, batch):
        found = left(link, batch)
        server.put([stored])
        return found

    monkeypatch.setattr(backend._storer, "_left", late)
    with failing("insert", mode=ONCE, **LOST):
        assert backend.put_if(stored, None) is True


def test_a_command_that_was_never_sent_is_not_in_doubt(record):
    backend = MongoBackend.from_options({"host": "127.0.0.1", "port": 1, "operation_timeout": "200ms"})
    for write in (lambda: backend.put([record("a")]), lambda: backend.delete("a"), lambda: backend.lease(1, MINUTE)):
        with pytest.raises(BackendUnavailable) as caught:
            write()
        assert not isinstance(caught.value, OutcomeUnknown)
    assert backend.counters["claim_unknown"] == 0
    backend.close()


def test_a_removal_in_doubt_is_done_and_its_outcome_is_told_if_known(failing, record):
    with failing("delete", mode=ONCE, **LOST) as backend:
        backend.put([record("a"), record("b")])
        assert backend.delete("a") is True
    with (
        failing("delete", mode=ONCE, **APPLIED),
        pytest.raises(OutcomeUnknown, match=r"message is gone\. Whether") as caught,
    ):
        backend.delete("b")
    assert caught.value.ids == ("b",)
    assert backend.scan(None, 9, None) == []


def test_a_store_in_doubt_when_the_backend_is_closed_is_unknown(failing, record, monkeypatch):
    """The error is not about the close, because the command that was sent before may have been done."""
    backend = failing.backend

    def closed_meanwhile(link, batch):
        backend.close()
        return backend.get("a")

    monkeypatch.setattr(backend._storer, "_left", closed_meanwhile)
    with failing("update", mode=ONCE, **APPLIED), pytest.raises(OutcomeUnknown, match="not known") as caught:
        backend.put([record("a")])
    assert caught.value.ids == ("a",)


def test_a_batch_that_is_refused_in_part_tells_of_the_rest(failing, record, monkeypatch):
    monkeypatch.setattr(pitstop_mongo._messages.storer, "_MOST_DOCUMENTS", 2)
    with (
        failing("insert", mode={"skip": 1}, errorCode=13) as backend,
        pytest.raises(OutcomeUnknown, match="does not allow this user") as caught,
    ):
        backend.put([record(id) for id in "abcd"])
    assert caught.value.ids == ("c", "d")
    assert caught.value.permanent
    assert [each.id for each in backend.scan(None, 9, None)] == ["a", "b"]


def test_a_removal_names_the_version_so_that_a_late_one_spares_the_next(mongo_uri, mongo_dbname, clock, record):
    seen = Commands()
    with pymongo.MongoClient(mongo_uri, event_listeners=[seen]) as client:
        backend = MongoBackend.from_options({"client": client, "dbname": mongo_dbname, "clock": clock})
        stored = record("a")
        backend.put([stored])
        assert backend.delete("a") is True
        assert backend.delete("a") is False
    (delete,) = [command["deletes"][0] for name, command in seen.commands if name == "delete"]
    assert delete["q"] == {"_id": {"$eq": "a"}, "revision": stored.revision}


def test_an_id_that_pitstop_made_is_in_the_error(failing):
    with failing("update", mode=ONCE, **LOST) as backend:
        pit = pitstop.init({"type": backend})
        with pytest.raises(OutcomeUnknown) as caught:
            pit.store({"text": "hi"}, pit.now())
    (id,) = caught.value.ids
    assert len(id) == 36
    assert pit.store({"id": id, "text": "hi"}, pit.now()) == id


def test_acks_wait_for_no_majority_if_so_configured(mongo_uri, mongo_dbname, clock, record, complete):
    seen = Commands()
    with pymongo.MongoClient(mongo_uri, event_listeners=[seen]) as client:
        where = {"client": client, "dbname": mongo_dbname, "clock": clock, "ack_write_concern": "1"}
        backend = MongoBackend.from_options(where)
        backend.put([record(id) for id in "abcd"])
        leased = backend.lease(4, MINUTE)
        extended = Progress(START + 2 * MINUTE, START, 1, START)
        extension = Settlement(leased[3].id, leased[3].progress.token, Outcome.EXTEND, extended)
        assert _concerns(seen) == {("insert", "majority"), ("update", "majority")}
        seen.clear()

        assert backend.settle([complete(leased[0])]) == [True]
        assert backend.settle([complete(each) for each in leased[1:3]]) == [True, True]
        assert backend.settle([extension]) == [True]

    # An extension is no ack. If it were undone, another listener would get the message during this lease.
    assert _concerns(seen) == {("delete", 1), ("update", "majority")}


def _concerns(seen):
    """Return the write concern of each write to the messages."""
    return {(name, command["writeConcern"]["w"]) for name, command in seen.commands if name in WRITES}
