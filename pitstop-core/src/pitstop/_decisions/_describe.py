"""Show stored records to a user: as entries, and as counts."""

from __future__ import annotations

from datetime import datetime, timedelta

from pitstop._decisions._attempts import emitted
from pitstop._decisions._emit import occurrence_of, schedule_of
from pitstop._decisions._pause import pause_of
from pitstop._decisions._policy import Policy
from pitstop._decisions._revision import revision_of
from pitstop._errors import ScheduleError
from pitstop._recurrence._every import Every
from pitstop._values._entry import Entry, Stats
from pitstop._values._instant import from_instant
from pitstop.abc import Damaged, Record, Tally, state_of


__all__ = ["describe", "summarize"]

_NO_POLICY = Policy()


def describe(stored: Record | Damaged, now: int) -> Entry:
    """Return the entry of a stored record. The entry of an unreadable record has the reason as its ``last_error``."""
    if isinstance(stored, Damaged):
        return _damaged(stored, now)
    progress = stored.progress
    state = state_of(progress.due, progress.token, now)
    scheduled_for, last_error = progress.scheduled_for, progress.last_error
    schedule, policy, paused = None, _NO_POLICY, None
    try:
        schedule = schedule_of(stored)
        if schedule is not None:
            scheduled_for = occurrence_of(stored, schedule)
    except ScheduleError as error:
        last_error = str(error)
    if stored.policy is not None:
        paused = pause_of(stored.policy, now)
        if paused is not None and state in {"scheduled", "due"}:
            # The pause began while a listener had the message. The next claim parks it.
            state = "paused"
        # By itself: a malformed policy leaves the schedule readable.
        try:
            policy = Policy.from_plain(stored.policy)
        except ScheduleError as error:
            last_error = str(error)
    recurrence = None if schedule is None else schedule.recurrence
    return Entry(
        id=stored.id,
        message={"id": stored.id, **stored.message},
        state=state,
        kind=stored.kind,
        due=_time(progress.due),
        scheduled_for=from_instant(scheduled_for),
        every=recurrence.timedelta if isinstance(recurrence, Every) else recurrence,
        end=None if schedule is None else _time(schedule.end),
        start=None if schedule is None else from_instant(schedule.start),
        catch_up=None if schedule is None else schedule.catch_up,
        grace=None if schedule is None else _span(schedule.grace),
        jitter=None if schedule is None else _span(schedule.jitter or None),
        retry=policy.given_retry(),
        lock_time=_span(policy.lock_time),
        expires=_span(policy.expires),
        attempts=emitted(progress),
        last_error=last_error,
        revision=revision_of(stored),
        leased_until=_time(progress.due) if state == "leased" else None,
        paused_until=None if paused is None else _time(paused.until),
    )


def summarize(tally: Tally) -> Stats:
    """Return the counts of a store in the form that a user sees."""
    return Stats(
        scheduled=tally.scheduled,
        due=tally.due,
        leased=tally.leased,
        dead=tally.dead,
        oldest_due=_time(tally.oldest_due),
        paused=tally.paused,
    )


def _damaged(damaged: Damaged, now: int) -> Entry:
    state = state_of(damaged.due, damaged.token, now)
    return Entry(
        id=damaged.id,
        message={"id": damaged.id},
        state=state,
        kind=damaged.kind or "",
        due=_time(damaged.due),
        scheduled_for=None,
        last_error=damaged.error,
        revision=revision_of(damaged),
        leased_until=_time(damaged.due) if state == "leased" else None,
    )


def _span(ms: int | None) -> timedelta | None:
    return None if ms is None else timedelta(milliseconds=ms)


def _time(instant: int | None) -> datetime | None:
    return None if instant is None else from_instant(instant)
