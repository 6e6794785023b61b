"""The contract of ``scan``, ``tally`` and ``next_due``: the records of a store, in order and counted."""

from __future__ import annotations

import pytest

from pitstop import State
from pitstop.abc import Backend, Record, Tally
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles, Kit
from pitstop_conformance._records import (
    MINUTE,
    START,
    complete,
    ids,
    lease_all,
    lease_only,
    make_record,
    put_due,
    records,
)


def _of_every_state(backend: Backend) -> None:
    """Store two records in each state. Their ids begin with the state."""
    backend.put([make_record("leased-1", START - 20), make_record("leased-2", START - 20)])
    assert len(lease_all(backend)) == 2
    backend.put(
        [
            make_record("scheduled-2", START + 2),
            make_record("dead-2", None, token="t2"),
            make_record("due-2", START),
            make_record("dead-1", None, token="t1", last_error="x"),
            make_record("scheduled-1", START + 1),
            make_record("due-1", START - 10),
        ]
    )


def _place(record: Record) -> tuple[bool, int, str]:
    due = record.progress.due
    return (due is None, due or 0, record.id)


class Read(Kit):
    """Reading a store changes nothing, and shows its records as they are."""

    rule = "pitstop.abc.Backend.scan, tally and next_due"

    def test_an_empty_store_has_nothing(self, backend: Backend) -> None:
        assert list(backend.scan(None, 10, None)) == []
        assert backend.tally() == Tally(0, 0, 0, 0, None)
        assert backend.next_due() is None

    def test_scan_orders_by_due_and_then_by_id_with_the_dead_last(self, backend: Backend) -> None:
        backend.put(
            [
                make_record("b", START + 5),
                make_record("dead-b", None, token="t"),
                make_record("z", START - 5),
                make_record("a", START + 5),
                make_record("dead-a", None, token="t"),
                make_record("c", START + 5),
            ]
        )

        assert ids(backend.scan(None, 10, None)) == ["z", "a", "b", "c", "dead-a", "dead-b"]

    def test_scan_orders_ids_by_code_points(self, backend: Backend) -> None:
        ordered = ["", "$", "B", "a", "aa", "b", "\u00e9", "\uffee", "\U0001f3ce"][1:]
        backend.put([make_record(id) for id in reversed(ordered)])

        assert ids(backend.scan(None, 100, None)) == ordered

    @pytest.mark.parametrize("state", ["scheduled", "due", "leased", "dead"])
    def test_scan_of_a_state_shows_the_records_in_it(self, backend: Backend, state: State) -> None:
        _of_every_state(backend)

        assert ids(backend.scan(state, 10, None)) == [f"{state}-1", f"{state}-2"]

    def test_scan_of_all_states_shows_all(self, backend: Backend) -> None:
        _of_every_state(backend)

        assert ids(backend.scan(None, 10, None)) == [
            *("due-1", "due-2", "scheduled-1", "scheduled-2", "leased-1", "leased-2", "dead-1", "dead-2")
        ]

    def test_scan_shows_records_as_get_does(self, backend: Backend) -> None:
        _of_every_state(backend)

        for each in backend.scan(None, 10, None):
            assert backend.get(each.id) == each

    def test_a_record_becomes_due_in_its_very_millisecond(self, backend: Backend, clock: ManualClock) -> None:
        backend.put([make_record("a", START + 1)])
        clock.advance(0.000999)
        assert ids(backend.scan("due", 10, None)) == []
        assert backend.tally() == Tally(1, 0, 0, 0, None)

        clock.advance(0.000001)

        assert ids(backend.scan("due", 10, None)) == ["a"]
        assert ids(backend.scan("scheduled", 10, None)) == []
        assert backend.tally() == Tally(0, 1, 0, 0, START + 1)

    def test_a_lease_that_ran_out_leaves_the_record_due(self, backend: Backend, clock: ManualClock) -> None:
        put_due(backend, "a")
        lease_only(backend, duration=10)
        clock.advance(0.009)
        assert ids(backend.scan("leased", 10, None)) == ["a"]
        assert backend.tally() == Tally(0, 0, 1, 0, None)

        clock.advance(0.001)

        assert ids(backend.scan("due", 10, None)) == ["a"]
        assert ids(backend.scan("leased", 10, None)) == []
        assert backend.tally() == Tally(0, 1, 0, 0, START + 10)

    def test_scan_returns_no_more_than_its_limit(self, backend: Backend) -> None:
        put_due(backend, "c", "a", "b")

        assert ids(backend.scan(None, 2, None)) == ["a", "b"]
        assert ids(backend.scan(None, 3, None)) == ["a", "b", "c"]

    @pytest.mark.parametrize("size", [1, 2, 3, 7])
    def test_pages_show_each_record_once_also_among_ties(self, backend: Backend, size: int) -> None:
        stored = [make_record(f"{n:02}", (START, START + 1, None)[n % 3], token="t") for n in range(20)]
        backend.put(stored)

        seen: list[Record] = []
        while True:
            after = (seen[-1].progress.due, seen[-1].id) if seen else None
            page = records(backend.scan(None, size, after))
            assert len(page) <= size
            if not page:
                break
            seen.extend(page)
            # A page that repeats records would make this loop endless.
            assert len(seen) <= len(stored), "no page repeats a record of an earlier page"

        assert seen == sorted(stored, key=_place)

    @pytest.mark.parametrize("state", ["scheduled", "due", "leased", "dead"])
    def test_pages_of_a_state_go_on_behind_the_last_one(self, backend: Backend, state: State) -> None:
        _of_every_state(backend)
        first = records(backend.scan(state, 1, None))
        assert ids(first) == [f"{state}-1"]

        second = records(backend.scan(state, 1, (first[0].progress.due, first[0].id)))

        assert ids(second) == [f"{state}-2"]
        assert list(backend.scan(state, 1, (second[0].progress.due, second[0].id))) == []

    @pytest.mark.parametrize("due", [START, None], ids=["due", "dead"])
    def test_a_page_goes_on_behind_a_record_that_is_gone(self, backend: Backend, due: int | None) -> None:
        backend.put([make_record(id, due, token="t") for id in ("a", "b", "c")])
        backend.delete("b")

        assert ids(backend.scan(None, 10, (due, "b"))) == ["c"]
        assert ids(backend.scan(None, 10, (due, "c"))) == []

    def test_a_page_behind_a_time_nobody_has_goes_on_with_later_times_and_the_dead(self, backend: Backend) -> None:
        backend.put([make_record("a", START), make_record("b", START + 10), make_record("c", None, token="t")])

        assert ids(backend.scan(None, 10, (START + 5, "z"))) == ["b", "c"]
        assert ids(backend.scan(None, 10, (START + 10, "b"))) == ["c"]

    def test_tally_counts_by_state_and_names_the_oldest_due(self, backend: Backend) -> None:
        _of_every_state(backend)

        assert backend.tally() == Tally(scheduled=2, due=2, leased=2, dead=2, oldest_due=START - 10)

    def test_next_due_is_the_least_due(self, backend: Backend, open_backend: Handles) -> None:
        """Read through a new handle, because the answer of an older handle may be out of date."""
        backend.put([make_record("b", START + 7), make_record("a", START + 5), make_record("dead", None, token="t")])

        assert open_backend.peer().next_due() == START + 5

    def test_next_due_counts_leased_records_by_the_end_of_their_lease(
        self, backend: Backend, open_backend: Handles
    ) -> None:
        backend.put([make_record("a", START), make_record("b", START + 2 * MINUTE)])
        lease_only(backend, duration=MINUTE)

        assert open_backend.peer().next_due() == START + MINUTE

    def test_next_due_of_dead_records_alone_is_none(self, backend: Backend, open_backend: Handles) -> None:
        backend.put([make_record("dead", None, token="t")])

        assert open_backend.peer().next_due() is None

    def test_next_due_of_a_handle_follows_what_it_writes_within_a_second(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        """If a handle keeps answering with the due time of a removed record, its listener queries the store forever."""
        late, early = START + 30 * MINUTE, START + 10 * MINUTE

        def told() -> int | None:
            clock.advance(1)
            return backend.next_due()

        assert told() is None
        backend.put([make_record("late", late)])
        assert told() == late
        backend.put([make_record("early", early), make_record("now", START)])
        assert told() == START
        leased = lease_only(backend, duration=2 * MINUTE)
        assert told() == leased.progress.due
        backend.settle([complete(leased)])
        assert told() == early
        backend.delete("early")
        assert told() == late
        backend.delete("late")
        assert told() is None
