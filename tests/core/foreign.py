"""Times that behave like those of well-known libraries, and the two facades that accept them."""

from __future__ import annotations

import asyncio

from datetime import UTC, datetime, timedelta, tzinfo

import pitstop

from pitstop.testing import ManualClock


class Duration(timedelta):
    """Like pendulum's: the public fields of a negative one have another meaning, and only its own type can divide it."""

    @property
    def days(self):
        return -1 if self < timedelta(0) else timedelta.days.__get__(self)

    def _refuse(self, other):
        raise AttributeError("'datetime.timedelta' object has no attribute '_to_microseconds'")

    __floordiv__ = __divmod__ = __truediv__ = __mod__ = _refuse


class Timedelta(timedelta):
    """Like that of pandas 2 in whole seconds: all fields of the base class are zero, and the public fields are right."""

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
    """Like pendulum's: a subtraction returns a type of its own, not a ``timedelta``."""

    def __sub__(self, other):
        return Duration(microseconds=1)


class NotATime(datetime):
    """Like pandas.NaT: its methods raise, and its fields are NaN."""

    def utcoffset(self):
        raise ValueError("NaTType does not support utcoffset")

    year = property(lambda self: float("nan"))

    def __repr__(self):
        return "NaT"


class Year12000(datetime):
    """Like a Timestamp of pandas beyond the range of ``datetime``: the base class has another year."""

    year = property(lambda self: 12000)


class Zone(tzinfo):
    """A zone whose answers a test chooses."""

    def __init__(self, told):
        self.told = told

    def utcoffset(self, when):
        if isinstance(self.told, BaseException):
            raise self.told
        return self.told


class OddOffset(datetime):
    """A datetime that ignores the offset of its zone."""

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
    """Yield a memory store behind one of the facades: ``"sync"`` or ``"async"``."""
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
