"""Convert values of other libraries' types to Python's own types before any computation.

The classes of pendulum, pandas and numpy inherit from ``datetime``, ``timedelta``, ``float`` or ``str`` and override
methods. ``pandas.NaT`` is a ``datetime`` whose methods raise. Pendulum's intervals refuse a plain ``timedelta`` as a
divisor. A zone may be broken. So the fields of such a value are read as the base class keeps them, and the value's own
code runs only here, inside a ``try``.
"""

from __future__ import annotations

import builtins

from datetime import UTC, date, datetime, timedelta

from pitstop._values._quoting import quoted


__all__ = ["Unreadable", "as_microseconds", "as_timedelta", "conversion_advice", "shown", "type_name"]

#: The conversion of values that people often give, by the names of their types. Their modules need not be imported.
_CONVERSIONS = {
    "uuid.UUID": "str(value)",
    "decimal.Decimal": "str(value)",
    "datetime.date": "value.isoformat()",
    "datetime.time": "value.isoformat()",
    "datetime.timedelta": "value.total_seconds()",
    "enum.Enum": "value.value",
    "pathlib.PurePath": "str(value)",
    "pathlib._local.PurePath": "str(value)",
    "builtins.set": "list(value)",
    "builtins.frozenset": "list(value)",
    "builtins.bytearray": "bytes(value)",
}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - for the fields of a datetime, before its offset is subtracted
_MICROSECOND = timedelta(microseconds=1)
_DAY = timedelta(days=1)

_FIELDS = ("year", "month", "day", "hour", "minute", "second", "microsecond")


class Unreadable(Exception):
    """A time that cannot be converted to a plain one. The text gives the reason, without the value."""


def as_timedelta(value: object) -> timedelta | None:
    """Return ``value`` as a plain ``timedelta``; None if it is not a ``timedelta``.

    :raises Unreadable: if its own code raises, or its fields contradict its ``total_seconds()``.
    """
    if type(value) is timedelta:
        return value
    try:
        return _plain_span(value) if isinstance(value, timedelta) else None
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - code of another library's class may raise anything
        raise Unreadable(f"its own code raised {type_name(error)}") from None


def as_microseconds(value: object) -> int | None:
    """Return the microseconds since the epoch of ``value``, exactly; None if it is not a ``datetime``, or is naive.

    :raises Unreadable: if its own code, or that of its zone, raises or returns nonsense.
    """
    if type(value) is datetime and value.tzinfo is UTC:
        return (value - _EPOCH) // _MICROSECOND
    try:
        return _plain_instant(value) if isinstance(value, datetime) else None
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - code of another library's class or zone may raise anything
        raise Unreadable(f"its own code, or its zone's, raised {type_name(error)}") from None


def _plain_span(value: timedelta) -> timedelta:
    """Return the plain span. ``total_seconds()`` decides between the base class's fields and the public fields.

    Neither kind of field is right for all classes. Pandas 2 leaves the base class's fields at zero in a ``Timedelta`` of whole
    seconds. The public fields of a negative ``Duration`` of pendulum have another meaning.
    """
    total = value.total_seconds()
    base = (timedelta.days.__get__(value), timedelta.seconds.__get__(value), timedelta.microseconds.__get__(value))
    for read in (lambda: base, lambda: (value.days, value.seconds, value.microseconds)):
        days, seconds, microseconds = read()
        span = timedelta(int.__int__(days), int.__int__(seconds), int.__int__(microseconds))
        # The tolerance is two microseconds, for finer fractions that were cut off, and the precision of a float.
        if abs(span.total_seconds() - total) <= max(2e-6, abs(total) * 1e-15):
            return span
    raise Unreadable("its days, seconds and microseconds are not what its total_seconds() returns")


def _plain_instant(value: datetime) -> int | None:
    wall = value.replace(tzinfo=None) if type(value) is datetime else _wall_clock(value)
    offset = value.utcoffset()
    if offset is None:
        return None
    span = as_timedelta(offset)
    if span is None or not -_DAY < span < _DAY:
        raise Unreadable("its utcoffset() is no timedelta of less than a day")
    return (wall - _NAIVE_EPOCH - span) // _MICROSECOND


def _wall_clock(value: datetime) -> datetime:
    """Return the naive datetime with the fields of ``value``, which is an instance of another library's class."""
    fields = [getattr(datetime, name).__get__(value) for name in _FIELDS]
    # Pandas keeps a year beyond 9999 beside the base class's year, and the fields of NaT are all NaN.
    for name, field in zip(_FIELDS, fields, strict=True):
        if getattr(value, name) != field:
            raise Unreadable(f"its {name} is none that a datetime can have")
    return datetime(*fields)  # noqa: DTZ001 - the caller subtracts the offset


def shown(value: object) -> str:
    """Return ``value`` as errors about times quote it. A value that may hold a message is shown by its type."""
    try:
        brief = value is None or isinstance(value, date | timedelta | str | int | float)
    except Exception:  # noqa: BLE001 - its __class__ may be code of another library
        brief = False
    return quoted(value) if brief else f"<{type_name(value)}>"


def type_name(value: object) -> str:
    """Return the name of the type of ``value``, with its module if a built-in type has the same name, as ``numpy.bool``."""
    kind = type(value)
    if kind.__module__ != "builtins" and hasattr(builtins, kind.__name__):
        return f"{kind.__module__}.{kind.__name__}"
    return kind.__name__


def conversion_advice(value: object) -> str:
    """Return the sentence that says how to convert a value, or no text."""
    known = (_CONVERSIONS.get(f"{each.__module__}.{each.__qualname__}") for each in type(value).__mro__)
    conversion = next(filter(None, known), None)
    return "" if conversion is None else f"Convert it, as in {conversion}. "
