"""Processes that are forked from one whose threads are inside Pitstop: servers that preload, pools, daemons."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import uuid

from pathlib import Path

import pytest


pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

#: ``PITSTOP_TEST_LARGE=1``: with larger numbers.
LARGE = bool(os.environ.get("PITSTOP_TEST_LARGE"))
CHILDREN = 200 if LARGE else 12
ROUNDS, STORES = (10, 20_000) if LARGE else (1, 400)


def run(*arguments):
    program = [sys.executable, "-W", "error", Path(__file__).with_name("parent.py"), *arguments[:1]]
    done = subprocess.run(
        [*program, *map(json.dumps, arguments[1:])], capture_output=True, text=True, timeout=1500, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    told = json.loads(done.stdout)
    print(told)
    return told


@pytest.fixture(params=["sqlite", "mongo", "memory"])
def config(request, tmp_path):
    if request.param == "memory":
        return {"type": "memory", "name": "shared"}
    if request.param == "sqlite":
        return {"type": "sqlite", "path": str(tmp_path / "pitstop.db")}
    uri, name = request.getfixturevalue("mongo_uri"), request.getfixturevalue("mongo_dbname")
    return {"type": "mongo", "uri": uri, "dbname": name, "coll": uuid.uuid4().hex}


def assert_sound(config):
    if config["type"] == "sqlite":
        with contextlib.closing(sqlite3.connect(config["path"])) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("world", ["sync", "asyncio"])
def test_children_of_a_busy_process_store_and_lose_nothing(config, world):
    """No child hangs or finds the store locked, and all messages that any process confirmed are there."""
    told = run("forks", config, world, CHILDREN)
    assert (told["children"], told["hung"], told["errors"], told["lost"], told["back"]) == (CHILDREN, 0, [], [], [])
    assert_sound(config)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("config", ["sqlite", "mongo"], indirect=True)
def test_workers_of_a_master_that_has_ended_lose_nothing(config, tmp_path):
    """The master opened the store before it forked them."""
    for number in range(ROUNDS):
        if config["type"] == "sqlite":
            config["path"] = str(tmp_path / f"{number}.db")
        else:
            config["coll"] = uuid.uuid4().hex
        told = run("preload", config, STORES)
        assert (told["confirmed"], told["lost"]) == (STORES + 1, 0)
        assert_sound(config)
