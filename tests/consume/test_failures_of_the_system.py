"""``consume`` and listeners whose heartbeat gets no thread, and the log of handlers that outlive their leases."""

from __future__ import annotations

import asyncio
import logging
import threading

from datetime import timedelta

import pytest

import pitstop

from pitstop.testing import ManualClock


NOW = timedelta(0)


@pytest.fixture
def refused(monkeypatch):
    """Have the system refuse threads of these names."""
    start, names = threading.Thread.start, {"pitstop-heartbeat"}

    def start_unless_refused(thread):
        if thread.name in names:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_unless_refused)
    return names


def warnings_of(caplog):
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


WARNING = "leases are not extended until the system gives a thread"


@pytest.mark.parametrize("timeout", [0, 1, None])
def test_a_message_whose_heartbeat_cannot_begin_is_handed_out_all_the_same(refused, caplog, timeout):
    with pitstop.init("memory://") as pit:
        pit.store({"id": "a"}, NOW)
        with pit.listen(heartbeat=True) as listener, listener.get(timeout=timeout) as delivery:
            assert (delivery.id, delivery.attempt) == ("a", 1)
        assert pit.get("a") is None
    (line,) = warnings_of(caplog)
    assert line.startswith(WARNING)


def test_consume_without_a_heartbeat_handles_messages_all_the_same(refused, caplog):
    with pitstop.init("memory://") as pit:
        pit.store({"id": "a"}, NOW)
        assert pit.consume(lambda msg: None, heartbeat=True, until_idle=True).acked == 1
    (line,) = warnings_of(caplog)
    assert line.startswith(WARNING)


async def nothing(message): ...


def test_consume_in_an_event_loop_without_a_heartbeat_handles_messages_all_the_same(refused, caplog):
    async def main():
        async with asyncio.timeout(30), pitstop.init_async("memory://") as pit:
            await pit.store({"id": "a"}, NOW)
            assert (await pit.consume(nothing, heartbeat=True, until_idle=True)).acked == 1

    asyncio.run(main())
    (line,) = warnings_of(caplog)
    assert line.startswith(WARNING)


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
    (line,) = [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]
    assert line.splitlines()[0].endswith("; its lease was over before")
