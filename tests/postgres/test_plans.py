"""The plans of the statements: a claim reads as much beside a large store as beside an empty one."""

from __future__ import annotations

import json
import os

import pytest

from pitstop.abc import Query
from pitstop_postgres._names import Names
from pitstop_postgres._session import Session
from pitstop_postgres._statements import Statements
from postgres.kit import LATER, record


#: How many messages are to come. A million with PITSTOP_TEST_LARGE, which takes a minute.
MANY = 1_000_000 if os.environ.get("PITSTOP_TEST_LARGE") else 50_000


@pytest.fixture
def explained(monkeypatch):
    """The plans of all statements that contain a text, of each execution, with the buffers that it read."""
    plans = []
    real = Session.fetch

    def fetch(self, statement, values=()):
        if "FROM" in statement and "pg_" not in statement:
            ((plan,),) = real(self, f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", values)
            plans.append((plan if isinstance(plan, list) else json.loads(plan))[0]["Plan"])
        return real(self, statement, values)

    return lambda: (monkeypatch.setattr(Session, "fetch", fetch), plans)[1]


def buffers(plan):
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


def nodes(plan):
    yield plan
    for each in plan.get("Plans", ()):
        yield from nodes(each)


def fill(sql, table, due):
    sql.execute(
        f"INSERT INTO {table} (id, due, scheduled_for, revision, msg) SELECT md5(n::text), {due}, 1, 'r', '{{}}' FROM generate_series(1, {MANY}) n"
    )
    sql.execute(f"VACUUM (ANALYZE) {table}")


def test_a_claim_reads_as_many_buffers_beside_many_to_come_as_beside_none(backend, explained, sql, table):
    backend.put([record("a", LATER)])
    # Prepared for an empty table, as in a program that runs for long.
    for _ in range(10):
        assert backend.lease(10, 1000) == []
        assert backend.next_due() == LATER
    fill(sql, table, f"{LATER} + n")
    plans = explained()
    assert backend.lease(10, 1000) == []
    assert backend.lease(10, 1000, ["mail"]) == []
    assert backend.next_due() == LATER
    assert [buffers(plan) < 20 for plan in plans] == [True] * len(plans), [buffers(plan) for plan in plans]


def test_a_page_among_ties_is_read_from_the_index(backend, explained, sql, table):
    backend.tally()
    fill(sql, table, LATER)
    plans = explained()
    page = backend.scan(None, 100, None)
    again = backend.scan("scheduled", 100, (LATER, page[-1].id))
    assert len(page) == len(again) == 100
    assert backend.find(Query(prefix="ab"), 100, None)
    for plan in plans:
        assert buffers(plan) < 500
        assert not any(each["Node Type"] in {"Seq Scan", "Sort", "Incremental Sort"} for each in nodes(plan))


def test_the_names_of_tables_are_quoted(make):
    backend = make(table='we"ird %s table')
    backend.put([record("%s"), record("b")])
    assert {each.id for each in backend.lease(10, 1000)} == {"%s", "b"}
    assert backend.next_due(["x"]) is None
    backend.drop()
    assert '"we""ird %%s table"' in Statements(Names(None, 'we"ird %s table')).get
