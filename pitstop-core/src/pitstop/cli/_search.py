"""The options by which commands choose messages, and the pages of the entries that they choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar, get_args

import click

from pitstop import Entry, Pitstop, State
from pitstop.cli._times import moment_or_distance


__all__ = ["given", "pages", "search_options"]

_Command = TypeVar("_Command", bound=Callable[..., Any])
_PAGE = 1000


def search_options() -> Callable[[_Command], _Command]:
    """Give a command the options of a search, under the names of the arguments of :meth:`pitstop.Pitstop.entries`."""

    def add(command: _Command) -> _Command:
        options = [
            click.option("--state", type=click.Choice(get_args(State)), help="Only messages in this state."),
            click.option("--kind", metavar="KIND", help="Only messages of this kind."),
            click.option("--prefix", metavar="TEXT", help="Only messages whose id begins with this text."),
            click.option(
                "--due-before",
                type=moment_or_distance,
                metavar="TIME|DURATION",
                help="Only messages that are due before this time, such as 1h (in an hour) or -1h (an hour ago).",
            ),
            click.option(
                "--due-after",
                type=moment_or_distance,
                metavar="TIME|DURATION",
                help="Only messages that are due at this time or later.",
            ),
            click.option(
                "--failing",
                is_flag=True,
                default=None,
                help="Only messages whose last attempt failed: they wait for a retry, or are dead.",
            ),
        ]
        for option in reversed(options):
            command = option(command)
        return command

    return add


def given(search: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a search that were given."""
    return {name: value for name, value in search.items() if value is not None}


def pages(pit: Pitstop, search: dict[str, Any], limit: int | None) -> Iterator[Entry]:
    """Yield all entries of a search, or the first ``limit``, read page by page."""
    left = limit
    last: Entry | None = None
    while left is None or left > 0:
        page = pit.entries(limit=_PAGE if left is None else min(left, _PAGE), after=last, **search)
        yield from page
        if not page:
            return
        last = page[-1]
        left = None if left is None else left - len(page)
