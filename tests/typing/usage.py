"""The public API as an application uses it, for a type checker: never run, checked by ``mypy --strict``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type
from zoneinfo import ZoneInfo

from pymongo import MongoClient

import pitstop

from pitstop import (
    AsyncDelivery,
    AsyncListener,
    AsyncPitstop,
    Consumer,
    Delivery,
    Entry,
    Handle,
    Listener,
    Pitstop,
    Recurrence,
    State,
    Stats,
    Stored,
    Summary,
    hookimpl,
)
from pitstop.abc import Backend
from pitstop.testing import ManualClock
from pitstop_memory import MemoryBackend, MemoryConfig


class Metrics:
    """A plugin."""

    @hookimpl
    def pitstop_message_stored(self, entry: Entry) -> None:
        assert_type(entry.id, str)

    @hookimpl
    def pitstop_message_retried(self, delivery: Delivery, due: datetime) -> None:
        assert_type(delivery.attempt, int)

    @hookimpl
    def pitstop_handling(self, delivery: Delivery) -> AbstractContextManager[None]:
        return nullcontext()


def opening() -> None:
    config: Mapping[str, Any] = {"type": "mongo", "host": "localhost", "dbname": "app", "coll": "messages"}
    assert_type(pitstop.init(config), Pitstop)
    assert_type(pitstop.init({"type": "mongo", "lock_time": timedelta(minutes=15), "retry": {"delay": "5s"}}), Pitstop)
    assert_type(pitstop.init("sqlite:///pitstop.db?lock_time=15m", plugins=[Metrics()]), Pitstop)
    assert_type(pitstop.init({"type": MemoryBackend, "clock": ManualClock()}), Pitstop)
    backend: Backend = MemoryBackend(MemoryConfig(name="shared", lock_time=timedelta(seconds=10), clock=ManualClock()))
    with pitstop.init({"type": backend}) as pit:
        assert_type(pit, Pitstop)


def storing(pit: Pitstop, when: datetime, recurrence: Recurrence) -> None:
    assert_type(pit.store({"msg": "object"}, timedelta(minutes=15)), Stored)
    pit.store({"id": "abc", "foo": 1}, when)
    pit.store({"id": "abc", "nested": {"list": [1, (2, 3)], "at": when, "raw": b"x", "none": None}}, datetime.now(UTC))
    pit.store({"id": "def"}, when, when + timedelta(days=1), timedelta(hours=1))
    pit.store({"id": "def"}, when, None, recurrence)
    pit.store({"id": "def"}, "15m", "2h", "1h", grace="5m", catch_up="skip", jitter="1m")
    pit.store({"id": "def"}, every=pitstop.Cron("0 9 * * MON-FRI", tz=ZoneInfo("Europe/Berlin")))
    pit.store({"id": "def"}, every=pitstop.Calendar(months=1, tz="Europe/Berlin"))
    pit.store({"id": "def"}, every=pitstop.RRule("FREQ=MONTHLY;BYDAY=-1FR", tz=UTC))
    pit.store({"id": "def"}, every=pitstop.Times([when]))
    pit.store_many([({}, None), ({}, None, None, pitstop.Every("1h"))])
    assert_type(recurrence.occurrences(when), Iterator[datetime])
    assert_type(pitstop.Every("1h").timedelta, timedelta)
    pit.store({"id": "def"}, timedelta(0), every=timedelta(hours=1), catch_up="all")
    pit.store({"id": "def"}, timedelta(0), every=timedelta(hours=1), catch_up="skip", grace=timedelta(minutes=5))
    identifier: str = pit.store({"id": "def"}, every="1h", if_exists="keep")
    stored = pit.store({"id": identifier}, every="1h", keep_schedule=True)
    if stored.outcome == "updated":
        print(stored.upper())
    assert_type(pit.store_many([({"id": stored}, when)], if_exists="error"), list[Stored])
    messages: list[dict[str, int]] = [{"n": number} for number in range(3)]
    assert_type(pit.store_many((message, timedelta(0)) for message in messages), list[Stored])
    assert_type(pit.store_many([({}, when), ({}, when, None, timedelta(hours=1))]), list[Stored])


def storing_in_a_transaction(pit: Pitstop, client: MongoClient[dict[str, Any]], when: datetime) -> None:
    with client.start_session() as session, session.start_transaction():
        assert_type(pit.store({"id": "abc"}, when, session=session), Stored)
        assert_type(pit.store_many([({}, when)], session=session), list[Stored])
        assert_type(pit.remove("abc", session=session), bool)
        pit.store({"id": "abc"}, when, None, timedelta(hours=1), catch_up="all", session=None)


def looking(pit: Pitstop) -> None:
    entry = pit.get("abc")
    assert_type(entry, Entry | None)
    if entry is not None:
        assert_type(entry.state, State)
        assert_type(entry.message, dict[str, Any])
        assert_type(entry.due, datetime | None)
        assert_type(entry.scheduled_for, datetime | None)
        assert_type(entry.every, timedelta | Recurrence | None)
        assert_type(entry.end, datetime | None)
        assert_type(entry.attempts, int)
        assert_type(entry.last_error, str | None)
        assert_type(entry.revision, str | None)
        pit.store(
            entry.message, entry.start, entry.end, entry.every, catch_up=entry.catch_up, if_revision=entry.revision
        )
        assert_type(entry.leased_until, datetime | None)
    page = pit.entries("dead", limit=10)
    assert_type(page, list[Entry])
    pit.entries(state="due", after=page[-1])
    stats = pit.stats()
    assert_type(stats, Stats)
    assert_type((stats.scheduled, stats.due, stats.leased, stats.dead), tuple[int, int, int, int])
    assert_type(stats.oldest_due, datetime | None)
    assert_type(pit.remove("abc"), bool)
    assert_type(pit.redrive("abc"), bool)
    assert_type(pit.now(), datetime)
    pit.ping()
    pit.close()


def consuming(pit: Pitstop) -> None:
    def by_message(msg: dict[str, Any]) -> None: ...

    def by_delivery(delivery: Delivery) -> bool:
        return delivery.lost

    def by_batch(batch: list[Delivery]) -> None: ...

    assert_type(pit.consumers, tuple[Consumer, ...])
    for consumer in pit.consumers:
        assert_type((consumer.healthy, consumer.in_hand, consumer.in_handlers), tuple[bool, int, int])
        assert_type((consumer.last_poll, consumer.since), tuple[datetime | None, datetime])
    summary = pit.consume(by_message, workers=8, heartbeat=True, max_lease="1h", drain=timedelta(seconds=10))
    assert_type(summary, Summary)
    assert_type(summary.acked + summary.handled, int)
    if summary.reason == "max_messages":
        pit.consume(by_delivery, until_idle=True, max_messages=3)
        pit.consume({"mail": by_message, "report": Handle(by_delivery, rate="2/h", workers=1)}, rate="1000/15m")
        pit.consume(by_batch, batch=100)
        pit.consume({"mail": by_message, "report": Handle(by_batch, batch=100)})


def listening(pit: Pitstop) -> None:
    with pit.listen(lock_time=timedelta(minutes=1), loop_time="5s", prefetch=10) as listener:
        assert_type(listener, Listener)
        assert_type(iter(listener), Iterator[Delivery])
        for delivery in listener:
            assert_type(delivery, Delivery)
            try:
                handle(delivery.msg)
                delivery.ack()
            except Exception as error:  # noqa: BLE001 - any exception of a handler is nacked
                delivery.nack(error, delay=timedelta(seconds=5))
        for delivery in listener:
            with delivery as same:
                assert_type(same, Delivery)
                handle(same.msg)
        assert_type(listener.get(), Delivery | None)
        assert_type(listener.get(timeout=0), Delivery | None)
        assert_type(listener.get(timeout=timedelta(seconds=1)), Delivery | None)
        assert_type(listener.get(None), Delivery | None)
        assert_type(listener.healthy, bool)
        assert_type(listener.stopped, bool)
        listener.stop()
        listener.close()


def handle(message: dict[str, Any]) -> None:
    print(message)


def delivered(delivery: Delivery) -> None:
    assert_type(delivery.id, str)
    assert_type(delivery.msg, dict[str, Any])
    assert_type(delivery.scheduled_for, datetime)
    assert_type(delivery.attempt, int)
    assert_type(delivery.missed, int)
    assert_type(delivery.last_error, str | None)
    assert_type(delivery.leased_until, datetime)
    assert_type(delivery.key, str)
    delivery.extend()
    delivery.extend(timedelta(minutes=5))
    delivery.nack("text")
    delivery.nack()


def failing(pit: Pitstop, delivery: Delivery) -> None:
    try:
        delivery.ack()
    except pitstop.LeaseLost as lost:
        assert_type(lost, pitstop.LeaseLost)
    except pitstop.BackendUnavailable:
        pass
    try:
        pit.store({}, timedelta(0))
    except (pitstop.MessageError, pitstop.ScheduleError) as error:
        as_value_error: ValueError = error
        print(as_value_error)
    except pitstop.PitstopError:
        pass
    try:
        pitstop.init({})
    except (pitstop.UnknownBackend, pitstop.BackendLoadError, pitstop.PluginConflict) as error:
        as_config_error: pitstop.ConfigError = error
        print(as_config_error)


def with_time_in_hand() -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    assert_type(clock.advance(timedelta(hours=1)), datetime)
    assert_type(clock.advance(0.5), datetime)
    assert_type(clock.advance_to(datetime(2027, 1, 1, tzinfo=UTC)), datetime)
    assert_type(clock.now(), datetime)
    assert_type(clock.wait_for_sleepers(1), bool)


async def in_a_loop(when: datetime) -> None:
    async with pitstop.init_async({"type": "memory", "lock_time": "5m"}, plugins=[Metrics()]) as pit:
        assert_type(pit, AsyncPitstop)
        assert_type(await pit.store({"id": "abc"}, when), Stored)
        assert_type(await pit.store({}, when, every=timedelta(hours=1), catch_up="all"), Stored)
        assert_type(await pit.store_many(({"n": number}, timedelta(0)) for number in range(3)), list[Stored])
        assert_type(await pit.remove("abc"), bool)
        assert_type(await pit.get("abc"), Entry | None)
        assert_type(await pit.entries("dead", limit=10), list[Entry])
        assert_type(await pit.stats(), Stats)
        assert_type(await pit.redrive("abc"), bool)
        assert_type(await pit.now(), datetime)
        assert_type(pit.location, str)
        await pit.ping()
    other = pitstop.init_async("sqlite:///pitstop.db")
    await other.aclose()


async def listening_in_a_loop(pit: AsyncPitstop) -> None:
    async with pit.listen(lock_time="1m", loop_time=5, prefetch=10) as listener:
        assert_type(listener, AsyncListener)
        assert_type(aiter(listener), AsyncListener)
        iterator: AsyncIterator[AsyncDelivery] = listener
        assert_type(await anext(iterator), AsyncDelivery)
        async for delivery in listener:
            assert_type(delivery, AsyncDelivery)
            async with delivery as same:
                assert_type(same, AsyncDelivery)
                handle(same.msg)
        found = await listener.get(timeout="5s")
        assert_type(found, AsyncDelivery | None)
        if found is not None:
            assert_type(found.leased_until, datetime)
            assert_type(found.lost, bool)
            await found.extend(timedelta(minutes=5))
            await found.nack("text", delay=timedelta(seconds=5))
            await found.ack(wait=True)
        listener.stop()
        await listener.aclose()


async def handle_soon(message: dict[str, Any]) -> None:
    print(message)


async def handle_delivery(delivery: AsyncDelivery) -> str:
    return delivery.id


async def handle_batch(batch: list[AsyncDelivery]) -> None:
    for each in batch:
        await each.ack()


async def consuming_in_a_loop(pit: AsyncPitstop) -> None:
    assert_type(pit.consumers, tuple[Consumer, ...])
    await pit.consume({"mail": handle_soon, "report": Handle(handle_soon, rate="2/h")}, rate="50/s")
    await pit.consume(handle_batch, batch=100)
    summary = await pit.consume(handle_soon, concurrency=200, lock_time="5m", max_messages=10, until_idle=True)
    assert_type((summary.acked, summary.nacked, summary.lost, summary.unfinished), tuple[int, int, int, int])
    await pit.consume(handle_delivery, drain=timedelta(seconds=5), heartbeat=True, max_lease="1h", deliveries=True)
