"""A PostgreSQL server for tests: the one that PITSTOP_TEST_POSTGRES_URI names."""

from __future__ import annotations

import os


def available() -> bool:
    """Whether there is a server."""
    return bool(os.environ.get("PITSTOP_TEST_POSTGRES_URI"))


def uri() -> str:
    """Return the URI of a running server, whose databases ``pitstop_test_*`` may be created and dropped."""
    return os.environ["PITSTOP_TEST_POSTGRES_URI"]
