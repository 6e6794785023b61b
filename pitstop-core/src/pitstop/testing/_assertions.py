"""Assertions that explain: what was wanted, and how the nearest of what is there differs from it.

These show values of messages, which Pitstop does nowhere else: they are those of a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import attrs

from pitstop._decisions._describe import describe
from pitstop._errors import PitstopError
from pitstop._pitstop import Pitstop
from pitstop._values._duration import format_duration
from pitstop._values._entry import Entry, State
from pitstop._values._instant import aware, floor_instant, from_instant, instant_of
from pitstop._values._recurrence import Recurrence
from pitstop.abc import did_you_mean
from pitstop.testing._clock import span_of
from pitstop.testing._driving import unfaulted
from pitstop.testing._events import Event, Events
from pitstop.testing._report import Report, Step, clock_text


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

_SHOWN = 3
_PAGE = 1000


def assert_stored(
    pit: Pitstop,
    match: Match | None = None,
    *,
    id: str | None = None,
    state: State | None = None,
    due_in: timedelta | float | str | None = None,
    due: datetime | None = None,
    every: timedelta | Recurrence | _Anything | None = ANYTHING,
    **fields: Any,
) -> Entry:
    """See that exactly one message like this is stored, and return its entry.

    :param match: a mapping: the message has these keys with these values, in mappings within it likewise; or a function of
        the message that says whether it is the one.
    :param due_in: it is due exactly so long from now: a ``timedelta``, seconds, or text such as ``"3h"``.
    :param due: it is due exactly then.
    :param every: it recurs so. None: it does not.
    :param fields: other fields of :class:`pitstop.Entry`, such as ``attempts=2`` or ``end=None``.
    :raises AssertionError: when there is none, or several; the text tells how the nearest ones differ.
    """
    __tracebackhide__ = True
    wanted = _wanted(pit, match, id=id, state=state, due_in=due_in, due=due, every=every, fields=fields)
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
    every: timedelta | Recurrence | _Anything | None = ANYTHING,
    **fields: Any,
) -> None:
    """See that no message like this is stored. Without any argument: that none is. See :func:`assert_stored`.

    :raises AssertionError: when there is one; the text names it.
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
    :param fields: other fields of :class:`Step` or :class:`Event`, such as ``attempt=2`` or ``outcome="acked"``.
    :raises AssertionError: when that is not so; the text tells how the nearest ones differ.
    """
    __tracebackhide__ = True
    if times is not None and (type(times) is not int or times < 0):
        raise PitstopError(f"times={times!r} cannot be used. Give a whole number of at least 0.")
    emitted = list(_emissions(happened))
    names = {field.name for kind in (Step, Event) for field in attrs.fields(kind)} - {"msg"}
    criteria = {**({} if id is None else {"id": id}), **({} if at is None else {"at": aware(at, "at")}), **fields}
    wanted = _Wanted(match, criteria, names, None)
    found = [each for each in emitted if not wanted.differences(each.msg or {}, each)]
    if found if times is None else len(found) == times:
        return found
    count = "Nothing was" if not found else f"{len(found)} {'time' if len(found) == 1 else 'times'} a message was"
    text = f"{count} emitted with {wanted}{'' if times is None else f', not {times} times'}."
    if found:
        text += "".join(f"\n  {each.id!r} at {clock_text(each.at)}" for each in found[: _SHOWN * 3])
    else:
        text += f" {len(emitted)} emissions in all{'; the nearest:' if emitted else '.'}"
        ranked = sorted(((wanted.differences(each.msg or {}, each), each) for each in emitted), key=_difference_count)
        text += "".join(_described(f"{each.id!r} at {clock_text(each.at)}", lines) for lines, each in ranked[:_SHOWN])
    raise AssertionError(text)


def assert_dead(
    pit: Pitstop, match: Match | None = None, *, id: str | None = None, error: str | None = None, **fields: Any
) -> Entry:
    """See that exactly one message like this is dead, and return its entry. See :func:`assert_stored`.

    :param error: a part of its last error.
    :raises AssertionError: when that is not so.
    """
    __tracebackhide__ = True
    entry = assert_stored(pit, match, id=id, state="dead", **fields)
    if error is not None and error not in (entry.last_error or ""):
        raise AssertionError(f"{entry.id!r} is dead, but not of {error!r}: its last error is {entry.last_error!r}.")
    return entry


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
            f"{len(leased)} messages are leased: {held}{more}. Somebody took them, and neither ack nor nack came."
        )


@attrs.frozen
class _Wanted:
    """What a message and its fields should be like."""

    match: Match | None
    #: By name, as they are to be.
    fields: Mapping[str, Any]
    known: Iterable[str]
    #: The time by which to tell how long something is to come. None: tell points in time.
    now: datetime | None

    def __attrs_post_init__(self) -> None:
        known = set(self.known)
        for name in self.fields:
            if name not in known:
                hint = did_you_mean(name, known)
                raise PitstopError(f"There is no field {name!r}. {hint}Known: {', '.join(sorted(known))}.")
        if self.match is not None and not isinstance(self.match, Mapping) and not callable(self.match):
            raise PitstopError(f"match is a {type(self.match).__name__}. Give a mapping, or a function of the message.")

    def differences(self, message: dict[str, Any], thing: object) -> list[str]:
        """How this one differs: a line for each field. Empty: it is what was wanted."""
        lines = list(_differences_of_message(self.match, message))
        for name, value in self.fields.items():
            found = getattr(thing, name, None)
            if found != value:
                lines.append(f"{self._shown(name, value)} wanted, {self._value(name, found)} found")
        return lines

    def _shown(self, name: str, value: object) -> str:
        label = "due_in" if name == "due" and self.now is not None else name
        return f"{label}={self._value(name, value)}"

    def _value(self, name: str, value: object) -> str:
        if name == "due" and self.now is not None and isinstance(value, datetime):
            return _span(value - self.now)
        return _short(value)

    def __str__(self) -> str:
        parts = [] if self.match is None else [f"match={_short(self.match)}"]
        parts += [self._shown(name, value) for name, value in self.fields.items()]
        return ", ".join(parts) or "anything in it"


def _wanted(
    pit: Pitstop,
    match: Match | None,
    *,
    id: str | None,
    state: State | None,
    due_in: timedelta | float | str | None,
    due: datetime | None,
    every: object,
    fields: dict[str, Any],
) -> _Wanted:
    names = {field.name for field in attrs.fields(Entry)} - {"message"}
    now_us = pit._store.backend.now()
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
    return _Wanted(match, {**criteria, **fields}, names, from_instant(now_us // 1000) if due_in is not None else None)


def _all_entries(pit: Pitstop) -> list[Entry]:
    backend = unfaulted(pit._store.backend)
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


def _emissions(happened: Report | Events | Iterable[Step | Event]) -> Iterator[Step | Event]:
    for each in happened:
        if each.emitted if isinstance(each, Step) else each.kind == "emitted":
            yield each


def _differences_of_message(match: Match | None, message: dict[str, Any]) -> Iterator[str]:
    if match is None:
        return
    if isinstance(match, Mapping):
        yield from _differences("msg", match, message)
    elif not match(message):
        yield f"msg is not what {_short(match)} wants"


def _differences(path: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    for key, value in wanted.items():
        here = f"{path}[{key!r}]"
        if key not in found:
            hint = did_you_mean(str(key), found)
            yield f"{here}: {_short(value)} wanted, there is no such key. {hint}".rstrip()
        elif isinstance(value, Mapping) and isinstance(found[key], Mapping):
            yield from _differences(here, value, found[key])
        elif _as_stored(value) != found[key]:
            yield f"{here}: {_short(value)} wanted, {_short(found[key])} found"


def _as_stored(value: Any) -> Any:
    """A value as a store gives it back, so that what was stored is found again by what it was."""
    if isinstance(value, tuple | list):
        return [_as_stored(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _as_stored(item) for key, item in value.items()}
    if isinstance(value, datetime) and value.utcoffset() is not None:
        return from_instant(floor_instant(value))
    return value


def _nearest(wanted: _Wanted, entries: Sequence[Entry], pit: Pitstop) -> str:
    if not entries:
        return "Nothing is stored at all."
    ranked = sorted(((wanted.differences(each.message, each), each) for each in entries), key=_difference_count)
    now = from_instant(pit._store.backend.now() // 1000)
    shown = "".join(_described(_title(each, now), lines) for lines, each in ranked[:_SHOWN])
    return f"{_count(len(entries))} stored; the nearest:{shown}"


def _difference_count(ranked: tuple[list[str], object]) -> int:
    return len(ranked[0])


def _described(title: str, lines: Sequence[str]) -> str:
    return f"\n  {title}" + "".join(f"\n    {line}" for line in lines)


def _named(found: Sequence[Entry], pit: Pitstop) -> str:
    now = from_instant(pit._store.backend.now() // 1000)
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
        return clock_text(value)
    text = getattr(value, "__qualname__", None) if callable(value) else None
    text = text or repr(value)
    return text if len(text) <= 120 else f"{text[:119]}…"
