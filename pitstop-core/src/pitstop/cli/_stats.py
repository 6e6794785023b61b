"""``pitstop stats``: the number of messages in each state."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Literal

import attrs
import click

from rich.table import Table

from pitstop import Pitstop, Stats
from pitstop._values._duration import format_duration
from pitstop.cli._output import (
    fields_of,
    live,
    needs_stdout,
    print_fields,
    print_json,
    print_line,
    print_table,
    table_of,
    warn,
)
from pitstop.cli._policies import paused_kinds, paused_rows
from pitstop.cli._settings import Settings, common_options
from pitstop.cli._times import ago, duration, iso
from pitstop.cli._watching import watching


__all__ = ["stats"]

#: The states in the order in which people see them.
_SHOWN = ("scheduled", "due", "leased", "dead", "paused")
#: The time between two counts of a watch.
_INTERVAL = timedelta(seconds=2)
#: The exit code if a message is late.
_LATE = 3


@click.command()
@click.option("--by", type=click.Choice(["kind"]), help="Count the messages of each kind. This reads all messages.")
@click.option(
    "--fail-if-late",
    "patience",
    metavar="DURATION",
    type=duration,
    help="Exit with 3 if a message has been due for longer, as in 5m.",
)
@click.option("--watch", is_flag=True, help="Count again and again, until Ctrl-C.")
@click.option("--interval", type=duration, help="With --watch: the time between two counts. Default: 2s.")
@common_options
@click.pass_obj
def stats(
    settings: Settings,
    by: Literal["kind"] | None,
    patience: timedelta | None,
    watch: bool,
    interval: timedelta | None,
) -> None:
    """Count the messages by state, of the whole store or of each kind."""
    if watch and patience is not None:
        raise click.UsageError(
            "--fail-if-late ends with an exit code, and --watch does not end. Leave one of them out."
        )
    if interval is not None and not watch:
        raise click.UsageError(
            "--interval is the time between two counts of --watch. Give --watch too, or leave it out."
        )
    needs_stdout("stats")
    with settings.open_existing() as pit:
        counts = _Of(settings, pit) if by is None else _ByKind(settings, pit)
        if watch:
            with live() as show:
                watching(counts.line if show is None else lambda: show(counts.table()), interval or _INTERVAL)
            return
        counts.print()
        late = None if patience is None else _lateness(pit, patience)
    if late is not None:
        # Whole seconds: the time of the look is no exact one.
        told = format_duration(max(late - late % timedelta(seconds=1), timedelta(milliseconds=1)))
        warn(f"Late: a message has been due for {told}. Is a consumer running, and is it keeping up?")
        raise click.exceptions.Exit(_LATE)


def _lateness(pit: Pitstop, patience: timedelta) -> timedelta | None:
    """Return for how long a message has been due, if that is longer than ``patience``. Messages of paused kinds do not count."""
    oldest, now = pit.stats().oldest_due, pit.now()
    if oldest is not None and now - oldest > patience and (paused := paused_kinds(pit)):
        dues = [each.oldest_due for kind, each in pit.stats(by="kind").items() if kind not in paused]
        oldest = min((each for each in dues if each is not None), default=None)
    return None if oldest is None or now - oldest <= patience else now - oldest


@attrs.define
class _Of:
    """The counts of the whole store."""

    settings: Settings
    pit: Pitstop
    #: The counts of the look before.
    before: Stats | None = None

    def print(self) -> None:
        """Print the counts once."""
        if self.settings.json:
            print_json(self._document())
        else:
            print_fields(self._fields())

    def line(self) -> None:
        """Print the counts in one line, for a watch without a terminal."""
        if self.settings.json:
            print_json({"now": iso(self.pit.now()), **self._document()})
            return
        counts, now = self.pit.stats(), self.pit.now()
        told = [f"{state} {getattr(counts, state):,}" for state in _states(Stats)]
        if counts.oldest_due is not None:
            told.append(f"oldest due {ago(counts.oldest_due, now)}")
        print_line(f"{iso(now)}  {'  '.join(told)}")

    def table(self) -> Table:
        """Return the counts as a table, for a watch on a terminal."""
        return fields_of([("now", iso(self.pit.now())), *self._fields(changes=True)])

    def _document(self) -> dict[str, Any]:
        counts, kinds = self.pit.stats(), paused_kinds(self.pit)
        return _document(counts) | {"paused_kinds": {kind: iso(end) for kind, end in kinds.items()}}

    def _fields(self, *, changes: bool = False) -> list[tuple[str, str | None]]:
        counts, now, kinds = self.pit.stats(), self.pit.now(), paused_kinds(self.pit)
        before, self.before = self.before if changes else None, counts
        oldest = counts.oldest_due
        return [
            *((state, _counted(counts, before, state)) for state in _SHOWN),
            ("oldest due", None if oldest is None else f"{iso(oldest)} ({ago(oldest, now)})"),
            *paused_rows(kinds),
        ]


@attrs.define
class _ByKind:
    """The counts of each kind."""

    settings: Settings
    pit: Pitstop

    def print(self) -> None:
        """Print the counts once."""
        if self.settings.json:
            for kind, counts in self.pit.stats(by="kind").items():
                print_json({"kind": kind, **_document(counts)})
            return
        print_table(*self._columns_and_rows())

    def line(self) -> None:
        """Print a line for each kind, for a watch without a terminal."""
        kinds, now = self.pit.stats(by="kind"), iso(self.pit.now())
        for kind, counts in kinds.items():
            if self.settings.json:
                print_json({"now": now, "kind": kind, **_document(counts)})
            else:
                told = "  ".join(f"{state} {getattr(counts, state):,}" for state in _states(Stats))
                print_line(f"{now}  {kind or '-'}  {told}")

    def table(self) -> Table:
        """Return the counts as a table, for a watch on a terminal."""
        return table_of(*self._columns_and_rows())

    def _columns_and_rows(self) -> tuple[list[str], list[tuple[str | None, ...]]]:
        kinds, now, states = self.pit.stats(by="kind"), self.pit.now(), list(_states(Stats))
        rows = [
            (
                kind,
                *(f"{getattr(counts, state):,}" for state in states),
                iso(counts.oldest_due),
                None if counts.oldest_due is None else ago(counts.oldest_due, now),
            )
            for kind, counts in kinds.items()
        ]
        return ["kind", *states, "oldest due", ""], rows


def _counted(counts: Stats, before: Stats | None, state: str) -> str:
    """Return a number, and how it has changed since the look before."""
    count = int(getattr(counts, state))
    change = 0 if before is None else count - int(getattr(before, state))
    return f"{count:,}  {change:+,}" if change else f"{count:,}"


def _document(counts: Stats) -> dict[str, Any]:
    return {**{state: getattr(counts, state) for state in _states(Stats)}, "oldest_due": iso(counts.oldest_due)}


def _states(stats: type[Stats]) -> Iterator[str]:
    return (each.name for each in attrs.fields(stats) if each.name != "oldest_due")
