"""Limits of the values that core gives to a backend. A store must have room for all of them at once."""

from __future__ import annotations

from pitstop._values._id import MAX_ID_LENGTH
from pitstop._values._kind import MAX_KIND_LENGTH
from pitstop._values._message import MAX_MESSAGE_BYTES, measured_copy


__all__ = ["MAX_ERROR_LENGTH", "MAX_ID_LENGTH", "MAX_KIND_LENGTH", "MAX_MESSAGE_BYTES", "message_size"]

#: The most characters of an error that are kept with a message. A longer error is cut.
MAX_ERROR_LENGTH = 2000


def message_size(message: object) -> int:
    """Return the size of a message in bytes, as core counts it: as a document of BSON, its id included.

    :raises pitstop.MessageError: if it cannot be stored.
    """
    _, _, size = measured_copy(message)
    return size
