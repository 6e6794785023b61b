"""``pitstop stats``: the number of messages in each state."""

from __future__ import annotations

import click

from pitstop.cli._output import needs_stdout, print_fields, print_json
from pitstop.cli._policies import paused_kinds, paused_rows
from pitstop.cli._settings import Settings, common_options
from pitstop.cli._times import ago, iso


__all__ = ["stats"]


@click.command()
@common_options
@click.pass_obj
def stats(settings: Settings) -> None:
    """Count the messages by state."""
    needs_stdout("stats")
    with settings.open_existing() as pit:
        counts, now, kinds = pit.stats(), pit.now(), paused_kinds(pit)
    if settings.json:
        print_json(
            {
                "scheduled": counts.scheduled,
                "due": counts.due,
                "leased": counts.leased,
                "dead": counts.dead,
                "paused": counts.paused,
                "oldest_due": iso(counts.oldest_due),
                "paused_kinds": {kind: iso(end) for kind, end in kinds.items()},
            }
        )
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
