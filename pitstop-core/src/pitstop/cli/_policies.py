"""The policies of one message: the options of ``store`` for them, and their forms in ``show`` and ``list``.

A pause is one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

import attrs
import click

from pitstop import Entry, Pitstop, Unsupported
from pitstop._values._duration import format_duration
from pitstop.cli._times import duration, iso


__all__ = [
    "Policies",
    "paused_kinds",
    "paused_rows",
    "policy_document",
    "policy_options",
    "policy_rows",
]

_Command = TypeVar("_Command", bound=Callable[..., Any])


@attrs.frozen
class Policies:
    """The policies that options give. None: not given."""

    retry: Mapping[str, str] | None
    lock_time: timedelta | None
    expires: timedelta | None

    @staticmethod
    def of(retry: Sequence[str], lock_time: timedelta | None, expires: timedelta | None) -> Policies:
        """Return the policies of these options.

        :raises click.UsageError: if a part of ``retry`` has no key and value.
        """
        given = {}
        for each in retry:
            key, sign, value = each.partition("=")
            if not sign or not key or not value:
                raise click.UsageError(f"--retry {each} has no key and value. Write it as in '--retry delay=5s'.")
            given[key] = value
        return Policies(given or None, lock_time, expires)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of ``store``."""
        return attrs.asdict(self, recurse=False)

    def reworded(self, text: str) -> str:
        """Return an error about the arguments of ``store`` so that it names the options."""
        for name, option in (("lock_time", "--lock-time"), ("expires", "--expires")):
            value = getattr(self, name)
            if value is not None:
                text = text.replace(f"{name}={value!r}", f"{option} {format_duration(value)}")
        return text


def policy_options(command: _Command) -> _Command:
    """Add the options that give policies."""
    for option in (
        click.option("--expires", type=duration, help="Do not emit it if it is later than this time."),
        click.option("--lock-time", type=duration, help="How long its leases are, whatever its listener says."),
        click.option(
            "--retry",
            multiple=True,
            metavar="KEY=VALUE",
            help="Its own retry, as in 'delay=5s' and 'max_attempts=3'. Give it several times for several keys.",
        ),
    ):
        command = option(command)
    return command


def policy_document(entry: Entry) -> dict[str, Any]:
    """Return the policies of a message in JSON."""
    retry = None if entry.retry is None else {name: _plain(value) for name, value in entry.retry.items()}
    return {"retry": retry, "lock_time": _plain(entry.lock_time), "expires": _plain(entry.expires)}


def policy_rows(entry: Entry) -> list[tuple[str, str | None]]:
    """Return rows with the policies that the message has."""
    rows: list[tuple[str, str | None]] = []
    if entry.retry is not None:
        rows.append(("retry", ", ".join(f"{name}={_plain(value)}" for name, value in entry.retry.items())))
    if entry.lock_time is not None:
        rows.append(("lock time", format_duration(entry.lock_time)))
    if entry.expires is not None:
        rows.append(("expires", f"{format_duration(entry.expires)} after its time"))
    return rows


def paused_kinds(pit: Pitstop) -> dict[str, datetime | None]:
    """Return the paused kinds of a store; none if the store cannot have any."""
    try:
        return pit.paused_kinds()
    except Unsupported:
        return {}


def paused_rows(kinds: Mapping[str, datetime | None]) -> list[tuple[str, str | None]]:
    """Return rows with the paused kinds, if there are any."""
    shown = [f"{kind!r}" if end is None else f"{kind!r} until {iso(end)}" for kind, end in kinds.items()]
    return [("" if index else "paused kinds", each) for index, each in enumerate(shown)]


def _plain(value: Any) -> Any:
    return format_duration(value) if isinstance(value, timedelta) else value
