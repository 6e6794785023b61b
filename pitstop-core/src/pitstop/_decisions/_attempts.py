"""Count the attempts of a message, although a crash may have ended leases of messages that no handler saw.

A listener claims several messages at once, and each claim counts an attempt. If the process dies, the leases of all these
messages end without a settlement, although only a few of the messages were in a handler. Three counts stand beside the
attempts. ``Progress.unsettled`` shows whether the last lease ended without a settlement. ``Progress.ahead`` counts such leases
that may have been spent in the listener. ``Progress.excused`` counts attempts that are not held against the message.

A message whose last lease ended without a settlement is a *suspect*: it may have killed its worker. The attempt of a suspect is
written down as certain before a handler gets the message. So of all leases in a row without a settlement only the first is
uncertain. A later lease that was not written down as certain was spent in the listener.

All functions but :func:`taken` and :func:`emitted` expect the progress that :func:`taken` returns.
"""

from __future__ import annotations

import attrs

from pitstop.abc import Progress


__all__ = [
    "attempts_text",
    "certain",
    "emitted",
    "excused",
    "is_spent",
    "is_suspect",
    "must_be_alone",
    "number",
    "taken",
    "uncounted",
]


def taken(leased: Progress, *, ahead: bool) -> Progress:
    """Return the progress of a claimed record as it is when a handler gets the message: this attempt is certain.

    :param ahead: whether the claim counted the attempt as an uncertain one.
    """
    if not ahead or not leased.ahead:
        # A backend that is older than this count leaves it at 0.
        return leased
    # By position: this is made of each message of a claim, and `attrs.evolve` takes four times as long.
    return Progress(
        leased.due,
        leased.scheduled_for,
        leased.attempts,
        leased.first_leased,
        leased.last_error,
        leased.token,
        leased.unsettled,
        leased.ahead - 1,
        leased.excused,
    )


def emitted(stored: Progress) -> int:
    """Return how often the occurrence was emitted, as far as the store knows. An uncertain attempt counts."""
    return max(stored.attempts - max(stored.ahead - 1, 0), 0)


def number(progress: Progress) -> int:
    """Return the number of the present attempt: 1 only if no handler can have had this occurrence before."""
    return max(emitted(progress), 1)


def certain(progress: Progress) -> int:
    """Return how many attempts are held against the message, the present one included. They decide whether a failure is the last."""
    return max(number(progress) - excused(progress), 1)


def excused(progress: Progress) -> int:
    """Return how many attempts are not held against the message: no handler had it perhaps, or the program ended.

    They are never more than the attempts. Another program may have written a count that grows beyond the numbers of a store.
    """
    return min(progress.excused + _uncertain(progress), number(progress))


def is_suspect(progress: Progress) -> bool:
    """Whether the last lease ended without a settlement, so that the message may have killed its worker."""
    return progress.unsettled > 1


def is_spent(progress: Progress, max_attempts: int | None) -> bool:
    """Whether the message has used up its attempts before the present claim.

    The certain attempts decide. If one of them ended without a settlement, the uncertain attempt counts too: a message that
    kills its worker has ``max_attempts`` crashes, the first of which is uncertain. If no certain attempt ended in a crash, the
    message does not die of an uncertain one.
    """
    if max_attempts is None:
        return False
    before = certain(progress) - 1
    if _uncertain(progress) and _certain_crashes(progress):
        before += 1
    return before >= max_attempts


def must_be_alone(progress: Progress, max_attempts: int | None) -> bool:
    """Whether a suspect must be handled while no other suspect is.

    True if the message would die of one more crash, or was in a handler at one of two crashes in a row. Such a message must
    not lose attempts by the fault of another suspect. The other suspects may be handled together. After a loss of power there
    are many of them, and they should not take longer than before.
    """
    if max_attempts is None or not is_suspect(progress):
        return False
    last = certain(progress) + _uncertain(progress) >= max_attempts
    return last or (progress.unsettled > 2 and _certain_crashes(progress) > 0)


def uncounted(progress: Progress, max_attempts: int | None = None) -> Progress:
    """Return the progress without the present attempt, for a message that dies without being handed out."""
    attempts = number(progress) - 1
    if max_attempts is not None:
        attempts = min(attempts, max(certain(progress) - 1, max_attempts))
    return attrs.evolve(progress, attempts=attempts, unsettled=0, ahead=0, excused=0)


def attempts_text(count: int) -> str:
    """Return a number of attempts in words: ``1 attempt``, ``2 attempts``."""
    return f"{count} attempt{'' if count == 1 else 's'}"


def _uncertain(progress: Progress) -> int:
    """Return 1 if perhaps no handler had the message under one of the leases that ended without a settlement; else 0."""
    return min(progress.ahead, 1)


def _certain_crashes(progress: Progress) -> int:
    """Return how many leases in a row until now ended without a settlement, although a handler had the message."""
    return max(progress.unsettled - 1 - progress.ahead, 0)
