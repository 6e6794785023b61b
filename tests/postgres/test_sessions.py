"""Transactions of an application, with the sessions of all libraries that the backend knows."""

from __future__ import annotations

import asyncio

from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta

import psycopg
import pytest

import pitstop

from pitstop import PitstopError


sqlalchemy = pytest.importorskip("sqlalchemy")
pytest.importorskip("sqlalchemy.orm")
django_db = pytest.importorskip("django.db")

HOUR = timedelta(hours=1)


class Broken(Exception):
    """An error of the application's own code."""


def sqlalchemy_url(uri, driver="psycopg"):
    given = psycopg.conninfo.conninfo_to_dict(uri)
    return sqlalchemy.URL.create(
        f"postgresql+{driver}",
        given.get("user"),
        given.get("password"),
        given.get("host"),
        int(given["port"]),
        given["dbname"],
    )


@contextmanager
def plain(uri):
    """A connection that begins a transaction by itself."""
    with psycopg.connect(uri) as connection:
        yield connection


@contextmanager
def with_block(uri):
    with (
        psycopg.connect(uri, autocommit=True, row_factory=psycopg.rows.dict_row) as connection,
        connection.transaction(),
    ):
        yield connection


@contextmanager
def orm(uri):
    engine = sqlalchemy.create_engine(sqlalchemy_url(uri))
    try:
        with sqlalchemy.orm.Session(engine) as session, session.begin():
            yield session
    finally:
        engine.dispose()


@contextmanager
def scoped(uri):
    engine = sqlalchemy.create_engine(sqlalchemy_url(uri))
    session = sqlalchemy.orm.scoped_session(sqlalchemy.orm.sessionmaker(engine))
    try:
        with session.begin():
            yield session
    finally:
        session.remove()
        engine.dispose()


@contextmanager
def core(uri):
    engine = sqlalchemy.create_engine(sqlalchemy_url(uri))
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def django(uri):
    from django.db.backends.postgresql.base import DatabaseWrapper

    given = psycopg.conninfo.conninfo_to_dict(uri)
    settings = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": given["dbname"],
        "USER": given.get("user"),
        "PASSWORD": given.get("password"),
        "HOST": given.get("host"),
        "PORT": given.get("port"),
        "OPTIONS": {},
        "AUTOCOMMIT": True,
        "CONN_MAX_AGE": 0,
        "CONN_HEALTH_CHECKS": False,
        "TIME_ZONE": None,
        "TEST": {},
        "ATOMIC_REQUESTS": False,
    }
    from django.conf import settings as of_project

    if not of_project.configured:
        of_project.configure(USE_TZ=True, DATABASES={})
    wrapper = DatabaseWrapper(settings, "default")
    wrapper.set_autocommit(False)
    wrapper.in_atomic_block = True
    try:
        yield wrapper
        wrapper.in_atomic_block = False
        wrapper.commit()
    finally:
        wrapper.in_atomic_block = False
        wrapper.close()


def _closed(uri):
    connection = psycopg.connect(uri)
    connection.close()
    return connection


def _failed(uri):
    connection = psycopg.connect(uri)
    with pytest.raises(psycopg.Error):
        connection.execute("SELECT 1 / 0")
    return connection


@pytest.fixture
def pit(uri, table):
    with pitstop.init({"type": "postgres", "uri": uri, "table": table}) as pit:
        pit.stats()
        yield pit


@pytest.mark.parametrize("begin", [plain, with_block, orm, scoped, core, django])
def test_a_transaction_of_each_library_is_one_whole(pit, uri, begin):
    pit.store({"id": "old"}, HOUR)
    with begin(uri) as session:
        pit.store({"id": "one", "text": "100 %s"}, HOUR, session=session)
        pit.store_many([({"id": id}, HOUR) for id in ("two", "three")], session=session)
        assert pit.remove("old", session=session) is True
        assert pit.get("one", session=session).message["text"] == "100 %s"
        assert pit.get("one") is None
    assert sorted(each.id for each in pit.entries()) == ["one", "three", "two"]

    def broken():
        with begin(uri) as session:
            pit.store({"id": "never"}, HOUR, session=session)
            raise Broken

    with pytest.raises(Broken):
        broken()
    assert pit.get("never") is None


@pytest.mark.parametrize("begin", [plain, with_block, orm, core, django])
def test_an_ack_counts_when_the_transaction_commits(pit, uri, begin):
    pit.store({"id": "a"})
    with pit.listen() as listener, listener.get() as delivery, begin(uri) as session:
        delivery.ack(session=session)
        assert pit.get("a").state == "leased"
    assert pit.get("a") is None


@pytest.mark.parametrize("isolation", ["REPEATABLE_READ", "SERIALIZABLE"])
def test_an_old_view_is_a_conflict_and_no_lost_lease(pit, uri, isolation):
    with psycopg.connect(uri) as connection:
        connection.isolation_level = psycopg.IsolationLevel[isolation]
        connection.execute("SELECT count(*) FROM pg_class")
        pit.store({"id": "a"})
        with pit.listen() as listener:
            delivery = listener.get()
            with pytest.raises(psycopg.errors.SerializationFailure):
                delivery.ack(session=connection)
            connection.rollback()
            delivery.ack(session=connection)
            connection.commit()
    assert pit.get("a") is None


@pytest.mark.parametrize(
    ("give", "text"),
    [
        (lambda uri: object(), "session is a object"),
        (lambda uri: psycopg.connect(uri, autocommit=True), "in no transaction"),
        (_closed, "was closed"),
        (_failed, "has failed"),
        (lambda uri: sqlalchemy.create_engine("sqlite://").connect(), "in no transaction of SQLAlchemy"),
    ],
)
def test_a_session_that_cannot_be_used_is_refused_with_the_reason(pit, uri, give, text):
    session = give(uri)
    try:
        with pytest.raises(PitstopError, match=text):
            pit.store({"id": "a"}, HOUR, session=session)
    finally:
        if hasattr(session, "close"):
            session.close()
    assert pit.get("a") is None


def test_a_session_of_another_database_is_refused(pit, uri):
    from servers import postgres

    with psycopg.connect(postgres.uri()) as connection, pytest.raises(PitstopError, match="another database"):
        pit.store({"id": "a"}, HOUR, session=connection)


def test_sessions_of_an_event_loop(uri, table):
    @asynccontextmanager
    async def driver():
        async with await psycopg.AsyncConnection.connect(uri) as connection:
            yield connection

    @asynccontextmanager
    async def of_sqlalchemy():
        from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

        engine = create_async_engine(sqlalchemy_url(uri, "psycopg_async"))
        async with AsyncSession(engine) as session, session.begin():
            yield session
        await engine.dispose()

    async def main():
        async with pitstop.init_async({"type": "postgres", "uri": uri, "table": table}) as pit:
            await pit.stats()
            for begin in (driver, of_sqlalchemy):
                async with begin() as session:
                    await pit.store({"id": "a"}, session=session)
                    assert await pit.get("a") is None
                    assert (await pit.get("a", session=session)).id == "a"
                assert (await pit.get("a")).id == "a"
                async with pit.listen() as listener:
                    delivery = await listener.get()
                    async with begin() as session:
                        await delivery.ack(session=session)
                assert await pit.get("a") is None

    asyncio.run(main())
