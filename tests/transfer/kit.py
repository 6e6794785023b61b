"""Stores of every backend that are filled with messages of every state and form, and compared field by field."""

from __future__ import annotations

import math
import os

from collections.abc import Sequence
from typing import Any

import attrs

import pitstop

from pitstop._pitstop import session_of
from pitstop.abc import PAUSED, Backend, Progress, Record, dump_message


__all__ = ["MANY", "as_moved", "fill", "held", "spelled"]

#: How many messages are moved. ``PITSTOP_TEST_LARGE=1``: 100,000.
MANY = 100_000 if os.environ.get("PITSTOP_TEST_LARGE") else 3000
_DAY = 86_400_000
_SERIES = {"start": 1, "end": None, "every": {"v": 1, "kind": "every", "ms": _DAY}, "catch_up": "latest", "grace": None}
_BODIES: Sequence[dict[str, Any]] = (
    {},
    {"n": math.nan, "inf": math.inf, "zero": -0.0, "one": [1, 1.0, True, None]},
    {"large": 2**63 - 1, "least": -(2**63), "b": b"\x00\xff", "text": "\U0001f3ce\u202e\x00"},
    {"z": 1, "a": {"$bytes": "no"}, "$time": {"$map": [1]}, "a.b": [{}, [], {"": ""}]},
)


def fill(pit: pitstop.Pitstop, count: int = MANY) -> None:
    """Store messages of all states but a running lease, with all fields that a record may have. Pause two kinds."""
    backend = session_of(pit).backend
    now = backend.now() // 1000
    for first in range(0, count, 2000):
        backend.put([_record(n, now) for n in range(first, min(first + 2000, count))])
    pit.pause(kind="mail")
    pit.pause(kind="", until="90d")


def _record(n: int, now: int) -> Record:
    scheduled_for = now + (n % 17 - 8) * _DAY
    fresh = Progress(scheduled_for, scheduled_for)
    worn = Progress(
        max(scheduled_for, now - 5), scheduled_for, 1 + n % 3, now - 9, f"boom {n}\n\u202e", None, n % 2, n % 2, n % 2
    )
    progress = (
        fresh,
        worn,
        # Dead, paused, paused until, and a lease that ran out.
        attrs.evolve(worn, due=None, token=f"{n:032x}"),
        attrs.evolve(fresh, due=None, token=PAUSED),
        attrs.evolve(fresh, due=now + 9 * _DAY, token=PAUSED),
        attrs.evolve(worn, due=now - 5, token=f"{n:032x}"),
    )[n % 6]
    policy: dict[str, Any] = {"retry": {"delay": 5000, "max_attempts": 9}, "lock_time": 9000, "expires": 99 * _DAY}
    if progress.token == PAUSED:
        policy["paused"] = {"until": progress.due, "due": scheduled_for}
    return Record(
        # Ids whose order differs from that of the numbers.
        f"{n * 7919 % 1_000_003:07}-\U0001f3ce$in%" if n % 5 else f"{n:05}",
        {"n": n, **_BODIES[n % 4]},
        _SERIES if n % 7 == 0 else None,
        f"{n:032x}",
        progress,
        ("", "mail", "report")[n % 3],
        policy if n % 4 == 0 or progress.token == PAUSED else None,
    )


def held(pit: pitstop.Pitstop) -> dict[str, Record]:
    """Return all records of a store."""
    backend: Backend = session_of(pit).backend
    found: dict[str, Record] = {}
    after: tuple[int | None, str] | None = None
    while page := backend.scan(None, 5000, after):
        for each in page:
            assert isinstance(each, Record), each
            found[each.id] = each
        last = page[-1]
        assert isinstance(last, Record)
        after = last.progress.due, last.id
    return found


def as_moved(records: dict[str, Record]) -> dict[str, str]:
    """Return the records as text, without the tokens of leases, which are not moved."""
    return {id: spelled(_at_rest(each)) for id, each in records.items()}


def spelled(record: Record) -> str:
    """Return all fields of a record as text. Unlike ``==`` it tells 1 from 1.0 and 0.0 from -0.0, and NaN is NaN."""
    others = attrs.evolve(record, message={})
    return f"{others!r} {record.series!r} {record.policy!r} {dump_message(record.message)}"


def _at_rest(record: Record) -> Record:
    progress = record.progress
    if progress.due is None or progress.token == PAUSED:
        return record
    return attrs.evolve(record, progress=attrs.evolve(progress, token=None))
