"""Messages: what may be stored, and the copy of it that is.

The rule is one for all backends, so that a message which is stored in one can be stored in every other, and comes back
equal: values that BSON and JSON would change or refuse in different ways are refused here, with the path to them.
"""

from __future__ import annotations

import uuid

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pitstop._errors import MessageError
from pitstop._values._instant import floor_instant, from_instant


__all__ = ["MAX_DEPTH", "MAX_ID_LENGTH", "MAX_MESSAGE_BYTES", "copy_message", "copy_plain", "new_id", "valid_id"]

#: Levels of lists and mappings. MongoDB refuses documents of 180 levels and more, envelope included.
MAX_DEPTH = 100
#: Characters of an id. Every backend keeps ids in an index, and index keys want to be short.
MAX_ID_LENGTH = 512
#: Rough size of a message. MongoDB refuses documents above 16 MiB; the envelope and the last error need room too.
MAX_MESSAGE_BYTES = 15 * 1024 * 1024

_ACCEPTED = "None, bool, int, float, str, bytes, aware datetime, list, tuple, and mappings with str keys"


def new_id() -> str:
    """A fresh random id (UUID4)."""
    return str(uuid.uuid4())


def valid_id(value: object) -> str:
    """Return ``value`` as a plain ``str`` when it can be an id.

    :raises MessageError: when it is not a ``str``, empty, longer than :data:`MAX_ID_LENGTH`, or holds NUL or a lone
        surrogate, which not every store can keep.
    """
    if not isinstance(value, str):
        raise MessageError(f"The id must be a str, not {type(value).__name__}. Convert it, as in str(order.pk).")
    identifier = str.__str__(value)
    if not identifier:
        raise MessageError("The id is empty. Give a non-empty str, or leave 'id' out to have one made.")
    if len(identifier) > MAX_ID_LENGTH:
        raise MessageError(f"The id has {len(identifier)} characters; at most {MAX_ID_LENGTH} are kept. Use a hash.")
    if "\0" in identifier or _utf8_length(identifier) is None:
        raise MessageError(f"The id {identifier[:64]!a} holds NUL or a lone surrogate, which a store cannot keep.")
    return identifier


def copy_message(message: object) -> tuple[str | None, dict[str, Any]]:
    """Split a message into its id (``None`` when it has none) and a deep copy of the rest, made of plain values.

    Tuples become lists, mappings dicts, datetimes UTC and whole milliseconds (the last one not after it), subclasses
    of the scalar types their base.

    :raises MessageError: for anything that a backend could not give back equal; the text names the path.
    """
    if not isinstance(message, Mapping):
        raise MessageError(
            f"A message must be a mapping with str keys, not {type(message).__name__}. "
            f"Wrap the value, as in {{'value': ...}}."
        )
    # Before the rest: of a UUID as the id it should be said that an id is text, not that a UUID cannot be stored.
    identifier = valid_id(message["id"]) if "id" in message else None
    body = _Walk().copy(message, "msg", 1)
    body.pop("id", None)
    return identifier, body


def copy_plain(value: Any) -> Any:
    """A deep copy of a value that :func:`copy_message` made. Much cheaper than ``copy.deepcopy``."""
    if isinstance(value, dict):
        return {key: copy_plain(item) if isinstance(item, dict | list) else item for key, item in value.items()}
    if isinstance(value, list):
        return [copy_plain(item) if isinstance(item, dict | list) else item for item in value]
    return value


class _Walk:
    """One pass over a message: checks, copies and adds up the size."""

    def __init__(self) -> None:
        self._bytes = 0

    def copy(self, value: Any, path: str, depth: int) -> Any:
        if value is None or value is True or value is False:
            self._grow(2, path)
            return value
        if isinstance(value, str):
            return self._text(value, path)
        if isinstance(value, int):
            if not -(2**63) <= value < 2**63:
                raise MessageError(f"{path} is an int beyond 64 bits. Store it as text, as in str(value).")
            self._grow(9, path)
            return int(value)
        if isinstance(value, float):
            self._grow(9, path)
            return float(value)
        if isinstance(value, bytes):
            self._grow(len(value) + 6, path)
            return bytes(value)
        if isinstance(value, datetime):
            return self._time(value, path)
        if isinstance(value, Mapping):
            self._descend(depth, path)
            return {self._key(key, path): self.copy(item, _step(path, key), depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            self._descend(depth, path)
            return [self.copy(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
        raise MessageError(f"{path} is a {type(value).__name__}, which cannot be stored. Accepted are: {_ACCEPTED}.")

    def _text(self, value: str, path: str) -> str:
        length = _utf8_length(value)
        if length is None:
            raise MessageError(f"{path} holds a lone surrogate, so it is no valid text. Store it as bytes.")
        self._grow(length + 6, path)
        return str.__str__(value)

    def _key(self, key: object, path: str) -> str:
        if not isinstance(key, str):
            raise MessageError(f"{path} has a key of type {type(key).__name__}: {key!r:.80}. Keys must be str.")
        if "\0" in key:
            raise MessageError(f"{path} has a key with a NUL character: {key!r:.80}. Leave it out.")
        return self._text(key, f"a key of {path}")

    def _time(self, value: datetime, path: str) -> datetime:
        if value.utcoffset() is None:
            raise MessageError(f"{path} is a naive datetime. Add its zone, as in .replace(tzinfo=UTC).")
        self._grow(9, path)
        try:
            return from_instant(floor_instant(value))
        except OverflowError:
            raise MessageError(f"{path} is a datetime outside of the years 1 to 9999 in UTC.") from None

    def _descend(self, depth: int, path: str) -> None:
        if depth > MAX_DEPTH:
            raise MessageError(
                f"{path[:200]} is more than {MAX_DEPTH} levels deep, or a container holds itself. Store it flatter."
            )
        self._grow(5, path)

    def _grow(self, size: int, path: str) -> None:
        self._bytes += size
        if self._bytes > MAX_MESSAGE_BYTES:
            raise MessageError(
                f"The message is larger than {MAX_MESSAGE_BYTES} bytes (at {path[:200]}). "
                f"Store the data elsewhere and a reference to it in the message."
            )


def _utf8_length(text: str) -> int | None:
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return None


def _step(path: str, key: object) -> str:
    return f"{path}[{key!r:.80}]"
