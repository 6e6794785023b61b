"""The verdict on a delivery: one table for threads, tasks, and the drivers of tests."""

from __future__ import annotations

import pytest

from core.base_exceptions import ENDS, FAILURES
from pitstop import BackendUnavailable, LeaseLost
from pitstop._consume._verdict import Verdict, verdict


def test_a_handler_that_returns_acknowledges():
    assert verdict(None) is Verdict.ACK


@pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
def test_a_handler_that_raises_nacks(error):
    assert verdict(error) is Verdict.NACK


@pytest.mark.parametrize("error", ENDS.values(), ids=ENDS)
def test_a_handler_that_asks_for_the_end_of_the_program_gives_back(error):
    assert verdict(error) is Verdict.GIVE_BACK


@pytest.mark.parametrize("error", [None, ValueError(), SystemExit()], ids=repr)
def test_an_interrupted_handler_gives_back(error):
    assert verdict(error, interrupted=True) is Verdict.GIVE_BACK


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("error", [None, ValueError(), SystemExit()], ids=repr)
@pytest.mark.parametrize("state", [{"settled": True}, {"news": LeaseLost("")}], ids=str)
def test_a_delivery_that_cannot_be_settled_any_more_is_left_alone(error, state, interrupted):
    assert verdict(error, interrupted=interrupted, **state) is Verdict.NOTHING


def test_an_error_of_the_store_that_the_handler_lets_out_is_no_failure():
    news = BackendUnavailable("away")
    assert verdict(news, news=news) is Verdict.NOTHING


def test_an_ack_that_the_store_did_not_take_is_tried_again():
    assert verdict(None, news=BackendUnavailable("away")) is Verdict.ACK
    assert verdict(ValueError(), news=BackendUnavailable("away")) is Verdict.NACK
