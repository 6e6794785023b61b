"""The fields of log records, the same for the engine and all backends. Formatters for JSON and structlog read them."""

from __future__ import annotations

from typing import Any


__all__ = ["log_fields"]


def log_fields(
    event: str,
    *,
    backend: str | None = None,
    message_id: str | None = None,
    kind: str | None = None,
    attempt: int | None = None,
    lateness_s: float | None = None,
) -> dict[str, Any]:
    """Return the ``extra`` of a log record. Each record of Pitstop has all of these fields.

    >>> log_fields("message_dead", message_id="abc")["message_id"]
    'abc'

    :param event: the name of the event, such as ``"store_away"``. It stays the same when the text of the line changes.
    :param backend: the scheme of the store's location, such as ``"sqlite"``. None: the line is about no store.
    :param message_id: the id of the message. None: the line is about no message, or about several. The content of a message is
        never part of a record.
    :param kind: the kind of the message. None: it is not known.
    :param attempt: the attempt of the delivery.
    :param lateness_s: the seconds from due to handed out.
    """
    return {
        "event": event,
        "backend": backend,
        "message_id": message_id,
        "kind": kind,
        "attempt": attempt,
        "lateness_s": lateness_s,
    }
