"""Replies are lost at random, until batches of all kinds have lost some.

Collected only with ``PITSTOP_TEST_LARGE=1``: ``nox -s torture``.
"""

from __future__ import annotations

import pytest

from torture.conftest import DRAIN, IDS, SERVERS, assert_kept


pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("eager_driver")]


@pytest.fixture(params=SERVERS, ids=IDS)
def server_uri(request):
    return request.getfixturevalue(request.param)


def test_replies_lost_at_random_while_batches_are_in_flight(proxy, open_bench, judge):
    bench = open_bench(proxy.uri, lock_time="2s", operation_timeout="500ms")
    commands = ("update", "insert", "findAndModify", "delete", "find")
    bench.start_batches()
    proxy.lose_replies(0.2, *commands)
    bench.wait_for_emissions(5000, 120)
    proxy.reset()
    proxy.stall(0.5)
    bench.wait_for_emissions(100)
    proxy.lose_replies(0.0)
    assert_kept(judge(bench, DRAIN), bench)
    assert proxy.did["lost reply of delete"] > 0
    assert proxy.did["lost reply of update"] > 0
