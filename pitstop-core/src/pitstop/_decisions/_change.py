"""Decide the change that a store makes to the message that exists."""

from __future__ import annotations

from datetime import datetime
from typing import get_args

import attrs

from pitstop._decisions._describe import describe
from pitstop._decisions._emit import occurrence_of, schedule_of
from pitstop._decisions._pause import keep_pause, with_pause
from pitstop._decisions._policy import check_jitter, has_policies, with_moved
from pitstop._decisions._revision import revision_of
from pitstop._errors import Conflict, MessageError, PitstopError, ScheduleError
from pitstop._recurrence._registry import load_recurrence
from pitstop._values._arguments import flag
from pitstop._values._instant import from_instant, span_of_time
from pitstop._values._quoting import quoted
from pitstop._values._schedule import Moment
from pitstop._values._stored import Done, IfExists
from pitstop.abc import PAUSED, Damaged, Progress, Record, dump_message, state_of


__all__ = ["Change", "Terms", "Wanted", "change", "refuse_new_id"]

#: The parts of a series that are always compared, beside its rule. Those that are not stored have no value.
_COMPARED = ("catch_up", "grace", "jitter")


@attrs.frozen
class Terms:
    """The treatment of a stored message with the id."""

    if_exists: IfExists = "replace"
    #: Whether the times, the attempts and the error of that message stay.
    keep_schedule: bool = False
    #: The revision of the entry from which the new message was made: see :func:`revision_of`. None: any.
    if_revision: str | None = None

    @staticmethod
    def of(if_exists: object, keep_schedule: object, if_revision: object = None) -> Terms:
        """Check the arguments of ``store``.

        :raises PitstopError: if one of them cannot be used.
        :raises ScheduleError: if they contradict each other.
        """
        if type(if_exists) is str and if_exists == "replace" and keep_schedule is False and if_revision is None:
            # The usual terms cost a store nothing.
            return _USUAL
        word = str.__str__(if_exists) if isinstance(if_exists, str) else None
        known: IfExists | None = next((each for each in get_args(IfExists) if each == word), None)
        if known is None:
            raise PitstopError(
                f"if_exists={quoted(if_exists)} is unknown. Give one of: {', '.join(get_args(IfExists))}."
            )
        terms = Terms(known, flag(keep_schedule, "keep_schedule", error=PitstopError), _revision(if_revision))
        if terms.keep_schedule and known == "error":
            raise ScheduleError(
                "keep_schedule=True changes the message that exists, and if_exists='error' refuses to change it. Give one."
            )
        if terms.if_revision is not None and known != "replace":
            raise ScheduleError(
                f"if_revision replaces the message that was read, and if_exists={known!r} leaves a message that exists. Give one."
            )
        return terms

    @property
    def look(self) -> bool:
        """Whether the message that exists matters."""
        return self.keep_schedule or self.if_revision is not None or self.if_exists != "replace"


_USUAL = Terms()


@attrs.frozen
class Wanted:
    """A new record, and how its times were given."""

    record: Record
    #: Whether the start is a point in time. If it is a distance from now, each call of ``store`` computes another start.
    fixed_start: bool
    #: The same of the end.
    fixed_end: bool

    @classmethod
    def of(cls, record: Record, when: Moment | None, end: Moment | None = None) -> Wanted:
        """Return the wanted record of a call of ``store`` with these times, which were checked."""
        return cls(record, _is_fixed(when), _is_fixed(end))


@attrs.frozen
class Change:
    """A write that depends on the record that exists."""

    outcome: Done
    #: The record to store. None: nothing is written.
    record: Record | None = None
    #: The expected record: see :meth:`pitstop.abc.Backend.put_if`.
    revision: str | None = None
    progress: Progress | None = None

    @property
    def keeps_lease(self) -> bool:
        """Whether a delivery of the record that exists can still be settled."""
        return self.record is not None and self.record.progress == self.progress


def refuse_new_id(_now_us: int) -> str:
    """Refuse to make an id for a message that is stored with ``if_revision``.

    :raises MessageError: always.
    """
    raise MessageError(
        "The message has no 'id', so if_revision names no message. Give the id of the entry that was read."
    )


def change(
    present: Record | Damaged | None, wanted: Wanted, terms: Terms, now: int, *, holder: str | None = None
) -> Change:
    """Return what a store does, from the record that exists.

    :param holder: the token under which the calling handler has the message, if it has. It may end its own lease.
    :raises Conflict: if the record must not exist, or is not in the state in which it was read.
    :raises MessageError: if the record that exists cannot be read, so that its schedule is not known.
    :raises ScheduleError: if a series that goes on has no occurrence left, or ``expires`` is not longer than its jitter.
    """
    record = wanted.record
    if terms.if_revision is not None:
        return _edit(present, wanted, terms, now, holder)
    if present is None:
        return Change("created", record)
    if terms.if_exists == "error":
        raise Conflict(
            f"The message {record.id!r} exists already: {_condition(present, now)}. Choose another id, remove that message, or "
            f"store with if_exists='keep' or 'replace'.",
            id=record.id,
        )
    if isinstance(present, Damaged):
        raise MessageError(
            f"The schedule of {record.id!r} cannot be kept. {present.error} Storing needs if_exists='replace' without keep_schedule."
        )
    if terms.if_exists == "keep" and not (_has_schedule(present, wanted) and _has_label(present, record)):
        return Change("replaced", record, present.revision)
    return _with_body(present, record, now) if terms.keep_schedule else Change("kept")


def _edit(present: Record | Damaged | None, wanted: Wanted, terms: Terms, now: int, holder: str | None) -> Change:
    """Return the change to a record that was read before, unless the change may repeat an emission."""
    record = wanted.record
    if present is None:
        raise Conflict(
            f"The message {record.id!r} was not stored, because it is gone: it was acknowledged or removed since it was read. "
            f"To emit it again, store it without if_revision.",
            id=record.id,
        )
    if isinstance(present, Damaged):
        raise MessageError(
            f"The message {record.id!r} cannot be stored with if_revision. {present.error} Store it without if_revision."
        )
    if revision_of(present) != terms.if_revision:
        raise Conflict(
            f"The message {record.id!r} was not stored, because it has changed since it was read: {_condition(present, now)}. "
            f"Read it again with get(), and decide anew.",
            id=record.id,
        )
    edited = _with_body(present, record, now) if terms.keep_schedule else _going_on(present, wanted, now)
    progress = present.progress
    held = state_of(progress.due, progress.token, now) == "leased"
    ends = edited.record is not None and edited.record.progress.token != progress.token
    if held and ends and progress.token != holder:
        raise Conflict(
            f"The message {record.id!r} was not stored, because {_condition(present, now)}: its handler may be done at any "
            f"moment, and the message would be emitted again. Try again later, or store it without if_revision.",
            id=record.id,
        )
    return edited


def _with_body(present: Record, record: Record, now: int) -> Change:
    """Return the change of all but the times: the body, the kind and the policies.

    :raises ScheduleError: if the new policies do not go with the schedule.
    """
    if _has_label(present, record) and dump_message(present.message) == dump_message(record.message):
        return Change("kept")
    if present.series is not None:
        check_jitter(record.policy, present.series.get("jitter"))
    progress = _progress(present, now)
    policy = with_pause(with_moved(record.policy, present.policy), present.policy)
    updated = Record(record.id, record.message, present.series, record.revision, progress, record.kind, policy)
    return Change("updated", updated, present.revision, present.progress)


def _has_label(present: Record, record: Record) -> bool:
    return present.kind == record.kind and has_policies(present.policy, record.policy)


def _going_on(present: Record, wanted: Wanted, now: int) -> Change:
    """Return the change to a new message and schedule.

    A series with the start that it had goes on with its current occurrence. Its earlier ones were emitted, or skipped. A pause
    stays: an edit must not emit a message.
    """
    record = wanted.record
    if (
        wanted.fixed_start
        and record.series is not None
        and present.series is not None
        and present.series.get("start") == record.series["start"]
    ):
        schedule = schedule_of(record)
        assert schedule is not None, "it has a series"
        current = _current(present)
        pending = schedule.next(current - 1)
        if pending is None:
            raise ScheduleError(
                f"The series of {record.id!r} goes on with its occurrence at {_iso(from_instant(current))}, and the new schedule has "
                f"none from there on. Give a later end, or another start."
            )
        # A person may have moved this occurrence, so that `expires` counts from another time.
        same = pending == present.progress.scheduled_for
        policy = with_moved(record.policy, present.policy) if same else record.policy
        record = attrs.evolve(record, progress=Progress(schedule.due(pending, record.id), pending), policy=policy)
    return Change("replaced", keep_pause(record, present, now), present.revision, present.progress)


def _current(present: Record) -> int:
    try:
        schedule = schedule_of(present)
        return present.progress.scheduled_for if schedule is None else occurrence_of(present, schedule)
    except ScheduleError:
        # The stored rule is broken. The edit may be there to mend it.
        return present.progress.scheduled_for


def _progress(present: Record, now: int) -> Progress:
    """Return the progress of the record with a new body."""
    progress = present.progress
    if present.series is not None or progress.token in {None, PAUSED} or progress.due is None:
        # The ack of a series writes the next occurrence, which then has the new body.
        return progress
    if progress.due > now:
        # The ack of a one-shot message would delete the new body with the old one. So the lease ends, and the message comes again.
        return Progress(progress.scheduled_for, progress.scheduled_for)
    # The lease has run out. By the clock of the store it may still last for a moment.
    return attrs.evolve(progress, token=None)


def _has_schedule(present: Record, wanted: Wanted) -> bool:
    """Whether a record has the wanted schedule already."""
    stored, given = present.series, wanted.record.series
    if stored is None or given is None:
        same_time = present.progress.scheduled_for == wanted.record.progress.scheduled_for
        return stored is given and (same_time or not wanted.fixed_start)
    if any(stored.get(name) != given.get(name) for name in _COMPARED):
        return False
    if not _is_rule(stored.get("every"), given["every"]):
        return False
    if wanted.fixed_start and stored.get("start") != given["start"]:
        return False
    if given["end"] is not None and not wanted.fixed_end:
        return stored.get("end") is not None
    return bool(stored.get("end") == given["end"])


def _is_rule(stored: object, given: object) -> bool:
    """Whether two stored forms are of the same rule."""
    if stored == given:
        return True
    # A rule of another author may have several forms, as a set has that is written as a list.
    try:
        return bool(load_recurrence(stored) == load_recurrence(given))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - the code of the author may raise anything
        return False


def _condition(present: Record | Damaged, now: int) -> str:
    if isinstance(present, Damaged):
        return "it cannot be read"
    entry = describe(present, now)
    if entry.state == "paused":
        return "it is paused"
    if entry.due is None:
        return "it is dead"
    at = _iso(entry.due)
    state = state_of(present.progress.due, present.progress.token, now)
    return {"leased": f"it is leased until {at}", "due": f"it is due since {at}"}.get(state, f"it is due at {at}")


def _iso(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds").replace(".000", "").replace("+00:00", "Z")


def _revision(given: object) -> str | None:
    if given is None:
        return None
    if not isinstance(given, str):
        raise PitstopError(
            f"if_revision={quoted(given)} is no text. Give the revision of the entry that was read: entry.revision."
        )
    return str.__str__(given)


def _is_fixed(moment: Moment | None) -> bool:
    if moment is None or issubclass(type(moment), str):
        return False
    return span_of_time(moment, "when") is None
