"""What happened in a simulated world: plain tuples, in the order in which it happened.

Each is ``(instant by the store's clock, who, what, *details)``; details are None, bools, ints, strings, and tuples of these.

What users do has a number, ``n``, and two events:

- ``begin, n, name, *arguments`` and ``end, n, name, outcome, answer``: a call of the API. The outcome is ``ok``, ``lost``
  (LeaseLost), ``unknown`` (OutcomeUnknown), ``unavailable`` or ``crash``
- ``told, n, d, what``: inside of call ``n`` a hook was told that delivery ``d`` is ``acked``, or its lease ``lost``. Of an ack
  that returned at once (``post``) this is the news that counts
- ``emit, n, d, id, version, token, key, scheduled_for, attempt, missed, until``: a listener handed out delivery ``d``

What the store was made to do, at the moment when it did it; ``n`` is the call that asked for it:

- ``put, n, ((id, version, due, schedule), ...)``, with schedule None or ``(start, every, end, catch_up, grace)``
- ``delete, n, id, found``
- ``lease, n, limit, duration, ((id, version, token, attempts, until), ...)``
- ``settle, n, ((id, token, outcome, progress, applied), ...)``, with progress None or
  ``(due, scheduled_for, attempts, first_leased, has_token)``

And what befell them: ``world``, ``start``, ``crash``, ``fault``, ``clock``, ``heal``, ``left``.
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
        """A token's name: tokens are random, the order in which they turn up is not."""
        return self._names.setdefault(token, f"t{len(self._names) + 1}")

    def to_bytes(self) -> bytes:
        return "".join(f"{event!r}\n" for event in self.events).encode()


def line(event: Event) -> str:
    """An event as people read it; the instants are those of the history."""
    at, who, what, *details = event
    return f"{at} {who:<6} {what:<7} {' '.join(map(str, details))}"
