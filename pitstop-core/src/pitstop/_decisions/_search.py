"""Check the arguments of a search, and make the query of them that a backend gets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import cast, get_args

from pitstop._errors import ConfigError, PitstopError, ScheduleError
from pitstop._values._arguments import flag
from pitstop._values._bson import utf8_length
from pitstop._values._duration import parse_duration
from pitstop._values._entry import State
from pitstop._values._instant import LAST_INSTANT, exactly
from pitstop._values._kind import valid_kind
from pitstop._values._plain import type_name
from pitstop._values._quoting import quoted
from pitstop._values._schedule import Moment
from pitstop.abc import Query


__all__ = ["query_of", "some_ids"]


def query_of(
    now_us: int,
    *,
    state: State | None,
    kind: str | None,
    prefix: str | None,
    due_before: Moment | None,
    due_after: Moment | None,
    failing: bool | None,
) -> Query:
    """Return the query of a search.

    :param now_us: the time in microseconds, for times that are given as a distance.
    :raises PitstopError: if an argument cannot be used; the text names it.
    """
    return Query(
        state=_state(state),
        kind=None if kind is None else valid_kind(kind),
        prefix=None if prefix is None else _prefix(prefix),
        due_from=_instant(due_after, "due_after", now_us),
        due_before=_instant(due_before, "due_before", now_us),
        failing=None if failing is None else flag(failing, "failing", error=PitstopError),
    )


def some_ids(ids: object) -> Iterator[object]:
    """Return an iterator over ids that a caller gave.

    :raises PitstopError: if they are no list, generator or the like. The characters of a text would count as ids.
    """
    if not isinstance(ids, Iterable) or isinstance(ids, str | bytes | bytearray | Mapping):
        raise PitstopError(f"ids={quoted(ids)} cannot be used. Give a list or another iterable of ids, as in ['abc'].")
    return iter(ids)


def _state(given: object) -> State | None:
    if given is None:
        return None
    word = str.__str__(given) if isinstance(given, str) else None
    known: State | None = next((each for each in get_args(State) if each == word), None)
    if known is None:
        raise PitstopError(f"state={quoted(given)} is unknown. Give one of: {', '.join(get_args(State))}.")
    return known


def _prefix(given: object) -> str:
    """Return the beginning of ids. Text that no id begins with is allowed, unless a store cannot compare it."""
    if not issubclass(type(given), str):
        raise PitstopError(f"prefix={quoted(given)} is a {type_name(given)}. Give the beginning of the ids, as text.")
    prefix = str.__str__(given)
    if "\0" in prefix or utf8_length(prefix) is None:
        raise PitstopError(
            f"prefix={prefix[:64]!a} holds NUL or a lone surrogate, which no id holds. Give the beginning of the ids."
        )
    return prefix


def _instant(given: Moment | None, field: str, now_us: int) -> int | None:
    """Return the first instant that is not before a time."""
    if given is None:
        return None
    # Checked by the type alone: an object may pretend to be text.
    text = issubclass(type(given), str)
    time = _distance(str.__str__(cast("str", given)), field) if text else cast("datetime | timedelta", given)
    return min(max(-(-exactly(time, now_us, field) // 1000), 0), LAST_INSTANT + 1)


def _distance(text: str, field: str) -> timedelta:
    """Return a distance from now. With a minus sign the time lies before now."""
    past = text.startswith("-")
    try:
        span = parse_duration(text[1:] if past else text, field)
    except ConfigError:
        raise ScheduleError(
            f"{field}={quoted(text)} is no distance from now. Give text such as '15m' or '-1h30m', a timedelta, or an aware datetime."
        ) from None
    return -span if past else span
