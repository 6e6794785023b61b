"""Edits of a message that was read before: ``store(..., if_revision=entry.revision)``."""

from __future__ import annotations

import contextlib

from collections.abc import Callable, Collection, Iterator
from datetime import timedelta
from itertools import combinations
from typing import Any

import pytest

import pitstop

from pitstop.abc import Damaged, Progress, Record
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles, Kit
from pitstop_conformance._records import START, at
from pitstop_conformance.behaviour._delivery import next_of
from pitstop_conformance.model._wire import Wire


_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_LOCK = timedelta(minutes=15)
_NOW = at(START)

#: The calls of an edit, and of a consumer that handles one message.
_EDIT, _RUN = 3, 2


def entry_of(pit: pitstop.Pitstop, id: str) -> pitstop.Entry:
    """Return the entry of a message that is there."""
    entry = pit.get(id)
    assert entry is not None, f"expected the message {id!r}, but there is none"
    return entry


class IfRevision(Kit):
    """A store that depends on the state in which the message was read."""

    rule = 'docs/changing-messages.md, "Edit a message"'

    @pytest.mark.usefixtures("conditional")
    def test_an_edit_replaces_the_message_that_was_read(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        pit.store({"id": "a", "n": 1}, _NOW + _HOUR)
        entry = entry_of(pit, "a")

        stored = pit.store({**entry.message, "n": 2}, _NOW + 2 * _HOUR, if_revision=entry.revision)

        assert (stored, stored.outcome) == ("a", "replaced")
        after = entry_of(pit, "a")
        assert (after.message["n"], after.due) == (2, _NOW + 2 * _HOUR)
        assert after.revision != entry.revision
        clock.advance(_HOUR)
        assert listener.get() is None
        clock.advance(_HOUR)
        assert next_of(listener).msg["n"] == 2

    @pytest.mark.usefixtures("conditional")
    @pytest.mark.parametrize("every", [None, _HOUR], ids=["one_shot", "series"])
    @pytest.mark.parametrize("keep_schedule", [False, True], ids=["whole", "body"])
    @pytest.mark.parametrize(
        "change", ["acked", "nacked", "extended", "stored", "updated", "removed", "claimed", "lost", "redriven"]
    )
    def test_an_edit_of_a_message_that_has_moved_on_changes_nothing(
        self,
        make_pit: Callable[..., pitstop.Pitstop],
        clock: ManualClock,
        change: str,
        keep_schedule: bool,
        every: timedelta | None,
    ) -> None:
        pit = make_pit(retry={"max_attempts": 1, "delay": "1m"} if change == "redriven" else {})
        # A series that has one occurrence becomes dead, as a one-shot message does.
        end = None if every is None or change != "redriven" else _NOW + _HOUR
        pit.store({"id": "a", "n": 1}, _NOW, end, every)
        entry = entry_of(pit, "a")
        with pit.listen() as listener:
            if change in {"stored", "updated"}:
                pit.store({"id": "a", "n": 3}, _NOW, None, every, keep_schedule=change == "updated")
            elif change == "removed":
                pit.remove("a")
            else:
                delivery = next_of(listener)
                if change == "acked":
                    delivery.ack()
                elif change == "nacked":
                    delivery.nack("failed", timedelta(0))
                elif change == "extended":
                    clock.advance(_HOUR / 60)
                    entry = entry_of(pit, "a")
                    delivery.extend(_HOUR)
                elif change == "lost":
                    clock.advance(_LOCK)
                elif change == "redriven":
                    delivery.nack("failed")
                    entry = entry_of(pit, "a")
                    assert pit.redrive("a")
            before = pit.get("a")

            with pytest.raises(pitstop.Conflict, match="'a' was not stored") as caught:
                pit.store(
                    {"id": "a", "n": 2}, _NOW, None, every, if_revision=entry.revision, keep_schedule=keep_schedule
                )

            assert caught.value.id == "a"
            assert pit.get("a") == before

    @pytest.mark.usefixtures("conditional")
    def test_an_edit_does_not_take_a_message_from_its_handler(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        """The entry was read during the lease. The handler may be done, and the message would be emitted again."""
        pit.store({"id": "a", "n": 1}, _NOW)
        delivery = next_of(listener)
        entry = entry_of(pit, "a")

        for keep_schedule in (False, True):
            with pytest.raises(pitstop.Conflict, match="it is leased until"):
                pit.store({"id": "a", "n": 2}, _NOW, if_revision=entry.revision, keep_schedule=keep_schedule)

        clock.advance(_LOCK)
        assert pit.store({"id": "a", "n": 2}, _NOW, if_revision=entry.revision).outcome == "replaced"
        with pytest.raises(pitstop.LeaseLost):
            delivery.ack()
        again = next_of(listener)
        assert again.msg["n"] == 2
        again.ack()

    @pytest.mark.usefixtures("conditional")
    def test_an_edit_of_the_body_leaves_a_series_to_its_handler(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        pit.store({"id": "a", "n": 1}, _NOW, None, _HOUR)
        delivery = next_of(listener)
        entry = entry_of(pit, "a")

        stored = pit.store({"id": "a", "n": 2}, if_revision=entry.revision, keep_schedule=True)

        assert stored.outcome == "updated"
        delivery.ack()
        assert listener.get() is None
        clock.advance(_HOUR)
        assert next_of(listener).msg["n"] == 2

    @pytest.mark.usefixtures("conditional")
    def test_a_handler_may_edit_its_own_message(self, pit: pitstop.Pitstop, clock: ManualClock) -> None:
        seen: list[int] = []

        def handle(delivery: pitstop.Delivery) -> None:
            seen.append(delivery.msg["n"])
            if len(seen) == 1:
                entry = entry_of(pit, "a")
                pit.store({"id": "a", "n": 2}, _HOUR, if_revision=entry.revision)

        pit.store({"id": "a", "n": 1}, _NOW)
        summary = pit.consume(handle, until_idle=True)
        assert (seen, summary.superseded) == ([1], 1)
        clock.advance(_HOUR)
        pit.consume(handle, until_idle=True)
        assert seen == [1, 2]
        assert pit.get("a") is None

    @pytest.mark.usefixtures("conditional")
    @pytest.mark.parametrize("catch_up", ["latest", "all", "skip"])
    def test_a_series_that_is_edited_goes_on_and_emits_no_occurrence_twice(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock, catch_up: Any
    ) -> None:
        """The edit gives the fields of the entry, whose start is long past."""
        grace = timedelta(minutes=5) if catch_up == "skip" else None
        pit.store({"id": "a", "n": 0}, _NOW, _NOW + _DAY, _HOUR, catch_up=catch_up, grace=grace)
        keys = []
        for n in range(1, 4):
            delivery = next_of(listener)
            assert delivery.msg["n"] == n - 1
            keys.append(delivery.key)
            delivery.ack()
            entry = entry_of(pit, "a")
            assert (entry.start, entry.end, entry.every) == (_NOW, _NOW + _DAY, _HOUR)

            pit.store(
                {**entry.message, "n": n},
                entry.start,
                entry.end,
                entry.every,
                catch_up=entry.catch_up,
                grace=entry.grace,
                jitter=entry.jitter,
                if_revision=entry.revision,
            )

            assert listener.get() is None
            after = entry_of(pit, "a")
            assert (after.scheduled_for, after.due) == (entry.scheduled_for, entry.due)
            clock.advance(_HOUR)
        assert keys == [f"a:{START + 3_600_000 * n}" for n in range(3)]

    @pytest.mark.usefixtures("conditional")
    @pytest.mark.parametrize("keep_schedule", [False, True], ids=["whole", "body"])
    @pytest.mark.parametrize("every", [None, _HOUR], ids=["one_shot", "series"])
    @pytest.mark.parametrize("fails", [False, True], ids=["acked", "nacked"])
    def test_no_interleaving_of_an_edit_and_a_run_emits_twice(
        self, open_backend: Handles, fails: bool, every: timedelta | None, keep_schedule: bool
    ) -> None:
        """An edit makes three calls of the store, and a run two. They come in each order."""
        wire = Stepping(open_backend())
        with pitstop.init({"type": wire}) as pit, pitstop.init({"type": open_backend.peer()}) as other:
            for order in combinations(range(_EDIT + _RUN), _RUN):
                pit.store({"id": "a", "n": 1}, _NOW, None, every)
                with other.listen() as listener:
                    run = Run(listener, fails=fails)
                    edited = False
                    with wire.stepping(order, run.step), contextlib.suppress(pitstop.Conflict):
                        entry = pit.get("a")
                        if entry is not None:
                            again: dict[str, Any] = {"if_revision": entry.revision, "keep_schedule": keep_schedule}
                            pit.store({"id": "a", "n": 2}, _NOW, None, every, **again)
                            edited = True
                    run.finish()
                case = f"the calls {order} are of the run; edited: {edited}"
                if every is None:
                    assert run.sent == [1 + edited], case
                else:
                    # The present occurrence may have the old body, if its handler was first. The next one has the new body.
                    assert run.sent == [1] or (edited and run.sent == [2]), case
                    assert entry_of(pit, "a").message["n"] == 1 + edited, case


class Run:
    """A consumer that does one call of the store at a time."""

    def __init__(self, listener: pitstop.Listener, *, fails: bool) -> None:
        self._listener = listener
        self._fails = fails
        self._held: pitstop.Delivery | None = None
        #: The messages that the handler has sent, by their `n`.
        self.sent: list[int] = []
        #: How often the message was taken from its handler.
        self.lost = 0

    def step(self) -> None:
        """Claim a message, or settle the one that is claimed."""
        if self._held is None:
            self._held = self._listener.get()
            return
        delivery, self._held = self._held, None
        if self._fails:
            self._fails = False
            with contextlib.suppress(pitstop.LeaseLost):
                delivery.nack("failed", timedelta(0))
            return
        self.sent.append(delivery.msg["n"])
        try:
            delivery.ack()
        except pitstop.LeaseLost:
            self.lost += 1

    def finish(self) -> None:
        """Handle all that is due."""
        while True:
            self.step()
            if self._held is None:
                self.step()
            if self._held is None:
                return


class Stepping(Wire):
    """A connection that does steps of another process before its calls that read and store one message."""

    _order: Collection[int] = ()
    _step: Callable[[], None]

    @contextlib.contextmanager
    def stepping(self, order: Collection[int], step: Callable[[], None]) -> Iterator[None]:
        """Do steps in the context, at these places among all calls."""
        self._order, self._step, self._place = order, step, 0
        try:
            yield
            for _ in range(self._place, _EDIT + _RUN):
                self._pass()
        finally:
            self._order = ()

    def put_if(self, record: Record, revision: str | None, progress: Progress | None = None) -> bool:
        self._pass()
        return super().put_if(record, revision, progress)

    def get(self, id: str) -> Record | Damaged | None:
        self._pass()
        return super().get(id)

    def _pass(self) -> None:
        while self._order and self._place in self._order:
            self._place += 1
            self._step()
        self._place += bool(self._order)
