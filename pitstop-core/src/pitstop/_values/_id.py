"""Ids of messages: any text of some length, which is data and never a part of a path or a query."""

from __future__ import annotations

import uuid

from pitstop._errors import MessageError
from pitstop._values._bson import utf8_length
from pitstop._values._plain import type_name


__all__ = ["MAX_ID_LENGTH", "new_id", "valid_id"]

#: The most characters of an id. Every backend keeps ids in an index, and index keys should be short.
MAX_ID_LENGTH = 512


def new_id() -> str:
    """Return a new random id (UUID4)."""
    return str(uuid.uuid4())


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
