"""A temporary collection beside the store's: nothing of it is left, and a user without the rights gets an error."""

from __future__ import annotations

import contextlib
import re
import uuid

import mongomock
import pytest

from pitstop import BackendUnavailable
from pitstop_mongo import MongoBackend
from servers.database import database


@pytest.fixture
def use(record):
    def use(backend, *, fail=False):
        backend.put([record("a"), record("b")])
        (leased,) = backend.lease(1, 60_000)
        assert leased.id == "a"
        if fail:
            raise ZeroDivisionError

    return use


def names(client, dbname):
    return sorted(client[dbname].list_collection_names())


def test_it_is_a_collection_beside_the_store_and_nothing_is_left(backend, mongo_client, mongo_dbname, use):
    backend.tally()
    before = names(mongo_client, mongo_dbname)
    assert before == ["messages"]
    with backend.scratch() as scratch:
        use(scratch)
        (made,) = set(names(mongo_client, mongo_dbname)) - set(before)
        assert re.fullmatch(r"messages\.check_[0-9a-f]{16}", made)
        assert scratch.location.endswith(f"/{mongo_dbname}.{made}")

    assert names(mongo_client, mongo_dbname) == before


def test_nothing_is_made_where_there_was_no_store(backend, mongo_client, mongo_dbname, use):
    with backend.scratch() as scratch:
        use(scratch)

    assert names(mongo_client, mongo_dbname) == []


def test_nothing_is_left_when_something_is_raised_in_it(backend, mongo_client, mongo_dbname, use):
    with pytest.raises(ZeroDivisionError), backend.scratch() as scratch:
        use(scratch, fail=True)

    assert names(mongo_client, mongo_dbname) == []


def test_the_collection_of_its_wake_ups_goes_too(open_backend, mongo_client, mongo_dbname, use):
    """A watch on a standalone makes it. A store writes no wake-up, which could arrive after the collection was dropped."""
    with open_backend().scratch() as scratch:
        use(scratch)
        assert not any(each.endswith(".wakeups") for each in names(mongo_client, mongo_dbname))
        watch = scratch.watch()
        assert watch is not None
        assert any(each.endswith(".wakeups") for each in names(mongo_client, mongo_dbname))
        watch.close()

    assert names(mongo_client, mongo_dbname) == []


def test_on_a_replica_set_and_with_a_client_of_the_users_nothing_is_left_either(replica_set_client, use, clock):
    with database(replica_set_client) as own:
        where = {"client": replica_set_client, "dbname": own.name, "clock": clock}
        backend = MongoBackend.from_options(where)
        with backend.scratch() as scratch:
            use(scratch)
            watch = scratch.watch()
            assert watch is not None
            watch.close()

        assert names(replica_set_client, own.name) == []
        assert replica_set_client.admin.command("ping")["ok"] == 1


@pytest.mark.parametrize("coll", ["x" * 120, "\N{RACING CAR}" * 30, f"{'x' * 79}.y"], ids=["long", "wide", "dot"])
def test_the_longest_name_has_room_for_it(open_backend, mongo_client, mongo_dbname, use, clock, coll):
    with open_backend(coll=coll, clock=clock).scratch() as scratch:
        use(scratch)

    assert names(mongo_client, mongo_dbname) == []


def test_mongomock_has_it_too(use, clock):
    client = mongomock.MongoClient(tz_aware=True)
    backend = MongoBackend.from_options({"client": client, "dbname": "app", "clock": clock})
    with backend.scratch() as scratch:
        use(scratch)
        assert backend.tally().leased == 0

    assert names(client, "app") == ["messages"]


@pytest.fixture
def open_as(auth_server):
    dbname = f"pitstop_test_{uuid.uuid4().hex}"
    auth_server.root[dbname]["messages"].create_index([("due", 1)])
    opened = []

    def open_as(*roles, **actions):
        user = auth_server.add_user(dbname, *roles, **actions)
        where = {"host": "127.0.0.1", "port": auth_server.port, "dbname": dbname}
        opened.append(MongoBackend.from_options({**where, "user": user.name, "pass": user.password}))
        return opened[-1]

    yield open_as
    assert names(auth_server.root, dbname) == ["messages"]
    for each in opened:
        each.close()
    auth_server.root.drop_database(dbname)


def test_read_write_is_enough(open_as, use, clock):
    with open_as("readWrite").scratch() as scratch:
        scratch.clock = clock
        assert scratch.tally().due == 0


@pytest.mark.parametrize(
    ("roles", "actions"),
    [
        (("read",), None),
        ((), {"messages": ("find", "insert", "update", "remove")}),
        # The user may drop, and not make.
        (("read",), {"": ("dropCollection",)}),
        # The user may make, and not drop. Then nothing is made.
        (("read",), {"": ("createCollection", "createIndex", "insert", "update", "remove")}),
    ],
    ids=["read only", "the messages alone", "drops", "makes"],
)
def test_a_user_who_may_not_make_or_drop_it_reads_which_role_is_needed(open_as, roles, actions):
    backend = open_as(*roles, actions=actions)
    with pytest.raises(BackendUnavailable) as caught, backend.scratch():
        pass
    location = re.escape(backend.location) + r"\.check_[0-9a-f]{16}"
    assert re.fullmatch(
        f"This user may not make and drop {location}, a temporary collection for the check. The user needs the role "
        f"readWrite on the database. Rights on the collection of the messages alone are not enough\\.",
        str(caught.value),
    )
    assert caught.value.permanent


@pytest.fixture
def dropping_fails(failing):
    """From its call to the end of the test."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(failing("drop", errorCode=8))


def test_the_error_names_a_collection_that_cannot_be_dropped(failing, dropping_fails):
    with pytest.raises(BackendUnavailable) as caught, failing.backend.scratch() as scratch:
        dropping_fails()
    text = str(caught.value)
    assert text.startswith(f"The collection {scratch.location}, which was made for a check, cannot be dropped: ")
    assert text.endswith(" Drop it by hand. It contains none of the store's messages.")


def test_an_error_of_the_body_goes_before_the_one_of_dropping(failing, dropping_fails, use, caplog):
    def fail(backend):
        dropping_fails()
        use(backend, fail=True)

    with pytest.raises(ZeroDivisionError), failing.backend.scratch() as scratch:
        fail(scratch)
    assert any("cannot be dropped" in each.message for each in caplog.records)
