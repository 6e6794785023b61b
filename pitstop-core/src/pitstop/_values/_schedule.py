"""The schedule of a recurring message: a recurrence, its bounds, and the rule for missed occurrences."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Literal, get_args

import attrs

from pitstop._errors import ScheduleError
from pitstop._values._instant import LAST_INSTANT, end_of, instant_of, span_of_time
from pitstop._values._plain import shown, type_name
from pitstop._values._quoting import quoted
from pitstop._values._recurrence import Every, Recurrence, is_known, load_recurrence


__all__ = ["CatchUp", "Choice", "Schedule", "plan"]

#: The rule for occurrences that passed while no listener took them. ``latest``: emit the last of them, once. ``all``: emit
#: each, oldest first. ``skip``: emit the last one, unless it is older than the grace.
CatchUp = Literal["latest", "all", "skip"]

# Read once, because each claim of a recurring message reads a schedule.
_CATCH_UP = get_args(CatchUp)
#: The number of fields of the stored form.
_FIELDS = 5
#: The most stored forms that are remembered in decoded form, some hundred bytes each. A series is read at each occurrence.
_MOST_REMEMBERED = 1024


@attrs.frozen
class Choice:
    """The occurrence to emit, and how many earlier occurrences were skipped in its favour."""

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

    def next(self, instant: int) -> int | None:
        """Return the first occurrence later than ``instant``; None if there is none."""
        return self._bounded(self.recurrence.after(instant, self.start))

    def choose(self, pending: int, at: int) -> Choice | None:
        """Return the occurrence to emit at ``at``, if ``pending`` is the first occurrence that is not dealt with yet.

        Return None if every occurrence up to ``at`` is too old. The same arguments choose the same occurrence, so a
        retry finds the occurrence that the first emission chose.
        """
        if self.catch_up == "all":
            return Choice(pending, 0)
        until = at if self.end is None else min(at, self.end - 1)
        last = max(self.recurrence.latest(until, self.start), pending)
        if self.grace is not None and at - last > self.grace:
            return None
        return Choice(last, self.recurrence.count(pending, last, self.start))

    def to_plain(self) -> dict[str, Any]:
        """Return the stored form."""
        return {
            "start": self.start,
            "end": self.end,
            "every": self.recurrence.to_plain(),
            "catch_up": self.catch_up,
            "grace": self.grace,
        }

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> Schedule:
        """Return the schedule of a stored form.

        :raises ScheduleError: if it is malformed, or its recurrence has an unknown kind or version.
        """
        every = plain.get("every")
        if len(plain) == _FIELDS and type(every) is dict:
            try:
                fields = plain["start"], plain["end"], plain["catch_up"], plain["grace"]
                return _remembered(*fields, *every, *every.values())
            except (KeyError, TypeError):
                # The form is malformed, or its recurrence has fields that cannot be part of a key.
                pass
        return _read(plain)

    def _bounded(self, occurrence: int) -> int | None:
        return occurrence if occurrence < (LAST_INSTANT + 1 if self.end is None else self.end) else None


# Typed, because True equals 1 and is not an instant. Refused forms are not remembered.
@lru_cache(maxsize=_MOST_REMEMBERED, typed=True)
def _remembered(start: Any, end: Any, catch_up: Any, grace: Any, *every: Any) -> Schedule:
    """Return the schedule of a stored form; ``every`` is first the names of the recurrence's fields, then their values."""
    half = len(every) // 2
    recurrence = dict(zip(every[:half], every[half:], strict=True))
    return _read({"start": start, "end": end, "every": recurrence, "catch_up": catch_up, "grace": grace})


def _read(plain: Mapping[str, Any]) -> Schedule:
    fields = dict(plain)
    recurrence = load_recurrence(fields.pop("every", None))
    start, end, grace = fields.pop("start", None), fields.pop("end", None), fields.pop("grace", None)
    catch_up = fields.pop("catch_up", None)
    fine = (
        not fields
        and _is_instant(start)
        and (end is None or (_is_instant(end) and end > start))
        and (grace is None or (type(grace) is int and grace >= 0))
        and catch_up in _CATCH_UP
        and (catch_up == "skip") == (grace is not None)
    )
    if not fine:
        raise ScheduleError("The stored schedule is malformed. Store the message again, or remove it.")
    return Schedule(start, end, recurrence, catch_up, grace)


def plan(
    when: datetime | timedelta,
    end: datetime | timedelta | None,
    every: timedelta | Recurrence | None,
    catch_up: str,
    grace: timedelta | None,
    now_us: int,
) -> tuple[int, Schedule | None]:
    """Return the first instant of a call of ``store``, and the schedule if the message recurs.

    :param now_us: now, in microseconds, for times that are given as a distance.
    :raises ScheduleError: if the times make no sense; the text names the wrong one and the reason.
    """
    start = instant_of(when, now_us)
    if every is None:
        _refuse_without_every(end, catch_up, grace)
        return start, None
    recurrence = _recurrence(every)
    until = None if end is None else end_of(end, when, now_us)
    if until is not None and until <= start:
        raise ScheduleError(
            f"end={shown(end)} is not after the start {shown(when)}. A timedelta counts from now. The end is exclusive; None means never."
        )
    schedule = Schedule(start, until, recurrence, *_policy(catch_up, grace))
    first = schedule._bounded(recurrence.first(start))
    if first is None:
        raise ScheduleError(
            f"every={shown(every)} has no occurrence from {shown(when)} until {shown(end)}. Give a later end."
        )
    return first, schedule


def _is_instant(value: object) -> bool:
    return type(value) is int and 0 <= value <= LAST_INSTANT


def _refuse_without_every(end: object, catch_up: object, grace: object) -> None:
    if end is not None:
        raise ScheduleError(f"end={shown(end)} is given without every. Give every=timedelta(...), or leave end out.")
    if grace is not None or _word(catch_up) != "latest":
        raise ScheduleError(
            "catch_up and grace are for recurring messages. Give every=timedelta(...), or leave them out."
        )


def _recurrence(every: object) -> Recurrence:
    span = span_of_time(every, "every")
    if span is not None:
        return Every.of(span)
    if isinstance(every, Recurrence):
        if not is_known(every):
            raise ScheduleError(
                f"every={quoted(every)} is a recurrence of a kind that is not registered, so no listener could read it. "
                f"Give a timedelta, or a recurrence that comes with Pitstop."
            )
        return every
    raise ScheduleError(f"every={shown(every)} is a {type_name(every)}. Give a timedelta or a Recurrence.")


def _word(catch_up: object) -> str | None:
    """Return ``catch_up`` as plain text. An enum's member may be a ``str`` that compares by code of its own."""
    return str.__str__(catch_up) if isinstance(catch_up, str) else None


def _policy(catch_up: object, grace: object) -> tuple[CatchUp, int | None]:
    word = _word(catch_up)
    policy: CatchUp | None = next((each for each in _CATCH_UP if each == word), None)
    if policy is None:
        raise ScheduleError(f"catch_up={shown(catch_up)} is unknown. Give one of: {', '.join(_CATCH_UP)}.")
    if (policy == "skip") != (grace is not None):
        raise ScheduleError(
            f"catch_up={policy!r} with grace={shown(grace)}: 'skip' needs a grace, and only 'skip' has one. "
            f"The grace is the time by which an occurrence may be late and still be emitted."
        )
    if grace is None:
        return policy, None
    span = span_of_time(grace, "grace")
    if span is None or span < timedelta(0):
        raise ScheduleError(f"grace={shown(grace)} cannot be used. Give a timedelta of zero or more.")
    return policy, span // timedelta(milliseconds=1)
