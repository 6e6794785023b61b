"""``pitstop stats``: the number of messages in each state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import attrs
import click

from pitstop import Stats
from pitstop.cli._output import needs_stdout, print_fields, print_json, print_table
from pitstop.cli._policies import paused_kinds, paused_rows
from pitstop.cli._settings import Settings, common_options
from pitstop.cli._times import ago, iso


__all__ = ["stats"]


@click.command()
@click.option("--by", type=click.Choice(["kind"]), help="Count the messages of each kind. This reads all messages.")
@common_options
@click.pass_obj
def stats(settings: Settings, by: Literal["kind"] | None) -> None:
    """Count the messages by state, of the whole store or of each kind."""
    needs_stdout("stats")
    if by is not None:
        _by_kind(settings)
        return
    with settings.open_existing() as pit:
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


def _by_kind(settings: Settings) -> None:
    with settings.open_existing() as pit:
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
