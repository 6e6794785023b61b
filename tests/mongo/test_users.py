"""A server with users: the rights of each, the errors of users without rights, and no password anywhere."""

from __future__ import annotations

import logging
import time
import traceback
import uuid

from datetime import timedelta
from urllib.parse import quote_plus

import pymongo
import pytest

import leaks
import pitstop

from pitstop import BackendUnavailable


#: The rights that a user needs if an administrator has prepared the collection. They are in docs/backends/mongodb.md.
LEAST = ("find", "insert", "update", "remove")
#: The additional rights with which Pitstop can check the collection, and make it with its index.
PREPARE = {"": ("listCollections",), "messages": ("listIndexes", "createIndex", "createCollection")}

NOW = timedelta(0)


@pytest.fixture
def dbname(auth_server):
    name = f"pitstop_test_{uuid.uuid4().hex}"
    yield name
    auth_server.root.drop_database(name)


@pytest.fixture
def prepared(auth_server, dbname):
    """The collection, prepared by an administrator."""
    coll = auth_server.root[dbname]["messages"]
    coll.create_index([("due", 1)])
    return coll


@pytest.fixture
def open_as(auth_server, dbname, caplog):
    """Opens a Pitstop as a user, while PyMongo logs everything. No record shows the password."""
    caplog.set_level(logging.DEBUG, "pymongo")
    opened = []

    def open_as(user, **options):
        where = {"type": "mongo", "host": "127.0.0.1", "port": auth_server.port, "dbname": dbname}
        opened.append(pitstop.init({**where, "user": user.name, "pass": user.password, **options}))
        return opened[-1]

    yield open_as
    for each in opened:
        leaks.look(f"{each!r} {each.location} {each.listen()!r}", "a repr")
        each.close()


def refusal(call):
    """Return the text of the error that a call raises. Its whole traceback, with its causes, is searched for passwords."""
    with pytest.raises(BackendUnavailable) as caught:
        call()
    leaks.look("".join(traceback.format_exception(caught.value)), "a traceback")
    return str(caught.value)


def use_it(pit):
    """All operations of an application."""
    pit.store({"id": "a"}, NOW)
    pit.store_many([({"id": id}, NOW) for id in "bcd"])
    pit.store({"id": "r"}, NOW, every=timedelta(hours=1))
    listener = pit.listen(prefetch=2)
    while delivery := listener.get():
        delivery.extend()
        delivery.nack(delay=timedelta(hours=1)) if delivery.id == "b" else delivery.ack()
    assert [each.id for each in pit.entries()] == ["b", "r"] or [each.id for each in pit.entries()] == ["r", "b"]
    assert pit.stats().scheduled == 2
    assert pit.remove("b")
    assert pit.get("b") is None


def test_the_role_read_write_is_enough(auth_server, open_as, dbname):
    use_it(open_as(auth_server.add_user(dbname, "readWrite")))
    assert "due_1" in auth_server.root[dbname]["messages"].index_information()


@pytest.mark.parametrize("look", [True, False], ids=["may look", "may not look"])
def test_the_least_that_a_user_needs_where_the_collection_is_prepared(auth_server, open_as, dbname, prepared, look):
    more = {"": ("listCollections",), "messages": (*LEAST, "listIndexes")} if look else {"messages": LEAST}
    use_it(open_as(auth_server.add_user(dbname, actions=more)))
    assert set(prepared.index_information()) == {"_id_", "due_1"}


@pytest.mark.parametrize("there", [True, False], ids=["with the index", "without it"])
def test_kinds_need_no_more_rights(auth_server, open_as, dbname, prepared, caplog, there):
    """Without the right to make the index of the kinds, listeners of some kinds are slower, and the log says so."""
    if there:
        prepared.create_index([("kind", 1), ("due", 1)])
    pit = open_as(auth_server.add_user(dbname, actions={"messages": LEAST}))
    pit.store({"id": "a"}, NOW)
    pit.store({"id": "b"}, NOW, kind="mail")
    with pit.listen(kinds=["mail"]) as listener:
        assert listener.get().id == "b"
        assert listener.get() is None
    said = [each.message for each in caplog.records if "kind: 1, due: 1" in each.message]
    assert len(said) == (not there), said


def test_the_least_that_a_user_needs_to_prepare_it(auth_server, open_as, dbname):
    actions = {**PREPARE, "messages": (*LEAST, *PREPARE["messages"])}
    use_it(open_as(auth_server.add_user(dbname, actions=actions)))
    assert "due_1" in auth_server.root[dbname]["messages"].index_information()


@pytest.mark.parametrize("missing", LEAST)
def test_none_of_the_least_can_be_left_out(auth_server, open_as, dbname, prepared, missing):
    actions = {"messages": [each for each in LEAST if each != missing]}
    pit = open_as(auth_server.add_user(dbname, actions=actions))
    text = refusal(lambda: use_it(pit))
    assert "does not allow this user to do this" in text
    assert "The user needs the role readWrite on the database" in text


@pytest.mark.parametrize("look", [True, False], ids=["may look", "may not look"])
def test_the_error_for_a_missing_index_that_the_user_may_not_make_shows_the_command(auth_server, open_as, dbname, look):
    more = {"": ("listCollections",), "messages": (*LEAST, "listIndexes")} if look else {"messages": LEAST}
    pit = open_as(auth_server.add_user(dbname, actions=more))
    auth_server.root[dbname]["messages"].insert_one({"_id": "x", "revision": "r", "scheduled_for": None})
    for call in (lambda: pit.store({"id": "a"}, NOW), pit.listen().get, pit.stats):
        text = refusal(call)
        assert "needs the index { due: 1 }, which is missing, and this user may not create it" in text
        command = f'db.getSiblingDB("{dbname}").getCollection("messages").createIndex({{ due: 1 }})'
        assert text.endswith(command)
    # Once it exists, it is used.
    auth_server.root[dbname]["messages"].create_index([("due", 1)])
    pit.store({"id": "a"}, NOW)
    assert pit.listen().get().id == "a"


@pytest.mark.parametrize("look", [True, False], ids=["may look", "may not look"])
def test_a_collection_that_is_there_is_used_without_the_right_to_make_one(auth_server, open_as, dbname, prepared, look):
    more = {"": ("listCollections",), "messages": (*LEAST, "listIndexes")} if look else {"messages": LEAST}
    use_it(open_as(auth_server.add_user(dbname, actions=more), create=False))


@pytest.mark.parametrize(
    "rights",
    [{"": ("listCollections",)}, {"messages": ("listIndexes", "createIndex", "createCollection")}],
    ids=["may list collections", "may list indexes"],
)
def test_a_collection_that_is_not_there_is_refused_and_not_made(auth_server, open_as, dbname, rights):
    actions = rights | {"messages": (*LEAST, *rights.get("messages", ()))}
    pit = open_as(auth_server.add_user(dbname, actions=actions), create=False)
    calls = (pit.ping, pit.stats, pit.entries, lambda: pit.get("a"), lambda: pit.remove("a"), pit.listen().get)
    for call in (*calls, lambda: pit.store({"id": "a"}, NOW)):
        assert "There is no collection at " in refusal(call)
    assert auth_server.root[dbname].list_collection_names() == []
    auth_server.root[dbname]["messages"].create_index([("due", 1)])
    use_it(pit)


def test_a_user_who_may_not_list_sees_an_empty_store_and_makes_no_collection(auth_server, open_as, dbname):
    actions = {"messages": (*LEAST, "createIndex", "createCollection")}
    pit = open_as(auth_server.add_user(dbname, actions=actions), create=False)
    assert pit.stats().due == 0
    assert pit.entries() == []
    assert auth_server.root[dbname].list_collection_names() == []


def test_a_user_with_the_role_read_sees_and_may_not_store_or_claim(auth_server, open_as, dbname, prepared):
    open_as(auth_server.add_user(dbname, "readWrite")).store({"id": "a"}, NOW)
    pit = open_as(auth_server.add_user(dbname, "read"))
    assert [each.id for each in pit.entries()] == ["a"]
    assert pit.stats().due == 1
    for call in (lambda: pit.store({"id": "b"}, NOW), lambda: pit.remove("a"), pit.listen().get):
        text = refusal(call)
        assert "does not allow this user to do this" in text
        assert "code 13" in text
    assert pit.get("a").attempts == 0


def test_a_user_without_a_role_reads_which_one_is_needed(auth_server, open_as, dbname):
    pit = open_as(auth_server.add_user(dbname))
    for call in (pit.stats, lambda: pit.store({"id": "a"}, NOW), lambda: pit.get("a"), pit.listen().get):
        text = refusal(call)
        assert "does not allow this user" in text or "this user may not create it" in text


@pytest.mark.parametrize("way", ["keys", "uri", "url"])
def test_a_wrong_password_is_an_error_that_does_not_show_it(auth_server, dbname, caplog, way):
    caplog.set_level(logging.DEBUG, "pymongo")
    user = auth_server.add_user(dbname, "readWrite")
    wrong = leaks.secret()
    quoted = f"{user.name}:{quote_plus(wrong)}@127.0.0.1:{auth_server.port}"
    options = {
        "keys": {"host": "127.0.0.1", "port": auth_server.port, "user": user.name, "pass": wrong, "dbname": dbname},
        "uri": {"uri": f"mongodb://{quoted}/?authSource=admin", "dbname": dbname},
        "url": {"url": f"mongo://{quoted}/{dbname}?authSource=admin"},
    }[way]
    with pitstop.init({"type": "mongo", **options}) as pit:
        for call in (lambda: pit.store({"id": "a"}, NOW), pit.stats, pit.listen().get, pit.now):
            begin = time.monotonic()
            text = refusal(call)
            assert "refuses the user or the password" in text
            assert "Check user, pass and auth_source" in text
            assert time.monotonic() - begin < 5, "a refusal is told at once"
        leaks.look(f"{pit!r} {pit.location}", "a repr")


def test_the_users_database_can_be_another_one(auth_server, dbname):
    """If it is not given it is admin, which does not know this user."""
    password = leaks.secret()
    auth_server.root[dbname].command("createUser", "local", pwd=password, roles=["readWrite"])
    where = {"type": "mongo", "host": "127.0.0.1", "port": auth_server.port, "dbname": dbname}
    with pitstop.init({**where, "user": "local", "pass": password, "authSource": dbname}) as pit:
        pit.store({"id": "a"}, NOW)
    with pitstop.init({**where, "user": "local", "pass": password}) as pit:
        assert "refuses the user or the password" in refusal(pit.stats)


def test_a_user_who_is_removed_while_connected_gets_an_error_and_works_again_when_added_again(
    auth_server, open_as, dbname
):
    user = auth_server.add_user(dbname, "readWrite")
    pit = open_as(user)
    pit.store({"id": "a"}, NOW)
    auth_server.remove_user(user)
    for call in (lambda: pit.store({"id": "b"}, NOW), pit.listen().get, pit.stats):
        text = refusal(call)
        assert "refuses the user or the password" in text

    auth_server.root.admin.command(
        "createUser", user.name, pwd=user.password, roles=[{"role": "readWrite", "db": dbname}]
    )
    assert pit.listen().get().id == "a"


def test_a_change_stream_needs_its_action(auth_server, dbname, prepared):
    """The roles in the documentation, for administrators who define one."""
    for actions, allowed in ((LEAST, False), ((*LEAST, "changeStream"), True)):
        user = auth_server.add_user(dbname, actions={"messages": actions})
        with pymongo.MongoClient("127.0.0.1", auth_server.port, username=user.name, password=user.password) as client:
            watch = client[dbname]["messages"].watch
            if allowed:
                watch().close()
            else:
                with pytest.raises(pymongo.errors.OperationFailure, match="not authorized"):
                    watch()
