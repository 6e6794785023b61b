"""Mutants that count and page wrongly."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import attrs

from conformance.mutants.registry import mutant
from pitstop import State
from pitstop.abc import Record, Tally, is_chosen
from pitstop_memory import MemoryBackend


@mutant("test_tally_counts_by_state_and_names_the_oldest_due", "test_stats_count_by_state")
class LeasesCountAsDue(MemoryBackend):
    """Counts leased records as due. Their time had come, after all."""

    def tally(self) -> Tally:
        found = super().tally()
        return attrs.evolve(found, due=found.due + found.leased, leased=0)


@mutant("test_a_record_becomes_due_in_its_very_millisecond", "test_stats_of_an_empty_store_are_zero")
class OldestOfAll(MemoryBackend):
    """Names the least time of all records as the oldest that is due, also one to come; and 0 when there is none."""

    def tally(self) -> Tally:
        return attrs.evolve(super().tally(), oldest_due=self.next_due() or 0)


@mutant("test_a_lease_that_ran_out_leaves_the_record_due")
class LeasedByTokenAlone(MemoryBackend):
    """Calls every record with a token leased. A record keeps its token when the lease runs out."""

    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record]:
        if state not in {"due", "leased"}:
            return super().scan(state, limit, after)
        both = sorted(
            [*super().scan("due", 10_000, after), *super().scan("leased", 10_000, after)],
            key=lambda record: (record.progress.due or 0, record.id),
        )
        return [each for each in both if (each.progress.token is None) == (state == "due")][:limit]


@mutant("test_pages_show_each_record_once_also_among_ties", "test_entries_page_over_ties_without_a_gap")
class PagesLoseTies(MemoryBackend):
    """Goes on behind the time of the last record: ``due > ?``. The others with that very time are never seen."""

    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record]:
        if after is not None and after[0] is not None:
            after = (after[0], "\U0010ffff" * 1000)
        return super().scan(state, limit, after)


@mutant("test_pages_show_each_record_once_also_among_ties", "test_entries_page_over_ties_without_a_gap")
class PagesByOffset(MemoryBackend):
    """Begins each page with the last record of the one before: ``>=`` where ``>`` was meant."""

    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record]:
        found = [*super().scan(state, limit, after)]
        last = None if after is None else self.get(after[1])
        return [last, *found][:limit] if last is not None else found


@mutant(
    "test_scan_orders_by_due_and_then_by_id_with_the_dead_last",
    "test_entries_are_ordered_by_due_time_with_the_dead_last",
)
class DeadFirst(MemoryBackend):
    """Lists the dead before all others. Null comes first in many stores."""

    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record]:
        found = [*super().scan(state, 10_000, after)]
        return sorted(found, key=lambda record: (record.progress.due or 0, record.id))[:limit]


@mutant("test_scan_orders_ids_by_code_points")
class IdsInTheOrderOfPeople(MemoryBackend):
    """Orders ids as people do, without regard to case. A collation of the store's."""

    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record]:
        found = super().scan(state, limit, after)
        dead = [each.progress.due is None for each in found]
        return [
            each
            for _, each in sorted(
                zip(dead, found, strict=True),
                key=lambda pair: (pair[0], pair[1].progress.due or 0, pair[1].id.casefold()),
            )
        ]


@mutant("test_pages_of_a_state_go_on_behind_the_last_one")
class LimitBeforeState(MemoryBackend):
    """Reads a page, and then leaves out records in another state. A page may be empty although more would follow."""

    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record]:
        wanted = {each.id for each in super().scan(state, 10_000, None)}
        return [each for each in super().scan(None, limit, after) if each.id in wanted]


@mutant("test_next_due_counts_leased_records_by_the_end_of_their_lease")
class NextDueIgnoresTheLeased(MemoryBackend):
    """Names the next due time of the records that are not leased. The end of a lease without an ack is noticed late."""

    def next_due(self, kinds: Collection[str] | None = None) -> int | None:
        now = self._now_ms()
        with self._room.lock:
            times = [
                each.progress.due
                for each in self._room.shelf
                if each.progress.due is not None
                and is_chosen(each.kind, kinds)
                and (each.progress.token is None or each.progress.due <= now)
            ]
        return min(times, default=None)


@mutant("test_next_due_of_a_handle_follows_what_it_writes_within_a_second")
class NextDueForEver(MemoryBackend):
    """Reads the next due time once in the life of a handle. Its listeners then look without end, or not at all."""

    _known = False
    _next: int | None = None

    def next_due(self, kinds: Collection[str] | None = None) -> int | None:
        if kinds is not None:
            return super().next_due(kinds)
        if not self._known:
            self._known, self._next = True, super().next_due()
        return self._next
