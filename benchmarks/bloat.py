"""Bloat of the table on PostgreSQL: its size, and that of its indexes, while millions of messages go through it.

Processes store messages at a steady rate, due within ten seconds, and others handle them. Some handlers fail at the first attempt, and some
messages recur. Beside them lie messages that are due tomorrow. Three cases, each in a table of its own:

- own: the settings of autovacuum that Pitstop gives its table.
- defaults: those of the server.
- held: the settings of the table, while a transaction of another program stays open for some minutes, from a fifth of the run.

A line shows the end of each twentieth of the run. Dead rows, and buffers that a claim reads, are the most and the mean within it. The ratios
compare sizes with those at the first tenth. The data lie in the folder for temporary files; TMPDIR names another one.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import random
import time

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any

import attrs
import psycopg

from places import NoServer, clusters

import pitstop


TABLE = "messages"
#: Messages of one ``store_many``.
BATCH = 200
#: The most seconds until a message is due.
AHEAD = 10.0
#: The period of a recurring message.
EVERY = timedelta(seconds=5)
#: One of this number of messages fails at its first attempt.
FAILING = 20
#: Lines of a table.
LINES = 20
#: Seconds between two looks at the sizes.
LOOK = 1.0
#: Seconds without a handled message after which a run is given up.
PATIENCE = 60.0
#: The part of a run at which the transaction begins.
HELD = 0.2
BODY = {"to": "ada@example.com", "text": "welcome " * 20, "count": 3}

_SIZES = f"""
SELECT pg_relation_size('{TABLE}'), pg_indexes_size('{TABLE}'), pg_relation_size('{TABLE}_due'), n_dead_tup, autovacuum_count
FROM pg_stat_user_tables WHERE relname = '{TABLE}'
"""
_CLAIMS = "SELECT coalesce(sum(shared_blks_hit + shared_blks_read), 0), coalesce(sum(calls), 0), coalesce(sum(rows), 0) FROM pg_stat_statements WHERE query LIKE '%SKIP LOCKED%'"
_MINE = "SELECT unnest(reloptions) FROM pg_class WHERE oid = %s::regclass"


@attrs.frozen
class Sizes:
    """Bytes, rows and runs at one time; the claims until then."""

    table: int
    indexes: int
    due: int
    dead: int
    vacuums: int
    buffers: int
    calls: int
    claimed: int


def produce(config: dict[str, Any], rate: float, stored: Any, done: list[Any], stop: Any) -> None:
    """Store at a rate. If the consumers are ten seconds behind, wait for them, so that the live rows stay as many."""
    most = int(rate * (AHEAD + 10))
    with pitstop.init(config) as pit:
        begin = time.monotonic()
        for number in itertools.count():
            while number * BATCH > (time.monotonic() - begin) * rate or stored.value - handled(done) > most:
                if stop.wait(0.005):
                    return
            if stop.is_set():
                return
            pit.store_many(
                [
                    (BODY | {"fails": n % FAILING == 0}, timedelta(seconds=random.uniform(0, AHEAD)))
                    for n in range(BATCH)
                ]
            )
            stored.value += BATCH


def consume(config: dict[str, Any], done: Any, stop: Any) -> None:
    with pitstop.init(config) as pit, pit.listen() as listener:
        Thread(target=lambda: (stop.wait(), listener.stop())).start()
        for delivery in listener:
            if delivery.msg.get("fails") and delivery.attempt == 1:
                delivery.nack("the first attempt fails", delay=timedelta(seconds=1))
            else:
                delivery.ack()
                done.value += 1


def handled(done: list[Any]) -> int:
    return sum(each.value for each in done)


class Run:
    """One case: the processes, and the table that they use."""

    def __init__(self, case: str, uri: str, options: argparse.Namespace) -> None:
        self._case = case
        self._uri = uri
        self._options = options
        self._config = {"type": "postgres", "uri": uri, "table": TABLE, "retry": {"delay": "1s"}}
        self._connection = psycopg.connect(uri, autocommit=True)
        self._holder: psycopg.Connection[Any] | None = None
        self._held_until: float | None = None

    def close(self) -> None:
        self._release()
        self._connection.close()

    def prepare(self) -> None:
        options = self._options
        self._connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        with pitstop.init(self._config) as pit:
            for start in range(0, options.backlog, 5000):
                pit.store_many([(BODY, timedelta(days=1))] * min(5000, options.backlog - start))
            for n in range(options.series):
                first = datetime.now(UTC) + EVERY * n / options.series
                pit.store(BODY | {"id": f"series-{n}"}, first, None, EVERY)
        if self._case == "defaults":
            for (each,) in self._connection.execute(_MINE, (TABLE,)).fetchall():
                name = each.partition("=")[0]
                if name.startswith("autovacuum"):
                    self._connection.execute(f"ALTER TABLE {TABLE} RESET ({name})")
        self._connection.execute(f"VACUUM (ANALYZE) {TABLE}")
        self._connection.execute("SELECT pg_stat_statements_reset()")

    def run(self) -> None:
        options = self._options
        context = multiprocessing.get_context("spawn")
        stop, stored = context.Event(), context.Value("q", 0)
        done = [context.Value("q", 0, lock=False) for _ in range(options.consumers)]
        processes = [
            context.Process(target=produce, args=(self._config, options.rate, stored, done, stop), daemon=True),
            *(context.Process(target=consume, args=(self._config, each, stop), daemon=True) for each in done),
        ]
        for each in processes:
            each.start()
        try:
            self._watch(done)
        finally:
            stop.set()
            for each in processes:
                each.join()

    def _watch(self, done: list[Any]) -> None:
        total, begin = self._options.messages, time.monotonic()
        line, dead, first, before = 1, 0, None, self._sizes()
        best, since = 0, begin
        print(
            f"{'through':>12}{'seconds':>9}{'table MB':>10}{'indexes MB':>12}{'due MB':>8}{'dead rows':>11}{'vacuums':>9}"
            f"{'buffers a claim':>17}{'a message':>11}{'table':>8}{'indexes':>9}"
        )
        while line <= LINES:
            time.sleep(LOOK)
            through, now = handled(done), self._sizes()
            dead = max(dead, now.dead)
            if through > best:
                best, since = through, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                raise SystemExit(f"no message was handled for {PATIENCE:g} seconds, after {through:,}")
            self._hold(through / total)
            if through < total * line / LINES:
                continue
            first = first if first is not None or line < LINES // 10 else now
            calls, rows = max(now.calls - before.calls, 1), max(now.claimed - before.claimed, 1)
            read = now.buffers - before.buffers
            ratios = (
                ""
                if first is None
                else f"{now.table / first.table:8.2f}{now.indexes / first.indexes:9.2f}"
                f"{'  a transaction is open' if self._holder is not None else ''}"
            )
            print(
                f"{through:12,}{time.monotonic() - begin:9.0f}{now.table / 1e6:10.1f}{now.indexes / 1e6:12.1f}{now.due / 1e6:8.1f}"
                f"{dead:11,}{now.vacuums:9}{read / calls:17.0f}{read / rows:11.1f}{ratios}",
                flush=True,
            )
            before, dead = now, 0
            while through >= total * line / LINES and line <= LINES:
                line += 1

    def _sizes(self) -> Sizes:
        sizes = self._connection.execute(_SIZES).fetchone()
        claims = self._connection.execute(_CLAIMS).fetchone()
        assert sizes is not None
        assert claims is not None
        return Sizes(*map(int, (*sizes, *claims)))

    def _hold(self, part: float) -> None:
        """Begin or end the transaction of the other program."""
        if self._case != "held" or part < HELD:
            return
        if self._held_until is None:
            self._held_until = time.monotonic() + self._options.hold
            self._holder = psycopg.connect(self._uri)
            self._holder.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            self._holder.execute("SELECT 1 FROM pg_class LIMIT 1")
        elif time.monotonic() > self._held_until:
            self._release()

    def _release(self) -> None:
        if self._holder is not None:
            self._holder.close()
            self._holder = None


@contextmanager
def server() -> Iterator[str]:
    """Yield the URI of a server that counts the buffers of each statement."""
    # The rest of its settings are those of the server, the minute between two looks of autovacuum among them.
    with clusters.server(shared_preload_libraries="pg_stat_statements") as made:
        yield made.uri


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=10_000_000, help="that are handled in each case")
    parser.add_argument("--rate", type=float, default=4000, help="messages per second that are stored, at most")
    parser.add_argument("--backlog", type=int, default=100_000, help="messages that are due tomorrow")
    parser.add_argument("--series", type=int, default=1000, help="recurring messages, due every five seconds")
    parser.add_argument("--consumers", type=int, default=2, help="processes that handle messages")
    parser.add_argument("--hold", type=float, default=180, metavar="SECONDS", help="that the other transaction is open")
    parser.add_argument("--cases", type=lambda text: text.split(","), default=["own", "defaults", "held"])
    options = parser.parse_args()
    try:
        for case in options.cases:
            with server() as uri, clusters.database(uri) as own, closing(Run(case, own, options)) as run:
                run.prepare()
                with psycopg.connect(own) as connection:
                    (version,) = connection.execute("SELECT split_part(version(), ' ', 2)").fetchone() or ("",)
                print(
                    f"\n{case}: PostgreSQL {version}, {options.messages:,} messages, {options.backlog:,} due tomorrow"
                )
                run.run()
    except (NoServer, clusters.NoServer) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
