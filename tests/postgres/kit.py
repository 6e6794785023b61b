"""Records for the tests of the PostgreSQL backend."""

from __future__ import annotations

import uuid

from pitstop.abc import Outcome, Progress, Record, Settlement


#: An instant that no test reaches.
LATER = 4_000_000_000_000


def record(id="a", due=1, **fields):
    return Record(id, {"n": 1}, None, uuid.uuid4().hex, Progress(due, due), **fields)


def done(leased):
    return Settlement(leased.id, leased.progress.token, Outcome.COMPLETE, None)
