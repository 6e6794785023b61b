"""Executors: how a statement of Pitstop is executed on a connection of the application.

Each takes a session that the application gave, and executes statements on the DB-API connection behind it. The connection stays
as the application has set it up: its row factory neither matters nor changes, and neither do its commits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import psycopg

from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from pitstop import PitstopError
from pitstop.abc import run_in_loop
from pitstop_postgres._session import Row


__all__ = ["Executor", "executor_of"]

_OPEN = (TransactionStatus.INTRANS, TransactionStatus.ACTIVE)
_KNOWN = (
    "a psycopg.Connection or psycopg.AsyncConnection, an SQLAlchemy Session or Connection (also of its asyncio extension), or a "
    "connection of Django"
)


class Executor(Protocol):
    """Executes statements in the transaction of one session."""

    def execute(self, statement: str, values: Sequence[Any]) -> list[Row]:
        """Execute a statement that returns rows."""
        ...

    def check(self) -> None:
        """Raise if the session is in no transaction, and its driver would begin none.

        :raises PitstopError: with the reason.
        """
        ...

    def is_open(self) -> bool:
        """Whether the session is in a transaction that may commit. Any thread, at any time; it does not wait."""
        ...


def executor_of(session: object) -> Executor:
    """Return the executor of a session. Nothing is sent.

    :raises PitstopError: if the session is of an unknown kind.
    """
    if isinstance(session, psycopg.Connection):
        return _Psycopg(session)
    if isinstance(session, psycopg.AsyncConnection):
        return _AsyncPsycopg(session)
    names = {f"{each.__module__}.{each.__qualname__}" for each in type(session).__mro__}
    if any(name.startswith("django.db.backends.") for name in names):
        return _Django(session)
    # A scoped_session hands on to the session of its thread.
    registry = getattr(session, "registry", None)
    if any(name.startswith("sqlalchemy.orm.scoping") for name in names) and callable(registry):
        return executor_of(registry())
    if any(name.startswith("sqlalchemy.ext.asyncio") for name in names):
        return _AsyncSqlAlchemy(session)
    if any(name.startswith(("sqlalchemy.orm.session", "sqlalchemy.engine.base")) for name in names):
        return _SqlAlchemy(session)
    kind = type(session)
    raise PitstopError(
        f"session is a {kind.__name__}{'' if kind.__module__ == 'builtins' else f' of {kind.__module__}'}. Give {_KNOWN}."
    )


class _Psycopg:
    """A connection of psycopg."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def execute(self, statement: str, values: Sequence[Any]) -> list[Row]:
        # Not connection.cursor(): it may be of another class, such as one that binds values in its own way.
        cursor = psycopg.Cursor(self._connection, row_factory=tuple_row)
        with cursor:
            return cursor.execute(statement.encode(), values).fetchall()

    def check(self) -> None:
        _check(self._connection)

    def is_open(self) -> bool:
        return _is_open(self._connection)


class _AsyncPsycopg:
    """A connection of psycopg that belongs to an event loop."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection

    def execute(self, statement: str, values: Sequence[Any]) -> list[Row]:
        async def execute() -> list[Row]:
            async with psycopg.AsyncCursor(self._connection, row_factory=tuple_row) as cursor:
                await cursor.execute(statement.encode(), values)
                return await cursor.fetchall()

        return run_in_loop(execute)

    def check(self) -> None:
        _check(self._connection)

    def is_open(self) -> bool:
        return _is_open(self._connection)


class _Django:
    """A connection of Django: one of ``django.db.connections``."""

    def __init__(self, wrapper: Any) -> None:
        if getattr(wrapper, "vendor", None) != "postgresql":
            raise PitstopError(
                f"session is a connection of Django to {getattr(wrapper, 'vendor', 'another database')}. Give one to the PostgreSQL "
                f"database of the messages, as in django.db.connections['default']."
            )
        self._wrapper = wrapper
        self._connection = wrapper.connection

    def execute(self, statement: str, values: Sequence[Any]) -> list[Row]:
        self._wrapper.ensure_connection()
        self._connection = self._wrapper.connection
        return _execute(self._connection, statement, values)

    def check(self) -> None:
        if not self._wrapper.in_atomic_block and self._wrapper.get_autocommit():
            raise PitstopError(
                "session is a connection of Django that is in no transaction. Use it in the block of django.db.transaction.atomic()."
            )
        if self._wrapper.needs_rollback:
            raise PitstopError(
                "session is a connection of Django whose transaction has failed. Leave the block of atomic(), which rolls back."
            )

    def is_open(self) -> bool:
        return self._wrapper.connection is self._connection and _is_open(self._connection)


class _SqlAlchemy:
    """A Session or a Connection of SQLAlchemy."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._transaction = session.get_transaction()

    def execute(self, statement: str, values: Sequence[Any]) -> list[Row]:
        return self._execute(self._session, statement, values)

    def check(self) -> None:
        if self._session.get_transaction() is None:
            raise PitstopError(
                "session is in no transaction of SQLAlchemy. Use it in the block of session.begin() or connection.begin(), or after "
                "the first statement of your own."
            )
        if self._transaction is not None and self._session.get_transaction() is not self._transaction:
            raise PitstopError(
                "session has ended the transaction that it was given with. Give it again, in the next one."
            )

    def is_open(self) -> bool:
        return (
            self._transaction is not None
            and self._session.get_transaction() is self._transaction
            and bool(self._transaction.is_active)
        )

    @staticmethod
    def _execute(session: Any, statement: str, values: Sequence[Any]) -> list[Row]:
        connection = session if hasattr(session, "dialect") else session.connection()
        if connection.dialect.name != "postgresql":
            raise PitstopError(
                f"session is one of SQLAlchemy for {connection.dialect.name}. Give one of an engine with 'postgresql+psycopg://'."
            )
        return _execute(connection.connection.dbapi_connection, statement, values)


class _AsyncSqlAlchemy(_SqlAlchemy):
    """An AsyncSession or an AsyncConnection of SQLAlchemy."""

    def __init__(self, session: Any) -> None:
        super().__init__(getattr(session, "sync_session", None) or session.sync_connection)
        self._own = session

    def execute(self, statement: str, values: Sequence[Any]) -> list[Row]:
        run: Callable[..., Awaitable[list[Row]]] = self._own.run_sync
        return run_in_loop(run, self._execute, statement, values)


def _execute(connection: Any, statement: str, values: Sequence[Any]) -> list[Row]:
    """Execute a statement on a DB-API connection."""
    if isinstance(connection, psycopg.Connection):
        return _Psycopg(connection).execute(statement, values)
    if not type(connection).__module__.startswith(("psycopg2", "sqlalchemy.")):
        raise PitstopError(
            f"The driver of the session is {type(connection).__module__}. Use psycopg: 'postgresql+psycopg://' for SQLAlchemy."
        )
    # psycopg2, and SQLAlchemy's adapter of psycopg for asyncio.
    cursor = connection.cursor()
    try:
        cursor.execute(statement, tuple(values))
        return [tuple(row) for row in cursor.fetchall()]
    finally:
        cursor.close()


def _status(connection: Any) -> TransactionStatus:
    if isinstance(connection, psycopg.Connection | psycopg.AsyncConnection):
        return connection.info.transaction_status
    # The numbers of psycopg2 are those of libpq.
    return TransactionStatus(connection.info.transaction_status)


def _is_open(connection: Any) -> bool:
    return connection is not None and not connection.closed and _status(connection) in _OPEN


def _check(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    if connection.closed:
        raise PitstopError("session is a connection that was closed. Open it again, and begin a transaction.")
    status = connection.info.transaction_status
    if status == TransactionStatus.INERROR:
        raise PitstopError("session is in a transaction that has failed. Roll it back, and begin another one.")
    # Without autocommit the driver begins a transaction by itself, and the application commits it.
    if status == TransactionStatus.IDLE and connection.autocommit:
        raise PitstopError(
            "session is in no transaction, and the connection is in the mode autocommit. Use it in the block of "
            "connection.transaction()."
        )
