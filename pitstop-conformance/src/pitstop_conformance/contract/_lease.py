"""The contract of ``lease``: a due record goes to one claimer at a time, the oldest record first."""

from __future__ import annotations

import pytest

from pitstop.abc import LAST_INSTANT, Backend, Progress, Record
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles, Kit
from pitstop_conformance._records import (
    MINUTE,
    SERIES,
    START,
    at,
    complete,
    ids,
    lease_all,
    lease_only,
    make_record,
    put_due,
    records,
)


class Lease(Kit):
    """Claims of due records."""

    rule = "pitstop.abc.Backend.lease"

    def test_nothing_due_nothing_leased(self, backend: Backend) -> None:
        assert list(backend.lease(10, MINUTE)) == []

        backend.put([make_record("later", START + 1)])

        assert list(backend.lease(10, MINUTE)) == []

    def test_nothing_is_leased_a_microsecond_early(self, backend: Backend, clock: ManualClock) -> None:
        backend.put([make_record("a", START + 1)])
        clock.advance(0.000999)
        assert list(backend.lease(10, MINUTE)) == []

        clock.advance(0.000001)

        assert ids(backend.lease(10, MINUTE)) == ["a"]

    def test_a_lease_writes_what_progress_leased_says_and_nothing_else(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        record = make_record(due=START - 500, message={"x": 1}, series=SERIES, last_error="before")
        backend.put([record])
        clock.advance(0.0305)

        leased = lease_only(backend, duration=1234)

        token = leased.progress.token
        assert token is not None
        assert leased.progress == record.progress.leased(token, START + 30, START + 30 + 1234)
        assert (leased.id, leased.message, leased.series, leased.revision) == (
            *(record.id, record.message, record.series, record.revision),
        )
        assert backend.get("a") == leased

    def test_a_retry_keeps_when_its_occurrence_was_leased_first(self, backend: Backend, clock: ManualClock) -> None:
        backend.put([make_record(scheduled_for=START - 7, attempts=4, first_leased=START - 5, last_error="x")])
        clock.advance(1)

        progress = lease_only(backend).progress

        assert progress == Progress(START + 1000 + MINUTE, START - 7, 5, START - 5, "x", progress.token, unsettled=1)

    def test_claims_have_tokens_of_their_own(self, backend: Backend) -> None:
        put_due(backend, *"abcdef")

        claims = [records(backend.lease(2, MINUTE)) for _ in range(3)]

        tokens = [{each.progress.token for each in claim} for claim in claims if claim]
        assert all(len(each) == 1 for each in tokens), "all records of one claim have the same token"
        different = set().union(*tokens)
        assert len(different) == len(tokens), "each claim has a new token"
        assert all(isinstance(each, str) and each for each in different)

    def test_the_oldest_due_goes_first(self, backend: Backend) -> None:
        dues = {"c": START - 1, "a": START, "d": START - 3, "b": START - 2}
        backend.put([make_record(*each) for each in dues.items()])

        assert [lease_only(backend).id for _ in dues] == ["d", "b", "c", "a"]

    def test_a_claim_is_in_order(self, backend: Backend) -> None:
        dues = {"c": START - 1, "a": START, "d": START - 3, "b": START - 2}
        backend.put([make_record(*each) for each in dues.items()])

        assert ids(lease_all(backend)) == ["d", "b", "c", "a"]

    @pytest.mark.parametrize("limit", [1, 3, 100])
    def test_ties_go_in_the_order_in_which_their_ids_came_in(self, backend: Backend, limit: int) -> None:
        put_due(backend, "m", "z")
        put_due(backend, "a", "q", "b")
        put_due(backend, "y")

        assert ids(lease_all(backend, limit=limit)) == ["m", "z", "a", "q", "b", "y"]

    def test_an_update_keeps_the_place_among_ties(self, backend: Backend) -> None:
        put_due(backend, "c", "b", "a")

        put_due(backend, "b")

        assert ids(lease_all(backend)) == ["c", "b", "a"]

    def test_an_id_that_was_deleted_comes_in_anew(self, backend: Backend) -> None:
        put_due(backend, "c", "b", "a")
        backend.delete("c")

        put_due(backend, "c")

        assert ids(lease_all(backend)) == ["b", "a", "c"]

    def test_ties_keep_their_order_when_leases_run_out(self, backend: Backend, clock: ManualClock) -> None:
        put_due(backend, "c", "a", "b")
        assert len(lease_all(backend, limit=2)) == 3

        clock.advance(60)

        assert ids(lease_all(backend)) == ["c", "a", "b"]

    def test_what_became_due_in_between_goes_after_what_was_due_before(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        """Also if a handle remembers the place of the last record that it claimed."""
        backend.put([make_record("late", START + 1000)])
        put_due(backend, "a")
        assert ids(lease_all(backend)) == ["a"]
        clock.advance(2)

        backend.put([make_record("older", START - 1000), make_record("old", START)])

        assert ids(lease_all(backend)) == ["older", "old", "late"]

    def test_an_older_record_that_a_peer_puts_is_leased_first(
        self, backend: Backend, open_backend: Handles, clock: ManualClock
    ) -> None:
        put_due(backend, "a", "b")
        assert lease_only(backend).id == "a"
        clock.advance(1)

        open_backend.peer().put([make_record("older", START - 86_400_000)])

        # A handle may search on from its last place for at most a second. Then it must search from the start.
        clock.advance(1)
        assert set(ids(lease_all(backend))) == {"older", "b"}

    @pytest.mark.parametrize("limit", [1, 2, 5])
    def test_a_claim_holds_no_more_than_its_limit(self, backend: Backend, limit: int) -> None:
        put_due(backend, *"abcdefghijk")

        claim = backend.lease(limit, MINUTE)

        assert 1 <= len(claim) <= limit
        assert backend.tally().leased == len(claim)

    def test_a_leased_record_is_not_leased_again_while_its_lease_runs(
        self, backend: Backend, open_backend: Handles, clock: ManualClock
    ) -> None:
        put_due(backend, "a")
        lease_only(backend, duration=1000)
        peer = open_backend.peer()

        assert list(backend.lease(10, MINUTE)) == list(peer.lease(10, MINUTE)) == []
        clock.advance(0.999999)
        assert list(backend.lease(10, MINUTE)) == list(peer.lease(10, MINUTE)) == []

    def test_a_record_is_leased_again_when_its_lease_ran_out(self, backend: Backend, clock: ManualClock) -> None:
        put_due(backend, "a")
        first = lease_only(backend, duration=1000)
        clock.advance(1)

        second = lease_only(backend, duration=1000)

        assert second.progress == first.progress.leased(second.progress.token or "", START + 1000, START + 2000)
        assert second.progress.attempts == 2
        assert second.progress.first_leased == START
        assert second.progress.token != first.progress.token

    def test_a_dead_record_is_never_leased(self, backend: Backend, clock: ManualClock) -> None:
        backend.put([make_record("dead", None, token="t", first_leased=0), make_record("dead-too", None, token="t")])
        clock.advance(86_400 * 365)

        assert list(backend.lease(10, MINUTE)) == []

    def test_peers_lease_different_records(self, backend: Backend, open_backend: Handles) -> None:
        put_due(backend, *map(str, range(20)))
        peer = open_backend.peer()

        seen: list[str] = []
        while claims := [*backend.lease(3, MINUTE), *peer.lease(3, MINUTE)]:
            seen.extend(ids(claims))
            # A record that is leased again would make this loop endless.
            assert len(seen) <= 20, "no claim returns a record whose lease still runs"

        assert sorted(seen) == sorted(map(str, range(20)))

    def test_a_thousand_due_records_are_leased_once_each(self, backend: Backend) -> None:
        backend.put([make_record(f"{n:04}", START - n) for n in range(1000)])

        leased = ids(lease_all(backend, limit=100))

        assert leased == [f"{n:04}" for n in reversed(range(1000))]
        assert backend.tally().leased == 1000

    def test_future_records_do_not_stand_in_the_way(self, backend: Backend) -> None:
        backend.put([make_record(f"f{n}", START + 1 + n) for n in range(500)])
        put_due(backend, "a")
        backend.put([make_record(f"g{n}", START + 1 + n) for n in range(500)])

        assert ids(lease_all(backend)) == ["a"]

    def test_a_lease_may_reach_the_end_of_time(self, backend: Backend) -> None:
        put_due(backend, "a")
        until = 253_402_300_799_999

        leased = lease_only(backend, duration=until - START)

        assert leased.progress.due == until
        assert backend.get("a") == leased
        assert isinstance(backend.get("a"), Record)

    def test_a_lease_ends_with_time_itself(self, open_backend: Handles) -> None:
        """No instant is after the year 9999, so a longer lease ends there. The leased record can still be read."""
        last = ManualClock(at(LAST_INSTANT - 10_000))
        backend = open_backend(clock=last)
        backend.put([make_record("a", LAST_INSTANT - 20_000)])

        leased = lease_only(backend)

        assert leased.progress.due == LAST_INSTANT
        assert backend.get("a") == leased
        assert list(backend.settle([complete(leased)])) == [True]
