"""Printing: JSON lines for programs, tables for people, notes and progress on stderr."""

from __future__ import annotations

import sys

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import click

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pitstop.cli._messages import json_text


__all__ = ["plain", "print_fields", "print_json", "print_json_for_people", "print_table", "progress", "say", "warn"]

#: Wide enough for any id: where no terminal says how wide a line is, nothing is cut or folded.
_UNBOUNDED = 10_000

_STATE_STYLES = {
    "due": "bold yellow",
    "leased": "cyan",
    "dead": "bold red",
    "ok": "green",
    "warning": "yellow",
    "broken": "bold red",
    "failed": "bold red",
}


def print_json(document: Mapping[str, Any]) -> None:
    """Print one line of JSON, in UTF-8 whatever the locale, and flush it."""
    stream = sys.stdout.buffer
    # A lone surrogate (in a damaged document's id, say) becomes \udc80, which is how JSON spells it.
    stream.write(json_text(document).encode("utf-8", "backslashreplace") + b"\n")
    stream.flush()


def print_json_for_people(document: Mapping[str, Any]) -> None:
    """Print one line of JSON: coloured on a terminal, else as :func:`print_json` does."""
    console = _console()
    if not console.is_terminal:
        print_json(document)
        return
    text = Text(json_text(document))
    JSONHighlighter().highlight(text)
    console.print(text, soft_wrap=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str | None]]) -> None:
    """Print a table. What does not fit a terminal is folded, never cut: an id is there to be copied."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*[_cell(value) for value in row])
    _console().print(table)


def print_fields(fields: Iterable[tuple[str, str | Text | None]]) -> None:
    """Print names and values, one below the other."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields:
        table.add_row(name, value if isinstance(value, Text) else _cell(value))
    _console().print(table)


def say(text: str) -> None:
    """Print a line for people on stderr."""
    click.echo(click.style(plain(text), dim=True), err=True)


def warn(text: str) -> None:
    """Print a line on stderr about something that went wrong without ending the command."""
    click.echo(click.style(plain(text), fg="yellow"), err=True)


def plain(text: str) -> str:
    """``text`` with control characters spelled out: what is in a message does not steer a terminal."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


@contextmanager
def progress() -> Iterator[Progress]:
    """A progress bar on stderr, shown only when that is a terminal."""
    console = Console(stderr=True)
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]:,} messages"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    # Not even begun without a terminal: an older rich would print an empty line at its end.
    with bar if console.is_terminal else nullcontext():
        yield bar


def _cell(value: str | None) -> Text:
    if not value:
        return Text("-", style="dim")
    return Text(plain(value), style=_STATE_STYLES.get(value, ""))


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _UNBOUNDED, highlight=False)
