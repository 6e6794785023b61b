"""Mutants that keep kinds wrongly, or choose wrongly by them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import attrs

from conformance.mutants.registry import mutant
from pitstop.abc import AllBut, Damaged, Record
from pitstop_memory import MemoryBackend
from pitstop_sqlite import SqliteBackend


@mutant("test_a_kind_comes_back_as_it_was_stored", "test_a_claim_of_some_kinds_brings_these_alone")
class DropsTheKind(MemoryBackend):
    """Does not store the kind: a record is written field by field, and the new field was forgotten."""

    def _put(self, records: Sequence[Record]) -> None:
        super()._put([attrs.evolve(each, kind="") for each in records])


@mutant("test_a_policy_comes_back_as_it_was_stored")
class DropsThePolicy(MemoryBackend):
    """Does not store the policy of a message."""

    def _put(self, records: Sequence[Record]) -> None:
        super()._put([attrs.evolve(each, policy=None) for each in records])


@mutant("test_a_new_version_has_its_own_kind_and_policy")
class KeepsTheOldKind(MemoryBackend):
    """Leaves kind and policy of the old version if the new one has none."""

    def _put(self, records: Sequence[Record]) -> None:
        for each in records:
            old = self._room.shelf.get(each.id)
            if old is not None and not each.kind:
                each = attrs.evolve(each, kind=old.kind, policy=old.policy)  # noqa: PLW2901 - the record to store
            super()._put([each])


@mutant("test_a_claim_of_some_kinds_brings_these_alone", "test_many_of_another_kind_are_not_in_the_way")
class IgnoresTheChoice(MemoryBackend):
    """Claims records of all kinds: it has the argument, and does nothing with it."""

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record]:
        return super().lease(limit, duration)


@mutant("test_a_claim_of_all_but_some_kinds_brings_the_rest")
class TakesAllButForThese(MemoryBackend):
    """Takes ``AllBut(kinds)`` for ``kinds``, since both are collections."""

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record]:
        return super().lease(limit, duration, kinds if kinds is None else list(kinds))


@mutant("test_many_of_another_kind_are_not_in_the_way")
class FiltersTheFirst(SqliteBackend):
    """Reads the first records that are due, and then leaves out those of other kinds. A backlog hides the rest."""

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record | Damaged]:
        if kinds is None:
            return super().lease(limit, duration)
        first = self.scan("due", limit, None)
        there = {each.kind for each in first if isinstance(each, Record)}
        chosen = there - kinds if isinstance(kinds, AllBut) else there & set(kinds)
        return super().lease(limit, duration, chosen) if chosen else []


@mutant("test_next_due_of_some_kinds", "test_the_end_of_a_lease_is_next_due_of_its_kind")
class NextDueOfAll(MemoryBackend):
    """Tells the next due time of all kinds. Listeners of a kind wake up for the backlogs of others."""

    def next_due(self, kinds: Collection[str] | None = None) -> int | None:
        return super().next_due()


@mutant("test_a_claim_of_one_kind_takes_no_similar_one")
class ComparesWithoutCase(MemoryBackend):
    """Compares kinds without regard to case, as a collation of the database does."""

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record]:
        if kinds is None or isinstance(kinds, AllBut):
            return super().lease(limit, duration, kinds)
        stored = {record.kind for record in self._room.shelf}
        folded = {each.casefold() for each in kinds}
        return super().lease(limit, duration, [each for each in stored if each.casefold() in folded] or kinds)


@mutant("test_a_claim_of_some_kinds_is_in_the_order_of_due_and_then_of_the_first_stores")
class OneKindAfterTheOther(SqliteBackend):
    """Claims from the parts of the index one after the other, in the order of the ids."""

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record | Damaged]:
        leased = super().lease(limit, duration, kinds)
        return leased if kinds is None else sorted(leased, key=lambda each: each.id)
