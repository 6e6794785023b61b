"""The kinds of mistakes that a stranger made in a backend with a server, and the mutants and tests that stand for them.

The table of docs/writing-a-backend.md is made of this: ``python -m conformance.mutants.mistakes``.
"""

from __future__ import annotations

import attrs

from conformance.mutants.catalogue import MUTANTS
from conformance.mutants.on_postgres import ON_POSTGRES
from conformance.mutants.registry import Mutant


__all__ = ["LEGAL", "MISTAKES", "NEW", "Mistake", "table"]

#: Modules of the suite that version 6 has brought, and its new tests elsewhere.
NEW = (
    *("_connections", "_time", "_traces", "_watch", "_orders"),
    "test_a_parent_and_its_child_use_a_handle_at_the_same_time",
    "test_a_watch_hears_what_a_transaction_commits",
    "test_a_lease_that_ends_while_a_settlement_waits_is_over",
)


@attrs.frozen
class Mistake:
    """A kind of mistake, and mutants with it."""

    kind: str
    mutants: tuple[str, ...]
    #: Whether version 5 of the suite found it.
    before: bool = False

    @property
    def tests(self) -> list[str]:
        """Return a test for each mutant, without parameters, each once."""
        return list(dict.fromkeys(_mutant(each).killed_by[0].partition("[")[0] for each in self.mutants))


MISTAKES = (
    Mistake("`now()`, claims and leases by the client's clock, 30 s off", ("ClientsClock", "HalfAMinuteOff")),
    Mistake("the server's time in whole seconds", ("ServerTimeInWholeSeconds",)),
    Mistake("the server's time rounded up", ("ServerTimeRoundedUp",)),
    Mistake("a lease in whole seconds", ("LeaseInWholeSeconds",)),
    Mistake("the fence ignores the end of the lease by the server's clock", ("FenceWithoutAnEnd",)),
    Mistake("the time is read before a wait for a lock", ("ReadsTheTimeBeforeItWaits",)),
    Mistake("two batches lock rows in opposite orders", ("StoresInTheOrderGiven", "SettlesInTheOrderGiven")),
    Mistake("a deadlock is not tried again", ("DeadlocksGetOut",)),
    Mistake("a parent and its child share a socket", ("SharesItsSocketAfterAFork",)),
    Mistake("a hint carries the latest `due` of a batch", ("HintOfTheLatest",)),
    Mistake("no hint for released messages", ("HintsForStoresAlone",)),
    Mistake("no hint for `within`", ("TransactionsTellNobody",)),
    Mistake("the hint of `within` comes before the commit", ("WakesBeforeTheCommit",)),
    Mistake("a watch hears its own handle", ("HearsItself", "HearsItselfByNotify")),
    Mistake("a watch is deaf after a lost connection", ("DeafAfterALoss",)),
    Mistake("errors of the driver get out", ("DriversErrorsGetOut",)),
    Mistake('"nothing was changed" after a lost reply', ("NothingWasChanged",)),
    Mistake("a store is repeated blindly", ("RepeatsBlindly",)),
    Mistake("a call has no bound in time", ("WaitsWithoutABound",)),
    Mistake("`close()` leaves connections open", ("ClosesNothing",)),
    Mistake("a read leaves a transaction open", ("ReadsStayOpen",)),
    Mistake("a scratch is left behind", ("ScratchStays", "ScratchTableStays")),
    Mistake("the password is in `location`", ("PasswordInItsLocation", "PasswordOfTheUri")),
    Mistake("ids in the order of the database's collation", ("OrderOfTheDatabase",), before=True),
    Mistake("a claim in two statements", ("ClaimNotAtomic", "ClaimInTwoStatements"), before=True),
    Mistake("one progress for all records of a batch", ("OneProgressForAll",), before=True),
    Mistake("results of a batch in another order", ("ResultsShifted", "ResultsByKind"), before=True),
    Mistake("one token for all claims", ("OneTokenForEver", "TokenPerHandle"), before=True),
    Mistake("leases that claim more than they return", ("LeasesMoreThanItReturns",), before=True),
    Mistake("acknowledged before the commit", ("AcknowledgedBeforeCommitted",), before=True),
)

#: Behaviour that looks like a mistake, with the reason for which the suite allows it.
LEGAL = {
    "a claim returns fewer than `limit`, or none, beside locked rows": "the other claims get the records that they have locked",
    "a batch says True for a record that another caller has removed": "the record is gone either way, and the id is not known to be that of another lease",
    "a store whose reply is lost is repeated over a version that was stored meanwhile": "the two stores overlap, so either order is right",
    "`now()` is measured instead of asked for": "the answer is wrong by the error of the measurement, and the statements read the server's own clock",
}


def _mutant(name: str) -> Mutant:
    return MUTANTS[name] if name in MUTANTS else ON_POSTGRES[name]


def table() -> str:
    """Return both tables, as the document has them."""
    lines = ["| mistake | mutants | test that finds it | suite 5 | suite 6 |", "|---|---|---|---|---|"]
    for each in MISTAKES:
        mutants = ", ".join(f"`{name}`" for name in each.mutants)
        tests = ", ".join(f"`{name}`" for name in each.tests)
        lines.append(f"| {each.kind} | {mutants} | {tests} | {'caught' if each.before else 'missed'} | caught |")
    lines += ["", "| behaviour that stays legal | reason |", "|---|---|"]
    lines += [f"| {behaviour} | {reason} |" for behaviour, reason in LEGAL.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
