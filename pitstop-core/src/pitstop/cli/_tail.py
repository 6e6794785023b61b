"""``pitstop tail``: follow what happens to messages, without taking any."""

from __future__ import annotations

from datetime import timedelta

import attrs
import click

from pitstop import Entry, Pitstop
from pitstop.cli._following import Event, Window, events
from pitstop.cli._output import needs_stdout, print_json, print_line, say
from pitstop.cli._settings import Settings, common_options
from pitstop.cli._times import duration, iso
from pitstop.cli._watching import watching


__all__ = ["tail"]

#: The time between two looks.
_INTERVAL = timedelta(seconds=1)
#: The messages of one look.
_SIZE = 1000
#: How many messages that have left the window are asked for, one by one, after a look. The others are only counted.
_MOST_ASKED = 100
#: The most characters of an error.
_SHORT_ERROR = 200


@click.command()
@click.option("--interval", type=duration, default=None, help="The time between two looks at the store. Default: 1s.")
@click.option("--kind", help="Follow messages of this kind only.")
@common_options
@click.pass_obj
def tail(settings: Settings, interval: timedelta | None, kind: str | None) -> None:
    """Follow what is stored, emitted and settled, a line each, until Ctrl-C. No message is taken or changed.

    It compares looks at the 1,000 messages that are due first. A message that comes and goes between two looks is not seen.
    """
    needs_stdout("tail")
    with settings.open_existing() as pit:
        follower = _Follower(settings, pit, kind)
        watching(follower.look, interval or _INTERVAL)


@attrs.define
class _Follower:
    """Looks at a store again and again, and prints the changes."""

    settings: Settings
    pit: Pitstop
    kind: str | None
    before: Window | None = None
    #: How many more messages may be asked for after this look, and how many were not.
    left: int = 0
    unknown: int = 0

    def look(self) -> None:
        """Look at the store, and print what has happened since the last look."""
        after = Window(self.pit.entries(limit=_SIZE, kind=self.kind), _SIZE)
        before, self.before = self.before, after
        if before is None:
            return
        self.left, self.unknown = _MOST_ASKED, 0
        now = iso(self.pit.now())
        for event in events(before, after, self._get):
            self._print(now, event)
        if self.unknown:
            say(f"{self.unknown:,} more messages have left the first {_SIZE:,}: acknowledged, removed, or due later.")

    def _get(self, old: Entry) -> Entry | None:
        if self.left:
            self.left -= 1
            return self.pit.get(old.id)
        self.unknown += 1
        return old

    def _print(self, now: str | None, event: Event) -> None:
        entry = event.entry
        if self.settings.json:
            print_json(
                {
                    "now": now,
                    "event": event.kind,
                    "id": entry.id,
                    "kind": entry.kind,
                    "state": None if event.kind == "gone" else entry.state,
                    "due": iso(entry.due),
                    "attempts": entry.attempts,
                    "last_error": entry.last_error,
                }
            )
            return
        told = [f"{now}  {event.kind:<8}", entry.id]
        if entry.kind:
            told.append(f"kind {entry.kind}")
        if event.kind in {"stored", "changed", "back", "settled", "resumed"} and entry.due is not None:
            told.append(f"due {iso(entry.due)}")
        if event.kind in {"emitted", "back", "dead"}:
            told.append(f"attempt {entry.attempts}")
        if event.kind in {"back", "dead"} and entry.last_error:
            told.append(entry.last_error.splitlines()[0][:_SHORT_ERROR])
        print_line("  ".join(told))
