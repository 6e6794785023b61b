"""The statements that the backend executes, each prepared once per connection."""

# ruff: noqa: S608 - the statements are put together from constants alone; all other values are bound

from __future__ import annotations

from functools import lru_cache

from pitstop.abc import PAUSED
from pitstop_sqlite._rows import COLUMNS, LAST_INSTANT, MOST_COUNTED


__all__ = [
    "AMONG",
    "AND_TOKEN",
    "ANY_DUE",
    "ASIDE",
    "AWAIT",
    "COMPLETE",
    "COMPLETE_MANY",
    "COMPLETE_SIZES",
    "CREATE",
    "DELETE",
    "FILE_OF_SESSION",
    "GET",
    "GET_PLAIN",
    "INDEX_KINDS",
    "KINDS",
    "LEASE",
    "LOCK",
    "NEXT_DUE",
    "NOT_AMONG",
    "PROGRESS",
    "PUT",
    "PUT_FRESH",
    "READ_DUE",
    "REPLACE",
    "REPLACE_UNCHANGED",
    "SCAN_DEAD",
    "SCAN_DUE",
    "TALLY",
    "any_due_of",
    "at_given_time",
    "first_by_due",
    "first_merged",
    "lease_of",
    "least_by_due",
    "least_merged",
    "read_due_of",
]

# A `due` outside of 0..LAST_INSTANT is damaged and counts as none: the record is never claimed, and listed as dead.
_HAS_DUE = f"due BETWEEN 0 AND {LAST_INSTANT}"
_NO_DUE = f"(due IS NULL OR due < 0 OR due > {LAST_INSTANT})"

_names = COLUMNS.split(", ")
_INSERT = f"INSERT INTO pitstop_messages ({COLUMNS}) VALUES ({', '.join('?' for _ in _names)}) ON CONFLICT (id) DO "
# An update keeps `seq`: among messages with one `due`, the id that came in first goes first.
PUT = _INSERT + f"UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _names[1:])}"
# Writes a message that was not claimed yet: fewer values to bind.
PUT_FRESH = PUT.replace(", ".join("?" for _ in _names), "?, ?, ?, 0, NULL, NULL, NULL, 0, 0, 0, ?, ?, ?, ?, ?")
CREATE = _INSERT + "NOTHING"
REPLACE = (
    f"UPDATE pitstop_messages SET {', '.join(f'{name} = ?' for name in _names)} "
    "WHERE id = CAST(? AS TEXT) AND revision = CAST(? AS TEXT)"
)
REPLACE_UNCHANGED = (
    f"{REPLACE} AND due IS ? AND scheduled_for = ? AND attempts = ? AND first_leased IS ? "
    "AND last_error IS CAST(? AS TEXT) AND token IS CAST(? AS TEXT) AND unsettled = ? AND ahead = ? AND excused = ?"
)
GET = f"SELECT {COLUMNS} FROM pitstop_messages WHERE id = CAST(? AS TEXT)"
DELETE = "DELETE FROM pitstop_messages WHERE id = CAST(? AS TEXT)"

ANY_DUE = "SELECT 1 FROM pitstop_messages WHERE due BETWEEN 0 AND ? LIMIT 1"
_DUE_FIRST = "FROM pitstop_messages WHERE due BETWEEN 0 AND ? ORDER BY due, seq LIMIT ?"
READ_DUE = f"SELECT {COLUMNS} {_DUE_FIRST}"
_LEASE = (
    f"UPDATE pitstop_messages SET due = ?, attempts = min(attempts, {MOST_COUNTED - 1}) + 1, "
    f"unsettled = min(unsettled, {MOST_COUNTED - 1}) + 1, ahead = min(ahead, {MOST_COUNTED - 1}) + ?, "
    "first_leased = coalesce(first_leased, ?), token = ?"
)
LEASE = f"{_LEASE} WHERE seq IN (SELECT seq {_DUE_FIRST})"
# Claims of some kinds. Each kind has its own part of the index, so no claim reads the backlogs of other kinds. The index is made
# when a listener first asks for some kinds; then this statement does nothing.
INDEX_KINDS = "CREATE INDEX IF NOT EXISTS pitstop_messages_kind_due ON pitstop_messages (kind, due)"
_OF_KINDS = "pitstop_messages INDEXED BY pitstop_messages_kind_due WHERE kind"
# Jumps from each kind to the next one in the index.
KINDS = (
    f"WITH RECURSIVE found (kind) AS (SELECT min(kind) FROM {_OF_KINDS} >= '' UNION ALL "
    f"SELECT (SELECT min(kind) FROM {_OF_KINDS} > found.kind) FROM found WHERE found.kind IS NOT NULL) "
    "SELECT kind FROM found WHERE kind IS NOT NULL LIMIT ?"
)
# The sources of a claim of some kinds: each selects `due` and `seq` of the first messages. Many kinds are not merged, because
# SQLite accepts 500 parts: then the messages that are due are read in their order, and each is compared with the kinds.
_BY_DUE = "FROM pitstop_messages INDEXED BY pitstop_messages_due WHERE +kind {} (SELECT value FROM json_each(?)) AND"
AMONG, NOT_AMONG = _BY_DUE.format("IN"), _BY_DUE.format("NOT IN")


@lru_cache
def first_merged(count: int) -> str:
    """Return the source that merges the messages of ``count`` kinds. It binds each kind, the time and the limit, and the limit."""
    one = f"SELECT * FROM (SELECT due, seq FROM {_OF_KINDS} = CAST(? AS TEXT) AND due BETWEEN 0 AND ? ORDER BY due, seq LIMIT ?)"
    return f"SELECT seq FROM ({' UNION ALL '.join([one] * count)}) ORDER BY due, seq LIMIT ?"


@lru_cache
def first_by_due(source: str) -> str:
    """Return the source that reads by ``due``. It binds a JSON array of the kinds, the time and the limit.

    :param source: :data:`AMONG` or :data:`NOT_AMONG`.
    """
    return f"SELECT seq {source} due BETWEEN 0 AND ? ORDER BY due, seq LIMIT ?"


@lru_cache
def any_due_of(first: str) -> str:
    """Return the statement that finds whether a source has a message that is due."""
    return f"SELECT 1 FROM ({first})"


@lru_cache
def read_due_of(first: str) -> str:
    """Return the statement that reads the first messages of a source."""
    return f"SELECT {COLUMNS} FROM pitstop_messages WHERE seq IN ({first}) ORDER BY due, seq"


@lru_cache
def lease_of(first: str) -> str:
    """Return the statement that leases the first messages of a source."""
    return f"{_LEASE} WHERE seq IN ({first})"


@lru_cache
def least_merged(count: int) -> str:
    """Return the statement that finds the least ``due`` of ``count`` kinds, which it binds."""
    one = f"SELECT min(due) AS due FROM {_OF_KINDS} = CAST(? AS TEXT) AND {_HAS_DUE}"
    return f"SELECT min(due) FROM ({' UNION ALL '.join([one] * count)})"


@lru_cache
def least_by_due(source: str) -> str:
    """Return the statement that finds the least ``due`` by reading in its order. It binds a JSON array of the kinds."""
    return f"SELECT (SELECT due {source} {_HAS_DUE} ORDER BY due LIMIT 1)"


NEXT_DUE = f"SELECT min(due) FROM pitstop_messages WHERE {_HAS_DUE}"

# The end of a lease is compared with the time at which the write lock is held, because the lock may have been waited for. A
# statement that takes the lock itself is given NULL, and reads the time when it has the lock.
_TIME = "coalesce(?, (SELECT pitstop_now()))"
_HELD = f"token = CAST(? AS TEXT) AND ({_NO_DUE} OR due > {_TIME})"
_FENCE = f"WHERE id = CAST(? AS TEXT) AND {_HELD}"
ASIDE = f"UPDATE pitstop_messages SET due = NULL, last_error = ? {_FENCE}"
COMPLETE = f"DELETE FROM pitstop_messages {_FENCE}"
#: How many records one statement completes: it has that many places. Few sizes keep the number of prepared statements low.
COMPLETE_SIZES = (1, 8, 32, 128, 512)
# Bound to the index of the UNIQUE id. The planner may have analysed the table when it was small; with this many ids it would
# then read the whole table.
COMPLETE_MANY = {
    size: (
        "DELETE FROM pitstop_messages INDEXED BY sqlite_autoindex_pitstop_messages_1 "
        f"WHERE id IN ({', '.join(['CAST(? AS TEXT)'] * size)}) AND {_HELD}"
    )
    for size in COMPLETE_SIZES
}
# Writes an occurrence that was not claimed yet, as the ack of a series does: fewer values to bind.
AWAIT = (
    "UPDATE pitstop_messages SET due = ?, scheduled_for = ?, attempts = 0, first_leased = NULL, last_error = NULL, "
    "token = NULL, unsettled = 0, ahead = 0, excused = 0 " + _FENCE
)
PROGRESS = (
    "UPDATE pitstop_messages SET due = ?, scheduled_for = ?, attempts = ?, first_leased = ?, last_error = ?, token = ?, "
    "unsettled = ?, ahead = ?, excused = ? " + _FENCE
)

_PAUSED = f"token = '{PAUSED}'"
# One pass over the table, without the index: the statement visits every row anyway.
TALLY = (
    "SELECT count(*), count(*) FILTER (WHERE due BETWEEN 0 AND :now), min(due) FILTER (WHERE due BETWEEN 0 AND :now), "
    f"count(*) FILTER (WHERE due > :now AND due <= {LAST_INSTANT}), "
    f"count(*) FILTER (WHERE due > :now AND due <= {LAST_INSTANT} AND token IS NOT NULL), "
    f"count(*) FILTER (WHERE {_PAUSED} AND due > :now AND due <= {LAST_INSTANT}), "
    f"count(*) FILTER (WHERE {_PAUSED} AND {_NO_DUE}) "
    "FROM pitstop_messages NOT INDEXED"
)
SCAN_DUE = (
    f"SELECT {COLUMNS} FROM pitstop_messages WHERE due BETWEEN ? AND ? AND (due, id) > (?, CAST(? AS TEXT)) "
    "{also} ORDER BY due, id LIMIT ?"
)
SCAN_DEAD = (
    f"SELECT {COLUMNS} FROM pitstop_messages WHERE {_NO_DUE} AND id > CAST(? AS TEXT) {{also}} ORDER BY id LIMIT ?"
)
AND_TOKEN = {
    "scheduled": "AND token IS NULL",
    "leased": f"AND token IS NOT NULL AND NOT {_PAUSED}",
    "dead": f"AND ({_PAUSED}) IS NOT TRUE",
    "paused": f"AND {_PAUSED}",
}

# On a connection of the application. It does not have Pitstop's function. Its text factory and its converters, which go by the
# declared type of a column, see neither a text nor a column.
FILE_OF_SESSION = "SELECT CAST(file AS BLOB) FROM pragma_database_list WHERE name = 'main'"
_numbers = frozenset({"due", "scheduled_for", "attempts", "first_leased", "unsettled", "ahead", "excused"})
_plain = ", ".join(f"+{name}" if name in _numbers else f"CAST({name} AS BLOB)" for name in _names)
GET_PLAIN = f"SELECT {_plain} FROM main.pitstop_messages WHERE id = CAST(? AS TEXT)"
#: Takes the write lock, and writes nothing.
LOCK = "UPDATE main.pitstop_meta SET value = value WHERE FALSE"


@lru_cache
def at_given_time(statement: str) -> str:
    """Return the statement of a settlement that does not read the time by itself."""
    return statement.replace(_TIME, "?")
