"""Mutants that take paused records for others."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from conformance.mutants.registry import mutant
from pitstop import State
from pitstop.abc import PAUSED, Outcome, Progress, Record, Settlement, Tally
from pitstop_memory import MemoryBackend
from pitstop_sqlite import SqliteBackend


@mutant("test_tally_counts_paused_records_apart", "test_a_paused_message_comes_after_its_resume_and_not_before")
class PausedCountsAsDead(MemoryBackend):
    """Counts a record without a ``due`` as dead, and one with a token as leased, as before there were paused records."""

    def tally(self) -> Tally:
        found = super().tally()
        without = sum(each.progress.due is None for each in super().scan("paused", 10_000, None))
        return attrs.evolve(found, dead=found.dead + without, leased=found.leased + found.paused - without, paused=0)


@mutant("test_scan_shows_paused_records_in_no_other_state", "test_pages_show_each_paused_record_once")
class PausedIsListedAsDead(MemoryBackend):
    """Lists paused records among the dead ones as well: ``due IS NULL``."""

    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record]:
        found = super().scan(state, limit, after)
        if state != "dead":
            return found
        paused = [each for each in super().scan("paused", limit, after) if each.progress.due is None]
        return sorted([*found, *paused], key=lambda record: record.id)[:limit]


@mutant("test_scan_shows_paused_records_in_no_other_state", "test_pages_show_each_paused_record_once")
class PausedHasNoEnd(MemoryBackend):
    """Lists only paused records without a ``due``."""

    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record]:
        found = super().scan(state, 10_000, after)
        return [each for each in found if state != "paused" or each.progress.due is None][:limit]


@mutant("test_a_claim_takes_a_paused_record_when_its_due_has_come", "test_a_pause_with_an_end_ends_by_itself")
class PausedForEver(SqliteBackend):
    """Puts paused records that a claim has brought back as they were: this author thought that a pause ends by hand alone."""

    def lease(self, limit, duration, kinds=None):
        before = {each.id: each for each in self.scan("due", 10_000, None)}
        leased = super().lease(limit, duration, kinds)
        paused = [each for each in leased if before[each.id].progress.token == PAUSED]
        self.put([before[each.id] for each in paused])
        return [each for each in leased if each not in paused]


@mutant("test_a_settlement_parks_a_leased_record", "test_a_retry_of_a_message_that_is_paused_meanwhile_waits")
class SettlesWithoutAToken(MemoryBackend):
    """Writes no token in a settlement that ends a lease: it was always empty then."""

    def settle(self, settlements):
        return super().settle([self._without(each) for each in settlements])

    def _without(self, settlement: Settlement) -> Settlement:
        progress = settlement.progress
        if settlement.outcome is not Outcome.PAUSE or not isinstance(progress, Progress):
            return settlement
        return attrs.evolve(settlement, progress=attrs.evolve(progress, token=None))
