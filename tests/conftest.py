"""Shared by all tests: a real MongoDB, and a CI in which no test is skipped silently."""

from __future__ import annotations

import os
import signal
import threading

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import TypeVar

import pymongo
import pymongo.common
import pymongo.database
import pytest

from hypothesis import HealthCheck, settings

import leaks

from servers import auth, mongod, postgres
from servers import replica_set as sets
from servers.database import database


_Server = TypeVar("_Server")


def pytest_configure(config: pytest.Config) -> None:
    # The time of an example shows the load of the machine, and nothing about the tested code.
    settings.register_profile("pitstop", parent=settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("pitstop")
    config.pluginmanager.register(leaks, "pitstop-leaks")
    _hear_signals()


def _hear_signals() -> None:
    """Give ignored signals their usual handlers. Tests send these signals to children, which would inherit that they are ignored.

    A shell ignores SIGINT for ``nox -s tests &`` in a script, and nohup ignores SIGHUP.
    """
    usual = {"SIGINT": signal.default_int_handler, "SIGTERM": signal.SIG_DFL, "SIGHUP": signal.SIG_DFL}
    for name, handler in usual.items():
        number = getattr(signal, name, None)
        ignored = number is not None and signal.getsignal(number) is signal.SIG_IGN
        if ignored and threading.current_thread() is threading.main_thread():
            signal.signal(number, handler)


@contextmanager
def _or_skipped(server: Callable[[], AbstractContextManager[_Server]]) -> Iterator[_Server]:
    """Yield the server that this starts. Without a mongod, its tests are skipped with a loud warning."""
    with ExitStack() as stack:
        try:
            running = stack.enter_context(server())
        except mongod.NoServer as error:
            pytest.skip(f"NO REAL MONGODB, its tests are skipped: {error}")
        yield running


@pytest.fixture(scope="session")
def mongo_uri() -> Iterator[str]:
    """Return the URI of a real MongoDB server: the one in PITSTOP_TEST_MONGO_URI, or one that this session starts."""
    given = mongod.given_uri()
    if given is not None:
        yield given
        return
    with _or_skipped(mongod.standalone) as uri:
        yield uri


@pytest.fixture(scope="session")
def replica_set_uri() -> Iterator[str]:
    """Return the URI of a replica set of one member, for change streams, transactions and retried writes."""
    with _or_skipped(sets.single) as servers:
        yield servers.uri


@pytest.fixture(scope="session")
def _replica_set() -> Iterator[sets.ReplicaSet]:
    with _or_skipped(partial(sets.replica_set, election_ms=sets.QUICK_ELECTION_MS)) as servers:
        yield servers


@pytest.fixture
def replica_set(_replica_set: sets.ReplicaSet) -> Iterator[sets.ReplicaSet]:
    """Yield a replica set of three that elects quickly. Tests may break it. It is healed after each test."""
    yield _replica_set
    _replica_set.heal()


@pytest.fixture
def eager_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the half second that the driver waits before it looks again at a lost server."""
    monkeypatch.setattr(pymongo.common, "MIN_HEARTBEAT_INTERVAL", 0.02)


@pytest.fixture(scope="session")
def mongo_client(mongo_uri: str) -> Iterator[pymongo.MongoClient]:
    """Return the driver's own client on that server, to look behind Pitstop's back."""
    with pymongo.MongoClient(mongo_uri, tz_aware=True) as client:
        yield client


@pytest.fixture
def mongo_dbname(mongo_client: pymongo.MongoClient) -> Iterator[str]:
    """Yield the name of a database for this test, which is dropped afterwards."""
    with database(mongo_client) as made:
        yield made.name


@pytest.fixture(scope="session")
def replica_set_client(replica_set_uri: str) -> Iterator[pymongo.MongoClient]:
    """Return the driver's own client on the replica set."""
    with pymongo.MongoClient(replica_set_uri, tz_aware=True) as client:
        yield client


@pytest.fixture(scope="module")
def replica_set_database(replica_set_client: pymongo.MongoClient) -> Iterator[pymongo.database.Database]:
    """Yield a database on it for all tests of a module. A new one for each test would take most of the time."""
    with database(replica_set_client) as made:
        yield made


@pytest.fixture(scope="session")
def auth_server() -> Iterator[auth.AuthServer]:
    """Yield a real MongoDB server with users and passwords, which this session starts."""
    with _or_skipped(auth.auth_server) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_or_skipped() -> None:
    """Skip a test that starts its own PostgreSQL, with a loud warning, if this machine has no PostgreSQL."""
    try:
        postgres.binaries()
    except postgres.NoServer as error:
        pytest.skip(f"NO REAL POSTGRESQL, its tests are skipped: {error}")


@pytest.fixture(scope="session")
def postgres_uri() -> str:
    """Return the URI of a real PostgreSQL: the server in PITSTOP_TEST_POSTGRES_URI, or one that this process starts."""
    try:
        return postgres.uri()
    except postgres.NoServer as error:
        pytest.skip(f"NO REAL POSTGRESQL, its tests are skipped: {error}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Make a skip a failure in CI, because it hides a gap."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if skipped and os.environ.get("CI") and exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"CI is set and {len(skipped)} tests were skipped: that is a failure.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
