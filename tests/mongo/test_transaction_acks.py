"""Acks in a transaction of the user, on a real replica set: the effect and the ack commit together, or neither does."""

from __future__ import annotations

import threading

from datetime import timedelta

import pymongo
import pytest

from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

import pitstop

from pitstop import LeaseLost, PitstopError, Unsupported


NOW = timedelta(0)
HOUR = timedelta(hours=1)


class Broken(Exception):
    """An error of the user's own code."""


class Observer:
    """Notes the outcomes of deliveries."""

    def __init__(self):
        self.seen = []

    @pitstop.hookimpl
    def pitstop_message_acked(self, delivery):
        self.seen.append(("acked", delivery.id))

    @pitstop.hookimpl
    def pitstop_message_retried(self, delivery, error, due):
        self.seen.append(("retried", delivery.id))

    @pitstop.hookimpl
    def pitstop_lease_lost(self, delivery):
        self.seen.append(("lost", delivery.id))

    @pitstop.hookimpl
    def pitstop_recurrence_advanced(self, id, scheduled_for, last_error):
        self.seen.append(("advanced", id))


@pytest.fixture(scope="module")
def client(replica_set_client):
    return replica_set_client


@pytest.fixture
def db(replica_set_database):
    """Two collections: ``effects`` of the user, and the messages."""
    database = replica_set_database
    database.messages.delete_many({})
    database.effects.delete_many({})
    database.effects.insert_one({"_id": 0})
    return database


@pytest.fixture
def observer():
    return Observer()


@pytest.fixture
def open_pit(client, db, observer):
    opened = []

    def open_pit(**options):
        where = {"type": "mongo", "client": client, "dbname": db.name, **options}
        opened.append(pitstop.init(where, plugins=[observer]))
        opened[-1].stats()  # makes the collection and its index
        return opened[-1]

    yield open_pit
    for each in opened:
        each.close()


@pytest.fixture
def pit(open_pit):
    return open_pit(retry={"delay": 0})


@pytest.fixture
def session(client):
    with client.start_session() as session:
        yield session


@pytest.fixture
def fail_once(client):
    """Lets the server fail a command once."""

    def fail_once(command, **how):
        data = {"failCommands": [command], **how}
        client.admin.command({"configureFailPoint": "failCommand", "mode": {"times": 1}, "data": data})

    yield fail_once
    client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})


def effects(db):
    return db.effects.count_documents({"_id": {"$ne": 0}})


def consume(pit, handler, **options):
    return pit.consume(handler, deliveries=True, until_idle=True, **options)


def test_the_effect_and_the_ack_commit_together(pit, db, client, observer):
    pit.store_many([({"id": id}, NOW) for id in "ab"])

    def handle(delivery):
        with client.start_session() as session, session.start_transaction():
            db.effects.insert_one({"_id": delivery.key}, session=session)
            delivery.ack(session=session)
            assert pit.get(delivery.id).state == "leased", "no other reader sees it before the commit"
            assert pit.get(delivery.id, session=session) is None, "but the transaction itself"

    summary = consume(pit, handle)

    assert (summary.acked, summary.nacked, summary.lost) == (2, 0, 0)
    assert (effects(db), pit.entries()) == (2, [])
    assert sorted(observer.seen) == [("acked", "a"), ("acked", "b")], "once each, after the commit"


def test_an_exception_in_the_block_undoes_both_and_the_message_comes_back(pit, db, client, observer):
    pit.store({"id": "a"}, NOW)

    def handle(delivery):
        with client.start_session() as session, session.start_transaction():
            db.effects.insert_one({"_id": delivery.key}, session=session)
            delivery.ack(session=session)
            if delivery.attempt < 3:
                raise Broken

    summary = consume(pit, handle)

    assert (summary.acked, summary.nacked) == (1, 2)
    assert (effects(db), pit.entries()) == (1, [])
    assert observer.seen == [("retried", "a"), ("retried", "a"), ("acked", "a")]


def test_a_handler_that_returns_after_an_abort_has_not_acknowledged(pit, db, client, observer):
    """It is not acknowledged outside of the transaction either. It comes back, and its error says why."""
    pit.store({"id": "a"}, NOW)
    errors = []

    def handle(delivery):
        errors.append(delivery.last_error)
        with client.start_session() as session:
            session.start_transaction()
            db.effects.insert_one({"_id": delivery.key}, session=session)
            delivery.ack(session=session)
            if delivery.attempt == 1:
                session.abort_transaction()
            else:
                session.commit_transaction()

    summary = consume(pit, handle)

    assert (summary.acked, summary.nacked) == (1, 1)
    assert "transaction in which it acknowledged the message did not commit" in errors[1]
    assert (effects(db), pit.entries()) == (1, [])


def test_a_handler_that_fails_after_the_commit_has_acknowledged(pit, db, client, observer):
    pit.store({"id": "a"}, NOW)

    def handle(delivery):
        with client.start_session() as session, session.start_transaction():
            delivery.ack(session=session)
        raise Broken

    summary = consume(pit, handle)

    assert (summary.acked, summary.nacked, summary.lost) == (1, 0, 0)
    assert pit.entries() == []
    assert observer.seen == [("acked", "a")]


def test_an_iteration_looks_after_the_ack_at_the_end_of_the_with_block(pit, client, observer):
    pit.store_many([({"id": id}, NOW) for id in ("commits", "aborts")])
    with pit.listen() as listener:
        for _ in range(2):
            delivery = listener.get()
            with delivery, client.start_session() as session:
                session.start_transaction()
                delivery.ack(session=session)
                if delivery.id == "commits":
                    session.commit_transaction()
        assert sorted(observer.seen) == [("acked", "commits"), ("retried", "aborts")]
        assert listener.get().id == "aborts"


def test_a_transaction_that_is_open_at_the_end_of_the_with_block_decides(pit, client, observer, session):
    """Nothing is written outside of it, which would wait for its end. When it has ended, Pitstop looks for the ack."""
    pit.store_many([({"id": id}, NOW) for id in "ab"])
    with pit.listen() as listener:
        with session.start_transaction(), listener.get() as delivery:
            delivery.ack(session=session)
        assert pit.get(delivery.id) is None

        def fails():
            with session.start_transaction(), listener.get() as delivery:
                delivery.ack(session=session)
                raise Broken

        with pytest.raises(Broken):
            fails()
    (entry,) = pit.entries()
    assert (entry.state, entry.last_error) == ("due", "Broken: ")
    assert observer.seen == [("acked", delivery.id), ("retried", entry.id)]


def test_a_program_that_ends_in_the_block_has_made_no_attempt(pit, session):
    pit.store({"id": "a"}, NOW)
    with pit.listen() as listener:

        def interrupted():
            with session.start_transaction(), listener.get() as delivery:
                delivery.ack(session=session)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
    (entry,) = pit.entries()
    assert (entry.state, entry.attempts, entry.last_error) == ("due", 1, None)


def test_a_transaction_that_is_tried_again_around_the_block_acknowledges_again(pit, db, session, observer):
    pit.store({"id": "a"}, NOW)
    tries = []
    with pit.listen() as listener:
        delivery = listener.get()

        def work(session):
            tries.append(db.effects.find_one({"_id": 0}, session=session))
            if len(tries) == 1:
                db.effects.update_one({"_id": 0}, {"$inc": {"n": 1}})
            with delivery:
                pit.entries()  # looks for transactions that have ended
                delivery.ack(session=session)
            db.effects.update_one({"_id": 0}, {"$set": {"by": delivery.key}}, session=session)

        session.with_transaction(work)
    assert (len(tries), pit.entries()) == (2, [])
    assert observer.seen == [("acked", "a")]


def test_several_deliveries_are_acknowledged_in_one_transaction(pit, db, client, session):
    pit.store_many([({"id": str(n)}, NOW) for n in range(20)])
    with pit.listen(prefetch=20) as listener:
        with session.start_transaction():
            for _ in range(20):
                delivery = listener.get()
                db.effects.insert_one({"_id": delivery.key}, session=session)
                delivery.ack(session=session)
        assert (effects(db), pit.entries()) == (20, [])


def test_a_series_goes_on_with_the_commit(pit, client, session, observer):
    start = pit.now() - timedelta(minutes=90)
    pit.store({"id": "a"}, start, every=HOUR)
    with pit.listen() as listener:
        with listener.get() as delivery:
            session.start_transaction()
            delivery.ack(session=session)
            assert pit.get("a").scheduled_for == delivery.scheduled_for
            assert pit.get("a", session=session).scheduled_for == delivery.scheduled_for + HOUR
            session.commit_transaction()
        entry = pit.get("a")
    assert (entry.state, entry.scheduled_for, entry.attempts) == ("scheduled", start + 2 * HOUR, 0)
    assert sorted(observer.seen) == [("acked", "a"), ("advanced", "a")]


def test_the_last_occurrence_of_a_series_is_deleted_with_the_commit(pit, session):
    start = pit.now() - timedelta(minutes=30)
    pit.store({"id": "a"}, start, start + HOUR, every=HOUR)
    with pit.listen() as listener, session.start_transaction():
        listener.get().ack(session=session)
    assert pit.get("a") is None


def test_the_next_message_of_a_chain_is_stored_in_the_transaction_of_the_ack(pit, client):
    pit.store({"id": "step 1"}, NOW)
    ids = []

    def handle(delivery):
        ids.append(delivery.id)
        with client.start_session() as session, session.start_transaction():
            if len(ids) < 3:
                pit.store({"id": f"step {len(ids) + 1}"}, NOW, session=session)
            delivery.ack(session=session)

    assert consume(pit, handle).acked == 3
    assert ids == ["step 1", "step 2", "step 3"]


class TestWithTransaction:
    def test_the_ack_is_written_again_when_the_transaction_is_tried_again(self, pit, db, client):
        pit.store({"id": "a"}, NOW)
        tries = []

        def handle(delivery):
            def work(session):
                tries.append(db.effects.find_one({"_id": 0}, session=session))
                if len(tries) < 3:
                    db.effects.update_one({"_id": 0}, {"$inc": {"n": 1}})
                delivery.ack(session=session)
                db.effects.update_one({"_id": 0}, {"$set": {"by": delivery.key}}, session=session)
                db.effects.insert_one({"_id": delivery.key}, session=session)

            with client.start_session() as session:
                session.with_transaction(work)

        summary = consume(pit, handle)

        assert (len(tries), summary.acked, summary.lost) == (3, 1, 0)
        assert (effects(db), pit.entries()) == (1, [])

    def test_an_extension_since_the_transaction_began_is_a_conflict(self, pit, db, session):
        pit.store({"id": "a"}, NOW)
        tries = []
        with pit.listen() as listener:
            delivery = listener.get()

            def work(session):
                tries.append(db.effects.find_one(session=session))
                if len(tries) == 1:
                    delivery.extend("1h")
                delivery.ack(session=session)

            session.with_transaction(work)
        assert len(tries) == 2
        assert pit.get("a") is None

    def test_a_lease_that_is_newer_than_the_transaction_is_a_conflict_and_not_lost(self, pit, db, session):
        pit.store({"id": "a"}, NOW)
        held = []
        with pit.listen() as listener:

            def work(session):
                db.effects.find_one(session=session)  # the transaction does not see later leases
                held[:] = held or [listener.get()]
                held[0].ack(session=session)

            session.with_transaction(work)
            assert not held[0].lost
        assert pit.get("a") is None

    @pytest.mark.parametrize("change", ["store", "remove"])
    def test_a_message_that_another_one_changes_meanwhile_is_a_lost_lease(self, pit, open_pit, db, session, change):
        other = open_pit()
        pit.store({"id": "a", "n": 1}, NOW)
        tries = []
        with pit.listen() as listener:
            delivery = listener.get()

            def work(session):
                tries.append(db.effects.insert_one({"n": 1}, session=session))
                if len(tries) == 1:
                    other.store({"id": "a", "n": 2}, HOUR) if change == "store" else other.remove("a")
                delivery.ack(session=session)

            with pytest.raises(LeaseLost):
                session.with_transaction(work)
            assert delivery.lost
        # The first try is a conflict. The second one sees the change.
        assert len(tries) == 2
        assert effects(db) == 0
        assert [each.message["n"] for each in pit.entries()] == ([2] if change == "store" else [])

    def test_is_tried_again_when_the_connection_is_lost(self, pit, db, session, fail_once):
        pit.store({"id": "a"}, NOW)
        tries = []
        with pit.listen() as listener, listener.get() as delivery:

            def work(session):
                tries.append(db.effects.insert_one({}, session=session))
                if len(tries) == 1:
                    fail_once("delete", closeConnection=True)
                delivery.ack(session=session)

            session.with_transaction(work)
        assert (len(tries), effects(db), pit.entries()) == (2, 1, [])

    def test_a_commit_whose_outcome_is_unknown_is_tried_again_by_the_driver(
        self, pit, db, session, fail_once, observer
    ):
        pit.store({"id": "a"}, NOW)
        tries = []
        with pit.listen() as listener, listener.get() as delivery:

            def work(session):
                tries.append(db.effects.insert_one({}, session=session))
                delivery.ack(session=session)
                fail_once("commitTransaction", writeConcernError={"code": 64, "errmsg": "not yet on a majority"})

            session.with_transaction(work)
        assert (len(tries), effects(db), pit.entries()) == (1, 1, [])
        assert observer.seen == [("acked", "a")]


@pytest.mark.parametrize("code", [189, 91, 11602], ids=["stepped down", "shuts down", "interrupted"])
def test_a_primary_that_is_lost_before_the_commit(pit, db, session, fail_once, observer, code):
    """The driver sends the commit again."""
    pit.store({"id": "a"}, NOW)
    with pit.listen() as listener, listener.get() as delivery:

        def work(session):
            db.effects.insert_one({}, session=session)
            delivery.ack(session=session)
            fail_once("commitTransaction", errorCode=code)

        session.with_transaction(work)
    assert (effects(db), pit.entries()) == (1, [])
    assert observer.seen == [("acked", "a")]


def test_a_session_whose_client_was_closed_is_refused(db, replica_set_uri):
    client = pymongo.MongoClient(replica_set_uri)
    with pitstop.init({"type": "mongo", "uri": replica_set_uri, "dbname": db.name}) as peer:
        peer.store({"id": "a"}, NOW)
    with pitstop.init({"type": "mongo", "client": client, "dbname": db.name}) as pit, pit.listen() as listener:
        delivery = listener.get()
        session = client.start_session()
        session.start_transaction()
        client.close()
        for call in (
            lambda: pit.store({"id": "b"}, HOUR, session=session),
            lambda: pit.remove("a", session=session),
            lambda: pit.get("a", session=session),
            lambda: delivery.ack(session=session),
        ):
            with pytest.raises(PitstopError, match="closed"):
                call()


def test_a_standalone_server_refuses_the_ack_and_the_delivery_stays_open(mongo_client, mongo_dbname):
    with pitstop.init({"type": "mongo", "client": mongo_client, "dbname": mongo_dbname}) as pit:
        pit.store({"id": "a"}, NOW)
        with pit.listen() as listener, listener.get() as delivery:
            with mongo_client.start_session() as session:
                session.start_transaction()
                with pytest.raises(Unsupported, match="Make it a replica set"):
                    delivery.ack(session=session)
            delivery.ack(wait=True)
        assert pit.entries() == []


@pytest.mark.parametrize("committed", [True, False])
def test_a_commit_that_fails_in_the_end_is_looked_after(pit, db, client, fail_once, observer, committed):
    """The handler lets out the driver's error. Only the store knows whether the transaction has committed."""
    pit.store({"id": "a"}, NOW)

    def handle(delivery):
        with client.start_session() as session:
            session.start_transaction()
            db.effects.insert_one({"_id": delivery.key}, session=session)
            delivery.ack(session=session)
            if delivery.attempt > 1:
                session.commit_transaction()
                return
            if committed:
                session.commit_transaction()
            else:
                client.admin.command("killSessions", [session.session_id])
            raise ConnectionFailure("whether it has committed is not known")

    summary = consume(pit, handle)

    assert (summary.acked, summary.nacked) == ((1, 0) if committed else (1, 1))
    assert (effects(db), pit.entries()) == (1, [])


def test_a_stale_delivery_raises_lease_lost_inside(open_pit, db, session, observer):
    pit = open_pit(lock_time="100ms")
    pit.store({"id": "a"}, NOW)

    def work(delivery):
        with session.start_transaction():
            db.effects.insert_one({"_id": delivery.key}, session=session)
            delivery.ack(session=session)

    with pit.listen() as listener:
        late = listener.get()
        again = listener.get(timeout=30)
        assert again.attempt == 2
        with pytest.raises(LeaseLost, match="It was not acknowledged"):
            work(late)
        assert (late.lost, effects(db)) == (True, 0)
        work(again)
    assert (effects(db), pit.entries()) == (1, [])
    assert observer.seen == [("lost", "a")]


def test_a_second_ack_in_one_transaction_is_refused(pit, session):
    pit.store({"id": "a"}, NOW)
    with pit.listen() as listener, session.start_transaction():
        delivery = listener.get()
        delivery.ack(session=session)
        with pytest.raises(LeaseLost):
            delivery.ack(session=session)
    assert pit.entries() == []


def test_a_second_ack_of_a_series_in_one_transaction_is_refused(pit, session):
    pit.store({"id": "a"}, NOW, every=HOUR)
    with pit.listen() as listener, session.start_transaction():
        delivery = listener.get()
        delivery.ack(session=session)
        with pytest.raises(LeaseLost):
            delivery.ack(session=session)


def test_after_an_abort_the_delivery_is_open(pit, session):
    pit.store_many([({"id": id}, NOW) for id in ("ack", "nack", "extend")])
    with pit.listen(prefetch=3) as listener:
        for _ in range(3):
            delivery = listener.get()
            session.start_transaction()
            delivery.ack(session=session)
            session.abort_transaction()
            assert not delivery.lost
            getattr(delivery, delivery.id)()
            if delivery.id == "extend":
                delivery.ack(wait=True)
        assert [each.id for each in pit.entries()] == ["nack"]


@pytest.mark.parametrize("call", ["ack", "nack", "extend"])
def test_another_transaction_of_the_session_does_not_hide_an_abort(pit, db, session, call):
    pit.store({"id": "a"}, NOW)
    with pit.listen() as listener:
        delivery = listener.get()
        session.start_transaction()
        delivery.ack(session=session)
        session.abort_transaction()
        with session.start_transaction():
            db.effects.insert_one({}, session=session)
            getattr(delivery, call)()
        if call == "extend":
            delivery.ack(wait=True)
    assert [each.id for each in pit.entries()] == (["a"] if call == "nack" else [])


def test_the_end_of_the_block_notices_an_abort_before_the_next_transaction(pit, db, session, observer):
    pit.store({"id": "a"}, NOW)
    with pit.listen() as listener:
        with listener.get() as delivery:
            session.start_transaction()
            delivery.ack(session=session)
            session.abort_transaction()
            session.start_transaction()
            db.effects.insert_one({}, session=session)
        session.commit_transaction()
        assert observer.seen == [("retried", "a")]
        assert "did not commit" in pit.get("a").last_error


def test_after_a_commit_the_delivery_is_settled(pit, session):
    pit.store_many([({"id": id}, NOW) for id in ("ack", "nack", "extend")])
    with pit.listen(prefetch=3) as listener:
        for _ in range(3):
            delivery = listener.get()
            with session.start_transaction():
                delivery.ack(session=session)
            if delivery.id == "ack":
                delivery.ack(wait=True)  # it is acknowledged: nothing to do
                continue
            with pytest.raises(LeaseLost):
                getattr(delivery, delivery.id)()
        assert pit.entries() == []


def test_a_delivery_that_was_settled_before_is_refused(pit, session):
    pit.store({"id": "a"}, NOW)
    with pit.listen() as listener:
        delivery = listener.get()
        delivery.nack("no")
        with session.start_transaction(), pytest.raises(LeaseLost, match="was nacked before"):
            delivery.ack(session=session)


def test_a_handler_that_stores_its_own_message_in_the_transaction_ends_quietly(pit, client, observer):
    pit.store({"id": "a", "n": 1}, NOW)

    def handle(delivery):
        with client.start_session() as session, session.start_transaction():
            pit.store({"id": "a", "n": 2}, HOUR, session=session)
            delivery.ack(session=session)

    summary = consume(pit, handle)

    assert (summary.acked, summary.nacked, summary.lost) == (0, 0, 0)
    assert pit.get("a").message["n"] == 2
    assert observer.seen == []


class TestHeartbeat:
    def test_does_not_wait_for_the_transaction_and_extends_the_others(self, open_pit, session):
        """A write to the acknowledged message would wait for the end of the transaction, and take the other leases along."""
        pit = open_pit(lock_time="900ms", operation_timeout="5s")
        pit.store_many([({"id": id}, NOW) for id in "ab"])
        with pit.listen(heartbeat=True, prefetch=2) as listener:
            acked, other = listener.get(), listener.get()
            began = other.leased_until
            session.start_transaction()
            acked.ack(session=session)
            waited = threading.Event()
            while other.leased_until <= began + timedelta(seconds=1):
                assert not waited.wait(0.02)
            session.commit_transaction()
            other.ack(wait=True)
        assert pit.entries() == []

    def test_extends_the_lease_again_after_an_abort(self, open_pit, session):
        pit = open_pit(lock_time="900ms")
        pit.store({"id": "a"}, NOW)
        with pit.listen(heartbeat=True) as listener:
            delivery = listener.get()
            began = delivery.leased_until
            session.start_transaction()
            delivery.ack(session=session)
            session.abort_transaction()
            waited = threading.Event()
            while delivery.leased_until <= began + timedelta(seconds=1):
                assert not waited.wait(0.02)
            with session.start_transaction():
                delivery.ack(session=session)
        assert pit.entries() == []


def test_the_transaction_that_is_first_wins_over_a_removal(pit, open_pit, db, session):
    """The removal waits for the end of the transaction."""
    other = open_pit()
    pit.store({"id": "a"}, NOW)
    with pit.listen() as listener:
        delivery = listener.get()
        session.start_transaction()
        delivery.ack(session=session)
        removed = []
        thread = threading.Thread(target=lambda: removed.append(other.remove("a")))
        thread.start()
        session.commit_transaction()
        thread.join()
    assert removed == [False]


def test_an_error_of_the_server_is_pitstops(pit, session, fail_once):
    pit.store({"id": "a"}, NOW)
    with pit.listen() as listener, listener.get() as delivery:
        session.start_transaction()
        fail_once("delete", errorCode=13)
        with pytest.raises(pitstop.BackendUnavailable, match="does not allow this user"):
            delivery.ack(session=session)
        session.abort_transaction()
    assert pit.get("a") is not None


def test_a_conflict_is_the_drivers_error(pit, db, session):
    pit.store({"id": "a"}, NOW)
    with pit.listen() as listener:
        delivery = listener.get()
        session.start_transaction()
        db.effects.find_one(session=session)
        delivery.extend("1h")
        with pytest.raises(OperationFailure) as caught:
            delivery.ack(session=session)
        session.abort_transaction()
    assert caught.value.has_error_label("TransientTransactionError")


def test_a_session_that_cannot_be_used_leaves_the_delivery_alone(pit, session):
    pit.store({"id": "a"}, NOW)
    with pit.listen() as listener:
        delivery = listener.get()
        for wrong, text in ((session, "is in no transaction"), ("text", "session is a str")):
            with pytest.raises(PitstopError, match=text):
                delivery.ack(session=wrong)
        with pytest.raises(PitstopError, match="is in no transaction"):
            pit.get("a", session=session)
        delivery.ack(wait=True)
    assert pit.entries() == []


def test_a_backend_that_only_stores_in_transactions_says_so(open_pit, session, monkeypatch):
    pit = open_pit()
    pit.store({"id": "a"}, NOW)

    class Old:
        """The writes of a backend that was written before acks in transactions."""

        def get(self, id):
            return None

    monkeypatch.setattr(pit._session.backend, "within", lambda session: Old())
    with pit.listen() as listener:
        delivery = listener.get()
        with session.start_transaction():
            with pytest.raises(Unsupported, match=r"cannot acknowledge them there\. Leave session out"):
                delivery.ack(session=session)
            assert pit.get("a", session=session) is None
        delivery.ack()


def test_memory_refuses_and_teaches():
    with pitstop.init("memory://") as pit:
        pit.store({"id": "a"}, NOW)
        delivery = pit.listen().get()
        for call in (lambda: delivery.ack(session=object()), lambda: pit.get("a", session=object())):
            with pytest.raises(Unsupported, match="does not have the capability TRANSACTIONS"):
                call()
        delivery.ack()


def test_pymongos_errors_are_no_news(pit, client, db):
    """An error of the driver that the handler lets out is a failure of the handler."""
    pit.store({"id": "a"}, NOW)

    def handle(delivery):
        if delivery.attempt == 1:
            with client.start_session() as session, session.start_transaction():
                delivery.ack(session=session)
                db.effects.insert_one({"_id": 0}, session=session)

    summary = consume(pit, handle)
    assert (summary.acked, summary.nacked) == (1, 1)
    assert issubclass(OperationFailure, PyMongoError)
