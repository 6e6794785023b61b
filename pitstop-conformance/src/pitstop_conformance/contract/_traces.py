"""The contract of the things that a backend leaves behind in its store: no scratch, and no open transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pitstop.abc import Backend, Capability
from pitstop_conformance._kit import Kit, needs
from pitstop_conformance._records import MINUTE, START, lease_only, put_due


_READS: dict[str, Callable[[Backend], Any]] = {
    "get": lambda backend: backend.get("a"),
    "get_many": lambda backend: backend.get_many(["a"]),
    "scan": lambda backend: backend.scan(None, 10, None),
    "scan_of_a_state": lambda backend: backend.scan("due", 1, (START, "")),
    "tally": lambda backend: backend.tally(),
    "tally_by_kind": lambda backend: backend.tally_by_kind(),
    "next_due": lambda backend: backend.next_due(),
    "ping": lambda backend: backend.ping(),
    "concerns": lambda backend: backend.concerns(),
    "an_empty_claim": lambda backend: backend.lease(10, MINUTE),
}


class Traces(Kit):
    """Tables, files and transactions of the backend, seen from outside."""

    rule = 'docs/writing-a-backend.md, "Threads, processes, forks", and pitstop.abc.Backend.scratch'

    def test_a_scratch_leaves_nothing_behind(self, backend: Backend) -> None:
        needs(backend, Capability.SCRATCH)
        put_due(backend, "a")
        before = set(self.traces(backend))
        for _ in range(2):
            with backend.scratch() as scratch:
                put_due(scratch, "a", "b")
                lease_only(scratch)

        assert set(self.traces(backend)) - before == set(), "a scratch goes with all that belongs to it"

    def test_a_scratch_leaves_nothing_behind_when_its_block_raises(self, backend: Backend) -> None:
        needs(backend, Capability.SCRATCH)
        put_due(backend, "a")
        before = set(self.traces(backend))

        def fail() -> None:
            with backend.scratch() as scratch:
                put_due(scratch, "a")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()

        assert set(self.traces(backend)) - before == set(), "a scratch goes with all that belongs to it"

    @pytest.mark.parametrize("operation", _READS)
    def test_a_read_leaves_no_transaction_open(self, backend: Backend, operation: str) -> None:
        """An open transaction keeps old rows from being cleaned up, and blocks changes of the table."""
        put_due(backend, "a")
        lease_only(backend)
        before = set(self.traces(backend))
        # A read of the newest write, which in some stores is not yet where older records are.
        put_due(backend, "b")

        _READS[operation](backend)

        assert set(self.traces(backend)) - before == set(), "the read leaves the store as it was, with no transaction"
