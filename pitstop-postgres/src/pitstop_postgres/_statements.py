"""The statements on one pair of tables. Each is one round trip, and most are prepared by the driver.

Rules:

- The time is read by the statement itself, by ``clock_timestamp()``, and after it has the lock of the row. A value for it, which
  is NULL as a rule, is the instant of a clock for tests.
- Rows are locked in the order of their ids, so that two batches do not wait for each other.
- A subquery that locks is materialized, so that its conditions are checked on the row as it is once it is locked.
"""

# ruff: noqa: S608 - the statements are put together from constants and quoted names alone; all other values are bound

from __future__ import annotations

from pitstop.abc import LAST_INSTANT, PAUSED
from pitstop_postgres._names import Names
from pitstop_postgres._rows import COLUMNS, MOST_COUNTED, NAMES, TYPES


__all__ = ["PROGRESS", "Statements", "notifying"]

#: The columns of a progress.
PROGRESS = NAMES[1:10]
_FRESH = ("id", "due", "scheduled_for", "revision", "series", "msg", "kind", "policy")
#: Binds an instant or NULL. Stands after the lock of a row.
_NOW = "coalesce(%s::bigint, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint)"
_RUNS = f"(held.was IS NULL OR held.was > {_NOW})"
_TIME = f"time AS MATERIALIZED (SELECT {_NOW} AS now)"
_IS_DUE = "due >= 0 AND due <= (SELECT now FROM time)"
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


def _arrays(names: tuple[str, ...]) -> str:
    return ", ".join(f"%b::{TYPES[name]}[]" for name in names)


def _scalars(names: tuple[str, ...]) -> str:
    return ", ".join(f"%s::{TYPES[name]}" for name in names)


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
        leased = (
            f"SET due = least(time.now + %s::bigint, {LAST_INSTANT}), token = %s, attempts = least(m.attempts, {MOST_COUNTED - 1}) + 1, "
            f"unsettled = least(m.unsettled, {MOST_COUNTED - 1}) + 1, ahead = least(m.ahead, {MOST_COUNTED - 1}) + %s::bigint, "
            "first_leased = coalesce(m.first_leased, time.now) FROM first, time WHERE m.id = first.id "
            f"RETURNING first.due, first.seq, {', '.join(f'm.{name}' for name in NAMES)}"
        )
        in_order = "ORDER BY due, seq LIMIT %s"
        # The place in the order comes before the columns of a message.
        self.lease = (
            f"WITH {_TIME}, first AS MATERIALIZED (SELECT id, due, seq FROM {table} WHERE {_IS_DUE} {in_order} FOR UPDATE SKIP LOCKED) "
            f"UPDATE {table} AS m {leased}"
        )
        # Jumps from each kind to the next one in the index.
        next_kind = f"SELECT t.kind FROM {table} AS t WHERE t.due IS NOT NULL"
        found = (
            f"found AS (({next_kind} ORDER BY t.kind LIMIT 1) UNION ALL SELECT ({next_kind} AND t.kind > found.kind ORDER BY t.kind LIMIT 1) "
            "FROM found WHERE found.kind IS NOT NULL)"
        )
        named = "chosen AS MATERIALIZED (SELECT unnest(%b::text[]) AS kind)"
        others = f"{found}, chosen AS MATERIALIZED (SELECT kind FROM found WHERE kind IS NOT NULL AND kind <> ALL (%b::text[]))"
        # First the candidates of each kind, then the locks: the rows of all kinds are taken in one order. The kind is compared
        # again on the locked row, because it may have been stored anew with another one meanwhile.
        first = (
            f"candidates AS MATERIALIZED (SELECT c.id, c.due, c.seq, chosen.kind FROM chosen CROSS JOIN LATERAL (SELECT id, due, seq FROM {table} "
            f"WHERE kind = chosen.kind AND {_IS_DUE} {in_order}) AS c {in_order}), "
            f"first AS MATERIALIZED (SELECT m.id, m.due, m.seq FROM candidates AS c JOIN {table} AS m ON m.id = c.id AND m.kind = c.kind "
            f"WHERE m.{_IS_DUE.replace('AND due', 'AND m.due')} ORDER BY c.due, c.seq LIMIT %s FOR UPDATE OF m SKIP LOCKED)"
        )
        self.lease_of = f"WITH {_TIME}, {named}, {first} UPDATE {table} AS m {leased}"
        self.lease_of_others = f"WITH RECURSIVE {_TIME}, {others}, {first} UPDATE {table} AS m {leased}"
        self.claimed = f"SELECT due, seq, {COLUMNS} FROM {table} WHERE due BETWEEN %s AND %s AND token = %s"
        self.next_due = f"SELECT due FROM {table} WHERE due IS NOT NULL ORDER BY due LIMIT 1"
        least = (
            f"SELECT min(c.due) FROM chosen CROSS JOIN LATERAL (SELECT due FROM {table} WHERE kind = chosen.kind AND due IS NOT NULL "
            "ORDER BY due LIMIT 1) AS c"
        )
        self.next_due_of = f"WITH {named} {least}"
        self.next_due_of_others = f"WITH RECURSIVE {others} {least}"

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
        counts = (
            "count(*), count(*) FILTER (WHERE due <= {now}), min(due) FILTER (WHERE due <= {now}), count(*) FILTER (WHERE due > {now}), "
            "count(*) FILTER (WHERE due > {now} AND token IS NOT NULL), "
            f"count(*) FILTER (WHERE due > {{now}} AND {_IS_PAUSED}), count(*) FILTER (WHERE due IS NULL AND {_IS_PAUSED})"
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
