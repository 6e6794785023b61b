"""Session: one connection to the server, whose every wait has an end."""

from __future__ import annotations

import os
import select

from collections.abc import Sequence
from typing import Any, TypeVar

import attrs
import psycopg

from psycopg import waiting
from psycopg.abc import PQGen
from psycopg.rows import tuple_row

from pitstop.abc import SystemClock
from pitstop_postgres._config import PostgresConfig


__all__ = ["Identity", "Row", "Session", "TimedOut", "open_session"]

_T = TypeVar("_T")

#: A row as it was read, or as it will be written.
Row = tuple[Any, ...]

#: Seconds between two looks at the time during a wait.
_LOOK = 0.1
#: Milliseconds after which the server looks whether its client is still there, while it executes a statement.
_CLIENT_CHECK = 1000
#: Seconds for the answer of a session that sent something else than a notification.
_ANSWER = 4.0
_clock = SystemClock()

# Plans are chosen for a table that grows from nothing to millions of rows, while the statements stay prepared. The indexes fit
# all statements, so no statement may read the whole table because the table was small once.
_SETTINGS = {
    "default_transaction_isolation": "read committed",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
}


class TimedOut(psycopg.OperationalError):
    """The server did not answer in time."""


@attrs.frozen
class Identity:
    """A session, as the server knows it: its process, and when that began. The number of a process is used again."""

    pid: int
    began: str


class Connection(psycopg.Connection[Row]):
    """A connection whose waits end at :attr:`deadline`."""

    #: By the monotonic clock.
    deadline: float = float("inf")
    #: The process that opened it.
    owner: int = 0

    def wait(self, gen: PQGen[_T], interval: float = _LOOK, timeout: float | None = None) -> _T:
        # Not the method of the base class: at Ctrl-C it waits for the server again. Here the session is ended instead.
        return waiting.wait(self._until_deadline(gen), self.pgconn.socket, interval=_LOOK)

    def _until_deadline(self, gen: PQGen[_T]) -> PQGen[_T]:
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and _clock.monotonic() >= self.deadline:
                    raise TimedOut("the server did not answer in time")
                wanted = gen.send(ready)
        except StopIteration as end:
            result: _T = end.value
            return result


class Session:
    """One connection, and what is known of it. One thread at a time uses it."""

    def __init__(self, connection: Connection, identity: Identity | None, settings: str | None = None) -> None:
        """Make the session of a connection.

        :param settings: the statement that each transaction begins with. None: the session has its settings.
        """
        self._connection = connection
        self._settings = settings
        self._cursor = connection.cursor(binary=True, row_factory=tuple_row)
        # Notifications that come with the answer to a statement.
        self._payloads: list[str] = []
        connection.add_notify_handler(self._hear)
        #: None: a pooler is in between, so that each transaction has another process of the server.
        self.identity = identity
        #: The process that opened it. A child of a fork must not touch it.
        self.owner = os.getpid()
        #: When it was last used, by the monotonic clock.
        self.used = _clock.monotonic()

    @property
    def deadline(self) -> float:
        """When each wait ends, by the monotonic clock."""
        return self._connection.deadline

    @deadline.setter
    def deadline(self, deadline: float) -> None:
        self._connection.deadline = deadline

    @property
    def is_lost(self) -> bool:
        """Whether the connection can no longer be used, or is in the middle of a statement."""
        connection = self._connection
        return connection.closed or connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE

    @property
    def has_news(self) -> bool:
        """Whether the server has sent something without a request. As a rule it has ended the session. Does not wait."""
        try:
            poll = select.poll()
            poll.register(self._connection.pgconn.socket, select.POLLIN)
            return bool(poll.poll(0))
        except psycopg.Error:
            return True

    def fetch(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        """Execute a statement, and return its rows."""
        return self._execute(statement, values).fetchall()

    def change(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Execute a statement, and return how many rows it changed."""
        return self._execute(statement, values).rowcount

    def _execute(self, statement: str, values: Sequence[Any]) -> psycopg.Cursor[Row]:
        if self._settings is None:
            return self._cursor.execute(statement.encode(), values)
        # Behind a pooler no setting of a session stays, so each transaction brings its own. All of it is one round trip.
        connection = self._connection
        try:
            with connection.pipeline():
                connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
                connection.execute(self._settings)
                self._cursor.execute(statement.encode(), values)
                connection.execute("COMMIT")
        except psycopg.Error:
            if connection.info.transaction_status == psycopg.pq.TransactionStatus.INERROR:
                connection.execute("ROLLBACK")
            raise
        return self._cursor

    def read_all(self, statement: str) -> list[Row]:
        """Execute a statement without values that reads the whole table, in the order that costs least."""
        cursor = self._cursor
        cursor.execute("BEGIN")
        try:
            cursor.execute("SET LOCAL enable_seqscan = on")
            return cursor.execute(statement.encode(), prepare=False).fetchall()
        finally:
            cursor.execute("COMMIT")

    def script(self, statements: str) -> None:
        """Execute statements without values, in one transaction."""
        self._connection.execute(f"BEGIN;{statements};COMMIT".encode(), prepare=False)

    def notifications(self, seconds: float) -> list[str]:
        """Return the payloads of notifications: those that are there, or else the next ones within some seconds."""
        pgconn, is_ready = self._connection.pgconn, False
        if not self._payloads:
            poll = select.poll()
            poll.register(pgconn.socket, select.POLLIN)
            is_ready = bool(poll.poll(seconds * 1000))
            if is_ready:
                pgconn.consume_input()
        while (each := pgconn.notifies()) is not None:
            self._payloads.append(each.extra.decode(errors="replace"))
        if is_ready and not self._payloads:
            # As a rule it is the end of the session, which the next statement finds.
            self.deadline = _clock.monotonic() + _ANSWER
            self.fetch("SELECT 1")
        payloads, self._payloads = self._payloads, []
        return payloads

    def _hear(self, notification: psycopg.Notify) -> None:
        self._payloads.append(notification.payload)

    def close(self) -> None:
        """Close the connection. The server notices that, and undoes a transaction that is open."""
        if self.owner == os.getpid():
            self._connection.close()


def open_session(config: PostgresConfig, deadline: float) -> Session:
    """Connect, and return the session.

    :raises psycopg.Error: if the server cannot be reached or refuses the connection.
    """
    left = max(deadline - _clock.monotonic(), 1.0)
    connection = Connection.connect(
        **_parameters(config, left), autocommit=True, prepare_threshold=None if config.pgbouncer else 2
    )
    try:
        connection.deadline = deadline
        connection.prepared_max = None if config.pgbouncer else 500
        identity = None
        if not config.pgbouncer:
            query = b"SELECT pid, backend_start::text FROM pg_stat_get_activity(pg_backend_pid())"
            row = connection.execute(query, prepare=False).fetchone()
            assert row is not None, "the server shows each user the user's own sessions"
            identity = Identity(*row)
        return Session(connection, identity, _local_settings(config) if config.pgbouncer else None)
    except BaseException:
        connection.close()
        raise


def _local_settings(config: PostgresConfig) -> str:
    """Return the statement that gives a transaction its bounds, and the plans that fit the indexes."""
    timeout = str(round(config.operation_timeout.total_seconds() * 1000))
    settings = {**_SETTINGS, "statement_timeout": timeout, "lock_timeout": timeout}
    settings.pop("default_transaction_isolation")
    calls = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings.items())
    return f"SELECT {calls}"


def _parameters(config: PostgresConfig, left: float) -> dict[str, Any]:
    given = dict(config.parameters)
    timeout_ms = round(config.operation_timeout.total_seconds() * 1000)
    seconds = max(timeout_ms // 1000, 2)
    defaults = {
        "connect_timeout": str(max(int(left), 1)),
        "keepalives": "1",
        "keepalives_idle": str(seconds),
        "keepalives_interval": str(max(seconds // 3, 1)),
        "keepalives_count": "3",
        "tcp_user_timeout": str(timeout_ms),
        "application_name": "pitstop",
    }
    fixed = {"client_encoding": "UTF8"}
    if not config.pgbouncer:
        settings = {
            **_SETTINGS,
            "statement_timeout": str(timeout_ms),
            "lock_timeout": str(timeout_ms),
            "idle_in_transaction_session_timeout": str(3 * timeout_ms),
            "client_connection_check_interval": str(_CLIENT_CHECK),
            "tcp_keepalives_idle": str(seconds),
            "tcp_keepalives_interval": str(max(seconds // 3, 1)),
            "tcp_keepalives_count": "3",
        }
        ours = " ".join(f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in settings.items())
        # The last one of two settings counts.
        fixed["options"] = f"{given.get('options', '')} {ours}".strip()
    return {**defaults, **given, **fixed}
