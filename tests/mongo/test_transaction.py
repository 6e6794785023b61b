"""Messages in a transaction of the user, on a real replica set: stored or removed if and only if it commits."""

from __future__ import annotations

import re
import threading
import time

from datetime import timedelta
from pathlib import Path

import pymongo
import pytest

from pymongo.errors import ConnectionFailure, DuplicateKeyError, OperationFailure

import pitstop

from patience import with_some_time
from pitstop import BackendUnavailable, ConfigError, LeaseLost, MessageError, PitstopError, Unsupported


NOW = timedelta(0)
HOUR = timedelta(hours=1)


class Broken(Exception):
    """An error of the user's own code."""


@pytest.fixture(scope="module")
def client(replica_set_client):
    return replica_set_client


@pytest.fixture
def db(replica_set_database):
    """Two collections: ``orders`` of the user, and the messages."""
    database = replica_set_database
    database.messages.delete_many({})
    database.orders.delete_many({})
    database.orders.insert_one({"_id": 0})
    return database


@pytest.fixture
def open_pit(client, db):
    opened = []

    def open_pit(**options):
        opened.append(pitstop.init({"type": "mongo", "client": client, "dbname": db.name, **options}))
        return opened[-1]

    yield open_pit
    for each in opened:
        each.close()


@pytest.fixture
def pit(open_pit):
    pit = open_pit()
    pit.stats()  # makes the collection and its index
    return pit


@pytest.fixture
def session(client):
    with client.start_session() as session:
        yield session


def test_a_transaction_that_commits_leaves_both_the_order_and_its_message(pit, db, session):
    with session.start_transaction():
        db.orders.insert_one({"_id": 1}, session=session)
        id = pit.store({"order": 1}, HOUR, session=session)
        assert pit.get(id) is None, "no other reader sees it before the commit"
        assert db.messages.find_one({"_id": id}, session=session) is not None, "but the transaction itself"

    assert db.orders.find_one({"_id": 1}) is not None
    assert pit.get(id).message == {"id": id, "order": 1}


def test_a_transaction_that_aborts_leaves_neither(pit, db, session):
    session.start_transaction()
    db.orders.insert_one({"_id": 1}, session=session)
    pit.store({"id": "a"}, HOUR, session=session)
    session.abort_transaction()

    assert db.orders.find_one({"_id": 1}) is None
    assert pit.entries() == []


def test_an_exception_in_the_block_leaves_neither(pit, db, session):
    def work():
        with session.start_transaction():
            db.orders.insert_one({"_id": 1}, session=session)
            pit.store_many([({"id": id}, HOUR) for id in "abc"], session=session)
            raise Broken

    with pytest.raises(Broken):
        work()
    assert db.orders.find_one({"_id": 1}) is None
    assert pit.entries() == []


def test_a_process_that_dies_in_the_transaction_leaves_neither(pit, db, client):
    """Its session is never ended in order. The server ends it."""
    session = client.start_session()
    session.start_transaction()
    db.orders.insert_one({"_id": 1}, session=session)
    pit.store({"id": "a"}, HOUR, session=session)
    client.admin.command("killSessions", [session.session_id])

    with pytest.raises(OperationFailure):
        session.commit_transaction()
    assert db.orders.find_one({"_id": 1}) is None
    assert pit.entries() == []


def test_an_update_holds_from_the_commit_on(pit, session):
    pit.store({"id": "a", "n": 1}, HOUR)
    with session.start_transaction():
        pit.store({"id": "a", "n": 2}, 2 * HOUR, session=session)
        assert pit.get("a").message["n"] == 1

    entry = pit.get("a")
    assert entry.message["n"] == 2
    assert entry.due > pit.now() + HOUR


def test_a_message_is_removed_if_the_transaction_commits(pit, session):
    pit.store_many([({"id": id}, HOUR) for id in "ab"])
    with session.start_transaction():
        assert pit.remove("a", session=session) is True
        assert pit.remove("a", session=session) is False
        assert pit.remove("never-stored", session=session) is False
        assert pit.get("a") is not None
    assert pit.get("a") is None

    session.start_transaction()
    pit.remove("b", session=session)
    session.abort_transaction()
    assert pit.get("b") is not None


def test_remove_and_store_of_one_id_in_one_transaction(pit, session):
    pit.store({"id": "a", "n": 1}, NOW, every=HOUR)
    with session.start_transaction():
        assert pit.remove("a", session=session)
        pit.store({"id": "a", "n": 2}, HOUR, session=session)
        pit.store({"id": "b"}, HOUR, session=session)
        assert pit.remove("b", session=session)

    (entry,) = pit.entries()
    assert (entry.message, entry.every) == ({"id": "a", "n": 2}, None)


def test_a_thousand_messages_in_one_transaction(pit, session):
    """New messages and stored ones: either all are stored or none is."""
    pit.store_many([({"id": f"{n:04}", "n": -1}, HOUR) for n in range(0, 1000, 2)])
    items = [({"id": f"{n:04}", "n": n}, HOUR) for n in range(1000)]

    session.start_transaction()
    pit.store_many(items, session=session)
    session.abort_transaction()
    assert {each.message["n"] for each in pit.entries(limit=2000)} == {-1}

    with session.start_transaction():
        assert pit.store_many(items, session=session) == [message["id"] for message, _ in items]
    assert sorted(each.message["n"] for each in pit.entries(limit=2000)) == list(range(1000))


def test_store_many_of_nothing_looks_at_the_session_too(pit, session):
    with session.start_transaction():
        assert pit.store_many([], session=session) == []
    with pytest.raises(PitstopError, match="is in no transaction"):
        pit.store_many([], session=session)


def test_a_message_that_cannot_be_stored_leaves_the_transaction_alone(pit, db, session):
    with session.start_transaction():
        pit.store({"id": "a"}, HOUR, session=session)
        with pytest.raises(MessageError, match="set"):
            pit.store({"id": "b", "x": {1}}, HOUR, session=session)
        with pytest.raises(MessageError, match="larger than"):
            pit.store_many([({"id": "c"}, HOUR), ({"id": "d", "x": "x" * 2**24}, HOUR)], session=session)
        db.orders.insert_one({"_id": 1}, session=session)

    assert [each.id for each in pit.entries()] == ["a"]
    assert db.orders.find_one({"_id": 1}) is not None


class TestWithTransaction:
    def test_is_retried_after_a_write_conflict(self, pit, db, session):
        """Another process stores the message after the transaction began, and before it writes."""
        pit.store({"id": "a", "n": 0}, HOUR)
        calls = []

        def work(session):
            calls.append(db.orders.insert_one({"n": len(calls)}, session=session))
            if len(calls) < 3:
                pit.store({"id": "a", "n": -len(calls)}, HOUR)
            pit.store({"id": "a", "n": len(calls)}, HOUR, session=session)

        session.with_transaction(work)

        assert len(calls) == 3
        assert pit.get("a").message["n"] == 3
        assert db.orders.count_documents({"n": {"$exists": True}}) == 1, "the earlier tries are rolled back"

    @pytest.mark.parametrize("many", [False, True], ids=["store", "store_many"])
    def test_is_retried_when_another_one_stored_the_new_id_first(self, pit, db, session, many):
        calls = []

        def work(session):
            db.orders.find_one(session=session)  # the transaction does not see later stores
            calls.append(1)
            if len(calls) == 1:
                pit.store({"id": "a", "n": 0}, HOUR)
            if many:
                pit.store_many([({"id": id, "n": 1}, HOUR) for id in "bac"], session=session)
            else:
                pit.store({"id": "a", "n": 1}, HOUR, session=session)

        session.with_transaction(work)

        assert len(calls) == 2
        assert pit.get("a").message["n"] == 1

    @pytest.mark.parametrize(
        ("options", "outcome"), [({"if_exists": "keep"}, "kept"), ({"keep_schedule": True}, "updated")], ids=str
    )
    def test_is_retried_when_another_one_stored_the_id_that_was_not_there(self, pit, db, session, options, outcome):
        outcomes = []

        def work(session):
            db.orders.find_one(session=session)  # the transaction does not see later stores
            outcomes.append(None)
            if len(outcomes) == 1:
                pit.store({"id": "a", "n": 0}, HOUR)
            outcomes[-1] = pit.store({"id": "a", "n": 1}, HOUR, session=session, **options).outcome

        session.with_transaction(work)

        assert outcomes == [None, outcome]
        assert pit.get("a").message["n"] == (0 if outcome == "kept" else 1)

    def test_is_retried_when_another_one_replaced_the_message_that_was_there(self, pit, db, session):
        pit.store({"id": "a", "n": 0}, every=HOUR)
        tries = []

        def work(session):
            db.orders.find_one(session=session)
            tries.append(1)
            if len(tries) == 1:
                pit.store({"id": "a", "n": 1}, every=2 * HOUR)
            return pit.store({"id": "a", "n": 2}, every=HOUR, if_exists="keep", keep_schedule=True, session=session)

        stored = session.with_transaction(work)

        assert (len(tries), stored.outcome) == (2, "replaced")
        assert pit.get("a").every == HOUR

    def test_is_retried_when_another_one_removed_the_message_first(self, pit, db, session):
        pit.store({"id": "a"}, HOUR)
        removed = []

        def work(session):
            db.orders.find_one(session=session)
            if not removed:
                pit.remove("a")
            removed.append("tried")
            removed[-1] = pit.remove("a", session=session)

        session.with_transaction(work)

        assert removed == ["tried", False]

    def test_is_retried_in_a_collection_that_is_made_meanwhile(self, open_pit, db, session):
        """With the very first message, the collection and the index are newer than the transaction's view."""
        db.messages.drop()
        pit, calls = open_pit(), []

        def work(session):
            calls.append(db.orders.insert_one({}, session=session))
            pit.store({"id": "a"}, HOUR, session=session)

        session.with_transaction(work)

        assert len(calls) == 2
        assert pit.get("a") is not None
        assert [list(each["key"]) for each in db.messages.list_indexes()] == [["_id"], ["due"]]

    def test_is_retried_when_the_connection_is_lost(self, pit, client, db, session, fail_once):
        calls = []

        def work(session):
            calls.append(db.orders.insert_one({}, session=session))
            if len(calls) == 1:
                fail_once("update", closeConnection=True)
            pit.store({"id": "a"}, HOUR, session=session)

        session.with_transaction(work)

        assert len(calls) == 2
        assert pit.get("a") is not None

    def test_is_retried_when_the_outcome_of_the_commit_is_unknown(self, pit, session, fail_once):
        calls = []

        def work(session):
            calls.append(1)
            pit.store({"id": "a"}, HOUR, session=session)
            fail_once("commitTransaction", writeConcernError={"code": 64, "errmsg": "not yet on a majority"})

        session.with_transaction(work)

        assert len(calls) == 1
        assert pit.get("a") is not None

    def test_is_ended_by_an_error_that_is_not_to_be_retried(self, pit, db, session, fail_once):
        """It is Pitstop's error, and does not quote the document."""
        calls = []

        def work(session):
            calls.append(db.orders.insert_one({"_id": 1}, session=session))
            fail_once("update", errorCode=13)
            pit.store({"id": "a", "x": "s3cr3t"}, HOUR, session=session)

        with pytest.raises(BackendUnavailable, match="does not allow this user") as caught:
            session.with_transaction(work)

        assert len(calls) == 1
        assert "s3cr3t" not in repr(caught.value)
        assert caught.value.__cause__ is None
        assert pit.get("a") is None
        assert db.orders.find_one({"_id": 1}) is None

    def test_can_be_ended_by_an_exception_of_the_users(self, pit, session):
        def work(session):
            pit.store({"id": "a"}, HOUR, session=session)
            raise Broken

        with pytest.raises(Broken):
            session.with_transaction(work)
        assert pit.entries() == []


@pytest.fixture
def fail_once(client):
    """Lets the server fail a command once."""

    def fail_once(command, **how):
        data = {"failCommands": [command], **how}
        client.admin.command({"configureFailPoint": "failCommand", "mode": {"times": 1}, "data": data})

    yield fail_once
    client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})


def test_a_conflict_is_the_drivers_error_without_the_document(pit, db, session):
    session.start_transaction()
    db.orders.find_one(session=session)
    pit.store({"id": "a"}, HOUR)
    with pytest.raises(OperationFailure) as caught:
        pit.store({"id": "a", "x": "s3cr3t"}, HOUR, session=session)
    session.abort_transaction()

    assert caught.value.has_error_label("TransientTransactionError")
    assert "s3cr3t" not in str(caught.value)


def test_an_error_that_was_caught_in_the_block_leaves_nothing_to_commit(pit, db, session):
    """The server has aborted the transaction, so its commit fails."""
    db.messages.create_index([("msg.x", 1)], unique=True)
    try:
        pit.store({"id": "a", "x": "s3cr3t"}, HOUR)
        session.start_transaction()
        db.orders.insert_one({"_id": 1}, session=session)
        with pytest.raises(BackendUnavailable, match="has an index that refuses this") as caught:
            pit.store({"id": "b", "x": "s3cr3t"}, HOUR, session=session)
        with pytest.raises(OperationFailure) as refused:
            session.commit_transaction()
    finally:
        db.messages.drop_index([("msg.x", 1)])

    assert "s3cr3t" not in repr(caught.value)
    assert refused.value.code == 251
    assert [each.id for each in pit.entries()] == ["a"]
    assert db.orders.find_one({"_id": 1}) is None


def test_a_server_that_hangs_is_a_transient_error_in_bounded_time(open_pit, session, client, fail_once):
    pit = open_pit(operation_timeout="500ms")
    pit.stats()

    def show(seconds):
        session.start_transaction()
        fail_once("update", blockConnection=True, blockTimeMS=round(seconds * 1000))
        began = time.monotonic()
        with pytest.raises(ConnectionFailure) as caught:
            pit.store({"id": "a"}, HOUR, session=session)
        session.abort_transaction()
        assert time.monotonic() - began < seconds - 0.05
        assert caught.value.has_error_label("TransientTransactionError")

    with_some_time(show, (1.0, 6.0))


class TestListener:
    def test_gets_the_message_after_the_commit_and_not_before(self, pit, session):
        with pit.listen() as listener:
            with session.start_transaction():
                pit.store({"id": "a"}, NOW, session=session)
                assert listener.get() is None
            assert listener.get().id == "a"

    def test_that_sleeps_notices_the_commit_at_its_next_look_at_the_latest(self, pit, session):
        with pit.listen(loop_time="200ms") as listener:
            timer = threading.Timer(0.1, session.commit_transaction)
            session.start_transaction()
            pit.store({"id": "a"}, NOW, session=session)
            timer.start()
            delivery = listener.get(timeout=10)
            timer.join()
        assert delivery.id == "a"

    def test_gets_a_late_commit_before_the_backlog_at_once_or_within_a_second(self, open_pit, pit, session):
        """A claimer remembers where the backlog begins. A later commit may add a message before that."""
        pit.store_many([({"n": n}, NOW) for n in range(3000)])
        with pit.listen(prefetch=10) as listener:
            session.start_transaction()
            pit.store({"id": "late"}, -HOUR, session=session)
            for _ in range(100):
                listener.get().ack()
            backend = pit._session.backend
            assert backend._claimers.all._low is not None, "it remembers"
            session.commit_transaction()
            began, handled = time.monotonic(), 0
            while (delivery := listener.get()).id != "late":
                delivery.ack()
                handled += 1
            took = time.monotonic() - began

        # On a slow machine, far fewer than the backlog of 2,900 are handled in a second.
        assert took < 1.5 or handled < 2000
        print(f"committed below the low watermark: found after {took:.3f} s and {handled} others")

    def test_that_holds_the_message_is_not_disturbed_before_the_commit_and_too_late_after_it(self, pit, db, session):
        pit.store({"id": "a", "n": 1}, NOW)
        with pit.listen() as listener:
            held = listener.get()
            with session.start_transaction():
                pit.store({"id": "a", "n": 2}, HOUR, session=session)
                assert pit.get("a").state == "leased"
            with pytest.raises(LeaseLost):
                held.ack()
            assert pit.get("a").message["n"] == 2

            pit.store({"id": "b"}, NOW)
            held = listener.get()
            with session.start_transaction():
                pit.remove("b", session=session)
            with pytest.raises(LeaseLost):
                held.nack("late", delay=NOW)
            assert pit.get("b") is None

    def test_that_acknowledges_first_wins(self, pit, db, session):
        """The transaction must be repeated. Then it stores the message again."""
        pit.store({"id": "a", "n": 1}, NOW)
        calls = []
        with pit.listen() as listener:
            held = listener.get()

            def work(session):
                db.orders.find_one(session=session)
                if not calls:
                    held.ack()
                calls.append(1)
                pit.store({"id": "a", "n": 2}, HOUR, session=session)

            session.with_transaction(work)

        assert len(calls) == 2
        assert pit.get("a").message["n"] == 2

    @pytest.mark.parametrize("commits", [True, False], ids=["commit", "abort"])
    def test_that_acknowledges_second_waits_for_the_end_of_the_transaction(self, pit, session, commits):
        pit.store({"id": "a", "n": 1}, NOW)
        with pit.listen() as listener:
            held = listener.get()
            session.start_transaction()
            pit.store({"id": "a", "n": 2}, HOUR, session=session)
            threading.Timer(0.3, session.commit_transaction if commits else session.abort_transaction).start()
            began = time.monotonic()
            if commits:
                with pytest.raises(LeaseLost):
                    held.ack()
            else:
                held.ack()
            assert time.monotonic() - began >= 0.2

        entry = pit.get("a")
        assert entry.message["n"] == 2 if commits else entry is None

    def test_that_would_claim_a_message_that_the_transaction_has_written_waits_for_its_end(
        self, open_pit, pit, session
    ):
        """A transaction that stores due messages again delays listeners until it ends, or until operation_timeout."""
        impatient = open_pit(operation_timeout="300ms", lock_time="1s")
        pit.store({"id": "a", "n": 1}, NOW)
        session.start_transaction()
        pit.store({"id": "a", "n": 2}, NOW, session=session)
        with impatient.listen() as listener, pytest.raises(BackendUnavailable):
            listener.get()
        session.commit_transaction()
        with pit.listen() as listener:
            # The server may still do a claim that timed out, later. Then that lease must end first.
            delivery = listener.get(timeout=20)
            assert delivery.msg["n"] == 2
            assert delivery.attempt <= 2


class TestRefusals:
    def calls(self, pit, session):
        return (
            lambda: pit.store({"id": "x"}, HOUR, session=session),
            lambda: pit.store_many([({"id": "x"}, HOUR)], session=session),
            lambda: pit.remove("a", session=session),
        )

    def refused(self, pit, session, error, text):
        pit.store({"id": "a"}, HOUR)
        for call in self.calls(pit, session):
            with pytest.raises(error, match=text) as caught:
                call()
            assert type(caught.value) is error
        assert [each.id for each in pit.entries()] == ["a"]

    def test_of_a_session_without_a_transaction(self, pit, session):
        self.refused(pit, session, PitstopError, r"session is in no transaction\. Call session\.start_transaction\(\)")

    def test_of_a_transaction_that_is_over(self, pit, session):
        with session.start_transaction():
            pit.store({"id": "b"}, HOUR, session=session)
        pit.remove("b")
        self.refused(pit, session, PitstopError, "session is in no transaction")

    def test_of_a_session_that_has_ended(self, pit, client):
        with client.start_session() as session:
            pass
        self.refused(pit, session, PitstopError, "session has ended. Start a new session")

    def test_of_a_session_of_another_client(self, pit, replica_set_uri):
        with pymongo.MongoClient(replica_set_uri) as other, other.start_session() as session:
            session.start_transaction()
            self.refused(
                pit, session, PitstopError, "session belongs to another client than the one that init was given"
            )

    def test_of_any_session_when_the_client_is_pitstops_own(self, replica_set_uri, db, session):
        session.start_transaction()
        with pitstop.init({"type": "mongo", "uri": replica_set_uri, "dbname": db.name}) as pit:
            self.refused(pit, session, ConfigError, "Give your client to init as client")

    @pytest.mark.parametrize(
        "session", [5, "session", object(), pymongo.MongoClient], ids=["int", "str", "any", "class"]
    )
    def test_of_a_value_that_is_no_session(self, pit, session):
        self.refused(pit, session, PitstopError, r"session is a \w+\. Give the session that start_session\(\)")

    def test_of_an_asynchronous_session(self, pit):
        session = pymongo.AsyncMongoClient(connect=False).start_session()
        self.refused(
            pit,
            session,
            PitstopError,
            r"session is a AsyncClientSession, and the client .* is a MongoClient\. Call start",
        )

    def test_on_a_standalone_server(self, mongo_client, mongo_dbname):
        with (
            pitstop.init({"type": "mongo", "client": mongo_client, "dbname": mongo_dbname}) as pit,
            mongo_client.start_session() as session,
        ):
            if "setName" in mongo_client.admin.command("hello"):
                pytest.skip("the server that was given is a replica set")
            session.start_transaction()
            pit.store({"id": "a"}, HOUR)
            with pytest.raises(Unsupported, match=r"capability TRANSACTIONS.*Make it a replica set.*One member"):
                pit.store({"id": "x"}, HOUR, session=session)
            session.abort_transaction()
            session.start_transaction()
            with pytest.raises(Unsupported, match="capability TRANSACTIONS"):
                pit.remove("a", session=session)
            session.abort_transaction()
            assert [each.id for each in pit.entries()] == ["a"]

    def test_of_a_closed_pitstop(self, pit, session):
        session.start_transaction()
        pit.close()
        for call in self.calls(pit, session):
            with pytest.raises(BackendUnavailable, match="was closed"):
                call()


def test_the_documented_example_does_what_it_says(replica_set_uri, db):
    page = (Path(__file__).parents[2] / "docs" / "backends" / "mongodb.md").read_text()
    (block,) = re.findall(r"^```python\n((?:(?!```)[^`])*def place_order.*?)^```$", page, re.MULTILINE | re.DOTALL)
    block = block.replace("mongodb://db1,db2/?replicaSet=rs", replica_set_uri).replace('"app"', repr(db.name))
    example = {}
    exec(block.replace("client.app.", f"client.{db.name}."), example)
    try:
        example["place_order"]({"_id": 7, "of": "a book"})
        assert db.orders.find_one({"_id": 7}) is not None
        assert example["pit"].get("remind-7").message["order"] == 7
        with pytest.raises(DuplicateKeyError):
            example["place_order"]({"_id": 7, "of": "another one"})
        example["pit"].emit_now("remind-7")
        assert example["pit"].consume(example["remind"], until_idle=True).acked == 1
        assert db.orders.find_one({"_id": 7})["reminded"] == 1
        example["pit"].store({"id": "remind-7", "order": 7}, HOUR)
        example["cancel_order"](7)
        assert db.orders.find_one({"_id": 7}) is None
        assert example["pit"].get("remind-7") is None
    finally:
        example["pit"].close()
        example["client"].close()


def test_the_hook_is_called_at_the_call(db, session):
    """Not at the commit, of which Pitstop gets no notice. The message may still be rolled back."""

    class Seen:
        ids: list[str] = []  # noqa: RUF012

        @pitstop.hookimpl
        def pitstop_message_stored(self, entry):
            self.ids.append(entry.id)

    with pitstop.init({"type": "mongo", "client": session.client, "dbname": db.name}, plugins=[Seen()]) as pit:
        pit.stats()
        session.start_transaction()
        pit.store({"id": "a"}, HOUR, session=session)
        assert Seen.ids == ["a"]
        session.abort_transaction()
        assert pit.get("a") is None
