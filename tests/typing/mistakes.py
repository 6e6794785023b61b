"""Mistakes that a type checker must find. Each wrong line names its expected error."""

from __future__ import annotations

from datetime import datetime, timedelta

import pitstop

from pitstop import AsyncDelivery, AsyncPitstop, Delivery, Entry, Pitstop


def opening() -> None:
    pitstop.init(5)  # error: arg-type
    pitstop.init({"type": "memory"}, [])  # error: call-arg
    pitstop.init({1: "memory"})  # error: dict-item


def storing(pit: Pitstop, when: datetime) -> None:
    pit.store()  # error: call-arg
    pit.store({}, 15)  # error: arg-type
    pit.store({}, b"15m")  # error: arg-type
    pit.store({}, every=5)  # error: arg-type
    pit.store({}, when, when, 60)  # error: arg-type
    pit.store({}, when, every=timedelta(1), catch_up="newest")  # error: arg-type
    pit.store({}, when, None, timedelta(1), "all")  # error: call-arg
    pit.store({}, when, every=timedelta(1), catch_up="skip", grace=5)  # error: arg-type
    pit.store({}, when, if_exists="ignore")  # error: arg-type
    pit.store({}, when, keep_schedule="no")  # error: arg-type
    if pit.store({}, when).outcome == "ignored":  # error: comparison-overlap
        print("never")
    pit.store_many({})  # ok: a mapping is iterable, and it is refused when it is read
    pit.store_many(5)  # error: arg-type
    pit.store_many([], "keep")  # error: call-arg
    pit.remove("a", None)  # error: call-arg
    identifier: int = pit.store({}, when)  # error: assignment
    print(identifier)


def looking(pit: Pitstop, entry: Entry) -> None:
    print(pit.get("a").state)  # error: union-attr
    pit.entries("gone")  # error: arg-type
    pit.entries(limit="10")  # error: arg-type
    entry.state = "dead"  # error: misc
    entry.due.isoformat()  # error: union-attr
    if entry.state == "gone":  # error: comparison-overlap
        print(entry)


def listening(pit: Pitstop, delivery: Delivery) -> None:
    pit.listen(timedelta(1))  # error: call-arg
    pit.listen(prefetch="5")  # error: arg-type
    with pit.listen() as listener:
        listener.get([5])  # error: arg-type
        listener.get().ack()  # error: union-attr
    delivery.nack(5)  # error: arg-type
    delivery.nack(delay=5)  # error: arg-type
    delivery.extend(5)  # error: arg-type
    delivery.attempt = 5  # error: misc
    print(delivery.nothing)  # error: attr-defined


def handle_at_once(message: dict[str, object]) -> None:
    print(message)


async def handle_soon(message: dict[str, object]) -> None:
    print(message)


async def in_a_loop(pit: AsyncPitstop, delivery: AsyncDelivery, when: datetime) -> None:
    pitstop.init_async(5)  # error: arg-type
    await pit.store({}, 15)  # error: arg-type
    identifier: str = pit.store({}, when)  # error: assignment
    print(identifier)
    with pitstop.init_async("memory://") as opened:  # error: attr-defined
        print(opened)
    for each in pit.listen():  # error: attr-defined
        print(each)
    await pit.listen().get().ack()  # error: attr-defined
    await pit.consume(handle_at_once)  # error: arg-type
    await pit.consume(handle_soon, workers=8)  # error: call-arg
    await pit.consume(handle_soon, rate=50)  # error: arg-type
    await delivery.nack(delay=5)  # error: arg-type
    delivery.attempt = 5  # error: misc
