"""The targets, the measurements, and whether they meet the targets."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from cases import ONE_BY_ONE
from figures import RAW, Book, Spread


@attrs.frozen
class Expectation:
    """A ratio to another subject, or, without a subject, the most milliseconds. A ratio of times is the most, of rates the least."""

    case: str
    place: str
    who: str | None
    value: float
    consumers: int = 1

    @property
    def is_most(self) -> bool:
        """Whether a smaller figure is better."""
        return self.who is None or self.case.startswith("lateness")

    def __str__(self) -> str:
        if self.who is None:
            return f"{self.case}, {self.place}: at most {self.value:g} ms"
        consumers = "" if self.consumers == 1 else f", {self.consumers} consumers"
        bound = "at most" if self.is_most else "at least"
        return f"{self.case}, {self.place}{consumers}: {bound} {self.value:g} of {self.who}"


EXPECTED = (
    Expectation("drain", "mongo", RAW, 0.7),
    Expectation("drain", "mongo-set", RAW, 0.7),
    Expectation("drain beside peers", "mongo", "Agenda", 15),
    Expectation("drain beside peers", "mongo", "APScheduler 3", 5),
    Expectation("drain beside peers", "mongo", "APScheduler 3, w=1", 5),
    Expectation("drain beside peers", "sqlite", "huey", 2),
    Expectation("drain", "postgres", RAW, 0.7),
    Expectation("drain beside peers", "postgres", "PgQueuer", 2.5),
    Expectation("drain beside peers", "postgres", "PgQueuer", 2.5, consumers=4),
    Expectation("store beside peers", "postgres", "PgQueuer", 1.2),
    Expectation("store_many beside peers", "postgres", "PgQueuer", 1),
    Expectation("lateness p99 beside peers", "postgres", "PgQueuer", 0.1),
    Expectation("lateness p99 beside peers", "postgres", "Procrastinate", 0.1),
    Expectation("drain", "memory", ONE_BY_ONE, 0.4),
    Expectation("lateness p99", "memory", None, 5),
    Expectation("lateness p99", "sqlite", None, 5),
    Expectation("lateness p99", "mongo", None, 5),
    Expectation("lateness p99", "mongo-set", None, 5),
    Expectation("lateness p99", "postgres", None, 5),
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
        return "met" if (median <= limit if self.expected.is_most else median >= limit) else "MISSED"


def verdicts(book: Book) -> Iterator[Verdict]:
    for each in EXPECTED:
        ours = book.find(each.case, each.place, consumers=each.consumers)
        other = None if each.who is None else book.find(each.case, each.place, each.who, each.consumers)
        if ours is None or (each.who is not None and other is None):
            yield Verdict(each, None)
        else:
            yield Verdict(each, ours.spread if other is None else ours.over(other))
