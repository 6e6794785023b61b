"""The events of messages, recorded in order: a plugin for tests."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

import attrs

from pitstop._engine._delivery import Delivery, lease_of
from pitstop._plugins._hookspecs import hookimpl
from pitstop._values._entry import Entry
from pitstop._values._instant import from_instant
from pitstop.abc import Clock, copy_plain
from pitstop.testing._report import clock_text, table


__all__ = ["Event", "EventKind", "Events"]

#: ``stored``: for the first time or anew. ``emitted``: handed out. ``acked``. ``nacked``: it comes back. ``dead``. ``lost``:
#: an ack, nack or extension came too late. ``advanced``: a series goes on to its next occurrence. ``expired``: the occurrence was
#: later than its ``expires``, so that it was not emitted.
EventKind = Literal["stored", "emitted", "acked", "nacked", "dead", "lost", "advanced", "expired"]

_MOST_ROWS = 40


@attrs.frozen
class Event:
    """One thing that happened to one message."""

    kind: EventKind
    id: str
    #: The time by the clock of the test.
    at: datetime
    #: The nominal time of the occurrence; for ``advanced``, of the next one.
    scheduled_for: datetime | None = None
    #: 1 at the first emission of the occurrence.
    attempt: int | None = None
    #: When the message is due then; for ``stored`` and ``nacked``.
    due: datetime | None = None
    error: str | None = None
    #: The message with its ``"id"``; for ``stored`` and ``emitted``.
    msg: dict[str, Any] | None = attrs.field(default=None, repr=False)


class Events:
    """Records events: ``pitstop.init(config, plugins=[events])``, or ``pit.events`` of a test's Pitstop.

    This is a sequence of :class:`Event`, and ``str(events)`` is a table. Removals, and leases that run out, make no event.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._events: list[Event] = []
        # The last time that was made. Events at one moment, and messages that are on time, share one object.
        self._last: tuple[int, datetime] = (0, from_instant(0))

    def of(self, id: str | None = None, kind: EventKind | None = None) -> list[Event]:
        """Return the events of one message, of one kind, or both."""
        return [each for each in self._events if (id is None or each.id == id) and (kind is None or each.kind == kind)]

    def clear(self) -> None:
        """Forget the events so far."""
        self._events.clear()

    def __iter__(self) -> Iterator[Event]:
        return iter(tuple(self._events))

    def __len__(self) -> int:
        return len(self._events)

    def __getitem__(self, index: int) -> Event:
        return self._events[index]

    def __str__(self) -> str:
        some = self._events[-_MOST_ROWS:]
        rows = [
            (
                clock_text(each.at),
                each.kind,
                each.id,
                clock_text(each.scheduled_for),
                "-" if each.attempt is None else str(each.attempt),
                clock_text(each.due),
                each.error or "",
            )
            for each in some
        ]
        head = f"{len(self._events)} event{'' if len(self._events) == 1 else 's'}" + (
            f" (the last {len(some)})" if len(some) < len(self._events) else ""
        )
        return table(head, ("at", "what", "id", "scheduled for", "attempt", "due", "error"), rows)

    def __repr__(self) -> str:
        return f"<Events {len(self._events)} so far>"

    @hookimpl
    def pitstop_message_stored(self, entry: Entry) -> None:
        self._events.append(
            Event(
                "stored", entry.id, self._now(), entry.scheduled_for, None, entry.due, None, copy_plain(entry.message)
            )
        )

    @hookimpl
    def pitstop_message_leased(self, delivery: Delivery) -> None:
        # A copy, because the handler may change the message that it gets.
        message = copy_plain(delivery.msg)
        self._events.append(
            Event(
                "emitted",
                delivery.id,
                self._now(),
                self._time(lease_of(delivery).emission.scheduled_for),
                delivery.attempt,
                None,
                None,
                message,
            )
        )

    @hookimpl
    def pitstop_message_acked(self, delivery: Delivery) -> None:
        self._of_delivery("acked", delivery)

    @hookimpl
    def pitstop_message_retried(self, delivery: Delivery, error: str | None, due: datetime) -> None:
        self._of_delivery("nacked", delivery, due, error)

    @hookimpl
    def pitstop_message_dead(self, id: str, error: str | None) -> None:
        self._events.append(Event("dead", id, self._now(), error=error))

    @hookimpl
    def pitstop_lease_lost(self, delivery: Delivery) -> None:
        self._of_delivery("lost", delivery)

    @hookimpl
    def pitstop_recurrence_advanced(self, id: str, scheduled_for: datetime, last_error: str | None) -> None:
        self._events.append(Event("advanced", id, self._now(), scheduled_for, error=last_error))

    @hookimpl
    def pitstop_message_expired(self, entry: Entry) -> None:
        self._events.append(Event("expired", entry.id, self._now(), entry.scheduled_for, error=entry.last_error))

    def _of_delivery(
        self, kind: EventKind, delivery: Delivery, due: datetime | None = None, error: str | None = None
    ) -> None:
        self._events.append(
            Event(
                kind,
                delivery.id,
                self._now(),
                self._time(lease_of(delivery).emission.scheduled_for),
                delivery.attempt,
                due,
                error,
            )
        )

    def _now(self) -> datetime:
        return self._time(self._clock.time_us() // 1000)

    def _time(self, instant: int) -> datetime:
        known, time = self._last
        if instant == known:
            return time
        time = from_instant(instant)
        self._last = (instant, time)
        return time
