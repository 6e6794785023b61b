"""Mutants that are right about one message, and wrong about many at a time."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import attrs

from conformance.mutants.claiming import OpenClaims
from conformance.mutants.registry import mutant
from pitstop.abc import Outcome, Record, Settlement
from pitstop_memory import MemoryBackend


#: The size of a chunk for these mutants.
_PAGE = 16


@mutant(
    "test_more_than_a_thousand_are_settled_in_one_batch",
    "test_what_is_acked_in_an_iteration_is_done_and_each_was_its_first_attempt",
)
class SettlesThePage(MemoryBackend):
    """Applies the first ones of a batch, and says that it applied all. The loop over the chunks ends too early."""

    def _apply_all(self, settlements: Collection[Settlement]) -> list[bool]:
        some = list(settlements)[:_PAGE]
        return super()._apply_all(some) + [True] * (len(settlements) - len(some))


@mutant(
    "test_more_than_a_thousand_are_settled_in_one_batch",
    "test_each_message_is_acknowledged_once_or_comes_back_as_configured",
)
class RefusesBeyondThePage(MemoryBackend):
    """Applies the first ones of a batch, and says of the others that their leases are over. They come again."""

    def _apply_all(self, settlements: Collection[Settlement]) -> list[bool]:
        some = list(settlements)[:_PAGE]
        return super()._apply_all(some) + [False] * (len(settlements) - len(some))


@mutant("test_more_than_a_thousand_are_settled_in_one_batch")
class TellsThePageOnly(MemoryBackend):
    """Applies a whole batch, and knows the result of the first ones alone. The query for the results has a limit."""

    def _apply_all(self, settlements: Collection[Settlement]) -> list[bool]:
        applied = super()._apply_all(settlements)
        return applied[:_PAGE] + [True] * len(applied[_PAGE:])


@mutant("test_a_batch_says_for_each_whether_it_was_applied", "test_a_batch_tells_what_was_completed_from_what_is_gone")
class ResultsShifted(MemoryBackend):
    """Returns for each settlement the result of the one before. An index that begins at one."""

    def _apply_all(self, settlements: Collection[Settlement]) -> list[bool]:
        applied = super()._apply_all(settlements)
        return applied[-1:] + applied[:-1]


@mutant("test_a_batch_says_for_each_whether_it_was_applied")
class ResultsByKind(MemoryBackend):
    """Deletes first and then updates, as a bulk write does, and returns the results in that order."""

    def _apply_all(self, settlements: Collection[Settlement]) -> list[bool]:
        return super()._apply_all(sorted(settlements, key=lambda each: each.outcome is not Outcome.COMPLETE))


@mutant("test_a_batch_tells_a_late_settlement_from_that_of_who_has_the_message")
class OneOfAnId(MemoryBackend):
    """Keeps a batch by id. Of two settlements of one message the later one counts, and both get its result."""

    def _apply_all(self, settlements: Collection[Settlement]) -> list[bool]:
        by_id = {each.id: each for each in settlements}
        told = dict(zip(by_id, super()._apply_all(list(by_id.values())), strict=True))
        return [told[each.id] for each in settlements]


@mutant("test_a_batch_says_for_each_whether_it_was_applied")
class TokenOfTheFirst(MemoryBackend):
    """Fences a batch by the token of its first. Most batches are of one claim, after all."""

    def _apply_all(self, settlements: Collection[Settlement]) -> list[bool]:
        tokens = [each.token for each in settlements]
        return super()._apply_all([attrs.evolve(each, token=tokens[0]) for each in settlements])


@mutant("test_a_batch_says_for_each_whether_it_was_applied")
class AnyTokenOfTheBatch(MemoryBackend):
    """Fences a batch by ``token IN (...)``. A claim that lost a message to another claim of the batch settles the message all the same."""

    def _apply_all(self, settlements: Collection[Settlement]) -> list[bool]:
        tokens = {each.token for each in settlements}
        fenced = []
        for each in settlements:
            stored = self._room.shelf.get(each.id)
            held = None if stored is None else stored.progress.token
            fenced.append(attrs.evolve(each, token=held) if held in tokens and held is not None else each)
        return super()._apply_all(fenced)


@mutant(
    "test_each_of_a_batch_is_written_what_is_its_own",
    "test_recurring_messages_of_different_times_that_are_acked_together_keep_their_own",
)
class OneProgressForAll(MemoryBackend):
    """Writes the progress of the first record to all records of a claim with the same outcome. One ``UPDATE`` for all."""

    def _apply_all(self, settlements: Collection[Settlement]) -> list[bool]:
        first = {}
        for each in settlements:
            first.setdefault((each.token, each.outcome), each.progress)
        return super()._apply_all(
            [attrs.evolve(each, progress=first[each.token, each.outcome]) for each in settlements]
        )


@mutant("test_a_claim_is_in_order", "test_a_thousand_due_records_are_leased_once_each")
class ClaimReadBackById(MemoryBackend):
    """Returns a claim in the order of its ids. It leases the first that are due, and then reads what it has leased."""

    def _lease(self, limit: int, duration: int) -> list[Record]:
        return sorted(super()._lease(limit, duration), key=lambda record: record.id)


@mutant("test_a_claim_holds_no_more_than_its_limit", "test_peers_lease_different_records")
class LeasesMoreThanItReturns(OpenClaims):
    """Leases all that is due, and returns as many as were wanted. ``UPDATE ... WHERE due <= now``, with no limit."""

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record]:
        return super().lease(1_000_000, duration, kinds)[:limit]


@mutant("test_a_thousand_due_records_are_leased_once_each", "test_ties_go_in_the_order_in_which_their_ids_came_in")
class DropsTheLastOfAClaim(OpenClaims):
    """Leases as many as were wanted, and returns one less if they are many. It keeps one, to know where to go on."""

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record]:
        leased = super().lease(limit, duration, kinds)
        return leased[:-1] if len(leased) == limit and limit > 1 else leased
