"""``consumers`` in the child of a fork: each running ``consume`` is the parent's."""

from __future__ import annotations

import asyncio

from datetime import timedelta

import pitstop


NOW = timedelta(0)


def test_a_child_has_no_consumers(fork):
    seen = []
    with pitstop.init("memory://") as pit:
        pit.store({"id": "a"}, NOW)

        def handle(message):
            child = fork(lambda: len(pit.consumers))
            seen.append((len(pit.consumers), child.result()))

        pit.consume(handle, max_messages=1)
    assert seen == [(1, 0)]


def test_a_child_of_an_event_loop_has_no_consumers(fork):
    seen = []

    async def main():
        async with pitstop.init_async("memory://") as pit:
            await pit.store({"id": "a"}, NOW)

            async def handle(message):
                child = fork(lambda: len(pit.consumers))
                seen.append((len(pit.consumers), child.result()))

            await pit.consume(handle, max_messages=1)

    asyncio.run(main())
    assert seen == [(1, 0)]
