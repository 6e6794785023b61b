"""Mutants that count claims wrongly."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from conformance.mutants.registry import mutant
from pitstop.abc import Aside, Progress, Record, Settlement
from pitstop_memory import MemoryBackend


class _Claims(MemoryBackend):
    """Writes something else than :meth:`Progress.leased` says."""

    def counted(self, progress: Progress, limit: int, brought: int) -> Progress:
        """Change the progress that a right claim has written."""
        raise NotImplementedError

    def _lease(self, limit: int, duration: int) -> list[Record]:
        leased = super()._lease(limit, duration)
        changed = []
        for each in leased:
            progress = self.counted(each.progress, limit, len(leased))
            self._room.shelf.change(each.id, progress)
            changed.append(attrs.evolve(each, progress=progress))
        return changed


class _Writes(MemoryBackend):
    """Writes something else than the progress of a settlement."""

    def written(self, old: Progress, new: Progress) -> Progress:
        raise NotImplementedError

    def _apply(self, settlement: Settlement, now: int) -> bool:
        old, new = self._room.shelf.progress_of(settlement.id), settlement.progress
        if old is not None and new is not None and not isinstance(new, Aside):
            settlement = attrs.evolve(settlement, progress=self.written(old, new))
        return super()._apply(settlement, now)


@mutant("test_a_claim_of_one_counts_as_certain", "test_a_claim_counts_on_from_the_counts_that_were_stored")
class CountsForgotten(_Claims):
    """Has no columns for the counts. It was written before there were any."""

    def put(self, records: Sequence[Record]) -> None:
        super().put([attrs.evolve(each, progress=_without(each.progress)) for each in records])

    def counted(self, progress: Progress, limit: int, brought: int) -> Progress:
        return _without(progress)

    def _apply(self, settlement: Settlement, now: int) -> bool:
        new = settlement.progress
        if new is not None and not isinstance(new, Aside):
            settlement = attrs.evolve(settlement, progress=_without(new))
        return super()._apply(settlement, now)


@mutant("test_a_claim_of_several_counts_as_uncertain_however_many_it_brings")
class LimitNotLookedAt(_Claims):
    """Counts each claim as one of a single record. Messages that waited in a listener die with the one that crashed."""

    def counted(self, progress: Progress, limit: int, brought: int) -> Progress:
        return attrs.evolve(progress, ahead=progress.ahead - (limit > 1))


@mutant("test_a_claim_of_several_counts_as_uncertain_however_many_it_brings")
class CountsWhatItBrought(_Claims):
    """Looks at how many records a claim brought, and not at how many it asked for."""

    def counted(self, progress: Progress, limit: int, brought: int) -> Progress:
        return attrs.evolve(progress, ahead=progress.ahead - (limit > 1) + (brought > 1))


@mutant("test_a_claim_of_one_counts_as_certain", "test_leases_that_ran_out_add_to_the_counts")
class EachClaimIsUncertain(_Claims):
    """Counts each claim as one of several records. A message that kills its worker never dies of it."""

    def counted(self, progress: Progress, limit: int, brought: int) -> Progress:
        return attrs.evolve(progress, ahead=progress.ahead + (limit == 1))


@mutant("test_leases_that_ran_out_add_to_the_counts", "test_a_claim_counts_on_from_the_counts_that_were_stored")
class CountsBeginAnewAtEachClaim(_Claims):
    """Sets the counts at a claim, and does not add to them. ``$set`` in the place of ``$inc``."""

    def counted(self, progress: Progress, limit: int, brought: int) -> Progress:
        return attrs.evolve(progress, unsettled=1, ahead=int(limit > 1))


@mutant("test_a_settlement_writes_the_counts_that_it_says", "test_other_outcomes_write_their_progress_and_nothing_else")
class SettlesWithoutTheCounts(_Writes):
    """Leaves the counts as they are when it settles. An old crash is held against the message for ever."""

    def written(self, old: Progress, new: Progress) -> Progress:
        return attrs.evolve(new, unsettled=old.unsettled, ahead=old.ahead, excused=old.excused)


@mutant(
    "test_a_settlement_writes_the_counts_that_it_says",
    "test_an_extension_that_makes_an_attempt_certain_keeps_the_lease",
)
class SettlesToZero(_Writes):
    """Sets the counts to 0 at each settlement, whatever the settlement says."""

    def written(self, old: Progress, new: Progress) -> Progress:
        return _without(new)


@mutant("test_a_settlement_writes_the_counts_that_it_says[excused_alone-alone]")
class AwaitedWithoutLookingAtTheExcused(_Writes):
    """Takes a progress without attempts for that of a new occurrence, and writes all counts of it as 0."""

    def written(self, old: Progress, new: Progress) -> Progress:
        return new if new.attempts else _without(new)


def _without(progress: Progress) -> Progress:
    return attrs.evolve(progress, unsettled=0, ahead=0, excused=0)
