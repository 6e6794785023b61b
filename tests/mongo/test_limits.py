"""The largest messages that Pitstop takes, on a real server: one rule of size for all backends, and room for the envelope.

MongoDB refuses documents above 16 MiB and commands above 48 MB. A message that core accepts must fit with the longest id, the
longest error and a lease, or it could be stored and never be settled.
"""

from __future__ import annotations

from datetime import timedelta

import bson
import pytest

import pitstop

from pitstop import MessageError
from pitstop._values._id import MAX_ID_LENGTH
from pitstop._values._message import MAX_MESSAGE_BYTES
from pitstop.abc import MAX_ERROR_LENGTH


NOW = timedelta(0)
LONGEST_ID = "\U0001f3ce" * MAX_ID_LENGTH


def message_of(size: int, **fields) -> dict:
    """Return a message with these fields whose BSON document has this size."""
    message = {**fields, "blob": b""}
    return {**message, "blob": b"x" * (size - len(bson.encode(message)))}


@pytest.fixture
def pit(mongo_uri, mongo_dbname):
    with pitstop.init({"type": "mongo", "uri": mongo_uri, "dbname": mongo_dbname}) as pit:
        yield pit


def test_the_largest_message_is_stored_leased_nacked_extended_and_acknowledged(pit, coll):
    """A message of a series with the longest id and error is the largest document that Pitstop writes."""
    message = message_of(MAX_MESSAGE_BYTES, id=LONGEST_ID, numbers=list(range(1000)))
    pit.store(message, NOW, timedelta(days=30_000), timedelta(days=1), catch_up="skip", grace=timedelta(days=300))
    with pit.listen() as listener:
        listener.get().nack("\U0001f3ce" * 10_000, NOW)
        delivery = listener.get()
        whole = delivery.msg == message  # not by `assert ... == ...`, which would print them
        assert whole, "the message came back as it was"
        assert len(delivery.last_error) == MAX_ERROR_LENGTH
        delivery.extend(timedelta(hours=1))
        size = len(bson.encode(coll.find_one({})))
        assert MAX_MESSAGE_BYTES < size < 16 * 1024 * 1024 - 64 * 1024, "there is room for more fields"
        delivery.ack(wait=True)
    assert pit.get(LONGEST_ID).attempts == 0
    assert pit.remove(LONGEST_ID)


def test_a_largest_message_that_fails_for_good_is_kept_with_its_error(mongo_uri, mongo_dbname):
    config = {"type": "mongo", "uri": mongo_uri, "dbname": mongo_dbname, "retry": {"max_attempts": 1}}
    with pitstop.init(config) as pit:
        pit.store(message_of(MAX_MESSAGE_BYTES, id=LONGEST_ID), NOW)
        with pit.listen() as listener:
            listener.get().nack("\U0001f3ce" * 10_000)
        (entry,) = pit.entries("dead")
        assert len(entry.last_error) == MAX_ERROR_LENGTH
        assert pit.redrive(LONGEST_ID)


def test_one_byte_more_is_refused_by_core_with_the_path_the_size_and_the_item(pit, coll):
    too_large = message_of(MAX_MESSAGE_BYTES + 1, id="a")
    text = r"The message is larger than 15728640 bytes \(at msg\['blob'\]: counted as BSON it is 15728641 bytes"
    with pytest.raises(MessageError, match=f"^{text}"):
        pit.store(too_large, NOW)
    with pytest.raises(MessageError, match=rf"^items\[1\]: {text}"):
        pit.store_many([({}, NOW), (too_large, NOW)])
    assert coll.count_documents({}) == 0


def test_more_than_a_command_holds_is_stored_together(pit):
    """A batch of more than 48 MB is sent in several commands."""
    ids = [f"m{number}" for number in range(4)]
    for _ in ("new", "in place of what is there"):
        items = [(message_of(MAX_MESSAGE_BYTES, id=id), timedelta(hours=1)) for id in ids]
        assert pit.store_many(items) == ids
        assert [entry.id for entry in pit.entries()] == ids


def test_the_largest_message_is_stored_in_a_transaction_too(replica_set_client, replica_set_database):
    config = {"type": "mongo", "client": replica_set_client, "dbname": replica_set_database.name}
    with pitstop.init(config) as pit:
        pit.stats()  # makes the collection and its index
        for id in ("a", "b"):
            pit.remove(id)
        with replica_set_client.start_session() as session:
            with session.start_transaction():
                items = [(message_of(MAX_MESSAGE_BYTES, id=id), timedelta(hours=1)) for id in ("a", "b")]
                assert pit.store_many(items, session=session) == ["a", "b"]
            assert pit.get("b") is not None
            with session.start_transaction():
                with pytest.raises(
                    MessageError, match=r"^The message is larger than 15728640 bytes \(at msg\['blob'\]"
                ):
                    pit.store(message_of(MAX_MESSAGE_BYTES + 1, id="a"), NOW, session=session)
                with pytest.raises(MessageError, match=r"^msg\['a'\].* is more than 100 levels deep"):
                    pit.store(nested(100), NOW, session=session)
                pit.store(nested(99), timedelta(hours=1), session=session)
        assert len(pit.entries()) == 3


def test_the_deepest_message_is_stored_leased_and_settled(pit):
    """MongoDB's own limit is larger than core's with the envelope."""
    pit.store({"id": "a", **nested(99)}, NOW)
    with pit.listen() as listener:
        delivery = listener.get()
        assert delivery.msg == {"id": "a", **nested(99)}
        delivery.ack(wait=True)
    with pytest.raises(MessageError, match=r"is more than 100 levels deep"):
        pit.store(nested(100), NOW)


def nested(levels: int) -> dict:
    """Return a message with this many levels below its own."""
    message: dict = {}
    for _ in range(levels):
        message = {"a": message}
    return message
