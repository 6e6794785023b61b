"""The plan of each search, and the work of a page: by an index, and no more for a larger store."""

from __future__ import annotations

import sqlite3

from contextlib import closing, contextmanager
from functools import partial

import attrs
import pytest

from pitstop.abc import Query
from pitstop_sqlite import SqliteBackend


FEW, MANY = 300, 20_000


@pytest.fixture
def record(record):
    """Makes records of a kind."""
    return lambda name, kind="", **progress: attrs.evolve(record(name, **progress), kind=kind)


@pytest.fixture(params=["analysed", "as it is"])
def filled(request, backend, record):
    """A store in which one message of 100 is of the customer, and one of 50 is a mail."""
    now = backend.now() // 1000
    backend.put(
        [
            record(
                f"{'customer' if n % 100 == 0 else 'other'}:{n:05}",
                due=now - 500 + n,
                kind="mail" if n % 50 == 0 else "bulk",
            )
            for n in range(1000)
        ]
    )
    backend.lease(1, 1000, ["none"])  # makes the index of the kinds
    if request.param == "analysed":
        with backend._database.lock, backend._database as connection:
            # A user may have done this. The plans must not depend on it.
            connection.execute("ANALYZE")
    return backend


@contextmanager
def statements(backend):
    """Collects the statements that the backend executes."""
    seen = []
    with backend._database.lock, backend._database as connection:
        connection.set_trace_callback(seen.append)
    yield seen
    with backend._database.lock, backend._database as connection:
        connection.set_trace_callback(None)


def plans(backend, query, after=None):
    """Return the steps of the statements of a search."""
    with statements(backend) as seen:
        backend.find(query, 10, after)
    reads = [each for each in seen if each.startswith("SELECT id")]
    assert reads
    with backend._database.lock, backend._database as connection:
        return [[row[3].decode() for row in connection.execute(f"EXPLAIN QUERY PLAN {each}")] for each in reads]


IDS = "sqlite_autoindex_pitstop_messages_1"
DUES = "pitstop_messages_due"
KINDS = "pitstop_messages_kind_due"


@pytest.mark.parametrize(
    "after", [None, (5, "customer:00500"), (None, "customer:00500")], ids=["first", "next", "next_dead"]
)
@pytest.mark.parametrize(
    "more", [{}, {"state": "due"}, {"kind": "mail"}, {"failing": True}, {"due_before": 5}], ids=str
)
def test_a_prefix_is_a_range_of_the_index_of_ids(filled, after, more):
    ((step,),) = plans(filled, Query(prefix="customer:", **more), after)
    assert step.startswith("SEARCH pitstop_messages USING INDEX")
    assert IDS in step
    assert "(id>? AND id<?)" in step


@pytest.mark.parametrize(
    ("query", "index", "bounds"),
    [
        (Query(due_before=9), DUES, "(due>? AND due<?)"),
        (Query(due_from=9, failing=True), DUES, "(due>? AND due<?)"),
        (Query(state="due", failing=False), DUES, "(due>? AND due<?)"),
        (Query(kind="mail", state="due"), KINDS, "(kind=? AND due>? AND due<?)"),
        (Query(kind="mail", due_from=9), KINDS, "(kind=? AND due>? AND due<?)"),
        (Query(kind="", state="scheduled"), KINDS, "(kind=? AND due>? AND due<?)"),
    ],
    ids=str,
)
@pytest.mark.parametrize("behind", [False, True])
def test_other_searches_are_a_range_of_an_index_by_due(filled, query, index, bounds, behind):
    now = filled.now() // 1000
    for step, *sorts in plans(filled, query, (now + 1, "x") if behind and query.due_before is None else None):
        assert step == f"SEARCH pitstop_messages USING INDEX {index} {bounds}"
        # Sorted only among messages with one due, by their ids. The wording depends on the version of SQLite.
        assert all("RIGHT PART" in each or "LAST TERM" in each for each in sorts)


@pytest.mark.parametrize("kind", [None, "mail"])
def test_dead_messages_are_found_by_an_index(filled, kind):
    for steps in plans(filled, Query(state="dead", kind=kind, failing=True)):
        looks = [each for each in steps if "pitstop_messages" in each]
        assert looks
        assert all(each.startswith("SEARCH") for each in looks)
        assert all((KINDS if kind else DUES) in each for each in looks)


def finds_50(backend, query, after):
    assert len(backend.find(query, 50, after)) == 50


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


@pytest.mark.parametrize("kinds", [False, True], ids=["no_index_of_kinds", "index_of_kinds"])
def test_the_work_of_a_page_does_not_grow_with_the_store(open_backend, record, tmp_path, clock, kinds):
    now = clock.time_us() // 1000
    works = []
    for size in (FEW, MANY):
        backend = open_backend(path=tmp_path / f"{size}.db", synchronous="normal")
        backend.put([record(f"other:{n:06}", due=now - size // 2 + n, kind="bulk") for n in range(size)])
        backend.put([record(f"customer:{n:06}", due=now + 3 + n, kind="mail") for n in range(200)])
        if kinds:
            backend.lease(1, 1000, ["none"])
        queries = [
            (Query(prefix="customer:"), None),
            (Query(prefix="customer:"), (now, "customer:000100")),
            (Query(prefix="other:", state="due"), None),
            (Query(due_from=now, due_before=now + 60), None),
            (Query(due_from=now), (now + 10, "zzz")),
        ]
        if kinds:
            queries += [(Query(kind="mail"), None), (Query(kind="mail", state="scheduled"), (now + 50, ""))]
        done = []
        for query, after in queries:
            done.append(work(backend, partial(finds_50, backend, query, after)))
        works.append(done)
    few, many = works
    assert min(few) > 1
    assert all(most <= 2 * least + 3 for least, most in zip(few, many, strict=True)), works


def test_a_search_makes_no_index(backend, record):
    backend.put([record("a", kind="mail")])
    assert [each.id for each in backend.find(Query(kind="mail"), 10, None)] == ["a"]
    backend.tally_by_kind()
    with closing(sqlite3.connect(backend._path)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'index'")}
    assert KINDS not in names


def test_a_tally_by_kind_leaves_out_a_number_in_the_place_of_a_kind(tmp_path, record):
    """Another program may have made the table without STRICT."""
    path = tmp_path / "lax.db"
    SqliteBackend.from_options({"path": path}).close()
    with closing(sqlite3.connect(path)) as connection:
        (table,) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'pitstop_messages'").fetchone()
        connection.execute("DROP TABLE pitstop_messages")
        # A column without a type keeps the number as a number.
        connection.execute(table.removesuffix(" STRICT").replace("kind TEXT", "kind"))
        connection.execute("CREATE INDEX pitstop_messages_due ON pitstop_messages (due)")
    with closing(SqliteBackend.from_options({"path": path})) as backend:
        backend.put([record("a", kind="mail"), record("b")])
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE pitstop_messages SET kind = 7 WHERE id = 'b'")

        assert dict(backend.tally_by_kind()).keys() == {"mail"}
        assert [each.id for each in backend.find(Query(kind="mail"), 10, None)] == ["a"]
        assert {each.id for each in backend.get_portion(["a", "b"])[0]} == {"a", "b"}
