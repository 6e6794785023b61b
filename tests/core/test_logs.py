"""A failure that repeats is logged in few lines, with counts."""

from __future__ import annotations

import logging
import threading

from datetime import timedelta

import pytest

import pitstop

from core.kit import Clock, Running, Watched, backend
from pitstop._decisions._logs import Outages, Throttle, left_behind
from pitstop._engine._background import Background


DUE = timedelta(0)


@pytest.fixture
def lines(caplog):
    """Return the lines of the library so far: level and text."""
    caplog.set_level(logging.INFO, "pitstop")
    return lambda: [(each.levelname, each.getMessage()) for each in caplog.records if each.name.startswith("pitstop")]


class TestOutages:
    def test_one_outage_is_told_at_its_beginning_each_minute_and_at_its_end(self):
        outages = Outages("the store")
        said = [(now, line) for now in range(0, 200, 5) if (line := outages.failed(now, 0, permanent=False))]
        assert [now for now, _ in said] == [0, 60, 120, 180]
        assert said[0][1] == (logging.WARNING, "the store does not answer (failure 1 in a row)")
        assert said[1][1].text == "the store does not answer (failure 13 in a row)"
        assert outages.answered(200) == (logging.INFO, "the store answers again after 200.0 s and 40 failures")
        assert outages.answered(201) is None

    def test_a_store_that_flaps_is_a_line_a_minute_after_the_first_two(self):
        outages, said = Outages("the store"), []
        for second in range(600):
            both = outages.failed(second, second, permanent=False), outages.answered(second + 0.5)
            said.extend((second, each.level, each.text) for each in both if each is not None)
        assert [(second, level) for second, level, _ in said[:2]] == [(0, logging.WARNING), (0, logging.INFO)]
        later = [second for second, _, _ in said[2:]]
        assert all(after - before >= 60 for before, after in zip([0, *later], later, strict=False))
        assert 9 <= len(later) <= 10
        assert said[2][2] == "the store does not answer (failure 1 in a row, away 61 times in 60 s)"

    def test_its_end_is_told_though_late(self):
        outages = Outages("the store")
        for second in range(62):
            outages.failed(second, second, permanent=False)
            outages.answered(second + 0.5)
        said = [(now, line.text) for now in range(62, 200) if (line := outages.answered(now))]
        assert said == [(121, "the store answers again after 0.5 s and 1 failure")]

    def test_what_many_note_of_one_outage_is_one_line_and_one_more_at_its_end(self):
        outages = Outages("the store")
        assert [outages.failed(0.001 * n, 0, permanent=False) is not None for n in range(50)].count(True) == 1
        assert [outages.answered(2 + 0.001 * n) is not None for n in range(50)].count(True) == 1

    def test_one_who_fails_late_begins_no_new_line(self):
        outages = Outages("the store")
        assert outages.failed(0, 0, permanent=False)
        assert outages.answered(2)
        assert outages.failed(2.1, 0, permanent=False) is None
        assert all(outages.answered(now) is None for now in range(3, 300))

    def test_a_store_that_refuses_is_an_error(self):
        line = Outages("the store").failed(0, 0, permanent=True)
        assert line == (logging.ERROR, "the store refuses (failure 1 in a row)")

    def test_a_signal_handler_that_interrupts_a_decision_does_not_wait_for_it(self):
        outages, throttle = Outages("the store"), Throttle()
        with outages._turn.taken(), throttle._turn.taken():
            assert outages.failed(0, 0, permanent=False) is None
            assert throttle.passes(0) is None
        assert outages.failed(1, 1, permanent=False)


class TestThrottle:
    def test_lets_one_line_through_in_a_minute_and_counts_the_others(self):
        throttle = Throttle()
        assert [throttle.passes(second) for second in range(3)] == ["", None, None]
        assert throttle.passes(60) == " (2 more like this were not logged in the last 60 s)"
        assert throttle.passes(120) == ""

    def test_lets_some_through_and_says_so_with_the_last_of_them(self):
        throttle = Throttle(3)
        assert [throttle.passes(0) for _ in range(4)] == ["", "", "; more like this within 60 s are only counted", None]


class TestLeftBehind:
    @pytest.mark.parametrize(
        ("unwritten", "kept", "acks", "messages", "end"),
        [
            (
                1,
                0,
                "1 ack or nack was",
                "0 messages that were claimed ahead were",
                "1 message comes back when its lease ends.",
            ),
            (
                0,
                1,
                "0 acks or nacks were",
                "1 message that was claimed ahead was",
                "1 message comes back when its lease ends.",
            ),
            (
                9,
                3,
                "9 acks or nacks were",
                "3 messages that were claimed ahead were",
                "12 messages come back when their leases end.",
            ),
        ],
    )
    def test_a_number_agrees_with_its_noun(self, unwritten, kept, acks, messages, end):
        told = f"closed while the store did not answer: {acks} not written, and {messages} not given back. {end}"
        assert left_behind(unwritten, kept) == told


class TestEngine:
    def test_fifty_listeners_share_the_lines_of_their_store(self, pit, store, clock, lines):
        listeners = [pit.listen() for _ in range(50)]
        store.down = True
        running = [Running(lambda each=each: next(each, None)) for each in listeners]
        assert clock.wait_for_sleepers(50)
        for _ in range(4):
            clock.advance(5)
            assert clock.wait_for_sleepers(50)
        assert lines() == [
            ("WARNING", "the store does not answer (failure 1 in a row); trying again: The test took the store away.")
        ]
        store.down = False
        clock.advance(5)
        assert clock.wait_for_sleepers(50)
        assert [level for level, _ in lines()] == ["WARNING", "INFO"]
        assert lines()[1][1].startswith("the store answers again after 25.")
        for each in listeners:
            each.stop()
        assert [each.result() for each in running] == [None] * 50

    def test_a_bug_in_the_background_is_logged_though_an_outage_was_logged_just_before(self, pit, lines, monkeypatch):
        now, again = pit._session.clock.monotonic(), threading.Event()
        pit._session.log.outages.failed(now, now, permanent=False)
        work = Background.turn
        bugs = [ZeroDivisionError("a bug")]

        def failing(background):
            if bugs:
                raise bugs.pop()
            again.set()
            return work(background)

        monkeypatch.setattr(Background, "turn", failing)
        with pit.listen() as listener:
            listener._intake.wakeup.wake()
            assert again.wait(10)
        ((_, text),) = [line for line in lines() if line[0] == "ERROR"]
        told = "acks could not be written, or messages not claimed ahead: ZeroDivisionError; trying again\n  File "
        assert text.startswith(told)
        assert "a bug" not in text

    @pytest.mark.parametrize("until_idle", [False, True])
    def test_a_store_that_flaps_fills_no_log(self, lines, until_idle):
        clock = Clock()
        store = backend(clock=clock, loop_time=timedelta(seconds=1), retry={"delay": 1})
        with pitstop.init({"type": store}) as pit:
            # Comes back every second, so that until_idle does not end it.
            pit.store({"id": "a"}, DUE)
            handled = threading.Semaphore(0)

            def handle(msg):
                handled.release()
                raise ValueError

            consuming = Running(lambda: pit.consume(handle, until_idle=until_idle)) if not until_idle else None
            if until_idle:
                # Each look has its own count of failures.
                for _ in range(300):
                    store.down = True
                    consuming = Running(lambda: pit.consume(lambda msg: None, until_idle=True))
                    assert clock.wait_for_sleepers(1)
                    store.down = False
                    clock.advance(2)
                    consuming.result()
            else:
                for waits in range(1, 300):
                    clock.wait_for_waits(waits)
                    store.down = waits % 2 == 1
                    clock.advance(2)
                store.down = False
                pit.close()
                consuming.result()
        said = [text for level, text in lines() if text.startswith("the store")]
        # Ten minutes.
        assert 3 <= len(said) <= 12

    def test_many_dead_messages_are_a_few_lines_and_a_count(self, clock, lines):
        store = backend(clock=clock, retry={"max_attempts": 1})
        with pitstop.init({"type": store}) as pit:

            def fail(msg):
                raise ValueError

            def dead(count, start=0):
                pit.store_many([({"id": f"m{n:04}"}, DUE) for n in range(start, start + count)])
                pit.consume(fail, until_idle=True)
                return [text for _, text in lines() if "is dead" in text]

            told = dead(1000)
            assert pit.stats().dead == 1000
            assert len(told) == 10
            assert told[-1].endswith("; its last_error says why; more like this within 60 s are only counted")
            clock.advance(60)
            assert dead(1, 1000)[10:] == [
                "message 'm1000' is dead; its last_error says why (990 more like this were not logged in the last 60 s)"
            ]

    def test_an_observer_that_raises_for_each_message_is_one_line_a_minute_and_counted(self, clock, lines):
        class Broken:
            @pitstop.hookimpl
            def pitstop_message_acked(self, delivery):
                raise ValueError

        with pitstop.init({"type": backend(clock=clock)}, plugins=[Broken()]) as pit:
            for _ in range(2):
                pit.store_many([({}, DUE) for _ in range(500)])
                assert pit.consume(lambda msg: None, until_idle=True).acked == 500
                clock.advance(60)
            assert set(pit._session.events.hooks.errors.values()) == {1000}
        said = [text for _, text in lines()]
        assert [text.partition(";")[0] for text in said] == [said[0].partition(";")[0]] * 2
        assert said[1].endswith("(499 more like this were not logged in the last 60 s)")

    def test_a_watch_that_dies_again_and_again_is_two_lines_in_the_first_minute(self, lines):
        clock = Clock()
        store = backend(Watched, clock)
        with pitstop.init({"type": store}) as pit, pit.listen() as listener:
            waiting = Running(lambda: next(listener, None))
            for _ in range(20):
                assert store.began.acquire(timeout=10)
                watch = store.watches[-1]
                # The watch works, and then it dies.
                watch.news.put(None)
                assert watch.polls.acquire(timeout=10)
                watch.news.put(RuntimeError("a bug"))
                assert watch.closed.wait(10)
                assert clock.wait_for_sleepers(2)
                clock.advance(0.1)
            assert store.began.acquire(timeout=10)
            listener.stop()
            waiting.result()
            store.watches[-1].news.put(None)
        assert [level for level, text in lines() if text.startswith("the watch")] == ["WARNING", "INFO"]
