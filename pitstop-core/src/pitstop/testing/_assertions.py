"""Assertions that explain: the wanted values, and how the nearest stored messages differ from them.

They show values of messages, as no other part of Pitstop does: the messages are those of a test.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import attrs

from pitstop._decisions._describe import describe
from pitstop._errors import PitstopError
from pitstop._pitstop import Pitstop, session_of
from pitstop._recurrence._base import Recurrence
from pitstop._values._entry import Entry, State
from pitstop._values._instant import aware, floor_instant, from_instant, instant_of
from pitstop._values._quoting import quoted
from pitstop.testing._clock import span_of
from pitstop.testing._events import Event, Events
from pitstop.testing._faulty_backend import unfaulted
from pitstop.testing._matching import (
    ANYTHING,
    MOST_SHOWN,
    Anything,
    Match,
    Wanted,
    short,
    span_text,
    time_text,
    usable,
)
from pitstop.testing._report import Report, Step, clock_text


__all__ = [
    "assert_dead",
    "assert_emitted",
    "assert_no_leases",
    "assert_stored",
    "refute_stored",
]

_PAGE = 1000

#: The fields of an emission. An event of the kind "emitted" has no error and no outcome.
_OF_STEPS = frozenset(each.name for each in attrs.fields(Step)) - {"msg"}
_OF_EVENTS = frozenset({"id", "at", "scheduled_for", "attempt"})


def assert_stored(
    pit: Pitstop,
    match: Match | None = None,
    *,
    id: str | None = None,
    state: State | None = None,
    due_in: timedelta | float | str | None = None,
    due: datetime | None = None,
    every: timedelta | float | str | Recurrence | Anything | None = ANYTHING,
    **fields: Any,
) -> Entry:
    """Assert that exactly one message like this is stored, and return its entry.

    :param match: a mapping: the message has these keys with these values, in nested mappings likewise; or a function of
        the message that returns whether it is the wanted one.
    :param due_in: the message is due exactly this long from now: a ``timedelta``, seconds, or text such as ``"3h"``.
    :param due: the message is due exactly at this time.
    :param every: the message recurs like this: given as ``due_in``, or a recurrence. None: it does not recur.
    :param fields: other fields of :class:`pitstop.Entry`, such as ``attempts=2`` or ``end=None``.
    :raises AssertionError: if there is none, or several; the text shows how the nearest ones differ.
    :raises PitstopError: if no message could ever be like this: an unknown field, or a value of another type.
    """
    __tracebackhide__ = True
    wanted = _wanted(pit, match, id=id, state=state, due_in=due_in, due=due, every=every, fields=fields)
    return _the_one(pit, wanted)


def _the_one(pit: Pitstop, wanted: Wanted) -> Entry:
    __tracebackhide__ = True
    entries = _all_entries(pit)
    found = [each for each in entries if not wanted.differences(each.message, each)]
    if len(found) == 1:
        return found[0]
    if found:
        raise AssertionError(
            f"{len(found)} messages are stored with {wanted}, not one: {_named(found, pit)}. "
            f"Give more details of the wanted message, or its id."
        )
    raise AssertionError(f"No message is stored with {wanted}. {_nearest(wanted, entries, pit)}")


def refute_stored(
    pit: Pitstop,
    match: Match | None = None,
    *,
    id: str | None = None,
    state: State | None = None,
    due_in: timedelta | float | str | None = None,
    due: datetime | None = None,
    every: timedelta | float | str | Recurrence | Anything | None = ANYTHING,
    **fields: Any,
) -> None:
    """Assert that no message like this is stored; without arguments, that none is stored. See :func:`assert_stored`.

    :raises AssertionError: if there is one; the text names it.
    :raises PitstopError: if no message could ever be like this.
    """
    __tracebackhide__ = True
    wanted = _wanted(pit, match, id=id, state=state, due_in=due_in, due=due, every=every, fields=fields)
    found = [each for each in _all_entries(pit) if not wanted.differences(each.message, each)]
    if found:
        raise AssertionError(f"{_count(len(found))} stored with {wanted}, and none should be: {_named(found, pit)}.")


def assert_emitted(
    happened: Report | Events | Iterable[Step | Event],
    match: Match | None = None,
    *,
    id: str | None = None,
    at: datetime | None = None,
    times: int | None = None,
    **fields: Any,
) -> list[Step | Event]:
    """Assert that a message like this was emitted, and return the steps or events of its emissions, in order.

    :param happened: the report of a run, or the events of a Pitstop.
    :param match: as in :func:`assert_stored`, for the message as it was emitted.
    :param at: the exact time when the message was handed out.
    :param times: the exact number of emissions, 0 included. None: at least one.
    :param fields: for a report, other fields of :class:`Step`, such as ``attempt=2`` or ``outcome="acked"``; for events,
        ``scheduled_for`` and ``attempt``. The outcome is not known yet when a message is handed out.
    :raises AssertionError: if it was not emitted so; the text shows how the nearest emissions differ.
    :raises PitstopError: if no emission could ever be like this.
    """
    __tracebackhide__ = True
    if times is not None and (type(times) is not int or times < 0):
        raise PitstopError(f"times={quoted(times)} cannot be used. Give a whole number of at least 0.")
    everything = _all_of(happened)
    criteria = {**({} if id is None else {"id": id}), **({} if at is None else {"at": at}), **fields}
    known = _known_of(happened, everything, criteria)
    checked = {name: usable(name, value) for name, value in criteria.items() if name in known}
    wanted = Wanted(match, {**criteria, **checked}, known, None, None, ("match", "times"))
    emitted = list(_emissions(everything))
    found = [each for each in emitted if not wanted.differences(each.msg or {}, each)]
    if found if times is None else len(found) == times:
        return found
    count = "Nothing was" if not found else f"{len(found)} {'time' if len(found) == 1 else 'times'} a message was"
    often = "" if times is None else f", not {times} {'time' if times == 1 else 'times'}"
    text = f"{count} emitted with {wanted}{often}."
    if found:
        text += "".join(f"\n  {each.id!r} at {time_text(each.at)}" for each in found[: MOST_SHOWN * 3])
    else:
        total = "1 emission" if len(emitted) == 1 else f"{len(emitted)} emissions"
        text += f" {total} in all{'; the nearest:' if emitted else '.'}"
        ranked = wanted.ranked((each.id, each.msg or {}, each) for each in emitted)
        text += "".join(_described(f"{each.id!r} at {time_text(each.at)}", lines) for lines, each in ranked)
    raise AssertionError(text)


def assert_dead(
    pit: Pitstop, match: Match | None = None, *, id: str | None = None, error: str | None = None, **fields: Any
) -> Entry:
    """Assert that exactly one message like this is dead, and return its entry. See :func:`assert_stored`.

    :param error: a part of its last error.
    :raises AssertionError: if there is none, or several.
    :raises PitstopError: if no message could ever be like this.
    """
    __tracebackhide__ = True
    if error is not None and not isinstance(error, str):
        raise PitstopError(f"error is a {type(error).__name__}. Give a part of the text that is kept with the message.")
    wanted = _wanted(pit, match, id=id, state="dead", fields=fields, error=error)
    return _the_one(pit, wanted)


def assert_no_leases(pit: Pitstop) -> None:
    """Assert that no message is leased: all emitted messages were acknowledged, nacked, or came back.

    :raises AssertionError: if a message is leased; the text names it.
    """
    __tracebackhide__ = True
    leased = [each for each in _all_entries(pit) if each.state == "leased"]
    if leased:
        held = ", ".join(
            f"{each.id!r} (attempt {each.attempts}, until {clock_text(each.leased_until)})"
            for each in leased[:MOST_SHOWN]
        )
        more = f" and {len(leased) - MOST_SHOWN} more" if len(leased) > MOST_SHOWN else ""
        raise AssertionError(
            f"{_count(len(leased))} leased: {held}{more}. "
            f"Neither an ack nor a nack came for {'it' if len(leased) == 1 else 'them'}."
        )


def _wanted(
    pit: Pitstop,
    match: Match | None,
    *,
    id: str | None = None,
    state: State | None = None,
    due_in: timedelta | float | str | None = None,
    due: datetime | None = None,
    every: object = ANYTHING,
    fields: dict[str, Any],
    error: str | None = None,
) -> Wanted:
    names = {field.name for field in attrs.fields(Entry)} - {"message"}
    now_us = session_of(_pitstop(pit)).backend.now()
    criteria: dict[str, Any] = {}
    if id is not None:
        criteria["id"] = id
    if state is not None:
        criteria["state"] = state
    if due_in is not None and due is not None:
        raise PitstopError("due_in and due both give the due time. Give one.")
    if due_in is not None:
        criteria["due"] = from_instant(instant_of(span_of(due_in, "due_in"), now_us, "due_in"))
    elif due is not None:
        criteria["due"] = from_instant(instant_of(aware(due, "due"), now_us, "due"))
    if every is not ANYTHING:
        criteria["every"] = every
    criteria |= fields
    checked = {name: usable(name, value) for name, value in criteria.items() if name in names}
    now = from_instant(now_us // 1000) if due_in is not None else None
    return Wanted(match, {**criteria, **checked}, names, now, error, ("match", "due_in"))


def _pitstop(pit: object) -> Pitstop:
    if isinstance(pit, Pitstop):
        return pit
    raise PitstopError(
        f"A {type(pit).__name__} was given where a Pitstop should be. "
        f"It comes first: testing.assert_stored(pit, {{...}}), or pit.assert_stored({{...}}) of a test's Pitstop."
    )


def _all_entries(pit: Pitstop) -> list[Entry]:
    backend = unfaulted(session_of(_pitstop(pit)).backend)
    entries: list[Entry] = []
    after: tuple[int | None, str] | None = None
    while True:
        page = backend.scan(None, _PAGE, after)
        now = backend.now() // 1000
        entries += (describe(each, now) for each in page)
        if len(page) < _PAGE:
            return entries
        last = entries[-1]
        after = (None if last.due is None else floor_instant(last.due), last.id)


def _all_of(happened: object) -> list[Step | Event]:
    if isinstance(happened, Pitstop):
        events = "pit.events" if hasattr(happened, "events") else "the testing.Events(clock) that is among its plugins"
        raise PitstopError(
            f"A {type(happened).__name__} was given where a report or events should be. Give what a run returned, as in "
            f"testing.assert_emitted(report, ...), or {events}."
        )
    if not isinstance(happened, Iterable):
        raise PitstopError(f"A {type(happened).__name__} has no emissions. Give a report, or pit.events.")
    everything = list(happened)
    for each in everything:
        if not isinstance(each, Step | Event):
            raise PitstopError(f"A {type(each).__name__} is not an emission. Give a report, or pit.events.")
    return everything


def _known_of(happened: object, everything: Sequence[Step | Event], criteria: Mapping[str, Any]) -> frozenset[str]:
    """Return the fields that all of these have.

    :raises PitstopError: if a criterion names a field that only other kinds have.
    """
    steps = isinstance(happened, Report) or any(isinstance(each, Step) for each in everything)
    events = isinstance(happened, Events) or any(isinstance(each, Event) for each in everything)
    if not events:
        if not steps:
            # An empty list may be meant for steps or for events.
            return _OF_STEPS | _OF_EVENTS
        return _OF_STEPS
    for name in criteria:
        if name in _OF_STEPS - _OF_EVENTS:
            raise PitstopError(
                f"Events describe the beginning of an emission, and have no {name!r} of it. Use the report of the run: "
                f"testing.assert_emitted(report, {name}=...), where report is the result of run_for() or a similar function."
            )
    return _OF_EVENTS


def _emissions(happened: Iterable[Step | Event]) -> Iterator[Step | Event]:
    for each in happened:
        if each.emitted if isinstance(each, Step) else each.kind == "emitted":
            yield each


def _nearest(wanted: Wanted, entries: Sequence[Entry], pit: Pitstop) -> str:
    if not entries:
        return "Nothing is stored at all."
    now = from_instant(session_of(pit).backend.now() // 1000)
    ranked = wanted.ranked((each.id, each.message, each) for each in entries)
    shown = "".join(_described(_title(each, now), lines) for lines, each in ranked)
    return f"{_count(len(entries))} stored; the nearest:{shown}"


def _described(title: str, lines: Sequence[str]) -> str:
    return f"\n  {title}" + "".join(f"\n    {line}" for line in lines)


def _named(found: Sequence[Entry], pit: Pitstop) -> str:
    now = from_instant(session_of(pit).backend.now() // 1000)
    more = f" and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
    return ", ".join(_title(each, now) for each in found[:MOST_SHOWN]) + more


def _title(entry: Entry, now: datetime) -> str:
    when = "" if entry.due is None else f", due in {span_text(entry.due - now)}"
    every = f", every {short(entry.every)}" if entry.every is not None else ""
    return f"{entry.id!r} ({entry.state}{when}{every})"


def _count(count: int) -> str:
    return "1 message is" if count == 1 else f"{count} messages are"
