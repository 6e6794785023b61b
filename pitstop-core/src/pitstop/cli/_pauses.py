"""``pitstop pause`` and ``resume``: keep stored messages without emitting them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial

import click

from pitstop import Entry, Pitstop, ScheduleError
from pitstop.cli._changes import change_each
from pitstop.cli._entries import fail_with
from pitstop.cli._output import print_json, print_line
from pitstop.cli._settings import Settings, common_options
from pitstop.cli._streams import though_unread
from pitstop.cli._times import moment_or_duration, spelled


__all__ = ["pause", "resume"]


_kind = click.option("--kind", help="All messages of this kind, in the place of ids.")


@click.command()
@click.argument("ids", metavar="[ID...]", nargs=-1)
@_kind
@click.option(
    "--until",
    type=moment_or_duration,
    metavar="TIME|DURATION",
    help="When the pause ends by itself: a time, or a duration from now.",
)
@common_options
@click.pass_obj
def pause(settings: Settings, ids: tuple[str, ...], kind: str | None, until: datetime | timedelta | None) -> None:
    """Keep messages, and do not emit them until 'pitstop resume'.

    Give their ids, or --kind for all messages of a kind, also those that are stored later. If a listener has a message, its
    handler goes on, and its acknowledgement counts.
    """
    _check_given(ids, kind)
    if kind is not None:
        with settings.open_existing() as pit, _in_terms_of_options(until):
            paused = pit.pause(kind=kind, until=until)
        _print_kind(settings, kind, "paused", paused)
        return
    change_each(settings, ids, partial(_pause, until=until), "paused", "Paused {}", _why_not_paused)


@click.command()
@click.argument("ids", metavar="[ID...]", nargs=-1)
@_kind
@common_options
@click.pass_obj
def resume(settings: Settings, ids: tuple[str, ...], kind: str | None) -> None:
    """End the pauses of messages. They come when they were due, or now if that time has passed.

    Give their ids, or --kind for the pause of a kind.
    """
    _check_given(ids, kind)
    if kind is not None:
        with settings.open_existing() as pit:
            resumed = pit.resume(kind=kind)
        _print_kind(settings, kind, "resumed", resumed)
        fail_with([] if resumed else [f"The kind {kind!r} is not paused. 'pitstop stats' shows the paused kinds."])
        return
    change_each(settings, ids, Pitstop.resume, "resumed", "Resumed {}", _why_not_resumed)


def _pause(pit: Pitstop, id: str, *, until: datetime | timedelta | None) -> bool:
    with _in_terms_of_options(until):
        return pit.pause(id, until)


@contextmanager
def _in_terms_of_options(until: datetime | timedelta | None) -> Iterator[None]:
    """Reword errors about ``until`` so that they name the option."""
    try:
        yield
    except ScheduleError as error:
        text = str(error)
        if until is not None:
            text = text.replace(f"until={until!r}", spelled("--until", until))
        text = text.replace("or None: then resume() ends", "or leave --until out: then 'pitstop resume' ends")
        raise ScheduleError(text) from error


def _check_given(ids: tuple[str, ...], kind: str | None) -> None:
    if ids and kind is not None:
        raise click.UsageError(
            "Give the ids of messages or --kind, and not both: --kind is about all messages of a kind."
        )
    if not ids and kind is None:
        raise click.UsageError("Give the ids of messages, or --kind.")


def _print_kind(settings: Settings, kind: str, done: str, applied: bool) -> None:
    with though_unread():
        if settings.json:
            print_json({"kind": kind, done: applied})
        elif applied:
            print_line(f"{done.capitalize()} the kind {kind}")


def _why_not_paused(entry: Entry) -> str:
    if entry.state == "dead":
        return "is dead, so it is not emitted anyway."
    return f"has changed meanwhile, and is {entry.state} now. Try again."


def _why_not_resumed(entry: Entry) -> str:
    return f"is not paused but {entry.state}. Only a paused message can be resumed."
