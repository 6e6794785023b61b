"""The collection: checked once per process, by few commands, and refused with advice if messages would be lost."""

from __future__ import annotations

import logging

from datetime import timedelta

import pymongo
import pymongo.monitoring
import pytest

from mongo.commands import Commands
from mongo.conftest import START
from pitstop import BackendUnavailable
from pitstop.abc import from_instant
from pitstop_mongo import MongoBackend


MINUTE = 60_000
TIME = from_instant(START)
OURS = {"revision": "r", "etag": "e", "scheduled_for": TIME, "due": TIME, "attempts": 0, "msg": {}}
CLOJURE = {"ready": TIME, "locked": TIME, "msg": {"to": "somebody"}}


@pytest.fixture
def commands():
    return Commands()


@pytest.fixture
def counted(open_backend, clock, commands):
    return open_backend(clock=clock, event_listeners=[commands])


@pytest.fixture
def refusal(backend, record):
    """Returns the error that each operation raises if it needs the collection."""

    def refusal():
        texts = set()
        calls = (lambda: backend.put([record("a")]), lambda: backend.lease(5, MINUTE), backend.next_due, backend.tally)
        for call in calls:
            with pytest.raises(BackendUnavailable) as caught:
                call()
            assert caught.value.__suppress_context__ or caught.value.__context__ is None
            texts.add(str(caught.value))
        (text,) = texts
        assert text.startswith(f"The collection at {backend.location} ")
        return text

    return refusal


def test_a_collection_that_is_not_there_is_made_with_its_index(counted, commands, coll):
    assert counted.next_due() is None
    assert commands.sent == ["listCollections", "createIndexes", "find"]
    assert coll.index_information()["due_1"]["key"] == [("due", 1)]


def test_an_existing_collection_is_checked_and_nothing_is_made(counted, commands, coll, record):
    coll.insert_one({"_id": "a", **OURS})
    coll.create_index([("due", 1)], name="by whatever name")

    assert counted.next_due() == START
    assert commands.sent == ["listCollections", "find", "listIndexes", "find"]
    assert set(coll.index_information()) == {"_id_", "by whatever name"}


def test_it_is_checked_once(counted, commands, record):
    counted.next_due()
    commands.clear()

    counted.put([record("a"), record("b")])
    leased = counted.lease(5, MINUTE)
    assert counted.lease(1, MINUTE) == []
    counted.next_due()
    counted.scan(None, 5, None)
    counted.tally()

    assert len(leased) == 2
    assert not set(commands.sent) & {"listCollections", "listIndexes", "createIndexes"}
    assert commands.sent[:3] == ["insert", "find", "update"]


@pytest.mark.parametrize("lost", ["the index", "the collection"])
def test_it_is_checked_again_when_the_index_is_gone(counted, commands, coll, record, lost):
    counted.put([record("a")])
    coll.drop_index("due_1") if lost == "the index" else coll.drop()
    counted.put([record("b")])
    with pytest.raises(BackendUnavailable):
        counted.lease(5, MINUTE)
    commands.clear()

    assert "b" in {each.id for each in counted.lease(5, MINUTE)}
    assert "createIndexes" in commands.sent
    assert "due_1" in coll.index_information()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"viewOn": "other", "pipeline": []}, "is a view, which cannot hold messages"),
        ({"timeseries": {"timeField": "due"}}, "is a time series, which cannot hold messages"),
        ({"capped": True, "size": 100_000}, "is capped: the server would delete the oldest messages"),
        (
            {"collation": {"locale": "en", "strength": 2}},
            r"has a default collation (locale 'en'): ids that differ only in case could become equal",
        ),
    ],
    ids=["view", "time series", "capped", "collation"],
)
def test_a_collection_that_cannot_keep_messages_is_refused(coll, refusal, options, text):
    coll.database.create_collection(coll.name, **options)
    said = refusal()
    assert text in said
    assert said.endswith("Give as coll the name of a collection for Pitstop alone. It is made if it does not exist.")


@pytest.mark.parametrize(
    "options", [{"collation": {"locale": "simple"}}, {"clusteredIndex": {"key": {"_id": 1}, "unique": True}}]
)
def test_a_simple_collation_and_a_clustered_collection_are_fine(coll, backend, record, options):
    coll.database.create_collection(coll.name, **options)
    backend.put([record("a"), record("b")])
    assert len(backend.lease(5, MINUTE)) == 2


@pytest.mark.parametrize(
    ("key", "options", "text"),
    [
        ("due", {"unique": True}, "on due that is unique, so two messages could not be due at the same time"),
        ("due", {"sparse": True}, "on due that is sparse, so it does not know the dead messages"),
        ("due", {"partialFilterExpression": {"a": 1}}, "on due that is partial, so it does not know all messages"),
        ("due", {"hidden": True}, "on due that is hidden, so nothing may use it"),
        ("due", {"collation": {"locale": "de"}}, "on due that is one with a collation, which claims cannot use"),
        ("due", {"expireAfterSeconds": 60}, "has a TTL index 'mine': the server would delete messages"),
        ("scheduled_for", {"expireAfterSeconds": 60}, "has a TTL index 'mine': the server would delete messages"),
    ],
)
def test_an_index_that_gets_in_the_way_is_refused_with_the_command_that_drops_it(
    coll, backend, refusal, record, key, options, text
):
    coll.create_index([(key, 1)], name="mine", **options)
    said = refusal()
    assert text in said
    command = f'db.getSiblingDB("{coll.database.name}").getCollection("messages").dropIndex("mine")'
    assert command in said

    coll.drop_index("mine")
    backend.put([record("a")])
    assert [each.id for each in backend.lease(1, MINUTE)] == ["a"]


@pytest.mark.parametrize(
    "options", [{"sparse": True}, {"partialFilterExpression": {"a": 1}}, {"collation": {"locale": "de"}}]
)
def test_it_is_refused_also_beside_the_right_one(coll, refusal, options):
    """MongoDB could not choose between the two indexes."""
    coll.create_index([("due", 1)])
    coll.create_index([("due", 1)], name="mine", **options)
    assert 'dropIndex("mine")' in refusal()


def test_the_error_for_an_index_with_only_the_name_shows_a_way_out(coll, refusal, backend):
    coll.create_index([("msg.x", 1)], name="due_1")
    said = refusal()
    assert "has another index with the name 'due_1'" in said
    assert 'createIndex({ due: 1 }, { name: "pitstop_due" })' in said

    coll.create_index([("due", 1)], name="pitstop_due")
    assert backend.next_due() is None


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ([("due", -1)], {}),
        ([("due", "hashed")], {}),
        ([("due", 1), ("msg.x", 1)], {"unique": True}),
        ([("msg.x", 1)], {"expireAfterSeconds": 60}),
        ([("msg.x", "text")], {}),
        ([("$**", 1)], {}),
    ],
)
def test_other_indexes_are_accepted(coll, backend, key, options):
    coll.create_index(key, **options)
    assert backend.next_due() is None
    assert "due_1" in coll.index_information()


def test_documents_of_others_alone_are_refused_and_nothing_is_made(coll, refusal):
    coll.insert_many([{"_id": f"{n}", "name": "x", "due": TIME} for n in range(12)])
    assert (
        "holds documents of another program: none of the first 10 documents is a message of Pitstop's. Give as"
        in refusal()
    )
    assert set(coll.index_information()) == {"_id_"}


def test_messages_of_the_clojure_library_are_refused_with_the_command_that_takes_them_over(coll, refusal):
    coll.insert_many([{"_id": f"{n}", **CLOJURE} for n in range(3)])
    said = refusal()
    assert "holds messages of the Clojure library (none of the first 3 documents is a message of Pitstop's)" in said
    assert "pitstop adopt --url URL" in said


def test_an_adoption_may_open_it_and_other_operations_still_may_not(open_backend, coll, commands):
    coll.insert_one({"_id": "1", **CLOJURE})
    connection = open_backend(event_listeners=[commands])._connection
    for _ in range(3):
        with connection.indexed(foreign=True) as link:
            assert link.handles.coll.count_documents({}) == 1
    assert commands.sent.count("listIndexes") == 1
    with pytest.raises(BackendUnavailable, match="adopt"), connection.indexed():
        pass

    coll.replace_one({"_id": "1"}, OURS)
    with connection.indexed():
        pass


def test_one_damaged_or_foreign_document_does_no_harm(coll, backend):
    coll.insert_many([{"_id": n, "name": "x"} for n in range(4)])
    coll.insert_one({"_id": "bad", "revision": 5, "due": TIME})
    coll.insert_one({"_id": "a", **OURS})
    assert backend.next_due() == START


@pytest.mark.parametrize("how", [{"errorCode": 50}, {"blockConnection": True, "blockTimeMS": 1000}])
def test_the_error_for_an_index_that_takes_too_long_shows_the_command(mongo_client, open_backend, coll, how):
    backend = open_backend(appName="pitstop-slow-index", operation_timeout="400ms")
    data = {"failCommands": ["createIndexes"], "appName": "pitstop-slow-index", **how}
    mongo_client.admin.command({"configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data})
    try:
        with pytest.raises(BackendUnavailable, match=r"not made within operation_timeout.*\.createIndex\(\{ due: 1"):
            backend.next_due()
    finally:
        mongo_client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})


def test_a_check_without_rights_is_left_out_and_logged_at_debug(mongo_client, open_backend, coll, caplog):
    """Servers that only resemble MongoDB, and users with few rights."""
    caplog.set_level(logging.DEBUG, "pitstop.mongo")
    backend = open_backend(appName="pitstop-blind")
    data = {"failCommands": ["listCollections", "listIndexes"], "appName": "pitstop-blind", "errorCode": 59}
    mongo_client.admin.command({"configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data})
    try:
        assert backend.next_due() is None
    finally:
        mongo_client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})
    assert "due_1" in coll.index_information()
    unchecked = [each for each in caplog.records if "not checked" in each.getMessage()]
    assert [each.levelname for each in unchecked] == ["DEBUG", "DEBUG"]


def test_a_client_with_ideas_of_its_own_about_documents_is_no_hindrance(mongo_uri, mongo_dbname, coll, record):
    """The check reads as Pitstop does, with any codec and preference of the client."""
    from bson.raw_bson import RawBSONDocument

    with pymongo.MongoClient(mongo_uri, document_class=RawBSONDocument, readPreference="secondary") as client:
        for _ in range(2):
            backend = MongoBackend.from_options({"client": client, "dbname": mongo_dbname})
            backend.put([record("a")])
            assert backend.next_due() is not None
            backend.close()


def test_stores_are_not_late_for_it(open_backend, record, commands):
    """The first store takes these commands more, once."""
    backend = open_backend(event_listeners=[commands], loop_time=timedelta(seconds=1))
    backend.put([record("a")])
    assert commands.sent == ["listCollections", "createIndexes", "update"]
    commands.clear()
    backend.put([record("b")])
    assert commands.sent == ["update"]
