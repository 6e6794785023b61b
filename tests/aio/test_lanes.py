"""``consume`` with a handler for each kind, also with handlers that have ended before the call that creates their task returns."""

from __future__ import annotations

import asyncio

from collections import Counter

import pytest

import pitstop

from aio.kit import run
from pitstop_memory import MemoryBackend


pytestmark = pytest.mark.usefixtures("tasks")

KINDS = ("mail", "report")


class Unclosed(MemoryBackend):
    """Lives on when its Pitstop is closed."""

    def close(self):
        pass


@pytest.fixture
def backend():
    return Unclosed()


def store(backend, count):
    with pitstop.init({"type": backend}) as pit:
        for kind in KINDS:
            pit.store_many([({"id": f"{kind} {n}"}, None) for n in range(count)], kind=kind)


@pytest.mark.parametrize("concurrency", [1, 10])
def test_all_kinds_are_handled_until_none_is_left(backend, concurrency):
    store(backend, 100)
    seen = Counter()

    async def at_once(delivery):
        seen[delivery.kind] += 1

    async def later(delivery):
        await asyncio.sleep(0)
        seen[delivery.kind] += 1

    async def main():
        async with pitstop.init_async({"type": backend}) as pit:
            return await pit.consume({"mail": at_once, "report": later}, concurrency=concurrency, until_idle=True)

    assert run(main()).acked == 200
    assert seen == {"mail": 100, "report": 100}


@pytest.mark.parametrize("count", [1, 3])
def test_no_kind_gets_more_than_the_last_message(backend, count):
    store(backend, 10)

    async def handle(delivery):
        pass

    async def main():
        async with pitstop.init_async({"type": backend}) as pit:
            return await pit.consume(dict.fromkeys(KINDS, handle), max_messages=count)

    summary = run(main())
    assert (summary.acked, summary.reason) == (count, "max_messages")
    found = backend.scan(None, 100, None)
    assert len(found) == 20 - count
    assert all(each.progress.token is None for each in found), found
    assert all(each.progress.attempts == each.progress.excused for each in found), found
