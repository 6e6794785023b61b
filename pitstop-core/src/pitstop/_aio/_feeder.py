"""The thread that claims messages for an event loop, a batch per hop, as many as are wanted there now."""

from __future__ import annotations

import asyncio
import logging

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from threading import Condition, Lock, Thread
from typing import NamedTuple

from pitstop._aio._hands import Hands, tell
from pitstop._engine._backoff import Backoff
from pitstop._engine._claimer import LEAST_REMAINDER
from pitstop._engine._delivery import Delivery
from pitstop._engine._intake import Intake
from pitstop._engine._lease import Lease
from pitstop._engine._lifecycle import Component
from pitstop._engine._waiting import Waiter
from pitstop._errors import BackendUnavailable
from pitstop.abc import Doorbell, SystemClock


__all__ = ["Feeder", "Handed"]

_log = logging.getLogger("pitstop.listener")

#: Seconds after which a message is given back that came when nobody wanted it any more.
_PATIENCE = 0.1
#: Seconds that the end waits for what is under way in other threads.
_CLOSE_PATIENCE = 15.0
#: Seconds that the end of the interpreter waits for each feeder that nobody closed.
_EXIT_PATIENCE = 2.0
#: Seconds in which what was stored for now becomes due.
_ROUNDING = 0.005


class Handed(NamedTuple):
    """A message on its way to a handler."""

    lease: Lease
    delivery: Delivery
    #: Whether its ack is written by itself.
    at_once: bool


class _AtExit(Component):
    """Has a feeder that nobody closed give back what it holds at the end of the interpreter."""

    def __init__(self, feeder: Feeder) -> None:
        self._feeder = feeder

    def at_exit(self) -> None:
        self._feeder.leave()


class Feeder:
    """Between a listener, which waits in a thread, and a loop, which must not.

    Who reads takes what is there with :meth:`take`, which never blocks, and says with :meth:`want` how many more it would
    take now; it is told when there is something. Nothing is on its way in between: a message is in the listener's
    hand, in ``_buffer``, in ``_looked``, or taken. So it does not matter who is cancelled when.

    Invariant: ``wanted`` is changed by the loop's thread alone; the feeder's adds to ``_buffer``, and takes from it only
    when nothing is wanted. Whoever makes ``wanted`` larger than ``_buffer`` rings ``_bell`` after that.
    """

    def __init__(
        self,
        open_intake: Callable[[], Intake],
        loop: asyncio.AbstractEventLoop,
        hands: Hands,
        notify: Callable[[], None],
        *,
        once: bool = False,
        pinned_acks: bool = True,
    ) -> None:
        """One that does nothing yet.

        :param open_intake: called in the feeder's thread.
        :param notify: called in the loop's thread when there is something to take, an error, or the end.
        :param once: do not wait for what is to come: say that there is ``nothing``.
        :param pinned_acks: whether a listener with ``prefetch=1`` has each ack written by itself.
        """
        self._open = open_intake
        self._loop = loop
        self._hands = hands
        self._notify = notify
        self._once = once
        self._pinned_acks = pinned_acks
        self._bell = Doorbell()
        self._opening = Lock()
        self._buffer: deque[Handed] = deque()
        self._late: deque[Handed] = deque()
        # What looks have brought, until it is taken; and how many looks are under way.
        self._looked: dict[Handed, Handed] = {}
        self._looks = 0
        self._looking = Condition()
        # One gives back at a time, so that who closes the store comes after one who has taken out what is to be given back.
        self._giving_back = Lock()
        self._waiter: Waiter | None = None
        self._thread: Thread | None = None
        self._ended = False
        self._finished: list[asyncio.Future[None]] = []
        # Whether no more is claimed; and whether the listener is closed by now, which comes later.
        self._over = self._closed = False
        self._asked_to_wait: deque[tuple[Lease, asyncio.Future[None]]] = deque()
        self._writing = False
        # The store's time in microseconds, and the monotonic one in seconds, as they were at one moment.
        self._at = (0, 0.0)
        self._at_exit = _AtExit(self)
        # With ``once``: the tries that have failed since the last look that succeeded.
        self._backoff: Backoff | None = None
        self.wanted = 0
        self.intake: Intake | None = None
        #: What the last look at the store raised.
        self.error: BaseException | None = None
        self.stopped = False
        #: With ``once``: what ``stamp`` was before a look at the store that found nothing.
        self.nothing: int | None = None
        #: Counted by who reads, of whatever may make messages due.
        self.stamp = 0

    # In the loop's thread.

    @property
    def over(self) -> bool:
        """Whether no more messages are to be had."""
        return self.stopped or self._over or (self.intake is not None and self.intake.stopped)

    def take(self) -> Handed | None:
        """A message that is there. Never blocks."""
        while self._buffer:
            try:
                handed = self._buffer.popleft()
            except IndexError:
                break
            if not self.is_late(handed):
                return handed
            self.give_back(handed)
        intake = self.intake
        if intake is None or intake.acks_at_once or self.stopped:
            return None
        lease = intake.take_now()
        return None if lease is None else Handed(lease, intake.deliver(lease), at_once=False)

    @property
    def ready(self) -> int:
        """How many messages are there to be taken."""
        return len(self._buffer)

    def want(self, count: int) -> None:
        """So many messages would be taken now, beside those that are there: 0 for none."""
        self.wanted = count
        waiter = self._waiter
        need = count - len(self._buffer)
        if need > 0:
            if waiter is not None:
                waiter.wanted = need
            elif self._thread is None and not self._ended:
                self._thread = Thread(target=self._run, name="pitstop-feeder", daemon=True)
                self._thread.start()
            # Also when it is about its business: it looks once more, then.
            self._bell.ring()
        elif waiter is not None:
            waiter.withdraw()

    def taken(self, looked: Handed | None) -> Handed | None:
        """Take what a look has brought. None: nothing, or it is given back by now, for this was closed."""
        return None if looked is None else self._looked.pop(looked, None)

    def put_back(self, looked: Handed | None) -> None:
        """What a look has brought, for somebody who does not want it any more: the next one gets it, or it is given back."""
        handed = self.taken(looked)
        if handed is not None:
            self._buffer.appendleft(handed)
            if self._thread is None or self._over:
                self._hands.submit(self._give_back)
            self._bell.ring()
            self._notify()

    def stop(self) -> None:
        """No more messages; what is in hand is given back, soon. Any thread, and signal handlers."""
        self.stopped = True
        intake = self.intake
        if intake is not None:
            intake.end()
        self._bell.ring()
        if self._thread is None and intake is not None:
            self._hands.submit(intake.settle_all)

    def end(self) -> None:
        """Stop, and close the listener, soon. Any thread."""
        self._ended = True
        self.stop()

    async def close(self) -> None:
        """:meth:`end`, and wait for that. To be cancelled ends the wait and not the closing."""
        self.end()
        if self._thread is None:
            await self._hands.do(self.wait)
            return
        if not self._closed:
            finished = self._loop.create_future()
            self._finished.append(finished)
            await finished

    def is_past(self, due: int) -> bool:
        """Whether this instant has passed by the store's clock, as far as can be told without asking the store."""
        assert self.intake is not None, "there are deliveries of it"
        now_us, monotonic = self._at
        return due * 1000 <= now_us + (self._monotonic(self.intake) - monotonic) * 1e6

    def is_late(self, handed: Handed) -> bool:
        """Whether it is not to be handled: the loop was blocked since it was claimed, until its lease was over, or nearly."""
        assert self.intake is not None, "there are deliveries of it"
        return self.is_past(handed.lease.due - int(self.intake.lock_time / timedelta(milliseconds=1) * LEAST_REMAINDER))

    def give_back(self, handed: Handed) -> None:
        """It was taken, and nobody has seen it: for others, soon."""
        self._late.append(handed)
        self._hands.submit(self._give_back_late)

    async def written(self, lease: Lease) -> None:
        """Have the settlement of ``lease`` written, and wait until it is.

        :raises LeaseLost: when it came too late.
        :raises BackendUnavailable: when the store did not answer before the lease was over.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked_to_wait.append((lease, future))
        if not self._writing:
            self._writing = True
            self._hands.submit(self._write)
        await future

    def after_fork(self) -> None:
        """In the child of a fork: the loop, the threads, and all that was claimed are the parent's."""
        self._opening, self._looking, self._giving_back = Lock(), Condition(), Lock()
        self._looks, self._looked = 0, {}
        for each in (self._buffer, self._late, self._asked_to_wait):
            each.clear()

    # In the feeder's thread, and in those of the hands.

    def opened(self) -> Intake:
        """The intake."""
        with self._opening:
            if self.intake is None:
                self.intake = self._open()
                self.intake.session.add(self._at_exit)
            return self.intake

    def look(self) -> Handed | None:
        """A message that is due now. It is here until it is :meth:`taken`."""
        with self._looking:
            self._looks += 1
        try:
            intake = self.opened()
            if self.stopped:
                intake.end()
            lease = intake.wait(Waiter(0), self._monotonic(intake))
            handed = None
            if lease is not None:
                handed = Handed(lease, intake.deliver(lease, at_once=True), at_once=True)
                self._looked[handed] = handed
            self._note_time(intake)
            return handed
        finally:
            with self._looking:
                self._looks -= 1
                self._looking.notify_all()

    def wait(self) -> None:
        """Wait until all is given back and written, once this was told to end. The store is open until then."""
        if self._thread is None:
            self._let_go(close=True)
        else:
            self._thread.join(_CLOSE_PATIENCE)

    def leave(self) -> None:
        """The interpreter is about to end. A store that is away is not to keep the program from that."""
        self._ended = self.stopped = True
        self._bell.ring()
        closing = self._thread
        if closing is None:
            closing = Thread(target=self.wait, name="pitstop-aio", daemon=True)
            try:
                closing.start()
            except RuntimeError:
                # Python 3.12.0 and 3.12.1 begin no thread any more. https://github.com/python/cpython/issues/113964
                self.wait()
                return
        closing.join(_EXIT_PATIENCE)

    def _run(self) -> None:
        try:
            while not self._ended:
                need = self.wanted - len(self._buffer)
                if need <= 0 or self.over:
                    if self.over:
                        self._let_go()
                        self._tell()
                    if not self._bell.wait(_PATIENCE if self._buffer else None) and self.wanted == 0:
                        self._give_back()
                    continue
                try:
                    self._feed(need)
                except Exception as error:  # noqa: BLE001 - raised to whoever waits for a message
                    self.error = error
                    self._tell()
                    self._bell.wait(None)
        finally:
            self._over = True
            try:
                self._let_go(close=True)
            finally:
                tell(self._loop, self._finish)

    def _finish(self) -> None:
        self._closed = True
        for each in self._finished:
            if not each.done():
                each.set_result(None)
        self._notify()

    def _feed(self, need: int) -> None:
        intake = self.opened()
        waiter = self._waiter = Waiter(need, claims_first=True)
        stamp = self.stamp
        if self.wanted <= len(self._buffer) or self.stopped:
            self._waiter = None
            return
        at_once = self._pinned_acks and intake.acks_at_once
        clock = intake.session.clock
        deadline = clock.monotonic() if self._once else None
        # Before the look: a nack that is being written now may make its message due after it.
        unwritten = intake.writer.busy
        try:
            lease = intake.take_at_hand() or intake.wait(waiter, deadline)
            if lease is None and self._once and isinstance(clock, SystemClock):
                # What was stored for now is due at the next whole millisecond. A clock in somebody's hand stands still.
                clock.wait(Doorbell(), _ROUNDING)
                lease = intake.take_at_hand() or intake.wait(waiter, deadline)
        except BackendUnavailable as error:
            # Without a deadline the intake itself tries again.
            if not self._once or intake.session.closed or (error.permanent and not intake.answered):
                raise
            self._failed(intake, error)
            return
        finally:
            self._waiter = None
        self._backoff = None
        if lease is None:
            if self._once and not (intake.stopped or waiter.withdrawn):
                if unwritten:
                    intake.flush()
                    return
                self.nothing = stamp
                self._tell()
                self._bell.wait(None)
            return
        self._buffer.append(Handed(lease, intake.deliver(lease, at_once=at_once), at_once))
        self._note_time(intake)
        if not intake.acks_at_once:
            while len(self._buffer) < self.wanted and (lease := intake.take_at_hand()) is not None:
                self._buffer.append(Handed(lease, intake.deliver(lease, at_once=at_once), at_once))
        self._tell()

    def _failed(self, intake: Intake, error: BackendUnavailable) -> None:
        """Pause before the next try: a store that is away does not end a ``consume`` until idle."""
        self._backoff = self._backoff or Backoff(intake.session.log.outages)
        clock = intake.session.clock
        clock.wait(self._bell, self._backoff.failed(error, clock.monotonic()))

    @staticmethod
    def _monotonic(intake: Intake) -> float:
        return intake.session.clock.monotonic()

    def _note_time(self, intake: Intake) -> None:
        self._at = (intake.session.backend.now(), self._monotonic(intake))

    def _tell(self) -> None:
        if not tell(self._loop, self._notify):
            # Nobody is there to take anything any more.
            self._ended = True

    def _let_go(self, *, close: bool = False) -> None:
        if close:
            with self._looking:
                self._looking.wait_for(lambda: self._looks == 0, _CLOSE_PATIENCE)
            while self._looked:
                with suppress(KeyError):
                    self._late.append(self._looked.popitem()[0])
            self._give_back_late()
        self._give_back()
        intake = self.intake
        if intake is not None:
            if close:
                intake.close()
                intake.session.discard(self._at_exit)
            elif intake.unsettled:
                intake.settle_all()

    def _give_back_late(self) -> None:
        self._give_back(self._late)

    def _give_back(self, deliveries: deque[Handed] | None = None) -> None:
        """Give back what nobody has taken: of these, or of what is there."""
        deliveries = self._buffer if deliveries is None else deliveries
        with self._giving_back:
            taken: list[Handed] = []
            with suppress(IndexError):
                while True:
                    taken.append(deliveries.popleft())
            if taken:
                assert self.intake is not None, "what is there was claimed by it"
                self.intake.give_back([each.lease for each in taken])

    def _write(self) -> None:
        """Write acks that somebody waits for: together, those that come in meanwhile, too."""
        while True:
            batch: list[tuple[Lease, asyncio.Future[None]]] = []
            with suppress(IndexError):
                while True:
                    batch.append(self._asked_to_wait.popleft())
            if not batch:
                self._writing = False
                if not self._asked_to_wait:
                    return
                self._writing = True
                continue
            assert self.intake is not None, "there are deliveries of it"
            writer = self.intake.writer
            for lease, _ in batch:
                writer.take_along(lease)
            outcomes: list[tuple[asyncio.Future[None], Exception | None]] = []
            for lease, future in batch:
                try:
                    writer.wait_for(lease)
                except Exception as error:  # noqa: BLE001 - whatever it is: who waits is to be told
                    outcomes.append((future, error))
                else:
                    outcomes.append((future, None))
            tell(batch[0][1].get_loop(), _resolve, outcomes)


def _resolve(outcomes: list[tuple[asyncio.Future[None], Exception | None]]) -> None:
    for future, error in outcomes:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
