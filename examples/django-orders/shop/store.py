"""The store of the messages: a table beside those of the models."""

from __future__ import annotations

from functools import cache

from django.db import connection

import pitstop


__all__ = ["pit"]


@cache
def pit() -> pitstop.Pitstop:
    """Return the handle of this process, which all threads share. It connects at its first use, and again after a fork."""
    # Not settings.DATABASES: in tests, the connection has the name of the test database.
    given = connection.settings_dict
    return pitstop.init(
        {
            "type": "postgres",
            "host": given["HOST"],
            "port": given["PORT"],
            "dbname": given["NAME"],
            "user": given["USER"],
            "password": given["PASSWORD"],
            "create": False,  # a migration makes the tables
            "lock_time": "1m",
            "retry": {"delay": "1s"},
        }
    )
