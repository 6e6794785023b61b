"""Consumer: a running call of ``consume``, as it was at one moment."""

from __future__ import annotations

from datetime import datetime

import attrs


__all__ = ["Consumer"]


@attrs.frozen(kw_only=True)
class Consumer:
    """One running call of ``consume``, for metrics and health checks. It is a snapshot: read it again for later values."""

    #: Whether the last poll of the store succeeded. True before the first poll.
    healthy: bool
    #: When the store last answered a claim, by the clock of this machine. None: it has not answered yet. In a mapping: the oldest of
    #: these times, over all kinds, so that a kind that is stuck shows.
    last_poll: datetime | None
    #: The number of messages that are claimed and that no handler has seen yet.
    in_hand: int
    #: The number of handlers that run.
    in_handlers: int
    #: When the call began, by the clock of this machine.
    since: datetime
    #: The place where it shows its health, with the port that was chosen, as in ``"127.0.0.1:8080"``. None: nowhere.
    health: str | None = None
