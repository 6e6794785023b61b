"""``store``, ``store_many`` and ``remove``: a message is stored whole, and comes back as it was."""

from __future__ import annotations

import uuid

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

import pitstop

from pitstop.testing import ManualClock
from pitstop_conformance._kit import Kit
from pitstop_conformance._records import START, at
from pitstop_conformance._values import GIVEN_AND_BACK, IDS, largest_message, same


_NOW = at(START)


class Store(Kit):
    """Stores, updates and removals of messages."""

    rule = "docs/semantics.md, and pitstop.Pitstop.store"

    def test_a_deferred_message_is_emitted_at_its_time(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        """The first example of the API: ``pit.store({"msg": "object"}, timedelta(minutes=15))``."""
        id = pit.store({"msg": "object"}, timedelta(minutes=15))
        assert listener.get() is None
        clock.advance(timedelta(minutes=15, microseconds=-1))
        assert listener.get() is None

        clock.advance(timedelta(microseconds=1))

        delivery = listener.get()
        assert delivery is not None
        assert delivery.msg == {"id": id, "msg": "object"}
        assert delivery.scheduled_for == clock.now() == pit.now()
        assert (delivery.attempt, delivery.missed, delivery.last_error) == (1, 0, None)
        assert delivery.key == f"{id}:{START + 15 * 60_000}"
        delivery.ack()
        assert pit.get(id) is None

    def test_an_update_by_id_replaces_message_and_schedule(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        """The second example of the API: storing the same id again is an update."""
        assert pit.store({"id": "abc", "foo": 1, "old": True}, timedelta(minutes=5)) == "abc"
        assert pit.store({"id": "abc", "foo": 2}, timedelta(minutes=10)) == "abc"
        assert pit.stats().scheduled == 1
        clock.advance(timedelta(minutes=5))
        assert listener.get() is None

        clock.advance(timedelta(minutes=5))

        delivery = listener.get()
        assert delivery is not None
        assert delivery.msg == {"id": "abc", "foo": 2}
        delivery.ack()
        assert listener.get() is None
        assert pit.entries() == []

    def test_a_removed_message_is_never_emitted(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        """The fourth example of the API: ``pit.remove("abc")`` returns whether the message was there."""
        pit.store({"id": "abc"}, timedelta(minutes=5))
        pit.store({"id": "kept"}, timedelta(minutes=5))

        assert pit.remove("abc") is True
        assert pit.remove("abc") is False

        clock.advance(timedelta(minutes=5))
        delivery = listener.get()
        assert delivery is not None
        assert delivery.id == "kept"
        assert listener.get() is None

    def test_a_message_without_an_id_gets_a_uuid(self, pit: pitstop.Pitstop) -> None:
        first, second = pit.store({"a": 1}, timedelta(0)), pit.store({"a": 1}, timedelta(0))

        assert first != second
        for each in (first, second):
            assert str(uuid.UUID(each)) == each
            assert uuid.UUID(each).version == 7

    def test_an_empty_message_is_a_message(self, pit: pitstop.Pitstop, listener: pitstop.Listener) -> None:
        id = pit.store({}, timedelta(0))

        delivery = listener.get()
        assert delivery is not None
        assert delivery.msg == {"id": id}

    def test_an_update_may_turn_a_one_shot_into_a_series_and_back(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        pit.store({"id": "a"}, timedelta(0))
        pit.store({"id": "a"}, timedelta(0), None, timedelta(minutes=1))
        delivery = listener.get()
        assert delivery is not None
        delivery.ack()
        assert pit.get("a") is not None

        pit.store({"id": "a", "last": True}, timedelta(minutes=1))
        clock.advance(timedelta(minutes=1))

        delivery = listener.get()
        assert delivery is not None
        assert delivery.msg == {"id": "a", "last": True}
        delivery.ack()
        assert pit.get("a") is None

    @pytest.mark.parametrize("when", [timedelta(0), timedelta(days=-400), _NOW, _NOW - timedelta(days=400)], ids=str)
    def test_a_time_that_has_come_is_due_at_once(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, when: Any
    ) -> None:
        pit.store({"id": "a"}, when)

        delivery = listener.get()
        assert delivery is not None
        assert delivery.scheduled_for == (_NOW + when if isinstance(when, timedelta) else when)

    def test_now_is_due_now_also_between_two_milliseconds(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        clock.advance(timedelta(microseconds=1234))

        pit.store({"id": "a"}, timedelta(0))
        pit.store({"id": "b"}, clock.now())

        assert {getattr(listener.get(), "id", None) for _ in "ab"} == {"a", "b"}

    def test_a_time_between_two_milliseconds_is_rounded_up(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        clock.advance(timedelta(microseconds=400))
        pit.store({"id": "point"}, clock.now() + timedelta(microseconds=1))
        pit.store({"id": "distance"}, timedelta(microseconds=1))
        pit.store({"id": "exact"}, timedelta(microseconds=600))
        assert [each.due for each in pit.entries()] == [at(START + 1)] * 3

        clock.advance(timedelta(microseconds=599))
        assert listener.get() is None
        clock.advance(timedelta(microseconds=1))

        assert {getattr(listener.get(), "id", None) for _ in range(3)} == {"point", "distance", "exact"}

    def test_a_time_in_any_zone_is_the_instant_that_it_means(self, pit: pitstop.Pitstop) -> None:
        there = timezone(timedelta(hours=-11, minutes=-30))
        pit.store({"id": "a"}, datetime(2024, 1, 1, 0, 0, tzinfo=there))

        entry = pit.get("a")
        assert entry is not None
        assert entry.due == datetime(2024, 1, 1, 11, 30, tzinfo=UTC)
        assert entry.due.tzinfo is UTC

    def test_the_size_of_a_message_is_counted_to_the_byte_as_bson_counts(self, pit: pitstop.Pitstop) -> None:
        """All backends share this rule, whatever format they write. The keys that BSON gives to items of a list count too."""
        for large, size in (
            (largest_message("a", over=1), 15728641),
            ({"id": "a", "blob": [0.5] * 1_200_000}, 19288916),
        ):
            text = rf"larger than 15728640 bytes \(at msg\['blob'\]: counted as BSON it is {size} bytes"
            with pytest.raises(pitstop.MessageError, match=text):
                pit.store(large, timedelta(0))
            with pytest.raises(pitstop.MessageError, match=rf"^items\[1\]: .*{text}"):
                pit.store_many([({}, timedelta(0)), (large, timedelta(0))])
        assert pit.entries() == []

        assert pit.store(largest_message("a"), timedelta(0)) == "a"
        assert pit.get("a") is not None

    @pytest.mark.parametrize("name", GIVEN_AND_BACK)
    def test_every_value_comes_back_the_same(self, pit: pitstop.Pitstop, listener: pitstop.Listener, name: str) -> None:
        given, back = GIVEN_AND_BACK[name]
        pit.store({"id": "a", "value": given}, timedelta(0))

        entry, delivery = pit.get("a"), listener.get()

        assert entry is not None
        assert delivery is not None
        assert same(entry.message, {"id": "a", "value": back})
        assert same(delivery.msg, {"id": "a", "value": back})

    @pytest.mark.parametrize("name", GIVEN_AND_BACK)
    def test_a_value_is_still_the_same_after_a_nack_and_an_occurrence(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock, name: str
    ) -> None:
        """A settlement writes the progress back and leaves the message alone."""
        given, back = GIVEN_AND_BACK[name]
        pit.store({"id": "a", "value": given}, timedelta(0), None, timedelta(minutes=1))
        first = listener.get()
        assert first is not None
        first.nack("again", delay=timedelta(0))
        second = listener.get()
        assert second is not None
        second.ack()
        clock.advance(timedelta(minutes=1))

        third = listener.get()

        assert third is not None
        assert same(third.msg, {"id": "a", "value": back})

    def test_the_message_of_a_user_is_copied(self, pit: pitstop.Pitstop, listener: pitstop.Listener) -> None:
        message = {"list": [1, {"x": 1}]}
        id = pit.store(message, timedelta(0))
        assert message == {"list": [1, {"x": 1}]}

        message["list"].append(2)
        message["more"] = [3]

        delivery = listener.get()
        assert delivery is not None
        assert delivery.msg == {"id": id, "list": [1, {"x": 1}]}

    def test_what_a_handler_does_to_its_message_stays_with_it(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener
    ) -> None:
        pit.store({"id": "a", "list": [1, {"x": 1}]}, timedelta(0))
        delivery = listener.get()
        assert delivery is not None
        delivery.msg["list"][1]["x"] = 2
        delivery.msg["id"] = "another"
        entry = pit.get("a")
        assert entry is not None
        entry.message["list"].clear()

        delivery.nack("again", delay=timedelta(0))

        again = listener.get()
        assert again is not None
        assert again.msg == {"id": "a", "list": [1, {"x": 1}]}

    @pytest.mark.parametrize("id", IDS, ids=range(len(IDS)))
    def test_an_id_is_data(self, pit: pitstop.Pitstop, listener: pitstop.Listener, id: str) -> None:
        pit.store_many([({"id": each}, timedelta(minutes=1)) for each in IDS])
        pit.store({"id": id, "updated": True}, timedelta(0))
        assert pit.stats().scheduled == len(IDS) - 1

        delivery = listener.get()

        assert delivery is not None
        assert delivery.msg == {"id": id, "updated": True}
        assert delivery.key == f"{id}:{START}"
        delivery.nack("again", delay=timedelta(0))
        assert pit.remove(id) is True
        assert pit.get(id) is None
        assert {each.id for each in pit.entries()} == set(IDS) - {id}

    def test_store_many_stores_all_and_returns_their_ids_in_order(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        given = pit.store_many(
            [
                ({"id": "b", "n": 1}, timedelta(minutes=1)),
                ({"n": 2}, timedelta(0)),
                ({"id": "a", "n": 3}, timedelta(0), None, timedelta(minutes=2)),
                [{"n": 4}, _NOW],  # type: ignore[list-item]  # what JSON makes of a tuple
            ]
        )

        assert len(given) == len(set(given)) == 4
        assert (given[0], given[2]) == ("b", "a")
        assert [each.msg["n"] for each in iter(listener.get, None)] == [2, 3, 4]
        clock.advance(timedelta(minutes=1))
        assert [each.msg["n"] for each in iter(listener.get, None)] == [1]
        entry = pit.get("a")
        assert entry is not None
        assert entry.every == timedelta(minutes=2)

    def test_store_many_of_nothing_stores_nothing(self, pit: pitstop.Pitstop) -> None:
        assert pit.store_many([]) == []
        assert pit.entries() == []

    def test_store_many_takes_the_place_of_stored_messages(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener
    ) -> None:
        pit.store({"id": "a", "n": 1}, timedelta(0))
        old = listener.get()
        assert old is not None

        pit.store_many([({"id": "a", "n": 2}, timedelta(0)), ({"id": "b", "n": 3}, timedelta(0))])

        with pytest.raises(pitstop.LeaseLost):
            old.ack()
        assert [each.msg["n"] for each in iter(listener.get, None)] == [2, 3]

    def test_of_several_with_one_id_in_store_many_the_last_one_counts(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener
    ) -> None:
        given = pit.store_many(
            [({"id": "a", "n": 1}, timedelta(0)), ({"id": "b"}, timedelta(0)), ({"id": "a", "n": 2}, timedelta(0))]
        )

        assert given == ["a", "b", "a"]
        assert {each.id: each.msg.get("n") for each in iter(listener.get, None)} == {"a": 2, "b": None}

    def test_store_many_stores_a_thousand(self, pit: pitstop.Pitstop) -> None:
        given = pit.store_many([({"n": n}, timedelta(seconds=n)) for n in range(1000)])

        assert len(set(given)) == 1000
        stored = pit.entries(limit=2000)
        assert [each.message["n"] for each in stored] == list(range(1000))
        assert [each.id for each in stored] == given

    def test_a_revision_is_new_at_each_store(self, pit: pitstop.Pitstop) -> None:
        revisions = set()
        for _ in range(3):
            pit.store({"id": "a"}, timedelta(0))
            entry = pit.get("a")
            assert entry is not None
            revisions.add(entry.revision)

        assert len(revisions) == 3
        assert all(revisions)
