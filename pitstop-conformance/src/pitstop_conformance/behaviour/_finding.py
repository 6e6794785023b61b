"""``entries`` with arguments of a search, and ``stats`` by kind."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

import pitstop

from pitstop import Delivery, Entry, PitstopError
from pitstop.abc import Backend, Capability
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Kit, needs
from pitstop_conformance._records import START, at
from pitstop_conformance.behaviour._delivery import next_of


_NOW = at(START)
_SECOND, _MINUTE = timedelta(seconds=1), timedelta(minutes=1)


def _ids(entries: list[Entry]) -> list[str]:
    return [each.id for each in entries]


def _pages(pit: pitstop.Pitstop, **search: Any) -> list[str]:
    found: list[str] = []
    after: Entry | None = None
    while page := pit.entries(limit=2, after=after, **search):
        found += _ids(page)
        after = page[-1]
    return found


class Finding(Kit):
    """Searches of users, page by page."""

    rule = "pitstop.Pitstop.entries and stats"

    @pytest.fixture
    def shop(self, make_pit: Callable[..., pitstop.Pitstop]) -> pitstop.Pitstop:
        pit = make_pit()
        for n in range(5):
            pit.store({"id": f"order-7:{n}"}, _NOW + (5 - n) * _MINUTE)
            pit.store({"id": f"order-70:{n}"}, _NOW + n * _MINUTE)
        pit.store({"id": "ORDER-7:0"}, _NOW)
        return pit

    def test_entries_of_a_prefix_come_in_the_order_of_their_ids(self, shop: pitstop.Pitstop) -> None:
        wanted = [f"order-7:{n}" for n in range(5)]
        assert _ids(shop.entries(prefix="order-7:")) == wanted
        assert _pages(shop, prefix="order-7:") == wanted
        assert _pages(shop, prefix="order-7") == [f"order-70:{n}" for n in range(5)] + wanted, (
            "0 comes before the colon"
        )
        assert _ids(shop.entries(prefix="order-8")) == []

    def test_entries_of_a_time_are_from_its_beginning_to_before_its_end(
        self, shop: pitstop.Pitstop, clock: ManualClock
    ) -> None:
        wanted = ["order-70:1", "order-7:4", "order-70:2", "order-7:3"]
        assert _pages(shop, due_after=_NOW + _MINUTE, due_before=_NOW + 3 * _MINUTE) == wanted
        # As distances from now, and with parts of a millisecond.
        assert _pages(shop, due_after="1m", due_before="3m") == wanted
        late = timedelta(microseconds=1)
        assert _pages(shop, due_after=_NOW + _MINUTE - late, due_before=_NOW + 3 * _MINUTE - late) == wanted
        clock.advance(120)
        assert _pages(shop, due_after="-1m", due_before=_MINUTE) == wanted
        assert _ids(shop.entries("due", due_after=-_MINUTE, due_before="0s")) == wanted[:2]
        assert shop.entries(due_before="-1h") == []

    def test_entries_of_a_kind(self, shop: pitstop.Pitstop, backend: Backend) -> None:
        needs(backend, Capability.KINDS)
        for n in range(5):
            shop.store({"id": f"mail-{n}"}, _NOW + n * _SECOND, kind="mail")

        assert _pages(shop, kind="mail") == [f"mail-{n}" for n in range(5)]
        assert _pages(shop, kind="mail", state="scheduled", due_before="3s") == ["mail-1", "mail-2"]
        assert _pages(shop, kind="mail", prefix="order") == []
        assert len(_pages(shop, kind="")) == 11
        assert _pages(shop, kind="none") == []

    def test_entries_that_fail(self, make_pit: Callable[..., pitstop.Pitstop], clock: ManualClock) -> None:
        pit = make_pit(retry={"max_attempts": 2, "delay": 60, "factor": 1, "jitter": 0}, lock_time=300)
        listener = pit.listen()

        def emit(id: str) -> Delivery:
            pit.store({"id": id}, _NOW)
            return next_of(listener)

        emit("acked").ack(wait=True)
        emit("waits").nack("boom")
        emit("waits-too").nack()
        emit("dead").nack("boom", delay=timedelta(0))
        next_of(listener).nack("boom")
        emit("runs")
        pit.store({"id": "new"}, _NOW + _MINUTE)
        pit.store({"id": "series"}, _NOW, None, _MINUTE)
        next_of(listener).ack(wait=True)

        assert _ids(pit.entries(failing=True)) == ["waits", "waits-too", "dead"]
        assert _ids(pit.entries("scheduled", failing=True)) == ["waits", "waits-too"]
        assert _ids(pit.entries(failing=False)) == ["new", "series", "runs"]
        clock.advance(60)
        assert _ids(pit.entries("due", failing=True)) == ["waits", "waits-too"]
        pit.redrive("dead")
        assert _ids(pit.entries(failing=True)) == ["waits", "waits-too"]

    def test_a_message_that_was_handed_back_at_the_end_of_a_program_does_not_fail(
        self, make_pit: Callable[..., pitstop.Pitstop]
    ) -> None:
        pit = make_pit()
        pit.store({"id": "a"}, _NOW)

        def stopped(_: Any) -> None:
            raise SystemExit

        with pytest.raises(SystemExit):
            pit.consume(stopped)

        entry = pit.get("a")
        assert entry is not None
        assert (entry.state, entry.attempts) == ("due", 1)
        assert pit.entries(failing=True) == []

    def test_a_series_that_goes_on_after_a_failure_does_not_fail(
        self, make_pit: Callable[..., pitstop.Pitstop]
    ) -> None:
        pit = make_pit(retry={"max_attempts": 1})
        pit.store({"id": "a"}, _NOW, None, _MINUTE)
        next_of(pit.listen()).nack("boom")

        entry = pit.get("a")
        assert entry is not None
        assert (entry.last_error, entry.attempts) == ("boom", 0)
        assert pit.entries(failing=True) == []

    def test_stats_by_kind(self, shop: pitstop.Pitstop, backend: Backend) -> None:
        needs(backend, Capability.KINDS)
        shop.store({"id": "mail"}, _NOW, kind="mail")
        shop.store({"id": "report"}, _NOW + _MINUTE, kind="report")

        found = shop.stats(by="kind")

        assert list(found) == ["", "mail", "report"]
        assert (found["mail"].due, found["mail"].scheduled, found["mail"].oldest_due) == (1, 0, _NOW)
        assert (found["report"].due, found["report"].scheduled, found["report"].oldest_due) == (0, 1, None)
        whole = shop.stats()
        assert sum(each.due for each in found.values()) == whole.due == 3
        assert sum(each.scheduled for each in found.values()) == whole.scheduled

    def test_an_argument_that_cannot_be_used_is_named(self, shop: pitstop.Pitstop) -> None:
        for name, wrong in [
            ("state", "done"),
            ("kind", 7),
            ("prefix", 7),
            ("prefix", "a\0"),
            ("prefix", "\ud800"),
            ("due_before", 7),
            ("due_before", "soon"),
            ("due_after", datetime(2020, 1, 1)),
            ("failing", "yes"),
        ]:
            with pytest.raises(PitstopError, match=name):
                shop.entries(**{name: wrong})  # type: ignore[arg-type]
        with pytest.raises(PitstopError, match="by="):
            shop.stats(by="state")  # type: ignore[call-overload]

    def test_a_search_and_its_pages_are_stable_while_messages_come_and_go(self, shop: pitstop.Pitstop) -> None:
        first = shop.entries(prefix="order-7:", limit=2)
        shop.remove(first[-1].id)
        shop.store({"id": "order-7:00"}, _NOW)
        shop.store({"id": "order-7:33"}, _NOW)

        assert _ids(shop.entries(prefix="order-7:", after=first[-1])) == [
            "order-7:2",
            "order-7:3",
            "order-7:33",
            "order-7:4",
        ]
