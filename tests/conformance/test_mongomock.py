"""The shared suite on the MongoDB backend with mongomock in place of the driver: what an application's tests may use.

mongomock's writes are not atomic between threads; Pitstop's take turns on it, which the races show. What they are on a
real server is proved in ``test_mongo.py``.
"""

from __future__ import annotations

import uuid

import mongomock
import pytest

from pitstop.testing import BackendConformance
from pitstop_mongo import MongoBackend


pytestmark = pytest.mark.usefixtures("fewer_sequences")


class TestMongomock(BackendConformance):
    @pytest.fixture
    def make_backend(self):
        client = mongomock.MongoClient(tz_aware=True)
        where = {"client": client, "dbname": "app", "coll": uuid.uuid4().hex}
        self.collection = client[where["dbname"]][where["coll"]]
        return lambda **options: MongoBackend.from_options({**where, **options})

    def damage(self, backend, id):
        result = self.collection.update_one({"_id": {"$eq": id}}, {"$set": {"msg": "no mapping"}})
        assert result.modified_count == 1
