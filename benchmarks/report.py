"""The output of a run: its table, its verdict, its configuration, and the changes since another run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from figures import MS, OURS, Book, Change, Figure, Spread
from verdict import verdicts


BEGIN = "<!-- written by nox -s bench: begin -->"
END = "<!-- written by nox -s bench: end -->"

_ORDER = ("store", "store_many", "drain", "recurring", "claim p50", "claim p99", "lateness p50", "lateness p99")
_HEAD = f"{'case':27}{'place':11}{'to come':>10}{'cons.':>6}  {'beside':27}{'it':>11}{'pitstop':>11}  ratio"


def table(book: Book) -> str:
    """Yield a line for each figure of another subject, beside Pitstop's, and for each figure that only Pitstop has."""
    lines = [_HEAD, "-" * (len(_HEAD) + 20)]
    last = ""
    for each in sorted(book.figures, key=_rank):
        if each.who == OURS and any(_same(each, other) for other in book.figures if other.who != OURS):
            continue
        if last and last != each.case:
            lines.append("")
        last = each.case
        lines.append(_line(each, book))
    return "\n".join(lines)


def _line(figure: Figure, book: Book) -> str:
    ours = figure if figure.who == OURS else book.beside(figure)
    alone = figure.who == OURS
    cells = (
        f"{figure.case:27}{figure.place:11}{figure.future:10,}{figure.consumers:6}  {'' if alone else figure.who:27}"
    )
    cells += f"{'' if alone else _number(figure.spread.median, figure.unit):>11}"
    cells += f"{'' if ours is None else _number(ours.spread.median, figure.unit):>11}  "
    if alone:
        return cells + _between(figure.spread, lambda value: _number(value, figure.unit))
    if ours is None:
        return cells.rstrip()
    ratio = ours.over(figure)
    return f"{cells}{ratio.median:.2f} {_between(ratio, lambda value: f'{value:.2f}')}"


def _between(spread: Spread, text: object) -> str:
    assert callable(text)
    return "" if spread.least == spread.most else f"({text(spread.least)} .. {text(spread.most)})"


def _number(value: float, unit: str) -> str:
    return f"{value:,.2f} ms" if unit == MS else f"{value:,.0f}/s"


def _same(mine: Figure, other: Figure) -> bool:
    return mine.key[:2] == other.key[:2] and mine.key[3:] == other.key[3:]


def _rank(figure: Figure) -> tuple[int, str, int, int]:
    # Stable, so that places and peers stay in the order in which they were measured.
    place = _ORDER.index(figure.case) if figure.case in _ORDER else len(_ORDER)
    return (place, figure.case, figure.future, figure.consumers)


def verdict(book: Book) -> str:
    lines = []
    for each in verdicts(book):
        measured = (
            "" if each.measured is None else f"{each.measured.median:.2f} {_between(each.measured, '{:.2f}'.format)}"
        )
        lines.append(f"{each.expected!s:76}{measured:28}{each.word}")
    return "\n".join(lines)


def setup(book: Book) -> str:
    lines = [f"{name}: {text}" for name, text in _flat(book.setup)]
    lines += [f"left out: {name}: {reason}" for name, reason in book.left_out.items()]
    return "\n".join(lines)


def _flat(tree: dict[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}, ")
        else:
            yield f"{prefix}{name}", value


def whole(book: Book) -> str:
    return "\n\n".join([table(book), "Expected\n" + verdict(book), "Measured with\n" + setup(book)])


def into_page(book: Book, page: Path, started: str) -> None:
    """Put the table between the two marks of the page, in place of the last one."""
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"{page} has lost the mark {BEGIN}"
    assert end, f"{page} has lost the mark {END}"
    page.write_text(f"{before}{BEGIN}\nMeasured {started}.\n\n```text\n{whole(book)}\n```\n{END}{after}")


def compared(changes: Iterable[Change]) -> tuple[str, bool]:
    """Return the changes beyond the spread of both runs, and whether any figure is worse."""
    lines, worse = [], False
    count = 0
    for each in changes:
        count += 1
        if each.beyond_spread:
            worse = worse or each.regressed
            word = "REGRESSED" if each.regressed else "better"
            lines.append(f"{word:10} {each.name}: {_three(each.then)} -> {_three(each.now)}")
    summary = f"{count} figures compared, {len(lines)} differ beyond the spread"
    return "\n".join([*lines, summary]), worse


def _three(spread: Spread) -> str:
    return f"{spread.median:,.2f} ({spread.least:,.2f} .. {spread.most:,.2f})"
