"""Recurrence: the rule of a series, from which all its instants follow.

A recurrence is stored as a tagged, versioned dict of plain values, ``{"v": 1, "kind": "every", "ms": 3600000}``, so that new
kinds need no migration. The dict never names a class or a module: a renamed class would make stored messages unreadable.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, ClassVar, Self, TypeGuard

from pitstop._errors import ScheduleError
from pitstop._recurrence._counting import MOST_COUNTED, AtLeast
from pitstop._values._instant import LAST_INSTANT, from_instant, instant_of
from pitstop._values._plain import shown
from pitstop._values._quoting import quoted


__all__ = ["Recurrence", "asked", "counted", "following", "last_until"]

#: How many occurrences :meth:`Recurrence.latest` passes one by one before it bisects.
_STEPS = 8


class Recurrence(ABC):
    """A rule that gives the instants of a series that begins at ``start``.

    Pitstop's own rules are :class:`pitstop.Every`, :class:`pitstop.Calendar`, :class:`pitstop.Cron`,
    :class:`pitstop.RRule` and :class:`pitstop.Times`. A subclass adds a kind of its own. It defines :attr:`kind`,
    :meth:`after`, :meth:`dump` and :meth:`load`. It is registered under the entry-point group ``pitstop.recurrences``, or
    by :func:`pitstop.register_recurrence`.

    Instants are whole milliseconds since the epoch. All methods are functions of their arguments: the occurrences are
    the same in every process and at any time.
    """

    #: The tag of the stored form. A kind of another author has a dot in its name, as in ``"acme.tides"``.
    kind: ClassVar[str]
    #: The version of the stored form.
    version: ClassVar[int] = 1

    @abstractmethod
    def after(self, instant: int, start: int) -> int | None:
        """Return the first occurrence later than ``instant``; None if there is none.

        ``instant`` is at least ``start - 1``, so an occurrence at ``start`` itself is found.
        """

    @abstractmethod
    def dump(self) -> dict[str, Any]:
        """Return the fields of the stored form, without ``v`` and ``kind``: text, int, bool, None, and lists and dicts of these.

        Equal rules have equal fields in each process: sort a set. Otherwise define ``__eq__``, by which
        ``store(..., if_exists="keep")`` compares rules with different fields.
        """

    @classmethod
    @abstractmethod
    def load(cls, fields: Mapping[str, Any]) -> Self:
        """Return the recurrence whose fields :meth:`dump` returned.

        :raises pitstop.ScheduleError: if a field is missing, unknown or wrong.
        """

    def first(self, start: int) -> int | None:
        """Return the first occurrence, at ``start`` or after it; None if there is none."""
        return self.after(start - 1, start)

    def latest(self, instant: int, start: int) -> int | None:
        """Return the last occurrence that is not later than ``instant``; None if there is none.

        This default finds it with :meth:`after`: by some steps from an earlier occurrence, or by bisection. A kind that can
        compute it overrides this method.
        """
        found, step, earlier = None, 60_000, instant
        while found is None:
            if earlier < start:
                return None
            earlier = max(instant - step, start - 1)
            found = _between(self, earlier, instant, start)
            step *= 4
        # Few occurrences lie in the window, because a window of a quarter of its length has none.
        for _ in range(_STEPS):
            candidate = _between(self, found, instant, start)
            if candidate is None:
                return found
            found = candidate
        # Invariant: `found` is an occurrence, and none is later than `later` and not later than `instant`.
        later = instant
        while found < later:
            middle = (found + later) // 2
            candidate = _between(self, middle, instant, start)
            if candidate is None:
                later = middle
            else:
                found = candidate
        return found

    def count(self, since: int, until: int, start: int) -> int:
        """Return the number of occurrences later than ``since`` and not later than ``until``; both are occurrences.

        This default counts up to 1,000, and returns an :class:`pitstop.AtLeast` if there are more.
        """
        counted = 0
        while since < until:
            if counted == MOST_COUNTED:
                return AtLeast(counted)
            occurrence = self.after(since, start)
            if occurrence is None or occurrence > until or occurrence <= since:
                break
            since = occurrence
            counted += 1
        return counted

    def is_moved(self, occurrence: int, start: int) -> bool:
        """Whether an occurrence comes at another reading of the clock than its rule names, because the clock skips that one."""
        return False

    def to_plain(self) -> dict[str, Any]:
        """Return the stored form: a dict of plain values with its version and kind."""
        return {"v": self.version, "kind": self.kind, **self.dump()}

    def occurrences(self, start: datetime, end: datetime | None = None) -> Iterator[datetime]:
        """Yield the occurrences in ``[start, end)``, one after the other, as aware datetimes in UTC.

        :param start: where the series begins: an aware datetime.
        :param end: exclusive. None: the iterator ends with the series, perhaps never.
        :raises ScheduleError: if a bound cannot be used, or the rule is broken.
        """
        begins = _bound(start, "start")
        ends = LAST_INSTANT + 1 if end is None else _bound(end, "end")
        return self._iterate(begins, ends)

    def _iterate(self, start: int, end: int) -> Iterator[datetime]:
        occurrence = following(self, start - 1, start)
        while occurrence is not None and occurrence < end:
            yield from_instant(occurrence)
            occurrence = following(self, occurrence, start)


def following(recurrence: Recurrence, instant: int, start: int) -> int | None:
    """Return the first occurrence later than ``instant``, and not before ``start``; None if the series is over.

    Core computes each next occurrence by this function. A rule that raises, or returns a time that is not later, would otherwise
    emit one message again and again.

    :raises ScheduleError: if the rule raises or returns anything but a later instant.
    """
    after = max(instant, start - 1)
    found = asked(recurrence, instant, recurrence.after, after, start)
    if found is None:
        return None
    if not _is_int(found):
        raise _broken(recurrence, f"returned a {type(found).__name__} where an int is due", instant)
    if found <= after:
        raise _broken(recurrence, f"returned {_text_of(found)}, which is not later", instant)
    # An int of another type may be more than the stores take.
    return int(found) if found <= LAST_INSTANT else None


def last_until(recurrence: Recurrence, instant: int, start: int) -> int | None:
    """Return the last occurrence that is not later than ``instant``; None if there is none.

    :raises ScheduleError: if the rule raises or returns anything but an instant that is not later.
    """
    found = asked(recurrence, instant, recurrence.latest, instant, start)
    if found is None:
        return None
    if not _is_int(found) or found > instant:
        raise _broken(recurrence, f"returned {quoted(found)} as the latest occurrence", instant)
    return int(found)


def counted(recurrence: Recurrence, since: int, until: int, start: int) -> int:
    """Return the number of occurrences later than ``since`` and not later than ``until``; both are occurrences.

    :raises ScheduleError: if the rule raises or returns anything but a number.
    """
    found = asked(recurrence, since, recurrence.count, since, until, start)
    if not _is_int(found) or found < 0:
        raise _broken(recurrence, f"returned {quoted(found)} as the number of occurrences", since)
    return found


def asked(recurrence: Recurrence, instant: int, method: Callable[..., object], *arguments: int) -> object:
    """Call a method of a rule, which concerns the occurrence after ``instant``, and return its result.

    :raises ScheduleError: if the method raises.
    """
    try:
        return method(*arguments)
    except (ScheduleError, MemoryError):
        raise
    except Exception as error:
        raise _broken(recurrence, f"raised {type(error).__name__}: {error}", instant) from error


def _between(recurrence: Recurrence, earlier: int, instant: int, start: int) -> int | None:
    """Return the first occurrence later than ``earlier`` and not later than ``instant``; None if there is none."""
    found = following(recurrence, earlier, start)
    return found if found is not None and found <= instant else None


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _broken(recurrence: Recurrence, what: str, instant: int) -> ScheduleError:
    return ScheduleError(
        f"The recurrence of kind {quoted(recurrence.kind)} is broken: for the occurrence after {_text_of(instant)} it {what}. "
        f"Report this to its author. Then redrive the message, or store it again with another rule."
    )


def _text_of(instant: int) -> str:
    if -(10**13) < instant <= LAST_INSTANT:
        return from_instant(instant).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return str(instant) if abs(instant) < 10**30 else "an int beyond all dates"


def _bound(value: object, field: str) -> int:
    if not isinstance(value, datetime):
        raise ScheduleError(
            f"{field}={shown(value)} is a {type(value).__name__}. Give an aware datetime, such as datetime.now(UTC)."
        )
    return instant_of(value, 0, field)
