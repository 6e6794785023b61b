"""Consumers die and hang while they handle messages; the wall clock of one is wrong, or jumps."""

from __future__ import annotations

import signal

from datetime import UTC, datetime, timedelta

import pytest

import pitstop

from torture.conftest import DRAIN, IDS, SERVERS, assert_kept


NOW = timedelta(0)
#: A lease of this process, which must not end while it waits for others.
LONG = timedelta(minutes=5)
#: The most seconds that a message is late on a busy machine: less than the error of the clocks.
LATE = 12.0


@pytest.fixture(params=[*SERVERS, "postgres_uri"], ids=[*IDS, "postgres"])
def server_uri(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def bench(open_bench, server_uri):
    return open_bench(server_uri, lock_time="1s", operation_timeout="1s", loop_time="100ms")


def held_by(bench, worker):
    """Wait until the consumer is in its handler. Return the id of its message."""
    path = bench.folder / f"{worker.name}.held"
    bench.wait(path.exists, 20, f"message for {worker.name}")
    return bench.events("emit")[-1]


def start_holding(bench, name, **what):
    return bench.start("consume", name, hold=str(bench.folder / f"{name}.held"), failing=0, overdue=0, **what)


def test_the_message_of_a_dead_consumer_comes_back_when_its_lease_ends(bench):
    worker = start_holding(bench, "victim")
    with pitstop.init(bench.options) as pit, pit.listen(lock_time=LONG) as listener:
        pit.store({"id": "a"}, NOW)
        held = held_by(bench, worker)
        bench.kill(worker)
        delivery = listener.get(timeout=10)
        assert (delivery.id, delivery.attempt) == ("a", 2)
        assert claimed(delivery) >= held.leased_until
        delivery.ack()
        assert pit.get("a") is None


def test_a_zombie_acks_no_message_that_another_consumer_has_by_now(bench):
    """It was paused in its handler for longer than its lease, and goes on as if nothing had happened."""
    worker = start_holding(bench, "zombie")
    with pitstop.init(bench.options) as pit, pit.listen(lock_time=LONG) as listener:
        pit.store({"id": "a"}, NOW)
        held_by(bench, worker)
        bench.pause(worker)
        delivery = listener.get(timeout=10)
        assert delivery.attempt == 2
        bench.resume(worker)
        worker.stop()  # ends the handler, whose ack follows
        assert [(each.outcome, each.error) for each in bench.events("ack")] == [("fail", "LeaseLost")]
        assert pit.get("a").state == "leased"
        delivery.ack()
        assert pit.get("a") is None


def test_a_zombie_hands_out_nothing_that_it_claimed_ahead(bench):
    """It had claimed messages ahead, and was paused past their leases. Other consumers have these messages by now."""
    worker = start_holding(bench, "zombie", prefetch=10)
    with pitstop.init(bench.options) as pit, pit.listen(prefetch=10, lock_time=LONG) as listener:
        pit.store_many([({"id": f"{n}"}, NOW) for n in range(10)])
        first = held_by(bench, worker).id
        bench.pause(worker)
        others = [listener.get(timeout=10) for _ in range(10)]
        bench.resume(worker)
        worker.stop()
        assert [each.id for each in bench.events("emit")] == [first]
        for each in others:
            each.ack()
        assert pit.stats().leased == pit.stats().due == 0


def test_dead_and_paused_consumers_under_load_lose_and_double_nothing(bench, judge):
    bench.start_load()
    victim, sleeper = bench.consumers[1:]
    bench.kill(victim)
    bench.pause(sleeper)
    bench.start("consume", prefetch=5)
    bench.wait_for_emissions(80)
    bench.resume(sleeper)
    bench.wait_for_emissions(20)
    assert_kept(judge(bench, DRAIN), bench)


def test_dead_and_paused_consumers_that_ack_in_batches_lose_and_double_nothing(bench, judge):
    """At their own pace they have several messages in hand, and acks that are not written yet when they die."""
    bench.start("produce", rate=150.0, latest=0.5)
    victim, sleeper, _ = [bench.start("consume", prefetch=None, overdue=0) for _ in range(3)]
    bench.wait_for_emissions(100)
    bench.kill(victim)
    bench.pause(sleeper)
    bench.start("consume", prefetch=None)
    bench.wait_for_emissions(80)
    bench.resume(sleeper)
    bench.wait_for_emissions(20)
    assert_kept(judge(bench, DRAIN), bench)


@pytest.mark.parametrize("wrong", [30.0, -30.0])
def test_a_consumer_whose_clock_is_wrong_emits_nothing_early_and_steals_nothing(bench, wrong):
    """The server's clock decides. The history uses the right clock."""
    with pitstop.init(bench.options) as pit, pit.listen(lock_time=timedelta(seconds=20)) as listener:
        pit.store({"id": "mine"}, NOW)
        mine = listener.get(timeout=5)
        assert mine.id == "mine"
        worker = bench.start("consume", wrong=wrong, failing=0, overdue=0)
        store_for_the_history(bench, pit, timedelta(seconds=1))
        bench.wait(lambda: bench.events("emit"), 20, "emission")
        assert pit.get("mine").state == "leased"
        mine.ack()
        assert_on_time(bench)
        assert f"differ by {-wrong:.1f} s" in worker.said()


@pytest.mark.parametrize("wrong", [30.0, -30.0])
def test_a_message_of_a_producer_whose_clock_is_wrong_comes_in_time(bench, wrong, judge):
    """An absolute time is exact, and a ``timedelta`` counts from the server's now."""
    bench.start("produce", wrong=wrong, rate=60.0, latest=0.5, series=0)
    bench.start("consume", failing=0, overdue=0)
    bench.wait_for_emissions(60)
    assert_kept(judge(bench, DRAIN), bench)


@pytest.mark.parametrize("jump", [30.0, -30.0])
def test_a_wall_clock_that_jumps_while_a_consumer_runs_changes_nothing(bench, jump):
    with pitstop.init(bench.options) as pit:
        worker = bench.start("consume", jump=jump, failing=0, overdue=0)
        store_for_the_history(bench, pit, NOW)
        bench.wait(lambda: bench.events("emit"), 20, "first emission")
        worker.signal(signal.SIGUSR1)
        store_for_the_history(bench, pit, timedelta(seconds=1))
        bench.wait(lambda: len(bench.events("emit")) == 2, 20, "emission after the jump")
        assert_on_time(bench)


def store_for_the_history(bench, pit, delay):
    """Stored by this process, whose clock is right."""
    when = datetime.now(UTC) + delay
    pit.store({"id": f"due {when.timestamp()}"}, when)


def assert_on_time(bench):
    """Assert that no message was early, or late by the error of the clock."""
    for each in bench.events("emit"):
        assert 0 <= each.begun_wall - each.scheduled_for / 1000 < LATE, each


def claimed(delivery):
    """Return the instant of a claim of this process, in ms."""
    return int((delivery.leased_until - LONG).timestamp() * 1000)
