"""Calls with a session of an AsyncMongoClient: they run in the caller's loop, in the transaction of the session."""

from __future__ import annotations

import asyncio
import re

from datetime import timedelta
from pathlib import Path

import pymongo
import pytest

from pymongo.errors import OperationFailure

import pitstop

from aio.kit import NOW, run
from pitstop import LeaseLost, PitstopError


HOUR = timedelta(hours=1)


class Broken(Exception):
    """An error of the user's own code."""


@pytest.fixture
def db(replica_set_database):
    """The database, as a client for threads sees it."""
    database = replica_set_database
    database.messages.delete_many({})
    database.effects.delete_many({})
    database.effects.insert_one({"_id": 0})
    return database


@pytest.fixture
def in_loop(replica_set_uri, db):
    """Runs an async function with a Pitstop and the AsyncMongoClient that it was given."""

    def in_loop(main, **options):
        async def with_client():
            async with pymongo.AsyncMongoClient(replica_set_uri) as client:
                where = {"type": "mongo", "client": client, "dbname": db.name, **options}
                async with pitstop.init_async(where) as pit:
                    await pit.stats()  # makes the collection and its index
                    await main(pit, client)

        run(with_client())

    return in_loop


def effects(db):
    return db.effects.count_documents({"_id": {"$ne": 0}})


def ids(db):
    return sorted(each["_id"] for each in db.messages.find())


def test_the_engine_uses_a_client_with_the_same_options(in_loop, db, replica_set_uri):
    async def main(pit, client):
        assert pit.location.endswith(f"/{db.name}.messages")
        await pit.store({"id": "a"}, NOW)
        seen = []

        async def handle(message):
            seen.append(message["id"])

        assert (await pit.consume(handle, until_idle=True)).acked == 1
        assert seen == ["a"]

    in_loop(main)


def test_an_address_beside_the_client_is_the_engines(db, replica_set_uri):
    async def main():
        async with pymongo.AsyncMongoClient(replica_set_uri) as client:
            where = {"type": "mongo", "client": client, "uri": replica_set_uri, "dbname": db.name}
            async with pitstop.init_async(where) as pit:
                async with client.start_session() as session, await session.start_transaction():
                    await pit.store({"id": "a"}, HOUR, session=session)
                assert await pit.get("a") is not None

    run(main())


def test_a_client_that_does_not_show_its_options_needs_an_address(replica_set_uri):
    client = pymongo.AsyncMongoClient(replica_set_uri, connect=False)
    del client._init_kwargs
    with pytest.raises(pitstop.ConfigError, match="Give the address as well, as uri, hosts or host"):
        pitstop.init({"type": "mongo", "client": client})


def test_writes_and_reads_belong_to_the_transaction(in_loop, db):
    async def main(pit, client):
        await pit.store_many([({"id": id}, HOUR) for id in ("kept", "removed")])
        async with client.start_session() as session:
            async with await session.start_transaction():
                await client[db.name].effects.insert_one({"_id": 1}, session=session)
                await pit.store({"id": "one"}, HOUR, session=session)
                await pit.store_many([({"id": id}, HOUR) for id in ("two", "three")], session=session)
                assert await pit.remove("removed", session=session) is True
                kept = await pit.store({"id": "kept", "n": 1}, HOUR, if_exists="keep", session=session)
                assert kept.outcome == "kept"
                assert await pit.get("one") is None
                assert (await pit.get("one", session=session)).id == "one"
                assert await pit.get("removed", session=session) is None
                assert ids(db) == ["kept", "removed"]
            assert ids(db) == ["kept", "one", "three", "two"]

            async def broken():
                async with await session.start_transaction():
                    await pit.store({"id": "never"}, HOUR, session=session)
                    raise Broken

            with pytest.raises(Broken):
                await broken()
        assert await pit.get("never") is None

    in_loop(main)


def test_the_effect_and_the_ack_commit_together(in_loop, db):
    async def main(pit, client):
        await pit.store_many([({"id": str(n)}, NOW) for n in range(50)])
        coll = client[db.name].effects

        async def handle(delivery):
            async def work(session):
                await coll.insert_one({"_id": delivery.key}, session=session)
                await delivery.ack(session=session)
                if delivery.attempt == 1 and int(delivery.id) % 5 == 0:
                    raise Broken

            async with client.start_session() as session:
                await session.with_transaction(work)

        summary = await pit.consume(handle, deliveries=True, until_idle=True, concurrency=20)
        assert (summary.acked, summary.nacked, summary.lost) == (50, 10, 0)

    in_loop(main, retry={"delay": 0})
    assert (effects(db), ids(db)) == (50, [])


def test_a_handler_that_returns_after_an_abort_has_not_acknowledged(in_loop, db):
    async def main(pit, client):
        await pit.store({"id": "a"}, NOW)

        async def handle(delivery):
            async with client.start_session() as session:
                await session.start_transaction()
                await delivery.ack(session=session)
                if delivery.attempt > 1:
                    await session.commit_transaction()

        summary = await pit.consume(handle, deliveries=True, until_idle=True)
        assert (summary.acked, summary.nacked) == (1, 1)

    in_loop(main, retry={"delay": 0})
    assert ids(db) == []


def test_an_iteration_looks_after_the_ack_at_the_end_of_the_block(in_loop, db):
    async def main(pit, client):
        await pit.store_many([({"id": str(n)}, NOW) for n in range(3)])
        async with pit.listen() as listener:
            for _ in range(3):
                async with await listener.get() as delivery, client.start_session() as session:
                    await session.start_transaction()
                    await delivery.ack(session=session)
                    if delivery.id == "1":
                        continue
                    await session.commit_transaction()
        assert (await pit.get("1")).state == "due"

    in_loop(main, retry={"delay": 0})
    assert ids(db) == ["1"]


def test_a_stale_delivery_raises_lease_lost_inside(in_loop, db):
    async def main(pit, client):
        await pit.store({"id": "a"}, NOW)
        async with pit.listen() as listener:
            delivery = await listener.get()
            await pit.store({"id": "a", "n": 2}, HOUR)

            async def work(session):
                await client[db.name].effects.insert_one({}, session=session)
                await delivery.ack(session=session)

            async with client.start_session() as session:
                with pytest.raises(LeaseLost):
                    await session.with_transaction(work)

    in_loop(main)
    assert effects(db) == 0


def test_a_conflict_lets_with_transaction_try_again(in_loop, db):
    async def main(pit, client):
        await pit.store({"id": "a", "n": 0}, HOUR)
        tries = []

        async def work(session):
            tries.append(await client[db.name].effects.find_one(session=session))
            if len(tries) == 1:
                await pit.store({"id": "a", "n": 1}, HOUR)
            await pit.store({"id": "a", "n": 2}, HOUR, session=session)

        async with client.start_session() as session:
            await session.with_transaction(work)
        assert len(tries) == 2
        assert (await pit.get("a")).message["n"] == 2

    in_loop(main)


def test_a_cancelled_call_gives_the_session_back_unused(in_loop, db):
    """The caller's block ends the transaction. No call of the cancelled task uses the session after that."""

    async def main(pit, client):
        await pit.store({"id": "blocked", "n": 0}, HOUR)
        data = {"failCommands": ["update"], "blockConnection": True, "blockTimeMS": 1500}
        began, ended = asyncio.Event(), []

        async def work():
            async with client.start_session() as session, await session.start_transaction():
                await pit.store({"id": "first"}, HOUR, session=session)
                db.client.admin.command({"configureFailPoint": "failCommand", "mode": {"times": 1}, "data": data})
                began.set()
                try:
                    await pit.store({"id": "blocked", "n": 1}, HOUR, session=session)
                finally:
                    ended.append(session.in_transaction)

        try:
            task = asyncio.create_task(work())
            await began.wait()
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        finally:
            db.client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})
        assert ended == [True]
        assert await pit.get("first") is None
        assert (await pit.get("blocked")).message["n"] == 0

    in_loop(main)


@pytest.mark.parametrize("acked", [True, False])
def test_a_task_that_is_cancelled_in_the_block_gives_the_message_back(in_loop, db, acked):
    """The transaction aborts. The end of a program is no attempt of the message."""

    async def main(pit, client):
        await pit.store({"id": "a"}, NOW)
        inside = asyncio.Event()
        async with pit.listen() as listener:

            async def work():
                async with (
                    await listener.get() as delivery,
                    client.start_session() as session,
                    await session.start_transaction(),
                ):
                    await client[db.name].effects.insert_one({"_id": 1}, session=session)
                    if acked:
                        await delivery.ack(session=session)
                    inside.set()
                    await asyncio.Event().wait()

            task = asyncio.create_task(work())
            await inside.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        entry = await pit.get("a")
        assert (entry.state, entry.last_error, entry.attempts) == ("due", None, 1)
        async with pit.listen() as listener:
            again = await listener.get()
            await again.nack("no", delay=NOW)
        assert (await pit.get("a")).state == "due", "the cancelled attempt does not count against max_attempts"

    in_loop(main, retry={"max_attempts": 2})
    assert effects(db) == 0


def test_settlements_beside_an_ack_in_an_open_transaction_are_refused(in_loop, db):
    async def main(pit, client):
        await pit.store({"id": "a"}, NOW)
        async with pit.listen() as listener, client.start_session() as session:
            delivery = await listener.get()
            async with await session.start_transaction():
                await delivery.ack(session=session)
                with pytest.raises(LeaseLost):
                    await delivery.ack(session=session)
                for call in (delivery.ack, delivery.nack, delivery.extend):
                    with pytest.raises(PitstopError, match="Commit the transaction"):
                        await call()
        assert await pit.get("a") is None

    in_loop(main)


def test_the_end_of_the_block_notices_an_abort_before_the_next_transaction(in_loop, db):
    async def main(pit, client):
        await pit.store({"id": "a"}, NOW)
        async with pit.listen() as listener, client.start_session() as session:
            async with await listener.get() as delivery:
                await session.start_transaction()
                await delivery.ack(session=session)
                await session.abort_transaction()
                await session.start_transaction()
                await client[db.name].effects.insert_one({"_id": 1}, session=session)
            await session.commit_transaction()
        assert "did not commit" in (await pit.get("a")).last_error

    in_loop(main, retry={"delay": 0})


def test_a_transaction_that_is_open_at_the_end_of_the_block_is_looked_at_when_it_has_ended(in_loop, db):
    async def main(pit, client):
        await pit.store({"id": "a"}, NOW)
        async with pit.listen() as listener, client.start_session() as session:
            await session.start_transaction()
            async with await listener.get() as delivery:
                await delivery.ack(session=session)
            await session.abort_transaction()
            again = await listener.get(timeout=30)
            assert again.attempt == 2
            await again.ack(wait=True)
        assert await pit.get("a") is None

    in_loop(main, retry={"delay": 0})


def test_many_transactions_at_a_time(in_loop, db):
    async def main(pit, client):
        async def work(n):
            async def write(session):
                await client[db.name].effects.insert_one({"_id": f"{n}"}, session=session)
                await pit.store({"id": f"{n}"}, HOUR, session=session)
                if n % 3 == 0:
                    raise Broken

            async with client.start_session() as session:
                await session.with_transaction(write)

        results = await asyncio.gather(*[work(n) for n in range(90)], return_exceptions=True)
        assert [type(each) for each in results] == [Broken if n % 3 == 0 else type(None) for n in range(90)]

    in_loop(main)
    assert ids(db) == sorted(str(n) for n in range(90) if n % 3)
    assert effects(db) == 60


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "text"),
        [
            (lambda client, other, sync: client.start_session(), "is in no transaction"),
            (lambda client, other, sync: other.start_session(), "belongs to another client"),
            (lambda client, other, sync: sync.start_session(), "session is a ClientSession, and the client"),
            (lambda client, other, sync: 5, "session is a int"),
        ],
        ids=["no transaction", "another client", "for threads", "no session"],
    )
    def test_name_the_session(self, in_loop, db, replica_set_uri, make, text):
        async def main(pit, client):
            async with pymongo.AsyncMongoClient(replica_set_uri) as other:
                session = make(client, other, db.client)
                for call in (
                    lambda: pit.get("a", session=session),
                    lambda: pit.remove("a", session=session),
                    lambda: pit.store({"id": "a"}, HOUR, session=session),
                ):
                    with pytest.raises(PitstopError, match=text):
                        await call()
            assert await pit.get("a") is None

        in_loop(main)

    def test_of_a_session_whose_client_was_closed(self, db, replica_set_uri):
        async def main():
            client = pymongo.AsyncMongoClient(replica_set_uri)
            async with pitstop.init_async({"type": "mongo", "client": client, "dbname": db.name}) as pit:
                await pit.store({"id": "a"}, NOW)
                async with pit.listen() as listener:
                    delivery = await listener.get()
                    session = client.start_session()
                    await session.start_transaction()
                    await client.close()
                    for call in (
                        lambda: pit.store({"id": "b"}, HOUR, session=session),
                        lambda: pit.get("a", session=session),
                        lambda: delivery.ack(session=session),
                    ):
                        with pytest.raises(PitstopError, match="closed"):
                            await call()
                    session = None

        run(main())

    def test_of_a_pitstop_for_threads(self, db, replica_set_uri):
        async def main():
            async with pymongo.AsyncMongoClient(replica_set_uri) as client:
                with pitstop.init({"type": "mongo", "client": client, "dbname": db.name}) as pit:
                    async with client.start_session() as session, await session.start_transaction():
                        with pytest.raises(PitstopError, match=r"Open the store with pitstop\.init_async"):
                            pit.store({"id": "a"}, HOUR, session=session)

        run(main())

    def test_of_an_async_session_when_the_client_is_for_threads(self, db, replica_set_uri):
        async def main():
            async with pymongo.AsyncMongoClient(replica_set_uri) as other:
                where = {"type": "mongo", "client": db.client, "dbname": db.name}
                async with (
                    pitstop.init_async(where) as pit,
                    other.start_session() as session,
                    await session.start_transaction(),
                ):
                    with pytest.raises(PitstopError, match=r"With pitstop\.init_async\(\), give an AsyncMongoClient"):
                        await pit.store({"id": "a"}, HOUR, session=session)

        run(main())


def test_a_session_for_threads_works_in_an_event_loop(db):
    """Its commands run in a thread, while the caller awaits."""

    async def main():
        where = {"type": "mongo", "client": db.client, "dbname": db.name}
        async with pitstop.init_async(where) as pit:
            await pit.stats()
            with db.client.start_session() as session, session.start_transaction():
                await pit.store({"id": "a"}, HOUR, session=session)
                assert await pit.get("a") is None
            assert await pit.get("a") is not None

    run(main())


def test_errors_of_the_driver_pass_unchanged(in_loop, db):
    async def main(pit, client):
        await pit.store({"id": "a"}, HOUR)
        async with client.start_session() as session:
            await session.start_transaction()
            await client[db.name].effects.find_one(session=session)
            await pit.store({"id": "a", "n": 1}, HOUR)
            with pytest.raises(OperationFailure) as caught:
                await pit.store({"id": "a", "n": 2}, HOUR, session=session)
            await session.abort_transaction()
        assert caught.value.has_error_label("TransientTransactionError")

    in_loop(main)


def test_the_documented_example_does_what_it_says(replica_set_uri, db):
    page = (Path(__file__).parents[2] / "docs" / "async.md").read_text()
    (block,) = re.findall(r"^```python\n((?:(?!```)[^`])*AsyncMongoClient.*?)^```$", page, re.MULTILINE | re.DOTALL)
    example = {}
    exec(block.replace("client.app.", f"client.{db.name}.").replace('"app"', repr(db.name)), example)
    db.orders.delete_many({})

    async def main():
        assert (await example["main"](replica_set_uri)).acked == 1

    run(main())
    assert list(db.orders.find()) == [{"_id": 7, "reminded": 1}]
