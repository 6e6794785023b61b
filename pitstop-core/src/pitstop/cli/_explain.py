"""``pitstop explain``: why a message has not come."""

from __future__ import annotations

from typing import Any

import click

from pitstop import Explanation
from pitstop._recurrence._preview import Upcoming
from pitstop._values._duration import format_duration
from pitstop.cli._consumers import consumer_documents
from pitstop.cli._entries import unknown
from pitstop.cli._output import needs_stdout, print_fields, print_json
from pitstop.cli._settings import Settings, common_options
from pitstop.cli._times import ago, iso


__all__ = ["explain"]


@click.command()
@click.argument("id")
@common_options
@click.pass_obj
def explain(settings: Settings, id: str) -> None:
    """Say why a message has not come, and what is to come. The message itself is not printed: 'pitstop show' does that."""
    needs_stdout("explain")
    with settings.open_existing() as pit:
        found = pit.explain(id)
    if found is None:
        raise click.ClickException(unknown(id))
    if settings.json:
        print_json(_document(found))
        return
    entry = found.entry
    print_fields(
        [
            ("why", found.why),
            ("id", entry.id),
            ("kind", entry.kind or None),
            ("state", entry.state),
            ("since", None if found.since is None else f"{iso(found.since)} ({ago(found.since, found.now)})"),
            ("due", iso(entry.due)),
            ("leased until", iso(entry.leased_until)),
            ("paused until", iso(entry.paused_until)),
            ("attempts", str(entry.attempts)),
            ("last error", entry.last_error),
            *_occurrences(found.upcoming),
            *_seen(found),
            ("clock skew", f"{format_duration(found.clock_skew)} (this machine's clock is ahead by it)"),
        ]
    )


def _occurrences(upcoming: tuple[Upcoming, ...]) -> list[tuple[str, str | None]]:
    return [("" if index else "occurrences", str(each)) for index, each in enumerate(upcoming)]


def _seen(found: Explanation) -> list[tuple[str, str | None]]:
    """Return rows with the consumers that take the kind, if that is known."""
    if found.consumers is None:
        return []
    shown = [
        f"{each.name} on {each.host}, pid {each.pid}, {each.in_handlers} in handlers, seen {ago(each.seen, found.now)}"
        for each in found.consumers
    ]
    return [("" if index else "consumers", each) for index, each in enumerate(shown or ["none was seen lately"])]


def _document(found: Explanation) -> dict[str, Any]:
    entry = found.entry
    return {
        "id": entry.id,
        "kind": entry.kind,
        "state": entry.state,
        "why": found.why,
        "now": iso(found.now),
        "since": iso(found.since),
        "due": iso(entry.due),
        "scheduled_for": iso(entry.scheduled_for),
        "leased_until": iso(entry.leased_until),
        "paused_until": iso(entry.paused_until),
        "attempts": entry.attempts,
        "last_error": entry.last_error,
        "occurrences": [iso(each.at) for each in found.upcoming],
        "kind_paused": found.kind_paused,
        "kind_paused_until": iso(found.kind_paused_until),
        "consumers": None if found.consumers is None else consumer_documents(found.consumers),
        "handled_by": consumer_documents(found.handled_by),
        "clock_skew": format_duration(found.clock_skew),
    }
