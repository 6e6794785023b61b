"""Documents of another program among sound ones: every BSON type in every field, and bytes that are not valid text."""

from __future__ import annotations

import struct
import uuid

import bson
import pytest

from bson.raw_bson import RawBSONDocument
from hypothesis import given
from hypothesis import strategies as st
from pymongo.errors import OperationFailure, WriteError

import pitstop

from fuzz.judging import NOW, OPTIONS, WAYS, fuzzed, judge
from pitstop.testing import ManualClock
from pitstop_mongo import MongoBackend


# Fields as bytes: a list of (type, name, value).


def _fields(raw):
    """Return the fields of a document, by a reader that has nothing in common with the backend's."""
    lazy = RawBSONDocument(raw)
    assert lazy.raw == raw
    at, found = 4, []
    while raw[at]:
        kind, end = raw[at], raw.index(b"\0", at + 1)
        size = {1: 8, 2: 4, 3: 0, 4: 0, 5: 5, 8: 1, 9: 8, 10: 0, 16: 4, 18: 8}[kind]
        if kind in {2, 3, 4, 5}:
            size += struct.unpack_from("<i", raw, end + 1)[0]
        found.append((kind, raw[at + 1 : end], raw[end + 1 : end + 1 + size]))
        at = end + 1 + size
    return found


def _document(fields):
    inner = b"".join(bytes([kind]) + name + b"\0" + value for kind, name, value in fields)
    return struct.pack("<i", len(inner) + 5) + inner + b"\0"


def _text(value):
    return struct.pack("<i", len(value) + 1) + value + b"\0"


def _binary(subtype, value):
    return struct.pack("<iB", len(value), subtype) + value


def _date(ms):
    return struct.pack("<q", ms)


_START = ManualClock().time_us() // 1000
texts = st.binary(max_size=12).map(lambda value: value)
names = st.binary(min_size=1, max_size=6).map(lambda value: value.replace(b"\0", b"?"))
dates = st.sampled_from(
    [0, -1, _START, _START - 1000, _START + 30_000, _START + 10**10, 2**62, -(2**62), 253402300800000]
)
binaries = st.builds(
    _binary,
    st.sampled_from([0, 1, 3, 4, 5, 6, 7, 8, 9, 127, 128, 255]),
    st.sampled_from([b"", b"x", b"x" * 15, b"x" * 16]),
)
#: A binary of the old subtype has a second length, which may be wrong.
old_binaries = st.sampled_from([_binary(2, struct.pack("<i", length) + b"a") for length in (1, 0, 99, -1)])
leaves = st.one_of(
    st.tuples(st.just(0x01), st.floats().map(lambda value: struct.pack("<d", value))),
    st.tuples(st.just(0x02), texts.map(_text)),
    st.tuples(st.just(0x05), binaries | old_binaries),
    st.tuples(st.just(0x06), st.just(b"")),
    st.tuples(st.just(0x07), st.binary(min_size=12, max_size=12)),
    st.tuples(st.just(0x08), st.sampled_from([b"\0", b"\1"])),
    st.tuples(st.just(0x09), dates.map(_date)),
    st.tuples(st.just(0x0A), st.just(b"")),
    st.tuples(st.just(0x0B), st.sampled_from([b"(a+\0\0", b".*\0ix\0", b"\xff\0i\0"])),
    st.tuples(st.just(0x0C), texts.map(lambda value: _text(value) + b"x" * 12)),
    st.tuples(st.just(0x0D), texts.map(_text)),
    st.tuples(st.just(0x0E), texts.map(_text)),
    st.tuples(st.just(0x10), st.integers(-(2**31), 2**31 - 1).map(lambda value: struct.pack("<i", value))),
    st.tuples(st.just(0x11), st.binary(min_size=8, max_size=8)),
    st.tuples(
        st.just(0x12), st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63)]).map(lambda value: struct.pack("<q", value))
    ),
    st.tuples(st.just(0x13), st.binary(min_size=16, max_size=16)),
    st.tuples(st.just(0x7F), st.just(b"")),
    st.tuples(st.just(0xFF), st.just(b"")),
)


def _containers(inner):
    pairs = st.lists(st.tuples(names | st.sampled_from([b"$ref", b"$id", b"$db", b"$gt"]), inner), max_size=3)
    documents = pairs.map(lambda some: _document([(kind, name, value) for name, (kind, value) in some]))
    lists = st.lists(inner, max_size=3).map(
        lambda some: _document([(kind, str(index).encode(), value) for index, (kind, value) in enumerate(some)])
    )
    code = st.tuples(texts.map(_text), documents).map(
        lambda both: struct.pack("<i", len(both[0]) + len(both[1]) + 4) + both[0] + both[1]
    )
    return st.one_of(
        st.tuples(st.just(0x03), documents), st.tuples(st.just(0x04), lists), st.tuples(st.just(0x0F), code)
    )


values = st.recursive(leaves, _containers, max_leaves=4)
_OURS = (
    *(b"msg", b"series", b"revision", b"due", b"scheduled_for", b"attempts", b"first_leased", b"last_error", b"token"),
    *(b"unsettled", b"ahead", b"excused", b"etag", b"adopting"),
)
damages = st.one_of(
    st.tuples(st.sampled_from(["replace", "repeat", "begin"]), st.sampled_from(_OURS) | names, values),
    st.tuples(st.just("remove"), st.sampled_from(_OURS), st.just(None)),
    st.tuples(st.just("inner"), names, values),
)
#: Ids that are text, of some kind; and other ids, which belong to documents of other programs.
ids = st.one_of(
    st.just(None),
    st.just(None),
    st.binary(min_size=1, max_size=4).map(lambda value: (0x02, _text(b"o" + value))),
    values.filter(lambda value: value[0] not in {0x02, 0x04, 0x06, 0x0B, 0x0E}),
)


def _damaged(document, damage, id):
    fields = _fields(bson.encode(document))
    for how, name, value in damage:
        if how == "inner":
            fields = [
                (3, b"msg", _document([(value[0], name, value[1])])) if each[1] == b"msg" else each for each in fields
            ]
            continue
        if how in {"replace", "remove"}:
            fields = [each for each in fields if each[1] != name]
        if how != "remove":
            new = (value[0], name, value[1])
            fields = [fields[0], new, *fields[1:]] if how == "begin" else [*fields, new]
    if id is not None:
        fields = [(id[0], b"_id", id[1]), *fields[1:]]
    return RawBSONDocument(_document(fields))


def _texts_of(coll):
    """Return the ids that are text, of all documents."""
    found = set()
    for each in coll.with_options(codec_options=bson.CodecOptions(document_class=RawBSONDocument)).find({}, {"_id": 1}):
        kind, raw = each.raw[4], each.raw
        if kind == 2:
            found.add(raw[13:-2].decode("utf-8", "surrogateescape"))
    return found


@given(
    odd=st.lists(st.tuples(st.lists(damages, min_size=1, max_size=3), ids), min_size=1, max_size=6),
    way=st.sampled_from(WAYS),
)
def any_documents(mongo_uri, coll, odd, way):
    clock, opened = ManualClock(), []

    def open_backend():
        where = {"uri": mongo_uri, "dbname": coll.database.name, "coll": coll.name}
        opened.append(MongoBackend.from_options({**where, "clock": clock, **OPTIONS}))
        return opened[-1]

    coll.delete_many({})
    sound = {f"g{number}" for number in range(5)}
    with pitstop.init({"type": open_backend()}) as pit:
        names = [id for pair in zip(sorted(sound), [f"evil{n}" for n in range(5)], strict=True) for id in pair]
        pit.store_many([({"id": id, "text": "text"}, NOW) for id in [*names, "evil5"]])
    for number, (damage, id) in enumerate(odd):
        document = coll.find_one_and_delete({"_id": f"evil{number}"}) | {"last_error": "error", "token": "token"}
        try:
            coll.insert_one(_damaged(document, damage, id))
        except (WriteError, OperationFailure, bson.errors.InvalidBSON):
            # The server refuses such a document: an id of this type, or an existing id. Its error may quote the id.
            continue
    coll.delete_many({"_id": {"$in": [f"evil{number}" for number in range(len(odd), 6)]}})
    try:
        judge(open_backend, clock, way, sound, lambda: _texts_of(coll))
    finally:
        for each in opened:
            each.close()


@pytest.fixture
def coll(mongo_client, mongo_dbname):
    coll = mongo_client[mongo_dbname][f"fuzz{uuid.uuid4().hex[:8]}"]
    coll.create_index([("due", 1)])
    return coll


test_any_documents_do_not_keep_sound_messages_from_being_handled = fuzzed(any_documents, 40)
