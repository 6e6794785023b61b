"""SettlementWaits: tasks that wait until the store has their settlements.

Threads: tasks of the loop's thread begin to wait; one thread of the pool at a time writes for all of them.
"""

from __future__ import annotations

import asyncio

from collections import deque
from contextlib import suppress

from pitstop._aio._hands import Hands, resolve, tell
from pitstop._engine._lease import Lease
from pitstop._engine._writer import AckWriter


__all__ = ["SettlementWaits"]

_Waiting = tuple[AckWriter, Lease, asyncio.Future[None]]
_Outcome = tuple[asyncio.Future[None], Exception | None]


class SettlementWaits:
    """The waiting tasks of one listener.

    Invariant: ``_writing`` is set while a thread writes, or is about to look into ``_asked`` once more.
    """

    def __init__(self, hands: Hands) -> None:
        self._hands = hands
        # Appended to by the loop's thread, emptied by the writing one.
        self._asked: deque[_Waiting] = deque()
        self._writing = False

    async def written(self, writer: AckWriter, lease: Lease) -> None:
        """Write the settlement that ``lease`` was asked for together with others, and return when the store has it.

        To be cancelled ends the wait, and not the write.

        :raises LeaseLost: when it came too late.
        :raises BackendUnavailable: when the store did not answer before the lease was over.
        :raises RuntimeError: when no thread can be started. The caller may settle again.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = writer, lease, future
        self._asked.append(waiting)
        if not self._writing:
            self._writing = True
            try:
                self._hands.leave(self._write)
            except RuntimeError:
                # Unless a thread that was about to end has taken it.
                if self._withdrawn(waiting):
                    raise
        await future

    async def written_at_once(self, writer: AckWriter, lease: Lease) -> None:
        """Write the settlement that ``lease`` was asked for by itself, and return when the store has it.

        To be cancelled ends the wait, and not the write.

        :raises LeaseLost: when it came too late.
        :raises BackendUnavailable: when the store did not answer.
        :raises RuntimeError: when no thread can be started. The caller may settle again.
        """
        try:
            written = self._hands.begin(writer.write_at_once, lease, left=True)
        except RuntimeError:
            lease.hand_back(None)
            raise
        await written

    def after_fork(self) -> None:
        """Forget the tasks: they are the parent's."""
        self._asked.clear()
        self._writing = False

    def _withdrawn(self, waiting: _Waiting) -> bool:
        """Take back a settlement that no thread has begun to write. Return False if one has."""
        try:
            self._asked.remove(waiting)
        except ValueError:
            return False
        self._writing = False
        waiting[1].hand_back(None)
        return True

    def _write(self) -> None:
        """Write together, also the settlements that are asked for meanwhile."""
        while True:
            batch: list[_Waiting] = []
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
            outcomes: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
            for writer, lease, future in batch:
                error: Exception | None = None
                try:
                    writer.wait_for(lease)
                except Exception as raised:  # noqa: BLE001 - whatever it is, the waiting task raises it
                    error = raised
                # A delivery may be settled in another loop than the listener's.
                outcomes.setdefault(future.get_loop(), []).append((future, error))
            for loop, of_loop in outcomes.items():
                tell(loop, _resolve, of_loop)


def _resolve(outcomes: list[_Outcome]) -> None:
    for future, error in outcomes:
        resolve(future, None, error)
