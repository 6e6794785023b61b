"""The schedule of a recurring message: a recurrence, its bounds, and the rule for missed occurrences."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any, Literal, cast, get_args
from zoneinfo import ZoneInfo

import attrs

from pitstop._errors import ConfigError, ScheduleError
from pitstop._recurrence._base import Recurrence, counted, following, last_until
from pitstop._recurrence._every import Every
from pitstop._recurrence._registry import is_known, load_recurrence
from pitstop._recurrence._stored_form import check_stored_form
from pitstop._values._duration import format_duration, parse_duration, read_duration
from pitstop._values._instant import LAST_INSTANT, end_of, instant_of, span_of_time
from pitstop._values._jitter import spread
from pitstop._values._left_behind import LEFT_BEHIND
from pitstop._values._plain import shown, type_name
from pitstop._values._quoting import quoted


__all__ = ["CatchUp", "Choice", "Interval", "Moment", "Schedule", "is_lasting", "moment_of", "plan", "span_of"]

#: A point in time; a distance from now; the text of a distance, such as ``"15m"``.
Moment = datetime | timedelta | str
#: The rule of a series: a recurrence; or an interval, also as text such as ``"1h"``.
Interval = timedelta | str | Recurrence

#: The rule for occurrences that passed while no listener took them. ``latest``: emit the last of them, once. ``all``: emit
#: each, oldest first, unless it is older than the grace, if there is one. ``skip``: emit the last one, unless it is older
#: than the grace.
CatchUp = Literal["latest", "all", "skip"]

# Read once, because each claim of a recurring message reads a schedule.
_CATCH_UP = get_args(CatchUp)
_LATEST = _CATCH_UP[0]
#: The number of fields of the stored form, without and with jitter.
_FIELDS = (5, 6)
#: The most stored forms that are remembered in decoded form, some hundred bytes each. A series is read at each occurrence.
_MOST_REMEMBERED = 1024
#: Types whose objects never change: as arguments of :func:`plan`, and as zones of datetimes.
_LASTING = frozenset({type(None), timedelta, str, Every})
_LASTING_ZONES = frozenset({timezone, ZoneInfo})
_NO_TIME = timedelta(0)
#: The number of distances between occurrences to which a jitter is compared. Most rules show their shortest one among them.
_MOST_COMPARED = 10


# Not frozen: each claim of a series makes one, and attrs takes several times as long to make a frozen object.
@attrs.define
class Choice:
    """The occurrence to emit, and how many earlier occurrences were skipped in its favour. It must not be changed."""

    occurrence: int
    missed: int


@attrs.frozen
class Schedule:
    """The times of a recurring message: the instants of ``recurrence`` in ``[start, end)``."""

    start: int
    #: Exclusive, as in ``range()``. None: the series never ends.
    end: int | None
    recurrence: Recurrence
    catch_up: CatchUp
    #: Milliseconds by which an occurrence may be late and still be emitted, with ``catch_up="skip"``.
    grace: int | None
    #: The most milliseconds by which an occurrence is delayed: see :func:`pitstop._values._jitter.spread`.
    jitter: int = 0

    _limit: int = attrs.field(init=False, eq=False, repr=False)

    @_limit.default
    def _limit_of_end(self) -> int:
        return LAST_INSTANT + 1 if self.end is None else self.end

    def first(self) -> int | None:
        """Return the first occurrence; None if there is none.

        :raises ScheduleError: if the rule is broken.
        """
        return self.next(self.start - 1)

    def next(self, instant: int) -> int | None:
        """Return the first occurrence later than ``instant``; None if there is none.

        :raises ScheduleError: if the rule is broken.
        """
        recurrence = self.recurrence
        occurrence: int | None
        if type(recurrence) is Every:
            # The usual kind, whose arithmetic needs no check.
            occurrence = recurrence.after(instant, self.start)
        else:
            occurrence = following(recurrence, instant, self.start)
        return occurrence if occurrence is not None and occurrence < self._limit else None

    def due(self, occurrence: int, id: str) -> int:
        """Return when an occurrence of a message comes: at its time, or later by the jitter."""
        return min(occurrence + spread(id, occurrence, self.jitter), LAST_INSTANT) if self.jitter else occurrence

    def choose(self, pending: int, at: int, id: str = "") -> Choice | None:
        """Return the occurrence to emit at ``at``, if ``pending`` is the first occurrence that is not dealt with yet.

        Return None if every occurrence up to ``at`` is too old. The same arguments choose the same occurrence, so a
        retry finds the occurrence that the first emission chose.

        :raises ScheduleError: if the rule is broken.
        """
        if self.catch_up == "all":
            occurrence = self._oldest(pending, at, id)
            is_due = occurrence == pending or (occurrence is not None and self.due(occurrence, id) <= at)
        else:
            occurrence = self._newest(pending, at, id)
            is_due = self.grace is None or at - self.due(occurrence, id) <= self.grace
        if occurrence is None or not is_due:
            return None
        missed = 0 if occurrence == pending else counted(self.recurrence, pending, occurrence, self.start)
        return Choice(occurrence, missed)

    def resume(self, pending: int, at: int, id: str = "") -> int | None:
        """Return the occurrence with which the series goes on if :meth:`choose` finds none; None if the series is over.

        An occurrence whose time has come, and whose jitter is not over, is among those that are still to come.

        :raises ScheduleError: if the rule is broken.
        """
        if self.catch_up == "all":
            return self._oldest(pending, at, id)
        return self.next(self._newest(pending, at, id))

    def to_plain(self) -> dict[str, Any]:
        """Return the stored form."""
        plain = {
            "start": self.start,
            "end": self.end,
            "every": self.recurrence.to_plain(),
            "catch_up": self.catch_up,
            "grace": self.grace,
        }
        if self.jitter:
            plain["jitter"] = self.jitter
        return plain

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> Schedule:
        """Return the schedule of a stored form.

        :raises ScheduleError: if it is malformed, or its recurrence has an unknown kind or version.
        """
        every, size = plain.get("every"), len(plain)
        if size in _FIELDS and type(every) is dict and type(kind := every.get("kind")) is str and "." not in kind:
            # A rule of another author has a dot in its kind. It may be changed after it was loaded, so it is not shared.
            try:
                jitter = _NO_JITTER if size == _FIELDS[0] else plain["jitter"]
                fields = plain["start"], plain["end"], plain["catch_up"], plain["grace"], jitter
                return _remembered(*fields, *every, *every.values())
            except (KeyError, TypeError):
                # The form is malformed, or its recurrence has fields that cannot be part of a key.
                pass
        return _read(plain)

    def _oldest(self, pending: int, at: int, id: str) -> int | None:
        """Return the oldest occurrence that is not too old. It may be one that has not come yet."""
        if self.grace is None:
            return pending
        occurrence: int | None = pending
        least = at - self.grace
        if self.due(pending, id) < least:
            occurrence = self.next(max(pending, least - self.jitter - 1))
        while occurrence is not None and self.due(occurrence, id) < least:
            occurrence = self.next(occurrence)
        return occurrence

    def _newest(self, pending: int, at: int, id: str) -> int:
        """Return the last occurrence that came by ``at``, its jitter included."""
        after = self.next(pending)
        if after is None or after > at:
            return pending
        last: int | None = min(at, self._limit - 1) + 1
        while last is not None and last > pending:
            last = last_until(self.recurrence, last - 1, self.start)
            if last is not None and last > pending and self.due(last, id) <= at:
                return last
        return pending


#: In place of a jitter that is not stored. None is a value that the stored form must not have.
_NO_JITTER: Any = object()


# Typed, because True equals 1 and is not an instant. Refused forms are not remembered.
@lru_cache(maxsize=_MOST_REMEMBERED, typed=True)
def _remembered(start: Any, end: Any, catch_up: Any, grace: Any, jitter: Any, *every: Any) -> Schedule:
    """Return the schedule of a stored form; ``every`` is first the names of the recurrence's fields, then their values."""
    half = len(every) // 2
    recurrence = dict(zip(every[:half], every[half:], strict=True))
    plain = {"start": start, "end": end, "every": recurrence, "catch_up": catch_up, "grace": grace}
    return _read(plain if jitter is _NO_JITTER else {**plain, "jitter": jitter})


def _read(plain: Mapping[str, Any]) -> Schedule:
    if plain.keys() == {LEFT_BEHIND}:
        raise ScheduleError(f"{plain[LEFT_BEHIND]}")
    fields = dict(plain)
    recurrence = load_recurrence(fields.pop("every", None))
    start, end, grace = fields.pop("start", None), fields.pop("end", None), fields.pop("grace", None)
    catch_up, jitter = fields.pop("catch_up", None), fields.pop("jitter", 0)
    fine = (
        not fields
        and _is_instant(start)
        and (end is None or (_is_instant(end) and end > start))
        and (grace is None or (type(grace) is int and grace >= 0))
        and catch_up in _CATCH_UP
        and _is_graceful(catch_up, grace)
        and type(jitter) is int
        and (jitter > 0 if "jitter" in plain else jitter == 0)
    )
    if not fine:
        raise ScheduleError("The stored schedule is malformed. Store the message again, or remove it.")
    return Schedule(start, end, recurrence, catch_up, grace, jitter)


def plan(
    when: Moment | None,
    end: Moment | None,
    every: Interval | None,
    catch_up: str | None,
    grace: timedelta | str | None,
    now_us: int,
    jitter: timedelta | str | None = None,
) -> tuple[int, Schedule | None]:
    """Return the first instant of a call of ``store``, and the schedule if the message recurs.

    :param catch_up: None: the default, as the entry of a one-shot message has it.
    :param now_us: now, in microseconds, for times that are given as a distance.
    :raises ScheduleError: if the times make no sense; the text names the wrong one and the reason.
    """
    catch_up = "latest" if catch_up is None else catch_up
    begin = _NO_TIME if when is None else moment_of(when, "when")
    start = instant_of(begin, now_us)
    if every is None:
        _refuse_without_every(end, catch_up, grace)
        return start, None
    recurrence = _recurrence(every)
    until = None if end is None else end_of(moment_of(end, "end"), begin, now_us)
    if until is not None and until <= start:
        raise ScheduleError(
            f"end={shown(end)} is not after the start {_start_text(when)}. A distance counts from now. The end is exclusive; "
            f"None means never."
        )
    longest = 0 if jitter is None else span_of(jitter, "jitter") // timedelta(milliseconds=1)
    schedule = Schedule(start, until, recurrence, *_policy(catch_up, grace), longest)
    first = schedule.first()
    if first is None:
        advice = "Give other times." if end is None else "Give a later end."
        bound = "" if end is None else f" until {shown(end)}"
        raise ScheduleError(f"every={_rule_text(every)} has no occurrence from {_start_text(when)}{bound}. {advice}")
    _refuse_overtaking(jitter, schedule, first)
    return first, schedule


def is_lasting(value: object) -> bool:
    """Whether an argument of :func:`plan` means the same each time: an object of Python's or Pitstop's own that never changes."""
    return type(value) in _LASTING or (type(value) is datetime and type(value.tzinfo) in _LASTING_ZONES)


def span_of(value: object, field: str, *, least: timedelta = timedelta(0)) -> timedelta:
    """Return a ``timedelta`` of at least ``least`` that was given as one, or as text such as ``"15m"``.

    :raises ScheduleError: if it is neither, or shorter.
    """
    span = span_of_time(value, field)
    if span is None and (text := _text(value)) is not None:
        span = read_duration(text)
    if span is None or span < least:
        bound = f"at least {format_duration(least)}" if least else "zero or more"
        raise ScheduleError(
            f"{field}={shown(value)} cannot be used. Give a timedelta of {bound}, or text such as '15m'."
        )
    return span


def moment_of(value: Moment, field: str) -> datetime | timedelta:
    """Return a time that was given, with text read as a distance from now."""
    if type(value) is timedelta or type(value) is datetime:
        return value
    text = _text(value)
    return cast("datetime | timedelta", value) if text is None else _distance(text, field)


def _text(value: object) -> str | None:
    """Return ``value`` as plain text; None if it is no text. An object may pretend to have another type, or raise if asked."""
    return str.__str__(cast("str", value)) if issubclass(type(value), str) else None


def _distance(text: str, field: str) -> timedelta:
    try:
        return parse_duration(text, field)
    except ConfigError:
        raise ScheduleError(
            f"{field}={shown(text)} is no distance from now. Give text such as '15m' or '1h30m', a timedelta, or an aware datetime."
        ) from None


def _start_text(when: object) -> str:
    return "now" if when is None else shown(when)


def _rule_text(every: object) -> str:
    return quoted(every) if isinstance(every, Recurrence) else shown(every)


def _refuse_overtaking(jitter: object, schedule: Schedule, first: int) -> None:
    """Refuse a jitter that lets an occurrence come after the next one, which would then take its place."""
    if not schedule.jitter:
        return
    occurrence = first
    for _ in range(_MOST_COMPARED):
        following = schedule.next(occurrence)
        if following is None:
            return
        if following - occurrence <= schedule.jitter:
            distance = format_duration(timedelta(milliseconds=following - occurrence))
            raise ScheduleError(
                f"jitter={shown(jitter)} is not shorter than the {distance} between two occurrences, so they would overtake each "
                f"other. Give a shorter one."
            )
        occurrence = following


def _is_graceful(catch_up: object, grace: object) -> bool:
    """Whether a rule for missed occurrences goes with a grace: ``skip`` needs one, and ``all`` may have one."""
    return grace is not None if catch_up == "skip" else grace is None or catch_up == "all"


def _is_instant(value: object) -> bool:
    return type(value) is int and 0 <= value <= LAST_INSTANT


def _refuse_without_every(end: object, catch_up: object, grace: object) -> None:
    if end is None and grace is None and catch_up is _LATEST:
        # The usual arguments cost a store nothing.
        return
    if end is not None:
        raise ScheduleError(f"end={shown(end)} is given without every. Give every=timedelta(...), or leave end out.")
    if grace is not None or _word(catch_up) != "latest":
        raise ScheduleError(
            "catch_up and grace are for recurring messages. Give every=timedelta(...), or leave them out."
        )


def _recurrence(every: object) -> Recurrence:
    span = span_of_time(every, "every")
    if span is not None:
        if getattr(every, "months", 0) or getattr(every, "years", 0):
            # The Duration of pendulum is a timedelta that counts 30 days for a month.
            raise ScheduleError(
                f"every={shown(every)} has months or years, whose length varies. Give Calendar(months=1)."
            )
        return Every(span)
    text = _text(every)
    if text is not None:
        return Every(text)
    if issubclass(type(every), Recurrence):
        every = cast("Recurrence", every)
        if not is_known(every):
            raise ScheduleError(
                f"every={quoted(every)} is a recurrence of a kind that is not registered, so no listener could read it. "
                f"Register its class under the entry-point group 'pitstop.recurrences', or by pitstop.register_recurrence()."
            )
        check_stored_form(every)
        return every
    raise ScheduleError(
        f"every={shown(every)} is a {type_name(every)}. Give a timedelta, text such as '1h', or a rule such as Cron(...) or Calendar(months=1)."
    )


def _word(catch_up: object) -> str | None:
    """Return ``catch_up`` as plain text. An enum's member may be a ``str`` that compares by code of its own."""
    return str.__str__(catch_up) if isinstance(catch_up, str) else None


def _policy(catch_up: object, grace: object) -> tuple[CatchUp, int | None]:
    word = _word(catch_up)
    policy: CatchUp | None = next((each for each in _CATCH_UP if each == word), None)
    if policy is None:
        raise ScheduleError(f"catch_up={shown(catch_up)} is unknown. Give one of: {', '.join(_CATCH_UP)}.")
    if not _is_graceful(policy, grace):
        raise ScheduleError(
            f"catch_up={policy!r} with grace={shown(grace)}: 'skip' needs a grace, 'all' may have one, and 'latest' has none. "
            f"The grace is the time by which an occurrence may be late and still be emitted."
        )
    return policy, None if grace is None else span_of(grace, "grace") // timedelta(milliseconds=1)
