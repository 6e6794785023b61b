"""How late a message of another process comes on an idle system, and which commands an idle listener sends.

Lateness: one process stores, another listens, both on this machine. The time runs from the message's due time (for "due now": from the
call of ``store``) until the listener hands it out. Each message is stored after the one before has come, and after a random pause. Both
processes wait by the hints alone: the next regular look is an hour away.

Commands: a listener with the default configuration, and nothing due. The server counts them, in `opcounters` and in `metrics.commands` of
`serverStatus`. The `serverStatus` of the measuring client is subtracted. Monitoring, which every client of MongoDB does (`hello`), is
counted separately.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
import uuid

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pymongo

import pitstop


sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from servers import mongod, replica_set


LATER = timedelta(milliseconds=50)
#: Commands that any client sends to monitor the server; the others are the listener's.
MONITORING = {"hello", "isMaster", "ismaster", "ping"}


def store(config: dict[str, Any], count: int, delay: timedelta) -> None:
    """Run the storing process: one message for each line on stdin. The message contains the time from which it is measured."""
    with pitstop.init({"type": "mongo", **config}) as pit:
        pit.stats()
        print("ready", flush=True)
        for _ in range(count):
            sys.stdin.readline()
            counts = datetime.now(UTC) + delay
            pit.store({"counts": counts.timestamp()}, counts if delay else timedelta(0))


def lateness(uri: str, count: int, delay: timedelta) -> list[float]:
    """Return milliseconds, sorted."""
    with database(uri) as name:
        config = {"uri": uri, "dbname": name}
        command = [sys.executable, __file__, "--store", uri, name, str(count), str(delay.total_seconds())]
        late = []
        with (
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
            pitstop.init({"type": "mongo", **config}) as pit,
            pit.listen(loop_time="1h") as listener,
        ):
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdout.readline()
            listener.get(timeout=3)  # until its watch exists
            for _ in range(count):
                time.sleep(random.uniform(0.02, 0.06))
                process.stdin.write("\n")
                process.stdin.flush()
                delivery = listener.get(timeout=60)
                assert delivery is not None, "lost: neither a hint nor a look in a minute"
                late.append((time.time() - delivery.msg["counts"]) * 1000)
                delivery.ack()
        return sorted(late)


def commands(uri: str, backlog: int, seconds: float) -> tuple[dict[str, float], dict[str, float]]:
    """Return the commands per minute of an idle listener, by name, and its ``opcounters``."""
    with database(uri) as name, pymongo.MongoClient(uri) as client:
        fill(client[name]["messages"], backlog)
        with pitstop.init({"type": "mongo", "uri": uri, "dbname": name}) as pit, pit.listen() as listener:
            assert listener.get(timeout=3) is None  # connects, measures the clocks, begins to watch
            before, began = counted(client), time.monotonic()
            assert listener.get(timeout=seconds) is None
            after, took = counted(client), time.monotonic() - began
        idle = {key: (after[key] - before[key]) * 60 / took for key in after if after[key] > before[key]}
    ops = {key.removeprefix("op:"): value for key, value in idle.items() if key.startswith("op:")}
    return {key: value for key, value in idle.items() if not key.startswith("op:")}, ops


def counted(client: pymongo.MongoClient[dict[str, Any]]) -> Counter[str]:
    """Return the counts of the server so far, without the command that reads them."""
    status = client.admin.command("serverStatus", repl=0, tcmalloc=0)
    totals = {name: each["total"] for name, each in status["metrics"]["commands"].items() if isinstance(each, dict)}
    totals["serverStatus"] = 0
    return Counter(totals) + Counter(
        {f"op:{name}": n for name, n in status["opcounters"].items() if isinstance(n, int)}
    )


def fill(collection: Any, backlog: int) -> None:
    """Store messages that are due in an hour and later."""
    collection.create_index("due")
    begin = datetime.now(UTC) + timedelta(hours=1)
    ids = iter(range(backlog))
    while some := list(islice(ids, 10_000)):
        collection.insert_many([_document(n, begin + timedelta(milliseconds=n)) for n in some], ordered=False)


def _document(number: int, due: datetime) -> dict[str, Any]:
    fields: dict[str, Any] = {"_id": f"{number:08}", "msg": {"n": number}, "due": due, "scheduled_for": due}
    return fields | {"revision": f"r{number}", "etag": f"e{number}", "attempts": 0}


@contextmanager
def database(uri: str) -> Iterator[str]:
    name = f"pitstop_bench_{uuid.uuid4().hex}"
    yield name
    with pymongo.MongoClient(uri) as client:
        client.drop_database(name)


@contextmanager
def servers() -> Iterator[dict[str, str]]:
    with mongod.standalone() as alone, replica_set.single() as one:
        yield {"standalone": alone, "replica set": one.uri}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=300, help="per server and kind")
    parser.add_argument("--seconds", type=float, default=60, help="for which commands are counted")
    parser.add_argument("--backlog", type=int, default=1_000_000, help="messages to come")
    parser.add_argument("--quick", action="store_true", help="100 messages, 20 seconds, and 20,000 to come")
    parser.add_argument("--store", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.store:
        uri, name, count, delay = options.store
        store({"uri": uri, "dbname": name}, int(count), timedelta(seconds=float(delay)))
        return
    messages, seconds, backlog = options.messages, options.seconds, options.backlog
    if options.quick:
        messages, seconds, backlog = 100, 20, 20_000
    with servers() as started:
        print(f"lateness in ms, {messages} messages, one process stores and another listens\n")
        print(f"{'server':14}{'due':12}{'p50':>8}{'p99':>8}{'most':>8}")
        for kind, uri in started.items():
            for due, delay in (("now", timedelta(0)), ("in 50 ms", LATER)):
                late = lateness(uri, messages, delay)
                p50, p99 = (late[min(int(len(late) * part), len(late) - 1)] for part in (0.5, 0.99))
                print(f"{kind:14}{due:12}{p50:8.1f}{p99:8.1f}{late[-1]:8.1f}", flush=True)
        print(f"\ncommands per minute of an idle listener, counted by the server for {seconds:g} s\n")
        for kind, uri in started.items():
            for size in (0, backlog):
                run, ops = commands(uri, size, seconds)
                own = {name: rate for name, rate in run.items() if name not in MONITORING}
                rest = sum(run.values()) - sum(own.values())
                print(f"{kind}, {size:,} messages to come: {sum(own.values()):.0f}, and {rest:.0f} of monitoring")
                print(f"    {_listed(own)}; opcounters: {_listed(ops)}", flush=True)


def _listed(rates: dict[str, float]) -> str:
    return ", ".join(f"{name} {rate:.0f}" for name, rate in sorted(rates.items()))


if __name__ == "__main__":
    main()
