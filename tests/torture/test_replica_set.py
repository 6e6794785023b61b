"""A replica set loses its primary while processes store and handle messages. No message is lost, and each duplicate has a reason.

Here elections are quick, and faults are short. All other faults are in test_replica_set_large.py.
"""

from __future__ import annotations

import time

from datetime import timedelta

import pytest

import pitstop

from torture import faults
from torture.bench import Bench
from torture.conftest import DRAIN, assert_kept


@pytest.mark.parametrize(
    ("fault", "load"),
    # With as many unwritten acks as possible when the primary dies, and with single acks when it hands over.
    [(faults.kill_primary, Bench.start_batches), (faults.step_down, Bench.start_load)],
    ids=["kill_primary", "step_down"],
)
def test_a_lost_primary_loses_nothing(fault, load, replica_set, open_bench, judge):
    bench = open_bench(replica_set.uri, lock_time="2s")
    load(bench)
    fault(replica_set, 0.5)
    bench.wait_for_emissions(30)
    assert_kept(judge(bench, DRAIN), bench)


def test_a_store_that_begins_while_there_is_no_primary_waits_for_one(replica_set):
    """Although an election takes longer than one operation may. The store may take three times as long as that."""
    where = {"type": "mongo", "uri": replica_set.uri, "dbname": "pitstop_test_elections", "operation_timeout": "5s"}
    with pitstop.init(where) as pit:
        pit.store({"id": "a"}, timedelta(hours=1))
        primary = replica_set.primary
        replica_set.hold_elections(6)
        replica_set.kill(primary)
        connection = pit._session.backend._connection
        while connection.dialect.has_primary(connection._link.client):
            time.sleep(0.01)
        assert pit.store({"id": "b"}, timedelta(hours=1)) == "b"
        assert {each.id for each in pit.entries()} == {"a", "b"}
