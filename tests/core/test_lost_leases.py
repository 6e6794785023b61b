"""A lost lease is counted once, even if the handler's thread and the heartbeat notice it at the same moment."""

from __future__ import annotations

import sys

from datetime import timedelta
from functools import partial

import pytest

import pitstop

from pitstop import LeaseLost
from pitstop._engine._delivery import lease_of
from pitstop.testing import ManualClock


_TRACED = ("pitstop._engine._delivery", "pitstop._engine._lease", "pitstop._engine._settler", "pitstop._engine._writer")


def settled(operation, act=None, at=None):
    """Call ``operation``, and call ``act`` before the given line of the delivery's code; return the number of lines that ran."""
    lines = 0

    def on_line(frame, event, arg):
        nonlocal lines
        if event == "line":
            if lines == at:
                act()
            lines += 1
        return on_line

    def on_call(frame, event, arg):
        return on_line if frame.f_globals.get("__name__") in _TRACED else None

    traced = sys.gettrace()
    sys.settrace(on_call)
    try:
        with pytest.raises(LeaseLost):
            operation()
    finally:
        sys.settrace(traced)
    return lines


def found_by_heartbeat(delivery):
    lease = lease_of(delivery)
    if lease.lose_unasked():
        delivery._writer.lose(lease, delivery)


def lost(prefetch):
    clock = ManualClock()
    pit = pitstop.init({"type": "memory", "clock": clock, "lock_time": "1m"})
    pit.store({"id": "a"}, timedelta(0))
    listener = pit.listen(prefetch=prefetch, heartbeat=False)
    delivery = listener.get()
    clock.advance("2m")
    return pit, delivery


@pytest.mark.parametrize("how", ["ack", "nack", "extend"])
def test_it_is_counted_once_wherever_the_heartbeat_finds_it_out_too(how):
    pit, delivery = lost(prefetch=1)
    lines = settled(getattr(delivery, how))
    pit.close()
    for number in range(lines):
        pit, delivery = lost(prefetch=1)
        settled(getattr(delivery, how), partial(found_by_heartbeat, delivery), number)
        assert pit._session.events.counters["lease_lost"] == 1, f"at line {number}"
        pit.close()
    assert lines > 5
