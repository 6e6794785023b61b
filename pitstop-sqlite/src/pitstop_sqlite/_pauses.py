"""The paused kinds: a JSON object in one row of ``pitstop_meta``, and the number of its changes in another one.

Older releases of this package leave both rows alone.
"""

from __future__ import annotations

import json
import sqlite3

from collections.abc import Callable, Mapping

from pitstop import BackendUnavailable


__all__ = ["CHANGES", "change_pauses", "read_pauses"]

_ROW, _COUNT = "paused_kinds", "paused_kinds_changes"
_READ = f"SELECT value FROM pitstop_meta WHERE key = '{_ROW}'"  # noqa: S608 - constants
_WRITE = (
    "INSERT INTO pitstop_meta (key, value) VALUES (?, CAST(? AS TEXT)) "
    "ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)
#: Reads a number that changes with the paused kinds.
CHANGES = f"SELECT coalesce((SELECT CAST(value AS INTEGER) FROM pitstop_meta WHERE key = '{_COUNT}'), 0)"  # noqa: S608 - constants


def read_pauses(connection: sqlite3.Connection, now: int) -> dict[str, int | None]:
    """Return the paused kinds with the ends of their pauses, without those that have ended."""
    row = connection.execute(_READ).fetchone()
    if row is None:
        return {}
    try:
        found = json.loads(row[0])
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(end is None or type(end) is int for end in found.values()):
        raise BackendUnavailable(
            f"The paused kinds cannot be read: the row {_ROW!r} of pitstop_meta is damaged. Delete it, and pause the kinds again.",
            permanent=True,
        )
    return {kind: end for kind, end in found.items() if end is None or end > now}


def change_pauses(
    connection: sqlite3.Connection, now: Callable[[], int], change: Callable[[dict[str, int | None]], bool]
) -> bool:
    """Change the paused kinds in one transaction. Return what ``change`` returns; False: nothing is written.

    :param now: returns the time, when the write lock is held.
    """
    connection.execute("BEGIN IMMEDIATE")
    pauses = read_pauses(connection, now())
    changed = change(pauses)
    if changed:
        (count,) = connection.execute(CHANGES).fetchone()
        _write(connection, {_ROW: json.dumps(pauses), _COUNT: str(count + 1)})
    connection.execute("COMMIT")
    return changed


def _write(connection: sqlite3.Connection, values: Mapping[str, str]) -> None:
    for key, value in values.items():
        connection.execute(_WRITE, (key, value))
