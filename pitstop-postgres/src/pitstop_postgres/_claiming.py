"""Claims: each is one statement, which takes the first records that are due and not locked."""

from __future__ import annotations

import os

from collections.abc import Collection, Sequence

from pitstop import BackendUnavailable
from pitstop.abc import LAST_INSTANT, AllBut, Damaged, Record
from pitstop_postgres._database import Database, Run
from pitstop_postgres._rows import Row, read_row
from pitstop_postgres._statements import Statements


__all__ = ["Claimer"]

#: How many candidates of each kind a claim looks at beyond its limit, because other claims may have locked the first ones.
_SPARE = 100
#: How often a claim of kinds looks again, if other claims have locked all its candidates.
_MOST_LOOKS = 5
#: Milliseconds by which the end of a lease may differ from the one that is computed here.
_TOLERANCE = 60_000


class Claimer:
    """Claims records for one backend."""

    def __init__(self, database: Database, statements: Statements) -> None:
        self._database = database
        self._statements = statements

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None) -> Sequence[Record | Damaged]:
        """See :meth:`pitstop.abc.Backend.lease`."""
        if kinds is not None and not kinds and not isinstance(kinds, AllBut):
            return []
        token = os.urandom(16).hex()
        now = self._database.given_now
        duration = min(duration, LAST_INSTANT)
        taken = (duration, token, int(limit > 1))
        statement, values = self._statements.lease, Row((now, limit, *taken))
        if kinds is not None:
            statement = self._statements.lease_of_others if isinstance(kinds, AllBut) else self._statements.lease_of
            most = min(limit + _SPARE, 2**31 - 1)
            values = (now, sorted(kinds), most, most, limit, *taken)

        def claim(run: Run) -> list[Row]:
            if run.again:
                found = self._recover(run, token, duration)
                if found:
                    self._database.counters["claim_recovered"] += len(found)
                    return found
            for _ in range(_MOST_LOOKS):
                rows = run.session.fetch(statement, values)
                if rows or kinds is None or not self._is_any_due(run, kinds):
                    break
            return rows

        rows = self._database.write(claim)
        # The server returns the rows in any order.
        rows.sort(key=_place)
        return [read_row(row[2:]) for row in rows]

    def _recover(self, run: Run, token: str, duration: int) -> list[Row]:
        """Return the records that a claim whose reply was lost has leased. Its session is over."""
        until = self._database.now_us() // 1000 + duration
        bounds = max(until - _TOLERANCE, 0), min(until + _TOLERANCE, LAST_INSTANT)
        return run.session.fetch(self._statements.claimed, (*bounds, token))

    def _is_any_due(self, run: Run, kinds: Collection[str]) -> bool:
        due = least_due(run, self._statements, kinds)
        return due is not None and due <= self._database.now_us() // 1000


def least_due(run: Run, statements: Statements, kinds: Collection[str] | None) -> int | None:
    """See :meth:`pitstop.abc.Backend.next_due`."""
    if kinds is None:
        rows = run.session.fetch(statements.next_due)
    elif isinstance(kinds, AllBut):
        rows = run.session.fetch(statements.next_due_of_others, (sorted(kinds),))
    else:
        rows = run.session.fetch(statements.next_due_of, (sorted(kinds),))
    due = rows[0][0] if rows else None
    if due is not None and not isinstance(due, int):
        raise BackendUnavailable("PostgreSQL returned a time that is no number.")
    return due


def _place(row: Row) -> tuple[int, int]:
    return row[0], row[1]
