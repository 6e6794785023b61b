"""SeenConsumer: a process that consumes messages, as it has last said of itself in the store."""

from __future__ import annotations

from datetime import datetime, timedelta

import attrs

from pitstop.abc._kinds import AllBut, is_chosen


__all__ = ["SeenConsumer"]


@attrs.frozen(kw_only=True)
class SeenConsumer:
    """A Pitstop with at least one open listener, in this process or another one: see :meth:`pitstop.Pitstop.seen_consumers`.

    It is as old as ``seen``. A process that was killed is seen for two and a half of its ``announce`` times after that.
    """

    #: The name of the machine, and the number of the process on it.
    host: str
    pid: int
    #: The configured ``consumer_name``; by default the name of the program.
    name: str
    #: When its Pitstop was made, by the clock of its machine.
    since: datetime
    #: When it said all this, by the clock of the store.
    seen: datetime
    #: Of each listener: the kinds that it takes, or all but some. None: all kinds.
    kinds: tuple[frozenset[str] | AllBut | None, ...]
    #: The number of messages that are claimed and that no handler has seen yet.
    in_hand: int
    #: The number of handlers that run, those of ``with delivery`` included.
    in_handlers: int
    #: The ids of messages that these handlers have, a hundred at most.
    handling: frozenset[str] = frozenset()
    #: Whether the last poll of the store succeeded, for all its listeners.
    healthy: bool = True
    #: How far the clock of its machine is ahead of the store's; negative: behind.
    clock_skew: timedelta

    def takes(self, kind: str) -> bool:
        """Whether one of its listeners takes messages of this kind."""
        return any(chosen is None or is_chosen(kind, chosen) for chosen in self.kinds)
