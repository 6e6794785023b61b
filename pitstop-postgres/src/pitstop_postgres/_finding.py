"""Finding: searches by the index that has their order.

::

    prefix             the index of the primary key, between two texts
    all others         the index (due, id)

A search of a rare kind or state reads the records of the others, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pitstop.abc import PAUSED, Damaged, Query, Record, filled
from pitstop_postgres._rows import Row, read_row
from pitstop_postgres._session import Session
from pitstop_postgres._statements import Statements


__all__ = ["find"]

_Place = tuple[int | None, str]
_Content = Record | Damaged

_PAUSED = f"token IS NOT DISTINCT FROM '{PAUSED}'"
_STATES = {
    "scheduled": "token IS NULL",
    "leased": f"token IS NOT NULL AND NOT {_PAUSED}",
    "dead": f"NOT {_PAUSED}",
    "paused": _PAUSED,
}
#: See :func:`pitstop.abc.has_failed`. It binds the time.
_FAILED = f"((due IS NULL AND NOT {_PAUSED}) OR ((token IS NULL OR {_PAUSED} OR due <= %s::bigint) AND attempts > ahead + excused))"
_FAILING = {True: _FAILED, False: f"NOT {_FAILED}"}
#: The characters that are no text by themselves.
_FIRST_SURROGATE, _AFTER_SURROGATES, _LAST = 0xD800, 0xE000, 0x10FFFF


def find(
    session: Session, statements: Statements, query: Query, limit: int, after: _Place | None, now: int
) -> Sequence[_Content]:
    """See :meth:`pitstop.abc.Backend.find`."""
    read = partial(_by_id if query.by_id else _by_due, session, statements, query, now)
    # The statements are exact for sound rows. The rule for damaged ones stands in core alone.
    return filled(query, limit, after, now, read)


def end_of(prefix: str) -> str | None:
    """Return the least text that is greater than all texts that begin with ``prefix``; None if there is none."""
    kept = prefix.rstrip(chr(_LAST))
    if not kept:
        return None
    last = ord(kept[-1]) + 1
    return kept[:-1] + chr(_AFTER_SURROGATES if last == _FIRST_SURROGATE else last)


def _by_id(
    session: Session, statements: Statements, query: Query, now: int, count: int, after: _Place | None
) -> list[_Content]:
    conditions, values = _conditions(query, now)
    prefix = query.prefix or ""
    where, bounds = ["id >= %s"], Row((prefix,))
    if after is not None and after[1] >= prefix:
        where, bounds = ["id > %s"], (after[1],)
    end = end_of(prefix)
    if end is not None:
        where.append("id < %s")
        bounds = (*bounds, end)
    first, last = query.dues(now)
    where.append(f"({'due IS NULL OR ' if query.with_dead else ''}due BETWEEN %s AND %s)")
    statement = statements.page(" AND ".join((*where, *conditions)), "id")
    return [read_row(row) for row in session.fetch(statement, (*bounds, first, last, *values, count))]


def _by_due(
    session: Session, statements: Statements, query: Query, now: int, count: int, after: _Place | None
) -> list[_Content]:
    conditions, more = _conditions(query, now)
    parts, values = list[str](), Row()
    first, last = query.dues(now)
    if first <= last and (after is None or after[0] is not None):
        where, bounds = "due BETWEEN %s AND %s", Row((first, last))
        if after is not None and after[0] is not None and after[0] >= first:
            where, bounds = "(due, id) > (%s::bigint, %s::text) AND due <= %s", Row((*after, last))
        parts.append(statements.page(" AND ".join((where, *conditions)), "due, id"))
        values += (*bounds, *more, count)
    if query.with_dead:
        behind = after[1] if after is not None and after[0] is None else ""
        parts.append(statements.page(" AND ".join(("due IS NULL", "id > %s", *conditions)), "due, id"))
        values += (behind, *more, count)
    if not parts:
        return []
    # In one statement no record is returned twice, or missed, because it moved meanwhile.
    statement = " UNION ALL ".join(f"({part})" for part in parts)
    rows = session.fetch(statement, values)
    # The last part comes last. The sort is stable, and the rows of each part are in order.
    rows.sort(key=_is_dead)
    return [read_row(row) for row in rows[:count]]


def _is_dead(row: Row) -> bool:
    return row[1] is None


def _conditions(query: Query, now: int) -> tuple[list[str], Row]:
    """Return the conditions that no range of an index answers, and the values that they bind."""
    conditions, values = list[str](), Row()
    if query.state in _STATES:
        conditions.append(_STATES[query.state])
    if query.kind is not None:
        conditions.append("kind = %s")
        values += (query.kind,)
    if query.failing is not None:
        conditions.append(_FAILING[query.failing])
        values += (now,)
    return conditions, values
