"""Feeder: the one thread that claims messages for an event loop, as many as the loop wants now.

A claimed message is in one place until a task takes it: in the claim buffer of the intake. The feeder's thread fills the
buffer, and the loop's thread pops from it, without a lock and without the store. Nothing is on its way in between.

Threads: the loop's thread calls ``take``, ``want``, ``look`` and ``close``; the feeder's own thread runs ``_run``; any thread
calls ``stop``, ``end`` and ``wait``.
"""

from __future__ import annotations

import asyncio

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from threading import Thread
from weakref import WeakMethod

from pitstop._aio._hands import Hands, resolve, tell
from pitstop._aio._waits import SettlementWaits
from pitstop._engine._backoff import Backoff
from pitstop._engine._intake import Intake
from pitstop._engine._lease import Lease
from pitstop._engine._lock_times import LEAST_REMAINDER
from pitstop._engine._waiting import Waiter
from pitstop._errors import BackendUnavailable
from pitstop.abc import Doorbell, SystemClock


__all__ = ["Feeder"]

#: Seconds between two looks whether the messages that the loop wants are still in the buffer.
_GLANCE = 0.1
#: Seconds for which :meth:`Feeder.wait` waits.
_CLOSE_PATIENCE = 15.0
#: Seconds in which a message that was stored for now becomes due.
_ROUNDING = 0.005


class Feeder:
    """Between an intake, whose calls may block, and an event loop, which must not.

    Invariant: while messages are wanted and the buffer is empty, the thread fills it, or its bell was rung.
    """

    def __init__(
        self,
        open_intake: Callable[[], Intake],
        loop: asyncio.AbstractEventLoop,
        hands: Hands,
        notify: Callable[[], None],
    ) -> None:
        """Return a feeder that does nothing yet.

        :param open_intake: called in the feeder's thread, before its first claim.
        :param notify: a method, called in the loop's thread when there is a message to take, an error, nothing, or the end.
            The feeder refers to its object weakly, because a thread refers to the feeder.
        """
        # None once it was called: it may refer to the whole Pitstop.
        self._open: Callable[[], Intake] | None = open_intake
        self._loop = loop
        self._notify = WeakMethod(notify)
        self._hands = hands
        self._bell = Doorbell()
        #: Tasks that wait until the store has their settlements.
        self.waits = SettlementWaits(hands)
        # Written by the loop's thread.
        self._thread: Thread | None = None
        self._wanted = 0
        self._patient = True
        # Appended to by the loop's thread, emptied by the feeder's.
        self._looks: deque[asyncio.Future[bool]] = deque()
        self._finished: list[asyncio.Future[None]] = []
        #: Counted by the loop's thread: handlers that have ended, each of which may have made messages due.
        self.stamp = 0
        # Written by the feeder's thread: the waiter of its present wait.
        self._waiter: Waiter | None = None
        # The failures in a row, while a loop that is not patient wants messages.
        self._backoff: Backoff | None = None
        # Whether it waits after such a failure: a wish for messages does not end that. Written by the feeder's thread.
        self._pausing = False
        # Microseconds from the monotonic clock to that of the store.
        self._offset = 0.0
        # Written once, before the first claim: the clock of the intake, and the microseconds of a lease that must be left.
        self._monotonic = SystemClock().monotonic
        self._least = 0
        # Whether the thread is at its end: no more is claimed; and whether the intake is closed, which comes later.
        self._over = self._closed = False
        #: The intake, once it is open.
        self.intake: Intake | None = None
        #: The error of the last look at the store. Reset by the loop's thread, which raises it.
        self.error: BaseException | None = None
        #: For a loop that is not patient: the ``stamp`` before a look that found nothing. Reset by the loop's thread.
        self.nothing: int | None = None
        # Written once, by any thread.
        self._ended = False
        #: Whether :meth:`stop` was called.
        self.stopped = False

    # In the loop's thread.

    @property
    def is_here(self) -> bool:
        """Whether the running event loop is the one that this feeds."""
        return asyncio.get_running_loop() is self._loop

    @property
    def over(self) -> bool:
        """Whether no more messages are to be had."""
        return self.stopped or self._over or (self.intake is not None and self.intake.stopped)

    @property
    def ready(self) -> int:
        """How many messages are there to be taken."""
        return 0 if self.intake is None else len(self.intake.buffer)

    def take(self) -> Lease | None:
        """Take a message out of the buffer. Never blocks. None: there is none that may still be handed out."""
        intake = self.intake
        if intake is None or self.stopped:
            return None
        lease = intake.buffer.pop()
        if intake.buffer.late:
            # Its lease is nearly over, because the loop was blocked. The feeder's thread gives it back.
            self._bell.ring()
        return lease

    def want(self, count: int, *, patient: bool = True) -> None:
        """Say how many messages the loop would take now; 0: none.

        :param patient: whether to wait for messages that are due later. If not, a look that finds nothing sets ``nothing``.
        """
        if not patient and self.nothing == self.stamp and not self.ready:
            # It has answered. Others of the same loop have not, and no handler has ended since.
            return
        waits_longer = self._patient and not patient
        self._wanted, self._patient = count, patient
        if self.intake is not None:
            self.intake.buffer.asked = count
        waiter = self._waiter
        if not count or self.ready:
            if waiter is not None:
                waiter.withdraw()
            intake = self.intake
            if intake is not None and not intake.wakeup.awake and intake.buffer.may_bore:
                # Messages that no task wants any more are given back, if no task comes for them soon.
                intake.wakeup.wake()
            return
        if waiter is not None:
            waiter.wanted = count
            if waits_longer:
                waiter.withdraw()
        self._begin()
        if not self._pausing:
            # Also when the thread is busy: it looks once more after that.
            self._bell.ring()

    def look(self) -> asyncio.Future[bool]:
        """Have a look at the store for one message that is due now. The result: whether the buffer got one.

        The message stays in the buffer, whether the task that asked still waits or not.
        """
        future = self._loop.create_future()
        self._looks.append(future)
        self._begin()
        # In this order: the thread sets the flag, and then answers the looks that it finds.
        if self._over or self._thread is None:
            future.set_result(False)
            return future
        waiter = self._waiter
        if waiter is not None:
            waiter.withdraw()
        self._bell.ring()
        return future

    def give_back(self, lease: Lease) -> None:
        """Give back a message that was taken, and that no handler has seen: soon, by the feeder's thread."""
        assert self.intake is not None, "the message was taken from it"
        self.intake.buffer.late.append(lease)
        if self._closed or self._loop.is_closed():
            # The loop was closed in the midst of it, and the thread may be at its end.
            self.intake.leftovers.give_back_all(log=False)
        self._bell.ring()

    async def close(self) -> None:
        """Do as :meth:`end`, and wait for that. To be cancelled ends the wait, and not the closing."""
        if self.is_here:
            await self.closing()
        else:
            self.end()
            await self._hands.begin(self.wait, at_once=True)  # not behind the jobs that it waits for

    def closing(self) -> asyncio.Future[None]:
        """Do as :meth:`end`. The future is done once all is given back and written. In the loop's thread."""
        self.end()
        finished = self._loop.create_future()
        if self._thread is None or self._closed:
            finished.set_result(None)
        else:
            self._finished.append(finished)
        return finished

    def is_past(self, due: int) -> bool:
        """Whether this instant has passed by the store's clock, as far as that shows without asking the store."""
        return due * 1000 <= self._monotonic() * 1e6 + self._offset

    def is_late(self, lease: Lease) -> bool:
        """Whether a message is not to be handled: the loop was blocked until the message expired, or its lease was nearly over."""
        now = self._monotonic()
        if now < lease.until:
            return False
        # The lease may have been extended since the claim.
        return now >= lease.expiry or lease.due * 1000 - self._least <= now * 1e6 + self._offset

    def _begin(self) -> None:
        if self._thread is None and not self._ended:
            self._thread = thread = Thread(target=self._run, name="pitstop-feeder", daemon=True)
            try:
                thread.start()
            except BaseException:
                # The system gives no thread now. The next call tries again.
                self._thread = None
                raise

    def _resolve(self, looks: list[asyncio.Future[bool]], found: bool, error: BaseException | None) -> None:
        """End the looks of tasks. A task that was cancelled leaves its message in the buffer."""
        for each in looks:
            resolve(each, found, error)
        self._notify_loop()

    def _finish(self) -> None:
        self._closed = True
        for each in self._finished:
            if not each.done():
                each.set_result(None)
        self._notify_loop()

    # Any thread, and signal handlers.

    def stop(self) -> None:
        """Hand out no more messages. Those in the buffer are given back, soon."""
        self.stopped = True
        intake = self.intake
        if intake is not None:
            intake.end()
        self._bell.ring()

    def end(self) -> None:
        """Stop, and close the intake, soon."""
        self._ended = True
        self.stop()

    def wait(self) -> None:
        """Wait until all is given back and written, after :meth:`end`. The store is open until then."""
        if self._thread is not None:
            self._thread.join(_CLOSE_PATIENCE)

    def after_fork(self) -> None:
        """Forget the tasks that wait: the loop, the thread, and all that was claimed are the parent's."""
        self._looks.clear()
        self.waits.after_fork()

    # In the feeder's thread.

    def _run(self) -> None:
        try:
            while not self._ended:
                try:
                    self._turn()
                except Exception as error:  # noqa: BLE001 - the task that wants a message raises it
                    self.error = error
                    self._tell()
                    if not self._looks:
                        self._bell.wait(None)
        finally:
            self._over = True
            try:
                if self.intake is not None:
                    self.intake.close()
            finally:
                self._answer(found=False)
                self._hands.wait_for_left(_CLOSE_PATIENCE)  # the settlements of tasks that were cancelled
                tell(self._loop, self._finish)

    def _turn(self) -> None:
        """Do what is to be done, or wait for the bell."""
        intake = self.intake
        if intake is not None and intake.buffer.late:
            intake.give_back(intake.buffer.take_late())
        elif self.over:
            if intake is not None and intake.unsettled:
                intake.leftovers.settle_all()
            self._answer(found=False)
            self._tell()
            self._bell.wait(None)
        elif self._looks:
            self._look()
        elif self._wanted and not self.ready:
            self._feed()
        elif self._wanted:
            # The background thread may have claimed them, too.
            self._tell()
            # While the loop is blocked, that thread may give back the messages that the loop wanted.
            self._bell.wait(_GLANCE)
        else:
            self._bell.wait(None)

    def _opened(self) -> Intake:
        if self.intake is None:
            assert self._open is not None, "it is not open"
            intake = self._open()
            self._open = None
            intake.buffer.asked = self._wanted
            self._monotonic = intake.session.clock.monotonic
            self._least = int(intake.lock_time / timedelta(microseconds=1) * LEAST_REMAINDER)
            self.intake = intake
            if self.stopped:
                # Any thread may have stopped this before there was an intake to stop.
                intake.end()
        return self.intake

    def _look(self) -> None:
        try:
            intake = self._opened()
            found = intake.fill(Waiter(0, takes=False), intake.session.clock.monotonic())
            self._note_time(intake)
        except Exception as error:  # noqa: BLE001 - the task that wants a message raises it
            self._answer(error=error)
        else:
            self._answer(found=found)

    def _feed(self) -> None:
        """Fill the buffer, and wait for messages if the loop is patient."""
        intake = self._opened()
        stamp = self.stamp
        waiter = self._waiter = Waiter(self._wanted, claims_first=True, takes=False)
        # After that: the loop's thread changes these first, and then withdraws the waiter.
        patient = self._patient
        clock = intake.session.clock
        # Before the look: a nack that is being written now may make its message due after it.
        busy = not patient and (intake.writer.busy or intake.claims_ahead)
        try:
            if not self._wanted or self._looks or self.over:
                return
            found = intake.fill(waiter, None if patient else clock.monotonic())
            if not found and not patient and isinstance(clock, SystemClock):
                # A message that was stored for now is due at the next whole millisecond. A manual clock stands still.
                clock.wait(Doorbell(), _ROUNDING)
                found = intake.fill(waiter, clock.monotonic())
            if not (found or patient) and (held := intake.claimer.held_back()) is not None:
                clock.wait(self._bell, held)
                return
            if blocked := not (found or patient) and intake.is_blocked:
                found = intake.fill(waiter, clock.monotonic() + intake.session.loop_time.total_seconds())
            if found or not (waiter.withdrawn or intake.stopped):
                self._note_time(intake)
        except BackendUnavailable as error:
            # With patience the intake itself tries again.
            if patient or intake.session.closed or (error.permanent and not intake.answered):
                raise
            self._backoff = self._backoff or Backoff(intake.session.log.outages)
            self._pausing = True
            try:
                clock.wait(self._bell, self._backoff.failed(error, clock.monotonic()))
            finally:
                self._pausing = False
            return
        finally:
            self._waiter = None
        self._backoff = None
        if not (found or patient or waiter.withdrawn or intake.stopped):
            if busy or blocked:
                intake.flush()
                return
            self.nothing = stamp
            self._tell()
            self._bell.wait(None)

    def _note_time(self, intake: Intake) -> None:
        # A store that is away keeps the time that it had.
        with suppress(BackendUnavailable):
            self._offset = intake.session.backend.now() - self._monotonic() * 1e6

    def _notify_loop(self) -> None:
        notify = self._notify()
        if notify is not None:
            notify()

    def _tell(self) -> None:
        if not tell(self._loop, self._notify_loop):
            # The loop is closed: no task takes anything any more.
            self._ended = True
            self._bell.ring()

    def _answer(self, *, found: bool = False, error: BaseException | None = None) -> None:
        looks = [self._looks.popleft() for _ in range(len(self._looks))]
        if looks:
            tell(self._loop, self._resolve, looks, found, error)
