"""Messages: the values that may be stored, and the copy that is stored.

All backends share one rule. So a message that one backend stores can be stored in every other, and comes back equal. Values
that BSON and JSON would change, or refuse in different ways, are refused here, with the path to them. The size has one rule as
well: it is counted to the byte as BSON counts it, whatever the backend writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NoReturn, Self

from pitstop._errors import MessageError
from pitstop._values._bson import PER_ELEMENT, bytes_of_indices, utf8_length
from pitstop._values._id import valid_id
from pitstop._values._instant import from_instant
from pitstop._values._plain import Unreadable, as_microseconds, conversion_advice, type_name
from pitstop._values._quoting import quoted


__all__ = [
    "MAX_DEPTH",
    "MAX_MESSAGE_BYTES",
    "copy_message",
    "copy_plain",
    "measured_copy",
]

#: The most levels of lists and mappings. MongoDB refuses documents of 180 levels and more, envelope included.
MAX_DEPTH = 100
#: The largest size of a message as a document of BSON, including its id if it has one. MongoDB refuses documents above 16 MiB,
#: and the envelope and the last error need room too.
MAX_MESSAGE_BYTES = 15 * 1024 * 1024

_LEAST_INT, _GREATEST_INT = -(2**63), 2**63 - 1
#: Integers that BSON writes in four bytes.
_LEAST_SHORT, _GREATEST_SHORT = -(2**31), 2**31 - 1
#: The length and the NUL at the end of a document or an array.
_FRAME = 5
#: The length and the NUL at the end of a text; of bytes, the length and the subtype.
_PER_TEXT = 5
#: Values of BSON that have one size.
_SIZES: dict[type, int] = {type(None): 0, bool: 1, float: 8}
_SCALARS = frozenset({str, int, *_SIZES})
#: The containers of a copied message. A tuple: a union of types would be made anew for each item.
_CONTAINERS = (dict, list)
_DATE = 8
#: The size of a foreign list is checked after this many items, because such a list may have no end.
_STRIDE = 1024
#: Types whose values an error may show when they are given as a key.
_BRIEF = frozenset({type(None), bool, int, float, str, bytes})
_ACCEPTED = "None, bool, int, float, str, bytes, aware datetime, list, tuple, and mappings with str keys"
_REPEATED = "{path} has the key {name!r:.80} more than once. Give each key once, with a list of its values."
_TOO_DEEP = f"{{path}} is more than {MAX_DEPTH} levels deep, or a container holds itself. Store it flatter."


def copy_message(message: object) -> tuple[str | None, dict[str, Any]]:
    """Return a message's id (``None`` if it has none) and a deep copy of the rest, made of plain values.

    Tuples become lists, and mappings become dicts. Datetimes become UTC, cut to whole milliseconds. Instances of subclasses of
    the scalar types become instances of the base type.

    :raises MessageError: for any value that a backend could not give back equal; the text names the path.
    """
    identifier, body, _ = measured_copy(message)
    return identifier, body


def measured_copy(message: object) -> tuple[str | None, dict[str, Any], int]:
    """Copy a message as :func:`copy_message` does. Return also its size as a document of BSON.

    :raises MessageError: as :func:`copy_message`.
    """
    walk = _Walk()
    try:
        # The id comes first: for a UUID as the id, the error says that an id is text, not that a UUID cannot be stored.
        if type(message) is dict:
            given = _given_id(message)
            body = walk.copy_dict(message, 1)
        else:
            given = None
            body = walk.copy_foreign_message(message)
    except _Refused as refused:
        raise MessageError(refused.text()) from None
    identifier = body.pop("id", None)
    if identifier != given:
        # The id is not the one checked above: the message is not a dict, or was changed meanwhile.
        identifier = valid_id(identifier)
    return identifier, body, walk.size


def _given_id(message: dict[Any, Any]) -> str | None:
    try:
        return valid_id(message["id"]) if "id" in message else None
    except (MessageError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - a key that compares by its own code, which may raise anything
        raise _failed(message, error) from None


def copy_plain(value: Any) -> Any:
    """Return a deep copy of a value that :func:`copy_message` made. It is much cheaper than ``copy.deepcopy``."""
    if isinstance(value, dict):
        # Most messages are flat, and a copy of the whole dict is faster than a copy item by item.
        copied = value.copy()
        for key, item in value.items():
            if type(item) not in _SCALARS and isinstance(item, _CONTAINERS):
                copied[key] = copy_plain(item)
        return copied
    if isinstance(value, list):
        return [copy_plain(item) if isinstance(item, _CONTAINERS) else item for item in value]
    return value


class _Refused(Exception):
    """A value that cannot be stored. The path to it is built on the way out, so that only a refusal has that cost."""

    def __init__(self, reason: str, *, about_container: bool = False) -> None:
        """:param about_container: the path ends at the container that is being read, not at one of its items."""
        self._reason = reason
        self._steps: list[str] = []
        self._about_container = about_container

    def within(self, key: str | int) -> Self:
        if self._about_container:
            self._about_container = False
        else:
            self._steps.append(f"[{key!r:.80}]")
        return self

    def text(self) -> str:
        path = "msg" + "".join(reversed(self._steps))
        return self._reason.replace("{path}", path if len(path) <= 200 else f"{path[:200]}…", 1)


class _Walk:
    """One pass over a message that checks, copies and adds up the size.

    Values of Python's own types take the short way, in the two loops of :meth:`copy_dict` and :meth:`_copy_list`. Values of
    all other types go through :meth:`_copy_foreign`, because their code may do anything.
    """

    def __init__(self) -> None:
        #: Bytes of BSON so far. The loops count in a local variable, and write it here before they call.
        self.size = 0

    def copy_dict(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:  # noqa: C901, PLR0912 - calls would cost most of the time
        """Return a copy of a mapping of Python's own type."""
        if depth > MAX_DEPTH:
            raise _Refused(_TOO_DEEP)
        size, limit = self.size + _FRAME, MAX_MESSAGE_BYTES
        copied: dict[str, Any] = {}
        key: Any = ""
        try:
            for key, item in value.items():
                if type(key) is str and key.isascii() and "\0" not in key:
                    size += len(key) + PER_ELEMENT
                else:
                    key, length = _checked_key(key, copied)  # noqa: PLW2901 - the plain text of the key
                    size += length + PER_ELEMENT
                kind = type(item)
                if kind is str:
                    size += (len(item) if item.isascii() else _text_length(item)) + _PER_TEXT
                    copied[key] = item
                    if size > limit:
                        self._refuse(size)
                elif kind is int:
                    size += 4 if _LEAST_SHORT <= item <= _GREATEST_SHORT else _long_length(item)
                    copied[key] = item
                elif kind in _SIZES:
                    size += _SIZES[kind]
                    copied[key] = item
                else:
                    self.size = size
                    copied[key] = self._copy(item, depth)
                    size = self.size
        except _Refused as refused:
            raise refused.within(key) from None
        except RecursionError:
            raise _Refused(_TOO_DEEP) from None
        except RuntimeError:
            raise _Refused(
                "{path} was changed while it was read, perhaps by another thread. Give a copy that only this call uses."
            ) from None
        if len(copied) < len(value):
            _refuse_repeated(value)
        self.size = size
        if size > limit:
            self._refuse(size)
        return copied

    def _copy_list(self, value: Iterable[Any], depth: int, stride: int) -> list[Any]:
        """Return a copy of a list or a tuple.

        :param stride: the size is also checked after this many items; 0: only at the end.
        """
        if depth > MAX_DEPTH:
            raise _Refused(_TOO_DEEP)
        size, limit = self.size + _FRAME, MAX_MESSAGE_BYTES
        copied: list[Any] = []
        append = copied.append
        try:
            for item in value:
                if stride and not len(copied) % stride:
                    self.size = size + bytes_of_indices(len(copied))
                    self._check_size()
                kind = type(item)
                if kind is str:
                    size += (len(item) if item.isascii() else _text_length(item)) + _PER_TEXT
                    if size > limit:
                        self._refuse(size)
                    append(item)
                elif kind is int:
                    size += 4 if _LEAST_SHORT <= item <= _GREATEST_SHORT else _long_length(item)
                    append(item)
                elif kind in _SIZES:
                    size += _SIZES[kind]
                    append(item)
                else:
                    self.size = size
                    append(self._copy(item, depth))
                    size = self.size
        except _Refused as refused:
            raise refused.within(len(copied)) from None
        except RecursionError:
            raise _Refused(_TOO_DEEP) from None
        self.size = size + bytes_of_indices(len(copied))
        self._check_size()
        return copied

    def _copy(self, value: Any, depth: int) -> Any:
        """Return a copy of an item of a container at ``depth`` that the loops have not copied themselves."""
        kind = type(value)
        if kind is dict:
            return self.copy_dict(value, depth + 1)
        if kind is list:
            # A copy is read, because another thread may append to the list faster than this loop reads.
            return self._copy_list(value[:], depth + 1, 0)
        if kind is tuple:
            return self._copy_list(value, depth + 1, 0)
        if kind is bytes:
            return self._copy_bytes(value)
        if kind is datetime:
            return self._copy_time(value)
        try:
            return self._copy_foreign(value, depth)
        except (_Refused, MemoryError):
            raise
        except RecursionError:
            raise _Refused(_TOO_DEEP) from None
        except Exception as error:  # noqa: BLE001 - code of another library's class may raise anything
            raise _failed(value, error) from None

    def _copy_foreign(self, value: Any, depth: int) -> Any:
        """Return a copy of a foreign value, as a value of its base class."""
        if isinstance(value, Mapping):
            return self._copy_mapping(value, depth + 1)
        if isinstance(value, list | tuple):
            return self._copy_list(value, depth + 1, _STRIDE)
        if isinstance(value, bytes):
            return self._copy_bytes(bytes.__bytes__(value))
        if isinstance(value, datetime):
            return self._copy_time(value)
        if isinstance(value, str):
            return self._copy_scalar(str.__str__(value))
        if isinstance(value, int):
            return self._copy_scalar(int.__int__(value))
        if isinstance(value, float):
            return self._copy_scalar(float.__float__(value))
        raise _Refused(
            f"{{path}} is a {type_name(value)}, which cannot be stored. {conversion_advice(value)}Accepted are: {_ACCEPTED}."
        )

    def copy_foreign_message(self, message: object) -> dict[str, Any]:
        """Return a copy of a message that is not a ``dict``."""
        try:
            if isinstance(message, Mapping):
                return self._copy_mapping(message, 1)
        except (_Refused, MessageError, MemoryError):
            raise
        except RecursionError:
            raise _Refused(_TOO_DEEP) from None
        except Exception as error:  # noqa: BLE001 - code of another library's class may raise anything
            raise _failed(message, error) from None
        raise MessageError(
            f"A message must be a mapping with str keys, not {type_name(message)}. Wrap the value, as in {{'value': ...}}."
        )

    def _copy_mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        if depth > MAX_DEPTH:
            raise _Refused(_TOO_DEEP)
        self.size += _FRAME
        copied: dict[str, Any] = {}
        key = ""
        try:
            for given, item in value.items():
                key, length = _checked_key(given, copied)
                self.size += length + PER_ELEMENT
                if depth == 1 and key == "id":
                    item = valid_id(item)  # noqa: PLW2901 - as for a dict: checked before it is refused as a value
                copied[key] = self._copy_scalar(item) if type(item) in _SCALARS else self._copy(item, depth)
                self._check_size()
        except _Refused as refused:
            raise refused.within(key) from None
        return copied

    def _copy_scalar(self, value: Any) -> Any:
        """Return a copy of a value of a type that the loops copy themselves."""
        kind = type(value)
        if kind is str:
            self.size += _text_length(value) + _PER_TEXT
        elif kind is int:
            self.size += 4 if _LEAST_SHORT <= value <= _GREATEST_SHORT else _long_length(value)
        else:
            self.size += _SIZES[kind]
        return value

    def _copy_bytes(self, value: bytes) -> bytes:
        self.size += len(value) + _PER_TEXT
        self._check_size()
        return value

    def _copy_time(self, value: datetime) -> datetime:
        try:
            microseconds = as_microseconds(value)
        except Unreadable as error:
            raise _Refused(
                f"{{path}} is a {type_name(value)} that cannot be read: {error}. Store an aware datetime.datetime."
            ) from None
        if microseconds is None:
            raise _Refused("{path} is a naive datetime. Add its zone, as in .replace(tzinfo=UTC).")
        self.size += _DATE
        try:
            return from_instant(microseconds // 1000)
        except OverflowError:
            raise _Refused("{path} is a datetime outside of the years 1 to 9999 in UTC.") from None

    def _check_size(self) -> None:
        if self.size > MAX_MESSAGE_BYTES:
            self._refuse(self.size)

    def _refuse(self, size: int) -> NoReturn:
        raise _Refused(
            f"The message is larger than {MAX_MESSAGE_BYTES} bytes (at {{path}}: counted as BSON it is {size} bytes up to "
            f"there, and the limit is 15 MiB). Store the data elsewhere and a reference to it in the message."
        )


def _checked_key(key: Any, known: Mapping[str, Any]) -> tuple[str, int]:
    """Return the plain text of a key, and its length in bytes.

    :param known: the keys before this key.
    """
    if not issubclass(type(key), str):
        brief = all(type(each) in _BRIEF for each in (key if type(key) is tuple else (key,)))
        text = f": {quoted(key):.80}" if brief else ""
        raise _Refused(f"{{path}} has a key of type {type_name(key)}{text}. Keys must be str.", about_container=True)
    name = str.__str__(key)
    length = utf8_length(name)
    if length is None:
        raise _Refused(
            "a key of {path} holds a lone surrogate, so it is no valid text. Leave it out.", about_container=True
        )
    if "\0" in name:
        raise _Refused(f"{{path}} has a key with a NUL character: {name!r:.80}. Leave it out.", about_container=True)
    if name in known:
        raise _Refused(_REPEATED.format(path="{path}", name=name), about_container=True)
    return name, length


def _refuse_repeated(mapping: dict[Any, Any]) -> None:
    """Refuse two keys with the same text. They occur if a subclass of ``str`` hashes in its own way."""
    names: set[str] = set()
    for key in list(mapping):
        name = str.__str__(key)
        if name in names:
            raise _Refused(_REPEATED.format(path="{path}", name=name))
        names.add(name)


def _failed(value: object, error: Exception) -> _Refused:
    return _Refused(
        f"{{path}} is a {type_name(value)}, and reading it raised {type_name(error)}. Store a dict, or a value of Python's "
        f"own types, made of it."
    )


def _text_length(text: str) -> int:
    length = utf8_length(text)
    if length is None:
        raise _Refused("{path} holds a lone surrogate, so it is no valid text. Store it as bytes.")
    return length


def _long_length(value: int) -> int:
    if not _LEAST_INT <= value <= _GREATEST_INT:
        raise _Refused("{path} is an int beyond 64 bits. Store it as text, as in str(value).")
    return 8
