"""The contract of damaged records among sound ones: they are set aside, and the sound records go on."""

from __future__ import annotations

import asyncio

from typing import Any

import pytest

import pitstop

from pitstop.abc import Aside, Backend, Damaged, Outcome
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles, Kit
from pitstop_conformance._records import (
    MINUTE,
    START,
    complete,
    ids,
    lease_all_and_damaged,
    make_record,
    put_due,
    settlement,
)


_IDS = [f"{n:02}" for n in range(12)]
_DAMAGED = ["00", "01", "04", "07", "11"]


class DamagedAmongOthers(Kit):
    """Several damaged records: the first, the last, and two side by side."""

    rule = 'docs/writing-a-backend.md, "Damaged records"'

    @pytest.mark.parametrize("limit", [1, 2, 5, 100])
    def test_damaged_records_hold_no_other_up_whatever_the_size_of_a_claim(self, backend: Backend, limit: int) -> None:
        put_due(backend, *_IDS)
        for id in _DAMAGED:
            self.damage(backend, id)

        leased = lease_all_and_damaged(backend, limit=limit)

        assert sorted(ids(leased)) == _IDS
        assert sorted(each.id for each in leased if isinstance(each, Damaged)) == _DAMAGED
        assert all(each.due == START + MINUTE and each.token for each in leased if isinstance(each, Damaged))

    @pytest.mark.parametrize("limit", [1, 2, 5, 12, 100])
    @pytest.mark.parametrize("due", [START, None], ids=["due", "dead"])
    def test_pages_show_damaged_records_among_the_others_and_end(
        self, backend: Backend, limit: int, due: int | None
    ) -> None:
        backend.put([make_record(id, due, token="t") for id in _IDS])
        for id in _DAMAGED:
            self.damage(backend, id)

        seen: list[str] = []
        after: tuple[int | None, str] | None = None
        while page := backend.scan(None, limit, after):
            seen += ids(page)
            last = page[-1]
            after = (last.due if isinstance(last, Damaged) else last.progress.due, last.id)
            assert len(seen) <= len(_IDS), "the pages repeat records"

        assert seen == _IDS

    def test_a_damaged_record_is_set_aside_by_the_one_who_has_its_lease(
        self, backend: Backend, open_backend: Handles, clock: ManualClock
    ) -> None:
        put_due(backend, "a")
        self.damage(backend, "a")
        peer = open_backend.peer()
        (first,) = backend.lease(1, 1000)
        clock.advance(2)
        (second,) = peer.lease(1, MINUTE)

        late = backend.settle([settlement(first, Outcome.BURY, Aside("late"))])
        in_time = peer.settle([settlement(second, Outcome.BURY, Aside("in time"))])

        assert (list(late), list(in_time)) == ([False], [True])
        assert list(backend.lease(1, MINUTE)) == []
        assert ids(backend.scan("dead", 10, None)) == ["a"]

    def test_a_batch_settles_damaged_and_sound_records_each_by_itself(self, backend: Backend) -> None:
        put_due(backend, "a", "b", "c", "d")
        self.damage(backend, "b")
        self.damage(backend, "c")
        leased = {each.id: each for each in lease_all_and_damaged(backend)}
        stale = settlement(leased["c"], Outcome.BURY, Aside("stale"))
        stale = type(stale)(stale.id, "0" * 32, stale.outcome, stale.progress)

        applied = backend.settle(
            [
                complete(leased["a"]),
                settlement(leased["b"], Outcome.BURY, Aside("set aside")),
                stale,
                complete(leased["d"]),
            ]
        )

        assert list(applied) == [True, True, False, True]
        assert ids(backend.scan("dead", 10, None)) == ["b"]
        assert ids(backend.scan("leased", 10, None)) == ["c"]

    @pytest.mark.parametrize("way", ["sync", "asyncio"])
    def test_consume_handles_all_but_the_damaged_ones(self, open_backend: Handles, way: str) -> None:
        backend = open_backend()
        put_due(backend, *_IDS)
        for id in _DAMAGED:
            self.damage(backend, id)
        handled: list[str] = []
        if way == "sync":
            with pitstop.init({"type": backend}) as pit:
                pit.consume(lambda msg: handled.append(msg["id"]), until_idle=True)
        else:
            asyncio.run(_consume(backend, handled))

        assert sorted(handled) == sorted(set(_IDS) - set(_DAMAGED))
        assert ids(open_backend.peer().scan(None, 100, None)) == _DAMAGED
        assert ids(open_backend.peer().scan("dead", 100, None)) == _DAMAGED


async def _consume(backend: Backend, handled: list[str]) -> None:
    async def handle(msg: dict[str, Any]) -> None:
        handled.append(msg["id"])

    async with asyncio.timeout(60), pitstop.init_async({"type": backend}) as pit:
        await pit.consume(handle, until_idle=True)
