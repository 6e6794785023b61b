"""The messages that are left after the end of a process, of any kind."""

from __future__ import annotations

import sqlite3

from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

import pitstop


VALUES = {"none": None, "text": "ü\0€😀", "bytes": b"\0\xff", "time": datetime(2001, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)}


def healthy(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_everything_is_there_after_it_was_closed(path):
    config = {"type": "sqlite", "path": path}
    with pitstop.init(config) as pit:
        pit.store({"id": "one", **VALUES}, timedelta(hours=1))
        pit.store({"id": "series"}, timedelta(0), timedelta(days=1), timedelta(hours=1), catch_up="all")
        with pit.listen() as listener:
            listener.get().nack("it failed", delay=timedelta(minutes=5))
        before = pit.entries()
    with pitstop.init(config) as pit:
        assert pit.entries() == before
        assert pit.get("one").message == {"id": "one", **VALUES}
        assert pit.get("series").last_error == "it failed"


@pytest.mark.parametrize("synchronous", ["full", "normal"])
def test_stored_messages_are_there_after_kill_9(path, start_child, synchronous):
    child = start_child("store_on", path, synchronous)
    said = [child.read() for _ in range(50)]
    child.kill()
    with pitstop.init({"type": "sqlite", "path": path}) as pit:
        stored = {entry.id for entry in pit.entries(limit=100_000)}
    assert stored.issuperset(said)
    assert healthy(path)


def test_leases_of_a_killed_process_come_back_when_they_run_out(path, start_child):
    with pitstop.init({"type": "sqlite", "path": path, "loop_time": "10ms"}) as pit:
        pit.store_many([({"id": f"{number}"}, timedelta(0)) for number in range(5)])
        child = start_child("hold", path, "2s")
        assert child.read() == "0 1 2 3 4"
        child.kill()
        assert pit.stats().leased == 5
        ends = {entry.id: entry.leased_until for entry in pit.entries("leased")}
        back = {}
        with pit.listen() as listener:
            assert listener.get() is None
            while len(back) < 5:
                delivery = listener.get(timeout=30)
                assert delivery.attempt == 2
                assert pit.now() >= ends[delivery.id]
                back[delivery.id] = delivery
            for delivery in back.values():
                delivery.ack()
        assert sorted(back) == ["0", "1", "2", "3", "4"]
        assert pit.entries() == []
    assert healthy(path)


def test_order_survives_a_vacuum(path, open_backend, record):
    """Equal times are leased in the order in which the ids came in, also when VACUUM renumbers rows."""
    backend = open_backend()
    ids = [f"{number * 7919 % 100:02}" for number in range(100)]
    backend.put([record(id) for id in ids])
    for id in ids[::2]:
        assert backend.delete(id)
    backend.put([record(ids[1])])
    with backend._database.lock, backend._database as connection:
        connection.execute("VACUUM")
    assert [each.id for each in backend.lease(100, 1000)] == ids[1::2]
