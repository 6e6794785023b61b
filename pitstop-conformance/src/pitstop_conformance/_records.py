"""Records as the tests of the contract store them."""

from __future__ import annotations

import os

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from pitstop.abc import Aside, Backend, Damaged, Outcome, Progress, Record, Settlement
from pitstop.testing import ManualClock


__all__ = [
    "EVERY_OUTCOME",
    "MINUTE",
    "SERIES",
    "START",
    "at",
    "complete",
    "ids",
    "lease_all",
    "lease_all_and_damaged",
    "lease_only",
    "make_record",
    "put_due",
    "records",
    "settlement",
]

#: The instant at which the clock of every test starts.
START = ManualClock().time_us() // 1000
#: A minute in milliseconds: how long the tests of the contract lease.
MINUTE = 60_000

#: A series with a value of each kind that one may hold.
SERIES: dict[str, Any] = {
    "start": START,
    "end": None,
    "every": {"v": 1, "kind": "every", "ms": 3_600_000},
    "catch_up": "latest",
    "grace": None,
    "list": [1, "two", None, [], {}, {"a.b": {"$c": [0]}}],
}


def at(instant: int) -> datetime:
    """The aware datetime of an instant."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=instant)


def make_record(
    id: str = "a",
    due: int | None = START,
    *,
    message: dict[str, Any] | None = None,
    series: Mapping[str, Any] | None = None,
    revision: str | None = None,
    **progress: Any,
) -> Record:
    """A record with some message, a new revision, and the progress of one that was just stored unless told otherwise."""
    progress.setdefault("scheduled_for", START if due is None else due)
    return Record(
        id=id,
        message={"of": id} if message is None else message,
        series=series,
        revision=os.urandom(16).hex() if revision is None else revision,
        progress=Progress(due=due, **progress),
    )


def put_due(backend: Backend, *ids: str) -> None:
    """Store records with these ids, due at the start, in this order."""
    backend.put([make_record(id) for id in ids])


def records(found: Iterable[Record | Damaged]) -> list[Record]:
    """What was found, none of it damaged."""
    found = list(found)
    assert not [each for each in found if isinstance(each, Damaged)]
    return [each for each in found if isinstance(each, Record)]


def lease_all(backend: Backend, *, limit: int = 100, duration: int = MINUTE) -> list[Record]:
    """Claim until nothing is due: a single claim may return fewer than are due."""
    return records(lease_all_and_damaged(backend, limit=limit, duration=duration))


def lease_all_and_damaged(backend: Backend, *, limit: int = 100, duration: int = MINUTE) -> list[Record | Damaged]:
    """Claim until nothing is due, some of it damaged."""
    leased: list[Record | Damaged] = []
    while claim := backend.lease(limit, duration):
        assert len(claim) <= limit, "a claim holds no more than its limit"
        # Else this would never end.
        assert {each.id for each in claim}.isdisjoint(each.id for each in leased), "leased again while its lease runs"
        leased.extend(claim)
    return leased


def lease_only(backend: Backend, *, duration: int = MINUTE) -> Record:
    """Claim the one record that is due."""
    claim = backend.lease(1, duration)
    assert len(claim) == 1, "something is due, and one is to be leased"
    leased = claim[0]
    assert isinstance(leased, Record)
    return leased


def ids(stored: Any) -> list[str]:
    return [each.id for each in stored]


def settlement(leased: Record | Damaged, outcome: Outcome, progress: Progress | Aside | None) -> Settlement:
    token = leased.token if isinstance(leased, Damaged) else leased.progress.token
    assert token is not None
    return Settlement(leased.id, token, outcome, progress)


def complete(leased: Record | Damaged) -> Settlement:
    return settlement(leased, Outcome.COMPLETE, None)


def _buried(leased: Record) -> Progress:
    return attrs.evolve(leased.progress, due=None, last_error="given up")


def _released(leased: Record) -> Progress:
    return attrs.evolve(leased.progress, due=START + 5 * MINUTE, last_error="failed", token=None)


def _rescheduled(leased: Record) -> Progress:
    return Progress(START + 60 * MINUTE, START + 60 * MINUTE, last_error="parked")


def _extended(leased: Record) -> Progress:
    return attrs.evolve(leased.progress, due=START + 7 * MINUTE)


def _deleted(leased: Record) -> None:
    return None


#: For each outcome: the progress that it makes of a leased record's.
EVERY_OUTCOME: dict[Outcome, Callable[[Record], Any]] = {
    Outcome.COMPLETE: _deleted,
    Outcome.RESCHEDULE: _rescheduled,
    Outcome.RELEASE: _released,
    Outcome.BURY: _buried,
    Outcome.EXTEND: _extended,
}
