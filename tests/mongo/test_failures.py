"""The error that a user sees when the server fails: the right class, in bounded time, with advice."""

from __future__ import annotations

import time

from functools import partial

import pymongo
import pytest

from pymongo import errors

from patience import with_some_time
from pitstop import BackendUnavailable, MessageError, PitstopError
from pitstop_mongo import MongoBackend
from pitstop_mongo._client.failures import Kind, kind_of, translate


MINUTE = 60_000
#: Seconds for which a server hangs.
HANGS = (1.5, 6.0)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (13, r"does not allow this user to do this .*code 13.*readWrite"),
        (50, "took longer than operation_timeout"),
        (8000, "refuses the user or the password"),
        (20, r"refused an operation \(.*code 20"),
    ],
)
def test_codes_of_the_server_become_words(failing, record, code, text):
    with failing("update", "find", "findAndModify", errorCode=code) as backend:
        for call in (lambda: backend.put([record("a")]), lambda: backend.get("a"), lambda: backend.lease(1, MINUTE)):
            with pytest.raises(BackendUnavailable, match=text) as caught:
                call()
            assert str(caught.value).startswith(f"MongoDB at {backend.location} ")
            assert caught.value.__cause__ is None
            assert caught.value.__suppress_context__


@pytest.mark.parametrize("failing", ["500ms"], indirect=True)
def test_a_server_that_hangs_is_not_waited_for_longer_than_configured(failing, record):
    def show(command, seconds):
        with failing(command, blockConnection=True, blockTimeMS=round(seconds * 1000)) as backend:
            calls = {
                "find": lambda: backend.lease(5, MINUTE),
                "findAndModify": lambda: backend.lease(1, MINUTE),
                "update": lambda: backend.put([record("a")]),
                "insert": lambda: backend.put([record("a"), record("b")]),
            }
            begin = time.monotonic()
            with pytest.raises(BackendUnavailable):
                calls[command]()
            assert time.monotonic() - begin < seconds - 0.1

    for command in ("find", "findAndModify", "update", "insert"):
        with_some_time(partial(show, command), HANGS)


def test_no_server_there():
    backend = MongoBackend.from_options({"host": "127.0.0.1", "port": 1, "operation_timeout": "200ms"})
    try:
        for call in (backend.now, backend.next_due, lambda: backend.get("a"), lambda: backend.lease(1, MINUTE)):
            with pytest.raises(
                BackendUnavailable,
                match=r"MongoDB at mongodb://127\.0\.0\.1:1/pitstop\.messages did not answer.*Check that it is running",
            ):
                call()
    finally:
        backend.close()


def test_a_client_that_its_owner_closed(mongo_uri, mongo_dbname):
    client = pymongo.MongoClient(mongo_uri)
    backend = MongoBackend.from_options({"client": client, "dbname": mongo_dbname})
    backend.next_due()
    client.close()
    with pytest.raises(BackendUnavailable, match="the client was closed"):
        backend.next_due()


@pytest.mark.parametrize(
    ("error", "kind", "raises"),
    [
        (errors.ServerSelectionTimeoutError("x"), Kind.TRANSIENT, BackendUnavailable),
        (errors.WaitQueueTimeoutError("x"), Kind.TRANSIENT, BackendUnavailable),
        (errors.AutoReconnect("x"), Kind.UNKNOWN, BackendUnavailable),
        (errors.NetworkTimeout("x"), Kind.UNKNOWN, BackendUnavailable),
        (errors.NotPrimaryError("x", {"code": 11602}), Kind.UNKNOWN, BackendUnavailable),
        (errors.WriteError("x", 189), Kind.UNKNOWN, BackendUnavailable),
        (errors.WriteConcernError("x", 11602), Kind.UNKNOWN, BackendUnavailable),
        (errors.WTimeoutError("x", 64), Kind.UNKNOWN, BackendUnavailable),
        (errors.ExecutionTimeout("x", 50), Kind.UNKNOWN, BackendUnavailable),
        (errors.OperationFailure("x", 18), Kind.PERMANENT, BackendUnavailable),
        (errors.OperationFailure("x", 13), Kind.PERMANENT, BackendUnavailable),
        (errors.OperationFailure("x", 17419), Kind.PERMANENT, MessageError),
        (errors.DocumentTooLarge("x"), Kind.PERMANENT, MessageError),
        (errors.DuplicateKeyError("x", 11000), Kind.PERMANENT, BackendUnavailable),
        (errors.BulkWriteError({"writeErrors": [{"code": 189}]}), Kind.UNKNOWN, BackendUnavailable),
        (errors.BulkWriteError({"writeErrors": [{"code": 11000}]}), Kind.PERMANENT, BackendUnavailable),
        (errors.BulkWriteError({"writeConcernErrors": [{"code": 64}]}), Kind.UNKNOWN, BackendUnavailable),
        (errors.ConfigurationError("x"), Kind.PERMANENT, BackendUnavailable),
        (errors.OperationFailure("x", 20), Kind.TRANSIENT, BackendUnavailable),
        (errors.OperationFailure("x", 20, {"errorLabels": ["RetryableWriteError"]}), Kind.UNKNOWN, BackendUnavailable),
        (OverflowError("x"), Kind.PERMANENT, MessageError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_error_has_its_place_in_the_table(error, kind, raises):
    assert kind_of(error) is kind
    translated = translate(error, "mongodb://h:1/d.c")
    assert type(translated) is raises
    if raises is BackendUnavailable:
        assert translated.permanent == (kind is Kind.PERMANENT)
    assert isinstance(translated, PitstopError)


@pytest.mark.parametrize(
    "error",
    [
        errors.WriteConcernError("x", 100),
        errors.BulkWriteError({"writeErrors": [], "writeConcernErrors": [{"code": 100}]}),
        errors.BulkWriteError({"writeErrors": [{"code": 11000}], "writeConcernErrors": [{"code": 90}]}),
    ],
)
def test_a_write_that_was_not_confirmed_is_unknown_also_if_it_never_will_be(error):
    assert kind_of(error) is Kind.UNKNOWN
    assert translate(error, "mongodb://h:1/d.c").permanent
