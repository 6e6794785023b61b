"""Handlers write their effect and their ack in one transaction, while a replica set loses its primary: each effect is there once.

The processes that handle the messages are killed as well, at any moment of their transactions.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time

from datetime import timedelta

import pymongo
import pytest

import pitstop


#: Deliveries, as the claim of exactly one effect asks for. With step-downs and kills of servers and of consumers.
MESSAGES = 1000
#: Seconds until all must be handled.
PATIENCE = 240.0

CONSUMER = """
    import sys
    import pymongo
    import pitstop

    uri, dbname = sys.argv[1:]
    client = pymongo.MongoClient(uri, w="majority")
    effects = client[dbname].effects
    where = {"type": "mongo", "client": client, "dbname": dbname, "lock_time": "3s", "loop_time": "200ms", "retry": {"delay": 0}}

    def handle(delivery):
        def work(session):
            # Not by the key: a second effect would show as a second document, and not as an error.
            effects.insert_one({"key": delivery.key}, session=session)
            delivery.ack(session=session)

        with client.start_session() as session:
            session.with_transaction(work)

    with pitstop.init(where) as pit:
        pit.consume(handle, workers=4, deliveries=True)
"""


@pytest.fixture
def start_consumer(tmp_path, replica_set):
    """Starts processes that handle messages, and ends them."""
    script, started = tmp_path / "consumer.py", []
    script.write_text(textwrap.dedent(CONSUMER))

    def start_consumer(dbname):
        log = (tmp_path / f"consumer{len(started)}.log").open("wb")
        with log:
            command = [sys.executable, str(script), replica_set.uri, dbname]
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
        return started[-1]

    yield start_consumer
    for each in started:
        each.kill()
        each.wait()


@pytest.mark.timeout(600)
def test_a_thousand_acks_in_transactions_have_each_effect_once(replica_set, start_consumer):
    dbname = "pitstop_test_transactions"
    with pymongo.MongoClient(replica_set.uri, w="majority") as client:
        client.drop_database(dbname)
        client[dbname].create_collection("effects")
        with pitstop.init({"type": "mongo", "client": client, "dbname": dbname}) as pit:
            pit.store_many([({"id": f"{n:04}"}, timedelta(0)) for n in range(MESSAGES)])
            consumers = [start_consumer(dbname) for _ in range(2)]
            deadline = time.monotonic() + PATIENCE
            faults = [
                lambda: replica_set.step_down(2),
                lambda: replica_set.kill(replica_set.primary),
                replica_set.heal,
                lambda: consumers[0].send_signal(signal.SIGKILL),
                lambda: replica_set.step_down(2),
            ]
            for number, fault in enumerate(faults, 1):
                _wait_until(lambda share=number: _count(client, dbname) >= share * MESSAGES // 8, deadline)
                fault()
            consumers.append(start_consumer(dbname))
            _wait_until(lambda: _count(client, dbname) >= MESSAGES and not pit.entries(limit=1), deadline)
            keys = [each["key"] for each in client[dbname].effects.find()]
        client.drop_database(dbname)
    assert len(keys) == MESSAGES
    assert len(set(keys)) == MESSAGES


def _count(client, dbname):
    return client[dbname].effects.count_documents({})


def _wait_until(look, deadline):
    while True:
        try:
            if look():
                return
        except (pymongo.errors.PyMongoError, pitstop.BackendUnavailable):
            pass
        assert time.monotonic() < deadline, "the messages were not handled in time"
        time.sleep(0.1)
