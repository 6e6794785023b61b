"""Writers store due messages again while listeners drain them, in threads and processes, on a real server."""

from __future__ import annotations

import json
import os
import threading
import uuid

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import pairwise

import pymongo
import pytest

import pitstop

from mongo.child import emissions


#: ``PITSTOP_TEST_LARGE=1``: with more of everything.
LARGE = bool(os.environ.get("PITSTOP_TEST_LARGE"))
NAMES = [f"{n:03}" for n in range(600 if LARGE else 60)]
VERSIONS = 150 if LARGE else 20
WRITERS = 2
#: Messages of one claim by the listeners of this process, and of the others.
THREADS, PROCESSES = (1, 50), (1, 50)
#: Due by the clock of any process.
DUE = timedelta(seconds=-1)


@pytest.fixture(params=["mongo_uri", "replica_set_uri"], ids=["standalone", "replica_set"])
def server(request):
    """The URI of a server, and the name of a database on it."""
    uri, name = request.getfixturevalue(request.param), f"pitstop_test_{uuid.uuid4().hex}"
    yield uri, name
    with pymongo.MongoClient(uri) as client:
        client.drop_database(name)


@pytest.mark.timeout(600)
def test_the_last_version_is_emitted_and_none_is_older_than_its_lease(server, start_child, record_property):
    _race(server, start_child, record_property, _write)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("server", ["replica_set_uri"], ids=["replica_set"], indirect=True)
def test_so_it_is_when_they_are_stored_in_transactions(server, start_child, record_property):
    """These writes conflict with claims and acks all the time, and are repeated."""
    _race(server, start_child, record_property, _write_in_transactions)


def _race(server, start_child, record_property, write):
    uri, dbname = server
    children = [start_child(uri, dbname, "race", str(prefetch)) for prefetch in PROCESSES]
    for each in children:
        assert each.stdout.readline() == "ready\n", each.stderr.read()

    ended, begun = threading.Event(), threading.Barrier(len(THREADS) + WRITERS, timeout=200)
    with ThreadPoolExecutor() as pool:
        draining = [pool.submit(_drain, server, prefetch, ended, begun.wait) for prefetch in THREADS]
        writing = [pool.submit(write, server, NAMES[n::WRITERS], begun.wait) for n in range(WRITERS)]
        reading = [pool.submit(_read, each) for each in children]
        try:
            for each in writing:
                each.result()
        finally:
            ended.set()
            for each in children:
                each.stdin.write("end\n")
                each.stdin.flush()
        found = [each for part in (*draining, *reading) for each in part.result()]

    with pymongo.MongoClient(uri) as client:
        stored = {each["_id"]: each["msg"]["version"] for each in client[dbname]["messages"].find()}
    acked = [each for each in found if each["acked"]]
    held = [each for each in found if each["leased"]]
    figures = {"emitted": len(found), "acked": len(acked), "lost": len(found) - len(acked), "held": len(held)}
    record_property("figures", figures)
    print(figures, f"of {len(NAMES) * VERSIONS} versions, {len(stored)} still stored")

    assert len({(each["id"], each["version"]) for each in found}) == len(found), "no lease ran out, so none comes twice"
    assert {each["attempt"] for each in found} == {1}
    assert held, "the lease was read while it was held"
    assert [each for each in held if each["leased"] != [True, each["version"]]] == [], "each emitted message is leased"
    last = {each["id"] for each in acked if each["version"] == VERSIONS}
    assert [each for each in found if each["version"] == VERSIONS and not each["acked"]] == [], "no later version came"
    assert last | {name for name, version in stored.items() if version == VERSIONS} == set(NAMES)
    assert not last & stored.keys()
    _assert_one_at_a_time(acked)


def _write(server, names, begun):
    uri, dbname = server
    with pitstop.init({"type": "mongo", "uri": uri, "dbname": dbname}) as pit:
        begun()
        for version in range(1, VERSIONS + 1):
            messages = [({"id": name, "version": version}, DUE) for name in names]
            # Alternately many at once, and a few one by one before the others.
            for message, when in messages[: version % 4]:
                pit.store(message, when)
            pit.store_many(messages[version % 4 :])


def _write_in_transactions(server, names, begun):
    uri, dbname = server
    with (
        pymongo.MongoClient(uri) as client,
        pitstop.init({"type": "mongo", "client": client, "dbname": dbname}) as pit,
        client.start_session() as session,
    ):
        begun()
        written, tries = client[dbname]["written"], 0
        for version in range(1, VERSIONS + 1):
            for some in (names[start : start + 5] for start in range(0, len(names), 5)):

                def work(session, version=version, some=some):
                    nonlocal tries
                    tries += 1
                    for name in some:
                        written.update_one({"_id": name}, {"$inc": {"count": 1}}, upsert=True, session=session)
                    pit.store_many([({"id": name, "version": version}, DUE) for name in some], session=session)

                session.with_transaction(work)
        counts = {each["_id"]: each["count"] for each in written.find({"_id": {"$in": names}})}
        assert counts == dict.fromkeys(names, VERSIONS), "each was committed once"
        print(f"{VERSIONS * -(-len(names) // 5)} transactions took {tries} tries")


def _drain(server, prefetch, ended, begun):
    return list(emissions(*server, prefetch, ended, begun))


def _read(child):
    found = [json.loads(line) for line in child.stdout]
    assert child.wait() == 0, child.stderr.read()
    return found


def _assert_one_at_a_time(acked):
    """Each of these leases was live from before its emission until its ack, so the leases of one message do not overlap."""
    by_id = defaultdict(list)
    for each in acked:
        by_id[each["id"]].append(each)
    for several in by_id.values():
        several.sort(key=lambda each: each["handed"])
        for earlier, later in pairwise(several):
            assert earlier["asked"] <= later["handed"], (earlier, later)
            assert earlier["version"] < later["version"], (earlier, later)
