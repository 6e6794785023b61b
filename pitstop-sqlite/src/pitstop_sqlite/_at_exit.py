"""Close the connections of databases that a program left open at its end.

From Python 3.13 on, a connection that is garbage-collected while open causes a ResourceWarning. Also, the last connection
that is closed writes the log back to the file, which is then complete by itself.
"""

from __future__ import annotations

import atexit

from typing import Protocol
from weakref import WeakSet


__all__ = ["close_at_exit"]

#: Seconds that the end of the interpreter waits for a thread that is using a connection.
_PATIENCE = 0.5


class _Resting(Protocol):
    def rest(self, patience: float) -> None: ...


_databases: WeakSet[_Resting] = WeakSet()


def close_at_exit(database: _Resting) -> None:
    """Close this database's connection at the end of the interpreter, if it is open then.

    A thread that uses the database after that opens another connection. It is a daemon thread, and the program does not wait
    for it.
    """
    _databases.add(database)


# This is registered when the module is imported, before a store in use registers any function. The functions are called in
# reverse order, so listeners that were not closed write their acks before this runs.
@atexit.register
def _close_all() -> None:
    for database in list(_databases):
        database.rest(_PATIENCE)
