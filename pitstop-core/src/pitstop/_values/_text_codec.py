"""Messages as JSON text, for backends whose store has no mappings.

JSON has no bytes and no datetimes. They are written as mappings with one reserved key (``{"$bytes": "aGk="}``,
``{"$time": 1700000000000}``). A user's mapping that looks like one of these is wrapped in ``{"$map": ...}``. So every
message that :func:`pitstop._values._message.copy_message` accepts comes back equal. ``NaN`` and the infinities are written
as Python's ``json`` writes them.
"""

from __future__ import annotations

import base64
import binascii
import json

from collections import Counter
from datetime import datetime
from math import isinf
from typing import Any

from pitstop._values._instant import floor_instant, from_instant


__all__ = ["dump_ascii", "dump_message", "dump_sorted", "load_message", "load_written"]

_RESERVED = frozenset({"$bytes", "$time", "$map"})


def dump_message(message: dict[str, Any]) -> str:
    """Return a validated message as JSON text."""
    text = _encoder.encode(message)
    # Nearly no message has such a key. The search costs less than a walk over every message.
    return _encoder.encode(_escape(message)) if '"$' in text else text


def dump_ascii(values: dict[str, Any]) -> str:
    """Return values as :func:`dump_message` does, in ASCII. A lone surrogate becomes an escape, as JSON spells it."""
    text = _ascii_encoder.encode(values)
    return _ascii_encoder.encode(_escape(values)) if '"$' in text else text


def dump_sorted(values: dict[str, Any]) -> str:
    """Return values as :func:`dump_ascii` does, with the keys of all mappings in order: equal values have one text."""
    text = _sorting_encoder.encode(values)
    return _sorting_encoder.encode(_escape(values)) if '"$' in text else text


def load_message(text: str) -> Any:
    """Return the message of a text that :func:`dump_message` returned.

    :raises ValueError: if the text is not JSON, or a reserved mapping in it is malformed.
    """
    decoder = _unescaping_decoder if '"$' in text else _decoder
    try:
        if text.startswith("{"):
            # As it was written, without white space around it. decode() searches for white space twice.
            value, end = decoder.raw_decode(text)
            if end == len(text):
                return value
        return decoder.decode(text)
    except RecursionError:
        raise ValueError("a stored message is nested too deeply") from None


def load_written(text: str) -> Any:
    """Return the message of a text in the same form that a person or another program wrote.

    :raises ValueError: as :func:`load_message`. Also for texts that JSON readers change silently: a key that stands twice
        in one object, and a number beyond the range of float.
    """
    try:
        return _strict_decoder.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _write(value: object) -> dict[str, Any]:
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    if isinstance(value, datetime):
        return {"$time": floor_instant(value)}
    raise TypeError(f"A {type(value).__name__} got past the validation of messages.")


_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_write, check_circular=False)
_ascii_encoder = json.JSONEncoder(separators=(",", ":"), default=_write, check_circular=False)
_sorting_encoder = json.JSONEncoder(separators=(",", ":"), default=_write, check_circular=False, sort_keys=True)


_decoder = json.JSONDecoder()


def _escape(value: Any) -> Any:
    if isinstance(value, dict):
        escaped = {key: _escape(item) for key, item in value.items()}
        return {"$map": list(escaped.items())} if _looks_reserved(value) else escaped
    if isinstance(value, list):
        return [_escape(item) for item in value]
    return value


def _unescape(value: dict[str, Any]) -> Any:
    if not _looks_reserved(value):
        return value
    ((key, content),) = value.items()
    try:
        if key == "$bytes":
            return base64.b64decode(content, validate=True)
        if key == "$time":
            return from_instant(content)
        return dict(content)
    except (TypeError, OverflowError, binascii.Error) as error:
        raise ValueError(f"malformed {key} in a stored message") from error


_unescaping_decoder = json.JSONDecoder(object_hook=_unescape)


def _strict_object(pairs: list[tuple[str, Any]]) -> Any:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError(f"the key {_repeated(pairs)!r:.80} stands twice in one object")
    found = _unescape(value)
    if found is not value and isinstance(found, dict) and len(found) != len(value["$map"]):
        raise ValueError(f"the key {_repeated(value['$map'])!r:.80} stands twice in one $map")
    return found


def _repeated(pairs: list[Any]) -> object:
    counts = Counter(key for key, _ in pairs)
    return counts.most_common(1)[0][0]


def _strict_int(text: str) -> int:
    # int() refuses some thousand digits, with advice for programmers.
    if len(text) > _MOST_DIGITS:
        raise ValueError("a number is beyond 64 bits. Write it as text, in quotes")
    return int(text)


def _strict_float(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise ValueError("a number is beyond the range of float. Write it as text, in quotes")
    return value


#: An int of 64 bits has 19 digits. For an int that is a little longer, the check of the message names the path.
_MOST_DIGITS = 100

_strict_decoder = json.JSONDecoder(object_pairs_hook=_strict_object, parse_int=_strict_int, parse_float=_strict_float)


def _looks_reserved(value: dict[str, Any]) -> bool:
    return len(value) == 1 and not _RESERVED.isdisjoint(value)
