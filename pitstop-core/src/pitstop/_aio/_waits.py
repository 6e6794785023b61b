"""SettlementWaits: tasks that wait until the store has their settlements.

Threads: tasks of the loop's thread begin to wait; one thread of the pool at a time writes for all of them.
"""

from __future__ import annotations

import asyncio

from collections import deque
from contextlib import suppress

from pitstop._aio._hands import Hands, tell
from pitstop._engine._lease import Lease
from pitstop._engine._writer import AckWriter


__all__ = ["SettlementWaits"]


class SettlementWaits:
    """The waiting tasks of one listener.

    Invariant: ``_writing`` is set while a thread writes, or is about to look into ``_asked`` once more.
    """

    def __init__(self, hands: Hands) -> None:
        self._hands = hands
        # Appended to by the loop's thread, emptied by the writing one.
        self._asked: deque[tuple[AckWriter, Lease, asyncio.Future[None]]] = deque()
        self._writing = False

    async def written(self, writer: AckWriter, lease: Lease) -> None:
        """Write the settlement that ``lease`` was asked for, and return when the store has it.

        To be cancelled ends the wait, and not the write.

        :raises LeaseLost: when it came too late.
        :raises BackendUnavailable: when the store did not answer before the lease was over.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.append((writer, lease, future))
        if not self._writing:
            self._writing = True
            self._hands.submit(self._write)
        await future

    def after_fork(self) -> None:
        """Forget the tasks: they are the parent's."""
        self._asked.clear()
        self._writing = False

    def _write(self) -> None:
        """Write together, also the settlements that are asked for meanwhile."""
        while True:
            batch: list[tuple[AckWriter, Lease, asyncio.Future[None]]] = []
            with suppress(IndexError):
                while True:
                    batch.append(self._asked.popleft())
            if not batch:
                self._writing = False
                if not self._asked:
                    return
                self._writing = True
                continue
            for writer, lease, _ in batch:
                writer.take_along(lease)
            outcomes: list[tuple[asyncio.Future[None], Exception | None]] = []
            for writer, lease, future in batch:
                try:
                    writer.wait_for(lease)
                except Exception as error:  # noqa: BLE001 - whatever it is, the waiting task raises it
                    outcomes.append((future, error))
                else:
                    outcomes.append((future, None))
            tell(batch[0][2].get_loop(), _resolve, outcomes)


def _resolve(outcomes: list[tuple[asyncio.Future[None], Exception | None]]) -> None:
    for future, error in outcomes:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
