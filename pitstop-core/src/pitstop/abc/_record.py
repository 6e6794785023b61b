"""The records that a backend stores, and the one kind of change that it makes to them.

All times are instants: whole milliseconds since the epoch, as ``int``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeGuard

import attrs

from pitstop._values._entry import State
from pitstop._values._instant import LAST_INSTANT


__all__ = [
    "PAUSED",
    "Aside",
    "Damaged",
    "Outcome",
    "Progress",
    "Record",
    "Settlement",
    "Tally",
    "read_record",
    "state_of",
]


#: The token of a paused record. No claim makes it. ``due`` is None then, or the time at which a claim may take the record.
PAUSED = "paused"


@attrs.frozen
class Progress:
    """The part of a record that leasing and settling change.

    Invariants: ``due >= first_leased``. So the least time at which the occurrence was ever leased is the first one, and a
    store may keep it with a minimum. ``token`` is set while a lease runs, after the lease ran out, and in a dead record,
    where it fences the redrive. A record is dead if ``due`` is None and the token is not :data:`PAUSED`.
    """

    #: When the record may next be claimed: its time, or the end of the running lease. None: dead or paused, never claimed.
    due: int | None
    #: The nominal time of the current occurrence.
    scheduled_for: int
    #: Claims of the current occurrence so far, without those that were given back.
    attempts: int = 0
    #: When the current occurrence was first claimed. None: not yet.
    first_leased: int | None = None
    #: The text of the last failure. Core writes neither NUL nor a lone surrogate, because some stores cannot keep them.
    last_error: str | None = None
    #: The last claim's token, or :data:`PAUSED`.
    token: str | None = None
    #: Claims of the current occurrence since the last settlement. 2 or more under a lease: the previous lease ended without a
    #: settlement, as after a crash.
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
    #: milliseconds, lists, dicts. It must not be changed: a backend that returns a record copies it or makes it anew.
    message: dict[str, Any] = attrs.field(repr=False)
    #: The recurrence with its bounds as plain values (None, int, str, lists and dicts with str keys); None: one-shot. A
    #: backend keeps it as it is and never looks inside. It must not be changed: returned records may share it.
    series: Mapping[str, Any] | None
    #: New and globally unique at each store.
    revision: str
    progress: Progress
    #: The kind that the user gave the message, by which listeners choose: a short text, empty if none was given.
    kind: str = ""
    #: The policies of this message alone as plain values, with the rules of ``series``; None: it has none.
    policy: Mapping[str, Any] | None = None


@attrs.frozen
class Damaged:
    """Stands for a stored document that cannot be read as a :class:`Record`."""

    id: str
    #: The fault of the document, for people. The text holds none of its values.
    error: str
    #: As in :class:`Progress`. None also if ``due`` itself is damaged. In a claim, None means that the backend has set the
    #: document aside at once, because it could not be leased.
    due: int | None
    token: str | None
    #: The kind, if that can be read.
    kind: str | None = None


def state_of(due: int | None, token: str | None, now: int) -> State:
    """Return the state of a record at ``now``. A record whose lease ran out is due, and so is one whose pause has ended."""
    if due is None:
        return "paused" if token == PAUSED else "dead"
    if due <= now:
        return "due"
    if token is None:
        return "scheduled"
    return "paused" if token == PAUSED else "leased"


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
    "kind",
    "policy",
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
    kind: object = None,
    policy: object = None,
) -> Record | Damaged:
    """Return a record made of the values found in a store, or a ``Damaged`` that says what is wrong with them.

    Every backend reads through this function, so that all are equally strict. Fields that a store leaves out are given as
    None. The counts ``unsettled``, ``ahead`` and ``excused`` are 0 then, and ``kind`` is empty, because older releases did not
    write them. If the stored id is not valid UTF-8, its wrong bytes are given as lone surrogates
    (``decode("utf-8", "surrogateescape")``). The record is damaged then, and the backend finds it again by that id.
    """
    if unsettled is None:
        unsettled = 0
    if ahead is None:
        ahead = 0
    if excused is None:
        excused = 0
    if kind is None:
        kind = ""
    # Claims read every record here, so one chain of plain comparisons recognises a sound record. The chain may miss a sound
    # but unusual record. It never lets a damaged record pass.
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
        and type(kind) is str
        and (policy is None or type(policy) is dict)
        and type(id) is str
        and id.isascii()
    ):
        progress = Progress(due, scheduled_for, attempts, first_leased, last_error, token, unsettled, ahead, excused)
        return Record(id, message, series, revision, progress, kind, policy)
    if not _is_text(id):
        # No caller could settle or name such a record.
        error = "Damaged: the id is no valid text. Remove it with the tools of the store itself."
        usable = due if _is_instant(due) else None, token if isinstance(token, str) else None
        return Damaged(id, error, *usable, kind if isinstance(kind, str) else None)
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
        isinstance(kind, str),
        policy is None or isinstance(policy, Mapping),
    )
    if not all(sound):
        wrong = [name for name, fine in zip(_CHECKED, sound, strict=True) if not fine]
        error = f"Damaged: {', '.join(wrong)} cannot be read. Store the message again, or remove it."
        return Damaged(id, error, usable_due, usable_token, kind if isinstance(kind, str) else None)
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
    return Record(id, message, series, revision, progress, kind, policy)  # type: ignore[arg-type]


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_instant(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= LAST_INSTANT


class Outcome(Enum):
    """The meaning of a settlement. A backend can ignore it: ``Settlement.progress`` holds the values to write."""

    COMPLETE = "complete"
    RESCHEDULE = "reschedule"
    RELEASE = "release"
    BURY = "bury"
    EXTEND = "extend"
    #: The occurrence came too late to be emitted: the record is deleted, or goes to its next occurrence.
    EXPIRE = "expire"
    #: The record was claimed although it is paused: it is parked, as if the claim had not happened.
    PAUSE = "pause"


@attrs.frozen
class Aside:
    """The write to a document that cannot be read: no ``due``, and this error. All other fields stay as they were found, so
    that a person can inspect and mend them.
    """

    last_error: str


@attrs.frozen
class Settlement:
    """A fenced write: applied if the record carries ``token`` and is leased or dead now. Otherwise nothing is changed."""

    id: str
    token: str
    outcome: Outcome
    #: The progress to write; None: delete the record.
    progress: Progress | Aside | None


@attrs.frozen
class Tally:
    """The number of records in each state, and the least ``due`` among the due records (None: there is none)."""

    scheduled: int
    due: int
    leased: int
    dead: int
    oldest_due: int | None
    paused: int = 0
