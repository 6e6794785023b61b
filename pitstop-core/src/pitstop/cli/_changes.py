"""``pitstop reschedule``, ``emit-now`` and ``release``: move stored messages in time by hand."""

from __future__ import annotations

import re

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import click

from pitstop import Entry, Pitstop, PitstopError
from pitstop.cli._entries import fail_with, unknown
from pitstop.cli._many import Deed, chosen, dry_run_option
from pitstop.cli._output import print_json, print_line
from pitstop.cli._search import search_options
from pitstop.cli._settings import Settings, common_options
from pitstop.cli._streams import though_unread
from pitstop.cli._times import iso, moment_or_distance


__all__ = ["change_each", "emit_now", "release", "reschedule"]

#: An argument that is meant as a distance into the past. No option begins with a digit.
_DISTANCE = re.compile(r"-\d\S*")


class _WithDistance(click.Command):
    """A command whose last argument may be a distance into the past, as in ``-1h``, which looks like an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = [each for each in self.params if isinstance(each, click.Option) and not each.is_flag]
        with_value = {name for each in options for name in each.opts}
        for index, arg in enumerate(args):
            if arg == "--":
                break
            if _DISTANCE.fullmatch(arg) and (not index or args[index - 1] not in with_value):
                args = [*args[:index], *args[index + 1 :], "--", arg]
                break
        return super().parse_args(ctx, args)


def _when(text: str) -> datetime | timedelta:
    try:
        return moment_or_distance(text)
    except click.BadParameter as error:
        raise click.BadParameter(f"{error.message} It comes last, after the ids.") from None


@click.command(cls=_WithDistance)
@click.argument("ids", metavar="[ID...|-]", nargs=-1)
@click.argument("when", type=_when, metavar="TIME|DURATION")
@search_options()
@dry_run_option
@common_options
@click.pass_obj
def reschedule(
    settings: Settings, /, ids: tuple[str, ...], when: datetime | timedelta, dry_run: bool, **search: Any
) -> None:
    """Let messages come at another time: a time, or a duration from now; '-1h' is an hour ago, so the message is due at once.

    Of a series, the current occurrence comes then, and the others stay. If a listener has a message, its lease ends.

    Give ids, '-' for ids on stdin (one per line), or options that choose messages: those that match all of them are rescheduled. Use
    --dry-run first.
    """
    many = chosen(ids, search, dry_run=dry_run)
    if many is not None:
        many.do(settings, Deed("reschedule", "rescheduled", Pitstop.reschedule_many), when=when)
        return
    errors = []
    with settings.open_existing() as pit:
        for id in ids:
            done = pit.reschedule(id, when)
            entry = pit.get(id) if done else None
            due = None if entry is None else iso(entry.due)
            with though_unread():
                if settings.json:
                    print_json({"id": id, "rescheduled": done, "due": due})
                elif done:
                    print_line(f"Rescheduled {id}" if due is None else f"Rescheduled {id} to {due}")
            if not done:
                errors.append(unknown(id))
    fail_with(errors)


@click.command("emit-now")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@common_options
@click.pass_obj
def emit_now(settings: Settings, ids: tuple[str, ...]) -> None:
    """Let messages come now, also those that wait for a retry.

    Of a series, the current occurrence comes now, and the others stay.
    """
    change_each(settings, ids, Pitstop.emit_now, "emitted_now", "Due now: {}", _why_not_now)


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@common_options
@click.pass_obj
def release(settings: Settings, ids: tuple[str, ...]) -> None:
    """End the leases of messages whose listener is dead, so that they are due now.

    If the listener is alive, the message is emitted twice.
    """
    change_each(settings, ids, Pitstop.release, "released", "Released {}", _why_not_released)


def change_each(
    settings: Settings,
    ids: tuple[str, ...],
    change: Callable[[Pitstop, str], bool],
    name: str,
    said: str,
    why_not: Callable[[Entry], str],
) -> None:
    """Change each message, and print what was done.

    :param name: the name of the answer in JSON.
    :param said: the line for a message that was changed.
    :param why_not: return the reason why a message was not changed, as the end of a sentence.
    """
    errors = []
    with settings.open_existing() as pit:
        for id in ids:
            error = _change(pit, id, change, why_not)
            with though_unread():
                if settings.json:
                    print_json({"id": id, name: error is None, "error": error})
                elif error is None:
                    print_line(said.format(id))
            if error is not None:
                errors.append(error)
    fail_with(errors)


def _change(
    pit: Pitstop, id: str, change: Callable[[Pitstop, str], bool], why_not: Callable[[Entry], str]
) -> str | None:
    """Change a message. Return None, or the reason if that is not possible."""
    try:
        if change(pit, id):
            return None
        entry = pit.get(id)
    except PitstopError as error:
        return str(error)
    return unknown(id) if entry is None else f"{id!r} {why_not(entry)}"


def _why_not_now(entry: Entry) -> str:
    if entry.state == "dead":
        return "is dead. Use 'pitstop redrive'."
    if entry.state == "leased":
        return f"is with a listener, until {iso(entry.leased_until)} at most. If the listener is dead, use 'pitstop release'."
    if entry.state == "paused":
        return "is paused. Use 'pitstop resume' first."
    return f"has changed meanwhile, and is {entry.state} now. Try again."


def _why_not_released(entry: Entry) -> str:
    return f"is not leased but {entry.state}. Only a leased message can be released."
