"""What is in a Pitstop and what happened to it, for people who look at a test that failed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from pitstop._decisions._describe import describe
from pitstop._errors import PitstopError
from pitstop._pitstop import Pitstop
from pitstop._values._duration import format_duration
from pitstop._values._entry import Entry
from pitstop.testing._driving import unfaulted
from pitstop.testing._pitstop import TestPitstop
from pitstop.testing._report import clock_text, table


__all__ = ["explain"]

#: Entries that people want to read.
_MOST_ENTRIES = 20


def explain(pit: Pitstop) -> str:
    """The time, what is stored, and of a test's Pitstop also what happened last and which faults struck, as text.

    Pytest shows it with each failure of a test that uses the fixture ``pitstop``. It shows messages, shortened: they are
    those of a test. It sets no fault off, and raises nothing when the store does not answer.
    """
    parts = list(_stored(pit))
    if isinstance(pit, TestPitstop):
        parts.append(str(pit.events))
        if pit.faults.log:
            parts.append(str(pit.faults))
    return "\n\n".join(parts)


def _stored(pit: Pitstop) -> Iterator[str]:
    try:
        backend = unfaulted(pit._session.backend)
        now = backend.now()
        entries = [describe(each, now // 1000) for each in backend.scan(None, _MOST_ENTRIES + 1, None)]
        time = clock_text(pit.now())
    except PitstopError as error:
        yield f"{pit!r} cannot be looked at: {error}"
        return
    some = entries[:_MOST_ENTRIES]
    count = f"more than {_MOST_ENTRIES} messages (the first {len(some)})" if len(entries) > len(some) else _count(some)
    columns = ("due", "state", "id", "attempts", "every", "last error", "message")
    yield f"It is {time} UTC in {pit!r}."
    yield table(f"{count} stored", columns, [_row(each) for each in some])


def _row(entry: Entry) -> tuple[str, ...]:
    every = entry.every
    return (
        clock_text(entry.due),
        entry.state,
        entry.id,
        str(entry.attempts),
        "-" if every is None else format_duration(every) if isinstance(every, timedelta) else repr(every),
        entry.last_error or "-",
        repr(entry.message),
    )


def _count(entries: list[Entry]) -> str:
    return "1 message" if len(entries) == 1 else f"{len(entries) or 'no'} messages"
