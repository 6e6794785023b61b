"""Changes of many large messages: not all messages of a batch are in the memory at once."""

from __future__ import annotations

import tracemalloc

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import pitstop

from pitstop.abc import PORTION, Query


MIB = 1024 * 1024
#: Much less than all messages have together, and more than a portion takes in all its forms: bytes, text, and documents.
MOST = 64 * MIB


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """Check that the body holds no more bytes than ``size`` at any time."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < size, f"{peak / MIB:.0f} MiB"


@pytest.fixture(params=["sqlite", "mongo", "filesystem"])
def large(request, tmp_path) -> Iterator[pitstop.Pitstop]:
    """A store of 100 MiB of messages."""
    kind = request.param
    if kind == "mongo":
        uri = request.getfixturevalue("mongo_uri")
        dbname = request.getfixturevalue("mongo_dbname")
        config = {"type": "mongo", "uri": uri, "dbname": dbname, "coll": "large"}
    else:
        config = {"type": kind, "path": str(tmp_path / "large")}
    with pitstop.init(config) as pit:
        for n in range(25):
            pit.store({"id": f"a{n:02}", "text": "x" * (4 * MIB)}, "1h", expires="2h" if n % 2 else None)
        yield pit


@pytest.mark.parametrize("by", ["ids", "search", "failing"])
@pytest.mark.parametrize("deed", ["remove", "redrive", "reschedule"])
def test_a_change_of_large_messages_holds_a_part_of_them(large, deed, by):
    names = {"ids": {"ids": [f"a{n:02}" for n in range(25)]}, "search": {"prefix": "a"}, "failing": {"failing": False}}[
        by
    ]
    with at_most(MOST):
        if deed == "remove":
            assert large.remove_many(**names) == 25
        elif deed == "reschedule":
            assert large.reschedule_many(when="2h", **names) == 25
        else:
            # None of them is dead: ids have to be read, and a search finds none.
            assert large.redrive_many(**names) == 0


def test_a_move_of_large_messages_holds_a_part_of_them(large, tmp_path):
    with (
        pitstop.init(f"sqlite:///{tmp_path}/moved.db") as other,
        pitstop.init(f"sqlite:///{tmp_path}/read.db") as third,
    ):
        with at_most(2 * MOST):
            assert large.copy_to(other).written == 25
        with at_most(2 * MOST):
            assert third.import_lines(other.export_lines()).written == 25


def test_a_portion_of_large_messages_ends_near_its_size(large):
    backend = pitstop._pitstop.session_of(large).backend
    every = [f"a{n:02}" for n in range(25)]
    with at_most(MOST):
        found, left = backend.get_portion(every)
    size = sum(len(each.message["text"]) for each in found)
    assert PORTION - 4 * MIB <= size <= PORTION + 4 * MIB
    assert sorted([*(each.id for each in found), *left]) == every
    with at_most(MOST):
        assert len(backend.find_places(Query(failing=False), 100, None)) == 25
