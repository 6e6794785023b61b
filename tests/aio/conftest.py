"""A store on each backend, for tests in an event loop."""

from __future__ import annotations

import sys

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pitstop

from aio.kit import Outside, Tasks


#: Eager tasks came with Python 3.12.
TASKS = ["tasks", "eager tasks"] if sys.version_info >= (3, 12) else ["tasks"]


@pytest.fixture(params=["memory", "sqlite", "mongo"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """How to open one store, again and again. Its polls are so rare that a test would notice if it had to wait for one."""
    common = {"type": request.param, "loop_time": "1m", "lock_time": "15m"}
    if request.param == "memory":
        return {**common, "name": f"aio-{tmp_path.name}"}
    if request.param == "sqlite":
        return {**common, "path": str(tmp_path / "pitstop.db")}
    return {
        **common,
        "uri": request.getfixturevalue("mongo_uri"),
        "dbname": request.getfixturevalue("mongo_dbname"),
    }


@pytest.fixture(params=TASKS)
def tasks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with each kind of tasks that this Python has."""
    monkeypatch.setattr(Tasks, "eager", request.param == "eager tasks")


@pytest.fixture
def outside(config: dict[str, Any]) -> Any:
    """The same store, as another process would see it: a plain Pitstop of its own."""
    with pitstop.init(config) as pit:
        yield Outside(pit)


@pytest.fixture
def opened(config: dict[str, Any]) -> Callable[..., pitstop.AsyncPitstop]:
    return lambda **more: pitstop.init_async({**config, **more})
