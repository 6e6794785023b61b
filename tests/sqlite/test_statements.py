"""The plan and the time of each statement: it uses the index, and the time at which the lock is held."""

from __future__ import annotations

import sqlite3
import threading

from contextlib import closing
from functools import partial

import attrs
import pytest

from pitstop.abc import AllBut, Outcome, Settlement
from pitstop_sqlite import _statements


def plan(backend, statement):
    with backend._database.lock, backend._database as connection:
        values = (None,) * statement.count("?")
        return [row[3].decode() for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]


def looks_at_messages(steps):
    return [step for step in steps if " pitstop_messages " in f"{step} "]


def sorts(steps):
    return [step for step in steps if "TEMP B-TREE" in step]


@pytest.fixture
def filled(backend, record):
    now = backend.now() // 1000
    backend.put([record(f"{number:05}", due=now + number - 500) for number in range(1000)])
    with backend._database.lock, backend._database as connection:
        # A user may have done this. The plans must not depend on it.
        connection.execute("ANALYZE")
    return backend


BY_DUE = "USING INDEX pitstop_messages_due (due>? AND due<?)"
BY_DUE_ALONE = "USING COVERING INDEX pitstop_messages_due (due>? AND due<?)"
BY_ID = "USING INDEX sqlite_autoindex_pitstop_messages_1 (id=?)"


@pytest.mark.parametrize(
    ("name", "looks"),
    [
        ("ANY_DUE", [BY_DUE_ALONE]),
        ("READ_DUE", [BY_DUE]),
        ("LEASE", ["USING INTEGER PRIMARY KEY (rowid=?)", BY_DUE_ALONE]),
        ("NEXT_DUE", [BY_DUE_ALONE]),
        ("GET", [BY_ID]),
        ("DELETE", [BY_ID]),
        ("COMPLETE", [BY_ID]),
        ("AWAIT", [BY_ID]),
        ("PROGRESS", [BY_ID]),
    ],
)
def test_uses_its_index_and_sorts_nothing(filled, name, looks):
    steps = plan(filled, getattr(_statements, name))
    assert looks_at_messages(steps) == [f"SEARCH pitstop_messages {each}" for each in looks]
    assert not sorts(steps)


@pytest.mark.parametrize("size", _statements.COMPLETE_SIZES)
def test_many_are_completed_by_the_index_of_their_ids(open_backend, record, tmp_path, size):
    """This also holds if the planner analysed a nearly empty table."""
    backend = open_backend(path=tmp_path / "small.db")
    backend.put([record("only", due=backend.now() // 1000)])
    with backend._database.lock, backend._database as connection:
        connection.execute("ANALYZE")

    steps = plan(backend, _statements.COMPLETE_MANY[size])

    assert looks_at_messages(steps) == [f"SEARCH pitstop_messages {BY_ID}"]


@pytest.mark.parametrize("count", [2, 8, 9, 33, 512, 513, 1030])
def test_any_number_is_completed_in_one_batch_and_each_that_is_not_is_told(backend, record, count):
    now = backend.now() // 1000
    # The ids contain quotes, and letters of more than one byte.
    backend.put([record(f"{number}'\"ä🏎", due=now) for number in range(2 * count)])
    leased = [*backend.lease(count, 60_000), *backend.lease(count, 60_000)]
    batch = [Settlement(each.id, each.progress.token, Outcome.COMPLETE, None) for each in leased]

    assert backend.settle(batch[: count // 2]) == [True] * (count // 2)
    assert backend.settle(batch) == [False] * (count // 2) + [True] * (2 * count - count // 2)
    assert backend.tally().leased == 0


@pytest.mark.parametrize("also", ["", *_statements.AND_TOKEN.values()])
def test_pages_are_read_by_index(filled, also):
    steps = plan(filled, _statements.SCAN_DUE.format(also=also))
    assert looks_at_messages(steps) == [f"SEARCH pitstop_messages {BY_DUE}"]
    # Sorted only among records with one due, by their ids. The wording depends on the version of SQLite.
    (sort,) = sorts(steps)
    assert "RIGHT PART" in sort or "LAST TERM" in sort


@pytest.mark.parametrize("also", ["", *_statements.AND_TOKEN.values()])
def test_dead_ones_are_found_by_index(filled, also):
    looks = looks_at_messages(plan(filled, _statements.SCAN_DEAD.format(also=also)))
    assert looks
    assert all("SEARCH" in each for each in looks)


def work(backend, task):
    """Return how many steps of SQLite's virtual machine, in hundreds, a task takes."""
    steps = 0

    def count():
        nonlocal steps
        steps += 1

    with backend._database.lock, backend._database as connection:
        connection.set_progress_handler(count, 100)
    task()
    with backend._database.lock, backend._database as connection:
        connection.set_progress_handler(None, 0)
    return steps


def test_work_does_not_grow_with_the_backlog(open_backend, record, tmp_path, clock):
    now = clock.time_us() // 1000
    works = []
    for size in (100, 20_000):
        backend = open_backend(path=tmp_path / f"{size}.db", synchronous="normal")
        backend.put([record(f"due {number}", due=now - number) for number in range(size)])
        backend.put([record(f"later {number}", due=now + 1 + number) for number in range(size)])
        leased = []
        of_lease = work(backend, lambda backend=backend, leased=leased: leased.extend(backend.lease(50, 10_000_000)))
        completes = [Settlement(each.id, each.progress.token, Outcome.COMPLETE, None) for each in leased]
        of_settle = work(backend, lambda backend=backend, completes=completes: backend.settle(completes))
        of_next = work(backend, backend.next_due)
        assert len(leased) == 50
        works.append((of_lease, of_settle, of_next))
    (lease, settle, next_due), many = works
    assert lease > 10
    assert settle > 10
    assert many[0] <= lease * 1.2 + 1
    assert many[1] <= settle * 1.2 + 1
    assert many[2] <= next_due + 1


def test_a_claim_of_some_kinds_does_not_read_the_backlogs_of_others(open_backend, record, tmp_path, clock):
    """300,000 messages of another kind would cost no more: each size costs the same."""
    now = clock.time_us() // 1000
    works = []
    for size in (100, 20_000):
        backend = open_backend(path=tmp_path / f"{size}.db", synchronous="normal")
        backend.put([attrs.evolve(record(f"bulk {n}", due=now - n), kind="bulk") for n in range(size)])
        backend.put([attrs.evolve(record(f"later {n}", due=now + 1 + n), kind="mail") for n in range(size)])
        backend.put([attrs.evolve(record(f"mail {n}", due=now), kind=f"mail{n % 2 or ''}") for n in range(100)])
        backend.next_due([""])  # makes the index
        with backend._database.lock, backend._database as connection:
            connection.execute("ANALYZE")
        leased = []
        claims = [["mail"], ["mail", "mail1"], AllBut(["bulk"])]
        works.append([])
        for kinds in claims:
            task = partial(backend.lease, 15, 10_000_000, kinds)
            works[-1].append(work(backend, lambda task=task, leased=leased: leased.extend(task())))
            works[-1].append(work(backend, partial(backend.next_due, kinds)))
        assert len(leased) == 45
        assert all(each.kind.startswith("mail") for each in leased)
    few, many = works
    assert [after <= before * 1.2 + 1 for before, after in zip(few, many, strict=True)] == [True] * 6, works


@pytest.mark.parametrize("kinds", [AllBut(["bulk"]), [f"kind {n}" for n in range(300)]], ids=["all but", "named"])
def test_a_claim_of_more_kinds_than_are_merged_sorts_no_backlog(open_backend, record, tmp_path, clock, kinds):
    now, works = clock.time_us() // 1000, []
    for size in (1, 20):
        backend = open_backend(path=tmp_path / f"{size}.db", synchronous="normal")
        backend.put(
            [
                attrs.evolve(record(f"{n} {kind}", due=now - n), kind=f"kind {kind}")
                for kind in range(300)
                for n in range(size)
            ]
        )
        backend.put([attrs.evolve(record("bulk", due=now - 10**6), kind="bulk")])
        backend.next_due([""])  # makes the index
        leased = []
        task = partial(backend.lease, 15, 10_000_000, kinds)
        works.append(
            [
                work(backend, partial(backend.next_due, kinds)),
                work(backend, lambda task=task, leased=leased: leased.extend(task())),
            ]
        )
        assert [each.id.split()[0] for each in leased] == [str(size - 1)] * 15
        assert not any(each.kind == "bulk" for each in leased)
    few, many = works
    assert [after <= before * 1.2 + 1 for before, after in zip(few, many, strict=True)] == [True] * 2, works


def test_a_kind_that_cannot_be_read_is_among_all_others_and_among_no_named_ones(open_backend, record, path):
    backend = open_backend()
    for number in range(2):
        backend.put([attrs.evolve(record(f"{number}"), kind="mail")])
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("UPDATE pitstop_messages SET kind = CAST(x'ff' AS TEXT) WHERE id = ?", (f"{number}",))
        assert backend.next_due(["mail", ""]) is None
        assert backend.lease(5, 1000, ["mail", ""]) == []
        assert backend.next_due(AllBut(["mail"])) is not None
        assert [each.id for each in backend.lease(5, 1000, AllBut(["mail"]))] == [f"{number}"]
        # The second time there are more kinds than are merged.
        backend.put([attrs.evolve(record(f"later {n}", due=2**41), kind=f"kind {n}") for n in range(300)])


def test_the_oldest_first_and_then_by_order_of_coming_in(backend, record):
    now = backend.now() // 1000
    backend.put([record("z", due=now), record("b", due=now), record("late", due=now - 5), record("a", due=now)])
    backend.put([record("z", due=now)])
    assert [each.id for each in backend.lease(3, 1000)] == ["late", "z", "b"]
    assert [each.id for each in backend.lease(3, 1000)] == ["a"]


class Blocked:
    """A write in another thread that waits for the lock. The test holds the lock."""

    def __init__(self, backend, path, write):
        self._began = threading.Event()
        self._result = []
        with backend._database.lock, backend._database as connection:
            connection.set_trace_callback(self._trace)
        self._thread = threading.Thread(target=lambda: self._result.append(write()))

    def _trace(self, statement):
        if not statement.startswith("SELECT"):
            self._began.set()

    def start(self):
        self._thread.start()
        assert self._began.wait(30)

    def result(self):
        self._thread.join()
        return self._result[0]


@pytest.fixture
def lock(open_backend):
    """The write lock of another connection."""
    other = open_backend()
    connection = other._database._connection
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def test_a_lease_lasts_from_the_moment_at_which_the_lock_was_had(path, open_backend, clock, record, lock):
    lock.execute("ROLLBACK")
    backend = open_backend(busy_timeout="30s")
    backend.put([record("a")])
    lock.execute("BEGIN IMMEDIATE")
    blocked = Blocked(backend, path, lambda: backend.lease(1, 1000))
    blocked.start()
    clock.advance(5)
    lock.execute("COMMIT")
    (leased,) = blocked.result()
    assert leased.progress.due == clock.time_us() // 1000 + 1000
    assert leased.progress.first_leased == clock.time_us() // 1000
    assert backend.get("a") == leased


@pytest.mark.parametrize("count", [1, 2])
def test_a_settlement_that_waited_until_the_lease_was_over_is_not_applied(
    path, open_backend, clock, record, lock, count
):
    lock.execute("ROLLBACK")
    backend = open_backend(busy_timeout="30s")
    backend.put([record(f"{number}") for number in range(count)])
    leased = backend.lease(count, 1000)
    completes = [Settlement(each.id, each.progress.token, Outcome.COMPLETE, None) for each in leased]
    lock.execute("BEGIN IMMEDIATE")
    blocked = Blocked(backend, path, lambda: backend.settle(completes))
    blocked.start()
    clock.advance(1)
    lock.execute("COMMIT")
    assert blocked.result() == [False] * count
    assert backend.tally().due == count


def test_a_mixed_batch_returns_the_outcome_of_each(backend, record, clock):
    backend.put([record(f"{number}") for number in range(5)])
    leased = backend.lease(5, 1000)
    backend.delete("1")
    backend.put([record("3")])
    completes = [Settlement(each.id, each.progress.token, Outcome.COMPLETE, None) for each in leased]
    assert backend.settle(completes) == [True, False, True, False, True]
    assert [each.id for each in backend.scan(None, 10, None)] == ["3"]


def test_a_write_of_one_is_one_statement(backend, record):
    """There is no explicit transaction, and no second access to the log."""
    statements = []
    with backend._database.lock, backend._database as connection:
        connection.set_trace_callback(statements.append)
    backend.put([record("a")])
    assert [each.split(" ", 1)[0] for each in statements] == ["INSERT"]
    (leased,) = backend.lease(1, 1000)
    statements.clear()
    backend.settle([Settlement("a", leased.progress.token, Outcome.COMPLETE, None)])
    assert [each.split(" ", 1)[0] for each in statements] == ["DELETE"]
    statements.clear()
    assert backend.settle([]) == []
    backend.put([])
    assert statements == []


def test_nothing_from_outside_is_part_of_a_statement(backend, record):
    nasty = "x' OR 1=1; DROP TABLE pitstop_messages; --"
    backend.put([record(nasty), record("b", last_error=nasty)])
    assert backend.get(nasty).id == nasty
    assert backend.delete(nasty)
    assert not backend.delete(nasty)
    assert [each.id for each in backend.scan(None, 10, (0, nasty))] == ["b"]


def test_the_log_does_not_stay_large(open_backend):
    backend = open_backend()
    with backend._database.lock, backend._database as connection:
        assert connection.execute("PRAGMA journal_size_limit").fetchone() == (64 * 1024 * 1024,)


def test_a_file_that_is_made_here_has_small_pages(open_backend):
    """Each message touches its own page in the index of ids, and whole pages are written."""
    backend = open_backend()
    with backend._database.lock, backend._database as connection:
        assert connection.execute("PRAGMA page_size").fetchone() == (2048,)


def test_a_file_that_was_there_keeps_its_pages(path, open_backend, record):
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA page_size = 8192")
        other.execute("CREATE TABLE orders (id INTEGER)")
    backend = open_backend()
    backend.put([record("a")])
    with backend._database.lock, backend._database as connection:
        assert connection.execute("PRAGMA page_size").fetchone() == (8192,)


def test_the_pages_in_memory_are_bounded_and_hold_more_than_a_batch_touches(open_backend):
    backend = open_backend()
    with backend._database.lock, backend._database as connection:
        assert connection.execute("PRAGMA cache_size").fetchone() == (-16 * 1024,)
