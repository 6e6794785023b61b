"""Several processes on one collection, and forks."""

from __future__ import annotations

import os

import pytest


#: ``PITSTOP_TEST_LARGE=1``: with more of everything.
COUNT = 20_000 if os.environ.get("PITSTOP_TEST_LARGE") else 2000


@pytest.mark.timeout(600)
def test_four_processes_drain_each_message_exactly_once(open_backend, coll, record, child):
    backend = open_backend()
    now = backend.now() // 1000
    ids = [f"{n:05}" for n in range(COUNT)]
    for start in range(0, COUNT, 500):
        backend.put([record(id, now - COUNT + int(id) // 2) for id in ids[start : start + 500]])

    workers = [child("drain", prefetch) for prefetch in ("1", "20", "100", "100")]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n", worker.stderr.read()
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()

    drained = []
    for worker in workers:
        out, err = worker.communicate(timeout=500)
        assert worker.returncode == 0, err
        drained += out.split()
    assert sorted(drained) == ids
    assert coll.count_documents({}) == 0


def test_a_backend_works_in_a_forked_process(child, coll):
    """Each process has a client of its own. Warnings are errors in the child."""
    process = child("fork", "own")
    out, err = process.communicate(timeout=200)

    assert process.returncode == 0, err
    assert out == "child ended with 0\n"
    assert {each["_id"] for each in coll.find()} == {"before", "child", "parent"}
    assert not err


def test_a_client_that_was_given_works_in_a_forked_process_with_a_warning(child, coll):
    process = child("fork-given")
    out, err = process.communicate(timeout=200)

    assert process.returncode == 0, err
    assert out == "child ended with 0\n", err
    assert {each["_id"] for each in coll.find()} == {"before", "child", "parent"}


@pytest.mark.parametrize("times", [1, 2])
def test_closing_an_own_client_ends_it(open_backend, record, times):
    from pitstop import BackendUnavailable

    backend = open_backend()
    backend.put([record("a")])
    client = backend._connection._link.client
    for _ in range(times):
        backend.close()

    assert client._closed
    with pytest.raises(BackendUnavailable, match="this backend was closed"):
        backend.get("a")


def test_a_client_that_was_given_is_not_closed(mongo_client, mongo_dbname, record):
    from pitstop_mongo import MongoBackend

    backend = MongoBackend.from_options({"client": mongo_client, "dbname": mongo_dbname})
    backend.put([record("a")])
    backend.close()

    assert mongo_client[mongo_dbname]["messages"].find_one()["_id"] == "a"
