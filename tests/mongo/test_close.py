"""Closing while the server is away takes about the time of one operation, and reports the acks that were not written."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import uuid

from contextlib import suppress
from datetime import timedelta

import pytest

import pitstop

from servers.mongod import NoServer, standalone_server


NOW = timedelta(0)
#: Of one operation, in seconds.
TIMEOUT = 2.0
#: Beyond that: a last try of what a thread has just failed to do, the driver's own close, and a machine that is busy. The
#: operations one after the other, each with all its tries, would take 9 seconds, and 13 of a consume.
MARGIN = 5.0


@pytest.fixture(scope="module")
def _server():
    try:
        with standalone_server() as server:
            yield server
    except NoServer as error:
        pytest.skip(str(error))


@pytest.fixture(params=["pause", "kill"] if os.environ.get("PITSTOP_TEST_LARGE") else ["pause"])
def server(_server, request):
    """A server, and the way in which it goes away."""
    _server.go_away = getattr(_server, request.param)
    yield _server
    if request.param == "kill":
        if not _server.running:
            _server.start()
    else:
        _server.resume()


@pytest.fixture
def config(server):
    dbname = f"pitstop_test_{uuid.uuid4().hex}"
    return {
        "type": "mongo",
        "uri": server.uri,
        "dbname": dbname,
        "lock_time": "60s",
        "operation_timeout": f"{TIMEOUT}s",
    }


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING, "pitstop")
    return lambda start: [each.getMessage() for each in caplog.records if each.getMessage().startswith(start)]


def seconds(function):
    begun = time.monotonic()
    function()
    return time.monotonic() - begun


def fill(pit, count):
    pit.store_many([({"id": f"m{number:04}"}, NOW) for number in range(count)])


def test_with_acks_and_messages_in_hand_that_cannot_be_written(server, config, said):
    pit = pitstop.init(config)
    fill(pit, 20)
    listener = pit.listen(prefetch=20)
    deliveries = [next(listener) for _ in range(10)]
    server.go_away()
    for each in deliveries:
        each.ack()
    assert seconds(pit.close) < TIMEOUT + MARGIN
    (line,) = said("closed while")
    assert "10 acks or nacks" in line
    assert "10 messages" in line
    assert not any(each.id in line for each in deliveries)


def test_while_a_thread_iterates(server, config, said):
    pit = pitstop.init(config)
    fill(pit, 5000)
    listener = pit.listen()
    works = threading.Event()

    def iterate():
        for delivery in listener:
            with suppress(pitstop.PitstopError):
                delivery.ack()
            works.set()

    thread = threading.Thread(target=iterate)
    thread.start()
    assert works.wait(20)
    server.go_away()
    took = seconds(pit.close)
    thread.join(20)
    assert not thread.is_alive()
    assert took < TIMEOUT + MARGIN
    assert len(said("closed while")) <= 1


@pytest.mark.parametrize("server", ["pause", "kill"], indirect=True)
def test_while_consume_runs_in_another_thread(server, config, said):
    pit = pitstop.init(config)
    fill(pit, 5000)
    works, summaries = threading.Event(), []

    def handle(msg):
        works.set()
        time.sleep(0.001)

    consuming = threading.Thread(target=lambda: summaries.append(pit.consume(handle, workers=4, drain="60s")))
    consuming.start()
    assert works.wait(20)
    server.go_away()
    # Workers that have begun a write have that time. The thread that ends the consumer has the same time, and a moment more.
    assert seconds(pit.close) < 2 * TIMEOUT + 1 + MARGIN
    consuming.join(20)
    assert [each.reason for each in summaries] == ["stopped"]
    assert len(said("closed while")) <= 1


def test_of_asyncio(server, config, said):
    async def main():
        pit = pitstop.init_async(config)
        await pit.store_many([({"id": f"m{number:04}"}, NOW) for number in range(20)])
        listener = pit.listen(prefetch=20)
        deliveries = [await anext(listener) for _ in range(10)]
        server.go_away()
        for each in deliveries:
            await each.ack()
        begun = time.monotonic()
        await pit.aclose()
        return time.monotonic() - begun

    assert asyncio.run(main()) < TIMEOUT + MARGIN
    (line,) = said("closed while")
    assert "10 acks or nacks" in line


def test_an_outage_is_reported_after_one_operation(server, config, caplog):
    caplog.set_level(logging.WARNING, "pitstop.listener")
    pit = pitstop.init(config)
    fill(pit, 20)
    listener = pit.listen(prefetch=20)
    deliveries = [next(listener) for _ in range(10)]
    server.go_away()
    begun = time.monotonic()
    for each in deliveries:
        each.ack()
    while not caplog.records:
        assert time.monotonic() - begun < TIMEOUT + MARGIN
        threading.Event().wait(0.01)
    assert "does not answer" in caplog.records[0].getMessage()
    assert seconds(pit.close) < TIMEOUT + MARGIN
