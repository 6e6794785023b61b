"""Decide the writes of a pause, and of its end.

The policies of a paused message have ``paused``: the instant ``until`` which the pause lasts (None: until a person ends it), and
the ``due`` that the message had when it was parked (None: it was with a listener then, or its time had come).

A paused message is *parked*: its token is :data:`PAUSED`, which no claim makes, and its ``due`` is None or the end of the pause. So
no listener claims it before that, a listener of an older release included. A message that a listener has is not parked, because
its handler goes on, and its ack counts. The next claim finds the pause in the policies, and parks the message unseen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from pitstop._decisions._policy import PAUSED_POLICY, Pause
from pitstop.abc import PAUSED, Outcome, Progress, Record, Settlement, state_of


__all__ = ["hold", "is_held", "keep_pause", "pause", "pause_of", "resume", "with_pause", "without_old_pause"]


def pause_of(policy: Mapping[str, Any] | None, now: int) -> Pause | None:
    """Return the pause that stored policies contain, if it has not ended."""
    found = None if policy is None else Pause.from_plain(policy.get(PAUSED_POLICY))
    return None if found is None or not found.lasts(now) else found


def is_held(record: Record, now: int) -> bool:
    """Whether a message is paused: parked, or to be parked by its next claim."""
    progress = record.progress
    return state_of(progress.due, progress.token, now) == "paused" or pause_of(record.policy, now) is not None


def pause(present: Record, until: int | None, now: int) -> Record | None:
    """Return the record of a message that is paused; None if it is dead.

    :param until: the end of the pause; None: there is none.
    """
    record = without_old_pause(present, now)
    progress, last = record.progress, pause_of(record.policy, now)
    state = state_of(progress.due, progress.token, now)
    if state == "dead":
        return None
    if state == "leased":
        return _with(record, Pause(until, None))
    if state == "paused":
        # A second pause, which moves the end. The message of a policy that an older release has removed has its own time.
        due = progress.scheduled_for if last is None else last.due
        return _parked(record, Pause(until, due), now)
    return _parked(record, Pause(until, progress.due), now)


def resume(present: Record, now: int) -> Record | None:
    """Return the record of a message whose pause ends now; None if it is not paused, or if it is dead.

    The message is due when it was due before, and now if that time has passed. A message that died during its pause is not emitted
    anyway. It is paused again when it is redriven, so its pause stays.
    """
    progress = present.progress
    if not is_held(present, now) or state_of(progress.due, progress.token, now) == "dead":
        return None
    last = None if present.policy is None else Pause.from_plain(present.policy.get(PAUSED_POLICY))
    if progress.token == PAUSED:
        before = progress.scheduled_for if last is None else last.due
        due = max(before or 0, now, progress.first_leased or 0)
        progress = attrs.evolve(progress, due=due, token=None)
    return attrs.evolve(_with(present, None), progress=progress)


def keep_pause(record: Record, present: Record, now: int) -> Record:
    """Return a new record for a stored message whose pause, if it has one, goes on."""
    record, present = _with(record, None), without_old_pause(present, now)
    if not is_held(present, now):
        return record
    # A message whose policies an older release has removed is parked all the same, until its `due`.
    last = pause_of(present.policy, now) or Pause(present.progress.due, None)
    return _parked(record, Pause(last.until, record.progress.due), now)


def with_pause(policy: Mapping[str, Any] | None, stored: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the policies of a new body for a stored message. A pause stays."""
    if stored is None or PAUSED_POLICY not in stored:
        return policy
    return {**(policy or {}), PAUSED_POLICY: stored[PAUSED_POLICY]}


def without_old_pause(record: Record, now: int) -> Record:
    """Return a record without the traces of a pause that has ended by itself."""
    if pause_of(record.policy, now) is not None:
        return record
    progress, over = record.progress, record.policy is not None and PAUSED_POLICY in record.policy
    if progress.token == PAUSED and progress.due is not None and (over or progress.due <= now):
        record = attrs.evolve(record, progress=attrs.evolve(progress, token=None))
    return _with(record, None)


def hold(leased: Record, now: int, *, ahead: bool) -> Settlement | None:
    """Return the write that parks a record that was just claimed, as if the claim had not happened; None if it is not paused.

    :param now: the time of the claim.
    :param ahead: whether the claim asked for several records, so that it counted an uncertain attempt.
    """
    last = pause_of(leased.policy, now)
    if last is None:
        return None
    progress = leased.progress
    assert progress.token is not None, "a leased record has a token"
    due = None if last.until is None else max(last.until, progress.first_leased or 0)
    if progress.attempts <= 1 and (progress.first_leased is None or progress.first_leased >= now):
        before = Progress(due, progress.scheduled_for, last_error=progress.last_error, token=PAUSED)
    else:
        before = attrs.evolve(
            progress,
            due=due,
            token=PAUSED,
            attempts=max(progress.attempts - 1, 0),
            unsettled=max(progress.unsettled - 1, 0),
            ahead=max(progress.ahead - ahead, 0),
        )
    return Settlement(leased.id, progress.token, Outcome.PAUSE, before)


def _parked(record: Record, pause: Pause, now: int) -> Record:
    """Return a record that no listener claims before its pause ends, nor before its own time."""
    progress = record.progress
    due = None
    if pause.until is not None:
        due = max(pause.until, pause.due or 0, progress.first_leased or 0)
    kept = None if pause.due is None or pause.due <= now else pause.due
    parked = attrs.evolve(progress, due=due, token=PAUSED)
    return attrs.evolve(_with(record, Pause(pause.until, kept)), progress=parked)


def _with(record: Record, pause: Pause | None) -> Record:
    """Return a record with this pause in its policies; None: with none."""
    policy = record.policy
    if pause is None and (policy is None or PAUSED_POLICY not in policy):
        return record
    others = {name: value for name, value in (policy or {}).items() if name != PAUSED_POLICY}
    if pause is not None:
        others[PAUSED_POLICY] = pause.to_plain()
    return attrs.evolve(record, policy=others or None)
