"""A test drives a handler of batches."""

from __future__ import annotations

import asyncio

from datetime import timedelta

import pytest

import pitstop

from pitstop import Handle, PitstopError, testing


NOW = timedelta(0)


@pytest.fixture
def pit():
    with testing.init() as pit:
        yield pit


def outcomes(report):
    return {each.id: each.outcome for each in report.steps}


def test_a_handler_gets_what_is_due_up_to_the_size_of_a_batch(pit):
    pit.store_many([({"id": f"m{n}"}, NOW) for n in range(5)])
    batches = []

    report = pit.run_until_idle(lambda batch: batches.append([each.id for each in batch]), batch=2)

    assert batches == [["m0", "m1"], ["m2", "m3"], ["m4"]]
    assert set(outcomes(report).values()) == {"acked"}
    assert len(report.steps) == 5


def test_messages_that_are_due_at_other_times_come_in_other_batches(pit):
    pit.store_many([({"id": f"m{n}"}, timedelta(minutes=n)) for n in range(3)])
    batches = []
    pit.run_for("5m", lambda batch: batches.append([each.id for each in batch]), batch=10)
    assert batches == [["m0"], ["m1"], ["m2"]]


def test_each_delivery_may_be_settled_by_itself(pit):
    pit.store_many([({"id": id}, NOW) for id in ("acked", "nacked", "left")])

    def handler(batch):
        batch[0].ack()
        batch[1].nack("no luck", "1h")

    report = pit.run_until_idle(handler, batch=10)

    assert outcomes(report) == {"acked": "acked", "nacked": "nacked", "left": "acked"}
    assert pit.get("nacked").last_error == "no luck"


def test_an_exception_nacks_the_others_and_is_raised(pit):
    pit.store_many([({"id": id}, NOW) for id in "abc"])

    def handler(batch):
        batch[0].ack()
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck") as raised:
        pit.run_until_idle(handler, batch=10)
    assert outcomes(raised.value.pitstop_report) == {"a": "acked", "b": "nacked", "c": "nacked"}


def test_a_lost_lease_that_the_handler_lets_out_gives_the_others_back(pit):
    pit.store_many([({"id": id}, NOW) for id in "ab"])
    calls = []

    def handler(batch):
        calls.append([each.id for each in batch])
        if len(calls) == 1:
            batch[0].ack()
            batch[0].ack()

    with pytest.raises(pitstop.LeaseLost):
        pit.run_until_idle(handler, batch=10)
    report = pit.run_until_idle(handler, batch=10)
    assert calls[0] == ["a", "b"]
    assert outcomes(report) in ({}, {"b": "acked"})


def test_a_crash_ends_all_leases_of_the_batch_and_each_message_comes_alone(pit):
    pit.store_many([({"id": id}, NOW) for id in "abc"])
    batches = []

    def handler(batch):
        batches.append([each.id for each in batch])
        if len(batches) == 1:
            raise testing.Crash

    report = pit.run_for("1h", handler, batch=10)

    assert [each.outcome for each in report.steps] == ["crashed"] * 3 + ["acked"] * 3
    assert batches == [["a", "b", "c"], ["a"], ["b"], ["c"]]


def test_a_handle_may_have_a_batch_and_a_rate_has_no_effect(pit):
    pit.store_many([({"id": f"m{n}"}, NOW) for n in range(3)], kind="mail")
    pit.store({"id": "r"}, NOW, kind="report")
    got = []

    pit.run_until_idle(
        {
            "mail": Handle(lambda batch: got.append([each.id for each in batch]), batch=10, rate="1/h"),
            "report": lambda message: got.append(message["id"]),
        }
    )

    assert got == [["m0", "m1", "m2"], "r"]


def test_an_async_handler_of_batches(pit):
    pit.store_many([({"id": f"m{n}"}, NOW) for n in range(3)])
    got = []

    async def handler(batch):
        got.append([each.id for each in batch])

    report = asyncio.run(pit.arun_until_idle(handler, batch=2))

    assert got == [["m0", "m1"], ["m2"]]
    assert len(report.steps) == 3


def test_each_message_counts_as_a_step(pit):
    pit.store_many([({"id": f"m{n}"}, NOW) for n in range(3)])
    with pytest.raises(PitstopError, match="2 messages were emitted"):
        pit.run_until_idle(lambda batch: None, batch=10, max_steps=2)
