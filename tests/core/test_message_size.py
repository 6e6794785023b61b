"""The size of a message is its exact size in BSON, on all backends. Errors name the path, the size and the item."""

from __future__ import annotations

import types

from datetime import UTC, datetime, timedelta

import bson
import pytest

from bson.codec_options import CodecOptions
from hypothesis import example, given
from hypothesis import strategies as st

import pitstop

from pitstop import MessageError
from pitstop._values._id import MAX_ID_LENGTH
from pitstop._values._message import MAX_MESSAGE_BYTES, measured_copy
from pitstop.abc import MAX_ERROR_LENGTH


NOW = timedelta(0)
LIMIT = 15 * 1024 * 1024
CODEC = CodecOptions(tz_aware=True, tzinfo=UTC)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
keys = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.sampled_from([2**31 - 1, 2**31, -(2**31), -(2**31) - 1])
    | st.floats()
    | texts
    | st.binary(max_size=20)
    | st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.timezones() | st.just(UTC))
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=12)
        | st.dictionaries(keys, inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(keys, inner, max_size=4).map(types.MappingProxyType)
    ),
    max_leaves=20,
)
messages = st.dictionaries(keys.filter(lambda key: key != "id"), values, max_size=5)


def message_of(size: int, **fields) -> dict:
    """Return a message with these fields whose BSON document has this size."""
    message = {**fields, "blob": b""}
    return {**message, "blob": b"x" * (size - len(bson.encode(message)))}


@given(messages, st.none() | texts.filter(lambda text: text and "\0" not in text))
@example({"v": [*range(1001)]}, None)
@example({"v": [None] * 100_001}, "a")
@example({"v": [2**40] * 11, "w": (1.5, "x", b"y", {}), "": {"": []}}, "ü")
def test_is_that_of_the_document_which_bson_makes_of_it(message, id):
    if id is not None:
        message = {**message, "id": id}
    found, body, size = measured_copy(message)
    whole = body if found is None else {"id": found, **body}
    assert size == len(bson.encode(whole, codec_options=CODEC))


def test_of_subclasses_is_that_of_their_base():
    class Text(str):
        __slots__ = ()

        def __len__(self):
            return 0

    class Many(list):
        def __len__(self):
            return 0

    _, body, size = measured_copy(
        {Text("ü"): Many([Text("ab"), 1, 2**40]), "m": types.MappingProxyType({"a": (None,)})}
    )
    assert size == len(bson.encode(body))


@pytest.fixture(params=["memory", "sqlite"])
def pit(request, tmp_path):
    config = {"type": "memory"} if request.param == "memory" else {"type": "sqlite", "path": str(tmp_path / "pit.db")}
    with pitstop.init(config) as pit:
        yield pit


class TestLimit:
    """tests/mongo/test_limits.py stores the same messages in MongoDB."""

    def test_the_last_byte_decides(self, pit):
        assert MAX_MESSAGE_BYTES == LIMIT
        for id in ("a", "\U0001f3ce" * MAX_ID_LENGTH):
            fits, too_large = message_of(LIMIT, id=id), message_of(LIMIT + 1, id=id)
            assert pit.store(fits, NOW) == id
            with pytest.raises(MessageError) as caught:
                pit.store(too_large, NOW)
            assert str(caught.value) == (
                f"The message is larger than {LIMIT} bytes (at msg['blob']: counted as BSON it is {LIMIT + 1} bytes up to "
                f"there, and the limit is 15 MiB). Store the data elsewhere and a reference to it in the message."
            )
            pit.remove(id)

    @pytest.mark.parametrize(
        "value",
        [[2**62] * 1_700_000, [0.5] * 1_200_000, {"inner": [{}] * 1_300_000}, ("ü" * 1000,) * 10_000],
        ids=["ints", "floats", "documents", "texts"],
    )
    def test_what_bson_writes_besides_the_values_counts(self, pit, value):
        with pytest.raises(MessageError, match=r"^The message is larger than 15728640 bytes \(at msg\['v'\]") as caught:
            pit.store({"v": value}, NOW)
        assert len(str(caught.value)) < 300

    def test_store_many_names_the_item_and_stores_nothing(self, pit):
        items = [({"id": f"m{number}"}, NOW) for number in range(4)]
        items[2] = (message_of(LIMIT + 1, id="m2"), NOW)
        with pytest.raises(
            MessageError, match=r"^items\[2\]: The message is larger than .* \(at msg\['blob'\]: .* 15728641 "
        ):
            pit.store_many(items)
        assert pit.entries() == []

    def test_the_largest_message_is_stored_nacked_and_acknowledged_with_the_longest_error(self, pit):
        id = "\U0001f3ce" * MAX_ID_LENGTH
        message = message_of(LIMIT, id=id, numbers=list(range(1000)), text="ü" * 1000)
        pit.store(message, NOW, None, timedelta(days=1))
        with pit.listen() as listener:
            delivery = listener.get()
            delivery.nack("\U0001f3ce" * 10_000, NOW)
            delivery = listener.get()
            whole = delivery.msg == message  # not by `assert ... == ...`, which would print them
            assert whole, "the message came back as it was"
            assert len(delivery.last_error) == MAX_ERROR_LENGTH
            delivery.ack(wait=True)
        entry = pit.get(id)
        assert entry.attempts == 0
        whole = entry.message == message
        assert whole, "the series goes on with the same message"
        assert pit.store(entry.message, NOW) == id, "an emitted message can be stored again"
