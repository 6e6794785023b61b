"""The counts of a progress: claims without a settlement since, claims of several records, and attempts that are excused.

After a crash they show which messages a handler may have had. A backend that leaves them out lets messages die that no
handler saw.
"""

from __future__ import annotations

import attrs
import pytest

from pitstop.abc import Backend, Outcome, Progress
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles, Kit
from pitstop_conformance._records import (
    MINUTE,
    SERIES,
    START,
    lease_all,
    lease_only,
    make_record,
    put_due,
    records,
    settlement,
)


def _counts(progress: Progress) -> tuple[int, int, int, int]:
    return progress.attempts, progress.unsettled, progress.ahead, progress.excused


class Counts(Kit):
    """The counts after claims and settlements."""

    rule = 'docs/writing-a-backend.md, "Records"'

    def test_a_claim_of_one_counts_as_certain(self, backend: Backend) -> None:
        put_due(backend, "a")

        leased = lease_only(backend)

        assert _counts(leased.progress) == (1, 1, 0, 0)
        assert backend.get("a") == leased

    @pytest.mark.parametrize("limit", [2, 3, 500], ids=["of two", "of three", "of many"])
    def test_a_claim_of_several_counts_as_uncertain_however_many_it_brings(self, backend: Backend, limit: int) -> None:
        put_due(backend, "a", "b")

        first = records(backend.lease(limit, MINUTE))
        rest = [] if len(first) == 2 else records(backend.lease(limit, MINUTE))

        assert [_counts(each.progress) for each in [*first, *rest]] == [(1, 1, 1, 0)] * 2
        put_due(backend, "c")
        assert [_counts(each.progress) for each in lease_all(backend, limit=limit)] == [(1, 1, 1, 0)]

    def test_leases_that_ran_out_add_to_the_counts(
        self, backend: Backend, open_backend: Handles, clock: ManualClock
    ) -> None:
        put_due(backend, "a")
        found = []
        for limit in (5, 1, 5, 1):
            found += lease_all(backend, limit=limit, duration=1000)
            clock.advance(1)

        assert [_counts(each.progress) for each in found] == [(1, 1, 1, 0), (2, 2, 1, 0), (3, 3, 2, 0), (4, 4, 2, 0)]
        assert open_backend.peer().get("a") == found[-1]

    @pytest.mark.parametrize("limit", [1, 7], ids=["of one", "of several"])
    def test_a_claim_counts_on_from_the_counts_that_were_stored(self, backend: Backend, limit: int) -> None:
        stored = make_record(attempts=9, unsettled=4, ahead=3, excused=2, first_leased=START - 5, series=SERIES)
        backend.put([stored])
        assert backend.get("a") == stored

        (leased,) = records(backend.lease(limit, MINUTE))

        token = leased.progress.token
        assert token is not None
        assert leased.progress == stored.progress.leased(token, START, START + MINUTE, limit)
        assert backend.get("a") == leased

    @pytest.mark.parametrize("together", [1, 3], ids=["alone", "in_a_batch"])
    @pytest.mark.parametrize(
        "counts",
        [
            (0, 0, 0, 0),
            (3, 0, 0, 1),
            (3, 2, 1, 0),
            (2, 0, 0, 0),
            (0, 0, 0, 2),
            (2**31 + 7, 2**31 + 6, 2**31 + 5, 2**31),
        ],
        ids=["none", "excused", "waiting", "attempts_alone", "excused_alone", "large"],
    )
    def test_a_settlement_writes_the_counts_that_it_says(
        self, backend: Backend, counts: tuple[int, int, int, int], together: int
    ) -> None:
        ids = "abc"[:together]
        backend.put([make_record(id, attempts=5, unsettled=4, ahead=3, excused=2, series=SERIES) for id in ids])
        leased = records(backend.lease(together, MINUTE))
        leased += lease_all(backend)
        attempts, unsettled, ahead, excused = counts
        written = Progress(
            START + 9, START + 9, attempts, None, None, None, unsettled=unsettled, ahead=ahead, excused=excused
        )

        assert (
            list(backend.settle([settlement(each, Outcome.RELEASE, written) for each in leased])) == [True] * together
        )

        assert [backend.get(each.id) for each in leased] == [attrs.evolve(each, progress=written) for each in leased]

    def test_an_extension_that_makes_an_attempt_certain_keeps_the_lease(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        """Written before a handler gets a message of which it is not known whether it kills its worker."""
        put_due(backend, "a", "b")
        lease_all(backend, limit=2, duration=1000)
        clock.advance(1)
        again = lease_all(backend, limit=2, duration=1000)
        certain = attrs.evolve(again[0].progress, due=START + 5000, ahead=1)

        assert list(backend.settle([settlement(again[0], Outcome.EXTEND, certain)])) == [True]

        assert backend.get(again[0].id) == attrs.evolve(again[0], progress=certain)
        clock.advance(4)
        third = {each.id: _counts(each.progress) for each in lease_all(backend, limit=2)}
        assert third == {again[0].id: (3, 3, 2, 0), again[1].id: (3, 3, 3, 0)}

    def test_a_record_that_is_stored_again_begins_anew(self, backend: Backend, clock: ManualClock) -> None:
        put_due(backend, "a")
        lease_all(backend, limit=9, duration=1000)
        clock.advance(1)
        lease_all(backend, limit=9)

        put_due(backend, "a")

        assert [_counts(each.progress) for each in lease_all(backend, limit=9)] == [(1, 1, 1, 0)]
