"""What becomes of a document that the Clojure library stored.

Its listeners emitted a message when ``ready`` and ``locked`` had both come, and put ``ready`` forward by ``recur``
milliseconds at each ack, as long as that was before ``expire``: the end is exclusive there, too. A one-shot has neither;
a series that never ends has an ``expire`` of null.
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
from pitstop._values._instant import LAST_INSTANT, floor_instant, from_instant
from pitstop._values._message import valid_id
from pitstop.abc import Legacy, Progress, Record


__all__ = ["Adoption", "decide_adoption", "locked_until"]

_FIELDS = frozenset({"_id", "ready", "msg", "locked", "recur", "expire", "locked-by", "last-error"})
_MILLISECOND = timedelta(milliseconds=1)


@attrs.frozen
class Adoption:
    """What is to become of a document."""

    legacy: Legacy
    #: What to put in its place; None: it is left as it is.
    record: Record | None
    #: Why it is left.
    problem: str | None = None
    #: What is worth knowing about the record, for people.
    notes: tuple[str, ...] = ()


def decide_adoption(legacy: Legacy, now_us: int, revision: str, *, locked: bool) -> Adoption:
    """Decide what becomes of a document.

    A series is anchored at ``ready`` and catches up with the latest occurrence; what is overdue is due at once, with its
    own time as ``scheduled_for``. Attempts begin anew; the last error is kept.

    :param locked: adopt it also while it is locked; it is then due when its lock ends.
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
    """The instant at which its lock ends; None when it has none that can be read."""
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
        raise ScheduleError("ready is missing, so nobody knows when it is due.")
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
    # There, nil and false as an id mean the same as none.
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
    except (OverflowError, ValueError):  # an infinity, a NaN, or more than anybody waits
        every = timedelta(0)
    if every <= timedelta(0) or int(value) != value:
        raise ScheduleError(f"recur={value!r} is not a positive whole number of milliseconds that can be waited for.")
    return every


def _last_error(value: object) -> str | None:
    # Whoever nacked there could give any value, and mostly gave {"error": text}.
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
    assert progress.due is not None, "what was just made is not dead"
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
        # The Clojure library deletes it unseen. Nobody has acknowledged it, so here it is emitted once more.
        return f"its end is past: {which} comes at once, and no more"
    return f"its time is past: {which} comes at once"


def _text(instant: int) -> str:
    return from_instant(instant).isoformat(timespec="milliseconds").replace("+00:00", "Z")
