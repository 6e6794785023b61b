"""What an ack, a nack, an extension, a release or a redrive makes of a record."""

from __future__ import annotations

import zlib

from datetime import timedelta

import attrs

from pitstop._decisions._attempts import attempts_text, certain, excused, number
from pitstop._decisions._emit import Emission, advance, give_up, settlement
from pitstop._errors import ScheduleError
from pitstop._values._instant import LAST_INSTANT, instant_of, span_of_time
from pitstop._values._plain import shown
from pitstop.abc import Damaged, Outcome, Progress, Record, Retry, Settlement


__all__ = [
    "ack",
    "checked_delay",
    "defer",
    "error_text",
    "extend",
    "hand_back",
    "lease_end",
    "nack",
    "redrive",
    "release",
    "was_applied",
]

#: Characters of an error that are kept with a message.
MAX_ERROR_LENGTH = 2000


def ack(emission: Emission) -> Settlement:
    """Done: a one-shot is deleted, a series goes on from the occurrence that was emitted, or ends."""
    if emission.schedule is None:
        return settlement(emission.record, Outcome.COMPLETE, None)
    return advance(emission.record, emission.schedule.next(emission.scheduled_for))


def nack(emission: Emission, error: str | None, delay: timedelta | None, retry: Retry, now_us: int) -> Settlement:
    """Failed: the same occurrence comes back, after ``delay``, by ``retry``, or when its lease runs out.

    At the last attempt that ``retry`` allows it does not: see :func:`pitstop._decisions._emit.give_up`.
    """
    progress = emission.record.progress
    # Uncertain attempts do not count: another message may have killed the worker before a handler had this one.
    attempts = certain(progress)
    if retry.max_attempts is not None and attempts >= retry.max_attempts:
        counted = attrs.evolve(progress, attempts=attempts, unsettled=0, ahead=0, excused=0)
        dying = attrs.evolve(emission, record=attrs.evolve(emission.record, progress=counted))
        return give_up(dying, error or f"Given up after {attempts_text(attempts)}.")
    if delay is None and retry.delay is not None:
        delay = backoff(retry, attempts, f"{emission.record.id}:{emission.scheduled_for}")
    due = progress.due if delay is None else instant_of(delay, now_us, "delay")
    assert due is not None, "a leased record is due when its lease ends"
    return _release(emission.record, due, number(progress), error or progress.last_error)


def backoff(retry: Retry, attempt: int, key: str) -> timedelta:
    """The delay after the n-th attempt. The jitter is a hash of ``key`` and attempt: spread, yet repeatable."""
    assert retry.delay is not None
    if not retry.delay:
        return retry.delay
    try:
        delay = min(retry.delay * retry.factor ** (attempt - 1), retry.max_delay)
    except OverflowError:
        delay = retry.max_delay
    # Whatever an id holds, its nack can be written.
    spread = zlib.crc32(f"{key}:{attempt}".encode("utf-8", "surrogatepass")) / 0xFFFFFFFF * 2 - 1
    return delay * (1 + retry.jitter * spread)


def release(record: Record, now: int, duration: int) -> Settlement:
    """Nobody saw it: it is due again as if this claim, for ``duration`` milliseconds, had not been."""
    progress = record.progress
    assert progress.due is not None, "a leased record is due when its lease ends"
    assert progress.first_leased is not None, "a leased record was leased at some time"
    if progress.attempts > 1 or progress.first_leased < progress.due - duration:
        # It was emitted before this claim, perhaps before a redrive: the occurrence that was chosen then holds.
        # What the leases before left uncertain stays so.
        before = attrs.evolve(progress, attempts=progress.attempts - 1, unsettled=max(progress.unsettled - 1, 0))
        return _released(record, now, before)
    due = min(progress.scheduled_for, now)
    unseen = Progress(due, progress.scheduled_for, last_error=progress.last_error)
    return settlement(record, Outcome.RELEASE, unseen)


def hand_back(record: Record, retry: Retry, now: int) -> Settlement:
    """Its handler was interrupted, by no fault of the message: it is due again now.

    The attempt counts, for it may have had its effect; but the last one that ``retry`` allows does not: the end of a
    program is not to be a message's death.
    """
    attempts, counted = number(record.progress), certain(record.progress)
    if retry.max_attempts is not None:
        attempts -= max(counted - (retry.max_attempts - 1), 0)
    return _release(record, now, attempts, record.progress.last_error)


def extend(record: Record, until: int) -> Settlement:
    """The lease runs until ``until``. A handler has the message, so the present attempt is written as a certain one."""
    return settlement(record, Outcome.EXTEND, attrs.evolve(record.progress, due=until))


def defer(emission: Emission, until: int) -> Settlement:
    """The message waits in the listener until ``until``: its attempt is written as an uncertain one."""
    progress = emission.record.progress
    waiting = attrs.evolve(progress, due=until, ahead=progress.ahead + 1)
    return settlement(emission.record, Outcome.EXTEND, waiting)


def redrive(dead: Record, now: int) -> Settlement:
    """A dead record is due now, with all its attempts before it. Its occurrence stays the one that failed."""
    return _released(dead, now, attrs.evolve(dead.progress, attempts=0, unsettled=0, ahead=0, excused=0))


def error_text(error: BaseException | str | None) -> str | None:
    """An error as it is kept with the message: type and text of an exception, cut to a bounded length."""
    if error is None:
        return None
    name = type(error).__name__
    try:
        # A plain str of it: __str__ may return a subclass with methods of its own.
        text = str.__str__(str(error))
    except KeyboardInterrupt:
        raise
    except BaseException as raised:  # noqa: BLE001 - a foreign __str__ may raise anything; the failure is noted all the same
        text = f"{name}: (its text cannot be had: {type(raised).__name__})"
    else:
        text = f"{name}: {text}" if isinstance(error, BaseException) else text
    # One more than is kept, so that the cut is seen below. To encode all of a very long text would take as long.
    text = text[: MAX_ERROR_LENGTH + 1]
    # Lone surrogates and NUL are not text that every store can keep.
    text = text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    return text if len(text) <= MAX_ERROR_LENGTH else text[: MAX_ERROR_LENGTH - 1] + "…"


def checked_delay(delay: object) -> timedelta | None:
    """The delay of a nack as the user gave it, as a plain ``timedelta``.

    :raises pitstop.ScheduleError: when it is no ``timedelta``, negative, or cannot be read.
    """
    if delay is None:
        return None
    span = span_of_time(delay, "delay")
    if span is None or span < timedelta(0):
        raise ScheduleError(f"delay={shown(delay)} cannot be used. Give a timedelta of zero or more.")
    return span


def lease_end(now_us: int, duration: timedelta) -> int:
    """The end of a lease of that duration that begins now."""
    return min(now_us // 1000 + duration // timedelta(milliseconds=1), LAST_INSTANT)


def was_applied(settlement: Settlement, leased: Record, stored: Record | Damaged | None) -> bool | None:
    """Whether a settlement whose reply got lost was done, by what is stored since.

    None: it cannot be told. Somebody may have claimed what it left, or stored the message anew after it, or before.

    :param leased: what was settled, under its lease.
    """
    if settlement.progress is None:
        if stored is None:
            return True
        return False if isinstance(stored, Record) and stored.revision == leased.revision else None
    if not isinstance(stored, Record):
        return None
    progress, wanted = stored.progress, settlement.progress
    if settlement.outcome is Outcome.RELEASE and isinstance(wanted, Progress) and progress.token is None:
        # When it comes back was decided anew with each try.
        progress = attrs.evolve(progress, due=wanted.due)
    return True if progress == wanted else None


def _release(record: Record, due: int, attempts: int, last_error: str | None) -> Settlement:
    """A handler had the message: it is due again, as one whose last lease ended with a settlement."""
    progress = record.progress
    settled = attrs.evolve(
        progress, attempts=attempts, last_error=last_error, unsettled=0, ahead=0, excused=excused(progress)
    )
    return _released(record, due, settled)


def _released(record: Record, due: int, progress: Progress) -> Settlement:
    first = record.progress.first_leased
    # Keeps `due >= first_leased` when the clock that says now was set back, or is another server's.
    due = due if first is None else max(due, first)
    return settlement(record, Outcome.RELEASE, attrs.evolve(progress, due=due, token=None))
