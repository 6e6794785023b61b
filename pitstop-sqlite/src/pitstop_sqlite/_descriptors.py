"""Descriptors of this process on a database's files, and locks on them that survive the closing of other descriptors.

POSIX locks belong to a process and a file. When a process closes any descriptor of a file, all its locks on that file are
gone (https://www.sqlite.org/howtocorrupt.html, 2.2). SQLite uses such locks. A program that reads its own database file, for
a checksum or a copy, drops SQLite's locks. The next process that closes the database then deletes the log, which the program
still writes to. The locks here belong to an open file description (``F_OFD_SETLK`` of Linux) and survive that.

This module obeys the same rule: it closes a descriptor only when the process has no other descriptor on the same file.
"""

from __future__ import annotations

import os
import struct
import sys

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from weakref import ref


if sys.platform == "linux":
    import fcntl

__all__ = ["SharedFile", "make_file", "opening", "shared_file"]

#: Whether the layout of ``struct flock`` is known to be that of :data:`_FLOCK`.
_SUPPORTED = sys.platform == "linux" and struct.calcsize("P") == 8
#: l_type, l_whence, l_start, l_len, l_pid (which has to be 0). The zeros at the end are padding, or unused fields that some
#: processors have.
_FLOCK = "hhqqi28x"
_OWN_DESCRIPTORS = "/proc/self/fd"

_Key = tuple[int, int]


class SharedFile:
    """One descriptor of this process on one file. All connections of the process to the file share it."""

    def __init__(self, key: _Key, descriptor: int) -> None:
        self.key = key
        self._pid = os.getpid()
        #: The first descriptor is locked and read. Further ones are left when a file was replaced at the wrong moment. Empty: closed.
        self.descriptors = [descriptor]
        #: The number of connections that use the file. Changed under the module's lock.
        self.users = 0
        # How often each locked range is held. The range is unlocked when its last holder gives it up.
        self._held: dict[tuple[int, int], int] = {}
        # The holder of each exclusive lock. The references are weak, so that a lock left behind by Ctrl-C goes with its owner.
        self._owners: dict[tuple[int, int], ref[object]] = {}

    def share(self, start: int, length: int) -> bool:
        """Take a shared lock on a range. Return False if this system or filesystem cannot, or the range is taken."""
        with _lock:
            if (start, length) in self._owners:
                return False
            held = self._held.get((start, length), 0)
            if not held and not self._set("F_RDLCK", start, length):
                return False
            self._held[start, length] = held + 1
            return True

    def take(self, owner: object, start: int, length: int = 1) -> bool:
        """Take the exclusive lock on a range without waiting. Return False if another owner or process has part of it."""
        with _lock:
            if (start, length) in self._held:
                # The lock may be left from a call that Ctrl-C has cut short, also by an owner that is gone.
                owned = self._owners.get((start, length))
                if owned is None or owned() not in {owner, None}:
                    return False
                self._owners[start, length] = ref(owner)
                return True
            # The note comes first: if Ctrl-C comes in between, the owner still gives up the lock.
            self._held[start, length], self._owners[start, length] = 1, ref(owner)
            if self._set("F_WRLCK", start, length):
                return True
            del self._held[start, length], self._owners[start, length]
            return False

    def give_up(self, start: int, length: int = 1, *, owner: object = None) -> None:
        """Give up a range that :meth:`share` granted, or :meth:`take` granted to this owner. Skip it if another owner has it."""
        with _lock:
            owned = self._owners.get((start, length))
            if (None if owned is None else owned()) is not owner:
                return
            held = self._held.pop((start, length), 0) - 1
            if held > 0:
                self._held[start, length] = held
            else:
                self._owners.pop((start, length), None)
                self._set("F_UNLCK", start, length)

    def read(self, length: int, offset: int) -> bytes:
        """Return bytes of the file; fewer where the file ends, none if it is closed."""
        return os.pread(self.descriptors[0], length, offset) if self.descriptors else b""

    def release(self) -> None:
        """Stop using the file. Its descriptors are closed when no other part of this process has the file open."""
        with _lock:
            self.users -= 1
            _close_unused()

    def release_later(self) -> None:
        """Stop using the file, at any moment. Its descriptors are closed together with the next ones."""
        with _lock:
            self.users -= 1

    def _set(self, kind: str, start: int, length: int) -> bool:
        command: int | None = getattr(fcntl, "F_OFD_SETLK", None) if _SUPPORTED else None
        # The child of a fork shares its parent's locks. It must not give them up, not even if no hook has closed this file.
        if command is None or not self.descriptors or os.getpid() != self._pid:
            return False
        wanted = struct.pack(_FLOCK, getattr(fcntl, kind), os.SEEK_SET, start, length, 0)
        try:
            fcntl.fcntl(self.descriptors[0], command, wanted)
        except OSError:
            return False
        return True


def shared_file(path: str) -> SharedFile | None:
    """Return this process's descriptor on a file; None on systems without these locks.

    :raises OSError: if the file cannot be opened.
    """
    if not _SUPPORTED:
        return None
    with _lock:
        while True:
            file = _files.get(_key(Path(path).stat())) or _opened(os.open(path, os.O_RDWR | os.O_CLOEXEC))
            file.users += 1
            # Without descriptors, a signal handler has just closed the file as unused.
            if file.descriptors:
                return file


def make_file(path: str, mode: int) -> SharedFile | None:
    """Make an empty file with exactly this mode, and return it like :func:`shared_file`.

    :raises FileExistsError: if there is a file at the path.
    :raises OSError: if the file cannot be made.
    """
    with _lock:
        # At no time may others have more rights than `mode` allows, and the umask may have removed some of those.
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL, mode)
        os.fchmod(descriptor, mode)
        if not _SUPPORTED:
            os.close(descriptor)
            return None
        file = _opened(descriptor)
        file.users += 1
        return file


@contextmanager
def opening() -> Iterator[None]:
    """Close no descriptor inside the context. SQLite opens a file there, and its locks would be dropped before they are seen."""
    this = object()
    with _lock:
        _under_way.add(this)
    try:
        yield
    finally:
        with _lock:
            _under_way.discard(this)
            _close_unused()


def _opened(descriptor: int) -> SharedFile:
    key = _key(os.fstat(descriptor))
    found = _files.get(key)
    if found is None:
        found = _files[key] = SharedFile(key, descriptor)
    else:
        found.descriptors.append(descriptor)
    return found


def _close_unused() -> None:
    unused = [each for each in _files.values() if each.users <= 0]
    if not unused or _under_way:
        return
    try:
        elsewhere = _open_elsewhere()
    except OSError:
        # Without /proc the other descriptors are unknown. One open descriptor too many does no harm.
        return
    for each in unused:
        if each.key not in elsewhere and _files.pop(each.key, None) is not None:
            _close(each)


def _close(file: SharedFile) -> None:
    descriptors, file.descriptors = file.descriptors, []
    for each in descriptors:
        os.close(each)


def _open_elsewhere() -> set[_Key]:
    """Return the files of all descriptors of this process that are not in :data:`_files`, such as those of the program's own
    connections to the database.
    """
    ours = {descriptor for each in _files.values() for descriptor in each.descriptors}
    found = set()
    for each in Path(_OWN_DESCRIPTORS).iterdir():
        if int(each.name) not in ours:
            try:
                found.add(_key(os.fstat(int(each.name))))
            except OSError:
                # It was the descriptor that listed the folder, or another thread has closed it.
                continue
    return found


def _key(status: os.stat_result) -> _Key:
    return status.st_dev, status.st_ino


#: The files that are open, and those that are about to be closed.
_files: dict[_Key, SharedFile] = {}
#: The calls of SQLite that are opening a file now.
_under_way: set[object] = set()
#: Reentrant: a signal handler may close a database while the main thread is in here.
_lock = RLock()


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - another thread of the parent may hold it
    _lock = RLock()
    _under_way.clear()
    # The child has no locks yet that this would drop, and the locks of the parent stay.
    for each in list(_files.values()):
        _close(each)
    _files.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
