"""The SQLite backend: one statement for each operation."""

from __future__ import annotations

import os
import sqlite3

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import attrs

from pitstop import BackendUnavailable, ConfigError, OutcomeUnknown, State
from pitstop.abc import (
    Backend,
    BackendConfig,
    Capability,
    Damaged,
    Progress,
    Query,
    Record,
    Settlement,
    Tally,
    Watch,
    Writes,
)
from pitstop_sqlite import _many, _statements
from pitstop_sqlite._concerns import concerns_of
from pitstop_sqlite._config import SqliteConfig
from pitstop_sqlite._database import Database
from pitstop_sqlite._finding import find, find_places, tally_by_kind
from pitstop_sqlite._notes import forget, read_notes, write_note
from pitstop_sqlite._pauses import change_pauses, read_pauses
from pitstop_sqlite._rows import (
    LAST_INSTANT,
    Row,
    bindable,
    fresh_rows,
    new_row,
    read_leased_row,
    read_row,
)
from pitstop_sqlite._scratch import beside, take_away
from pitstop_sqlite._selection import Selection, selection
from pitstop_sqlite._transaction import Transaction
from pitstop_sqlite._watch import SqliteWatch
from pitstop_sqlite._writes import conditional
from pitstop_sqlite._writes import fenced as fenced_write


__all__ = ["SqliteBackend"]

#: The most records that one statement completes.
_MOST_COMPLETED = _statements.COMPLETE_SIZES[-1]


class SqliteBackend(Backend):
    """Messages in a table of an SQLite file, which other processes and the application's own tables may share.

    The constructor opens the file and makes it ready.
    """

    api_version: ClassVar[int] = 1
    suite_version: ClassVar[int | None] = 6
    Config: ClassVar[type[BackendConfig]] = SqliteConfig
    capabilities: ClassVar[Capability] = (
        Capability.DURABLE
        | Capability.MULTI_PROCESS
        | Capability.WATCH
        | Capability.TRANSACTIONS
        | Capability.SCRATCH
        | Capability.CONDITIONAL
        | Capability.KINDS
        | Capability.POLICIES
        | Capability.FIND
        | Capability.BULK
        | Capability.PAUSES
        | Capability.NOTES
    )

    def __init__(self, config: SqliteConfig | None = None) -> None:
        """Open the file.

        :raises pitstop.ConfigError: if the path names something that cannot be used.
        :raises pitstop.BackendUnavailable: if the file is locked, full, damaged or not writable.
        """
        config = config or SqliteConfig()
        super().__init__(config)
        self._config = config
        # A relative path keeps its meaning after a change of the current folder.
        self._path = str(Path(config.path).absolute())
        self._database = Database(
            self._path, config.synchronous, config.busy_timeout, self.clock, mode=config.mode, create=config.create
        )
        self._turn = self._database.turn

    @property
    def location(self) -> str:
        return f"sqlite:///{quote(os.fsencode(self._path))}"

    def now(self) -> int:
        return self.clock.time_us()

    def put(self, records: Sequence[Record]) -> None:
        statement, rows = _statements.PUT_FRESH, fresh_rows(records)
        if rows is None:
            statement, rows = _statements.PUT, [new_row(record) for record in records]
        with self._turn.lock, self._turn.call(), self._database as connection:
            if len(rows) == 1:
                connection.execute(statement, rows[0])
            elif rows:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(statement, rows)
                connection.execute("COMMIT")
            try:
                self._database.verify()
            except OutcomeUnknown as error:
                raise OutcomeUnknown(str(error), ids=tuple(each.id for each in records)) from None

    def put_if(self, record: Record, revision: str | None, progress: Progress | None = None) -> bool:
        statement, values = conditional(record, revision, progress)
        with self._turn.lock, self._turn.call(), self._database as connection:
            stored = connection.execute(statement, values).rowcount == 1
            try:
                self._database.verify()
            except OutcomeUnknown as error:
                raise OutcomeUnknown(str(error), ids=(record.id,)) from None
        return stored

    def delete(self, id: str) -> bool:
        with self._turn.lock, self._turn.call(), self._database as connection:
            deleted = connection.execute(_statements.DELETE, (bindable(id),)).rowcount == 1
            self._database.verify()
        return deleted

    def delete_many(self, ids: Sequence[str], query: Query | None = None) -> Sequence[bool]:
        with self._turn.lock, self._turn.call(), self._database as connection:
            connection.execute("BEGIN IMMEDIATE")
            # The time is read only now: the lock may have been waited for.
            removed = _many.delete(connection, ids, query, self._now_ms())
            connection.execute("COMMIT")
            self._verify_many(ids)
        return removed

    def put_new(self, records: Sequence[Record]) -> Sequence[bool]:
        rows = [new_row(record) for record in records]
        with self._turn.lock, self._turn.call(), self._database as connection:
            connection.execute("BEGIN IMMEDIATE")
            stored = [connection.execute(_statements.CREATE, row).rowcount == 1 for row in rows]
            connection.execute("COMMIT")
            self._verify_many([record.id for record in records])
        return stored

    def put_many_if(self, items: Sequence[tuple[Record, str, Progress]]) -> Sequence[bool]:
        statements = [conditional(*item) for item in items]
        with self._turn.lock, self._turn.call(), self._database as connection:
            connection.execute("BEGIN IMMEDIATE")
            stored = [connection.execute(statement, values).rowcount == 1 for statement, values in statements]
            connection.execute("COMMIT")
            self._verify_many([record.id for record, *_ in items])
        return stored

    def get_many(self, ids: Sequence[str]) -> Sequence[Record | Damaged]:
        with self._turn.lock, self._turn.call(), self._database as connection:
            return _many.read(connection, ids)

    def get_portion(self, ids: Sequence[str]) -> tuple[Sequence[Record | Damaged], Sequence[str]]:
        with self._turn.lock, self._turn.call(), self._database as connection:
            return _many.read_portion(connection, ids)

    def get(self, id: str) -> Record | Damaged | None:
        with self._turn.lock, self._turn.call(), self._database as connection:
            row = connection.execute(_statements.GET, (bindable(id),)).fetchone()
        return None if row is None else read_row(row)

    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record | Damaged]:
        now = self._now_ms()
        due, id = (-1, b"") if after is None else (after[0], bindable(after[1]))
        first, last = {"due": (0, now), None: (0, LAST_INSTANT)}.get(state, (now + 1, LAST_INSTANT))
        also, rows = _statements.AND_TOKEN.get(state or "", ""), list[Row]()
        with self._turn.lock, self._turn.call(), self._database as connection:
            # In one transaction no record is returned twice, or missed, because it moved between the statements.
            connection.execute("BEGIN")
            if state != "dead" and due is not None:
                statement = _statements.SCAN_DUE.format(also=also)
                rows += connection.execute(statement, (first, last, due, id, limit)).fetchall()
            if state in {"dead", "paused", None} and len(rows) < limit:
                behind = id if due is None else b""
                statement = _statements.SCAN_DEAD.format(also=also)
                rows += connection.execute(statement, (behind, limit - len(rows))).fetchall()
            connection.execute("COMMIT")
        return [read_row(row) for row in rows]

    def find(self, query: Query, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record | Damaged]:
        with self._turn.lock, self._turn.call(), self._database as connection:
            # In one transaction no record is returned twice, or missed, because it moved between the statements.
            connection.execute("BEGIN")
            found = find(connection, query, limit, after, self._now_ms())
            connection.execute("COMMIT")
        return found

    def find_places(
        self, query: Query, limit: int, after: tuple[int | None, str] | None
    ) -> Sequence[tuple[int | None, str]]:
        with self._turn.lock, self._turn.call(), self._database as connection:
            connection.execute("BEGIN")
            found = find_places(connection, query, limit, after, self._now_ms())
            connection.execute("COMMIT")
        return found

    def tally_by_kind(self) -> Mapping[str, Tally]:
        with self._turn.lock, self._turn.call(), self._database as connection:
            return tally_by_kind(connection, self._now_ms())

    def tally(self) -> Tally:
        with self._turn.lock, self._turn.call(), self._database as connection:
            row = connection.execute(_statements.TALLY, {"now": self._now_ms()}).fetchone()
        every, due, oldest, to_come, with_token, until, paused = row
        dead = every - due - to_come - paused
        return Tally(to_come - with_token, due, with_token - until, dead, oldest, until + paused)

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record | Damaged]:
        if kinds is not None:
            return self._lease_of(kinds, limit, duration)
        token = os.urandom(16).hex()
        with self._turn.lock, self._turn.call(), self._database as connection:
            # A caller without work must not take the write lock from callers with work.
            if connection.execute(_statements.ANY_DUE, (self._now_ms(),)).fetchone() is None:
                self._database.verify()
                return []
            connection.execute("BEGIN IMMEDIATE")
            # The time is read only now: the lock may have been waited for, and the lease lasts from now on.
            now = self._now_ms()
            until = min(now + duration, LAST_INSTANT)
            rows = connection.execute(_statements.READ_DUE, (now, limit)).fetchall()
            connection.execute(_statements.LEASE, (until, int(limit > 1), now, token, now, limit))
            connection.execute("COMMIT")
            self._database.verify()
        return [read_leased_row(row, token, now, until, limit) for row in rows]

    def _lease_of(self, kinds: Collection[str], limit: int, duration: int) -> Sequence[Record | Damaged]:
        """Lease messages of some kinds, as :meth:`lease` does."""
        token = os.urandom(16).hex()
        with self._turn.lock, self._turn.call(), self._database as connection:
            chosen = selection(connection, kinds)
            if chosen is None or not self._has_due(connection, chosen):
                self._database.verify()
                return []
            connection.execute("BEGIN IMMEDIATE")
            now = self._now_ms()
            until, first, bounds = min(now + duration, LAST_INSTANT), chosen.first, chosen.bounds(now, limit)
            rows = connection.execute(_statements.read_due_of(first), bounds).fetchall()
            connection.execute(_statements.lease_of(first), (until, int(limit > 1), now, token, *bounds))
            connection.execute("COMMIT")
            self._database.verify()
        return [read_leased_row(row, token, now, until, limit) for row in rows]

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        fenced = [fenced_write(each) for each in settlements]
        if not fenced:
            return []
        with self._turn.lock, self._turn.call(), self._database as connection:
            if len(fenced) == 1:
                ((statement, values),) = fenced
                applied: Sequence[bool] = [connection.execute(statement, (*values, None)).rowcount == 1]
            else:
                applied = self._settle_batch(connection, fenced)
            self._database.verify()
        return applied

    def next_due(self, kinds: Collection[str] | None = None) -> int | None:
        with self._turn.lock, self._turn.call(), self._database as connection:
            statement, bound = _statements.NEXT_DUE, Row()
            if kinds is not None:
                chosen = selection(connection, kinds)
                if chosen is None:
                    return None
                statement, bound = chosen.least, chosen.kinds
            due: int | None = connection.execute(statement, bound).fetchone()[0]
        return due

    def pause_kind(self, kind: str, until: int | None) -> None:
        def change(pauses: dict[str, int | None]) -> bool:
            pauses[kind] = until
            return True

        self._change_pauses(change)

    def resume_kind(self, kind: str) -> bool:
        def change(pauses: dict[str, int | None]) -> bool:
            found = kind in pauses
            pauses.pop(kind, None)
            return found

        return self._change_pauses(change)

    def paused_kinds(self) -> Mapping[str, int | None]:
        with self._turn.lock, self._turn.call(), self._database as connection:
            return read_pauses(connection, self._now_ms())

    def _change_pauses(self, change: Callable[[dict[str, int | None]], bool]) -> bool:
        with self._turn.lock, self._turn.call(), self._database as connection:
            changed = change_pauses(connection, self._now_ms, change)
            self._database.verify()
        return changed

    def note(self, key: str, text: str, until: int) -> None:
        with self._turn.lock, self._turn.call(), self._database as connection:
            connection.execute("BEGIN IMMEDIATE")
            write_note(connection, key, text, until, self._now_ms())
            connection.execute("COMMIT")
            self._database.verify()

    def forget_note(self, key: str) -> None:
        with self._turn.lock, self._turn.call(), self._database as connection:
            forget(connection, key)
            self._database.verify()

    def notes(self) -> Mapping[str, str]:
        with self._turn.lock, self._turn.call(), self._database as connection:
            return read_notes(connection, self._now_ms())

    def ping(self) -> None:
        with self._turn.lock, self._turn.call(), self._database as connection:
            connection.execute(_statements.NEXT_DUE).fetchone()
            self._database.verify(names=True)

    def concerns(self) -> Sequence[str]:
        return list(concerns_of(self._path))

    def watch(self) -> Watch:
        return SqliteWatch(self._database)

    def within(self, session: object) -> Writes:
        """Return the writes of the transaction of an :class:`sqlite3.Connection` of the application, to the same file."""
        return Transaction(self._path, self.clock, session)

    @contextmanager
    def scratch(self) -> Iterator[Backend]:
        """Return a file of its own beside the store's. A table in the store's own file would wake the store's listeners."""
        path = beside(self._path)
        try:
            try:
                scratch = type(self)(attrs.evolve(self._config, path=path, create=True))
            except ConfigError as error:
                # The store's own path is fine, so the folder is the problem.
                raise BackendUnavailable(
                    f"A file beside the store, in which things can be tried, cannot be made: {error}"
                ) from error
            with closing(scratch):
                yield scratch
        finally:
            take_away(path)

    def close(self) -> None:
        self._database.close()

    def _settle_batch(self, connection: sqlite3.Connection, fenced: list[tuple[str, Row]]) -> Sequence[bool]:
        # This stands outside the body of the `with` that holds the lock. In CPython 3.13.0 an interruption at the jump of a
        # loop in that body leaves it without giving the lock back.
        connection.execute("BEGIN IMMEDIATE")
        now = self._now_ms()
        # As a rule all settlements apply. Then no check of each is needed.
        applied = _apply_all(connection, fenced, now)
        if applied == len(fenced):
            connection.execute("COMMIT")
            return [True] * applied
        connection.execute("ROLLBACK")
        connection.execute("BEGIN IMMEDIATE")
        now = self._now_ms()
        each_applied = [connection.execute(statement, (*values, now)).rowcount == 1 for statement, values in fenced]
        connection.execute("COMMIT")
        return each_applied

    def _verify_many(self, ids: Sequence[str]) -> None:
        try:
            self._database.verify()
        except OutcomeUnknown as error:
            raise OutcomeUnknown(str(error), ids=tuple(ids)) from None

    def _has_due(self, connection: sqlite3.Connection, chosen: Selection) -> bool:
        statement = _statements.any_due_of(chosen.first)
        return connection.execute(statement, chosen.bounds(self._now_ms(), 1)).fetchone() is not None

    def _now_ms(self) -> int:
        return self.clock.time_us() // 1000


def _apply_all(connection: sqlite3.Connection, fenced: list[tuple[str, Row]], now: int) -> int:
    """Apply settlements in few statements. Return how many applied."""
    completed: dict[str | bytes, list[str | bytes]] = defaultdict(list)
    others: dict[str, list[Row]] = defaultdict(list)
    for statement, values in fenced:
        if statement is _statements.COMPLETE:
            id, token = values
            completed[token].append(id)
        else:
            others[statement].append((*values, now))
    applied = 0
    for token, ids in completed.items():
        for start in range(0, len(ids), _MOST_COMPLETED):
            some = ids[start : start + _MOST_COMPLETED]
            size = next(each for each in _statements.COMPLETE_SIZES if each >= len(some))
            # The remaining places repeat an id, which deletes nothing more.
            some += some[-1:] * (size - len(some))
            applied += connection.execute(_statements.COMPLETE_MANY[size], (*some, token, now)).rowcount
    for statement, batch in others.items():
        applied += connection.executemany(statement, batch).rowcount
    return applied
