"""Mutants that let a damaged record stand in the way of others: made of the SQLite backend."""

from __future__ import annotations

import itertools

from collections.abc import Collection, Sequence

from conformance.mutants.registry import mutant
from pitstop import State
from pitstop.abc import Aside, Damaged, Record, Settlement
from pitstop_sqlite import SqliteBackend


@mutant(
    "test_damaged_records_hold_no_other_up_whatever_the_size_of_a_claim[5]",
    "test_consume_handles_all_but_the_damaged_ones",
)
class ClaimEndsAtTheDamaged(SqliteBackend):
    """Reads a claim up to the first record that it cannot read. The others are leased, and nobody is given them."""

    def lease(self, limit: int, duration: int) -> Sequence[Record | Damaged]:
        leased = [*super().lease(limit, duration)]
        sound = [*itertools.takewhile(lambda each: isinstance(each, Record), leased)]
        return sound or leased[:1]


@mutant("test_pages_show_damaged_records_among_the_others_and_end")
class PagesWithoutTheDamaged(SqliteBackend):
    """Leaves out of a page what it cannot read. A page of nothing else looks like the last one."""

    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record | Damaged]:
        return [each for each in super().scan(state, limit, after) if isinstance(each, Record)]


@mutant("test_a_damaged_record_is_set_aside_by_the_one_who_has_its_lease")
class SetsAsideWithoutALease(SqliteBackend):
    """Sets a damaged record aside whoever says so. Nothing can be lost of it, it seems, but another has it by now."""

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        applied = [*super().settle(settlements)]
        for index, each in enumerate(settlements):
            if isinstance(each.progress, Aside) and not applied[index]:
                with self._database.lock, self._database as connection:
                    connection.execute(
                        "UPDATE pitstop_messages SET due = NULL, last_error = ? WHERE id = ?",
                        (each.progress.last_error, each.id),
                    )
                applied[index] = True
        return applied


@mutant("test_a_batch_settles_damaged_and_sound_records_each_by_itself")
class BatchOfOneKind(SqliteBackend):
    """Settles what is to be set aside, if there is any in a batch, and forgets the others."""

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        aside = [each for each in settlements if isinstance(each.progress, Aside)]
        if not aside:
            return super().settle(settlements)
        applied = iter(super().settle(aside))
        return [isinstance(each.progress, Aside) and next(applied) for each in settlements]
