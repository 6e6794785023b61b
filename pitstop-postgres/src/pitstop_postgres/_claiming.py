"""Claims: each is one statement, which takes the first records that are due and not locked.

If the server refuses a claim because of one row, or suppresses its write, the records are looked at apart: see
:mod:`pitstop_postgres._refusals`. Later claims of this process skip the row for a minute.
"""

from __future__ import annotations

import os

from collections.abc import Collection, Sequence
from functools import partial

import psycopg

from pitstop import BackendUnavailable
from pitstop.abc import LAST_INSTANT, AllBut, Damaged, Record
from pitstop_postgres._database import Database, Run
from pitstop_postgres._failures import may_be_about_a_row
from pitstop_postgres._refusals import SILENT, Refusals, apart, why_of
from pitstop_postgres._rows import Row, columns_of, read_row
from pitstop_postgres._statements import Statements


__all__ = ["Claimer"]

#: How many candidates of each kind a claim looks at beyond its limit, because other claims may have locked the first ones.
_SPARE = 100
#: How often a claim looks again, if other claims have locked all its candidates, or have moved them before it locked them.
_MOST_LOOKS = 5
#: Milliseconds by which the end of a lease may differ from the one that is computed here.
_TOLERANCE = 60_000


class _Wanted:
    """The records that a claim asks for, without those that claims skip: statements and their values."""

    def __init__(self, statements: Statements, kinds: Collection[str] | None, skipped: Sequence[str]) -> None:
        claims = statements.claims_but if skipped else statements.claims
        self._of_all = kinds is None
        self._chosen = Row((*(() if kinds is None else (sorted(kinds),)), *((skipped,) if skipped else ())))
        if kinds is None:
            self.lease, self.candidates, self._least = claims.lease, claims.candidates, claims.next_due
        elif isinstance(kinds, AllBut):
            self.lease, self.candidates = claims.lease_of_others, claims.candidates_of_others
            self._least = claims.next_due_of_others
        else:
            self.lease, self.candidates, self._least = claims.lease_of, claims.candidates_of, claims.next_due_of

    def values(self, now: int | None, limit: int) -> Row:
        """Return the values of :attr:`candidates`, which are the first ones of :attr:`lease`."""
        most = min(limit + _SPARE, 2**31 - 1)
        return (now, *self._chosen, *(() if self._of_all else (most, most)), limit)

    def least_due(self, run: Run) -> int | None:
        """Return the least ``due`` of these records; None if there is none."""
        rows = run.session.fetch(self._least, self._chosen)
        due = rows[0][0] if rows else None
        if due is not None and not isinstance(due, int):
            raise BackendUnavailable("PostgreSQL returned a time that is no number.")
        return due


class Claimer:
    """Claims records for one backend."""

    def __init__(self, database: Database, statements: Statements, refusals: Refusals) -> None:
        self._database = database
        self._statements = statements
        self._refusals = refusals

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None) -> Sequence[Record | Damaged]:
        """See :meth:`pitstop.abc.Backend.lease`."""
        if kinds is not None and not kinds and not isinstance(kinds, AllBut):
            return []
        token = os.urandom(16).hex()
        now = self._database.given_now
        duration = min(duration, LAST_INSTANT)
        taken = (duration, token, int(limit > 1))

        def claim(run: Run) -> list[Row]:
            if run.again:
                found = self._recover(run, token, duration)
                if found:
                    self._database.counters["claim_recovered"] += len(found)
                    return found
            return self._claim(run, limit, kinds, now, taken)

        rows = self._database.write(claim)
        # The server returns the rows in any order.
        rows.sort(key=_place)
        return [read_row(row[2:]) for row in rows]

    def next_due(self, run: Run, kinds: Collection[str] | None) -> int | None:
        """See :meth:`pitstop.abc.Backend.next_due`. No listener waits for the records that claims skip."""
        return _Wanted(self._statements, kinds, self._refusals.ids).least_due(run)

    def _claim(self, run: Run, limit: int, kinds: Collection[str] | None, now: int | None, taken: Row) -> list[Row]:
        """Claim records by one statement, or apart if the server has refused a row."""
        looks = 0
        while True:
            wanted = _Wanted(self._statements, kinds, self._refusals.ids)
            try:
                rows = run.session.fetch(wanted.lease, (*wanted.values(now, limit), *taken))
            except psycopg.Error as error:
                if not may_be_about_a_row(error):
                    raise
            else:
                looks += 1
                if rows or looks > _MOST_LOOKS or not self._is_any_due(run, wanted):
                    return rows
            # The server has refused a row, or suppressed its write, or other claims have locked all rows.
            leased, has_refused = self._claim_apart(run, wanted, limit, now, taken)
            if leased or (not has_refused and (kinds is None or looks >= _MOST_LOOKS)):
                return leased

    def _claim_apart(
        self, run: Run, wanted: _Wanted, limit: int, now: int | None, taken: Row
    ) -> tuple[list[Row], bool]:
        """Claim records that the server lets be written. Let later claims skip those that it refuses.

        :return: the rows of the leased records, and whether the server has refused any.
        """
        candidates = run.session.fetch(wanted.candidates, wanted.values(now, max(limit, _SPARE)))
        leased: list[Row] = []
        refused: list[tuple[str, str]] = []

        def done(rows: list[Row]) -> None:
            leased.extend(row[1:] for row in rows if row[3] is not None)
            refused.extend((row[0], SILENT) for row in rows if row[3] is None)

        write = partial(self._lease_these, run, now, taken)
        while candidates and not leased:
            some, candidates = candidates[:limit], candidates[limit:]
            try:
                refused += [(row[0], why_of(error)) for row, error in apart(some, write, done)]
            except psycopg.Error:
                if not leased or run.session.is_lost:
                    raise
                # These count. A later claim meets the error again, or not.
                break
        for id, why in refused:
            self._refusals.skip(id, why)
        return leased, bool(refused)

    def _lease_these(self, run: Run, now: int | None, taken: Row, candidates: Sequence[Row]) -> list[Row]:
        return run.session.fetch(self._statements.lease_these, (now, *columns_of(candidates), *taken))

    def _recover(self, run: Run, token: str, duration: int) -> list[Row]:
        """Return the records that a claim whose reply was lost has leased. Its session is over."""
        until = self._database.now_us() // 1000 + duration
        bounds = max(until - _TOLERANCE, 0), min(until + _TOLERANCE, LAST_INSTANT)
        return run.session.fetch(self._statements.claimed, (*bounds, token))

    def _is_any_due(self, run: Run, wanted: _Wanted) -> bool:
        due = wanted.least_due(run)
        return due is not None and due <= self._database.now_us() // 1000


def _place(row: Row) -> tuple[int, int]:
    # Another program may have made a row without a number.
    return row[0], row[1] or 0
