"""``consume``: it calls a handler for each message, settles it, and extends its lease while the handler works."""

from __future__ import annotations

import threading

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import pitstop

from pitstop.testing import ManualClock
from pitstop_conformance._kit import Kit
from pitstop_conformance._records import START, at
from pitstop_conformance.behaviour._delivery import next_of
from pitstop_conformance.behaviour._listener import until


_NOW = at(START)
_LOCK = timedelta(minutes=15)


class Consuming(Kit):
    """Messages that ``consume`` gives to a handler."""

    rule = 'docs/api.md, "consume"'

    @pytest.mark.parametrize("workers", [1, 4])
    def test_each_message_is_acknowledged_once_or_comes_back_as_configured(
        self, make_pit: Callable[..., pitstop.Pitstop], clock: ManualClock, workers: int
    ) -> None:
        pit = make_pit(retry={"delay": 60, "max_attempts": 2, "jitter": 0})
        pit.store_many([({"n": n}, _NOW - timedelta(seconds=n)) for n in range(60)])
        seen: Counter[int] = Counter()
        lock = threading.Lock()

        def handle(msg: dict[str, Any]) -> None:
            with lock:
                seen[msg["n"]] += 1
            if msg["n"] % 10 == 0 and (seen[msg["n"]] == 1 or msg["n"] == 50):
                raise ValueError(msg["n"])

        first = pit.consume(handle, workers=workers, until_idle=True)
        assert (first.acked, first.nacked, first.reason) == (54, 6, "idle")
        assert pit.consume(handle, workers=workers, until_idle=True).handled == 0
        clock.advance(60)
        second = pit.consume(handle, workers=workers, until_idle=True)

        assert (second.acked, second.nacked) == (5, 1)
        assert seen == Counter({n: 2 if n % 10 == 0 else 1 for n in range(60)})
        (dead,) = pit.entries()
        assert (dead.state, dead.message["n"], dead.last_error) == ("dead", 50, "ValueError: 50")

    def test_what_handlers_store_for_now_is_handled_before_it_is_idle(self, pit: pitstop.Pitstop) -> None:
        pit.store({"n": 20}, _NOW)

        def handle(msg: dict[str, Any]) -> None:
            if msg["n"]:
                pit.store({"n": msg["n"] - 1}, _NOW)

        assert pit.consume(handle, workers=2, until_idle=True).acked == 21
        assert pit.entries() == []

    def test_what_was_claimed_beyond_max_messages_is_given_back(self, pit: pitstop.Pitstop) -> None:
        pit.store_many([({"id": f"{n}"}, _NOW - timedelta(seconds=9 - n)) for n in range(8)])
        seen: list[str] = []

        summary = pit.consume(lambda msg: seen.append(msg["id"]), max_messages=3, prefetch=5)

        assert (summary.acked, summary.reason, seen) == (3, "max_messages", ["0", "1", "2"])
        with pit.listen() as listener:
            others = list(iter(listener.get, None))
        assert [(each.id, each.attempt) for each in others] == [(f"{n}", 1) for n in range(3, 8)]

    def test_a_series_goes_on_after_a_handler(self, pit: pitstop.Pitstop, clock: ManualClock) -> None:
        pit.store({"id": "a"}, _NOW, None, timedelta(hours=1))
        seen = []

        def handle(delivery: pitstop.Delivery) -> None:
            seen.append(delivery.scheduled_for)

        for _ in range(3):
            assert pit.consume(handle, until_idle=True).acked == 1
            clock.advance(timedelta(hours=1))

        assert seen == [_NOW + timedelta(hours=n) for n in range(3)]

    def test_nobody_else_gets_a_message_while_the_heartbeat_holds_its_lease(
        self, make_pit: Callable[..., pitstop.Pitstop], clock: ManualClock
    ) -> None:
        pit, other = make_pit(), make_pit()
        pit.store({"id": "a"}, _NOW)

        def handle(delivery: pitstop.Delivery) -> None:
            for _ in range(9):
                _pass(clock, _LOCK / 3)
                until(lambda: delivery.leased_until == clock.now() + _LOCK)
                with other.listen() as listener:
                    assert listener.get() is None

        summary = pit.consume(handle, heartbeat=True, max_messages=1)

        assert (summary.acked, summary.nacked) == (1, 0)
        assert clock.now() >= _NOW + 3 * _LOCK
        assert pit.entries() == []

    def test_a_handler_that_is_late_all_the_same_is_told_and_changes_nothing(
        self, make_pit: Callable[..., pitstop.Pitstop], clock: ManualClock
    ) -> None:
        pit, other = make_pit(), make_pit()
        pit.store({"id": "a"}, _NOW)
        taken = []

        def handle(delivery: pitstop.Delivery) -> None:
            # As if the process or the machine had been stopped: no heartbeat meanwhile.
            _pass(clock, 2 * _LOCK)
            until(lambda: delivery.lost)
            taken.append(next_of(other.listen()))

        summary = pit.consume(handle, heartbeat=True, max_messages=1)

        assert (summary.acked, summary.nacked, summary.lost) == (0, 0, 1)
        assert taken[0].attempt == 2
        taken[0].ack()
        assert pit.entries() == []


def _pass(clock: ManualClock, by: timedelta) -> None:
    """Move the clock when the heartbeat sleeps."""
    assert clock.wait_for_sleepers(1)
    clock.advance(by)
