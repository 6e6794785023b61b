"""The server's clock decides, not this machine's."""

from __future__ import annotations

import logging

import pytest

from pitstop.abc import from_instant
from pitstop.testing import ManualClock
from pitstop_mongo._client.server_time import ServerTime


class Server:
    """A server whose clock is ``ahead`` seconds before this machine's."""

    def __init__(self, clock, ahead, *, naive=True):
        self.clock, self.ahead, self.naive, self.asked = clock, ahead, naive, 0
        self.there = True

    def has_primary(self, client):
        return self.there

    def server_time(self, client):
        self.asked += 1
        told = from_instant(self.clock.time_us() // 1000 + round(self.ahead * 1000))
        return told.replace(tzinfo=None) if self.naive else told


@pytest.fixture
def clock():
    return ManualClock()


@pytest.mark.parametrize("naive", [True, False])
@pytest.mark.parametrize("ahead", [-30.0, -0.5, 0.0, 0.5, 30.0])
def test_now_is_the_servers(clock, ahead, naive):
    time = ServerTime(clock, Server(clock, ahead, naive=naive), None)
    assert time.now_us() == clock.time_us() + round(ahead * 1e6)


def test_a_difference_within_the_precision_is_none(clock):
    assert ServerTime(clock, Server(clock, 0.001), None).now_us() == clock.time_us()


def test_it_is_measured_again_each_minute_and_after_a_lost_connection(clock):
    server = Server(clock, 5.0)
    time = ServerTime(clock, server, None)
    time.now_us()
    asked, server.ahead = server.asked, 7.0

    clock.advance(59)
    assert time.now_us() == clock.time_us() + 5_000_000
    assert server.asked == asked
    clock.advance(1)
    assert time.now_us() == clock.time_us() + 7_000_000

    server.ahead = 9.0
    time.outdate()
    assert time.now_us() == clock.time_us() + 9_000_000


def test_the_last_measurement_holds_while_there_is_no_primary(clock):
    """The question would wait for a primary, before the operation itself waits for it."""
    server = Server(clock, 5.0)
    time = ServerTime(clock, server, None)
    time.now_us()
    asked, server.there = server.asked, False
    clock.advance(3600)
    time.outdate()
    assert time.now_us() == clock.time_us() + 5_000_000
    assert server.asked == asked


def test_setting_this_machines_clock_changes_nothing(monkeypatch):
    from pitstop.abc import SystemClock

    clock = SystemClock()
    time = ServerTime(clock, Server(clock, 0.0), None)
    before = time.now_us()
    true = SystemClock.time_us
    monkeypatch.setattr(SystemClock, "time_us", lambda self: true(self) + 30_000_000)
    assert before <= time.now_us() < before + 10_000_000


def test_a_large_difference_is_a_warning_once(clock, caplog):
    time = ServerTime(clock, Server(clock, -30.0), None)
    for _ in range(3):
        time.now_us()
        clock.advance(60)
    (entry,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert entry.getMessage() == "the server's clock and this machine's differ by -30.0 s. The server's clock decides"


def test_the_real_servers_clock_is_this_machines(open_backend):
    from pitstop.abc import SystemClock

    backend = open_backend()
    assert abs(backend.now() - SystemClock().time_us()) < 5_000_000


def test_a_configured_clock_decides_alone(open_backend, clock):
    assert open_backend(clock=clock).now() == clock.time_us()
