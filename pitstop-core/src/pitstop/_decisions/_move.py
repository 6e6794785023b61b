"""Decide the writes that move a stored message in time: a reschedule, an emission now, and the end of a lease by hand.

Kind and policies stay. ``expires`` counts from the time that a person has chosen, if that is later than the nominal time: a message
that was asked for must not be dropped as too old.
"""

from __future__ import annotations

import attrs

from pitstop._decisions._attempts import emitted
from pitstop._decisions._emit import schedule_of, settlement
from pitstop._decisions._policy import moved_policy
from pitstop._decisions._settle import redrive
from pitstop._errors import ScheduleError
from pitstop._values._schedule import CatchUp
from pitstop.abc import Outcome, Progress, Record, Settlement, state_of


__all__ = ["end_lease", "hasten", "reschedule", "revive"]


def reschedule(present: Record, due: int) -> Record:
    """Return the record of a message that comes at ``due``.

    A one-shot message is for that time then, as if it had been stored for it. Of a series, the current occurrence comes at that
    time. It stays that occurrence: its nominal time decides the key, and the occurrences after it. Its attempts so far are not
    held against it. No lease is left.
    """
    progress = present.progress
    if present.series is None:
        return _moved(present, Progress(due, due, last_error=progress.last_error), due)
    attempts = emitted(progress)
    first = _choice_until(present, due) if progress.first_leased is None else progress.first_leased
    moved = Progress(
        due if first is None else max(due, first),
        progress.scheduled_for,
        attempts,
        first,
        progress.last_error,
        excused=attempts,
    )
    return _moved(present, moved, due)


def hasten(present: Record, now: int) -> Record | None:
    """Return the record of a message whose current occurrence comes now; None if it is leased or dead.

    The nominal time, the attempts and the error stay. A message that is due stays due since the same time.
    """
    progress = present.progress
    state = state_of(progress.due, progress.token, now)
    if state == "due":
        return _moved(present, progress, now)
    if state != "scheduled":
        return None
    # The message waits for its time or its retry. It has no token.
    return _moved(present, attrs.evolve(progress, due=max(now, progress.first_leased or 0)), now)


def revive(dead: Record, now: int) -> Record | None:
    """Return the record of a dead message that is redriven; None if the write of :func:`redrive` is enough.

    That write changes the progress alone. It is enough for a message that has no ``expires``.
    """
    write = redrive(dead, now).progress
    assert isinstance(write, Progress), "a redrive keeps the message"
    moved = _moved(dead, write, now)
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


def _choice_until(present: Record, due: int) -> int | None:
    """Return the time of the first lease that lets a message of a series be emitted at ``due``, although its grace is over.

    None: the claim chooses the occurrence, because the series has no grace, or the occurrence is not late.
    """
    try:
        schedule = schedule_of(present)
        if schedule is None or schedule.grace is None:
            return None
        # "skip" without a grace is "latest".
        catch_up: CatchUp = "all" if schedule.catch_up == "all" else "latest"
        choice = attrs.evolve(schedule, catch_up=catch_up, grace=None).choose(
            present.progress.scheduled_for, due, present.id
        )
    except ScheduleError:
        # The claim sets the message aside.
        return None
    assert choice is not None, "a schedule without grace always has an occurrence to emit"
    chosen = schedule.due(choice.occurrence, present.id)
    return chosen if chosen <= due else None
