"""The events of a simulated world: plain tuples, in their order.

Each is ``(instant by the store's clock, who, what, *details)``; details are None, bools, ints, strings, and tuples of these.

Each operation of a user has a number, ``n``, and two events:

- ``begin, n, name, *arguments`` and ``end, n, name, outcome, answer``: a call of the API. The outcome is ``ok``, ``lost``
  (LeaseLost), ``unknown`` (OutcomeUnknown), ``unavailable`` or ``crash``
- ``told, n, d, what``: inside of call ``n``, a hook was called because delivery ``d`` is ``acked``, or its lease ``lost``. For an ack
  that returned at once (``post``), this event is its outcome. Or its outcome cannot be known any more (``in doubt``)
- ``emit, n, d, id, version, token, key, scheduled_for, attempt, missed, until``: a listener handed out delivery ``d``

Each operation of the store, at the moment of its effect; ``n`` is the call that caused it:

- ``put, n, ((id, version, due, schedule, *labels), ...)``, with schedule None or ``(start, every, end, catch_up, grace)``; labels are
  ``kind, expires, lock_time, retry, max_attempts``, or nothing if the message has none of them
- ``edit, n, (id, version, due, scheduled_for, schedule, *labels), moved, unchanged``: a put with ``if_revision``; whether the message was
  as it had been read
- ``move, n, id, version, progress, moved``: a reschedule, an emission now, or a redrive that moves the start of the expiry, with moved
  None or ``(scheduled_for, instant)``
- ``delete, n, id, found``
- ``lease, n, limit, duration, ((id, version, token, attempts, until), ...)``, and the kinds of a claim of some kinds
- ``settle, n, ((id, token, outcome, progress, applied), ...), late``, with progress None or
  ``(due, scheduled_for, attempts, first_leased, has_token)``, and ``ahead`` of an extension. It is late if its sender gave it up before

- ``refused, id, rightly``: an edit raised Conflict, and whether the message had changed

The other events are ``world``, ``start``, ``crash``, ``fault``, ``clock``, ``heal``, ``left``.
"""

from __future__ import annotations

from typing import Any


Event = tuple[Any, ...]


class History:
    """Events so far."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._names: dict[str, str] = {}

    def note(self, at: int, who: str, what: str, *details: Any) -> None:
        self.events.append((at, who, what, *details))

    def name(self, token: str) -> str:
        """Return the name of a token: tokens are random, but their order of appearance is not."""
        return self._names.setdefault(token, f"t{len(self._names) + 1}")

    def to_bytes(self) -> bytes:
        return "".join(f"{event!r}\n" for event in self.events).encode()


def line(event: Event) -> str:
    """Return an event as text; the instants are those of the history."""
    at, who, what, *details = event
    return f"{at} {who:<6} {what:<7} {' '.join(map(str, details))}"
