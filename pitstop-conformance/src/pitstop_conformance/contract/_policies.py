"""Policies: records keep them, whatever is stored over them and settled."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from pitstop.abc import Backend, Capability, Outcome
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles, Kit, needs
from pitstop_conformance._records import EVERY_OUTCOME, MINUTE, SERIES, lease_only, make_record, records, settlement


__all__ = ["KeptPolicies"]

#: A policy with a value of each sort that a policy may hold.
_POLICY: dict[str, Any] = {
    "lock_time": 7_200_000,
    "retry": {"factor": 1.5, "delay": None, "words": ["a", True, {"a.b": {"$c": 0}}]},
}


class KeptPolicies(Kit):
    """Records that keep a policy. Kinds are not needed for it."""

    rule = 'docs/writing-a-backend.md, "Kinds"'

    @pytest.fixture
    def lenient(self, backend: Backend) -> Backend:
        needs(backend, Capability.POLICIES)
        return backend

    @pytest.mark.parametrize("policy", [None, {}, _POLICY], ids=["none", "empty", "full"])
    def test_a_policy_comes_back_as_it_was_stored(
        self, lenient: Backend, open_backend: Handles, policy: dict[str, Any] | None
    ) -> None:
        record = make_record(policy=policy, series=SERIES)
        lenient.put([record])
        assert lenient.get("a") == record
        assert open_backend.peer().get("a") == record
        assert list(lenient.scan("due", 1, None)) == [record]

        leased = lease_only(lenient)

        assert leased.policy == policy
        assert lenient.get("a") == leased

    def test_a_new_version_has_its_own_policy(self, lenient: Backend) -> None:
        for policy in (_POLICY, {"lock_time": 1000}, None, _POLICY):
            record = make_record(policy=policy)
            lenient.put([record])
            assert lenient.get("a") == record

    def test_each_record_of_a_batch_has_its_own_policy(self, lenient: Backend) -> None:
        policies = [None, _POLICY, {"lock_time": 1000}, None, {"lock_time": 2000}]
        stored = [make_record(str(n), policy=policy) for n, policy in enumerate(policies)]
        lenient.put(stored)

        assert [lenient.get(each.id) for each in stored] == stored
        assert [each.policy for each in records(lenient.lease(len(stored), MINUTE))] == policies

    @pytest.mark.usefixtures("conditional")
    @pytest.mark.parametrize("unchanged", [False, True], ids=["by_revision", "by_revision_and_progress"])
    def test_a_conditional_store_writes_the_policy(self, lenient: Backend, unchanged: bool) -> None:
        first = make_record(policy=_POLICY)
        assert lenient.put_if(first, None)
        assert lenient.get("a") == first

        for policy in (None, {"lock_time": 1000}):
            before = lenient.get("a")
            assert before is not None
            (stored,) = records([before])
            second = make_record(policy=policy)
            assert lenient.put_if(second, stored.revision, stored.progress if unchanged else None)
            assert lenient.get("a") == second

    @pytest.mark.usefixtures("conditional")
    def test_a_conditional_store_that_is_refused_leaves_the_policy(self, lenient: Backend) -> None:
        first = make_record(policy=_POLICY)
        lenient.put([first])

        assert not lenient.put_if(make_record(policy={"lock_time": 1000}), None)
        assert not lenient.put_if(make_record(), "another")

        assert lenient.get("a") == first

    @pytest.mark.parametrize("outcome", [each for each in Outcome if each is not Outcome.COMPLETE])
    @pytest.mark.parametrize("together", [1, 3], ids=["alone", "in_a_batch"])
    def test_a_settlement_leaves_the_policy(self, lenient: Backend, outcome: Outcome, together: int) -> None:
        lenient.put([make_record(id, policy=_POLICY) for id in "abc"[:together]])
        leased = [each for _ in range(together) for each in records(lenient.lease(together, MINUTE))]

        written = {each.id: EVERY_OUTCOME[outcome](each) for each in leased}

        assert all(lenient.settle([settlement(each, outcome, written[each.id]) for each in leased]))
        assert [lenient.get(each.id) for each in leased] == [
            attrs.evolve(each, progress=written[each.id]) for each in leased
        ]

    def test_a_lease_that_ran_out_leaves_the_policy(self, lenient: Backend, clock: ManualClock) -> None:
        lenient.put([make_record(policy=_POLICY)])
        lease_only(lenient)
        clock.advance(60)

        assert lease_only(lenient).policy == _POLICY
