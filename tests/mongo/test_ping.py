"""A ping: it reports in bounded time whether the server works."""

from __future__ import annotations

import time

import pytest

import pitstop

from patience import with_some_time
from pitstop import BackendUnavailable
from pitstop_mongo import MongoBackend


def test_is_answered_by_the_primary_of_a_replica_set(replica_set_uri):
    with pitstop.init({"type": "mongo", "uri": replica_set_uri}) as pit:
        assert pit.ping() is None


def test_leaves_no_collection(backend, coll):
    backend.ping()
    assert coll.database.list_collection_names() == []


def test_of_a_server_that_is_away_says_so_in_bounded_time():
    backend = MongoBackend.from_options({"host": "127.0.0.1", "port": 1, "operation_timeout": "500ms"})
    began = time.monotonic()
    with pytest.raises(BackendUnavailable, match=r"127\.0\.0\.1:1.*did not answer.*Check that it is running"):
        backend.ping()
    assert time.monotonic() - began < 10, "by itself the driver would try for half a minute"
    backend.close()


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"closeConnection": True}, "did not answer"),
        ({"errorCode": 13}, "does not allow this user"),
        ({"errorCode": 13435}, "changing its primary"),
    ],
    ids=["closes", "unauthorized", "no_primary"],
)
@pytest.mark.parametrize("failing", ["500ms"], ids=[""], indirect=True)
def test_of_a_server_that_fails_gives_the_reason(failing, how, text):
    with failing("find", **how) as backend, pytest.raises(BackendUnavailable, match=text):
        backend.ping()


@pytest.mark.parametrize("failing", ["500ms"], ids=[""], indirect=True)
def test_of_a_server_that_hangs_says_so_in_bounded_time(failing):
    def show(seconds):
        with failing("find", blockConnection=True, blockTimeMS=round(seconds * 1000)) as backend:
            began = time.monotonic()
            with pytest.raises(BackendUnavailable, match="did not answer"):
                backend.ping()
            assert time.monotonic() - began < seconds - 0.05

    with_some_time(show, (1.0, 6.0))


def test_is_answered_again_when_the_server_is_back(failing):
    with failing("find", errorCode=13) as backend, pytest.raises(BackendUnavailable):
        backend.ping()
    assert backend.ping() is None
