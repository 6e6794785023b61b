"""Post each dead message to a webhook: its id, its kind and its error, and never its content.

The plugin does nothing unless ``PITSTOP_WEBHOOK_URL`` is set.
"""

from __future__ import annotations

import os

from pitstop import hookimpl
from pitstop_webhook._poster import Poster


__all__ = ["URL_VARIABLE", "Webhook", "plugin"]

URL_VARIABLE = "PITSTOP_WEBHOOK_URL"


class Webhook:
    """The plugin."""

    def __init__(self, poster: Poster) -> None:
        self._poster = poster

    @hookimpl
    def pitstop_message_dead(self, id: str, kind: str | None, error: str | None) -> None:
        """Queue the post. The listener's thread calls this, so nothing is sent here."""
        url = os.environ.get(URL_VARIABLE)
        if url:
            self._poster.put(url, {"event": "dead", "id": id, "kind": kind, "error": error})


plugin = Webhook(Poster())
