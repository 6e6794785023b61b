"""A real PgBouncer in transaction mode: messages pass through, and nothing of a session stays for the next client."""

from __future__ import annotations

import logging
import threading

from contextlib import contextmanager
from datetime import timedelta

import psycopg
import pytest

import pitstop

from pitstop import BackendUnavailable, OutcomeUnknown
from pitstop.abc import AllBut, Query
from pitstop_conformance.contract._damaged import DamagedAmongOthers
from pitstop_conformance.contract._lease import Lease
from pitstop_postgres import PostgresBackend
from pitstop_postgres._session import Session
from postgres.kit import LATER, done, record
from servers import pgbouncer, postgres


MINUTE = 60_000
STATE = """
SELECT current_setting('statement_timeout'), current_setting('lock_timeout'), current_setting('enable_seqscan'), current_setting('jit'),
    current_setting('plan_cache_mode'), current_setting('default_transaction_isolation'),
    (SELECT count(*) FROM pg_prepared_statements), (SELECT count(*) FROM pg_listening_channels()),
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'), (SELECT count(*) FROM pg_cursors)
"""


@pytest.fixture(scope="module")
def bouncer():
    """A pooler in front of the server of the tests, with one session of the server for all clients of a database."""
    if not postgres.available() or not pgbouncer.available():
        pytest.skip("NO REAL PGBOUNCER, its tests are skipped: apt-get install pgbouncer")
    with pgbouncer.in_front_of(postgres.uri(), default_pool_size=1) as made:
        yield made


@pytest.fixture
def pooled_uri(bouncer, sql):
    return bouncer.uri(sql.info.dbname)


@pytest.fixture
def open_pooled(pooled_uri, table):
    """A function that opens a handle through the pooler."""
    made = []

    def open_pooled(**options):
        made.append(PostgresBackend.from_options({"uri": pooled_uri, "table": table, "pgbouncer": True, **options}))
        return made[-1]

    yield open_pooled
    for each in made:
        each.close()


@pytest.fixture
def pooled(open_pooled):
    return open_pooled()


@pytest.fixture
def state(pooled_uri):
    """A function that returns the state that another client finds in the session of the server, and the process of it."""

    def state():
        with psycopg.connect(pooled_uri, autocommit=True, prepare_threshold=None) as connection:
            return connection.execute(STATE).fetchone(), connection.execute("SELECT pg_backend_pid()").fetchone()[0]

    return state


def test_all_operations_pass_through_and_leave_nothing_in_the_session(pooled, state):
    before, process = state()
    records = [record(str(n), n, kind="ab"[n % 2]) for n in range(10)]
    pooled.migrate()
    pooled.put(records[:1])
    pooled.put(records[1:])
    leased = [*pooled.lease(1, MINUTE), *pooled.lease(3, MINUTE, ["a"]), *pooled.lease(3, MINUTE, AllBut(["a"]))]
    assert [each.id for each in leased] == ["0", "2", "4", "6", "1", "3", "5"]
    assert list(pooled.settle([done(each) for each in leased])) == [True] * 7
    assert pooled.put_if(record("7", LATER), records[7].revision)
    assert not pooled.put_if(record("7", LATER), records[7].revision)
    pooled.pause_kind("a", None)
    assert pooled.paused_kinds() == {"a": None}
    assert pooled.resume_kind("a")
    assert [each.id for each in pooled.scan(None, 10, None)] == ["8", "9", "7"]
    assert pooled.tally().scheduled == 1
    assert pooled.tally_by_kind().keys() == {"", "a", "b"}
    assert pooled.next_due(["b"]) == 9
    assert list(pooled.delete_many(["7", "8"], Query())) == [True, True]
    assert pooled.delete("9")
    assert pooled.concerns() == []
    with pooled.scratch() as scratch:
        scratch.put([record("s")])
    assert state() == (before, process), "all of it was done in the one session that the other client has, too"


def test_errors_leave_nothing_in_the_session_either(pooled, state, uri, table):
    pooled.put([record("a", LATER)])
    before = state()
    with psycopg.connect(uri) as locker, pooled.bounded(1):
        locker.execute(f"SELECT FROM {table} WHERE id = 'a' FOR UPDATE")
        slow = PostgresBackend.from_options({**options_of(pooled), "operation_timeout": "500ms"})
        with pytest.raises(BackendUnavailable, match="operation_timeout"):
            slow.put([record("a", LATER)])
        slow.close()
    with pytest.raises(psycopg.errors.DatabaseError):
        run(pooled, lambda session: session.fetch("SELECT 1 / 0"))
    assert state() == before


def options_of(backend):
    return {"uri": backend.config.uri, "table": backend.config.table, "pgbouncer": True}


def run(backend, work):
    with backend._database.pool.session(float("inf")) as session:
        return work(session)


def test_threads_share_one_session_of_the_server(open_pooled, state):
    """More clients than sessions: each transaction may find the session as another client has left it."""
    ids = [f"{n:03}" for n in range(60)]
    open_pooled().put([record(id) for id in ids])
    before = state()
    handled, raised = [], []

    def work(backend):
        try:
            while leased := backend.lease(3, MINUTE):
                assert list(backend.settle([done(each) for each in leased])) == [True] * len(leased)
                handled.extend(each.id for each in leased)
        except Exception as error:  # noqa: BLE001 - it is asserted that there is none
            raised.append(error)

    threads = [threading.Thread(target=work, args=(open_pooled(),)) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not raised
    assert sorted(handled) == ids
    assert state() == before


def test_consume_works_without_listen_and_says_so(pooled_uri, table, caplog):
    handled = []
    where = {"type": "postgres", "uri": pooled_uri, "table": table, "pgbouncer": True, "loop_time": "100ms"}
    with caplog.at_level(logging.WARNING), pitstop.init(where) as pit, pitstop.init(where) as peer:
        pit.ping()
        thread = threading.Thread(target=lambda: pit.consume(handled.append, workers=2, max_messages=2))
        thread.start()
        peer.store({"id": "a"}, timedelta(0))
        peer.store({"id": "b"}, timedelta(milliseconds=300))
        thread.join(30)
    assert [each["id"] for each in handled] == ["a", "b"]
    assert [each.message.count("LISTEN") for each in caplog.records if each.name == "pitstop.postgres"] == [1]


def test_writes_of_a_transaction_pass_through(pooled, pooled_uri):
    pooled.put([record("a")])
    (leased,) = pooled.lease(1, MINUTE)
    with psycopg.connect(pooled_uri, prepare_threshold=None) as connection:
        writes = pooled.within(connection)
        writes.put([record("b", LATER)])
        assert list(writes.settle([done(leased)])) == [True]
        assert writes.get("a") is None
    assert pooled.get("a") is None
    assert pooled.get("b") is not None


def test_a_lost_connection_never_ends_the_transaction_of_another_client(pooled, pooled_uri, monkeypatch):
    """The session of the server outlives the client, and serves the next one."""
    pooled.put([record("a", LATER)])
    real, lost = Session.fetch, []

    def fetch(self, statement, values=()):
        if not lost and "INSERT INTO" in statement:
            lost.append(self)
            self._connection.close()
        return real(self, statement, values)

    monkeypatch.setattr(Session, "fetch", fetch)
    with pytest.raises(OutcomeUnknown):
        pooled.put([record("a", LATER)])
    with psycopg.connect(pooled_uri, prepare_threshold=None) as other:
        before = other.execute("SELECT pg_backend_pid()").fetchone()
        thread = threading.Thread(target=pooled.put, args=([record("b", LATER)],))
        thread.start()
        for _ in range(20):
            assert other.execute("SELECT pg_backend_pid()").fetchone() == before
        other.commit()
        thread.join(30)
    assert pooled.get("b") is not None


def test_a_pooler_that_restarts_is_used_again(pooled, bouncer):
    pooled.put([record("a", LATER)])
    bouncer.stop()
    with pooled.bounded(0.5), pytest.raises(BackendUnavailable):
        pooled.tally()
    bouncer.start()
    assert pooled.tally().scheduled == 1
    pooled.put([record("b", LATER)])
    bouncer.execute("RECONNECT")
    pooled.put([record("c", LATER)])
    assert pooled.tally().scheduled == 3


@pytest.mark.parametrize("ignored", ["", "options"], ids=["refused", "ignored"])
def test_a_pooler_that_is_not_named_is_an_error(uri, sql, table, bouncer, ignored):
    """Otherwise the end of a lost session would be the end of another client's transaction."""
    with pgbouncer.in_front_of(postgres.uri(), ignore_startup_parameters=ignored or "extra_float_digits") as other:
        backend = PostgresBackend.from_options({"uri": other.uri(sql.info.dbname), "table": table})
        for use in (backend.ping, backend.watch):
            with pytest.raises(BackendUnavailable, match="pgbouncer=true") as caught:
                use()
            assert caught.value.permanent
        backend.close()


class TestThroughPgBouncer(DamagedAmongOthers, Lease):
    """Parts of the contract of a backend, with one session of the server for all handles of a test."""

    @pytest.fixture
    def make_backend(self, sql, table, pooled_uri):
        self.sql, self.table, self.uri = sql, table, pooled_uri
        yield lambda **options: PostgresBackend.from_options(
            {"uri": pooled_uri, "table": table, "pgbouncer": True, **options}
        )
        sql.execute(f"DROP TABLE IF EXISTS {table}, {table}_meta")

    @contextmanager
    def transaction(self, backend):
        with psycopg.connect(self.uri, autocommit=True, prepare_threshold=None) as connection, connection.transaction():
            yield connection

    def damage(self, backend, id):
        assert self.sql.execute(f"UPDATE {self.table} SET msg = left(msg, -1) WHERE id = %s", (id,)).rowcount == 1
