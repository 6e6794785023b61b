"""Matching: the wanted properties of a message, and the differences of a message from them, as text."""

from __future__ import annotations

import difflib

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar, get_args

import attrs

from pitstop._errors import PitstopError
from pitstop._recurrence._base import Recurrence
from pitstop._recurrence._every import Every
from pitstop._values._duration import format_duration
from pitstop._values._entry import State
from pitstop._values._instant import aware, from_instant
from pitstop._values._plain import Unreadable, as_microseconds
from pitstop._values._quoting import quoted
from pitstop.abc import did_you_mean
from pitstop.testing._clock import span_of
from pitstop.testing._report import StepOutcome, clock_text


__all__ = [
    "ANYTHING",
    "MOST_SHOWN",
    "Anything",
    "Difference",
    "Match",
    "Wanted",
    "short",
    "span_text",
    "time_text",
    "usable",
]

#: Keys and values that the message must have, or a function that returns whether a message is the wanted one.
Match = Mapping[str, Any] | Callable[[dict[str, Any]], object]


class Anything:
    """The class of :data:`ANYTHING`."""

    def __repr__(self) -> str:
        return "ANYTHING"


#: The default of ``every`` and ``end``, where None has a meaning: a one-shot message, no end.
ANYTHING: Final = Anything()

_T = TypeVar("_T")

#: The most things that a text shows.
MOST_SHOWN = 3

#: The possible values of some fields, by name. A value of another type could never be found. See :func:`usable`.
_WORDS = {
    "state": get_args(State),
    # A message that was skipped or that expired was not emitted.
    "outcome": tuple(each for each in get_args(StepOutcome) if each not in {"skipped", "expired"}),
}
_COUNTS = frozenset({"attempt", "attempts", "missed"})
_TIMES = frozenset({"at", "due", "end", "leased_until", "scheduled_for"})
_TEXTS = frozenset({"error", "id", "last_error", "revision"})


@attrs.frozen
class Difference:
    """One difference of a message from the wanted one."""

    text: str
    #: The number of values that differ. A missing mapping counts with all values that should be in it.
    weight: int = 1


@attrs.frozen
class Wanted:
    """The wanted properties of a message and its fields."""

    match: Match | None
    #: The wanted values, by name.
    fields: Mapping[str, Any]
    known: Iterable[str]
    #: The time from which differences of time are shown. None: points in time are shown.
    now: datetime | None
    #: A part of the last error.
    error: str | None
    #: Other parameters of the assertion, for hints.
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

    def differences(self, message: dict[str, Any], thing: object) -> list[Difference]:
        """Return the differences of a message, field by field. An empty list means that it is the wanted one."""
        lines = list(_differences_of_message(self.match, message))
        for name, value in self.fields.items():
            found = getattr(thing, name, None)
            if found != value:
                wanted_text, found_text = self._value(name, value), self._value(name, found)
                if wanted_text == found_text:
                    wanted_text, found_text = told_apart(value, found)
                lines.append(Difference(f"{self._label(name)}={wanted_text} wanted, {found_text} found"))
        if self.error is not None:
            last = getattr(thing, "last_error", None)
            if self.error not in (last or ""):
                lines.append(Difference(f"error={short(self.error)} wanted in it, last_error={short(last)} found"))
        return lines

    def ranked(self, things: Iterable[tuple[str, dict[str, Any], _T]]) -> list[tuple[list[str], _T]]:
        """Return the nearest few with their differences: the fewest differences first, then the most similar ids."""
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
        return [(lines, thing) for _, lines, thing in rated[:MOST_SHOWN]]

    def _label(self, name: str) -> str:
        return "due_in" if name == "due" and self.now is not None else name

    def _shown(self, name: str, value: object) -> str:
        return f"{self._label(name)}={self._value(name, value)}"

    def _value(self, name: str, value: object) -> str:
        if name == "due" and self.now is not None and isinstance(value, datetime):
            return span_text(value - self.now)
        return short(value)

    def __str__(self) -> str:
        parts = [] if self.match is None else [f"match={short(self.match)}"]
        parts += [self._shown(name, value) for name, value in self.fields.items()]
        parts += [] if self.error is None else [f"error={short(self.error)}"]
        return ", ".join(parts) or "anything in it"


def usable(name: str, value: Any) -> Any:
    """Return the value of a field in the form that entries, steps and events have.

    An impossible value is refused: it would never be found, so an assertion that nothing has it would always pass.

    :raises PitstopError: if no entry, step or event can have the value.
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


def _differences_of_message(match: Match | None, message: dict[str, Any]) -> Iterator[Difference]:
    if match is None:
        return
    if isinstance(match, Mapping):
        yield from _differences("msg", match, message)
        return
    try:
        fits = match(message)
    except LookupError as error:
        # A function that is written for one kind of message reads keys that other messages do not have.
        yield Difference(f"msg does not fit {short(match)}: it raised {type(error).__name__}: {error}")
        return
    if not fits:
        yield Difference(f"msg does not fit {short(match)}")


def _differences(path: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Difference]:
    for key, value in wanted.items():
        here = f"{path}[{key!r}]"
        if key not in found:
            hint = did_you_mean(str(key), found)
            text = f"{here}: {short(value)} wanted, there is no such key. {hint}".rstrip()
            yield Difference(text, _leaves(value))
        elif isinstance(value, Mapping) and isinstance(found[key], Mapping):
            yield from _differences(here, value, found[key])
        elif _as_stored(value) != found[key]:
            wanted_text, found_text = short(value), short(found[key])
            if wanted_text == found_text:
                wanted_text, found_text = told_apart(value, found[key])
            yield Difference(f"{here}: {wanted_text} wanted, {found_text} found", _leaves(value))


def _leaves(value: object) -> int:
    """Return the number of values in a mapping, nested mappings included. Any other value counts as one."""
    return max(1, sum(map(_leaves, value.values()))) if isinstance(value, Mapping) else 1


def _as_stored(value: Any) -> Any:
    """Return a value as a store gives it back, so that a stored value is found again by its original."""
    if isinstance(value, tuple | list):
        return [_as_stored(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _as_stored(item) for key, item in value.items()}
    if isinstance(value, datetime):
        try:
            wanted = as_microseconds(value)
            return value if wanted is None else from_instant(wanted // 1000)
        except (Unreadable, OverflowError):
            # No store has such a value, so it is never found.
            return value
    return value


def span_text(span: timedelta) -> str:
    return format_duration(span)


def short(value: object) -> str:
    if isinstance(value, timedelta):
        return span_text(value)
    if isinstance(value, datetime):
        return time_text(value)
    text = getattr(value, "__qualname__", None) if callable(value) else None
    return _cut(text or repr(value))


def time_text(when: datetime) -> str:
    """Return a time in UTC, so that equal times look alike, and different times do not."""
    try:
        instant = as_microseconds(when)
        if instant is None:
            return f"{when.isoformat(' ')} (naive)"
        when = from_instant(0) + timedelta(microseconds=instant)
    except (Unreadable, OverflowError):
        return _cut(quoted(when))
    return f"{when:%Y-%m-%d %H:%M:%S.%f}" if when.microsecond % 1000 else clock_text(when)


def told_apart(wanted: object, found: object) -> tuple[str, str]:
    """Return the texts of two different values that look alike, from the first difference on, or with their types."""
    texts = repr(wanted), repr(found)
    same = next((n for n, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    if texts[0] == texts[1]:
        return f"{short(wanted)} ({type(wanted).__name__})", f"{short(found)} ({type(found).__name__})"
    begin = max(0, same - 20)
    wanted_text, found_text = (f"{'…' if begin else ''}{text[begin:]}" for text in texts)
    return _cut(wanted_text), _cut(found_text)


def _cut(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:119]}…"
