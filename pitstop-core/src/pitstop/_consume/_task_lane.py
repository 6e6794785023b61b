"""TaskLane: the messages of one handler in an event loop, and the places for them; TaskRun: a message that was taken.

Threads: the loop's thread; any thread reads.
"""

from __future__ import annotations

import asyncio

from typing import cast

from pitstop._aio._delivery import AsyncDelivery
from pitstop._aio._feeder import Feeder
from pitstop._consume._handler import AsyncHandler, takes_delivery
from pitstop._consume._lanes import Plan
from pitstop._engine._delivery import Delivery
from pitstop._engine._intake import Intake


__all__ = ["TaskLane", "TaskRun"]


class TaskLane:
    """The messages of one handler, and the places for them."""

    __slots__ = ("deliveries", "feeder", "free", "handler", "intake", "left")

    #: The intake, from the first message on.
    intake: Intake

    def __init__(self, plan: Plan, feeder: Feeder) -> None:
        # Checked before.
        self.handler = cast("AsyncHandler", plan.handler)
        #: Whether the handler gets the delivery.
        self.deliveries = takes_delivery(plan.handler, plan.deliveries, AsyncDelivery)
        self.feeder = feeder
        #: How many more handlers may run.
        self.free = plan.workers
        #: How many messages more could have begun at the last look.
        self.left = 0


class TaskRun:
    """A message that was taken, with the task that handles it."""

    __slots__ = ("begun", "cancelled", "delivery", "lane", "task")

    def __init__(self, lane: TaskLane, delivery: Delivery) -> None:
        self.lane = lane
        self.delivery = delivery
        #: None until it is known: an eager task runs before its creation returns.
        self.task: asyncio.Task[None] | None = None
        #: Whether the handler has begun. A task that is cancelled before its first step never begins.
        self.begun = False
        #: Whether ``consume`` has cancelled the task.
        self.cancelled = False
