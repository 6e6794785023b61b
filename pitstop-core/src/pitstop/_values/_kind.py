"""Kinds: the short text by which listeners choose among the messages of a store."""

from __future__ import annotations

from pitstop._errors import MessageError
from pitstop._values._bson import utf8_length
from pitstop._values._plain import type_name


__all__ = ["MAX_KIND_LENGTH", "OTHERS", "valid_kind"]

#: The most characters of a kind. Backends keep kinds in an index.
MAX_KIND_LENGTH = 64
#: The key that stands for all other kinds where handlers are given by kind.
OTHERS = "*"


def valid_kind(value: object) -> str:
    """Return ``value`` as a plain ``str`` if it can be a kind. The empty text is the kind of messages that were given none.

    :raises MessageError: if it is not a ``str``, longer than :data:`MAX_KIND_LENGTH`, ``"*"``, or holds NUL or a lone surrogate.
    """
    if type(value) is str and not value:
        return value
    if not issubclass(type(value), str):
        raise MessageError(f"The kind must be a str, not {type_name(value)}. Give a short name, as in kind='mail'.")
    kind = str.__str__(value)
    if len(kind) > MAX_KIND_LENGTH:
        raise MessageError(
            f"The kind has {len(kind)} characters; at most {MAX_KIND_LENGTH} are kept. Give a short name, as in kind='mail'."
        )
    if "\0" in kind or utf8_length(kind) is None:
        raise MessageError(f"The kind {kind!a} holds NUL or a lone surrogate, which a store cannot keep.")
    if kind == OTHERS:
        raise MessageError(
            f"kind={OTHERS!r} cannot be stored, because it stands for all other kinds. Give another name."
        )
    return kind
