"""Values that a store may return changed, and a comparison that notices it."""

from __future__ import annotations

import math
import struct

from collections import OrderedDict
from datetime import UTC, datetime, timedelta, timezone
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

from pitstop.abc import MAX_ERROR_LENGTH, MAX_ID_LENGTH, MAX_MESSAGE_BYTES, message_size


__all__ = ["GIVEN_AND_BACK", "IDS", "LONGEST_ERROR", "LONGEST_ID", "PLAIN", "largest_message", "same"]

#: The longest id, of characters that take four bytes each.
LONGEST_ID = "\U0001f3ce" * MAX_ID_LENGTH
#: The longest error that is kept with a message, likewise.
LONGEST_ERROR = "\U0001f3ce" * MAX_ERROR_LENGTH


def nested(levels: int, inner: Any) -> Any:
    """Return ``inner`` inside this many levels, which are mappings and lists by turns."""
    value = inner
    for level in range(levels):
        value = {"deeper": value} if level % 2 else [value]
    return value


def largest_message(id: str, *, over: int = 0) -> dict[str, Any]:
    """Return the largest message that core accepts for this ``id``, or a message that is ``over`` bytes larger."""
    message: dict[str, Any] = {"id": id, "text": "\u00fc" * 1000, "numbers": list(range(1000)), "blob": b""}
    room = MAX_MESSAGE_BYTES - message_size(message)
    return {**message, "blob": (bytes(range(256)) * (MAX_MESSAGE_BYTES // 256 + 1))[: room + over]}


#: By name: values in the form that a backend gets and returns. Datetimes are in UTC and on whole milliseconds.
PLAIN: dict[str, Any] = {
    "none": None,
    "true": True,
    "false": False,
    "zero": 0,
    "one": 1,
    "minus_one": -1,
    "int32_edge": 2**31,
    "int32_low_edge": -(2**31) - 1,
    "double_exact_edge": 2**53 + 1,
    "int64_max": 2**63 - 1,
    "int64_min": -(2**63),
    "float": 0.1 + 0.2,
    "float_whole": 1.0,
    "float_zero": 0.0,
    "float_minus_zero": -0.0,
    "float_tiny": 5e-324,
    "float_huge": 1.7976931348623157e308,
    "float_beyond_int64": 1e300,
    "inf": math.inf,
    "minus_inf": -math.inf,
    "nan": math.nan,
    "empty_text": "",
    "text_nul": "a\0b",
    "text_controls": "".join(map(chr, range(32))) + "\x7f\x85\u2028\u2029\ufeff",
    "text_quotes": "'\"\\`${}();--/*",
    "text_accents_composed": "\u00e9",
    "text_accents_combining": "e\u0301",
    "text_astral": "\U0001f3ce\ufe0f \U00010348 \U0010ffff",
    "text_right_to_left": "\u05e9\u05dc\u05d5\u05dd \u202e",
    "text_like_number": "0012.50",
    "text_like_null": "null",
    "text_like_date": "2020-01-01T00:00:00Z",
    "text_large": "\u00fc" * 200_000,
    "bytes": b"hi",
    "bytes_empty": b"",
    "bytes_all": bytes(range(256)),
    "bytes_large": bytes(range(256)) * 1000,
    "date": datetime(2024, 2, 29, 12, 30, 15, 123000, tzinfo=UTC),
    "date_epoch": datetime(1970, 1, 1, tzinfo=UTC),
    "date_before_epoch": datetime(1969, 12, 31, 23, 59, 59, 999000, tzinfo=UTC),
    "date_1900": datetime(1900, 1, 1, 0, 0, 0, 1000, tzinfo=UTC),
    "date_first": datetime(1, 1, 1, tzinfo=UTC),
    "date_last": datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC),
    "list_empty": [],
    "list_mixed": [None, True, 1, 1.0, "1", b"1", [], {}, [[]], [{}]],
    "list_of_2000": list(range(2000)),
    "dict_empty": {},
    "dict_key_empty": {"": 1, "inner": {"": {"": None}}},
    "dict_key_dollar": {"$set": {"a": 1}, "$where": "sleep(1)", "$": 0, "a$": 0},
    "dict_key_dot": {"a.b": 1, "a": {"b": 2}, ".": 3, "..": 4, "a.": 5, ".a": 6},
    "dict_key_id": {"_id": 1, "id": 2, "token": 3, "due": 4, "msg": 5},
    "dict_key_number": {"0": "a", "1": "b", "-1": "c"},
    "dict_key_unicode": {"\u00e9": 1, "e\u0301": 2, "\U0001f3ce": 3, "a b": 4, "'\"": 5},
    "dict_like_dbref": {"$ref": "coll", "$id": "x"},
    "dict_like_dbref_with_db": {"$ref": "coll", "$id": 1, "$db": "app", "more": 2},
    "dict_like_oid": {"$oid": "5f5e0f0f0f0f0f0f0f0f0f0f"},
    "dict_like_bytes": {"$bytes": "aGk="},
    "dict_like_malformed_bytes": {"$bytes": 5},
    "dict_like_binary": {"$binary": {"base64": "aGk=", "subType": "00"}},
    "dict_like_date": {"$date": "2020-01-01T00:00:00Z"},
    "dict_like_time": {"$time": 1577836800000},
    "dict_like_map": {"$map": [["$bytes", "aGk="]]},
    "dict_like_map_nested": {"$map": {"$map": [{"$time": 1}]}},
    "dict_like_long": {"$numberLong": "1"},
    "dict_like_regex": {"$regex": "^a", "$options": "i"},
    "dict_like_expression": {"$add": ["$due", 1]},
    "dict_like_variable": {"x": "$$ROOT", "y": "$msg"},
    "dict_of_1000": {f"key{n}": n for n in range(1000)},
    "dict_python": {"__class__": "x", "__proto__": 1, "constructor": 2},
    # The message itself is one of the levels.
    "deep": nested(98, {"end": b"x"}),
}


class _Color(StrEnum):
    RED = "red"


class _Size(IntEnum):
    BIG = 3


class _Text(str):
    """A str whose str() is another text, as that of a lazy translation."""

    __slots__ = ()

    def __str__(self) -> str:
        return "shown"


class _Number(float):
    """A float with a repr of its own, as numpy has."""

    def __repr__(self) -> str:
        return f"number({float.__repr__(self)})"


class _Count(int):
    """An int with a repr of its own."""

    def __repr__(self) -> str:
        return f"count({int.__repr__(self)})"


class _Bytes(bytes):
    """Bytes whose bytes() are others."""

    __slots__ = ()

    def __bytes__(self) -> bytes:
        return b"shown"


class _Moment(datetime):
    """A datetime with a subtraction of its own, as pendulum has."""

    def __sub__(self, other: Any) -> Any:
        return NotImplemented


_PARIS = ZoneInfo("Europe/Paris")
_ODD = timezone(timedelta(hours=5, minutes=45, seconds=7))

#: By name: a value that a user gives, and the value that comes back.
GIVEN_AND_BACK: dict[str, tuple[Any, Any]] = {
    **{name: (value, value) for name, value in PLAIN.items()},
    "tuple_to_list": ((1, (2, ())), [1, [2, []]]),
    "mapping_to_dict": (MappingProxyType({"a": OrderedDict(b=1)}), {"a": {"b": 1}}),
    "str_subclass": (_Text("x"), "x"),
    "str_subclass_as_key": ({_Text("x"): 1}, {"x": 1}),
    "float_subclass": (_Number(0.5), 0.5),
    "int_subclass": (_Count(2**40), 2**40),
    "bytes_subclass": (_Bytes(b"x"), b"x"),
    "date_subclass": (_Moment(2024, 7, 1, 12, tzinfo=_PARIS), datetime(2024, 7, 1, 10, tzinfo=UTC)),
    "str_enum": (_Color.RED, "red"),
    "int_enum": (_Size.BIG, 3),
    "date_summer": (datetime(2024, 7, 1, 12, tzinfo=_PARIS), datetime(2024, 7, 1, 10, tzinfo=UTC)),
    "date_winter": (datetime(2024, 1, 1, 12, tzinfo=_PARIS), datetime(2024, 1, 1, 11, tzinfo=UTC)),
    "date_fold_first": (datetime(2024, 10, 27, 2, 30, tzinfo=_PARIS), datetime(2024, 10, 27, 0, 30, tzinfo=UTC)),
    "date_fold_second": (
        datetime(2024, 10, 27, 2, 30, tzinfo=_PARIS, fold=1),
        datetime(2024, 10, 27, 1, 30, tzinfo=UTC),
    ),
    "date_odd_zone": (datetime(2024, 1, 1, tzinfo=_ODD), datetime(2023, 12, 31, 18, 14, 53, tzinfo=UTC)),
    "date_west": (
        datetime(1969, 12, 31, 20, tzinfo=timezone(timedelta(hours=-8))),
        datetime(1970, 1, 1, 4, tzinfo=UTC),
    ),
    "date_floored": (
        datetime(2024, 1, 1, 0, 0, 0, 999_999, tzinfo=UTC),
        datetime(2024, 1, 1, 0, 0, 0, 999_000, tzinfo=UTC),
    ),
    "date_floored_before_epoch": (
        datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC),
    ),
    "date_floored_to_before_epoch": (
        datetime(1969, 12, 31, 23, 59, 59, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 0, tzinfo=UTC),
    ),
}

#: Ids that a careless store mistakes for patterns, operators, numbers or other ids.
IDS: list[str] = [
    "a",
    "A",
    "a ",
    " a",
    "0",
    "00",
    "1.0",
    "null",
    "None",
    "$where",
    "$ne",
    "$gt",
    '{"$gt": ""}',
    "{'$ne': null}",
    "a.b",
    ".",
    "$",
    "%",
    "_",
    "*",
    "?",
    "[a-z]",
    "^.*$",
    "' OR 1=1 --",
    '"; DROP TABLE messages; --',
    "\\",
    "a:b",
    "a/b?c=d#e",
    "line\nbreak",
    "\u00e9",
    "e\u0301",
    "\u00c9",
    "\uffee",
    "\U0001f3ce",
    "\U0010ffff",
    "5f5e0f0f0f0f0f0f0f0f0f0f",
    "00000000-0000-4000-8000-000000000000",
    "x" * 512,
    "\U0001f3ce" * 512,
]


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal in value and type on all levels: 1 is neither True nor 1.0, NaN is NaN, -0.0 is not 0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return bool(math.isnan(left) and math.isnan(right)) or struct.pack("d", left) == struct.pack("d", right)
    if isinstance(left, datetime):
        return bool(left == right and left.utcoffset() == right.utcoffset())
    return bool(left == right)
