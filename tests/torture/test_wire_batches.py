"""Requests and replies of large batches are lost: hundreds of claims or acks in one command, which may be done in part.

Messages are iterated over, or handled by the workers of ``consume``. In the end each message was handed out once, the outcome
of each ack is right, and no message is left.
"""

from __future__ import annotations

import asyncio
import time

from collections import Counter
from contextlib import contextmanager
from datetime import timedelta
from threading import Lock, Thread

import pymongo
import pytest

import pitstop

from torture.conftest import IDS, LARGE, LOCK, NOW, SERVERS, is_claim


pytestmark = pytest.mark.usefixtures("eager_driver")

MANY = 400
HOUR = timedelta(hours=1)


@pytest.fixture(params=SERVERS, ids=IDS)
def server_uri(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def server(server_uri):
    """The server, without the proxy."""
    with pymongo.MongoClient(server_uri) as client:
        yield client


@pytest.fixture(params=["iterate", "consume", "loop"] if LARGE else ["consume"])
def handle_all(request, pit, outcomes, proxy, dbname):
    """Handles all due messages. Returns how often each was handed out, and the outcomes of their acks."""
    seen = Counter()

    def iterate():
        def stop_when_all_is_known(listener):
            outcomes.wait_for(MANY, 60)
            listener.stop()

        with pit.listen() as listener:
            stopper = Thread(target=stop_when_all_is_known, args=(listener,))
            stopper.start()
            for delivery in listener:
                seen[delivery.id, delivery.attempt] += 1
                delivery.ack()
            stopper.join()
        return seen, (outcomes.acked, outcomes.lost)

    def consume():
        lock = Lock()

        def handler(delivery):
            with lock:
                seen[delivery.id, delivery.attempt] += 1

        summary = pit.consume(handler, workers=4, until_idle=True)
        assert summary.unsettled == summary.nacked == 0
        return seen, (summary.acked, summary.lost)

    async def consume_in_a_loop():
        async def handler(delivery):
            seen[delivery.id, delivery.attempt] += 1

        where = {"type": "mongo", "uri": f"{proxy.uri}&serverMonitoringMode=poll", "dbname": dbname, "lock_time": LOCK}
        async with pitstop.init_async(where) as other:
            # With `until_idle` a store that is away would end it.
            summary = await other.consume(handler, concurrency=100, max_messages=MANY)
        assert summary.unsettled == summary.nacked == 0
        return seen, (summary.acked, summary.lost)

    return {"iterate": iterate, "consume": consume, "loop": lambda: asyncio.run(consume_in_a_loop())}[request.param]


@pytest.fixture
def fill(pit):
    """Stores many messages. Returns how often each attempt of each should be handed out."""

    def fill(*schedule):
        ids = pit.store_many([({"id": f"{n:03}"}, *(schedule or (NOW,))) for n in range(MANY)])
        return dict.fromkeys(((id, 1) for id in ids), 1)

    return fill


@pytest.fixture
def fails(server, pit, server_uri):
    """Lets the server fail commands of this Pitstop, ``times`` times."""

    @contextmanager
    def fails(command, times, how):
        data = {"failCommands": [command], "appName": "pitstop", **how}
        server.admin.command({"configureFailPoint": "failCommand", "mode": {"times": times}, "data": data})
        try:
            yield
        finally:
            server.admin.command({"configureFailPoint": "failCommand", "mode": "off"})

    return fails


def is_large(command):
    """Whether a command settles many messages, by their ids."""
    return len(ids_of(command)) > 10


def ids_of(command):
    (write,) = command.get("deletes") or command["updates"]
    return write["q"]["_id"].get("$in", []) if isinstance(write["q"].get("_id"), dict) else []


def half_done_by(server, which):
    """Return a plan for the proxy: the command is done for the first half of its documents, and the connection dies."""

    def plan(command):
        if not (which(command) and is_large(command)):
            return False
        name = next(each for each in ("delete", "update") if each in command)
        (write,) = command[f"{name}s"]
        ids = ids_of(command)
        write["q"]["_id"]["$in"] = ids[: len(ids) // 2]
        told = server[command["$db"]].command({name: command[name], f"{name}s": [write]})
        assert told["n"] == len(ids) // 2
        return True

    return plan


@pytest.mark.parametrize("what", ["reply", "request"])
def test_a_batch_of_acks_that_is_lost_on_the_wire_is_done_and_known(pit, proxy, fill, handle_all, what):
    expected = fill()
    for _ in range(2):
        getattr(proxy, f"lose_{what}")("delete", is_large)
    assert handle_all() == (expected, (MANY, 0))
    assert proxy.did[f"lost {what} of delete"] == 2
    assert pit.entries() == []


@pytest.mark.parametrize("what", ["reply", "request"])
def test_a_batch_of_claims_that_is_lost_on_the_wire_is_made_or_found_again(pit, proxy, fill, handle_all, what):
    expected = fill()
    for _ in range(2):
        getattr(proxy, f"lose_{what}")("update", lambda command: is_claim(command) and is_large(command))
    assert handle_all() == (expected, (MANY, 0))
    assert proxy.did[f"lost {what} of update"] == 2
    assert pit.entries() == []


def test_a_batch_of_acks_that_is_half_done_is_done_and_known(pit, proxy, server, fill, handle_all):
    expected = fill()
    proxy.lose_request("delete", half_done_by(server, lambda _: True))
    assert handle_all() == (expected, (MANY, 0))
    assert proxy.pending == 0
    assert pit.entries() == []


def test_a_batch_of_claims_that_is_half_done_is_found_again(pit, proxy, server, fill, handle_all):
    expected = fill()
    proxy.lose_request("update", half_done_by(server, is_claim))
    assert handle_all() == (expected, (MANY, 0))
    assert proxy.pending == 0
    assert pit.entries() == []


@pytest.mark.parametrize("how", ["lost reply", "half done"])
def test_a_batch_of_acks_of_recurring_messages_advances_each_once(pit, proxy, server, fill, handle_all, how):
    begin = pit.now()
    expected = fill(begin, None, HOUR)

    def settles(command):
        return not is_claim(command)

    if how == "lost reply":
        proxy.lose_reply("update", lambda command: settles(command) and is_large(command))
    else:
        proxy.lose_request("update", half_done_by(server, settles))
    assert handle_all() == (expected, (MANY, 0))
    assert proxy.pending == 0
    entries = pit.entries(limit=MANY)
    assert {(each.state, each.attempts) for each in entries} == {("scheduled", 0)}
    assert {each.due - entries[0].due for each in entries} == {NOW}
    assert HOUR - timedelta(seconds=1) < entries[0].due - begin < HOUR + timedelta(seconds=1)


@pytest.mark.parametrize("command", ["delete", "update", "find"])
@pytest.mark.parametrize(
    "how",
    [
        {"closeConnection": True},
        {"errorCode": 10107},
        {"errorCode": 11602, "errorLabels": ["RetryableWriteError"]},
        {"writeConcernError": {"code": 64, "errmsg": "timed out"}},
    ],
    ids=["closed", "not primary", "interrupted", "unconfirmed"],
)
def test_a_server_that_fails_loses_and_doubles_nothing_of_a_batch(pit, fill, handle_all, fails, command, how):
    if command == "find" and "writeConcernError" in how:
        how = {"errorCode": 50}
    expected = fill()
    with fails(command, 2, how):
        assert handle_all() == (expected, (MANY, 0))
    assert pit.entries() == []


def test_acks_that_stay_unknown_beyond_their_leases_are_not_lost_leases(proxy, open_pit, outcomes):
    """They were done. When the store answers again the leases are over, and their outcome cannot be found out any more."""
    pit = open_pit(operation_timeout="500ms", lock_time="3s")
    pit.store_many([({"id": f"{n:03}"}, NOW) for n in range(100)])
    with pit.listen(prefetch=100) as listener:
        deliveries = [next(listener) for _ in range(90)]
        proxy.lose_replies(1.0, "delete")
        for each in deliveries:
            each.ack()
        # The writer gives up when the leases have ended. Until then, an answer would tell it that the acks were done.
        while not all(each._lease.known for each in deliveries):
            time.sleep(0.05)
        assert pit.now() > max(each.leased_until for each in deliveries)
        proxy.lose_replies(0.0)
    assert proxy.did["lost reply of delete"] > 0
    assert (outcomes.acked, outcomes.lost) == (0, 0)
    assert len(pit.entries()) == 10
