"""How many messages are claimed at once: the effect of a consumer's pace."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pitstop._decisions._prefetch import MOST_AT_ONCE, Pace


LEASE = 900.0

seconds = st.floats(0, 3600, allow_subnormal=False)
leases = st.floats(0.001, 1e6)
rounds = st.lists(st.tuples(st.integers(1, 2000), seconds), max_size=30)


def paced(rounds, lease=LEASE):
    pace = Pace()
    for taken, took in rounds:
        pace = pace.after(taken, took, lease)
    return pace


def consumed(each, claims):
    """A consumer that takes so many seconds for each message, after so many claims."""
    pace = Pace()
    for _ in range(claims):
        pace = pace.after(pace.size, pace.size * each, LEASE)
    return pace


@given(rounds, leases)
def test_it_is_at_least_one_and_at_most_what_one_claim_may_hold(rounds, lease):
    assert 1 <= paced(rounds, lease).size <= MOST_AT_ONCE


@given(rounds, st.integers(1, 2000), seconds, leases)
def test_it_grows_twofold_at_most(rounds, taken, took, lease):
    before = paced(rounds)
    assert before.after(taken, took, lease).size <= before.size * 2


@given(rounds, st.integers(1, 2000), st.floats(1e-6, 3600), leases)
def test_what_is_claimed_at_once_lasts_fifty_milliseconds_and_a_tenth_of_the_lease_at_most(rounds, taken, took, lease):
    after = paced(rounds).after(taken, took, lease)
    assert after.size == 1 or after.size * after.each <= min(0.05, lease * 0.1) * 1.000001


@given(rounds, st.floats(0.05, 3600))
def test_a_slow_handler_gets_one_at_once_whatever_was_before(rounds, each):
    pace = paced(rounds)
    assert pace.after(pace.size, pace.size * each, LEASE).size == 1


@given(rounds, st.integers(1, 2000), seconds, st.floats(1, 10))
def test_a_slower_consumer_never_gets_more(rounds, taken, took, factor):
    before = paced(rounds)
    assert before.after(taken, took * factor, LEASE).size <= before.after(taken, took, LEASE).size


def test_a_fast_consumer_reaches_the_most_in_a_few_claims():
    assert consumed(0.00001, 9).size == MOST_AT_ONCE


def test_a_consumer_in_no_time_at_all_does_too():
    assert consumed(0.0, 9).size == MOST_AT_ONCE


@given(rounds)
def test_one_whose_messages_waited_begins_anew(rounds):
    assert paced(rounds).slowed() == Pace()


@given(seconds)
def test_who_has_not_consumed_yet_claims_nothing_ahead(claim):
    assert not Pace().pays_ahead(claim)


@given(rounds, seconds, st.floats(1, 10))
def test_the_slower_the_store_the_less_it_pays_to_claim_ahead(rounds, claim, factor):
    pace = paced(rounds)
    assert pace.pays_ahead(claim) or not pace.pays_ahead(claim * factor)


@given(seconds)
def test_a_slow_handler_claims_nothing_ahead(claim):
    assert not consumed(1.0, 5).pays_ahead(claim)


@given(st.floats(0.1, 3600))
def test_who_takes_few_at_once_claims_nothing_ahead_of_a_slow_store(claim):
    assert consumed(0.02, 9).refill_at(claim, apart=False) == -1


def test_who_takes_many_has_the_next_claimed_with_the_last_one():
    pace = consumed(0.00001, 9)
    assert pace.refill_at(pace.size * 0.00001, apart=False) == 0


def test_not_while_others_take_what_it_asks_for():
    pace = consumed(0.00001, 9).after_claim(500, 400)
    assert pace.refill_at(0.01, apart=False) == -1
    # Nor soon after.
    pace = pace.after_claim(500, 500).after(500, 0.005, LEASE)
    assert pace.refill_at(0.01, apart=False) == -1


def test_again_once_nobody_was_in_the_way_for_a_while():
    pace = consumed(0.00001, 9).after_claim(500, 499)
    for _ in range(50):
        pace = pace.after_claim(500, 500)
    assert pace.refill_at(0.01, apart=False) == 0


def test_again_once_it_is_clear_that_there_were_no_more():
    pace = consumed(0.00001, 9)
    assert pace.after_claim(500, 20).after_claim(500, 0) == pace


def test_who_takes_longer_than_a_claim_has_the_next_claimed_halfway():
    pace = consumed(0.00008, 9)
    assert pace.refill_at(0.01, apart=False) == pace.size // 2
