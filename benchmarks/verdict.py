"""The targets, the measurements, and whether they meet the targets."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from cases import ONE_BY_ONE
from figures import RAW, Book, Spread


@attrs.frozen
class Expectation:
    """A least ratio to another subject, or, without a subject, the most milliseconds."""

    case: str
    place: str
    who: str | None
    value: float

    def __str__(self) -> str:
        if self.who is None:
            return f"{self.case}, {self.place}: at most {self.value:g} ms"
        return f"{self.case}, {self.place}: at least {self.value:g} of {self.who}"


EXPECTED = (
    Expectation("drain", "mongo", RAW, 0.7),
    Expectation("drain", "mongo-set", RAW, 0.7),
    Expectation("drain beside peers", "mongo", "Agenda", 15),
    Expectation("drain beside peers", "mongo", "APScheduler 3", 5),
    Expectation("drain beside peers", "mongo", "APScheduler 3, w=1", 5),
    Expectation("drain beside peers", "sqlite", "huey", 2),
    Expectation("drain", "memory", ONE_BY_ONE, 0.4),
    Expectation("lateness p99", "memory", None, 5),
    Expectation("lateness p99", "sqlite", None, 5),
    Expectation("lateness p99", "mongo", None, 5),
    Expectation("lateness p99", "mongo-set", None, 5),
)


@attrs.frozen
class Verdict:
    expected: Expectation
    #: None: not measured in this run.
    measured: Spread | None

    @property
    def word(self) -> str:
        if self.measured is None:
            return "not measured"
        limit, median = self.expected.value, self.measured.median
        return "met" if (median <= limit if self.expected.who is None else median >= limit) else "MISSED"


def verdicts(book: Book) -> Iterator[Verdict]:
    for each in EXPECTED:
        ours = book.find(each.case, each.place)
        other = None if each.who is None else book.find(each.case, each.place, each.who)
        if ours is None or (each.who is not None and other is None):
            yield Verdict(each, None)
        else:
            yield Verdict(each, ours.spread if other is None else ours.over(other))
