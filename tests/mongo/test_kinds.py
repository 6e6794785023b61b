"""Claims of some kinds: their index while it is built, lost or refused, many kinds, and kinds that cannot be read."""

from __future__ import annotations

import logging
import struct
import threading
import uuid

from contextlib import contextmanager, suppress

import attrs
import bson
import pytest

from bson.raw_bson import RawBSONDocument
from pymongo.errors import AutoReconnect

from mongo.commands import Commands
from mongo.conftest import START
from pitstop import BackendUnavailable
from pitstop.abc import AllBut, Damaged, from_instant
from pitstop_mongo import MongoBackend
from pitstop_mongo._client.collection import Collection


MINUTE = 60_000
NAME = "kind_1_due_1"
KEY = [("kind", 1), ("due", 1)]
#: Texts of the index, as the commands of a claim give it.
BY_KIND, BY_DUE = NAME, {"due": 1}


@pytest.fixture
def commands():
    return Commands()


@pytest.fixture
def named():
    return f"pitstop-{uuid.uuid4().hex}"


@pytest.fixture
def counted(open_backend, clock, commands, named):
    """A backend whose commands are counted."""
    backend = open_backend(clock=clock, appName=named, event_listeners=[commands])
    backend._wakeups.announce = lambda due: None
    return backend


@pytest.fixture
def failing(mongo_client, named):
    """Lets the server fail the commands of the counted backend."""

    @contextmanager
    def failing(*commands, mode="alwaysOn", **how):
        data = {"failCommands": list(commands), "appName": named, **how}
        mongo_client.admin.command({"configureFailPoint": "failCommand", "mode": mode, "data": data})
        try:
            yield
        finally:
            mongo_client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})

    return failing


@pytest.fixture
def build_hangs(mongo_client, coll):
    """Lets the server stop each build of an index after its beginning."""

    @contextmanager
    def build_hangs():
        def switch(mode):
            mongo_client.admin.command({"configureFailPoint": "hangAfterSettingUpIndexBuild", "mode": mode})

        switch("alwaysOn")
        try:
            yield
        finally:
            switch("off")
            await_threads()

    return build_hangs


def impatient(backend):
    """Let the next claims wait for a second for the index of the kinds."""
    backend._connection._timeout = 2.0


def await_threads():
    for thread in threading.enumerate():
        if thread.name == "pitstop-index":
            thread.join(60)
            assert not thread.is_alive()


def hints(commands):
    """Return the indexes that the claims since the last call were bound to."""
    found = [command["hint"] for name, command in commands.commands if "sort" in command]
    commands.clear()
    return [dict(each) if isinstance(each, dict) else each for each in found]


def of(record, kind):
    return attrs.evolve(record, kind=kind)


def warned(caplog):
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


def test_the_index_is_made_by_the_first_claim_that_needs_it(backend, coll, record):
    backend.put([of(record(id), "mail") for id in "ab"])
    assert len(backend.lease(1, MINUTE)) == 1
    assert set(coll.index_information()) == {"_id_", "due_1"}

    assert [each.id for each in backend.lease(1, MINUTE, ["mail"])] == ["b"]
    assert coll.index_information()[NAME]["key"] == KEY


@pytest.mark.parametrize("choice", [["mail"], AllBut(["bulk"])], ids=["named", "rest"])
def test_claims_of_all_processes_work_while_the_server_builds_the_index(
    counted, open_backend, clock, coll, record, commands, build_hangs, choice
):
    """The server lists an index from the beginning of its build, and refuses to use it until the end."""
    counted.put([of(record("bulk"), "bulk"), *(of(record(f"{n}"), "mail") for n in range(5))])
    other = open_backend(clock=clock)
    for backend in (counted, other):
        backend.next_due()
        impatient(backend)
    with build_hangs():
        # The second one finds the index in the list, and the build under way.
        for backend in (other, counted, other, counted):
            assert [each.kind for each in backend.lease(1, MINUTE, choice)] == ["mail"]
            assert backend.next_due(choice) is not None
        assert NAME in coll.index_information()
        assert {str(each) for each in hints(commands)} == {str(BY_DUE)}
    assert [each.kind for each in other.lease(5, MINUTE, choice)] == ["mail"]
    assert counted.lease(5, MINUTE, choice) == []
    assert hints(commands) == [BY_KIND]


def test_claims_of_some_kinds_go_by_due_while_their_index_is_being_made(
    backend, open_backend, coll, record, monkeypatch
):
    """In a large collection that takes minutes, and the time of an operation is shorter."""
    begun, may_end = threading.Event(), threading.Event()
    make = Collection.make_index_of_kinds

    def slowly(self):
        begun.set()
        assert may_end.wait(60)
        return make(self)

    backend.next_due()
    monkeypatch.setattr(Collection, "make_index_of_kinds", slowly)
    impatient(backend)
    backend.put([of(record(id), kind) for id, kind in [("a", "bulk"), ("b", "mail"), ("c", "mail")]])
    try:
        for id in "bc":
            assert [each.id for each in backend.lease(1, MINUTE, ["mail"])] == [id]
        assert backend.lease(5, MINUTE, ["mail"]) == []
        assert backend.next_due(["bulk"]) == START
        assert begun.is_set()
        assert NAME not in coll.index_information()
    finally:
        may_end.set()
    await_threads()
    assert NAME in coll.index_information()
    assert [each.id for each in backend.lease(5, MINUTE, ["bulk"])] == ["a"]


def test_a_claim_waits_once_for_a_long_build(counted, clock, coll, record, build_hangs, monkeypatch):
    waits = []
    join = threading.Thread.join

    def counting(self, timeout=None):
        if self.name == "pitstop-index":
            waits.append(timeout)
        join(self, 0.01)

    counted.put([of(record("a"), "mail")])
    impatient(counted)
    with build_hangs(), monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "join", counting)
        for _ in range(3):
            assert counted.next_due(["mail"]) == START
            clock.advance(60)
    first, *later = waits
    assert 0 < first <= 1
    assert later == [0, 0]
    await_threads()


def test_a_build_whose_end_is_not_reported_is_noticed_within_a_minute(
    counted, clock, coll, record, commands, monkeypatch
):
    """The reply to the command that makes the index may never come, for example from a server that hung."""
    may_end = threading.Event()
    create = type(coll).create_index
    monkeypatch.setattr(
        type(coll), "create_index", lambda *args, **options: may_end.wait(60) and create(*args, **options)
    )
    impatient(counted)
    coll.database.command("createIndexes", coll.name, indexes=[{"key": {"due": 1}, "name": "due_1"}])
    counted.put([of(record("a"), "mail"), of(record("b"), "mail")])
    try:
        assert [each.id for each in counted.lease(1, MINUTE, ["mail"])] == ["a"]
        coll.database.command("createIndexes", coll.name, indexes=[{"key": dict(KEY), "name": NAME}])
        assert [each.id for each in counted.lease(1, MINUTE, ["mail"])] == ["b"]
        assert hints(commands) == [BY_DUE, BY_DUE]
        clock.advance(60)
        assert [each.id for each in counted.lease(1, MINUTE, ["mail"])] == ["a"]
        assert hints(commands) == [BY_KIND]
    finally:
        may_end.set()
        await_threads()


@pytest.mark.parametrize("limit", [1, 5])
def test_a_claim_goes_on_if_the_index_is_dropped(counted, clock, coll, record, limit):
    counted.put([of(record("a"), "mail")])
    for choice in (["mail"], AllBut([])):
        counted.next_due(["mail"])
        clock.advance(60)
        coll.drop_index(NAME)
        assert [each.id for each in counted.lease(limit, MINUTE, choice)] == ["a"]
        assert NAME in coll.index_information()

    coll.drop_index(NAME)
    assert counted.next_due(["mail"]) is not None
    assert counted.lease(limit, MINUTE, AllBut([])) == []


def test_an_index_that_is_lost_again_and_again_is_left_alone_for_a_minute(
    counted, clock, coll, record, commands, failing
):
    """Otherwise each claim would look for the index in vain."""
    counted.put([of(record("a"), "mail")])
    counted.next_due(["mail"])
    clock.advance(60)
    for _ in range(2):
        coll.drop_index(NAME)
        counted.next_due(["mail"])
    assert NAME not in coll.index_information()
    commands.clear()
    counted.next_due(["mail"])
    assert commands.sent == ["find"]
    clock.advance(60)
    counted.next_due(["mail"])
    assert NAME in coll.index_information()


@pytest.mark.parametrize("code", [67, 14031, 171, 13, 11601])
def test_an_index_that_cannot_be_made_is_tried_again_after_minutes_and_one_warning(
    counted, clock, coll, record, commands, caplog, failing, code
):
    counted.put([of(record("a"), "mail"), of(record("b"), "bulk")])
    commands.clear()
    with failing("createIndexes", errorCode=code):
        for _ in range(5):
            assert counted.next_due(["mail"]) == START
        assert commands.sent.count("createIndexes") == 1
        # A look before the try, one after it, and one for the text of the warning.
        assert commands.sent.count("listIndexes") == 3
        for _ in range(9):
            clock.advance(60)
            counted.next_due(["mail"])
        assert commands.sent.count("createIndexes") == 1
        assert commands.sent.count("listIndexes") == 3 + 9
        clock.advance(60)
        counted.next_due(["mail"])
        assert commands.sent.count("createIndexes") == 2
    (text,) = warned(caplog)
    assert f"(code {code})" in text
    assert "createIndex({ kind: 1, due: 1 })" in text

    clock.advance(600)
    assert [each.id for each in counted.lease(5, MINUTE, ["mail"])] == ["a"]
    assert NAME in coll.index_information()


def test_two_lists_in_one_document_keep_the_index_from_being_made(counted, coll, record, commands, caplog):
    counted.put([of(record("a"), "mail"), of(record("b"), "mail")])
    coll.update_one({"_id": "b"}, {"$set": {"kind": ["mail"], "due": [from_instant(START)]}})
    for _ in range(2):
        assert counted.next_due(["mail"]) == START
    assert len(warned(caplog)) == 1
    assert "(code 171)" in warned(caplog)[0]


def test_after_a_lost_connection_the_index_is_made_by_the_next_claim(
    counted, coll, record, caplog, failing, eager_driver
):
    counted.put([of(record("a"), "mail")])
    counted.next_due()
    with failing("createIndexes", closeConnection=True), suppress(BackendUnavailable):
        counted.next_due(["mail"])
    await_threads()
    assert counted.next_due(["mail"]) == START
    assert counted.next_due(["mail"]) == START
    assert NAME in coll.index_information()
    assert not warned(caplog)


def test_an_index_that_an_administrator_makes_later_is_used_a_minute_later(
    counted, clock, coll, record, commands, caplog, failing
):
    counted.put([of(record("a"), "mail")])
    counted.next_due()
    with failing("createIndexes", errorCode=13):
        counted.next_due(["mail"])
        coll.create_index(KEY, name="by whatever name")
        clock.advance(59)
        commands.clear()
        counted.next_due(["mail"])
        assert hints(commands) == [BY_DUE]
        clock.advance(1)
        counted.next_due(["mail"])
    assert hints(commands) == ["by whatever name"]


def test_without_a_thread_for_it_the_index_is_made_later(counted, clock, coll, record, caplog, monkeypatch):
    counted.put([of(record("a"), "mail")])
    counted.next_due()

    def full(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", full)
        assert counted.next_due(["mail"]) == START
    (text,) = warned(caplog)
    assert "can't start new thread" in text
    clock.advance(60)
    assert counted.next_due(["mail"]) == START
    assert NAME in coll.index_information()


@pytest.mark.parametrize("limit", [1, 5])
def test_the_rest_without_the_index_goes_by_due_and_asks_for_no_kinds(counted, coll, record, commands, failing, limit):
    counted.put([of(record(kind or "none"), kind) for kind in ("bulk", "mail", "")])
    counted.next_due()
    with failing("createIndexes", errorCode=13):
        counted.next_due(["mail"])
        commands.clear()
        assert {each.id for _ in range(3) for each in counted.lease(limit, MINUTE, AllBut(["bulk"]))} == {
            "mail",
            "none",
        }
        assert counted.lease(limit, MINUTE, AllBut(["bulk", ""])) == []
        assert counted.next_due(AllBut(["bulk", ""])) == START + MINUTE
        assert [each.id for each in counted.lease(limit, MINUTE, AllBut([""]))] == ["bulk"]
    assert not set(commands.sent) - {"find", "findAndModify", "update"}
    assert {str(each) for each in hints(commands)} == {str(BY_DUE)}


def unreadable():
    return {
        "number": 5,
        "large number": bson.Int64(2**40),
        "fraction": 0.5,
        "nan": float("nan"),
        "bool": True,
        "date": from_instant(START),
        "binary": b"mail",
        "id": bson.ObjectId("5" * 24),
        "document": {"a": "mail"},
        "operator": {"$gt": ""},
        "pattern": bson.regex.Regex("mail"),
        "code": bson.code.Code("mail"),
        "smallest": bson.min_key.MinKey(),
        "list": ["mail"],
        "list of nothing": [None],
        "empty list": [],
        "bytes": None,
    }


@pytest.fixture(params=list(unreadable()))
def damage(request, coll):
    """Gives a document a kind that cannot be read."""

    def damage(id):
        if request.param != "bytes":
            coll.update_one({"_id": id}, [{"$set": {"kind": {"$literal": unreadable()[request.param]}}}])
            return
        raw = coll.with_options(codec_options=bson.CodecOptions(document_class=RawBSONDocument)).find_one({"_id": id})
        fields = raw.raw[4:-1].replace(b"\x02kind\0\x05\0\0\0mail\0", b"\x02kind\0\x05\0\0\0ma\xff\xfe\0")
        coll.delete_one({"_id": id})
        coll.insert_one(RawBSONDocument(struct.pack("<i", len(fields) + 5) + fields + b"\0"))

    return damage


@pytest.mark.parametrize("limit", [1, 5])
@pytest.mark.parametrize("indexed", [True, False], ids=["with the index", "without"])
def test_a_kind_that_cannot_be_read_is_of_the_rest(counted, coll, record, damage, failing, limit, indexed):
    counted.put([of(record("sound"), "mail"), of(record("a", START - 1), "mail")])
    counted.next_due()
    with failing("createIndexes", errorCode=13) if not indexed else contextmanager(lambda: (yield))():
        counted.next_due(["mail"])
        damage("a")
        assert [each.id for each in counted.lease(limit, MINUTE, ["", "mail"])] == ["sound"]
        assert counted.lease(limit, MINUTE, ["", "mail"]) == []
        assert counted.next_due(["", "mail"]) == START + MINUTE
        assert counted.next_due(AllBut(["", "mail"])) == START - 1
        (damaged,) = counted.lease(limit, MINUTE, AllBut(["", "mail"]))
        assert isinstance(damaged, Damaged)
        assert damaged.id == "a"
        assert counted.lease(limit, MINUTE, AllBut(["", "mail"])) == []
        assert counted.lease(limit, 2 * MINUTE) == []


FLAWED = [
    {"sparse": True},
    {"partialFilterExpression": {"a": 1}},
    {"collation": {"locale": "de"}},
    {"hidden": True},
]


@pytest.mark.parametrize("options", FLAWED, ids=lambda each: next(iter(each)))
@pytest.mark.parametrize("name", ["mine", NAME])
def test_a_flawed_index_on_the_kinds_is_never_used(counted, clock, coll, record, commands, caplog, options, name):
    coll.create_index(KEY, name=name, **options)
    counted.put([of(record(id), "mail") for id in "abc"])
    for id in "abc":
        assert [each.id for each in counted.lease(1, MINUTE, ["mail"])] == [id]
    used = hints(commands)
    if name == "mine" and "hidden" not in options:
        assert used == [BY_KIND] * 3
        return
    assert used == [BY_DUE] * 3
    (text,) = warned(caplog)
    assert 'createIndex({ kind: 1, due: 1 }, { name: "pitstop_kind_due" })' in text or "unhideIndex" in text

    if "hidden" in options:
        coll.database.command("collMod", coll.name, index={"name": name, "hidden": False})
    else:
        coll.create_index(KEY, name="pitstop_kind_due")
    clock.advance(60)
    assert counted.next_due(["mail"]) == START + MINUTE
    assert hints(commands) == [name if "hidden" in options else "pitstop_kind_due"]


def test_the_warning_for_a_taken_name_shows_a_way_out(counted, clock, coll, record, commands, caplog):
    coll.create_index("msg.x", name=NAME)
    counted.put([of(record("a"), "mail")])
    counted.next_due(["mail"])
    assert hints(commands) == [BY_DUE]
    (text,) = warned(caplog)
    assert 'createIndex({ kind: 1, due: 1 }, { name: "pitstop_kind_due" })' in text
    coll.create_index(KEY, name="pitstop_kind_due")
    clock.advance(60)
    counted.next_due(["mail"])
    assert hints(commands) == ["pitstop_kind_due"]


@pytest.mark.parametrize("options", [{}, *FLAWED], ids=lambda each: next(iter(each), "sound"))
def test_a_user_who_may_neither_list_nor_make_indexes_uses_the_one_that_is_there(
    counted, coll, record, commands, failing, options
):
    """By the name that MongoDB gives it. A flaw shows in the plan."""
    coll.create_index("due")
    coll.create_index(KEY, name=NAME, **options)
    counted.put([of(record("a"), "mail")])
    with failing("createIndexes", "listIndexes", "listCollections", errorCode=13):
        assert [each.id for each in counted.lease(1, MINUTE, ["mail"])] == ["a"]
    assert hints(commands) == [BY_DUE if options else BY_KIND]


def test_a_lost_claim_of_a_kind_is_not_given_to_listeners_of_another(backend, record, monkeypatch):
    """The claim was done, and its reply got lost. The next claim of these kinds finds its messages."""
    backend.put([of(record("a"), "mail"), of(record("b"), "report")])
    backend.next_due(["mail"])
    claimer = backend._claimers.of(["mail"])
    lease = claimer._new_lease(MINUTE, 1)

    def claim():
        with backend._connection.indexed() as link, claimer._doubts.unless_known(lease, link):
            link.handles.coll.update_one({"_id": "a"}, lease.update)
            raise AutoReconnect

    with pytest.raises(BackendUnavailable):
        claim()
    assert [each.id for each in backend.lease(5, MINUTE, ["report"])] == ["b"]
    assert backend.lease(5, MINUTE) == []
    assert [each.id for each in backend.lease(5, MINUTE, ["mail"])] == ["a"]


def test_claimers_are_bounded_and_those_with_lost_claims_are_kept(counted, record):
    counted.put([of(record("a"), "mail")])
    counted.next_due(["mail"])
    claimer = counted._claimers.of(["mail"])
    lease = claimer._new_lease(MINUTE, 1)

    def claim():
        with counted._connection.indexed() as link, claimer._doubts.unless_known(lease, link):
            link.handles.coll.update_one({"_id": "a"}, lease.update)
            raise AutoReconnect

    with pytest.raises(BackendUnavailable):
        claim()
    for n in range(200):
        counted._claimers.of([f"kind-{n}"])
    assert len(counted._claimers) == 64
    assert [each.id for each in counted.lease(5, MINUTE, ["mail"])] == ["a"]


def test_claimers_are_bounded_also_if_all_lost_claims(counted):
    for n in range(200):
        counted._claimers.of([f"kind-{n}"])._doubts._waiting.append(())
    assert len(counted._claimers) == 64


def test_mongomock_needs_no_index_of_the_kinds(record):
    import mongomock

    client = mongomock.MongoClient()
    backend = MongoBackend.from_options({"client": client, "dbname": "app"})
    backend.put([of(record(kind or "none"), kind) for kind in ("bulk", "mail", "")])
    client.app.messages.insert_one({**client.app.messages.find_one({"_id": "mail"}), "_id": "list", "kind": ["mail"]})
    client.app.messages.insert_one({**client.app.messages.find_one({"_id": "mail"}), "_id": "five", "kind": 5})

    assert [each.id for each in backend.lease(5, MINUTE, ["mail", ""])] == ["mail", "none"]
    assert {each.id for each in backend.lease(5, MINUTE, AllBut(["bulk"]))} == {"list", "five"}
    assert NAME not in client.app.messages.index_information()
    backend.close()
