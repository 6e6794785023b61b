"""Batches of the same ids in other orders, at the same time: on a server with row locks they wait for each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import attrs
import pytest

from pitstop.abc import Backend, Outcome, Record
from pitstop_conformance._kit import Handles, Kit
from pitstop_conformance._records import MINUTE, START, ids, lease_all, make_record, records, settlement
from pitstop_conformance.races._threads import together


_ROUNDS = 10
_RECORDS = 100


class Orders(Kit):
    """Two batches that lock rows in opposite orders. A server ends one of them with an error, unless the rows are locked in one order."""

    rule = 'docs/writing-a-backend.md, "Threads, processes, forks"'

    @pytest.fixture(params=["one_handle", "peers"])
    def handles(self, request: pytest.FixtureRequest, open_backend: Handles) -> list[Backend]:
        first = open_backend()
        return [first] * 4 if request.param == "one_handle" else [first, *(open_backend.peer() for _ in range(3))]

    def test_stores_of_the_same_ids_in_other_orders_do_not_hinder_each_other(self, handles: list[Backend]) -> None:
        names = [f"{n:03}" for n in range(_RECORDS)]

        def store(backend: Backend, order: list[str]) -> None:
            for _ in range(_ROUNDS):
                backend.put([make_record(each) for each in order])

        _unhindered(*_in_orders(handles, names, store))

        assert ids(handles[0].scan(None, 2 * _RECORDS, None)) == names

    def test_settlements_of_the_same_leases_in_other_orders_apply_once_each(self, handles: list[Backend]) -> None:
        """Some extend, and all complete. Each lease is completed by one of them, and none is lost."""
        for _ in range(_ROUNDS):
            handles[0].put([make_record(f"{n:03}") for n in range(_RECORDS)])
            leased = {each.id: each for each in lease_all(handles[0])}

            def settle(backend: Backend, order: list[str], leased: dict[str, Record] = leased) -> list[bool | None]:
                longer = [
                    settlement(each, Outcome.EXTEND, attrs.evolve(each.progress, due=START + 5 * MINUTE))
                    for each in (leased[id] for id in order)
                ]
                backend.settle(longer)
                return list(backend.settle([settlement(leased[id], Outcome.COMPLETE, None) for id in order]))

            applied = _unhindered(*_in_orders(handles, sorted(leased), settle))

            # In a batch, a delete may be reported as applied although another caller had removed the record before.
            assert sum(bool(each) for some in applied for each in some) >= _RECORDS
            assert list(handles[0].scan(None, 10, None)) == [], "each lease is completed"

    def test_stores_and_settlements_in_other_orders_leave_whole_records(self, handles: list[Backend]) -> None:
        names = [f"{n:03}" for n in range(_RECORDS)]
        handles[0].put([make_record(each) for each in names])
        leased = {each.id: each for each in lease_all(handles[0])}

        def store(backend: Backend) -> None:
            for _ in range(_ROUNDS):
                backend.put([make_record(each, START + MINUTE) for each in reversed(names)])

        def extend(backend: Backend) -> None:
            for _ in range(_ROUNDS):
                backend.settle([settlement(leased[each], Outcome.EXTEND, leased[each].progress) for each in names])

        _unhindered(partial(store, handles[0]), partial(extend, handles[1]), partial(store, handles[2]))

        stored = records(handles[0].scan(None, 2 * _RECORDS, None))
        assert ids(stored) == names
        assert {each.progress.token for each in stored} == {None}, "a store ends each lease"


def _unhindered(*works: Callable[[], Any]) -> Sequence[Any]:
    """Run the works at the same time. None of them may fail."""
    try:
        return together(*works)
    except Exception as error:
        raise AssertionError(
            f"A {type(error).__name__} got out of a batch while another batch of the same ids was written. Lock the rows in the "
            f"order of their ids, or try again after a deadlock."
        ) from error


def _in_orders(
    handles: list[Backend], names: list[str], work: Callable[[Backend, list[str]], Any]
) -> list[Callable[[], Any]]:
    half = len(names) // 2
    orders = [names, names[::-1], names[half:] + names[:half], names[::-1]]
    return [partial(work, each, order) for each, order in zip(handles, orders, strict=True)]
