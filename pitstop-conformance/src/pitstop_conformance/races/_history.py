"""The reports of processes that were killed one after the other, compared with the records in the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import attrs

from pitstop.abc import Record
from pitstop_conformance._records import ids, make_record


__all__ = ["History", "of_batch"]


class History:
    """The reports of processes that were killed one after the other, and the state that follows from them."""

    def __init__(self) -> None:
        #: The records that may be there: all reported as put, and of each process the batch after its last report.
        self._attempted = set[str]()
        #: The records that were reported as put.
        self.put = set[str]()
        self._completed = set[str]()
        #: The records that were claimed by a process that was killed before it reported their settlement.
        self._in_doubt = set[str]()
        self._attempts = Counter[str]()

    def take(self, said: Sequence[Any], life: int) -> None:
        # A process reports a batch after the put, so its last batch may be there or not.
        rounds = sum(what == "put" for what, _ in said)
        self._attempted |= {f"{life}-{n}-{m}" for n in range(rounds + 1) for m in range(4)}
        for what, told in said:
            if what == "put":
                self.put |= set(told)
            elif what == "completed":
                self._completed |= set(told)
            else:
                for id, attempts in told:
                    assert id not in self._completed, "a completed record never comes back"
                    assert id in self._attempted
                    assert attempts > self._attempts[id], "the number of attempts never falls"
                    self._attempts[id] = attempts
        if said and said[-1][0] == "claim":
            self._in_doubt |= {id for id, _ in said[-1][1][:1]}

    def check_stored(self, stored: list[Record]) -> None:
        names = set(ids(stored))
        assert not names & self._completed, "each completed record is gone"
        assert names >= self.put - self._completed - self._in_doubt, "no record is lost"
        assert names <= self._attempted
        for each in stored:
            whole = of_batch(each.id, int(each.id.split("-")[1]))
            assert attrs.evolve(each, progress=whole.progress) == whole, (
                "each record is whole: all its fields are of one put"
            )

    def check_drained(self, drained: list[Record]) -> None:
        self.check_stored(drained)
        assert len(set(ids(drained))) == len(drained), "each record is leased once more"
        assert all(each.progress.attempts > self._attempts[each.id] for each in drained), (
            "the number of attempts never falls"
        )


def of_batch(id: str, n: int) -> Record:
    """Return the record with this id in that batch. Each call returns an equal record."""
    return make_record(id, message={"batch": n, "pad": f"{id}/{n};" * 40}, revision=f"{id}/{n}")
