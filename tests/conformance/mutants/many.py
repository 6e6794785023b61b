"""Mutants that change many records wrongly."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from conformance.mutants.registry import mutant
from pitstop.abc import Damaged, Progress, Query, Record
from pitstop_memory import MemoryBackend
from pitstop_sqlite import SqliteBackend


_Items = Sequence[tuple[Record, str, Progress]]


@mutant(
    "test_a_record_that_does_not_match_any_more_is_not_removed",
    "test_a_removal_takes_the_records_that_match",
    "test_a_removal_of_a_kind_takes_no_record_that_has_another_one_by_now",
)
class RemovesWithoutAnotherLook(MemoryBackend):
    """Removes all records that the search has found, whatever happened to them since."""

    def delete_many(self, ids: Sequence[str], query: Query | None = None) -> Sequence[bool]:
        return super().delete_many(ids, None)


@mutant("test_a_removal_goes_by_the_clock_of_the_store")
class RemovesByAnOldClock(MemoryBackend):
    """Compares with the time of the first removal."""

    first: int | None = None

    def _delete_many(self, ids: Sequence[str], query: Query | None) -> list[bool]:
        shelf = self._room.shelf
        self.first = self._now_ms() if self.first is None else self.first
        found = [shelf.get(id) for id in ids]
        return [
            each is not None and (query is None or query.matches(each, self.first)) and shelf.delete(each.id)
            for each in found
        ]


@mutant("test_many_are_removed_by_their_ids_and_no_others")
class TellsThatAllAreGone(MemoryBackend):
    """Tells for each id that it was removed, since none of them is there now."""

    def delete_many(self, ids: Sequence[str], query: Query | None = None) -> Sequence[bool]:
        super().delete_many(ids, query)
        return [True] * len(ids)


@mutant("test_any_number_is_removed")
class RemovesTheFirst500(SqliteBackend):
    """Removes as many records as one statement has places for, and forgets the rest."""

    def delete_many(self, ids: Sequence[str], query: Query | None = None) -> Sequence[bool]:
        rest = len(ids[500:])
        return [*super().delete_many(ids[:500], query), *[False] * rest]


@mutant("test_many_are_removed_by_their_ids_and_no_others", "test_many_are_read_by_their_ids")
class ComparesIdsWithoutCase(MemoryBackend):
    """Compares the ids of a batch without regard to case, as a collation of the database does."""

    def _folded(self, ids: Sequence[str]) -> list[str]:
        wanted = {id.casefold() for id in ids}
        return [each.id for each in self._room.shelf if each.id.casefold() in wanted]

    def get_many(self, ids: Sequence[str]) -> Sequence[Record | Damaged]:
        return super().get_many(self._folded([*ids]))

    def delete_many(self, ids: Sequence[str], query: Query | None = None) -> Sequence[bool]:
        gone = super().delete_many(self._folded(ids), query)
        return [*gone, *[False] * len(ids)][: len(ids)]


@mutant("test_each_is_stored_by_its_own_condition")
class StoresAllOrNone(MemoryBackend):
    """Stores nothing if one record of the batch is not the expected one."""

    def put_many_if(self, items: _Items) -> Sequence[bool]:
        found = [self.get(record.id) for record, *_ in items]
        if all(
            each is not None and each.revision == revision and each.progress == progress
            for each, (_, revision, progress) in zip(found, items, strict=True)
        ):
            return super().put_many_if(items)
        return [False] * len(items)


@mutant("test_each_is_stored_by_its_own_condition")
class IgnoresTheClaim(MemoryBackend):
    """Compares the revision alone. A claim does not change it, so a message that is being handled comes again."""

    def put_many_if(self, items: _Items) -> Sequence[bool]:
        return [self.put_if(record, revision) for record, revision, _ in items]


@mutant("test_each_is_stored_by_its_own_condition")
class BringsBackTheRemoved(MemoryBackend):
    """Stores a record also if there is none with its id any more."""

    def put_many_if(self, items: _Items) -> Sequence[bool]:
        stored = []
        for record, revision, progress in items:
            if self.get(record.id) is None:
                self.put([record])
                stored.append(True)
            else:
                stored.append(self.put_if(record, revision, progress))
        return stored


@mutant("test_a_lease_of_a_record_that_was_stored_is_over", "test_many_are_stored_in_the_place_of_the_expected_ones")
class KeepsTheTimesOfMany(MemoryBackend):
    """Writes all but the progress in a batch: the statement was copied from another one."""

    def put_many_if(self, items: _Items) -> Sequence[bool]:
        return super().put_many_if(
            [(attrs.evolve(record, progress=progress), revision, progress) for record, revision, progress in items]
        )


@mutant("test_a_record_that_is_there_stays", "test_any_number_is_stored_anew")
class OverwritesThoseThatAreThere(MemoryBackend):
    """Stores new records as any others: a second copy brings messages back to the state of before."""

    def put_new(self, records: Sequence[Record]) -> Sequence[bool]:
        self.put(records)
        return [True] * len(records)


@mutant("test_a_record_that_is_there_stays", "test_any_number_is_stored_anew")
class StoresAllNewOnesOrNone(MemoryBackend):
    """Stores no record of a batch if one of them is there already."""

    def put_new(self, records: Sequence[Record]) -> Sequence[bool]:
        if any(self.get(each.id) is not None for each in records):
            return [False] * len(records)
        return super().put_new(records)


@mutant("test_new_records_are_stored_as_they_are")
class ForgetsTheAttemptsOfNewOnes(MemoryBackend):
    """Writes new records by the statement for records that were never claimed."""

    def put_new(self, records: Sequence[Record]) -> Sequence[bool]:
        fresh = [Progress(each.progress.due, each.progress.scheduled_for) for each in records]
        return super().put_new(
            [attrs.evolve(each, progress=progress) for each, progress in zip(records, fresh, strict=True)]
        )


@mutant("test_many_are_read_in_portions")
class EndsAPortionTooEarly(MemoryBackend):
    """Ends a portion at its first record, and forgets the ids behind it."""

    def get_portion(self, ids: Sequence[str]) -> tuple[Sequence[Record | Damaged], Sequence[str]]:
        return self.get_many(ids[:1]), ()


@mutant("test_a_search_of_a_kind")
class FindsOtherPlaces(MemoryBackend):
    """Leaves the dead out of the places that changes go by."""

    def find_places(
        self, query: Query, limit: int, after: tuple[int | None, str] | None
    ) -> Sequence[tuple[int | None, str]]:
        return [place for place in super().find_places(query, limit, after) if place[0] is not None]
