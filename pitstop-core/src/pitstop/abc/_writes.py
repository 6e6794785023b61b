"""The writes of a user, with and without a transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from pitstop.abc._record import Damaged, Progress, Record, Settlement


__all__ = ["TransactionWrites", "Writes"]


class Writes(Protocol):
    """The writes of a user: on a :class:`pitstop.abc.Backend` at once, on the result of :meth:`pitstop.abc.Backend.within` in a transaction."""

    def put(self, records: Sequence[Record]) -> None:
        """See :meth:`pitstop.abc.Backend.put`."""
        ...

    def put_if(self, record: Record, revision: str | None, progress: Progress | None = None) -> bool:
        """See :meth:`pitstop.abc.Backend.put_if`."""
        ...

    def delete(self, id: str) -> bool:
        """See :meth:`pitstop.abc.Backend.delete`."""
        ...

    def get(self, id: str) -> Record | Damaged | None:
        """See :meth:`pitstop.abc.Backend.get`. In a transaction, its own writes count."""
        ...


class TransactionWrites(Writes, Protocol):
    """The writes in a transaction that can acknowledge as well. :meth:`pitstop.abc.Backend.within` returns them if the backend can do that.

    Core raises :class:`pitstop.Unsupported` for ``ack(session=...)`` if the writes have only the methods of :class:`Writes`.
    """

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool | None]:
        """Apply fenced writes for distinct pairs of id and token, as :meth:`pitstop.abc.Backend.settle` does. They count once the transaction commits.

        The fence compares the record as it is now, not as an old view of the transaction shows it. If the two differ, the driver's
        error of a conflict is raised, by which the transaction is tried again.
        """
        ...

    def is_open(self) -> bool:
        """Whether the transaction may still commit. Any thread, at any time; it does not wait.

        If another transaction of the session is open, return False; unless a write without the session would wait for its end, as
        in a store with one writer at a time.
        """
        ...
