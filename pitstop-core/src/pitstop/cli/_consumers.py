"""``pitstop consumers``: the processes that consume the messages of a store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click

from pitstop import SeenConsumer
from pitstop._values._duration import format_duration
from pitstop.abc import AllBut
from pitstop.cli._output import needs_stdout, print_json, print_table, say
from pitstop.cli._settings import Settings, common_options
from pitstop.cli._times import ago, iso


__all__ = ["consumer_documents", "consumers"]


@click.command()
@common_options
@click.pass_obj
def consumers(settings: Settings) -> None:
    """List the processes that consume the messages, as they were seen lately.

    Each says once a minute that it runs. A process that was killed stays in the list for some minutes.
    """
    needs_stdout("consumers")
    with settings.open_existing() as pit:
        found, now = pit.seen_consumers(), pit.now()
    if settings.json:
        for each in consumer_documents(found):
            print_json(each)
        return
    if not found:
        say("No consumer was seen lately.")
        return
    print_table(
        ("name", "host", "pid", "kinds", "in handlers", "in hand", "since", "seen", "clock skew", ""),
        [_row(each, now) for each in found],
    )


def _row(consumer: SeenConsumer, now: datetime) -> tuple[str | None, ...]:
    return (
        consumer.name,
        consumer.host,
        str(consumer.pid),
        "; ".join(_kinds_text(each) for each in consumer.kinds),
        str(consumer.in_handlers),
        str(consumer.in_hand),
        iso(consumer.since),
        ago(consumer.seen, now),
        format_duration(consumer.clock_skew),
        None if consumer.healthy else "the store did not answer it",
    )


def _kinds_text(kinds: frozenset[str] | AllBut | None) -> str:
    if kinds is None:
        return "all"
    listed = ", ".join(each or repr(each) for each in sorted(kinds))
    return f"all but {listed}" if isinstance(kinds, AllBut) else listed


def consumer_documents(consumers: Sequence[SeenConsumer]) -> list[dict[str, Any]]:
    """Return consumers in JSON."""
    return [
        {
            "name": each.name,
            "host": each.host,
            "pid": each.pid,
            "since": iso(each.since),
            "seen": iso(each.seen),
            "kinds": [_kinds_document(kinds) for kinds in each.kinds],
            "in_hand": each.in_hand,
            "in_handlers": each.in_handlers,
            "handling": sorted(each.handling),
            "healthy": each.healthy,
            "clock_skew": format_duration(each.clock_skew),
        }
        for each in consumers
    ]


def _kinds_document(kinds: frozenset[str] | AllBut | None) -> Any:
    if kinds is None:
        return None
    return {"all_but": sorted(kinds)} if isinstance(kinds, AllBut) else sorted(kinds)
