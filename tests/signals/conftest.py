"""Stores that can be opened again, where the tests look for confirmed messages."""

from __future__ import annotations

import os
import uuid

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import pitstop


#: ``PITSTOP_TEST_LARGE=1``: a signal at each line on every backend. Otherwise at a part of the lines, on some backends.
LARGE = bool(os.environ.get("PITSTOP_TEST_LARGE"))


@pytest.fixture(params=["memory", "sqlite", "mongo"])
def open_store(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Callable[[], pitstop.Pitstop]]:
    """Opens one store again and again. ``open_store.step``: one line out of this many gets a signal."""
    config: dict[str, Any] = {"type": request.param}
    if request.param == "memory":
        config["name"] = uuid.uuid4().hex
        kept = pitstop.init(config)
    elif request.param == "sqlite":
        config |= {"path": str(tmp_path / "pitstop.db"), "synchronous": "normal"}
    else:
        uri, name = request.getfixturevalue("mongo_uri"), request.getfixturevalue("mongo_dbname")
        config |= {"uri": uri, "dbname": name, "coll": uuid.uuid4().hex}

    def open_() -> pitstop.Pitstop:
        return pitstop.init(config)

    open_.step = 1 if LARGE else {"memory": 17, "sqlite": 41, "mongo": 83}[request.param]
    yield open_
    if request.param == "memory":
        kept.close()
