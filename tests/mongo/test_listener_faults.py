"""A listener whose servers fail: it keeps trying, logs it once, recovers by itself, and stops at once if asked to."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid

from contextlib import contextmanager, suppress
from datetime import timedelta

import pymongo
import pytest

import pitstop

from pitstop import OutcomeUnknown
from servers import proxy as proxies


NOW = timedelta(0)
pytestmark = pytest.mark.usefixtures("eager_driver")

#: Of all the operations here, in seconds.
TIMEOUT = 0.5


class Following:
    """A thread that iterates over a listener and acknowledges what it gets."""

    def __init__(self, listener):
        self.listener = listener
        self.seen = []
        self.acked = []
        self.failed = []
        self._came = threading.Condition()
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self):
        try:
            for delivery in self.listener:
                with self._came:
                    self.seen.append(delivery.id)
                    self._came.notify_all()
                with suppress(pitstop.BackendUnavailable, pitstop.LeaseLost):  # it comes back
                    delivery.ack()
                    self.acked.append(delivery.id)
        except BaseException as error:  # noqa: BLE001 - whatever ends the iteration is what these tests look for
            self.failed.append(error)  # raised in the test

    def wait_for(self, id, within=20.0):
        with self._came:
            assert self._came.wait_for(lambda: id in self.seen, within), f"{id} does not come: {self.failed}"

    def wait_until_it_works(self, pit):
        """Wait until a first message came and its ack is written. The next operation to fail is then a claim."""
        pit.store({"id": "before"}, NOW)
        self.wait(lambda: "before" in self.acked)

    def wait_until_healthy(self, healthy):
        self.wait(lambda: self.listener.healthy is healthy)

    def wait(self, fulfilled, within=30.0):
        deadline = time.monotonic() + within
        while not fulfilled():
            assert self.failed == []
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def stop(self):
        """Stop it. Return how many seconds the call took, and how many the end of the thread took after it."""
        begin = time.monotonic()
        self.listener.stop()
        called = time.monotonic()
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert self.failed == []
        return called - begin, time.monotonic() - called


@pytest.fixture
def follow():
    """Follows a listener of a Pitstop in a thread."""
    following = []

    def follow(pit, **options):
        following.append(Following(pit.listen(loop_time=timedelta(milliseconds=200), **options)))
        return following[-1]

    yield follow
    for each in following:
        each.stop()


@pytest.fixture
def open_pit():
    """Opens Pitstops on a database of the test's own."""
    opened = []

    def open_pit(uri=None, **options):
        where = {"uri": uri} if uri else {}
        dbname = f"pitstop_test_{uuid.uuid4().hex}"
        if uri:
            # On a busy machine this may take longer than an operation of these tests may.
            with pymongo.MongoClient(uri) as patient:
                patient[dbname]["messages"].create_index("due")
        timing = {"lock_time": "5s", "operation_timeout": f"{TIMEOUT}s"}
        opened.append(pitstop.init({"type": "mongo", "dbname": dbname, **timing, **where, **options}))
        return opened[-1]

    yield open_pit
    for each in opened:
        each.close()


@pytest.fixture(autouse=True)
def log(caplog):
    caplog.set_level(logging.INFO, "pitstop")
    return lambda: [
        each for each in caplog.records if each.name == "pitstop.listener" and each.threadName != "pitstop-watch"
    ]


def levels(log):
    """Return the records of the listener itself. The thread that watches counts its own failures in a row."""
    return [each.levelno for each in log() if each.getMessage().startswith("the store ")]


def assert_said_once(log):
    """Assert that there is one warning for all failures in a row, and one line when they are over.

    There may be several rows, because servers that have just come back may fail once more. Two may overlap, because the writer
    of acks counts its own failures.
    """
    rows = 0
    for level in levels(log):
        rows += 1 if level == logging.WARNING else -1
        assert 0 <= rows <= 2, [each.getMessage() for each in log()]


def assert_said(log):
    """Assert the same of an outage that the listener must have noticed."""
    assert_said_once(log)
    assert {logging.WARNING, logging.INFO} == set(levels(log))


@contextmanager
def frozen(servers):
    """All members hang, and go on afterwards."""
    servers.pause(*servers.members)
    try:
        yield
    finally:
        servers.resume(*servers.members)


@contextmanager
def away(servers):
    """All members are killed, and started again afterwards."""
    servers.kill(*servers.members)
    try:
        yield
    finally:
        servers.restart(*servers.members)


GONE = [frozen, away] if os.environ.get("PITSTOP_TEST_LARGE") else [frozen]


@pytest.mark.parametrize("prefetch", [1, 10])
def test_a_primary_that_steps_down_is_got_over(replica_set, open_pit, follow, log, prefetch):
    pit = open_pit(replica_set.uri)
    following = follow(pit, prefetch=prefetch)
    following.wait_until_it_works(pit)
    stop, stored = threading.Event(), []

    def store():
        # There is always a command in flight at the step-down.
        while not stop.wait(0.005):
            with suppress(pitstop.BackendUnavailable):
                stored.append(pit.store({}, NOW))

    thread = threading.Thread(target=store)
    thread.start()
    try:
        for _ in range(3):
            before = len(following.seen)
            replica_set.step_down(1)
            following.wait(lambda before=before: len(following.seen) >= before + 20)
    finally:
        stop.set()
        thread.join()
    for each in stored:
        following.wait_for(each)
    assert following.listener.healthy
    # A write that the driver repeats by itself is no failure, so there may be no warning. Each warning has its end.
    assert_said_once(log)


def test_a_primary_that_hangs_is_replaced(replica_set, open_pit, follow, log):
    """This takes an election, and sometimes ten seconds more. The other member may go on waiting for the one that hangs, and
    meanwhile the new primary has no majority.
    """
    pit = open_pit(replica_set.uri)
    following = follow(pit)
    following.wait_until_it_works(pit)

    primary = replica_set.primary
    replica_set.pause(primary)
    following.wait_until_healthy(False)
    replica_set.wait_for_primary(other_than=primary)
    following.wait_until_healthy(True)
    replica_set.resume(primary)

    pit.store({"id": "after"}, NOW)
    following.wait_for("after")
    assert_said(log)


@pytest.mark.parametrize("fault", GONE, ids=lambda fault: fault.__name__)
def test_servers_that_are_all_gone_for_a_while_are_waited_for(replica_set, open_pit, follow, log, fault):
    pit = open_pit(replica_set.uri)
    following = follow(pit)
    following.wait_until_it_works(pit)
    pit.store({"id": "meanwhile"}, timedelta(seconds=1))

    with fault(replica_set):
        following.wait_until_healthy(False)
        time.sleep(2 * TIMEOUT)  # enough for several failures in a row
    following.wait_for("meanwhile", 30)
    following.wait_until_healthy(True)

    replica_set.wait_until_healthy()
    pit.store({"id": "after"}, NOW)
    following.wait_for("after")
    assert_said(log)


@pytest.mark.parametrize("fault", GONE, ids=lambda fault: fault.__name__)
def test_it_stops_at_once_while_the_servers_are_gone(replica_set, open_pit, follow, fault):
    """A running operation ends within its limit, which is half a second here. The driver alone would try for half a minute."""
    pit = open_pit(replica_set.uri)
    following = follow(pit)
    following.wait_until_it_works(pit)
    with fault(replica_set):
        following.wait_until_healthy(False)
        assert sum(following.stop()) < 10


def test_connections_that_are_reset_are_made_again(replica_set_uri, open_pit, follow, log):
    with proxies.in_front_of(replica_set_uri) as proxy:
        pit = open_pit(proxy.uri)
        following = follow(pit)
        for n in range(5):
            proxy.reset()
            try:
                pit.store({"id": f"{n}"}, NOW)
            except OutcomeUnknown as error:
                # On a busy machine the driver's own repetition does not end in the time of an operation.
                pit.store({"id": f"{n}"}, NOW)
                assert error.ids == (f"{n}",)
            following.wait_for(f"{n}")
        assert following.listener.healthy
        assert_said_once(log)
        pit.close()  # while its servers are there: else that takes as long as finding one may


def test_a_line_that_is_stalled_is_waited_for(replica_set_uri, open_pit, follow, log):
    with proxies.in_front_of(replica_set_uri) as proxy:
        pit = open_pit(proxy.uri)
        following = follow(pit)
        following.wait_until_it_works(pit)
        proxy.stall(4 * TIMEOUT)
        following.wait_until_healthy(False)
        following.wait_until_healthy(True)
        pit.store({"id": "after"}, NOW)
        following.wait_for("after")
        assert_said(log)
        pit.close()  # while its servers are there: else that takes as long as finding one may


def test_a_pool_without_a_free_connection_is_waited_for(replica_set_uri, open_pit, follow, log):
    with pymongo.MongoClient(replica_set_uri, maxPoolSize=1) as client:
        pit = open_pit(client=client)
        following = follow(pit)
        following.wait_until_it_works(pit)
        pit.store({"id": "meanwhile"}, timedelta(milliseconds=500))

        sleep = {"sleep": 1, "lock": "none", "millis": 1500}
        holding = threading.Thread(target=client.admin.command, args=(sleep,))
        holding.start()
        following.wait_until_healthy(False)
        holding.join()
        following.wait_for("meanwhile")
        following.wait_until_healthy(True)
        assert_said(log)
        pit.close()  # while its servers are there: else that takes as long as finding one may


@pytest.mark.parametrize(("prefetch", "command"), [(1, "findAndModify"), (10, "update")])
@pytest.mark.parametrize("labels", [[], ["RetryableWriteError"]], ids=["", "labelled"])
def test_a_claim_that_no_majority_confirms(replica_set_uri, open_pit, follow, prefetch, command, labels):
    """The reply says that the write was done and may be rolled back. When a primary steps down, its label asks to repeat it."""
    name = f"pitstop-{uuid.uuid4().hex}"
    with pymongo.MongoClient(replica_set_uri) as client:
        pit = open_pit(f"{replica_set_uri}&appName={name}")
        pit.store({"id": "a"}, NOW)
        # With a code of a step-down the driver would wait until the server reports that it has stepped down.
        failure = {"writeConcernError": {"code": 64, "errmsg": "timed out"}, "errorLabels": labels}
        data = {"failCommands": [command], "appName": name, **failure}
        client.admin.command({"configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data})
        try:
            following = follow(pit, prefetch=prefetch)
            following.wait(lambda: "a" in following.seen or not following.listener.healthy)
        finally:
            client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})
        following.wait_for("a")
        following.wait_until_healthy(True)
