"""The driving functions also drive a Pitstop on a real MongoDB, for an application's integration tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pitstop import OutcomeUnknown, testing


NOW, MINUTE, HOUR = timedelta(0), timedelta(minutes=1), timedelta(hours=1)
START = datetime(2020, 1, 1, tzinfo=UTC)
LOCK = timedelta(minutes=15)


@pytest.fixture
def pit(mongo_uri, mongo_dbname):
    config = {"type": "mongo", "uri": mongo_uri, "dbname": mongo_dbname, "retry": {"delay": "1m", "max_attempts": 2}}
    with testing.init(config, ids="msg-{n}") as pit:
        yield pit


def ok(msg):
    pass


def test_three_hours_of_an_hourly_message(pit):
    pit.store({"id": "hourly"}, HOUR, None, HOUR)
    report = pit.run_for("3h", ok)
    assert report.times == [START + n * HOUR for n in (1, 2, 3)]
    assert pit.now() == START + 3 * HOUR
    pit.assert_stored(id="hourly", due_in=HOUR, every=HOUR)


def test_retries_and_death(pit):
    pit.store({"id": "a"}, NOW)
    report = pit.run_for(HOUR, lambda msg: 1 / 0, raise_errors=False)
    assert [(step.at, step.outcome) for step in report] == [(START, "nacked"), (START + MINUTE, "dead")]
    pit.assert_dead(error="ZeroDivisionError")


def test_faults(pit):
    pit.faults.lose_reply("store")
    with pytest.raises(OutcomeUnknown):
        pit.store({}, NOW)

    def handler(delivery):
        if delivery.attempt == 1:
            pit.faults.crash()

    report = pit.run_for(HOUR, handler, deliveries=True)
    assert [(step.at, step.outcome) for step in report] == [(START, "crashed"), (START + LOCK, "acked")]

    pit.store({"id": "b"}, NOW)
    with pit.listen() as listener:
        listener.get()
        pit.faults.expire_lease("b")
        assert listener.get().attempt == 2
        pit.faults.skew(LOCK)
        assert pit.run_until_idle(ok)[0].outcome == "dead"


def test_drains(pit):
    pit.store_many([({"n": n}, n * HOUR) for n in range(50)])
    assert [msg["n"] for msg in pit.drain(ok).messages] == list(range(50))
    pit.assert_no_leases()
