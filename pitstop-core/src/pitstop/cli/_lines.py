"""Lines of stdin, in batches, as bytes."""

from __future__ import annotations

import codecs
import os
import stat

from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from pitstop import MessageError, PitstopError


__all__ = ["batches", "size_of", "without_mark"]

#: Bytes that are read at once, and lines of a batch. The numbers are large enough for a batch to pay, and small enough to store
#: the first messages while the last are still read.
_READ_SIZE = 1 << 18
_CHUNK = 1000
#: The most bytes of a line. The largest message, with all of it bytes in base64 or escaped text, is well below that.
_LONGEST_LINE = 100 * 1024 * 1024
#: The marks of UTF-32 come first: one of them begins like a mark of UTF-16.
_FOREIGN_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def batches(stdin: BinaryIO) -> Iterator[tuple[list[bytes], int]]:
    """Yield lines as they come, in batches, and the number of bytes that were read for each batch.

    The lines that a slow writer has written so far are a batch of their own: a message does not wait here for others.
    """
    rest = bytearray()
    while data := _read(stdin):
        head, newline, tail = data.rpartition(b"\n")
        lines: list[bytes] = []
        if newline:
            lines = bytes(rest + head).split(b"\n")
            rest = bytearray(tail)
        else:
            rest += data
        if len(rest) > _LONGEST_LINE:
            raise MessageError(f"A line is longer than {_LONGEST_LINE} bytes. Give one JSON object per line.")
        count = max(-(-len(lines) // _CHUNK), 1)
        for index in range(count):
            yield lines[index * _CHUNK : (index + 1) * _CHUNK], len(data) // count
    if rest:
        yield [bytes(rest)], 0


def without_mark(line: bytes) -> bytes:
    """Return the first line without the byte order mark of UTF-8.

    :raises MessageError: if it begins with the mark of another encoding.
    """
    for mark, encoding in _FOREIGN_MARKS:
        if line.startswith(mark):
            raise MessageError(
                f"stdin is {encoding} text: it begins with that byte order mark. Convert it to UTF-8, "
                f"as with 'iconv -f {encoding} -t UTF-8'."
            )
    return line.removeprefix(codecs.BOM_UTF8)


def size_of(stdin: BinaryIO) -> int | None:
    """Return the number of bytes to read, if stdin is a file."""
    try:
        status = os.fstat(stdin.fileno())
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _read(stdin: BinaryIO) -> bytes:
    try:
        return cast("bytes", cast("Any", stdin).read1(_READ_SIZE))
    except OSError as error:
        raise PitstopError(
            f"stdin cannot be read: {error.strerror or error}. Give a file or a pipe, as in 'pitstop store < messages.jsonl'."
        ) from error
