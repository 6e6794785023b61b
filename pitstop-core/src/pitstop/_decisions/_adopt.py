"""Decide how a document that the Clojure library stored becomes a record.

A listener of that library emitted a message when ``ready`` and ``locked`` had both come. At each ack it moved ``ready``
forward by ``recur`` milliseconds, as long as the result was before ``expire``: the end is exclusive there, too. A one-shot
message has neither field. A series that never ends has an ``expire`` of null.
"""

from __future__ import annotations

import json

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import attrs

from pitstop._decisions._emit import schedule_of
from pitstop._decisions._settle import error_text
from pitstop._decisions._store import new_record
from pitstop._errors import MessageError, ScheduleError
from pitstop._values._id import valid_id
from pitstop._values._instant import LAST_INSTANT, floor_instant, from_instant
from pitstop.abc import Legacy, Progress, Record


__all__ = ["Adoption", "decide_adoption", "locked_until"]

_FIELDS = frozenset({"_id", "ready", "msg", "locked", "recur", "expire", "locked-by", "last-error"})
_MILLISECOND = timedelta(milliseconds=1)


@attrs.frozen
class Adoption:
    """The decision about one document."""

    legacy: Legacy
    #: The record that takes the document's place. None: the document is left as it is.
    record: Record | None
    #: Why the document is left.
    problem: str | None = None
    #: Remarks about the record, for people.
    notes: tuple[str, ...] = ()


def decide_adoption(legacy: Legacy, now_us: int, revision: str, *, locked: bool) -> Adoption:
    """Return the decision about a document: the record that replaces it, or why it is left.

    A series is anchored at ``ready`` and catches up with its latest occurrence. An overdue message is due at once, with its
    own time as ``scheduled_for``. Attempts begin anew; the last error is kept.

    :param locked: also adopt a document that is still locked. The record is then due when the lock ends.
    """
    if legacy.problem is not None:
        return Adoption(legacy, None, legacy.problem)
    if legacy.record is not None:
        return Adoption(legacy, legacy.record, notes=("an adoption that was cut short: this finishes it",))
    try:
        record = _record(legacy, now_us, revision, locked=locked)
    except (MessageError, ScheduleError) as error:
        return Adoption(legacy, None, str(error))
    return Adoption(legacy, record, notes=tuple(_notes(legacy, record, now_us // 1000)))


def locked_until(legacy: Legacy) -> int | None:
    """Return the instant at which the document's lock ends; None if it has no readable lock."""
    try:
        return _instant(legacy.fields, "locked")
    except ScheduleError:
        return None


def _record(legacy: Legacy, now_us: int, revision: str, *, locked: bool) -> Record:
    fields = legacy.fields
    unknown = sorted(set(fields) - _FIELDS)
    if unknown:
        raise MessageError(
            f"It has fields that the Clojure library does not write, and that would be lost: "
            f"{', '.join(f'{name!r:.80}' for name in unknown[:5])}{', …' if len(unknown) > 5 else ''}."
        )
    ready, end, lock = (_instant(fields, name) for name in ("ready", "expire", "locked"))
    if ready is None:
        raise ScheduleError("ready is missing, so the time at which the document is due is unknown.")
    every = _recur(fields.get("recur"))
    if end is not None and every is None:
        raise ScheduleError("It has an expire without a recur, which the Clojure library does not write.")
    if end is not None and end <= ready:
        raise ScheduleError(f"expire ({_text(end)}) is not after ready ({_text(ready)}), so it has no occurrence.")
    if lock is not None and lock > now_us // 1000 and not locked:
        raise ScheduleError(f"It is locked until {_text(lock)}: an old listener may be working on it.")
    message = _message(legacy)
    until = None if end is None else from_instant(end)
    record = new_record(message, from_instant(ready), until, every, now_us=now_us, revision=revision)
    first = record.progress.scheduled_for
    due = first if lock is None or lock <= now_us // 1000 else max(first, lock)
    return attrs.evolve(record, progress=Progress(due, first, last_error=_last_error(fields.get("last-error"))))


def _message(legacy: Legacy) -> dict[str, Any]:
    message = legacy.fields.get("msg")
    if not isinstance(message, Mapping):
        what = "missing" if message is None else f"a {type(message).__name__}, not a mapping"
        raise MessageError(f"msg is {what}.")
    own = message.get("id")
    # The Clojure library treats nil and false as "no id".
    if own is not None and own is not False and own != legacy.fields["_id"]:
        raise MessageError("msg['id'] is not the document's _id, and would be lost.")
    return {**message, "id": valid_id(legacy.id)}


def _instant(fields: Mapping[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise ScheduleError(f"{name} is a {type(value).__name__}, not a date of the years 1970 to 9999.")
    instant = floor_instant(value)
    if not 0 <= instant <= LAST_INSTANT:
        raise ScheduleError(f"{name} ({value.isoformat()}) is not in the years 1970 to 9999.")
    return instant


def _recur(value: object) -> timedelta | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ScheduleError(f"recur is a {type(value).__name__}, not a number of milliseconds.")
    try:
        every = int(value) * _MILLISECOND
    except (OverflowError, ValueError):  # an infinity, a NaN, or a longer time than a timedelta holds
        every = timedelta(0)
    if every <= timedelta(0) or int(value) != value:
        raise ScheduleError(f"recur={value!r} is not a positive whole number of milliseconds that can be waited for.")
    return every


def _last_error(value: object) -> str | None:
    # A nack of the Clojure library accepted any value. Most callers gave {"error": text}.
    if isinstance(value, Mapping) and len(value) == 1 and isinstance(value.get("error"), str):
        value = value["error"]
    if value is None or isinstance(value, str):
        return error_text(value)
    return error_text(json.dumps(value, ensure_ascii=False, default=_plain))


def _plain(value: object) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


def _notes(legacy: Legacy, record: Record, now: int) -> list[str]:
    notes = []
    if record.id != legacy.fields["_id"]:
        notes.append("its id becomes text")
    progress = record.progress
    assert progress.due is not None, "a new record is not dead"
    if progress.due > progress.scheduled_for:
        notes.append(f"locked: due when its lock ends, {_text(progress.due)}")
    elif progress.due <= now:
        notes.append(_overdue(record, now))
    return notes


def _overdue(record: Record, now: int) -> str:
    schedule, first = schedule_of(record), record.progress.scheduled_for
    choice = None if schedule is None else schedule.choose(first, now)
    if schedule is None or choice is None:
        return "its time is past: due at once"
    which = f"the last of {choice.missed + 1:,} occurrences" if choice.missed else "one occurrence"
    if schedule.next(choice.occurrence) is None:
        # The Clojure library deletes such a series unseen. It was never acknowledged, so it is emitted once more here.
        return f"its end is past: {which} comes at once, and no more"
    return f"its time is past: {which} comes at once"


def _text(instant: int) -> str:
    return from_instant(instant).isoformat(timespec="milliseconds").replace("+00:00", "Z")
