"""Documents that no decoder reads, that have no room for a lease, or to which the server refuses every write."""

from __future__ import annotations

import logging
import struct

from datetime import timedelta

import bson
import pytest

from bson import Binary, Code
from bson.raw_bson import RawBSONDocument

import pitstop

from mongo.conftest import START
from pitstop import BackendUnavailable
from pitstop.abc import Aside, Damaged, Outcome, Progress, Record, Settlement


MINUTE = 60_000
LARGEST = 16 * 1024 * 1024


def text(value):
    return struct.pack("<i", len(value) + 1) + value + b"\0"


def lease_all(backend, limit):
    leased = []
    while claim := backend.lease(limit, MINUTE):
        leased += claim
    return leased


#: A binary of the old subtype has a second length, and here it is a wrong one.
OLD_BINARY = struct.pack("<i", 5) + b"\2" + struct.pack("<i", 99) + b"x"
UUID_OF_15 = struct.pack("<i", 15) + b"\4" + b"x" * 15


@pytest.mark.parametrize("limit", [1, 10], ids=["one by one", "in a batch"])
@pytest.mark.parametrize("field", ["msg", "series", "revision", "token", "last_error", "etag", "due", "extra"])
@pytest.mark.parametrize("value", [UUID_OF_15, OLD_BINARY], ids=["UUID of 15 bytes", "binary with a wrong length"])
def test_a_value_that_no_decoder_reads_does_not_stop_the_others(backend, coll, record, field, value, limit):
    backend.put([record("a"), record("bad"), record("c")])
    coll.update_one({"_id": "bad"}, {"$unset": {field: ""}})
    spoil(coll, b"\x10odd\0" + b"\7\0\0\0", b"\x05" + field.encode() + b"\0" + value, odd=7)

    found = backend.get("bad")
    # A field of another program, and a field that no reader needs, make no message unreadable.
    assert isinstance(found, Record if field in {"etag", "extra"} else Damaged)
    leased = {each.id: each for each in lease_all(backend, limit)}
    assert leased.keys() == ({"a", "c"} if field == "due" else {"a", "bad", "c"})
    assert {each.id for each in backend.scan(None, 10, None)} == {"a", "bad", "c"}
    assert backend.tally().dead == (1 if field == "due" else 0)
    assert backend.delete("bad")
    assert backend.get("bad") is None


def test_a_token_that_is_code_does_not_stop_the_others(backend, coll, record):
    """The driver's type for code is a text, which no set may contain."""
    backend.put([record("a"), record("bad"), record("c")])
    coll.update_one({"_id": "bad"}, {"$set": {"token": Code("x", {"a": 1})}})

    assert {each.id: type(each) for each in lease_all(backend, 10)} == {"a": Record, "bad": Damaged, "c": Record}


@pytest.mark.parametrize("limit", [1, 10], ids=["one by one", "in a batch"])
def test_an_id_that_is_no_text_any_more_is_set_aside(backend, coll, record, clock, limit):
    backend.put([record("a"), record("bad"), record("c")])
    spoil(coll, text(b"bad"), text(b"b\xff\xfe"))

    leased = {each.id: each for each in lease_all(backend, limit)}
    assert leased.keys() == {"a", "b\udcff\udcfe", "c"}
    bad = leased["b\udcff\udcfe"]
    assert isinstance(bad, Damaged)
    assert "the id is no valid text" in bad.error
    assert backend.settle([Settlement(bad.id, bad.token, Outcome.BURY, Aside(bad.error))]) == [True]
    assert backend.tally().dead == 1
    assert [each.id for each in backend.scan("dead", 5, None)] == [bad.id]
    assert backend.scan("dead", 5, (None, bad.id)) == []
    clock.advance(timedelta(days=1))
    assert bad.id not in {each.id for each in lease_all(backend, limit)}


def test_an_id_that_is_no_text_is_set_aside_though_the_servers_error_quotes_it(backend, coll, record):
    """The reply to the claim cannot be decoded, so the claim seems to have found nothing."""
    backend.put([record("bad"), record("good", START + 1)])
    coll.update_one({"_id": "bad"}, {"$set": {"attempts": "x"}})
    spoil(coll, text(b"bad"), text(b"b\xff\xfe"))

    assert {each.id for each in lease_all(backend, 1)} == {"b\udcff\udcfe"}


@pytest.mark.parametrize("limit", [1, 10], ids=["one by one", "in a batch"])
@pytest.mark.parametrize("free", [0, 20, 60, 120])
def test_a_document_without_room_for_a_lease_is_set_aside(backend, coll, record, limit, free):
    """A valid document of another program, some bytes below MongoDB's limit."""
    backend.put([record("big", START - 5), record("other")])
    document = coll.find_one({"_id": "big"}) | {"msg": {"p": ""}}
    document["msg"]["p"] = "x" * (LARGEST - free - len(bson.encode(document)))
    coll.replace_one({"_id": "big"}, document)

    with pitstop.init({"type": backend}) as pit:
        with pit.listen(prefetch=limit) as listener:
            got = []
            while (delivery := listener.get()) is not None:
                got.append(delivery.id)
                delivery.nack("failed") if delivery.id == "big" else delivery.ack()
        assert "other" in got
        entry = pit.get("big")
        if "big" not in got:
            assert entry.state == "dead"
            assert "no room for a lease" in entry.last_error
            assert [each.last_error for each in pit.entries("dead")] == [entry.last_error]
            assert pit.store({"id": "big", "small": 1}, keep_schedule=True).outcome == "updated"
            assert pit.get("big").message == {"id": "big", "small": 1}
        assert pit.remove("big")


@pytest.mark.parametrize("field", ["due", "token", "etag", "attempts", "last_error", "msg", "extra"])
def test_a_field_that_occurs_twice_neither_stops_the_others_nor_the_server(backend, coll, record, clock, field):
    """The driver reads the last value, and the server the first one. An update by a pipeline would crash MongoDB 6.0.5."""
    values = {
        "due": from_now(50),
        "token": "old",
        "etag": "old",
        "attempts": 7,
        "last_error": "old",
        "msg": {},
        "extra": 1,
    }
    backend.put([record(id) for id in ("a", "bad", "c", "d")])
    document = coll.find_one_and_delete({"_id": "bad"}) | {"token": "t", "last_error": "e", "extra": 2}
    inner = bson.encode(document)[4:-1] + bson.encode({field: values[field]})[4:-1]
    coll.insert_one(RawBSONDocument(struct.pack("<i", len(inner) + 5) + inner + b"\0"))

    for _ in range(4):
        leased = lease_all(backend, 10)
        assert {"a", "c", "d"} <= {each.id for each in leased}
        failed = [
            Settlement(each.id, each.progress.token, Outcome.RELEASE, Progress(START, START, 1, START, "failed"))
            for each in leased
            if isinstance(each, Record)
        ]
        assert all(backend.settle(failed))
        for each in leased:
            if isinstance(each, Damaged):
                assert backend.settle([Settlement(each.id, each.token, Outcome.BURY, Aside(each.error))]) == [True]
        clock.advance(timedelta(minutes=2))
    (found,) = [each for each in backend.scan(None, 9, None) if each.id == "bad"]
    assert isinstance(found, Damaged)


def from_now(seconds):
    return pitstop.abc.from_instant(START + seconds * 1000)


@pytest.mark.parametrize("limit", [1, 10], ids=["one by one", "in a batch"])
def test_a_document_to_which_the_server_refuses_every_write_is_passed_over(backend, coll, record, caplog, limit):
    """The server refuses each update because of an administrator's rule. The document is valid, so it is not set aside."""
    backend.put([record("unfit", START - 5), record("a"), record("b")])
    coll.database.command("collMod", coll.name, validator={"msg.of": {"$ne": "unfit"}})

    with caplog.at_level(logging.WARNING, "pitstop.mongo"):
        leased = lease_all(backend, limit)
    assert {each.id for each in leased} == {"a", "b"}
    assert [each.getMessage()[:15] for each in caplog.records] == ["message 'unfit'"]
    assert backend.next_due() == START + MINUTE
    assert "refuses every write to 1 " in backend.concerns()[0]
    found = backend.get("unfit")
    assert found.progress.due == START - 5
    assert found.progress.last_error.startswith("Not claimed: it cannot be leased")
    assert backend.tally().due == 1
    backend.put([record("unfit", message={"of": "other"})])
    assert [each.id for each in lease_all(backend, limit)] == ["unfit"]
    assert backend.concerns() == []


@pytest.mark.parametrize("limit", [1, 10], ids=["one by one", "in a batch"])
@pytest.mark.parametrize("code", [2, 14, 17419, 121, 96])
def test_an_error_of_the_server_sets_no_message_aside(failing, record, limit, code):
    """With any error the documents are valid: they are kept, and are claimed when the server works again."""
    backend = failing.backend
    backend.put([record(id) for id in "abcd"])
    with failing("update", "findAndModify", errorCode=code):
        try:
            assert lease_all(backend, limit) == []
        except BackendUnavailable as error:
            assert "refused an operation" in str(error)
        except pitstop.MessageError:
            assert code == 17419
    backend._unleasable.forget("abcd")

    assert [each.id for each in lease_all(backend, limit)] == ["a", "b", "c", "d"]
    assert backend.tally().dead == 0


def test_a_settlement_that_the_server_refuses_does_not_keep_the_others_from_it(backend, coll, record, caplog):
    backend.put([record(id) for id in "abc"])
    leased = {each.id: each.progress.token for each in lease_all(backend, 10)}
    coll.database.command("collMod", coll.name, validator={"msg.of": {"$ne": "b"}})
    released = Progress(START + MINUTE, START, 1, START, "failed")

    applied = backend.settle([Settlement(id, token, Outcome.RELEASE, released) for id, token in leased.items()])

    assert applied == [True, False, True]
    assert "message 'b'" in caplog.text


@pytest.mark.parametrize("outcome", [Outcome.COMPLETE, Outcome.RELEASE])
@pytest.mark.parametrize("together", [True, False], ids=["of one claim", "of several claims"])
def test_many_settlements_that_the_server_refuses_do_not_keep_one_behind_them_from_it(
    backend, coll, record, outcome, together
):
    ids = [f"unfit{number:02}" for number in range(15)]
    backend.put([record(id, START - 9, {"of": "unfit"}) for id in ids] + [record("sound")])
    leased = backend.lease(16, MINUTE) if together else [backend.lease(1, MINUTE)[0] for _ in range(16)]
    tokens = {each.id: each.progress.token for each in leased}
    coll.database.command("collMod", coll.name, validator={"msg.of": {"$ne": "unfit"}})
    released = Progress(START + MINUTE, START, 1, START, "failed")
    sound = Settlement("sound", tokens["sound"], outcome, None if outcome is Outcome.COMPLETE else released)

    applied = backend.settle([*(Settlement(id, tokens[id], Outcome.RELEASE, released) for id in ids), sound])

    assert applied == [False] * 15 + [True]
    found = backend.get("sound")
    assert found is None if outcome is Outcome.COMPLETE else found.progress == released


def test_damage_is_seen_and_mended_by_the_user(backend, coll, record):
    backend.put([record("bad")])
    coll.update_one({"_id": "bad"}, {"$set": {"revision": Binary(b"x", 4), "extra": Binary(b"x", 4)}})
    with pitstop.init({"type": backend}) as pit:
        assert pit.get("bad").last_error.startswith("Damaged: revision")
        assert pit.stats().due == 1
        pit.store({"id": "bad", "n": 1}, timedelta(hours=1))
        assert pit.get("bad").message == {"id": "bad", "n": 1}


def test_two_processes_set_the_same_document_aside_once(backend, open_backend, coll, record, clock):
    backend.put([record("bad"), record("good")])
    coll.update_one({"_id": "bad"}, {"$set": {"msg": Binary(b"x", 4)}})
    first, second = (pitstop.init({"type": open_backend(clock=clock)}) for _ in range(2))
    with first.listen(prefetch=5) as one, second.listen(prefetch=5) as other:
        got = [each.id for each in (one.get(), other.get(), one.get(), other.get()) if each is not None]
    assert got == ["good"]
    assert first.stats().dead == 1


def test_a_list_as_a_due_is_no_due(backend, coll, record):
    """The index contains each of its dates. It is listed with the dead nevertheless, and no listener waits for it."""
    backend.put([record("bad", START + MINUTE), record("good", START + 2 * MINUTE)])
    coll.update_one({"_id": "bad"}, {"$set": {"due": [from_now(60), 5]}})

    assert backend.next_due() == START + 2 * MINUTE
    assert [each.id for each in backend.scan(None, 9, None)] == ["good", "bad"]
    assert [each.id for each in backend.scan("dead", 9, None)] == ["bad"]
    assert (backend.tally().scheduled, backend.tally().dead) == (1, 1)


def test_a_pointer_of_an_old_driver_is_damage(backend, coll, record):
    """The driver makes a reference of it, as it does of a user's mapping that looks like a reference."""
    backend.put([record("bad")])
    spoil(coll, b"\x02of\0" + text(b"bad"), b"\x0cof\0" + text(b"bad") + b"x" * 12)

    assert isinstance(backend.get("bad"), Damaged)
    assert isinstance(lease_all(backend, 10)[0], Damaged)


def spoil(coll, old, new, **fields):
    """Replace the document with the id "bad" by the same document with some bytes changed."""
    raw = bson.encode(coll.find_one_and_delete({"_id": "bad"}) | fields)
    assert old in raw
    at = raw.rindex(old) if fields else raw.index(old)
    raw = raw[:at] + new + raw[at + len(old) :]
    grown = len(new) - len(old)
    if old.startswith(b"\x02of"):
        # The value is in the mapping of the message, which has a length of its own.
        begin = raw.index(b"\x03msg\0") + 5
        raw = raw[:begin] + struct.pack("<i", struct.unpack_from("<i", raw, begin)[0] + grown) + raw[begin + 4 :]
    coll.insert_one(RawBSONDocument(struct.pack("<i", len(raw)) + raw[4:]))


@pytest.mark.parametrize("what", ["id", "revision", "scheduled_for"])
def test_a_document_that_was_set_aside_may_be_all_that_is_left(backend, open_backend, coll, record, clock, what):
    """A later process sees a message in it, and not the collection of another program."""
    backend.put([record("bad")])
    if what == "id":
        spoil(coll, text(b"bad"), text(b"b\xff\xfe"))
    else:
        coll.update_one({"_id": "bad"}, {"$set": {what: Binary(b"x", 4)}})
    other = open_backend(clock=clock)

    assert other.tally().due == 1
    assert isinstance(other.lease(1, MINUTE)[0], Damaged)
    other.ping()


@pytest.mark.parametrize("limit", [1, 10], ids=["one by one", "in a batch"])
def test_attempts_that_occur_twice_and_cannot_be_counted_are_set_aside(backend, coll, record, limit):
    """The decoder reads the last value, a valid number. The server would increment the first one."""
    backend.put([record("bad")])
    document = coll.find_one_and_delete({"_id": "bad"})
    inner = bson.encode({"_id": "bad", "attempts": {}})[4:-1] + bson.encode(document)[4 + len("_id") + 2 + 8 : -1]
    coll.insert_one(RawBSONDocument(struct.pack("<i", len(inner) + 5) + inner + b"\0"))

    (leased,) = lease_all(backend, limit)
    assert isinstance(leased, Damaged)
    assert backend.settle([Settlement("bad", leased.token, Outcome.BURY, Aside(leased.error))]) == [True]


@pytest.mark.parametrize("limit", [1, 50], ids=["one by one", "in a batch"])
@pytest.mark.parametrize("unfit", [30, 1200])
def test_many_documents_that_break_a_rule_do_not_keep_sound_ones_from_being_claimed(
    backend, coll, record, caplog, unfit, limit
):
    """A later rule may leave many such documents, also more than are remembered."""
    backend.put([record(f"unfit{number}", START - 5, {"of": "unfit"}) for number in range(unfit)])
    backend.put([record("a"), record("b")])
    coll.database.command("collMod", coll.name, validator={"msg.of": {"$ne": "unfit"}})

    with caplog.at_level(logging.WARNING, "pitstop.mongo"):
        leased = [each for _ in range(10) for each in backend.lease(limit, MINUTE)]
    assert {each.id for each in leased} == {"a", "b"}
    assert 0 < len(caplog.records) <= 40
    assert backend.next_due() == START + MINUTE, "the documents that are passed over are not waited for"
    assert "refuses every write to more than 3 of" in backend.concerns()[0]


@pytest.mark.parametrize("limit", [1, 50], ids=["one by one", "in a batch"])
def test_more_refused_documents_than_can_be_remembered_are_an_error_and_not_claimed_again_at_once(
    backend, coll, record, caplog, monkeypatch, limit
):
    """If the user may not read the rules, the documents are remembered one by one."""
    monkeypatch.setattr("pitstop_mongo._messages.claimer.validation_rules", lambda coll: None)
    monkeypatch.setattr("pitstop_mongo._messages.unleasable._MOST", 20)
    backend.put([record(f"unfit{number}", message={"of": "unfit"}) for number in range(50)])
    coll.database.command("collMod", coll.name, validator={"msg.of": {"$ne": "unfit"}})

    with caplog.at_level(logging.WARNING, "pitstop.mongo"):
        for _ in range(3):
            try:
                assert backend.lease(limit, MINUTE) == []
            except BackendUnavailable as error:
                refusal = str(error)
    assert "refuses every write to more than 20 of the messages that are due" in refusal
    assert len(caplog.records) == 20
    backend.put([record("unfit0", START - 1)])
    assert [each.id for each in backend.lease(1, MINUTE)] == ["unfit0"]
