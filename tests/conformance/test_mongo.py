"""The conformance suite on the MongoDB backend, with a real server."""

from __future__ import annotations

import uuid

from contextlib import contextmanager
from typing import ClassVar

import pymongo
import pytest

from pymongo.uri_parser import parse_uri

from pitstop.testing import BackendConformance
from pitstop_conformance import Transactions, kit_tests
from pitstop_conformance.contract._kinds import Kinds
from pitstop_conformance.contract._lease import Lease
from pitstop_conformance.contract._put import PutGetDelete
from pitstop_conformance.contract._put_if import PutIf
from pitstop_conformance.contract._settle import Settle
from pitstop_mongo import MongoBackend
from servers import database as databases
from servers import router as routers


@pytest.fixture(scope="module")
def database(mongo_client):
    """A database for all tests here, dropped at the end. A new database for each test would take most of the time."""
    with databases.database(mongo_client) as made:
        yield made


@pytest.fixture(scope="module")
def routed_client(replica_set_uri):
    """The driver's own client behind a stub of a router. In the end the stub has refused nothing."""
    with routers.in_front_of(replica_set_uri) as router:
        with pymongo.MongoClient(router.uri, tz_aware=True) as client:
            yield client
        assert not router.refused
        assert router.commands["findAndModify"] == 0


pytestmark = pytest.mark.usefixtures("fewer_sequences")


#: MongoDB has one time for each command, that of its begin, also for ``$$NOW``. The token still guards: no other claim has the record.
_ONE_TIME = {
    "a command that waits for a transaction compares with the time of its begin": {
        "test_a_lease_that_ends_while_a_settlement_waits_is_over"
    }
}


class TestMongo(BackendConformance):
    known_failures: ClassVar = {
        "a standalone server has no transactions; TestMongoTransactions shows them on a replica set": {
            *kit_tests(Transactions),
        },
    }

    @pytest.fixture
    def make_backend(self, mongo_uri, database, eager_driver):
        self.server = tuple(parse_uri(mongo_uri)["nodelist"][0])
        self.collection = database[uuid.uuid4().hex]
        where = {"uri": mongo_uri, "dbname": database.name, "coll": self.collection.name}
        yield lambda **options: MongoBackend.from_options({**where, **options})
        self.collection.drop()
        database[f"{self.collection.name}.wakeups"].drop()

    def through(self, wire, **options):
        host, port = wire.to(*self.server)
        where = {"dbname": self.collection.database.name, "coll": self.collection.name}
        # Without directConnection the driver asks the server for its address, and may go there past the wire.
        return MongoBackend.from_options({"uri": f"mongodb://{host}:{port}/?directConnection=true", **where, **options})

    def server_time(self, backend):
        (told,) = self.collection.database.aggregate([{"$documents": [{}]}, {"$project": {"now": "$$NOW"}}])
        return round(told["now"].timestamp() * 1000) * 1000

    def traces(self, backend):
        return self.collection.database.list_collection_names(
            filter={"name": {"$regex": f"^{self.collection.name}.check"}}
        )

    def protected(self, password, **options):
        host, port = self.server
        where = {"dbname": self.collection.database.name, "coll": self.collection.name}
        return MongoBackend.from_options({"uri": f"mongodb://ada:{password}@{host}:{port}", **where, **options})

    def damage(self, backend, id):
        result = self.collection.update_one({"_id": {"$eq": id}}, {"$set": {"msg": "no mapping"}})
        assert result.modified_count == 1

    def damage_kind(self, backend, id):
        # Operators of MongoDB look into a list.
        result = self.collection.update_one({"_id": {"$eq": id}}, [{"$set": {"kind": ["$kind"]}}])
        assert result.modified_count == 1


class TestMongoTransactions(Transactions):
    """The part with transactions alone, on a server that has transactions, and with the user's own client."""

    known_failures: ClassVar = _ONE_TIME

    @pytest.fixture
    def make_backend(self, replica_set_client, replica_set_database):
        self.client = replica_set_client
        collection = replica_set_database[uuid.uuid4().hex]
        where = {"client": self.client, "dbname": replica_set_database.name, "coll": collection.name}
        yield lambda **options: MongoBackend.from_options({**where, **options})
        collection.drop()

    @contextmanager
    def transaction(self, backend):
        with self.client.start_session() as session, session.start_transaction():
            yield session


class TestMongoBehindARouter(Lease, Settle, PutGetDelete, PutIf, Kinds, Transactions):
    """The parts that write, behind a stub that refuses what the router of a sharded cluster refuses."""

    known_failures: ClassVar = _ONE_TIME

    @pytest.fixture
    def make_backend(self, routed_client, replica_set_database):
        self.client = routed_client
        self.collection = routed_client[replica_set_database.name][uuid.uuid4().hex]
        where = {"client": self.client, "dbname": replica_set_database.name, "coll": self.collection.name}
        yield lambda **options: MongoBackend.from_options({**where, **options})
        self.collection.drop()

    @contextmanager
    def transaction(self, backend):
        with self.client.start_session() as session, session.start_transaction():
            yield session

    damage = TestMongo.damage
    damage_kind = TestMongo.damage_kind
