"""Situations of applications and servers: forks, Ctrl-C, handles that are dropped, and settings that an administrator made."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
import warnings

from contextlib import contextmanager
from datetime import timedelta
from urllib.parse import quote

import psycopg
import pytest

from psycopg.conninfo import conninfo_to_dict

import pitstop

from pitstop import BackendUnavailable
from pitstop_postgres import PostgresBackend
from postgres.kit import LATER, done, record
from servers import postgres


MINUTE = 60_000
WAITS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


def use(backend):
    """Store, claim and acknowledge a message."""
    backend.put([record("used")])
    (leased,) = backend.lease(1, MINUTE)
    assert list(backend.settle([done(leased)])) == [True]


def wait_until(look):
    deadline = time.monotonic() + 30
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def settings(sql):
    """A function that gives new sessions of the database some settings, until the test ends."""
    name, given = sql.info.dbname, []

    def settings(**values):
        for setting, value in values.items():
            given.append(setting)
            sql.execute(f"ALTER DATABASE {name} SET {setting} = {value}")

    yield settings
    for setting in given:
        sql.execute(f"ALTER DATABASE {name} RESET {setting}")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("default_transaction_isolation", "'serializable'"),
        ("default_transaction_deferrable", "on"),
        ("idle_in_transaction_session_timeout", "'50ms'"),
        ("statement_timeout", "'1s'"),
        ("lock_timeout", "'1s'"),
        ("DateStyle", "'SQL, DMY'"),
        ("TimeZone", "'Asia/Kathmandu'"),
        ("IntervalStyle", "'sql_standard'"),
        ("bytea_output", "'escape'"),
        ("standard_conforming_strings", "off"),
        ("extra_float_digits", "-15"),
        ("client_encoding", "'LATIN1'"),
        ("row_security", "off"),
        ("transform_null_equals", "on"),
        ("array_nulls", "off"),
        ("quote_all_identifiers", "on"),
        ("search_path", "nowhere, public"),
    ],
)
@pytest.mark.parametrize("pgbouncer", [False, True], ids=["", "pgbouncer"])
def test_settings_of_the_database_change_nothing(make, settings, setting, value, pgbouncer):
    settings(**{setting: value})
    backend = make(pgbouncer=pgbouncer)
    kept = record("ä 'quoted' \\ 🏎", LATER)
    backend.put([kept, record("b", LATER)])
    assert backend.get(kept.id) == kept
    assert [each.id for each in backend.scan(None, 10, None)] == ["b", kept.id]
    assert backend.tally().scheduled == 2
    use(backend)


def test_a_table_name_with_a_backslash_is_used_whatever_the_rules_for_texts_are(make, settings):
    settings(standard_conforming_strings="off")
    backend = make(table="a\\'b\\")
    backend.put([record("a"), record("b", LATER)])
    assert [each.id for each in backend.lease(5, MINUTE)] == ["a"]
    backend.drop()


def test_a_lost_session_is_recognised_whatever_the_time_zones_are(make, settings, sql):
    first = make()
    with first._database.pool.session(time.monotonic() + 10) as session:
        identity = session.identity
    settings(TimeZone="'Asia/Kathmandu'", DateStyle="'SQL, DMY'")
    second = make()
    with second._database.pool.session(time.monotonic() + 10) as session:
        found = session.fetch(
            "SELECT (extract(epoch FROM backend_start) * 1000000)::bigint::text FROM pg_stat_get_activity(%s::int)",
            (identity.pid,),
        )
    assert found == [(identity.began,)]


def test_a_database_that_only_reads_is_an_error_until_it_writes_again(make, sql):
    """Sessions keep the setting with which they began. So after the change the first use opens another one."""
    name = sql.info.dbname
    make().migrate()
    sql.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    try:
        backend = make()
        assert backend.tally().due == 0
        for write in (
            lambda: backend.put([record("a")]),
            lambda: backend.lease(1, MINUTE),
            lambda: backend.delete("a"),
        ):
            with pytest.raises(BackendUnavailable, match=r"only reads.*primary") as caught:
                write()
            assert not caught.value.permanent
    finally:
        with psycopg.connect(sql.info.dsn, autocommit=True, options="-c default_transaction_read_only=off") as other:
            other.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    use(backend)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_without_all_characters_is_refused(encoding):
    name = f"pitstop_test_{uuid.uuid4().hex}"
    if not postgres.available():
        pytest.skip("no PostgreSQL: set PITSTOP_TEST_POSTGRES_URI, or install it")
    with psycopg.connect(postgres.uri(), autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE_PROVIDER libc LOCALE 'C'"
        )
        backend = PostgresBackend.from_options({"uri": postgres.uri(), "dbname": name})
        with pytest.raises(BackendUnavailable, match=f"encoding {encoding}") as caught:
            backend.put([record("a")])
        backend.close()
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    assert caught.value.permanent


@pytest.fixture
def user(sql, make, table):
    """A user with the rights that the docs name, and a password of special characters. Yields both."""
    name, password = f"u_{uuid.uuid4().hex}", "p:a/s@s?w#ö r%d&'\\"
    make().migrate()
    sql.execute(
        f"CREATE ROLE {name} LOGIN PASSWORD {psycopg.sql.Literal(password).as_string(sql)} CONNECTION LIMIT 3;"
        f"ALTER ROLE {name} SET statement_timeout = '1ms';"
        f"GRANT USAGE ON SCHEMA public TO {name}; GRANT SELECT, INSERT, UPDATE, DELETE ON {table}, {table}_meta TO {name};"
        f"GRANT USAGE ON SEQUENCE {table}_seq_seq TO {name}"
    )
    yield name, password
    sql.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = %s", (name,))
    sql.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.mark.parametrize("way", ["url", "keys", "PGPASSFILE", "service", "PGPASSWORD"])
def test_a_user_with_least_rights_and_a_strange_password(make, user, uri, sql, table, way, tmp_path, monkeypatch):
    name, password = user
    given = conninfo_to_dict(uri)
    host, port, dbname = given["host"], given["port"], sql.info.dbname
    options = {"uri": f"postgresql://{name}@{host}:{port}/{dbname}", "create": False}
    if way == "url":
        options["uri"] = f"postgresql://{name}:{quote(password, safe='')}@{host}:{port}/{dbname}"
    elif way == "keys":
        options["password"] = password
    elif way == "PGPASSWORD":
        monkeypatch.setenv("PGPASSWORD", password)
    elif way == "PGPASSFILE":
        file = tmp_path / "pgpass"
        escaped = password.replace("\\", "\\\\").replace(":", "\\:")
        file.write_text(f"{host}:*:*:{name}:{escaped}\n")
        file.chmod(0o600)
        monkeypatch.setenv("PGPASSFILE", str(file))
    else:
        file = tmp_path / "services"
        file.write_text(f"[messages]\nhost={host}\nport={port}\ndbname={dbname}\nuser={name}\npassword={password}\n")
        monkeypatch.setenv("PGSERVICEFILE", str(file))
        options = {"uri": "service=messages", "create": False}
    backend = make(**options)
    use(backend)
    backend.pause_kind("mail", None)
    assert backend.resume_kind("mail")
    for text in (backend.location, repr(backend), repr(backend.config)):
        assert password not in text
        assert quote(password, safe="") not in text


def test_too_many_connections_are_a_clear_error_that_passes(make, user, uri):
    name, password = user
    backend = make(user=name, password=password, create=False)
    use(backend)
    others = [psycopg.connect(uri, user=name, password=password) for _ in range(2)]
    watcher = make(user=name, password=password, create=False, operation_timeout="500ms")
    with pytest.raises(BackendUnavailable, match="no free connection") as caught:
        watcher.ping()
    assert not caught.value.permanent
    others.pop().close()
    wait_until(lambda: passes(watcher.ping))
    others.pop().close()


def passes(call):
    try:
        call()
    except BackendUnavailable:
        return False
    return True


@pytest.mark.parametrize("mode", ["disable", "prefer"])
def test_the_mode_of_tls_is_passed_on(make, mode):
    use(make(sslmode=mode))


def test_tls_that_the_server_does_not_have_is_an_error(make):
    with pytest.raises(BackendUnavailable, match="SSL"):
        make(sslmode="require").ping()


@pytest.mark.parametrize("attributes", ["any", "read-write", "primary", "prefer-standby"])
def test_several_hosts_of_which_one_is_away(make, uri, table, sql, attributes):
    given = conninfo_to_dict(uri)
    away = postgres.free_port()
    hosts = f"{given['user']}@{given['host']}:{away},{given['host']}:{given['port']}"
    use(make(uri=f"postgresql://{hosts}/{sql.info.dbname}?target_session_attrs={attributes}"))
    with pytest.raises(BackendUnavailable):
        make(uri=f"postgresql://{hosts}/{sql.info.dbname}?target_session_attrs=standby").ping()


def test_a_handle_that_is_dropped_frees_its_connections(uri, table, sql):
    name = f"dropped_{uuid.uuid4().hex[:8]}"
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    with warnings.catch_warnings():
        # As for a file, Python warns that it was not closed.
        warnings.simplefilter("ignore", ResourceWarning)
        backend = PostgresBackend.from_options({"uri": uri, "table": table, "application_name": name})
        use(backend)
        watch = backend.watch()
        assert sql.execute(count, (name,)).fetchone()[0] == 2
        del backend, watch
        gc.collect()
    wait_until(lambda: sql.execute(count, (name,)).fetchone() == (0,))


@pytest.mark.parametrize("kinds", [None, ["a"]])
def test_a_pool_of_one_connection_is_enough(make, kinds):
    """A claim that finds nothing compares the time. It does not wait for another connection to ask for the time."""
    make().put([record("a", LATER, kind="a")])
    backend = make(pool_size=1)
    began = time.monotonic()
    assert list(backend.lease(1, MINUTE, kinds)) == []
    use(make(pool_size=1))
    assert time.monotonic() - began < 5


@contextmanager
def locked(uri, table):
    """Keep the message ``a`` locked in the body."""
    with psycopg.connect(uri) as locker:
        locker.execute(f"SELECT FROM {table} WHERE id = 'a' FOR UPDATE")
        yield
        locker.rollback()


def test_ctrl_c_in_the_middle_of_a_call_ends_it_at_once_and_its_statement_too(make, uri, table, sql):
    backend = make(operation_timeout="10s")
    backend.put([record("a", LATER)])
    stored, main = record("a", LATER), threading.get_ident()

    def interrupt():
        wait_until(lambda: sql.execute(WAITS).fetchone()[0])
        signal.pthread_kill(main, signal.SIGINT)

    with locked(uri, table):
        thread = threading.Thread(target=interrupt)
        thread.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            backend.put([record("a", LATER)])
        assert time.monotonic() - began < 8
        thread.join()
    backend.put([stored])
    assert backend.get("a") == stored, "the interrupted store does not come late"
    assert sql.execute(WAITS).fetchone() == (0,)


def test_a_call_of_asyncio_that_is_cancelled_leaves_the_handle_usable(make, uri, table, sql):
    backend = make(operation_timeout="3s")
    backend.put([record("a", LATER)])

    async def main():
        async with pitstop.init_async({"type": backend}) as pit:
            with locked(uri, table):
                call = asyncio.create_task(pit.store({"id": "a"}, timedelta(hours=1)))
                while not sql.execute(WAITS).fetchone()[0]:  # noqa: ASYNC110 - the server has no event for it
                    await asyncio.sleep(0.01)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            await pit.store({"id": "b"}, timedelta(hours=1))
            return await pit.get("b")

    assert asyncio.run(main()) is not None


PRELOAD = """
    import os, sys, threading, time
    from datetime import timedelta
    import pitstop

    where = {"type": "postgres", "uri": sys.argv[1], "table": sys.argv[2]}
    pit = pitstop.init(where)
    pit.store({"id": "parent"}, timedelta(hours=1))
    # One connection is in the middle of a statement while the workers begin.
    thread = threading.Thread(target=lambda: [pit.stats() for _ in range(200)])
    thread.start()
    workers = []
    for number in range(4):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                for n in range(25):
                    pit.store({"id": f"{number}-{n}"}, timedelta(0))
                with pit.listen() as listener:
                    for _ in range(25):
                        listener.get(10).ack()
                pit.close()
                code = 0
            finally:
                os._exit(code)
        workers.append(pid)
    codes = [os.waitpid(pid, 0)[1] for pid in workers]
    thread.join()
    assert codes == [0] * 4, codes
    assert [each.id for each in pit.entries()] == ["parent"], pit.entries()
    pit.close()
"""


def test_workers_that_are_forked_after_init_use_connections_of_their_own(uri, table, sql, tmp_path):
    """As under gunicorn with ``preload_app``, and while another thread of the parent is in the middle of a call."""
    script = tmp_path / "preload.py"
    script.write_text(textwrap.dedent(PRELOAD))
    command = [sys.executable, "-W", "error::ResourceWarning", str(script), uri, table]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=os.environ)
    assert ran.returncode == 0, ran.stderr[-2000:]
    sql.execute(f"DROP TABLE {table}, {table}_meta")


def test_a_restart_of_the_server_while_a_listener_waits_needs_no_attention(postgres_or_skipped):
    """As for a minor update. The listener emits what is stored after it."""
    with postgres.server(fsync=False) as server:
        where = {"type": "postgres", "uri": server.uri, "loop_time": "1s"}
        handled = []
        with pitstop.init(where) as pit, pitstop.init(where) as peer:
            pit.store({"id": "a"}, timedelta(0))
            thread = threading.Thread(target=lambda: pit.consume(handled.append, workers=2, max_messages=2))
            thread.start()
            wait_until(lambda: handled)
            server.restart()
            peer.store({"id": "b"}, timedelta(0))
            thread.join(30)
        assert [each["id"] for each in handled] == ["a", "b"]
