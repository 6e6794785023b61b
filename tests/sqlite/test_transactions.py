"""Calls in a transaction of the application, on its own connection to the file of the messages."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading

from contextlib import closing
from datetime import timedelta

import pytest

import pitstop

from pitstop import BackendUnavailable, LeaseLost, PitstopError


NOW = timedelta(0)
HOUR = timedelta(hours=1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "shop.db"


@pytest.fixture
def pit(path):
    with pitstop.init({"type": "sqlite", "path": str(path), "busy_timeout": "300ms", "retry": {"delay": 0}}) as pit:
        yield pit


@pytest.fixture
def connect(path, pit):
    opened = []

    def connect(name=path, **options):
        opened.append(sqlite3.connect(name, **{"isolation_level": None, "timeout": 0.3, **options}))
        return opened[-1]

    yield connect
    for each in opened:
        each.close()


@pytest.fixture
def connection(connect):
    connection = connect()
    connection.execute("CREATE TABLE effects (key TEXT PRIMARY KEY) STRICT")
    return connection


def effects(connection):
    return [key for (key,) in connection.execute("SELECT key FROM effects ORDER BY key")]


def test_the_effect_and_the_messages_commit_together(pit, connection):
    pit.store({"id": "old"}, HOUR)
    for end in ("ROLLBACK", "COMMIT"):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO effects VALUES ('a')")
        pit.store({"id": "one", "text": "ä\0\ud7ff"}, HOUR, session=connection)
        pit.store_many([({"id": id}, HOUR) for id in ("two", "three")], session=connection)
        assert pit.remove("old", session=connection) is True
        assert pit.get("old", session=connection) is None
        assert pit.get("one", session=connection).message["text"] == "ä\0\ud7ff"
        assert [each.id for each in pit.entries()] == ["old"], "no other reader sees it yet"
        connection.execute(end)
        if end == "ROLLBACK":
            assert ([each.id for each in pit.entries()], effects(connection)) == (["old"], [])
    assert (sorted(each.id for each in pit.entries()), effects(connection)) == (["one", "three", "two"], ["a"])


def test_the_effect_and_the_ack_commit_together(pit, path, connection):
    pit.store_many([({"id": str(n)}, NOW) for n in range(20)])

    def handle(delivery):
        with closing(sqlite3.connect(path, isolation_level=None)) as own:
            own.execute("BEGIN IMMEDIATE")
            own.execute("INSERT INTO effects VALUES (?)", (delivery.key,))
            delivery.ack(session=own)
            if delivery.attempt == 1 and int(delivery.id) % 4 == 0:
                return  # the close rolls back
            own.execute("COMMIT")

    summary = pit.consume(handle, workers=2, deliveries=True, until_idle=True)

    assert (summary.acked, summary.nacked, summary.lost) == (20, 5, 0)
    assert (len(effects(connection)), pit.entries()) == (20, [])


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_a_batch_commits_together_or_comes_back_as_a_whole(pit, path, connection, end):
    pit.store_many([({"id": f"m{number}"}, NOW) for number in range(5)])
    ends = iter([end, "COMMIT"])

    def handle(deliveries):
        with closing(sqlite3.connect(path, isolation_level=None)) as own:
            own.execute("BEGIN IMMEDIATE")
            for each in deliveries:
                own.execute("INSERT INTO effects VALUES (?)", (each.key,))
                each.ack(session=own)
            own.execute(next(ends))

    summary = pit.consume(handle, batch=5, until_idle=True)

    assert (summary.acked, summary.nacked, summary.lost) == (5, 0 if end == "COMMIT" else 5, 0)
    assert (len(effects(connection)), pit.entries()) == (5, [])


def test_a_stale_delivery_raises_lease_lost_inside(pit, connection):
    pit.store({"id": "a"}, NOW)
    with pit.listen() as listener:
        delivery = listener.get()
        pit.store({"id": "a", "n": 2}, HOUR)
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(LeaseLost):
            delivery.ack(session=connection)
        connection.execute("ROLLBACK")
    assert pit.get("a").message["n"] == 2


def test_a_series_goes_on_with_the_commit(pit, connection):
    pit.store({"id": "a"}, NOW, every=HOUR)
    with pit.listen() as listener, listener.get() as delivery:
        connection.execute("BEGIN IMMEDIATE")
        delivery.ack(session=connection)
        connection.execute("COMMIT")
    entry = pit.get("a")
    assert (entry.state, entry.scheduled_for) == ("scheduled", delivery.scheduled_for + HOUR)


@pytest.mark.parametrize("setting", ["rows", "texts", "types", "isolation", "cursors"])
def test_the_settings_of_the_connection_neither_matter_nor_change(pit, connect, setting):
    options = {
        "isolation": {"isolation_level": ""},
        "types": {"detect_types": sqlite3.PARSE_DECLTYPES | sqlite3.PARSE_COLNAMES},
        "cursors": {"factory": _OwnConnection},
    }
    connection = connect(**options.get(setting, {}))
    if setting == "rows":
        connection.row_factory = sqlite3.Row
    if setting == "texts":
        connection.text_factory = lambda value: value.decode().upper()
    if setting == "types":
        sqlite3.register_converter("INTEGER", lambda value: "converted")
        sqlite3.register_converter("TEXT", lambda value: "converted")
    before = connection.row_factory, connection.text_factory, connection.isolation_level
    try:
        pit.store({"id": "leased"}, NOW)
        with pit.listen() as listener:
            delivery = listener.get()
            connection.execute("BEGIN IMMEDIATE")
            pit.store({"id": "a", "n": 1}, HOUR, session=connection)
            assert pit.get("a", session=connection).message == {"id": "a", "n": 1}
            assert pit.remove("a", session=connection) is True
            pit.store_many([({"id": id}, HOUR, None, HOUR) for id in "bc"], session=connection)
            delivery.ack(session=connection)
            connection.execute("COMMIT")
    finally:
        sqlite3.converters.pop("INTEGER", None)
        sqlite3.converters.pop("TEXT", None)
    assert [each.id for each in pit.entries()] == ["b", "c"]
    assert (connection.row_factory, connection.text_factory, connection.isolation_level) == before


class _OwnConnection(sqlite3.Connection):
    def cursor(self, factory=None):
        raise AssertionError("it is the application's")


# Not skipped on 3.11: under CI a skipped test fails the run.
if sys.version_info >= (3, 12):

    def test_a_connection_with_pythons_autocommit_attribute(pit, connect):
        connection = connect(autocommit=False)
        pit.store({"id": "a"}, HOUR, session=connection)
        connection.commit()
        assert pit.get("a") is not None
        connection.rollback()
        pit.store({"id": "leased"}, NOW)
        with pit.listen() as listener:
            delivery = listener.get()
            with pytest.raises(PitstopError, match=r"with autocommit=False\. It is always in a transaction"):
                delivery.ack(session=connection)
            delivery.ack(wait=True)
        assert [each.id for each in pit.entries()] == ["a"]
        connection.autocommit = True
        with pytest.raises(PitstopError, match="session is in no transaction"):
            pit.store({"id": "b"}, HOUR, session=connection)


class TestRefusals:
    def refused(self, pit, session, text, error=PitstopError):
        pit.store({"id": "leased"}, NOW)
        with pit.listen() as listener:
            delivery = listener.get()
            for call in (
                lambda: pit.store({"id": "x"}, HOUR, session=session),
                lambda: pit.store_many([({"id": "x"}, HOUR)], session=session),
                lambda: pit.remove("leased", session=session),
                lambda: pit.get("leased", session=session),
                lambda: delivery.ack(session=session),
            ):
                with pytest.raises(error, match=text) as caught:
                    call()
                assert type(caught.value) is error
            delivery.ack(wait=True)
        assert pit.entries() == []

    @pytest.mark.parametrize("level", [None, "", "IMMEDIATE"])
    def test_of_a_connection_without_a_transaction(self, pit, connect, level):
        self.refused(pit, connect(isolation_level=level), "in no transaction. Execute 'BEGIN IMMEDIATE'")

    def test_of_a_connection_that_was_closed(self, pit, connect):
        connection = connect()
        connection.close()
        self.refused(pit, connection, "session is a connection that was closed")

    def test_of_a_connection_to_another_file(self, pit, connect, tmp_path):
        connection = connect(tmp_path / "other.db")
        connection.execute("BEGIN")
        self.refused(pit, connection, r"connection to '.*other.db', and the messages are in '.*shop.db'")

    def test_of_a_connection_with_the_file_attached(self, pit, connect, tmp_path, path):
        connection = connect(tmp_path / "other.db")
        connection.execute("ATTACH ? AS shop", (str(path),))
        connection.execute("BEGIN")
        self.refused(pit, connection, "A file that is attached does not count")

    def test_of_a_database_in_memory(self, pit, connect):
        connection = connect(":memory:")
        connection.execute("BEGIN")
        self.refused(pit, connection, "a database in memory")

    def test_of_a_connection_of_another_thread(self, pit, path, connect):
        opened, may_end, made = threading.Event(), threading.Event(), []

        def own():
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                made.append(connection)
                opened.set()
                may_end.wait(20)

        thread = threading.Thread(target=own)
        thread.start()
        try:
            assert opened.wait(20)
            self.refused(pit, made[0], "was opened in another thread")
        finally:
            may_end.set()
            thread.join()

    @pytest.mark.parametrize("session", [5, "shop.db", object(), sqlite3], ids=["int", "str", "any", "module"])
    def test_of_a_value_that_is_no_connection(self, pit, session):
        self.refused(pit, session, r"session is a \w+.* Give a sqlite3.Connection")

    def test_of_a_connection_that_may_only_read(self, pit, connect, path):
        for connection in (connect(f"file:{path}?mode=ro", uri=True), connect()):
            connection.execute("PRAGMA query_only = 1")
            connection.execute("BEGIN")
            with pytest.raises(PitstopError, match="session is a connection that may only read"):
                pit.store({"id": "a"}, HOUR, session=connection)
            assert pit.get("a", session=connection) is None
            connection.execute("ROLLBACK")


def test_a_path_with_another_name_is_the_same_file(pit, connect, tmp_path, path):
    (tmp_path / "link").symlink_to(path)
    connection = connect(tmp_path / "link")
    connection.execute("BEGIN IMMEDIATE")
    pit.store({"id": "a"}, HOUR, session=connection)
    connection.execute("COMMIT")
    assert pit.get("a") is not None


def test_a_transaction_that_has_read_before_another_write_has_to_begin_again(pit, connection):
    connection.execute("BEGIN")
    effects(connection)
    pit.store({"id": "a"}, HOUR)
    with pytest.raises(BackendUnavailable, match="begin again with 'BEGIN IMMEDIATE'"):
        pit.store({"id": "b"}, HOUR, session=connection)
    connection.execute("ROLLBACK")


def test_a_transaction_that_another_writer_keeps_out(pit, connect, connection):
    other = connect()
    other.execute("BEGIN IMMEDIATE")
    connection.execute("BEGIN")
    with pytest.raises(
        BackendUnavailable, match="kept this transaction out for longer than the timeout of your connection"
    ):
        pit.store({"id": "b"}, HOUR, session=connection)


def test_a_store_outside_of_the_session_waits_for_itself_and_says_so(pit, connection):
    connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(
        BackendUnavailable, match="transaction of this very thread is open on the file, give its connection"
    ):
        pit.store({"id": "a"}, HOUR)
    connection.execute("COMMIT")
    pit.store({"id": "a"}, HOUR)


def test_a_store_in_the_session_does_not_wait_for_acks_that_wait_for_the_session(path, connect):
    """The background thread cannot write its acks until the transaction of this thread ends."""
    with pitstop.init({"type": "sqlite", "path": str(path), "busy_timeout": "1m"}) as pit:
        pit.store_many([({"id": str(n)}, NOW) for n in range(3)])
        connection = connect()
        with pit.listen(prefetch=3) as listener:
            iterator = iter(listener)
            delivery = next(iterator)
            connection.execute("BEGIN IMMEDIATE")
            delivery.ack()  # written by the background thread
            pit.store({"id": "a"}, HOUR, session=connection)
            connection.execute("COMMIT")
            assert pit.get("a") is not None


@pytest.fixture
def acked(path, connect):
    """Gives a Pitstop with a long patience, and a connection in a transaction, before which an ack of "a" cannot be written."""
    with pitstop.init({"type": "sqlite", "path": str(path), "busy_timeout": "1m"}) as pit:
        pit.store_many([({"id": id}, NOW) for id in ("a", "b", "c")])
        connection = connect()
        with pit.listen(prefetch=3) as listener:
            delivery = next(iter(listener))
            connection.execute("BEGIN IMMEDIATE")
            delivery.ack()
            yield pit, connection
            if connection.in_transaction:
                connection.execute("ROLLBACK")


CALLS = {
    "store": lambda pit, session: pit.store({"id": "a", "n": 2}, HOUR, session=session),
    "store_many": lambda pit, session: pit.store_many([({"id": "a", "n": 2}, HOUR)], session=session),
    "remove": lambda pit, session: pit.remove("a", session=session),
    "get": lambda pit, session: pit.get("a", session=session),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_does_not_wait_for_an_ack_of_its_own_message(acked, call, end):
    pit, connection = acked
    CALLS[call](pit, connection)
    connection.execute(end)
    entry = pit.get("a")
    assert (entry and entry.message["n"]) == (2 if call.startswith("store") and end == "COMMIT" else None)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("terms", [{"if_exists": "keep"}, {"if_exists": "error"}, {"keep_schedule": True}])
@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_a_store_that_looks_first_says_that_an_ack_waits_for_the_transaction(acked, terms, many):
    """The message would be kept, and then be deleted by the ack."""
    pit, connection = acked

    def store(session):
        if many:
            return pit.store_many([({"id": "a", "n": 2}, HOUR)], session=session, **terms)
        return pit.store({"id": "a", "n": 2}, HOUR, session=session, **terms)

    with pytest.raises(BackendUnavailable, match="an ack of 'a' is not written yet"):
        store(connection)
    connection.execute("ROLLBACK")
    assert pit.get("a") is None
    connection.execute("BEGIN IMMEDIATE")
    store(connection)
    connection.execute("COMMIT")
    assert pit.get("a").message["n"] == 2


def test_a_connection_for_several_threads_works_in_an_event_loop(path, connect):
    async def main():
        async with pitstop.init_async({"type": "sqlite", "path": str(path)}) as pit:
            await pit.store({"id": "a"}, NOW)
            connection = connect(check_same_thread=False)
            async with pit.listen() as listener, await listener.get() as delivery:
                connection.execute("BEGIN IMMEDIATE")
                await delivery.ack(session=connection)
                await pit.store({"id": "b"}, HOUR, session=connection)
                connection.execute("COMMIT")
            assert [each.id for each in await pit.entries()] == ["b"]
            own = connect()
            own.execute("BEGIN")
            with pytest.raises(PitstopError, match="check_same_thread=False"):
                await pit.get("a", session=own)

    asyncio.run(main())
