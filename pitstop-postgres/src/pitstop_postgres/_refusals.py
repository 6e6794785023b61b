"""Refusals: records that the server does not let this backend write, and batches in which there are some.

A trigger, a constraint or a policy that an administrator gave the table may refuse a row: by an error, which undoes the statement
with all its rows, or without a word, if a trigger returns NULL. Such a row stays as it is. The others go on.
"""

from __future__ import annotations

import logging

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import psycopg

from pitstop import BackendUnavailable
from pitstop.abc import Clock, log_fields
from pitstop_postgres._failures import may_be_about_a_row


__all__ = ["SILENT", "Refusals", "apart", "why_of"]

_log = logging.getLogger("pitstop.postgres")

_T = TypeVar("_T")
_R = TypeVar("_R")

#: The most records that are remembered, and the most ids that are logged. Further ones are ignored: if they replaced others, the
#: same records would be tried again and again.
_MOST = 1000
#: Seconds after which a record is tried again.
_AGAIN = 60.0
#: The most ids that a concern names.
_NAMED = 3
SILENT = "a trigger of the table suppresses the write"


class Refusals:
    """The records of this kind that one backend has found. Any thread may use it."""

    def __init__(self, clock: Clock, location: str) -> None:
        self._clock = clock
        self._location = location
        # By id: until when claims skip the record, by the monotonic clock. The mapping is replaced, and never changed.
        self._skipped: Mapping[str, float] = {}
        # Ids that were logged.
        self._logged: set[str] = set()

    def skip(self, id: str, why: str) -> None:
        """Let claims skip a record for a while, and log that once.

        :raises BackendUnavailable: if there are too many of them. Without an error the caller would claim again at once.
        """
        if len(self._skipped) >= _MOST and len(self.ids) >= _MOST:
            raise BackendUnavailable(
                f"PostgreSQL at {self._location} refuses every write to more than {_MOST} of the messages that are due. See "
                f"'pitstop check' for them. Change the triggers, constraints or policies of the table, or remove the messages."
            )
        self._skipped = {**self._skipped, id: self._clock.monotonic() + _AGAIN}
        self.log(id, f"it cannot be leased, because {why}. Claims skip it for a minute, and then again")

    def log(self, id: str, fault: str) -> None:
        """Log the fault of a record, once."""
        if id in self._logged or len(self._logged) >= _MOST:
            return
        self._logged.add(id)
        _log.warning(
            "message %r in %s: %s. Store the message again, remove it, or change the triggers, constraints or policies of the table",
            id,
            self._location,
            fault,
            extra=log_fields("message_refused", backend="postgresql", message_id=id),
        )

    def forget(self, ids: Iterable[str]) -> None:
        """Let these records be claimed again, because they were stored again or removed."""
        if self._skipped:
            gone = set(ids)
            self._skipped = {id: until for id, until in self._skipped.items() if id not in gone}

    @property
    def ids(self) -> list[str]:
        """The ids of the records that claims skip now."""
        if not self._skipped:
            return []
        now = self._clock.monotonic()
        if any(until <= now for until in self._skipped.values()):
            self._skipped = {id: until for id, until in self._skipped.items() if until > now}
        return list(self._skipped)

    def concern(self) -> str | None:
        """Return the text for an operator; None if claims skip no record."""
        ids = self.ids
        if not ids:
            return None
        named = ", ".join(map(ascii, ids[:_NAMED])) + (", …" if len(ids) > _NAMED else "")
        return (
            f"The server refuses every write to {len(ids)} of the messages that are due ({named}), so no listener can get them, and "
            f"they cannot be set aside. Store them again, remove them, or change the triggers, constraints or policies of the table."
        )


def apart(
    items: Sequence[_T], write: Callable[[Sequence[_T]], _R], done: Callable[[_R], None]
) -> list[tuple[_T, psycopg.Error]]:
    """Write a batch of which the server refuses a part, in as few statements as possible. Return the refused items.

    :param write: writes some of the items in one statement. The server refuses all of them or none.
    :param done: is called with each result of ``write``.
    :raises psycopg.Error: any error that says nothing about a row.
    """
    refused: list[tuple[_T, psycopg.Error]] = []
    waiting = [items]
    while waiting:
        some = waiting.pop()
        if not some:
            continue
        try:
            result = write(some)
        except psycopg.Error as error:
            if not may_be_about_a_row(error):
                raise
            if len(some) == 1:
                refused.append((some[0], error))
            else:
                middle = len(some) // 2
                # The first half is written first.
                waiting += [some[middle:], some[:middle]]
        else:
            done(result)
    return refused


def why_of(error: psycopg.Error) -> str:
    """Return the reason of a refusal, for a log. It holds no value of the row."""
    return f"the server refuses to write it (SQLSTATE {error.sqlstate})"
