"""Documents as bytes: their fields are found without decoding a value, and filters can repeat such a value unchanged.

A document may contain values that no decoder reads: text that is not UTF-8, or a binary with a wrong length. The server stores
and compares them nevertheless. So a document is found again by the bytes that were read.
"""

from __future__ import annotations

import struct

from collections.abc import Iterable, Iterator

import attrs
import bson

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument


__all__ = [
    "SYMBOL",
    "TEXT",
    "Element",
    "among",
    "any_of",
    "behind",
    "decoded",
    "elements",
    "equal_to",
    "id_document",
    "id_of",
    "is_empty",
    "is_exact",
    "is_text",
    "text",
]

#: The type of a text, and of a symbol, which equals the same text.
TEXT, SYMBOL = 0x02, 0x0E
_NULL, _UNDEFINED, _REGEX = 0x0A, 0x06, 0x0B
_BINARY = 0x05
#: Types with a fixed number of bytes. https://bsonspec.org/spec.html
_FIXED = {0x01: 8, 0x06: 0, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16, 0x7F: 0, 0xFF: 0}
#: Types whose value begins with its number of bytes, and how many bytes that number does not count.
_SIZED = {0x02: 4, 0x03: 0, 0x04: 0, 0x05: 5, 0x0C: 16, 0x0D: 4, 0x0E: 4, 0x0F: 0}
#: The most bytes of a value that a filter repeats. For a longer value the filter gives only the type.
_LONGEST = 4096


@attrs.frozen
class Element:
    """One value of a document: its type and its bytes."""

    kind: int
    value: bytes


def elements(document: bytes | memoryview) -> Iterator[tuple[bytes, Element]]:
    """Return the fields of a document in their order. If a name occurs twice, the server uses the first one.

    :raises ValueError: if the bytes are no document. A server never stores such bytes.
    """
    raw = bytes(document)
    at, end = 4, len(raw) - 1
    while at < end:
        kind, name_end = raw[at], raw.index(b"\0", at + 1)
        name, begin = raw[at + 1 : name_end], name_end + 1
        at = begin + _size(raw, kind, begin)
        if at > end:
            raise ValueError("a value is longer than its document")
        yield name, Element(kind, raw[begin:at])


def _size(raw: bytes, kind: int, begin: int) -> int:
    if kind in _FIXED:
        return _FIXED[kind]
    if kind in _SIZED:
        length: int = struct.unpack_from("<i", raw, begin)[0]
        if length < 0:
            raise ValueError("a value has a negative length")
        return length + _SIZED[kind]
    if kind == _REGEX:
        return raw.index(b"\0", raw.index(b"\0", begin) + 1) + 1 - begin
    raise ValueError(f"a value is of the unknown type {kind}")


def decoded(element: Element, codec: CodecOptions[dict[str, object]]) -> object:
    """Return the value of an element.

    :raises bson.errors.BSONError: if the decoder cannot read it.
    """
    return bson.decode(_document([(b"v", element)]), codec)["v"]


def text(value: str) -> Element:
    """Return the element of a text. A lone surrogate becomes the byte that it was read from."""
    encoded = value.encode("utf-8", "surrogateescape")
    return Element(TEXT, struct.pack("<i", len(encoded) + 1) + encoded + b"\0")


def is_text(value: str) -> bool:
    """Whether the driver can send a text, because it contains no lone surrogate."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def equal_to(element: Element | None) -> RawBSONDocument | dict[str, object]:
    """Return the condition that a field has exactly this value. With None, that it is absent or null."""
    if element is None:
        return {"$eq": None}
    if element.kind == _UNDEFINED or len(element.value) > _LONGEST:
        # The server refuses to compare with undefined.
        return {"$type": element.kind if element.kind != 0xFF else -1}
    return RawBSONDocument(_document([(b"$eq", element)]))


def is_empty(element: Element) -> bool:
    """Whether a value counts as none: null, or the obsolete undefined, which is read as null."""
    return element.kind in (_NULL, _UNDEFINED)


def is_exact(element: Element) -> bool:
    """Whether a filter that repeats the value finds this value alone. Not so a pattern, for example."""
    simple = element.kind in (TEXT, SYMBOL, _BINARY) or element.kind in _FIXED
    return simple and not is_empty(element) and len(element.value) <= _LONGEST


def among(values: Iterable[Element]) -> RawBSONDocument:
    """Return the condition that a field has one of these values."""
    listed = _document([(str(index).encode(), value) for index, value in enumerate(values)])
    return RawBSONDocument(_document([(b"$in", Element(0x04, listed))]))


def any_of(ids: Iterable[str], operator: bytes = b"$in") -> RawBSONDocument:
    """Return the condition that a field has one of these texts, or with ``$nin`` none of them."""
    listed = _document([(str(index).encode(), text(id)) for index, id in enumerate(ids)])
    return RawBSONDocument(_document([(operator, Element(0x04, listed))]))


def behind(id: str) -> RawBSONDocument:
    """Return the condition that a field has a text after this one."""
    return RawBSONDocument(_document([(b"$gt", text(id))]))


def id_of(document: RawBSONDocument) -> Element:
    """Return the ``_id`` of a document. The server stores no document without one."""
    return next(each for name, each in elements(document.raw) if name == b"_id")


def id_document(document: RawBSONDocument) -> RawBSONDocument:
    """Return the document ``{_id: ...}`` of a document, byte for byte."""
    return RawBSONDocument(_document([(b"_id", id_of(document))]))


def _document(fields: Iterable[tuple[bytes, Element]]) -> bytes:
    inner = b"".join(bytes([each.kind]) + name + b"\0" + each.value for name, each in fields)
    return struct.pack("<i", len(inner) + 5) + inner + b"\0"
