"""Messages of every kind, made by hypothesis. The smallest are first, so that a failure shrinks to ``{}`` where possible."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st


__all__ = ["GIVEN", "IDS", "PLAIN", "kept"]

#: Few ids, so that a sequence of operations uses an id again. A careless store may mistake one of them for another.
IDS = st.sampled_from(["a", "b", "A", "\u00e9", "e\u0301"])

# No text may contain a lone surrogate, and no key may contain NUL.
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
_KEYS = st.one_of(
    st.sampled_from(["x", "", "$set", "a.b", "_id", "token", "due", "$bytes", "\u00e9"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3),
)
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    _TEXT,
    st.binary(max_size=5),
)


def _floored(value: datetime) -> datetime:
    return value.astimezone(UTC).replace(microsecond=value.microsecond // 1000 * 1000)


_ZONES = st.sampled_from([UTC, timezone(timedelta(hours=-8)), timezone(timedelta(hours=5, minutes=45))])
# Two days from the ends of time, so that no conversion between zones leads beyond them.
_TIMES = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=_ZONES)


def _messages(scalars: st.SearchStrategy[Any], lists: Any) -> st.SearchStrategy[dict[str, Any]]:
    values = st.recursive(
        scalars,
        lambda inner: st.one_of(lists(inner), st.dictionaries(_KEYS, inner, max_size=2)),
        max_leaves=4,
    )
    return st.dictionaries(_KEYS, values, max_size=2)


#: Messages as a backend gets them, of plain values.
PLAIN = _messages(_SCALARS | _TIMES.map(_floored), lambda inner: st.lists(inner, max_size=2))
#: Messages as users give them, with tuples, and with times in any zone and with microseconds.
GIVEN = _messages(_SCALARS | _TIMES, lambda inner: st.lists(inner, max_size=2) | st.lists(inner, max_size=2).map(tuple))


def kept(given: Any) -> Any:
    """Return a user's value as it comes back: tuples as lists, and times in UTC, rounded down to the millisecond."""
    if isinstance(given, Mapping):
        return {key: kept(value) for key, value in given.items()}
    if isinstance(given, list | tuple):
        return [kept(each) for each in given]
    return _floored(given) if isinstance(given, datetime) else given
