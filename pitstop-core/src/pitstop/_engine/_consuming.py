"""``consume``: workers that handle messages, and the thread that waits for them and for signals.

The workers are threads; the caller only waits, on a bell that signals may ring. Whatever may block (a claim, an ack, the
close of the listener) is done by another thread, so that a second signal is heard at any moment.
"""

from __future__ import annotations

import logging
import os

from collections.abc import Awaitable
from contextlib import nullcontext, suppress
from datetime import timedelta
from threading import TIMEOUT_MAX, Event, Lock, Thread, get_ident

from pitstop._decisions._ending import ends_program
from pitstop._engine._backoff import Backoff
from pitstop._engine._delivery import Delivery
from pitstop._engine._handler import Handler, HandlerIsAsync, callable_handler, close_awaitable, is_async, log_failure
from pitstop._engine._lifecycle import Component, stop_at_exit
from pitstop._engine._listener import Listener
from pitstop._engine._session import Session
from pitstop._engine._signals import ENDING, Urgency, catching, is_hangup
from pitstop._errors import BackendUnavailable, LeaseLost, PitstopError
from pitstop._values._summary import Reason, Summary
from pitstop.abc import Doorbell, SystemClock


__all__ = ["Consuming", "sync_handler"]

_log = logging.getLogger("pitstop.consumer")

#: Seconds that one who was asked twice to end waits for what handlers hold to be given back.
_LAST_PATIENCE = 1.0
#: Seconds after which the one who waits looks up: a signal that another thread raised, or that came on Windows, does not end
#: its wait.
_GLANCE = 0.5
#: Seconds until the next look, when something is due that others are about to take, or is still on its way.
_PAUSE = 0.005
#: What is kept with a message whose handler was not waited for.
_LEFT = "The program ended before its handler did."


def sync_handler(handler: Handler) -> Handler:
    """The handler, if a thread can call it.

    :raises PitstopError: when it cannot be called, or is async.
    """
    if is_async(callable_handler(handler)):
        raise _is_async()
    return handler


def _is_async() -> PitstopError:
    return HandlerIsAsync(
        "The handler is async, so a thread would call it and nobody would wait for what it does. Open the store with "
        "pitstop.init_async(), and await its consume(); or give a plain function."
    )


class _Worker:
    """One thread that handles messages."""

    __slots__ = ("bell", "handled", "nacked")

    def __init__(self) -> None:
        #: Rung when there is something to look for, or the end has come.
        self.bell = Doorbell()
        self.handled = 0
        #: By its handler, past the outbox.
        self.nacked = 0


class Consuming(Component):
    """One call of ``consume``.

    Invariant: a delivery is in ``_running`` while its handler runs; whoever takes it out settles it, and nobody else.
    """

    closes_first = True

    def __init__(
        self,
        store: Session,
        listener: Listener,
        handler: Handler,
        *,
        deliveries: bool,
        workers: int,
        max_messages: int | None,
        until_idle: bool,
        drain: timedelta,
    ) -> None:
        self._session = store
        # The store's own is gone when it is closed.
        self._backend = store.backend
        self._listener = listener
        self._handler = handler
        self._deliveries = deliveries
        self._until_idle = until_idle
        self._drain = drain.total_seconds()
        # By real time, whatever clock the store goes by: it is about how long people wait for a program to end.
        self._clock = SystemClock()
        self._bell = Doorbell()
        self._urgency = Urgency()
        self._workers = [_Worker() for _ in range(workers)]
        self._idents: set[int] = set()
        self._ended: list[_Worker] = []
        self._running: dict[int, Delivery] = {}
        self._reason: Reason | None = None
        self._deadline: float | None = None
        self._raised: BaseException | None = None
        self._urgent = False
        self._closed = False
        #: Whether to close the store at the end: one of the workers wanted to, and is waited for.
        self._closes_store = False
        # Ends a pause between two tries.
        self._pausing = Doorbell()
        self._over = Event()
        self._pid = os.getpid()
        self._lock = Lock()
        # How many messages may still be waited for, and how many of those have yet to come; under the lock.
        self._to_ask = self._to_come = max_messages
        # Until idle: one looks at a time. Workers that look or handle, how often one of them began to, and who waits.
        self._looking = Lock()
        self._active = workers
        self._begun = 0
        self._parked: tuple[_Worker, ...] = ()

    def run(self) -> Summary:
        """Handle messages until there is a reason to end."""
        stop_at_exit()
        self._session.add(self)
        self._idents.add(get_ident())
        try:
            with catching(ENDING, self._on_signal):
                for number, worker in enumerate(self._workers, 1):
                    Thread(target=self._work, args=(worker,), name=f"pitstop-worker-{number}", daemon=True).start()
                self._wait_for_workers()
                unfinished = list(self._running.values())
                if unfinished and not self._urgent:
                    ids = ", ".join(repr(each.id) for each in unfinished)
                    _log.warning("%d handlers are not waited for any longer: of %s", len(unfinished), ids)
                self._close_listener()
        except BaseException:
            self._end("stopped")
            raise
        finally:
            self._over.set()
            self._session.discard(self)
            if self._closes_store:
                self._session.close()
        if self._raised is not None:
            raise self._raised
        return self._summary(len(unfinished))

    # What a store tells its components.

    def notice(self, due: int | None) -> None:
        """A message was written: those who found nothing due look again, if it is due now."""
        if self._parked and (due is None or due * 1000 <= self._backend.now()):
            self._wake_parked()

    def stop(self) -> None:
        """End, as after a signal."""
        self._end("stopped")

    def close(self) -> None:
        """End; and let running handlers finish while the store is still open."""
        self._end("stopped")
        # After a fork in a handler nobody else is here.
        if get_ident() not in self._idents:
            self._over.wait(min(self._drain + _LAST_PATIENCE, TIMEOUT_MAX))

    def after_fork(self) -> None:
        # It is the parent's, and comes to no end here.
        self._over = Event()
        self._over.set()

    def closes_later(self) -> bool:
        if get_ident() not in self._idents or os.getpid() != self._pid:
            return False
        # In this order, and in the other one in run(): one of the two sees the other.
        self._closes_store = True
        if self._over.is_set():
            return False
        self._end("stopped")
        return True

    # The end.

    def _on_signal(self, number: int) -> None:
        if is_hangup(number):
            self._end("signal")
            return
        if not self._urgency.ask():
            return
        if self._urgency.asked > 1:
            self._reason, self._urgent = "second signal", True
            self._bell.ring()
        else:
            self._end("signal")

    def _end(self, reason: Reason) -> None:
        # No lock: a signal handler may have interrupted one who holds it.
        if self._reason is None:
            self._reason = reason
        if self._deadline is None and reason not in {"max_messages", "idle"}:
            self._deadline = self._clock.monotonic() + self._drain
        self._bell.ring()
        self._pausing.ring()
        for worker in self._workers:
            worker.bell.ring()
        self._listener.stop()

    def _wait_for_workers(self) -> None:
        while len(self._ended) < len(self._workers) and not self._urgent:
            left = None if self._deadline is None else self._deadline - self._clock.monotonic()
            if left is not None and left <= 0:
                break
            self._bell.wait(_GLANCE if left is None else min(left, _GLANCE))

    def _close_listener(self) -> None:
        try:
            Thread(target=self._finish, name="pitstop-closing", daemon=True).start()
        except RuntimeError:
            # The interpreter is at its end, and this one begins no thread any more: nor will signals be heard.
            self._finish()
        # A store that is away is waited for as long as handlers are.
        deadline = self._clock.monotonic() + self._drain if self._deadline is None else self._deadline
        deadline = max(deadline, self._clock.monotonic()) + _LAST_PATIENCE
        hurried = False
        while not self._closed:
            if self._urgent and not hurried:
                hurried, deadline = True, min(deadline, self._clock.monotonic() + _LAST_PATIENCE)
            left = deadline - self._clock.monotonic()
            if left <= 0:
                _log.warning("the store does not answer: what is not written comes back when its lease runs out")
                break
            self._bell.wait(min(left, _GLANCE))

    def _finish(self) -> None:
        try:
            # Nobody who closes the store waits for it to come back.
            with self._listener._last_time() if self._session.closing else nullcontext():
                self._give_back_running()
                if not self._urgent:
                    self._write_pending()
                self._listener.close()
        except BaseException as error:  # noqa: BLE001 - raised again by run()
            self._raise_later(error)
        finally:
            self._closed = True
            self._bell.ring()

    def _give_back_running(self) -> None:
        for ident in list(self._running):
            delivery = self._running.pop(ident, None)
            if delivery is None or delivery._settled is not None:
                continue
            try:
                with self._session.bounded():
                    delivery.nack(_LEFT, timedelta(0))
            except BackendUnavailable:
                # Nor would it answer for the others.
                break
            except PitstopError as error:
                _log.debug("%r could not be given back: %s", delivery.id, error)

    def _write_pending(self) -> None:
        """Write the acks, and again while there is time: the store may just be away."""
        outbox, backoff = self._listener._outbox, Backoff(self._session.log.outages)
        deadline = self._clock.monotonic() + self._drain if self._deadline is None else self._deadline
        while outbox and not self._session.closed and not self._urgent:
            try:
                outbox.flush()
            except BackendUnavailable as error:
                now = self._clock.monotonic()
                pause = backoff.failed(error, now, log=False)
                if now + pause >= deadline or self._session.closing:
                    return
                self._pausing.wait(pause)

    def _summary(self, unfinished: int) -> Summary:
        counts = self._listener._outbox.counts
        nacked = counts.nacked + sum(each.nacked for each in self._workers)
        known = counts.acked + nacked + counts.lost + unfinished
        return Summary(
            acked=counts.acked,
            nacked=nacked,
            lost=counts.lost,
            unsettled=max(0, sum(each.handled for each in self._workers) - known),
            unfinished=unfinished,
            given_back=self._listener._hand.given_back,
            reason=self._reason or "stopped",
        )

    # A worker.

    def _work(self, worker: _Worker) -> None:
        self._idents.add(get_ident())
        try:
            while self._reason is None and self._may_ask():
                delivery = self._next(worker)
                if delivery is None:
                    break
                self._count_come()
                self._handle(worker, delivery)
        except BaseException as error:  # noqa: BLE001 - raised again by run(): a store that refuses us, or a bug
            if os.getpid() == self._pid:
                self._raise_later(error)
        finally:
            if os.getpid() == self._pid:
                self._leave(worker)

    def _leave(self, worker: _Worker) -> None:
        # Another thread may get it.
        self._idents.discard(get_ident())
        with self._lock:
            self._active -= 1
        self._ended.append(worker)
        if self._reason is None and (self._raised is not None or self._listener.stopped):
            self._end("stopped")
        else:
            # Others handle the last ones, or look whether there are any.
            self._bell.ring()
            self._wake_parked()

    def _may_ask(self) -> bool:
        if self._to_ask is None:
            return True
        with self._lock:
            if self._to_ask == 0:
                return False
            self._to_ask -= 1
            return True

    def _count_come(self) -> None:
        if self._to_come is None:
            return
        with self._lock:
            self._to_come -= 1
            last = self._to_come == 0
        if last:
            # What was claimed ahead beyond them is for others, now and not when the last handler is done.
            self._end("max_messages")

    def _next(self, worker: _Worker) -> Delivery | None:
        if not self._until_idle:
            return self._listener._next_for_worker(wait=True)
        backoff = Backoff(self._session.log.outages)
        while self._reason is None:
            try:
                delivery = self._next_due(worker)
            except BackendUnavailable as error:
                if self._session.closed:
                    break
                if error.permanent and not self._listener._answered:
                    raise
                clock = self._session.clock
                clock.wait(worker.bell, backoff.failed(error, clock.monotonic()))
            else:
                if delivery is not None:
                    return delivery
        return None

    def _next_due(self, worker: _Worker) -> Delivery | None:
        """One message that is due. None: there is none, so that this worker waited for news, or all is done."""
        delivery = self._listener._hand_out(self._listener._outbox)
        if delivery is not None:
            return delivery
        with self._lock:
            alone, begun = self._active == 1, self._begun
        # Looked at before the store is: what is at rest, while nobody else is at work, stays so.
        at_rest = alone and self._listener._is_at_rest()
        delivery = self._look()
        if delivery is not None:
            return delivery
        idle = at_rest and not self._is_due()
        with self._lock:
            others = self._active > 1
            idle = idle and not others and begun == self._begun
            if others:
                self._active -= 1
                self._parked = (*self._parked, worker)
        if idle:
            self._end("idle")
        elif others:
            self._park(worker)
        elif alone:
            worker.bell.wait(_PAUSE)
        return None

    def _look(self) -> Delivery | None:
        with self._looking:
            delivery = self._listener._next_for_worker(wait=False)
        if delivery is not None and self._parked and self._listener._hand:
            self._wake_parked()
        return delivery

    def _is_due(self) -> bool:
        backend = self._session.backend
        due = backend.next_due()
        return due is not None and due * 1000 <= backend.now()

    def _park(self, worker: _Worker) -> None:
        """Wait for news while others handle messages, and store new ones perhaps."""
        worker.bell.wait(self._session.loop_time.total_seconds())
        with self._lock:
            self._parked = tuple(each for each in self._parked if each is not worker)
            self._active += 1
            self._begun += 1

    def _wake_parked(self) -> None:
        for each in self._parked:
            each.bell.ring()

    def _handle(self, worker: _Worker, delivery: Delivery) -> None:
        me = get_ident()
        self._running[me] = delivery
        worker.handled += 1
        contexts = self._session.events.enter(delivery)
        failure = self._call(delivery)
        self._session.events.leave(contexts, failure)
        if os.getpid() != self._pid:
            # The handler forked, and this is the child: the delivery is the parent's.
            raise SystemExit if failure is None else failure
        if self._running.pop(me, None) is None:
            # Given back: nobody waited for it any more.
            return
        if failure is not None and failure is delivery._told:
            # News of the store about this very delivery, that the handler let out.
            return
        ends = failure is not None and ends_program(failure)
        if failure is not None and (ends or isinstance(failure, HandlerIsAsync)):
            # Before the store is told: it may be away.
            self._raise_later(failure)
            self._end("handler")
        self._settle(worker, delivery, failure)
        if failure is not None and not ends:
            log_failure(delivery.id, delivery.attempt, failure, self._backend)

    def _raise_later(self, error: BaseException) -> None:
        # Not by its truth: an exception may have a length, of zero.
        if self._raised is None:
            self._raised = error

    @staticmethod
    def _settle(worker: _Worker, delivery: Delivery, failure: BaseException | None) -> None:
        if delivery._settled is not None:
            worker.nacked += delivery._settled == "nacked"
        elif not isinstance(delivery._told, LeaseLost):
            # The store's news, or that it cannot be computed what to write: it was counted, or logged.
            with suppress(PitstopError):
                if failure is None:
                    delivery.ack()
                else:
                    delivery._nack_later(failure)

    def _call(self, delivery: Delivery) -> BaseException | None:
        try:
            result = self._handler(delivery if self._deliveries else delivery.msg)
        except BaseException as error:  # noqa: BLE001 - it is for the message, and for who waits for the end
            return error
        if result is not None and isinstance(result, Awaitable):
            close_awaitable(result)
            return _is_async()
        return None
