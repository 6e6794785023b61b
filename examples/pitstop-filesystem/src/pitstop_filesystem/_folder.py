"""The folder: names, files, one lock, and writes that a crash cannot cut in half. This module knows nothing of leases.

::

    lock          empty; every reader and writer holds it
    writing       the file being written; it is moved to messages/ when it is whole
    messages/     one file per message; its name says when it is due
    unreadable/   files of messages/ that cannot be read
    check-…/      such a folder in the folder, while ``pitstop check`` tries things in it
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import logging
import os
import shutil

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from io import BufferedWriter
from pathlib import Path
from typing import NamedTuple

from pitstop import BackendUnavailable, ConfigError, OutcomeUnknown
from pitstop.abc import LAST_INSTANT, Calls, Doorbell, SystemClock, log_fields


__all__ = ["Folder", "Name", "key_of", "take_away"]

_log = logging.getLogger("pitstop.filesystem")

#: Seconds between two tries for a lock that another process has.
_PAUSE = 0.001


def key_of(id: str) -> str:
    """Return the part of a file name that stands for an id. An id may be any text, so it never becomes a part of a path."""
    return hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()


class Name(NamedTuple):
    """The name of a message's file, in its parts. The listing of the folder is the index; there is no other.

    ``due`` stands here and nowhere else, so that no two places can disagree after a crash.
    """

    #: None: the message is dead.
    due: int | None
    #: Grows with each new id, and is kept by updates. It breaks the tie between equal ``due``.
    order: int
    #: Grows with each write of one id. If a crash left two files, the greater number counts.
    change: int
    key: str

    def __str__(self) -> str:
        due = "dead" if self.due is None else f"{self.due:015}"
        return f"{due}-{self.order:015}-{self.change}-{self.key}"

    def next(self, due: int | None) -> Name:
        return Name(due, self.order, self.change + 1, self.key)

    def place(self) -> tuple[bool, int, int]:
        """Return the key to sort by: the oldest ``due`` first, dead messages last."""
        return (self.due is None, self.due or 0, self.order)


# Each operation lists the folder, so nearly all names have been parsed before.
@functools.lru_cache(maxsize=100_000)
def _parse(text: str) -> Name | None:
    """Return the name; None if it is not one of this backend."""
    try:
        due, order, change, key = text.split("-")
        name = Name(None if due == "dead" else int(due), int(order), int(change), key)
    except ValueError:
        return None
    return name if str(name) == text and (name.due or 0) <= LAST_INSTANT else None


class Folder:
    """The messages of a folder: ``with folder.locked() as names: ...``."""

    def __init__(self, path: str, *, sync: bool, busy_timeout: timedelta, create: bool = True) -> None:
        self.path = Path(path).absolute()
        self._lock, self._writing = self.path / "lock", self.path / "writing"
        self._messages, self._unreadable = self.path / "messages", self.path / "unreadable"
        self._pauses = self.path / "paused.json"
        self._sync, self._busy_timeout = sync, busy_timeout
        if not create and not self._messages.is_dir():
            raise ConfigError(
                f"There is no store in {str(self.path)!r}, and none is made here (create=False). Check whether the path is right. "
                f"'pitstop store' makes a new one, and so does pitstop.init() without create=False."
            )
        # A call in a signal handler would wait for the lock of the call that it has interrupted.
        self._calls = Calls()
        try:
            for folder in (self.path, self._messages, self._unreadable):
                if not folder.is_dir():
                    folder.mkdir(exist_ok=True)
                    # The content of a folder is not safe before the folder itself is.
                    self._sync_folder(folder.parent)
            self._lock.touch()
        except OSError as error:
            raise ConfigError(
                f"path={path!r} cannot be used: {error.strerror}. Give a folder that this user may write to; it is made "
                f"if its parent is there."
            ) from error

    @contextmanager
    def locked(self) -> Iterator[dict[str, Name]]:
        """Keep all other threads and processes out, and yield the names by key. One operation is one such block.

        :raises BackendUnavailable: if the lock, the folder or a file cannot be used.
        """
        try:
            # The lock's file is opened anew each time. A lock belongs to an open file, so this separates threads as well as
            # processes, and a forked child shares nothing with its parent. The kernel releases the lock when a process dies.
            with self._calls.enter(), self._lock.open("ab") as lock:
                self._wait_for(lock)
                try:
                    yield self._names()
                finally:
                    # Closing the file is not enough: a child that was forked meanwhile has the same file open.
                    fcntl.flock(lock, fcntl.LOCK_UN)
        except OSError as error:
            raise BackendUnavailable(
                f"{str(self.path)!r} could not be used: {error.strerror}. Nothing was changed. Check the disk, and whether this "
                f"user may write there."
            ) from error

    def read(self, name: Name) -> bytes:
        return (self._messages / str(name)).read_bytes()

    def commit(self, written: Mapping[Name, bytes], gone: Collection[Name], ids: Collection[str] = ()) -> None:
        """Write files, and then remove others. After a kill at any step, each message is whole, old or new.

        :raises OutcomeUnknown: if it fails half way, with these ``ids``.
        """
        begun = False
        try:
            for name, content in written.items():
                # One writer at a time needs one name. The next writer overwrites the file that a killed one left.
                with self._writing.open("wb") as file:
                    file.write(content)
                    file.flush()
                    if self._sync:
                        os.fsync(file.fileno())
                begun = True
                self._writing.rename(self._messages / str(name))
            if written:
                # The new files must be safe before the old files go. Else a power loss could leave neither.
                self._sync_folder(self._messages)
            begun = True
            for name in gone:
                (self._messages / str(name)).unlink(missing_ok=True)
            if gone:
                self._sync_folder(self._messages)
        except OSError as error:
            if not begun:
                raise
            raise OutcomeUnknown(
                f"Writing to {str(self.path)!r} failed half way: {error.strerror}. Some of it may be done. Check the disk; "
                f"then repeat the call with the same ids.",
                ids=tuple(ids),
            ) from error

    def read_pauses(self) -> bytes | None:
        """Return the content of the file of the paused kinds; None if there is none."""
        try:
            return self._pauses.read_bytes()
        except FileNotFoundError:
            return None

    def write_pauses(self, content: bytes) -> None:
        """Replace the file of the paused kinds. After a kill at any step, it is whole, old or new."""
        with self._writing.open("wb") as file:
            file.write(content)
            file.flush()
            if self._sync:
                os.fsync(file.fileno())
        self._writing.rename(self._pauses)
        self._sync_folder(self.path)

    def set_aside(self, name: Name) -> None:
        """Move away a file that does not even tell whose message it is, so that it holds up no other. The file is kept."""
        (self._messages / str(name)).rename(self._unreadable / str(name))
        extra = log_fields("file_unreadable", backend="filesystem")
        _log.warning("%s cannot be read and was moved to %s", name, self._unreadable, extra=extra)

    def _names(self) -> dict[str, Name]:
        newest: dict[str, Name] = {}
        left: list[Name] = []
        with os.scandir(self._messages) as listing:
            found = [name for entry in listing if (name := _parse(entry.name)) is not None]
        for name in found:
            other = newest.setdefault(name.key, name)
            if other is not name:
                # A process was killed after it wrote the new file and before it removed the old one.
                older, newest[name.key] = sorted((other, name), key=lambda each: each.change)
                left.append(older)
        if left:
            self.commit({}, left)
        return newest

    def _wait_for(self, lock: BufferedWriter) -> None:
        # This uses the machine's clock, even if a test has given another one, because it waits for other processes.
        clock, bell = SystemClock(), Doorbell()
        deadline = clock.monotonic() + self._busy_timeout.total_seconds()
        while True:
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if clock.monotonic() >= deadline:
                    raise BackendUnavailable(
                        f"{str(self.path)!r} is locked: another process has kept Pitstop out for "
                        f"{self._busy_timeout.total_seconds():g} s (busy_timeout). Nothing was changed."
                    ) from None
            clock.wait(bell, _PAUSE)

    def _sync_folder(self, folder: Path) -> None:
        # A rename is an entry in a folder. It is on the disk when the folder is.
        if self._sync:
            number = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(number)
            finally:
                os.close(number)


def take_away(path: Path) -> None:
    """Delete a folder with all its content.

    :raises BackendUnavailable: if the system refuses.
    """
    try:
        # The folder may not exist, if it could not be made.
        if path.is_dir():
            shutil.rmtree(path)
    except OSError as error:
        raise BackendUnavailable(
            f"{str(path)!r}, which was made to try things in, cannot be deleted: {error.strerror}. Delete it by hand; it "
            f"holds none of the store's messages."
        ) from error
