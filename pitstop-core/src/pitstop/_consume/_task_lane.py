"""TaskLane: the messages of one handler in an event loop, and the places for them; TaskRun: messages that were taken.

Threads: the loop's thread; any thread reads.
"""

from __future__ import annotations

import asyncio

from collections.abc import Sequence
from typing import cast

from pitstop._aio._delivery import AsyncDelivery
from pitstop._aio._feeder import Feeder
from pitstop._aio._hands import Hands
from pitstop._consume._batches import Item, delivered, taken_along
from pitstop._consume._course import Course
from pitstop._consume._handler import AsyncHandler, takes_delivery
from pitstop._consume._lanes import Plan
from pitstop._consume._settling import settle, settle_together
from pitstop._engine._intake import Intake
from pitstop._engine._lease import Lease, Purpose


__all__ = ["TaskLane", "TaskRun", "batch_of", "counted", "is_idle"]


class TaskLane:
    """The messages of one handler, and the places for them."""

    __slots__ = ("batch", "deliveries", "feeder", "free", "handler", "intake", "left")

    #: The intake, from the first message on.
    intake: Intake

    def __init__(self, plan: Plan, feeder: Feeder) -> None:
        # Checked before.
        self.handler = cast("AsyncHandler", plan.handler)
        #: Whether the handler gets the delivery.
        self.deliveries = takes_delivery(plan.handler, plan.deliveries, AsyncDelivery)
        #: How many deliveries the handler gets at most at a time, in a list. None: it gets one, and no list.
        self.batch = plan.options.batch
        self.feeder = feeder
        #: How many more handlers may run.
        self.free = plan.workers
        #: How many messages more could have begun at the last look.
        self.left = 0


class TaskRun:
    """A message that was taken, or a batch of them, with the task that handles it."""

    __slots__ = ("begun", "cancelled", "items", "lane", "task")

    def __init__(self, lane: TaskLane, items: Sequence[Item]) -> None:
        self.lane = lane
        #: Replaced when messages are passed on.
        self.items = items
        #: None until it is known: an eager task runs before its creation returns.
        self.task: asyncio.Task[None] | None = None
        #: Whether the handler has begun. A task that is cancelled before its first step never begins.
        self.begun = False
        #: Whether ``consume`` has cancelled the task.
        self.cancelled = False

    def deliveries(self, hands: Hands) -> list[AsyncDelivery]:
        """Return the argument of a handler of batches."""
        return [AsyncDelivery(lease, delivery, self.lane.feeder, hands) for lease, delivery in self.items]

    def settle(self, failure: BaseException | None, given_back: set[Lease], *, interrupted: bool = False) -> None:
        """Settle as the verdict says. The background thread writes.

        :param given_back: gets the messages that are given back, here or by ``async with delivery`` in the handler.
        """
        lane, items = self.lane, self.items
        writer, backend = lane.intake.writer, lane.intake.session.backend_or_none
        if lane.batch is None:
            settle(writer, backend, *items[0], failure, interrupted=interrupted)
        else:
            settle_together(writer, backend, items, failure, interrupted=interrupted)
        for lease, _ in items:
            if lease.purpose is Purpose.GIVE_BACK:
                given_back.add(lease)


def batch_of(lane: TaskLane, first: Lease, course: Course) -> Sequence[Item]:
    """Return a batch that is handed out now: its first message, which was taken, and those that are at hand."""
    assert lane.batch is not None, "its handler takes batches"
    return delivered(lane.intake, taken_along(lane.intake, lane.feeder.take, first, course.room(lane.batch)))


def counted(runs: Sequence[TaskRun]) -> tuple[int, int]:
    """Return how many messages are in handlers, and how many wait for their task to begin."""
    begun = sum(len(each.items) for each in runs if each.begun)
    return begun, sum(len(each.items) for each in runs) - begun


def is_idle(feeders: Sequence[Feeder]) -> bool:
    """Whether none of them has a message, or found one that is due, since the last handler ended. No handler runs."""
    for each in feeders:
        # In this order: messages that came before nothing was found may still have to be taken.
        if each.nothing is None or each.ready:
            return False
    idle = True
    for each in feeders:
        # If not, handlers came to their end since then, and may have stored something.
        idle = idle and each.nothing == each.stamp
        each.nothing = None
    return idle
