"""A Pitstop that a test drives, on the backends that need no server."""

from __future__ import annotations

import pytest

from pitstop import testing


@pytest.fixture
def pit():
    with testing.init(ids="msg-{n}") as pit:
        yield pit


@pytest.fixture(params=["memory", "sqlite"])
def any_pit(request, tmp_path):
    """A Pitstop on each backend that takes the clock, one after the other. The driving functions know none of them."""
    config = {"type": "memory"} if request.param == "memory" else {"type": "sqlite", "path": str(tmp_path / "pit.db")}
    with testing.init(config, ids="msg-{n}") as pit:
        yield pit
