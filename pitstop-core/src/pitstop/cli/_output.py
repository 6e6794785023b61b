"""Print JSON lines for programs, tables for people, and notes and progress on stderr."""

from __future__ import annotations

import sys

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import click

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pitstop import PitstopError
from pitstop.cli._messages import json_text
from pitstop.cli._plain import plain
from pitstop.cli._streams import is_closed


__all__ = [
    "fields_of",
    "live",
    "needs_stdout",
    "print_fields",
    "print_json",
    "print_json_for_people",
    "print_line",
    "print_lines",
    "print_table",
    "progress",
    "say",
    "table_of",
    "warn",
]

#: Wide enough for any id: without a terminal, nothing is cut or folded.
_UNBOUNDED = 10_000

_STATE_STYLES = {
    "due": "bold yellow",
    "leased": "cyan",
    "paused": "magenta",
    "dead": "bold red",
    "ok": "green",
    "warning": "yellow",
    "broken": "bold red",
    "failed": "bold red",
}


def needs_stdout(command: str) -> None:
    """Refuse a command that only prints if stdout is closed.

    :raises PitstopError: if stdout was closed.
    """
    if is_closed("stdout"):
        raise PitstopError(
            f"stdout is closed, and printing is all that 'pitstop {command}' does. Open it, as in '> file'; "
            f"/dev/null drops the output."
        )


def print_line(text: str) -> None:
    """Print a line for people on stdout."""
    sys.stdout.write(f"{plain(text)}\n")
    sys.stdout.flush()


def print_lines(text: str) -> None:
    """Print a text of several lines, such as statements that another program reads, on stdout."""
    for line in text.splitlines():
        print_line(line)


def print_json(document: Mapping[str, Any]) -> None:
    """Print one line of JSON, in UTF-8 whatever the locale, and flush the stream."""
    stream = sys.stdout.buffer
    # A lone surrogate (for example in the id of a damaged document) becomes \udc80, as JSON spells it.
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
    """Print a table. A text that does not fit the terminal is folded, never cut, so that ids can be copied."""
    _console().print(table_of(columns, rows))


def table_of(columns: Sequence[str], rows: Iterable[Sequence[str | None]]) -> Table:
    """Return a table, as :func:`print_table` prints it."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*[_cell(value) for value in row])
    return table


def print_fields(fields: Iterable[tuple[str, str | Text | None]]) -> None:
    """Print names and values, one below the other."""
    _console().print(fields_of(fields))


def fields_of(fields: Iterable[tuple[str, str | Text | None]]) -> Table:
    """Return names and values, as :func:`print_fields` prints them."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields:
        table.add_row(name, value if isinstance(value, Text) else _cell(value))
    return table


def say(text: str) -> None:
    """Print a line for people on stderr."""
    click.echo(click.style(plain(text), dim=True), err=True)


def warn(text: str) -> None:
    """Print a line on stderr about a problem that does not end the command."""
    click.echo(click.style(plain(text), fg="yellow"), err=True)


@contextmanager
def live() -> Iterator[Callable[[Table], None] | None]:
    """Yield a function that shows a table in the place of the one before. None: stdout is no terminal."""
    console = _console()
    if not console.is_terminal:
        yield None
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as shown:
        yield lambda table: shown.update(table, refresh=True)


@contextmanager
def progress() -> Iterator[Progress]:
    """Return a progress bar on stderr, shown only if that is a terminal."""
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
    # Without a terminal the bar is not even begun: an older rich would print an empty line at its end.
    with bar if console.is_terminal else nullcontext():
        yield bar


def _cell(value: str | None) -> Text:
    if not value:
        return Text("-", style="dim")
    return Text(plain(value), style=_STATE_STYLES.get(value, ""))


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _UNBOUNDED, highlight=False)
