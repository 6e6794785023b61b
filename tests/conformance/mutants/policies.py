"""Mutants that keep policies wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import attrs

from conformance.mutants.registry import mutant, right
from pitstop.abc import Capability, Progress, Record, Settlement
from pitstop_memory import MemoryBackend


@right
class WithoutKinds(MemoryBackend):
    """Keeps policies, but no kinds: the methods do not have the argument. This class is no mutant."""

    capabilities: ClassVar[Capability] = MemoryBackend.capabilities & ~Capability.KINDS

    def lease(self, limit: int, duration: int) -> Sequence[Record]:  # type: ignore[override]
        return super().lease(limit, duration)

    def next_due(self) -> int | None:  # type: ignore[override]
        return super().next_due()


@mutant("test_a_policy_comes_back_as_it_was_stored", "test_each_record_of_a_batch_has_its_own_policy")
class DropsThePolicy(WithoutKinds):
    """Does not store the policy of a message."""

    def _put(self, records: Sequence[Record]) -> None:
        super()._put([attrs.evolve(each, policy=None) for each in records])


@mutant("test_a_new_version_has_its_own_policy")
class KeepsTheOldPolicy(WithoutKinds):
    """Leaves the policy of the old version if the new version has none."""

    def _put(self, records: Sequence[Record]) -> None:
        old = {each.id: self._room.shelf.get(each.id) for each in records}
        super()._put(
            [
                attrs.evolve(each, policy=before.policy)
                if each.policy is None and (before := old[each.id]) is not None
                else each
                for each in records
            ]
        )


@mutant("test_a_conditional_store_writes_the_policy")
class PutIfDropsThePolicy(WithoutKinds):
    """Does not store the policy on a condition: the method has a list of the fields of its own."""

    def _put_if(self, record: Record, revision: str | None, progress: Progress | None) -> bool:
        return super()._put_if(attrs.evolve(record, policy=None), revision, progress)


@mutant("test_a_conditional_store_that_is_refused_leaves_the_policy")
class PutIfWritesThePolicyFirst(WithoutKinds):
    """Writes the policy before the condition is checked, in a statement of its own."""

    def _put_if(self, record: Record, revision: str | None, progress: Progress | None) -> bool:
        slot = self._room.shelf._slots.get(record.id)
        if slot is not None:
            slot.policy = record.policy
        return super()._put_if(record, revision, progress)


@mutant("test_a_settlement_leaves_the_policy")
class SettleDropsThePolicy(WithoutKinds):
    """Writes a settlement as a new document, without the policy."""

    def _apply(self, settlement: Settlement, now: int) -> bool:
        applied = super()._apply(settlement, now)
        slot = self._room.shelf._slots.get(settlement.id)
        if applied and slot is not None:
            slot.policy = None
        return applied


@mutant("test_a_lease_that_ran_out_leaves_the_policy")
class SecondClaimDropsThePolicy(WithoutKinds):
    """Forgets the policy when a message is claimed again. The policy was written into the first lease."""

    def _lease(self, limit: int, duration: int) -> list[Record]:
        leased = super()._lease(limit, duration)
        return [attrs.evolve(each, policy=None) if each.progress.attempts > 1 else each for each in leased]
