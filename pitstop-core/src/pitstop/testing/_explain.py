"""The content and the history of a Pitstop, for people who read a failed test."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from pitstop._decisions._describe import describe
from pitstop._errors import PitstopError
from pitstop._pitstop import Pitstop, session_of
from pitstop._values._duration import format_duration
from pitstop._values._entry import Entry
from pitstop.testing._faulty_backend import unfaulted
from pitstop.testing._pitstop import TestPitstop
from pitstop.testing._report import clock_text, table


__all__ = ["explain"]

#: The most entries that are shown.
_MOST_ENTRIES = 20


def explain(pit: Pitstop) -> str:
    """Return the time and the stored messages as text; for a test's Pitstop also the last events and the faults that struck.

    Pytest shows this with each failure of a test that uses the fixture ``pitstop``. It shows messages, shortened, because they
    are those of a test. It sets off no fault, and does not raise if the store does not answer.
    """
    parts = list(_stored(pit))
    if isinstance(pit, TestPitstop):
        parts.append(str(pit.events))
        if pit.faults.log:
            parts.append(str(pit.faults))
    return "\n\n".join(parts)


def _stored(pit: Pitstop) -> Iterator[str]:
    try:
        backend = unfaulted(session_of(pit).backend)
        now = backend.now()
        entries = [describe(each, now // 1000) for each in backend.scan(None, _MOST_ENTRIES + 1, None)]
        time = clock_text(pit.now())
    except PitstopError as error:
        yield f"{pit!r} cannot be read: {error}"
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
