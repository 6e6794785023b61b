"""Fixtures that the fault tests share, and a table of all verdicts at the end of the session."""

from __future__ import annotations

import os

from collections import Counter
from datetime import timedelta
from threading import Condition

import attrs
import pymongo
import pytest

import pitstop

from servers import postgres
from servers import proxy as proxies
from servers.database import database
from torture import postgres_faults
from torture.bench import Bench
from torture.checker import REASONS, Verdict


#: With ``PITSTOP_TEST_LARGE=1`` all faults run, for as long as they take with the default settings of a server.
LARGE = bool(os.environ.get("PITSTOP_TEST_LARGE"))
# Without it these files are not collected. Skipped tests would fail in CI.
collect_ignore_glob = [] if LARGE else ["*_large.py"]

#: Fixtures with the URI of a server, for tests that take seconds on each server, and the names of the servers.
SERVERS = ["mongo_uri", "replica_set_uri"] if LARGE else ["mongo_uri"]
IDS = ["standalone", "replica set"][: len(SERVERS)]

#: Seconds from the last fault until all messages are emitted. Some handlers hold a message for longer than its lease.
DRAIN = 25.0

NOW = timedelta(0)
#: So long that no lease ends within a test. A test that waits for the end of a lease gives a shorter one.
LOCK = "30s"


@attrs.frozen
class Row:
    """A run, as a row of the table."""

    run: str
    verdict: Verdict
    drained_after: float | None
    #: How often outcomes were unknown or recovered, by name.
    mended: Counter[str]


ROWS = pytest.StashKey[list[Row]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


@pytest.fixture
def open_bench(tmp_path):
    """Opens benches, and ends their processes after the test."""
    opened = []

    def open_bench(uri, **options):
        folder = tmp_path / f"bench{len(opened)}"
        folder.mkdir()
        opened.append(Bench(folder, uri, **options))
        return opened[-1]

    yield open_bench
    for each in opened:
        with each:
            pass


@pytest.fixture
def judge(request):
    """Ends a bench, and adds its verdict to the table."""

    def judge(bench: Bench, within: float) -> Verdict:
        verdict = bench.finish(within)
        name = request.node.name.removeprefix("test_")
        request.config.stash[ROWS].append(Row(name, verdict, bench.drained_after, bench.counters()))
        return verdict

    return judge


@pytest.fixture
def proxy(server_uri):
    with proxies.in_front_of(server_uri) as proxy:
        yield proxy


@pytest.fixture
def dbname(server_uri):
    with pymongo.MongoClient(server_uri) as client, database(client) as made:
        # On a busy machine this may take longer than an operation of the tests may.
        made["messages"].create_index("due")
        yield made.name


@pytest.fixture(scope="module")
def _server(postgres_or_skipped):
    with postgres.server() as made:
        yield made


@pytest.fixture
def server(_server):
    """A PostgreSQL that tests may break."""
    yield _server
    postgres_faults.heal(_server)


@pytest.fixture
def bench(open_bench, server):
    """A bench on it, with short limits."""
    return open_bench(server.uri, lock_time="2s", operation_timeout="2s")


@pytest.fixture
def small_disk(postgres_or_skipped):
    with postgres_faults.small_disk() as folder:
        yield folder


@pytest.fixture
def pair(postgres_or_skipped):
    with postgres_faults.pair() as servers:
        yield servers


class Outcomes:
    """A plugin that counts the outcomes of settlements. A thread can wait until enough of them are known."""

    def __init__(self):
        self.acked = 0
        self.lost = 0
        self._known = Condition()

    @pitstop.hookimpl
    def pitstop_message_acked(self, delivery):
        with self._known:
            self.acked += 1
            self._known.notify_all()

    @pitstop.hookimpl
    def pitstop_lease_lost(self, delivery):
        with self._known:
            self.lost += 1
            self._known.notify_all()

    def wait_for(self, count, within):
        """Wait until the outcomes of ``count`` settlements are known. Return whether they are."""
        with self._known:
            return self._known.wait_for(lambda: self.acked + self.lost >= count, within)


@pytest.fixture
def outcomes():
    """The outcomes of the settlements in this test, except those of the first use."""
    return Outcomes()


@pytest.fixture
def open_pit(proxy, dbname, outcomes):
    """Opens Pitstops behind the proxy, and uses them once, so that the index is made and the clock is measured."""
    opened = []

    def open_pit(**options):
        # In this mode PyMongo checks the state of a server again without a pause.
        uri = f"{proxy.uri}&serverMonitoringMode=poll"
        where = {"type": "mongo", "uri": uri, "dbname": dbname, "lock_time": LOCK}
        opened.append(pitstop.init(where | options, plugins=[outcomes]))
        opened[-1].store({"id": "before"}, NOW)
        assert drain(opened[-1]) == [("before", 1)]
        outcomes.acked = 0
        return opened[-1]

    yield open_pit
    for each in opened:
        each.close()


@pytest.fixture
def pit(open_pit):
    return open_pit(operation_timeout="5s")


def is_claim(command):
    update = command["updates"][0]["u"]
    # A settlement of many is a list.
    return isinstance(update, dict) and "attempts" in update.get("$inc", {})


def drain(pit, prefetch=1):
    """Acknowledge all messages that are due now. Return their ids and attempts."""
    with pit.listen(prefetch=prefetch) as listener:
        seen = []
        while delivery := listener.get():
            seen.append((delivery.id, delivery.attempt))
            delivery.ack()
        return sorted(seen)


def assert_kept(verdict: Verdict, bench: Bench) -> None:
    """Assert that each stored message was emitted, and that each duplicate has a reason."""
    assert verdict.lost == []
    assert verdict.unexpected == []
    assert [str(each) for each in verdict.violations] == []
    assert verdict.ok > 50
    assert bench.drained_after is not None, "not all was emitted in time"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    terminalreporter.section("verdicts of the fault tests")
    for line in table(rows):
        terminalreporter.write_line(line)


def table(rows: list[Row]) -> list[str]:
    """Return the rows as a table in Markdown."""
    head = ["run", "stored", "ok", "recovered", "lost", "unexpected", "duplicated (reason)", "violations"]
    head += ["unknown store/ack", "leases lost", "longest gap s store/claim/ack", "drained after s", "mended"]
    lines = [_cells(head), _cells(["---"] * len(head))]
    for row in rows:
        told = row.verdict
        reasons = [*REASONS, *sorted(set(told.duplicated) - set(REASONS))]
        why = ", ".join(f"{reason} {told.duplicated[reason]}" for reason in reasons if told.duplicated[reason])
        gaps = "/".join(f"{told.gaps[kind]:.1f}" for kind in ("store", "emit", "ack"))
        drained = "never" if row.drained_after is None else f"{row.drained_after:.1f}"
        cells = [row.run, told.stored, told.ok, told.recovered, len(told.lost), len(told.unexpected)]
        cells += [f"{told.duplicated.total()} ({why or '—'})", len(told.violations)]
        cells += [f"{told.unknown['store']}/{told.unknown['ack']}", told.leases_lost, gaps, drained]
        cells.append(", ".join(f"{name} {count}" for name, count in sorted(row.mended.items()) if count) or "—")
        lines.append(_cells(cells))
    return lines


def _cells(cells: list[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
