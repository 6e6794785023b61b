"""What a backend stores, and the one kind of change that it makes to it.

All times are instants: whole milliseconds since the epoch, as ``int``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeGuard

import attrs

from pitstop._values._entry import State
from pitstop._values._instant import LAST_INSTANT


__all__ = ["Aside", "Damaged", "Outcome", "Progress", "Record", "Settlement", "Tally", "read_record", "state_of"]


@attrs.frozen
class Progress:
    """The part of a record that leasing and settling change.

    Invariants: ``due >= first_leased`` (so the least time at which the occurrence was ever leased is the first one, and
    a store may keep it with a minimum); ``token`` is set while a lease runs, after it ran out, and in a dead record
    (it is what fences the redrive); a record is dead when ``due`` is None.
    """

    #: When the record may next be claimed: its time, or the end of the running lease. None: dead, never claimed.
    due: int | None
    #: The nominal time of the current occurrence.
    scheduled_for: int
    #: Claims of the current occurrence so far, less those that were given back.
    attempts: int = 0
    #: When the current occurrence was claimed first. None: not yet.
    first_leased: int | None = None
    #: What the last failure said.
    last_error: str | None = None
    #: The last claim's token.
    token: str | None = None
    #: Claims of the current occurrence since the last settlement. 2 or more under a lease: the lease before this one ended
    #: without a settlement, as after a crash.
    unsettled: int = 0
    #: How many of these claims asked for several records at once. The record may then have waited in a listener, so that
    #: the claim alone does not show that a handler saw the record.
    ahead: int = 0
    #: How many of the ``attempts`` are not held against the message. Written by settlements alone.
    excused: int = 0

    def leased(self, token: str, now: int, until: int, limit: int = 1) -> Progress:
        """Return the progress after a claim at ``now``. :meth:`Backend.lease` writes exactly these fields.

        :param limit: how many records the claim asked for. A single record goes to a handler at once. Of several records
            all but the first wait in the listener.
        """
        first = now if self.first_leased is None else self.first_leased
        ahead = self.ahead + (limit > 1)
        return Progress(
            until,
            self.scheduled_for,
            self.attempts + 1,
            first,
            self.last_error,
            token,
            self.unsettled + 1,
            ahead,
            self.excused,
        )


@attrs.frozen
class Record:
    """A stored message. All but ``progress`` is written by :meth:`Backend.put` alone."""

    id: str
    #: The message without its id, made of plain values: None, bool, int, float, str, bytes, UTC datetimes on whole
    #: milliseconds, lists, dicts. Not to be changed: whoever hands it out copies it, or makes it anew at each read.
    message: dict[str, Any] = attrs.field(repr=False)
    #: The recurrence with its bounds as plain values (None, int, str, lists and dicts with str keys); None: one-shot.
    #: A backend keeps it as it is and never looks inside. Not to be changed: records that are handed out may share it.
    series: Mapping[str, Any] | None
    #: New and globally unique at each store.
    revision: str
    progress: Progress


@attrs.frozen
class Damaged:
    """A stored document that cannot be read as a :class:`Record`, in place of one."""

    id: str
    #: What is wrong with it, for people. Without its values.
    error: str
    #: As in :class:`Progress`; None also when it is the ``due`` that is damaged. In a claim: when the backend has set the
    #: document aside at once, because there was no way to lease it.
    due: int | None
    token: str | None


def state_of(due: int | None, token: str | None, now: int) -> State:
    """The state of a record at ``now``. A lease that ran out leaves it due."""
    if due is None:
        return "dead"
    if due <= now:
        return "due"
    return "scheduled" if token is None else "leased"


_CHECKED = (
    "msg",
    "series",
    "revision",
    "due",
    "scheduled_for",
    "attempts",
    "first_leased",
    "last_error",
    "token",
    "unsettled",
    "ahead",
    "excused",
)


def read_record(
    *,
    id: str,
    message: object,
    series: object,
    revision: object,
    due: object,
    scheduled_for: object,
    attempts: object,
    first_leased: object,
    last_error: object,
    token: object,
    unsettled: object = None,
    ahead: object = None,
    excused: object = None,
) -> Record | Damaged:
    """Make a record of what was found in a store; if somebody damaged it, say what is wrong instead.

    Every backend reads through this, so that all are equally strict. Fields that a store leaves out are given as None. The
    counts ``unsettled``, ``ahead`` and ``excused`` are 0 then: older versions of Pitstop did not write them. An id
    that is not UTF-8 in the store is given with its wrong bytes as lone surrogates (``decode("utf-8", "surrogateescape")``):
    the record is damaged then, and the backend finds it again by that id.
    """
    # Claims read every record through this, so what is sound is known by one chain of plain comparisons. It may miss
    # what is sound and unusual, but not let anything else by.
    if unsettled is None:
        unsettled = 0
    if ahead is None:
        ahead = 0
    if excused is None:
        excused = 0
    if (
        type(message) is dict
        and (series is None or type(series) is dict)
        and type(revision) is str
        and type(due) is int
        and type(scheduled_for) is int
        and type(attempts) is int
        and (first_leased is None or (type(first_leased) is int and 0 <= first_leased <= LAST_INSTANT))
        and (last_error is None or type(last_error) is str)
        and (token is None or type(token) is str)
        and 0 <= due <= LAST_INSTANT
        and 0 <= scheduled_for <= LAST_INSTANT
        and attempts >= 0
        and type(unsettled) is int
        and unsettled >= 0
        and type(ahead) is int
        and ahead >= 0
        and type(excused) is int
        and excused >= 0
        and type(id) is str
        and id.isascii()
    ):
        progress = Progress(due, scheduled_for, attempts, first_leased, last_error, token, unsettled, ahead, excused)
        return Record(id, message, series, revision, progress)
    if not _is_text(id):
        # No caller could settle it, nor name it.
        error = "Damaged: the id is no valid text. Remove it with the tools of the store itself."
        return Damaged(id, error, due if _is_instant(due) else None, token if isinstance(token, str) else None)
    usable_due = due if _is_instant(due) else None
    usable_token = token if isinstance(token, str) else None
    sound = (
        isinstance(message, dict),
        series is None or isinstance(series, Mapping),
        isinstance(revision, str),
        due is None or usable_due is not None,
        _is_instant(scheduled_for),
        type(attempts) is int and attempts >= 0,
        first_leased is None or _is_instant(first_leased),
        last_error is None or isinstance(last_error, str),
        token is None or usable_token is not None,
        type(unsettled) is int and unsettled >= 0,
        type(ahead) is int and ahead >= 0,
        type(excused) is int and excused >= 0,
    )
    if not all(sound):
        wrong = [name for name, fine in zip(_CHECKED, sound, strict=True) if not fine]
        error = f"Damaged: {', '.join(wrong)} cannot be read. Store the message again, or remove it."
        return Damaged(id, error, usable_due, usable_token)
    progress = Progress(
        usable_due,
        scheduled_for,  # type: ignore[arg-type]
        attempts,  # type: ignore[arg-type]
        first_leased,  # type: ignore[arg-type]
        last_error,  # type: ignore[arg-type]
        usable_token,
        unsettled,  # type: ignore[arg-type]
        ahead,  # type: ignore[arg-type]
        excused,  # type: ignore[arg-type]
    )
    return Record(id, message, series, revision, progress)  # type: ignore[arg-type]


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_instant(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= LAST_INSTANT


class Outcome(Enum):
    """What a settlement means. A backend need not look at it: ``Settlement.progress`` says what to write."""

    COMPLETE = "complete"
    RESCHEDULE = "reschedule"
    RELEASE = "release"
    BURY = "bury"
    EXTEND = "extend"


@attrs.frozen
class Aside:
    """What is written to a document that cannot be read: no ``due``, and this error. All else stays as it was found,
    for somebody to look at and mend.
    """

    last_error: str


@attrs.frozen
class Settlement:
    """A fenced write: done if the record carries ``token`` and is leased or dead now, otherwise nothing at all."""

    id: str
    token: str
    outcome: Outcome
    #: The progress to write; None: delete the record.
    progress: Progress | Aside | None


@attrs.frozen
class Tally:
    """How many records are in which state, and the least ``due`` among the due ones (None: there is none)."""

    scheduled: int
    due: int
    leased: int
    dead: int
    oldest_due: int | None
