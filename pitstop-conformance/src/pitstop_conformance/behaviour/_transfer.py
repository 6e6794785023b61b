"""``export_lines``, ``import_lines`` and ``copy_to``: all messages of a store, in any state, moved and restored."""

from __future__ import annotations

import math

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import pitstop

from pitstop import Entry, PitstopError, Transfer
from pitstop.abc import Backend, Capability
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Kit, needs
from pitstop_conformance._records import START, at
from pitstop_conformance.behaviour._delivery import next_of


_NOW = at(START)
_HOUR = timedelta(hours=1)
#: More messages than one page has.
_MANY = 1100
#: Values that a careless codec changes.
_VALUES: dict[str, Any] = {
    "large": 2**63 - 1,
    "least": -(2**63),
    "minus zero": -0.0,
    "inf": -math.inf,
    "one": [1, 1.0, True],
    "bytes": bytes(range(256)),
    "time": datetime(1, 1, 1, 0, 0, 0, 1000, tzinfo=UTC),
    "text": "\U0001f3ce \u202e \x00 \uffff {'$time'}",
    "$time": {"$time": 1},
    "a.b": {"$bytes": "no", "$map": [["$map", 1]]},
    "order": {"b": 1, "a": {"$map": []}},
}


def _fill(pit: pitstop.Pitstop, capabilities: Capability) -> None:
    """Store a message in each state but ``leased``, and of each form. The Pitstop lets a message fail once."""
    with pit.listen() as listener:
        pit.store({"id": "dead"})
        next_of(listener).nack("boom\n\u202e")
        if Capability.POLICIES in capabilities:
            pit.store({"id": "retry"}, retry={"delay": "1h", "max_attempts": 9})
            next_of(listener).nack("421")
    pit.store({"id": "values", **_VALUES})
    pit.store({"id": "\U0001f3ce$in%"}, _HOUR)
    pit.store({"id": "series"}, _NOW + _HOUR, None, _HOUR)
    cron = pitstop.Cron("0 9 * * MON", tz="Europe/Berlin")
    pit.store({"id": "cron"}, None, 9999 * _HOUR, cron, catch_up="all", grace="1h")
    if Capability.KINDS in capabilities:
        pit.store({"id": "mail"}, "1h", kind="mail")
    if Capability.POLICIES in capabilities:
        pit.store({"id": "policies"}, _NOW, None, _HOUR, lock_time="5m", expires="2h", jitter="1m")
        pit.store({"id": "moved"}, expires="2h")
        pit.reschedule("moved", "3h")
        for id in ("paused", "paused until"):
            pit.store({"id": id}, _HOUR)
        pit.pause("paused")
        pit.pause("paused until", "2h")
    if Capability.PAUSES in capabilities:
        pit.pause(kind="mail")
        pit.pause(kind="", until="2h")


def _all(pit: pitstop.Pitstop) -> list[Entry]:
    return sorted(pit.entries(limit=10_000), key=lambda each: each.id)


def _empty(pit: pitstop.Pitstop, capabilities: Capability) -> None:
    for each in _all(pit):
        pit.remove(each.id)
    if Capability.PAUSES in capabilities:
        for kind in pit.paused_kinds():
            pit.resume(kind=kind)
    assert _all(pit) == []


def _spelled(entries: list[Entry]) -> list[str]:
    """Return entries as text, which tells 1 from 1.0, and 0.0 from -0.0."""
    return [repr(sorted(each.message.items())) for each in entries]


class Moves(Kit):
    """Stores that are exported, imported and copied."""

    rule = "docs/moving-and-restoring.md"

    @pytest.fixture
    def of_all_states(self, backend: Backend, make_pit: Callable[..., pitstop.Pitstop]) -> pitstop.Pitstop:
        """A store with a message in each state."""
        needs(backend, Capability.CONDITIONAL)
        pit = make_pit(retry={"max_attempts": 1})
        _fill(pit, backend.capabilities)
        return pit

    def test_a_store_is_restored_as_it_was(self, of_all_states: pitstop.Pitstop, backend: Backend) -> None:
        before, lines = _all(of_all_states), list(of_all_states.export_lines())
        pauses = of_all_states.paused_kinds() if Capability.PAUSES in backend.capabilities else {}
        assert _all(of_all_states) == before, "an export changes nothing"
        _empty(of_all_states, backend.capabilities)

        done = of_all_states.import_lines(lines)

        assert done == Transfer(messages=len(before), written=len(before), paused_kinds=len(pauses))
        assert _all(of_all_states) == before
        assert _spelled(_all(of_all_states)) == _spelled(before)
        if pauses:
            assert of_all_states.paused_kinds() == pauses

    def test_a_second_import_changes_nothing(self, of_all_states: pitstop.Pitstop, backend: Backend) -> None:
        before, lines = [backend.get(each.id) for each in _all(of_all_states)], list(of_all_states.export_lines())

        done = of_all_states.import_lines(lines)

        assert (done.unchanged, done.written, done.complete) == (len(before), 0, True)
        assert [backend.get(each.id) for each in _all(of_all_states)] == before
        assert list(of_all_states.export_lines())[-1] == lines[-1]

    def test_an_import_goes_on_where_it_ended(self, of_all_states: pitstop.Pitstop, backend: Backend) -> None:
        before, lines = _all(of_all_states), list(of_all_states.export_lines())
        for each in before[::2]:
            of_all_states.remove(each.id)

        assert of_all_states.import_lines(lines).written == len(before[::2])
        assert _all(of_all_states) == before

    def test_a_message_that_has_changed_is_kept_unless_it_is_to_be_replaced(
        self, of_all_states: pitstop.Pitstop
    ) -> None:
        before, lines = _all(of_all_states), list(of_all_states.export_lines())
        of_all_states.store({"id": "series", "new": 1}, "5h")
        of_all_states.redrive("dead")
        changed = _all(of_all_states)

        kept = of_all_states.import_lines(lines)
        assert (kept.kept, kept.written, kept.complete) == (2, 0, False)
        assert [id for id, _ in kept.problems] == ["dead", "series"]
        assert _all(of_all_states) == changed

        replaced = of_all_states.import_lines(lines, if_exists="replace")
        assert (replaced.replaced, replaced.kept, replaced.complete) == (2, 0, True)
        assert _all(of_all_states) == before

    def test_the_key_stays_the_same(self, pit: pitstop.Pitstop, clock: ManualClock, conditional: None) -> None:
        """A handler that notes the keys handles nothing twice after a move, although the message waits for a retry."""
        pit.store({"id": "a"})
        with pit.listen() as listener:
            delivery = next_of(listener)
            delivery.nack("421", delay=_HOUR)
        lines = list(pit.export_lines())
        pit.remove("a")
        pit.import_lines(lines)
        clock.advance(2 * _HOUR)

        with pit.listen() as listener:
            again = next_of(listener)
            assert (again.key, again.attempt, again.last_error) == (delivery.key, 2, "421")

    def test_a_leased_message_is_due_at_the_end_of_its_lease(
        self, pit: pitstop.Pitstop, backend: Backend, clock: ManualClock, conditional: None
    ) -> None:
        pit.store({"id": "a"})
        with pit.listen() as listener:
            delivery = next_of(listener)
            with pytest.raises(PitstopError, match=r"1 message is leased \('a'\) in .* Stop them.*live=True"):
                pit.export_lines()
            with pytest.raises(PitstopError, match="1 message is leased"):
                pit.import_lines([])
            lines = list(pit.export_lines(live=True))
            pit.remove("a")
            # This listener is a consumer.
            pit.import_lines(lines, live=True)

            moved = pit.get("a")
            assert moved is not None
            assert (moved.state, moved.due, moved.attempts) == ("scheduled", delivery.leased_until, 1)
            with pytest.raises(pitstop.LeaseLost):
                delivery.ack(wait=True)
            clock.advance(timedelta(hours=1))
            again = next_of(listener)
            assert (again.key, again.attempt) == (delivery.key, 2)

    def test_a_document_that_cannot_be_read_leaves_a_dead_message(
        self, pit: pitstop.Pitstop, backend: Backend, conditional: None
    ) -> None:
        """It keeps the id and the reason, and is never emitted."""
        pit.store({"id": "a"})
        pit.store({"id": "b", "body": "secret"})
        self.damage(backend, "b")
        lines = list(pit.export_lines())
        for id in ("a", "b"):
            pit.remove(id)

        done = pit.import_lines(lines)
        assert (done.written, done.damaged, done.complete) == (2, 1, False)
        assert pit.import_lines(lines).unchanged == 2
        left = pit.get("b")
        assert left is not None
        assert left.state == "dead"
        assert "Damaged" in (left.last_error or "")
        assert "stayed in the store" in (left.last_error or "")
        with pit.listen() as listener:
            assert next_of(listener).id == "a"
            assert pit.redrive("b")
            assert listener.get(0) is None
            assert getattr(pit.get("b"), "state", None) == "dead"

    def test_a_large_store_is_moved_in_pages(self, pit: pitstop.Pitstop, conditional: None) -> None:
        pit.store_many([({"id": f"{n:05}"}, _HOUR) for n in range(_MANY)])
        seen: list[int] = []
        lines = list(pit.export_lines())
        for n in range(0, _MANY, 2):
            pit.remove(f"{n:05}")

        done = pit.import_lines(lines, progress=seen.append)

        assert (done.messages, done.written, done.unchanged) == (_MANY, -(-_MANY // 2), _MANY // 2)
        assert len(seen) > 1
        assert seen[-1] == _MANY
        assert seen == sorted(seen)

    def test_a_changed_line_is_refused_before_its_page_is_written(
        self, of_all_states: pitstop.Pitstop, backend: Backend
    ) -> None:
        lines = [each.replace(b'"id":"values"', b'"id":"valuez"') for each in of_all_states.export_lines()]
        _empty(of_all_states, backend.capabilities)

        with pytest.raises(PitstopError, match="not as they were written"):
            of_all_states.import_lines(lines)

        assert _all(of_all_states) == []
