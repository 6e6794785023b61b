"""A database for tests, on any server."""

from __future__ import annotations

import uuid

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pymongo
import pymongo.database


@contextmanager
def database(client: pymongo.MongoClient[Any]) -> Iterator[pymongo.database.Database[Any]]:
    """Yield a new database, which is dropped at the end."""
    name = f"pitstop_test_{uuid.uuid4().hex}"
    yield client[name]
    client.drop_database(name)
