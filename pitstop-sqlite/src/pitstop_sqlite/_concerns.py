"""Risks of a database file that works: its names, its permissions, and the version of SQLite."""

from __future__ import annotations

import os
import sqlite3
import stat

from collections.abc import Iterator
from pathlib import Path

from pitstop_sqlite._file import names_of
from pitstop_sqlite._writing_back import has_reset_bug


__all__ = ["concerns_of"]


def concerns_of(path: str) -> Iterator[str]:
    """Yield one text for each concern, the most urgent first."""
    real = os.path.realpath(path)
    why = names_of(real)
    if why is not None:
        yield f"{path!r} must not be used like this: {why}"
    if os.name == "posix":
        yield from _rights(Path(real))
    if has_reset_bug(sqlite3.sqlite_version_info):
        yield (
            f"SQLite {sqlite3.sqlite_version} has a rare bug, WAL reset, that can damage a file to which several connections write "
            f"(fixed in 3.51.3, 3.50.7 and 3.44.6). Use a Python with a later SQLite: see https://sqlite.org/wal.html#walresetbug"
        )


def _rights(real: Path) -> Iterator[str]:
    try:
        file, folder = real.stat().st_mode, real.parent.stat().st_mode
        closed = any(not each.stat().st_mode & stat.S_IXOTH for each in real.parents)
    except OSError:
        return
    if closed:
        # Other users cannot enter one of the folders above the file.
        return
    may = [what for bit, what in ((stat.S_IROTH, "read"), (stat.S_IWOTH, "change")) if file & bit]
    if may:
        yield (
            f"Every user of this machine can {' and '.join(may)} the messages: the permissions of {str(real)!r} are "
            f"{file & 0o777:04o}. 'chmod o= {real.name}*' takes that right away; a new file begins so with the option mode='0600'."
        )
    if folder & stat.S_IWOTH and not folder & stat.S_ISVTX:
        yield (
            f"Every user of this machine can delete or replace the file: the permissions of its folder {str(real.parent)!r} are "
            f"{folder & 0o777:04o}. Take the right to write from others: 'chmod o-w'."
        )
