"""Waiting: the threads that want messages, and how they wait.

A thread looks at the store, finds nothing, and sleeps until the next ``due`` that it knows of, a randomised ``loop_time`` at
most. It is woken before that by a store in this process, or by the backend's watch. Such hints may get lost: then it is late
by ``loop_time``, and nothing else. Of several threads that wait in one listener one looks at the store, for all of them; the
others wait for it.

Threads: the threads that wait; any thread wakes them.
"""

from __future__ import annotations

import random

from collections.abc import Callable
from datetime import timedelta
from itertools import count
from threading import Condition, RLock, get_ident
from typing import NamedTuple

from pitstop._engine._buffer import ClaimBuffer
from pitstop._engine._calls import entrance
from pitstop._engine._claimed import Claimed
from pitstop._engine._claimer import Claimer
from pitstop._engine._glance import glance
from pitstop._engine._lease import Lease
from pitstop._engine._lifecycle import stop_at_exit
from pitstop._engine._session import Session
from pitstop._errors import BackendUnavailable
from pitstop.abc import Doorbell
from pitstop.abc._turn import REFUSED


__all__ = ["NextLook", "Waiter", "Waiting", "next_look"]

#: Numbers of turns, in the order in which the turns begin.
_turns = count(1)
#: Seconds to wait when another consumer took what was due.
_CONTENTION_PAUSE = 0.005


class NextLook(NamedTuple):
    """When to look at the store again."""

    #: Seconds to wait.
    pause: float
    #: The instant of the look, by the store's clock.
    at: float


def next_look(session: Session, loop_time: timedelta, next_due: Callable[[], int | None]) -> NextLook:
    """Return when to look at the store again, after a look that found nothing.

    :param next_due: ask the store when the next message is due.
    :raises BackendUnavailable: when the store did not answer.
    """
    backend = session.backend
    longest = loop_time.total_seconds() * random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, hides nothing
    due = next_due()
    now = backend.now()
    if due is None:
        pause = longest
    elif due * 1000 <= now:
        pause = min(_CONTENTION_PAUSE, longest)
    else:
        pause = min((due * 1000 - now) / 1e6, longest)
    return NextLook(pause, now / 1000 + pause * 1000)


class Waiter:
    """One thread that wants messages: its bell, and until when it would sleep."""

    __slots__ = (
        "bell",
        "claims_first",
        "gone",
        "looked",
        "next_look",
        "takes",
        "thread",
        "turn",
        "wanted",
        "withdrawn",
    )

    def __init__(self, wanted: int, *, claims_first: bool = False, takes: bool = True) -> None:
        """Return a waiter of the calling thread.

        :param wanted: how many messages it would take. 0: it takes one, and no more is to be claimed on its account.
        :param claims_first: whether acks are not waited for before a claim: another thread writes them.
        :param takes: whether it takes its message out of the buffer. If not, the wait ends when the buffer has one.
        """
        self.thread = get_ident()
        self.bell = Doorbell()
        self.wanted = wanted
        self.claims_first = claims_first
        self.takes = takes
        #: Whether the wait ends, without a message or with one that it is about to get. Written by any thread.
        self.withdrawn = False
        #: Whether the wait has ended. Ctrl-C may keep the thread from removing its waiter. Written by the waiting thread.
        self.gone = False
        #: The instant at which the thread will look again, by the store's clock. While it looks: everything is news to it.
        #: While it waits for the thread that looks: nothing is. Written by the waiting thread, as is the next one.
        self.next_look = float("inf")
        #: When it began to wait, by the monotonic clock.
        self.looked = 0.0
        #: The number of its present look at the store. None: it sleeps. Written by the waiting thread.
        self.turn: int | None = None

    def withdraw(self) -> None:
        """End the wait. Any thread."""
        self.withdrawn = True
        self.bell.ring()


class Waiting:
    """The threads that wait in one listener."""

    def __init__(
        self,
        session: Session,
        buffer: ClaimBuffer,
        claimer: Claimer,
        loop_time: timedelta,
        *,
        take: Callable[[], Lease | None],
        peek: Callable[[], Lease | None],
        claim: Callable[[int, bool], Claimed],
        watch: Callable[[], None],
        go_home: Callable[[], None],
    ) -> None:
        """Return the waiting of a listener in which no thread waits.

        :param take: take a message out of the buffer.
        :param peek: return the next message of the buffer, and leave it there.
        :param claim: claim so many messages. The second argument: whether another thread writes the acks.
        :param watch: have this listener woken by changes that other processes make. Called before each sleep.
        :param go_home: called by a thread that leaves without a message.
        """
        self._session = session
        self._monotonic = session.clock.monotonic
        self._buffer = buffer
        self._claimer = claimer
        self._loop_time = loop_time
        self._take = take
        self._peek = peek
        self._claim = claim
        self._watch = watch
        self._go_home = go_home
        #: Whether the listener was stopped. Written once, by any thread.
        self.stopped = False
        self._reset()

    def _reset(self) -> None:
        # A `with` of the lock itself takes no step of Python, unlike one of the condition.
        self._lock = RLock()
        self._changed = Condition(self._lock)
        # How many threads wait for others to leave. Written under the lock.
        self._awaiting = 0
        #: The threads that wait. Replaced under the lock, never changed: a signal handler may be reading it.
        self.waiters: tuple[Waiter, ...] = ()
        # The one of them that looks at the store. Written under the lock.
        self._leader: Waiter | None = None

    def after_fork(self) -> None:
        """Forget the threads that wait: they are the parent's."""
        self._reset()

    def stop(self) -> None:
        """End all waits. Takes no lock.

        Called before the buffer is closed. A thread that found only the buffer closed would claim and give back again and again.
        """
        self.stopped = True
        for waiter in self.waiters:
            waiter.bell.ring()

    def notice(self, due: int | None) -> None:
        """Wake threads that would look only after ``due``. None: it is not known which message was written."""
        for waiter in self.waiters:
            if due is None or due < waiter.next_look:
                waiter.bell.ring()

    @entrance
    def wait(self, waiter: Waiter, deadline: float | None) -> Lease | None:
        """Take a message out of the buffer, or of a new claim, and wait for it until ``deadline``. None: without end.

        Return None when there was none in that time, or the listener was stopped.

        :raises BackendUnavailable: at the deadline; and before the store has ever answered, if it refuses for good.
        """
        try:
            self._join(waiter)
            return self._wait(waiter, deadline)
        finally:
            # In this order: Ctrl-C does not come before the first step.
            waiter.gone = True
            self._leave(waiter)

    @entrance
    def claim_ahead(self) -> None:
        """Claim the next messages while those in the buffer are handled. Called by the background thread."""
        if self._claimer.throttles:
            # It would claim messages that handlers may not have yet, or a single one: see below.
            return
        # Two at least, also if the pace falls meanwhile.
        waiter = Waiter(2, claims_first=True)
        try:
            self._join(waiter)
            # After it is known to be here: close() waits for the threads that are. Not for a single message: a claim of one
            # counts an attempt as certain, since the message goes to a handler at once.
            if not self.stopped and self._buffer.limit(1) > 1 and self._lead(waiter):
                self._claim_for(waiter)
        except BackendUnavailable:
            # A thread that needs the next messages looks by itself, and reports it.
            pass
        finally:
            try:
                if self.stopped:
                    # Before it leaves: stop() waits for that.
                    self._go_home()
            finally:
                # Whatever the backend raised: each stop() and close() waits for the threads that are here.
                waiter.gone = True
                self._leave(waiter)

    @property
    def turn(self) -> int | None:
        """The number of the look at the store that began first, of those that go on now. None: all threads sleep."""
        return min((each.turn for each in self.waiters if each.turn is not None and not each.gone), default=None)

    @property
    def others(self) -> bool:
        """Whether threads wait or claim here, besides the calling thread."""
        me = get_ident()
        return any(each.thread != me and not each.gone for each in self.waiters)

    def wait_for_others(self, thread: int, patience: float) -> None:
        """Wait until no thread but ``thread`` wants messages. Their claims were handed out or given back then."""

        def alone() -> bool:
            return all(each.thread == thread or each.gone for each in self.waiters)

        with self._lock:
            self._awaiting += 1
            try:
                glance(lambda seconds: self._changed.wait_for(alone, seconds), patience)
            finally:
                self._awaiting -= 1

    # The threads that are here, and the one of them that looks at the store.

    def _join(self, waiter: Waiter) -> None:
        with self._lock:
            others = self.waiters
            self.waiters = (*[each for each in others if not each.gone], waiter) if others else (waiter,)

    def _leave(self, waiter: Waiter) -> None:
        with self._lock:
            if len(self.waiters) > 1:
                self.waiters = tuple([each for each in self.waiters if each is not waiter and not each.gone])
            elif waiter in self.waiters:
                self.waiters = ()
            if self._leader is waiter:
                self._leader = None
            if self._awaiting:
                self._changed.notify_all()
        if self.waiters:
            # Another thread takes what this one leaves in the buffer, or looks at the store in its place.
            self._wake(max(1, len(self._buffer)), waiter)

    def _lead(self, waiter: Waiter) -> bool:
        with self._lock:
            leader = self._leader
            # Ctrl-C may have kept a leader from leaving in good order.
            if leader is None or leader.gone or leader not in self.waiters or leader.thread == waiter.thread:
                self._leader = waiter
            return self._leader is waiter

    def _wake(self, count: int, me: Waiter) -> None:
        leader = self._leader
        followers = [each for each in self.waiters if each is not me and each is not leader and not each.gone]
        for each in followers[:count]:
            each.bell.ring()
        if leader is not None and leader is not me and len(followers) < count and len(self._buffer):
            # It looks at the store by itself, but perhaps much later. Messages that another
            # thread left in the buffer are news to it.
            leader.bell.ring()

    # The steps of one wait.

    def _wait(self, waiter: Waiter, deadline: float | None) -> Lease | None:
        while not (self.stopped or waiter.withdrawn):
            # At the end of its time each thread looks by itself, also at what is wrong.
            if (deadline is None or self._monotonic() < deadline) and not self._lead(waiter):
                if (lease := self._found(waiter)) is not None:
                    return lease
                self._follow(waiter, deadline)
                continue
            try:
                waiter.turn = next(_turns)
                waiter.next_look, waiter.looked = float("inf"), self._monotonic()
                lease = self._look(waiter)
                if lease is not None:
                    return lease
                if self.stopped:
                    break
                if deadline is not None and self._monotonic() >= deadline:
                    return None
                if self._claimer.throttles and (pause := self._claimer.pause()):
                    # No message is news to it: it may claim none.
                    waiter.looked, waiter.next_look = self._monotonic(), float("-inf")
                else:
                    look = next_look(self._session, self._loop_time, self._claimer.next_due)
                    waiter.looked, waiter.next_look, pause = self._monotonic(), look.at, look.pause
                pause = max(pause, self._claimer.rest)
            except BackendUnavailable as error:
                if self._is_over():
                    # The error is not reported; but the thread that ends this need not find it out once more.
                    self._claimer.backoff.failed(error, self._monotonic(), log=False)
                    break
                pause = self._failed(waiter, error, deadline)
            self._sleep(waiter, pause, deadline)
        self._go_home()
        return None

    def _found(self, waiter: Waiter) -> Lease | None:
        return self._take() if waiter.takes else self._peek()

    def _is_over(self) -> bool:
        return self.stopped or self._session.closed

    def _look(self, waiter: Waiter) -> Lease | None:
        """Take a message out of the buffer, or of new claims. None when there is none, or after a stop."""
        while not self.stopped:
            lease = self._take() if waiter.takes else self._peek()
            if lease is not None:
                return lease
            if not self._claim_for(waiter):
                return None
        return None

    def _claim_for(self, waiter: Waiter) -> bool:
        """Claim for a waiter. Return whether to look again at once."""
        wanted = waiter.wanted
        if len(self.waiters) > 1 and self._leader is waiter:
            # The leader claims for the threads that wait for it, too.
            wanted = sum([each.wanted for each in self.waiters])
        claimed = self._claim(wanted, waiter.claims_first)
        if claimed.count and len(self.waiters) > 1:
            self._wake(claimed.count, waiter)
        return claimed.again

    def _failed(self, waiter: Waiter, error: BackendUnavailable, deadline: float | None) -> float:
        """Return how many seconds to wait after a look that failed.

        :raises BackendUnavailable: the error, when there is no time left, or no use in trying again.
        """
        now = self._monotonic()
        # Refused later, when it has worked: an operator is about to change a password, say. It may work again.
        last = (deadline is not None and now >= deadline) or (error.permanent and not self._claimer.answered)
        pause = self._claimer.backoff.failed(error, now, log=not last)
        if last:
            raise error
        waiter.looked = now
        return pause

    def _follow(self, waiter: Waiter, deadline: float | None) -> None:
        """Wait for the thread that looks at the store. To wait without end would do, too, if nothing ever went wrong."""
        if self._session.calls.interrupting:
            # The leader may wait for the call that this one has interrupted.
            raise BackendUnavailable(REFUSED)
        waiter.next_look, waiter.looked = float("-inf"), self._monotonic()
        self._sleep(waiter, self._loop_time.total_seconds() * 1.5, deadline)

    def _sleep(self, waiter: Waiter, pause: float, deadline: float | None) -> None:
        waiter.turn = None
        clock = self._session.clock
        stop_at_exit()
        self._watch()
        now = clock.monotonic()
        # Counted from the look: since then time has passed, or a test has moved its clock.
        pause -= now - waiter.looked
        if deadline is not None:
            pause = min(pause, deadline - now)
        clock.wait(waiter.bell, max(pause, 0.0))
