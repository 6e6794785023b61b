"""Rows that another transaction writes between the look of a claim and its lock. A lock of the test decides the order."""

from __future__ import annotations

import threading

from concurrent.futures import ThreadPoolExecutor

import attrs
import pytest

from postgres.kit import record


#: A lock of the server on which a statement waits after it has taken its view of the table.
GATE = 4711
#: How often the row moves under a claim: its first look, and the looks that it takes again.
MOVES = 3


@pytest.fixture
def waits(backend, sql):
    """Has each claim of the backend wait at the gate before it locks its rows, and returns a function that opens the gate."""
    backend.tally()
    statements = backend._statements
    begin = "time AS MATERIALIZED (SELECT "

    def gated(text):
        assert begin in text
        return text.replace(begin, f"time AS MATERIALIZED (SELECT pg_advisory_xact_lock({GATE})::text AS gate, ", 1)

    statements.lease_these = gated(statements.lease_these)
    for name in ("claims", "claims_but"):
        claims = getattr(statements, name)
        gates = {each: gated(getattr(claims, each)) for each in ("lease", "lease_of", "candidates", "candidates_of")}
        setattr(statements, name, attrs.evolve(claims, **gates))
    sql.execute(f"SELECT pg_advisory_lock({GATE})")

    def wait_for_claim(leasing):
        for _ in range(4000):
            (count,) = sql.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            ).fetchone()
            if count or leasing.done():
                return count > 0
            threading.Event().wait(0.005)
        raise AssertionError("no claim waits at the gate")

    return wait_for_claim


@pytest.mark.parametrize("kinds", [None, ["", "mail"]], ids=["all", "of"])
def test_a_row_that_is_stored_anew_before_it_is_locked_is_claimed_and_no_refused_row(backend, make, sql, waits, kinds):
    """It was taken for one that the server refuses to write, so that all claims of the process skipped it for a minute."""
    other = make()
    other.put([record("a")])
    with ThreadPoolExecutor() as pool:
        leasing = pool.submit(backend.lease, 10, 60_000, kinds)
        for number in range(MOVES):
            if waits(leasing):
                other.put([attrs.evolve(record("a"), message={"n": number})])
                # The claim goes on, and the next one waits.
                sql.execute(f"SELECT pg_advisory_unlock({GATE})")
                sql.execute(f"SELECT pg_advisory_lock({GATE})")
        sql.execute(f"SELECT pg_advisory_unlock({GATE})")
        leased = leasing.result(20)
    assert [each.id for each in leased] == ["a"]
    assert leased[0].message == other.get("a").message
    assert list(backend.concerns()) == []
