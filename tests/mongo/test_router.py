"""Sharded clusters, behind a stub of their router. See :mod:`servers.router` for what the stub shows, and what it does not."""

from __future__ import annotations

import threading
import uuid

from datetime import timedelta

import attrs
import pymongo
import pytest

import pitstop

from mongo.conftest import START
from pitstop.abc import AllBut, Aside, Damaged, Outcome, Progress, Query, Settlement
from pitstop_mongo import MongoBackend
from pitstop_mongo._client.failures import Kind, is_refusal, kind_of
from servers import router as routers
from servers.database import database


MINUTE = 60_000
NOW = timedelta(0)


@pytest.fixture(scope="module")
def router(replica_set_uri):
    with routers.in_front_of(replica_set_uri) as router:
        yield router


@pytest.fixture(scope="module")
def client(router):
    with pymongo.MongoClient(router.uri, tz_aware=True) as client:
        yield client


@pytest.fixture(scope="module")
def routed_database(client):
    with database(client) as made:
        yield made


@pytest.fixture
def coll(routed_database):
    """A collection that is empty, with the index that sharding makes."""
    coll = routed_database[uuid.uuid4().hex]
    coll.create_index([("_id", "hashed")])
    yield coll
    coll.drop()


@pytest.fixture
def open_backend(router, coll):
    opened = []

    def open_backend(**options):
        where = {"uri": router.uri, "dbname": coll.database.name, "coll": coll.name}
        opened.append(MongoBackend.from_options({**where, **options}))
        return opened[-1]

    yield open_backend
    for each in opened:
        each.close()


@pytest.fixture
def counts(router):
    """The commands of the test, without those of monitors and of the end of sessions."""
    router.commands.clear()
    router.refused.clear()

    def counts():
        others = ("hello", "ismaster", "isMaster", "endSessions", "getMore", "killCursors", "ping")
        found = {name: count for name, count in router.commands.items() if name not in others}
        router.commands.clear()
        return found

    yield counts
    assert not router.refused


def test_the_driver_takes_the_stub_for_a_router(client, coll):
    assert client.admin.command("hello")["msg"] == "isdbgrid"
    assert client.topology_description.topology_type_name == "Sharded"
    with pytest.raises(pymongo.errors.OperationFailure, match="must contain the shard key") as raised:
        coll.find_one_and_update({"due": {"$lte": 1}}, {"$set": {"due": 2}})
    assert raised.value.code == 61
    with pytest.raises(pymongo.errors.OperationFailure):
        coll.update_one({"due": 1}, {"$set": {"due": 2}})
    with pytest.raises(pymongo.errors.OperationFailure):
        coll.delete_one({"due": 1})


@pytest.mark.parametrize("kinds", [None, ["mail"], AllBut(["bulk"])], ids=["all kinds", "one kind", "other kinds"])
@pytest.mark.parametrize("with_clock", [True, False], ids=["clock of a test", "clock of the router"])
def test_a_claim_of_one_is_done_as_of_many(open_backend, clock, record, counts, kinds, with_clock):
    backend = open_backend(**({"clock": clock} if with_clock else {}))
    backend.put([attrs.evolve(record(f"{n}", START - 3 + n), kind="mail") for n in range(3)])
    for expected in "012":
        (leased,) = backend.lease(1, MINUTE, kinds)
        assert leased.id == expected
        assert leased.progress.attempts == 1
        assert leased.progress.ahead == 0
        assert backend.get(expected).progress == leased.progress
    assert backend.lease(1, MINUTE, kinds) == []
    found = counts()
    assert "findAndModify" not in found
    assert "update, many" not in found


def test_the_first_command_of_a_process_may_be_a_claim(open_backend, clock, record, counts):
    open_backend(clock=clock).put([record("a")])
    counts()
    (leased,) = open_backend(clock=clock).lease(1, MINUTE)
    assert leased.id == "a"
    assert "findAndModify" not in counts()


def test_claims_and_settlements_name_the_shard_key_of_each_document(open_backend, clock, record, counts):
    """A write of many documents goes to all shards, and may count a document twice while it moves between two of them."""
    backend = open_backend(clock=clock)
    backend.put([record(f"{n:02}") for n in range(40)])
    leased = [*backend.lease(15, MINUTE), *backend.lease(15, MINUTE), *backend.lease(1, MINUTE)]
    assert len({each.id for each in leased}) == 31
    later = Progress(START + MINUTE, START + MINUTE)
    outcomes = [
        (Outcome.COMPLETE, None),
        (Outcome.RESCHEDULE, later),
        (Outcome.RELEASE, later),
        (Outcome.BURY, Aside("the reason")),
    ]
    settlements = [
        Settlement(each.id, each.progress.token, *outcomes[n % len(outcomes)]) for n, each in enumerate(leased)
    ]
    assert backend.settle(settlements) == [True] * 31
    # A message that was set aside keeps its token.
    again = [each for each in settlements if each.outcome is not Outcome.BURY]
    assert backend.settle(again) == [False] * len(again)
    tally = backend.tally()
    assert (tally.due, tally.leased, tally.dead, tally.scheduled) == (9, 0, 7, 16)
    assert not {"findAndModify", "update, many", "delete, many"} & counts().keys()


def test_stores_and_removals_name_the_shard_key(open_backend, clock, record, counts):
    backend = open_backend(clock=clock)
    backend.put([record("a")])
    backend.put([record("a"), record("b"), record("c")])
    first = backend.get("a")
    assert backend.put_if(record("a", revision="new"), first.revision, first.progress)
    assert not backend.put_if(record("a"), first.revision, first.progress)
    assert not backend.put_if(record("a"), None)
    assert backend.put_if(record("d"), None)
    assert backend.delete("a")
    assert not backend.delete("a")
    assert [each.id for each in backend.scan(None, 10, None)] == ["b", "c", "d"]
    assert not {"update, many", "delete, many"} & counts().keys()


def test_removals_and_changes_of_many_write_each_document_by_its_id(open_backend, coll, clock, record, counts):
    backend = open_backend(clock=clock)
    backend.put([record(f"a{n}") for n in range(5)])
    items = [
        (
            attrs.evolve(each, revision=f"new {each.id}", progress=Progress(START + 5, START)),
            each.revision,
            each.progress,
        )
        for each in backend.find(Query(prefix="a"), 10, None)
    ]
    coll.update_one({"_id": "a1"}, {"$set": {"revision": "other"}})
    counts()

    assert backend.put_many_if(items) == [True, False, True, True, True]
    assert backend.delete_many(["a0", "a1", "a2", "none"], Query(due_from=START + 1)) == [True, False, True, False]
    assert backend.delete_many(["a1", "a3"]) == [True, True]

    assert [each["_id"] for each in coll.find()] == ["a4"]
    assert counts()["delete"] == 2


def test_damaged_documents_are_set_aside(open_backend, coll, clock, record, counts):
    backend = open_backend(clock=clock)
    backend.put([record(id) for id in "abc"])
    coll.update_one({"_id": "b"}, {"$set": {"msg": "no mapping"}})
    found = backend.lease(5, MINUTE)
    assert [type(each) is Damaged for each in sorted(found, key=lambda each: each.id)] == [False, True, False]
    (damaged,) = (each for each in found if isinstance(each, Damaged))
    assert backend.settle([Settlement("b", damaged.token, Outcome.BURY, Aside(damaged.error))]) == [True]
    assert backend.tally().dead == 1


def test_claimers_that_compete_for_single_messages_get_each_once(open_backend, record, counts):
    backends = [open_backend() for _ in range(4)]
    backends[0].put([record(f"{n:03}") for n in range(80)])
    taken = []

    def claim(backend):
        while leased := backend.lease(1, MINUTE):
            taken.extend(each.id for each in leased)

    threads = [threading.Thread(target=claim, args=(each,)) for each in backends]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(taken) == [f"{n:03}" for n in range(80)]


@pytest.mark.parametrize("command", ["update", "find"])
@pytest.mark.parametrize("limit", [1, 10])
def test_a_claim_without_a_reply_is_found_again(open_backend, router, clock, record, command, limit):
    backend = open_backend(clock=clock)
    backend.put([record(f"{n}") for n in range(5)])
    backend.next_due()
    router.lose_reply(command)
    claimed = [each.id for _ in range(6) for each in backend.lease(limit, MINUTE)]
    assert sorted(claimed) == list("01234")
    assert router.pending == 0


def test_a_message_is_stored_and_removed_in_a_transaction(client, coll, counts):
    with pitstop.init({"type": "mongo", "client": client, "dbname": coll.database.name, "coll": coll.name}) as pit:
        pit.stats()
        pit.store({"id": "old"}, NOW)

        def work(session):
            pit.store({"id": "new"}, NOW, session=session)
            pit.store_many([({"id": "other"}, NOW), ({"id": "another"}, NOW)], session=session)
            assert pit.remove("old", session=session)

        with client.start_session() as session:
            session.with_transaction(work)
        assert sorted(each.id for each in pit.entries()) == ["another", "new", "other"]


@pytest.mark.parametrize("commits", [True, False])
def test_a_message_is_acknowledged_in_a_transaction(client, coll, counts, commits):
    where = {"type": "mongo", "client": client, "dbname": coll.database.name, "coll": coll.name, "retry": {"delay": 0}}
    with pitstop.init(where) as pit:
        pit.store_many([({"id": "once"}, NOW), ({"id": "series"}, NOW, None, timedelta(hours=1))])
        attempts = []

        def handle(delivery):
            attempts.append(delivery.attempt)
            with client.start_session() as session:
                session.start_transaction()
                delivery.ack(session=session)
                inside = pit.get(delivery.id, session=session)
                assert inside is None or inside.state == "scheduled"
                if commits or delivery.attempt > 1:
                    session.commit_transaction()

        summary = pit.consume(handle, deliveries=True, until_idle=True)

        assert (summary.acked, summary.nacked, summary.lost) == (2, 0 if commits else 2, 0)
        assert sorted(attempts) == ([1, 1] if commits else [1, 1, 2, 2])
        assert [(each.id, each.state) for each in pit.entries()] == [("series", "scheduled")]


def test_a_listener_hears_of_messages_by_a_change_stream(router, coll, counts):
    where = {"type": "mongo", "uri": router.uri, "dbname": coll.database.name, "coll": coll.name}
    with pitstop.init(where) as pit, pitstop.init(where) as other, pit.listen(loop_time="1h") as listener:
        assert listener.get(timeout=1) is None
        other.store({"id": "a"}, NOW)
        delivery = listener.get(timeout=60)
        assert delivery.id == "a"
        delivery.ack()
        other.store_many([({"n": n}, NOW) for n in range(30)])
        for _ in range(30):
            listener.get(timeout=60).ack()
    found = counts()
    assert f"{coll.name}.wakeups" not in coll.database.list_collection_names()
    assert "findAndModify" not in found


@pytest.mark.parametrize("code", [133, 249, 13388])
def test_a_shard_that_is_away_is_no_fault_of_a_message(code):
    """A fault of a message lets claims skip it for a minute."""
    part = {"index": 0, "code": code, "errmsg": "Could not find host matching read preference"}
    for error in (
        pymongo.errors.OperationFailure("", code, part),
        pymongo.errors.BulkWriteError({"writeErrors": [part], "writeConcernErrors": []}),
    ):
        assert not is_refusal(error)
        assert kind_of(error) is Kind.UNKNOWN
