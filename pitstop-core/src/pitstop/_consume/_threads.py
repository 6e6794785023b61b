"""``consume`` with threads: workers that handle messages, and the caller, which waits for them and for signals.

The caller only waits, on a bell that signal handlers may ring. Other threads do all that may block: a claim, an ack, the close
of the listener. So a second signal is heard at any moment.

Threads: the caller of ``consume`` runs ``run``; each worker runs ``_work``; the closing threads run ``_finish``; signal
handlers call ``_end``; any thread calls the methods of a component.
"""

from __future__ import annotations

import os

from collections.abc import Awaitable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import TIMEOUT_MAX, Event, Thread, get_ident
from typing import Any

from pitstop._consume._batches import Handlings, Item, delivered, gathered
from pitstop._consume._course import LAST_PATIENCE, Course
from pitstop._consume._handler import HandlerIsAsync, awaited_by_nothing, close_awaitable, log_left, log_unanswered
from pitstop._consume._lane_ends import LaneEnds
from pitstop._consume._lanes import Lane
from pitstop._consume._settling import settle, settle_together
from pitstop._consume._signals import hearing
from pitstop._consume._source import Source
from pitstop._decisions._ending import ends_program
from pitstop._engine._glance import wait_for_all
from pitstop._engine._handling import Handling
from pitstop._engine._intake import Intake
from pitstop._engine._lease import Lease
from pitstop._engine._lifecycle import STOP_PATIENCE, Component, stop_at_exit
from pitstop._engine._session import Session
from pitstop._values._consumer import Consumer
from pitstop._values._summary import Reason, Summary
from pitstop.abc import Doorbell


__all__ = ["Consuming"]

#: Seconds of one wait of the caller. On Windows, and for a signal that another thread raised, the wait itself does not end
#: when a signal comes.
_GLANCE = 0.5


class _Worker:
    """One thread that handles messages of a lane, and its counters."""

    __slots__ = ("bell", "handled", "lane")

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        #: Rung when the worker is to look for messages, or to end.
        self.bell = Doorbell()
        #: Deliveries whose handler returned, raised, or still runs. Written by the worker alone.
        self.handled = 0


class Consuming(Component):
    """One call of ``consume``.

    Invariant: a delivery is in ``_running`` while its handler runs. The thread that takes it out settles it, and no other.
    """

    closes_first = True

    def __init__(
        self,
        session: Session,
        lanes: Sequence[Lane],
        course: Course,
        *,
        until_idle: bool,
        signals: bool = True,
    ) -> None:
        """Prepare.

        :param lanes: the handlers with their messages, at least one.
        :param course: a new one.
        :param signals: whether signals end it. False if its caller handles them.
        """
        self._session = session
        # The session has no backend any more once it is closed.
        self._backend = session.backend
        self._lanes = lanes
        self._intakes = [each.intake for each in lanes]
        self._signals = signals
        self._course = course
        # Rung for the caller.
        self._bell = Doorbell()
        self._source = Source(lanes, self._course, until_idle=until_idle, on_idle=lambda: self._end("idle"))
        self._workers = [_Worker(lane) for lane in lanes for _ in range(lane.workers)]
        # A worker reserves a message before it waits for one. In several lanes, and in batches, only messages that have come count.
        self._reserves = len(lanes) == 1 and lanes[0].batch is None
        # The caller's thread and those of the workers; each adds and removes its own.
        self._idents: set[int] = set()
        # Appended to by each worker at its end.
        self._ended: list[_Worker] = []
        # By the ident of the worker's thread. The worker adds; the worker or a closing thread takes out, by one pop().
        self._running: dict[int, tuple[Lane, Sequence[Item]]] = {}
        # Written by the closing thread: whether the listener is closed.
        self._closed = False
        # Whether to close the store at the end. Written by a worker whose handler closed the Pitstop, and cannot wait here.
        self._closes_session = False
        # Ends a pause between two tries to write.
        self._pausing = Doorbell()
        self._over = Event()
        self._pid = os.getpid()

    def run(self) -> Summary:
        """Handle messages until there is a reason to end."""
        stop_at_exit()
        self._session.add(self)
        self._idents.add(get_ident())
        try:
            with self._hearing():
                for number, worker in enumerate(self._workers, 1):
                    Thread(target=self._work, args=(worker,), name=f"pitstop-worker-{number}", daemon=True).start()
                self._wait_for_workers()
                left = [lease for _, items in list(self._running.values()) for lease, _ in items]
                if left and not self._course.urgent:
                    log_left([each.id for each in left])
                self._close_listener()
        except BaseException:
            self._end("stopped")
            for each in self._intakes:
                each.abandon()
            raise
        finally:
            self._over.set()
            self._session.discard(self)
            if self._closes_session:
                self._session.close()
        if self._course.error is not None:
            raise self._course.error
        return self._summary(len(left))

    def consumer(self) -> Consumer:
        """Return a snapshot of this call."""
        in_hand = sum(each.in_hand for each in self._intakes)
        return self._course.consumer(
            self._intakes, in_hand=in_hand, in_handlers=sum(len(items) for _, items in list(self._running.values()))
        )

    # Called by the session.

    def notice(self, due: int | None, kinds: Collection[str] | None = None) -> None:
        """Wake workers that found nothing."""
        self._source.notice(due, kinds)

    def begin_stop(self) -> None:
        """End, as after a signal. The intakes are components themselves."""
        self._begin_end("stopped")

    def close(self) -> None:
        """End, and let running handlers finish while the store is still open."""
        self._end("stopped")
        # In the child of a fork that a handler made there is no other thread to wait for.
        if get_ident() not in self._idents:
            self._over.wait(min(self._course.drain + LAST_PATIENCE, TIMEOUT_MAX))

    def after_fork(self) -> None:
        # This call is the parent's, and never ends here.
        self._over = Event()
        self._over.set()
        self._session.discard(self)

    def closes_later(self) -> bool:
        if get_ident() not in self._idents or os.getpid() != self._pid:
            return False
        # In this order, and in the opposite order in run(): one of the two threads sees what the other wrote.
        self._closes_session = True
        if self._over.is_set():
            return False
        self._end("stopped")
        return True

    # The end.

    def _hearing(self) -> AbstractContextManager[None]:
        return hearing(self._on_signal) if self._signals else nullcontext()

    def _on_signal(self, number: int) -> None:
        reason = self._course.signalled(number)
        if reason is not None:
            self._end(reason)

    def _end(self, reason: Reason) -> None:
        """Take no more messages, and wait a moment until those that no handler saw are given back. Safe in signal handlers."""
        self._begin_end(reason)
        # All at once: the store may be away, or slow.
        wait_for_all([each.begin_stop() for each in self._intakes], STOP_PATIENCE)

    def _begin_end(self, reason: Reason) -> None:
        # Takes no lock: a signal handler may have interrupted a thread that holds it.
        self._course.end(reason)
        self._bell.ring()
        self._pausing.ring()
        for worker in self._workers:
            worker.bell.ring()
        # All of them, before one is waited for.
        for each in self._intakes:
            each.end()

    def _wait_for_workers(self) -> None:
        while len(self._ended) < len(self._workers) and not self._course.urgent:
            left = self._course.left()
            if left is not None and left <= 0:
                break
            self._bell.wait(_GLANCE if left is None else min(left, _GLANCE))

    def _close_listener(self) -> None:
        course = self._course
        try:
            Thread(target=self._finish, name="pitstop-closing", daemon=True).start()
        except RuntimeError:
            # At the end of the interpreter no thread begins any more, and no signal is heard either.
            self._finish()
        # The store has as long to answer as handlers have to finish.
        deadline = max(course.last_write_by(), course.monotonic()) + LAST_PATIENCE
        hurried = False
        while not self._closed:
            if course.urgent and not hurried:
                hurried, deadline = True, min(deadline, course.monotonic() + LAST_PATIENCE)
            left = deadline - course.monotonic()
            if left <= 0:
                log_unanswered()
                break
            self._bell.wait(min(left, _GLANCE))

    def _finish(self) -> None:
        try:
            LaneEnds(self._session, self._course, self._pausing, self._give_back_running).run(self._intakes)
        finally:
            self._closed = True
            self._bell.ring()

    def _give_back_running(self, intake: Intake) -> None:
        """Give back the messages whose handlers are left behind: the end of the program is no attempt."""
        for ident, (lane, _) in list(self._running.items()):
            if lane.intake is intake and (running := self._running.pop(ident, None)) is not None:
                settle_together(intake.writer, self._backend, running[1], None, interrupted=True)

    def _summary(self, unfinished: int) -> Summary:
        handled = sum(each.handled for each in self._workers) - unfinished
        return self._course.summary(self._intakes, handled=handled, unfinished=unfinished)

    # A worker.

    def _work(self, worker: _Worker) -> None:
        self._idents.add(get_ident())
        course, lane, reserves = self._course, worker.lane, self._reserves
        try:
            while not course.ended and (not reserves or course.may_ask()):
                lease = self._source.take(lane, worker.bell)
                if lease is None:
                    break
                if lane.batch is not None:
                    if not self._take_batch(worker, gathered(lane.intake, lease, course.room(lane.batch))):
                        break
                    continue
                if self._course.ended or not (reserves or course.may_ask()):
                    # It ended meanwhile, or another lane has had the last one.
                    lane.intake.give_back([lease])
                    break
                if course.count():
                    # Messages that were claimed beyond the last one are for others, now and not after its handler.
                    self._end("max_messages")
                self._handle(worker, lease)
        except BaseException as error:  # noqa: BLE001 - raised again by run(): a store that refuses, or a bug
            if os.getpid() == self._pid:
                course.fail(error)
        finally:
            if os.getpid() == self._pid:
                self._leave(worker)

    def _leave(self, worker: _Worker) -> None:
        # Another thread may get the same ident.
        self._idents.discard(get_ident())
        self._source.leave()
        self._ended.append(worker)
        if not self._course.ended and (self._course.error is not None or worker.lane.intake.stopped):
            self._end("stopped")
        else:
            # The other workers handle the last messages, or look whether there are any.
            self._bell.ring()
            self._source.wake()

    def _handle(self, worker: _Worker, lease: Lease) -> None:
        me, lane = get_ident(), worker.lane
        delivery = lane.intake.deliver(lease)
        self._running[me] = lane, ((lease, delivery),)
        worker.handled += 1
        handling = Handling(self._session.events, lease, delivery)
        failure = self._call(lane, delivery)
        handling.end(failure)
        if os.getpid() != self._pid:
            # The handler forked, and this is the child: the delivery is the parent's.
            raise SystemExit if failure is None else failure
        if self._running.pop(me, None) is None:
            # The closing thread has given it back.
            return
        is_mistake = isinstance(failure, HandlerIsAsync)
        if failure is not None and (is_mistake or ends_program(failure)):
            # Before the delivery is settled: the store may be away.
            self._course.fail(failure)
            self._end("handler")
        settle(lane.intake.writer, self._backend, lease, delivery, failure, interrupted=is_mistake, may_write=True)

    def _take_batch(self, worker: _Worker, leases: Sequence[Lease]) -> bool:
        """Handle those of the messages that may still be handled. Return whether there are any."""
        course, intake = self._course, worker.lane.intake
        count = 0 if course.ended else course.reserve(len(leases))
        # It ended meanwhile, or other workers have had the last ones.
        intake.give_back(leases[count:])
        if not count:
            return False
        if course.count(count):
            self._end("max_messages")
        self._handle_batch(worker, leases[:count])
        return True

    def _handle_batch(self, worker: _Worker, leases: Sequence[Lease]) -> None:
        """Do as :meth:`_handle`, with several messages."""
        me, lane = get_ident(), worker.lane
        items = delivered(lane.intake, leases)
        self._running[me] = lane, items
        worker.handled += len(items)
        handlings = Handlings(self._session.events, items)
        failure = self._call(lane, [delivery for _, delivery in items])
        handlings.end(failure)
        if os.getpid() != self._pid:
            raise SystemExit if failure is None else failure
        if self._running.pop(me, None) is None:
            return
        is_mistake = isinstance(failure, HandlerIsAsync)
        if failure is not None and (is_mistake or ends_program(failure)):
            self._course.fail(failure)
            self._end("handler")
        given_back = settle_together(
            lane.intake.writer, self._backend, items, failure, interrupted=is_mistake, may_write=True
        )
        worker.handled -= given_back

    def _call(self, lane: Lane, delivery: Any) -> BaseException | None:
        try:
            result = lane.handler(delivery if lane.deliveries else delivery.msg)
        except BaseException as error:  # noqa: BLE001 - the verdict decides
            return error
        if result is not None and isinstance(result, Awaitable):
            close_awaitable(result)
            return awaited_by_nothing()
        return None
