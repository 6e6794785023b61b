"""Recurrences: the instants of a series, computed from its start alone.

A recurrence is stored as a tagged, versioned dict of plain values, ``{"v": 1, "kind": "every", "ms": 3600000}``, so
that new kinds need no migration. Reading is strict: an unknown kind, version or field is an error, because a message
emitted without it would come at the wrong times.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from datetime import timedelta
from typing import Any, ClassVar, Self

import attrs

from pitstop._errors import ScheduleError


__all__ = ["Every", "Recurrence", "is_known", "load_recurrence"]


#: Milliseconds of the longest ``timedelta``.
_LONGEST = timedelta.max // timedelta(milliseconds=1)


class Recurrence(ABC):
    """A rule that gives the instants of a series that begins at ``start``.

    Instants are whole milliseconds since the epoch. All methods are functions of their arguments: the k-th occurrence
    is the same in every process and at any time. No method counts its way from ``start``.
    """

    #: The tag of the stored form.
    kind: ClassVar[str]
    #: The version of the stored form.
    version: ClassVar[int]

    @abstractmethod
    def first(self, start: int) -> int:
        """Return the first occurrence, at ``start`` or after it."""

    @abstractmethod
    def after(self, instant: int, start: int) -> int:
        """Return the first occurrence later than ``instant``."""

    @abstractmethod
    def latest(self, instant: int, start: int) -> int:
        """Return the last occurrence that is not later than ``instant``, which is not before the first occurrence."""

    @abstractmethod
    def count(self, since: int, until: int, start: int) -> int:
        """Return the number of occurrences later than ``since`` and not later than ``until``; both are occurrences."""

    @abstractmethod
    def dump(self) -> dict[str, Any]:
        """Return the fields of the stored form, without ``v`` and ``kind``."""

    @classmethod
    @abstractmethod
    def load(cls, fields: Mapping[str, Any]) -> Self:
        """Return the recurrence whose fields :meth:`dump` returned.

        :raises pitstop.ScheduleError: if a field is missing, unknown or wrong.
        """

    def to_plain(self) -> dict[str, Any]:
        """Return the stored form: a dict of plain values with its version and kind."""
        return {"v": self.version, "kind": self.kind, **self.dump()}


@attrs.frozen
class Every(Recurrence):
    """A fixed number of milliseconds of elapsed time: the k-th occurrence is ``start + k * ms``."""

    kind: ClassVar[str] = "every"
    version: ClassVar[int] = 1

    ms: int

    @classmethod
    def of(cls, every: timedelta) -> Self:
        """Return the recurrence with an interval.

        :raises pitstop.ScheduleError: if the interval is not positive or not a whole number of milliseconds.
        """
        ms, rest = divmod(every, timedelta(milliseconds=1))
        if every <= timedelta(0):
            raise ScheduleError(f"every={every!r} is not positive. Give the time from one occurrence to the next.")
        if rest:
            raise ScheduleError(f"every={every!r} is not a whole number of milliseconds. Round it, or it would drift.")
        return cls(ms)

    def first(self, start: int) -> int:
        return start

    def after(self, instant: int, start: int) -> int:
        return start + max((instant - start) // self.ms + 1, 0) * self.ms

    def latest(self, instant: int, start: int) -> int:
        return start + (instant - start) // self.ms * self.ms

    def count(self, since: int, until: int, start: int) -> int:
        return (until - since) // self.ms

    def dump(self) -> dict[str, Any]:
        return {"ms": self.ms}

    @classmethod
    def load(cls, fields: Mapping[str, Any]) -> Self:
        ms = fields.get("ms")
        if len(fields) != 1 or type(ms) is not int or not 1 <= ms <= _LONGEST:
            raise ScheduleError(
                "A stored recurrence of kind 'every' must have the one field 'ms', a positive int. Store the message again, or "
                "remove it."
            )
        return cls(ms)

    @property
    def timedelta(self) -> timedelta:
        """The interval as it was given."""
        return timedelta(milliseconds=self.ms)


_KINDS: dict[str, type[Recurrence]] = {Every.kind: Every}


def is_known(recurrence: Recurrence) -> bool:
    """Whether :func:`load_recurrence` can read the stored form of a recurrence."""
    return _KINDS.get(recurrence.kind) is type(recurrence)


def load_recurrence(plain: object) -> Recurrence:
    """Return the recurrence of a stored form.

    :raises ScheduleError: if its kind or version is unknown, or it is malformed.
    """
    if not isinstance(plain, Mapping):
        raise ScheduleError(
            f"A stored recurrence must be a mapping, not {type(plain).__name__}. Store the message again, or remove it."
        )
    # A deep copy: the plugin may take it apart, and records may share the original.
    fields = {name: deepcopy(value) if isinstance(value, Mapping | list) else value for name, value in plain.items()}
    kind, version = fields.pop("kind", None), fields.pop("v", None)
    cls = _KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise ScheduleError(
            f"Unknown recurrence kind {kind!r:.80}. Known here: {', '.join(sorted(_KINDS))}. "
            f"Upgrade pitstop-core, or install the plugin that it was stored with, then redrive the message."
        )
    if version != cls.version:
        raise ScheduleError(
            f"Recurrence kind {kind!r} is stored in version {version!r:.20}; this pitstop-core reads {cls.version}. "
            f"Upgrade it, then redrive the message."
        )
    return cls.load(fields)
