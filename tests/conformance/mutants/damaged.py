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
    """Reads a claim up to the first record that it cannot read. The other records are leased, and are never returned."""

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record | Damaged]:
        leased = [*super().lease(limit, duration, kinds)]
        sound = [*itertools.takewhile(lambda each: isinstance(each, Record), leased)]
        return sound or leased[:1]


@mutant("test_pages_show_damaged_records_among_the_others_and_end")
class PagesWithoutTheDamaged(SqliteBackend):
    """Leaves unreadable records out of a page. A page of damaged records alone looks like the end."""

    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record | Damaged]:
        return [each for each in super().scan(state, limit, after) if isinstance(each, Record)]


@mutant("test_a_damaged_record_is_set_aside_by_the_one_who_has_its_lease")
class SetsAsideWithoutALease(SqliteBackend):
    """Sets a damaged record aside without comparing the token. By now another process may hold its lease."""

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
    """Settles only the records to set aside if a batch has any, and forgets the other settlements."""

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        aside = [each for each in settlements if isinstance(each.progress, Aside)]
        if not aside:
            return super().settle(settlements)
        applied = iter(super().settle(aside))
        return [isinstance(each.progress, Aside) and next(applied) for each in settlements]
