"""Assertions that explain: what was wanted, and how the nearest of what is there differs from it.

These show values of messages, which Pitstop does nowhere else: they are those of a test.
"""

from __future__ import annotations

import difflib

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar, get_args

import attrs

from pitstop._decisions._describe import describe
from pitstop._errors import PitstopError
from pitstop._pitstop import Pitstop
from pitstop._values._duration import format_duration
from pitstop._values._entry import Entry, State
from pitstop._values._instant import aware, floor_instant, from_instant, instant_of
from pitstop._values._plain import Unreadable, as_microseconds
from pitstop._values._quoting import quoted
from pitstop._values._recurrence import Every, Recurrence
from pitstop.abc import did_you_mean
from pitstop.testing._clock import span_of
from pitstop.testing._driving import unfaulted
from pitstop.testing._events import Event, Events
from pitstop.testing._report import Report, Step, StepOutcome, clock_text


__all__ = [
    "ANYTHING",
    "Match",
    "assert_dead",
    "assert_emitted",
    "assert_no_leases",
    "assert_stored",
    "refute_stored",
]

#: A part of the message that has to be there with these values, or a function that says whether it is the one.
Match = Mapping[str, Any] | Callable[[dict[str, Any]], object]


class _Anything:
    def __repr__(self) -> str:
        return "ANYTHING"


#: For ``every`` and ``end``, of which None says something: a one-shot, no end.
ANYTHING: Final = _Anything()

_T = TypeVar("_T")

_SHOWN = 3
_PAGE = 1000

#: What fields are, by name, in so far as another type could never be found. See :func:`_usable`.
_WORDS = {
    "state": get_args(State),
    # Nobody got what was skipped.
    "outcome": tuple(each for each in get_args(StepOutcome) if each != "skipped"),
}
_COUNTS = frozenset({"attempt", "attempts", "missed"})
_TIMES = frozenset({"at", "due", "end", "leased_until", "scheduled_for"})
_TEXTS = frozenset({"error", "id", "last_error", "revision"})

#: What an emission can be asked for. An event of the kind "emitted" has no error, and none of what came of it.
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
    every: timedelta | float | str | Recurrence | _Anything | None = ANYTHING,
    **fields: Any,
) -> Entry:
    """See that exactly one message like this is stored, and return its entry.

    :param match: a mapping: the message has these keys with these values, in mappings within it likewise; or a function of
        the message that says whether it is the one.
    :param due_in: it is due exactly so long from now: a ``timedelta``, seconds, or text such as ``"3h"``.
    :param due: it is due exactly then.
    :param every: it recurs so: given as ``due_in``, or a recurrence. None: it does not.
    :param fields: other fields of :class:`pitstop.Entry`, such as ``attempts=2`` or ``end=None``.
    :raises AssertionError: when there is none, or several; the text tells how the nearest ones differ.
    :raises PitstopError: when no message could ever be like this: an unknown field, or a value of another type.
    """
    __tracebackhide__ = True
    wanted = _wanted(pit, match, id=id, state=state, due_in=due_in, due=due, every=every, fields=fields)
    return _the_one(pit, wanted)


def _the_one(pit: Pitstop, wanted: _Wanted) -> Entry:
    __tracebackhide__ = True
    entries = _all_entries(pit)
    found = [each for each in entries if not wanted.differences(each.message, each)]
    if len(found) == 1:
        return found[0]
    if found:
        raise AssertionError(
            f"{len(found)} messages are stored with {wanted}, not one: {_named(found, pit)}. "
            f"Say more of the one that is meant, or ask for it by id."
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
    every: timedelta | float | str | Recurrence | _Anything | None = ANYTHING,
    **fields: Any,
) -> None:
    """See that no message like this is stored. Without any argument: that none is. See :func:`assert_stored`.

    :raises AssertionError: when there is one; the text names it.
    :raises PitstopError: when no message could ever be like this.
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
    """See that a message like this was emitted, and return the steps or events that say so, in order.

    :param happened: the report of a run, or the events of a Pitstop.
    :param match: as in :func:`assert_stored`, of the message as it was emitted.
    :param at: when it was handed out, exactly.
    :param times: exactly so often, 0 included. None: at least once.
    :param fields: of a report, other fields of :class:`Step`, such as ``attempt=2`` or ``outcome="acked"``; of events,
        ``scheduled_for`` and ``attempt``: when a message is handed out, nobody knows yet what becomes of it.
    :raises AssertionError: when that is not so; the text tells how the nearest ones differ.
    :raises PitstopError: when no emission could ever be like this.
    """
    __tracebackhide__ = True
    if times is not None and (type(times) is not int or times < 0):
        raise PitstopError(f"times={quoted(times)} cannot be used. Give a whole number of at least 0.")
    everything = _all_of(happened)
    criteria = {**({} if id is None else {"id": id}), **({} if at is None else {"at": at}), **fields}
    known = _known_of(happened, everything, criteria)
    usable = {name: _usable(name, value) for name, value in criteria.items() if name in known}
    wanted = _Wanted(match, {**criteria, **usable}, known, None, None, ("match", "times"))
    emitted = list(_emissions(everything))
    found = [each for each in emitted if not wanted.differences(each.msg or {}, each)]
    if found if times is None else len(found) == times:
        return found
    count = "Nothing was" if not found else f"{len(found)} {'time' if len(found) == 1 else 'times'} a message was"
    often = "" if times is None else f", not {times} {'time' if times == 1 else 'times'}"
    text = f"{count} emitted with {wanted}{often}."
    if found:
        text += "".join(f"\n  {each.id!r} at {_time_text(each.at)}" for each in found[: _SHOWN * 3])
    else:
        total = "1 emission" if len(emitted) == 1 else f"{len(emitted)} emissions"
        text += f" {total} in all{'; the nearest:' if emitted else '.'}"
        ranked = wanted.ranked((each.id, each.msg or {}, each) for each in emitted)
        text += "".join(_described(f"{each.id!r} at {_time_text(each.at)}", lines) for lines, each in ranked)
    raise AssertionError(text)


def assert_dead(
    pit: Pitstop, match: Match | None = None, *, id: str | None = None, error: str | None = None, **fields: Any
) -> Entry:
    """See that exactly one message like this is dead, and return its entry. See :func:`assert_stored`.

    :param error: a part of its last error.
    :raises AssertionError: when that is not so.
    :raises PitstopError: when no message could ever be like this.
    """
    __tracebackhide__ = True
    if error is not None and not isinstance(error, str):
        raise PitstopError(f"error is a {type(error).__name__}. Give a part of the text that is kept with the message.")
    wanted = _wanted(pit, match, id=id, state="dead", fields=fields, error=error)
    return _the_one(pit, wanted)


def assert_no_leases(pit: Pitstop) -> None:
    """See that nobody holds a message: all that was handed out was acknowledged, nacked, or came back.

    :raises AssertionError: when somebody does; the text names it.
    """
    __tracebackhide__ = True
    leased = [each for each in _all_entries(pit) if each.state == "leased"]
    if leased:
        held = ", ".join(
            f"{each.id!r} (attempt {each.attempts}, until {clock_text(each.leased_until)})" for each in leased[:_SHOWN]
        )
        more = f" and {len(leased) - _SHOWN} more" if len(leased) > _SHOWN else ""
        raise AssertionError(
            f"{_count(len(leased))} leased: {held}{more}. "
            f"Somebody took {'it' if len(leased) == 1 else 'them'}, and neither ack nor nack came."
        )


@attrs.frozen
class _Difference:
    text: str
    #: How many values differ. A mapping that is not there lacks all that should be in it.
    weight: int = 1


@attrs.frozen
class _Wanted:
    """What a message and its fields should be like."""

    match: Match | None
    #: By name, as they are to be.
    fields: Mapping[str, Any]
    known: Iterable[str]
    #: The time by which to tell how long something is to come. None: tell points in time.
    now: datetime | None
    #: A part of the last error.
    error: str | None
    #: What else the assertion can be told, for hints.
    others: Sequence[str]

    def __attrs_post_init__(self) -> None:
        known = set(self.known)
        for name in self.fields:
            if name not in known:
                takes = {*known, *self.others}
                hint = did_you_mean(name, takes)
                raise PitstopError(f"There is no field {name!r}. {hint}Known: {', '.join(sorted(takes))}.")
        if self.match is not None and not isinstance(self.match, Mapping) and not callable(self.match):
            raise PitstopError(f"match is a {type(self.match).__name__}. Give a mapping, or a function of the message.")

    def differences(self, message: dict[str, Any], thing: object) -> list[_Difference]:
        """How this one differs, field by field. Empty: it is what was wanted."""
        lines = list(_differences_of_message(self.match, message))
        for name, value in self.fields.items():
            found = getattr(thing, name, None)
            if found != value:
                wanted_text, found_text = self._value(name, value), self._value(name, found)
                if wanted_text == found_text:
                    wanted_text, found_text = _told_apart(value, found)
                lines.append(_Difference(f"{self._label(name)}={wanted_text} wanted, {found_text} found"))
        if self.error is not None:
            last = getattr(thing, "last_error", None)
            if self.error not in (last or ""):
                lines.append(_Difference(f"error={_short(self.error)} wanted in it, last_error={_short(last)} found"))
        return lines

    def ranked(self, things: Iterable[tuple[str, dict[str, Any], _T]]) -> list[tuple[list[str], _T]]:
        """The nearest few, each with how it differs: those that differ least, and among these the most alike ids."""
        matcher = difflib.SequenceMatcher(autojunk=False)
        wanted_id = self.fields.get("id")
        matcher.set_seq2(wanted_id if isinstance(wanted_id, str) else "")
        rated = []
        for id, message, thing in things:
            lines = self.differences(message, thing)
            alike = 0.0
            if wanted_id is not None:
                matcher.set_seq1(id)
                alike = matcher.ratio()
            rated.append(((sum(line.weight for line in lines), -alike), [line.text for line in lines], thing))
        rated.sort(key=lambda each: each[0])
        return [(lines, thing) for _, lines, thing in rated[:_SHOWN]]

    def _label(self, name: str) -> str:
        return "due_in" if name == "due" and self.now is not None else name

    def _shown(self, name: str, value: object) -> str:
        return f"{self._label(name)}={self._value(name, value)}"

    def _value(self, name: str, value: object) -> str:
        if name == "due" and self.now is not None and isinstance(value, datetime):
            return _span(value - self.now)
        return _short(value)

    def __str__(self) -> str:
        parts = [] if self.match is None else [f"match={_short(self.match)}"]
        parts += [self._shown(name, value) for name, value in self.fields.items()]
        parts += [] if self.error is None else [f"error={_short(self.error)}"]
        return ", ".join(parts) or "anything in it"


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
) -> _Wanted:
    names = {field.name for field in attrs.fields(Entry)} - {"message"}
    now_us = _pitstop(pit)._session.backend.now()
    criteria: dict[str, Any] = {}
    if id is not None:
        criteria["id"] = id
    if state is not None:
        criteria["state"] = state
    if due_in is not None and due is not None:
        raise PitstopError("due_in and due say the same. Give one.")
    if due_in is not None:
        criteria["due"] = from_instant(instant_of(span_of(due_in, "due_in"), now_us, "due_in"))
    elif due is not None:
        criteria["due"] = from_instant(instant_of(aware(due, "due"), now_us, "due"))
    if every is not ANYTHING:
        criteria["every"] = every
    criteria |= fields
    usable = {name: _usable(name, value) for name, value in criteria.items() if name in names}
    now = from_instant(now_us // 1000) if due_in is not None else None
    return _Wanted(match, {**criteria, **usable}, names, now, error, ("match", "due_in"))


def _pitstop(pit: object) -> Pitstop:
    if isinstance(pit, Pitstop):
        return pit
    raise PitstopError(
        f"A {type(pit).__name__} was given where a Pitstop should be. "
        f"It comes first: testing.assert_stored(pit, {{...}}), or pit.assert_stored({{...}}) of a test's Pitstop."
    )


def _usable(name: str, value: Any) -> Any:
    """The value of a field as entries, steps and events have it.

    What none of them can have is refused: it would never be found, and an assertion that nothing is so would always pass.

    :raises PitstopError: when none can.
    """
    if name == "every":
        if isinstance(value, Every):
            return value.timedelta
        return value if value is None or isinstance(value, Recurrence) else span_of(value, "every")
    if name in _WORDS:
        words = _WORDS[name]
        if value not in words:
            hint = did_you_mean(str(value).lower(), words)
            raise PitstopError(f"There is no {name} {value!r:.80}. {hint}Known: {', '.join(words)}.")
    elif name in _COUNTS:
        if type(value) is not int:
            raise PitstopError(f"{name}={value!r:.80} is a {type(value).__name__}. Give a whole number.")
    elif name in _TIMES:
        return value if value is None else aware(value, name)
    elif name in _TEXTS and not isinstance(value, str) and (name == "id" or value is not None):
        raise PitstopError(f"{name}={value!r:.80} is a {type(value).__name__}. Give text.")
    return value


def _all_entries(pit: Pitstop) -> list[Entry]:
    backend = unfaulted(_pitstop(pit)._session.backend)
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
        raise PitstopError(f"A {type(happened).__name__} tells of no emissions. Give a report, or pit.events.")
    everything = list(happened)
    for each in everything:
        if not isinstance(each, Step | Event):
            raise PitstopError(f"A {type(each).__name__} tells of no emission. Give a report, or pit.events.")
    return everything


def _known_of(happened: object, everything: Sequence[Step | Event], criteria: Mapping[str, Any]) -> frozenset[str]:
    """The fields that all of these have.

    :raises PitstopError: when something is asked for that only others have.
    """
    steps = isinstance(happened, Report) or any(isinstance(each, Step) for each in everything)
    events = isinstance(happened, Events) or any(isinstance(each, Event) for each in everything)
    if not events:
        if not steps:
            # Of an empty list nobody knows what would be in it.
            return _OF_STEPS | _OF_EVENTS
        return _OF_STEPS
    for name in criteria:
        if name in _OF_STEPS - _OF_EVENTS:
            raise PitstopError(
                f"Events tell of an emission when it begins, and have no {name!r} of it. Ask the report of the run: "
                f"testing.assert_emitted(report, {name}=...), where report is what run_for() or the like returned."
            )
    return _OF_EVENTS


def _emissions(happened: Iterable[Step | Event]) -> Iterator[Step | Event]:
    for each in happened:
        if each.emitted if isinstance(each, Step) else each.kind == "emitted":
            yield each


def _differences_of_message(match: Match | None, message: dict[str, Any]) -> Iterator[_Difference]:
    if match is None:
        return
    if isinstance(match, Mapping):
        yield from _differences("msg", match, message)
        return
    try:
        fits = match(message)
    except LookupError as error:
        # A function that is written for one kind of message looks for keys that others do not have.
        yield _Difference(f"msg is not what {_short(match)} wants: it raised {type(error).__name__}: {error}")
        return
    if not fits:
        yield _Difference(f"msg is not what {_short(match)} wants")


def _differences(path: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[_Difference]:
    for key, value in wanted.items():
        here = f"{path}[{key!r}]"
        if key not in found:
            hint = did_you_mean(str(key), found)
            text = f"{here}: {_short(value)} wanted, there is no such key. {hint}".rstrip()
            yield _Difference(text, _leaves(value))
        elif isinstance(value, Mapping) and isinstance(found[key], Mapping):
            yield from _differences(here, value, found[key])
        elif _as_stored(value) != found[key]:
            wanted_text, found_text = _short(value), _short(found[key])
            if wanted_text == found_text:
                wanted_text, found_text = _told_apart(value, found[key])
            yield _Difference(f"{here}: {wanted_text} wanted, {found_text} found", _leaves(value))


def _leaves(value: object) -> int:
    """How many values are in a mapping, in those within it likewise; anything else is one."""
    return max(1, sum(map(_leaves, value.values()))) if isinstance(value, Mapping) else 1


def _as_stored(value: Any) -> Any:
    """A value as a store gives it back, so that what was stored is found again by what it was."""
    if isinstance(value, tuple | list):
        return [_as_stored(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _as_stored(item) for key, item in value.items()}
    if isinstance(value, datetime):
        try:
            wanted = as_microseconds(value)
            return value if wanted is None else from_instant(wanted // 1000)
        except (Unreadable, OverflowError):
            # No store has such a value, so it is found nowhere.
            return value
    return value


def _nearest(wanted: _Wanted, entries: Sequence[Entry], pit: Pitstop) -> str:
    if not entries:
        return "Nothing is stored at all."
    now = from_instant(pit._session.backend.now() // 1000)
    ranked = wanted.ranked((each.id, each.message, each) for each in entries)
    shown = "".join(_described(_title(each, now), lines) for lines, each in ranked)
    return f"{_count(len(entries))} stored; the nearest:{shown}"


def _described(title: str, lines: Sequence[str]) -> str:
    return f"\n  {title}" + "".join(f"\n    {line}" for line in lines)


def _named(found: Sequence[Entry], pit: Pitstop) -> str:
    now = from_instant(pit._session.backend.now() // 1000)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(_title(each, now) for each in found[:_SHOWN]) + more


def _title(entry: Entry, now: datetime) -> str:
    when = "" if entry.due is None else f", due in {_span(entry.due - now)}"
    every = f", every {_short(entry.every)}" if entry.every is not None else ""
    return f"{entry.id!r} ({entry.state}{when}{every})"


def _count(count: int) -> str:
    return "1 message is" if count == 1 else f"{count} messages are"


def _span(span: timedelta) -> str:
    return format_duration(span)


def _short(value: object) -> str:
    if isinstance(value, timedelta):
        return _span(value)
    if isinstance(value, datetime):
        return _time_text(value)
    text = getattr(value, "__qualname__", None) if callable(value) else None
    return _cut(text or repr(value))


def _time_text(when: datetime) -> str:
    """In UTC, so that two times that are one look alike, and two that are not do not."""
    try:
        instant = as_microseconds(when)
        if instant is None:
            return f"{when.isoformat(' ')} (naive)"
        when = from_instant(0) + timedelta(microseconds=instant)
    except (Unreadable, OverflowError):
        return _cut(quoted(when))
    return f"{when:%Y-%m-%d %H:%M:%S.%f}" if when.microsecond % 1000 else clock_text(when)


def _told_apart(wanted: object, found: object) -> tuple[str, str]:
    """Two values that differ though they look alike: from where they do not any more, or by their types."""
    texts = repr(wanted), repr(found)
    same = next((n for n, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    if texts[0] == texts[1]:
        return f"{_short(wanted)} ({type(wanted).__name__})", f"{_short(found)} ({type(found).__name__})"
    begin = max(0, same - 20)
    wanted_text, found_text = (f"{'…' if begin else ''}{text[begin:]}" for text in texts)
    return _cut(wanted_text), _cut(found_text)


def _cut(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:119]}…"
