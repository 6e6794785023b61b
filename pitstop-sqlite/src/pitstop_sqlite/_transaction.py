"""Writes in a transaction of the application, on its own connection to the same file. They count when it commits.

The connection stays as the application has set it up: its text and row factories, converters and isolation level neither
matter nor change. SQLite has one writer at a time. While the transaction is open, all other writes to the file wait for it.
"""

from __future__ import annotations

import os
import sqlite3

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pitstop import PitstopError
from pitstop.abc import Clock, Damaged, Progress, Record, Settlement
from pitstop_sqlite import _statements
from pitstop_sqlite._failures import in_words_of_session, is_of_another_thread
from pitstop_sqlite._rows import bindable, fresh_rows, new_row, read_row
from pitstop_sqlite._writes import conditional, fenced


__all__ = ["Transaction"]

_OPENING = "Open one with sqlite3.connect(), to the file that init was given"


class Transaction:
    """Writes for one backend, in the transaction of one connection of the application."""

    def __init__(self, path: str, clock: Clock, session: object) -> None:
        """Check the connection. Nothing is written.

        :param path: the file of the backend.
        :raises PitstopError: if the connection cannot be used; the text gives the reason.
        """
        self._path = path
        self._clock = clock
        self._connection = self._checked(session)

    def put(self, records: Sequence[Record]) -> None:
        """See :meth:`pitstop.abc.Backend.put`."""
        statement, rows = _statements.PUT_FRESH, fresh_rows(records)
        if rows is None:
            statement, rows = _statements.PUT, [new_row(record) for record in records]
        with self._cursor() as cursor:
            if len(rows) == 1:
                cursor.execute(statement, rows[0])
            elif rows:
                # If one of the rows is refused, the application may go on, and commit.
                cursor.execute("SAVEPOINT pitstop_put")
                try:
                    cursor.executemany(statement, rows)
                except BaseException:
                    if self._connection.in_transaction:
                        cursor.execute("ROLLBACK TO pitstop_put")
                        cursor.execute("RELEASE pitstop_put")
                    raise
                cursor.execute("RELEASE pitstop_put")

    def put_if(self, record: Record, revision: str | None, progress: Progress | None = None) -> bool:
        """See :meth:`pitstop.abc.Backend.put_if`."""
        statement, values = conditional(record, revision, progress)
        with self._cursor() as cursor:
            return cursor.execute(statement, values).rowcount == 1

    def delete(self, id: str) -> bool:
        """See :meth:`pitstop.abc.Backend.delete`."""
        with self._cursor() as cursor:
            return cursor.execute(_statements.DELETE, (bindable(id),)).rowcount == 1

    def get(self, id: str) -> Record | Damaged | None:
        """See :meth:`pitstop.abc.Backend.get`."""
        with self._cursor() as cursor:
            row = cursor.execute(_statements.GET_PLAIN, (bindable(id),)).fetchone()
        return None if row is None else read_row(row)

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        """See :meth:`pitstop.abc.TransactionWrites.settle`."""
        if self._never_rests:
            raise PitstopError(
                "session is a connection with autocommit=False. It is always in a transaction, so Pitstop cannot tell whether an "
                "ack has committed. Open it with isolation_level=None, and execute 'BEGIN IMMEDIATE'; or use it for other calls than ack."
            )
        applied = []
        with self._cursor() as cursor:
            # The time is read when the transaction has the write lock: the lock may have been waited for.
            cursor.execute(_statements.LOCK)
            now = self._clock.time_us() // 1000
            for each in settlements:
                statement, values = fenced(each)
                applied.append(cursor.execute(_statements.at_given_time(statement), (*values, now)).rowcount == 1)
        return applied

    def is_open(self) -> bool:
        """See :meth:`pitstop.abc.TransactionWrites.is_open`."""
        try:
            return self._connection.in_transaction and not self._never_rests
        except sqlite3.ProgrammingError:
            # The connection was closed, which rolls back.
            return False

    @property
    def _never_rests(self) -> bool:
        """Whether a transaction begins as soon as one ends: by an attribute that Python has since 3.12."""
        return getattr(self._connection, "autocommit", None) is False

    @contextmanager
    def _cursor(self) -> Iterator[sqlite3.Cursor]:
        """Give a cursor that knows no factory of the application, and translate the errors of SQLite."""
        try:
            if not self._connection.in_transaction:
                raise PitstopError(self._no_transaction)
            # Not connection.cursor(): it may be of another class, and it takes over the row factory.
            cursor = sqlite3.Cursor(self._connection)
            try:
                yield cursor
            finally:
                cursor.close()
        except sqlite3.Error as error:
            raise self._translated(error) from error

    def _checked(self, session: object) -> sqlite3.Connection:
        if not isinstance(session, sqlite3.Connection):
            kind = type(session)
            raise PitstopError(
                f"session is a {kind.__name__}{'' if kind.__module__ == 'builtins' else f' of {kind.__module__}'}. Give a "
                f"sqlite3.Connection that is in a transaction. {_OPENING}."
            )
        try:
            in_transaction = session.in_transaction
            cursor = sqlite3.Cursor(session)
            (file,) = cursor.execute(_statements.FILE_OF_SESSION).fetchone()
            cursor.close()
        except sqlite3.Error as error:
            raise self._translated(error) from error
        self._check_file(file)
        if not in_transaction:
            raise PitstopError(self._no_transaction)
        return session

    def _check_file(self, file: bytes | None) -> None:
        if not file:
            raise PitstopError(f"session is a connection to a database in memory, not to {self._path!r}. {_OPENING}.")
        try:
            same = Path(os.fsdecode(file)).samefile(self._path)
        except OSError:
            same = False
        if not same:
            raise PitstopError(
                f"session is a connection to {os.fsdecode(file)!r}, and the messages are in {self._path!r}. One transaction covers "
                f"one file: keep your tables in the file of the messages, or leave session out. A file that is attached does not count."
            )

    @property
    def _no_transaction(self) -> str:
        return (
            "session is in no transaction. Execute 'BEGIN IMMEDIATE' on the connection first; 'with connection' alone begins "
            "none. The commit is yours, too."
        )

    def _translated(self, error: sqlite3.Error) -> PitstopError:
        if is_of_another_thread(error):
            return PitstopError(
                "session is a connection that was opened in another thread. Use it in the thread that opened it; or open it with "
                "check_same_thread=False, as for a Pitstop of init_async(), whose calls run in a thread of its own."
            )
        return in_words_of_session(error, self._path)
