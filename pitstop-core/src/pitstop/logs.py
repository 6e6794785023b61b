"""A log line for each event of each message: a plugin for :func:`pitstop.init`.

::

    pit = pitstop.init(url, plugins=[pitstop.logs.MessageLog()])
"""

from __future__ import annotations

import logging

from datetime import datetime, timedelta
from typing import Any

from pitstop._engine._delivery import Delivery
from pitstop._errors import ConfigError
from pitstop._plugins._hookspecs import hookimpl
from pitstop.abc import log_fields


__all__ = ["MessageLog"]

_log = logging.getLogger("pitstop.messages")


class MessageLog:
    """Logs each event of each message to the logger ``pitstop.messages``, with ids and never with contents.

    Give each ``init`` one of its own. The fields of the records are those of all of Pitstop's:
    :func:`pitstop.abc.log_fields`. The names of the events begin with ``message_`` or ``series_``.
    """

    def __init__(self, level: int = logging.INFO) -> None:
        """Return a plugin.

        :param level: the level of the lines, of :mod:`logging`.
        :raises ConfigError: if ``level`` is no whole number.
        """
        if type(level) is not int:
            raise ConfigError(f"level={level!r} cannot be used. Give a number such as logging.INFO.")
        self._level = level
        # Written when the store is opened.
        self._backend: str | None = None

    @hookimpl
    def pitstop_opened(self, pit: Any) -> None:
        self._backend = pit.location.partition(":")[0]

    @hookimpl
    def pitstop_message_stored(self, id: str, kind: str) -> None:
        if _log.isEnabledFor(self._level):
            _log.log(self._level, "stored %r", id, extra=self._fields("message_stored", message_id=id, kind=kind))

    @hookimpl
    def pitstop_message_leased(self, delivery: Delivery, lateness: timedelta | None) -> None:
        if not _log.isEnabledFor(self._level):
            return
        late = None if lateness is None else lateness.total_seconds()
        extra = self._fields(
            "message_delivered",
            message_id=delivery.id,
            kind=delivery.kind,
            attempt=delivery.attempt,
            lateness_s=late,
        )
        text = "delivered %r (attempt %d)" if late is None else "delivered %r (attempt %d), %.3f s late"
        told = (delivery.id, delivery.attempt) if late is None else (delivery.id, delivery.attempt, late)
        _log.log(self._level, text, *told, extra=extra)

    @hookimpl
    def pitstop_message_settled(self, id: str, kind: str, outcome: str) -> None:
        if _log.isEnabledFor(self._level):
            extra = self._fields(f"message_{outcome}", message_id=id, kind=kind)
            _log.log(self._level, "%s %r", outcome, id, extra=extra)

    @hookimpl
    def pitstop_recurrence_advanced(self, id: str, kind: str | None, scheduled_for: datetime) -> None:
        if _log.isEnabledFor(self._level):
            extra = self._fields("series_advanced", message_id=id, kind=kind)
            _log.log(self._level, "%r goes on at %s", id, scheduled_for.isoformat(), extra=extra)

    def _fields(self, event: str, **fields: Any) -> dict[str, Any]:
        return log_fields(event, backend=self._backend, **fields)
