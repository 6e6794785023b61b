"""Documents: their form in the collection, how they are read back, and how damaged ones are treated."""

from __future__ import annotations

import uuid

from datetime import UTC, datetime

import bson
import pytest

from bson import Binary, DatetimeMS, Decimal128, Int64, ObjectId, Regex, Timestamp
from bson.raw_bson import RawBSONDocument

from mongo.conftest import START
from pitstop import MessageError
from pitstop.abc import Aside, Damaged, Outcome, Progress, Record, Settlement, from_instant


T0 = from_instant(START)
MINUTE = 60_000


def test_the_layout_of_a_document(backend, coll, record, reschedule):
    """People query the collection, so this form of the documents is documented."""
    stored = record("a", message={"to": "x"}, series={"v": 1})
    backend.put([stored])

    (document,) = coll.find()
    etag = document.pop("etag")
    assert isinstance(etag, str)
    assert document == {
        "_id": "a",
        "msg": {"to": "x"},
        "series": {"v": 1},
        "revision": stored.revision,
        "due": T0,
        "scheduled_for": T0,
        "attempts": 0,
    }

    (leased,) = backend.lease(1, MINUTE)
    (document,) = coll.find()
    until = from_instant(START + MINUTE)
    assert document["token"] == leased.progress.token
    assert (document["due"], document["first_leased"], document["attempts"]) == (until, T0, 1)

    backend.settle([reschedule(leased, START + 5)])
    (document,) = coll.find()
    assert document.keys() == {"_id", "msg", "series", "revision", "due", "scheduled_for", "attempts", "etag"}
    assert document["etag"] != etag


def test_a_claim_of_several_says_so_in_the_documents(backend, coll, record, reschedule):
    backend.put([record("a"), record("b")])

    leased = backend.lease(10, MINUTE)

    assert [(each["attempts"], each["unsettled"], each["ahead"]) for each in coll.find()] == [(1, 1, 1)] * 2
    backend.settle([reschedule(each, START + 5) for each in leased])
    assert [each.keys() & {"unsettled", "ahead", "excused"} for each in coll.find()] == [set(), set()]


@pytest.mark.parametrize("limit", [1, 10], ids=["one by one", "in a batch"])
def test_a_document_of_an_older_release_counts_from_zero(backend, coll, record, limit):
    """That release left claims that ended without a settlement, and wrote no counts."""
    backend.put([record("a", attempts=3, token="old", first_leased=START - 5)])
    assert coll.find_one().keys().isdisjoint({"unsettled", "ahead", "excused"})

    (leased,) = backend.lease(limit, MINUTE)

    progress = leased.progress
    assert (progress.attempts, progress.unsettled, progress.ahead, progress.excused) == (4, 1, int(limit > 1), 0)
    assert backend.get("a") == leased


def test_there_is_one_index_beside_the_ids(backend, coll, record):
    backend.put([record("a")])
    assert {
        tuple(each["key"].items())
        for each in coll.index_information().values()
        for each in [dict(each, key=dict(each["key"]))]
    } == {
        (("_id", 1),),
        (("due", 1),),
    }


def test_a_dead_document_has_no_due(backend, coll, record):
    backend.put([record("a")])
    (leased,) = backend.lease(1, MINUTE)
    progress = Progress(None, START, 1, START, "broken", leased.progress.token)
    assert backend.settle([Settlement("a", leased.progress.token, Outcome.BURY, progress)]) == [True]

    document = coll.find_one()
    assert "due" not in document
    assert (document["last_error"], document["token"]) == ("broken", leased.progress.token)


@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize(
    "message",
    [
        {"$ref": "c", "$id": 1},
        {"$ref": "c", "$id": 1, "$db": None},
        {"a": [{"$id": 1, "$ref": "c", "$db": "d", "x": {"$ref": "c", "$id": None}}]},
        {"$set": {"x": 1}, "a.b": 1, "": {"": 2}, "$x": "$due"},
        {"big": 2**63 - 1, "small": -(2**63), "one": 1, "flag": True, "float": 1.0},
        {"bytes": b"\0\xff", "text": "\0 ü", "none": None, "list": [[], {}, [2**40]]},
        {"first": datetime(1, 1, 1, tzinfo=UTC), "last": datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)},
    ],
)
def test_a_message_comes_back_as_it_was(backend, record, message, limit):
    expected = record("a", message=message)
    backend.put([expected, record("b", START + 1)])

    (leased,) = backend.lease(limit, MINUTE)
    for found in (leased, backend.get("a"), backend.scan("leased", 9, None)[0]):
        assert isinstance(found, Record)
        assert found.message == message
        assert _types(found.message) == _types(message)
        assert list(found.message) == list(message)


def _types(value):
    if isinstance(value, dict):
        return {key: _types(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_types(item) for item in value]
    return type(value)


def test_a_message_that_looks_like_code_is_data_in_a_batch_too(backend, coll, record):
    """The update of many messages is a pipeline, in which "$due" would be a field and "$$NOW" the time."""
    backend.put([record(id) for id in ("$_id", "$$NOW", "a.b", "{}")])
    leased = backend.lease(9, MINUTE)
    error = "$due $$ROOT {'$literal': 1}"
    applied = backend.settle(
        [
            Settlement(
                each.id, each.progress.token, Outcome.RELEASE, Progress(START, START, 1, START, f"${each.id}{error}")
            )
            for each in leased
        ]
    )

    assert applied == [True] * 4
    assert {each["_id"]: each["last_error"] for each in coll.find()} == {
        each.id: f"${each.id}{error}" for each in leased
    }
    assert all("_settled" not in each for each in coll.find())


@pytest.mark.parametrize("id", ["$gt", '{"$gt": ""}', "a.b", "ü", "/.*/", " ", "x" * 512])
def test_an_id_is_never_an_operator(backend, record, id):
    backend.put([record("other"), record(id)])

    assert backend.get(id).id == id
    assert backend.delete(id)
    assert not backend.delete(id)
    assert backend.get("other") is not None


def test_a_document_that_is_too_large_is_refused_before_anything_is_stored(backend, coll, record):
    # Core refuses it, by the same count. This is for callers that only follow the contract.
    large = record("large", message={"list": [None] * 2_500_000})

    for batch in ([large], [record("small"), large]):
        with pytest.raises(MessageError, match=r"16 MiB. Store the data elsewhere"):
            backend.put(batch)
    assert coll.count_documents({}) == 0


DAMAGE = {
    "msg": [
        "text",
        None,
        ObjectId("5" * 24),
        {"a": [ObjectId("5" * 24)]},
        {"a": Regex("x")},
        {"a": Decimal128("1")},
        {"a": Timestamp(1, 1)},
        {"a": Binary(b"x", 5)},
        {"a": Binary.from_uuid(uuid.UUID(int=1))},
        {"a": DatetimeMS(2**60)},
    ],
    "attempts": ["x", None, 1.5, -1, Int64(2**63 - 1), [1]],
    "unsettled": ["x", None, 1.5, Int64(2**63 - 1), [1]],
    "ahead": ["x", None, 1.5, -1, [1]],
    "excused": ["x", 1.5, -1, [1]],
    "revision": [5, None],
    "scheduled_for": ["x", 5, None, DatetimeMS(2**60)],
    "first_leased": ["x", 5, DatetimeMS(2**60)],
    "last_error": [5],
    "token": [5, {"$gt": ""}],
    "series": ["x", {"a": ObjectId("5" * 24)}],
    "etag": [5, Regex(".*"), {"$gt": ""}],
}


@pytest.mark.parametrize("limit", [1, 10], ids=["one by one", "in a batch"])
@pytest.mark.parametrize(
    ("field", "value"),
    [pytest.param(field, value, id=f"{field}={value!r:.30}") for field in DAMAGE for value in DAMAGE[field]],
)
def test_a_damaged_document_does_not_stop_the_others(backend, coll, record, clock, field, value, limit):
    backend.put([record("a"), record("bad"), record("c")])
    coll.update_one({"_id": "bad"}, {"$set": {field: value}})

    leased = []
    while claim := backend.lease(limit, MINUTE):
        leased += claim

    assert sorted(each.id for each in leased) == ["a", "bad", "c"]
    (bad,) = [each for each in leased if each.id == "bad"]
    # A claim writes these two fields, and so it repairs the document.
    mended = isinstance(bad, Record) and field in ("etag", "token", "first_leased")
    if not mended:
        assert isinstance(bad, Damaged)
        assert bad.error.startswith("Damaged: ")
        assert (bad.due, bad.token is not None) == (START + MINUTE, True)
        token = bad.token
        # Core writes this.
        buried = Settlement("bad", token, Outcome.BURY, Aside(bad.error))
        assert backend.settle([buried]) == [True]
        assert [each.id for each in backend.scan("dead", 5, None)] == ["bad"]
    clock.advance(61)
    assert [each.id for each in backend.lease(10, MINUTE)] == (["a", "bad", "c"] if mended else ["a", "c"])


@pytest.mark.parametrize("limit", [1, 10], ids=["one by one", "in a batch"])
def test_a_document_with_broken_text_does_not_stop_the_others(backend, coll, record, limit):
    backend.put([record("a"), record("bad"), record("c")])
    bad = coll.find_one({"_id": "bad"})
    bad["msg"] = {"text": "@@@"}
    coll.delete_one({"_id": "bad"})
    coll.insert_one(RawBSONDocument(bson.encode(bad).replace(b"@@@", b"\xff\xfe\xfd")))

    leased = []
    while claim := backend.lease(limit, MINUTE):
        leased += claim

    assert {each.id: type(each) for each in leased} == {"a": Record, "bad": Damaged, "c": Record}
    assert isinstance(backend.get("bad"), Damaged)
    assert len(backend.scan(None, 10, None)) == 3


@pytest.mark.parametrize("due", ["2020-01-01", 5, None, DatetimeMS(-5), DatetimeMS(2**60), True])
def test_a_due_that_is_no_time_counts_as_none(backend, coll, record, due):
    backend.put([record("bad"), record("good", START + 1)])
    coll.update_one({"_id": "bad"}, {"$set": {"due": due, "token": "t"}})

    assert backend.lease(1, MINUTE) == []
    assert backend.lease(5, MINUTE) == []
    assert backend.next_due() == START + 1
    tally = backend.tally()
    assert (tally.scheduled, tally.due, tally.leased, tally.dead) == (1, 0, 0, 1)
    assert [each.id for each in backend.scan("dead", 5, None)] == ["bad"]
    assert [each.id for each in backend.scan(None, 5, None)] == ["good", "bad"]
    assert backend.settle([Settlement("bad", "t", Outcome.COMPLETE, None)]) == [True]


def test_documents_of_others_are_left_alone(backend, coll, record):
    """A collection may contain other documents. They are not leased, not listed, and keep no listener awake."""
    backend.next_due()  # checked while it was empty
    coll.insert_many([{"_id": each, "due": T0} for each in (ObjectId(), 5, None)])

    assert backend.lease(1, MINUTE) == []
    assert backend.lease(5, MINUTE) == []
    assert backend.next_due() is None
    assert backend.scan(None, 5, None) == []
    tally = backend.tally()
    assert (tally.scheduled, tally.due, tally.leased, tally.dead) == (0, 0, 0, 0)

    backend.put([record("a")])
    assert [each.id for each in backend.lease(5, MINUTE)] == ["a"]
    assert coll.count_documents({}) == 4


@pytest.mark.parametrize("ids", [[5], [ObjectId()], [None, 5, ObjectId(), {"a": 1}, T0]])
def test_the_concerns_count_documents_whose_id_is_no_text(backend, coll, record, ids):
    backend.put([record(""), record("a"), record("\U0010ffff")])
    assert backend.concerns() == []

    coll.insert_many([{"_id": each, "due": T0} for each in ids])
    (concern,) = backend.concerns()
    assert f"ignores documents whose _id is no text, and the collection has {len(ids)} of them" in concern


def test_the_concerns_count_no_more_than_a_thousand_documents(backend, coll):
    coll.insert_many([{"_id": n} for n in range(1100)])
    (concern,) = backend.concerns()
    assert "the collection has 1000 or more of them" in concern


def test_pages_keep_their_order_over_ties(backend, record):
    """The index knows only ``due``. Ties are in the order of the ids nevertheless, across any boundary."""
    records = [record(f"{n * 7919 % 101:03}", START + n % 3) for n in range(101)]
    backend.put(records)
    expected = sorted((each.progress.due, each.id) for each in records)

    for limit in (1, 2, 7, 33, 34, 50, 101, 200):
        found, after = [], None
        while page := backend.scan(None, limit, after):
            assert len(page) <= limit
            found += [(each.progress.due, each.id) for each in page]
            after = found[-1]
        assert found == expected
