"""The listener: claims what is due, hands it out, and sleeps in between.

How a listener waits: it looks at the store; finds nothing; sleeps until the next ``due`` it knows of, a randomised
``loop_time`` at most; and is woken before that by a store in this process, or by the backend's watch. Hints may get
lost: then it is late by ``loop_time``, and nothing else.
"""

from __future__ import annotations

import _thread
import logging
import random

from collections import deque
from collections.abc import Iterator
from datetime import timedelta
from threading import Condition, get_ident
from types import TracebackType
from typing import Self

from pitstop._decisions._emit import Emission, decide
from pitstop._decisions._settle import release
from pitstop._engine._backoff import Backoff
from pitstop._engine._delivery import Delivery
from pitstop._engine._store import Store
from pitstop._engine._watching import Watching
from pitstop._errors import BackendUnavailable
from pitstop._values._duration import parse_duration
from pitstop.abc import Capability, Doorbell, Settlement


__all__ = ["Listener"]

_log = logging.getLogger("pitstop.listener")

#: A claimed message is handed out only while this part of its lease is left; else it is given back.
_LEAST_REMAINDER = 0.1
#: Seconds to wait when somebody else took what was due.
_CONTENTION_PAUSE = 0.005
#: Seconds that close() waits for claims of other threads that are under way.
_CLOSE_PATIENCE = 15.0
#: Seconds that stop() waits until what was claimed ahead is given back.
_STOP_PATIENCE = 0.5


class _Visit:
    """One call of ``get``, in one thread: what wakes it, and until when it would sleep."""

    __slots__ = ("bell", "next_look", "thread")

    def __init__(self) -> None:
        self.thread = get_ident()
        self.bell = Doorbell()
        #: The instant at which it will look again. While it looks: everything is news to it.
        self.next_look = float("inf")


class Listener:
    """Hands out messages as they become due. Made by :meth:`pitstop.Pitstop.listen`; usable from several threads.

    Iterate over it, or call :meth:`get`. As a context manager it is closed at the end.
    """

    def __init__(
        self, store: Store, watching: Watching, lock_time: timedelta, loop_time: timedelta, prefetch: int
    ) -> None:
        self._store = store
        self._watching = watching
        self._lock_time = lock_time
        self._loop_time = loop_time
        self._prefetch = prefetch
        self._stopped = False
        # Whether the store ever answered.
        self._answered = False
        self._backoff = Backoff()
        self._reset()
        store.add(self)

    def _reset(self) -> None:
        # Claimed, not handed out; each with the time on the monotonic clock until which it may be.
        self._unseen: deque[tuple[Emission, float]] = deque()
        self._changed = Condition()
        # Who is inside get(). Replaced, never changed: a signal handler may be reading it.
        self._visits: tuple[_Visit, ...] = ()

    def get(self, timeout: float | timedelta | str | None = 0) -> Delivery | None:
        """The next message that is due.

        :param timeout: how long to wait for one: seconds, a ``timedelta``, or text such as ``"5s"``. 0: take what is
            due now, in this thread, without waiting. None: wait until there is one.
        :return: None when there was none in that time, or the listener was stopped.
        :raises BackendUnavailable: when the store cannot be reached, at the end of ``timeout``. Without a timeout it is
            tried again and again, with growing pauses; unless it refuses at the first look, for a reason that somebody
            has to mend first (``error.permanent``), such as a wrong password.
        :raises ConfigError: when ``timeout`` is no duration.
        """
        # Numbers first: those who poll give 0.
        seconds = timeout if timeout is None or isinstance(timeout, int | float) else _seconds(timeout)
        deadline = None if seconds is None else self._store.clock.monotonic() + seconds
        visit = _Visit()
        with self._changed:
            self._visits = (*self._visits, visit)
        try:
            return self._get(visit, deadline)
        finally:
            with self._changed:
                self._leave(visit)

    def stop(self) -> None:
        """End the iteration, and give back what was claimed ahead. Safe in any thread and in signal handlers.

        Deliveries that were handed out stay valid: settle them as ever.
        """
        self._end()
        if self._unseen:
            # In a thread of its own, and not waited for without end: a signal handler may have interrupted code that
            # holds the locks which this needs, Pitstop's or the driver's. Then it is done when that code goes on.
            done = Doorbell()
            _thread.start_new_thread(self._give_back, (done,))
            done.wait(_STOP_PATIENCE)

    def close(self) -> None:
        """Stop, wait for claims that are under way in other threads, and let go of everything. Again is harmless."""
        self._end()
        me = get_ident()
        with self._changed:
            # A claim that is under way would be given back to a store that is closed by then.
            self._changed.wait_for(lambda: all(each.thread == me for each in self._visits), _CLOSE_PATIENCE)
        self._give_back()
        self._store.discard(self)
        self._watching.leave(self)

    @property
    def stopped(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stopped

    @property
    def healthy(self) -> bool:
        """Whether the last look at the store succeeded."""
        return self._backoff.healthy

    def notice(self, due: int | None) -> None:
        """A message with this ``due`` was written: wake up, if it comes before the next look."""
        for visit in self._visits:
            if due is None or due < visit.next_look:
                visit.bell.ring()

    def after_fork(self) -> None:
        """In the child of a fork: what was claimed ahead, and the threads that wait, are the parent's."""
        self._reset()
        self._watching.after_fork()

    def __iter__(self) -> Iterator[Delivery]:
        return self

    def __next__(self) -> Delivery:
        delivery = self.get(timeout=None)
        if delivery is None:
            raise StopIteration
        return delivery

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "stopped" if self._stopped else "healthy" if self.healthy else "failing"
        return f"<Listener on {self._store.location} {state}>"

    def _leave(self, visit: _Visit) -> None:
        self._visits = tuple(each for each in self._visits if each is not visit)
        self._changed.notify_all()

    def _end(self) -> None:
        self._stopped = True
        for visit in self._visits:
            visit.bell.ring()

    def _get(self, visit: _Visit, deadline: float | None) -> Delivery | None:
        clock = self._store.clock
        while not self._stopped:
            try:
                visit.next_look = float("inf")
                delivery = self._take()
                if delivery is not None:
                    return delivery
                if self._stopped:
                    break
                if deadline is not None and clock.monotonic() >= deadline:
                    return None
                pause = self._pause(visit)
            except BackendUnavailable as error:
                if self._stopped:
                    break
                if self._store.closed:
                    break
                last = deadline is not None and clock.monotonic() >= deadline
                # Refused later, when it has worked: somebody is about to change a password, say. It may work again.
                last = last or (error.permanent and not self._answered)
                pause = self._backoff.failed(error, clock.monotonic(), log=not last)
                if last:
                    raise
            self._sleep(visit, pause, deadline)
        self._give_back()
        # Here too, not in close() alone: a thread that was about to sleep may have joined after that.
        self._watching.leave(self)
        return None

    def _take(self) -> Delivery | None:
        """Hand out one message: of those that were claimed ahead, else of a new claim. None after a stop."""
        while not self._stopped:
            emission = self._pop_unseen()
            if emission is None:
                if not self._claim():
                    return None
                continue
            delivery = Delivery(self._store, emission, self._lock_time)
            hooks = self._store.hooks
            if hooks.leased:
                hooks.notify(hooks.leased, delivery=delivery)
            return delivery
        return None

    def _pop_unseen(self) -> Emission | None:
        late: list[Emission] = []
        with self._changed:
            found = self._pop_in_time(late)
        self._return(late)
        return found

    def _pop_in_time(self, late: list[Emission]) -> Emission | None:
        # Not in the body of the `with` that holds the lock: in CPython 3.13.0 an interruption at the jump of a loop
        # there leaves it without giving the lock back.
        while self._unseen and not self._stopped:
            emission, until = self._unseen.popleft()
            if self._store.clock.monotonic() < until:
                return emission
            late.append(emission)
        return None

    def _claim(self) -> bool:
        """Lease what is due. False when nothing is, or when the answer came too late to emit anything."""
        store, clock = self._store, self._store.clock
        duration = self._lock_time // timedelta(milliseconds=1)
        # Taken before the claim is sent: a claim that took long to answer has used up part of its lease, or all of it.
        until = clock.monotonic() + self._lock_time.total_seconds() * (1 - _LEAST_REMAINDER)
        leased = store.backend.lease(self._prefetch, duration)
        self._answered = True
        self._backoff.succeeded(clock.monotonic())
        if not leased:
            return False
        decided = [decide(each, store.retry) for each in leased]
        unseen = [(record, each) for record, each in zip(leased, decided, strict=True) if isinstance(each, Settlement)]
        emissions = [each for each in decided if isinstance(each, Emission)]
        in_time = clock.monotonic() < until
        if in_time:
            with self._changed:
                self._unseen.extend((each, until) for each in emissions)
        elif emissions:
            _log.warning(
                "a claim took about as long as its lease of %s s, so that nothing of it was emitted; "
                "configure a longer lock_time, or a smaller prefetch",
                self._lock_time.total_seconds(),
            )
            self._return(emissions)
        if unseen:
            applied = store.backend.settle([settlement for _, settlement in unseen])
            for (record, settlement), done in zip(unseen, applied, strict=True):
                if done:
                    store.tell(settlement, record)
        return in_time

    def _pause(self, visit: _Visit) -> float:
        """Seconds until the next look."""
        backend = self._store.backend
        longest = self._loop_time.total_seconds() * random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, hides nothing
        due = backend.next_due()
        now = backend.now()
        if due is None:
            pause = longest
        elif due * 1000 <= now:
            pause = min(_CONTENTION_PAUSE, longest)
        else:
            pause = min((due * 1000 - now) / 1e6, longest)
        visit.next_look = now / 1000 + pause * 1000
        return pause

    def _sleep(self, visit: _Visit, pause: float, deadline: float | None) -> None:
        clock = self._store.clock
        if Capability.WATCH in self._store.capabilities:
            self._watching.join(self)
        if deadline is not None:
            pause = min(pause, max(deadline - clock.monotonic(), 0.0))
        clock.wait(visit.bell, pause)

    def _give_back(self, done: Doorbell | None = None) -> None:
        with self._changed:
            claimed, self._unseen = self._unseen, deque()
        self._return([emission for emission, _ in claimed])
        if done is not None:
            done.ring()

    def _return(self, unseen: list[Emission]) -> None:
        """Give back what was claimed and not handed out: due again, and the attempt is not counted."""
        if not unseen or self._store.closed:
            return
        try:
            backend = self._store.backend
            now = backend.now() // 1000
            duration = self._lock_time // timedelta(milliseconds=1)
            backend.settle([release(each.record, now, duration) for each in unseen])
        except BackendUnavailable as error:
            _log.warning("%d claimed messages come back only when their lease runs out: %s", len(unseen), error)
        else:
            self._store.written(None)


def _seconds(timeout: object) -> float:
    return parse_duration(timeout, "timeout").total_seconds()
