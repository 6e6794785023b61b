"""Acks in a transaction of the application that was rolled back, or that is open: they are not taken for acks."""

from __future__ import annotations

import sqlite3

from contextlib import closing
from datetime import timedelta

import pytest

import pitstop

from pitstop._engine._lease import Lease
from pitstop._pitstop import session_of
from pitstop.testing import ManualClock


NOW = timedelta(0)
HOUR = timedelta(hours=1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "shop.db"


@pytest.fixture
def open_pit(path):
    opened = []

    def open_pit(**options):
        opened.append(pitstop.init({"type": "sqlite", "path": str(path), "busy_timeout": "300ms", **options}))
        return opened[-1]

    yield open_pit
    for each in opened:
        each.close()


@pytest.fixture
def pit(open_pit):
    return open_pit()


@pytest.fixture
def connection(path, pit):
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0.3, check_same_thread=False)) as connection:
        connection.execute("CREATE TABLE effects (key TEXT PRIMARY KEY) STRICT")
        yield connection


def ack(delivery, connection, end):
    connection.execute("BEGIN IMMEDIATE")
    delivery.ack(session=connection)
    connection.execute(end)


def test_an_aborted_ack_of_a_message_that_another_program_stores_anew_is_lost(pit, open_pit, connection):
    pit.store({"id": "a"}, NOW)
    other = open_pit()

    def handle(delivery):
        ack(delivery, connection, "ROLLBACK")
        other.store({"id": "a", "n": 2}, HOUR)

    summary = pit.consume(handle, deliveries=True, max_messages=1)

    assert (summary.acked, summary.nacked, summary.lost) == (0, 0, 1)
    assert pit.get("a").message["n"] == 2


@pytest.mark.parametrize(("end", "acked"), [("ROLLBACK", 0), ("COMMIT", 1)])
def test_a_nack_that_waited_beyond_the_end_of_the_lease(pit, connection, end, acked):
    pit.store({"id": "a"}, NOW)
    backend = session_of(pit).backend

    def handle(delivery):
        ack(delivery, connection, end)
        # As if the lease had ended while the closing nack waited for the file.
        backend.settle = lambda settlements: [False for _ in settlements]

    summary = pit.consume(handle, deliveries=True, max_messages=1)

    assert (summary.acked, summary.nacked, summary.lost) == (acked, 0, 1 - acked)


def test_a_committed_ack_of_a_series_that_another_program_has_claimed_again(pit, open_pit, connection):
    pit.store({"id": "a"}, -HOUR, every=timedelta(minutes=1), catch_up="all")
    other = open_pit()
    claimed = []

    def handle(delivery):
        ack(delivery, connection, "COMMIT")
        listener = other.listen()
        claimed.extend((listener, listener.get()))

    summary = pit.consume(handle, deliveries=True, max_messages=1)

    assert (summary.acked, summary.lost) == (1, 0)
    claimed[0].close()


@pytest.mark.parametrize("ended", [True, False], ids=["lease over", "refused"])
def test_a_backend_that_cannot_read_one_message_harms_no_other(pit, connection, ended, monkeypatch, caplog):
    pit.store_many([({"id": "bad"}, NOW), ({"id": "good"}, NOW)])
    backend = session_of(pit).backend
    read = backend.get

    def get(id):
        if id == "bad":
            raise ValueError("a bug")
        return read(id)

    decided = Lease.decide

    def decide(lease, now_us, retry):
        return None if lease.id == "bad" else decided(lease, now_us, retry)

    def handle(deliveries):
        for each in deliveries:
            if each.id == "bad":
                ack(each, connection, "ROLLBACK" if ended else "COMMIT")

    backend.get = get
    if ended:
        monkeypatch.setattr(Lease, "decide", decide)

    summary = pit.consume(handle, batch=2, max_messages=2)

    assert (summary.acked, summary.lost, summary.unsettled) == (1, 0, 1)
    assert "'bad' was not nacked: ValueError was raised" in caplog.text
    backend.get = read
    assert pit.get("good") is None


@pytest.mark.parametrize("end", ["ROLLBACK", "COMMIT"])
@pytest.mark.parametrize("change", ["store", "remove"])
def test_a_stale_ack_after_a_change_by_the_handler_itself(pit, open_pit, connection, change, end):
    """If the change was undone, the ack says that the lease is over. Otherwise it passes without a word."""
    pit.store({"id": "a"}, NOW)
    backend = session_of(pit).backend
    raised = []

    def handle(delivery):
        connection.execute("BEGIN IMMEDIATE")
        if change == "store":
            pit.store({"id": "a", "n": 2}, HOUR, session=connection)
        else:
            pit.remove("a", session=connection)
        connection.execute(end)
        now = backend.now() + 3_600_000_000
        backend.now = lambda: now
        connection.execute("BEGIN IMMEDIATE")
        try:
            delivery.ack(session=connection)
        except pitstop.LeaseLost as error:
            raised.append(error)
        connection.execute("ROLLBACK")

    summary = pit.consume(handle, deliveries=True, max_messages=1)

    undone = end == "ROLLBACK"
    assert (len(raised), summary.lost, summary.superseded) == ((1, 1, 0) if undone else (0, 0, 1))
    assert summary.acked == 0


@pytest.mark.parametrize(
    ("participle", "call"),
    [
        ("acknowledged", lambda delivery: delivery.ack()),
        ("acknowledged", lambda delivery: delivery.ack(wait=True)),
        ("nacked", lambda delivery: delivery.nack("no")),
        ("extended", lambda delivery: delivery.extend(HOUR)),
    ],
    ids=["ack", "ack and wait", "nack", "extend"],
)
def test_a_call_that_would_wait_for_its_own_transaction_is_refused(pit, connection, participle, call):
    pit.store({"id": "a"}, NOW)
    with pit.listen() as listener:
        delivery = listener.get()
        connection.execute("BEGIN IMMEDIATE")
        delivery.ack(session=connection)
        with pytest.raises(
            pitstop.PitstopError, match=f"'a' was not {participle}: .* Commit the transaction"
        ) as caught:
            call(delivery)
        assert type(caught.value) is pitstop.PitstopError
        connection.execute("ROLLBACK")
        call(delivery)


def test_an_interrupted_ack_can_be_written_again(pit, connection, monkeypatch):
    pit.store({"id": "a"}, NOW)
    pledge_ack = Lease.pledge_ack

    def interrupted(lease, pledge):
        pledge_ack(lease, pledge)
        raise KeyboardInterrupt

    with pit.listen() as listener:
        delivery = listener.get()
        connection.execute("BEGIN IMMEDIATE")
        with monkeypatch.context() as patch:
            patch.setattr(Lease, "pledge_ack", interrupted)
            with pytest.raises(KeyboardInterrupt):
                delivery.ack(session=connection)
        delivery.ack(session=connection)
        connection.execute("COMMIT")
    assert pit.entries() == []


@pytest.mark.timeout(60)
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
@pytest.mark.parametrize("later", [False, True], ids=["the same", "a later one"])
def test_a_transaction_that_is_open_when_the_handler_returns(open_pit, connection, end, later):
    """No write waits for it, and the ack is looked for when it has ended."""
    pit = open_pit(busy_timeout="1h", retry={"delay": 0})
    pit.store({"id": "a"}, NOW)
    with pit.listen() as listener:
        with listener.get() as delivery:
            connection.execute("BEGIN IMMEDIATE")
            delivery.ack(session=connection)
            if later:
                connection.execute(end)
                connection.execute("BEGIN IMMEDIATE")
        connection.execute("COMMIT" if later else end)
        if end == "COMMIT":
            assert pit.get("a") is None
        else:
            again = listener.get(timeout=30)
            assert (again.attempt, again.last_error is not None) == (2, True)
            again.ack(wait=True)


def test_a_savepoint_that_is_rolled_back_undoes_the_ack(open_pit, connection):
    pit = open_pit(retry={"delay": 0})
    pit.store({"id": "a"}, NOW)

    def handle(delivery):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO effects VALUES (?)", (str(delivery.attempt),))
        connection.execute("SAVEPOINT work")
        delivery.ack(session=connection)
        if delivery.attempt == 1:
            connection.execute("ROLLBACK TO work")
        connection.execute("COMMIT")

    summary = pit.consume(handle, deliveries=True, max_messages=2)

    assert (summary.acked, summary.nacked) == (1, 1)
    assert pit.entries() == []


def test_an_ack_after_the_lease_ran_out_is_refused_in_the_transaction(open_pit, connection):
    clock = ManualClock()
    pit = open_pit(clock=clock)
    pit.store({"id": "a"}, NOW)
    with pit.listen() as listener:
        late = listener.get()
        clock.advance(3600)
        again = listener.get()
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(pitstop.LeaseLost):
            late.ack(session=connection)
        connection.execute("ROLLBACK")
        again.nack("no")


def test_a_connection_that_is_closed_before_the_commit_undoes_the_ack(open_pit, path, connection):
    pit = open_pit(retry={"delay": 0})
    pit.store({"id": "a"}, NOW)

    def handle(delivery):
        own = sqlite3.connect(path, isolation_level=None)
        own.execute("BEGIN IMMEDIATE")
        delivery.ack(session=own)
        if delivery.attempt > 1:
            own.execute("COMMIT")
        own.close()

    summary = pit.consume(handle, deliveries=True, max_messages=2)

    assert (summary.acked, summary.nacked, pit.entries()) == (1, 1, [])


def test_a_second_ack_and_a_nack_in_one_transaction_are_refused(pit, connection):
    pit.store({"id": "a"}, NOW)
    with pit.listen() as listener:
        delivery = listener.get()
        connection.execute("BEGIN IMMEDIATE")
        delivery.ack(session=connection)
        with pytest.raises(pitstop.LeaseLost):
            delivery.ack(session=connection)
        with pytest.raises(pitstop.PitstopError, match="Commit the transaction"):
            delivery.nack("no")
        connection.execute("COMMIT")
        with pytest.raises(pitstop.LeaseLost, match="was acknowledged before"):
            delivery.nack("no")
    assert pit.entries() == []


@pytest.mark.parametrize("end", ["", "COMMIT"])
def test_a_delivery_whose_ack_may_count_is_not_lost_when_the_lease_runs_out(pit, connection, end):
    """The transaction has the file. Once it has committed, the message is gone, and the lease with it."""
    pit.store({"id": "a"}, NOW)
    backend = session_of(pit).backend
    with pit.listen() as listener:
        delivery = listener.get()
        ack(delivery, connection, end)
        later = backend.now() + 3_600_000_000
        backend.now = lambda: later
        assert not delivery.lost
        del backend.now
        connection.execute("COMMIT") if not end else None
        delivery.ack(wait=True)
        assert not delivery.lost


def test_a_delivery_whose_ack_failed_is_lost_when_the_lease_runs_out(pit, connection):
    pit.store({"id": "a"}, NOW)
    backend = session_of(pit).backend
    with pit.listen() as listener:
        delivery = listener.get()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("PRAGMA query_only = 1")
        with pytest.raises(pitstop.PitstopError, match="may only read"):
            delivery.ack(session=connection)
        connection.execute("PRAGMA query_only = 0")
        connection.execute("ROLLBACK")
        later = backend.now() + 3_600_000_000
        backend.now = lambda: later
        assert delivery.lost
        del backend.now
