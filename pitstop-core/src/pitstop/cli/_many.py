"""Changes of many messages, by a search or by ids on stdin: a look first (``--dry-run``), a progress bar, and the count."""

from __future__ import annotations

import sys

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import attrs
import click

from pitstop import BackendUnavailable, Conflict, Entry, MessageError, Pitstop, PitstopError
from pitstop.cli._lines import batches, without_mark
from pitstop.cli._output import print_json, print_line, progress, say
from pitstop.cli._search import given, pages
from pitstop.cli._settings import Settings
from pitstop.cli._streams import is_closed, though_unread


__all__ = ["Choice", "Deed", "chosen", "dry_run_option"]

_Command = TypeVar("_Command", bound=Callable[..., Any])
#: The argument that stands for the ids on stdin.
_STDIN = "-"
#: How many ids a dry run shows.
_SHOWN = 10


@attrs.frozen
class Deed:
    """A change of many messages."""

    #: ``remove``, and ``removed``.
    verb: str
    participle: str
    #: Changes messages by the keyword arguments: ``ids`` or a search, and ``progress``.
    change: Callable[..., int]
    #: The state in which messages can be changed. None: in any.
    state: str | None = None
    #: Whether messages that cannot be read are changed, too.
    damaged: bool = False

    def can_change(self, entry: Entry) -> bool:
        """Whether the change counts a message. The change itself leaves the others out."""
        return self.state in {None, entry.state} and (self.damaged or entry.scheduled_for is not None)


@attrs.frozen
class Choice:
    """The messages that a command names, other than by ids as arguments."""

    #: The options of a search; None: the ids on stdin.
    search: dict[str, Any] | None
    dry_run: bool

    def do(self, settings: Settings, deed: Deed, **arguments: Any) -> None:
        """Change the messages, or count them if this is a dry run. Print the number.

        :param arguments: further arguments of the change.
        """
        with settings.open_existing() as pit:
            if self.dry_run:
                self._show(settings, pit, deed)
            else:
                self._change(settings, pit, deed, arguments)

    def _change(self, settings: Settings, pit: Pitstop, deed: Deed, arguments: dict[str, Any]) -> None:
        count = 0

        def note(so_far: int) -> None:
            nonlocal count
            count = so_far
            bar.update(task, count=so_far)

        names = {"ids": _ids_of_stdin()} if self.search is None else self.search
        try:
            with progress() as bar:
                task = bar.add_task(f"{deed.participle.capitalize()}:", total=None, count=0)
                count = deed.change(pit, progress=note, **names, **arguments)
        except (PitstopError, KeyboardInterrupt) as error:
            # Other errors are about the arguments if nothing was done before. The same command would not go on.
            if count or isinstance(error, BackendUnavailable | Conflict | KeyboardInterrupt):
                say(
                    f"Before that, {_counted(count)} {'was' if count == 1 else 'were'} {deed.participle}. Run the command again to go on."
                )
            raise
        with though_unread():
            if settings.json:
                print_json({deed.participle: count})
            else:
                print_line(f"{deed.participle.capitalize()} {_counted(count)}")

    def _show(self, settings: Settings, pit: Pitstop, deed: Deed) -> None:
        count = 0
        for id in self._ids(pit, deed):
            if count < _SHOWN and not settings.json:
                print_line(id)
            count += 1
        if settings.json:
            print_json({"dry_run": True, "matching": count})
            return
        if count > _SHOWN:
            print_line("…")
        print_line(f"Would {deed.verb} {_counted(count)}. Nothing was changed: leave out --dry-run to do it.")

    def _ids(self, pit: Pitstop, deed: Deed) -> Iterator[str]:
        if self.search is None:
            found = _entries_of_stdin(pit)
        else:
            found = pages(pit, self.search if deed.state is None else {"state": deed.state} | self.search, None)
        return (each.id for each in found if deed.can_change(each))


def dry_run_option(command: _Command) -> _Command:
    """Give a command the option ``--dry-run``."""
    return click.option("--dry-run", is_flag=True, help="Count the messages, show the first ids, and change nothing.")(
        command
    )


def chosen(ids: Sequence[str], search: dict[str, Any], *, dry_run: bool) -> Choice | None:
    """Return the choice of a command; None if it names ids as arguments.

    :raises click.UsageError: if it names no messages, names them twice, or names all by an empty prefix.
    """
    conditions = given(search)
    if ids and conditions:
        raise click.UsageError("Give ids, or options that choose messages, not both.")
    if list(ids) == [_STDIN]:
        return Choice(None, dry_run)
    if _STDIN in ids:
        raise click.UsageError("'-' reads the ids from stdin. Give it alone, or give ids as arguments.")
    if conditions == {"prefix": ""}:
        raise click.UsageError(
            "--prefix is empty, so all messages would be changed. Give an option that chooses some of them, such as --prefix order-7:."
        )
    if conditions:
        return Choice(conditions, dry_run)
    if not ids:
        raise click.UsageError("Give ids, '-' for the ids on stdin, or options that choose messages, such as --prefix.")
    if dry_run:
        raise click.UsageError(
            "--dry-run has no effect on ids that are given as arguments. Use 'pitstop show ID' to see a message."
        )
    return None


def _entries_of_stdin(pit: Pitstop) -> Iterator[Entry]:
    """Yield the entry of each message once, as the change counts each message once."""
    seen: set[str] = set()
    for id in _ids_of_stdin():
        if id not in seen and (entry := pit.get(id)) is not None:
            seen.add(id)
            yield entry


def _ids_of_stdin() -> Iterator[str]:
    if is_closed("stdin"):
        raise PitstopError(
            "stdin is closed, so no ids can be read from it. Give them as in 'pitstop remove - < ids.txt'."
        )
    first = True
    for lines, _ in batches(sys.stdin.buffer):
        for number, line in enumerate(lines):
            text = without_mark(line) if first and not number else line
            try:
                id = text.rstrip(b"\r").decode()
            except UnicodeDecodeError:
                raise MessageError(f"The line {text[:64]!r} is no UTF-8 text. Give one id per line.") from None
            if id:
                yield id
        first = False


def _counted(count: int) -> str:
    return "1 message" if count == 1 else f"{count:,} messages"
