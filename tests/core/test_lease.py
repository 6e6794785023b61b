"""The states of a settlement: one object, without a store."""

from __future__ import annotations

import threading

from datetime import timedelta

import attrs
import pytest

from core.kit import Running
from pitstop import LeaseLost, OutcomeUnknown, PitstopError
from pitstop._decisions._emit import Emission
from pitstop._engine._lease import Lease, Purpose, State
from pitstop.abc import Outcome, Progress, Record, Retry


NOW = 1_000_000
RETRY = Retry()


@pytest.fixture
def lease():
    progress = Progress(NOW + 60_000, NOW, attempts=1, first_leased=NOW, token="t")
    record = Record("a", {"foo": 1}, None, "revision", progress)
    return Lease(Emission(record, None, NOW, 0), 54.0)


def test_a_settlement_goes_from_held_to_done(lease):
    assert (lease.state, lease.settled, lease.is_settling, lease.known) == (State.HELD, False, False, True)
    lease.ask(Purpose.ACK)
    assert (lease.state, lease.settled, lease.is_settling, lease.known) == (State.ASKED, True, True, False)
    assert lease.decide(NOW * 1000, RETRY).outcome is Outcome.COMPLETE
    assert lease.state is State.SENT
    lease.done()
    assert (lease.state, lease.settled, lease.known, lease.told) == (State.DONE, True, True, None)


@pytest.mark.parametrize(("first", "word"), [(Purpose.ACK, "acknowledged"), (Purpose.NACK, "nacked")])
def test_it_is_settled_once(lease, first, word):
    lease.ask(first)
    with pytest.raises(LeaseLost, match=f"was {word} before. It cannot be given back now"):
        lease.ask(Purpose.GIVE_BACK)
    assert lease.purpose is first


def test_of_many_threads_one_gets_the_right_to_settle(lease):
    start = threading.Barrier(8)

    def ask():
        start.wait(10)
        try:
            lease.ask(Purpose.ACK)
        except LeaseLost:
            return 0
        return 1

    threads = [Running(ask) for _ in range(8)]
    assert sum(each.result() for each in threads) == 1


def test_a_settlement_without_an_answer_is_asked_again_and_remembered(lease):
    lease.ask(Purpose.ACK)
    lease.decide(NOW * 1000, RETRY)
    lease.postpone(doubtful=True)
    assert (lease.state, lease.doubted) == (State.ASKED, True)
    lease.decide(NOW * 1000, RETRY)
    assert lease.was_done(None) is True
    assert lease.was_done(lease.record) is False


def test_a_settlement_that_was_refused_before_it_was_sent_is_in_no_doubt(lease):
    lease.ask(Purpose.ACK)
    lease.postpone(doubtful=True)
    assert (lease.state, lease.doubted) == (State.ASKED, False)


def test_another_settlement_than_the_one_in_doubt_cannot_be_told_to_be_done(lease):
    lease.ask(Purpose.ACK)
    lease.decide(NOW * 1000, RETRY)
    lease.postpone(doubtful=True)
    lease.hand_back(OutcomeUnknown("lost"))
    lease.ask(Purpose.NACK, None, "failed", timedelta(0))
    lease.decide(NOW * 1000, RETRY)
    assert lease.was_done(None) is None


class TestSeveralRequestsInDoubt:
    """The caller asks for another settlement after each write without an answer."""

    @pytest.fixture
    def write(self, lease):
        def write(purpose, error=None, delay=None):
            lease.ask(purpose, None, error, delay)
            settlement = lease.decide(NOW * 1000, RETRY)
            lease.postpone(doubtful=True)
            lease.hand_back(OutcomeUnknown("lost"))
            return settlement

        return write

    @pytest.fixture
    def ask(self, lease):
        def ask(purpose, error=None, delay=None):
            lease.ask(purpose, None, error, delay)
            lease.decide(NOW * 1000, RETRY)

        return ask

    @staticmethod
    def after(lease, settlement):
        return attrs.evolve(lease.record, progress=settlement.progress)

    @pytest.mark.parametrize(
        "second", [("failed", None), ("failed", timedelta(1)), ("again", timedelta(0)), (None, None)]
    )
    def test_a_nack_with_another_error_or_delay_is_not_the_one_that_was_done(self, lease, write, ask, second):
        nacked = write(Purpose.NACK, "failed", timedelta(0))
        ask(Purpose.NACK, *second)
        assert lease.was_done(self.after(lease, nacked)) is None

    def test_the_same_nack_is_the_one_that_was_done(self, lease, write, ask):
        nacked = write(Purpose.NACK, "failed", timedelta(0))
        ask(Purpose.NACK, "failed", timedelta(0))
        assert lease.was_done(self.after(lease, nacked)) is True

    def test_a_nack_that_was_done_after_an_ack_that_was_not_is_found(self, lease, write, ask):
        write(Purpose.ACK)
        nacked = write(Purpose.NACK, "failed", timedelta(0))
        ask(Purpose.NACK, "failed", timedelta(0))
        assert lease.was_done(self.after(lease, nacked)) is True

    def test_an_ack_that_was_done_after_a_nack_that_was_not_is_found(self, lease, write, ask):
        write(Purpose.NACK, "failed", timedelta(0))
        write(Purpose.ACK)
        ask(Purpose.ACK)
        assert lease.was_done(None) is True

    def test_a_nack_after_an_ack_that_may_have_been_done_cannot_be_told(self, lease, write, ask):
        write(Purpose.ACK)
        write(Purpose.NACK, "failed", timedelta(0))
        ask(Purpose.NACK, "failed", timedelta(0))
        assert lease.was_done(None) is None

    def test_nothing_was_done_if_another_consumer_has_the_message(self, lease, write, ask):
        write(Purpose.ACK)
        ask(Purpose.NACK, "failed", timedelta(0))
        taken = lease.record.progress.leased("another", NOW, NOW + 60_000)
        assert lease.was_done(attrs.evolve(lease.record, progress=taken)) is False


def test_a_caller_that_was_told_of_a_failed_try_may_settle_again(lease):
    error = PitstopError("away")
    lease.ask(Purpose.ACK)
    lease.hand_back(error)
    assert (lease.state, lease.settled, lease.is_news(error)) == (State.HELD, False, True)
    lease.ask(Purpose.NACK)
    assert lease.told is None


def test_a_lost_lease_says_why(lease):
    lease.ask(Purpose.ACK)
    assert lease.lose() is True
    assert (lease.state, lease.lost) == (State.LOST, True)
    assert "It was not acknowledged" in str(lease.told)


@pytest.mark.parametrize("purpose", Purpose)
def test_a_message_that_its_handler_has_stored_anew_is_superseded_without_a_word(lease, purpose):
    lease.supersede()
    lease.ask(purpose)
    assert lease.lose() is False
    assert (lease.state, lease.lost, lease.told) == (State.SUPERSEDED, False, None)


def test_a_failed_extension_is_news_once(lease):
    assert lease.lose_unasked() is True
    assert lease.lose_unasked() is False
    with pytest.raises(LeaseLost, match="It was not extended"):
        lease.ask(Purpose.ACK)


def test_a_failed_extension_is_no_news_while_a_settlement_is_under_way(lease):
    lease.ask(Purpose.ACK)
    assert lease.lose_unasked() is False
    assert lease.state is State.ASKED


def test_an_outcome_that_is_not_known_is_raised_by_the_next_settlement_too(lease):
    lease.ask(Purpose.ACK)
    lease.doubt()
    with pytest.raises(OutcomeUnknown):
        lease.ask(Purpose.NACK)


def test_an_extension_moves_the_end_of_the_lease(lease):
    assert not lease.is_over((NOW + 59_999) * 1000)
    assert lease.is_over((NOW + 60_000) * 1000)
    lease.extended(lease.extension(NOW + 90_000))
    assert (lease.due, lease.is_over((NOW + 60_000) * 1000)) == (NOW + 90_000, False)
