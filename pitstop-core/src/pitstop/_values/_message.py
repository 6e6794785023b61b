"""Messages: what may be stored, and the copy of it that is.

The rule is one for all backends, so that a message which is stored in one can be stored in every other, and comes back
equal: values that BSON and JSON would change or refuse in different ways are refused here, with the path to them.
"""

from __future__ import annotations

import uuid

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self

from pitstop._errors import MessageError
from pitstop._values._instant import floor_instant, from_instant


__all__ = ["MAX_DEPTH", "MAX_ID_LENGTH", "MAX_MESSAGE_BYTES", "copy_message", "copy_plain", "new_id", "valid_id"]

#: Levels of lists and mappings. MongoDB refuses documents of 180 levels and more, envelope included.
MAX_DEPTH = 100
#: Characters of an id. Every backend keeps ids in an index, and index keys want to be short.
MAX_ID_LENGTH = 512
#: Rough size of a message. MongoDB refuses documents above 16 MiB; the envelope and the last error need room too.
MAX_MESSAGE_BYTES = 15 * 1024 * 1024

_LEAST_INT, _GREATEST_INT = -(2**63), 2**63 - 1
_AS_THEY_ARE = frozenset({type(None), bool, float})
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
    try:
        body = _Walk().copy(message, 1)
    except _Refused as refused:
        raise MessageError(refused.text()) from None
    body.pop("id", None)
    return identifier, body


def copy_plain(value: Any) -> Any:
    """A deep copy of a value that :func:`copy_message` made. Much cheaper than ``copy.deepcopy``."""
    if isinstance(value, dict):
        return {key: copy_plain(item) if isinstance(item, dict | list) else item for key, item in value.items()}
    if isinstance(value, list):
        return [copy_plain(item) if isinstance(item, dict | list) else item for item in value]
    return value


class _Refused(Exception):
    """A value that cannot be stored. The path to it is put together on the way out, so that only a refusal pays."""

    def __init__(self, reason: str) -> None:
        self._reason = reason
        self._steps: list[str] = []

    def within(self, key: object) -> Self:
        self._steps.append(f"[{key!r:.80}]")
        return self

    def text(self) -> str:
        path = "msg" + "".join(reversed(self._steps))
        return self._reason.replace("{path}", path if len(path) <= 200 else f"{path[:200]}…", 1)


class _Walk:
    """One pass over a message: checks, copies and adds up the size."""

    def __init__(self) -> None:
        self._bytes = 0

    def copy(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind is str:
            return self._text(value)
        if kind is int:
            return self._int(value)
        if kind in _AS_THEY_ARE:
            self._bytes += 9
            return value
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, list | tuple):
            return self._list(value, depth)
        return self._rare(value)

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        self._descend(depth)
        copied = {}
        for key, item in value.items():
            name = self._key(key)
            try:
                copied[name] = self.copy(item, depth + 1)
            except _Refused as refused:
                raise refused.within(key) from None
        self._check_size()
        return copied

    def _list(self, value: list[Any] | tuple[Any, ...], depth: int) -> list[Any]:
        self._descend(depth)
        copied = []
        for index, item in enumerate(value):
            try:
                copied.append(self.copy(item, depth + 1))
            except _Refused as refused:
                raise refused.within(index) from None
        self._check_size()
        return copied

    def _rare(self, value: Any) -> Any:
        if isinstance(value, bytes):
            self._bytes += len(value) + 6
            self._check_size()
            return bytes(value)
        if isinstance(value, datetime):
            return self._time(value)
        if isinstance(value, str):
            return self._text(str.__str__(value))
        if isinstance(value, int):
            return self._int(int(value))
        if isinstance(value, float):
            self._bytes += 9
            return float(value)
        raise _Refused(f"{{path}} is a {type(value).__name__}, which cannot be stored. Accepted are: {_ACCEPTED}.")

    def _text(self, value: str) -> str:
        length = _utf8_length(value)
        if length is None:
            raise _Refused("{path} holds a lone surrogate, so it is no valid text. Store it as bytes.")
        self._bytes += length + 6
        self._check_size()
        return value

    def _int(self, value: int) -> int:
        if not _LEAST_INT <= value <= _GREATEST_INT:
            raise _Refused("{path} is an int beyond 64 bits. Store it as text, as in str(value).")
        self._bytes += 9
        return value

    def _key(self, key: Any) -> str:
        if not isinstance(key, str):
            raise _Refused(f"{{path}} has a key of type {type(key).__name__}: {key!r:.80}. Keys must be str.")
        name = str.__str__(key)
        length = _utf8_length(name)
        if length is None:
            raise _Refused("a key of {path} holds a lone surrogate, so it is no valid text. Leave it out.")
        if "\0" in name:
            raise _Refused(f"{{path}} has a key with a NUL character: {name!r:.80}. Leave it out.")
        self._bytes += length
        return name

    def _time(self, value: datetime) -> datetime:
        if value.utcoffset() is None:
            raise _Refused("{path} is a naive datetime. Add its zone, as in .replace(tzinfo=UTC).")
        self._bytes += 9
        try:
            return from_instant(floor_instant(value))
        except OverflowError:
            raise _Refused("{path} is a datetime outside of the years 1 to 9999 in UTC.") from None

    def _descend(self, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise _Refused(
                f"{{path}} is more than {MAX_DEPTH} levels deep, or a container holds itself. Store it flatter."
            )
        self._bytes += 5

    def _check_size(self) -> None:
        if self._bytes > MAX_MESSAGE_BYTES:
            raise _Refused(
                f"The message is larger than {MAX_MESSAGE_BYTES} bytes (at {{path}}). "
                f"Store the data elsewhere and a reference to it in the message."
            )


def _utf8_length(text: str) -> int | None:
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return None
