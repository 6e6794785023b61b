"""Decide the writes that move a stored message in time: a reschedule, an emission now, and the end of a lease by hand.

Kind and policies stay. ``expires`` counts from the time that a person has chosen, if that is later than the nominal time: a message
that was asked for must not be dropped as too old. A pause stays.
"""

from __future__ import annotations

import attrs

from pitstop._decisions._attempts import emitted
from pitstop._decisions._emit import schedule_of, settlement
from pitstop._decisions._pause import is_held, keep_pause, without_old_pause
from pitstop._decisions._policy import moved_policy
from pitstop._decisions._settle import redrive
from pitstop._errors import ScheduleError
from pitstop._values._schedule import CatchUp
from pitstop.abc import Outcome, Progress, Record, Settlement, state_of


__all__ = ["end_lease", "hasten", "reschedule", "revive"]


def reschedule(present: Record, due: int, now: int) -> Record:
    """Return the record of a message that comes at ``due``.

    A one-shot message is for that time then, as if it had been stored for it. Of a series, the current occurrence comes at that
    time. It stays that occurrence: its nominal time decides the key, and the occurrences after it. Its attempts so far are not
    held against it, and its grace does not count. No lease is left. If it is paused, that is its time when the pause ends.
    """
    progress = present.progress
    if present.series is None:
        moved = Progress(due, due, last_error=progress.last_error)
        return keep_pause(_moved(present, moved, due), present, now)
    attempts, first = emitted(progress), _first_lease(present, now)
    moved = Progress(
        due if first is None else max(due, first),
        progress.scheduled_for,
        attempts,
        first,
        progress.last_error,
        excused=attempts,
    )
    return keep_pause(_moved(present, moved, due), present, now)


def hasten(present: Record, now: int) -> Record | None:
    """Return the record of a message whose current occurrence comes now; None if it is leased, dead or paused.

    The nominal time, the attempts, and the error stay. The grace does not count. A message that is due stays due since the
    same time.
    """
    present = without_old_pause(present, now)
    progress = present.progress
    state = state_of(progress.due, progress.token, now)
    if state not in {"due", "scheduled"} or is_held(present, now):
        return None
    first = _first_lease(present, now)
    # Only a message that waits for its time or its retry is moved. It has no token.
    due = progress.due if state == "due" else max(now, first or 0)
    return _moved(present, attrs.evolve(progress, due=due, first_leased=first), now)


def revive(dead: Record, now: int) -> Record | None:
    """Return the record of a dead message that is redriven; None if the write of :func:`redrive` is enough.

    That write changes the progress alone. It is enough for a message that has no ``expires``.
    """
    write = redrive(dead, now).progress
    assert isinstance(write, Progress), "a redrive keeps the message"
    moved = keep_pause(_moved(dead, write, now), dead, now)
    return None if moved.policy == dead.policy else moved


def end_lease(present: Record, now: int) -> Settlement | None:
    """Return the write that ends a running lease now; None if there is none.

    The attempt counts as one whose lease ran out, as after a crash: a message that kills its worker must not live on because
    each of its leases is ended by hand.
    """
    progress = present.progress
    if state_of(progress.due, progress.token, now) != "leased":
        return None
    due = max(now, progress.first_leased or 0)
    return settlement(present, Outcome.RELEASE, attrs.evolve(progress, due=due, token=None))


def _moved(present: Record, progress: Progress, at: int) -> Record:
    policy = moved_policy(present.policy, progress.scheduled_for, at)
    return attrs.evolve(present, progress=progress, policy=policy)


def _first_lease(present: Record, now: int) -> int | None:
    """Return the time of a first lease with which the current occurrence is emitted at any later time, although it has a grace.

    The time is not later than ``now``. None: the claim chooses the occurrence, because nothing was emitted yet and the series
    has no grace.
    """
    progress = present.progress
    if progress.first_leased is not None:
        return progress.first_leased
    try:
        schedule = schedule_of(present)
        if schedule is None or schedule.grace is None:
            return None
        # "skip" without a grace is "latest".
        catch_up: CatchUp = "all" if schedule.catch_up == "all" else "latest"
        choice = attrs.evolve(schedule, catch_up=catch_up, grace=None).choose(progress.scheduled_for, now, present.id)
    except ScheduleError:
        # The claim sets the message aside.
        return None
    assert choice is not None, "a schedule without grace always has an occurrence to emit"
    return min(schedule.due(choice.occurrence, present.id), now)
