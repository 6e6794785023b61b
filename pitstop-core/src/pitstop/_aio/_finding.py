"""AsyncFinding: the methods that search the store and count its messages, for event loops.

Threads: the loop's thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, TypeVar, overload

from pitstop._pitstop import Pitstop
from pitstop._values._entry import Entry, State, Stats
from pitstop._values._explanation import Explanation
from pitstop._values._schedule import Moment
from pitstop._values._seen import SeenConsumer


__all__ = ["AsyncFinding"]

_T = TypeVar("_T")


class AsyncFinding(ABC):
    """A part of :class:`pitstop.AsyncPitstop`."""

    @abstractmethod
    async def _do(self, method: Callable[..., _T], *args: Any, **options: Any) -> _T:
        """Run a method of the :class:`pitstop.Pitstop` in a thread, and return its result."""

    async def entries(
        self,
        state: State | None = None,
        limit: int = 100,
        after: Entry | None = None,
        *,
        kind: str | None = None,
        prefix: str | None = None,
        due_before: Moment | None = None,
        due_after: Moment | None = None,
        failing: bool | None = None,
    ) -> list[Entry]:
        """Return entries of stored messages, ordered by due time, or by id with ``prefix``: see :meth:`pitstop.Pitstop.entries`.

        :raises PitstopError: when an argument cannot be used; the text names it.
        :raises Unsupported: when the store has no kinds, and ``kind`` is given.
        """
        return await self._do(
            Pitstop.entries,
            state,
            limit,
            after,
            kind=kind,
            prefix=prefix,
            due_before=due_before,
            due_after=due_after,
            failing=failing,
        )

    async def explain(self, id: str) -> Explanation | None:
        """Return why a message has not come; None if there is none with that id: see :meth:`pitstop.Pitstop.explain`.

        :raises MessageError: when ``id`` cannot be an id.
        """
        return await self._do(Pitstop.explain, id)

    async def seen_consumers(self) -> list[SeenConsumer]:
        """Return the consumers that were seen lately, in all processes: see :meth:`pitstop.Pitstop.seen_consumers`.

        :raises Unsupported: when the store keeps no notes.
        """
        return await self._do(Pitstop.seen_consumers)

    @overload
    async def stats(self) -> Stats: ...

    @overload
    async def stats(self, by: None) -> Stats: ...

    @overload
    async def stats(self, by: Literal["kind"]) -> dict[str, Stats]: ...

    async def stats(self, by: Literal["kind"] | None = None) -> Stats | dict[str, Stats]:
        """Return the number of messages in each state: see :meth:`pitstop.Pitstop.stats`.

        This reads an index over all messages, or all messages if ``by`` is ``"kind"``; avoid it in a hot path.

        :raises PitstopError: when ``by`` is another value.
        """
        return await self._do(Pitstop.stats, by)
