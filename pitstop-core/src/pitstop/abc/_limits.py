"""Limits of what core gives to a backend: a store must have room for all of them at once."""

from __future__ import annotations

from pitstop._values._message import MAX_ID_LENGTH, MAX_MESSAGE_BYTES, measured_copy


__all__ = ["MAX_ERROR_LENGTH", "MAX_ID_LENGTH", "MAX_MESSAGE_BYTES", "message_size"]

#: Characters of an error that is kept with a message; a longer one is cut.
MAX_ERROR_LENGTH = 2000


def message_size(message: object) -> int:
    """Return the size of a message in bytes, as core counts it: as a document of BSON, its id included.

    :raises pitstop.MessageError: when it cannot be stored.
    """
    _, _, size = measured_copy(message)
    return size
