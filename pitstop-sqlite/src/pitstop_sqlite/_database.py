"""One connection to the file: opened, guarded, closed before forks, with its errors translated."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import sys
import weakref

from datetime import timedelta
from functools import cache
from pathlib import Path
from threading import RLock
from types import TracebackType

from pitstop import BackendUnavailable, ConfigError, OutcomeUnknown
from pitstop.abc import Clock, Turn, log_fields
from pitstop_sqlite._at_exit import close_at_exit
from pitstop_sqlite._config import Synchronous
from pitstop_sqlite._descriptors import opening
from pitstop_sqlite._failures import in_our_words
from pitstop_sqlite._file import DatabaseFile, in_use_elsewhere
from pitstop_sqlite._patience import PatientConnection
from pitstop_sqlite._schema import Missing, missing
from pitstop_sqlite._schema import create as create_tables
from pitstop_sqlite._writing_back import WritingBack, has_reset_bug


__all__ = ["Database"]

_log = logging.getLogger("pitstop.sqlite")

#: The first version with STRICT tables.
_LEAST_SQLITE = (3, 37, 0)
#: The most bytes that the log keeps on disk after a checkpoint. Space that a burst needed beyond that is given back.
_LOG_LIMIT = 64 * 1024 * 1024
#: Bytes of a page, in a file that is made here. Ids are random, so in a large store each message touches its own page of the
#: ids' index. That whole page is written to the log, and from the log to the file. A page half as large as SQLite's own 4,096
#: bytes halves these writes.
_PAGE = 2048
#: Bytes of the log before its pages are written back. SQLite's own limit of 1,000 pages is reached after a few batches.
_LOG = 32 * 1024 * 1024
#: The most KiB of pages that are kept in memory. In a large store a batch touches more than SQLite's own 2,000 KiB. Its pages
#: would then be written to the log, and read again, before the batch is done.
_CACHE = 16 * 1024

#: Why a child of a fork must not use a file.
_INHERITED = (
    "It is the child of a fork, and has inherited an open connection to the file, beside which SQLite would take no locks: "
    "the fork happened in the middle of a call of Pitstop (in a signal handler), or in code that does not run Python's "
    "hooks before a fork. Fork with os.fork() or multiprocessing outside of a call; or open the file in the child alone."
)


class Database:
    """A connection for one thread at a time: ``with database.turn.lock, database.turn.call(), database as connection:``.

    If the block raises while a transaction is open, the transaction is rolled back. An error of SQLite's leaves the block as a
    :class:`pitstop.PitstopError`. Statements outside of ``BEGIN`` commit by themselves. Texts are read as bytes, so that
    a row with an invalid text does not hide the rows around it.

    ``__enter__`` does not take the lock. Ctrl-C may interrupt Python code at any step, also between the taking of the lock
    and the block that gives it back. A ``with`` of a lock has no such step.

    Before a fork the connection is closed. Parent and child open the file anew at their next use. SQLite keeps locks and the
    index of the log per process and inode, in memory that a child inherits. Beside an inherited connection, no connection of
    the child takes locks of its own. So a child that has inherited a connection nevertheless must not use the file.
    """

    def __init__(
        self,
        path: str,
        synchronous: Synchronous,
        busy_timeout: timedelta,
        clock: Clock,
        *,
        mode: int | None = None,
        create: bool = True,
    ) -> None:
        if sqlite3.sqlite_version_info < _LEAST_SQLITE:
            least = ".".join(map(str, _LEAST_SQLITE))
            raise ConfigError(
                f"Python's sqlite3 is linked with SQLite {sqlite3.sqlite_version}; Pitstop needs {least} or later. "
                f"Use a Python with a later SQLite."
            )
        self.path = path
        self._synchronous = synchronous
        self._busy_timeout = busy_timeout
        self._clock = clock
        self._mode = mode
        self._create = create
        # Whether the log was deleted under the connection, which was then closed.
        self._lost_its_log = False
        # Belongs to the connection that is open.
        self._writing_back: WritingBack | None = None
        #: How often the file was opened. The numbers that SQLite counts per connection begin anew each time.
        self.opened = 0
        self._pid = os.getpid()
        self._closed = False
        self._connection: PatientConnection | None = None
        #: To be held by the thread that uses the connection. A fork waits for that thread.
        self.turn = Turn(before_fork=self._before_fork, after_fork=self._after_fork)
        with self.turn.lock, self.turn.call():
            self._connection = self._open(first=True)
        close_at_exit(self)

    @property
    def lock(self) -> RLock:
        """The lock of :attr:`turn`."""
        return self.turn.lock

    def glance(self, statement: str) -> int | None:
        """Return the one number that a statement reads; None at once if the connection is in use, or closed.

        :raises BackendUnavailable: if SQLite fails.
        """
        lock = self.turn.lock
        if not lock.acquire(blocking=False):
            return None
        try:
            if self._connection is None:
                if self._closed:
                    return None
                # The connection was closed for a fork.
                self._connection = self._open_again()
            (number,) = self._connection.execute(statement).fetchone()
        except sqlite3.Error as error:
            raise in_our_words(error, self.path, self._busy_timeout, opening=False) from error
        finally:
            lock.release()
        return int(number)

    def verify(self, *, names: bool = False) -> None:
        """Raise if the files at the path are no longer those that the connection writes to. The next use opens the new files.

        The thread that holds the lock calls this after a commit, before it reports the commit. It also writes the log back if
        the log is long.

        :param names: whether to search for further names of the file as well.
        :raises BackendUnavailable: if the file was deleted or replaced.
        :raises OutcomeUnknown: if the file's log was deleted.
        """
        connection = self._connection
        if connection is None or connection.file is None:
            return
        if not connection.file.is_in_place:
            problem = connection.file.problem(lambda: _try_to_write_back(connection))
            self._connection, self._lost_its_log = None, isinstance(problem, OutcomeUnknown)
            _let_go(connection)
            raise problem
        if self._writing_back is not None:
            self._writing_back.after_commit(connection)
        if names and (why := connection.file.links) is not None:
            raise BackendUnavailable(f"{self.path!r} cannot be used any more: {why}")

    def close(self) -> None:
        """Close the connection as soon as no thread uses it. A second call does nothing.

        :raises BackendUnavailable: if SQLite fails.
        """
        with self.turn.lock, self.turn.call():
            self._notice_fork()
            self._closed = True
            connection, self._connection = self._connection, None
            if connection is not None:
                try:
                    _let_go(connection)
                except sqlite3.Error as error:
                    raise in_our_words(error, self.path, self._busy_timeout, opening=False) from error

    def rest(self, patience: float) -> None:
        """Close the connection until the next use, unless it stays in use for ``patience`` seconds."""
        lock = self.lock
        if not lock.acquire(timeout=patience):
            return
        try:
            self._notice_fork()
            connection, self._connection = self._connection, None
            if connection is not None:
                # An error here loses nothing: all commits are in the file or in its log.
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
        finally:
            lock.release()

    def __enter__(self) -> sqlite3.Connection:
        self._notice_fork()
        if self._connection is not None and self._connection.in_transaction:
            # An interruption of `__exit__` left the transaction open.
            self._roll_back(self._connection)
        if self._connection is None:
            self._connection = self._open_again()
        return self._connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._connection is not None and self._connection.in_transaction:
            self._roll_back(self._connection)
        if isinstance(error, sqlite3.Error):
            raise in_our_words(error, self.path, self._busy_timeout, opening=False) from error

    def _before_fork(self) -> None:
        """Close the connection. If that fails, the child notices that it has inherited one."""
        connection, inherited = self._connection, self._connection
        if connection is None:
            return
        try:
            # The last connection of the file writes the log back here. That is cheaper than SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE,
            # with which the next opener of the file has to read the whole log.
            connection.close()
            inherited = None
        except sqlite3.Error as error:
            text = "%s could not be closed before a fork, so that the child cannot use it: %s"
            _log.warning(text, self.path, error, extra=log_fields("not_closed_before_fork", backend="sqlite"))
        finally:
            self._connection = inherited

    def _notice_fork(self) -> None:
        if self._pid != os.getpid():
            # C code forked without running Python's hooks.
            self._after_fork(prepared=False)

    def _after_fork(self, prepared: bool) -> None:
        """In the child, forget a connection of the parent without touching it."""
        self._pid = os.getpid()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.inherited = f"{self.path!r} cannot be used in this process. {_INHERITED}"
            _keep_for_ever(connection)
            _refuse(self.path)

    def _open_again(self) -> PatientConnection:
        if self._closed:
            raise BackendUnavailable(f"{self.path!r} was closed here. Make a new Pitstop with pitstop.init().")
        if self._lost_its_log and in_use_elsewhere(self.path):
            # The others still write to the deleted log. A connection that begins a new log would share its index with theirs.
            raise BackendUnavailable(
                f"The log of {self.path!r} was deleted while it was in use, and others still use the file. Stop all programs that "
                f"have it open, then start them again."
            )
        self._lost_its_log = False
        if not os.path.lexists(self.path):
            raise BackendUnavailable(
                f"{self.path!r} was deleted or moved while it was in use, and no empty file is made in its place. Put the file "
                f"back; or start the program again with a new one."
            )
        try:
            return self._open(first=False)
        except ConfigError as error:
            # The configuration was valid before, so the store is at fault.
            raise BackendUnavailable(str(error)) from error

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        try:
            connection.rollback()
        except sqlite3.Error:
            # Closing rolls back as well. The original error says what is wrong. The next use opens the file anew, or raises
            # the reason why it cannot.
            self._connection = None
            connection.close()

    def _open(self, *, first: bool) -> PatientConnection:
        if _refused and _identity(self.path) in _refused:
            raise BackendUnavailable(f"{self.path!r} cannot be used in this process. {_INHERITED}")
        self.opened += 1
        with opening():
            # Made only at first: a file that is missing later was deleted, and an empty file in its place would hide that.
            return self._connect(create=self._create and first, first=first)

    def _connect(self, *, create: bool, first: bool) -> PatientConnection:
        file = DatabaseFile(self.path, self._mode, create=create)
        try:
            connection = sqlite3.connect(
                self.path,
                timeout=0,
                isolation_level=None,
                check_same_thread=False,
                factory=PatientConnection,
            )
            connection.patience = self._busy_timeout.total_seconds()
            connection.file = file
            # Not run at the end of the interpreter: a daemon thread may still use the connection then.
            weakref.finalize(connection, file.forget).atexit = False
            try:
                frames = self._prepare(connection, create=create)
                file.protect()
                self._writing_back = self._take_turns(connection, frames)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            file.forget()
            raise in_our_words(error, self.path, self._busy_timeout, opening=first) from error
        return connection

    def _take_turns(self, connection: PatientConnection, frames: int) -> WritingBack | None:
        """Write the log back together with other processes, if SQLite needs that and the system allows it."""
        if not has_reset_bug(sqlite3.sqlite_version_info):
            return None
        index = None if connection.file is None else connection.file.index
        if index is None or not WritingBack.knows(index):
            _warn_of_the_bug()
            return None
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        return WritingBack(index, frames)

    def _prepare(self, connection: sqlite3.Connection, *, create: bool) -> int:
        """Make the connection ready. Return how many pages the log has before it is written back."""
        connection.text_factory = bytes
        clock = self._clock
        connection.create_function("pitstop_now", 0, lambda: clock.time_us() // 1000)
        # This comes before any write: a file that is not Pitstop's stays as it is.
        if missing(connection, self.path) is Missing.TABLES and not create:
            if self._create:
                raise BackendUnavailable(
                    f"{self.path!r} was replaced by a file without Pitstop's tables while it was in use. Put the right file there; "
                    f"or start the program again, which makes the tables."
                )
            raise ConfigError(
                f"{self.path!r} does not have Pitstop's tables, and none are made here (create=False). Check whether the path is "
                f"right. 'pitstop store' makes the tables, and so does pitstop.init() without create=False."
            )
        connection.execute(f"PRAGMA page_size = {_PAGE}")
        self._use_log(connection)
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_LIMIT}")
        # An existing file keeps its page size.
        (page,) = connection.execute("PRAGMA page_size").fetchone()
        frames: int = _LOG // page
        connection.execute(f"PRAGMA wal_autocheckpoint = {frames}")
        connection.execute(f"PRAGMA cache_size = -{_CACHE}")
        # This only matters on macOS, where a plain fsync leaves the data in the drive's cache.
        connection.execute(f"PRAGMA fullfsync = {int(self._synchronous == 'full')}")
        connection.execute("BEGIN IMMEDIATE")
        if missing(connection, self.path) is not Missing.NOTHING:
            create_tables(connection)
        else:
            # A process without the right to write fails here, not at its first store. (BEGIN does not fail.)
            connection.execute("UPDATE pitstop_meta SET value = value WHERE FALSE")
        connection.execute("COMMIT")
        return frames

    def _use_log(self, connection: sqlite3.Connection) -> None:
        # While several connections turn a new file to WAL, SQLite refuses this statement without any wait of its own.
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != b"wal":
            raise ConfigError(
                f"{self.path!r} cannot be used with a write-ahead log (its journal mode stays {mode.decode()!r}): this "
                f"filesystem has no shared memory, as is usual over a network. Give the path of a file on a local disk."
            )


@cache
def _warn_of_the_bug() -> None:
    _log.warning(
        "SQLite %s has a rare bug that can damage a file to which several connections write, and on this system Pitstop cannot "
        "avoid it. Use a Python with SQLite 3.51.3 or later: https://sqlite.org/wal.html#walresetbug",
        sqlite3.sqlite_version,
        extra=log_fields("sqlite_bug", backend="sqlite"),
    )


def _let_go(connection: PatientConnection) -> None:
    file = connection.file
    if file is not None and not file.is_locked and not file.is_in_place:
        # SQLite would delete the log by its name. By now another log may have that name.
        if sys.version_info >= (3, 12):
            connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
        elif file.is_replaced:
            _keep_for_ever(connection)
            return
    connection.close()


def _try_to_write_back(connection: sqlite3.Connection) -> None:
    with contextlib.suppress(sqlite3.Error):
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


#: Files of which this process has inherited an open connection by a fork.
_refused: set[tuple[int, int] | None] = set()
_kept: list[sqlite3.Connection] = []


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _refuse(path: str) -> None:
    _refused.add(_identity(path))
    _refused.discard(None)


def _keep_for_ever(connection: sqlite3.Connection) -> None:
    # Closing it would write to a log that the parent, or another process, may have begun anew since. At the end of the
    # interpreter modules are emptied, and an object that is then garbage-collected is closed too. One reference too many keeps
    # the connection as it is until the process ends.
    _kept.append(connection)
    with contextlib.suppress(ImportError, AttributeError):
        import ctypes  # noqa: PLC0415 - optional in Python, and needed only here, after a fork

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
