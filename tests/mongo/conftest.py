"""What the tests of the MongoDB backend share."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from pathlib import Path

import pymongo
import pytest

from pitstop.abc import Outcome, Progress, Record, Settlement
from pitstop.testing import ManualClock
from pitstop_mongo import MongoBackend
from servers import mongod


#: The instant at which a ManualClock begins: 2020-01-01T00:00Z.
START = 1_577_836_800_000


@pytest.fixture(scope="session")
def replica_set_uri():
    """The URI of a replica set with one member, started for this session."""
    try:
        path = mongod.binary()
    except mongod.NoServer as error:
        pytest.skip(f"NO REAL MONGODB, its tests are skipped: {error}")
    with tempfile.TemporaryDirectory(prefix="pitstop-mongod-", ignore_cleanup_errors=True) as folder:
        address = f"127.0.0.1:{mongod.free_port()}"
        process = subprocess.Popen(
            [
                *(str(path), "--bind_ip", "127.0.0.1", "--port", address.rpartition(":")[2], "--dbpath", folder),
                *("--replSet", "rs", "--logpath", f"{folder}/mongod.log", "--wiredTigerCacheSizeGB", "0.25"),
                *("--oplogSize", "100", "--setParameter", "enableTestCommands=1", "--nounixsocket"),
                *("--setParameter", "diagnosticDataCollectionEnabled=false"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with pymongo.MongoClient(address, directConnection=True) as client:
                member = {"_id": 0, "host": address}
                client.admin.command("replSetInitiate", {"_id": "rs", "members": [member]})
            with pymongo.MongoClient(address, replicaSet="rs") as client:
                client.admin.command("ping")
            yield f"mongodb://{address}/?replicaSet=rs"
        finally:
            process.kill()
            process.wait()


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
    """Makes a record that is due at the clock's start, unless told otherwise."""

    def record(id, due=START, message=None, series=None, **progress):
        fields = {"due": due, "scheduled_for": due, **progress}
        return Record(id, {"of": id} if message is None else message, series, os.urandom(16).hex(), Progress(**fields))

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
def child(mongo_uri, mongo_dbname):
    """Starts ``child.py`` with a command, on the collection of the test, and ends it."""
    started = []

    def child(*command):
        script = Path(__file__).with_name("child.py")
        process = subprocess.Popen(
            [sys.executable, "-W", "error", str(script), mongo_uri, mongo_dbname, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield child
    for process in started:
        process.kill()
        process.communicate()
