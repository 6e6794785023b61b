"""Following: find out what happened to messages between two looks at a store. Functions of values, for ``pitstop tail``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Literal

import attrs

from pitstop import Entry


__all__ = ["Event", "Window", "events"]

#: ``gone``: acknowledged or removed. ``settled``: a series goes on with its next occurrence. ``back``: it waits for its next attempt.
Kind = Literal["stored", "changed", "due", "emitted", "back", "settled", "paused", "resumed", "dead", "gone"]


@attrs.frozen
class Event:
    """A change of one message. ``entry`` is the message after it; before it, if it is gone."""

    kind: Kind
    entry: Entry


class Window:
    """The messages of one look: the first of the store, by their due times."""

    def __init__(self, entries: Sequence[Entry], size: int) -> None:
        """Return a window.

        :param size: how many messages were asked for.
        """
        self.entries: Mapping[str, Entry] = {each.id: each for each in entries}
        #: The message with which a full window ends. None: all messages of the store are in it.
        self.last: Entry | None = entries[-1] if len(entries) >= size else None

    def reaches(self, due: datetime | None) -> bool:
        """Whether a message with this ``due`` would have been in the window."""
        if self.last is None or self.last.due is None:
            return True
        return due is not None and due < self.last.due


def events(before: Window, after: Window, get: Callable[[Entry], Entry | None]) -> Iterator[Event]:
    """Yield the changes between two looks, in the order of the due times.

    :param get: return a message that has left the window, as it is now; None if it is gone. If it returns the entry that it was
        given, nothing is known about the message.
    """
    for id, old in before.entries.items():
        if id not in after.entries:
            new = get(old)
            if new is None:
                yield Event("gone", old)
            elif new is not old:
                yield from _changes(old, new)
    for id, new in after.entries.items():
        known = before.entries.get(id)
        if known is not None:
            yield from _changes(known, new)
        elif before.reaches(new.due):
            # Else it was there, beyond the end of the window, perhaps.
            yield Event("stored", new)
            if new.state in {"leased", "dead"}:
                yield from _changes(attrs.evolve(new, state="due", attempts=0), new)


def _changes(old: Entry, new: Entry) -> Iterator[Event]:
    kind = _change(old, new)
    if kind is not None:
        yield Event(kind, new)
        if kind == "settled" and new.state == "leased":
            yield Event("emitted", new)


def _change(old: Entry, new: Entry) -> Kind | None:
    if new.state == "dead" or old.state == "dead":
        # A dead message that comes again was redriven.
        return None if new.state == old.state else "dead" if new.state == "dead" else "changed"
    if new.state == "paused" or old.state == "paused":
        return None if new.state == old.state else "paused" if new.state == "paused" else "resumed"
    if _has_gone_on(old, new):
        return "settled"
    if new.state == "leased" and (old.state != "leased" or new.attempts != old.attempts):
        return "emitted"
    if old.state == "leased" and new.state != "leased":
        return "back"
    if new.state == "due" and old.state == "scheduled":
        return "due"
    if (new.attempts, new.last_error) != (old.attempts, old.last_error):
        # A listener had it and gave it back between the looks.
        return "back"
    # An extended lease changes the revision of a message, too.
    return "changed" if new.revision != old.revision and new.state != "leased" else None


def _has_gone_on(old: Entry, new: Entry) -> bool:
    """Whether a series has come to a later occurrence. An emission that leaves out missed occurrences is none of this."""
    if new.every is None or (new.every, new.start) != (old.every, old.start):
        return False
    if new.scheduled_for is None or old.scheduled_for is None or new.scheduled_for <= old.scheduled_for:
        return False
    return new.state != "leased" or old.state == "leased"
