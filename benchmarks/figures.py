"""Figures: the measurements of each round, kept as JSON, and compared with those of an earlier run."""

from __future__ import annotations

import json
import statistics

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import attrs


OURS = "pitstop"
RAW = "raw"
PER_SECOND = "msg/s"
MS = "ms"
#: Changes smaller than this do not count, however small the spread is.
_LEAST_CHANGE = 0.05
_FORMAT = 1


class Unreadable(Exception):
    """A file without figures; the text describes its content."""


@attrs.frozen
class Spread:
    """A median, and its least and most value."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        return cls(statistics.median(values), min(values), max(values))


#: The key of a figure: its case, place, subject, number of consumers, and number of scheduled messages.
Key = tuple[str, str, str, int, int]


@attrs.frozen
class Figure:
    case: str
    place: str
    who: str
    consumers: int
    future: int
    #: ``msg/s``: more is better. ``ms``: less is.
    unit: str
    rounds: tuple[float, ...]

    @property
    def key(self) -> Key:
        return (self.case, self.place, self.who, self.consumers, self.future)

    @property
    def spread(self) -> Spread:
        return Spread.of(self.rounds)

    def over(self, other: Figure) -> Spread:
        """Return the ratio to another figure, of measurements of the same round."""
        return Spread.of([mine / its for mine, its in zip(self.rounds, other.rounds, strict=True)])


@attrs.define
class Book:
    """All figures of a run, and its configuration."""

    setup: dict[str, Any] = attrs.field(factory=dict)
    #: Peers that were not measured, and the reasons.
    left_out: dict[str, str] = attrs.field(factory=dict)
    _rounds: dict[Key, list[float]] = attrs.field(factory=dict)
    _units: dict[str, str] = attrs.field(factory=dict)

    def note(
        self, case: str, place: str, value: float, *, who: str = OURS, consumers: int = 1, future: int = 0, unit: str
    ) -> None:
        """Add one round of one figure."""
        self._units[case] = unit
        self._rounds.setdefault((case, place, who, consumers, future), []).append(value)

    @property
    def figures(self) -> list[Figure]:
        return [Figure(*key, self._units[key[0]], tuple(rounds)) for key, rounds in self._rounds.items()]

    def find(self, case: str, place: str, who: str = OURS, consumers: int = 1, future: int = 0) -> Figure | None:
        rounds = self._rounds.get((case, place, who, consumers, future))
        return None if rounds is None else Figure(case, place, who, consumers, future, self._units[case], tuple(rounds))

    def beside(self, figure: Figure) -> Figure | None:
        """Return Pitstop's figure of the same rounds."""
        ours = self.find(figure.case, figure.place, OURS, figure.consumers, figure.future)
        return ours if ours is not None and len(ours.rounds) == len(figure.rounds) else None

    def save(self, path: Path, **more: Any) -> None:
        written = {"format": _FORMAT, "setup": self.setup, "left_out": self.left_out}
        figures = [attrs.asdict(each) | attrs.asdict(each.spread) for each in self.figures]
        path.write_text(json.dumps(written | more | {"figures": figures}, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """
        :raises Unreadable: if the file has no figures.
        """
        try:
            read = json.loads(path.read_text())
            if read["format"] != _FORMAT:
                raise Unreadable(f"{path} is of format {read['format']}, not {_FORMAT}: measure again.")
            book = cls(read["setup"], read["left_out"])
            for each in read["figures"]:
                told = {field.name: each[field.name] for field in attrs.fields(Figure)}
                figure = Figure(**told | {"rounds": tuple(told["rounds"])})
                book._rounds[figure.key] = list(figure.rounds)
                book._units[figure.case] = figure.unit
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Unreadable(f"{path} holds no figures of a run ({error}). Give the JSON that a run wrote.") from None
        return book


@attrs.frozen
class Change:
    """One figure, then and now. A ratio to the raw driver is preferred, because it depends less on the machine."""

    name: str
    then: Spread
    now: Spread
    #: More than 1 is better.
    factor: float

    @property
    def beyond_spread(self) -> bool:
        apart = self.now.most < self.then.least or self.now.least > self.then.most
        return apart and abs(self.factor - 1) > _LEAST_CHANGE

    @property
    def regressed(self) -> bool:
        return self.beyond_spread and self.factor < 1


def changes(then: Book, now: Book) -> Iterator[Change]:
    """Return the figures of Pitstop that both runs have."""
    for mine in now.figures:
        old = then.find(*mine.key)
        if mine.who != OURS or old is None:
            continue
        name = f"{mine.case}, {mine.place}, {mine.consumers} consumer(s), {mine.future:,} to come"
        before, after, what = old.spread, mine.spread, mine.unit
        raws = [book.find(mine.case, mine.place, RAW, mine.consumers, mine.future) for book in (then, now)]
        if mine.unit == PER_SECOND and raws[0] is not None and raws[1] is not None:
            before, after, what = old.over(raws[0]), mine.over(raws[1]), "of raw"
        ratio = after.median / before.median
        yield Change(f"{name}, {what}", before, after, 1 / ratio if mine.unit == MS else ratio)
