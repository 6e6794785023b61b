"""Drive a Pitstop from a test: emit due messages in this thread, and move the clock in between.

This drives the real listener, without a thread and without a wait. Claims, acks and nacks are decided by the same code as
always. A run is a generator that yields deliveries and is sent the handler's exception, so that the same code drives plain
and async handlers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from threading import get_ident
from typing import TYPE_CHECKING, Any

import attrs

from pitstop._consume._handler import (
    Handler,
    HandlerIsAsync,
    callable_handler,
    close_awaitable,
    is_async,
    takes_delivery,
)
from pitstop._consume._verdict import Verdict, verdict
from pitstop._decisions._describe import describe
from pitstop._decisions._emit import schedule_of
from pitstop._decisions._ending import ends_program
from pitstop._decisions._settle import error_text
from pitstop._engine._handling import Handling
from pitstop._engine._lease import Lease, Purpose
from pitstop._engine._waiting import Waiter
from pitstop._errors import BackendUnavailable, LeaseLost, OutcomeUnknown, PitstopError, ScheduleError
from pitstop._pitstop import Pitstop, open_intake
from pitstop._values._arguments import ListenOptions
from pitstop._values._duration import format_duration
from pitstop._values._instant import LAST_INSTANT, aware, from_instant, microseconds
from pitstop._values._plain import shown
from pitstop.abc import Damaged, Outcome, Progress, Record, Settlement, copy_plain
from pitstop.testing._clock import ManualClock, span_of
from pitstop.testing._faults import Crash, at_least_one, crash
from pitstop.testing._faulty_backend import FaultyBackend, unfaulted
from pitstop.testing._report import Report, Step, StepOutcome, clock_text


if TYPE_CHECKING:
    from pitstop._aio._pitstop import AsyncPitstop
    from pitstop._engine._delivery import Delivery

__all__ = [
    "MAX_JUMPS",
    "MAX_STEPS",
    "Handler",
    "adrain",
    "arun_for",
    "arun_until",
    "arun_until_idle",
    "drain",
    "manual_clock",
    "run_for",
    "run_until",
    "run_until_idle",
]

#: The default for the most emissions at one instant.
MAX_STEPS = 100_000
#: The default for the most jumps of :func:`drain`.
MAX_JUMPS = 10_000

#: The most emissions of one occurrence at one instant. More mean that the handler gives it back for the same moment each time.
_MOST_REPEATS = 1000
#: The most claims in a row, at one instant, that a fault of the test may hit.
_MOST_REFUSALS = 100
#: Microseconds after which a listener polls again, if it got nothing although a message is due.
_LOOK_AGAIN = 5000
#: The most times in a row that a listener gets nothing although a message is due.
_MOST_STALLS = 1000

_Run = Generator["Delivery", "BaseException | None", Report]
#: The result: now, and when the next message is due, both in microseconds; None: not known, read it.
_Part = Generator["Delivery", "BaseException | None", "tuple[int, int | None] | None"]


def run_until_idle(
    pit: Pitstop,
    handler: Handler,
    *,
    deliveries: bool | None = None,
    raise_errors: bool = True,
    max_steps: int = MAX_STEPS,
) -> Report:
    """Handle all messages that are due now, in this thread, while the clock stands still.

    Messages that become due at this same moment meanwhile are handled, too. Each message is acknowledged when the handler
    returns, and nacked when it raises. A delivery that the handler settled itself stays as it was settled.

    :param pit: a Pitstop whose clock is a :class:`ManualClock`.
    :param handler: called with the message, as in ``delivery.msg``.
    :param deliveries: whether to call it with the :class:`pitstop.Delivery` instead. By default, it is called so if its first
        parameter is annotated as a delivery or named ``delivery``, as for :meth:`pitstop.Pitstop.consume`.
    :param raise_errors: an exception of the handler ends the run and is raised, once the message was nacked. The report so
        far is its ``pitstop_report``, and a note. False: the report holds the error, and the message comes back by ``retry``.
    :param max_steps: the most emissions at one instant.
    :return: the steps in order. A store that fails an ack or nack does not raise: the step is ``unsettled``.
    :raises PitstopError: if the run has no end, the handler is async, or the clock is a real one.
    :raises BackendUnavailable: if the store fails a claim.
    """
    __tracebackhide__ = True
    return _driven(_plain(handler), deliveries, _Drive(pit, raise_errors, max_steps).idle())


def run_for(
    pit: Pitstop,
    delta: timedelta | float | str,
    handler: Handler,
    *,
    deliveries: bool | None = None,
    raise_errors: bool = True,
    max_steps: int = MAX_STEPS,
) -> Report:
    """Let time pass: handle each message at its own instant, up to now + ``delta`` inclusive.

    The clock goes from due time to due time, ends of leases included. At the end it stands at now + ``delta``, rounded up to a
    millisecond like the due times of the store. It stands later only if the handler, or a latency, moved it there.

    :param delta: a ``timedelta``, seconds, or text such as ``"3h"``.
    """
    __tracebackhide__ = True
    return _driven(_plain(handler), deliveries, _Drive(pit, raise_errors, max_steps).for_(delta))


def run_until(
    pit: Pitstop,
    when: datetime,
    handler: Handler,
    *,
    deliveries: bool | None = None,
    raise_errors: bool = True,
    max_steps: int = MAX_STEPS,
) -> Report:
    """Let time pass until ``when``, inclusive: see :func:`run_for`."""
    __tracebackhide__ = True
    return _driven(_plain(handler), deliveries, _Drive(pit, raise_errors, max_steps).until(when))


def drain(
    pit: Pitstop,
    handler: Handler,
    *,
    max_jumps: int = MAX_JUMPS,
    deliveries: bool | None = None,
    raise_errors: bool = True,
    max_steps: int = MAX_STEPS,
) -> Report:
    """Handle all messages, however far in the future: the clock goes from due time to due time until no message is left.

    :param max_jumps: how often the clock may be moved. A series without end never ends.
    :raises PitstopError: if messages are left after that; the text names them.
    """
    __tracebackhide__ = True
    return _driven(_plain(handler), deliveries, _Drive(pit, raise_errors, max_steps).drain(max_jumps))


async def arun_until_idle(
    pit: Pitstop | AsyncPitstop,
    handler: Handler,
    *,
    deliveries: bool | None = None,
    raise_errors: bool = True,
    max_steps: int = MAX_STEPS,
) -> Report:
    """As :func:`run_until_idle`, for a handler that may be async. It handles one message at a time.

    :param pit: also an :class:`pitstop.AsyncPitstop` whose clock is a :class:`ManualClock`. Its store is called in this
        thread, because nothing else waits while the clock stands still.
    """
    __tracebackhide__ = True
    return await _adriven(
        callable_handler(handler), deliveries, _Drive(_plain_one(pit), raise_errors, max_steps).idle()
    )


async def arun_for(
    pit: Pitstop | AsyncPitstop,
    delta: timedelta | float | str,
    handler: Handler,
    *,
    deliveries: bool | None = None,
    raise_errors: bool = True,
    max_steps: int = MAX_STEPS,
) -> Report:
    """As :func:`run_for`, for a handler that may be async. It handles one message at a time."""
    __tracebackhide__ = True
    return await _adriven(
        callable_handler(handler), deliveries, _Drive(_plain_one(pit), raise_errors, max_steps).for_(delta)
    )


async def arun_until(
    pit: Pitstop | AsyncPitstop,
    when: datetime,
    handler: Handler,
    *,
    deliveries: bool | None = None,
    raise_errors: bool = True,
    max_steps: int = MAX_STEPS,
) -> Report:
    """As :func:`run_until`, for a handler that may be async. It handles one message at a time."""
    __tracebackhide__ = True
    return await _adriven(
        callable_handler(handler), deliveries, _Drive(_plain_one(pit), raise_errors, max_steps).until(when)
    )


async def adrain(
    pit: Pitstop | AsyncPitstop,
    handler: Handler,
    *,
    max_jumps: int = MAX_JUMPS,
    deliveries: bool | None = None,
    raise_errors: bool = True,
    max_steps: int = MAX_STEPS,
) -> Report:
    """As :func:`drain`, for a handler that may be async. It handles one message at a time."""
    __tracebackhide__ = True
    return await _adriven(
        callable_handler(handler), deliveries, _Drive(_plain_one(pit), raise_errors, max_steps).drain(max_jumps)
    )


def _plain_one(pit: Pitstop | AsyncPitstop) -> Pitstop:
    # There is no check for AsyncPitstop: importing it would import asyncio in programs that do not use it.
    return pit if isinstance(pit, Pitstop) else pit._opened()


def manual_clock(pit: Pitstop) -> ManualClock:
    """Return the clock that a test moves.

    :raises PitstopError: if the Pitstop uses a real clock.
    """
    clock = pit._session.clock
    if not isinstance(clock, ManualClock):
        raise PitstopError(
            f"{pit!r} uses {clock!r}, which a test cannot move. Make it with pitstop.testing.init(), or with a "
            f"'clock': ManualClock() in its configuration."
        )
    return clock


def _driven(handler: Handler, deliveries: bool | None, run: _Run) -> Report:
    __tracebackhide__ = True
    deliveries = takes_delivery(handler, deliveries)
    try:
        delivery = next(run)
        while True:
            failure: BaseException | None = None
            try:
                result = handler(delivery if deliveries else delivery.msg)
            except BaseException as error:  # noqa: BLE001 - the run raises it again if it is to be raised
                failure = error
                _tell_what_it_got(error, delivery, deliveries)
            else:
                if isinstance(result, Awaitable):
                    failure = _given_up(result)
            delivery = run.send(failure)
    except StopIteration as end:
        return _report_of(end)
    finally:
        run.close()


async def _adriven(handler: Handler, deliveries: bool | None, run: _Run) -> Report:
    __tracebackhide__ = True
    # An async handler has imported asyncio already. Programs without one must not pay for the import.
    from pitstop._aio._delivery import current_task, is_interruption  # noqa: PLC0415 - see above

    deliveries, task = takes_delivery(handler, deliveries), current_task()
    try:
        delivery = next(run)
        while True:
            failure: BaseException | None = None
            try:
                result = handler(delivery if deliveries else delivery.msg)
                if isinstance(result, Awaitable):
                    await result
            except BaseException as error:
                if is_interruption(error, task):
                    # The interruption is not the handler's: the run ends, whatever raise_errors is.
                    run.throw(error)
                    raise
                failure = error
                _tell_what_it_got(error, delivery, deliveries)
            delivery = run.send(failure)
    except StopIteration as end:
        return _report_of(end)
    finally:
        run.close()


def _tell_what_it_got(error: BaseException, delivery: Delivery, deliveries: bool) -> None:
    """Add a hint to the error of a handler that expects a delivery and did not request one."""
    if deliveries or not isinstance(error, AttributeError) or error.obj is not delivery.msg:
        return
    if hasattr(delivery, error.name or ""):
        error.add_note(
            f"The handler was called with the message, and {error.name!r} is an attribute of a Delivery. Give deliveries=True, and "
            f"the handler is called with the delivery."
        )


def _report_of(end: StopIteration) -> Report:
    report = end.value
    assert isinstance(report, Report), "a run returns its report"
    return report


def _plain(handler: Handler) -> Handler:
    if is_async(callable_handler(handler)):
        raise _is_async()
    return handler


def _is_async() -> PitstopError:
    return HandlerIsAsync(
        "The handler is async, so its result would never be awaited. Use await arun_until_idle(...), arun_for, arun_until or adrain."
    )


def _given_up(result: Awaitable[object]) -> PitstopError:
    """Return the error to raise in place of awaiting the result. Close the result, which would never be awaited."""
    close_awaitable(result)
    return _is_async()


class _Drive:
    """One run."""

    def __init__(self, pit: Pitstop, raise_errors: bool, max_steps: int) -> None:
        self._pit = pit
        self._session = pit._session
        self._clock = manual_clock(pit)
        self._raise_errors = raise_errors
        self._max_steps = at_least_one(max_steps, "max_steps")
        self._steps: list[Step] = []
        self._thread = get_ident()
        self._stalls = 0
        # The last moment of the run, by the clock that the run moves.
        self._target: int | None = None
        # The settlement of the present delivery, once there is one; and the delivery's token.
        self._applied: Settlement | None = None
        self._token: str | None = None

    def idle(self) -> _Run:
        __tracebackhide__ = True
        with self._driving():
            yield from self._idle(surely=True)
            return Report.of(self._steps)

    def for_(self, delta: timedelta | float | str) -> _Run:
        span = span_of(delta, "delta")
        if span < timedelta(0):
            raise PitstopError(f"delta={shown(delta)} is negative. The clock does not go back.")
        return self._until(_whole(self._clock.time_us() + span // timedelta(microseconds=1)))

    def until(self, when: datetime) -> _Run:
        target = microseconds(aware(when, "when"))
        if target < self._clock.time_us():
            raise PitstopError(f"when={shown(when)} is before {self._clock.now()!r}. The clock does not go back.")
        return self._until(_whole(target))

    def drain(self, max_jumps: int) -> _Run:
        at_least_one(max_jumps, "max_jumps")
        return self._drain(max_jumps)

    def _until(self, target: int) -> _Run:
        __tracebackhide__ = True
        self._target = target
        with self._driving():
            while (due := (yield from self._next_time())) is not None and due <= target:
                self._clock.move_to(due)
            # The handler may have moved the clock further.
            self._clock.move_to(target)
            return Report.of(self._steps)

    def _drain(self, max_jumps: int) -> _Run:
        __tracebackhide__ = True
        jumps = 0
        with self._driving():
            while (due := (yield from self._next_time())) is not None:
                jumps += 1
                if jumps > max_jumps:
                    raise self._with_report(
                        PitstopError(
                            f"There is no end after {max_jumps} jumps of the clock, to {self._clock.now().isoformat()}. "
                            f"Left: {self._left()}. Give a series an end, remove it, run_for() a time, or give a greater "
                            f"max_jumps."
                        )
                    )
                self._clock.move_to(due)
            return Report.of(self._steps)

    def _idle(self, *, surely: bool) -> _Part:
        """Emit all messages that are due at this instant.

        :param surely: claim once more than seems necessary.
        """
        __tracebackhide__ = True
        # The counts go on when a handler, or a latency, moves the clock: otherwise that would have no end either.
        count, seen = 0, dict[tuple[str, int], int]()
        while self._is_within() and (lease := self._get()) is not None:
            emission, now = lease.emission, self._clock.time_us()
            delivery = self._intake.deliver(lease, at_once=True)
            count += 1
            occurrence = emission.record.id, emission.scheduled_for
            seen[occurrence] = times = seen.get(occurrence, 0) + 1
            if count > self._max_steps or times > _MOST_REPEATS:
                raise self._with_report(self._endless(delivery, times))
            at, message = from_instant(now // 1000), {"id": delivery.id, **copy_plain(emission.record.message)}
            self._applied, self._token = None, emission.record.progress.token
            handling = Handling(self._session.events, lease, delivery)
            interrupted = False
            try:
                failure = yield delivery
            except BaseException as error:  # noqa: BLE001 - raised again once its message was given back
                failure, interrupted = error, True
            handling.end(failure)
            self._settle(lease, delivery, failure, at, message, interrupted=interrupted)
            if not surely:
                here, due = looked = self._look()
                if due is None or due > here:
                    return looked
        return None

    def _get(self) -> Lease | None:
        __tracebackhide__ = True
        for _ in range(_MOST_REFUSALS):
            try:
                return self._intake.wait(Waiter(0), self._session.clock.monotonic())
            except BackendUnavailable as error:
                # A listener polls again after a pause, and here no time passes. The test that planned the fault knows of it.
                if not self._is_fault(error):
                    raise
                refused = error
        raise self._with_report(refused)

    def _settle(
        self,
        lease: Lease,
        delivery: Delivery,
        failure: BaseException | None,
        at: datetime,
        message: dict[str, Any],
        *,
        interrupted: bool,
    ) -> None:
        """Settle the delivery as ``consume`` does, and note the outcome.

        :param interrupted: whether the failure is not the handler's, because the task of the run was cancelled.
        """
        __tracebackhide__ = True
        refused: PitstopError | None = None
        told = lease.is_news(failure)
        if told:
            refused = lease.told
        elif isinstance(failure, Crash):
            crash(self._session)
        else:
            decided = verdict(
                failure,
                settled=lease.settled,
                interrupted=interrupted or isinstance(failure, HandlerIsAsync),
            )
            try:
                if decided is Verdict.ACK:
                    delivery.ack()
                elif decided is Verdict.NACK:
                    delivery.nack(failure)
                elif decided is Verdict.GIVE_BACK:
                    lease.ask(Purpose.GIVE_BACK, delivery)
                    self._intake.writer.write_at_once(lease)
            except (LeaseLost, BackendUnavailable) as error:
                refused = error
        outcome, due = self._outcome(lease, failure, refused)
        trouble = refused if failure is None or isinstance(failure, Crash) else failure
        self._steps.append(
            Step(
                delivery.id,
                at,
                delivery.scheduled_for,
                delivery.attempt,
                delivery.missed,
                outcome,
                error_text(trouble),
                due,
                message,
            )
        )
        if failure is None or told or isinstance(failure, Crash):
            return
        in_report = not (interrupted or ends_program(failure) or isinstance(failure, HandlerIsAsync))
        if in_report and not self._raise_errors:
            return
        if isinstance(failure, StopIteration):
            # A StopIteration would end this generator, or the async function around it.
            raise self._with_report(RuntimeError("The handler raised StopIteration.")) from failure
        raise self._with_report(failure)

    def _outcome(
        self, lease: Lease, failure: BaseException | None, refused: PitstopError | None
    ) -> tuple[StepOutcome, datetime | None]:
        if isinstance(refused, LeaseLost):
            return "lost", None
        if refused is not None:
            # Perhaps it was done all the same, and then it comes at another time, or never.
            return "unsettled", None if isinstance(refused, OutcomeUnknown) else from_instant(lease.due)
        if self._applied is None:
            # Crashed; or refused, of which the handler knows, so that it settled nothing and said nothing.
            return ("crashed", from_instant(lease.due)) if isinstance(failure, Crash) else ("lost", None)
        progress = self._applied.progress
        due = None if not isinstance(progress, Progress) or progress.due is None else from_instant(progress.due)
        if lease.purpose is Purpose.ACK:
            return "acked", due
        if lease.purpose is Purpose.GIVE_BACK:
            return "given back", due
        return _NACKS.get(self._applied.outcome, "nacked"), due

    def _note(self, settlement: Settlement, unseen: Record | Damaged | None) -> None:
        """Note a settlement that was applied, to the present delivery or to a message that no handler saw."""
        if unseen is None:
            if settlement.token == self._token:
                self._applied = settlement
        elif self._thread == get_ident():
            self._steps.append(_unseen_step(settlement, unseen, self._clock.now()))

    def _next_time(self) -> Generator[Delivery, BaseException | None, int | None]:
        """Emit all messages that are due at this instant. Return when the next is due, in microseconds by the run's clock."""
        __tracebackhide__ = True
        emitted = len(self._steps)
        looked = yield from self._idle(surely=False)
        here, due = looked or self._look()
        if due is None:
            # A store may report the next due time a little late. Make sure that there is none.
            yield from self._idle(surely=True)
            here, due = self._look()
        if due is None or due > here:
            self._stalls = 0
            return due
        # Another consumer has the message, or the store was so slow that the listener gave it back.
        self._stalls = self._stalls + 1 if len(self._steps) == emitted else 0
        if self._stalls > _MOST_STALLS:
            raise self._with_report(
                PitstopError(f"{self._session.location} has a message that is due, and does not give it out.")
            )
        return here + _LOOK_AGAIN

    def _look(self) -> tuple[int, int | None]:
        """Return now, and when the next message is due, both in microseconds by the run's clock."""
        backend = unfaulted(self._session.backend)
        due, here = backend.next_due(), self._clock.time_us()
        # The backend's clock may differ from the clock that the run moves.
        return here, None if due is None else here + due * 1000 - backend.now()

    def _is_within(self) -> bool:
        """Whether there is still time. Beyond the end of the run: whether a message was due before that."""
        if self._target is None or self._clock.time_us() <= self._target:
            return True
        due = self._look()[1]
        return due is not None and due <= self._target

    def _is_fault(self, error: BackendUnavailable) -> bool:
        backend = self._session.backend
        return isinstance(backend, FaultyBackend) and backend.caused(error)

    def _endless(self, delivery: Delivery, times: int) -> PitstopError:
        now = self._clock.now().isoformat()
        if times > _MOST_REPEATS:
            return PitstopError(
                f"{delivery.id!r} was emitted {_MOST_REPEATS} times at {now}, and is due again: its handler stores it for "
                f"the same moment, its nack gives it back without delay, or the handler moves the clock beyond the lease. "
                f"There is no end to that. Store it for a later time, or configure retry={{'delay': ...}} or lock_time."
            )
        return PitstopError(
            f"{self._max_steps} messages were emitted at {now}, and {delivery.id!r} is still due. If each handler stores "
            f"another one that is due at once, there is no end; else give a greater max_steps."
        )

    def _left(self) -> str:
        backend = unfaulted(self._session.backend)
        now = backend.now() // 1000
        some = [describe(each, now) for each in backend.scan(None, 4, None)]
        described = []
        for entry in some[:3]:
            every = f", every {format_duration(entry.every)}" if isinstance(entry.every, timedelta) else ""
            tries = f", {entry.attempts} attempts" if entry.attempts else ""
            described.append(f"{entry.id!r} (due {clock_text(entry.due)}{every}{tries})")
        return ", ".join(described) + (", and more" if len(some) > 3 else "")

    def _with_report(self, error: BaseException) -> BaseException:
        report = Report.of(self._steps)
        # An exception may refuse attributes. It is raised nevertheless.
        with suppress(AttributeError):
            error.add_note(f"The run so far: {report}")
            error.pitstop_report = report  # type: ignore[attr-defined]
        return error

    @contextmanager
    def _driving(self) -> Iterator[None]:
        store = self._session
        if store.events.tap is not None:
            raise PitstopError(
                "This Pitstop is being driven already, by another thread or by the run that this handler is part of. "
                "Messages that the handler stores for now are handled by the same run: just return."
            )
        # Read now, not when the run was made: the thread that does the run counts.
        self._thread = get_ident()
        store.events.tap = self._note
        try:
            self._intake = open_intake(self._pit, ListenOptions())
            try:
                yield
            finally:
                self._intake.close()
        finally:
            store.events.tap = None


_NACKS: dict[Outcome, StepOutcome] = {Outcome.BURY: "dead", Outcome.RESCHEDULE: "given up"}


def _whole(target: int) -> int:
    """Return microseconds, rounded up to the millisecond at which a message stored for that time is due."""
    return max(target, min(-(-target // 1000), LAST_INSTANT) * 1000)


def _unseen_step(settlement: Settlement, unseen: Record | Damaged, at: datetime) -> Step:
    """Return the step of a message that was claimed and not handed out."""
    progress = settlement.progress
    error = None if progress is None else progress.last_error
    due = from_instant(progress.due) if isinstance(progress, Progress) and progress.due is not None else None
    if isinstance(unseen, Damaged):
        return Step(unseen.id, at, None, 0, 0, "dead", error, None, None)
    scheduled_for, missed = unseen.progress.scheduled_for, 0
    too_old = False
    first_leased = unseen.progress.first_leased
    try:
        schedule = schedule_of(unseen)
        if schedule is not None and first_leased is not None:
            too_old = schedule.choose(scheduled_for, first_leased, unseen.id) is None
            last = attrs.evolve(schedule, catch_up="latest", grace=None).choose(scheduled_for, first_leased, unseen.id)
            if too_old and last is not None:
                scheduled_for, missed = last.occurrence, last.missed
    except ScheduleError:
        # The message was set aside with this error.
        pass
    outcome: StepOutcome = "dead" if settlement.outcome is Outcome.BURY else "skipped" if too_old else "given up"
    # The claim counted an attempt that no handler saw.
    attempts = unseen.progress.attempts - 1
    return Step(unseen.id, at, from_instant(scheduled_for), attempts, missed, outcome, error, due, None)
