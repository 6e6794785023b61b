"""Hooks for metrics: the fate of each claimed message, the lateness of deliveries, failures of the store, and new Pitstops."""

from __future__ import annotations

import asyncio

from datetime import timedelta

import pytest

import pitstop

from core.kit import Scripted, backend
from pitstop import BackendUnavailable, hookimpl, testing


class Measuring:
    def __init__(self) -> None:
        self.settled: list[tuple[str, str, str]] = []
        self.lateness: list[tuple[str, int, timedelta | None]] = []
        self.failures: list[BackendUnavailable] = []
        self.opened: list[pitstop.Pitstop] = []

    @hookimpl
    def pitstop_message_settled(self, id, kind, outcome):
        self.settled.append((id, kind, outcome))

    @hookimpl
    def pitstop_message_leased(self, delivery, lateness):
        self.lateness.append((delivery.id, delivery.attempt, lateness))

    @hookimpl
    def pitstop_store_failed(self, error):
        self.failures.append(error)

    @hookimpl
    def pitstop_opened(self, pit):
        self.opened.append(pit)


@pytest.fixture
def measured():
    return Measuring()


def opened(clock, plugin, **options):
    return pitstop.init({"type": "memory", "clock": clock, **options}, plugins=[plugin])


class TestSettled:
    def test_each_outcome_is_reported_once_with_the_kind(self, clock, measured):
        with (
            opened(clock, measured, retry={"max_attempts": 2, "delay": "1s"}) as pit,
            pit.listen(prefetch=1) as listener,
        ):
            pit.store({"id": "a"}, kind="mail")
            listener.get().nack("boom")
            clock.advance(60)
            listener.get().nack("boom")
            pit.store({"id": "b"}, kind="report")
            listener.get().ack()
            pit.store({"id": "c"}, kind="report")
            delivery = listener.get()
            pit.remove("c")
            with pytest.raises(pitstop.LeaseLost):
                delivery.ack()
            pit.store({"id": "d"}, kind="news", expires="1s")
            clock.advance(2)
            assert listener.get() is None
            pit.store({"id": "s"}, None, None, timedelta(hours=1), retry={"max_attempts": 1}, kind="tick")
            listener.get().nack("boom")
        assert measured.settled == [
            ("a", "mail", "nacked"),
            ("a", "mail", "dead"),
            ("b", "report", "acked"),
            ("c", "report", "lost"),
            ("d", "news", "expired"),
            ("s", "tick", "nacked"),
        ]

    def test_messages_that_are_given_back_have_no_outcome(self, clock, measured):
        with opened(clock, measured) as pit:
            pit.store({"id": "a"})
            with pit.listen() as listener, pytest.raises(KeyboardInterrupt), listener.get():
                raise KeyboardInterrupt
            assert pit.get("a").state == "due"
        assert measured.settled == []


class TestLateness:
    def test_it_is_the_time_since_the_message_was_due(self, clock, measured):
        with opened(clock, measured) as pit, pit.listen(prefetch=1) as listener:
            pit.store({"id": "a"}, timedelta(seconds=10))
            clock.advance(12.5)
            listener.get().ack()
        assert measured.lateness == [("a", 1, timedelta(seconds=2.5))]

    def test_time_in_the_buffer_of_the_listener_counts(self, clock, measured):
        with opened(clock, measured) as pit, pit.listen(prefetch=2) as listener:
            pit.store_many([({"id": "a"}, timedelta(0)), ({"id": "b"}, timedelta(0))])
            listener.get().ack()
            clock.advance(3)
            listener.get().ack()
        assert [each[2] for each in measured.lateness] == [timedelta(0), timedelta(seconds=3)]

    def test_a_later_attempt_has_none(self, clock, measured):
        with opened(clock, measured) as pit, pit.listen(prefetch=1) as listener:
            pit.store({"id": "a"})
            listener.get().nack(delay=timedelta(seconds=5))
            clock.advance(5)
            listener.get().ack()
        assert measured.lateness == [("a", 1, timedelta(0)), ("a", 2, None)]

    def test_the_jitter_of_a_series_is_not_late(self, clock, measured):
        with opened(clock, measured) as pit, pit.listen(prefetch=1) as listener:
            pit.store({"id": "s"}, timedelta(0), None, timedelta(hours=1), jitter="30m")
            due = pit.get("s").due - pit.now()
            clock.advance(due.total_seconds() + 1)
            listener.get().ack()
        assert measured.lateness == [("s", 1, timedelta(seconds=1))]

    def test_a_message_that_was_let_come_early_is_not_late(self, clock, measured):
        with opened(clock, measured) as pit, pit.listen(prefetch=1) as listener:
            pit.store({"id": "a"}, timedelta(hours=1))
            pit.emit_now("a")
            listener.get().ack()
        assert measured.lateness == [("a", 1, timedelta(0))]


class TestStoreFailed:
    def test_a_call_that_fails_is_reported_once(self, clock, measured):
        with testing.init(clock=clock, plugins=[measured]) as pit:
            pit.faults.fail_next("store")
            with pytest.raises(BackendUnavailable) as caught:
                pit.store({"id": "a"})
        assert measured.failures == [caught.value]

    def test_tries_of_a_listener_that_waits_are_reported(self, clock, measured):
        store = backend(Scripted, clock)
        with pitstop.init({"type": store}, plugins=[measured]) as pit:
            pit.store({"id": "a"})
            with pit.listen() as listener:
                store.down = True
                with pytest.raises(BackendUnavailable):
                    listener.get(timeout=0)
                store.down = False
                listener.get().ack()
        assert len(measured.failures) == 1

    def test_a_closed_pitstop_is_no_failure_of_the_store(self, clock, measured):
        pit = opened(clock, measured)
        pit.close()
        with pytest.raises(BackendUnavailable):
            pit.store({"id": "a"})
        assert measured.failures == []


class TestOpened:
    def test_it_has_the_pitstop(self, clock, measured):
        with opened(clock, measured) as pit:
            assert measured.opened == [pit]

    def test_in_an_event_loop_it_is_called_when_the_store_is_opened(self, measured):
        async def run():
            pit = pitstop.init_async("memory://", plugins=[measured])
            assert measured.opened == []
            async with pit:
                assert len(measured.opened) == 1
                await pit.store({"id": "a"})
                assert measured.opened[0].get("a") is not None

        asyncio.run(run())
