"""Explain why a message has not come: a decision from its entry, the paused kinds and the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from pitstop._errors import ScheduleError
from pitstop._recurrence._preview import Upcoming
from pitstop._values._duration import distance
from pitstop._values._entry import Entry
from pitstop._values._explanation import Explanation
from pitstop._values._instant import from_instant
from pitstop._values._seen import SeenConsumer
from pitstop.abc import Damaged, Record


__all__ = ["explain"]

#: How many occurrences are shown.
_SHOWN = 5


def explain(
    stored: Record | Damaged,
    entry: Entry,
    now: datetime,
    kinds: Mapping[str, datetime | None],
    skew: timedelta,
    seen: Sequence[SeenConsumer] | None,
) -> Explanation:
    """Return the explanation of a stored record.

    :param entry: the record as its user sees it.
    :param kinds: the paused kinds, with the ends of their pauses.
    :param skew: how far the clock of this machine is ahead.
    :param seen: the consumers that were seen lately. None: that is not known.
    """
    consumers = None if seen is None else tuple(each for each in seen if each.takes(entry.kind))
    handled_by = tuple(each for each in consumers or () if entry.state == "leased" and entry.id in each.handling)
    paused = entry.kind in kinds and entry.state in {"due", "scheduled"}
    end = kinds.get(entry.kind) if paused else None
    return Explanation(
        entry=entry,
        now=now,
        why=_why_kind_paused(entry, end) if paused else _why(entry, now, consumers, handled_by),
        since=_since(stored, entry),
        upcoming=_upcoming(entry),
        kind_paused=paused,
        kind_paused_until=end,
        consumers=consumers,
        handled_by=handled_by,
        clock_skew=skew,
    )


def _since(stored: Record | Damaged, entry: Entry) -> datetime | None:
    if entry.state == "due":
        return entry.due
    if entry.state == "leased" and isinstance(stored, Record) and stored.progress.attempts == 1:
        first = stored.progress.first_leased
        return None if first is None else from_instant(first)
    return None


def _upcoming(entry: Entry) -> tuple[Upcoming, ...]:
    try:
        return tuple(entry.upcoming(_SHOWN))
    except ScheduleError:
        return ()


def _why(
    entry: Entry, now: datetime, consumers: Sequence[SeenConsumer] | None, handled_by: Sequence[SeenConsumer]
) -> str:
    if entry.scheduled_for is None:
        return "It cannot be read, so it is not emitted. See the last error for what to do."
    if entry.state == "paused":
        return _why_paused(entry)
    if entry.state == "dead" or entry.due is None:
        return "It was set aside and is no longer emitted. See the last error; 'pitstop redrive' makes it due."
    when = distance(entry.due, now)
    if _is_too_late(entry, now):
        return f"It became due {when}, longer ago than its expires. The next claim deletes it, unless a person has moved it."
    if entry.state == "due":
        return _why_due(entry, when, consumers, now)
    if entry.state == "leased":
        who = f" of {_named(handled_by[0], now)}" if handled_by else ""
        return f"A listener{who} has it (attempt {entry.attempts}). It comes back {when} unless it is acknowledged."
    if entry.attempts:
        return f"It failed {'once' if entry.attempts == 1 else f'{entry.attempts} times'} and comes back {when}."
    return f"Its time comes {when}."


def _why_due(entry: Entry, when: str, consumers: Sequence[SeenConsumer] | None, now: datetime) -> str:
    which = f" that takes the kind {entry.kind!r}" if entry.kind else ""
    became, since = f"It became due {when}", ""
    if entry.attempts:
        became, since = f"It became due again {when}, after attempt {entry.attempts}", " since"
    told = f"{became}, and no listener has taken it{since}."
    if consumers is None:
        return f"{told} Is one running{which}, and is it keeping up?"
    if not consumers:
        return f"{told} No consumer{which} was seen lately. Start one, or look whether it runs."
    latest = max(consumers, key=lambda each: each.seen)
    if len(consumers) == 1:
        return f"{told} One consumer{which or ' that takes it'} was seen: {_named(latest, now)}. Is it keeping up?"
    took = which or " that take it"
    return f"{told} {len(consumers)} consumers{took.replace(' takes ', ' take ')} were seen, the last of them {_named(latest, now)}. Do they keep up?"


def _named(consumer: SeenConsumer, now: datetime) -> str:
    return f"{consumer.name} on {consumer.host} (pid {consumer.pid}, seen {distance(consumer.seen, now)})"


def _is_too_late(entry: Entry, now: datetime) -> bool:
    """Whether a one-shot message that is due is later than its ``expires``.

    A person may have moved it. Then ``expires`` counts from a time that the entry does not show.
    """
    if entry.expires is None or entry.scheduled_for is None or entry.due is None or entry.every is not None:
        return False
    return entry.state == "due" and now - entry.expires > max(entry.scheduled_for, entry.due)


def _why_kind_paused(entry: Entry, end: datetime | None) -> str:
    resume = f"'pitstop resume --kind {entry.kind}'" if entry.kind else "\"pitstop resume --kind ''\""
    until = resume if end is None else f"{_iso(end)}, or {resume}"
    return f"Its kind {entry.kind!r} is paused until {until}."


def _why_paused(entry: Entry) -> str:
    if entry.paused_until is None:
        return "It is paused, and is not emitted until 'pitstop resume'."
    return f"It is paused until {_iso(entry.paused_until)}, and is not emitted before that, or before 'pitstop resume'."


def _iso(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
