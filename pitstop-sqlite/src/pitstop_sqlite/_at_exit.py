"""The end of a program that left databases open: their connections are closed, as the program should have done.

From Python 3.13 on a connection that goes away open is a ResourceWarning. And the last connection that is closed writes the
log back to the file, so that it is whole by itself.
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
    """Close the connection of this database at the end of the interpreter, if it is open then.

    A thread that uses the database after that opens another one: it is a daemon, and the program does not wait for it.
    """
    _databases.add(database)


# When this module is imported, and so before anything is registered by a store in use: the last one to be registered is the
# first to be called, and listeners that were not closed write their acks then.
@atexit.register
def _close_all() -> None:
    for database in list(_databases):
        database.rest(_PATIENCE)
