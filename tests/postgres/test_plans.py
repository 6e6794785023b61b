"""The plans of the statements: a claim reads as much beside a large store as beside an empty one."""

from __future__ import annotations

import itertools
import json
import os
import re

import attrs
import pytest

from psycopg import sql

from pitstop.abc import AllBut, Outcome, Progress, Query
from pitstop_postgres._names import Names
from pitstop_postgres._session import Session
from pitstop_postgres._statements import Statements
from postgres.kit import LATER, done, record


#: How many messages are to come. A million with PITSTOP_TEST_LARGE, which takes a minute.
MANY = 1_000_000 if os.environ.get("PITSTOP_TEST_LARGE") else 50_000


@pytest.fixture
def explained(monkeypatch):
    """A function after whose call all statements are explained: it returns the list of the plans, with their rows and buffers.

    Each statement has to be prepared. It is explained with the plan that it was prepared with, perhaps for an empty table.
    """
    plans = []
    real = Session.fetch

    def fetch(self, statement, values=()):
        if "FROM" in statement and "pg_" not in statement:
            ((name,),) = real(self, _PREPARED, (_numbered(statement),))
            given = ", ".join(sql.Literal(each).as_string(None) for each in values)
            asked = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {name}{f'({given})' if values else ''}"
            self.change(_UNDONE)
            ((plan,),) = real(self, "SELECT pg_temp.plan_of(%s)", (asked,))
            plans.append((plan if isinstance(plan, list) else json.loads(plan))[0]["Plan"])
        return real(self, statement, values)

    return lambda: (monkeypatch.setattr(Session, "fetch", fetch), plans)[1]


_PREPARED = "SELECT name FROM pg_prepared_statements WHERE statement = %s"
# EXPLAIN with ANALYZE executes the statement, and the end of the inner block undoes it. After a ROLLBACK the driver prepares anew.
_UNDONE = """
CREATE OR REPLACE FUNCTION pg_temp.plan_of(statement text) RETURNS json LANGUAGE plpgsql AS $$
DECLARE plan json;
BEGIN
    BEGIN
        EXECUTE statement INTO plan;
        RAISE SQLSTATE 'ZZZZZ';
    EXCEPTION WHEN SQLSTATE 'ZZZZZ' THEN
        RETURN plan;
    END;
END $$
"""


def _numbered(statement):
    """Return a statement with the placeholders of the server, as the driver sends it."""
    numbers = itertools.count(1)
    return re.sub("%[sb]", lambda _: f"${next(numbers)}", statement).replace("%%", "%")


def buffers(plan):
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


def nodes(plan):
    yield plan
    for each in plan.get("Plans", ()):
        yield from nodes(each)


def rows(plans):
    """Return how many rows all nodes of these plans have read."""
    return sum(
        (each["Actual Rows"] + each.get("Rows Removed by Filter", 0)) * each["Actual Loops"]
        for plan in plans
        for each in nodes(plan)
    )


def fill(database, table, due, kind="''", *, analyzed):
    database.execute(
        f"INSERT INTO {table} (id, due, scheduled_for, revision, msg, kind) SELECT md5(n::text), {due}, 1, 'r', '{{}}', {kind} FROM generate_series(1, {MANY}) n"
    )
    if analyzed:
        database.execute(f"VACUUM (ANALYZE) {table}")


#: The ways to claim: of all kinds, of one that is there, of one that is not, and of all but one.
CLAIMS = (None, [""], ["mail"], ["mail", "none"], AllBut(["none"]))
#: The most pages that lie between the root of an index and a row, with a million entries.
HIGHER = 5


def claim_all(backend, limit=10):
    return [[each.id for each in backend.lease(limit, 1000, kinds)] for kinds in CLAIMS]


@pytest.fixture(params=[True, False], ids=["analyzed", "not analyzed"])
def analyzed(request):
    """Whether the server knows that the table has grown. Without that it keeps the plans that it made for an empty table."""
    return request.param


@pytest.fixture
def prepared(backend, sql, table):
    """The backend, whose statements were all prepared while its table was empty."""
    backend.tally()
    sql.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
    for _ in range(8):
        claim_all(backend)
        for kinds in CLAIMS:
            assert backend.next_due(kinds) is None
        backend.scan(None, 100, None)
        backend.scan("scheduled", 100, (LATER, "a"))
        backend.scan(None, 100, (LATER, "a"))
        backend.find(Query(prefix="ab"), 100, None)
        for count in (1, 2):
            gone = [done(record(str(n), token="t")) for n in range(count)]
            backend.settle([*gone, *(attrs.evolve(each, progress=Progress(LATER, 1)) for each in gone)])
    return backend


def put_one_of_each_kind(backend, due):
    backend.put([record(kind or "plain", due, kind=kind) for kind in ("", "mail", "report")])


def fill_all_kinds(database, table, analyzed):
    fill(
        database,
        table,
        f"{LATER} + n",
        "CASE n % 3 WHEN 0 THEN 'mail' WHEN 1 THEN 'report' ELSE '' END",
        analyzed=analyzed,
    )


def assert_as_cheap(plans, of_few):
    """Check that these plans have read as much as those beside a few messages, but for the height of the indexes."""
    read = [(buffers(few), buffers(many)) for few, many in zip(of_few, plans, strict=True)]
    wrong = [(few, many) for few, many in read if many > HIGHER * few + HIGHER]
    assert not wrong, str(read)
    assert rows(plans) <= rows(of_few) + len(plans), (rows(of_few), rows(plans))


def test_a_claim_reads_as_many_buffers_beside_many_to_come_as_beside_none(prepared, explained, sql, table, analyzed):
    plans = explained()
    put_one_of_each_kind(prepared, LATER)
    claim_all(prepared)
    of_few = plans.copy()
    plans.clear()
    fill_all_kinds(sql, table, analyzed)
    assert claim_all(prepared) == [[]] * len(CLAIMS)
    # Each claim that finds nothing is followed by a look whether all was locked.
    assert len(plans) == 2 * len(CLAIMS)
    assert_as_cheap(plans, of_few)


def test_a_claim_of_a_few_reads_as_much_beside_many_to_come_as_beside_none(prepared, explained, sql, table, analyzed):
    plans = explained()
    put_one_of_each_kind(prepared, 1)
    first = claim_all(prepared, 2)
    assert first == [["plain", "mail"], [], [], [], ["report"]]
    of_few = plans.copy()
    plans.clear()
    fill_all_kinds(sql, table, analyzed)
    put_one_of_each_kind(prepared, 1)
    assert claim_all(prepared, 2) == first
    assert_as_cheap(plans, of_few)


def test_messages_of_other_kinds_that_are_due_are_not_read(prepared, explained, sql, table, analyzed):
    fill(sql, table, "1 + n", "'report'", analyzed=analyzed)
    plans = explained()
    assert prepared.lease(10, 1000, ["mail"]) == prepared.lease(10, 1000, AllBut(["report"])) == []
    assert prepared.next_due(["mail"]) is prepared.next_due(AllBut(["report"])) is None
    assert all(buffers(each) < 30 for each in plans), [buffers(each) for each in plans]
    assert rows(plans) < 50


@pytest.mark.parametrize("kinds", [["mail", "report"], AllBut(["none"])], ids=["of", "but"])
def test_a_claim_of_kinds_among_many_that_are_due_reads_its_own_rows(prepared, explained, sql, table, analyzed, kinds):
    fill(sql, table, "1 + n", "CASE n % 2 WHEN 0 THEN 'mail' ELSE 'report' END", analyzed=analyzed)
    plans = explained()
    assert len(prepared.lease(50, 60_000, kinds)) == 50
    (plan,) = plans
    # The candidates of each kind are 150, and those of both.
    assert rows(plans) < 3000, rows(plans)
    assert buffers(plan) < 3000, buffers(plan)
    assert not any(each.get("Rows Removed by Filter", 0) > 10 for each in nodes(plan))


def test_settlements_read_their_own_rows(prepared, explained, sql, table, analyzed):
    prepared.put([record(f"x{n}") for n in range(9)])
    fill(sql, table, "2 + n", analyzed=analyzed)
    # More than a second ahead, so that the leases run.
    leased = prepared.lease(9, 60_000)
    plans = explained()
    kept = [attrs.evolve(done(each), outcome=Outcome.RELEASE, progress=Progress(LATER, 1)) for each in leased[:4]]
    assert prepared.settle([*map(done, leased[4:7]), *kept]) == [True] * 7
    assert prepared.settle([done(leased[8])]) == [True]
    assert all(rows([each]) < 70 and buffers(each) < 200 for each in plans), [
        (buffers(each), rows([each])) for each in plans
    ]


def test_the_next_due_time_of_many_is_read_from_the_index(prepared, explained, sql, table, analyzed):
    fill(sql, table, f"{LATER} + n", analyzed=analyzed)
    plans = explained()
    assert [prepared.next_due(each) for each in CLAIMS] == [LATER + 1, LATER + 1, None, None, LATER + 1]
    assert all(buffers(each) < 20 for each in plans), plans


def test_a_page_among_ties_is_read_from_the_index(prepared, explained, sql, table, analyzed):
    fill(sql, table, LATER, analyzed=analyzed)
    plans = explained()
    page = prepared.scan(None, 100, None)
    again = prepared.scan("scheduled", 100, (LATER, page[-1].id))
    middle = prepared.scan(None, 100, (LATER, "8"))
    assert len(page) == len(again) == len(middle) == 100
    assert middle[0].id >= "8"
    assert prepared.find(Query(prefix="ab"), 100, None)
    assert len(plans) == 4
    for plan in plans:
        assert buffers(plan) < 500
        assert max(each["Actual Rows"] for each in nodes(plan)) <= 101
        assert not any(each.get("Rows Removed by Filter") for each in nodes(plan))
        # Rows with an impossible `due` would be sorted. There are none.
        slow = [each for each in nodes(plan) if each["Node Type"] in {"Seq Scan", "Sort", "Incremental Sort"}]
        assert not any(each["Actual Rows"] for each in slow)
        assert not any(each["Node Type"] == "Seq Scan" for each in slow)


def test_the_names_of_tables_are_quoted(make):
    backend = make(table='we"ird %s table')
    backend.put([record("%s"), record("b")])
    assert {each.id for each in backend.lease(10, 1000)} == {"%s", "b"}
    assert backend.next_due(["x"]) is None
    backend.drop()
    assert '"we""ird %%s table"' in Statements(Names(None, 'we"ird %s table')).get
