"""A search among the stored records, as a backend gets it, and the rule by which a record matches it.

The order of a search is the order of an index: by ``(due, id)``, those without a ``due`` last, as in a scan. With a ``prefix``
it is by ``id`` alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from heapq import nsmallest
from typing import Protocol, get_args

import attrs

from pitstop._values._entry import State
from pitstop._values._instant import LAST_INSTANT
from pitstop.abc._record import Damaged, Progress, Record, Tally, state_of


__all__ = ["Place", "Query", "by_scan", "filled", "has_failed", "tallies", "tallies_by_scan"]

#: A place in the order of a search: the ``due`` and the ``id`` of a record.
Place = tuple[int | None, str]

_Content = Record | Damaged


class Held(Protocol):
    """The part of a sound record that a search looks at."""

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def progress(self) -> Progress: ...


#: A range without a ``due``.
_NOTHING = (1, 0)
#: The states that only records with a ``due`` are in.
_TIMED = frozenset({"due", "scheduled", "leased"})
#: How many records one read asks for at least, if the reads before did not find enough.
_LEAST = 100
#: How many records a scan reads at a time for a search.
_SCANNED = 1000


@attrs.frozen(kw_only=True)
class Query:
    """A search. A record matches if it matches all fields that are not None."""

    state: State | None = None
    #: A damaged record whose kind cannot be read has none.
    kind: str | None = None
    #: The beginning of the id, as text. It is data: no character of it is an operator.
    prefix: str | None = None
    #: The least ``due``.
    due_from: int | None = None
    #: The bound that ``due`` is below.
    due_before: int | None = None
    #: Whether the last attempt has failed: see :func:`has_failed`.
    failing: bool | None = None

    @property
    def by_id(self) -> bool:
        """Whether the order is by ``id`` alone."""
        return self.prefix is not None

    @property
    def only_state(self) -> bool:
        """Whether a scan answers the search."""
        return self == Query(state=self.state)

    @property
    def with_dead(self) -> bool:
        """Whether records without a ``due`` may match."""
        # The dead have failed, all of them. Paused records need no ``due`` either.
        is_empty = self.state == "dead" and self.failing is False
        return self.state not in _TIMED and self.due_from is None and self.due_before is None and not is_empty

    def dues(self, now: int) -> tuple[int, int]:
        """Return the first and the last ``due`` of matching records that have one. Without such, the first is beyond the last."""
        if self.state == "dead":
            return _NOTHING
        first, last = (now + 1, LAST_INSTANT) if self.state in {"scheduled", "leased", "paused"} else (0, LAST_INSTANT)
        if self.state == "due":
            last = min(now, LAST_INSTANT)
        if self.due_from is not None:
            first = max(first, self.due_from)
        if self.due_before is not None:
            last = min(last, self.due_before - 1)
        return first, last

    def matches(self, content: Held | Damaged, now: int) -> bool:
        """Whether a record, sound or damaged, matches at ``now``."""
        held = content if isinstance(content, Damaged) else content.progress
        due = held.due
        return (
            (self.kind is None or content.kind == self.kind)
            and (self.prefix is None or content.id.startswith(self.prefix))
            and (self.due_from is None or (due is not None and due >= self.due_from))
            and (self.due_before is None or (due is not None and due < self.due_before))
            and (self.state is None or state_of(due, held.token, now) == self.state)
            and (self.failing is None or has_failed(held, now) is self.failing)
        )

    def is_behind(self, content: Held | Damaged, after: Place | None) -> bool:
        """Whether a record comes after a place."""
        if after is None:
            return True
        due = content.due if isinstance(content, Damaged) else content.progress.due
        return self._key(due, content.id) > self._key(*after)

    def in_order(self, content: Held | Damaged) -> tuple[bool, int, bytes]:
        """Return the key by which the records of this search are sorted."""
        return self._key(content.due if isinstance(content, Damaged) else content.progress.due, content.id)

    def _key(self, due: int | None, id: str) -> tuple[bool, int, bytes]:
        # Bytes that are no text count, too: see read_record().
        key = id.encode("utf-8", "surrogateescape")
        return (False, 0, key) if self.by_id else (due is None, due or 0, key)


def has_failed(held: Progress | Damaged, now: int) -> bool:
    """Whether a record fails: it is dead, or a handler had the current occurrence, did not acknowledge it, and does not have it now.

    Attempts that are not held against the message do not count: the end of a program is no failure. A lease that ran out is one,
    unless the message may have spent it in a listener.
    """
    state = state_of(held.due, held.token, now)
    if state == "dead" or isinstance(held, Damaged) or state == "leased":
        return state == "dead"
    return held.attempts > held.ahead + held.excused


def filled(
    query: Query,
    limit: int,
    after: Place | None,
    now: int,
    read: Callable[[int, Place | None], Sequence[_Content]],
    *,
    least: int = _LEAST,
) -> list[_Content]:
    """Return up to ``limit`` records that match, from reads that may also return others.

    :param read: returns up to so many records behind a place, in the order of the search. All that match are among them.
    :param least: how many records each read but the first asks for at least.
    """
    found: list[_Content] = []
    wanted = limit
    while True:
        page = read(wanted, after)
        found += [each for each in page if query.matches(each, now)]
        if len(page) < wanted or len(found) >= limit:
            return found[:limit]
        last = page[-1]
        after = (last.due if isinstance(last, Damaged) else last.progress.due), last.id
        wanted = max(limit - len(found), least)


def by_scan(
    query: Query,
    limit: int,
    after: Place | None,
    now: int,
    scan: Callable[[State | None, int, Place | None], Sequence[_Content]],
) -> Sequence[_Content]:
    """Return the records of a search by scans: complete, and as slow as a walk over all records of the state."""

    def read(count: int, place: Place | None) -> Sequence[_Content]:
        return scan(query.state, count, place)

    if not query.by_id:
        return filled(query, limit, after, now, read, least=_SCANNED)
    found = (each for each in _all(read) if query.matches(each, now) and query.is_behind(each, after))
    return nsmallest(limit, found, key=query.in_order)


def _all(read: Callable[[int, Place | None], Sequence[_Content]]) -> Iterator[_Content]:
    after: Place | None = None
    while True:
        page = read(_SCANNED, after)
        yield from page
        if len(page) < _SCANNED:
            return
        last = page[-1]
        after = (last.due if isinstance(last, Damaged) else last.progress.due), last.id


def tallies_by_scan(
    now: int, scan: Callable[[State | None, int, Place | None], Sequence[_Content]]
) -> dict[str, Tally]:
    """Return the tally of each kind, by a scan of all records."""
    held = ((each.kind, each if isinstance(each, Damaged) else each.progress) for each in _all(partial(scan, None)))
    return tallies(((kind, each.due, each.token) for kind, each in held), now)


def tallies(held: Iterable[tuple[str | None, int | None, str | None]], now: int) -> dict[str, Tally]:
    """Return the tally of each kind.

    :param held: the kind, the ``due`` and the token of each record. None: the kind cannot be read, and the record is not counted.
    """
    counts: dict[str, Counter[State]] = {}
    oldest: dict[str, int] = {}
    for kind, due, token in held:
        if kind is None:
            continue
        state = state_of(due, token, now)
        counts.setdefault(kind, Counter())[state] += 1
        if state == "due" and due is not None:
            oldest[kind] = min(due, oldest.get(kind, due))
    return {
        kind: Tally(**{state: counted[state] for state in get_args(State)}, oldest_due=oldest.get(kind))
        for kind, counted in counts.items()
    }
