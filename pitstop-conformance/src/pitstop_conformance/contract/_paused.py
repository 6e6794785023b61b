"""The contract for paused records: records with the token ``PAUSED``."""

from __future__ import annotations

import attrs
import pytest

from pitstop import State
from pitstop.abc import PAUSED, Backend, Capability, Outcome, Progress, Record, Settlement, Tally
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles, Kit, needs
from pitstop_conformance._records import MINUTE, START, ids, lease_all, lease_only, make_record, put_due, records


_ALL = [
    *("due-1", "scheduled-1", "paused-b", "paused-c", "scheduled-2", "leased-1"),
    *("dead-1", "dead-3", "paused-a", "paused-d"),
]


def _of_every_state(backend: Backend) -> None:
    """Store records in each state. The ids begin with the state."""
    put_due(backend, "leased-1")
    lease_only(backend, duration=MINUTE)
    policy = {"paused": {"until": None, "due": None}}
    stored = [
        make_record("paused-d", None, token=PAUSED),
        make_record("dead-1", None, token="t1"),
        make_record("scheduled-2", START + 9),
        make_record("due-1", START),
        make_record("paused-c", START + 7, token=PAUSED),
        make_record("paused-a", None, token=PAUSED),
        make_record("dead-3", None, token="t3"),
        make_record("scheduled-1", START + 5),
        make_record("paused-b", START + 7, token=PAUSED),
    ]
    backend.put([attrs.evolve(each, policy=policy) if each.progress.token == PAUSED else each for each in stored])


class Paused(Kit):
    """A paused record is a state of its own, and no claim takes it before its ``due``."""

    rule = "pitstop.abc.Backend.scan, tally and lease"

    @pytest.fixture
    def paused(self, backend: Backend) -> Backend:
        """A store with records in every state, if the backend can get paused ones."""
        needs(backend, Capability.CONDITIONAL)
        needs(backend, Capability.POLICIES)
        _of_every_state(backend)
        return backend

    @pytest.mark.parametrize("state", ["scheduled", "due", "leased", "dead", "paused"])
    def test_scan_shows_paused_records_in_no_other_state(self, paused: Backend, state: State) -> None:
        assert ids(paused.scan(state, 100, None)) == [each for each in _ALL if each.startswith(state)]

    @pytest.mark.parametrize("size", [1, 2, 3])
    @pytest.mark.parametrize("state", ["paused", "dead", None])
    def test_pages_show_each_paused_record_once(self, paused: Backend, state: State | None, size: int) -> None:
        wanted = [each for each in _ALL if state is None or each.startswith(state)]
        seen: list[Record] = []
        while True:
            after = (seen[-1].progress.due, seen[-1].id) if seen else None
            page = records(paused.scan(state, size, after))
            if not page:
                break
            seen.extend(page)
            assert len(seen) <= len(wanted), f"too many records: {[each.id for each in seen]}"
        assert [each.id for each in seen] == wanted

    def test_tally_counts_paused_records_apart(self, paused: Backend) -> None:
        assert paused.tally() == Tally(scheduled=2, due=1, leased=1, dead=2, oldest_due=START, paused=4)

    def test_a_claim_takes_a_paused_record_when_its_due_has_come(self, paused: Backend, clock: ManualClock) -> None:
        clock.advance(0.006)
        assert ids(lease_all(paused)) == ["due-1", "scheduled-1"]
        clock.advance(0.001)
        before = {each.id: each for each in records(paused.scan("due", 10, None))}
        assert list(before) == ["paused-b", "paused-c"], "a paused record whose time has come is due"
        assert paused.tally().paused == 2
        leased = records(lease_all(paused, duration=MINUTE))
        # Of two records with one `due`, the one that came in first is leased first.
        assert ids(leased) == ["paused-c", "paused-b"]
        for each in leased:
            token = each.progress.token
            assert token not in {None, PAUSED}
            assert token is not None
            wanted = before[each.id].progress.leased(token, START + 7, START + 7 + MINUTE, 100)
            assert each == attrs.evolve(before[each.id], progress=wanted)

    def test_next_due_does_not_count_a_paused_record_without_a_due(
        self, paused: Backend, open_backend: Handles
    ) -> None:
        for each in _ALL:
            if each not in {"paused-a", "paused-c"}:
                paused.delete(each)
        assert open_backend.peer().next_due() == START + 7
        paused.delete("paused-c")
        assert open_backend.peer().next_due() is None

    @pytest.mark.parametrize("due", [None, START + MINUTE], ids=["without end", "with an end"])
    def test_a_settlement_parks_a_leased_record(self, paused: Backend, due: int | None) -> None:
        leased = lease_only(paused, duration=MINUTE)
        assert leased.progress.token is not None
        parked = Progress(due, leased.progress.scheduled_for, 3, START, "failed", PAUSED)

        assert paused.settle([Settlement(leased.id, leased.progress.token, Outcome.PAUSE, parked)]) == [True]

        assert paused.get(leased.id) == attrs.evolve(leased, progress=parked)
        assert paused.settle([Settlement(leased.id, leased.progress.token, Outcome.COMPLETE, None)]) == [False]
        assert leased.id in ids(paused.scan("paused", 100, None))
