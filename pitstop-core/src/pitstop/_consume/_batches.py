"""Batches: the messages that one call of a handler gets together.

Threads: the worker that handles them, or the loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pitstop._decisions._attempts import is_suspect
from pitstop._engine._delivery import Delivery
from pitstop._engine._events import Events
from pitstop._engine._handling import Handling
from pitstop._engine._intake import Intake
from pitstop._engine._lease import Lease


__all__ = ["Handlings", "Item", "delivered", "gathered", "taken_along"]

#: A message in a handler.
Item = tuple[Lease, Delivery]


def taken_along(intake: Intake, take: Callable[[], Lease | None], first: Lease, most: int) -> list[Lease]:
    """Return a batch: the first message, and those that are at hand, without waiting for more.

    A message that may have killed its worker is a batch by itself: the others must not lose an attempt by its fault.

    :param take: take the next message out of the buffer.
    """
    batch = [first]
    if is_suspect(first.emission.leased.progress):
        return batch
    while len(batch) < most and (lease := take()) is not None:
        if is_suspect(lease.emission.leased.progress):
            intake.buffer.put_first(lease)
            break
        batch.append(lease)
    return batch


def gathered(intake: Intake, first: Lease, most: int) -> list[Lease]:
    """Do as :func:`taken_along`, for a thread that may wait for the store."""
    buffer = intake.buffer
    batch = taken_along(intake, buffer.pop, first, most)
    if buffer.late or not buffer.open:
        # As after any look into the buffer.
        intake.claimer.give_back(buffer.take_late())
        if not buffer.open:
            intake.leftovers.give_back_all()
    return batch


def delivered(intake: Intake, leases: Sequence[Lease]) -> list[Item]:
    """Return the handles of messages that are handed out now. If this raises, all are in the buffer again."""
    items: list[Item] = []
    try:
        for lease in leases:
            items.append((lease, intake.deliver(lease)))  # noqa: PERF401 - those before an error are needed
    except BaseException:
        # The one that failed is there already.
        for lease in reversed([*leases[: len(items)], *leases[len(items) + 1 :]]):
            intake.buffer.put_first(lease)
        raise
    return items


class Handlings:
    """The contexts in which the handler of a batch runs: one for each message, each inside of the one before."""

    def __init__(self, events: Events, items: Sequence[Item]) -> None:
        self._handlings = [Handling(events, lease, delivery) for lease, delivery in items]

    def end(self, failure: BaseException | None) -> None:
        """Leave them: see :meth:`Handling.end`."""
        for each in reversed(self._handlings):
            each.end(failure)
