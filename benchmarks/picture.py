"""The picture of a run: bars for the drain and for the lateness. Written by hand, so that nothing is needed to draw it."""

from __future__ import annotations

import math

from collections.abc import Sequence
from html import escape
from pathlib import Path

import attrs

from figures import OURS, Book, Figure


_OURS, _OTHERS = "#2f6db3", "#b9c2cc"
_LABEL, _BAR, _ROW, _WIDTH = 250, 430, 20, 800


@attrs.frozen
class Bar:
    label: str
    value: float
    text: str
    ours: bool


def draw(book: Book, path: Path) -> None:
    drains, late = _drains(book), _lateness(book)
    parts: list[str] = []
    y = _panel(parts, 0, "Drain, one consumer: messages per second (logarithmic)", drains)
    y = _panel(parts, y, "Lateness of messages known ahead, p99 in ms (logarithmic, less is better)", late)
    style = "text{font:12px sans-serif;fill:#222}.h{font-weight:bold;font-size:14px}"
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y + 10}" width="{_WIDTH}" height="{y + 10}">\n'
        f'<style>{style}</style>\n<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _drains(book: Book) -> list[Bar]:
    bars = []
    places = dict.fromkeys(each.place for each in book.figures if each.case.startswith("drain"))
    for place in places:
        seen = set()
        for each in book.figures:
            alone = (each.consumers, each.future) == (1, 0)
            if each.place == place and each.case.startswith("drain") and alone and each.who not in seen:
                seen.add(each.who)
                rate = each.spread.median
                bars.append(Bar(_label(each), rate, f"{rate:,.0f}", each.who == OURS))
    return bars


def _lateness(book: Book) -> list[Bar]:
    bars = []
    for each in book.figures:
        if each.case.startswith("lateness p99") and each.future == 0 and "beside" not in each.case:
            bars.append(Bar(_label(each), each.spread.median, f"{each.spread.median:.1f}", ours=True))
        elif each.case.startswith("lateness p99") and each.who != OURS:
            bars.append(Bar(_label(each), each.spread.median, f"{each.spread.median:,.1f}", ours=False))
    return bars


def _label(figure: Figure) -> str:
    """The name of a peer includes its store, unless it stands below the place that it shares."""
    if figure.case.endswith("beside peers") and figure.who != OURS:
        return figure.who
    return f"{figure.place}: {'Pitstop' if figure.who == OURS else figure.who}"


def _panel(parts: list[str], y: int, title: str, bars: Sequence[Bar]) -> int:
    """Draw one group of bars downwards from here; return the start of the next one."""
    if not bars:
        return y
    parts.append(f'<text class="h" x="10" y="{y + 26}">{escape(title)}</text>')
    y += 40
    low = math.floor(math.log10(max(min(each.value for each in bars), 0.01)))
    high = max(math.ceil(math.log10(max(each.value for each in bars))), low + 1)
    for each in bars:
        share = (math.log10(max(each.value, 0.01)) - low) / (high - low)
        width = max(share * _BAR, 1)
        color = _OURS if each.ours else _OTHERS
        parts.append(f'<text x="{_LABEL - 8}" y="{y + 14}" text-anchor="end">{escape(each.label)}</text>')
        parts.append(f'<rect x="{_LABEL}" y="{y + 3}" width="{width:.1f}" height="{_ROW - 6}" fill="{color}"/>')
        parts.append(f'<text x="{_LABEL + width + 6:.1f}" y="{y + 14}">{escape(each.text)}</text>')
        y += _ROW
    return y + 16
