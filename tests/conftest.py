"""What all tests share: a real MongoDB, and a CI in which nothing is skipped in silence."""

from __future__ import annotations

import os
import uuid

from collections.abc import Iterator
from contextlib import ExitStack

import pymongo
import pytest

from servers import mongod, replica_set as sets


@pytest.fixture(scope="session")
def mongo_uri() -> Iterator[str]:
    """The URI of a real MongoDB server: the one in PITSTOP_TEST_MONGO_URI, or one started for this session."""
    given = mongod.given_uri()
    if given is not None:
        yield given
        return
    with ExitStack() as stack:
        try:
            uri = stack.enter_context(mongod.standalone())
        except mongod.NoServer as error:
            pytest.skip(f"NO REAL MONGODB, its tests are skipped: {error}")
        yield uri


@pytest.fixture(scope="session")
def replica_set_uri() -> Iterator[str]:
    """The URI of a replica set of one member, for what only a set has: change streams, transactions, retried writes."""
    with ExitStack() as stack:
        try:
            servers = stack.enter_context(sets.single())
        except mongod.NoServer as error:
            pytest.skip(f"NO REAL REPLICA SET, its tests are skipped: {error}")
        yield servers.uri


@pytest.fixture(scope="session")
def _replica_set() -> Iterator[sets.ReplicaSet]:
    with ExitStack() as stack:
        try:
            servers = stack.enter_context(sets.replica_set(election_ms=sets.QUICK_ELECTION_MS))
        except mongod.NoServer as error:
            pytest.skip(f"NO REAL REPLICA SET, its tests are skipped: {error}")
        yield servers


@pytest.fixture
def replica_set(_replica_set: sets.ReplicaSet) -> Iterator[sets.ReplicaSet]:
    """A replica set of three that elects quickly, to be broken: it is healed after each test."""
    yield _replica_set
    _replica_set.heal()


@pytest.fixture(scope="session")
def mongo_client(mongo_uri: str) -> Iterator[pymongo.MongoClient]:
    """The driver's own client on that server, for looking behind Pitstop's back."""
    with pymongo.MongoClient(mongo_uri, tz_aware=True) as client:
        yield client


@pytest.fixture
def mongo_dbname(mongo_client: pymongo.MongoClient) -> Iterator[str]:
    """The name of a database of the test's own, dropped afterwards."""
    name = f"pitstop_test_{uuid.uuid4().hex}"
    yield name
    mongo_client.drop_database(name)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI a skip is a failure: it hides a gap."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if skipped and os.environ.get("CI") and exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"CI is set and {len(skipped)} tests were skipped: that is a failure.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
