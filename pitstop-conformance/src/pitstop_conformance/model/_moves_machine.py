"""The state machine of a user, with edits of messages that were read, and messages that are moved in time by hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import attrs

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, MultipleResults, multiple, precondition, rule

import pitstop

from pitstop.abc import floor_instant
from pitstop_conformance.model._messages import kept
from pitstop_conformance.model._uses import NO_POLICIES, Message, Policies
from pitstop_conformance.model._uses_machine import FAULTS, HOUR, IDS, PitstopMachine
from pitstop_conformance.model._wire import Fault


__all__ = ["MovesMachine"]

_MILLISECOND = timedelta(milliseconds=1)
#: The events before the look of an edit, and between the look and the write.
_BEFORE = st.sampled_from(["nothing", "claim it", "ack it", "nack it", "emit it now", "reschedule it"])
_BETWEEN = st.sampled_from(
    [
        *("nothing", "nothing", "nothing", "claim it", "ack it", "nack it"),
        *("extend it", "release it", "emit it now", "reschedule it", "store it"),
    ]
)


@attrs.define(eq=False)
class _Read:
    """An entry that a user has read, and the message of the model at that time."""

    entry: pitstop.Entry
    before: Message


class MovesMachine(PitstopMachine):
    """The operations that need a backend with the capability CONDITIONAL, beside all others."""

    entries = Bundle("entries")

    @rule(id=IDS, target=entries)
    def read(self, id: str) -> MultipleResults[_Read]:
        entry = self._pit.get(id)
        return multiple() if entry is None else multiple(_Read(entry, attrs.evolve(self._messages[id])))

    @precondition(lambda self: self.bundles.get("entries"))
    @rule(read=entries, fault=FAULTS)
    def edit(self, read: _Read, fault: Fault | None) -> None:
        """Store the message that was read with another body, and all its other fields."""
        self._edit(read, fault)
        self._look()

    @rule(id=IDS, due_in=st.sampled_from([0, 1, 1000, HOUR]), fault=FAULTS)
    def reschedule(self, id: str, due_in: int, fault: Fault | None) -> None:
        self._reschedule(id, due_in, fault)
        self._look()

    @rule(id=IDS, fault=FAULTS)
    def emit_now(self, id: str, fault: Fault | None) -> None:
        self._emit_now(id, fault)
        self._look()

    @rule(id=IDS, fault=FAULTS)
    def release(self, id: str, fault: Fault | None) -> None:
        self._release(id, fault)
        self._look()

    @rule(
        id=IDS,
        due_in=st.sampled_from([0, HOUR, -HOUR]),
        series=st.booleans(),
        expires=st.sampled_from([None, 1000]),
        before=_BEFORE,
        between=_BETWEEN,
    )
    def edit_around(self, id: str, due_in: int, series: bool, expires: int | None, before: str, between: str) -> None:
        """Store a message, read it, edit what was read, and claim it. The message is handled or moved in between."""
        policies = NO_POLICIES if expires is None else Policies(expires=expires)
        self.store(id, due_in, {}, (HOUR, None, "latest") if series else None, "", policies, None)
        self._happens(before, id)
        entry = self._pit.get(id)
        if entry is not None:
            read = _Read(entry, attrs.evolve(self._messages[id]))
            self._happens(between, id)
            self._edit(read, None)
            self._look()
            self._get(1, "now", None)

    @rule(id=IDS, how=st.sampled_from(["emit it now", "reschedule it"]), times=st.sampled_from([None, 1]))
    def move_the_expired(self, id: str, how: str, times: int | None) -> None:
        """Let a message come that is too late for its time, once or in a series with one occurrence."""
        series = None if times is None else (1, times, "latest")
        self.store(id, -HOUR, {}, series, "", Policies(expires=1000), None)
        self._happens(how, id)
        self._get(1, "when something is due", None)

    def _happens(self, what: str, id: str) -> None:
        if what == "emit it now":
            self._emit_now(id, None)
        elif what == "reschedule it":
            self._reschedule(id, 1000, None)
        elif what == "store it":
            self._store_many([(id, 0)], None)
        elif what != "nothing":
            held = self._get(1, "when something is due", None)
            if held is not None and what == "ack it":
                self._ack(held, None)
            elif held is not None and what == "nack it":
                self._nack(held, 0, None)
            elif held is not None and what == "extend it":
                self._extend(held, 1000, None)
            elif held is not None and what == "release it":
                self._release(held.delivery.id, None)

    def _edit(self, read: _Read, fault: Fault | None) -> None:
        entry, id = read.entry, read.entry.id
        present, message = self._pit.get(id), self._messages.get(id)
        version, given = self._given(id, {})
        start = entry.scheduled_for if entry.start is None else entry.start
        options: dict[str, Any] = {
            **{name: getattr(entry, name) for name in ("catch_up", "kind", "retry", "lock_time", "expires")},
            "if_revision": entry.revision,
        }

        def store() -> None:
            self._pit.store(given, start, entry.end, entry.every, **options)

        if present is None or message is None or present.revision != entry.revision or present.state == "leased":
            try:
                store()
            except pitstop.Conflict:
                assert self._pit.get(id) == present, f"the refused edit of {id!r} has changed it"
                return
            raise AssertionError(f"the edit of {id!r} overwrote a message that has changed, or is with a listener")
        # The claim of a listener that gave the message back unseen has left no trace.
        assert message.unseen or _is_unchanged(message, read.before), (
            f"{id!r} has the revision of an entry that was read before it changed"
        )
        with self._wire.fault(fault):
            done = self._fails(store, fault)
        if done:
            assert entry.scheduled_for is not None
            assert start is not None
            new = attrs.evolve(message, version=version, content=kept(given), start=floor_instant(start))
            # A series goes on with its current occurrence.
            new.pending = new.due = floor_instant(entry.scheduled_for)
            new.chosen, new.attempts, new.holder, new.unseen = None, 0, None, False
            if new.every is None or new.pending != message.pending:
                new.moved = None
            self._messages[id] = new

    def _reschedule(self, id: str, due_in: int, fault: Fault | None) -> None:
        message, due = self._messages.get(id), self._from_now(due_in)
        there = message is not None
        if not self._moves(lambda: self._pit.reschedule(id, due_in * _MILLISECOND), message, there, fault):
            return
        assert message is not None
        message.due, message.holder = due, None
        if message.every is None:
            message.start = message.pending = due
            message.chosen, message.attempts, message.unseen = None, 0, False
        self._moved(message, due)

    def _emit_now(self, id: str, fault: Fault | None) -> None:
        message, entry = self._messages.get(id), self._pit.get(id)
        possible = entry is not None and entry.state != "leased"
        if self._moves(lambda: self._pit.emit_now(id), message, possible, fault) and message is not None:
            message.due = min(message.due, self._times.now)
            self._moved(message, self._times.now)

    def _release(self, id: str, fault: Fault | None) -> None:
        message, entry = self._messages.get(id), self._pit.get(id)
        leased = entry is not None and entry.state == "leased"
        if self._moves(lambda: self._pit.release(id), message, leased, fault) and message is not None:
            message.due, message.holder = self._times.now, None

    def _moves(self, move: Callable[[], bool], message: Message | None, expected: bool, fault: Fault | None) -> bool:
        """Move a message. Return whether it was moved."""
        told: list[bool] = []
        if not expected or (message is not None and message.unseen):
            # Without a write nothing fails. A listener that has claimed the message ahead does not hear of a move whose reply
            # got lost, and may hand it out.
            fault = None
        with self._wire.fault(fault):
            done = self._fails(lambda: told.append(move()), fault)
        assert not told or told == [expected], f"expected {expected}, got {told[0]}"
        return done and expected

    def _moved(self, message: Message, at: int) -> None:
        """Note the time from which ``expires`` counts for the occurrence that a person has moved."""
        message.moved = (message.pending, at) if at > message.pending else None


def _is_unchanged(message: Message, before: Message) -> bool:
    names = ("version", "pending", "due", "chosen", "attempts", "holder")
    return all(getattr(message, name) == getattr(before, name) for name in names)
