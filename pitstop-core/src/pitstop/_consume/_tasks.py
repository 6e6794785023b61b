"""``consume`` in an event loop: a task for each message, up to ``concurrency`` of them at a time.

Threads: the loop's thread; any thread calls ``end`` and ``wait``; signal handlers call ``_on_signal``.
"""

from __future__ import annotations

import asyncio
import os

from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from threading import TIMEOUT_MAX, Event

from pitstop._aio._delivery import AsyncDelivery, current_task, is_interruption
from pitstop._aio._feeder import Feeder
from pitstop._aio._hands import Hands, tell
from pitstop._consume._batches import Handlings, Item
from pitstop._consume._course import LAST_PATIENCE, Course
from pitstop._consume._handler import log_left, log_unanswered
from pitstop._consume._lanes import Opening
from pitstop._consume._signals import hearing, is_free
from pitstop._consume._task_lane import TaskLane, TaskRun, batch_of, counted, is_idle
from pitstop._decisions._ending import ends_program
from pitstop._engine._handling import Handling
from pitstop._engine._intake import Intake
from pitstop._engine._lease import Lease
from pitstop._values._consumer import Consumer
from pitstop._values._summary import Reason, Summary


__all__ = ["Consuming"]

#: Tasks begun in a row, after which others in the loop have their turn.
_IN_A_ROW = 50
#: Seconds that handlers which were cancelled have to come to their end.
_CANCEL_PATIENCE = 5.0


class Consuming:
    """One call of ``consume``. All its fields are written in the loop's thread, but for those of ``_course``.

    Invariants: each delivery that was taken is in a run of ``_running`` until it is settled, or its handler was interrupted.
    ``_fill`` runs, or is about to, whenever there may be both a message and a place for it.
    """

    def __init__(
        self,
        openings: Sequence[Opening],
        hands: Hands,
        running: set[Consuming],
        course: Course,
        *,
        until_idle: bool,
    ) -> None:
        """Prepare.

        :param openings: the handlers with their messages, at least one.
        :param running: all calls of one Pitstop: they have to end before its store is closed.
        :param course: a new one.
        """
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._hands = hands
        self._until_idle = until_idle
        self._course = course
        self._lanes = [
            TaskLane(each.plan, Feeder(each.open_intake, self._loop, hands, self._fill)) for each in openings
        ]
        self._feeders = [each.feeder for each in self._lanes]
        self._all = running
        self._running: dict[TaskRun, None] = {}
        #: How many deliveries were taken.
        self._taken = 0
        #: Deliveries that were given back because their handlers were interrupted.
        self._interrupted: set[Lease] = set()
        self._filling = False
        self._end = self._loop.create_future()
        # Done when running handlers are not waited for any longer: all are done, or the time is over.
        self._empty = self._loop.create_future()
        # Done after a second signal.
        self._hurry = self._loop.create_future()
        # Ends the wait for handlers at the deadline.
        self._timer: asyncio.TimerHandle | None = None
        self._pid = os.getpid()
        self._closed = Event()
        # Closes the Pitstop at the end. Set if one of the handlers asked for it: that handler cannot wait here.
        self._close_pitstop: Callable[[], Awaitable[None]] | None = None

    async def run(self) -> Summary:
        """Consume until there is a reason to end.

        :raises BackendUnavailable: when the store refuses at the first look.
        """
        self._all.add(self)
        try:
            return await self._run()
        finally:
            self._all.discard(self)
            self._closed.set()
            if self._timer is not None:
                self._timer.cancel()
            if self._close_pitstop is not None:
                await self._close_pitstop()

    def end(self) -> bool:
        """End, because the Pitstop is about to be closed. True if handlers are to be waited for. Any thread."""
        if os.getpid() != self._pid:
            # In the child of a fork this call is the parent's.
            return False
        if tell(self._loop, self._finish, "stopped"):
            return True
        # The loop was closed in the midst of it: no handler goes on.
        self._give_back_running()
        return False

    def closes_later(self, closer: object, close: Callable[[], Awaitable[None]]) -> bool:
        """Whether ``closer``, a task, is one of the handlers, which cannot wait for itself. Then this ends, and closes the
        Pitstop after that.
        """
        if all(each.task is not closer for each in list(self._running)):
            return False
        self._close_pitstop = close
        return self.end()

    def wait(self) -> None:
        """Wait until it has ended, but no longer than it may take. Not in the loop's thread."""
        self._closed.wait(min(self._course.drain + _CANCEL_PATIENCE, TIMEOUT_MAX))

    def consumer(self) -> Consumer:
        """Return a snapshot of this call. Any thread."""
        in_handlers, waiting = counted(list(self._running))
        in_hand = sum(each.ready for each in self._feeders) + waiting
        return self._course.consumer([each.intake for each in self._feeders], in_hand=in_hand, in_handlers=in_handlers)

    @property
    def intakes(self) -> list[Intake]:
        """The sources of the messages that are open."""
        return [each.intake for each in self._feeders if each.intake is not None]

    async def _run(self) -> Summary:
        with hearing(self._on_signal, is_free):
            try:
                self._fill()
                await self._end
                self._stop_feeders()
                if self._running and not self._course.urgent:
                    await self._empty
                self._pass_on_unbegun()
                left = [lease.id for run in self._running for lease, _ in run.items]
                unfinished = len(left)
                if left:
                    log_left(left)
                    await self._interrupt()
                await self._close_feeder()
            except GeneratorExit:
                # The coroutine is closed, so that nothing can be awaited: its loop is gone.
                self._finish("stopped")
                for each in self._feeders:
                    each.end()
                self._give_back_running()
                raise
            except BaseException:
                await self._give_up()
                raise
        if self._course.error is not None:
            raise self._course.error
        return self._summary(unfinished)

    async def _close_feeder(self) -> None:
        """Give back and write everything. After a second signal the store has only a moment to answer."""
        closed = asyncio.gather(*[each.closing() for each in self._feeders])
        await asyncio.wait({closed, self._hurry}, return_when=asyncio.FIRST_COMPLETED)
        _, late = await asyncio.wait({closed}, timeout=LAST_PATIENCE)
        if late:
            log_unanswered()

    def _on_signal(self, number: int) -> None:
        reason = self._course.signalled(number)
        if reason is not None:
            tell(self._loop, self._finish, reason)

    async def _give_up(self) -> None:
        """The task that awaits this was cancelled: cancel the handlers, whose messages come back at once."""
        self._finish("stopped")
        self._stop_feeders()
        try:
            await self._interrupt()
        finally:
            for each in self._feeders:
                each.end()
            for each in self._feeders:
                # It is closed in its own thread, whether this wait is cancelled or not.
                await each.close()

    def _stop_feeders(self) -> None:
        for each in self._feeders:
            each.stop()

    def _summary(self, unfinished: int) -> Summary:
        handled = self._taken - len(self._interrupted)
        return self._course.summary(self.intakes, handled=handled, unfinished=unfinished)

    # Handlers begin.

    def _fill(self) -> None:
        """Begin handlers, as many as there are messages and places for."""
        self._filling = False
        course = self._course
        if course.ended:
            return
        for lane in self._lanes:
            feeder = lane.feeder
            if feeder.error is not None or feeder.over:
                if feeder.error is not None:
                    course.fail(feeder.error)
                self._finish("stopped")
                return
            free = lane.free if course.wanted is None else min(lane.free, course.wanted)
            left = (free - self._begin(lane, free)) * (lane.batch or 1)
            lane.left = left if course.wanted is None else min(left, course.wanted)
        # An eager task may have ended it.
        if course.ended:
            for each in self._feeders:
                each.want(0)
        elif not self._filling and not self._is_idle():
            patient = bool(self._running) or not self._until_idle
            for lane in self._lanes:
                lane.feeder.want(max(0, lane.left), patient=patient)
                if lane.left > 0 and lane.feeder.ready:
                    # It came since then.
                    self._fill_soon()

    def _begin(self, lane: TaskLane, free: int) -> int:
        """Begin at most this number of handlers of a lane. Return how many began."""
        feeder, running, course = lane.feeder, self._running, self._course
        # The context of the call of consume, not that of the handler or the thread in which this runs.
        context = self._context
        begun = 0
        while begun < free and not course.ended and course.wanted != 0:
            lease = feeder.take()
            if lease is None:
                break
            intake = feeder.intake
            assert intake is not None, "a message was taken from it"
            lane.intake = intake
            try:
                items = batch_of(lane, lease, course) if lane.batch else ((lease, intake.deliver(lease)),)
            except BaseException as error:  # noqa: BLE001 - raised again by run()
                course.fail(error)
                self._finish("stopped")
                break
            begun += 1
            self._taken += len(items)
            lane.free -= 1
            run = TaskRun(lane, items)
            running[run] = None
            course.count(len(items))
            run.task = self._loop.create_task(self._handle(run), context=context.copy())
            if begun >= _IN_A_ROW:
                # The rest in the next turn: those that begin may want theirs first.
                self._fill_soon()
                break
        return begun

    def _is_idle(self) -> bool:
        """Whether nothing is due and no handler runs. Then this ends."""
        if self._running:
            return False
        idle = is_idle(self._feeders)
        if idle:
            self._finish("idle")
        return idle

    def _fill_soon(self) -> None:
        # A loop that was closed in the midst of it leaves tasks, whose coroutines are closed with them.
        if not self._filling and not self._loop.is_closed():
            self._filling = True
            self._loop.call_soon(self._fill)

    def _finish(self, reason: Reason) -> None:
        """End for this reason. Running handlers have until the deadline of the course."""
        had_deadline = self._course.deadline is not None
        self._course.end(reason)
        if self._loop.is_closed():
            return
        if not self._end.done():
            self._end.set_result(None)
        if self._course.urgent and not self._hurry.done():
            self._hurry.set_result(None)
        if not self._running or self._course.urgent:
            self._stop_waiting()
        elif (left := self._course.left()) is not None and not had_deadline:
            self._timer = self._loop.call_later(max(0.0, left), self._stop_waiting)

    def _stop_waiting(self) -> None:
        if not self._empty.done() and not self._loop.is_closed():
            self._empty.set_result(None)

    # Handlers run.

    async def _handle(self, run: TaskRun) -> None:
        if run.task is None:
            # An eager task, which runs before its creation returns.
            run.task = current_task()
        task, lane = run.task, run.lane
        # Tasks that began before this one may have blocked the loop.
        if (lane.batch is not None or lane.feeder.is_late(run.items[0][0])) and not self._is_in_time(run):
            return
        lease, delivery = run.items[0]
        run.begun = True
        # Not when the last message is taken: if it is passed on, another one comes in its place.
        if self._course.wanted == 0 and all(each.begun for each in self._running):
            self._finish("max_messages")
        events = lane.intake.session.events
        handling = Handling(events, lease, delivery) if lane.batch is None else Handlings(events, run.items)
        try:
            if lane.batch is not None:
                await lane.handler(run.deliveries(self._hands))
            else:
                await lane.handler(
                    AsyncDelivery(lease, delivery, lane.feeder, self._hands) if lane.deliveries else delivery.msg
                )
        except BaseException as error:
            handling.end(error)
            if is_interruption(error, task):
                run.settle(error, self._interrupted, interrupted=True)
                raise
            if ends_program(error):
                # Raised once more when all is settled.
                self._course.fail(error)
                self._finish("handler")
            # A handler that is cancelled may raise another error: in its cleanup, or out of a TaskGroup.
            run.settle(error, self._interrupted, interrupted=run.cancelled)
        else:
            handling.end(None)
            run.settle(None, self._interrupted)
        finally:
            self._over(run)

    def _is_in_time(self, run: TaskRun) -> bool:
        """Pass on messages that come too late to be handled. Return whether there are others."""
        for item in run.items:
            if run.lane.feeder.is_late(item[0]):
                self._pass_on(run, item)
        if not run.items:
            self._over(run)
        return bool(run.items)

    def _pass_on(self, run: TaskRun, item: Item) -> None:
        run.items = [each for each in run.items if each is not item]
        run.lane.feeder.give_back(item[0])
        self._taken -= 1
        self._course.count(-1)

    def _over(self, run: TaskRun) -> None:
        del self._running[run]
        run.lane.free += 1
        # The handler may have stored messages of any kind.
        for each in self._feeders:
            each.stamp += 1
        if not self._course.ended:
            if not self._filling:
                self._fill_soon()
        elif not self._running:
            self._stop_waiting()

    # Handlers are interrupted.

    async def _interrupt(self) -> None:
        """Cancel the running handlers, and give back their messages, which come back at once."""
        self._pass_on_unbegun()
        tasks = []
        for run in self._running:
            if run.task is not None:
                run.cancelled = True
                run.task.cancel()
                tasks.append(run.task)
        if tasks:
            await asyncio.wait(tasks, timeout=_CANCEL_PATIENCE)
        # Handlers that do not end: the message comes back while they still run.
        self._give_back_running()

    def _pass_on_unbegun(self) -> None:
        """Cancel tasks that have not begun. No handler has seen their messages, so their attempts do not count."""
        for run in tuple(self._running):
            if not run.begun and run.task is not None:
                run.task.cancel()
                for item in run.items:
                    self._pass_on(run, item)
                self._over(run)

    def _give_back_running(self) -> None:
        for run in tuple(self._running):
            if run.begun:
                run.settle(None, self._interrupted, interrupted=True)
            else:
                for lease, _ in run.items:
                    run.lane.feeder.give_back(lease)
