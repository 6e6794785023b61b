"""Decide the write of an ack, a nack, an extension, a release or a redrive."""

from __future__ import annotations

import zlib

from datetime import timedelta

import attrs

from pitstop._decisions._attempts import attempts_text, certain, excused, number, taken
from pitstop._decisions._emit import Emission, advance, bury, give_up, settlement
from pitstop._errors import ScheduleError
from pitstop._values._instant import LAST_INSTANT, instant_of
from pitstop._values._schedule import span_of
from pitstop.abc import MAX_ERROR_LENGTH, Damaged, Outcome, Progress, Record, Retry, Settlement


__all__ = [
    "LEFT_FOR",
    "ack",
    "checked_delay",
    "checked_extension",
    "defer",
    "error_text",
    "extend",
    "hand_back",
    "lease_end",
    "leave",
    "nack",
    "redrive",
    "release",
    "relock",
    "relocked",
    "was_applied",
]


#: Milliseconds until a message is claimed again that a later release has stored.
LEFT_FOR = 30_000
_SHORTEST = timedelta(milliseconds=1)
# Looked up once: members of an Enum are slow to get at, and each ack needs it.
_COMPLETE = Outcome.COMPLETE


def ack(emission: Emission) -> Settlement:
    """Return the write of an ack: delete a one-shot; move a series on from the occurrence that was emitted, or end it.

    If the rule of the series is broken, the message is kept with the error, and is not emitted again.
    """
    schedule = emission.schedule
    if schedule is None:
        # As settlement() does, without one more call for each message.
        leased = emission.leased
        token = leased.progress.token
        assert token is not None, "only a leased record is acknowledged"
        return Settlement(leased.id, token, _COMPLETE, None)
    try:
        following = schedule.next(emission.scheduled_for)
    except ScheduleError as error:
        return bury(emission.record, error_text(str(error)) or "")
    return advance(emission.leased, schedule, following)


def nack(emission: Emission, error: str | None, delay: timedelta | None, retry: Retry, now_us: int) -> Settlement:
    """Return the write of a nack: the same occurrence comes back after ``delay``, by ``retry``, or when its lease runs out.

    At the last attempt that ``retry`` allows, the occurrence is given up: see :func:`pitstop._decisions._emit.give_up`.
    """
    progress, retry = emission.record.progress, emission.retry_over(retry)
    # Uncertain attempts do not count: another message may have killed the worker before a handler had this one.
    attempts = certain(progress)
    if retry.max_attempts is not None and attempts >= retry.max_attempts:
        counted = attrs.evolve(progress, attempts=attempts, unsettled=0, ahead=0, excused=0)
        dying = emission.with_record(attrs.evolve(emission.record, progress=counted))
        return give_up(dying, error or f"Given up after {attempts_text(attempts)}.")
    if delay is None and retry.delay is not None:
        delay = backoff(retry, attempts, f"{emission.record.id}:{emission.scheduled_for}")
    due = progress.due if delay is None else instant_of(delay, now_us, "delay")
    assert due is not None, "the due of a leased record is the end of its lease"
    return _release(emission.record, due, number(progress), error or progress.last_error)


def backoff(retry: Retry, attempt: int, key: str) -> timedelta:
    """Return the delay after the n-th attempt. Its jitter is a hash of ``key`` and the attempt: spread, yet repeatable."""
    assert retry.delay is not None
    if not retry.delay:
        return retry.delay
    try:
        delay = min(retry.delay * retry.factor ** (attempt - 1), retry.max_delay)
    except OverflowError:
        delay = retry.max_delay
    # Surrogates pass, so that the nack of any id can be written.
    spread = zlib.crc32(f"{key}:{attempt}".encode("utf-8", "surrogatepass")) / 0xFFFFFFFF * 2 - 1
    return delay * (1 + retry.jitter * spread)


def release(record: Record, now: int, duration: int) -> Settlement:
    """Return the write that gives back a message that no handler saw: due again, as if this claim had not happened.

    :param duration: the milliseconds for which the claim leased the record.
    """
    progress = record.progress
    assert progress.due is not None, "the due of a leased record is the end of its lease"
    assert progress.first_leased is not None, "a leased record has the time of its first lease"
    if progress.attempts > 1 or progress.first_leased < progress.due - duration:
        # The message was emitted before this claim, perhaps before a redrive. The occurrence chosen then stays, and so does
        # the uncertainty about earlier leases.
        before = attrs.evolve(progress, attempts=progress.attempts - 1, unsettled=max(progress.unsettled - 1, 0))
        return _released(record, now, before)
    due = min(progress.scheduled_for, now)
    unseen = Progress(due, progress.scheduled_for, last_error=progress.last_error)
    return settlement(record, Outcome.RELEASE, unseen)


def hand_back(record: Record, now: int) -> Settlement:
    """Return the write for a message whose handler was interrupted by no fault of the message: it is due again now.

    The next attempt has the next number, because this one may have had its effect. But this one is not held against the
    message: the end of a program must not bury a message.
    """
    progress = attrs.evolve(record.progress, excused=record.progress.excused + 1)
    return _release(attrs.evolve(record, progress=progress), now, number(progress), progress.last_error)


def extend(record: Record, until: int) -> Settlement:
    """Return the write that extends a lease to ``until``.

    A handler has the message, so that the present attempt is written as a certain one.
    """
    return settlement(record, Outcome.EXTEND, attrs.evolve(record.progress, due=until))


def defer(emission: Emission, until: int) -> Settlement:
    """Return the write for a suspect that has to wait in the listener: a lease to ``until`` that counts no attempt.

    :func:`extend` counts the attempt when a handler gets the message.
    """
    progress = emission.record.progress
    before = max(progress.attempts - 1, 0), max(progress.unsettled - 1, 0)
    waiting = attrs.evolve(progress, due=until, attempts=before[0], unsettled=before[1])
    return settlement(emission.record, Outcome.EXTEND, waiting)


def redrive(dead: Record, now: int) -> Settlement:
    """Return the write that makes a dead record due now, with no attempts counted. Its occurrence stays the one that failed."""
    return _released(dead, now, attrs.evolve(dead.progress, attempts=0, unsettled=0, ahead=0, excused=0))


def error_text(error: BaseException | str | None) -> str | None:
    """Return an error as it is kept with the message: type and text of an exception, cut to a bounded length."""
    if error is None:
        return None
    name = type(error).__name__
    try:
        # A plain str is needed: __str__ may return a subclass with methods of its own.
        text = str.__str__(str(error))
    except KeyboardInterrupt:
        raise
    except BaseException as raised:  # noqa: BLE001 - a foreign __str__ may raise anything; the failure is still noted
        text = f"{name}: (its text is unavailable: {type(raised).__name__})"
    else:
        text = f"{name}: {text}" if isinstance(error, BaseException) else text
    # One character more than is kept, so that the cut is noticed below. Encoding a very long text whole would take long.
    text = text[: MAX_ERROR_LENGTH + 1]
    # Some stores cannot keep lone surrogates and NUL in a text.
    text = text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    return text if len(text) <= MAX_ERROR_LENGTH else text[: MAX_ERROR_LENGTH - 1] + "…"


def checked_delay(delay: object) -> timedelta | None:
    """Return the delay that the user gave to a nack, as a plain ``timedelta``.

    :raises pitstop.ScheduleError: if the delay is negative, unreadable, or neither a ``timedelta`` nor text such as ``"15m"``.
    """
    return None if delay is None else span_of(delay, "delay")


def checked_extension(duration: object) -> timedelta:
    """Return the duration that the user gave to ``extend``, as a plain ``timedelta``.

    :raises pitstop.ScheduleError: if it is shorter than a millisecond, unreadable, or neither a ``timedelta`` nor text such as
        ``"15m"``.
    """
    return span_of(duration, "duration", least=_SHORTEST)


def relock(emission: Emission, duration: int) -> Settlement | None:
    """Return the write that gives a message that was just claimed the length of lease that it asks for. None: it asks for none.

    The lease begins with the claim. No handler has the message yet. If the lease becomes shorter, the attempt is written as an
    uncertain one: the store may take longer than the lease to answer, and then no handler gets the message.

    :param duration: the milliseconds for which the claim leased the record.
    """
    policy, leased = emission.policy, emission.leased
    if policy is None or policy.lock_time is None or policy.lock_time == duration:
        return None
    assert leased.progress.due is not None, "the due of a leased record is the end of its lease"
    until = min(leased.progress.due - duration + policy.lock_time, LAST_INSTANT)
    uncertain = not emission.uncertain and policy.lock_time < duration
    ahead = leased.progress.ahead + uncertain
    return settlement(leased, Outcome.EXTEND, attrs.evolve(leased.progress, due=until, ahead=ahead))


def relocked(emission: Emission, write: Settlement) -> Emission:
    """Return the emission after the write of :func:`relock`."""
    progress = write.progress
    assert isinstance(progress, Progress), "an extension writes progress"
    uncertain = emission.uncertain or progress.ahead > emission.leased.progress.ahead
    leased = attrs.evolve(emission.leased, progress=progress)
    return attrs.evolve(emission, leased=leased, ahead=emission.ahead or uncertain, uncertain=uncertain)


def leave(record: Record, duration: int, *, ahead: bool) -> Settlement:
    """Return the write that gives back a message for a process with a later release: due again after a pause, as if not claimed.

    :param duration: the milliseconds for which the claim leased the record.
    :param ahead: whether the claim asked for several records.
    """
    assert record.progress.due is not None, "the due of a leased record is the end of its lease"
    now = record.progress.due - duration
    taken_record = attrs.evolve(record, progress=taken(record.progress, ahead=ahead))
    released = release(taken_record, now, duration).progress
    assert isinstance(released, Progress), "a release writes progress"
    return settlement(record, Outcome.RELEASE, attrs.evolve(released, due=min(now + LEFT_FOR, LAST_INSTANT)))


def lease_end(now_us: int, duration: timedelta) -> int:
    """Return the end of a lease of that duration that begins now."""
    return min(now_us // 1000 + duration // timedelta(milliseconds=1), LAST_INSTANT)


def was_applied(settlement: Settlement, leased: Record, stored: Record | Damaged | None) -> bool | None:
    """Whether a settlement whose reply got lost was applied, judged by the record that is stored now.

    :param leased: the record that was settled, under its lease.
    :param stored: the record that is stored now; None if there is none.
    :return: None if this cannot be decided: another consumer may have claimed the record since, or the message may have been
        stored anew, before the settlement or after it.
    """
    if settlement.progress is None:
        if stored is None:
            return True
        return False if isinstance(stored, Record) and stored.revision == leased.revision else None
    if not isinstance(stored, Record):
        return None
    progress, wanted = stored.progress, settlement.progress
    if settlement.outcome is Outcome.RELEASE and isinstance(wanted, Progress) and progress.token is None:
        # Each try decides anew when the record comes back.
        progress = attrs.evolve(progress, due=wanted.due)
    return True if progress == wanted else None


def _release(record: Record, due: int, attempts: int, last_error: str | None) -> Settlement:
    """Return the write for a message that a handler had, and that is due again."""
    progress = record.progress
    settled = attrs.evolve(
        progress, attempts=attempts, last_error=last_error, unsettled=0, ahead=0, excused=excused(progress)
    )
    return _released(record, due, settled)


def _released(record: Record, due: int, progress: Progress) -> Settlement:
    first = record.progress.first_leased
    # This keeps `due >= first_leased` when the clock that gave `now` was set back, or belongs to another server.
    due = due if first is None else max(due, first)
    return settlement(record, Outcome.RELEASE, attrs.evolve(progress, due=due, token=None))
