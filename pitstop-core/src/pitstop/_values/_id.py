"""Ids of messages: any text of some length, which is data and never a part of a path or a query."""

from __future__ import annotations

import os

from pitstop._errors import MessageError
from pitstop._values._bson import utf8_length
from pitstop._values._plain import type_name


__all__ = ["MAX_ID_LENGTH", "new_id", "new_ids", "valid_id"]

#: The most characters of an id. Every backend keeps ids in an index, and index keys should be short.
MAX_ID_LENGTH = 512


#: The bytes of a UUID that do not say its time. Six of their bits name its version and its variant.
_BELOW_TIME = 10
_TIME = (1 << 48) - 1
#: The digit with the two bits of the variant, by a random digit.
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))


def new_id(now_us: int) -> str:
    """Return a new id: a UUID of version 7 (RFC 9562), which is 48 bits of the time in ms and 74 random bits.

    Ids of one time are neighbours in the index of a store. So a store writes few pages of its index for many messages, and
    the pages are full.

    :param now_us: the time in microseconds since the epoch.
    """
    return _uuid(_time(now_us), os.urandom(_BELOW_TIME).hex())


def new_ids(now_us: int, count: int) -> list[str]:
    """Return as many new ids as :func:`new_id` makes them, in ascending order, so that a store adds them at one place."""
    time, digits, each = _time(now_us), os.urandom(_BELOW_TIME * count).hex(), 2 * _BELOW_TIME
    return sorted([_uuid(time, digits[at : at + each]) for at in range(0, len(digits), each)])


def _time(now_us: int) -> str:
    digits = f"{now_us // 1000 & _TIME:012x}"
    return f"{digits[:8]}-{digits[8:]}"


def _uuid(time: str, random: str) -> str:
    return f"{time}-7{random[1:4]}-{_VARIANT[random[4]]}{random[5:8]}-{random[8:]}"


def valid_id(value: object) -> str:
    """Return ``value`` as a plain ``str`` if it can be an id.

    :raises MessageError: if it is not a ``str``, empty, longer than :data:`MAX_ID_LENGTH`, or holds NUL or a lone
        surrogate, which some stores cannot keep.
    """
    # Checked by the type alone: the `__class__` that isinstance() reads may be code of another library.
    if not issubclass(type(value), str):
        raise MessageError(f"The id must be a str, not {type_name(value)}. Convert it, as in str(order.pk).")
    identifier = str.__str__(value)
    if not identifier:
        raise MessageError("The id is empty. Give a non-empty str, or leave 'id' out; Pitstop then makes one.")
    if len(identifier) > MAX_ID_LENGTH:
        raise MessageError(f"The id has {len(identifier)} characters; at most {MAX_ID_LENGTH} are kept. Use a hash.")
    if "\0" in identifier or utf8_length(identifier) is None:
        raise MessageError(f"The id {identifier[:64]!a} holds NUL or a lone surrogate, which a store cannot keep.")
    return identifier
