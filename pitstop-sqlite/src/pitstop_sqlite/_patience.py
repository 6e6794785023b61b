"""A connection that waits for the locks of others in many short steps, so that no process is left behind."""

from __future__ import annotations

import random
import sqlite3

from typing import Any

from pitstop import BackendUnavailable
from pitstop.abc import Doorbell, SystemClock
from pitstop_sqlite._failures import is_busy
from pitstop_sqlite._file import DatabaseFile


__all__ = ["PatientConnection"]

#: Seconds between two tries, as a rule. Each wait is longer or shorter by up to half of it, so that waiting connections do not
#: all try at once.
_PAUSE = 0.001


class PatientConnection(sqlite3.Connection):
    """A connection whose :meth:`execute` tries again while another connection is in the way. Open it with ``timeout=0``.

    SQLite's own wait grows from 1 ms to 100 ms. A connection that has waited for long tries seldom, and newcomers get the
    lock. Several processes that drain one file release it for some milliseconds at a time, so one of them could wait for
    seconds. Here all connections try equally often. That costs one try in a millisecond, which takes some microseconds.
    """

    #: Seconds of retries before the error is raised.
    patience: float = 0.0
    #: Why the connection must not be used: it was open when this process was forked. None: it may be used.
    inherited: str | None = None
    #: The files behind the connection, which it gives up when it is closed.
    file: DatabaseFile | None = None

    def close(self) -> None:
        file, self.file = self.file, None
        if file is None:
            super().close()
        else:
            file.close(super().close)

    def execute(self, statement: str, values: Any = (), /) -> sqlite3.Cursor:
        if self.inherited is not None:
            raise BackendUnavailable(self.inherited)
        # A statement that was refused because of a lock has changed nothing.
        try:
            return super().execute(statement, values)
        except sqlite3.Error as error:
            if not is_busy(error) or not self.patience:
                raise
        clock, bell = SystemClock(), Doorbell()
        deadline = clock.monotonic() + self.patience
        while True:
            pause = _PAUSE * random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, hides nothing
            clock.wait(bell, min(pause, deadline - clock.monotonic()))
            last = clock.monotonic() >= deadline
            try:
                return super().execute(statement, values)
            except sqlite3.Error as error:
                if not is_busy(error) or last:
                    raise

    def executemany(self, statement: str, values: Any, /) -> sqlite3.Cursor:
        if self.inherited is not None:
            raise BackendUnavailable(self.inherited)
        return super().executemany(statement, values)
