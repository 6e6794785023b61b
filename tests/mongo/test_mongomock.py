"""mongomock in a user's own tests: the operations that work with it. The whole shared suite runs on it as well."""

from __future__ import annotations

from datetime import timedelta

import mongomock
import pytest

import pitstop

from pitstop.testing import ManualClock


@pytest.fixture(params=[False, True], ids=["naive", "aware"])
def client(request):
    return mongomock.MongoClient(tz_aware=request.param)


def test_the_life_of_messages(client):
    clock = ManualClock()
    with pitstop.init({"type": "mongo", "client": client, "dbname": "app", "clock": clock}) as pit:
        pit.store({"id": "once", "$set": {"a.b": 1}}, timedelta(minutes=1))
        pit.store({"id": "often"}, timedelta(0), every=timedelta(hours=1))
        pit.store_many([({"id": f"{n}"}, timedelta(0)) for n in range(3)])
        listener = pit.listen(prefetch=10)

        found = []
        while delivery := listener.get():
            found.append(delivery.id)
            delivery.nack(delay=timedelta(minutes=2)) if delivery.id == "0" else delivery.ack()
        assert sorted(found) == ["0", "1", "2", "often"]

        clock.advance(60)
        assert listener.get().msg == {"id": "once", "$set": {"a.b": 1}}
        clock.advance(60)
        assert (listener.get().attempt, listener.get()) == (2, None)
        assert (pit.stats().leased, pit.stats().scheduled) == (2, 1)
        assert [each.id for each in pit.entries("scheduled")] == ["often"]
        assert pit.remove("often")
        assert client["app"]["messages"].count_documents({}) == 2


def test_it_has_no_transactions(client):
    with pitstop.init({"type": "mongo", "client": client}) as pit:
        text = r"does not have the capability TRANSACTIONS, .* with a client of mongomock.*Leave session out"
        with pytest.raises(pitstop.Unsupported, match=text):
            pit.store({"id": "a"}, timedelta(0), session=object())
        assert pit.entries() == []


def test_without_a_clock_it_is_this_machines(client):
    with pitstop.init({"type": "mongo", "client": client}) as pit:
        id = pit.store({"n": 1}, timedelta(0))
        assert pit.listen().get().id == id
    assert client["pitstop"]["messages"].find_one()["_id"] == id


def test_a_damaged_document_is_set_aside(client):
    with pitstop.init({"type": "mongo", "client": client}) as pit:
        pit.store_many([({"id": id}, timedelta(0)) for id in "abc"])
        client["pitstop"]["messages"].update_one({"_id": "b"}, {"$set": {"attempts": "x"}})
        listener = pit.listen(prefetch=5)
        assert [listener.get().id, listener.get().id, listener.get()] == ["a", "c", None]
        (dead,) = pit.entries("dead")
        assert dead.last_error.startswith("Damaged: attempts")
