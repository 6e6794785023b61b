"""A store that a test controls: its clock, its backend, and a Pitstop on it."""

from __future__ import annotations

import pytest

import pitstop

from core.kit import Clock, backend


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
