"""The log of handlers that outlive their leases."""

from __future__ import annotations

import logging

from datetime import timedelta

import pytest

import pitstop

from pitstop.testing import ManualClock


NOW = timedelta(0)


@pytest.mark.parametrize("notices", [True, False])
def test_the_log_does_not_say_that_the_error_of_a_lost_lease_was_kept(caplog, notices):
    clock = ManualClock()
    with pitstop.init({"type": "memory", "clock": clock, "lock_time": "1m"}) as pit:
        pit.store({"id": "a"}, NOW)

        def handle(delivery):
            clock.advance(timedelta(minutes=2))
            if notices:
                with pytest.raises(pitstop.LeaseLost):
                    delivery.extend()
            raise ValueError

        summary = pit.consume(handle, max_messages=1)
        assert summary.lost == 1
    (line,) = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert line.endswith("; its lease was over before")
