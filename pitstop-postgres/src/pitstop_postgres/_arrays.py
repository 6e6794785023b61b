"""Arrays: lists of texts and of integers, as the values of statements in the binary format of PostgreSQL.

The driver finds a type for each list, and dumps each item by a call. A batch has thousands of items, all of one type.
"""

from __future__ import annotations

import struct

from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from typing import Any

import psycopg

from psycopg.abc import AdaptContext, PyFormat
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.types.numeric import Int8BinaryDumper


__all__ = ["adapt"]

#: The types of arrays and of their items, as PostgreSQL numbers them.
_INT8, _INT8S, _TEXT, _TEXTS = 20, 1016, 25, 1009
#: The number of dimensions, whether an item is NULL, the type of the items, their number, and the index of the first one.
_HEAD = struct.Struct(">iiIii")
_LENGTH = struct.Struct(">i")
#: The length that stands for NULL.
_NULL = _LENGTH.pack(-1)
_INT8_LENGTH = 8


class _Texts(Dumper):
    """Dumps a list of texts, or of nothing but None, as ``text[]``."""

    format = Format.BINARY
    oid = _TEXTS

    def dump(self, obj: Sequence[str | None]) -> bytes:
        if None in obj:
            return _head(_TEXT, len(obj), nulls=True) + b"".join(
                [_NULL if each is None else _item(each) for each in obj]
            )
        texts = [each.encode() for each in obj]  # type: ignore[union-attr]
        lengths = map(_LENGTH.pack, map(len, texts))
        return _head(_TEXT, len(obj)) + b"".join(chain.from_iterable(zip(lengths, texts, strict=True)))


class _Integers(Dumper):
    """Dumps a list of integers of 64 bits as ``bigint[]``."""

    format = Format.BINARY
    oid = _INT8S

    def dump(self, obj: Sequence[int | None]) -> bytes:
        if None in obj:
            packed = [_NULL if each is None else _packed((each,)) for each in obj]
            return _head(_INT8, len(obj), nulls=True) + b"".join(packed)
        return _head(_INT8, len(obj)) + _packed(obj)  # type: ignore[arg-type]


class _Lists(Dumper):
    """Finds the dumper of a list by its first item that is not None."""

    format = Format.BINARY

    def __init__(self, cls: type, context: AdaptContext | None = None) -> None:
        super().__init__(cls, context)
        self._dumpers: dict[type, Dumper] = {int: _Integers(cls, context), str: _Texts(cls, context)}

    def get_key(self, obj: Sequence[object], format: PyFormat) -> tuple[type, type]:
        return self.cls, _type_of(obj)

    def upgrade(self, obj: Sequence[object], format: PyFormat) -> Dumper:
        return self._dumpers[_type_of(obj)]

    def dump(self, obj: Any) -> bytes:
        raise NotImplementedError("the driver uses the dumper that upgrade() returns")


def adapt(connection: psycopg.Connection[Any]) -> None:
    """Let a connection dump lists in this way, and all integers with 64 bits, so that each statement is prepared once."""
    connection.adapters.register_dumper(list, _Lists)
    connection.adapters.register_dumper(int, Int8BinaryDumper)


def _type_of(items: Iterable[object]) -> type:
    # A subclass of str is a text, such as an id that store() has returned.
    return int if isinstance(next((each for each in items if each is not None), ""), int) else str


def _head(type: int, count: int, *, nulls: bool = False) -> bytes:
    # An array without items has no dimension.
    return _HEAD.pack(1, nulls, type, count, 1) if count else _HEAD.pack(0, 0, type, 0, 0)[:12]


def _item(text: str) -> bytes:
    encoded = text.encode()
    return _LENGTH.pack(len(encoded)) + encoded


def _packed(numbers: Sequence[int]) -> bytes:
    return struct.pack(">" + "iq" * len(numbers), *chain.from_iterable(zip(repeat(_INT8_LENGTH), numbers)))
