"""The standard streams of a process that may have been started without some of them.

Services, cron jobs and ``>&-`` close streams. Python then has None for a stream. Worse, the next file or socket that is
opened takes the descriptor of the missing stream, and log lines are written into it. So :func:`prepare` fills each place
before anything else is opened.
"""

from __future__ import annotations

import io
import os
import select
import sys

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


__all__ = ["StdoutFailed", "discard_stdout", "is_closed", "prepare", "though_unread", "unwritten"]

_NAMES = ("stdin", "stdout", "stderr")


class StdoutFailed(Exception):
    """A write to stdout failed: its reader has gone away, or its disk is full."""

    def __init__(self, error: OSError) -> None:
        super().__init__(
            f"stdout cannot be written: {error.strerror or error}. Make room there, or send the output elsewhere."
        )
        #: Whether the reader of a pipe has gone away, as ``head -1`` does. The command does not complain about that.
        self.unread = isinstance(error, BrokenPipeError)


def prepare() -> None:
    """Open the missing streams on the null device. :func:`is_closed` still names them.

    After this, a failing write to stdout raises :class:`StdoutFailed`, in click and rich as well. A failing write to stderr is
    dropped, because there is no place left to complain. Both streams escape characters that their encoding does not have.
    Reads and writes wait if a stream is non-blocking.
    """
    for number, name in enumerate(_NAMES):
        if not _is_open(number):
            _fill(number)
        if getattr(sys, name) is None:
            _closed.add(name)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))
    sys.stdin = _over(sys.stdin, _Input)
    sys.stdout = _over(sys.stdout, _Output)
    sys.stderr = _over(sys.stderr, _Errors)


def is_closed(name: str) -> bool:
    """Whether ``stdin``, ``stdout`` or ``stderr`` was closed when the process began."""
    return name in _closed


def discard_stdout() -> None:
    """Drop all writes to stdout from now on, also of text that is still in a buffer when the program ends."""
    raw = _raw(sys.stdout)
    if isinstance(raw, _Output):
        raw.discards = True


@contextmanager
def though_unread() -> Iterator[None]:
    """Print an outcome without stopping the work if stdout fails: the command goes on, and prints nothing more.

    At the end of the command, :func:`unwritten` returns the failure.
    """
    try:
        yield
    except StdoutFailed as failure:
        discard_stdout()
        if not failure.unread:
            _failures.append(failure)


def unwritten() -> StdoutFailed | None:
    """Return the failure that :func:`though_unread` noted, and forget it."""
    return _failures.pop() if _failures else None


_closed: set[str] = set()
_failures: list[StdoutFailed] = []


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _fill(number: int) -> None:
    found = os.open(os.devnull, os.O_RDWR)
    if found == number:
        os.set_inheritable(found, True)
    else:
        os.dup2(found, number)
        os.close(found)


def _over(stream: Any, layer: type[_Layer]) -> Any:
    """Return a text stream like ``stream`` with ``layer`` between buffers and file; a stream in memory stays as it is."""
    raw = _raw(stream)
    if raw is None or isinstance(raw, _Layer):
        return stream
    if layer is not _Input:
        stream.flush()
    through = layer(raw, stream)
    buffered = io.BufferedReader(through) if layer is _Input else io.BufferedWriter(through)
    return io.TextIOWrapper(
        buffered,
        encoding=stream.encoding,
        errors=stream.errors if layer is _Input else "backslashreplace",
        line_buffering=stream.line_buffering or layer is _Errors,
    )


def _raw(stream: Any) -> io.RawIOBase | None:
    buffered = getattr(stream, "buffer", None)
    raw = getattr(buffered, "raw", buffered)
    return raw if isinstance(raw, io.RawIOBase) else None


class _Layer(io.RawIOBase):
    """A layer over the file of a standard stream, which it does not close."""

    def __init__(self, file: Any, owner: Any) -> None:
        self._file = file
        # Kept, because a text stream closes its file when it is garbage-collected.
        self._owner = owner

    def fileno(self) -> int:
        return int(self._file.fileno())

    def isatty(self) -> bool:
        return bool(self._file.isatty())

    def readable(self) -> bool:
        return isinstance(self, _Input)

    def writable(self) -> bool:
        return not self.readable()

    def _write(self, data: ReadableBuffer) -> int:
        while (written := self._file.write(data)) is None:
            # Another process has made the shared terminal or pipe non-blocking.
            select.select([], [self._file], [])
        return int(written)


class _Input(_Layer):
    def readinto(self, buffer: WriteableBuffer) -> int:
        while (read := self._file.readinto(buffer)) is None:
            # The stream is non-blocking, as above. Buffered readers take "nothing yet" for the end.
            select.select([self._file], [], [])
        return int(read)


class _Output(_Layer):
    discards = False

    def write(self, data: ReadableBuffer) -> int:
        if not self.discards:
            try:
                return self._write(data)
            except OSError as error:
                raise StdoutFailed(error) from error
        return memoryview(data).nbytes


class _Errors(_Layer):
    def write(self, data: ReadableBuffer) -> int:
        try:
            return self._write(data)
        except OSError:
            return memoryview(data).nbytes
