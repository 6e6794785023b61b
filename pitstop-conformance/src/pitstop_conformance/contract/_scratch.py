"""The contract of ``scratch``: a separate namespace for trials that never touch the messages."""

from __future__ import annotations

import pytest

import pitstop

from pitstop.abc import Backend, Capability, Outcome
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles, Kit, needs
from pitstop_conformance._records import (
    MINUTE,
    START,
    complete,
    ids,
    lease_all,
    lease_only,
    make_record,
    put_due,
    settlement,
)


class Scratch(Kit):
    """A separate namespace beside the messages."""

    rule = "pitstop.abc.Backend.scratch"

    def test_without_the_capability_a_scratch_is_refused(self, backend: Backend) -> None:
        if Capability.SCRATCH in backend.capabilities:
            with backend.scratch() as scratch:
                assert isinstance(scratch, Backend)
        else:
            with pytest.raises(pitstop.Unsupported, match=f"{type(backend).__name__}.* capability SCRATCH"):
                backend.scratch()

    def test_a_scratch_is_empty_also_when_another_one_was_not(self, backend: Backend) -> None:
        needs(backend, Capability.SCRATCH)
        put_due(backend, "a")
        for _ in range(2):
            with backend.scratch() as scratch:
                assert list(scratch.scan(None, 10, None)) == []
                assert scratch.next_due() is None
                assert list(scratch.lease(10, MINUTE)) == []

                put_due(scratch, "a", "b")
                lease_only(scratch)

    def test_what_is_done_in_a_scratch_leaves_the_store_as_it_was(self, backend: Backend) -> None:
        needs(backend, Capability.SCRATCH)
        dead = make_record("dead", None, token="t", attempts=3, last_error="given up", first_leased=START)
        backend.put([make_record("due"), make_record("later", START + MINUTE), dead, make_record("leased", START - 1)])
        leased = lease_only(backend)
        before, tally = list(backend.scan(None, 10, None)), backend.tally()

        with backend.scratch() as scratch:
            put_due(scratch, "due", "later", "dead", "leased", "more")
            assert leased.progress.token is not None
            assert list(scratch.settle([complete(leased)])) == [False]
            assert ids(lease_all(scratch)) == ["due", "later", "dead", "leased", "more"]
            for id in ("due", "later", "dead", "leased"):
                assert scratch.delete(id) is True
            assert list(backend.scan(None, 10, None)) == before

        assert list(backend.scan(None, 10, None)) == before
        assert backend.tally() == tally
        assert list(backend.settle([complete(leased)])) == [True]

    def test_what_is_done_in_the_store_is_not_seen_in_a_scratch(self, backend: Backend, open_backend: Handles) -> None:
        needs(backend, Capability.SCRATCH)
        peer = open_backend.peer()
        with backend.scratch() as scratch:
            put_due(backend, "a")
            put_due(peer, "b")
            put_due(scratch, "c")

            assert ids(scratch.scan(None, 10, None)) == ["c"]
            assert ids(lease_all(backend)) == ["a", "b"]
            assert scratch.tally().due == 1
            assert backend.delete("a")
            assert ids(lease_all(scratch)) == ["c"]

    def test_two_at_once_have_nothing_to_do_with_each_other(self, backend: Backend, open_backend: Handles) -> None:
        needs(backend, Capability.SCRATCH)
        with backend.scratch() as one, backend.scratch() as two, open_backend.peer().scratch() as three:
            put_due(one, "a")
            put_due(two, "a", "b")

            assert ids(lease_all(one)) == ["a"]
            assert ids(lease_all(two)) == ["a", "b"]
            assert list(three.scan(None, 10, None)) == []

    def test_a_scratch_has_the_settings_of_its_store(self, open_backend: Handles) -> None:
        backend = open_backend(lock_time="90s", loop_time="7s", retry={"delay": "5s", "max_attempts": 3})
        needs(backend, Capability.SCRATCH)
        with backend.scratch() as scratch:
            for name in ("lock_time", "loop_time", "retry", "clock"):
                assert getattr(scratch.config, name) == getattr(backend.config, name)
            assert type(scratch) is type(backend)
            assert scratch.capabilities == backend.capabilities
            assert scratch.location

    def test_a_scratch_works_as_a_store_does(self, backend: Backend, clock: ManualClock) -> None:
        needs(backend, Capability.SCRATCH)
        with backend.scratch() as scratch:
            scratch.put([make_record("a", START + MINUTE, series={"start": START}), make_record("b")])
            first = lease_only(scratch)
            assert list(scratch.settle([settlement(first, Outcome.COMPLETE, None)])) == [True]
            assert list(scratch.lease(10, MINUTE)) == []

            clock.advance(60)

            assert ids(lease_all(scratch)) == ["a"]
            assert scratch.tally().leased == 1

    def test_a_scratch_goes_and_its_store_stays_when_something_is_raised_in_it(self, backend: Backend) -> None:
        needs(backend, Capability.SCRATCH)
        put_due(backend, "a")

        with pytest.raises(ZeroDivisionError), backend.scratch() as scratch:
            _put_and_raise(scratch)

        assert ids(backend.scan(None, 10, None)) == ["a"]
        with backend.scratch() as scratch:
            assert list(scratch.scan(None, 10, None)) == []


def _put_and_raise(scratch: Backend) -> None:
    put_due(scratch, "b")
    raise ZeroDivisionError
