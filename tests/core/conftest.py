"""A store that a test controls: its clock, its backend, and a Pitstop on it."""

from __future__ import annotations

from collections import Counter

import pytest

import pitstop

from core.kit import Clock, backend
from pitstop._engine._background import Background


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(clock):
    return backend(clock=clock)


@pytest.fixture
def pit(store):
    with pitstop.init({"type": store}) as pit:
        yield pit


@pytest.fixture
def alone(monkeypatch):
    """No background thread runs by itself: a test lets it do a turn."""
    monkeypatch.setattr(Background, "begin", lambda self: True)


@pytest.fixture
def told(pit):
    """The hooks that were called, by name."""
    counts = Counter()

    class Hooks:
        leased = stored = handling = ()
        strict = takes_lateness = False
        settled = store_failed = ()

        def notify(self, name, _):
            counts[name] += 1

    hooks = Hooks()
    for name in ("acked", "retried", "dead", "lease_lost", "advanced"):
        setattr(hooks, name, name)
    pit._session.events.hooks = hooks
    return counts
