"""The contract of ``get_many``, ``delete_many``, ``put_many_if`` and ``put_new``: many records in one call, each on its own condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import pytest

from pitstop.abc import PAUSED, Backend, Capability, Damaged, Outcome, Progress, Query, Record
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles, Kit, needs
from pitstop_conformance._records import (
    MINUTE,
    SERIES,
    START,
    complete,
    ids,
    lease_only,
    make_record,
    put_due,
    records,
    settlement,
)


#: Ids that a store may take for a pattern, an operator, or the same text.
_IDS = ["a", "A", "a%", "$in", "é", "e\u0301", "\uffff", "\U0001f3ce", "x" * 512]


def _moved(record: Record, due: int | None) -> Record:
    """Return a record with another time and a new revision."""
    return attrs.evolve(
        make_record(record.id), message=record.message, progress=Progress(due, record.progress.scheduled_for)
    )


def _change(backend: Backend, stored: list[Record], due: int | None) -> list[tuple[Record, str, Progress]]:
    return [(_moved(each, due), each.revision, each.progress) for each in stored]


class ManyRecords(Kit):
    """Batches of removals and conditional stores: each record by itself."""

    rule = "pitstop.abc.Many.get_many, delete_many, put_many_if and put_new"

    @pytest.fixture
    def batching(self, backend: Backend) -> Backend:
        needs(backend, Capability.CONDITIONAL)
        return backend

    def test_many_are_read_by_their_ids(self, backend: Backend) -> None:
        stored = [make_record(id, START + n, token="t") for n, id in enumerate(_IDS)]
        backend.put(stored)

        assert sorted(records(backend.get_many([*_IDS, "none"])), key=lambda each: each.progress.due or 0) == stored
        assert ids(backend.get_many(["a"])) == ["a"]
        assert list(backend.get_many(["none"])) == list(backend.get_many([])) == []

    def test_many_are_read_in_portions(self, backend: Backend) -> None:
        stored = [make_record(id, START + n, token="t") for n, id in enumerate(_IDS)]
        backend.put(stored)
        left: Sequence[str] = [*_IDS, "none"]
        found: list[Record | Damaged] = []

        while left:
            before = list(left)
            some, left = backend.get_portion(before)
            found += some
            assert set(left) < set(before), "each portion deals with at least one id"
            assert set(ids(some)).isdisjoint(left)

        assert sorted(records(found), key=lambda each: each.progress.due or 0) == stored
        assert list(backend.get_portion([])[0]) == []

    def test_many_are_removed_by_their_ids_and_no_others(self, backend: Backend) -> None:
        put_due(backend, *_IDS, "b", "c")
        lease_only(backend)

        assert list(backend.delete_many(["none", *_IDS, "other"])) == [False, *[True] * len(_IDS), False]
        assert sorted(ids(backend.scan(None, 100, None))) == ["b", "c"]
        assert list(backend.delete_many(_IDS)) == [False] * len(_IDS)
        assert list(backend.delete_many([])) == []

    @pytest.mark.parametrize("count", [1, 2, 700])
    def test_any_number_is_removed(self, backend: Backend, count: int) -> None:
        backend.put([make_record(f"{n:05}") for n in range(count + 3)])
        gone = [f"{n:05}" for n in range(count)]

        assert (
            list(backend.delete_many(gone, Query(prefix="0") if self._conditional(backend) else None)) == [True] * count
        )
        assert len(list(backend.scan(None, 10, None))) == 3

    def test_a_record_that_does_not_match_any_more_is_not_removed(self, batching: Backend) -> None:
        """Another user has moved it since the search, or has it now."""
        batching.put([make_record(id, START + 5) for id in ("a", "b", "c")])
        query = Query(due_before=START + 9)
        found = ids(batching.find(query, 10, None))
        batching.put([make_record("b", START + MINUTE)])

        assert list(batching.delete_many(found, query)) == [True, False, True]
        assert ids(batching.scan(None, 10, None)) == ["b"]

    @pytest.mark.parametrize(
        ("query", "gone"),
        [
            (Query(state="due"), ["due"]),
            (Query(state="scheduled"), ["later", "retry"]),
            (Query(state="leased"), ["leased"]),
            (Query(state="dead"), ["dead"]),
            (Query(failing=True), ["retry", "dead"]),
            (Query(failing=False), ["due", "later", "leased"]),
            (Query(due_from=START + 1), ["later", "retry", "leased"]),
            (Query(due_before=START + 1), ["due"]),
            (Query(prefix="le"), ["leased"]),
            (Query(prefix="d", state="dead"), ["dead"]),
            (Query(prefix=""), ["due", "later", "retry", "leased", "dead"]),
        ],
        ids=str,
    )
    def test_a_removal_takes_the_records_that_match(self, batching: Backend, query: Query, gone: list[str]) -> None:
        put_due(batching, "leased")
        lease_only(batching)
        failed: dict[str, Any] = {"attempts": 1, "first_leased": START - 9, "last_error": "boom"}
        batching.put(
            [
                make_record("due"),
                make_record("later", START + 5),
                make_record("retry", START + 5, **failed),
                make_record("dead", None, token="t", **failed),
            ]
        )
        every = ["due", "later", "retry", "leased", "dead"]

        removed = dict(zip(every, batching.delete_many(every, query), strict=True))

        assert [id for id, done in removed.items() if done] == gone
        assert sorted(ids(batching.scan(None, 10, None))) == sorted(set(every) - set(gone))

    def test_a_removal_of_a_kind_takes_no_record_that_has_another_one_by_now(self, batching: Backend) -> None:
        needs(batching, Capability.KINDS)
        batching.put([make_record("a", kind="mail"), make_record("b", kind="Mail"), make_record("c")])

        assert list(batching.delete_many(["a", "b", "c"], Query(kind="mail"))) == [True, False, False]

    def test_a_removal_goes_by_the_clock_of_the_store(self, batching: Backend, clock: ManualClock) -> None:
        put_due(batching, "a")
        lease_only(batching, duration=10)
        assert list(batching.delete_many(["a"], Query(state="due"))) == [False]

        clock.advance(0.01)

        assert list(batching.delete_many(["a"], Query(state="due"))) == [True]

    def test_a_lease_of_a_record_that_was_removed_is_over(self, batching: Backend) -> None:
        put_due(batching, "a")
        leased = lease_only(batching)
        assert list(batching.delete_many(["a"], Query(state="leased"))) == [True]

        assert list(batching.settle([settlement(leased, Outcome.RELEASE, Progress(START, START))])) == [False]
        assert batching.get("a") is None

    def test_a_damaged_record_is_removed_with_the_others(self, batching: Backend) -> None:
        put_due(batching, "a", "b", "c")
        self.damage(batching, "b")

        assert sorted(ids(batching.get_many(["a", "b", "c"]))) == ["a", "b", "c"]
        assert list(batching.delete_many(["a", "b"], Query(prefix=""))) == [True, True]
        assert ids(batching.scan(None, 10, None)) == ["c"]

    def test_many_are_stored_in_the_place_of_the_expected_ones(self, batching: Backend, open_backend: Handles) -> None:
        stored = [make_record(id, START + n) for n, id in enumerate(_IDS)]
        batching.put(stored)
        items = _change(batching, stored, START + MINUTE)

        assert list(batching.put_many_if(items)) == [True] * len(items)

        peer = open_backend.peer()
        assert [peer.get(record.id) for record, *_ in items] == [record for record, *_ in items]
        assert list(batching.put_many_if([])) == []

    def test_each_is_stored_by_its_own_condition(self, batching: Backend) -> None:
        stored = [make_record(id) for id in ("a", "b", "c", "d", "e")]
        batching.put(stored)
        items = _change(batching, stored, START + MINUTE)
        # One is claimed meanwhile, one stored anew, and one removed.
        claimed = lease_only(batching)
        anew = make_record("c")
        batching.put([anew])
        batching.delete("d")

        assert list(batching.put_many_if(items)) == [False, True, False, False, True]

        assert claimed.id == "a"
        assert batching.get("a") == claimed
        assert batching.get("c") == anew
        assert batching.get("d") is None, "no record comes back"
        assert [batching.get(id) for id in ("b", "e")] == [items[1][0], items[4][0]]
        again = _change(batching, stored, START)
        assert list(batching.put_many_if(again)) == [False] * 5, "by now, none is the expected one"

    def test_a_lease_of_a_record_that_was_stored_is_over(self, batching: Backend) -> None:
        put_due(batching, "a", "b")
        leased = records([*batching.lease(1, MINUTE), *batching.lease(1, MINUTE)])

        assert list(batching.put_many_if(_change(batching, leased, START))) == [True, True]

        done: list[Any] = [settlement(each, Outcome.COMPLETE, None) for each in leased]
        assert list(batching.settle(done)) == [False, False]
        assert sorted(ids(batching.scan("due", 10, None))) == ["a", "b"]

    def test_new_records_are_stored_as_they_are(self, batching: Backend, open_backend: Handles) -> None:
        """With all that a record may have: they come from another store."""
        progress: dict[str, Any] = {
            "attempts": 3,
            "first_leased": START - 9,
            "last_error": "boom",
            "unsettled": 2,
            "ahead": 1,
            "excused": 1,
        }
        stored = [make_record(id, START + n, scheduled_for=START - n, **progress) for n, id in enumerate(_IDS)]
        stored += [
            make_record("dead", None, token="t", **progress),
            make_record("paused", None, token=PAUSED),
            make_record("paused until", START + MINUTE, token=PAUSED),
            make_record("series", START + 1, series=SERIES),
        ]
        if Capability.KINDS in batching.capabilities:
            stored.append(make_record("kind", kind="mail"))
        if Capability.POLICIES in batching.capabilities:
            stored.append(make_record("policy", policy={"expires": 5, "moved": [1, 2]}))

        assert list(batching.put_new(stored)) == [True] * len(stored)

        peer = open_backend.peer()
        assert [peer.get(each.id) for each in stored] == stored
        assert list(batching.put_new([])) == []

    def test_a_record_that_is_there_stays(self, batching: Backend) -> None:
        put_due(batching, "a", "b")
        leased = lease_only(batching)
        before = [batching.get(id) for id in ("a", "b")]
        new = [make_record(id, START + MINUTE) for id in ("a", "x", "b", "y")]

        assert list(batching.put_new(new)) == [False, True, False, True]
        assert list(batching.put_new(new)) == [False] * 4

        assert [batching.get(id) for id in ("a", "b")] == before
        assert [batching.get(id) for id in ("x", "y")] == [new[1], new[3]]
        assert list(batching.settle([complete(leased)])) == [True], "its lease goes on"

    def test_a_damaged_record_is_there_too(self, batching: Backend) -> None:
        put_due(batching, "a", "b")
        self.damage(batching, "b")

        assert list(batching.put_new([make_record("b"), make_record("c")])) == [False, True]

        assert isinstance(batching.get("b"), Damaged)

    @pytest.mark.parametrize("count", [1, 2, 1200])
    def test_any_number_is_stored_anew(self, batching: Backend, count: int) -> None:
        new = [make_record(f"{n:05}") for n in range(count)]
        batching.put(new[::3])

        assert list(batching.put_new(new)) == [n % 3 != 0 for n in range(count)]

        assert len(list(batching.scan(None, count + 1, None))) == count

    def test_new_records_with_one_time_are_leased_in_the_order_in_which_they_came(self, batching: Backend) -> None:
        new = [make_record(id) for id in ("c", "a", "d", "b")]
        batching.put_new(new)

        assert ids(batching.lease(9, MINUTE)) == ["c", "a", "d", "b"]

    def test_next_due_follows_new_records(self, batching: Backend, open_backend: Handles) -> None:
        assert batching.next_due() is None
        batching.put_new([make_record("a", START + MINUTE), make_record("b", START + 7)])

        assert open_backend.peer().next_due() == START + 7

    def test_next_due_follows_a_store_of_many(self, batching: Backend, open_backend: Handles) -> None:
        stored = [make_record(id, START + MINUTE) for id in ("a", "b")]
        batching.put(stored)

        batching.put_many_if(_change(batching, stored, START + 7))

        assert open_backend.peer().next_due() == START + 7

    def _conditional(self, backend: Backend) -> bool:
        return Capability.CONDITIONAL in backend.capabilities
