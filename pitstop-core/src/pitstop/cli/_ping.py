"""``pitstop ping``: check whether the store can be used."""

from __future__ import annotations

import click

from pitstop.abc import SystemClock
from pitstop.cli._output import print_json, print_line
from pitstop.cli._settings import Settings, common_options


__all__ = ["ping"]


@click.command()
@common_options
@click.pass_obj
def ping(settings: Settings) -> None:
    """Ask the store whether it can be used, and how long it takes to answer."""
    clock = SystemClock()
    with settings.open_existing() as pit:
        pit.ping()  # the first call connects
        asked = clock.monotonic()
        pit.ping()
        milliseconds = round((clock.monotonic() - asked) * 1000, 3)
        location = pit.location
    if settings.json:
        print_json({"location": location, "ms": milliseconds})
    else:
        print_line(f"{location} answers in {milliseconds:,} ms")
