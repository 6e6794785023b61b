"""Mutants of the PostgreSQL backend: mistakes that only a server with row locks, collations, notifications and sessions shows.

They are listed apart from the others, because they need a server.
"""

from __future__ import annotations

import os

from contextlib import contextmanager
from typing import Any

import attrs

from conformance.mutants.registry import Mutant
from pitstop import BackendUnavailable
from pitstop.abc import Watch
from pitstop_postgres import PostgresBackend
from pitstop_postgres._hints import Hints
from pitstop_postgres._statements import Claims
from pitstop_postgres._transaction import Transaction


__all__ = ["ON_POSTGRES"]

#: By name.
ON_POSTGRES: dict[str, Mutant] = {}


def _mutant(*killed_by: str):
    def add(backend: type[PostgresBackend]) -> type[PostgresBackend]:
        assert backend.__doc__
        ON_POSTGRES[backend.__name__] = Mutant(backend, killed_by)
        return backend

    return add


class _Changed(PostgresBackend):
    """Has other statements."""

    changes: tuple[tuple[str, str], ...] = ()

    def __init__(self, config=None, **options):
        super().__init__(config, **options)
        for name, text in vars(self._statements).items():
            setattr(self._statements, name, self._changed(text))

    def _changed(self, statement: str | Claims) -> Any:
        if isinstance(statement, Claims):
            return attrs.evolve(
                statement, **{name: self._changed(text) for name, text in attrs.asdict(statement).items()}
            )
        for old, new in self.changes:
            statement = statement.replace(old, new)
        return statement


@_mutant("test_a_lease_that_ends_while_a_settlement_waits_is_over[one]")
class ReadsTheTimeBeforeItWaits(_Changed):
    """Compares the end of the lease with the time at which its statement began. The statement waits for the lock of the row."""

    changes = (("clock_timestamp()", "statement_timestamp()"),)


@_mutant("test_scan_orders_ids_by_code_points")
class OrderOfTheDatabase(PostgresBackend):
    """Orders ids by the collation of the database."""

    def __init__(self, config=None, **options):
        super().__init__(config, **options)
        self._database.prepare()
        table = self._database.names.table
        self._database.read(
            lambda session: session.change(f'ALTER TABLE {table} ALTER COLUMN id TYPE text COLLATE "und-x-icu"')
        )


@_mutant("test_stores_of_the_same_ids_in_other_orders_do_not_hinder_each_other")
class DeadlocksGetOut(_Changed):
    """Locks the rows of a batch in the order given, and does not try again after a deadlock."""

    changes = ((' ORDER BY id COLLATE "C"', ""),)

    def __init__(self, config=None, **options):
        super().__init__(config, **options)
        self._database._may_repeat = lambda error, *, doubted: doubted


@_mutant("test_a_watch_hears_what_a_transaction_commits")
class TransactionsTellNobody(PostgresBackend):
    """Gives no hint for the writes of a transaction."""

    def within(self, session):
        hints = Hints(self._database, self._config.loop_time, muted=True)
        return Transaction(self._database, self._statements, hints, session, self._known)


@_mutant("test_a_watch_hears_what_a_transaction_commits")
class WakesBeforeTheCommit(TransactionsTellNobody):
    """Gives the hint for the writes of a transaction at once, on a connection of its own. Listeners look too early."""

    def within(self, session):
        writes = super().within(session)
        put = writes.put

        def put_and_wake(records):
            put(records)
            payload = self._hints.of_records([each.progress.due for each in records])
            self._database.read(
                lambda session: session.fetch("SELECT pg_notify(%s, %s)", (self._hints.channel, payload))
            )

        writes.put = put_and_wake
        return writes


@_mutant("test_a_watch_does_not_hear_its_own_handle")
class HearsItselfByNotify(PostgresBackend):
    """Listens to the notifications of its own handle as well."""

    def __init__(self, config=None, **options):
        super().__init__(config, **options)
        self._hints.heard = lambda payload: payload.partition(":")[2]


class _Deaf(Watch):
    pause = 0.02

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def poll(self):
        try:
            return self._watch.poll()
        except BackendUnavailable:
            return None

    def close(self):
        self._watch.close()


@_mutant("test_a_watch_is_not_deaf_after_its_connection_was_lost")
class DeafAfterALoss(PostgresBackend):
    """Goes on with a watch whose connection is lost, and hears nothing more."""

    def watch(self):
        return _Deaf(super().watch())


@_mutant("test_a_scratch_leaves_nothing_behind")
class ScratchTableStays(PostgresBackend):
    """Closes a scratch, and forgets its tables."""

    @contextmanager
    def scratch(self):
        table = f"{self._config.table[:20]}_check_{os.urandom(8).hex()}"
        scratch = type(self)(attrs.evolve(self._config, table=table, create=True))
        try:
            yield scratch
        finally:
            scratch.close()


@_mutant("test_a_password_is_in_no_text")
class PasswordOfTheUri(PostgresBackend):
    """Has the address as it was given for its location."""

    @property
    def location(self):
        return self._config.uri


@_mutant("test_a_handle_that_is_closed_leaves_no_connection_open")
class ClosesNothing(PostgresBackend):
    """Leaves its connections to the garbage collector."""

    def close(self):
        self._database.pool._closed = True
