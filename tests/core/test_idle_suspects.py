"""``until_idle`` beside another listener whose handler has a suspect: the other suspects are due, and wait for it."""

from __future__ import annotations

import asyncio

from datetime import UTC, datetime

import pytest

import pitstop

from core.kit import backend as scripted
from pitstop._engine._listener import intake_of
from pitstop.testing import ManualClock


NOW = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("way", ["threads", "lanes", "tasks"])
def test_it_is_not_idle_while_it_holds_a_suspect_that_waits(way):
    clock = ManualClock()
    backend = scripted(clock=clock, retry={"max_attempts": 3})
    handled = []

    async def note(message):
        handled.append(message["id"])

    async def consume():
        async with pitstop.init_async({"type": backend}) as pit:
            return await pit.consume(note, kinds=["B"], until_idle=True)

    with pitstop.init({"type": backend}) as pit:
        pit.store({"id": "a"}, NOW, kind="A")
        pit.store({"id": "b"}, NOW, kind="B")
        for _ in range(2):
            # A consumer that claims both, and dies.
            assert len(backend.lease(10, 20)) == 2
            clock.advance(1)
        with pit.listen(kinds=["A"]) as listener:
            first = listener.get()

            def look():
                # The call below asks for the time, too.
                backend.during.clear()
                if pit.get("b").state == "leased":
                    first.ack()
                else:
                    watch()

            def watch():
                # Whichever comes first: a thread looks whether the suspect may be handled, or when the next message is due.
                backend.during |= {"now": look, "next_due": look}

            watch()
            if way == "tasks":
                # Another Pitstop has suspects of its own. So this one shares those of the first.
                with pytest.MonkeyPatch.context() as patch:
                    handled_here = intake_of(listener).session.handled
                    patch.setattr("pitstop._engine._session.HandledSuspects", lambda: handled_here)
                    summary = asyncio.run(consume())
            elif way == "threads":
                summary = pit.consume(lambda message: handled.append(message["id"]), kinds=["B"], until_idle=True)
            else:
                handlers = {"B": lambda message: handled.append(message["id"]), "C": print}
                summary = pit.consume(handlers, until_idle=True)
        assert handled == ["b"]
        assert (summary.reason, summary.acked) == ("idle", 1)
