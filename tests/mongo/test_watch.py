"""Wake-up across processes: by change streams on a replica set, by a small capped collection on a standalone."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
import uuid

from collections import Counter
from contextlib import contextmanager
from datetime import timedelta

import pymongo
import pytest

import pitstop

from pitstop import BackendUnavailable
from pitstop.abc import Aside, Outcome, Progress, Settlement
from pitstop.testing import ManualClock
from pitstop_mongo import MongoBackend
from pitstop_mongo._wakeup import wakeups as _wakeups
from pitstop_mongo._wakeup import watch as _watch


LARGE = bool(os.environ.get("PITSTOP_TEST_LARGE"))

SECOND = 1000
#: Messages to come, which an idle listener is not to feel.
BACKLOG = 20_000

NOW = timedelta(0)
FOREVER = timedelta(hours=1)
PATIENCE = 30

on_both = pytest.mark.parametrize("mongo_uri", ["standalone", "replica set"], indirect=True)
on_standalone = pytest.mark.parametrize("mongo_uri", ["standalone"], indirect=True)
on_replica_set = pytest.mark.parametrize("mongo_uri", ["replica set"], indirect=True)


@pytest.fixture(scope="module")
def mongo_uri(request, mongo_uri):
    if request.param == "replica set":
        return request.getfixturevalue("replica_set_uri")
    with pymongo.MongoClient(mongo_uri) as client:
        if _wakeups.has_change_streams(client):
            pytest.skip("the server that was given is no standalone")
    return mongo_uri


@pytest.fixture(scope="module")
def mongo_client(mongo_uri):
    with pymongo.MongoClient(mongo_uri, tz_aware=True) as client:
        yield client


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """The server waits as long as always, and less often in vain."""
    for module in (_wakeups, _watch):
        monkeypatch.setattr(module, "AWAIT_MS", 150)


@pytest.fixture
def began(monkeypatch):
    """Released whenever a watch begins, or begins again."""
    began = threading.Semaphore(0)
    open_stream, follow = _watch._open_stream, _wakeups.Wakeups.follow

    def opened(cursor):
        began.release()
        return cursor

    monkeypatch.setattr(_watch, "_open_stream", lambda link: opened(open_stream(link)))
    monkeypatch.setattr(_wakeups.Wakeups, "follow", lambda self, link: opened(follow(self, link)))
    return began


@pytest.fixture
def wakeups(coll):
    return coll.database["messages.wakeups"]


@pytest.fixture
def sleeping(open_backend, began):
    """A listener in a thread of its own that would not look again by itself, and the messages that it gets."""
    got = queue.SimpleQueue()
    with pitstop.init({"type": open_backend(loop_time=FOREVER, appname="watched")}) as pit:
        listener = pit.listen()

        def listen():
            for delivery in listener:
                delivery.ack()
                got.put(delivery.id)

        thread = threading.Thread(target=listen)
        thread.start()
        assert began.acquire(timeout=PATIENCE)
        yield got
        listener.stop()
        thread.join()


@pytest.fixture
def open_backend(mongo_uri, mongo_dbname):
    opened = []

    def open_backend(**options):
        appname = options.pop("appname", "pitstop")
        uri = mongo_uri + ("&" if "?" in mongo_uri else "/?") + f"appname={appname}"
        opened.append(MongoBackend.from_options({"uri": uri, "dbname": mongo_dbname, **options}))
        return opened[-1]

    yield open_backend
    for each in opened:
        each.close()


@pytest.fixture
def other(open_backend):
    return open_backend()


@pytest.fixture
def watch(open_backend, other):
    """A watch of a backend, beside another backend."""
    other.tally()
    watch = open_backend(appname="watched").watch()
    yield watch
    watch.close()


@contextmanager
def failing(client, *commands, appname="watched", **how):
    """Lets these commands of the clients with that name fail."""
    mode = how.pop("mode", "alwaysOn")
    data = {"failCommands": list(commands), "appName": appname, **how}
    client.admin.command("configureFailPoint", "failCommand", mode=mode, data=data)
    try:
        yield
    finally:
        client.admin.command("configureFailPoint", "failCommand", mode="off")


def told(watch, due):
    """Return all that a watch reports until it reports this."""
    news = []
    for _ in range(PATIENCE):
        news.append(watch.poll())
        if news[-1] is not None and news[-1] >= due:
            break
    return [each for each in news if each is not None]


def settlement(leased, outcome, progress):
    return Settlement(leased.id, leased.progress.token, outcome, progress)


@on_both
def test_a_store_in_another_process_wakes_a_sleeping_listener(sleeping, child):
    out, err = child("store", "a").communicate(timeout=PATIENCE)
    assert (out, err) == ("a\n", "")
    assert sleeping.get(timeout=PATIENCE) == "a"


@on_replica_set
def test_a_forked_process_has_a_watch_of_its_own(child):
    out, err = child("fork-watch").communicate(timeout=200)
    assert (out, err) == ("child a\nchild ended with 0\n", "")


@on_both
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("what", ["store", "store again", "release", "redrive"])
def test_reports_when_a_message_of_another_process_is_due(open_backend, other, record, what, count):
    now = other.now() // 1000
    due, ids = now + 2 * SECOND, "abc"[:count]
    if what != "store":
        other.put([record(id, now - 5) for id in ids])
    leased = [] if what.startswith("store") else other.lease(count, 60 * SECOND)
    if what == "redrive":
        buried = Progress(None, now, 1, now, "x", leased[0].progress.token)
        assert all(other.settle([settlement(each, Outcome.BURY, buried) for each in leased]))
    watch = open_backend().watch()
    assert watch.poll() is None

    progresses = [Progress(due + n, due + n) for n in range(count)]
    if leased:
        many = [settlement(each, Outcome.RELEASE, p) for each, p in zip(leased, progresses, strict=True)]
        assert all(other.settle(many))
    else:
        other.put([record(id, progress.due) for id, progress in zip(ids, progresses, strict=True)])

    assert told(watch, due)[0] == due
    watch.close()


@on_both
def test_claims_extensions_burials_removals_and_acks_of_others_are_no_news(open_backend, other, record):
    now = other.now() // 1000
    other.put([record(f"{n}", now - 5) for n in range(8)])
    watch = open_backend().watch()

    leased = [*other.lease(1, 4 * SECOND), *other.lease(7, 4 * SECOND)]
    assert len(leased) == 8
    for some in (leased[:1], leased[1:4]):
        longer = [Progress(now + 5 * SECOND, now, 1, now, None, each.progress.token) for each in some]
        assert all(other.settle([settlement(each, Outcome.EXTEND, p) for each, p in zip(some, longer, strict=True)]))
    token = leased[0].progress.token
    assert all(other.settle([settlement(leased[0], Outcome.BURY, Progress(None, now, 1, now, "x", token))]))
    assert all(other.settle([settlement(leased[1], Outcome.BURY, Aside("x"))]))
    assert all(other.settle([settlement(each, Outcome.COMPLETE, None) for each in leased[2:6]]))
    assert all(other.settle([settlement(leased[6], Outcome.COMPLETE, None)]))
    other.delete(leased[7].id)
    last = now + 9 * SECOND
    other.put([record("z", last)])

    assert told(watch, last) == [last], "all the others would have been due before that"
    watch.close()


@on_both
def test_a_message_far_in_the_future_wakes_no_listener(mongo_uri, mongo_dbname, other, began, record):
    commands = Commands()
    with pymongo.MongoClient(mongo_uri, event_listeners=[commands]) as client:
        config = {"type": "mongo", "client": client, "dbname": mongo_dbname, "loop_time": FOREVER}
        with pitstop.init(config) as pit, pit.listen() as listener:
            got = queue.SimpleQueue()
            thread = threading.Thread(target=lambda: got.put(listener.get(timeout=PATIENCE)))
            thread.start()
            assert began.acquire(timeout=PATIENCE)
            now = other.now() // 1000
            for n in range(20):
                other.put([record(f"{n}", now + 7200 * SECOND)])
            other.put([record("due", now)])
            assert got.get(timeout=PATIENCE).id == "due"
            thread.join()
    assert commands.names.count("findAndModify") <= 5, "at first, when the watch began, and for the last one; not 20"


@on_standalone
def test_a_wakeup_is_written_only_for_a_message_that_is_due_before_others_look_again(other, wakeups, coll, record):
    now = other.now() // 1000
    for due in (now + 16 * SECOND, now + 3600 * SECOND):
        other.put([record("a", due), record("b", due)])
    assert wakeups.name not in coll.database.list_collection_names()

    other.put([record("a", now + 14 * SECOND), record("b", now + 3600 * SECOND)])

    (wakeup,) = written(wakeups, 1)
    assert (wakeup["pitstop"], wakeup["due"].timestamp()) == ("wakeup", (now + 14 * SECOND) / 1000)


@on_standalone
def test_its_own_wakeups_are_no_news(open_backend, record, wakeups):
    backend = open_backend()
    watch = backend.watch()

    backend.put([record("a")])

    written(wakeups, 2)
    assert watch.poll() is None
    watch.close()


@on_both
def test_it_rests_between_news_so_that_many_at_once_are_not_a_round_trip_each(watch, other, record):
    assert watch.poll() is None
    assert watch.pause == 0
    other.put([record("a", 5)])
    assert told(watch, 5) == [5]
    assert 0 < watch.pause <= 0.01
    assert watch.poll() is None
    assert watch.pause == 0


@on_both
def test_a_watch_outlives_the_time_that_an_operation_may_take(open_backend, other, record, monkeypatch):
    other.tally()
    watch = open_backend(operation_timeout="300ms").watch()
    for _ in range(3):
        assert watch.poll() is None
    other.put([record("a", 5)])
    assert told(watch, 5) == [5]
    watch.close()


class TestMended:
    @on_both
    @pytest.mark.parametrize("how", [{"closeConnection": True}, {"errorCode": 43}, {"errorCode": 286}], ids=str)
    def test_when_the_wait_fails(self, sleeping, began, mongo_client, other, record, how):
        with failing(mongo_client, "getMore", mode={"times": 1}, **how):
            assert began.acquire(timeout=PATIENCE)
        other.put([record("a", 5)])
        assert sleeping.get(timeout=PATIENCE) == "a"

    @on_both
    def test_when_the_cursor_is_killed(self, open_backend, other, record, monkeypatch):
        other.tally()
        backend = open_backend()
        watch = backend.watch()
        coll = backend._connection._link.handles.coll
        ns = coll.name if _wakeups.has_change_streams(coll.database.client) else f"{coll.name}.wakeups"
        killed = coll.database.command("killCursors", ns, cursors=[watch._cursor.cursor_id])
        assert killed["cursorsKilled"]

        try:
            assert watch.poll() == 0
        except BackendUnavailable:
            watch.close()
            watch = backend.watch()
        other.put([record("a", 5)])
        assert told(watch, 5) == [5]
        watch.close()

    @on_replica_set
    @pytest.mark.parametrize("how", ["drop", "rename", "drop the database"])
    def test_when_the_collection_goes_away(self, sleeping, began, coll, other, record, caplog, how):
        if how == "drop":
            coll.drop()
        elif how == "rename":
            coll.rename("elsewhere")
        else:
            coll.database.client.drop_database(coll.database.name)
        assert began.acquire(timeout=PATIENCE)
        other._connection._link.indexed = False
        other.put([record("a", 5)])
        assert sleeping.get(timeout=PATIENCE) == "a"
        assert caplog.records == [], "it has mended itself"

    @pytest.mark.parametrize("how", ["steps down", "is killed"] if LARGE else ["is killed"])
    def test_when_the_primary_goes_away(self, replica_set, began, how):
        """A server that steps down may go on to report changes, as a secondary. Then the watch stays."""
        name = f"pitstop_test_{uuid.uuid4().hex}"
        config = {"type": "mongo", "uri": replica_set.uri, "dbname": name, "loop_time": FOREVER}
        with pitstop.init(config) as pit, pitstop.init(config) as other, pit.listen() as listener:
            got = queue.SimpleQueue()
            thread = threading.Thread(target=lambda: got.put(listener.get(timeout=PATIENCE)))
            thread.start()
            assert began.acquire(timeout=PATIENCE)
            if how == "steps down":
                replica_set.step_down()
            else:
                replica_set.kill(replica_set.primary)
                assert began.acquire(timeout=PATIENCE)
            other.store({"id": "a"}, NOW)
            assert got.get(timeout=PATIENCE).id == "a"
            thread.join()

    @on_standalone
    def test_when_the_wakeups_are_dropped(self, sleeping, began, wakeups, other, record):
        wakeups.drop()
        assert began.acquire(timeout=PATIENCE)
        assert wakeups.options()["capped"]
        other.put([record("a", 5)])
        assert sleeping.get(timeout=PATIENCE) == "a"

    @on_standalone
    def test_when_more_is_written_than_it_can_read(self, watch, other, record):
        assert watch.poll() is None
        for n in range(6000):
            other._wakeups.announce(n)
        other.tally()

        assert watch.poll() == 0
        other.put([record("a", 5)])
        assert 5 in told(watch, 5)


class TestCapped:
    """The collection of wake-ups never becomes an ordinary one that grows."""

    @on_standalone
    def test_it_is_made_so_by_the_first_store(self, other, record, wakeups):
        other.put([record("a")])
        assert wakeups.options()["capped"]

    @on_standalone
    def test_it_is_made_so_by_the_first_watch(self, watch, wakeups):
        assert wakeups.options()["capped"]

    @on_standalone
    def test_it_is_made_so_again_when_it_was_dropped_under_a_writer(self, open_backend, record, wakeups):
        clock = ManualClock()
        backend = open_backend(clock=clock)
        backend.put([record("a")])
        written(wakeups, 1)
        wakeups.drop()
        backend.put([record("b")])
        written(wakeups, 1)
        assert "capped" not in wakeups.options()

        clock.advance(60)
        backend.put([record("c")])

        assert wakeups.options()["capped"]
        written(wakeups, 2)

    @on_standalone
    @pytest.mark.parametrize("filled", [False, True])
    def test_a_watcher_makes_an_ordinary_one_capped_if_it_holds_nothing_else(self, open_backend, wakeups, filled):
        wakeups.database.create_collection(wakeups.name)
        if filled:
            wakeups.insert_many([{"pitstop": "wakeup", "by": f"{n}"} for n in range(10)])

        watch = open_backend().watch()

        assert wakeups.options()["capped"]
        assert watch.poll() is None
        watch.close()

    @on_standalone
    @pytest.mark.parametrize("what", ["documents", "a view"])
    def test_a_collection_of_another_program_is_left_alone(self, open_backend, record, wakeups, coll, caplog, what):
        if what == "documents":
            wakeups.insert_one({"_id": "mine"})
        else:
            wakeups.database.create_collection(wakeups.name, viewOn=coll.name, pipeline=[])
        before = list(wakeups.find())
        backend = open_backend()

        for _ in range(2):
            backend.put([record("a")])
            assert backend.watch() is None

        assert list(wakeups.find()) == (before if what == "documents" else list(coll.find()))
        (warning,) = caplog.records
        assert warning.levelno == logging.WARNING
        assert warning.getMessage() == (
            f"without the capped collection {wakeups.full_name} a listener notices the messages of other processes only "
            f"when it looks next (loop_time): it is not capped, and contains documents that are not Pitstop's. Rename it"
        )

    @on_standalone
    def test_any_collection_may_be_dropped_while_all_write_and_watch(self, open_backend, other, record, wakeups):
        watchers = [open_backend() for _ in range(3)]
        watches = [each.watch() for each in watchers]
        writing = threading.Event()

        def write():
            while not writing.is_set():
                other._wakeups.announce(5)

        thread = threading.Thread(target=write)
        thread.start()
        for _ in range(5):
            wakeups.drop()
            for n, watch in enumerate(watches):
                try:
                    watch.poll()
                except BackendUnavailable:
                    watch.close()
                    watches[n] = watchers[n].watch()
        writing.set()
        thread.join()
        for n, watch in enumerate(watches):
            watch.close()
            watches[n] = watchers[n].watch()
            watches[n].close()
        assert wakeups.options()["capped"]


class TestNotAllowed:
    @on_both
    def test_a_user_who_may_not_watch_is_warned_once_and_goes_on_without(
        self, open_backend, other, record, mongo_client, caplog
    ):
        other.put([record("a")])
        backend = open_backend(appname="watched")
        with failing(mongo_client, "aggregate", "create", "listCollections", errorCode=13):
            for n in range(2):
                assert backend.watch() is None
                backend.put([record(f"{n}")])
        (warning,) = caplog.records
        assert warning.levelno == logging.WARNING
        assert "only when it looks next (loop_time): " in warning.getMessage()
        assert "role" in warning.getMessage()

    @on_standalone
    @pytest.mark.parametrize("command", ["insert", "find"])
    def test_a_user_who_may_not_use_the_wakeups_is_warned_once(
        self, watch, open_backend, mongo_client, caplog, command
    ):
        backend = open_backend(appname="refused")
        backend.tally()
        with failing(mongo_client, command, appname="refused", errorCode=13):
            assert [backend.watch() for _ in range(2)] == [None, None]
        (warning,) = caplog.records
        assert "The user needs the role readWrite on the database" in warning.getMessage()

    @on_both
    def test_its_listener_looks_by_itself(self, open_backend, other, record, mongo_client, caplog):
        with failing(mongo_client, "aggregate", "create", "listCollections", errorCode=13):
            pit = pitstop.init({"type": open_backend(loop_time="100ms", appname="watched")})
            with pit, pit.listen() as listener:
                assert listener.get(timeout=0.2) is None
                other.put([record("a", 5)])
                assert listener.get(timeout=PATIENCE).id == "a"
                # The thread that watches logs it, perhaps later.
                deadline = time.monotonic() + PATIENCE
                while not caplog.records and time.monotonic() < deadline:
                    assert listener.get(timeout=0.05) is None
        assert len(caplog.records) == 1

    @on_both
    def test_a_pool_of_one_connection_is_left_to_the_messages(self, mongo_uri, mongo_dbname, record, caplog):
        with pymongo.MongoClient(mongo_uri, maxPoolSize=1) as client:
            backend = MongoBackend.from_options({"client": client, "dbname": mongo_dbname})
            backend.put([record("a")])
            assert backend.watch() is None
        assert "maxPoolSize=1 leaves no connection to wait on. Raise it" in caplog.text


@on_standalone
@pytest.mark.parametrize("how", [{"closeConnection": True}, {"errorCode": 8}], ids=str)
def test_a_wakeup_that_cannot_be_written_fails_no_store(open_backend, record, mongo_client, wakeups, caplog, how):
    """There are none for a while after that, so that stores are not delayed again and again."""
    clock = ManualClock()
    backend = open_backend(appname="watched", clock=clock)
    backend.next_due()  # the messages' collection is checked
    with failing(mongo_client, "listCollections", **how):
        backend.put([record("a")])
        assert backend.get("a") is not None
    backend.put([record("a")])
    assert wakeups.name not in wakeups.database.list_collection_names()
    clock.advance(5)
    backend.put([record("a")])
    written(wakeups, 1)
    assert caplog.records == []


@on_both
def test_after_the_close_the_thread_ends_by_itself_and_quietly(open_backend, began, caplog):
    pit = pitstop.init({"type": open_backend()})
    listener = pit.listen()
    pit.stats()
    assert listener.get(timeout=0.2) is None
    assert began.acquire(timeout=PATIENCE)
    pit.close()
    for thread in threading.enumerate():
        if thread.name == "pitstop-watch":
            thread.join(PATIENCE)
            assert not thread.is_alive()
    assert caplog.records == []


@on_both
@pytest.mark.parametrize("backlog", [0, BACKLOG])
def test_an_idle_listener_sends_three_commands_a_look_with_any_backlog(
    mongo_uri, mongo_dbname, coll, record, backlog, began, monkeypatch
):
    """A claim, the next due time, and the paused kinds once per loop time. The watch waits in one command.

    See benchmarks/lateness.py for commands per minute.
    """
    monkeypatch.setattr(_wakeups, "AWAIT_MS", 5000)
    monkeypatch.setattr(_watch, "AWAIT_MS", 5000)
    far = record("far").progress.due + 10**12
    if backlog:
        from mongo.test_plans import document

        coll.insert_many([document(f"{n:06}", far + n) for n in range(backlog)], ordered=False)
    commands = Commands()
    with pymongo.MongoClient(mongo_uri, event_listeners=[commands]) as client:
        config = {"type": "mongo", "client": client, "dbname": mongo_dbname, "loop_time": "20ms"}
        with pitstop.init(config) as pit, pit.listen() as listener:
            # It makes the connection, the index, the clocks, and the watch.
            while not began.acquire(timeout=0):
                assert listener.get(timeout=0.05) is None
            begin = len(commands.names)
            assert listener.get(timeout=0.5) is None
            sent = Counter(commands.names[begin:])
            listener.stop()
    assert sent["findAndModify"] >= 2
    assert sent["findAndModify"] - 1 <= sent["find"] <= 2 * sent["findAndModify"] + 1
    assert sent["getMore"] <= 1
    assert set(sent) <= {"findAndModify", "find", "getMore"}


class Commands(pymongo.monitoring.CommandListener):
    """Return the names of the commands that a client sent."""

    def __init__(self):
        self.names = []

    def started(self, event):
        self.names.append(event.command_name)

    def succeeded(self, event):
        pass

    def failed(self, event):
        pass


def written(wakeups, count):
    """Return the wake-ups, as soon as there are ``count``: a store does not wait for its wake-up."""
    pause = threading.Event()
    for _ in range(PATIENCE * 100):
        found = list(wakeups.find())
        if len(found) >= count:
            break
        pause.wait(0.01)
    assert len(found) == count
    return found
