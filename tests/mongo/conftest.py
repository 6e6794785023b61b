"""Fixtures that the tests of the MongoDB backend share."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid

from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from pitstop.abc import Outcome, Progress, Record, Settlement
from pitstop.testing import ManualClock
from pitstop_mongo import MongoBackend


#: The instant at which a ManualClock begins: 2020-01-01T00:00Z.
START = 1_577_836_800_000


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def coll(mongo_client, mongo_dbname):
    """The collection that the backends of a test use, as the driver sees it."""
    return mongo_client[mongo_dbname]["messages"]


@pytest.fixture
def open_backend(mongo_uri, mongo_dbname):
    """Opens backends with a client of their own on one collection, and closes them."""
    opened = []

    def open_backend(**options):
        opened.append(MongoBackend.from_options({"uri": mongo_uri, "dbname": mongo_dbname, **options}))
        return opened[-1]

    yield open_backend
    for each in opened:
        each.close()


@pytest.fixture
def backend(open_backend, clock):
    return open_backend(clock=clock)


@pytest.fixture
def record():
    """Makes a record that is due at the clock's start by default."""

    def record(id, due=START, message=None, series=None, revision=None, **progress):
        fields = {"due": due, "scheduled_for": due, **progress}
        message = {"of": id} if message is None else message
        return Record(id, message, series, revision or os.urandom(16).hex(), Progress(**fields))

    return record


@pytest.fixture
def complete():
    return lambda leased: Settlement(leased.id, leased.progress.token, Outcome.COMPLETE, None)


@pytest.fixture
def reschedule():
    def reschedule(leased, due):
        return Settlement(leased.id, leased.progress.token, Outcome.RESCHEDULE, Progress(due, due))

    return reschedule


@pytest.fixture
def failing(request, eager_driver, mongo_client, mongo_uri, mongo_dbname, clock):
    """A backend, and a way to let the server fail its commands. Other clients have other names, and are not affected.

    The parameter is its ``operation_timeout``; the driver needs half a second to come back after a lost connection.
    """
    name = f"pitstop-{uuid.uuid4().hex}"
    backend = MongoBackend.from_options(
        {
            "uri": f"{mongo_uri}/?appName={name}&retryReads=false&retryWrites=false",
            "dbname": mongo_dbname,
            "clock": clock,
            "operation_timeout": getattr(request, "param", "3s"),
        }
    )
    backend.next_due()  # makes the index
    # A wake-up is sent at any time, and the server could fail it instead of the intended command.
    backend._wakeups.announce = lambda due: None

    @contextmanager
    def failing(*commands, mode="alwaysOn", **how):
        data = {"failCommands": list(commands), "appName": name, **how}
        mongo_client.admin.command({"configureFailPoint": "failCommand", "mode": mode, "data": data})
        try:
            yield backend
        finally:
            mongo_client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})

    failing.backend = backend
    yield failing
    backend.close()


@pytest.fixture
def start_child():
    """Starts ``child.py`` with a command, on a database, and ends it."""
    started = []

    def start_child(uri, dbname, *command):
        script = Path(__file__).with_name("child.py")
        process = subprocess.Popen(
            [sys.executable, "-W", "error", str(script), uri, dbname, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start_child
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def child(start_child, mongo_uri, mongo_dbname):
    """Starts ``child.py`` with a command, on the collection of the test, and ends it."""
    return partial(start_child, mongo_uri, mongo_dbname)
