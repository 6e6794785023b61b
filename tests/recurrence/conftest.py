"""A Pitstop on each backend, with a clock that the test moves."""

from __future__ import annotations

import pytest

import pitstop

from core.installed import install
from pitstop.testing import ManualClock


__all__ = ["install"]


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture(params=["memory", "sqlite", "mongo"])
def pit(request, clock, tmp_path):
    options = {"type": request.param, "clock": clock}
    if request.param == "sqlite":
        options["path"] = str(tmp_path / "pitstop.db")
    if request.param == "mongo":
        options["uri"] = request.getfixturevalue("mongo_uri")
        options["dbname"] = request.getfixturevalue("mongo_dbname")
    with pitstop.init(options) as pit:
        yield pit
