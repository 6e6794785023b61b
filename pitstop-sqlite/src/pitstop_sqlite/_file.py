"""The files of a database: which ones they are, whether they may be used, and whether they are still the files that were opened."""

from __future__ import annotations

import os
import stat

from collections.abc import Callable
from pathlib import Path

from pitstop import BackendUnavailable, ConfigError, OutcomeUnknown
from pitstop_sqlite._descriptors import SharedFile, make_file, shared_file


__all__ = ["DatabaseFile", "in_use_elsewhere", "names_of"]

#: The bytes of the database's file that SQLite shares while a connection is open. It deletes the log only when no other
#: process shares them. https://www.sqlite.org/src/file/src/os.h
_SHARED = (0x40000002, 510)
#: The byte of the log's index that SQLite shares while the index is in use. A process that finds no lock on it begins the
#: index anew. https://www.sqlite.org/src/file/src/os_unix.c
_INDEX_IN_USE = (128, 1)
_LOCKS = (_SHARED, _INDEX_IN_USE)

_MOUNTS = "/proc/self/mountinfo"

_Identity = tuple[int, int]


class DatabaseFile:
    """The files of one connection, from before it is opened until it is closed.

    Call in this order: the constructor, ``sqlite3.connect``, :meth:`protect`, :attr:`is_in_place` at will, :meth:`close`.
    """

    def __init__(self, path: str, mode: int | None, *, create: bool) -> None:
        """Check that the file may be used. Make the file if it is to have a mode of its own.

        :param path: an absolute path.
        :raises ConfigError: if the file must not be used, or if it is missing and must not be made.
        """
        self._path = path
        # SQLite follows links as well, and names the log after the real file.
        real = os.path.realpath(path)
        self._log_path = f"{real}-wal"
        self._index_path = f"{real}-shm"
        self._path_bytes, self._log_path_bytes = os.fsencode(path), os.fsencode(self._log_path)
        #: The file that was opened; None: not yet.
        self._main: _Identity | None = None
        #: The file at the path before SQLite opens it; None: SQLite makes it.
        self._before: _Identity | None = None
        self._log: _Identity | None = None
        self._opened = (0, 0, 0)
        #: The files that are held open until the connection is closed, and their locked ranges.
        self._files: list[SharedFile] = []
        self._locked: list[tuple[SharedFile, int, int]] = []
        if not os.path.lexists(real):
            self._begin(real, mode, create=create)
        else:
            why = names_of(real)
            if why is not None:
                raise ConfigError(f"{path!r} cannot be used: {why}")
            # The file is opened for writing first: overlayfs then makes a copy, which may be another file to stat().
            self._hold(path)
            self._before = _identity(path)

    def protect(self) -> None:
        """Remember which files were opened, and keep other processes from deleting the log. Call it once the log is in use.

        :raises BackendUnavailable: if the file was deleted or replaced meanwhile.
        """
        if os.name != "posix":
            # On other systems closing a descriptor drops no locks, and an open file can be neither deleted nor replaced.
            return
        main = _identity(self._path)
        if main is None or self._before not in {None, main}:
            raise BackendUnavailable(
                f"{self._path!r} was deleted or replaced while it was being opened. Stop all programs that use a file before you replace it; "
                f"then try again."
            )
        self._main, self._log = main, _identity(self._log_path)
        if self._log is not None:
            self._opened = (self._main[1], self._log[1], self._main[0])
        for path, (start, length) in zip((self._path, self._index_path), _LOCKS, strict=True):
            # Without locks, `is_in_place` at least notices the loss of a file.
            file = self._hold(path)
            if file is not None and file.share(start, length):
                self._locked.append((file, start, length))

    @property
    def is_in_place(self) -> bool:
        """False if the files are no longer those that were opened. Check it after each commit: it costs two microseconds."""
        if self._main is None:
            return True
        try:
            main, log = os.stat(self._path_bytes), os.stat(self._log_path_bytes)  # noqa: PTH116 - a Path costs as much again
            return (main.st_ino, log.st_ino, main.st_dev) == self._opened
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            # The program has given up the right to see the files. The open files still serve.
            return True

    def problem(self, checkpoint: Callable[[], object]) -> BackendUnavailable:
        """Return the error to raise for the call that has just ended. It names the file that is not in place.

        :param checkpoint: writes the log back through the connection.
        """
        identity, log = _identity(self._path), _identity(self._log_path)
        if identity is None:
            return BackendUnavailable(
                f"{self._path!r} was deleted or moved while it was in use. This call has no effect, and all messages that are "
                f"stored in that file alone are missing. Put the file back; or stop all programs that use it, and start again with a new one."
            )
        if identity != self._main:
            return BackendUnavailable(
                f"{self._path!r} was replaced while it was in use. This call was made to the earlier file, and has no effect. "
                f"The next call uses the new file. Stop all programs that use a file before you replace it."
            )
        if log is None:
            # The log is still open here. Together with the file it holds all that was stored.
            checkpoint()
        return OutcomeUnknown(
            f"{self._log_path!r}, which belongs to {self._path!r}, was deleted while it was in use: by hand, or by SQLite after this "
            f"program itself had opened and closed the database's file, which drops SQLite's locks. The write of this call may be "
            f"in the file or not. Delete no file that SQLite made, and do not open the database's file in the program."
        )

    @property
    def links(self) -> str | None:
        """Why the file must not be used under its names, as :func:`names_of` returns it."""
        return names_of(os.path.realpath(self._path))

    @property
    def index(self) -> SharedFile | None:
        """The index of the log; None if nothing keeps the log from being deleted."""
        return self._files[-1] if self.is_locked else None

    @property
    def is_locked(self) -> bool:
        """Whether all processes, including the own, are kept from deleting the log."""
        return len(self._locked) == len(_LOCKS)

    @property
    def is_replaced(self) -> bool:
        """Whether the file at the path is another file, or missing."""
        return self._main is not None and _identity(self._path) != self._main

    def close(self, close: Callable[[], None]) -> None:
        """Close the connection by calling ``close``, and give up its locks and descriptors."""
        if self.is_in_place:
            # Unlocked first, so that the last connection to close deletes the log.
            self._unlock()
        try:
            # If still locked, SQLite finds the file locked by this very process. It then does not delete the log of that name.
            close()
        finally:
            self._unlock()
            files, self._files = self._files, []
            for each in files:
                each.release()

    def forget(self) -> None:
        """Give up the files when the garbage collector is about to close the connection. Descriptors are closed later."""
        self._unlock()
        files, self._files = self._files, []
        for each in files:
            each.release_later()

    def _begin(self, real: str, mode: int | None, *, create: bool) -> None:
        if not create:
            raise ConfigError(
                f"There is no file {self._path!r}, and none is made here (create=False). Check whether the path is right. "
                f"'pitstop store' makes a new file, and so does pitstop.init() without create=False."
            )
        if mode is None:
            # SQLite makes the file, with permissions by the umask.
            return
        try:
            file = make_file(real, mode)
        except FileExistsError:
            # Another process was faster. Its mode holds, like the mode of any existing file.
            return
        except OSError:
            # SQLite fails as well, and in_our_words() translates its error.
            return
        if file is not None:
            self._files.append(file)

    def _hold(self, path: str) -> SharedFile | None:
        """Keep a descriptor of a file until the connection is closed. Return None if that is impossible."""
        try:
            file = shared_file(path)
        except OSError:
            return None
        if file is not None:
            self._files.append(file)
        return file

    def _unlock(self) -> None:
        locked, self._locked = self._locked, []
        for file, start, length in locked:
            file.give_up(start, length)


def in_use_elsewhere(path: str) -> bool:
    """Whether a connection of any process is open on the file, while this :class:`Database` has none. False also if unknown."""
    try:
        file = shared_file(path)
    except OSError:
        return False
    if file is None:
        return False
    try:
        return not file.take(file, *_SHARED)
    finally:
        file.give_up(*_SHARED, owner=file)
        file.release()


def names_of(real: str) -> str | None:
    """Return why a file has other names than its path, so that each name would have a log of its own; None if it has no other.

    :param real: the path without links.
    """
    try:
        status = Path(real).stat()
    except OSError:
        return None
    links = status.st_nlink
    if links > 1 and stat.S_ISREG(status.st_mode):
        return (
            f"it has {links} names (hard links). SQLite would keep a log for each name, and messages would be lost. Delete the "
            f"other names (find / -samefile PATH lists them), or make a copy of the file and use that."
        )
    if _is_mounted(real):
        return (
            "the file itself is mounted. SQLite keeps its log beside the file, and on the other side of the mount it would keep "
            "another one, so that messages would be lost. Mount the folder that the file is in."
        )
    return None


def _is_mounted(real: str) -> bool:
    try:
        points = {line.split(b" ", 5)[4] for line in Path(_MOUNTS).read_bytes().splitlines()}
    except (OSError, IndexError):
        return False
    # https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html
    escaped = os.fsencode(real).replace(b"\\", b"\\134").replace(b" ", b"\\040").replace(b"\t", b"\\011")
    return escaped.replace(b"\n", b"\\012") in points


def _identity(path: str) -> _Identity | None:
    try:
        return _which(Path(path).stat())
    except OSError:
        return None


def _which(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino
