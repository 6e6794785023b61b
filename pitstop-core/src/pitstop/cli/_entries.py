"""``pitstop list``, ``show``, ``remove`` and ``redrive``: inspect stored messages, and repair them by hand."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import click

from pitstop import Entry, Pitstop, PitstopError, Recurrence, ScheduleError
from pitstop._recurrence._every import Every
from pitstop._values._duration import format_duration
from pitstop.cli._many import Deed, chosen, dry_run_option
from pitstop.cli._output import (
    needs_stdout,
    print_fields,
    print_json,
    print_json_for_people,
    print_line,
    print_table,
    say,
    warn,
)
from pitstop.cli._policies import (
    is_too_late,
    paused_kinds,
    policy_document,
    policy_rows,
    why_kind_paused,
    why_paused,
)
from pitstop.cli._search import given, pages, search_options
from pitstop.cli._settings import Settings, common_options
from pitstop.cli._streams import though_unread
from pitstop.cli._times import ago, iso


__all__ = ["every_document", "every_text", "fail_with", "list_", "redrive", "remove", "show", "unknown"]

#: The most characters of an error in a table. ``show`` prints the whole error.
_SHORT_ERROR = 60


@click.command("list")
@search_options()
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="The most messages to list.")
@click.option("--all", "everything", is_flag=True, help="List all messages, read page by page.")
@common_options
@click.pass_obj
def list_(settings: Settings, /, limit: int, everything: bool, **search: Any) -> None:
    """List messages by due time, dead messages last; with --prefix, by id.

    Several options choose the messages that match all of them.

    With --json, prints one line per message, with the message itself.
    """
    needs_stdout("list")
    with settings.open_existing() as pit:
        if settings.json:
            more = _print_entries(pit, given(search), None if everything else limit)
        else:
            more = _tabulate(pit, given(search), None if everything else limit)
    if more:
        say(f"There are more than {limit}. Give a higher --limit, or --all.")


@click.command()
@click.argument("id")
@common_options
@click.pass_obj
def show(settings: Settings, id: str) -> None:
    """Show a message and the event that it is waiting for."""
    needs_stdout("show")
    with settings.open_existing() as pit:
        entry, now, kinds = pit.get(id), pit.now(), paused_kinds(pit)
    if entry is None:
        raise click.ClickException(unknown(id))
    if settings.json:
        print_json(_document(entry))
        return
    print_fields(
        [
            ("id", entry.id),
            ("kind", entry.kind or None),
            ("state", entry.state),
            ("why", why_kind_paused(entry, kinds) or _why(entry, now)),
            ("due", iso(entry.due)),
            ("scheduled for", iso(entry.scheduled_for)),
            ("every", every_text(entry.every)),
            *_series(entry),
            *policy_rows(entry),
            *_next(entry),
            ("attempts", str(entry.attempts)),
            ("last error", entry.last_error),
            ("leased until", iso(entry.leased_until)),
            ("paused until", iso(entry.paused_until)),
            ("revision", entry.revision),
        ]
    )
    print_json_for_people(entry.message)


@click.command()
@click.argument("ids", metavar="[ID...|-]", nargs=-1)
@search_options()
@dry_run_option
@common_options
@click.pass_obj
def remove(settings: Settings, /, ids: tuple[str, ...], dry_run: bool, **search: Any) -> None:
    """Remove messages, also those that a listener has right now.

    Give ids, '-' for ids on stdin (one per line), or options that choose messages: those that match all of them are removed. Use
    --dry-run first.
    """
    many = chosen(ids, search, dry_run=dry_run)
    if many is not None:
        many.do(settings, Deed("remove", "removed", Pitstop.remove_many, damaged=True))
        return
    errors = []
    with settings.open_existing() as pit:
        for id in ids:
            removed = pit.remove(id)
            with though_unread():
                if settings.json:
                    print_json({"id": id, "removed": removed})
                elif removed:
                    print_line(f"Removed {id}")
            if not removed:
                errors.append(unknown(id))
    fail_with(errors)


@click.command()
@click.argument("ids", metavar="[ID...|-]", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Redrive all dead messages.")
@search_options()
@dry_run_option
@common_options
@click.pass_obj
def redrive(settings: Settings, /, ids: tuple[str, ...], everything: bool, dry_run: bool, **search: Any) -> None:
    """Make dead messages due now, and count their attempts from zero.

    Give ids, '-' for ids on stdin (one per line), --all, or options that choose messages: the dead ones that match all of them are
    redriven. Use --dry-run first.
    """
    if everything and (ids or given(search)):
        raise click.UsageError("Give the ids of dead messages, options that choose them, or --all.")
    if not everything or dry_run:
        many = chosen(ids, {"state": "dead"} if everything else search, dry_run=dry_run)
        if many is not None:
            many.do(settings, Deed("redrive", "redriven", Pitstop.redrive_many, "dead"))
            return
    errors = []
    found = False
    with settings.open_existing() as pit:
        for id in (entry.id for entry in pages(pit, {"state": "dead"}, None)) if everything else ids:
            found = True
            error = _redrive(pit, id)
            with though_unread():
                if settings.json:
                    print_json({"id": id, "redriven": error is None, "error": error})
                elif error is None:
                    print_line(f"Redriven {id}")
            if error is not None:
                errors.append(error)
    if not found:
        say("No message is dead.")
    fail_with(errors)


def fail_with(errors: list[str]) -> None:
    """Print each error in a line, and fail if there was one."""
    for error in errors[:-1]:
        warn(f"Error: {error}")
    if errors:
        raise click.ClickException(errors[-1])


def _redrive(pit: Pitstop, id: str) -> str | None:
    """Redrive a message. Return None, or the reason if that is not possible."""
    try:
        if pit.redrive(id):
            return None
        entry = pit.get(id)
    except PitstopError as error:
        return str(error)
    return (
        unknown(id) if entry is None else f"{id!r} is not dead but {entry.state}. Only a dead message can be redriven."
    )


def _limited(pit: Pitstop, search: dict[str, Any], limit: int | None) -> Iterator[Entry | None]:
    """Yield the entries to show, and then None if there are more."""
    # One entry more than is shown is read, to find out whether there are more.
    for index, entry in enumerate(pages(pit, search, None if limit is None else limit + 1)):
        yield None if index == limit else entry


def _print_entries(pit: Pitstop, search: dict[str, Any], limit: int | None) -> bool:
    for entry in _limited(pit, search, limit):
        if entry is None:
            return True
        print_json(_document(entry))
    return False


def _tabulate(pit: Pitstop, search: dict[str, Any], limit: int | None) -> bool:
    now, more, rows = pit.now(), False, []
    for entry in _limited(pit, search, limit):
        if entry is None:
            more = True
        else:
            rows.append(_row(entry, now))
    columns = ["id", "kind", "state", "due", "", "every", "attempts", "last error"]
    if not any(row[1] for row in rows):
        # Most stores have no kinds.
        columns, rows = columns[:1] + columns[2:], [row[:1] + row[2:] for row in rows]
    print_table(columns, rows)
    return more


def _row(entry: Entry, now: datetime) -> tuple[str | None, ...]:
    error = entry.last_error
    if error is not None and len(error) > _SHORT_ERROR:
        error = error[: _SHORT_ERROR - 1] + "…"
    distance = None if entry.due is None else ago(entry.due, now)
    return (
        entry.id,
        entry.kind,
        entry.state,
        iso(entry.due),
        distance,
        every_text(entry.every),
        str(entry.attempts),
        error,
    )


def _document(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "kind": entry.kind,
        "state": entry.state,
        "due": iso(entry.due),
        "scheduled_for": iso(entry.scheduled_for),
        "every": every_document(entry.every),
        "start": iso(entry.start),
        "end": iso(entry.end),
        "catch_up": entry.catch_up,
        "grace": _span_text(entry.grace),
        "jitter": _span_text(entry.jitter),
        **policy_document(entry),
        "attempts": entry.attempts,
        "last_error": entry.last_error,
        "revision": entry.revision,
        "leased_until": iso(entry.leased_until),
        "paused_until": iso(entry.paused_until),
        "message": entry.message,
    }


def _why(entry: Entry, now: datetime) -> str:
    """Return the answer to: why has this message not come?"""
    if entry.scheduled_for is None:
        return "It cannot be read, so it is not emitted. See the last error for what to do."
    if entry.state == "paused":
        return why_paused(entry)
    if entry.state == "dead" or entry.due is None:
        return "It was set aside and is no longer emitted. See the last error; 'pitstop redrive' makes it due."
    when = ago(entry.due, now)
    if is_too_late(entry, now):
        return f"It became due {when}, longer ago than its expires. The next claim deletes it, unless a person has moved it."
    if entry.state == "due" and entry.attempts:
        which = f" that takes the kind {entry.kind!r}" if entry.kind else ""
        return (
            f"It became due again {when}, after attempt {entry.attempts}, and no listener has taken it since. "
            f"Is one running{which}, and is it keeping up?"
        )
    if entry.state == "due" and entry.kind:
        return (
            f"It became due {when}, and no listener has taken it. Is one running that takes the kind {entry.kind!r}, and is it "
            f"keeping up?"
        )
    if entry.state == "due":
        return f"It became due {when}, and no listener has taken it. Is one running, and is it keeping up?"
    if entry.state == "leased":
        return f"A listener has it (attempt {entry.attempts}). It comes back {when} unless it is acknowledged."
    if entry.attempts:
        return f"It failed {'once' if entry.attempts == 1 else f'{entry.attempts} times'} and comes back {when}."
    return f"Its time comes {when}."


def _series(entry: Entry) -> list[tuple[str, str | None]]:
    """Return what was stored with a recurrence. A one-shot message has none of it."""
    if entry.every is None:
        return []
    return [
        ("start", iso(entry.start)),
        ("end", iso(entry.end)),
        ("catch up", entry.catch_up),
        ("grace", _span_text(entry.grace)),
        ("jitter", _span_text(entry.jitter)),
    ]


def _span_text(span: timedelta | None) -> str | None:
    return None if span is None else format_duration(span)


def _next(entry: Entry) -> list[tuple[str, str | None]]:
    """Return rows with the occurrences after the current one, if the message recurs and its rule can be asked."""
    try:
        later = entry.upcoming(4)[1:] if entry.every is not None else []
    except ScheduleError:
        later = []
    return [("" if index else "next", str(each)) for index, each in enumerate(later)] or [("next", None)]


def every_document(every: timedelta | Recurrence | None) -> dict[str, Any] | None:
    """Return a recurrence in JSON."""
    recurrence = Every(every) if isinstance(every, timedelta) else every
    return None if recurrence is None else recurrence.to_plain()


def every_text(every: timedelta | Recurrence | None) -> str | None:
    """Return a recurrence as a table shows it."""
    if every is None:
        return None
    return format_duration(every) if isinstance(every, timedelta) else repr(every)


def unknown(id: str) -> str:
    """Return the error about an id that no message has."""
    return f"There is no message {id!r}: it has another id, or it was acknowledged or removed."
