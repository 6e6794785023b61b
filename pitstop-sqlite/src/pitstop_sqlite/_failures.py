"""Translate SQLite's errors into Pitstop's. This is the only module that reads SQLite's error codes."""

from __future__ import annotations

import os
import sqlite3
import stat

from datetime import timedelta
from pathlib import Path

from pitstop import BackendUnavailable, ConfigError, PitstopError


__all__ = ["in_our_words", "in_words_of_session", "is_busy", "is_of_another_thread"]

#: Bytes. SQLite allows 512 for a path on Unix, and systems allow 255 for a name. "-journal" is appended to both.
_LONGEST_PATH, _LONGEST_NAME = 504, 247
#: The most characters that an error quotes of a path that is too long.
_QUOTED = 200


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection stands in the way, so that a retry may help."""
    return _primary(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}


def in_our_words(error: sqlite3.Error, path: str, busy_timeout: timedelta, *, opening: bool) -> PitstopError:
    """Return the error to raise in place of SQLite's.

    :param opening: whether the file is being opened for the first time. A failure is then the configuration's fault, if the
        configuration names something that cannot be used. Later the same failure is the store's fault.
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
            f"{path!r} is locked: another connection has kept Pitstop out for {busy_timeout.total_seconds():g} s "
            f"(busy_timeout). Nothing was changed. Check for a long transaction, or give a longer busy_timeout. If a transaction of "
            f"this very thread is open on the file, give its connection as session."
        )
    if code == sqlite3.SQLITE_FULL:
        return BackendUnavailable(
            f"{path!r} cannot grow: the disk, or the database's max_page_count, is full. Nothing was changed. "
            f"Free some space; then the program goes on."
        )
    if code == sqlite3.SQLITE_READONLY:
        return BackendUnavailable(
            f"{path!r} cannot be written to ({name}). Nothing was changed. Let this user write to the file and to its "
            f"folder, where SQLite keeps two more files beside it."
        )
    if code == sqlite3.SQLITE_CORRUPT:
        return BackendUnavailable(
            f"{path!r} is damaged ({name}). Stop all programs that use it and keep a copy. Then restore a backup, or the messages "
            f"that the command '.recover' of the sqlite3 shell finds."
        )
    if code in {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOLFS}:
        return BackendUnavailable(
            f"Reading or writing {path!r} failed ({name}). Check the disk and the system's log. "
            f"A network filesystem is not supported."
        )
    return BackendUnavailable(f"SQLite refused to work on {path!r} ({name}): {error}. Nothing was changed.")


def in_words_of_session(error: sqlite3.Error, path: str) -> PitstopError:
    """Return the error to raise in place of SQLite's, for a connection of the application."""
    code, name = _primary(error), getattr(error, "sqlite_errorname", type(error).__name__)
    if code is None and isinstance(error, sqlite3.ProgrammingError):
        if "closed" in str(error):
            return PitstopError("session is a connection that was closed. Open it again, and begin a transaction.")
        return PitstopError(f"session cannot be used: {error}")
    if name == "SQLITE_BUSY_SNAPSHOT":
        return BackendUnavailable(
            f"{path!r} was written by another connection after this transaction had begun to read. Nothing was changed. Roll back, "
            f"and begin again with 'BEGIN IMMEDIATE', which reads only when it may write."
        )
    if is_busy(error):
        return BackendUnavailable(
            f"{path!r} is locked: another connection has kept this transaction out for longer than the timeout of your connection. "
            f"Nothing was changed. Begin with 'BEGIN IMMEDIATE', which waits for the lock before the work; or give sqlite3.connect() "
            f"a longer timeout."
        )
    if code == sqlite3.SQLITE_READONLY:
        return PitstopError(
            "session is a connection that may only read. Nothing was changed. Open one that may write, and without PRAGMA query_only."
        )
    return in_our_words(error, path, timedelta(0), opening=False)


def is_of_another_thread(error: sqlite3.Error) -> bool:
    """Whether a connection was used in another thread than the one that opened it."""
    return isinstance(error, sqlite3.ProgrammingError) and "same thread" in str(error)


def _primary(error: sqlite3.Error) -> int | None:
    # The lowest byte is the primary code, the other bytes give details. https://www.sqlite.org/rescode.html
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _why_not_opened(path: str) -> str:
    # SQLite has one code for all of these causes.
    file = Path(path)
    folder = str(file.parent)
    shown = f"{path[:_QUOTED]!r}" if len(path) <= _QUOTED else f"{path[:_QUOTED]!r}…"
    if len(os.fsencode(path)) > _LONGEST_PATH or len(os.fsencode(file.name)) > _LONGEST_NAME:
        return (
            f"path={shown} is too long. Beside the file SQLite makes others with longer names, so give a path of at most "
            f"{_LONGEST_PATH} bytes, with a name of at most {_LONGEST_NAME}."
        )
    above, found = _look_at(file.parent), _look_at(file)
    if isinstance(above, FileNotFoundError):
        home = "'~' is not expanded: use Path.expanduser(). " if "~" in path else ""
        return f"{path!r} cannot be made: there is no folder {folder!r}. {home}Make the folder first."
    if isinstance(above, NotADirectoryError) or (isinstance(above, int) and not stat.S_ISDIR(above)):
        return f"{path!r} cannot be made: {folder!r} is no folder. Give another path."
    if isinstance(found, int) and stat.S_ISDIR(found):
        return f"{path!r} is a folder. Give the path of a file in it, such as {str(file / 'pitstop.db')!r}."
    if isinstance(found, PermissionError):
        return (
            f"path={path!r} cannot be used: this user may not enter {folder!r}, or a folder above it. Let the user enter all of "
            f"them, and write to {folder!r}, where SQLite keeps two more files; or give another path."
        )
    if isinstance(found, OSError) and not isinstance(found, FileNotFoundError):
        return f"path={path!r} cannot be used: {found.strerror}. Give another path."
    return (
        f"{path!r} cannot be opened. Let this user read and write the file and its folder, where SQLite keeps two more "
        f"files beside it; and check whether the process has too many open files."
    )


def _look_at(file: Path) -> int | OSError:
    """Return the mode of a file, or the error that hides it."""
    try:
        return file.stat().st_mode
    except OSError as error:
        return error
