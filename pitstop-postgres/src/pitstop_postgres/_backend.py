"""The PostgreSQL backend: one table, one statement for each operation, and a token that guards every write."""

from __future__ import annotations

import logging
import os

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar
from weakref import WeakSet

import attrs

from pitstop import BackendUnavailable, State
from pitstop.abc import (
    Backend,
    BackendConfig,
    Capability,
    Damaged,
    Progress,
    Query,
    Record,
    Settlement,
    SystemClock,
    Tally,
    Watch,
    Writes,
    log_fields,
)
from pitstop_postgres._claiming import Claimer
from pitstop_postgres._concerns import concerns_of
from pitstop_postgres._config import PostgresConfig
from pitstop_postgres._database import Database, Run
from pitstop_postgres._finding import find
from pitstop_postgres._hints import Hints
from pitstop_postgres._notes import Notes
from pitstop_postgres._pauses import Pauses
from pitstop_postgres._refusals import Refusals
from pitstop_postgres._rows import NAMES, Row, read_row
from pitstop_postgres._schema import statements as statements_of
from pitstop_postgres._session import Session
from pitstop_postgres._settling import Settler
from pitstop_postgres._statements import Statements
from pitstop_postgres._storing import Storer
from pitstop_postgres._transaction import Transaction
from pitstop_postgres._watch import PostgresWatch


__all__ = ["PostgresBackend"]

_log = logging.getLogger("pitstop.postgres")

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Bytes of the table's name that a scratch keeps, so that its name is not too long.
_MOST_KEPT = 26


def _one_call(method: Callable[Concatenate[PostgresBackend, _P], _T]) -> Callable[Concatenate[PostgresBackend, _P], _T]:
    """Decorate a method that uses the driver. A thread that is already inside such a method gets an error."""

    @wraps(method)
    def call(self: PostgresBackend, /, *args: _P.args, **options: _P.kwargs) -> _T:
        with self._database.calls.enter():
            return method(self, *args, **options)

    return call


class PostgresBackend(Backend):
    """Messages in a table of a PostgreSQL database. The backend connects at its first use."""

    api_version: ClassVar[int] = 1
    suite_version: ClassVar[int | None] = 6
    Config: ClassVar[type[BackendConfig]] = PostgresConfig
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

    def __init__(self, config: PostgresConfig | None = None, *, _muted: bool = False) -> None:
        config = config or PostgresConfig()
        super().__init__(config)
        self._config = config
        self._database = Database(config, self.clock)
        self._statements = Statements(self._database.names)
        self._hints = Hints(self._database, config.loop_time, muted=_muted)
        self._refusals = Refusals(SystemClock(), self._database.location)
        self._storer = Storer(self._database, self._statements, self._hints, self._refusals)
        self._claimer = Claimer(self._database, self._statements, self._refusals)
        self._settler = Settler(self._database, self._statements, self._hints, self._refusals)
        self._pauses = Pauses(self._database, self._statements, self._hints)
        self._notes = Notes(self._database, self._statements, self._hints)
        self._warned = False
        # Only sessions that were checked: they are of this store.
        self._known: WeakSet[Any] = WeakSet()
        #: How often the outcome of a call was unknown, and how often it became known, by name: ``outcome_unknown``,
        #: ``store_recovered``, ``claim_recovered``, ``settlement_recovered``.
        self.counters: Counter[str] = self._database.counters

    @property
    def location(self) -> str:
        return self._database.location

    @_one_call
    def now(self) -> int:
        return self._database.now_us()

    @_one_call
    def put(self, records: Sequence[Record]) -> None:
        self._storer.put(records)

    @_one_call
    def put_if(self, record: Record, revision: str | None, progress: Progress | None = None) -> bool:
        return self._storer.put_if(record, revision, progress)

    @_one_call
    def put_new(self, records: Sequence[Record]) -> Sequence[bool]:
        return self._storer.put_new(records)

    @_one_call
    def put_many_if(self, items: Sequence[tuple[Record, str, Progress]]) -> Sequence[bool]:
        return self._storer.put_many_if(items)

    @_one_call
    def delete(self, id: str) -> bool:
        return self._storer.delete(id)

    @_one_call
    def delete_many(self, ids: Sequence[str], query: Query | None = None) -> Sequence[bool]:
        return self._storer.delete_many(ids, query)

    @_one_call
    def get(self, id: str) -> Record | Damaged | None:
        rows = self._database.read(lambda session: session.fetch(self._statements.get, (id,)))
        return read_row(rows[0]) if rows else None

    @_one_call
    def get_many(self, ids: Sequence[str]) -> Sequence[Record | Damaged]:
        rows = self._database.read(lambda session: session.fetch(self._statements.get_many, (list(ids),)))
        return [read_row(row) for row in rows]

    @_one_call
    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record | Damaged]:
        return self._find(Query(state=state), limit, after)

    @_one_call
    def find(self, query: Query, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record | Damaged]:
        return self._find(query, limit, after)

    @_one_call
    def tally(self) -> Tally:
        (row,) = self._count(self._statements.tally)
        return _tally(row)

    @_one_call
    def tally_by_kind(self) -> Mapping[str, Tally]:
        return {row[0]: _tally(row[1:]) for row in self._count(self._statements.tally_by_kind)}

    @_one_call
    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record | Damaged]:
        return self._claimer.lease(limit, duration, kinds)

    @_one_call
    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool | None]:
        return self._settler.settle(settlements)

    @_one_call
    def next_due(self, kinds: Collection[str] | None = None) -> int | None:
        return self._database.read(lambda session: self._claimer.next_due(Run(session, again=False), kinds))

    @_one_call
    def pause_kind(self, kind: str, until: int | None) -> None:
        self._pauses.pause(kind, until)

    @_one_call
    def resume_kind(self, kind: str) -> bool:
        return self._pauses.resume(kind)

    @_one_call
    def paused_kinds(self) -> Mapping[str, int | None]:
        return self._pauses.kinds()

    @_one_call
    def note(self, key: str, text: str, until: int) -> None:
        self._notes.write(key, text, until)

    @_one_call
    def forget_note(self, key: str) -> None:
        self._notes.forget(key)

    @_one_call
    def notes(self) -> Mapping[str, str]:
        return self._notes.all()

    @_one_call
    def ping(self) -> None:
        self._database.read(lambda session: session.fetch(self._statements.get, ("",)))

    def schema(self) -> str:
        return statements_of(self._database.names)

    @_one_call
    def migrate(self) -> None:
        self._database.migrate()

    @_one_call
    def concerns(self) -> Sequence[str]:
        found = self._database.read(
            lambda session: list(concerns_of(session, self._database.names, list(NAMES))), prepared=False
        )
        refused = self._refusals.concern()
        return found if refused is None else [*found, refused]

    @_one_call
    def watch(self) -> Watch | None:
        if self._config.pgbouncer:
            if not self._warned:
                self._warned = True
                _log.warning(
                    "a listener notices the messages of other processes in %s only when it looks next (loop_time): a pooler in "
                    "transaction mode has no LISTEN. Give listeners the address of the server itself, or a shorter loop_time",
                    self.location,
                    extra=log_fields("not_watched", backend="postgresql"),
                )
            return None
        self._database.prepare()
        return PostgresWatch(self._database, self._hints)

    def within(self, session: object) -> Writes:
        """Return the writes of the transaction of a psycopg connection, or of an SQLAlchemy or Django one above it."""
        return Transaction(self._database, self._statements, self._hints, session, self._known)

    @contextmanager
    def scratch(self) -> Iterator[Backend]:
        """Return tables of its own beside the store's. Their name says what they are."""
        kept = self._config.table.encode()[:_MOST_KEPT].decode(errors="ignore")
        table = f"{kept}_check_{os.urandom(8).hex()}"
        scratch = type(self)(attrs.evolve(self._config, table=table, create=True), _muted=True)
        try:
            yield scratch
        finally:
            try:
                scratch.drop()
            finally:
                scratch.close()

    @_one_call
    def drop(self) -> None:
        """Drop the tables, with all messages. For scratches and tests.

        :raises pitstop.BackendUnavailable: if they cannot be dropped.
        """
        try:
            self._database.read(lambda session: session.change(self._statements.drop), prepared=False)
        except BackendUnavailable as error:
            raise BackendUnavailable(
                f"{error} The tables {self._config.table!r} and {self._config.table + '_meta'!r} were made to try things in. Drop them "
                f"by hand. They hold none of the store's messages.",
                permanent=error.permanent,
            ) from None

    def bounded(self, seconds: float | None = None) -> AbstractContextManager[float]:
        return self._database.bounded(seconds)

    def close(self) -> None:
        self._database.close()

    def _find(self, query: Query, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record | Damaged]:
        now = self._database.now_us() // 1000
        return self._database.read(lambda session: find(session, self._statements, query, limit, after, now))

    def _count(self, statement: str) -> list[Row]:
        now = self._database.now_us() // 1000

        def read(session: Session) -> list[Row]:
            return session.read_all(statement.format(now=now))

        return self._database.read(read)


def _tally(row: Row) -> Tally:
    every, due, oldest, to_come, with_token, until, paused = row
    dead = every - due - to_come - paused
    return Tally(to_come - with_token, due, with_token - until, dead, oldest, until + paused)
