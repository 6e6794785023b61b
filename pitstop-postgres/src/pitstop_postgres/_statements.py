"""The statements on one pair of tables. Each is one round trip, and most are prepared by the driver.

Rules:

- The time is read by the statement itself, by ``clock_timestamp()``, and after it has the lock of the row. A value for it, which
  is NULL as a rule, is the instant of a clock for tests.
- Rows are locked in the order of their ids, so that two batches do not wait for each other.
- A subquery that locks is materialized, so that its conditions are checked on the row as it is once it is locked.
"""

# ruff: noqa: S608 - the statements are put together from constants and quoted names alone; all other values are bound

from __future__ import annotations

import attrs

from pitstop.abc import LAST_INSTANT, PAUSED
from pitstop_postgres._names import Names
from pitstop_postgres._rows import COLUMNS, MOST_COUNTED, NAMES, TYPES


__all__ = ["NO_DUE", "PROGRESS", "Claims", "Statements", "notifying", "notifying_one"]

#: The columns of a progress.
PROGRESS = NAMES[1:10]
_FRESH = ("id", "due", "scheduled_for", "revision", "series", "msg", "kind", "policy")
#: The columns that the records of one call have in common as a rule, and the other columns of a record that was never claimed.
_COMMON = ("series", "kind", "policy")
_OWN = tuple(name for name in _FRESH if name not in _COMMON)
#: Notifies once, whatever number of rows a statement has. It binds the channel and the payload.
_ONCE = "(SELECT pg_notify(%s, %s)) IS NOT NULL"
#: Binds an instant or NULL. Stands after the lock of a row.
_NOW = "coalesce(%s::bigint, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint)"
_RUNS = f"(held.was IS NULL OR held.was > {_NOW})"
_TIME = f"time AS MATERIALIZED (SELECT {_NOW} AS now)"
#: Selects the records without a ``due`` that counts.
NO_DUE = f"(due IS NULL OR due < 0 OR due > {LAST_INSTANT})"
_IS_DUE = "due >= 0 AND due <= (SELECT now FROM time)"
#: The counts that a claim increases, and by how much: `ahead` binds it.
_COUNTED = {"attempts": "1", "unsettled": "1", "ahead": "%s::bigint"}
_IS_PAUSED = f"token IS NOT DISTINCT FROM '{PAUSED}'"


def notifying(statement: str) -> str:
    """Return a statement that also notifies, if ``statement``, which returns ids, has changed a row.

    It binds the channel and the payload after the values of ``statement``, and returns the ids.
    """
    return (
        f"WITH written AS ({statement}), "
        "told AS MATERIALIZED (SELECT pg_notify(%s, %s) WHERE EXISTS (SELECT FROM written)) "
        "SELECT id, (SELECT count(*) FROM told) FROM written"
    )


def notifying_one(statement: str) -> str:
    """Return a statement that does as :func:`notifying` says, if ``statement`` changes one row at most. It costs less."""
    return f"{statement}, pg_notify(%s, %s)"


def _arrays(names: tuple[str, ...]) -> str:
    return ", ".join(f"%b::{TYPES[name]}[]" for name in names)


def _scalars(names: tuple[str, ...]) -> str:
    return ", ".join(f"%s::{TYPES[name]}" for name in names)


def _counted(name: str, more: str) -> str:
    return f"CASE WHEN m.{name} >= 0 THEN least(m.{name}, {MOST_COUNTED - 1}) + {more} ELSE m.{name} END"


@attrs.frozen
class Claims:
    """The statements of claims: of all records, of those of some kinds, and of those of all other kinds."""

    lease: str
    lease_of: str
    lease_of_others: str
    #: Return the ids and kinds of the records that a claim would write now.
    candidates: str
    candidates_of: str
    candidates_of_others: str
    #: Return the least ``due`` that counts.
    next_due: str
    next_due_of: str
    next_due_of_others: str


class Statements:
    """The statements for the tables with these names."""

    def __init__(self, names: Names) -> None:
        table, self._table, self._meta = names.table, names.table, names.meta
        literal = names.table.replace("'", "''")
        replaced = "ON CONFLICT (id) DO UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in NAMES[1:])
        #: Store one record, or one that was never claimed. An update keeps `seq`, the order in which ids came in.
        self.put_one = f"INSERT INTO {table} ({COLUMNS}) VALUES ({_scalars(NAMES)}) {replaced} RETURNING id"
        self.put_fresh_one = (
            f"INSERT INTO {table} ({', '.join(_FRESH)}) VALUES ({_scalars(_FRESH)}) {replaced} RETURNING id"
        )
        self.create = f"INSERT INTO {table} ({COLUMNS}) VALUES ({_scalars(NAMES)}) ON CONFLICT DO NOTHING RETURNING id"

        def put_many(columns: tuple[str, ...], conflict: str = replaced) -> str:
            # The rows get their `seq` in the order in which they were given, and are written in the order of their ids.
            listed = ", ".join(columns)
            return (
                f"WITH given AS MATERIALIZED (SELECT nextval((SELECT pg_get_serial_sequence('{literal}', 'seq')::regclass)) AS seq, "
                f"{listed} FROM unnest({_arrays(columns)}) AS given ({listed})) "
                f'INSERT INTO {table} (seq, {listed}) SELECT seq, {listed} FROM given ORDER BY id COLLATE "C" {conflict} RETURNING id'
            )

        self.put_many, self.put_fresh_many = put_many(NAMES), put_many(_FRESH)

        def put_alike(condition: str) -> str:
            # The ids are in ascending order. So the rows are numbered as they were given, and written in the order of their ids.
            own = ", ".join(_OWN)
            return (
                f"INSERT INTO {table} ({own}, {', '.join(_COMMON)}) SELECT {own}, {_scalars(_COMMON)} FROM unnest({_arrays(_OWN)}) "
                f"AS given ({own}){condition} {replaced}"
            )

        #: Store records that were never claimed, whose common columns are equal, and whose ids are in ascending order. They bind
        #: the common columns first. They return nothing.
        self.put_alike, self.put_alike_notifying = put_alike(""), put_alike(f" WHERE {_ONCE}")
        self.create_many = put_many(NAMES, "ON CONFLICT DO NOTHING")
        self.stored = (
            f"SELECT m.id FROM unnest(%b::text[], %b::text[]) AS given (id, revision) JOIN {table} AS m USING (id) "
            "WHERE m.revision = given.revision"
        )
        changed = ", ".join(f"{name} = %s::{TYPES[name]}" for name in NAMES[1:])
        same = " AND ".join(f"{name} IS NOT DISTINCT FROM %s::{TYPES[name]}" for name in PROGRESS)
        self.replace = f"UPDATE {table} SET {changed} WHERE id = %s AND revision = %s RETURNING id"
        self.replace_unchanged = f"UPDATE {table} SET {changed} WHERE id = %s AND revision = %s AND {same} RETURNING id"
        expected = tuple(f"old_{name}" for name in ("revision", *PROGRESS))
        of_expected = tuple(TYPES[name.removeprefix("old_")] for name in expected)
        self.replace_many = (
            f"WITH held AS MATERIALIZED (SELECT given.* FROM unnest({_arrays(NAMES)}, {', '.join(f'%b::{each}[]' for each in of_expected)}) "
            f"AS given ({COLUMNS}, {', '.join(expected)}) JOIN {table} AS m ON m.id = given.id AND m.revision = old_revision "
            f"AND {' AND '.join(f'm.{name} IS NOT DISTINCT FROM old_{name}' for name in PROGRESS)} ORDER BY m.id FOR UPDATE OF m) "
            f"UPDATE {table} AS m SET {', '.join(f'{name} = held.{name}' for name in NAMES[1:])} FROM held WHERE m.id = held.id RETURNING m.id"
        )
        self.get = f"SELECT {COLUMNS} FROM {table} WHERE id = %s"
        self.get_many = f"SELECT {', '.join(f'm.{name}' for name in NAMES)} FROM unnest(%b::text[]) AS given (id) JOIN {table} AS m USING (id)"
        #: The version of the row precedes its columns.
        self.get_versions = self.get_many.replace("SELECT ", "SELECT m.xmin::text || ' ' || m.ctid::text, ", 1)
        self.delete = f"DELETE FROM {table} WHERE id = %s"
        self.delete_many = (
            f"WITH held AS MATERIALIZED (SELECT m.id FROM unnest(%b::text[]) AS given (id) JOIN {table} AS m USING (id) "
            f"ORDER BY m.id FOR UPDATE OF m) DELETE FROM {table} AS m USING held WHERE m.id = held.id RETURNING m.id"
        )
        self.delete_versions = (
            f"WITH held AS MATERIALIZED (SELECT m.id FROM unnest(%b::text[], %b::text[]) AS given (id, version) JOIN {table} AS m "
            "ON m.id = given.id AND m.xmin::text || ' ' || m.ctid::text = given.version ORDER BY m.id FOR UPDATE OF m) "
            f"DELETE FROM {table} AS m USING held WHERE m.id = held.id RETURNING m.id"
        )
        self._claim(table)
        self._fence(table)
        self._read(table)

    def _claim(self, table: str) -> None:
        # A row is found again by its place, which costs less than a look into an index. The place alone does not name a row: if
        # the table is partitioned, each partition has it. A row that moved before it was locked is left to the next claim.
        # A count or a time that other programs have damaged stays as it is, so that the record is found to be damaged.
        counted = ", ".join(f"{name} = {_counted(name, more)}" for name, more in _COUNTED.items())
        written = (
            f"UPDATE {table} AS m SET due = least(time.now + %s::bigint, {LAST_INSTANT}), token = %s, {counted}, "
            "first_leased = coalesce(m.first_leased, time.now) FROM first, time WHERE m.id = first.id"
        )
        returned = f" RETURNING first.due AS was, first.seq, {', '.join(f'm.{name}' for name in NAMES)}"
        leased = f"{written} AND m.ctid = first.place{returned}"
        self.claims = self._claims(table, leased, "")
        #: Leave out the records with some ids, which are bound before the limits.
        self.claims_but = self._claims(table, leased, " AND id <> ALL (%b::text[])")
        #: Claim the records with some ids and kinds, if they are still due and not locked. A row begins with the id of a record
        #: that could be locked. The rest of it is NULL if the server has not written the record. A row that moved before it was
        #: locked is followed, because it is found by its id alone.
        self.lease_these = (
            f"WITH {_TIME}, first AS MATERIALIZED (SELECT m.ctid AS place, m.id, m.due, m.seq FROM unnest(%b::text[], %b::text[]) AS given (id, kind) "
            f"JOIN {table} AS m ON m.id = given.id AND m.kind IS NOT DISTINCT FROM given.kind WHERE m.{_IS_DUE.replace('AND due', 'AND m.due')} "
            f"ORDER BY m.id FOR UPDATE OF m SKIP LOCKED), taken AS ({written}{returned}) "
            f"SELECT first.id, {', '.join(f'taken.{name}' for name in ('was', 'seq', *NAMES))} FROM first LEFT JOIN taken USING (id)"
        )
        self.claimed = f"SELECT due, seq, {COLUMNS} FROM {table} WHERE due BETWEEN %s AND %s AND token = %s"

    def _claims(self, table: str, leased: str, but: str) -> Claims:
        """Return the statements that find records for a claim.

        :param but: a condition that leaves out some records.
        """
        in_order = "ORDER BY due, seq LIMIT %s"
        # The place in the order comes before the columns of a message.
        first_of_all = (
            f"WITH {_TIME}, first AS MATERIALIZED (SELECT ctid AS place, id, due, seq, kind FROM {table} WHERE {_IS_DUE}{but} {in_order} "
            "FOR UPDATE SKIP LOCKED)"
        )
        # Jumps from each kind to the next one in the index.
        next_kind = f"SELECT t.kind FROM {table} AS t WHERE t.due IS NOT NULL"
        found = (
            f"found AS (({next_kind} ORDER BY t.kind LIMIT 1) UNION ALL SELECT ({next_kind} AND t.kind > found.kind ORDER BY t.kind LIMIT 1) "
            "FROM found WHERE found.kind IS NOT NULL)"
        )
        named = "chosen AS MATERIALIZED (SELECT unnest(%b::text[]) AS kind)"
        others = f"{found}, chosen AS MATERIALIZED (SELECT kind FROM found WHERE kind IS NOT NULL AND kind <> ALL (%b::text[]))"
        # The order begins with the kind, and ANY does not fix it to one value, so that no plan but the scan of the index of kinds
        # fits. A statement that is prepared for an empty table could otherwise walk through the due records of all kinds.
        of_kind = "kind = ANY (ARRAY[chosen.kind])"
        # First the candidates of each kind, then the locks: the rows of all kinds are taken in one order. The conditions are checked
        # again on the locked row, because it may have been stored anew meanwhile. No index fits them, so that the rows are found by
        # their places, whatever the size of the table was when the statement was prepared.
        first = (
            f"candidates AS MATERIALIZED (SELECT c.place, c.id, c.due, c.seq, c.kind FROM chosen CROSS JOIN LATERAL (SELECT ctid AS place, id, due, "
            f"seq, kind FROM {table} WHERE {of_kind} AND {_IS_DUE}{but} ORDER BY kind, due, seq LIMIT %s) AS c {in_order}), "
            f"first AS MATERIALIZED (SELECT m.ctid AS place, m.id, m.due, m.seq, m.kind FROM candidates AS c JOIN {table} AS m ON m.ctid = c.place "
            f"AND m.id = c.id AND m.kind IS NOT DISTINCT FROM c.kind WHERE m.due + 0 BETWEEN 0 AND (SELECT now FROM time) "
            f"ORDER BY c.due, c.seq LIMIT %s FOR UPDATE OF m SKIP LOCKED)"
        )
        is_soon = f"due BETWEEN 0 AND {LAST_INSTANT}{but}"
        least = (
            f"SELECT min(c.due) FROM chosen CROSS JOIN LATERAL (SELECT due FROM {table} WHERE {of_kind} AND {is_soon} "
            "ORDER BY kind, due LIMIT 1) AS c"
        )
        first_of = f"WITH {_TIME}, {named}, {first}"
        first_of_others = f"WITH RECURSIVE {_TIME}, {others}, {first}"
        return Claims(
            lease=f"{first_of_all} {leased}",
            lease_of=f"{first_of} {leased}",
            lease_of_others=f"{first_of_others} {leased}",
            candidates=f"{first_of_all} SELECT id, kind FROM first",
            candidates_of=f"{first_of} SELECT id, kind FROM first",
            candidates_of_others=f"{first_of_others} SELECT id, kind FROM first",
            next_due=f"SELECT due FROM {table} WHERE {is_soon} ORDER BY due LIMIT 1",
            next_due_of=f"WITH {named} {least}",
            next_due_of_others=f"WITH RECURSIVE {others} {least}",
        )

    def _fence(self, table: str) -> None:
        held_one = (
            f"WITH held AS MATERIALIZED (SELECT id, due AS was FROM {table} WHERE id = %s AND token = %s FOR UPDATE)"
        )
        progress = ", ".join(f"{name} = %s::{TYPES[name]}" for name in PROGRESS)
        self.complete = (
            f"{held_one} DELETE FROM {table} AS m USING held WHERE m.id = held.id AND {_RUNS} RETURNING m.id"
        )
        self.advance = (
            f"{held_one} UPDATE {table} AS m SET {progress} FROM held WHERE m.id = held.id AND {_RUNS} RETURNING m.id"
        )
        self.set_aside = f"{held_one} UPDATE {table} AS m SET due = NULL, last_error = %s FROM held WHERE m.id = held.id AND {_RUNS} RETURNING m.id"

        def held(*more: str) -> str:
            given = "".join(f", {name}" for name in more)
            arrays = "".join(f", %b::{TYPES[name]}[]" for name in more)
            return (
                f"WITH held AS MATERIALIZED (SELECT given.*, m.due AS was FROM unnest(%b::text[], %b::text[]{arrays}) AS given (id, fence{given}) "
                f"JOIN {table} AS m ON m.id = given.id AND m.token = given.fence ORDER BY m.id FOR UPDATE OF m)"
            )

        self.complete_many = (
            f"{held()} DELETE FROM {table} AS m USING held WHERE m.id = held.id AND {_RUNS} RETURNING m.id"
        )
        self.advance_many = (
            f"{held(*PROGRESS)} UPDATE {table} AS m SET {', '.join(f'{name} = held.{name}' for name in PROGRESS)} FROM held "
            f"WHERE m.id = held.id AND {_RUNS} RETURNING m.id"
        )
        self.set_aside_many = (
            f"{held('last_error')} UPDATE {table} AS m SET due = NULL, last_error = held.last_error FROM held "
            f"WHERE m.id = held.id AND {_RUNS} RETURNING m.id"
        )

    def _read(self, table: str) -> None:
        to_come = f"due > {{now}} AND due <= {LAST_INSTANT}"
        counts = (
            "count(*), count(*) FILTER (WHERE due BETWEEN 0 AND {now}), min(due) FILTER (WHERE due BETWEEN 0 AND {now}), "
            f"count(*) FILTER (WHERE {to_come}), count(*) FILTER (WHERE {to_come} AND token IS NOT NULL), "
            f"count(*) FILTER (WHERE {to_come} AND {_IS_PAUSED}), count(*) FILTER (WHERE {NO_DUE} AND {_IS_PAUSED})"
        )
        #: Read the whole table, in any order. The time stands in the text of these two.
        self.tally = f"SELECT {counts} FROM {table}"
        self.tally_by_kind = f"SELECT kind, {counts} FROM {table} GROUP BY kind"
        meta = self._meta
        self.pause_kind = f"INSERT INTO {meta} (key, value) VALUES (%s, %s) ON CONFLICT (key) DO UPDATE SET value = excluded.value RETURNING key AS id"
        self.resume_kind = f"DELETE FROM {meta} WHERE key = %s RETURNING value AS id"
        self.paused_kinds = f"SELECT key, value FROM {meta} WHERE key >= %s AND key < %s"
        self.store = f"SELECT value FROM {meta} WHERE key = 'store'"
        self.drop = f"DROP TABLE IF EXISTS {table}, {meta}"

    def page(self, conditions: str, order: str) -> str:
        """Return a read of whole records. It binds the values of the conditions, and the limit."""
        return f"SELECT {COLUMNS} FROM {self._table} WHERE {conditions} ORDER BY {order} LIMIT %s"
