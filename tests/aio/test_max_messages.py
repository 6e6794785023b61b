"""``max_messages`` in an event loop: so many messages are handled, neither more nor fewer."""

from __future__ import annotations

import asyncio

from datetime import timedelta

import pytest

import pitstop

from aio.kit import NOW, run
from pitstop.testing import ManualClock


@pytest.mark.usefixtures("tasks")
def test_a_message_that_is_passed_on_does_not_count():
    """A handler blocks the loop until the lease of the next message is over. That message is not handled then."""

    async def main():
        clock, seen = ManualClock(), []

        async def handle(message):
            seen.append(message["id"])
            if len(seen) == 1:
                clock.advance(timedelta(minutes=1))

        config = {"type": "memory", "clock": clock, "lock_time": "1m"}
        async with pitstop.init_async(config) as pit:
            await pit.store_many([({"id": f"m{number}"}, NOW) for number in range(4)])
            async with asyncio.timeout(30):
                summary = await pit.consume(handle, concurrency=2, prefetch=2, max_messages=2)
        assert (len(seen), summary.handled, summary.reason) == (2, 2, "max_messages")

    run(main())
