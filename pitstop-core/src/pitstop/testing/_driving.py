"""Time and messages in the hand of a test: emits what is due in this thread, and moves the clock in between.

It is the real listener that is driven, without a thread and without a wait: what a claim, an ack or a nack makes of a
message is decided where it always is. A run is a generator that yields deliveries and is sent what the handler raised, so
that plain and async handlers are driven by the same code.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from threading import get_ident
from typing import TYPE_CHECKING, Any

import attrs

from pitstop._decisions._describe import describe
from pitstop._decisions._emit import schedule_of
from pitstop._decisions._ending import ends_program
from pitstop._decisions._settle import error_text
from pitstop._engine._handler import (
    Handler,
    HandlerIsAsync,
    callable_handler,
    close_awaitable,
    is_async,
    takes_delivery,
)
from pitstop._errors import BackendUnavailable, LeaseLost, OutcomeUnknown, PitstopError, ScheduleError
from pitstop._pitstop import Pitstop
from pitstop._values._duration import format_duration
from pitstop._values._instant import LAST_INSTANT, aware, from_instant, microseconds
from pitstop._values._plain import shown
from pitstop.abc import Backend, Damaged, Outcome, Progress, Record, Settlement, copy_plain
from pitstop.testing._clock import ManualClock, span_of
from pitstop.testing._faults import Crash, FaultyBackend, at_least_one, crash
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
    "unfaulted",
]

#: Emissions at one instant, unless told otherwise.
MAX_STEPS = 100_000
#: Jumps of :func:`drain`, unless told otherwise.
MAX_JUMPS = 10_000

#: Emissions of one occurrence at one instant: more is a handler that gives it back for the same moment again and again.
_MOST_REPEATS = 1000
#: Claims in a row that a fault of the test may hit, at one instant.
_MOST_REFUSALS = 100
#: Microseconds after which a listener looks again, when it got nothing although something is due.
_LOOK_AGAIN = 5000
#: Times in a row that it gets nothing although something is due.
_MOST_STALLS = 1000

_Run = Generator["Delivery", "BaseException | None", Report]
#: What is returned: now, and when something is due next, both in microseconds; None: look for it.
_Part = Generator["Delivery", "BaseException | None", "tuple[int, int | None] | None"]


def run_until_idle(
    pit: Pitstop,
    handler: Handler,
    *,
    deliveries: bool | None = None,
    raise_errors: bool = True,
    max_steps: int = MAX_STEPS,
) -> Report:
    """Handle all that is due now, in this thread, while the clock stands still.

    What becomes due at this very moment meanwhile is handled, too. Each message is acknowledged when the handler returns,
    and nacked when it raises; a delivery that the handler settled itself stays as it was settled.

    :param pit: one whose clock is a :class:`ManualClock`.
    :param handler: called with the message, as ``delivery.msg`` has it.
    :param deliveries: whether to call it with the :class:`pitstop.Delivery` instead. If not given: if its first parameter is
        annotated as one or named ``delivery``, as :meth:`pitstop.Pitstop.consume` does.
    :param raise_errors: what the handler raises ends the run and is raised, once the message was nacked; the report so
        far is its ``pitstop_report``, and a note. False: it is in the report, and ``retry`` says when the message comes back.
    :param max_steps: most emissions at one instant.
    :return: what was done, in order. A store that fails an ack or nack does not raise: the step is ``unsettled``.
    :raises PitstopError: when there is no end to it, or the handler is async, or the clock is a real one.
    :raises BackendUnavailable: when the store does not do what it should with a claim.
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
    """Let this time pass: handle each message at its own instant, up to now and ``delta`` inclusive.

    The clock goes from due time to due time, ends of leases included, and stands at now and ``delta`` in the end, rounded
    up to a millisecond, since that is when the store has it due; beyond only if the handler, or a latency, moved it there.

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
    """Handle everything, however far in the future: the clock goes from due time to due time until nothing is left.

    :param max_jumps: how often the clock may be moved. A series without end never ends.
    :raises PitstopError: when something is left after that; the text says what.
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
    """:func:`run_until_idle` for a handler that is async, or not. One message at a time.

    :param pit: also an :class:`pitstop.AsyncPitstop` whose clock is a :class:`ManualClock`. Its store is asked in this
        thread: on a clock that stands still there is nobody to keep waiting.
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
    """:func:`run_for` for a handler that is async, or not. One message at a time."""
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
    """:func:`run_until` for a handler that is async, or not. One message at a time."""
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
    """:func:`drain` for a handler that is async, or not. One message at a time."""
    __tracebackhide__ = True
    return await _adriven(
        callable_handler(handler), deliveries, _Drive(_plain_one(pit), raise_errors, max_steps).drain(max_jumps)
    )


def _plain_one(pit: Pitstop | AsyncPitstop) -> Pitstop:
    # Not asked whether it is an AsyncPitstop: to import that would bring asyncio to those who have none.
    return pit if isinstance(pit, Pitstop) else pit._opened()


def manual_clock(pit: Pitstop) -> ManualClock:
    """The clock that a test holds.

    :raises PitstopError: when the Pitstop goes by a real one.
    """
    clock = pit._session.clock
    if not isinstance(clock, ManualClock):
        raise PitstopError(
            f"{pit!r} goes by {clock!r}, which nobody can move. Make it with pitstop.testing.init(), or with a "
            f"'clock': ManualClock() in its configuration."
        )
    return clock


def unfaulted(backend: Backend) -> Backend:
    """The backend behind the faults of a test: for looking at it without setting one off."""
    return backend.inner if isinstance(backend, FaultyBackend) else backend


def _driven(handler: Handler, deliveries: bool | None, run: _Run) -> Report:
    __tracebackhide__ = True
    deliveries = takes_delivery(handler, deliveries)
    try:
        delivery = next(run)
        while True:
            failure: BaseException | None = None
            try:
                result = handler(delivery if deliveries else delivery.msg)
            except BaseException as error:  # noqa: BLE001 - the run raises it again when it is to be raised
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
    # An async handler has imported asyncio already; programs without one are not to pay for it.
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
                    # Not of the handler: the run ends, whatever is done about errors.
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
    """Help whoever wrote a handler of deliveries and forgot to say so."""
    if deliveries or not isinstance(error, AttributeError) or error.obj is not delivery.msg:
        return
    if hasattr(delivery, error.name or ""):
        error.add_note(
            f"The handler was called with the message, and {error.name!r} is what a Delivery has. Say deliveries=True, and it "
            f"is called with that."
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
        "The handler is async, so nobody would wait for it. Say await arun_until_idle(...), arun_for, arun_until or adrain."
    )


def _given_up(result: Awaitable[object]) -> PitstopError:
    """What to raise in place of waiting for this, which ends here: nobody would see what becomes of it."""
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
        # The last moment of the run, by the clock that is moved.
        self._target: int | None = None
        # The settlement of the delivery that is out, once there is one; and its token.
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
                self._clock._move_to(due)
            # The handler may have moved it further.
            self._clock._move_to(target)
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
                self._clock._move_to(due)
            return Report.of(self._steps)

    def _idle(self, *, surely: bool) -> _Part:
        """Emit all that is due at this instant.

        :param surely: ask once more than seems needed.
        """
        __tracebackhide__ = True
        # Not begun anew when a handler, or a latency, moves the clock: that would have no end either.
        count, seen = 0, dict[tuple[str, int], int]()
        while self._is_within() and (delivery := self._get()) is not None:
            emission, now = delivery._emission, self._clock.time_us()
            count += 1
            occurrence = emission.record.id, emission.scheduled_for
            seen[occurrence] = times = seen.get(occurrence, 0) + 1
            if count > self._max_steps or times > _MOST_REPEATS:
                raise self._with_report(self._endless(delivery, times))
            at, message = from_instant(now // 1000), {"id": delivery.id, **copy_plain(emission.record.message)}
            self._applied, self._token = None, emission.record.progress.token
            contexts = self._session.events.enter(delivery)
            interrupted = False
            try:
                failure = yield delivery
            except BaseException as error:  # noqa: BLE001 - raised again once its message was nacked
                failure, interrupted = error, True
            self._session.events.leave(contexts, failure)
            self._settle(delivery, failure, at, message, interrupted=interrupted)
            if not surely:
                here, due = looked = self._look()
                if due is None or due > here:
                    return looked
        return None

    def _get(self) -> Delivery | None:
        __tracebackhide__ = True
        for _ in range(_MOST_REFUSALS):
            try:
                return self._listener.get()
            except BackendUnavailable as error:
                # A listener looks again after a pause, and here no time passes. Who asked for the fault knows of it.
                if not self._is_fault(error):
                    raise
                refused = error
        raise self._with_report(refused)

    def _settle(
        self,
        delivery: Delivery,
        failure: BaseException | None,
        at: datetime,
        message: dict[str, Any],
        *,
        interrupted: bool,
    ) -> None:
        """Do as ``with delivery:`` does, and note what came of it.

        :param interrupted: whether the failure is not the handler's: the task of the run was cancelled.
        """
        __tracebackhide__ = True
        refused: PitstopError | None = None
        told = failure is not None and failure is delivery._told
        if told:
            refused = delivery._told
        elif isinstance(failure, Crash):
            crash(self._session)
        elif delivery._settled is None:
            try:
                if failure is None:
                    delivery.ack()
                else:
                    delivery.nack(failure)
            except (LeaseLost, BackendUnavailable) as error:
                refused = error
        outcome, due = self._outcome(delivery, failure, refused)
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
            # It would end the generator that this is, or the async function around it.
            raise self._with_report(RuntimeError("The handler raised StopIteration.")) from failure
        raise self._with_report(failure)

    def _outcome(
        self, delivery: Delivery, failure: BaseException | None, refused: PitstopError | None
    ) -> tuple[StepOutcome, datetime | None]:
        if isinstance(refused, LeaseLost):
            return "lost", None
        if refused is not None:
            # Perhaps it was done all the same, and then it comes at another time, or never.
            return "unsettled", None if isinstance(refused, OutcomeUnknown) else delivery.leased_until
        if self._applied is None:
            # Crashed; or refused, of which the handler knows, so that it settled nothing and said nothing.
            return ("crashed", delivery.leased_until) if isinstance(failure, Crash) else ("lost", None)
        progress = self._applied.progress
        due = None if not isinstance(progress, Progress) or progress.due is None else from_instant(progress.due)
        if delivery._settled == "acknowledged":
            return "acked", due
        return _NACKS.get(self._applied.outcome, "nacked"), due

    def _note(self, settlement: Settlement, unseen: Record | Damaged | None) -> None:
        """A settlement was applied, to what is out or to what nobody saw."""
        if unseen is None:
            if settlement.token == self._token:
                self._applied = settlement
        elif self._thread == get_ident():
            self._steps.append(_unseen_step(settlement, unseen, self._clock.now()))

    def _next_time(self) -> Generator[Delivery, BaseException | None, int | None]:
        """Emit all that is due at this instant; tell when the next is, in microseconds by the clock that is moved."""
        __tracebackhide__ = True
        emitted = len(self._steps)
        looked = yield from self._idle(surely=False)
        here, due = looked or self._look()
        if due is None:
            # A store may know of what comes next a little late. Nothing comes next: make sure of that.
            yield from self._idle(surely=True)
            here, due = self._look()
        if due is None or due > here:
            self._stalls = 0
            return due
        # Others have it, or the store was so slow that the listener gave it back.
        self._stalls = self._stalls + 1 if len(self._steps) == emitted else 0
        if self._stalls > _MOST_STALLS:
            raise self._with_report(
                PitstopError(f"{self._session.location} has something that is due, and does not give it out.")
            )
        return here + _LOOK_AGAIN

    def _look(self) -> tuple[int, int | None]:
        """Now, and when something is due next, both in microseconds by the clock that is moved."""
        backend = unfaulted(self._session.backend)
        due, here = backend.next_due(), self._clock.time_us()
        # The backend's clock may be set apart from the one that is moved.
        return here, None if due is None else here + due * 1000 - backend.now()

    def _is_within(self) -> bool:
        """Whether there is still time; beyond the end of the run, whether something was due before that."""
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
            f"{self._max_steps} messages were emitted at {now}, and {delivery.id!r} is due still. If each handler stores "
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
        # An exception may refuse attributes; it is raised all the same.
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
                "What the handler stores for now is handled by the same run: just return."
            )
        # Now, not when the run was made: the thread that does it counts.
        self._thread = get_ident()
        store.events.tap = self._note
        try:
            with self._pit.listen() as self._listener:
                yield
        finally:
            store.events.tap = None


_NACKS: dict[Outcome, StepOutcome] = {Outcome.BURY: "dead", Outcome.RESCHEDULE: "given up"}


def _whole(target: int) -> int:
    """Microseconds, rounded up to the millisecond at which a store has due what was stored for then."""
    return max(target, min(-(-target // 1000), LAST_INSTANT) * 1000)


def _unseen_step(settlement: Settlement, unseen: Record | Damaged, at: datetime) -> Step:
    """What became of a message that was claimed and not handed out."""
    progress = settlement.progress
    error = None if progress is None else progress.last_error
    due = from_instant(progress.due) if isinstance(progress, Progress) and progress.due is not None else None
    if isinstance(unseen, Damaged):
        return Step(unseen.id, at, None, 0, 0, "dead", error, None, None)
    scheduled_for, missed = unseen.progress.scheduled_for, 0
    too_old = False
    try:
        schedule = schedule_of(unseen)
    except ScheduleError:
        schedule = None
    first_leased = unseen.progress.first_leased
    if schedule is not None and first_leased is not None:
        too_old = schedule.choose(scheduled_for, first_leased) is None
        last = attrs.evolve(schedule, catch_up="latest", grace=None).choose(scheduled_for, first_leased)
        if too_old and last is not None:
            scheduled_for, missed = last.occurrence, last.missed
    outcome: StepOutcome = "dead" if settlement.outcome is Outcome.BURY else "skipped" if too_old else "given up"
    # The claim counted an attempt that nobody saw.
    attempts = unseen.progress.attempts - 1
    return Step(unseen.id, at, from_instant(scheduled_for), attempts, missed, outcome, error, due, None)
