"""The wall clock of a zone, and the one resolver of its readings: which instant a reading means.

A reading is a naive datetime. In spring the clock skips readings (a gap); in autumn it shows readings twice (a fold).
:meth:`Wall.instant` decides for all kinds of recurrence: a reading in a gap means the first instant after the gap, and a reading
in a fold means its first pass. A rule that follows the clock itself uses :meth:`Wall.passes` instead.
"""

from __future__ import annotations

import os

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import TYPE_CHECKING

from pitstop._errors import ScheduleError
from pitstop._values._plain import shown
from pitstop._values._quoting import quoted
from pitstop._values._suggestion import did_you_mean


if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

__all__ = ["Wall", "wall_of", "zone_name"]

_NAIVE_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - readings of a wall clock have no zone
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_ZERO = timedelta(0)
#: The zone of the host under its several names. A rule must mean the same on each machine.
_HOSTS_OWN = frozenset({"localtime", "local", "posixrules", "posix", "right"})
_LONGEST_NAME = 100


class Wall:
    """The wall clock of one zone."""

    __slots__ = ("name", "zone")

    def __init__(self, name: str, zone: tzinfo) -> None:
        self.name = name
        self.zone = zone

    def read(self, instant: int) -> datetime | None:
        """Return the reading at an instant, with ``fold=1`` in the second pass of a fold; None beyond the years 1 to 9999."""
        try:
            if self.zone is UTC:
                return _NAIVE_EPOCH + timedelta(milliseconds=instant)
            return (_EPOCH + timedelta(milliseconds=instant)).astimezone(self.zone).replace(tzinfo=None)
        except OverflowError:
            return None

    def instant(self, reading: datetime) -> int:
        """Return the instant that a reading means: the first pass in a fold, the first instant after a gap."""
        before, after = self._offsets(reading)
        if before < after:
            return self.transition(reading, before, after)
        return _instant(reading, before)

    def passes(self, reading: datetime) -> tuple[int, ...]:
        """Return the instants at which the clock shows a reading: two in a fold, none in a gap."""
        before, after = self._offsets(reading)
        if before == after:
            return (_instant(reading, before),)
        return () if before < after else (_instant(reading, before), _instant(reading, after))

    def is_skipped(self, reading: datetime) -> bool:
        """Whether a reading lies in a gap."""
        before, after = self._offsets(reading)
        return before < after

    def fold_around(self, reading: datetime) -> tuple[datetime, datetime] | None:
        """Return the readings ``[from, until)`` of the fold around a reading; None if the clock shows it only once."""
        before, after = self._offsets(reading)
        if before <= after:
            return None
        changed = self.transition(reading, before, after)
        return _reading(changed, after), _reading(changed, before)

    def gap_end(self, reading: datetime) -> datetime | None:
        """Return the first reading after the gap around a reading; None if the clock shows the reading."""
        before, after = self._offsets(reading)
        return None if before >= after else _reading(self.transition(reading, before, after), after)

    def transition(self, reading: datetime, before: timedelta, after: timedelta) -> int:
        """Return the instant at which the offset changes from ``before`` to ``after``, in whose gap or fold the reading is."""
        return _transition(self.zone, *sorted((_instant(reading, before), _instant(reading, after))), before)

    def _offsets(self, reading: datetime) -> tuple[timedelta, timedelta]:
        """Return the offsets of a reading before and after a change of the clock. They differ only in a gap or a fold."""
        zone = self.zone
        if zone is UTC:
            return _ZERO, _ZERO
        before = zone.utcoffset(reading.replace(tzinfo=zone, fold=0))
        after = zone.utcoffset(reading.replace(tzinfo=zone, fold=1))
        assert before is not None
        assert after is not None
        return before, after


@lru_cache(maxsize=1024)
def _transition(zone: tzinfo, low: int, high: int, before: timedelta) -> int:
    # Invariant: the offset is `before` until just before `low`, and another one at `high`.
    while low < high:
        middle = (low + high) // 2
        if (_EPOCH + timedelta(milliseconds=middle)).astimezone(zone).utcoffset() == before:
            low = middle + 1
        else:
            high = middle
    return low


def _instant(reading: datetime, offset: timedelta) -> int:
    # In this order, because the last hours of the year 9999 are in the year 10000 by UTC.
    return (reading - _NAIVE_EPOCH - offset) // _MILLISECOND


def _reading(instant: int, offset: timedelta) -> datetime:
    return _NAIVE_EPOCH + timedelta(milliseconds=instant) + offset


@lru_cache(maxsize=256)
def wall_of(name: str) -> Wall:
    """Return the wall clock of a zone.

    :raises ScheduleError: if this machine does not know the zone.
    """
    return Wall(name, UTC if name == "UTC" else _zone(name))


def zone_name(tz: object) -> str:
    """Return the name of a zone that a user gave: its name, a ``ZoneInfo``, or ``datetime.UTC``.

    :raises ScheduleError: if it is no named zone, or this machine does not know it.
    """
    if tz is UTC:
        return "UTC"
    name: object = tz if isinstance(tz, str) else getattr(tz, "key", None) if isinstance(tz, tzinfo) else None
    if not isinstance(name, str):
        if isinstance(tz, tzinfo):
            raise ScheduleError(
                f"tz={quoted(tz)} is a zone without a name, perhaps a fixed offset. Give the name of the zone, such as "
                f"'Europe/Berlin', so that its daylight saving time is followed."
            )
        raise ScheduleError(
            f"tz={shown(tz)} is a {type(tz).__name__}. Give the name of a zone, such as 'Europe/Berlin'."
        )
    name = str.__str__(name)
    wall_of(name)
    return name


def _zone(name: str) -> ZoneInfo:
    # The module reads files when it is imported, and most programs have intervals alone.
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - see above

    if name.partition("/")[0].lower() not in _HOSTS_OWN and 0 < len(name) <= _LONGEST_NAME:
        try:
            return ZoneInfo(name)
        except (ValueError, LookupError, OSError):
            # ZoneInfo raises many kinds of errors: for folders, for absolute paths, for files that are no zones.
            pass
    elif name.lower() in _HOSTS_OWN:
        raise ScheduleError(
            f"tz={quoted(name)} is the zone of each machine, so the rule would mean other times elsewhere. Give the name of "
            f"the zone, such as 'Europe/Berlin'."
        )
    raise ScheduleError(
        f"tz={quoted(name)} is no zone that this machine knows. {_suggestion(name)}Give a name such as 'Europe/Berlin' or 'UTC'. "
        f"If the name is right, install the zones: pip install --upgrade tzdata."
    )


def _suggestion(name: str) -> str:
    if name.strip().upper() in ("UTC", "Z", "ZULU"):
        return "Did you mean 'UTC'? "
    names = _zone_names()
    wanted = name[:_LONGEST_NAME].strip().replace(" ", "_").lower()
    for known in names:
        if wanted in (known.lower(), known.rpartition("/")[2].lower()):
            return f"Did you mean {known!r}? "
    return did_you_mean(name, names)


@lru_cache(maxsize=1)
def _zone_names() -> tuple[str, ...]:
    # `zoneinfo.available_timezones` opens each file, which takes longer than a refusal may.
    from zoneinfo import TZPATH  # noqa: PLC0415 - see `_zone`

    names = {"UTC"}
    for folder in TZPATH:
        names.update(_files_below(folder))
    if len(names) == 1:
        names.update(_packaged_names())
    # Names with a continent come first: several zones have an old short name, too.
    return tuple(sorted(names, key=lambda name: ("/" not in name, name)))


def _files_below(folder: str) -> Iterator[str]:
    for path, folders, files in os.walk(folder):
        folders[:] = [each for each in folders if each not in _HOSTS_OWN]
        beneath = os.path.relpath(path, folder).replace(os.sep, "/")
        for each in files:
            if "." not in each and each[:1].isupper():
                yield each if beneath == "." else f"{beneath}/{each}"


def _packaged_names() -> Iterable[str]:
    from importlib.resources import files  # noqa: PLC0415 - rarely needed

    try:
        return files("tzdata").joinpath("zones").read_text("utf-8").split()
    except (ImportError, OSError):
        return ()
