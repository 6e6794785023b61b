"""``explain``: why a message has not come."""

from __future__ import annotations

import asyncio

from datetime import timedelta

import attrs
import pytest

import pitstop

from core.kit import Clock, backend
from pitstop import Cron, MessageError
from pitstop.abc import Capability
from pitstop_memory import MemoryBackend


NOW, MINUTE, HOUR = timedelta(0), timedelta(minutes=1), timedelta(hours=1)


def change(store, id, **values):
    """Change a stored record as another program does."""
    store.put([attrs.evolve(store.get(id), **values)])


def test_a_message_that_is_to_come(pit, clock):
    pit.store({"id": "a", "body": "private"}, HOUR)
    found = pit.explain("a")
    assert found.why == "Its time comes in 1h."
    assert (found.entry, found.now, found.since) == (pit.get("a"), clock.now(), None)
    assert [each.at for each in found.upcoming] == [clock.now() + HOUR]
    assert "private" not in repr(found)


def test_a_message_that_nobody_takes(pit, clock):
    pit.store({"id": "a"}, NOW)
    pit.store({"id": "b"}, NOW, kind="mail")
    clock.advance(90)
    found = pit.explain("a")
    assert found.why == (
        "It became due 1m30s ago, and no listener has taken it. No consumer was seen lately. Start one, or look whether it runs."
    )
    assert found.since == found.entry.due == clock.now() - timedelta(seconds=90)
    assert "No consumer that takes the kind 'mail' was seen lately." in pit.explain("b").why


def test_a_message_that_a_listener_has(pit, clock):
    pit.store({"id": "a"}, NOW)
    with pit.listen() as listener:
        began, delivery = clock.now(), listener.get()
        clock.advance(MINUTE)
        found = pit.explain("a")
        assert found.why == "A listener has it (attempt 1). It comes back in 14m unless it is acknowledged."
        assert (found.since, found.entry.leased_until) == (began, delivery.leased_until)
        delivery.nack("broken", delay=MINUTE)
        assert pit.explain("a").why == "It failed once and comes back in 1m."
        clock.advance(MINUTE)
        again = listener.get()
        # The store keeps the first claim of an occurrence, and not the present one.
        assert (again.attempt, pit.explain("a").since) == (2, None)
        again.nack("broken", delay=MINUTE)
        assert pit.explain("a").why == "It failed 2 times and comes back in 1m."
        clock.advance(2 * MINUTE)
        assert pit.explain("a").why.startswith("It became due again 1m ago, after attempt 2, and no listener has taken")


def test_a_dead_message_and_one_that_cannot_be_read(clock):
    store = backend(clock=clock)
    with pitstop.init({"type": store}) as pit:
        pit.store({"id": "a"}, NOW, retry={"max_attempts": 1})
        with pit.listen() as listener:
            listener.get().nack("broken")
        found = pit.explain("a")
        assert found.why.startswith("It was set aside and is no longer emitted. See the last error;")
        assert (found.entry.last_error, found.since) == ("broken", None)
        pit.store({"id": "b"}, HOUR, every=HOUR)
        change(store, "b", series={"kind": "none of ours"})
        found = pit.explain("b")
        # Its rule says nothing about the times after this one.
        assert ([each.at for each in found.upcoming], found.entry.every) == ([found.entry.scheduled_for], None)
        assert found.entry.last_error is not None


def test_a_paused_message(pit, clock):
    pit.store({"id": "a"}, HOUR)
    pit.pause("a")
    assert pit.explain("a").why == "It is paused, and is not emitted until 'pitstop resume'."
    pit.pause("a", HOUR)
    until = (clock.now() + HOUR).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert pit.explain("a").why.startswith(f"It is paused until {until}, and is not emitted before that")


@pytest.mark.parametrize(
    ("kind", "resume"), [("mail", "'pitstop resume --kind mail'"), ("", "\"pitstop resume --kind ''\"")]
)
def test_a_message_of_a_paused_kind(pit, clock, kind, resume):
    pit.store({"id": "a"}, NOW, kind=kind)
    pit.store({"id": "b"}, NOW, kind="another")
    pit.pause(kind=kind)
    found = pit.explain("a")
    assert found.why == f"Its kind {kind!r} is paused until {resume}."
    assert (found.kind_paused, found.kind_paused_until) == (True, None)
    pit.pause(kind=kind, until=HOUR)
    found = pit.explain("a")
    assert found.kind_paused_until == clock.now() + HOUR
    assert found.why.endswith(f"Z, or {resume}.")
    assert pit.explain("b").kind_paused is False


def test_a_message_that_expires_unseen(pit, clock):
    pit.store({"id": "a"}, NOW, expires=MINUTE)
    clock.advance(HOUR)
    assert "longer ago than its expires" in pit.explain("a").why


def test_five_occurrences_of_a_series_with_those_that_were_missed(pit, clock):
    pit.store({"id": "a"}, NOW, every=HOUR)
    pit.store({"id": "b"}, NOW, every=Cron("0 9 * * *", tz="Europe/Berlin"))
    found = pit.explain("a")
    assert [each.at for each in found.upcoming] == [clock.now() + n * HOUR for n in range(5)]
    assert [each.local.hour for each in pit.explain("b").upcoming] == [9] * 5


def test_a_message_that_is_not_there(pit):
    assert pit.explain("a") is None
    with pytest.raises(MessageError):
        pit.explain("")


def test_an_ack_that_is_pending_is_written_before_the_look(pit):
    pit.store({"id": "a"}, NOW)
    with pit.listen() as listener:
        listener.get(timeout=1).ack()
        assert pit.explain("a") is None


def test_the_skew_of_the_clocks_is_that_of_the_machine_against_the_store():
    class Ahead(MemoryBackend):
        """A store on a machine whose clock is 90 seconds ahead."""

        def now(self):
            return super().now() + 90_000_000

    with pitstop.init({"type": backend(Ahead, Clock())}) as pit:
        pit.store({"id": "a"}, NOW)
        assert pit.explain("a").clock_skew == timedelta(seconds=-90)


def test_a_store_without_paused_kinds_is_not_asked_for_them(clock):
    class Plain(MemoryBackend):
        capabilities = MemoryBackend.capabilities & ~Capability.PAUSES

        def paused_kinds(self):
            raise AssertionError

    with pitstop.init({"type": backend(Plain, clock)}) as pit:
        pit.store({"id": "a"}, HOUR)
        assert pit.explain("a").kind_paused is False


def test_an_event_loop_asks_the_same():
    async def main():
        async with pitstop.init_async({"type": "memory"}) as pit:
            await pit.store({"id": "a"}, HOUR)
            found = await pit.explain("a")
            assert found.entry == await pit.get("a")
            assert await pit.explain("b") is None

    asyncio.run(main())
