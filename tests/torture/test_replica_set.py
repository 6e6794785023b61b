"""A replica set loses its primary while processes store and handle messages: nothing is lost, nothing doubled but for
a reason. With elections that are quick, and faults that are short; all the others are in test_replica_set_large.py.
"""

from __future__ import annotations

import pytest

from torture import faults
from torture.conftest import DRAIN, assert_kept


@pytest.mark.parametrize("fault", [faults.kill_primary, faults.step_down], ids=lambda fault: fault.__name__)
def test_a_lost_primary_loses_nothing(fault, replica_set, open_bench, judge):
    bench = open_bench(replica_set.uri, lock_time="2s")
    bench.start_load()
    fault(replica_set, 0.5)
    bench.wait_for_emissions(30)
    assert_kept(judge(bench, DRAIN), bench)
