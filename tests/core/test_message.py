"""Messages: accepted values, refused values with their errors, and the JSON form."""

from __future__ import annotations

import collections
import copy
import decimal
import enum
import math
import types
import typing
import uuid

from datetime import UTC, date, datetime, time, timedelta, timezone
from pathlib import Path

import pytest

from hypothesis import example, given
from hypothesis import strategies as st

from pitstop import MessageError
from pitstop._values._id import MAX_ID_LENGTH, new_id, valid_id
from pitstop._values._instant import floor_instant, from_instant
from pitstop._values._message import (
    MAX_DEPTH,
    MAX_MESSAGE_BYTES,
    copy_message,
    copy_plain,
)
from pitstop._values._text_codec import dump_message, load_message


ACCEPTED = "None, bool, int, float, str, bytes, aware datetime, list, tuple, and mappings with str keys"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
#: Reserved words of the text codec, operators of MongoDB and paths are ordinary keys for Pitstop.
keys = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10) | st.sampled_from(
    ["$bytes", "$time", "$map", "$set", "$", "a.b", ".", "", "id", "_id", "__proto__", '"$']
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | texts
    | st.binary(max_size=20)
    | st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.timezones() | st.just(UTC))
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=20,
)
messages = st.dictionaries(keys.filter(lambda key: key != "id"), values, max_size=5)


def normal(value):
    """Return the value with which a message must come back by the contract."""
    if isinstance(value, dict):
        return {key: normal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [normal(item) for item in value]
    if isinstance(value, datetime):
        exact = value.astimezone(UTC)
        return exact.replace(microsecond=exact.microsecond // 1000 * 1000)
    return value


def same(one, other) -> bool:
    """Compare types too: 1, True and 1.0 are different messages, and so are 0.0 and -0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or (
            one == other and math.copysign(1, one) == math.copysign(1, other)
        )
    return one == other


def containers(value):
    if isinstance(value, dict | list | tuple):
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from containers(item)


def refusal(message) -> str:
    with pytest.raises(MessageError) as caught:
        copy_message(message)
    return str(caught.value)


class TestAccepted:
    @given(messages)
    def test_comes_back_equal_with_tuples_as_lists_and_datetimes_as_utc_milliseconds(self, message):
        identifier, body = copy_message(message)
        assert identifier is None
        assert same(body, normal(message))

    @given(messages)
    def test_the_input_is_neither_changed_nor_shared(self, message):
        before = copy.deepcopy(message)
        _, body = copy_message(message)
        assert same(normal(message), normal(before))
        theirs = {id(each) for each in containers(message) if not isinstance(each, tuple)}
        assert theirs.isdisjoint(id(each) for each in containers(body))

    @given(messages)
    def test_a_copy_of_the_copy_is_the_same_and_shares_nothing(self, message):
        _, body = copy_message(message)
        copied = copy_plain(body)
        assert same(copied, body)
        assert {id(each) for each in containers(body)}.isdisjoint(id(each) for each in containers(copied))

    @given(messages)
    def test_what_was_accepted_once_is_accepted_again_as_it_is(self, message):
        _, body = copy_message(message)
        assert same(copy_message(body)[1], body)

    def test_subclasses_become_their_plain_types(self):
        class Colour(enum.StrEnum):
            RED = "red"

        class Size(enum.IntEnum):
            SMALL = 1

        class Flags(enum.IntFlag):
            A = 2

        class Weight(float):
            pass

        class Text(str):
            __slots__ = ()

            def __str__(self):
                return "another text"

        class Stamp(datetime):
            pass

        class Pair(typing.NamedTuple):
            a: int
            b: int

        message = {
            "enum": Colour.RED,
            "int": Size.SMALL,
            "flag": Flags.A,
            "float": Weight(1.5),
            "text": Text("text"),
            "stamp": Stamp(2026, 1, 1, tzinfo=UTC),
            "pair": Pair(1, 2),
            "ordered": collections.OrderedDict(a=1),
            "proxy": types.MappingProxyType({"a": 1}),
            "default": collections.defaultdict(list, a=[1]),
            Text("key"): 1,
        }
        _, body = copy_message(types.MappingProxyType(message))
        assert same(
            body,
            {
                "enum": "red",
                "int": 1,
                "flag": 2,
                "float": 1.5,
                "text": "text",
                "stamp": datetime(2026, 1, 1, tzinfo=UTC),
                "pair": [1, 2],
                "ordered": {"a": 1},
                "proxy": {"a": 1},
                "default": {"a": [1]},
                "key": 1,
            },
        )
        assert {type(key) for key in body} == {str}

    def test_the_least_and_the_greatest(self):
        _, body = copy_message({"a": [2**63 - 1, -(2**63), math.inf, -math.inf, 5e-324, -0.0]})
        assert same(body, {"a": [2**63 - 1, -(2**63), math.inf, -math.inf, 5e-324, -0.0]})
        assert math.isnan(copy_message({"a": math.nan})[1]["a"])

    def test_datetimes_before_1970_are_floored_not_cut(self):
        early = datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
        assert copy_message({"a": early})[1] == {"a": early.replace(microsecond=999_000)}

    def test_both_passes_of_a_fold_are_told_apart(self):
        zone = timezone(timedelta(hours=2))
        assert copy_message({"a": datetime(2026, 10, 25, 2, 30, tzinfo=zone)})[1] == {
            "a": datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
        }

    def test_as_deep_as_is_allowed(self):
        deep = {"a": 1}
        for _ in range(MAX_DEPTH - 1):
            deep = {"a": deep}
        assert copy_message(deep)[1] == deep


class TestRefused:
    @pytest.mark.parametrize("message", [None, "text", 5, [("a", 1)], b"", object])
    def test_what_is_no_mapping(self, message):
        assert refusal(message) == (
            f"A message must be a mapping with str keys, not {type(message).__name__}. "
            f"Wrap the value, as in {{'value': ...}}."
        )

    @pytest.mark.parametrize(
        "value",
        [
            object(),
            1j,
            memoryview(b"a"),
            range(3),
            len,
            ValueError,
            (each for each in ()),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_a_value_of_another_type_with_the_path_to_it(self, value):
        name = type(value).__name__
        assert refusal({"a": [0, {"b": (0, value)}]}) == (
            f"msg['a'][1]['b'][1] is a {name}, which cannot be stored. Accepted are: {ACCEPTED}."
        )

    @pytest.mark.parametrize(
        ("value", "conversion"),
        [
            (uuid.UUID(int=1), "str(value)"),
            (decimal.Decimal("1.5"), "str(value)"),
            (date(2026, 1, 1), "value.isoformat()"),
            (time(1, 2), "value.isoformat()"),
            (timedelta(1), "value.total_seconds()"),
            (enum.Enum("Colour", "RED").RED, "value.value"),
            (Path("a"), "str(value)"),
            ({1, 2}, "list(value)"),
            (frozenset(), "list(value)"),
            (bytearray(b"a"), "bytes(value)"),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_a_value_that_is_easily_converted_with_its_conversion(self, value, conversion):
        assert refusal({"a": value}) == (
            f"msg['a'] is a {type(value).__name__}, which cannot be stored. Convert it, as in {conversion}. Accepted are: {ACCEPTED}."
        )
        copy_message({"a": eval(conversion, {"value": value})})

    @pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**4000], ids=["over", "under", "huge"])
    def test_an_int_beyond_64_bits(self, value):
        assert refusal({"a": {"b": value}}) == (
            "msg['a']['b'] is an int beyond 64 bits. Store it as text, as in str(value)."
        )

    # `x in range(...)` walks the whole range for a subclass of int: with an IntEnum it would never end.
    def test_an_int_of_a_subclass_beyond_64_bits(self):
        class Big(int):
            pass

        assert refusal({"a": Big(2**70)}).startswith("msg['a'] is an int beyond 64 bits.")

    def test_a_naive_datetime(self):
        assert refusal({"a": [datetime(2026, 1, 1)]}) == (
            "msg['a'][0] is a naive datetime. Add its zone, as in .replace(tzinfo=UTC)."
        )

    @pytest.mark.parametrize(
        "value",
        [
            datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
            datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
        ],
    )
    def test_a_datetime_that_has_no_utc(self, value):
        assert refusal({"a": value}) == "msg['a'] is a datetime outside of the years 1 to 9999 in UTC."

    @pytest.mark.parametrize("key", [1, None, b"a", ("a",), 1.5, True])
    def test_a_key_that_is_no_str(self, key):
        assert refusal({"a": [{key: 1}]}) == (
            f"msg['a'][0] has a key of type {type(key).__name__}: {key!r}. Keys must be str."
        )
        assert refusal({key: 1}).startswith("msg has a key of type ")

    def test_a_key_with_nul(self):
        assert refusal({"a": {"b\0c": 1}}) == ("msg['a'] has a key with a NUL character: 'b\\x00c'. Leave it out.")

    def test_lone_surrogates(self):
        assert refusal({"a": ["\ud800"]}) == (
            "msg['a'][0] holds a lone surrogate, so it is no valid text. Store it as bytes."
        )
        assert refusal({"a": {"\udfff": 1}}) == (
            "a key of msg['a'] holds a lone surrogate, so it is no valid text. Leave it out."
        )

    def test_more_levels_than_a_store_takes(self):
        deep = []
        for _ in range(MAX_DEPTH - 1):
            deep = [deep]
        text = refusal({"a": deep})
        assert text.startswith("msg['a'][0][0]")
        assert text.endswith(" is more than 100 levels deep, or a container holds itself. Store it flatter.")
        assert len(text) < 400

    def test_containers_that_hold_themselves(self):
        lists, dicts = [], {}
        lists.append(lists)
        dicts["self"] = dicts
        wide = []
        wide.extend([wide] * 50)
        for value in (lists, dicts, wide):
            assert "a container holds itself" in refusal({"a": value})
        dicts["x"] = dicts
        assert "a container holds itself" in refusal(dicts)

    @pytest.mark.parametrize(
        "value",
        [
            "x" * MAX_MESSAGE_BYTES,
            "ü" * (MAX_MESSAGE_BYTES // 2),
            b"x" * MAX_MESSAGE_BYTES,
            [b"x" * (MAX_MESSAGE_BYTES // 4)] * 4,
            [0] * (MAX_MESSAGE_BYTES // 9 + 1),
        ],
        ids=["text", "utf-8", "bytes", "sum", "many"],
    )
    def test_more_than_a_store_takes(self, value):
        text = refusal({"big": value})
        assert text.startswith(f"The message is larger than {MAX_MESSAGE_BYTES} bytes (at msg['big']")
        assert text.endswith("Store the data elsewhere and a reference to it in the message.")

    def test_one_container_many_times_is_as_large_as_it_comes_out(self):
        shared = ["x" * 1000]
        for _ in range(8):
            shared = [shared] * 10
        assert "is larger than" in refusal({"a": shared})

    def test_a_path_with_long_keys_stays_readable(self):
        text = refusal({"k" * 1000: object()})
        assert len(text) < 300
        assert "kkkk" in text

    @given(
        messages,
        st.sampled_from([object(), 2**64, datetime(2026, 1, 1), {1: "hunter2"}, {"k\0": "hunter2"}, "hunter2\ud800"]),
        st.binary(min_size=8, max_size=8),
    )
    def test_no_error_holds_a_value(self, message, bad, secret):
        marker = "hunter2-" + secret.hex()
        message = {"first": marker, **message, "last": [marker, {"deep": (marker, bad, marker)}]}
        text = refusal(message)
        assert "hunter2" not in text
        assert secret.hex() not in text

    def test_in_no_error_of_an_id_are_other_values(self):
        assert "hunter2" not in refusal({"id": "", "pin": "hunter2"})


class TestId:
    def test_is_taken_out_of_the_message_as_plain_str(self):
        class Text(str):
            __slots__ = ()

        message = {"id": Text("abc"), "foo": 1}
        identifier, body = copy_message(message)
        assert (identifier, type(identifier), body) == ("abc", str, {"foo": 1})
        assert message == {"id": "abc", "foo": 1}

    def test_only_the_outermost_one_is_an_id(self):
        assert copy_message({"a": {"id": 5}}) == (None, {"a": {"id": 5}})

    @pytest.mark.parametrize("value", [5, None, b"abc", uuid.UUID(int=1), True, ["a"], object()])
    def test_that_is_no_str_is_refused_with_the_fix(self, value):
        text = f"The id must be a str, not {type(value).__name__}. Convert it, as in str(order.pk)."
        assert refusal({"id": value}) == text
        with pytest.raises(MessageError) as caught:
            valid_id(value)
        assert str(caught.value) == text

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("", "The id is empty. Give a non-empty str, or leave 'id' out; Pitstop then makes one."),
            ("x" * 513, "The id has 513 characters; at most 512 are kept. Use a hash."),
            ("a\0b", "The id 'a\\x00b' holds NUL or a lone surrogate, which a store cannot keep."),
            ("a\ud800", "The id 'a\\ud800' holds NUL or a lone surrogate, which a store cannot keep."),
        ],
    )
    def test_that_a_store_cannot_keep_is_refused(self, value, text):
        assert refusal({"id": value}) == text

    @pytest.mark.parametrize(
        "value", ["a", " ", "x" * MAX_ID_LENGTH, "ü", "$where", "a.b", '{"$gt": ""}', "../x", "\n"]
    )
    def test_any_other_text_is_data(self, value):
        assert valid_id(value) == value

    def test_a_new_one_is_a_uuid_that_begins_with_the_time(self):
        """RFC 9562, section 5.7, whose appendix A.6 has this time as its example."""
        made = new_id(0x017F22E279B0 * 1000 + 999)
        assert str(uuid.UUID(made)) == made
        assert made.startswith("017f22e2-79b0-7")
        assert (uuid.UUID(made).version, uuid.UUID(made).variant) == (7, uuid.RFC_4122)

    def test_new_ones_of_one_millisecond_differ(self):
        assert len({new_id(0) for _ in range(1000)}) == 1000

    def test_a_later_one_sorts_after_an_earlier_one(self):
        made = [new_id(ms * 1000) for ms in (0, 1, 255, 256, 1_700_000_000_000, 253_402_300_799_999)]
        assert made == sorted(made)

    @pytest.mark.parametrize("now_us", [-1, -(10**15), 1 << 70])
    def test_a_clock_far_from_this_age_gives_an_id_all_the_same(self, now_us):
        assert uuid.UUID(new_id(now_us)).version == 7


class TestTextCodec:
    @given(messages)
    @example({"$bytes": "aGk="})
    @example({"$time": 5})
    @example({"$map": [["a", 1]]})
    @example({"a": {"$map": {"$map": {"$bytes": b"x"}}}})
    @example({"a": {"$map": {"$map": [], "b": {"$time": {"$time": None}}}}})
    @example({"a": {"$bytes": "not base64!"}, "b": [{"$time": "no time"}]})
    @example({"a": '"$bytes"', "b": '{"$map": 1}'})
    @example({"a": datetime(1, 1, 2, tzinfo=UTC), "b": datetime(9999, 12, 30, tzinfo=UTC)})
    def test_every_message_that_may_be_stored_comes_back_the_same(self, message):
        _, body = copy_message(message)
        before = copy_plain(body)
        text = dump_message(body)
        assert same(load_message(text), body)
        assert same(body, before)

    def test_not_a_number_and_the_infinities_come_back(self):
        back = load_message(dump_message({"a": [math.nan, math.inf, -math.inf]}))
        assert math.isnan(back["a"][0])
        assert back["a"][1:] == [math.inf, -math.inf]

    def test_the_written_form(self):
        when = from_instant(1_700_000_000_000)
        assert dump_message({"b": b"hi", "t": when, "u": "ü"}) == (
            '{"b":{"$bytes":"aGk="},"t":{"$time":1700000000000},"u":"ü"}'
        )
        assert dump_message({"m": {"$time": 5}}) == '{"m":{"$map":[["$time",5]]}}'
        assert dump_message({"$set": {"$inc": 1}}) == '{"$set":{"$inc":1}}'
        assert floor_instant(when) == 1_700_000_000_000

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "no json",
            '{"a":{"$bytes":5}}',
            '{"a":{"$bytes":"a"}}',
            '{"a":{"$bytes":"a b="}}',
            '{"a":{"$time":"x"}}',
            '{"a":{"$time":null}}',
            '{"a":{"$time":1e300}}',
            '{"a":{"$time":99999999999999999999}}',
            '{"a":{"$map":5}}',
            '{"a":{"$map":[1]}}',
            '{"a":{"$map":[["a",1,2]]}}',
            '{"a":{"$map":[[[],1]]}}',
            '{"a":' + "[" * 100_000 + "]" * 100_000 + "}",
            '{"$a":' + '{"a":' * 100_000 + "1" + "}" * 100_001,
        ],
        ids=map(str, range(16)),
    )
    def test_what_somebody_damaged_is_a_value_error(self, text):
        with pytest.raises(ValueError):
            load_message(text)

    def test_a_value_that_was_not_validated_is_an_error_not_a_guess(self):
        with pytest.raises(TypeError, match="A set got past the validation of messages"):
            dump_message({"a": {1}})
