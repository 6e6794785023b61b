"""The notes: a row of ``pitstop_meta`` for each, ``note:`` and its key, with the end and the text as JSON.

Older releases of this package leave these rows alone.
"""

from __future__ import annotations

import json
import sqlite3

from collections.abc import Mapping


__all__ = ["forget", "read_notes", "write_note"]

_PREFIX = "note:"
_ALL = "SELECT key, value FROM pitstop_meta WHERE key >= 'note:' AND key < 'note;'"
_WRITE = "INSERT INTO pitstop_meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
_DELETE = "DELETE FROM pitstop_meta WHERE key = ?"


def write_note(connection: sqlite3.Connection, key: str, text: str, until: int, now: int) -> None:
    """Write a note, and remove those that have ended, in the transaction of the connection."""
    connection.execute(_WRITE, (_PREFIX + key, json.dumps([until, text])))
    for each, value in _rows(connection):
        if _text(value, now) is None:
            connection.execute(_DELETE, (each,))


def forget(connection: sqlite3.Connection, key: str) -> None:
    """Remove a note."""
    connection.execute(_DELETE, (_PREFIX + key,))


def read_notes(connection: sqlite3.Connection, now: int) -> Mapping[str, str]:
    """Return the notes that have not ended."""
    found = {key.removeprefix(_PREFIX): _text(value, now) for key, value in _rows(connection)}
    return {key: text for key, text in found.items() if text is not None}


def _rows(connection: sqlite3.Connection) -> list[tuple[str, bytes]]:
    # The connection returns text as bytes, which may be anything if another program has written it.
    return [(bytes(key).decode(errors="replace"), value) for key, value in connection.execute(_ALL)]


def _text(value: bytes, now: int) -> str | None:
    """Return the text of a row; None if it has ended, or is damaged: then it is removed as if it had ended."""
    try:
        until, text = json.loads(value)
    except (ValueError, TypeError):
        return None
    return text if isinstance(text, str) and isinstance(until, int) and until > now else None
