"""Adoption: which documents of the Clojure library become Pitstop's, how they are converted, and how an interrupted run ends."""

from __future__ import annotations

import itertools
import re
import uuid

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bson
import pymongo
import pytest

from bson import json_util
from bson.codec_options import DatetimeConversion
from pymongo.synchronous.collection import Collection

import pitstop

from pitstop._engine._adoption import adopt, look_for_locks
from pitstop.abc import floor_instant
from pitstop.testing import ManualClock
from pitstop_mongo._adopt import adopter


FIXTURE = json_util.loads(
    Path(__file__).with_name("clojure_documents.json").read_text(),
    json_options=json_util.JSONOptions(datetime_conversion=DatetimeConversion.DATETIME_AUTO, tz_aware=True),
)


def at(*time):
    return datetime(*time, tzinfo=UTC)


@pytest.fixture
def unused(mongo_uri, mongo_dbname, clock):
    """A backend that has not checked the collection yet."""
    with pitstop.init({"type": "mongo", "uri": mongo_uri, "dbname": mongo_dbname, "clock": clock}) as pit:
        yield pit


@pytest.fixture
def pit(unused):
    """A backend that checked the collection while it was empty."""
    unused.stats()
    return unused


@pytest.fixture
def fill(mongo_uri, mongo_dbname):
    """Put documents of the fixture into the collection, as a driver without Pitstop does."""
    with pymongo.MongoClient(mongo_uri) as client:
        coll = client[mongo_dbname]["messages"]

        def fill(*sections):
            documents = [each.get("document", each) for name in sections for each in FIXTURE[name]]
            coll.insert_many(documents)
            return documents

        yield fill


def run(pit, *, write=True, locked=False):
    """Adopt. Return the result of each document, by the name of its id."""
    pages = adopt(pit._session, write=write, locked=locked)
    return {adoption.legacy.name: (adoption, fate) for page in pages for adoption, fate in page.fates}


def drain(pit, clock, until=None):
    """Take and acknowledge all messages that are due, now and after the advance. Return them."""
    if until is not None:
        clock.advance((until - pit.now()).total_seconds())
    found = []
    with pit.listen(prefetch=20) as listener:
        while delivery := listener.get():
            found.append(delivery)
            delivery.ack()
    return found


def everything(coll, filter=None):
    """All documents as bytes, in the order of their ids."""
    from pitstop_mongo._bson.codecs import RAW_CODEC

    return [each.raw for each in coll.with_options(codec_options=RAW_CODEC).find(filter, sort=[("_id", 1)])]


def test_a_dry_run_changes_nothing(unused, fill, coll):
    fill("sound", "locked", "damaged", "foreign")
    before = everything(coll)
    fates = run(unused, write=False)
    assert everything(coll) == before
    assert sum(fate == "adoptable" for _, fate in fates.values()) == len(FIXTURE["sound"])
    assert [each["name"] for each in coll.list_indexes()] == ["_id_"]


def test_adopted_messages_are_emitted_at_their_times(pit, fill, clock):
    fill("sound")
    assert {fate for _, fate in run(pit).values()} == {"adopted"}

    due = {each.id: each for each in drain(pit, clock)}
    assert {id: (each.scheduled_for, each.missed, each.attempt) for id, each in due.items()} == {
        "order-1": (at(2019, 12, 31, 23), 0, 1),
        "hourly": (at(2019, 12, 31, 23, 30), 2, 1),
        "half-hourly": (at(2019, 12, 31, 23, 50), 0, 1),
        "ended": (at(2019, 6, 3), 2, 1),
        "failed": (at(2019, 12, 31, 22), 0, 1),
        "failed with a map": (at(2019, 12, 31, 22), 0, 1),
        "5638e0a5c2d3e4f5a6b7c8d9": (at(2019, 12, 31, 23, 30), 0, 1),
        "42": (at(2019, 12, 31, 23, 30), 0, 1),
        "00112233-4455-6677-8899-aabbccddeeff": (at(2019, 12, 31, 23, 30), 0, 1),
        "da2aa361-3b96-e111-4312-abce12b45678": (at(2019, 12, 31, 23, 30), 0, 1),
    }
    assert due["order-1"].msg == {
        "id": "order-1",
        "at": at(2019, 12, 24, 18, 0, 0, 123000),
        "tags": ["a", ["b", None], {}],
        "ratio": 0.5,
        "raw": b"\x00\xff",
        "update": {"$set": {"a.b": 1}, "$inc.x": "$name", "": True},
    }
    assert due["42"].msg == {"id": "42", "of": "int"}
    assert [due[id].last_error for id in ("failed", "failed with a map", "42", "order-1")] == [
        "connection refused",
        "no such queue",
        "timeout",
        None,
    ]

    # The series go on from their anchors. Messages that were not due keep their times, and no other message is left.
    entries = {each.id: (each.due, each.every, each.end) for each in pit.entries()}
    hour, half = timedelta(hours=1), timedelta(minutes=30)
    assert entries == {
        "hourly": (at(2020, 1, 1, 0, 30), hour, at(2099, 6, 1)),
        "half-hourly": (at(2020, 1, 1, 0, 20), half, None),
        "42": (at(2020, 1, 1, 0, 30), hour, None),
        "for ever": (at(2099, 1, 1), timedelta(days=1), None),
        "ends with its first": (at(2099, 6, 1), timedelta(minutes=1), at(2099, 6, 1, 0, 1)),
        "0d7c1f0e-4f0c-4d0a-9d5c-1a2b3c4d5e6f": (at(2099, 5, 4, 10, 0, 0, 250000), None, None),
        "-9007199254740993": (at(2099, 5, 4, 10), None, None),
    }
    late = {each.id: each.scheduled_for for each in drain(pit, clock, at(2099, 7, 1))}
    assert late.pop("half-hourly") == at(2099, 6, 30, 23, 50)
    assert late.pop("42") == at(2099, 6, 30, 23, 30)
    assert late == {
        "hourly": at(2099, 5, 31, 23, 30),
        "for ever": at(2099, 7, 1),
        "ends with its first": at(2099, 6, 1),
        "0d7c1f0e-4f0c-4d0a-9d5c-1a2b3c4d5e6f": at(2099, 5, 4, 10, 0, 0, 250000),
        "-9007199254740993": at(2099, 5, 4, 10),
    }
    assert sorted(each.id for each in pit.entries()) == ["42", "for ever", "half-hourly"]


def test_an_adopted_document_is_as_if_it_had_been_stored(unused, fill, coll):
    pit = unused
    fill("sound")
    run(pit)
    document = coll.find_one({"_id": "order-1"})
    stored = pit.get("order-1")
    pit.store({"id": "order-1", **stored.message}, stored.due)
    anew = coll.find_one({"_id": "order-1"})
    assert set(document) == set(anew)
    assert {**document, "revision": 0, "etag": 0} == {**anew, "revision": 0, "etag": 0}
    assert set(coll.find_one({"_id": "42"})) == set(coll.find_one({"_id": "half-hourly"})) | {"last_error"}
    assert [each["name"] for each in coll.list_indexes()] == ["_id_", "due_1"]


@pytest.fixture(scope="module")
def told(mongo_client):
    """Return the problems that a dry run reports for the damaged documents, by their place in the fixture."""
    name = f"pitstop_test_adopt_{uuid.uuid4().hex}"
    damaged = [each["document"] for each in FIXTURE["damaged"]]
    mongo_client[name].messages.insert_many([*FIXTURE["sound"], *damaged])
    in_order = [as_bytes(each["_id"]) for each in damaged]
    with pitstop.init({"type": "mongo", "client": mongo_client, "dbname": name, "clock": ManualClock()}) as pit:
        left = [adoption for adoption, fate in run(pit, write=False).values() if fate == "left"]
    mongo_client.drop_database(name)
    return {in_order.index(as_bytes(each.legacy.fields["_id"])): each.problem for each in left}


def as_bytes(key):
    """Return an id in a form that is compared by value and by type."""
    from pitstop_mongo._bson.codecs import CODEC

    return bson.encode({"_id": dict(key) if isinstance(key, Mapping) else key}, codec_options=CODEC)


@pytest.mark.parametrize("index", range(len(FIXTURE["damaged"])))
def test_each_damaged_document_is_left_with_its_reason(told, index):
    assert re.search(FIXTURE["damaged"][index]["why"], told[index]), told[index]


def test_no_more_than_the_damaged_documents_are_left(told):
    assert sorted(told) == list(range(len(FIXTURE["damaged"])))


def test_damaged_and_foreign_documents_are_left_byte_for_byte_and_the_others_go_on(pit, fill, coll, clock):
    fill("sound", "damaged", "foreign")
    pit.store({"id": "Pitstop's own"}, timedelta(hours=1))
    keys = [each["_id"] for each in [*FIXTURE["foreign"], *(each["document"] for each in FIXTURE["damaged"])]]
    kept = {"_id": {"$in": [*keys, "Pitstop's own"]}}
    before = everything(coll, kept)
    fates = run(pit)
    assert everything(coll, kept) == before
    assert sum(fate == "adopted" for _, fate in fates.values()) == len(FIXTURE["sound"])
    assert sum(fate == "left" for _, fate in fates.values()) == len(FIXTURE["damaged"])
    assert {fate for _, fate in run(pit).values()} == {"left"}
    assert len(drain(pit, clock)) == 10


def test_a_message_that_looks_like_a_reference_or_is_as_deep_as_can_be_is_adopted(pit, coll, clock):
    message = {"ref": {"$ref": "coll", "$id": 1}, "deep": _nested(97)}
    ready = at(2019, 12, 31)
    coll.insert_many([{"_id": "a", "ready": ready, "msg": message}, {"_id": 5, "ready": ready, "msg": message}])
    run(pit)
    assert {each.id: each.msg for each in drain(pit, clock)} == {
        "a": {"id": "a", **message},
        "5": {"id": "5", **message},
    }


def _nested(levels):
    return {"$d.": _nested(levels - 1)} if levels else 1


def test_pages_go_on_across_ids_of_all_types(pit, fill, clock, monkeypatch):
    """A comparison in a filter would only find ids of one type."""
    fill("sound", "locked", "damaged", "foreign")
    everything = len(FIXTURE["sound"] + FIXTURE["locked"] + FIXTURE["damaged"])
    for limits in ({"_PAGE": 1}, {"_PAGE": 3}, {"_PAGE_BYTES": 1}):
        with monkeypatch.context() as patch:
            for name, value in limits.items():
                patch.setattr(adopter, name, value)
            assert len(run(pit, write=False)) == everything
            *_, locks = look_for_locks(pit._session)
            assert (locks.locked, locks.until) == (3, floor_instant(at(2099, 1, 1, 0, 30)))
    monkeypatch.setattr(adopter, "_PAGE", 3)
    monkeypatch.setattr(adopter, "_MOST_BYTES", 1)
    run(pit)
    assert len(drain(pit, clock)) == 10


def test_a_locked_document_is_left_unless_locked_ones_are_asked_for(pit, fill, coll):
    fill("locked")
    before = everything(coll)
    fates = run(pit)
    assert [fate for _, fate in fates.values()] == ["left"] * 3
    assert all("locked until 2099-01-01T00:" in adoption.problem for adoption, _ in fates.values())
    assert everything(coll) == before


def test_a_locked_document_is_due_when_its_lock_ends(pit, fill, clock):
    fill("locked")
    assert {fate for _, fate in run(pit, locked=True).values()} == {"adopted"}
    assert drain(pit, clock, at(2099, 1, 1, 0, 14)) == []
    busy = drain(pit, clock, at(2099, 1, 1, 0, 15))
    assert [(each.id, each.scheduled_for) for each in busy] == [("busy", at(2019, 12, 31, 23, 59))]
    (seven,) = drain(pit, clock, at(2099, 1, 1, 0, 20))
    assert (seven.id, seven.scheduled_for) == ("7", at(2019, 12, 31, 23))
    (series,) = drain(pit, clock, at(2099, 1, 1, 0, 30))
    assert (series.id, series.scheduled_for, series.last_error) == ("busy series", at(2099, 1, 1), "it never works")
    assert pit.get("busy series").due == at(2099, 1, 1, 1)


@pytest.mark.parametrize("key", ["a", 5], ids=["text", "int"])
@pytest.mark.parametrize(
    "change",
    [
        {"$set": {"locked": at(2099, 1, 1), "locked-by": "someone"}},
        {"$set": {"ready": at(2020, 1, 2)}},
        {"$set": {"msg": {"n": 2}}},
        {"$set": {"last-error": "oh"}},
    ],
    ids=["claimed", "acknowledged", "stored anew", "nacked"],
)
def test_a_document_that_changes_between_read_and_write_is_not_overwritten(pit, coll, key, change):
    coll.insert_one({"_id": key, "ready": at(2019, 12, 31), "msg": {"n": 1}, "locked": at(2019, 1, 1)})
    backend = pit._session.backend
    read = backend.legacy

    def read_and_change(*args, **options):
        page = read(*args, **options)
        coll.update_one({"_id": key}, change)
        return page

    backend.legacy = read_and_change
    (page,) = adopt(pit._session, write=True, locked=False)
    assert [fate for _, fate in page.fates] == ["changed"]
    (document,) = coll.find()
    assert "due" not in document
    assert document["ready"] in {at(2019, 12, 31), at(2020, 1, 2)}
    for name, value in change["$set"].items():
        assert document[name] == value
    assert pit.listen().get() is None


@pytest.mark.parametrize("after", range(1, 4))
@pytest.mark.parametrize(
    "change",
    [
        lambda coll: coll.update_one({"_id": 5}, {"$set": {"locked": at(2099, 1, 1)}}),
        lambda coll: coll.replace_one({"_id": 5}, {"_id": 5, "ready": at(2019, 12, 31), "msg": {"n": 2}}),
    ],
    ids=["claimed", "stored anew"],
)
def test_a_change_while_a_document_moves_to_its_new_id_is_not_lost(pit, coll, monkeypatch, clock, after, change):
    """Any change before the old document is deleted keeps it, and no message is made of its old state."""
    coll.insert_one({"_id": 5, "ready": at(2019, 12, 31), "msg": {"n": 1}, "locked": at(2019, 1, 1)})
    writes = itertools.count(1)
    real = Collection.bulk_write

    def bulk_write(self, *args, **options):
        result = real(self, *args, **options)
        if next(writes) == after:
            change(coll)
        return result

    monkeypatch.setattr(Collection, "bulk_write", bulk_write)
    ((_, fate),) = run(pit).values()
    monkeypatch.undo()
    if after == 3:
        # It was deleted, so this document is new.
        assert fate == "adopted"
        return
    assert fate == "changed"
    assert [each["_id"] for each in coll.find()] == [5]
    coll.update_one({"_id": 5}, {"$set": {"locked": at(2019, 1, 1)}})
    assert run(pit)["5 (int)"][1] == "adopted"
    (delivery,) = drain(pit, clock)
    assert delivery.msg["n"] == coll_n(change)


def coll_n(change):
    """Return the n that the change leaves in the message."""
    from unittest.mock import Mock

    told = Mock()
    change(told)
    return 2 if told.replace_one.called else 1


class _Cut(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("how", ["before", "after", "in the middle of"])
@pytest.mark.parametrize("cut", range(5), ids=["rewrite", "mark", "hold", "delete", "release"])
def test_cut_short_at_any_write_nothing_is_lost_and_nothing_comes_twice(pit, fill, coll, clock, monkeypatch, cut, how):
    """Also if a listener takes messages in between."""
    fill("sound")
    real = Collection.bulk_write
    writes = itertools.count()

    def bulk_write(self, requests, **options):
        if next(writes) != cut:
            return real(self, requests, **options)
        if how == "after":
            real(self, requests, **options)
        elif how == "in the middle of":
            real(self, requests[: len(requests) // 2], **options)
        raise _Cut

    monkeypatch.setattr(Collection, "bulk_write", bulk_write)
    with pytest.raises(_Cut):
        run(pit)
    monkeypatch.undo()
    emitted = drain(pit, clock)
    assert {fate for _, fate in run(pit).values()} <= {"adopted"}
    emitted += drain(pit, clock)
    emitted += drain(pit, clock, at(2099, 7, 1))
    keys = [each.key for each in emitted]
    assert len(keys) == len(set(keys))
    ids = [each.id for each in emitted]
    series = {"hourly", "half-hourly", "42"}
    assert sorted(ids) == sorted([*(_text(each["_id"]) for each in FIXTURE["sound"]), *series])
    assert not coll.count_documents({"$or": [{"adopting": {"$exists": True}}, {"ready": {"$exists": True}}]})


def _text(key):
    from pitstop_mongo._adopt.legacy import _id_text

    return _id_text(key) if not hasattr(key, "subtype") or key.subtype != 4 else str(key.as_uuid())


def test_a_held_message_says_how_to_go_on_and_is_not_emitted(pit, coll, clock, monkeypatch):
    coll.insert_one({"_id": 5, "ready": at(2019, 12, 31), "msg": {}, "last-error": "timeout"})
    real = Collection.bulk_write
    writes = itertools.count(1)

    def bulk_write(self, requests, **options):
        result = real(self, requests, **options)
        if next(writes) == 3:
            raise _Cut
        return result

    monkeypatch.setattr(Collection, "bulk_write", bulk_write)
    with pytest.raises(_Cut):
        run(pit)
    monkeypatch.undo()
    assert drain(pit, clock) == []
    (entry,) = pit.entries()
    assert (entry.id, entry.state) == ("5", "dead")
    assert "pitstop adopt --write" in entry.last_error

    ((adoption, fate),) = run(pit, write=False).values()
    assert (adoption.record.id, fate) == ("5", "adoptable")
    run(pit)
    (delivery,) = drain(pit, clock)
    assert (delivery.id, delivery.scheduled_for, delivery.last_error) == ("5", at(2019, 12, 31), "timeout")


def test_a_message_that_was_stored_under_the_new_id_meanwhile_is_not_replaced(pit, coll, clock):
    coll.insert_one({"_id": 5, "ready": at(2019, 12, 31), "msg": {"n": 1}})
    pit.store({"id": "5", "n": 2}, timedelta(0))
    ((adoption, fate),) = run(pit).values()
    assert fate == "left"
    assert "another document" in adoption.problem
    assert [each.msg for each in drain(pit, clock)] == [{"id": "5", "n": 2}]


def test_a_store_under_the_new_id_in_the_very_moment_is_not_replaced(pit, coll, clock, monkeypatch):
    coll.insert_one({"_id": 5, "ready": at(2019, 12, 31), "msg": {"n": 1}})
    real = Collection.bulk_write
    writes = itertools.count(1)

    def bulk_write(self, requests, **options):
        if next(writes) == 2:
            with ThreadPoolExecutor(1) as another:
                another.submit(pit.store, {"id": "5", "n": 2}, timedelta(0)).result()
        return real(self, requests, **options)

    monkeypatch.setattr(Collection, "bulk_write", bulk_write)
    ((_, fate),) = run(pit).values()
    assert fate == "changed"
    assert [each.msg for each in drain(pit, clock)] == [{"id": "5", "n": 2}]
    assert coll.find_one()["_id"] == 5


def test_pitstop_works_beside_documents_that_are_not_adopted_yet(pit, fill, clock):
    fill("sound", "locked", "damaged", "foreign")
    pit.store({"id": "a"}, timedelta(0))
    assert [each.id for each in drain(pit, clock)] == ["a"]
    assert pit.get("order-1").state == "dead"
    assert pit.stats().due == 0


def test_observers_are_called_for_adopted_messages(mongo_uri, mongo_dbname, clock, fill):
    fill("sound")
    told = []

    class Observer:
        @pitstop.hookimpl
        def pitstop_message_stored(self, entry):
            told.append(entry.id)

    config = {"type": "mongo", "uri": mongo_uri, "dbname": mongo_dbname, "clock": clock}
    with pitstop.init(config, plugins=[Observer()]) as pit:
        run(pit)
    assert len(told) == len(FIXTURE["sound"])


def test_a_stand_in_for_the_client_is_refused_with_the_capability(clock):
    import mongomock

    with (
        pitstop.init({"type": "mongo", "client": mongomock.MongoClient(), "clock": clock}) as pit,
        pytest.raises(pitstop.Unsupported, match="ADOPT"),
    ):
        run(pit)
