"""Sizes of values as BSON writes them."""

from __future__ import annotations


__all__ = ["PER_ELEMENT", "bytes_of_indices", "utf8_length"]

#: The type and the NUL at the end of a key.
PER_ELEMENT = 2


def bytes_of_indices(count: int) -> int:
    """Return the bytes of the keys that BSON writes for this many items: ``"0"``, ``"1"``, …, each with its type and a NUL."""
    total, first, digits = count * PER_ELEMENT, 0, 1
    while first < count:
        after = min(10**digits, count)
        total += (after - first) * digits
        first, digits = after, digits + 1
    return total


def utf8_length(text: str) -> int | None:
    """Return the bytes of a text in UTF-8; None if it holds a lone surrogate."""
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return None
