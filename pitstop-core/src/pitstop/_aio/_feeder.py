"""The thread that claims messages for an event loop, a batch per hop, as many as are wanted there now."""

from __future__ import annotations

import asyncio
import logging

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Condition, Lock, Thread

from pitstop._aio._hands import Hands, tell
from pitstop._engine._delivery import Delivery
from pitstop._engine._feed import Feed
from pitstop._engine._lifecycle import Component
from pitstop._engine._listener import Listener, Visit
from pitstop.abc import Doorbell, SystemClock


__all__ = ["Feeder"]

_log = logging.getLogger("pitstop.listener")

#: Seconds after which a message is given back that came when nobody wanted it any more.
_PATIENCE = 0.1
#: Seconds that the end waits for what is under way in other threads.
_CLOSE_PATIENCE = 15.0
#: Seconds that the end of the interpreter waits for each feeder that nobody closed.
_EXIT_PATIENCE = 2.0
#: Seconds in which what was stored for now becomes due.
_ROUNDING = 0.005


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
        open_listener: Callable[[], Listener],
        loop: asyncio.AbstractEventLoop,
        hands: Hands,
        notify: Callable[[], None],
        *,
        once: bool = False,
        pinned_acks: bool = True,
    ) -> None:
        """One that does nothing yet.

        :param open_listener: called in the feeder's thread.
        :param notify: called in the loop's thread when there is something to take, an error, or the end.
        :param once: do not wait for what is to come: say that there is ``nothing``.
        :param pinned_acks: whether a listener with ``prefetch=1`` has each ack written by itself.
        """
        self._open = open_listener
        self._loop = loop
        self._hands = hands
        self._notify = notify
        self._once = once
        self._pinned_acks = pinned_acks
        self._bell = Doorbell()
        self._opening = Lock()
        self._buffer: deque[Delivery] = deque()
        self._late: deque[Delivery] = deque()
        # What looks have brought, until it is taken; and how many looks are under way.
        self._looked: dict[Delivery, Delivery] = {}
        self._looks = 0
        self._looking = Condition()
        # One gives back at a time, so that who closes the store comes after one who has taken out what is to be given back.
        self._giving_back = Lock()
        self._visit: Visit | None = None
        self._thread: Thread | None = None
        self._ended = False
        self._finished: list[asyncio.Future[None]] = []
        # Whether no more is claimed; and whether the listener is closed by now, which comes later.
        self._over = self._closed = False
        self._asked_to_wait: deque[tuple[Delivery, asyncio.Future[None]]] = deque()
        self._writing = False
        # The store's time in microseconds, and the monotonic one in seconds, as they were at one moment.
        self._at = (0, 0.0)
        self._at_exit = _AtExit(self)
        self.wanted = 0
        self.feed: Feed | None = None
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
        return self.stopped or self._over or (self.feed is not None and self.feed.listener.stopped)

    def take(self) -> Delivery | None:
        """A message that is there. Never blocks."""
        while self._buffer:
            try:
                delivery = self._buffer.popleft()
            except IndexError:
                break
            if not self.is_late(delivery):
                return delivery
            self.give_back(delivery)
        feed = self.feed
        if feed is None or feed.batched is None or self.stopped:
            return None
        return feed.at_hand()

    @property
    def ready(self) -> int:
        """How many messages are there to be taken."""
        return len(self._buffer)

    def want(self, count: int) -> None:
        """So many messages would be taken now, beside those that are there: 0 for none."""
        self.wanted = count
        visit = self._visit
        need = count - len(self._buffer)
        if need > 0:
            if visit is not None:
                visit.wanted = need
            elif self._thread is None and not self._ended:
                self._thread = Thread(target=self._run, name="pitstop-feeder", daemon=True)
                self._thread.start()
            # Also when it is about its business: it looks once more, then.
            self._bell.ring()
        elif visit is not None:
            visit.withdraw()

    def taken(self, looked: Delivery | None) -> Delivery | None:
        """Take what a look has brought. None: nothing, or it is given back by now, for this was closed."""
        return None if looked is None else self._looked.pop(looked, None)

    def put_back(self, looked: Delivery | None) -> None:
        """What a look has brought, for somebody who does not want it any more: the next one gets it, or it is given back."""
        delivery = self.taken(looked)
        if delivery is not None:
            self._buffer.appendleft(delivery)
            if self._thread is None or self._over:
                self._hands.submit(self._give_back)
            self._bell.ring()
            self._notify()

    def stop(self) -> None:
        """No more messages; what is in hand is given back, soon. Any thread, and signal handlers."""
        self.stopped = True
        feed = self.feed
        if feed is not None:
            feed.end()
        self._bell.ring()
        if self._thread is None and feed is not None:
            self._hands.submit(feed.settle_all)

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
        assert self.feed is not None, "there are deliveries of it"
        now_us, monotonic = self._at
        return due * 1000 <= now_us + (self.feed.monotonic() - monotonic) * 1e6

    def is_late(self, delivery: Delivery) -> bool:
        """Whether it is not to be handled: the loop was blocked since it was claimed, until its lease was over, or nearly."""
        assert self.feed is not None, "there are deliveries of it"
        return self.is_past(delivery._due() - self.feed.least_ms)

    def give_back(self, delivery: Delivery) -> None:
        """It was taken, and nobody has seen it: for others, soon."""
        self._late.append(delivery)
        self._hands.submit(self._give_back_late)

    async def written(self, delivery: Delivery) -> None:
        """Have the settlement of ``delivery`` written, and wait until it is.

        :raises LeaseLost: when it came too late.
        :raises BackendUnavailable: when the store did not answer before the lease was over.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked_to_wait.append((delivery, future))
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

    def opened(self) -> Feed:
        """The listener."""
        with self._opening:
            if self.feed is None:
                self.feed = Feed(self._open())
                self.feed.store.add(self._at_exit)
            return self.feed

    def look(self) -> Delivery | None:
        """A message that is due now. It is here until it is :meth:`taken`."""
        with self._looking:
            self._looks += 1
        try:
            feed = self.opened()
            if self.stopped:
                feed.end()
            delivery = feed.listener.get(0)
            if delivery is not None:
                self._looked[delivery] = delivery
            self._note_time(feed)
            return delivery
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
        feed = self.opened()
        visit = self._visit = Visit(need)
        visit.claims_first = True
        stamp = self.stamp
        if self.wanted <= len(self._buffer) or self.stopped:
            self._visit = None
            return
        outbox = feed.batched if self._pinned_acks else feed.outbox
        deadline = feed.monotonic() if self._once else None
        # Before the look: a nack that is being written now may make its message due after it.
        unwritten = feed.outbox.busy
        try:
            delivery = feed.visit(visit, deadline, outbox)
            if delivery is None and self._once and isinstance(feed.store.clock, SystemClock):
                # What was stored for now is due at the next whole millisecond. A clock in somebody's hand stands still.
                feed.store.clock.wait(Doorbell(), _ROUNDING)
                delivery = feed.visit(visit, deadline, outbox)
        finally:
            self._visit = None
        if delivery is None:
            if self._once and not (feed.listener.stopped or visit.withdrawn):
                if unwritten:
                    feed.listener.flush()
                    return
                self.nothing = stamp
                self._tell()
                self._bell.wait(None)
            return
        self._buffer.append(delivery)
        self._note_time(feed)
        if feed.batched is not None:
            while len(self._buffer) < self.wanted and (delivery := feed.hand_out(outbox)) is not None:
                self._buffer.append(delivery)
        self._tell()

    def _note_time(self, feed: Feed) -> None:
        self._at = (feed.store.backend.now(), feed.monotonic())

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
        feed = self.feed
        if feed is not None:
            if close:
                feed.listener.close()
                feed.store.discard(self._at_exit)
            elif feed.unsettled:
                feed.settle_all()

    def _give_back_late(self) -> None:
        self._give_back(self._late)

    def _give_back(self, deliveries: deque[Delivery] | None = None) -> None:
        """Give back what nobody has taken: of these, or of what is there."""
        deliveries = self._buffer if deliveries is None else deliveries
        with self._giving_back:
            taken: list[Delivery] = []
            with suppress(IndexError):
                while True:
                    taken.append(deliveries.popleft())
            if taken:
                assert self.feed is not None, "what is there was claimed by it"
                self.feed.give_back(taken)

    def _write(self) -> None:
        """Write acks that somebody waits for: together, those that come in meanwhile, too."""
        while True:
            batch: list[tuple[Delivery, asyncio.Future[None]]] = []
            with suppress(IndexError):
                while True:
                    batch.append(self._asked_to_wait.popleft())
            if not batch:
                self._writing = False
                if not self._asked_to_wait:
                    return
                self._writing = True
                continue
            for delivery, _ in batch:
                assert delivery._outbox is not None, "made by a listener that writes together"
                delivery._outbox.take_along(delivery)
            outcomes: list[tuple[asyncio.Future[None], Exception | None]] = []
            for delivery, future in batch:
                assert delivery._outbox is not None, "made by a listener that writes together"
                try:
                    delivery._outbox.wait_for(delivery)
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
