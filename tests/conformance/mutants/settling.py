"""Mutants that settle wrongly."""

from __future__ import annotations

import itertools

from collections.abc import Collection

import attrs

from conformance.mutants.registry import mutant
from pitstop.abc import Aside, Outcome, Progress, Record, Settlement
from pitstop_memory import MemoryBackend


class _Settles(MemoryBackend):
    """Writes something else than the progress that it is given."""

    def written(self, old: Record, settlement: Settlement, now: int) -> Progress | Aside | None:
        raise NotImplementedError

    def _apply(self, settlement: Settlement, now: int) -> bool:
        old = self._room.shelf.get(settlement.id)
        if old is None:
            return False
        return super()._apply(attrs.evolve(settlement, progress=self.written(old, settlement, now)), now)


@mutant("test_a_stale_token_changes_nothing", "test_the_token_of_another_record_changes_nothing")
class NoFencing(MemoryBackend):
    """Does not compare the token. A caller that knows an id settles messages that another process has leased."""

    def _apply(self, settlement: Settlement, now: int) -> bool:
        old = self._room.shelf.get(settlement.id)
        return old is not None and super()._apply(attrs.evolve(settlement, token=old.progress.token), now)


@mutant("test_put_ends_a_lease", "test_an_update_while_leased_holds_at_once_and_the_old_delivery_is_stale")
class AckById(MemoryBackend):
    """Deletes an acknowledged message by its id. A late ack then deletes the newer version."""

    def _apply(self, settlement: Settlement, now: int) -> bool:
        if settlement.progress is None:
            return self._room.shelf.delete(settlement.id)
        return super()._apply(settlement, now)


@mutant("test_a_lease_that_ran_out_settles_nothing_even_if_nobody_else_has_it")
class ExpiredLeaseStillAcks(MemoryBackend):
    """Compares the token alone, and not whether the lease still runs. Until another claim takes the message, that looks right."""

    def _apply(self, settlement: Settlement, now: int) -> bool:
        return super()._apply(settlement, -1)


@mutant("test_a_released_record_is_leased_again_at_its_time", "test_a_nack_with_a_delay_comes_back_after_it")
class LostNackDelay(_Settles):
    """Leaves a released record leased until its lease runs out. The delay of a nack is lost."""

    def written(self, old: Record, settlement: Settlement, now: int) -> Progress | Aside | None:
        if settlement.outcome is Outcome.RELEASE and isinstance(settlement.progress, Progress):
            return attrs.evolve(settlement.progress, due=old.progress.due)
        return settlement.progress


@mutant(
    "test_a_nacked_message_comes_back_when_its_lease_runs_out", "test_a_released_record_is_leased_again_at_its_time"
)
class NackIsNow(_Settles):
    """Gives a released record back at once. A message that fails then runs in circles."""

    def written(self, old: Record, settlement: Settlement, now: int) -> Progress | Aside | None:
        if settlement.outcome is Outcome.RELEASE and isinstance(settlement.progress, Progress):
            return attrs.evolve(settlement.progress, due=now)
        return settlement.progress


@mutant("test_other_outcomes_write_their_progress_and_nothing_else")
class NackCountsToo(_Settles):
    """Counts an attempt also at the nack. Messages die after half their attempts."""

    def written(self, old: Record, settlement: Settlement, now: int) -> Progress | Aside | None:
        if settlement.outcome is Outcome.RELEASE and isinstance(settlement.progress, Progress):
            return attrs.evolve(settlement.progress, attempts=settlement.progress.attempts + 1)
        return settlement.progress


@mutant("test_occurrences_are_anchored_at_the_start_whenever_they_are_acked")
class RescheduledFromTheAck(_Settles):
    """Counts the next occurrence from the time of the ack. Each one comes later than the one before: drift."""

    def written(self, old: Record, settlement: Settlement, now: int) -> Progress | Aside | None:
        progress = settlement.progress
        if settlement.outcome is Outcome.RESCHEDULE and isinstance(progress, Progress) and progress.due is not None:
            return attrs.evolve(progress, due=now + progress.due - old.progress.scheduled_for)
        return progress


@mutant(
    "test_a_buried_record_keeps_its_token_and_is_dead",
    "test_a_redriven_message_is_due_now_with_its_id_error_and_key",
)
class BuryDropsTheToken(_Settles):
    """Takes the token away from a dead message. It can never be redriven then."""

    def written(self, old: Record, settlement: Settlement, now: int) -> Progress | Aside | None:
        if settlement.outcome is Outcome.BURY and isinstance(settlement.progress, Progress):
            return attrs.evolve(settlement.progress, token=None)
        return settlement.progress


@mutant("test_a_buried_record_keeps_its_token_and_is_dead", "test_past_its_attempts_a_one_shot_is_dead_and_kept")
class DropsTheDead(_Settles):
    """Deletes buried messages. No operator learns which messages failed for good."""

    def written(self, old: Record, settlement: Settlement, now: int) -> Progress | Aside | None:
        return None if settlement.outcome is Outcome.BURY else settlement.progress


@mutant("test_every_field_of_progress_is_written_over_another_value")
class NoneIsNotWritten(_Settles):
    """Writes only the fields that are not None. An ``UPDATE`` put together from what is given."""

    def written(self, old: Record, settlement: Settlement, now: int) -> Progress | Aside | None:
        if isinstance(settlement.progress, Progress) and settlement.progress.due is not None:
            given = attrs.asdict(settlement.progress, filter=lambda _, value: value is not None)
            return attrs.evolve(old.progress, **given)
        return settlement.progress


@mutant("test_what_is_set_aside_keeps_everything_but_its_due_time_and_its_error")
class SetAsideAnew(_Settles):
    """Writes a new progress to a record that is set aside. The data to inspect is gone."""

    def written(self, old: Record, settlement: Settlement, now: int) -> Progress | Aside | None:
        if isinstance(settlement.progress, Aside):
            return Progress(None, old.progress.scheduled_for, last_error=settlement.progress.last_error)
        return settlement.progress


@mutant("test_an_extended_lease_holds_until_its_new_end", "test_burying_and_extending_again_does_no_harm")
class ExtendChangesTheToken(_Settles):
    """Makes a new token at each extension. The holder still has the old one, and cannot acknowledge."""

    _count = itertools.count()

    def written(self, old: Record, settlement: Settlement, now: int) -> Progress | Aside | None:
        if settlement.outcome is Outcome.EXTEND and isinstance(settlement.progress, Progress):
            return attrs.evolve(settlement.progress, token=f"{settlement.token}-{next(self._count)}")
        return settlement.progress


@mutant("test_a_dead_record_is_settled_with_the_token_that_it_carries")
class DeadIsNotSettled(MemoryBackend):
    """Settles only messages with a running lease. ``due > now`` is not true of a null: a redrive never happens."""

    def _apply(self, settlement: Settlement, now: int) -> bool:
        old = self._room.shelf.get(settlement.id)
        return old is not None and old.progress.due is not None and super()._apply(settlement, now)


@mutant(
    "test_no_settlement_creates_a_record_that_was_deleted",
    "test_a_message_removed_while_leased_is_gone_and_never_comes_back",
)
class NackBringsBack(MemoryBackend):
    """Creates a missing record when it settles. An upsert where an update was meant: a nack brings back the removed."""

    def _apply(self, settlement: Settlement, now: int) -> bool:
        if self._room.shelf.get(settlement.id) is None and isinstance(settlement.progress, Progress):
            self._room.shelf.put(Record(settlement.id, {}, None, "", settlement.progress))
            return True
        return super()._apply(settlement, now)


@mutant("test_a_batch_says_for_each_whether_it_was_applied")
class StopsAtTheFirstStale(MemoryBackend):
    """Applies a batch up to the first that is stale. Half of it is settled, and the rest comes again."""

    def _apply_all(self, settlements: Collection[Settlement]) -> list[bool]:
        now = self._now_ms()
        applied = list(itertools.takewhile(bool, (self._apply(each, now) for each in settlements)))
        return applied + [False] * (len(settlements) - len(applied))


@mutant("test_a_batch_says_for_each_whether_it_was_applied")
class AllOrNone(MemoryBackend):
    """Applies nothing of a batch in which one is stale. A transaction that is rolled back for it."""

    def _apply_all(self, settlements: Collection[Settlement]) -> list[bool]:
        now = self._now_ms()
        tokens = {each.id: each.progress.token for each in self._room.shelf if (each.progress.due or now + 1) > now}
        if any(tokens.get(each.id) != each.token for each in settlements):
            return [False] * len(settlements)
        return super()._apply_all(settlements)


@mutant("test_a_batch_says_for_each_whether_it_was_applied", "test_a_batch_tells_what_was_written_from_what_is_gone")
class AllWhenAny(MemoryBackend):
    """Reports a whole batch as applied if a part of it was. ``return rowcount > 0``."""

    def _apply_all(self, settlements: Collection[Settlement]) -> list[bool]:
        applied = super()._apply_all(settlements)
        return [any(applied)] * len(applied)


@mutant("test_a_batch_says_for_each_whether_it_was_applied", "test_a_batch_tells_what_was_completed_from_what_is_gone")
class TellsByCount(MemoryBackend):
    """Knows how many of a batch were applied, and says that they were the first ones."""

    def _apply_all(self, settlements: Collection[Settlement]) -> list[bool]:
        return sorted(super()._apply_all(settlements), reverse=True)
