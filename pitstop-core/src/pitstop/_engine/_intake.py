"""Intake: all that is behind one listener, wired together: buffer, claimer, writer, leftovers, waiting threads, heartbeat, background.

A message goes from the store through the claimer into the buffer, to the thread that takes it, and as a lease into a
delivery. Its settlement goes through the writer to the store. The session holds an intake until it is closed, or until the
background thread has given back and written all that a dropped listener left.

Threads: any.
"""

from __future__ import annotations

import _thread
import logging

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from threading import get_ident

from pitstop._decisions._announce import Listens
from pitstop._decisions._logs import left_behind
from pitstop._engine._aside import written_aside
from pitstop._engine._background import Background
from pitstop._engine._buffer import ClaimBuffer
from pitstop._engine._calls import unbroken
from pitstop._engine._claimed import Claimed
from pitstop._engine._claimer import Claimer
from pitstop._engine._confirmer import Confirmer
from pitstop._engine._delivery import Delivery
from pitstop._engine._glance import wait_for_all
from pitstop._engine._heartbeat import Heartbeat
from pitstop._engine._lease import Lease
from pitstop._engine._leftovers import Leftovers
from pitstop._engine._lifecycle import STOP_PATIENCE, Component
from pitstop._engine._session import Session
from pitstop._engine._settler import Counts, Settler
from pitstop._engine._suspects import Suspects
from pitstop._engine._throttle import Throttle
from pitstop._engine._waiting import Waiter, Waiting
from pitstop._engine._wakeup import Wakeup
from pitstop._engine._watcher import Watcher
from pitstop._engine._writer import AckWriter
from pitstop._errors import BackendUnavailable
from pitstop._values._arguments import ListenOptions
from pitstop.abc import Capability, Doorbell, SystemClock
from pitstop.abc._kinds import is_chosen


__all__ = ["Intake"]

_log = logging.getLogger("pitstop.listener")


class Intake(Component):
    """The messages of one listener. Any thread uses it."""

    def __init__(
        self,
        session: Session,
        watcher: Watcher,
        options: ListenOptions,
        *,
        claimed_apart: bool = False,
        throttles: Sequence[Throttle] = (),
    ) -> None:
        """Return an intake that has not claimed yet.

        :param options: as the user gave them. None: as it is configured.
        :param claimed_apart: whether the threads that handle messages never claim.
        :param throttles: the rates at which messages are claimed.
        :raises ConfigError: when ``max_lease`` is shorter than a lease.
        """
        #: The session whose messages these are.
        self.session = self._session = session
        self._watcher = watcher
        #: How long messages are leased.
        self.lock_time: timedelta = session.lock_time if options.lock_time is None else options.lock_time
        loop_time = session.loop_time if options.loop_time is None else options.loop_time
        # None: all kinds.
        self._kinds = options.kinds
        #: Whether each ack of an iteration is written by itself.
        self.acks_at_once = options.prefetch == 1
        monotonic = session.clock.monotonic
        self.wakeup = Wakeup(lambda: self.background.begin())  # noqa: PLW0108 - it is made below
        self.buffer = ClaimBuffer(
            *(monotonic, self.lock_time, options.prefetch, self.wakeup.want),
            claimed_apart=claimed_apart,
            in_batches=options.batch is not None,
        )
        self.suspects = Suspects(monotonic, session.retry, session.handled)
        self.claimer = Claimer(
            *(session, self.buffer, self.lock_time),
            suspects=self.suspects,
            kinds=options.kinds,
            loop_time=loop_time,
            throttles=throttles,
            at_once=options.batch or 1,
            wake=lambda: self.waiting.notice(None),
            owner=self,
        )
        self._settler = Settler(session)
        self.writer = AckWriter(session, self._settler, self.buffer.unseen, self.wakeup)
        self.confirmer = Confirmer(
            *(session, self.suspects, self.buffer, self.claimer, self.writer, self.lock_time),
            wake=lambda: self.waiting.notice(None),
        )
        self.leftovers = Leftovers(
            *(session, self.buffer, self.suspects, self.claimer, self.writer, self.wakeup),
            wait_for_others=lambda thread, patience: self.waiting.wait_for_others(thread, patience),  # noqa: PLW0108 - it is made below
        )
        self._heartbeat: Heartbeat | None = None
        if options.heartbeat:
            self._heartbeat = Heartbeat(session, self.lock_time, options.max_lease, self._settler.lose)
        self.waiting = Waiting(
            session,
            self.buffer,
            self.claimer,
            loop_time,
            take=self.take_at_hand,
            peek=self.peek,
            claim=self._claim,
            watch=self._watch,
            go_home=self._go_home,
        )
        self.background = Background(
            session,
            self.wakeup,
            self.buffer,
            self.writer,
            claim_ahead=self.waiting.claim_ahead,
            give_back_all=self.leftovers.give_back_all,
            suspects=self.suspects.waiting,
            tend_suspects=lambda: self.confirmer.tend(offer=claimed_apart and self.buffer.asked > 0),
            ended=self._finished,
        )
        self._observed = session.events.observes_leased
        # Whether close() has reported what could not be written. Written by the thread that closes.
        self._reported = False
        # Whether the listener was dropped without close(). Written once, by any thread.
        self._abandoned = False
        session.add(self)

    # Messages.

    def take(self, wanted: int = 1) -> Lease | None:
        """Take the next message, and wait for it. A claim may be for ``wanted`` messages. Return None after a stop."""
        return self.take_at_hand() or self.wait(Waiter(wanted))

    def take_at_hand(self) -> Lease | None:
        """Take a suspect, or a message out of the buffer. Messages that have waited for too long are given back."""
        if self.suspects.waiting and (suspect := self.confirmer.take()) is not None:
            return suspect
        buffer = self.buffer  # as _kept() does, without one more call for each message
        lease = buffer.pop()
        if buffer.late or (lease is None and not buffer.open):
            self._kept(lease)
            if lease is not None and self.session.clock.monotonic() >= lease.until:
                # To give the others back took until then.
                buffer.late.append(lease)
                return self.take_at_hand()
        return lease

    def peek(self) -> Lease | None:
        """Return the next message of the buffer, and leave it there. Messages that have waited too long are given back.

        A suspect that a handler may have now is put into the buffer before.
        """
        self.confirmer.offer()
        return self._kept(self.buffer.peek())

    def wait(self, waiter: Waiter, deadline: float | None = None) -> Lease | None:
        """Take a message out of the buffer or of a new claim: see :meth:`Waiting.wait`."""
        return self.waiting.wait(waiter, deadline)

    def fill(self, waiter: Waiter, deadline: float | None = None) -> bool:
        """Wait until the buffer has a message, which stays there. Return whether it has one.

        :param waiter: one that does not take.
        """
        return self.waiting.wait(waiter, deadline) is not None

    def deliver(self, lease: Lease, *, at_once: bool = False) -> Delivery:
        """Return the handle of a message that is handed out now. If this raises, the message is in the buffer again.

        :param at_once: whether its ack is written by itself, before ``ack()`` returns.
        :raises RuntimeError: when no thread can be started for the heartbeat.
        """
        heartbeat = self._heartbeat
        try:
            delivery = Delivery(self._session, lease, self.writer, self.lock_time, at_once, heartbeat)
            if heartbeat is not None:
                heartbeat.hold(lease, delivery)
            if self._observed:
                self._session.events.leased(delivery, lease)
            return delivery
        except BaseException:
            self.buffer.unseen.appendleft(lease)
            raise

    def give_back(self, leases: Sequence[Lease]) -> int:
        """Give back messages that were taken and that no handler has seen. Return how many were not."""
        return self.claimer.give_back(leases)

    # State.

    @property
    def stopped(self) -> bool:
        """Whether the listener was stopped."""
        return self.waiting.stopped

    @property
    def healthy(self) -> bool:
        """Whether the last look at the store succeeded."""
        return self.claimer.healthy

    @property
    def answered(self) -> bool:
        """Whether the store has ever answered a claim."""
        return self.claimer.answered

    @property
    def counts(self) -> Counts:
        """How the deliveries ended."""
        return self._settler.counts

    @property
    def claims_ahead(self) -> bool:
        """Whether messages are being claimed ahead, or are about to be."""
        return self.wakeup.wanted or self.background.claiming  # the opposite order of the background thread's writes

    @property
    def unsettled(self) -> bool:
        """Whether messages were claimed and not handed out, or settlements are on their way to the store."""
        late = self.buffer.late or self.claimer.unfit.late
        return self.in_hand > 0 or bool(late) or self.writer.busy or self.leftovers.busy

    @property
    def in_hand(self) -> int:
        """How many messages were claimed and not handed out."""
        return len(self.buffer) + len(self.suspects.waiting)

    @property
    def is_blocked(self) -> bool:
        """Whether messages are due, although a look found none: suspects that wait, or messages of a claim that took too long."""
        return bool(self.suspects.waiting) or self.claimer.rest > 0

    def is_at_rest(self) -> bool:
        """Whether nothing is in the buffer or on its way, once pending settlements are written.

        It is exact only if no other thread uses the intake.
        """
        self.flush()
        return not (self.wakeup.awake or self.wakeup.wanted or self.unsettled)

    # The component.

    def notice(self, due: int | None, kinds: Collection[str] | None = None) -> None:
        # A listener without kinds need not ask, because this is on the way of each store.
        if self._kinds is None or self.wants(kinds):
            self.waiting.notice(due)

    def wants(self, kinds: Collection[str] | None) -> bool:
        """Whether this claims messages of one of these kinds. None: the kinds are not known."""
        chosen = self._kinds
        return kinds is None or chosen is None or any(is_chosen(each, chosen) for each in kinds)

    def forget(self, versions: Mapping[str, str | None]) -> None:
        # First the claims that are under way: they put their messages into the buffer later.
        self.claimer.under_way.note(versions)
        # One of them may be valid all the same: another thread has stored a newer version meanwhile.
        dropped = [*self.buffer.discard(versions), *self.suspects.discard(versions)]
        self.claimer.give_back(dropped, log=False)

    def listens(self) -> Listens:
        return Listens(self._kinds, self.in_hand, self.healthy)

    def flush(self, ids: Collection[str] | None = None) -> None:
        # A store that does not answer is no matter here: the write is tried again.
        with suppress(BackendUnavailable):
            self.writer.flush(ids)

    def flush_aside(self, ids: Collection[str]) -> bool:
        return written_aside(self.writer, self.wakeup, ids)

    def end(self) -> None:
        """Hand out no more messages, and end all waits. Takes no lock, and waits for nothing."""
        self.waiting.stop()
        self.buffer.open = False

    end_soon = end

    def stop(self) -> None:
        """Hand out no more messages, give back those in the buffer, and write pending settlements.

        Safe in any thread and in signal handlers.
        """
        wait_for_all([self.begin_stop()], STOP_PATIENCE)

    def begin_stop(self) -> Doorbell | None:
        self.end()
        return self.leftovers.begin_stop() if self.unsettled or self.waiting.others else None

    def at_exit(self) -> Doorbell | None:
        self.end()
        return self.leftovers.begin_exit() if self.unsettled or self.waiting.others else None

    @unbroken
    def close(self) -> None:
        """Stop, wait for claims that are under way in other threads, and write and give back everything. Again is harmless.

        A store that is away is waited for as long as for one operation, in all. The rest is reported.
        """
        self.end()
        clock = SystemClock()
        with self.leftovers.last_time() as seconds:
            ends = clock.monotonic() + seconds
            # A claim that is under way would be given back to a store that is closed by then.
            self.waiting.wait_for_others(get_ident(), seconds)
            # In this order: a thread that has an ack from here on writes it, and none comes after the last write.
            self.background.end()
            kept = self.leftovers.give_back_all(log=False)
            # A thread that writes gets a moment in any case.
            unwritten = self.writer.close(max(ends - clock.monotonic(), STOP_PATIENCE))
        if (kept or unwritten) and not self._reported:
            self._reported = True
            _log.warning("%s", left_behind(unwritten, kept), extra=self.session.log.fields("left_behind"))
        self._finished()

    def abandon(self) -> None:
        """End, because the listener was dropped. Called by any thread, in the middle of anything: it takes no lock."""
        if self._abandoned:
            return
        self._abandoned = True
        self.end()
        self.background.end()
        if self.background.begun:
            return
        if not self.unsettled:
            self._finished()
            return
        # The program may end, or close the session, before this has begun: then that does it.
        with suppress(RuntimeError):
            _thread.start_new_thread(self.background.finish, ())

    def after_fork(self) -> None:
        self.leftovers.after_fork()
        self.waiting.after_fork()
        self.writer.after_fork()
        self.background.after_fork()
        if self._heartbeat is not None:
            self._heartbeat.after_fork()
        self._watcher.after_fork()
        for each in self.claimer.throttles:
            each.after_fork()

    def drop_all(self) -> None:
        """Forget all messages and settlements without a word to the store, as a crash does. For tests."""
        self.leftovers.forget()
        self.writer.give_up()

    def _kept(self, lease: Lease | None) -> Lease | None:
        """Give back messages that are not to be handed out any more, after a look into the buffer that found ``lease``."""
        buffer = self.buffer
        if buffer.late:
            self.claimer.give_back(buffer.take_late())
        if lease is None and not buffer.open:
            self.leftovers.give_back_all()
        return lease

    # Callbacks of the parts.

    def _claim(self, wanted: int, claims_first: bool) -> Claimed:
        if self.writer and not claims_first:
            # Nothing is in the buffer: now is the time.
            self.flush()
        # This is the claim, if the next messages were wanted ahead.
        self.wakeup.wanted = False
        elsewhere, self.writer.last_flush = self.writer.last_flush, 0.0
        claimed = self.claimer.claim(wanted, elsewhere)
        if (claimed.count > 1 and self.buffer.may_bore) or self.suspects.waiting:
            self.wakeup.wake()
        return claimed

    def _watch(self) -> None:
        if Capability.WATCH in self._session.capabilities:
            self._watcher.join(self)

    def _go_home(self) -> None:
        """Give back and write everything, if the listener was stopped: no thread is handed out anything any more."""
        if self.stopped:
            self.leftovers.settle_all()
            # Here too, not in close() alone: a thread that was about to sleep may have joined after that.
            self._watcher.leave(self)

    def _finished(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.end()
        self.suspects.end_all()
        self._session.discard(self)
        self._watcher.leave(self)
