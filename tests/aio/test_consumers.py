"""``AsyncPitstop.consumers`` at one moment."""

from __future__ import annotations

import pitstop

from aio.kit import NOW, run


def test_a_message_whose_handler_has_not_begun_is_in_hand():
    """A handler that blocks the loop keeps the others from their beginning."""

    async def main():
        seen = []

        async def handle(message):
            (consumer,) = pit.consumers
            seen.append((consumer.in_hand, consumer.in_handlers))

        async with pitstop.init_async("memory://") as pit:
            await pit.store_many([({"id": f"m{number}"}, NOW) for number in range(3)])
            await pit.consume(handle, prefetch=3, max_messages=3)
        assert seen == [(2, 1), (1, 1), (0, 1)]

    run(main())
