"""The shared suite on the MongoDB backend, with a real server."""

from __future__ import annotations

import uuid

import pytest

from pitstop.testing import BackendConformance
from pitstop_mongo import MongoBackend


@pytest.fixture(scope="module")
def database(mongo_client):
    """A database for all tests here, dropped after them: a new one for each would take most of the time."""
    name = f"pitstop_test_{uuid.uuid4().hex}"
    yield mongo_client[name]
    mongo_client.drop_database(name)


class TestMongo(BackendConformance):
    @pytest.fixture
    def make_backend(self, mongo_uri, database):
        self.collection = database[uuid.uuid4().hex]
        where = {"uri": mongo_uri, "dbname": database.name, "coll": self.collection.name}
        yield lambda **options: MongoBackend.from_options({**where, **options})
        self.collection.drop()
        database[f"{self.collection.name}.wakeups"].drop()

    def damage(self, backend, id):
        result = self.collection.update_one({"_id": {"$eq": id}}, {"$set": {"msg": "no mapping"}})
        assert result.modified_count == 1
