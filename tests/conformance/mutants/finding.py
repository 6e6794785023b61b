"""Mutants that search wrongly: the beginnings of ids, the bounds of times, the pages."""

from __future__ import annotations

import re

from collections.abc import Mapping, Sequence

import attrs

from conformance.mutants.registry import mutant
from pitstop.abc import Query, Record, Tally
from pitstop_memory import MemoryBackend


_Place = tuple[int | None, str]


class _Scanning(MemoryBackend):
    """Searches by a rule of its own, over all records."""

    def _chosen(self, query: Query, record: Record, now: int) -> bool:
        return query.matches(record, now)

    def find(self, query: Query, limit: int, after: _Place | None) -> Sequence[Record]:
        now = self.now() // 1000
        found = [each for each in self.scan(None, 2**31 - 1, None) if self._chosen(query, each, now)]
        return sorted((each for each in found if query.is_behind(each, after)), key=query.in_order)[:limit]


@mutant("test_a_search_by_prefix_finds_the_ids_that_begin_with_it", "test_a_search_finds_what_matches_all_of_it")
class IgnoresThePrefix(_Scanning):
    """Leaves the prefix out: it has the field, and does nothing with it."""

    def _chosen(self, query: Query, record: Record, now: int) -> bool:
        return attrs.evolve(query, prefix=None).matches(record, now)


@mutant("test_a_search_by_prefix_finds_the_ids_that_begin_with_it")
class ComparesPrefixesWithoutCase(_Scanning):
    """Compares with LIKE, which takes upper case and lower case for the same."""

    def _chosen(self, query: Query, record: Record, now: int) -> bool:
        whole = attrs.evolve(query, prefix=None).matches(record, now)
        return whole and record.id.casefold().startswith((query.prefix or "").casefold())


@mutant("test_a_search_by_prefix_finds_the_ids_that_begin_with_it")
class TakesThePrefixForAPattern(_Scanning):
    """Searches with a regular expression, and does not escape the prefix."""

    def _chosen(self, query: Query, record: Record, now: int) -> bool:
        whole = attrs.evolve(query, prefix=None).matches(record, now)
        try:
            return whole and re.match(query.prefix or "", record.id) is not None
        except re.error:
            return False


@mutant("test_a_search_by_prefix_finds_the_ids_that_begin_with_it")
class EndsARangeBelowAstralCharacters(_Scanning):
    """Ends the range of a prefix with the last character of two bytes."""

    def _chosen(self, query: Query, record: Record, now: int) -> bool:
        return query.matches(record, now) and (query.prefix is None or record.id <= query.prefix + "\uffff")


@mutant("test_a_search_by_prefix_finds_the_ids_that_begin_with_it")
class EndsARangeWithTheNextCharacter(_Scanning):
    """Makes the end of the range by adding one to the last character, also where that is a surrogate, or there is none."""

    def _chosen(self, query: Query, record: Record, now: int) -> bool:
        if query.prefix:
            try:
                chr(ord(query.prefix[-1]) + 1).encode()
            except (ValueError, UnicodeEncodeError):
                return False
        return query.matches(record, now)


@mutant("test_pages_of_a_prefix_are_in_the_order_of_the_ids")
class OrdersAPrefixByDue(MemoryBackend):
    """Orders each search by ``due``."""

    def find(self, query: Query, limit: int, after: _Place | None) -> Sequence[Record]:
        found = super().find(query, 2**31 - 1, None)
        other = Query()
        return sorted((each for each in found if other.is_behind(each, after)), key=other.in_order)[:limit]


@mutant("test_a_page_of_a_prefix_goes_on_behind_any_id")
class LooksForTheLastRecord(MemoryBackend):
    """Begins a page behind the record of the page before, which may be gone."""

    def find(self, query: Query, limit: int, after: _Place | None) -> Sequence[Record]:
        found = super().find(query, 2**31 - 1, None)
        ids = [each.id for each in found]
        begin = ids.index(after[1]) + 1 if after is not None and after[1] in ids else 0
        return found[begin : begin + limit]


@mutant("test_a_search_of_a_time_finds_from_its_beginning_to_before_its_end")
class IncludesTheEnd(_Scanning):
    """Finds what is due at the very end of the time, too."""

    def _chosen(self, query: Query, record: Record, now: int) -> bool:
        end = query.due_before
        return attrs.evolve(query, due_before=None if end is None else end + 1).matches(record, now)


@mutant("test_a_search_finds_what_matches_all_of_it")
class CountsTheDeadAsLate(_Scanning):
    """Takes no ``due`` for 0, so that dead records are due before any time."""

    def _chosen(self, query: Query, record: Record, now: int) -> bool:
        if record.progress.due is None and query.due_from is None:
            return attrs.evolve(query, due_before=None).matches(record, now)
        return query.matches(record, now)


@mutant("test_a_search_finds_what_matches_all_of_it", "test_a_series_that_goes_on_after_a_failure_does_not_fail")
class FailsByItsError(_Scanning):
    """Counts a record as failing if it has an error, whatever happened since."""

    def _chosen(self, query: Query, record: Record, now: int) -> bool:
        fails = record.progress.last_error is not None
        return attrs.evolve(query, failing=None).matches(record, now) and query.failing in {None, fails}


@mutant("test_a_message_that_was_handed_back_at_the_end_of_a_program_does_not_fail")
class FailsByItsAttempts(_Scanning):
    """Counts a record as failing if it was claimed before, also if that is not held against it."""

    def _chosen(self, query: Query, record: Record, now: int) -> bool:
        progress = record.progress
        fails = progress.due is None or (progress.attempts > 0 and (progress.due <= now or progress.token is None))
        return attrs.evolve(query, failing=None).matches(record, now) and query.failing in {None, fails}


@mutant("test_a_lease_that_runs_is_no_failure_until_it_has_run_out")
class FailsWhileItRuns(_Scanning):
    """Counts a record as failing while a listener has it."""

    def _chosen(self, query: Query, record: Record, now: int) -> bool:
        fails = record.progress.attempts > record.progress.excused or record.progress.due is None
        return attrs.evolve(query, failing=None).matches(record, now) and query.failing in {None, fails}


@mutant("test_a_search_finds_what_matches_all_of_it", "test_a_search_of_a_kind")
class FiltersOnePage(MemoryBackend):
    """Reads one page, and leaves out what does not match. A short page hides all that follow."""

    def find(self, query: Query, limit: int, after: _Place | None) -> Sequence[Record]:
        now = self.now() // 1000
        return [each for each in self.scan(None, limit, after) if query.matches(each, now)]


@mutant("test_a_search_goes_by_the_clock_of_the_store")
class SearchesInThePast(_Scanning):
    """Reads the time when it is opened."""

    opened: int | None = None

    def _chosen(self, query: Query, record: Record, now: int) -> bool:
        self.opened = now if self.opened is None else self.opened
        return query.matches(record, self.opened)


@mutant("test_a_search_of_a_kind")
class FindsKindsByTheirBeginning(_Scanning):
    """Compares the kind as it compares the prefix."""

    def _chosen(self, query: Query, record: Record, now: int) -> bool:
        whole = attrs.evolve(query, kind=None).matches(record, now)
        return whole and (query.kind is None or record.kind.startswith(query.kind))


@mutant("test_a_tally_by_kind_counts_each_kind_by_itself", "test_a_tally_by_kind_of_a_store_without_kinds_is_the_tally")
class LeavesOutTheEmptyKind(MemoryBackend):
    """Counts no messages that were given no kind: in its table the kind is NULL, and NULL is in no group that it returns."""

    def tally_by_kind(self) -> Mapping[str, Tally]:
        return {kind: tally for kind, tally in super().tally_by_kind().items() if kind}
