"""The conformance suite on the MongoDB backend with mongomock in place of the driver, as some applications test.

Writes of mongomock are not atomic between threads. The backend lets its writes take turns there, and the races show it. The
tests in ``test_mongo.py`` use a real server.
"""

from __future__ import annotations

import uuid

import mongomock
import pytest

from pitstop.testing import BackendConformance
from pitstop_mongo import MongoBackend


pytestmark = pytest.mark.usefixtures("fewer_sequences")


class TestMongomock(BackendConformance):
    has_server = False

    @pytest.fixture
    def make_backend(self):
        client = mongomock.MongoClient(tz_aware=True)
        where = {"client": client, "dbname": "app", "coll": uuid.uuid4().hex}
        self.collection = client[where["dbname"]][where["coll"]]
        return lambda **options: MongoBackend.from_options({**where, **options})

    def damage(self, backend, id):
        result = self.collection.update_one({"_id": {"$eq": id}}, {"$set": {"msg": "no mapping"}})
        assert result.modified_count == 1
