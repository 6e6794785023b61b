"""Records as rows of ``pitstop_messages``, and rows as records."""

from __future__ import annotations

import json

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import attrs

from pitstop.abc import Damaged, Progress, Record, dump_message, floor_instant, load_message, read_record


__all__ = [
    "COLUMNS",
    "LAST_INSTANT",
    "MOST_COUNTED",
    "Row",
    "bared",
    "bindable",
    "fresh_rows",
    "new_row",
    "progress_values",
    "read_leased_row",
    "read_row",
]

#: The last instant that a ``due`` can be. A later value is damaged, and counts as none.
LAST_INSTANT = floor_instant(datetime.max.replace(tzinfo=UTC))
#: The largest count that a column can hold.
MOST_COUNTED = 2**63 - 1
#: The columns of a message that are read and written, in this order.
COLUMNS = (
    "id, due, scheduled_for, attempts, first_leased, last_error, token, unsettled, ahead, excused, revision, series, msg, "
    "kind, policy"
)

#: A row as it was read (texts as bytes), or as it will be written.
Row = tuple[Any, ...]

#: Not a mapping, so that an unreadable message or series is found to be damaged.
_UNREADABLE = object()
#: The errors raised by reading a damaged row. A table that is not STRICT may hold a number where a text should be.
_UNREADABLE_ROW = (ValueError, RecursionError, AttributeError, TypeError)
#: The most series that are remembered in decoded form, and the most bytes of each. A series is read again at each occurrence.
_MOST_REMEMBERED, _LONGEST_REMEMBERED = 1024, 512

_dump_series = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def new_row(record: Record) -> Row:
    """Return the row to write for a record."""
    progress, series, policy = record.progress, record.series, record.policy
    return (
        record.id,
        *progress_values(progress),
        record.revision,
        None if series is None else _dump_series(dict(series)),
        dump_message(record.message),
        record.kind,
        None if policy is None else _dump_series(dict(policy)),
    )


def fresh_rows(records: Sequence[Record]) -> list[Row] | None:
    """Return the rows to write for records that were never claimed, without the columns of claims; None if one was claimed."""
    rows: list[Row] = []
    # The records of one batch often share their progress, their series and their policy.
    fresh = stored = series = given = policy = None
    for record in records:
        progress = record.progress
        if progress is not fresh:
            if progress != Progress(progress.due, progress.scheduled_for):
                return None
            fresh = progress
        if record.series is not stored:
            stored = record.series
            series = None if stored is None else _dump_series(dict(stored))
        if record.policy is not given:
            given = record.policy
            policy = None if given is None else _dump_series(dict(given))
        due, scheduled_for, message = progress.due, progress.scheduled_for, dump_message(record.message)
        rows.append((record.id, due, scheduled_for, record.revision, series, message, record.kind, policy))
    return rows


def progress_values(progress: Progress) -> Row:
    """Return the values to write for a progress: ``due`` to ``excused``."""
    return (
        progress.due,
        progress.scheduled_for,
        progress.attempts,
        progress.first_leased,
        progress.last_error,
        progress.token,
        progress.unsettled,
        progress.ahead,
        progress.excused,
    )


def read_row(row: Row) -> Record | Damaged:
    """Return the record that a row holds; a ``Damaged`` with the reason if the row was damaged."""
    (
        id,
        due,
        scheduled_for,
        attempts,
        first_leased,
        last_error,
        token,
        unsettled,
        ahead,
        excused,
        revision,
        series,
        msg,
        kind,
        policy,
    ) = row
    try:
        return read_record(
            id=id.decode(),
            message=load_message(msg.decode()),
            series=None if series is None else _series(series),
            revision=revision.decode(),
            due=due,
            scheduled_for=scheduled_for,
            attempts=attempts,
            first_leased=first_leased,
            last_error=None if last_error is None else last_error.decode(),
            token=None if token is None else token.decode(),
            unsettled=unsettled,
            ahead=ahead,
            excused=excused,
            kind=kind.decode() if kind else None,
            policy=None if policy is None else _series(policy),
        )
    except _UNREADABLE_ROW:
        return _read_damaged(row)


def read_leased_row(row: Row, token: str, now: int, until: int, limit: int = 1) -> Record | Damaged:
    """Return the record of a row as the claim leaves it, from the row that the claim found: see :meth:`pitstop.abc.Progress.leased`."""
    (
        id,
        _,
        scheduled_for,
        attempts,
        first_leased,
        last_error,
        _,
        unsettled,
        ahead,
        excused,
        revision,
        series,
        msg,
        kind,
        policy,
    ) = row
    attempts = attempts + 1 if attempts < MOST_COUNTED else attempts
    unsettled = unsettled + 1 if unsettled < MOST_COUNTED else unsettled
    if limit > 1:
        ahead = ahead + 1 if ahead < MOST_COUNTED else ahead
    if first_leased is None:
        first_leased = now
    try:
        return read_record(
            id=id.decode(),
            message=load_message(msg.decode()),
            series=None if series is None else _series(series),
            revision=revision.decode(),
            due=until,
            scheduled_for=scheduled_for,
            attempts=attempts,
            first_leased=first_leased,
            last_error=None if last_error is None else last_error.decode(),
            token=token,
            unsettled=unsettled,
            ahead=ahead,
            excused=excused,
            kind=kind.decode() if kind else None,
            policy=None if policy is None else _series(policy),
        )
    except _UNREADABLE_ROW:
        leased = token.encode()
        return _read_damaged(
            (
                id,
                until,
                scheduled_for,
                attempts,
                first_leased,
                last_error,
                leased,
                unsettled,
                ahead,
                excused,
                revision,
                series,
                msg,
                kind,
                policy,
            )
        )


def bared(content: Record | Damaged) -> Record | Damaged:
    """Return a record with an empty message, for readers that need the rest."""
    return content if isinstance(content, Damaged) else attrs.evolve(content, message={})


def bindable(text: str) -> str | bytes:
    """Return a text in the form that is compared with a stored one: ``CAST(? AS TEXT)``.

    An id that is not valid UTF-8 was damaged. It is read with its wrong bytes escaped, and found by them.
    """
    return text if text.isascii() else text.encode("utf-8", "surrogateescape")


def _series(stored: bytes) -> object:
    return _remembered_series(stored) if len(stored) <= _LONGEST_REMEMBERED else _read_series(stored)


# All records with such a series share one dict. An unreadable series is not remembered.
@lru_cache(maxsize=_MOST_REMEMBERED)
def _remembered_series(stored: bytes) -> object:
    return _read_series(stored)


def _read_series(stored: bytes) -> object:
    series = json.loads(stored.decode())
    # A stored `null` is not the absence of a series.
    return _UNREADABLE if series is None else series


def _read_damaged(row: Row) -> Record | Damaged:
    (
        id,
        due,
        scheduled_for,
        attempts,
        first_leased,
        last_error,
        token,
        unsettled,
        ahead,
        excused,
        revision,
        series,
        msg,
        kind,
        policy,
    ) = row
    return read_record(
        id=id.decode("utf-8", "surrogateescape"),
        message=_try(lambda text: load_message(text.decode()), msg),
        series=_try(_series, series),
        revision=_try(bytes.decode, revision),
        due=due,
        scheduled_for=scheduled_for,
        attempts=attempts,
        first_leased=first_leased,
        last_error=_try(bytes.decode, last_error),
        token=_try(bytes.decode, token),
        unsettled=unsettled,
        ahead=ahead,
        excused=excused,
        kind=_try(bytes.decode, kind),
        policy=_try(_series, policy),
    )


def _try(read: Callable[[bytes], object], stored: bytes | None) -> object:
    try:
        return None if stored is None else read(stored)
    except _UNREADABLE_ROW:
        return _UNREADABLE
