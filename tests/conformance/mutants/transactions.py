"""Mutants that settle wrongly in the user's transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from conformance.mutants.registry import mutant
from pitstop.abc import Settlement
from pitstop.testing import ManualClock
from pitstop_sqlite import SqliteBackend, _statements
from pitstop_sqlite._transaction import Transaction


class _Within(SqliteBackend):
    """A backend whose transactions are of another class."""

    writes: type[Transaction]

    def within(self, session: object) -> Transaction:
        return self.writes(self._path, self.clock, session)


class _Commits(Transaction):
    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        applied = super().settle(settlements)
        self._connection.execute("COMMIT")
        self._connection.execute("BEGIN IMMEDIATE")
        return applied


@mutant("test_what_is_settled_in_a_transaction_that_aborts_is_still_leased")
class CommitsWhatItSettles(_Within):
    """Commits with each settlement. The user's own writes then stand alone, or are committed before their time."""

    writes = _Commits


class _NoFence(Transaction):
    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        applied = []
        for each in settlements:
            if each.progress is None:
                applied.append(self.delete(each.id))
            else:
                applied.extend(super().settle([each]))
        return applied


@mutant(
    "test_a_settlement_in_a_transaction_needs_its_token", "test_a_settlement_in_a_transaction_needs_a_lease_that_runs"
)
class DeletesByIdInATransaction(_Within):
    """Deletes an acknowledged message by its id alone. A late ack deletes what was stored since."""

    writes = _NoFence


class _AllOfTheToken(Transaction):
    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        applied = list(super().settle(settlements))
        for each, done in zip(settlements, applied, strict=True):
            if done and each.progress is None:
                self._connection.execute("DELETE FROM pitstop_messages WHERE token = ? AND id NOT NULL", (each.token,))
        return applied


@mutant("test_a_settlement_in_a_transaction_changes_only_its_message")
class DeletesByTokenInATransaction(_Within):
    """Deletes by the token alone. All messages of one claim have the same token."""

    writes = _AllOfTheToken


@mutant("test_a_settlement_in_a_transaction_needs_a_lease_that_runs")
class AcceptsAnOldLeaseInATransaction(_Within):
    """Does not look at the end of the lease. A listener of another process may have the message in the same moment."""

    def within(self, session: object) -> Transaction:
        return Transaction(self._path, ManualClock(datetime(1970, 1, 1, tzinfo=UTC)), session)


class _OnAConnectionOfItsOwn(Transaction):
    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        with self._cursor() as cursor:
            return [cursor.execute(_statements.GET_PLAIN, (each.id,)).fetchone() is not None for each in settlements]


@mutant("test_what_is_settled_in_a_transaction_that_commits_is_done")
class ForgetsWhatItSettles(_Within):
    """Reports settlements as applied, and writes them at the commit, of which it never hears."""

    writes = _OnAConnectionOfItsOwn


class _AlwaysOpen(Transaction):
    def is_open(self) -> bool:
        return True


@mutant("test_a_transaction_is_open_until_it_has_ended", "test_a_user_acknowledges_in_a_transaction")
class TransactionsNeverEnd(_Within):
    """Takes every transaction for open. After an abort the message waits until its lease ends."""

    writes = _AlwaysOpen
