"""Records for the tests of the contract, and shortcuts to store and claim them."""

from __future__ import annotations

import os

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from pitstop.abc import PAUSED, Aside, Backend, Damaged, Outcome, Progress, Record, Settlement
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
    """Return an instant as an aware datetime."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=instant)


def make_record(
    id: str = "a",
    due: int | None = START,
    *,
    message: dict[str, Any] | None = None,
    series: Mapping[str, Any] | None = None,
    revision: str | None = None,
    kind: str = "",
    policy: Mapping[str, Any] | None = None,
    **progress: Any,
) -> Record:
    """Return a record with some message, a new revision, and by default the progress of a record that was just stored."""
    progress.setdefault("scheduled_for", START if due is None else due)
    return Record(
        id=id,
        message={"of": id} if message is None else message,
        series=series,
        revision=os.urandom(16).hex() if revision is None else revision,
        progress=Progress(due=due, **progress),
        kind=kind,
        policy=policy,
    )


def put_due(backend: Backend, *ids: str) -> None:
    """Store records with these ids, due at the start, in this order."""
    backend.put([make_record(id) for id in ids])


def records(found: Iterable[Record | Damaged]) -> list[Record]:
    """Return the records of a result that must not contain damaged ones."""
    found = list(found)
    assert not [each for each in found if isinstance(each, Damaged)], (
        "no record was damaged, so none is returned as Damaged"
    )
    return [each for each in found if isinstance(each, Record)]


def lease_all(backend: Backend, *, limit: int = 100, duration: int = MINUTE) -> list[Record]:
    """Claim until nothing is due: a single claim may return fewer than are due."""
    return records(lease_all_and_damaged(backend, limit=limit, duration=duration))


def lease_all_and_damaged(backend: Backend, *, limit: int = 100, duration: int = MINUTE) -> list[Record | Damaged]:
    """Claim until nothing is due. Some of the claimed records may be damaged."""
    leased: list[Record | Damaged] = []
    while claim := backend.lease(limit, duration):
        assert len(claim) <= limit, "a claim returns at most `limit` records"
        # A record that is leased again would make this loop endless.
        assert {each.id for each in claim}.isdisjoint(each.id for each in leased), (
            "no claim returns a record whose lease still runs"
        )
        leased.extend(claim)
    return leased


def lease_only(backend: Backend, *, duration: int = MINUTE) -> Record:
    """Claim the one record that is due."""
    claim = backend.lease(1, duration)
    assert len(claim) == 1, "a record is due, so lease(1, ...) returns one record"
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


def _parked(leased: Record) -> Progress:
    return attrs.evolve(leased.progress, due=None, attempts=0, unsettled=0, token=PAUSED)


#: For each outcome: a function from a leased record to its progress afterwards.
EVERY_OUTCOME: dict[Outcome, Callable[[Record], Any]] = {
    Outcome.COMPLETE: _deleted,
    Outcome.RESCHEDULE: _rescheduled,
    Outcome.RELEASE: _released,
    Outcome.BURY: _buried,
    Outcome.EXTEND: _extended,
    # A series goes on. Of a one-shot message, it is as COMPLETE.
    Outcome.EXPIRE: _rescheduled,
    Outcome.PAUSE: _parked,
}
