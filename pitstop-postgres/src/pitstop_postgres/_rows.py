"""Records as rows of the table, and rows as records."""

from __future__ import annotations

import json

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from pitstop.abc import Damaged, Progress, Record, dump_message, load_message, read_record
from pitstop_postgres._session import Row


__all__ = ["COLUMNS", "MOST_COUNTED", "NAMES", "TYPES", "Row", "columns_of", "new_row", "progress_values", "read_row"]

#: The largest count that a column can hold.
MOST_COUNTED = 2**63 - 1
#: The columns of a message that are read and written, in this order, with their types.
TYPES = {
    "id": "text",
    "due": "bigint",
    "scheduled_for": "bigint",
    "attempts": "bigint",
    "first_leased": "bigint",
    "last_error": "text",
    "token": "text",
    "unsettled": "bigint",
    "ahead": "bigint",
    "excused": "bigint",
    "revision": "text",
    "series": "text",
    "msg": "text",
    "kind": "text",
    "policy": "text",
}
NAMES = tuple(TYPES)
COLUMNS = ", ".join(NAMES)

#: Not a mapping, so that an unreadable message or series is found to be damaged.
_UNREADABLE = object()
#: The most series that are remembered in decoded form, and the most characters of each.
_MOST_REMEMBERED, _LONGEST_REMEMBERED = 1024, 512

_dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def new_row(record: Record) -> Row:
    """Return the row to write for a record."""
    return (
        record.id,
        *progress_values(record.progress),
        record.revision,
        _plain(record.series),
        dump_message(record.message),
        record.kind,
        _plain(record.policy),
    )


def columns_of(rows: Sequence[Row]) -> list[list[Any]]:
    """Return the rows as a list for each column, for an array each."""
    return [list(column) for column in zip(*rows, strict=True)]


def progress_values(progress: Progress) -> Row:
    """Return the values to write for a progress: ``due`` to ``excused``."""
    last_error = progress.last_error
    if last_error is not None and "\0" in last_error:
        # PostgreSQL has no text with NUL. The text is for people.
        last_error = last_error.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return (
        progress.due,
        progress.scheduled_for,
        progress.attempts,
        progress.first_leased,
        last_error,
        progress.token,
        progress.unsettled,
        progress.ahead,
        progress.excused,
    )


def read_row(row: Row) -> Record | Damaged:
    """Return the record that a row holds; a ``Damaged`` with the reason if the row was damaged."""
    (id, due, scheduled_for, attempts, first_leased, last_error, token, unsettled, ahead, excused, *others) = row
    revision, series, msg, kind, policy = others
    return read_record(
        id=id,
        message=_read(load_message, msg),
        series=_read(_series, series),
        revision=revision,
        due=due,
        scheduled_for=scheduled_for,
        attempts=attempts,
        first_leased=first_leased,
        last_error=last_error,
        token=token,
        unsettled=unsettled,
        ahead=ahead,
        excused=excused,
        kind=kind,
        policy=_read(_series, policy),
    )


def _plain(values: Mapping[str, Any] | None) -> str | None:
    return None if values is None else _dump(dict(values))


def _read(read: Callable[[str], object], stored: str | None) -> object:
    if stored is None:
        return None
    try:
        return read(stored)
    except (ValueError, RecursionError):
        return _UNREADABLE


def _series(stored: str) -> object:
    return _remembered_series(stored) if len(stored) <= _LONGEST_REMEMBERED else _read_series(stored)


# All records with such a series share one dict. An unreadable series is not remembered.
@lru_cache(maxsize=_MOST_REMEMBERED)
def _remembered_series(stored: str) -> object:
    return _read_series(stored)


def _read_series(stored: str) -> object:
    series = json.loads(stored)
    # A stored `null` is not the absence of a series.
    return _UNREADABLE if series is None else series
