"""Finding: searches by the index that has their order, and the counts of each kind.

::

    prefix             the index of the UNIQUE id, between two texts
    kind               the index (kind, due), if a listener of some kinds has made it; else as all others
    all others         the index (due)

A search makes no index: each store of a message would be slower from then on, because a person has looked once.
"""

# ruff: noqa: S608 - the statements are put together from constants alone; all other values are bound

from __future__ import annotations

import sqlite3

from collections.abc import Mapping, Sequence
from functools import lru_cache

import attrs

from pitstop.abc import LAST_INSTANT, PAUSED, Damaged, Query, Record, Tally, filled
from pitstop_sqlite._rows import COLUMNS, Row, bared, bindable, read_row


__all__ = ["find", "find_places", "tally_by_kind"]

_Place = tuple[int | None, str]
_Content = Record | Damaged

_NO_DUE = f"(due IS NULL OR due < 0 OR due > {LAST_INSTANT})"
_IDS, _DUES, _KINDS = (
    "sqlite_autoindex_pitstop_messages_1",
    "pitstop_messages_due",
    "pitstop_messages_kind_due",
)
#: An empty message in the place of each.
_BARE = COLUMNS.replace(" msg,", " '{}' AS msg,")
_HAS_KINDS = f"SELECT 1 FROM sqlite_schema WHERE type = 'index' AND name = '{_KINDS}'"
_KIND = "kind = CAST(? AS TEXT)"
_PAUSED = f"token = '{PAUSED}'"
_TOKEN = {
    "scheduled": ["token IS NULL"],
    "leased": ["token IS NOT NULL", f"NOT {_PAUSED}"],
    "dead": [f"({_PAUSED}) IS NOT TRUE"],
    "paused": [_PAUSED],
}
#: See :func:`pitstop.abc.has_failed`. It binds the time.
_FAILED = (
    f"(({_NO_DUE} AND ({_PAUSED}) IS NOT TRUE) "
    f"OR ((token IS NULL OR {_PAUSED} OR due <= ?) AND attempts > ahead + excused))"
)
_FAILING = {True: _FAILED, False: f"NOT {_FAILED}"}

# The order of an index without a hint: a message whose due does not count is dead.
_TALLY = (
    "SELECT kind, count(*), count(*) FILTER (WHERE due BETWEEN 0 AND :now), min(due) FILTER (WHERE due BETWEEN 0 AND :now), "
    f"count(*) FILTER (WHERE due > :now AND due <= {LAST_INSTANT}), "
    f"count(*) FILTER (WHERE due > :now AND due <= {LAST_INSTANT} AND token IS NOT NULL), "
    f"count(*) FILTER (WHERE {_PAUSED} AND due > :now AND due <= {LAST_INSTANT}), "
    f"count(*) FILTER (WHERE {_PAUSED} AND {_NO_DUE}) "
    "FROM pitstop_messages NOT INDEXED GROUP BY kind"
)


@attrs.frozen
class _Form:
    """The form in which records are read."""

    columns: str
    #: Whether they are kept without their messages.
    bare: bool


def find(
    connection: sqlite3.Connection, query: Query, limit: int, after: _Place | None, now: int, *, bare: bool = False
) -> Sequence[_Content]:
    """See :meth:`pitstop.abc.Backend.find`. The caller has begun a transaction.

    :param bare: whether the records are returned without their messages, and each message is dropped at once if it is read.
    """
    # Only sound messages fail, so a search for those that do has to read them.
    columns = _BARE if bare and query.failing is None else COLUMNS
    form = _Form(columns, bare)
    by_kind = query.kind is not None and not query.by_id and connection.execute(_HAS_KINDS).fetchone() is not None
    index = _KINDS if by_kind else _DUES

    def read(count: int, place: _Place | None) -> Sequence[_Content]:
        if query.by_id:
            return _by_id(connection, form, query, count, place, now)
        found: list[_Content] = []
        first, last = query.dues(now)
        if first <= last and (place is None or place[0] is not None):
            found += _by_due(connection, form, index, query, count, place, (first, last), now)
        if query.with_dead and len(found) < count:
            found += _dead(connection, form, index, query, count - len(found), place, now)
        return found

    # The statements are exact for sound rows. The rule for damaged ones stands in core alone.
    return filled(query, limit, after, now, read)


def find_places(
    connection: sqlite3.Connection, query: Query, limit: int, after: _Place | None, now: int
) -> list[_Place]:
    """See :meth:`pitstop.abc.Backend.find_places`. The caller has begun a transaction."""
    found = find(connection, query, limit, after, now, bare=True)
    return [((each.due if isinstance(each, Damaged) else each.progress.due), each.id) for each in found]


def tally_by_kind(connection: sqlite3.Connection, now: int) -> Mapping[str, Tally]:
    """See :meth:`pitstop.abc.Backend.tally_by_kind`."""
    found: dict[str, Tally] = {}
    rows = connection.execute(_TALLY, {"now": now}).fetchall()
    for kind, every, due, oldest, to_come, with_token, until, paused in rows:
        if type(kind) is not bytes:
            # A table that is not STRICT may hold a number, which is no kind.
            continue
        dead = every - due - to_come - paused
        try:
            found[kind.decode()] = Tally(to_come - with_token, due, with_token - until, dead, oldest, until + paused)
        except UnicodeDecodeError:
            continue
    return found


def _by_due(
    connection: sqlite3.Connection,
    form: _Form,
    index: str,
    query: Query,
    count: int,
    after: _Place | None,
    dues: tuple[int, int],
    now: int,
) -> list[_Content]:
    conditions, values = _conditions(query, now)
    first, last = dues
    if after is None or after[0] is None or after[0] < first:
        where, bounds = ["due BETWEEN ? AND ?"], Row((first, last))
    else:
        where, bounds = (
            ["due BETWEEN ? AND ?", "(due, id) > (?, CAST(? AS TEXT))"],
            Row((after[0], last, after[0], bindable(after[1]))),
        )
    statement = _statement(form.columns, index, (*where, *conditions), "due, id")
    return _read(connection, form, statement, (*bounds, *values, count))


def _dead(
    connection: sqlite3.Connection, form: _Form, index: str, query: Query, count: int, after: _Place | None, now: int
) -> list[_Content]:
    conditions, values = _conditions(query, now)
    behind = bindable(after[1]) if after is not None and after[0] is None else b""
    statement = _statement(form.columns, index, (_NO_DUE, "id > CAST(? AS TEXT)", *conditions), "id")
    return _read(connection, form, statement, (behind, *values, count))


def _by_id(
    connection: sqlite3.Connection, form: _Form, query: Query, count: int, after: _Place | None, now: int
) -> list[_Content]:
    conditions, values = _conditions(query, now)
    # The bytes of UTF-8 are in the order of the code points. No byte of it is 255, so this is the end of the range, text or not.
    prefix = (query.prefix or "").encode()
    where, bounds = ["id >= CAST(? AS TEXT)"], Row((prefix,))
    place = None if after is None else after[1].encode("utf-8", "surrogateescape")
    if place is not None and place >= prefix:
        where, bounds = ["id > CAST(? AS TEXT)"], (place,)
    if prefix:
        where.append("id < CAST(? AS TEXT)")
        bounds = (*bounds, prefix[:-1] + bytes([prefix[-1] + 1]))
    first, last = query.dues(now)
    due = "due BETWEEN ? AND ?"
    where.append(f"({_NO_DUE} OR {due})" if query.with_dead else due)
    bounds = (*bounds, first, last)
    return _read(
        connection, form, _statement(form.columns, _IDS, (*where, *conditions), "id"), (*bounds, *values, count)
    )


def _conditions(query: Query, now: int) -> tuple[list[str], Row]:
    """Return the conditions that no range of an index answers, and the values that they bind."""
    conditions, values = list(_TOKEN.get(query.state or "", ())), Row()
    if query.kind is not None:
        conditions.append(_KIND)
        values += (bindable(query.kind),)
    if query.failing is not None:
        conditions.append(_FAILING[query.failing])
        values += (now,)
    return conditions, values


@lru_cache
def _statement(columns: str, index: str, where: tuple[str, ...], order: str) -> str:
    return f"SELECT {columns} FROM pitstop_messages INDEXED BY {index} WHERE {' AND '.join(where)} ORDER BY {order} LIMIT ?"


def _read(connection: sqlite3.Connection, form: _Form, statement: str, values: Row) -> list[_Content]:
    rows = connection.execute(statement, values)
    return [bared(read_row(row)) for row in rows] if form.bare else [read_row(row) for row in rows.fetchall()]
