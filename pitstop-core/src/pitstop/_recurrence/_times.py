"""Times: a list of instants."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, ClassVar, Self

import attrs

from pitstop._errors import ScheduleError
from pitstop._recurrence._base import Recurrence
from pitstop._values._instant import LAST_INSTANT, from_instant, instant_of
from pitstop._values._plain import shown


__all__ = ["Times"]

#: The most instants of a list. It is a part of the message's document.
_MOST = 1000


@attrs.frozen(init=False, repr=False)
class Times(Recurrence):
    """A list of at most 1,000 instants, in any order.

    >>> from datetime import UTC, datetime
    >>> Times([datetime(2031, 5, 4, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)])
    Times([2031-01-01T00:00:00+00:00, 2031-05-04T00:00:00+00:00])
    """

    kind: ClassVar[str] = "times"

    instants: tuple[int, ...]

    def __init__(self, times: Iterable[datetime]) -> None:
        """Make a rule from aware datetimes, which are rounded up to the millisecond.

        :raises ScheduleError: if a time cannot be used, or there are none or too many.
        """
        if isinstance(times, str | bytes | Mapping) or not isinstance(times, Iterable):
            raise ScheduleError(f"Times({shown(times)}) is no list. Give a list of aware datetimes.")
        # At most one too many is read: an iterator may have no end.
        given = list(islice(times, _MOST + 1))
        if not given:
            raise ScheduleError("Times([]) has no occurrence. Give at least one aware datetime.")
        if len(given) > _MOST:
            raise ScheduleError(
                f"Times has more than {_MOST} entries. Give a rule, or store several messages with a part of the list each."
            )
        self.__attrs_init__(tuple(sorted({_instant(index, each) for index, each in enumerate(given)})))

    def after(self, instant: int, start: int) -> int | None:
        index = bisect_right(self.instants, max(instant, start - 1))
        return self.instants[index] if index < len(self.instants) else None

    def latest(self, instant: int, start: int) -> int | None:
        index = bisect_right(self.instants, instant)
        return self.instants[index - 1] if index and self.instants[index - 1] >= start else None

    def count(self, since: int, until: int, start: int) -> int:
        return bisect_right(self.instants, until) - max(
            bisect_right(self.instants, since), bisect_left(self.instants, start)
        )

    def dump(self) -> dict[str, Any]:
        return {"ms": list(self.instants)}

    @classmethod
    def load(cls, fields: Mapping[str, Any]) -> Self:
        ms = fields.get("ms")
        if len(fields) != 1 or not isinstance(ms, list) or not _are_instants(ms):
            raise ScheduleError(
                "A stored recurrence of kind 'times' must have the one field 'ms', a sorted list of instants. Store the message "
                "again, or remove it."
            )
        times = cls.__new__(cls)
        times.__attrs_init__(tuple(ms))
        return times

    def __repr__(self) -> str:
        some = ", ".join(from_instant(each).isoformat() for each in self.instants[:3])
        return f"Times([{some}{', …' if len(self.instants) > 3 else ''}])"


def _instant(index: int, time: object) -> int:
    if not isinstance(time, datetime):
        raise ScheduleError(f"Times: entry {index} is a {type(time).__name__}. Give aware datetimes.")
    return instant_of(time, 0, f"times[{index}]")


def _are_instants(ms: list[Any]) -> bool:
    return (
        0 < len(ms) <= _MOST
        and all(type(each) is int and 0 <= each <= LAST_INSTANT for each in ms)
        and all(ms[index] < ms[index + 1] for index in range(len(ms) - 1))
    )
