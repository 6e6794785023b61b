"""Decide the fate of a record that a listener has leased: emit an occurrence of it, or settle it unseen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from pitstop._decisions._attempts import attempts_text, is_spent, taken, uncounted
from pitstop._decisions._pause import hold
from pitstop._decisions._policy import NewerPolicy, Policy
from pitstop._errors import ScheduleError
from pitstop._values._schedule import Schedule
from pitstop.abc import MAX_ERROR_LENGTH, Aside, Damaged, Outcome, Progress, Record, Retry, Settlement


__all__ = ["Emission", "advance", "bury", "decide", "give_up", "occurrence_of", "schedule_of", "settlement"]


# Looked up once: members of an Enum are slow to get at, and each ack of a series needs it.
_RESCHEDULE = Outcome.RESCHEDULE


# Not frozen: each claimed message has one, and attrs takes several times as long to make a frozen object.
@attrs.define
class Emission:
    """One occurrence of a leased record, to be handed to the user. It must not be changed."""

    #: The record as it was leased, or with another progress.
    leased: Record
    schedule: Schedule | None
    scheduled_for: int
    missed: int
    #: Whether the store does not yet count the present attempt as a certain one, because the claim was for several messages, or
    #: because the message waits in the listener.
    ahead: bool = False
    #: Whether the progress of ``leased`` counts the present attempt as an uncertain one.
    uncertain: bool = False
    #: The policies of this message alone; None: it has none.
    policy: Policy | None = None
    #: The time at which the message was due, by the monotonic clock, if the claim was its first one. None: no plugin asks for it.
    due_at: float | None = None

    @property
    def due(self) -> int:
        """The instant at which the occurrence is due at first: with the jitter of a series, after ``scheduled_for``."""
        schedule = self.schedule
        return self.scheduled_for if schedule is None else schedule.due(self.scheduled_for, self.leased.id)

    @property
    def record(self) -> Record:
        """The record, with the present attempt as a certain one, as it is once a handler has the message.

        Computed on demand, because most messages are acknowledged, and an ack does not need it.
        """
        leased = self.leased
        if not self.uncertain:
            return leased
        progress = taken(leased.progress, ahead=True)
        return Record(leased.id, leased.message, leased.series, leased.revision, progress, leased.kind, leased.policy)

    def with_record(self, record: Record) -> Emission:
        """Return the same emission of a record with another progress, which counts the present attempt as a certain one."""
        return Emission(
            record, self.schedule, self.scheduled_for, self.missed, self.ahead, False, self.policy, self.due_at
        )

    def retry_over(self, configured: Retry) -> Retry:
        """Return the retry that holds for the message."""
        return configured if self.policy is None else self.policy.retry_over(configured)


def schedule_of(record: Record) -> Schedule | None:
    """Return the schedule of a record; None for a one-shot message.

    :raises pitstop.ScheduleError: if the schedule is malformed or of an unknown kind.
    """
    return None if record.series is None else Schedule.from_plain(record.series)


def occurrence_of(record: Record, schedule: Schedule) -> int:
    """Return the current occurrence of a series: the one that its first emission chose; before that, the first one to come.

    :raises pitstop.ScheduleError: if the rule is broken.
    """
    progress = record.progress
    if progress.first_leased is None:
        return progress.scheduled_for
    choice = schedule.choose(progress.scheduled_for, progress.first_leased, record.id)
    return progress.scheduled_for if choice is None else choice.occurrence


def decide(leased: Record | Damaged, retry: Retry, *, duration: int, ahead: bool = False) -> Emission | Settlement:
    """Decide the fate of a record that was just leased.

    A damaged record is set aside with its error. An occurrence that comes too late is not emitted. A record is given up if its
    attempts were used up by leases that ran out, and settled unseen if all its occurrences are older than its grace. A paused record
    is parked. Any other record is emitted.

    :param duration: the milliseconds for which the claim leased the record.
    :param ahead: whether the claim asked for several records, so that it counted an uncertain attempt of each.
    :raises NewerPolicy: if a later release has stored the record, with a policy that this one does not know.
    """
    if isinstance(leased, Damaged):
        return _set_aside(leased)
    progress = leased.progress
    early = _unseen(leased, duration, ahead=ahead) if progress.attempts < 1 or leased.policy is not None else None
    if early is not None:
        return early
    if leased.series is None:
        emission = Emission(leased, None, progress.scheduled_for, 0, ahead, ahead)
    else:
        assert progress.first_leased is not None, "a leased record has the time of its first lease"
        try:
            schedule = Schedule.from_plain(leased.series)
            choice = schedule.choose(progress.scheduled_for, progress.first_leased, leased.id)
            following = None
            if choice is None:
                following = schedule.resume(progress.scheduled_for, progress.first_leased, leased.id)
        except ScheduleError as error:
            return bury(_not_emitted(Emission(leased, None, 0, 0, ahead, ahead).record), str(error))
        if choice is None:
            return advance(leased, schedule, following, last_error=progress.last_error)
        emission = Emission(leased, schedule, choice.occurrence, choice.missed, ahead, ahead)
    if leased.policy is not None:
        governed = _governed(emission, leased.policy, duration)
        if not isinstance(governed, Emission):
            return governed
        emission, retry = governed, governed.retry_over(retry)
    most = retry.max_attempts
    # A message is not spent before it was claimed more often than it may be emitted.
    if most is not None and progress.attempts > most and is_spent(emission.record.progress, most):
        dying = _not_emitted(emission.record, most)
        count = attempts_text(dying.progress.attempts)
        spent = f"Given up after {count}; the last one was not acknowledged before its lease ran out."
        return give_up(emission.with_record(dying), spent)
    return emission


def _unseen(leased: Record, duration: int, *, ahead: bool) -> Settlement | None:
    """Return the write for a record that must not be emitted, whatever its schedule is; None if there is no such reason."""
    progress = leased.progress
    if progress.attempts < 1:
        # A claim adds one to the attempts. A count below zero looks sound after that.
        return settlement(leased, Outcome.BURY, Aside("Damaged: attempts cannot be right. Store the message again."))
    assert progress.due is not None, "the due of a leased record is the end of its lease"
    return hold(leased, progress.due - duration, ahead=ahead)


def _governed(emission: Emission, plain: Mapping[str, Any], duration: int) -> Emission | Settlement:
    """Return the emission with the policies of its message, or the write that ends it, if it is too late for it."""
    try:
        policy = Policy.from_plain(plain)
    except NewerPolicy:
        raise
    except ScheduleError as error:
        return bury(_not_emitted(emission.record), str(error))
    emission = attrs.evolve(emission, policy=policy)
    progress = emission.leased.progress
    assert progress.due is not None, "the due of a leased record is the end of its lease"
    now, last = progress.due - duration, policy.last_instant(progress.scheduled_for, emission.scheduled_for)
    return emission if last is None or now <= last else _expire(emission, now)


def _expire(emission: Emission, now: int) -> Settlement:
    """End an occurrence that is too old: a series goes to the first one that is not, and a one-shot message is deleted."""
    leased, schedule, policy = emission.leased, emission.schedule, emission.policy
    assert policy is not None, "only an occurrence with a policy expires"
    assert policy.expires is not None, "only an occurrence with a limit expires"
    following = None
    if schedule is not None:
        try:
            following = schedule.next(max(emission.scheduled_for, now - policy.expires - 1))
        except ScheduleError as error:
            return bury(_not_emitted(emission.record), str(error))
    if schedule is None or following is None:
        return settlement(leased, Outcome.EXPIRE, None)
    due = schedule.due(following, leased.id)
    return settlement(leased, Outcome.EXPIRE, Progress(due, following, last_error=leased.progress.last_error))


def _not_emitted(leased: Record, max_attempts: int | None = None) -> Record:
    """Return the record without the attempt that the present claim counted."""
    return attrs.evolve(leased, progress=uncounted(leased.progress, max_attempts))


def give_up(emission: Emission, error: str) -> Settlement:
    """End an occurrence that failed too often: a series goes on, and a message without a next occurrence is dead."""
    schedule = emission.schedule
    if schedule is None:
        return bury(emission.record, error)
    try:
        following = schedule.next(emission.scheduled_for)
    except ScheduleError as broken:
        return bury(emission.record, f"{error} {broken}"[:MAX_ERROR_LENGTH])
    if following is None:
        return bury(emission.record, error)
    return advance(emission.record, schedule, following, last_error=error)


def advance(record: Record, schedule: Schedule, following: int | None, *, last_error: str | None = None) -> Settlement:
    """Return the write that moves a record to the occurrence at ``following``; None: delete the record, the series is over."""
    if following is None:
        return settlement(record, Outcome.COMPLETE, None)
    due = schedule.due(following, record.id) if schedule.jitter else following
    return settlement(record, _RESCHEDULE, Progress(due, following, 0, None, last_error))


def bury(record: Record, error: str) -> Settlement:
    """Keep the record, but never emit it again unless it is redriven. The token stays, because it fences the redrive."""
    return settlement(record, Outcome.BURY, attrs.evolve(record.progress, due=None, last_error=error))


def settlement(record: Record, outcome: Outcome, progress: Progress | Aside | None) -> Settlement:
    """Return the fenced write of ``progress`` to a record that is leased or dead."""
    token = record.progress.token
    assert token is not None, "only a leased or dead record is settled"
    return Settlement(record.id, token, outcome, progress)


def _set_aside(damaged: Damaged) -> Settlement:
    assert damaged.token is not None, "a leased document carries the token of its lease"
    return Settlement(damaged.id, damaged.token, Outcome.BURY, Aside(damaged.error))
