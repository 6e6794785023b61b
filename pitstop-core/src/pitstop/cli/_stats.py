"""``pitstop stats``: the number of messages in each state."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Literal

import attrs
import click

from pitstop import Pitstop, Stats
from pitstop._values._duration import format_duration
from pitstop.cli._output import needs_stdout, print_fields, print_json, print_table, warn
from pitstop.cli._policies import paused_kinds, paused_rows
from pitstop.cli._settings import Settings, common_options
from pitstop.cli._times import ago, duration, iso


__all__ = ["stats"]

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
@common_options
@click.pass_obj
def stats(settings: Settings, by: Literal["kind"] | None, patience: timedelta | None) -> None:
    """Count the messages by state, of the whole store or of each kind."""
    needs_stdout("stats")
    with settings.open_existing() as pit:
        if by is not None:
            _print_by_kind(settings, pit)
        else:
            _print(settings, pit)
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


def _print(settings: Settings, pit: Pitstop) -> None:
    counts, now, kinds = pit.stats(), pit.now(), paused_kinds(pit)
    if settings.json:
        print_json(_document(counts) | {"paused_kinds": {kind: iso(end) for kind, end in kinds.items()}})
        return
    oldest = counts.oldest_due
    print_fields(
        [
            ("scheduled", f"{counts.scheduled:,}"),
            ("due", f"{counts.due:,}"),
            ("leased", f"{counts.leased:,}"),
            ("dead", f"{counts.dead:,}"),
            ("paused", f"{counts.paused:,}"),
            ("oldest due", None if oldest is None else f"{iso(oldest)} ({ago(oldest, now)})"),
            *paused_rows(kinds),
        ]
    )


def _print_by_kind(settings: Settings, pit: Pitstop) -> None:
    kinds, now = pit.stats(by="kind"), pit.now()
    if settings.json:
        for kind, counts in kinds.items():
            print_json({"kind": kind, **_document(counts)})
        return
    states = list(_states(Stats))
    rows = [
        (
            kind,
            *(f"{getattr(counts, state):,}" for state in states),
            iso(counts.oldest_due),
            None if counts.oldest_due is None else ago(counts.oldest_due, now),
        )
        for kind, counts in kinds.items()
    ]
    print_table(["kind", *states, "oldest due", ""], rows)


def _document(counts: Stats) -> dict[str, Any]:
    return {**{state: getattr(counts, state) for state in _states(Stats)}, "oldest_due": iso(counts.oldest_due)}


def _states(stats: type[Stats]) -> Iterator[str]:
    return (each.name for each in attrs.fields(stats) if each.name != "oldest_due")
