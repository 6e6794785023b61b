"""Faults on demand: refused, lost, late, skewed, crashed; the same in each run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

import pitstop

from pitstop import BackendUnavailable, LeaseLost, OutcomeUnknown, PitstopError, testing
from pitstop.testing import Crash, Fault
from pitstop_memory import MemoryBackend, MemoryConfig


NOW, SECOND, MINUTE, HOUR = timedelta(0), timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
START = datetime(2020, 1, 1, tzinfo=UTC)
LOCK = timedelta(minutes=15)


def ok(msg):
    pass


class TestFailNext:
    def test_store_refuses_it_and_the_next_one_goes_well(self, any_pit):
        any_pit.faults.fail_next("store")
        with pytest.raises(BackendUnavailable, match="'store' was refused, and nothing was done") as caught:
            any_pit.store({"id": "a"}, NOW)
        assert not isinstance(caught.value, OutcomeUnknown)
        assert any_pit.get("a") is None
        any_pit.store({"id": "a"}, NOW)
        assert any_pit.get("a") is not None

    @pytest.mark.parametrize(
        ("operation", "call"),
        [
            ("remove", lambda pit: pit.remove("a")),
            ("get", lambda pit: pit.get("a")),
            ("entries", lambda pit: pit.entries()),
            ("stats", lambda pit: pit.stats()),
            ("lease", lambda pit: pit.listen().get()),
            ("store_many", lambda pit: pit.store_many([({}, NOW)])),
            ("redrive", lambda pit: pit.redrive("dead")),
            ("put", lambda pit: pit.store({}, NOW)),
        ],
    )
    def test_goes_by_the_words_of_an_application_and_of_a_backend(self, pit, operation, call):
        with pit.listen() as listener:
            pit.store({"id": "dead"}, NOW)
            listener.get()
            pit.clock.advance(LOCK)
        with pit.listen(), testing.init({"type": "memory", "retry": {"max_attempts": 1}}) as dead:
            dead.store({"id": "dead"}, NOW)
            dead.run_until_idle(lambda msg: 1 / 0, raise_errors=False)
            dead.faults.fail_next(operation)
            with pytest.raises(BackendUnavailable):
                call(dead)

    def test_settle_leaves_the_message_to_its_lease(self, any_pit):
        any_pit.store({"id": "a"}, NOW)
        any_pit.faults.fail_next("ack")

        report = any_pit.run_for(LOCK, ok)

        assert [(step.outcome, step.attempt, step.due) for step in report] == [
            ("unsettled", 1, START + LOCK),
            ("acked", 2, None),
        ]
        assert "'settle' was refused" in report[0].error

    def test_lease_is_repeated_by_the_run(self, pit):
        pit.store({"id": "a"}, NOW)
        pit.faults.fail_next("lease", 3)
        assert pit.run_until_idle(ok).acked == 1
        assert [fault.call for fault in pit.faults.log] == [1, 2, 3]

    def test_lease_without_end_raises(self, pit):
        pit.faults.at_random(1.0, seed=1, operations=["lease"])
        with pytest.raises(BackendUnavailable):
            pit.run_until_idle(ok)

    def test_makes_a_listener_in_another_thread_try_again(self, pit):
        """The listener waits by the clock of the test, as always."""
        pit.store({"id": "a"}, NOW)
        pit.faults.fail_next("lease")
        with ThreadPoolExecutor(1) as pool, pit.listen() as listener:
            waiting = pool.submit(listener.get, None)
            assert pit.clock.wait_for_sleepers(1)
            assert not listener.healthy
            pit.clock.advance(SECOND)
            assert waiting.result(10).id == "a"

    def test_so_many_times_and_with_an_error_of_choice(self, pit):
        pit.faults.fail_next("get", 2, error=BackendUnavailable("wrong password", permanent=True))
        for _ in range(2):
            with pytest.raises(BackendUnavailable, match="wrong password") as caught:
                pit.get("a")
            assert caught.value.permanent
        assert pit.get("a") is None

    def test_of_an_unknown_operation_is_refused_with_a_hint(self, pit):
        with pytest.raises(PitstopError, match=r"There is no operation 'settel'\. Did you mean 'settle'"):
            pit.faults.fail_next("settel")
        with pytest.raises(PitstopError, match="times=0"):
            pit.faults.fail_next("settle", 0)
        with pytest.raises(PitstopError, match="error is a ValueError"):
            pit.faults.fail_next("settle", error=ValueError("x"))


class TestLoseReply:
    def test_of_a_store_means_that_it_was_done_and_says_for_which_ids(self, any_pit):
        any_pit.faults.lose_reply("store")
        with pytest.raises(OutcomeUnknown, match="'store' was done") as caught:
            any_pit.store({"n": 1}, NOW)
        assert caught.value.ids == ("msg-1",)
        assert any_pit.get("msg-1").message == {"id": "msg-1", "n": 1}

    def test_of_an_ack_means_that_it_was_done(self, any_pit):
        any_pit.store({"id": "a"}, NOW)
        any_pit.faults.lose_reply("settle")
        report = any_pit.run_for(HOUR, ok)
        assert [step.outcome for step in report] == ["unsettled"]
        assert any_pit.get("a") is None

    def test_of_a_removal_says_the_id(self, pit):
        pit.store({"id": "a"}, NOW)
        pit.faults.lose_reply("remove")
        with pytest.raises(OutcomeUnknown) as caught:
            pit.remove("a")
        assert caught.value.ids == ("a",)
        assert not pit.remove("a")

    def test_of_a_claim_leaves_the_message_leased_without_a_holder(self, any_pit):
        any_pit.store({"id": "a"}, NOW)
        any_pit.faults.lose_reply("lease")
        report = any_pit.run_for(LOCK, ok)
        assert [(step.at, step.attempt) for step in report] == [(START + LOCK, 2)]

    def test_of_a_look_is_an_outage(self, pit):
        pit.faults.lose_reply("get")
        with pytest.raises(BackendUnavailable) as caught:
            pit.get("a")
        assert not isinstance(caught.value, OutcomeUnknown)

    def test_of_an_ack_leaves_open_when_the_message_comes_next(self, any_pit):
        any_pit.store({"id": "a"}, NOW)
        any_pit.faults.lose_reply("settle")
        report = any_pit.run_until_idle(ok)
        assert [(step.outcome, step.due) for step in report] == [("unsettled", None)]
        assert any_pit.get("a") is None

    def test_of_an_ack_that_was_refused_it_comes_when_the_lease_ends(self, any_pit):
        any_pit.store({"id": "a"}, NOW)
        any_pit.faults.fail_next("settle")
        assert [(step.outcome, step.due) for step in any_pit.run_until_idle(ok)] == [("unsettled", START + LOCK)]


class TestCrashHolder:
    def test_gives_the_settlement_of_its_handler_no_effect(self, any_pit):
        any_pit.store({"id": "a"}, NOW)
        with any_pit.listen() as listener:
            delivery = listener.get()
            assert any_pit.faults.crash_holder() == 1
            with pytest.raises(LeaseLost):
                delivery.ack()
            with pytest.raises(LeaseLost):
                delivery.nack("x", delay=NOW)
            with pytest.raises(LeaseLost):
                delivery.extend()
            assert listener.get() is None
            any_pit.clock.advance(LOCK)
            again = listener.get()
            assert again.attempt == 2
            again.ack()
        assert any_pit.get("a") is None

    def test_leaves_those_leased_that_were_claimed_ahead(self, any_pit):
        any_pit.store_many([({"id": id}, NOW) for id in "abc"])
        with any_pit.listen(prefetch=3) as listener:
            listener.get()
            assert any_pit.faults.crash_holder() == 3
            assert listener.get() is None
        assert any_pit.stats().leased == 3
        assert any_pit.run_for(LOCK, ok).ids == ["a", "b", "c"]

    def test_counts_the_leases_that_are_not_over(self, any_pit):
        any_pit.store_many([({"id": id}, NOW) for id in "abc"])
        with any_pit.listen() as listener:
            listener.get()
            any_pit.clock.advance(LOCK)
            listener.get()
            taken = listener.get()
            assert taken is not None
            any_pit.remove(taken.id)
            assert any_pit.faults.crash_holder() == 1
            assert any_pit.faults.crash_holder() == 0

    def test_in_a_handler_that_goes_on_is_told_as_lost(self, pit):
        pit.store({"id": "a"}, NOW)
        report = pit.run_until_idle(lambda msg: pit.faults.crash_holder() and None)
        assert [step.outcome for step in report] == ["lost"]

    def test_and_die_ends_the_handler_there(self, pit):
        done = []

        def handler(msg):
            if not done:
                done.append("half")
                pit.faults.crash()
            done.append("whole")

        pit.store({"id": "a"}, NOW)
        report = pit.run_for(HOUR, handler)
        assert [(step.outcome, step.attempt) for step in report] == [("crashed", 1), ("acked", 2)]
        assert done == ["half", "whole"]

    def test_in_a_with_block_does_not_nack(self, pit):
        pit.store({"id": "a"}, NOW)
        with pytest.raises(Crash), pit.listen().get():
            pit.faults.crash()
        assert pit.get("a").state == "leased"
        assert pit.get("a").last_error is None

    def test_leaves_those_of_other_handles_alone(self):
        clock = testing.ManualClock()
        config = {"type": "memory", "clock": clock, "name": "crash of one of two"}
        with testing.init(config) as one, testing.init(config) as other:
            one.store({"id": "a"}, NOW)
            delivery = other.listen().get()
            assert one.faults.crash_holder() == 0
            delivery.ack()

    def test_leaves_settlements_of_the_living_in_the_same_batch(self, pit):
        pit.store_many([({"id": id}, NOW) for id in "ab"])
        with pit.listen() as listener:
            dead = listener.get()
            pit.faults.crash_holder()
            living = listener.get()
            living.ack()
            with pytest.raises(LeaseLost):
                dead.ack()


class TestExpireLease:
    def test_makes_it_due_again_and_its_holder_late(self, any_pit):
        any_pit.store({"id": "a"}, NOW)
        with any_pit.listen() as listener:
            held = listener.get()
            any_pit.faults.expire_lease("a")
            assert any_pit.get("a").state == "due"
            again = listener.get()
            assert (again.attempt, any_pit.clock.now()) == (2, START)
            with pytest.raises(LeaseLost):
                held.ack()
            again.ack()

    def test_of_an_unleased_message_is_refused(self, pit):
        pit.store({"id": "a"}, HOUR)
        with pytest.raises(PitstopError, match="'a' is not leased, it is scheduled"):
            pit.faults.expire_lease("a")
        with pytest.raises(PitstopError, match="it is not there"):
            pit.faults.expire_lease("b")

    def test_wakes_a_listener_in_another_thread(self, pit):
        pit.store({"id": "a"}, NOW)
        with ThreadPoolExecutor(1) as pool, pit.listen() as listener:
            listener.get()
            waiting = pool.submit(listener.get, None)
            assert pit.clock.wait_for_sleepers(1)
            pit.faults.expire_lease("a")
            assert waiting.result(10).attempt == 2


class TestSkew:
    def test_ahead_makes_the_store_think_that_it_is_later(self, any_pit):
        any_pit.store({"id": "a"}, START + HOUR)
        any_pit.faults.skew(HOUR)
        assert any_pit.now() == START + HOUR
        assert any_pit.run_until_idle(ok).ids == ["a"]
        assert any_pit.clock.now() == START

    def test_behind_makes_it_late(self, any_pit):
        any_pit.store({"id": "a"}, START + HOUR)
        any_pit.faults.skew(-MINUTE)
        assert len(any_pit.run_for(HOUR, ok)) == 0
        assert any_pit.run_for(MINUTE, ok).times == [START + HOUR + MINUTE]

    def test_can_be_taken_back(self, pit):
        pit.faults.skew("1h")
        pit.faults.skew(0)
        assert pit.now() == START
        pit.faults.skew("1h")
        pit.faults.clear()
        assert pit.now() == START

    def test_wakes_listeners_that_wait_for_a_message_due_by_it(self):
        config = {"type": "memory", "loop_time": "1w"}
        with testing.init(config) as pit, ThreadPoolExecutor(1) as pool, pit.listen() as listener:
            pit.store({"id": "a"}, HOUR)
            waiting = pool.submit(next, listener)
            try:
                assert pit.clock.wait_for_sleepers(1)
                pit.faults.skew(HOUR)
                assert waiting.result(5).id == "a"
            finally:
                # The thread must end even if the test fails.
                pit.clock.advance(HOUR)

    def test_of_a_ready_backend_is_refused(self):
        backend = MemoryBackend(MemoryConfig(clock=testing.ManualClock()))
        with testing.init({"type": backend}) as pit, pytest.raises(PitstopError, match="given ready-made"):
            pit.faults.skew(1)


class TestLatency:
    def test_moves_the_clock_at_each_call(self, pit):
        pit.faults.latency("store", "2s")
        pit.store({"id": "a"}, NOW)
        pit.store({"id": "b"}, NOW)
        assert pit.clock.now() == START + 4 * SECOND
        pit.faults.latency("store", 0)
        pit.store({"id": "c"}, NOW)
        assert pit.clock.now() == START + 4 * SECOND

    def test_of_a_claim_takes_a_part_of_its_lease(self, pit):
        pit.store({"id": "a"}, NOW)
        pit.faults.latency("lease", MINUTE)
        with pit.listen() as listener:
            assert listener.get().leased_until - pit.now() == LOCK - MINUTE

    def test_of_a_request_takes_nothing_of_it(self, pit):
        pit.store({"id": "a"}, NOW)
        pit.faults.latency("lease", MINUTE, before=True)
        with pit.listen() as listener:
            assert listener.get().leased_until - pit.now() == LOCK

    def test_as_long_as_a_lease_means_that_nothing_is_emitted(self, pit):
        """The listener gives back the messages that it could not hand out in time, and logs that."""
        pit.store({"id": "a"}, NOW)
        pit.faults.latency("lease", LOCK)
        assert len(pit.run_for(HOUR, ok)) == 0
        pit.faults.clear()
        assert pit.run_for(HOUR, ok).acked == 1

    def test_of_an_ack_that_comes_after_its_lease_is_an_ack_all_the_same(self, pit):
        pit.store({"id": "a"}, NOW)
        pit.faults.latency("settle", HOUR)
        assert pit.run_until_idle(ok).acked == 1

    def test_of_an_ack_that_arrives_after_its_lease_is_lost(self, pit):
        pit.store({"id": "a"}, NOW)
        pit.faults.latency("settle", HOUR, before=True)
        report = pit.run_for(2 * HOUR - SECOND, ok)
        assert {step.outcome for step in report} == {"lost"}

    def test_that_is_negative_is_refused(self, pit):
        with pytest.raises(PitstopError, match="negative"):
            pit.faults.latency("store", -1)


class TestAtRandom:
    @staticmethod
    def run(*, seed=None, script=()):
        with testing.init({"type": "memory", "retry": {"delay": 1}}, ids="msg-{n}") as pit:
            if seed is not None:
                pit.faults.at_random(0.3, seed=seed)
            pit.faults.script(script)
            for n in range(30):
                with_retries(lambda n=n: pit.store({"id": f"{n}"}, n * MINUTE))
            report = pit.drain(ok)
            return str(report), pit.faults.log

    def test_one_seed_is_one_history(self):
        first = self.run(seed=1)
        assert first == self.run(seed=1)
        assert first != self.run(seed=2)
        assert {fault.kind for fault in first[1]} == {"fail", "lose"}
        assert {fault.operation for fault in first[1]} == {"store", "lease", "settle"}

    def test_a_log_replays_without_the_seed(self):
        history, log = self.run(seed=3)
        assert self.run(script=log) == (history, log)
        assert self.run(script=[(each.operation, each.call, each.kind) for each in log]) == (history, log)

    def test_all_messages_come_in_spite_of_it(self):
        for seed in range(20):
            report, _ = self.run(seed=seed)
            assert report.count("\n") > 30

    @pytest.mark.parametrize(
        "wrong",
        [{"rate": 2}, {"rate": "x"}, {"rate": True}, {"operations": ["nope"]}, {"kinds": ["slow"]}, {"kinds": []}],
        ids=str,
    )
    def test_values_that_make_no_sense_are_refused(self, pit, wrong):
        with pytest.raises(PitstopError):
            pit.faults.at_random(**{"rate": 0.5, "seed": 1, **wrong})
        assert pit.faults.log == ()

    def test_a_script_that_makes_no_sense_is_refused(self, pit):
        with pytest.raises(PitstopError, match="kind='slow'"):
            pit.faults.script([("store", 1, "slow")])
        with pytest.raises(PitstopError, match="no operation"):
            pit.faults.script([("nope", 1, "fail")])

    @pytest.mark.parametrize(
        ("script", "said"),
        [
            ([("settle", "lose")], r"is no fault. Give a list of them, such as \[\("),
            (["x"], "'x' is no fault"),
            ("x", "faults='x' cannot be used"),
            (5, "faults=5 cannot be used"),
            ([("settle", 0, "lose")], "call=0 cannot be used"),
            ([("settle", "1", "lose")], "call='1' cannot be used"),
            ([("settle", True, "lose")], "call=True cannot be used"),
            ([("setle", 1, "lose")], "Did you mean 'settle'"),
            ([("settle", 1, "lost")], "kind='lost' is unknown"),
        ],
    )
    def test_a_script_of_another_shape_is_refused_as_a_whole(self, pit, script, said):
        with pytest.raises(PitstopError, match=said):
            pit.faults.script(script if not isinstance(script, list) else [("store", 1, "fail"), *script])
        pit.store({"id": "a"}, HOUR)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"seed": "x"}, "seed='x' is a str"),
            ({"operations": []}, "Give a list of some of: store"),
            ({"operations": "lease"}, "operations='lease' cannot be used"),
            ({"operations": None}, "operations=None cannot be used"),
            ({"kinds": "fail"}, "kinds='fail' cannot be used"),
        ],
    )
    def test_chances_of_another_shape_are_refused(self, pit, options, said):
        with pytest.raises(PitstopError, match=said):
            pit.faults.at_random(0.5, **{"seed": 1, **options})

    def test_the_log_is_a_table_for_people(self, pit):
        pit.faults.script([("get", 2, "fail")])
        pit.get("a")
        with pytest.raises(BackendUnavailable):
            pit.get("a")
        assert pit.faults.log == (Fault("get", 2, "fail"),)
        assert str(pit.faults).splitlines()[-1].split() == ["2020-01-01", "00:00:00", "get", "2", "fail"]
        assert repr(pit.faults) == "<Faults 1 so far>"

    def test_cleared_nothing_fails_any_more(self, pit):
        pit.faults.at_random(1.0, seed=1, operations=["get"])
        pit.faults.fail_next("get")
        pit.faults.script([("get", 1, "fail")])
        pit.faults.clear()
        assert pit.get("a") is None


def test_cleared_faults_do_not_come_back_with_the_next_fault(pit):
    pit.faults.script([("store", 1, "fail")])
    pit.faults.latency("store", HOUR)
    pit.faults.fail_next("store", times=3)
    pit.faults.at_random(1, seed=1)
    pit.faults.clear()
    pit.faults.fail_next("get")

    pit.store({"id": "a"}, NOW)

    assert pit.clock.now() == START
    assert pit.faults.log == ()


def test_the_rest_of_a_backend_is_unchanged(pit):
    """The wrapper changes nothing but the planned faults."""
    assert pit.location == "memory://"
    assert repr(pit) == "<Pitstop on memory://>"
    pit.ping()
    with pytest.raises(pitstop.Unsupported):
        pit.store({}, NOW, session=object())


def with_retries(call):
    for _ in range(50):
        try:
            return call()
        except BackendUnavailable:
            pass
    raise AssertionError("the faults would not end")
