"""PostgreSQL crashes and loses connections, for some seconds each: the tests in ``test_postgres_large.py`` do more.

No message is lost. Each duplicate has a reason.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time

from datetime import timedelta

import psycopg
import pytest

import pitstop

from servers import postgres
from torture.conftest import DRAIN, assert_kept
from torture.postgres_faults import TERMINATE, heal, kill_backend


pytestmark = pytest.mark.timeout(180)

#: How many connections are ended, one after the other.
ENDED = 30


@pytest.mark.parametrize(
    "kill", [postgres.Postgres.kill_postmaster, postgres.Postgres.kill, kill_backend], ids=lambda each: each.__name__
)
def test_postgres_is_killed(kill, server, bench, judge):
    bench.start_batches()
    bench.wait_for_emissions(30)
    kill(server)
    heal(server)
    bench.wait_for_emissions(60)
    assert_kept(judge(bench, DRAIN), bench)


def test_postgres_connections_are_terminated(server, bench, judge):
    bench.start_load()
    bench.start("consume", prefetch=None, workers=4, pace=0.001, overdue=0.0005)
    bench.wait_for_emissions(20)
    ended = 0
    with psycopg.connect(server.uri, autocommit=True) as connection:
        while ended < ENDED:
            ended += connection.execute(TERMINATE).rowcount
            time.sleep(0.02)
    bench.wait_for_emissions(50)
    assert_kept(judge(bench, DRAIN), bench)


def test_postgres_clients_are_killed(bench, judge):
    """In the middle of transactions, with messages in hand, and with acks that are not written yet."""
    bench.start_batches()
    for number in range(3):
        bench.wait_for_emissions(40)
        bench.kill(bench.consumers[0])
        bench.start("consume", prefetch=(None, 1, 20)[number], pace=0.001, overdue=0.0005)
    bench.wait_for_emissions(40)
    assert_kept(judge(bench, DRAIN), bench)


#: Deliveries of the test of transactions.
MESSAGES = 400
#: Seconds until all must be handled.
PATIENCE = 120.0

CONSUMER = """
    import asyncio
    import sys
    import psycopg
    import pitstop

    uri, way = sys.argv[1:]
    where = {"type": "postgres", "uri": uri, "lock_time": "3s", "operation_timeout": "2s", "loop_time": "200ms", "retry": {"delay": 0}}
    INSERT = "INSERT INTO effects (key) VALUES (%s)"

    def handle(delivery):
        with psycopg.connect(uri) as connection:
            # Not by the key: a second effect would show as a second row, and not as an error.
            connection.execute(INSERT, (delivery.key,))
            delivery.ack(session=connection)

    async def handle_in_a_loop(delivery):
        async with await psycopg.AsyncConnection.connect(uri) as connection:
            await connection.execute(INSERT, (delivery.key,))
            await delivery.ack(session=connection)

    async def main():
        async with pitstop.init_async(where) as pit:
            await pit.consume(handle_in_a_loop, concurrency=4, deliveries=True)

    if way == "asyncio":
        asyncio.run(main())
    else:
        with pitstop.init(where) as pit:
            pit.consume(handle, workers=4, deliveries=True)
"""


@pytest.fixture
def start_consumer(tmp_path, server):
    """Starts processes that handle messages, and ends them."""
    script, started = tmp_path / "consumer.py", []
    script.write_text(textwrap.dedent(CONSUMER))

    def start_consumer(way):
        log = (tmp_path / f"consumer{len(started)}.log").open("wb")
        with log:
            started.append(subprocess.Popen([sys.executable, str(script), server.uri, way], stdout=log, stderr=log))
        return started[-1]

    yield start_consumer
    for each in started:
        each.kill()
        each.wait()


@pytest.mark.parametrize("way", ["sync", "asyncio"])
def test_acks_in_transactions_have_each_effect_once_while_postgres_and_consumers_are_killed(
    server, start_consumer, way
):
    execute(
        server,
        "DROP TABLE IF EXISTS effects, pitstop_messages, pitstop_messages_meta; CREATE TABLE effects (key text NOT NULL)",
    )
    with pitstop.init({"type": "postgres", "uri": server.uri}) as pit:
        pit.store_many([({"id": f"{n:04}"}, timedelta(0)) for n in range(MESSAGES)])
        consumers = [start_consumer(way) for _ in range(2)]
        deadline = time.monotonic() + PATIENCE
        faults = [
            server.kill_postmaster,
            lambda: consumers[0].send_signal(signal.SIGKILL),
            lambda: kill_backend(server),
            lambda: consumers.append(start_consumer(way)),
            server.kill,
            lambda: consumers[1].send_signal(signal.SIGKILL),
        ]
        for number, fault in enumerate(faults, 1):
            wait_until(lambda share=number: count(server) >= share * MESSAGES // 8, deadline)
            fault()
            heal(server)
        wait_until(lambda: count(server) >= MESSAGES and not pit.entries(limit=1), deadline)
        keys = [key for (key,) in execute(server, "SELECT key FROM effects")]
    assert len(keys) == MESSAGES
    assert len(set(keys)) == MESSAGES


def execute(server, statement):
    with psycopg.connect(server.uri, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def count(server):
    return execute(server, "SELECT count(*) FROM effects")[0][0]


def wait_until(look, deadline):
    while True:
        try:
            if look():
                return
        except (psycopg.OperationalError, pitstop.BackendUnavailable):
            pass
        assert time.monotonic() < deadline, "the messages were not handled in time"
        time.sleep(0.05)
