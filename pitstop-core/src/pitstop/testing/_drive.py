"""One run of a driven Pitstop: claim, hand out, settle, and move the clock to the next due time.

A run is a generator that yields turns of handlers and is sent their exceptions, so that the same code drives plain and async
handlers.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from threading import get_ident
from typing import TYPE_CHECKING, Any

import attrs

from pitstop._consume._batches import Handlings, Item
from pitstop._consume._handler import HandlerIsAsync
from pitstop._consume._lanes import Lane, Plan
from pitstop._consume._verdict import ask_at_end
from pitstop._decisions._attempts import number
from pitstop._decisions._emit import schedule_of
from pitstop._decisions._ending import ends_program
from pitstop._decisions._settle import error_text
from pitstop._engine._lease import Lease, Purpose
from pitstop._errors import BackendUnavailable, LeaseLost, OutcomeUnknown, PitstopError, ScheduleError
from pitstop._pitstop import Pitstop, session_of
from pitstop._values._instant import LAST_INSTANT, aware, from_instant, microseconds
from pitstop._values._plain import shown
from pitstop.abc import Damaged, Outcome, Progress, Record, Settlement, copy_plain
from pitstop.testing._clock import ManualClock, span_of
from pitstop.testing._driven_lanes import DrivenLanes, Turn
from pitstop.testing._faults import Crash, at_least_one, crash
from pitstop.testing._faulty_backend import FaultyBackend, unfaulted
from pitstop.testing._report import Report, Step, StepOutcome


if TYPE_CHECKING:
    from pitstop._engine._delivery import Delivery

__all__ = ["Drive", "Run", "manual_clock"]

#: The most emissions of one occurrence at one instant. More mean that the handler gives it back for the same moment each time.
_MOST_REPEATS = 1000
#: The most claims in a row, at one instant, that a fault of the test may hit.
_MOST_REFUSALS = 100
#: Microseconds after which a listener polls again, if it got nothing although a message is due.
_LOOK_AGAIN = 5000
#: The most times in a row that a listener gets nothing although a message is due.
_MOST_STALLS = 1000

Run = Generator[Turn, "BaseException | None", Report]
#: The result: now, and when the next message is due, both in microseconds; None: not known, read it.
_Part = Generator[Turn, "BaseException | None", "tuple[int, int | None] | None"]


def manual_clock(pit: Pitstop) -> ManualClock:
    """Return the clock that a test moves.

    :raises PitstopError: if the Pitstop uses a real clock.
    """
    clock = session_of(pit).clock
    if not isinstance(clock, ManualClock):
        raise PitstopError(
            f"{pit!r} uses {clock!r}, which a test cannot move. Make it with pitstop.testing.init(), or with a "
            f"'clock': ManualClock() in its configuration."
        )
    return clock


class Drive:
    """One run."""

    def __init__(self, pit: Pitstop, plans: Sequence[Plan], raise_errors: bool, max_steps: int) -> None:
        self._lanes = DrivenLanes(pit, plans)
        self._session = session_of(pit)
        self._clock = manual_clock(pit)
        self._raise_errors = raise_errors
        self._max_steps = at_least_one(max_steps, "max_steps")
        self._steps: list[Step] = []
        self._thread = get_ident()
        self._stalls = 0
        # The last moment of the run, by the clock that the run moves.
        self._target: int | None = None
        # The settlements of the present deliveries, as far as there are some, by their tokens; and all their tokens.
        self._applied: dict[str | None, Settlement] = {}
        self._tokens: set[str | None] = set()

    def idle(self) -> Run:
        __tracebackhide__ = True
        with self._driving():
            yield from self._idle(surely=True)
            return Report.of(self._steps)

    def for_(self, delta: timedelta | float | str) -> Run:
        span = span_of(delta, "delta")
        if span < timedelta(0):
            raise PitstopError(f"delta={shown(delta)} is negative. The clock does not go back.")
        return self._until(_whole(self._clock.time_us() + span // timedelta(microseconds=1)))

    def until(self, when: datetime) -> Run:
        target = microseconds(aware(when, "when"))
        if target < self._clock.time_us():
            raise PitstopError(f"when={shown(when)} is before {self._clock.now()!r}. The clock does not go back.")
        return self._until(_whole(target))

    def drain(self, max_jumps: int) -> Run:
        at_least_one(max_jumps, "max_jumps")
        return self._drain(max_jumps)

    def _until(self, target: int) -> Run:
        __tracebackhide__ = True
        self._target = target
        with self._driving():
            while (due := (yield from self._next_time())) is not None and due <= target:
                self._clock.move_to(due)
            # The handler may have moved the clock further.
            self._clock.move_to(target)
            return Report.of(self._steps)

    def _drain(self, max_jumps: int) -> Run:
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
        while self._is_within() and (taken := self._get()) is not None:
            lane, leases = taken
            at = from_instant(self._clock.time_us() // 1000)
            items = [(lease, lane.intake.deliver(lease, at_once=True)) for lease in leases]
            for lease, delivery in items:
                count += 1
                occurrence = delivery.id, lease.emission.scheduled_for
                seen[occurrence] = times = seen.get(occurrence, 0) + 1
                if count > self._max_steps or times > _MOST_REPEATS:
                    raise self._with_report(self._endless(delivery, times))
            # The handler may change its own copies.
            messages = [{"id": lease.id, **copy_plain(lease.record.message)} for lease in leases]
            self._applied, self._tokens = {}, {lease.record.progress.token for lease in leases}
            handlings = Handlings(self._session.events, items)
            interrupted = False
            try:
                failure = yield Turn(lane, [delivery for _, delivery in items])
            except BaseException as error:  # noqa: BLE001 - raised again once its messages were given back
                failure, interrupted = error, True
            handlings.end(failure)
            self._settle(lane, items, failure, at, messages, interrupted=interrupted)
            if not surely:
                here, due = looked = self._look()
                if due is None or due > here:
                    return looked
        return None

    def _get(self) -> tuple[Lane, Sequence[Lease]] | None:
        __tracebackhide__ = True
        for _ in range(_MOST_REFUSALS):
            try:
                return self._lanes.take()
            except BackendUnavailable as error:
                # A listener polls again after a pause, and here no time passes. The test that planned the fault knows of it.
                if not self._is_fault(error):
                    raise
                refused = error
        raise self._with_report(refused)

    def _settle(
        self,
        lane: Lane,
        items: Sequence[Item],
        failure: BaseException | None,
        at: datetime,
        messages: Sequence[dict[str, Any]],
        *,
        interrupted: bool,
    ) -> None:
        """Settle the deliveries as ``consume`` does, and note the outcomes.

        :param interrupted: whether the failure is not the handler's, because the task of the run was cancelled.
        """
        __tracebackhide__ = True
        told = any(lease.is_news(failure) for lease, _ in items)
        if isinstance(failure, Crash):
            crash(self._session)
        stopped = told or interrupted or isinstance(failure, HandlerIsAsync)
        for (lease, delivery), message in zip(items, messages, strict=True):
            refused: PitstopError | None = None
            if lease.is_news(failure):
                refused = lease.told
            elif not isinstance(failure, Crash):
                try:
                    if ask_at_end(lease, delivery, failure, interrupted=stopped):
                        lane.intake.writer.write_at_once(lease)
                except (LeaseLost, BackendUnavailable) as error:
                    refused = error
            outcome, due = self._outcome(lease, failure, refused)
            trouble = refused if failure is None or isinstance(failure, Crash) else failure
            self._steps.append(
                Step(
                    *(delivery.id, at, delivery.scheduled_for, delivery.attempt, delivery.missed, outcome),
                    *(error_text(trouble), due, message),
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
        over: StepOutcome = "superseded" if lease.superseded else "lost"
        if isinstance(refused, LeaseLost):
            return over, None
        if refused is not None:
            # Perhaps it was done nevertheless. The message then comes at another time, or never.
            return "unsettled", None if isinstance(refused, OutcomeUnknown) else from_instant(lease.due)
        applied = self._applied.get(lease.record.progress.token)
        if applied is None:
            # Crashed; or refused, of which the handler knows, so that it settled nothing and said nothing.
            return ("crashed", from_instant(lease.due)) if isinstance(failure, Crash) else (over, None)
        progress = applied.progress
        due = None if not isinstance(progress, Progress) or progress.due is None else from_instant(progress.due)
        if lease.purpose is Purpose.ACK:
            return "acked", due
        if lease.purpose is Purpose.GIVE_BACK:
            return "given back", due
        return _NACKS.get(applied.outcome, "nacked"), due

    def _note(self, settlement: Settlement, unseen: Record | Damaged | None) -> None:
        """Note a settlement that was applied, to a present delivery or to a message that no handler saw."""
        if unseen is None:
            if settlement.token in self._tokens:
                self._applied[settlement.token] = settlement
        elif self._thread == get_ident() and settlement.outcome is not Outcome.PAUSE:
            self._steps.append(_unseen_step(settlement, unseen, self._clock.now()))

    def _next_time(self) -> Generator[Turn, BaseException | None, int | None]:
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
        due, here = self._lanes.next_due(), self._clock.time_us()
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
        return self._lanes.left(unfaulted(self._session.backend).now() // 1000)

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
            with self._lanes:
                yield
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
    outcome: StepOutcome
    if settlement.outcome is Outcome.EXPIRE:
        outcome = "expired"
    else:
        outcome = "dead" if settlement.outcome is Outcome.BURY else "skipped" if too_old else "given up"
    # Without the attempts that no handler saw: the one that the claim counted, and those of listeners that crashed.
    attempts = (
        progress.attempts if outcome == "dead" and isinstance(progress, Progress) else number(unseen.progress) - 1
    )
    return Step(unseen.id, at, from_instant(scheduled_for), attempts, missed, outcome, error, due, None)
