"""Removals and changes of many messages: their doubts, the commands that they take, and other programs meanwhile."""

from __future__ import annotations

import attrs
import bson
import pytest

from mongo.commands import Commands
from mongo.conftest import START
from pitstop import BackendUnavailable, Conflict, OutcomeUnknown
from pitstop.abc import Progress, Query


APPLIED = {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}}
LOST = {"closeConnection": True}
DOUBTS = pytest.mark.parametrize("how", [APPLIED, LOST], ids=["applied", "lost"])
ONCE = {"times": 1}
MINUTE = 60_000


def change(backend, ids, due=START + MINUTE):
    """Return the items that let messages come at another time."""
    stored = {each.id: each for each in backend.get_many(ids)}
    return [
        (
            attrs.evolve(stored[id], revision=f"new {id} {due}", progress=Progress(due, due)),
            stored[id].revision,
            stored[id].progress,
        )
        for id in ids
    ]


@pytest.mark.parametrize("query", [None, Query(prefix="a"), Query(state="due")], ids=str)
@DOUBTS
def test_a_removal_in_doubt_is_finished_in_the_same_call(failing, record, how, query):
    backend = failing.backend
    backend.put([record(id) for id in ("a1", "a2", "a3", "b")])
    with failing("delete", mode=ONCE, **how) as backend:
        assert backend.delete_many(["a1", "a2", "none"], query) == [True, True, False]
    assert [each.id for each in backend.scan(None, 10, None)] == ["a3", "b"]


def test_a_removal_that_stays_in_doubt_names_the_messages(failing, record):
    backend = failing.backend
    backend.put([record(id) for id in ("a1", "a2", "a3", "b")])
    with failing("delete", **LOST) as backend, pytest.raises(OutcomeUnknown) as unknown:
        backend.delete_many(["a1", "a2", "b", "none"], Query(prefix="a"))
    assert unknown.value.ids == ("a1", "a2")
    assert backend.delete_many(["a1", "a2"], Query(prefix="a")) == [True, True]


def test_a_removal_that_is_never_confirmed_is_found_to_be_done(failing, record):
    backend = failing.backend
    backend.put([record(id) for id in ("a1", "a2", "b")])
    with failing("delete", **APPLIED) as backend:
        assert backend.delete_many(["a1", "a2", "b"], Query(prefix="a")) == [True, True, False]


def test_a_removal_does_not_take_a_message_that_was_stored_meanwhile(backend, open_backend, clock, record, coll):
    other = open_backend(clock=clock)
    backend.put([record(id) for id in ("a1", "a2", "a3")])
    commands = []
    real = type(coll).delete_many

    def store_first(self, filter, **options):
        commands.append(filter)
        if len(commands) == 1:
            other.put([record("a2", revision="new", due=START + MINUTE), record("a3", revision="newer")])
        return real(self, filter, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(coll), "delete_many", store_first)
        assert backend.delete_many(["a1", "a2", "a3"], Query(state="due")) == [True, False, True]
    assert backend.get("a2").revision == "new"
    # The new version of the third one matches, too.
    assert len(commands) == 2


def interfering(monkeypatch, coll, interfere):
    """Run ``interfere`` before each command that deletes many documents, so after the read of a removal."""
    real = type(coll).delete_many

    def first_interfere(self, filter, **options):
        interfere()
        return real(self, filter, **options)

    monkeypatch.setattr(type(coll), "delete_many", first_interfere)


def test_two_removals_count_no_message_twice(backend, open_backend, clock, record, coll, monkeypatch):
    other = open_backend(clock=clock)
    backend.put([record(f"a{n}") for n in range(6)])
    interfering(monkeypatch, coll, lambda: [other.delete(f"a{n}") for n in (1, 4)])
    every = [f"a{n}" for n in range(6)]
    assert sum(backend.delete_many(every, Query(prefix="a"))) == 4
    assert list(backend.scan(None, 10, None)) == []


@pytest.mark.parametrize("query", [Query(prefix="a"), None], ids=str)
def test_a_message_that_changes_all_the_time_is_no_silent_failure(
    backend, open_backend, clock, record, coll, monkeypatch, query
):
    """On a condition the removal gives up with an error that names the message. Without one it removes any version."""
    other, numbers = open_backend(clock=clock), iter(range(1000))
    backend.put([record("a1"), record("a2")])
    interfering(monkeypatch, coll, lambda: other.put([record("a2", revision=f"r{next(numbers)}")]))
    if query is None:
        assert backend.delete_many(["a1", "a2"], None) == [True, True]
        return
    with pytest.raises(Conflict, match="'a2' was not removed") as conflict:
        backend.delete_many(["a1", "a2"], query)
    assert conflict.value.id == "a2"
    assert [each.id for each in backend.scan(None, 10, None)] == ["a2"]


def test_a_message_that_rests_at_last_is_removed(backend, open_backend, clock, record, coll, monkeypatch):
    other, numbers = open_backend(clock=clock), iter(range(1000))
    backend.put([record("a1"), record("a2")])

    def change():
        number = next(numbers)
        if number < 49:
            other.put([record("a2", revision=f"r{number}")])

    interfering(monkeypatch, coll, change)
    assert backend.delete_many(["a1", "a2"], Query(prefix="a")) == [True, True]


@DOUBTS
def test_a_change_in_doubt_names_the_messages_that_others_have_changed_since(failing, record, how):
    backend = failing.backend
    backend.put([record(id) for id in "abc"])
    items = change(backend, "abc")
    backend.put([record("b", revision="other")])
    with failing("update", mode=ONCE, **how) as backend, pytest.raises(OutcomeUnknown) as unknown:
        backend.put_many_if(items)
    # Another program has changed one of them. It is not known whether that was before the first try, or after it.
    assert unknown.value.ids == ("b",)
    assert [backend.get(id).revision for id in "abc"] == [items[0][0].revision, "other", items[2][0].revision]


@DOUBTS
def test_a_change_in_doubt_is_done_once(failing, record, how):
    backend = failing.backend
    backend.put([record(id) for id in "abc"])
    items = change(backend, "abc")
    with failing("update", mode=ONCE, **how) as backend:
        assert backend.put_many_if(items) == [True, True, True]
    assert [backend.get(id) for id in "abc"] == [record for record, *_ in items]


def test_a_change_that_stays_in_doubt_names_the_messages(failing, record):
    backend = failing.backend
    backend.put([record(id) for id in "abc"])
    items = change(backend, "abc")
    with failing("update", **LOST) as backend, pytest.raises(OutcomeUnknown) as unknown:
        backend.put_many_if(items)
    assert unknown.value.ids == ("a", "b", "c")
    assert [backend.get(id).progress.due for id in "abc"] == [START] * 3


def test_a_batch_that_the_server_refuses_changed_nothing(failing, record):
    backend = failing.backend
    backend.put([record(id) for id in "abc"])
    items = change(backend, "abc")
    with failing("update", "delete", errorCode=13) as backend:
        with pytest.raises(BackendUnavailable) as refused:
            backend.delete_many(["a"], Query(prefix="a"))
        assert refused.value.permanent
        with pytest.raises(BackendUnavailable):
            backend.put_many_if(items)
    assert [backend.get(id).progress.due for id in "abc"] == [START] * 3


def test_a_batch_takes_a_read_and_a_write(open_backend, record, mongo_uri, mongo_dbname, coll, clock):
    import pymongo

    from pitstop_mongo import MongoBackend, MongoConfig

    commands = Commands()
    with pymongo.MongoClient(mongo_uri, event_listeners=[commands]) as client:
        backend = MongoBackend(MongoConfig(client=client, dbname=mongo_dbname, coll=coll.name, clock=clock))
        backend.put([record(f"{n:04}") for n in range(500)])
        backend.next_due()
        commands.clear()
        assert sum(backend.delete_many([f"{n:04}" for n in range(500)], Query(state="due"))) == 500
        assert commands.sent == ["find", "delete"]

        backend.put([record(f"{n:04}") for n in range(500)])
        items = change(backend, [f"{n:04}" for n in range(500)])
        commands.clear()
        assert sum(backend.put_many_if(items)) == 500
        assert commands.sent == ["update"]
        backend.close()


@pytest.mark.parametrize(
    "fields",
    [{"etag": 7}, {"etag": None}, {"token": ["x"]}, {"revision": 5}, {"msg": 1}, {"attempts": "many"}, {"kind": 9}],
    ids=str,
)
def test_damaged_documents_are_removed_with_the_others(backend, coll, record, fields):
    backend.put([record(id) for id in "abc"])
    coll.update_one({"_id": "b"}, {"$set": fields})

    assert backend.delete_many(["a", "b"], Query(prefix="")) == [True, True]
    assert [each.id for each in backend.scan(None, 10, None)] == ["c"]
    backend.put([record(id) for id in "ab"])
    coll.update_one({"_id": "b"}, {"$set": fields})
    assert backend.delete_many(["a", "b"]) == [True, True]


def test_a_kind_that_is_code_is_no_kind(backend, coll, record):
    """The driver's type for JavaScript code is a subclass of str."""
    backend.put([record("a"), record("b")])
    coll.update_one({"_id": "a"}, {"$set": {"kind": bson.Code("mail")}})
    assert dict(backend.tally_by_kind()).keys() == {""}
    assert list(backend.find(Query(kind="mail"), 10, None)) == []
    assert [each.kind for each in backend.get_portion(["a"])[0]] == [None]


def test_an_id_is_no_operator(backend, coll, record):
    ids = ["$gt", "$in", ".*", "a.b", "{}", "null"]
    backend.put([record(id) for id in [*ids, "other"]])
    assert [each.id for each in backend.find(Query(prefix="."), 10, None)] == [".*"]
    assert [each.id for each in backend.find(Query(prefix="$"), 10, None)] == ["$gt", "$in"]
    assert backend.delete_many(ids, Query(prefix="")) == [True] * len(ids)
    assert [each["_id"] for each in coll.find()] == ["other"]
