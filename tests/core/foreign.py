"""Times that do what those of well-known libraries do, and the two facades that are given them."""

from __future__ import annotations

import asyncio

from datetime import UTC, datetime, timedelta, tzinfo

import pitstop

from pitstop.testing import ManualClock


class Duration(timedelta):
    """As pendulum's: its public fields have another meaning if it is negative, and it is divided by its own kind alone."""

    @property
    def days(self):
        return -1 if self < timedelta(0) else timedelta.days.__get__(self)

    def _refuse(self, other):
        raise AttributeError("'datetime.timedelta' object has no attribute '_to_microseconds'")

    __floordiv__ = __divmod__ = __truediv__ = __mod__ = _refuse


class Timedelta(timedelta):
    """As that of pandas 2 in whole seconds: all fields of the base class are zero, and the public ones are right."""

    def __new__(cls, seconds):
        made = super().__new__(cls)
        made.wanted = timedelta(seconds=seconds)
        return made

    days = property(lambda self: self.wanted.days)
    seconds = property(lambda self: self.wanted.seconds)
    microseconds = property(lambda self: self.wanted.microseconds)

    def total_seconds(self):
        return self.wanted.total_seconds()


class Moment(datetime):
    """As pendulum's: a subtraction returns no plain ``timedelta``."""

    def __sub__(self, other):
        return Duration(microseconds=1)


class NotATime(datetime):
    """As pandas.NaT: its methods raise, and its fields are NaN."""

    def utcoffset(self):
        raise ValueError("NaTType does not support utcoffset")

    year = property(lambda self: float("nan"))

    def __repr__(self):
        return "NaT"


class Year12000(datetime):
    """As a Timestamp of pandas beyond what a ``datetime`` can name: the base class has another year."""

    year = property(lambda self: 12000)


class Zone(tzinfo):
    """A zone that does what it is told."""

    def __init__(self, told):
        self.told = told

    def utcoffset(self, when):
        if isinstance(self.told, BaseException):
            raise self.told
        return self.told


class OddOffset(datetime):
    """A datetime that does not let the zone say the offset."""

    offset = "an hour"

    def utcoffset(self):
        return self.offset


def zoned(told):
    return datetime(2031, 1, 1, tzinfo=Zone(told))


UNREADABLE = {
    "not-a-time": lambda: NotATime(2031, 1, 1),
    "year": lambda: Year12000(1972, 1, 1, tzinfo=UTC),
    "zone-raises": lambda: zoned(LookupError("no such zone")),
    "zone-recurs": lambda: zoned(RecursionError()),
    "zone-returns-text": lambda: zoned("hunter2"),
    "zone-is-out-of-range": lambda: zoned(timedelta(days=1)),
    "offset-is-text": lambda: OddOffset(2031, 1, 1),
}
SPANS = {
    "pendulum": lambda seconds: Duration(seconds=seconds),
    "pandas": Timedelta,
}


def facades(world):
    """Yield a store in memory, through the facade of that world: ``"sync"`` or ``"async"``."""
    clock = ManualClock()
    if world == "sync":
        with pitstop.init({"type": "memory", "clock": clock}) as pit:
            yield pit
        return
    loop = asyncio.new_event_loop()
    facade = pitstop.init_async({"type": "memory", "clock": clock})

    class InLoop:
        def __getattr__(self, name):
            return lambda *args, **options: loop.run_until_complete(getattr(facade, name)(*args, **options))

    yield InLoop()
    loop.run_until_complete(facade.aclose())
    loop.close()
