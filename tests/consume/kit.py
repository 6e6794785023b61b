"""What these tests share."""

from __future__ import annotations

import os

from datetime import timedelta

import pytest


#: ``PITSTOP_TEST_LARGE=1``: with more of everything.
LARGE = bool(os.environ.get("PITSTOP_TEST_LARGE"))

DUE_NOW = timedelta(0)

#: What no store has a part in: shown on one.
on_sqlite = pytest.mark.parametrize("where", ["sqlite"], indirect=True)
#: What each store has a part in that the shared suite shows, too: in processes on one, unless there is time.
on_sqlite_at_least = pytest.mark.parametrize("where", ["sqlite", *(["mongo"] if LARGE else [])], indirect=True)


def stored(pit, count):
    """Store so many messages that are due."""
    return pit.store_many([({"id": f"m{number:04}"}, DUE_NOW) for number in range(count)])
