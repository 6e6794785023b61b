"""The listener: claims what is due, hands it out, and sleeps in between.

How a listener waits: it looks at the store; finds nothing; sleeps until the next ``due`` it knows of, a randomised
``loop_time`` at most; and is woken before that by a store in this process, or by the backend's watch. Hints may get
lost: then it is late by ``loop_time``, and nothing else. Of several threads that wait in one listener one looks at the
store, for all of them; the others wait for it.

How much it claims: see :mod:`pitstop._decisions._prefetch`. Who iterates is handed out what is in hand, without a lock or
a look at the store; acks go the other way through :mod:`pitstop._engine._outbox`; and what is to be done meanwhile is
done by :mod:`pitstop._engine._pump`.
"""

from __future__ import annotations

import _thread
import logging
import random

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, suppress
from datetime import timedelta
from threading import Condition, get_ident
from types import TracebackType
from typing import Self

from pitstop._decisions._emit import Emission, decide
from pitstop._engine._backoff import Backoff
from pitstop._engine._calls import entrance, unbroken
from pitstop._engine._delivery import Delivery
from pitstop._engine._hand import Hand
from pitstop._engine._heartbeat import Heartbeat
from pitstop._engine._lifecycle import Component, stop_at_exit
from pitstop._engine._outbox import Outbox
from pitstop._engine._pump import Pump
from pitstop._engine._session import Session
from pitstop._engine._watcher import Watcher
from pitstop._errors import BackendUnavailable
from pitstop._values._arguments import seconds_of
from pitstop.abc import Aside, Capability, Damaged, Doorbell, Outcome, Record, Settlement, SystemClock
from pitstop.abc._turn import REFUSED


__all__ = ["LEAST_REMAINDER", "Listener", "Visit"]

_log = logging.getLogger("pitstop.listener")

#: A claimed message is handed out only while this part of its lease is left; else it is given back.
LEAST_REMAINDER = 0.1
#: Seconds to wait when somebody else took what was due.
_CONTENTION_PAUSE = 0.005
#: Seconds for which one who leaves still tries while the store is known to be away.
_LAST_TRY = 0.5
#: Seconds that stop() waits until what was claimed ahead is given back.
_STOP_PATIENCE = 0.5
#: Seconds of one of the short waits that a long one is made of.
_GLANCE = 0.05
#: Seconds that the end of the interpreter waits for each listener that nobody closed.
_EXIT_PATIENCE = 2.0


class Visit:
    """One thread that wants messages: what wakes it, and until when it would sleep."""

    __slots__ = ("bell", "claims_first", "looked", "next_look", "thread", "wanted", "withdrawn")

    def __init__(self, wanted: int) -> None:
        self.thread = get_ident()
        self.bell = Doorbell()
        #: How many it would take. 0: it takes one, and no more is to be claimed on its account.
        self.wanted = wanted
        #: Whether nobody waits for it any more: it ends without a message, or with the one that it is about to get.
        self.withdrawn = False
        #: Whether acks are not to be waited for before a claim: they are written by another thread.
        self.claims_first = False
        #: The instant at which it will look again. While it looks: everything is news to it. While it waits for another
        #: one that looks: nothing is.
        self.next_look = float("inf")
        #: When it began to wait, by the monotonic clock.
        self.looked = 0.0

    def withdraw(self) -> None:
        """Nobody waits for it any more."""
        self.withdrawn = True
        self.bell.ring()


class Listener(Component):
    """Hands out messages as they become due. Made by :meth:`pitstop.Pitstop.listen`; usable from several threads.

    Iterate over it, or call :meth:`get`. As a context manager it is closed at the end.
    """

    def __init__(
        self,
        store: Session,
        watcher: Watcher,
        lock_time: timedelta,
        loop_time: timedelta,
        prefetch: int | None,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        self._session = store
        self._monotonic = store.clock.monotonic
        self._observed = store.events.observes_leased
        self._watcher = watcher
        self._lock_time = lock_time
        self._loop_time = loop_time
        self._stopped = False
        # Whether close() has told what could not be written.
        self._told_of_rest = False
        # Whether the store ever answered.
        self._answered = False
        self._backoff = Backoff(store.log.outages)
        self._pump = Pump(store)
        self._hand = Hand(store, lock_time, prefetch, self._pump.want)
        self._outbox = Outbox(store, self._hand.unseen, self._pump)
        # Where acks of an iteration go; None: to the store at once.
        self._batched = None if prefetch == 1 else self._outbox
        self._pump.begin(self._hand, self._outbox, self._claim_ahead)
        self._heartbeat = heartbeat
        if heartbeat is not None:
            heartbeat.begin(self, lock_time)
        self._reset()
        store.add(self)

    def _reset(self) -> None:
        self._changed = Condition()
        # Who is inside get(). Replaced, never changed: a signal handler may be reading it.
        self._visits: tuple[Visit, ...] = ()
        # The one of them who looks at the store.
        self._leader: Visit | None = None

    def get(self, timeout: float | timedelta | str | None = 0) -> Delivery | None:
        """The next message that is due.

        With a timeout it takes one message, and the ack of that is written at once. Without one it is the same as a step of
        the iteration: several may be claimed and acknowledged together.

        :param timeout: how long to wait for one: seconds, a ``timedelta``, or text such as ``"5s"``. 0: take what is
            due now, in this thread, without waiting. None: wait until there is one.
        :return: None when there was none in that time, or the listener was stopped.
        :raises BackendUnavailable: when the store cannot be reached, at the end of ``timeout``. Without a timeout it is
            tried again and again, with growing pauses; unless it refuses at the first look, for a reason that somebody
            has to mend first (``error.permanent``), such as a wrong password.
        :raises ConfigError: when ``timeout`` is negative, not finite, or no duration.
        """
        if timeout is None:
            return self._next()
        return self._visit(Visit(0), self._monotonic() + seconds_of(timeout), None)

    def _next(self, wanted: int = 1) -> Delivery | None:
        """One message of those that are in hand, else of a new claim, which may be for so many or more; waits for it."""
        return self._hand_out(self._batched) or self._visit(Visit(wanted), None, self._batched)

    def _at_hand(self) -> Delivery | None:
        """One message of those in hand; None when there is none that can be had without the store. Never blocks."""
        emission = self._hand.pop_now()
        return None if emission is None else self._delivery(emission, self._outbox)

    def stop(self) -> None:
        """End the iteration, give back what was claimed ahead, and write the acks that are pending. Safe in any thread and
        in signal handlers.

        Deliveries that were handed out stay valid: settle them as ever.
        """
        self._end()
        if self._has_unsettled():
            # In a thread of its own, and not waited for without end: a signal handler may have interrupted code that
            # holds the locks which this needs, Pitstop's or the driver's. Then it is done when that code goes on.
            done = Doorbell()
            try:
                _thread.start_new_thread(self._settle_for, (get_ident(), done))
            except RuntimeError:
                # The system gives no thread, or Python is about to end. Not in this one, for the same reason: it is done by
                # those who are inside, or look once more; by close(), or at the exit.
                return
            _wait_by_glances(done.wait, _STOP_PATIENCE)

    def at_exit(self) -> None:
        """The interpreter is about to end: settle what nobody will settle any more."""
        self._end()
        if self._has_unsettled():
            settled = Doorbell()
            try:
                # A store that is away is not to keep the program from ending.
                _thread.start_new_thread(self._settle_for, (get_ident(), Doorbell(), settled))
            except RuntimeError:
                # Python 3.12.0 and 3.12.1 begin no thread any more. https://github.com/python/cpython/issues/113964
                self._settle_all()
            else:
                _wait_by_glances(settled.wait, _EXIT_PATIENCE)

    def end_soon(self) -> None:
        self._end()

    @unbroken
    def close(self) -> None:
        """Stop, wait for claims that are under way in other threads, and let go of everything. Again is harmless.

        A store that is away is waited for as long as for one operation, in all; what could not be written is told.
        """
        self._end()
        clock = SystemClock()
        with self._last_time() as seconds:
            ends = clock.monotonic() + seconds
            # A claim that is under way would be given back to a store that is closed by then.
            self._wait_for_others(get_ident(), seconds)
            # In this order: who has an ack from here on writes it, and none comes between the last write and the end.
            self._pump.end()
            kept = self._hand.give_back_all(log=False)
            # A thread that writes gets a moment in any case.
            unwritten = self._outbox.close(max(ends - clock.monotonic(), _STOP_PATIENCE))
        if (kept or unwritten) and not self._told_of_rest:
            self._told_of_rest = True
            _log.warning(
                "closed while the store did not answer: %d acks or nacks were not written, and %d messages that were claimed "
                "ahead not given back; these messages come back when their leases run out",
                unwritten,
                kept,
            )
        if self._heartbeat is not None:
            self._heartbeat.end()
        self._session.discard(self)
        self._watcher.leave(self)

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

    def forget(self, ids: Collection[str]) -> None:
        """These messages were stored anew or removed: what was claimed of them before is not to be handed out any more."""
        self._hand.forget(ids)

    def flush(self, ids: Collection[str] | None = None) -> None:
        """Write the acks that are pending, if one of these messages may be among them, so that a look at the store shows them.

        A store that does not answer is no matter here: it is tried again.
        """
        with suppress(BackendUnavailable):
            self._outbox.flush(ids)

    def after_fork(self) -> None:
        """In the child of a fork: what was claimed ahead, and the threads that wait, are the parent's."""
        self._hand.after_fork()
        self._reset()
        self._outbox.after_fork()
        self._pump.after_fork()
        if self._heartbeat is not None:
            self._heartbeat.after_fork()
        self._watcher.after_fork()

    def __iter__(self) -> Iterator[Delivery]:
        return self

    def __next__(self) -> Delivery:
        delivery = self._next()
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
        return f"<Listener on {self._session.location} {state}>"

    def _claim_ahead(self) -> None:
        """Claim the next messages while those in hand are handled: in the pump's thread."""
        visit = Visit(1)
        with self._changed:
            self._visits = (*self._visits, visit)
        try:
            # After it is known to be here: close() waits for those who are.
            if not self._stopped and self._lead(visit):
                self._claim(visit)
        except BackendUnavailable:
            # Whoever needs them next looks by itself, and tells.
            pass
        finally:
            try:
                if self._stopped:
                    # Before it leaves: stop() waits for that.
                    self._hand.give_back_all()
            finally:
                # Whatever the backend raised: who stays here for ever is waited for by each stop() and close().
                self._leave(visit)

    # What consume() does.

    def _next_for_worker(self, *, wait: bool) -> Delivery | None:
        """One message whose ack goes through the outbox, whatever ``prefetch`` is. Without ``wait`` None when nothing is due."""
        deadline = None if wait else self._monotonic()
        return self._hand_out(self._outbox) or self._visit(Visit(1), deadline, self._outbox)

    def _is_at_rest(self) -> bool:
        """Whether nothing is in hand or on its way, once what is pending is written. True only of what nobody else uses."""
        self.flush()
        return not (self._pump.awake or self._pump.wanted or self._outbox or self._hand)

    # Who looks at the store, and who waits for it.

    @entrance
    def _visit(self, visit: Visit, deadline: float | None, outbox: Outbox | None) -> Delivery | None:
        with self._changed:
            self._visits = (*self._visits, visit)
        try:
            return self._get(visit, deadline, outbox)
        finally:
            self._leave(visit)

    def _lead(self, visit: Visit) -> bool:
        with self._changed:
            leader = self._leader
            # Ctrl-C may have kept one from leaving in good order.
            if leader is None or leader not in self._visits or leader.thread == visit.thread:
                self._leader = visit
            return self._leader is visit

    def _leave(self, visit: Visit) -> None:
        with self._changed:
            self._visits = tuple(each for each in self._visits if each is not visit)
            if self._leader is visit:
                self._leader = None
            self._changed.notify_all()
        # What it leaves in hand, or the look at the store, is for somebody else now.
        self._wake(max(1, len(self._hand)), visit)

    def _wake(self, count: int, me: Visit) -> None:
        leader = self._leader
        followers = [each for each in self._visits if each is not me and each is not leader]
        for each in followers[:count]:
            each.bell.ring()
        if leader is not None and leader is not me and len(followers) < count and self._hand:
            # It looks at the store by itself, but perhaps much later: what another thread left in hand is news to it.
            leader.bell.ring()

    def _end(self) -> None:
        self._stopped, self._hand.open = True, False
        for visit in self._visits:
            visit.bell.ring()

    def _get(self, visit: Visit, deadline: float | None, outbox: Outbox | None) -> Delivery | None:
        while not (self._stopped or visit.withdrawn):
            # At the end of its time everybody has a look of their own, also at what is wrong.
            if (deadline is None or self._monotonic() < deadline) and not self._lead(visit):
                if (delivery := self._hand_out(outbox)) is not None:
                    return delivery
                if self._session.calls.interrupting:
                    # The thread that looks at the store may wait for the call that this one has interrupted.
                    raise BackendUnavailable(REFUSED)
                self._follow(visit, deadline)
                continue
            try:
                visit.next_look, visit.looked = float("inf"), self._monotonic()
                delivery = self._take(visit, outbox)
                if delivery is not None:
                    return delivery
                if self._stopped:
                    break
                if deadline is not None and self._monotonic() >= deadline:
                    return None
                pause = self._pause(visit)
            except BackendUnavailable as error:
                if self._ended():
                    # Nobody is told; but whoever ends this need not find it out once more.
                    self._backoff.failed(error, self._monotonic(), log=False)
                    break
                pause = self._failed(visit, error, deadline)
            self._sleep(visit, pause, deadline)
        self._go_home()
        return None

    def _go_home(self) -> None:
        """Nobody is handed out anything any more, if this was stopped."""
        if self._stopped:
            self._settle_all()
            # Here too, not in close() alone: a thread that was about to sleep may have joined after that.
            self._watcher.leave(self)

    def _last_time(self) -> AbstractContextManager[float]:
        """For who is about to leave: see :meth:`pitstop.abc.Backend.bounded`."""
        return self._session.bounded(_LAST_TRY if self._is_away() else None)

    def _is_away(self) -> bool:
        """Whether the store did not answer at the last look, or at the last write."""
        return self._outbox.failing or not self._backoff.healthy

    def _ended(self) -> bool:
        return self._stopped or self._session.closed

    def _failed(self, visit: Visit, error: BackendUnavailable, deadline: float | None) -> float:
        """Seconds to wait after a look that failed.

        :raises BackendUnavailable: the error, when there is no time left, or no use in trying again.
        """
        now = self._monotonic()
        # Refused later, when it has worked: somebody is about to change a password, say. It may work again.
        last = (deadline is not None and now >= deadline) or (error.permanent and not self._answered)
        pause = self._backoff.failed(error, now, log=not last)
        if last:
            raise error
        visit.looked = now
        return pause

    def _take(self, visit: Visit, outbox: Outbox | None) -> Delivery | None:
        """Hand out one message: of those that were claimed ahead, else of a new claim. None after a stop."""
        while not self._stopped:
            delivery = self._hand_out(outbox)
            if delivery is not None:
                return delivery
            if self._outbox and not visit.claims_first:
                # Nothing is in hand: now is the time.
                self.flush()
            if not self._claim(visit):
                return None
        return None

    # What is in hand.

    def _hand_out(self, outbox: Outbox | None) -> Delivery | None:
        """Hand out one message of those in hand."""
        emission = self._hand.pop()
        return None if emission is None else self._delivery(emission, outbox)

    def _delivery(self, emission: Emission, outbox: Outbox | None) -> Delivery:
        delivery = Delivery(self._session, emission, self._lock_time, outbox)
        if self._heartbeat is not None:
            self._heartbeat.hold(delivery)
        if self._observed:
            self._session.events.leased(delivery)
        return delivery

    def _claim(self, visit: Visit) -> bool:
        """Lease what is due. False when nothing is, or when the answer came too late to emit anything."""
        store, clock = self._session, self._session.clock
        # This is it, if the next ones were wanted ahead.
        self._pump.wanted = False
        self._hand.measure(self._outbox.last_flush)
        self._outbox.last_flush = 0.0
        # The one who leads claims for those who wait for it, too.
        wanted = sum(each.wanted for each in self._visits) if self._leader is visit else visit.wanted
        duration = self._lock_time // timedelta(milliseconds=1)
        # Taken before the claim is sent: a claim that took long to answer has used up part of its lease, or all of it.
        begun = clock.monotonic()
        until = begun + self._lock_time.total_seconds() * (1 - LEAST_REMAINDER)
        limit = self._hand.limit(wanted)
        leased = store.backend.lease(limit, duration)
        self._answered = True
        now = clock.monotonic()
        self._backoff.succeeded(now)
        self._hand.note_claim(limit, len(leased))
        if not leased:
            return False
        emissions: list[Emission] = []
        unfit: list[tuple[Record | Damaged, Settlement]] = []
        aside = False
        for record in leased:
            if isinstance(record, Damaged) and record.due is None:
                # The backend could not lease it, and has set it aside by itself.
                store.events.settled(Settlement(record.id, "", Outcome.BURY, Aside(record.error)), record)
                aside = True
                continue
            decided = decide(record, store.retry)
            if isinstance(decided, Emission):
                emissions.append(decided)
            else:
                unfit.append((record, decided))
        in_time = clock.monotonic() < until
        if in_time:
            self._hand.put(emissions, until, now - begun)
            if len(emissions) > 1 and self._hand.may_bore:
                self._pump.wake()
            self._wake(len(emissions), visit)
        elif emissions:
            note = store.log.slow_claims.passes(now)
            if note is not None:
                _log.warning(
                    "a claim took about as long as its lease of %s s, so that nothing of it was emitted; "
                    "configure a longer lock_time, or a smaller prefetch%s",
                    self._lock_time.total_seconds(),
                    note,
                )
            self._hand.give_back(emissions)
        settled = self._settle_unfit(unfit)
        # A store that leases again and again what it does not settle is not asked without end.
        return in_time and (bool(emissions) or settled or aside)

    def _settle_unfit(self, unfit: list[tuple[Record | Damaged, Settlement]]) -> bool:
        """Settle what was claimed and is not to be emitted; say whether any of that was done."""
        if not unfit:
            return False
        applied = self._session.backend.settle([settlement for _, settlement in unfit])
        for (record, settlement), done in zip(unfit, applied, strict=True):
            if done:
                self._session.events.settled(settlement, record)
        return any(applied)

    def _pause(self, visit: Visit) -> float:
        """Seconds until the next look."""
        backend = self._session.backend
        longest = self._loop_time.total_seconds() * random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, hides nothing
        due = backend.next_due()
        visit.looked = self._monotonic()
        now = backend.now()
        if due is None:
            pause = longest
        elif due * 1000 <= now:
            pause = min(_CONTENTION_PAUSE, longest)
        else:
            pause = min((due * 1000 - now) / 1e6, longest)
        visit.next_look = now / 1000 + pause * 1000
        return pause

    def _follow(self, visit: Visit, deadline: float | None) -> None:
        """Wait for the one who looks at the store. To wait without end would do, too, if nothing ever went wrong."""
        visit.next_look, visit.looked = float("-inf"), self._monotonic()
        self._sleep(visit, self._loop_time.total_seconds() * 1.5, deadline)

    def _sleep(self, visit: Visit, pause: float, deadline: float | None) -> None:
        clock = self._session.clock
        stop_at_exit()
        if Capability.WATCH in self._session.capabilities:
            self._watcher.join(self)
        now = clock.monotonic()
        # Counted from the look: since then time has passed, or a test has moved its clock.
        pause -= now - visit.looked
        if deadline is not None:
            pause = min(pause, deadline - now)
        clock.wait(visit.bell, max(pause, 0.0))

    def _has_unsettled(self) -> bool:
        """Whether something is in hand, or on its way there or to the store."""
        me = get_ident()
        return bool(self._hand or self._outbox) or any(each.thread != me for each in self._visits)

    def _wait_for_others(self, thread: int, patience: float) -> None:
        """Wait until no thread but this one wants messages any more: what they claimed was handed out, or given back."""

        def alone() -> bool:
            return all(each.thread == thread for each in self._visits)

        with self._changed:
            _wait_by_glances(lambda seconds: self._changed.wait_for(alone, seconds), patience)

    def _settle_for(self, thread: int, given_back: Doorbell, settled: Doorbell | None = None) -> None:
        """Settle all that is not handed out, for a thread that has stopped this, and waits for a bell."""
        # First what can be had at once, then what a claim that is under way brings.
        self._hand.give_back_all()
        self._wait_for_others(thread, _STOP_PATIENCE)
        self._settle_all(given_back, settled)

    def _settle_all(self, given_back: Doorbell | None = None, settled: Doorbell | None = None) -> None:
        """Give back what is in hand, and write what is pending; if that fails the pump tries again."""
        with self._last_time():
            self._hand.give_back_all()
            if given_back is not None:
                # Who waits for this may have interrupted the code that is writing.
                given_back.ring()
            self.flush()
        if settled is not None:
            settled.ring()
        elif self._outbox:
            self._pump.wake()


def _wait_by_glances(wait: Callable[[float], bool], seconds: float) -> None:
    """Wait for so long in short waits: while this process is stopped hardly any of it passes, and those that are waited for
    have not had that time either.
    """
    for _ in range(max(1, round(seconds / _GLANCE))):
        if wait(_GLANCE):
            return
