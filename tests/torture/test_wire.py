"""Requests and replies are lost on the wire: each operation is done at most once, and its reported outcome is true.

On a standalone the driver repeats nothing by itself. On a replica set it repeats writes of single documents. Each test here
holds on both.
"""

from __future__ import annotations

import time

from datetime import timedelta

import pymongo
import pytest

import pitstop

from pitstop import BackendUnavailable, LeaseLost
from pitstop.abc import Outcome, Settlement
from torture.conftest import DRAIN, IDS, LARGE, NOW, SERVERS, assert_kept, drain, is_claim
from torture.process import OUTCOME_UNKNOWN


#: Later than the repetition of a store after a lost reply.
SOON = timedelta(seconds=0.5)


pytestmark = pytest.mark.usefixtures("eager_driver")


@pytest.fixture(params=["mongo_uri", "replica_set_uri"], ids=["standalone", "replica set"])
def server_uri(request):
    return request.getfixturevalue(request.param)


def wait_until_due(pit, id):
    while pit.get(id).state != "due":
        time.sleep(0.05)


@pytest.mark.parametrize("times", [1, 2])
def test_a_store_whose_reply_is_lost_is_done_once(pit, proxy, times):
    for _ in range(times):
        proxy.lose_reply("update")
    pit.store({"id": "a"}, NOW)
    # It need not be repeated. Pitstop can also see that the message is there.
    assert 1 <= proxy.did["lost reply of update"] <= times
    assert drain(pit) == [("a", 1)]


@pytest.mark.parametrize("times", [1, 2])
def test_a_store_whose_request_is_lost_is_done_once(pit, proxy, times):
    for _ in range(times):
        proxy.lose_request("update")
    pit.store({"id": "a"}, SOON)
    assert proxy.did["lost request of update"] == times
    wait_until_due(pit, "a")
    assert drain(pit) == [("a", 1)]


def test_a_store_of_a_due_message_is_done_once_or_its_outcome_is_unknown(pit, proxy):
    """It may have been stored, emitted and acknowledged meanwhile. If it were stored again, it might be emitted again."""
    proxy.lose_request("update")
    try:
        pit.store({"id": "a"}, NOW)
    except OUTCOME_UNKNOWN:
        pit.store({"id": "a"}, NOW)
    assert drain(pit) == [("a", 1)]


@pytest.mark.parametrize("what", ["reply", "request"])
def test_a_store_of_many_is_done_once_for_each(pit, proxy, what):
    getattr(proxy, f"lose_{what}")("insert")
    pit.store_many([({"id": f"{n}"}, SOON) for n in range(5)])
    assert proxy.did[f"lost {what} of insert"] == 1
    wait_until_due(pit, "0")
    assert drain(pit, 5) == [(f"{n}", 1) for n in range(5)]


def test_a_store_of_many_of_which_some_are_there_is_done_once_for_each(pit, proxy):
    """Existing messages are replaced by a second command."""
    pit.store_many([({"id": f"{n}"}, timedelta(hours=1)) for n in range(3)])
    proxy.lose_reply("update")
    pit.store_many([({"id": f"{n}"}, NOW) for n in range(5)])
    assert proxy.did["lost reply of update"] == 1
    assert drain(pit, 5) == [(f"{n}", 1) for n in range(5)]


def test_a_store_that_stays_unknown_says_so(proxy, open_pit):
    pit = open_pit(operation_timeout="700ms")
    pit.store({"id": "a"}, timedelta(hours=1))
    proxy.lose_replies(1.0, "update", "find")
    with pytest.raises(OUTCOME_UNKNOWN):
        pit.store({"id": "a"}, NOW)
    proxy.lose_replies(0.0)
    pit.store({"id": "a"}, NOW)  # storing it again does no harm
    assert drain(pit) == [("a", 1)]


def test_a_remove_whose_reply_is_lost_is_done(pit, proxy):
    pit.store({"id": "a"}, NOW)
    proxy.lose_reply("delete")
    # It cannot be known any more whether it was there. So True and an error are both right.
    try:
        pit.remove("a")
    except BackendUnavailable:
        assert pit.remove("a") is False
    assert drain(pit) == []


def test_a_claim_of_one_whose_reply_is_lost_is_found_again(pit, proxy):
    """The message does not wait for the end of a lease whose listener does not know it."""
    pit.store({"id": "a"}, NOW)
    proxy.lose_reply("findAndModify")
    with pit.listen() as listener:
        delivery = listener.get(timeout=10)
        assert (delivery.id, delivery.attempt) == ("a", 1)
        delivery.ack()
        assert listener.get() is None
    assert proxy.did["lost reply of findAndModify"] == 1


@pytest.mark.parametrize("count", [1, 7])
def test_a_claim_of_many_whose_reply_is_lost_is_found_again(pit, proxy, count):
    pit.store_many([({"id": f"{n}"}, NOW) for n in range(count)])
    proxy.lose_reply("update", is_claim)
    with pit.listen(prefetch=5) as listener:
        deliveries = [listener.get(timeout=10) for _ in range(count)]
        assert sorted(each.id for each in deliveries) == [f"{n}" for n in range(count)]
        assert {each.attempt for each in deliveries} == {1}
        for each in deliveries:
            each.ack()
        assert listener.get() is None
    assert proxy.did["lost reply of update"] == 1
    counters = pit._session.backend.counters
    assert (counters["claim_unknown"], counters["claim_recovered"]) == (1, min(count, 5))


@pytest.mark.parametrize(("prefetch", "command"), [(1, "findAndModify"), (5, "update")])
def test_a_claim_whose_request_is_lost_is_made_again(pit, proxy, prefetch, command):
    pit.store_many([({"id": f"{n}"}, NOW) for n in range(3)])
    proxy.lose_request(command)
    with pit.listen(prefetch=prefetch) as listener:
        deliveries = [listener.get(timeout=10) for _ in range(3)]
        assert sorted((each.id, each.attempt) for each in deliveries) == [(f"{n}", 1) for n in range(3)]


@pytest.mark.parametrize("prefetch", [1, 5])
def test_a_claim_without_any_reply_is_out_once(open_pit, proxy, prefetch, server_uri, dbname):
    """It is found again by its token, or comes back when its lease has ended. No other listener gets it before that."""
    lock = timedelta(seconds=4)
    pit = open_pit(operation_timeout="700ms", lock_time=lock)
    with pymongo.MongoClient(server_uri, tz_aware=True) as client, pit.listen(prefetch=prefetch) as listener:
        pit.store({"id": "a"}, NOW)
        proxy.lose_replies(1.0, *(("findAndModify", "find") if prefetch == 1 else ("update",)))
        with pytest.raises(BackendUnavailable):
            listener.get()
        held = client[dbname]["messages"].find_one()
        assert held["attempts"] == 1
        with pitstop.init({"type": "mongo", "uri": server_uri, "dbname": dbname}) as other, other.listen() as others:
            early = others.get()
            if early is not None:
                # This process was paused for so long that the message was due again.
                assert early.leased_until - timedelta(minutes=15) >= held["due"]
                early.nack(delay=NOW)
        proxy.lose_replies(0.0)

        delivery = listener.get(timeout=20)
        assert delivery.attempt == 1 or delivery.leased_until - lock >= held["due"]
        delivery.ack()
        assert listener.get() is None
        assert pit.get("a") is None


@pytest.mark.parametrize("times", [1, 2])
def test_an_ack_whose_reply_is_lost_is_done(pit, proxy, times):
    pit.store({"id": "a"}, NOW)
    with pit.listen() as listener:
        delivery = listener.get()
        for _ in range(times):
            proxy.lose_reply("delete")
        delivery.ack()
    assert proxy.did["lost reply of delete"] == times
    assert pit.get("a") is None


def test_an_ack_whose_request_is_lost_is_done(pit, proxy):
    pit.store({"id": "a"}, NOW)
    with pit.listen() as listener:
        delivery = listener.get()
        proxy.lose_request("delete")
        delivery.ack()
    assert pit.get("a") is None


def test_an_ack_of_a_recurring_message_whose_reply_is_lost_advances_it_once(pit, proxy):
    pit.store({"id": "a"}, NOW, None, timedelta(hours=1))
    with pit.listen() as listener:
        delivery = listener.get()
        proxy.lose_reply("update")
        delivery.ack()
        assert listener.get() is None
    assert proxy.did["lost reply of update"] == 1
    entry = pit.get("a")
    assert entry.state == "scheduled"
    assert entry.due == delivery.scheduled_for + timedelta(hours=1)


def test_an_ack_in_vain_whose_reply_is_lost_is_still_in_vain(pit, proxy):
    """A lost reply does not turn a lost lease into a success, and does not change the new version."""
    pit.store({"id": "a", "n": 1}, NOW)
    with pit.listen() as listener:
        delivery = listener.get()
        pit.store({"id": "a", "n": 2}, NOW)
        proxy.lose_reply("delete")
        with pytest.raises((LeaseLost, BackendUnavailable)):
            delivery.ack()
    assert drain(pit) == [("a", 1)]


@pytest.mark.parametrize("what", ["reply", "request"])
def test_an_ack_after_the_lease_is_no_success_because_another_listener_is_done(pit, proxy, what):
    """It is repeated, and the message is gone, but not by this ack, which came too late when it was first sent."""
    pit.store({"id": "a"}, NOW)
    with pit.listen(lock_time=timedelta(milliseconds=300)) as late, pit.listen() as other:
        delivery = late.get()
        other.get(timeout=5).ack()
        getattr(proxy, f"lose_{what}")("delete")
        with pytest.raises((LeaseLost, BackendUnavailable)):
            delivery.ack()


def test_a_nack_whose_reply_is_lost_brings_the_message_back_once(pit, proxy):
    pit.store({"id": "a"}, NOW)
    with pit.listen() as listener:
        delivery = listener.get()
        proxy.lose_reply("update")
        delivery.nack("no luck", delay=timedelta(milliseconds=50))
        again = listener.get(timeout=5)
        assert (again.id, again.attempt, again.last_error) == ("a", 2, "no luck")
        again.ack()
        assert listener.get() is None
    assert proxy.did["lost reply of update"] == 1


@pytest.mark.parametrize("times", [1, 2])
def test_settlements_of_many_whose_reply_is_lost_are_done_and_known(pit, proxy, times):
    """Listeners settle most messages one by one. The same holds for many settlements in one call of the backend."""
    backend = pit._session.backend
    pit.store_many([({"id": f"{n}"}, NOW) for n in range(6)])
    leased = backend.lease(6, 30_000)
    for _ in range(times):
        proxy.lose_reply("delete")
    done = [Settlement(each.id, each.progress.token, Outcome.COMPLETE, None) for each in leased[:5]]
    done.append(Settlement(leased[5].id, "another token", Outcome.COMPLETE, None))
    assert list(backend.settle(done)) == [True] * 5 + [False]
    assert proxy.did["lost reply of delete"] == times
    assert [each.id for each in pit.entries()] == [leased[5].id]


def test_messages_claimed_ahead_are_given_back_also_when_the_reply_is_lost(pit, proxy):
    pit.store_many([({"id": f"{n}"}, NOW) for n in range(5)])
    with pit.listen(prefetch=5) as listener:
        listener.get().ack()
        proxy.lose_reply("update", lambda command: not is_claim(command))
    assert proxy.did["lost reply of update"] == 1
    assert len(drain(pit, 5)) == 4


def test_a_connection_that_is_reset_or_stalls_is_got_over(pit, proxy):
    pit.store({"id": "a"}, SOON)
    proxy.reset()
    pit.store({"id": "b"}, SOON)
    proxy.stall(0.5)
    pit.store({"id": "c"}, NOW)
    wait_until_due(pit, "b")
    assert drain(pit) == [("a", 1), ("b", 1), ("c", 1)]


@pytest.mark.parametrize("server_uri", SERVERS, ids=IDS, indirect=True)
def test_replies_lost_at_random_under_load(proxy, open_bench, judge):
    bench = open_bench(proxy.uri, lock_time="2s")
    commands = ("update", "insert", "findAndModify", "delete", "find")
    bench.start_load(rate=30.0)
    proxy.lose_replies(0.05, *commands)
    bench.wait_for_emissions(1000 if LARGE else 60, 120)
    proxy.reset()
    bench.wait_for_emissions(20)
    proxy.lose_replies(0.0)
    verdict = judge(bench, DRAIN)
    assert_kept(verdict, bench)
    # Faults without any effect would prove nothing. In a short run not each kind of fault happens.
    assert sum(proxy.did[f"lost reply of {each}"] for each in commands) > 0
    if LARGE:
        # Few messages are stored by an insert.
        assert all(proxy.did[f"lost reply of {each}"] for each in commands if each != "insert")
        counters = bench.counters()
        assert counters["claim_unknown"] > 0
        assert counters["claim_recovered"] > 0
