"""The PostgreSQL of the tests: it starts, breaks and recovers as the tests ask, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from servers import postgres


#: Seconds after which a process that was told to end must have ended.
PATIENCE = 20.0


@pytest.fixture(scope="module")
def _server(postgres_or_skipped):
    with postgres.server() as made:
        yield made


@pytest.fixture
def server(_server):
    """A server that tests may break."""
    yield _server
    _server.resume()
    if not _server.running:
        _server.start()


def ask(uri, statement):
    with psycopg.connect(uri, autocommit=True, connect_timeout=10) as connection:
        return connection.execute(statement).fetchone()[0]


def do(uri, statements):
    with psycopg.connect(uri, autocommit=True, connect_timeout=10) as connection:
        connection.execute(statements)


def until(fulfilled):
    deadline = time.monotonic() + PATIENCE
    while not fulfilled():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_is_durable_and_sorts_by_a_collation_that_is_not_c(server):
    assert ask(server.uri, "SHOW fsync") == "on"
    assert ask(server.uri, "SHOW synchronous_commit") == "on"
    # In C, all capitals come before all small letters.
    assert ask(server.uri, "SELECT 'a' < 'B'"), "this system has neither ICU in PostgreSQL nor a locale"


def test_it_waits_for_no_disk_if_a_test_asks_for_that(postgres_or_skipped):
    with postgres.server(fsync=False) as quick:
        assert ask(quick.uri, "SHOW fsync") == "off"


def test_it_takes_connections_by_its_socket(server):
    assert ask(server.socket_uri, "SELECT inet_server_addr() IS NULL")


def test_other_roles_need_their_passwords(server):
    word = "right"
    do(server.uri, f"CREATE ROLE someone LOGIN PASSWORD '{word}'")
    of_someone = server.uri.replace(f"{postgres.USER}@", "someone:{}@")
    assert ask(of_someone.format(word), "SELECT current_user") == "someone"
    with pytest.raises(psycopg.OperationalError, match="password"):
        ask(of_someone.format("wrong"), "SELECT 1")


@pytest.mark.parametrize("end", ["stop", "kill", "kill_postmaster"])
def test_after_an_end_it_has_its_data_and_its_address(server, end):
    uri = server.uri
    do(uri, "DROP TABLE IF EXISTS kept; CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)")
    with closing(psycopg.connect(uri)) as connection:
        getattr(server, end)()
        assert not server.running
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        ask(uri, "SELECT 1")
    server.restart()
    assert server.uri == uri
    assert ask(uri, "SELECT n FROM kept") == 7


def test_a_killed_backend_ends_the_connections_of_all_others(server):
    with closing(psycopg.connect(server.uri)) as victim, closing(psycopg.connect(server.uri)) as other:
        pid = victim.info.backend_pid
        assert {pid, other.info.backend_pid} <= set(server.backends())
        server.kill_backend(pid)
        until(lambda: pid not in server.backends())
        with pytest.raises(psycopg.OperationalError):
            other.execute("SELECT 1")
    server.wait_until_ready()
    until(lambda: answers(server))


def answers(server):
    try:
        return ask(server.uri, "SELECT 1") == 1
    except psycopg.OperationalError:
        return False  # it recovers


def test_a_process_of_another_server_is_not_killed(server):
    with pytest.raises(AssertionError, match="no process of this server"):
        server.kill_backend(os.getpid())


def test_a_paused_server_answers_nothing_and_goes_on_later(server):
    with closing(psycopg.connect(server.uri, autocommit=True)) as connection:
        server.pause()
        assert server.paused
        connection.pgconn.send_query(b"SELECT 7")
        connection.pgconn.flush()
        time.sleep(0.2)
        connection.pgconn.consume_input()
        assert connection.pgconn.is_busy()
        server.resume()
        assert not server.paused
        assert connection.pgconn.get_result().get_value(0, 0) == b"7"


def test_a_paused_server_can_be_killed(server):
    server.pause()
    server.kill()
    server.start()
    assert ask(server.uri, "SELECT 1") == 1


def test_a_standby_follows_and_takes_over(server):
    do(server.uri, "DROP TABLE IF EXISTS moved; CREATE TABLE moved (n int); INSERT INTO moved VALUES (7)")
    with postgres.new_folder() as folder:
        standby = server.copy(folder / "standby")
        try:
            standby.start()
            assert ask(standby.uri, "SELECT pg_is_in_recovery()")
            assert standby.port != server.port
            server.kill()
            standby.promote()
            assert ask(standby.uri, "INSERT INTO moved SELECT n + 1 FROM moved RETURNING n") == 8
        finally:
            standby.kill()


def test_the_shared_server_is_started_once_and_gives_databases_of_their_own(postgres_uri):
    assert postgres.uri() == postgres_uri
    with postgres.database(postgres_uri) as first, postgres.database(postgres_uri) as second:
        do(first, "CREATE TABLE mine (n int)")
        assert ask(second, "SELECT to_regclass('mine') IS NULL")
        name = ask(first, "SELECT current_database()")
        assert name.startswith("pitstop_test_")
        left_open = psycopg.connect(first)
    with closing(left_open):
        assert ask(postgres_uri, f"SELECT count(*) FROM pg_database WHERE datname = '{name}'") == 0


def test_a_server_that_the_environment_names_is_used(monkeypatch):
    monkeypatch.setenv("PITSTOP_TEST_POSTGRES_URI", "postgresql://db.example.com/postgres")
    assert postgres.available()
    assert postgres.uri() == "postgresql://db.example.com/postgres"


@pytest.mark.parametrize(
    ("uri", "other"),
    [
        ("postgresql://u:p%40@h:5/postgres?a=b", "postgresql://u:p%40@h:5/x?a=b"),
        ("postgresql://h", "postgresql://h/x"),
        ("postgresql:///postgres?host=/tmp", "postgresql:///x?host=/tmp"),
    ],
)
def test_a_uri_of_another_database_keeps_the_rest(uri, other):
    assert postgres.database_uri(uri, "x") == other


def test_a_machine_without_postgresql_has_none(monkeypatch):
    monkeypatch.delenv("PITSTOP_TEST_POSTGRES_URI", raising=False)
    monkeypatch.setattr(postgres, "binaries", missing)
    assert not postgres.available()


def missing():
    raise postgres.NoServer("none here")


STARTER = """
    import os, signal, sys
    sys.path.insert(0, sys.argv[1])
    from servers import postgres
    end = sys.argv[2]
    with postgres.new_folder() as folder:
        server = postgres.Postgres(folder / "server")
        server.start()
        if end == "paused":
            server.pause()
        print(server._process.pid, server.folder, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("state", ["running", "paused"])
def test_a_server_ends_with_the_tests_also_if_these_are_killed(postgres_or_skipped, state):
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-c", textwrap.dedent(STARTER), str(tests), state]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid, folder = done.stdout.split()
    until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split())
    until(lambda: not Path(folder).parent.exists())


FORKER = """
    import os, sys
    sys.path.insert(0, sys.argv[1])
    from servers import postgres
    import psycopg
    uri = postgres.uri()
    child = os.fork()
    if not child:
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with psycopg.connect(uri) as connection:
        print(*connection.execute("SHOW data_directory").fetchone())
"""


def test_a_forked_child_does_not_end_the_server_of_its_parent(postgres_or_skipped):
    tests = Path(__file__).parents[1]
    environment = {name: value for name, value in os.environ.items() if name != "PITSTOP_TEST_POSTGRES_URI"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FORKER), str(tests)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert not Path(done.stdout.strip()).exists()
