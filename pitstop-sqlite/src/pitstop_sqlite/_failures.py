"""SQLite's errors in Pitstop's words: the one place where its codes are read."""

from __future__ import annotations

import sqlite3

from datetime import timedelta
from pathlib import Path

from pitstop import BackendUnavailable, ConfigError, PitstopError


__all__ = ["in_our_words", "is_busy"]


def is_busy(error: sqlite3.Error) -> bool:
    """Whether it is another connection that stands in the way, which trying again may help."""
    return _primary(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}


def in_our_words(error: sqlite3.Error, path: str, busy_timeout: timedelta, *, opening: bool) -> PitstopError:
    """The error to raise in place of SQLite's.

    :param opening: whether the file is being opened for the first time. What is wrong then is the configuration's
        fault, if it names something that cannot be used; later the same thing is the store's.
    """
    code, name = _primary(error), getattr(error, "sqlite_errorname", type(error).__name__)
    if code == sqlite3.SQLITE_CANTOPEN:
        return (ConfigError if opening else BackendUnavailable)(_why_not_opened(path))
    if code == sqlite3.SQLITE_NOTADB:
        return (ConfigError if opening else BackendUnavailable)(
            f"{path!r} is no SQLite database, or an encrypted one. Give the path of another file, or of a new one."
        )
    if is_busy(error):
        return BackendUnavailable(
            f"{path!r} is locked: somebody else has kept it from being used for {busy_timeout.total_seconds():g} s "
            f"(busy_timeout). Nothing was changed. Look for a long transaction, or give a longer busy_timeout."
        )
    if code == sqlite3.SQLITE_FULL:
        return BackendUnavailable(
            f"{path!r} cannot grow: the disk, or the database's max_page_count, is full. Nothing was changed. "
            f"Free some space; then it goes on."
        )
    if code == sqlite3.SQLITE_READONLY:
        return BackendUnavailable(
            f"{path!r} cannot be written to ({name}). Nothing was changed. Let this user write to the file and to its "
            f"folder, where SQLite keeps two more files beside it."
        )
    if code == sqlite3.SQLITE_CORRUPT:
        return BackendUnavailable(
            f"{path!r} is damaged ({name}). Stop all that use it, keep a copy, and restore a backup, or what the "
            f"command '.recover' of the sqlite3 shell finds."
        )
    if code in {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOLFS}:
        return BackendUnavailable(
            f"Reading or writing {path!r} failed ({name}). Look at the disk and at the system's log. "
            f"A network filesystem is not supported."
        )
    return BackendUnavailable(f"SQLite refused to work on {path!r} ({name}): {error}. Nothing was changed.")


def _primary(error: sqlite3.Error) -> int | None:
    # The lowest byte is the primary code, the others say more. https://www.sqlite.org/rescode.html
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _why_not_opened(path: str) -> str:
    # SQLite has one code for all of these.
    file = Path(path)
    folder = str(file.parent)
    if file.is_dir():
        return f"{path!r} is a folder. Give the path of a file in it, such as {str(file / 'pitstop.db')!r}."
    if not file.parent.exists():
        home = "'~' is not expanded: use Path.expanduser(). " if "~" in path else ""
        return f"{path!r} cannot be made: there is no folder {folder!r}. {home}Make the folder first."
    if not file.parent.is_dir():
        return f"{path!r} cannot be made: {folder!r} is no folder. Give another path."
    return (
        f"{path!r} cannot be opened. Let this user read and write the file and its folder, where SQLite keeps two more "
        f"files beside it; and look whether the process has too many open files."
    )
