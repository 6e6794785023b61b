"""Tools that these tests share."""

from __future__ import annotations

import os
import threading
import time

from datetime import timedelta

import pytest


#: ``PITSTOP_TEST_LARGE=1``: with more of everything.
LARGE = bool(os.environ.get("PITSTOP_TEST_LARGE"))

DUE_NOW = timedelta(0)

#: For behaviour in which no store has a part: shown on one.
on_sqlite = pytest.mark.parametrize("where", ["sqlite"], indirect=True)
#: For behaviour in which each store has a part, and that the shared suite shows, too: in processes on one, unless there is time.
on_sqlite_at_least = pytest.mark.parametrize("where", ["sqlite", *(["mongo"] if LARGE else [])], indirect=True)


def until(condition, patience=30.0):
    """Wait for what another process does; in the store it can only be looked for."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        threading.Event().wait(0.01)


def counts(pit):
    """Messages that are due, and leased."""
    stats = pit.stats()
    return stats.due, stats.leased


def stored(pit, count):
    """Store so many messages that are due."""
    return pit.store_many([({"id": f"m{number:04}"}, DUE_NOW) for number in range(count)])
