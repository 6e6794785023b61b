"""``pitstop pause`` and ``resume``: keep stored messages without emitting them."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial

import click

from pitstop import Entry, Pitstop
from pitstop.cli._changes import change_each
from pitstop.cli._settings import Settings, common_options
from pitstop.cli._times import moment_or_duration


__all__ = ["pause", "resume"]


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option(
    "--until",
    type=moment_or_duration,
    metavar="TIME|DURATION",
    help="When the pause ends by itself: a time, or a duration from now.",
)
@common_options
@click.pass_obj
def pause(settings: Settings, ids: tuple[str, ...], until: datetime | timedelta | None) -> None:
    """Keep messages, and do not emit them until 'pitstop resume'.

    If a listener has a message, its handler goes on, and its acknowledgement counts.
    """
    change_each(settings, ids, partial(Pitstop.pause, until=until), "paused", "Paused {}", _why_not_paused)


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@common_options
@click.pass_obj
def resume(settings: Settings, ids: tuple[str, ...]) -> None:
    """End the pauses of messages. They come when they were due, or now if that time has passed."""
    change_each(settings, ids, Pitstop.resume, "resumed", "Resumed {}", _why_not_resumed)


def _why_not_paused(entry: Entry) -> str:
    if entry.state == "dead":
        return "is dead, so it is not emitted anyway."
    return f"has changed meanwhile, and is {entry.state} now. Try again."


def _why_not_resumed(entry: Entry) -> str:
    return f"is not paused but {entry.state}. Only a paused message can be resumed."
