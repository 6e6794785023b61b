"""Writes in a transaction of the application: stores, removals and acks. They take effect when it commits.

Retries and unknown outcomes belong to the transaction, and so to the application. A conflict with another transaction comes out
as the driver's own error, by which applications and libraries know that they should begin again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from weakref import WeakSet

import psycopg

from pitstop import PitstopError
from pitstop.abc import Damaged, Progress, Record, Settlement
from pitstop_postgres._database import Database
from pitstop_postgres._executor import executor_of
from pitstop_postgres._failures import is_conflict, translate
from pitstop_postgres._hints import Hints
from pitstop_postgres._rows import Row, new_row, read_row
from pitstop_postgres._settling import hint_of, single
from pitstop_postgres._statements import Statements, notifying
from pitstop_postgres._storing import conditional, fresh_row, is_fresh


__all__ = ["Transaction"]


class Transaction:
    """Writes for one backend, in the transaction of one session."""

    def __init__(
        self, database: Database, statements: Statements, hints: Hints, session: object, known: WeakSet[Any]
    ) -> None:
        """Check the session. Nothing is sent.

        :param known: the sessions that are known to be sessions of the same store.
        :raises PitstopError: if the session cannot be used.
        """
        self._database = database
        self._statements = statements
        self._hints = hints
        self._session = session
        self._known = known
        self._executor = executor_of(session)
        self._executor.check()

    def put(self, records: Sequence[Record]) -> None:
        """See :meth:`pitstop.abc.Backend.put`."""
        # In the order of the ids, as everywhere, so that no other batch waits for this one while this one waits for it. New ids
        # come in in the order in which they were given, so those of one transaction are numbered before.
        hint = self._hints.of_records(record.progress.due for record in records)
        rows = [(new_row(each), is_fresh(each.progress)) for each in records]
        if len(rows) > 1:
            self._put_many([row for row, _ in rows], hint)
            return
        for row, fresh in rows:
            statement = self._statements.put_fresh_one if fresh else self._statements.put_one
            self._write(statement, fresh_row(row) if fresh else row, hint)

    def put_if(self, record: Record, revision: str | None, progress: Progress | None = None) -> bool:
        """See :meth:`pitstop.abc.Backend.put_if`."""
        statement, values = conditional(self._statements, new_row(record), revision, progress)
        return bool(self._write(statement, values, self._hints.of_records([record.progress.due])))

    def delete(self, id: str) -> bool:
        """See :meth:`pitstop.abc.Backend.delete`."""
        return bool(self._write(f"{self._statements.delete} RETURNING id", (id,), None))

    def get(self, id: str) -> Record | Damaged | None:
        """See :meth:`pitstop.abc.Backend.get`."""
        rows = self._run(self._statements.get, (id,))
        return read_row(rows[0]) if rows else None

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        """See :meth:`pitstop.abc.TransactionWrites.settle`."""
        self._executor.check()
        now, hint = self._database.given_now, hint_of(self._hints, settlements)
        applied: dict[tuple[str, str], bool] = {}
        for each in sorted(settlements, key=_id):
            statement, values = single(self._statements, each, now)
            done = bool(self._write(statement, values, hint))
            if not done:
                self._check_view(each)
            applied[each.id, each.token] = done
        return [applied[each.id, each.token] for each in settlements]

    def is_open(self) -> bool:
        """See :meth:`pitstop.abc.TransactionWrites.is_open`."""
        return self._executor.is_open()

    def _put_many(self, rows: Sequence[Row], hint: str | None) -> None:
        arrays = tuple([*column] for column in zip(*rows, strict=True))
        self._write(self._statements.put_many, arrays, hint)

    def _check_view(self, settlement: Settlement) -> None:
        """Raise the driver's error of a conflict if the transaction does not see the lease, because its view is older."""
        ((isolation,),) = self._run("SELECT current_setting('transaction_isolation')", ())
        if isolation in {"read committed", "read uncommitted"}:
            # Each statement sees what is committed by then.
            return
        inside = self.get(settlement.id)
        rows = self._database.read(lambda session: session.fetch(self._statements.get, (settlement.id,)))
        outside = read_row(rows[0]) if rows else None
        if (
            isinstance(outside, Record)
            and outside.progress.token == settlement.token
            and (not isinstance(inside, Record) or inside.progress.token != settlement.token)
            and not (isinstance(inside, Record) and inside.progress == settlement.progress)
        ):
            raise psycopg.errors.SerializationFailure(
                "The transaction began before the message was leased. Begin it again."
            )

    def _write(self, statement: str, values: Sequence[Any], hint: str | None) -> list[Row]:
        if hint is not None:
            statement, values = notifying(statement), (*values, self._hints.channel, hint)
        return self._run(statement, values)

    def _run(self, statement: str, values: Sequence[Any]) -> list[Row]:
        # Inside of another library a statement in text is the common form: the values are bound as they are given.
        with self._database.calls.enter():
            self._executor.check()
            self._database.prepare()
            try:
                self._check_store()
                return self._executor.execute(statement.replace("%b", "%s"), values)
            except Exception as error:
                if not _is_of_driver(error):
                    raise
                if not isinstance(error, psycopg.Error) or is_conflict(error):
                    # The driver's own error of a conflict: by it, the transaction is tried again.
                    raise
                raise translate(error, self._database.location) from error

    def _check_store(self) -> None:
        """Check, once for each session, that it sees the tables of this backend and not others with their name.

        :raises PitstopError: if it sees others.
        """
        try:
            if self._session in self._known:
                return
        except TypeError:
            # It cannot be remembered. So it is checked each time.
            pass
        rows = self._executor.execute(
            "SELECT to_regclass(%s)::oid::int8, current_setting('server_encoding')",
            (self._database.names.regclass_of_meta,),
        )
        there = rows[0][0] is not None
        found = self._executor.execute(self._statements.store, ()) if there else []
        if [row[0] for row in found] != [self._database.store]:
            raise PitstopError(
                f"session is a connection to another database, or has another search_path: it does not see the tables of "
                f"{self._database.location}. One transaction covers one database. Give a session of the database of the messages, "
                f"and the schema as an option."
            )
        try:
            self._known.add(self._session)
        except TypeError:
            return


def _id(settlement: Settlement) -> str:
    return settlement.id


def _is_of_driver(error: Exception) -> bool:
    return any(hasattr(each, "pgcode") or isinstance(error, psycopg.Error) for each in type(error).__mro__)
