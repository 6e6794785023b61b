"""What all tests share: a real MongoDB, and a CI in which nothing is skipped in silence."""

from __future__ import annotations

import os
import uuid

from collections.abc import Iterator

import pymongo
import pytest

import leaks

from servers import auth, mongod


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(leaks, "pitstop-leaks")


@pytest.fixture(scope="session")
def mongo_uri() -> Iterator[str]:
    """The URI of a real MongoDB server: the one in PITSTOP_TEST_MONGO_URI, or one started for this session."""
    given = mongod.given_uri()
    if given is not None:
        yield given
        return
    try:
        server = mongod.standalone()
        uri = server.__enter__()
    except mongod.NoServer as error:
        pytest.skip(f"NO REAL MONGODB, its tests are skipped: {error}")
    try:
        yield uri
    finally:
        server.__exit__(None, None, None)


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


@pytest.fixture(scope="session")
def auth_server() -> Iterator[auth.AuthServer]:
    """A real MongoDB server that asks for users and passwords, started for this session."""
    try:
        server = auth.auth_server()
        running = server.__enter__()
    except mongod.NoServer as error:
        pytest.skip(f"NO REAL MONGODB WITH USERS, its tests are skipped: {error}")
    try:
        yield running
    finally:
        server.__exit__(None, None, None)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI a skip is a failure: it hides a gap."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if skipped and os.environ.get("CI") and exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"CI is set and {len(skipped)} tests were skipped: that is a failure.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
