"""AsyncTransferring: the methods that move all messages of a store to a file or to another store, for event loops.

Each call works in threads, page by page. If its caller is cancelled, no further page is begun.

Threads: the loop's thread; the work is done in a thread of the pool.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from asyncio import CancelledError
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from pitstop._aio._many import Ended, Reins
from pitstop._errors import PitstopError
from pitstop._pitstop import Pitstop
from pitstop._values._quoting import quoted
from pitstop._values._transfer import IfOther, Transfer


__all__ = ["AsyncTransferring"]

_T = TypeVar("_T")
#: How many lines of an export one thread reads at a time.
_LINES = 500


class AsyncTransferring(ABC):
    """A part of :class:`pitstop.AsyncPitstop`.

    If one of these calls is cancelled, the wait ends at once. The page that is being written is still written, and no other page is
    begun.
    """

    @abstractmethod
    async def _do(self, method: Callable[..., _T], *args: Any, **options: Any) -> _T:
        """Run a method of the :class:`pitstop.Pitstop` in a thread, and return its result."""

    async def export_lines(self, *, live: bool = False) -> AsyncGenerator[bytes, None]:
        """Yield all messages as lines of JSON: see :meth:`pitstop.Pitstop.export_lines`.

        :raises PitstopError: when a message is leased, and ``live`` is false; also at the end, when the store has not as many messages
            as were read.
        """
        lines: Iterator[bytes] = await self._do(Pitstop.export_lines, live=live)
        while some := await self._do(lambda _: list(islice(lines, _LINES))):
            for line in some:
                yield line

    async def import_lines(
        self,
        lines: Iterable[bytes | str],
        *,
        if_exists: IfOther = "keep",
        live: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> Transfer:
        """Store the messages of an export. Return the outcome: see :meth:`pitstop.Pitstop.import_lines`.

        :param lines: read in another thread, in which ``progress`` is called, too.
        """
        return await self._transfer(
            lambda pit, reins: pit.import_lines(
                reins.over(iter(lines)), if_exists=if_exists, live=live, progress=reins.note
            ),
            progress,
        )

    async def copy_to(
        self,
        target: AsyncTransferring,
        *,
        if_exists: IfOther = "keep",
        live: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> Transfer:
        """Store all messages of this store in another one. Return the outcome: see :meth:`pitstop.Pitstop.copy_to`.

        :param target: the other store, a :class:`pitstop.AsyncPitstop`.
        :param progress: called in another thread.
        """
        if not isinstance(target, AsyncTransferring):
            raise PitstopError(
                f"target={quoted(target)} is no AsyncPitstop. Give one that pitstop.init_async() has returned."
            )
        other = await _opened(target)
        return await self._transfer(
            lambda pit, reins: pit.copy_to(other, if_exists=if_exists, live=live, progress=reins.note), progress
        )

    async def _transfer(
        self, call: Callable[[Pitstop, Reins], Transfer], progress: Callable[[int], object] | None
    ) -> Transfer:
        reins = Reins(progress)

        def transfer(pit: Pitstop) -> Transfer:
            try:
                reins.check()
                return call(pit, reins)
            except Ended:
                # The caller does not wait any more, so it gets no outcome.
                return Transfer()

        try:
            return await self._do(transfer)
        except CancelledError:
            reins.cancelled = True
            raise


async def _opened(part: AsyncTransferring) -> Pitstop:
    return await part._do(lambda pit: pit)
