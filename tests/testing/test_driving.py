"""A handler that the test drives: with the messages due now, for hours, or until none is left, and with a report."""

from __future__ import annotations

import asyncio
import contextlib

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from unittest.mock import MagicMock

import pytest

import pitstop

from pitstop import LeaseLost, PitstopError, hookimpl, testing
from pitstop.testing import Crash, ManualClock
from pitstop_memory import MemoryBackend


NOW = timedelta(0)
SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
START = datetime(2020, 1, 1, tzinfo=UTC)
LOCK = timedelta(minutes=15)


def ok(msg):
    pass


def fail(msg):
    raise ValueError("boom")


def fails_twice():
    left = [1, 2]

    def handler(msg):
        if left:
            raise ValueError(f"boom {left.pop()}")

    return handler


def outcomes(report):
    return [(step.id, step.outcome) for step in report]


class TestRunUntilIdle:
    def test_handles_due_messages_oldest_first_and_the_clock_stands_still(self, any_pit):
        any_pit.store({"id": "later"}, MINUTE)
        any_pit.store({"id": "b", "n": 2}, NOW)
        any_pit.store({"id": "a", "n": 1}, START - HOUR)
        seen = []

        report = any_pit.run_until_idle(seen.append)

        assert seen == report.messages == [{"id": "a", "n": 1}, {"id": "b", "n": 2}]
        assert (report.acked, report.nacked, report.dead, report.skipped) == (2, 0, 0, 0)
        assert any_pit.clock.now() == START
        assert [each.id for each in any_pit.entries()] == ["later"]

    def test_handles_messages_that_become_due_at_the_same_instant_meanwhile(self, any_pit):
        def handler(msg):
            if msg["n"] < 5:
                any_pit.store({"n": msg["n"] + 1}, NOW)

        any_pit.store({"n": 1}, NOW)
        assert [msg["n"] for msg in any_pit.run_until_idle(handler).messages] == [1, 2, 3, 4, 5]

    def test_of_nothing_is_an_empty_report(self, any_pit):
        report = any_pit.run_until_idle(fail)
        assert len(report) == 0
        assert str(report) == "0 acked, 0 nacked, 0 dead, 0 skipped"

    def test_messages_due_at_one_time_come_in_the_order_in_which_they_were_stored(self, any_pit):
        ids = [f"{n:02}" for n in (5, 3, 9, 1, 7)]
        for id in ids:
            any_pit.store({"id": id}, HOUR)
        any_pit.clock.advance(HOUR)
        assert any_pit.run_until_idle(ok).ids == ids

    def test_changes_of_the_handler_to_its_message_are_not_in_the_report(self, pit):
        def handler(msg):
            msg["list"].append(1)
            msg["new"] = 1

        pit.store({"id": "a", "list": []}, NOW)
        assert pit.run_until_idle(handler).messages == [{"id": "a", "list": []}]

    def test_a_handler_may_drive_the_clock(self, pit):
        """The work takes long: the lease is over when it is done."""
        pit.store({"id": "a"}, NOW)
        report = pit.run_until_idle(lambda msg: pit.clock.advance(LOCK) if pit.now() == START else None)
        assert [(step.attempt, step.outcome, step.at) for step in report] == [
            (1, "lost", START),
            (2, "acked", START + LOCK),
        ]

    def test_a_message_that_the_handler_stores_anew_is_superseded_and_comes_at_its_new_time(self, pit):
        pit.store({"id": "a"}, NOW)
        report = pit.run_until_idle(lambda msg: pit.store({"id": "a"}, HOUR))
        assert outcomes(report) == [("a", "superseded")]
        assert repr(report) == "<Report 0 acked, 0 nacked, 0 dead, 0 skipped, 1 superseded>"
        assert pit.run_for(HOUR, ok).times == [START + HOUR]

    def test_a_message_that_its_handler_stores_for_the_same_moment_for_ever_is_an_error_with_its_id(self, pit):
        pit.store({"id": "again"}, NOW)
        with pytest.raises(PitstopError, match="'again' was emitted 1000 times at 2020-01-01T00:00:00"):
            pit.run_until_idle(lambda msg: pit.store(msg, NOW))

    def test_handlers_that_outlive_their_lease_for_ever_are_an_error(self, pit):
        pit.store({"id": "slow"}, NOW)
        with pytest.raises(PitstopError, match=r"'slow' was emitted 1000 times .* moves the clock beyond the lease"):
            pit.run_until_idle(lambda msg: pit.clock.advance(LOCK))

    def test_a_nack_without_delay_for_ever_is_an_error_with_its_id(self):
        with testing.init({"type": "memory", "retry": {"delay": 0}}) as pit:
            pit.store({"id": "again"}, NOW)
            with pytest.raises(PitstopError, match="'again' was emitted 1000 times") as caught:
                pit.run_until_idle(fail, raise_errors=False)
        assert caught.value.pitstop_report.nacked == 1000

    def test_messages_that_store_others_for_the_same_moment_for_ever_are_an_error(self, pit):
        pit.store({"n": 1}, NOW)
        with pytest.raises(PitstopError, match=r"50 messages were emitted at .*, and 'msg-51' is still due"):
            pit.run_until_idle(lambda msg: pit.store({"n": 1}, NOW), max_steps=50)

    def test_a_long_backlog_of_one_series_is_no_endless_loop(self, pit):
        pit.store({"id": "s"}, NOW, timedelta(seconds=1500), SECOND, catch_up="all")
        pit.clock.advance(HOUR)
        assert pit.run_until_idle(ok).acked == 1500

    def test_within_a_handler_of_a_run_is_refused(self, pit):
        pit.store({"id": "a"}, NOW)
        with pytest.raises(PitstopError, match="is being driven already"):
            pit.run_until_idle(lambda msg: pit.run_until_idle(ok))
        pit.clock.advance(LOCK)
        assert pit.run_until_idle(ok).acked == 1


class TestRunFor:
    def test_three_hours_of_an_hourly_message_are_three_emissions_each_at_its_own_instant(self, any_pit):
        any_pit.store({"id": "hourly"}, HOUR, None, HOUR)
        seen = []

        report = any_pit.run_for(timedelta(hours=3), lambda msg: seen.append(any_pit.now()))

        assert seen == report.times == [START + n * HOUR for n in (1, 2, 3)]
        assert [step.scheduled_for for step in report] == report.times
        assert any_pit.clock.now() == START + 3 * HOUR

    @pytest.mark.parametrize("delta", [HOUR, 3600, 3600.0, "1h"], ids=str)
    def test_ends_at_exactly_that_time_inclusive(self, any_pit, delta):
        any_pit.store({"id": "in time"}, HOUR)
        any_pit.store({"id": "too late"}, HOUR + timedelta(milliseconds=1))

        assert any_pit.run_for(delta, ok).ids == ["in time"]

        assert any_pit.clock.now() == START + HOUR

    def test_ends_there_when_nothing_is_stored(self, any_pit):
        assert len(any_pit.run_for(DAY, ok)) == 0
        assert any_pit.clock.now() == START + DAY

    def test_begins_with_messages_that_are_due_now(self, pit):
        pit.store({"id": "a"}, NOW)
        assert pit.run_for(0, ok).ids == ["a"]

    def test_does_not_go_back(self, pit):
        with pytest.raises(PitstopError, match="negative"):
            pit.run_for(-1, ok)
        with pytest.raises(PitstopError, match="does not go back"):
            pit.run_until(START - SECOND, ok)

    def test_until_a_time_is_the_same(self, any_pit):
        any_pit.store({"id": "hourly"}, HOUR, None, HOUR)
        assert any_pit.run_until(START + 2 * HOUR, ok).acked == 2
        assert any_pit.clock.now() == START + 2 * HOUR

    def test_goes_from_a_handler_that_moved_the_clock_further_on_from_there(self, pit):
        pit.store({"id": "slow"}, HOUR)
        pit.store({"id": "meanwhile"}, HOUR + MINUTE)
        report = pit.run_for(2 * HOUR, lambda msg: pit.clock.advance(10 * MINUTE))
        assert report.times == [START + HOUR, START + HOUR + 10 * MINUTE]
        assert pit.clock.now() == START + 2 * HOUR

    def test_stays_where_a_handler_moved_the_clock_beyond_the_end(self, pit):
        pit.store({"id": "slow"}, HOUR)
        pit.run_for(HOUR, lambda msg: pit.clock.advance(10 * MINUTE))
        assert pit.clock.now() == START + HOUR + 10 * MINUTE

    def test_handles_messages_due_before_the_end_also_if_a_handler_went_beyond_it(self, pit):
        pit.store({"id": "slow"}, HOUR - MINUTE)
        pit.store({"id": "in time"}, HOUR)
        pit.store({"id": "too late"}, HOUR + MINUTE)
        report = pit.run_for(HOUR, lambda msg: pit.clock.advance(10 * MINUTE))
        assert report.ids == ["slow", "in time"]
        assert pit.get("too late").state == "due"

    def test_ends_although_its_handlers_outlive_their_leases(self, pit):
        pit.store({"id": "slow"}, NOW)
        report = pit.run_for(HOUR, lambda msg: pit.clock.advance(2 * LOCK))
        assert [(step.outcome, step.attempt) for step in report] == [("lost", 1), ("lost", 2), ("lost", 3)]

    def test_a_message_held_elsewhere_comes_when_that_lease_ends(self, any_pit):
        any_pit.store({"id": "held"}, NOW)
        with any_pit.listen() as elsewhere:
            held = elsewhere.get()
            report = any_pit.run_for(HOUR, ok)
            assert [(step.at, step.attempt) for step in report] == [(START + LOCK, 2)]
            with pytest.raises(pitstop.LeaseLost):
                held.ack()

    def test_a_message_held_elsewhere_does_not_come_before(self, any_pit):
        any_pit.store({"id": "held"}, NOW)
        with any_pit.listen() as elsewhere:
            held = elsewhere.get()
            assert len(any_pit.run_for(LOCK - timedelta(milliseconds=1), ok)) == 0
            held.ack()

    def test_messages_of_the_future_that_handlers_store_come_in_the_same_run(self, any_pit):
        """This is an escalation: each step stores the next one."""
        steps = {"remind": ("remind again", DAY), "remind again": ("call", 2 * DAY)}

        def handler(msg):
            if msg["do"] in steps:
                do, wait = steps[msg["do"]]
                any_pit.store({"do": do}, wait)

        any_pit.store({"do": "remind"}, DAY)
        report = any_pit.run_for(7 * DAY, handler)
        assert [(msg["do"], at - START) for msg, at in zip(report.messages, report.times, strict=True)] == [
            ("remind", DAY),
            ("remind again", 2 * DAY),
            ("call", 4 * DAY),
        ]

    def test_an_occurrence_that_is_too_old_is_a_step_of_the_report(self, pit):
        pit.store({"id": "s"}, HOUR, None, HOUR, catch_up="skip", grace=MINUTE)
        pit.clock.advance(2 * HOUR + 30 * MINUTE)

        report = pit.run_for(HOUR, ok)

        assert [(s.outcome, s.scheduled_for, s.missed, s.emitted, s.due) for s in report] == [
            ("skipped", START + 2 * HOUR, 1, False, START + 3 * HOUR),
            ("acked", START + 3 * HOUR, 0, True, START + 4 * HOUR),
        ]
        assert (report.skipped, report.acked) == (2, 1)

    def test_occurrences_that_were_passed_over_are_counted(self, pit):
        pit.store({"id": "s"}, HOUR, None, HOUR)
        pit.clock.advance(4 * HOUR)
        report = pit.run_until_idle(ok)
        assert (report.acked, report.skipped, report[0].missed) == (1, 3, 3)


class TestBetweenMilliseconds:
    def test_on_a_clock_that_starts_there_a_message_in_an_hour_is_due_in_an_hour(self):
        with testing.init(clock=ManualClock(START.replace(microsecond=1))) as pit:
            pit.store({"id": "a"}, HOUR)
            assert pit.run_for(HOUR, ok).ids == ["a"]

    def test_a_clock_that_was_moved_there_has_it_too(self, any_pit):
        any_pit.clock.advance(timedelta(microseconds=300))
        any_pit.store({"id": "a"}, HOUR)
        assert any_pit.run_for(HOUR, ok).ids == ["a"]
        assert any_pit.clock.now() == START + HOUR + timedelta(milliseconds=1)

    def test_a_time_to_run_until_is_reached(self, any_pit):
        when = START + timedelta(microseconds=1)
        any_pit.store({"id": "a"}, when)
        assert any_pit.run_until(when, ok).ids == ["a"]

    def test_a_message_stored_for_that_time_is_due_then(self, any_pit):
        delta = HOUR + timedelta(microseconds=7)
        any_pit.store({"id": "in time"}, delta)
        any_pit.store({"id": "too late"}, HOUR + timedelta(milliseconds=2))
        assert any_pit.run_for(delta, ok).ids == ["in time"]
        assert any_pit.clock.now() == START + HOUR + timedelta(milliseconds=1)

    def test_the_last_time_that_there_is_can_be_run_until(self, pit):
        end = datetime.max.replace(tzinfo=UTC)
        pit.run_until(end, ok)
        assert pit.clock.now() == end


class TestDrain:
    def test_jumps_from_message_to_message_until_nothing_is_left(self, any_pit):
        any_pit.store({"id": "report"}, DAY, 400 * DAY, 30 * DAY)
        any_pit.store({"id": "in ten years"}, 3650 * DAY)

        report = any_pit.drain(ok)

        assert report.acked == 15
        assert any_pit.clock.now() == START + 3650 * DAY
        assert any_pit.entries() == []

    def test_of_nothing_leaves_the_clock_alone(self, any_pit):
        assert len(any_pit.drain(ok)) == 0
        assert any_pit.clock.now() == START

    def test_an_endless_series_hits_the_bound_and_is_named(self, any_pit):
        any_pit.store({"id": "hourly"}, HOUR, None, HOUR)
        with pytest.raises(PitstopError) as caught:
            any_pit.drain(ok, max_jumps=5)
        assert "no end after 5 jumps" in str(caught.value)
        assert "'hourly' (due 2020-01-01 06:00:00, every 1h)" in str(caught.value)
        assert caught.value.pitstop_report.acked == 5

    def test_a_message_that_fails_for_ever_hits_it_too(self, any_pit):
        any_pit.store({"id": "a"}, NOW)
        with pytest.raises(PitstopError, match=r"'a' \(due 2020-01-01 01:15:00, 5 attempts\)"):
            any_pit.drain(fail, max_jumps=4, raise_errors=False)

    def test_no_more_jumps_than_are_needed_are_counted(self, pit):
        pit.store_many([({"n": n}, n * HOUR) for n in (1, 2, 3)])
        assert pit.drain(ok, max_jumps=3).acked == 3

    def test_dead_messages_are_not_waited_for(self):
        with testing.init({"type": "memory", "retry": {"max_attempts": 1}}) as pit:
            pit.store({"id": "a"}, NOW)
            assert pit.drain(fail, raise_errors=False).dead == 1

    @pytest.mark.parametrize("jumps", [0, -1, 1.5, None], ids=repr)
    def test_a_bound_that_is_none_is_refused(self, pit, jumps):
        with pytest.raises(PitstopError, match="max_jumps="):
            pit.drain(ok, max_jumps=jumps)


class TestErrors:
    def test_of_the_handler_raise_once_the_message_was_nacked(self, any_pit):
        any_pit.store({"id": "good"}, NOW)
        any_pit.store({"id": "bad"}, NOW)
        any_pit.store({"id": "after"}, NOW)

        def handler(msg):
            if msg["id"] == "bad":
                raise ValueError("boom")

        with pytest.raises(ValueError, match="boom") as caught:
            any_pit.run_until_idle(handler)

        assert any_pit.get("bad").last_error == "ValueError: boom"
        assert outcomes(caught.value.pitstop_report) == [("good", "acked"), ("bad", "nacked")]
        assert "1 acked, 1 nacked" in caught.value.__notes__[0]
        assert any_pit.run_until_idle(ok).ids == ["after"]

    def test_let_the_retry_policy_play_when_asked_to(self):
        retry = {"delay": "10s", "factor": 2, "max_attempts": 3}
        with testing.init({"type": "memory", "retry": retry}) as pit:
            pit.store({"id": "a"}, NOW)
            report = pit.run_for(DAY, fail, raise_errors=False)

        assert [(step.at - START, step.attempt, step.outcome, step.error) for step in report] == [
            (NOW, 1, "nacked", "ValueError: boom"),
            (10 * SECOND, 2, "nacked", "ValueError: boom"),
            (30 * SECOND, 3, "dead", "ValueError: boom"),
        ]
        assert [step.due for step in report] == [START + 10 * SECOND, START + 30 * SECOND, None]
        assert (report.acked, report.nacked, report.dead) == (0, 2, 1)

    def test_that_no_attempt_gets_over_let_a_series_go_on(self):
        with testing.init({"type": "memory", "retry": {"delay": 1, "max_attempts": 2}}) as pit:
            pit.store({"id": "s"}, HOUR, None, HOUR)
            report = pit.run_for(HOUR + MINUTE, fail, raise_errors=False)
        assert [(step.outcome, step.due) for step in report] == [
            ("nacked", START + HOUR + SECOND),
            ("given up", START + 2 * HOUR),
        ]
        assert report.nacked == 2

    def test_that_end_a_process_raise_in_any_case(self, pit):
        pit.store({"id": "a"}, NOW)

        def handler(msg):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            pit.run_until_idle(handler, raise_errors=False)
        entry = pit.get("a")
        assert (entry.state, entry.last_error) == ("due", None)

    def test_that_take_no_attributes_have_the_report_as_a_note_alone(self, pit):
        class Closed(Exception):
            def __setattr__(self, name, value):
                if not name.startswith("__"):
                    raise AttributeError(name)
                super().__setattr__(name, value)

        pit.store({"id": "a"}, NOW)

        def handler(msg):
            raise Closed

        with pytest.raises(Closed) as caught:
            pit.run_until_idle(handler)
        assert "1 nacked" in caught.value.__notes__[0]

    def test_a_handler_that_cannot_be_called_is_refused(self, pit):
        with pytest.raises(PitstopError, match="cannot be called"):
            pit.run_for(ok, HOUR)

    def test_attempts_that_leases_used_up_are_a_step_that_no_handler_saw(self):
        with testing.init({"type": "memory", "retry": {"max_attempts": 1}}) as pit, pit.listen() as listener:
            pit.store({"id": "a"}, NOW)
            assert listener.get().attempt == 1
            report = pit.run_for(LOCK, ok)
        assert [(step.outcome, step.attempt, step.emitted) for step in report] == [("dead", 1, False)]
        assert report[0].error.startswith("Given up after 1 attempt")

    def test_a_stop_iteration_of_the_handler_is_told_with_the_report(self, pit):
        pit.store({"id": "a"}, NOW)
        with pytest.raises(RuntimeError, match="raised StopIteration") as caught:
            pit.run_until_idle(lambda msg: next(iter(())))
        assert isinstance(caught.value.__cause__, StopIteration)
        assert caught.value.pitstop_report.outcomes == ["nacked"]
        assert "The run so far: " in caught.value.__notes__[0]

    def test_an_exception_of_a_handler_is_shown_without_the_frames_of_the_run(self, pit):
        pit.store({"id": "a"}, NOW)
        with pytest.raises(ValueError, match="boom") as caught:
            pit.run_for(HOUR, fail)
        shown = [entry.name for entry in caught.traceback.filter(caught)]
        assert shown[1:] == ["fail"]


class TestOthers:
    """Other work in the same store beside the run."""

    def test_a_store_that_does_not_give_out_a_due_message_is_an_error(self):
        class Keeps(MemoryBackend):
            def lease(self, limit, duration, kinds=None):
                return []

        with testing.init({"type": Keeps}) as pit:
            pit.store({"id": "a"}, NOW)
            with pytest.raises(PitstopError, match="does not give it out") as caught:
                pit.run_for(10 * SECOND, ok)
        assert len(caught.value.pitstop_report) == 0

    def test_messages_that_the_claim_of_another_thread_skips_are_not_in_the_report(self, pit):
        with ThreadPoolExecutor(1) as pool, pit.listen() as listener:

            def handler(msg):
                pit.store({"id": "old"}, -2 * DAY, NOW, DAY, catch_up="skip", grace=HOUR)
                assert pool.submit(listener.get).result(10) is None

            pit.store({"id": "a"}, NOW)
            report = pit.run_until_idle(handler)
        assert outcomes(report) == [("a", "acked")]

    def test_the_settlement_of_another_delivery_is_not_taken_for_its_own(self, pit):
        def handler(msg):
            pit.store({"id": "other"}, NOW)
            with pit.listen() as listener:
                listener.get().ack()
            raise Crash

        pit.store({"id": "a"}, NOW)
        assert outcomes(pit.run_until_idle(handler)) == [("a", "crashed")]


class TestDeliveries:
    def test_are_given_to_a_handler_that_asks_for_them(self, pit):
        pit.store({"id": "a"}, NOW)
        seen = []
        pit.run_until_idle(lambda each: seen.append((each.key, each.msg)), deliveries=True)
        assert seen == [(f"a:{int(START.timestamp() * 1000)}", {"id": "a"})]

    def test_are_given_to_a_handler_whose_parameter_is_named_so_as_consume_does(self, pit):
        pit.store({"id": "a"}, NOW)
        seen = []
        pit.run_until_idle(lambda delivery: seen.append(delivery.msg))
        assert seen == [{"id": "a"}]

    def test_that_were_not_asked_for_are_explained_to_a_handler_that_expects_them(self, pit):
        pit.store({"id": "a"}, NOW)
        with pytest.raises(AttributeError, match="'msg'") as caught:
            pit.run_until_idle(lambda each: each.msg)
        assert "'msg' is an attribute of a Delivery. Give deliveries=True" in caught.value.__notes__[0]

        with pytest.raises(AttributeError, match="'sender'") as caught:
            pit.run_for(LOCK, lambda msg: msg.sender)
        assert "deliveries=True" not in "".join(caught.value.__notes__)

    def test_stay_as_the_handler_settled_them(self, pit):
        def handler(delivery):
            if delivery.attempt == 1:
                delivery.nack("not yet", delay=HOUR)
            else:
                delivery.ack()

        pit.store({"id": "a"}, NOW)
        report = pit.run_for(DAY, handler, deliveries=True)
        assert [(step.outcome, step.due) for step in report] == [("nacked", START + HOUR), ("acked", None)]

    def test_that_were_acknowledged_before_the_handler_failed_are_done(self, pit):
        def handler(delivery):
            delivery.ack()
            raise ValueError("too late")

        pit.store({"id": "a"}, NOW)
        with pytest.raises(ValueError, match="too late") as caught:
            pit.run_until_idle(handler, deliveries=True)
        assert [(s.outcome, s.error) for s in caught.value.pitstop_report] == [("acked", "ValueError: too late")]

    def test_deliveries_whose_own_ack_came_too_late_are_no_failure_of_the_handler(self, pit):
        def handler(delivery):
            pit.remove(delivery.id)
            delivery.ack()

        pit.store({"id": "a"}, NOW)
        assert outcomes(pit.run_until_idle(handler, deliveries=True)) == [("a", "superseded")]

    def test_a_handler_that_removes_its_message_and_fails_or_extends_it_is_superseded(self, pit):
        def fail(delivery):
            pit.remove(delivery.id)
            raise ValueError("boom")

        def extend(delivery):
            pit.remove(delivery.id)
            delivery.extend()

        for handler in (fail, extend):
            pit.store({"id": "a"}, NOW)
            assert outcomes(pit.run_until_idle(handler, deliveries=True, raise_errors=False)) == [("a", "superseded")]

    def test_may_be_extended(self, pit):
        def handler(delivery):
            pit.clock.advance(LOCK - SECOND)
            delivery.extend()
            pit.clock.advance(LOCK - SECOND)

        pit.store({"id": "a"}, NOW)
        assert outcomes(pit.run_until_idle(handler, deliveries=True)) == [("a", "acked")]

    def test_contexts_of_plugins_are_around_the_handler(self):
        log = []

        class Around:
            @hookimpl
            def pitstop_handling(self, delivery):
                @contextlib.contextmanager
                def around():
                    log.append("in")
                    yield
                    log.append("out")

                return around()

        with testing.init(plugins=[Around()]) as pit:
            pit.store({"id": "a"}, NOW)
            pit.run_until_idle(lambda msg: log.append(msg["id"]))
        assert log == ["in", "a", "out"]


class TestCrash:
    def test_in_a_handler_leaves_the_message_leased_and_the_run_goes_on(self, any_pit):
        any_pit.store({"id": "a"}, NOW)
        any_pit.store({"id": "b"}, NOW)

        def handler(msg):
            if msg["id"] == "a" and any_pit.get("a").attempts == 1:
                raise Crash

        report = any_pit.run_for(LOCK, handler)

        assert [(step.id, step.attempt, step.outcome) for step in report] == [
            ("a", 1, "crashed"),
            ("b", 1, "acked"),
            ("a", 2, "acked"),
        ]
        assert report[2].at == START + LOCK

    @pytest.mark.parametrize("die", [lambda pit: pit.faults.crash(), None], ids=["crash()", "Crash"])
    def test_takes_along_messages_that_others_of_the_process_claimed_ahead(self, any_pit, die):
        def handler(msg):
            if die is not None:
                die(any_pit)
            raise Crash

        any_pit.store_many([({"id": id}, NOW) for id in "abc"])
        with any_pit.listen(prefetch=2) as other:
            held = other.get()
            assert any_pit.run_until_idle(handler).outcomes == ["crashed"]
            assert other.get() is None
            with pytest.raises(LeaseLost):
                held.ack()
        assert any_pit.stats().leased == 3


class TestAsync:
    def test_handlers_are_awaited_one_at_a_time(self, any_pit):
        any_pit.store({"id": "hourly"}, HOUR, None, HOUR)
        running = []

        async def handler(msg):
            running.append(msg["id"])
            await asyncio.sleep(0)
            assert running.pop() == "hourly"

        async def main():
            report = await any_pit.arun_for(2 * HOUR, handler)
            report += await any_pit.arun_until(START + 3 * HOUR, handler)
            any_pit.store({"id": "hourly"}, HOUR)
            return report + await any_pit.adrain(handler) + await any_pit.arun_until_idle(handler)

        report = asyncio.run(main())
        assert report.times == [START + n * HOUR for n in (1, 2, 3, 4)]

    def test_handlers_that_are_not_async_do_as_well(self, pit):
        pit.store({"id": "a"}, NOW)
        assert asyncio.run(pit.arun_until_idle(ok)).acked == 1

    def test_errors_raise_and_are_nacked(self, pit):
        async def handler(msg):
            await asyncio.sleep(0)
            raise ValueError("boom")

        pit.store({"id": "a"}, NOW)
        with pytest.raises(ValueError, match="boom"):
            asyncio.run(pit.arun_until_idle(handler))
        assert pit.get("a").last_error == "ValueError: boom"

    def test_a_cancelled_run_gives_back_the_message_of_its_handler(self, pit):
        async def handler(msg):
            await asyncio.Event().wait()

        async def main():
            task = asyncio.create_task(pit.arun_until_idle(handler))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        pit.store({"id": "a"}, NOW)
        asyncio.run(main())
        entry = pit.get("a")
        assert (entry.state, entry.last_error) == ("due", None)

    @pytest.mark.parametrize("raise_errors", [True, False])
    def test_an_async_handler_behind_another_function_is_refused_whatever_becomes_of_errors(self, pit, raise_errors):
        async def handler(msg):
            raise AssertionError("the coroutine is never awaited")

        pit.store({"id": "a"}, NOW)
        with pytest.raises(PitstopError, match="The handler is async") as caught:
            pit.run_for(HOUR, lambda msg: handler(dict(msg)), raise_errors=raise_errors)
        assert [step.id for step in caught.value.pitstop_report] == ["a"]

    def test_a_task_that_a_handler_returns_is_refused_and_ended(self, pit):
        tasks = []

        async def work():
            await asyncio.Event().wait()

        def handler(msg):
            tasks.append(asyncio.ensure_future(work()))
            return tasks[0]

        async def main():
            with pytest.raises(PitstopError, match="The handler is async"):
                pit.run_until_idle(handler, raise_errors=False)
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(tasks[0], 5)

        pit.store({"id": "a"}, NOW)
        asyncio.run(main())

    def test_a_mock_is_no_async_handler(self, pit):
        handler = MagicMock()
        pit.store({"id": "a"}, NOW)
        assert pit.run_until_idle(handler).acked == 1
        handler.assert_called_once_with({"id": "a"})

    def test_an_async_handler_of_a_run_that_is_not_is_refused(self, pit):
        async def handler(msg):
            pass

        pit.store({"id": "a"}, NOW)
        with pytest.raises(PitstopError, match="The handler is async"):
            pit.run_until_idle(handler)
        with pytest.raises(PitstopError, match="The handler is async"):
            pit.run_until_idle(lambda msg: handler({**msg}))


class TestPlainPitstop:
    def test_is_driven_by_the_functions(self):
        clock = ManualClock()
        with pitstop.init({"type": "memory", "clock": clock}) as pit:
            pit.store({"id": "hourly"}, HOUR, None, HOUR)
            assert testing.run_for(pit, "2h", ok).acked == 2
            assert testing.run_until(pit, START + 3 * HOUR, ok).acked == 1
            clock.advance(HOUR)
            assert testing.run_until_idle(pit, ok).acked == 1
            pit.store({"id": "hourly"}, HOUR)
            assert testing.drain(pit, ok).acked == 1
            assert asyncio.run(testing.arun_until_idle(pit, ok)).acked == 0
        assert clock.now() == START + 5 * HOUR

    def test_that_goes_by_a_real_clock_is_refused(self):
        with (
            pitstop.init({"type": "memory"}) as pit,
            pytest.raises(PitstopError, match=r"uses SystemClock\(\), which a test cannot move"),
        ):
            testing.run_until_idle(pit, ok)

    def test_leaves_a_crash_of_a_handler_to_the_lease(self):
        def die(msg):
            raise Crash

        with pitstop.init({"type": "memory", "clock": ManualClock()}) as pit:
            pit.store({"id": "a"}, NOW)
            assert outcomes(testing.run_until_idle(pit, die)) == [("a", "crashed")]
            assert testing.run_for(pit, LOCK, ok).acked == 1

    def test_of_which_two_handles_share_messages_shows_several_consumers(self):
        clock = ManualClock()
        config = {"type": "memory", "clock": clock, "name": "shared by two"}
        with pitstop.init(config) as one, pitstop.init(config) as other:
            one.store({"id": "a"}, NOW)
            seen = []
            testing.run_until_idle(one, lambda msg: seen.append(testing.run_until_idle(other, ok)))
            assert len(seen[0]) == 0


class TestReport:
    def test_is_a_table_for_people(self):
        with testing.init({"type": "memory", "retry": {"delay": 1}}) as pit:
            pit.store({"id": "a", "secret": "x"}, timedelta(milliseconds=1500))
            report = pit.run_for(2, fail, raise_errors=False)
        assert repr(report) == "<Report 0 acked, 1 nacked, 0 dead, 0 skipped>"
        head, columns, row = str(report).splitlines()
        assert head == "0 acked, 1 nacked, 0 dead, 0 skipped"
        assert columns.split("  ")[0] == "at"
        at, scheduled_for, following = "2020-01-01 00:00:01.500", "2020-01-01 00:00:01.500", "2020-01-01 00:00:02.500"
        assert row == f"{at}  a   {scheduled_for}  1        nacked   {following}  ValueError: boom"
        assert "secret" not in str(report) + repr(report) + repr(report[0])

    def test_shows_the_last_rows_of_many(self, pit):
        pit.store_many([({"n": n}, NOW) for n in range(100)])
        lines = str(pit.run_until_idle(ok)).splitlines()
        assert lines[0] == "100 acked, 0 nacked, 0 dead, 0 skipped (the last 40 of 100)"
        assert len(lines) == 42

    def test_returns_the_outcomes_of_the_emissions(self, pit):
        pit.store_many([({"id": "bad"}, NOW), ({"id": "good"}, NOW)])
        pit.store({"id": "old"}, -2 * DAY, NOW, DAY, catch_up="skip", grace=HOUR)
        report = pit.run_until_idle(lambda msg: 1 / (msg["id"] == "good"), raise_errors=False)
        assert (report.outcomes, report.skipped > 0) == (["nacked", "acked"], True)

    def test_counts_skipped_occurrences_once_however_often_the_later_one_is_tried(self, any_pit):
        any_pit.store({"id": "s"}, HOUR, None, HOUR)
        any_pit.clock.advance(5.5 * HOUR)
        with pytest.raises(ValueError, match="boom") as caught:
            any_pit.run_until_idle(fail)
        first = caught.value.pitstop_report
        again = any_pit.run_for(50 * MINUTE, fails_twice(), raise_errors=False)

        assert (first.skipped, again.skipped, len(again)) == (4, 4, 4)
        assert [step.missed for step in first + again] == [4, 4, 4, 4, 0]
        assert (first + again).skipped == 4

    def test_counts_skipped_occurrences_for_each_of_two_series(self, pit):
        for id in "ab":
            pit.store({"id": id}, HOUR, None, HOUR)
        pit.clock.advance(3.5 * HOUR)
        assert pit.run_until_idle(ok).skipped == 4

    def test_of_two_runs_can_be_added_up(self, pit):
        pit.store({"id": "s"}, HOUR, None, HOUR)
        both = pit.run_for(HOUR, ok) + pit.run_for(HOUR, ok)
        assert (both.acked, both.times) == (2, [START + HOUR, START + 2 * HOUR])
        with pytest.raises(TypeError):
            both + 1


def test_the_same_test_does_the_same_again():
    """With chosen ids, even the texts are the same."""

    def run():
        failed = set()

        def handler(msg):
            if isinstance(msg["n"], int) and msg["n"] % 3 == 0 and msg["n"] not in failed:
                failed.add(msg["n"])
                raise ValueError("boom")

        with testing.init({"type": "memory", "retry": {"delay": "3s", "jitter": 0.5}}, ids="msg-{n}") as pit:
            pit.store_many([({"n": n}, n * SECOND) for n in range(20)])
            pit.store({"n": "series"}, HOUR, 9 * HOUR, HOUR)
            pit.faults.at_random(0.2, seed=7)
            report = pit.drain(handler, raise_errors=False)
            assert report.nacked
            assert pit.faults.log
            return f"{report}\n{pit.events}\n{pit.faults}", report, list(pit.events)

    assert run() == run()


def test_an_expired_message_is_a_step_and_an_event_of_its_own():
    with testing.init() as pit:
        pit.store({"id": "a"}, pit.now(), expires="1m")
        pit.clock.advance(61)
        report = pit.run_until_idle(lambda msg: None)
        (step,) = report
        assert (step.id, step.outcome, step.attempt, step.msg, step.due) == ("a", "expired", 0, None, None)
        assert (report.acked, report.nacked, report.dead, report.skipped) == (0, 0, 0, 1)
        (event,) = pit.events.of("a", "expired")
        assert event.scheduled_for == step.scheduled_for
        with pytest.raises(pitstop.PitstopError, match="There is no outcome 'expired'"):
            testing.assert_emitted(report, outcome="expired")
