"""A listener: it hands out each message once, wakes up when a message is due, and gives back unseen messages."""

from __future__ import annotations

import threading
import time

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import pitstop

from pitstop.abc import Capability
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles, Kit, needs
from pitstop_conformance._records import START, at
from pitstop_conformance.behaviour._delivery import next_of


_NOW = at(START)
_LOCK = timedelta(minutes=15)
#: Seconds of real time after which a test stops waiting for a thread that should have ended.
_PATIENCE = 20.0


class InAThread:
    """A thread that uses a listener, with its result or its error."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.result: Any = None
        self.error: BaseException | None = None
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._function()
        except BaseException as error:  # noqa: BLE001 - looked at in the test's own thread
            self.error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> Any:
        self._thread.join(_PATIENCE)
        assert not self._thread.is_alive(), "the thread that uses the listener has not ended in time"
        if self.error is not None:
            raise self.error
        return self.result


def until(condition: Callable[[], bool]) -> None:
    """Wait, in real time, until another thread has made the condition true."""
    pause = threading.Event()
    for _ in range(int(_PATIENCE / 0.005)):
        if condition():
            return
        pause.wait(0.005)
    pytest.fail(f"The condition did not become true within {_PATIENCE} s.")


class Listening(Kit):
    """Listeners on the backend."""

    rule = "docs/listening.md"

    def test_get_returns_none_at_once_when_nothing_is_due(self, make_pit: Callable[..., pitstop.Pitstop]) -> None:
        before = set(threading.enumerate())
        # Without a note that it consumes, which a thread of its own would write.
        pit = make_pit(announce=0)
        pit.store({"id": "later"}, timedelta(milliseconds=1))

        with pit.listen() as listener:
            assert listener.get() is None
            assert listener.get(timeout=0) is None
            assert listener.get(timeout=timedelta(0)) is None

            # A driver may have threads of its own. Pitstop starts none here.
            begun = set(threading.enumerate()) - before
            assert not [each.name for each in begun if each.name.startswith("pitstop")]

    def test_messages_are_emitted_in_the_order_of_their_times(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener
    ) -> None:
        pit.store_many([({"n": n}, _NOW - timedelta(seconds=n)) for n in (3, 1, 2, 0)])

        assert [each.msg["n"] for each in iter(listener.get, None)] == [3, 2, 1, 0]

    def test_two_listeners_never_share_a_message(self, make_pit: Callable[..., pitstop.Pitstop]) -> None:
        one, other = make_pit(), make_pit()
        one.store_many([({"id": f"{n:02}"}, _NOW) for n in range(20)])
        listeners = [one.listen(), one.listen(prefetch=3), other.listen(), other.listen(prefetch=4)]

        seen: list[str] = []
        while taken := [each for each in (listener.get() for listener in listeners) if each is not None]:
            seen.extend(each.id for each in taken)
            # A message that is emitted again would make this loop endless.
            assert len(seen) <= 20, "no message is emitted again while its lease runs"

        assert sorted(seen) == [f"{n:02}" for n in range(20)]

    def test_a_message_stored_through_one_handle_is_emitted_by_another(
        self, make_pit: Callable[..., pitstop.Pitstop]
    ) -> None:
        one, other = make_pit(), make_pit()
        one.store({"id": "a", "n": 1}, _NOW)

        delivery = next_of(other.listen())

        assert delivery.msg == {"id": "a", "n": 1}
        entry = one.get("a")
        assert entry is not None
        assert entry.state == "leased"
        delivery.ack()
        assert one.get("a") is None

    @pytest.mark.parametrize("prefetch", [1, 2, 5, 50])
    def test_prefetch_changes_the_number_of_claims_and_nothing_else(self, pit: pitstop.Pitstop, prefetch: int) -> None:
        pit.store_many([({"n": n}, _NOW - timedelta(seconds=n)) for n in range(20)])
        listener = pit.listen(prefetch=prefetch)

        seen = []
        for delivery in iter(listener.get, None):
            assert delivery.attempt == 1
            seen.append(delivery.msg["n"])
            delivery.ack()

        assert seen == list(reversed(range(20)))
        assert pit.entries() == []

    @pytest.mark.parametrize("end", ["stop", "close", "with"])
    def test_what_was_claimed_ahead_and_not_seen_is_given_back_at_once(self, pit: pitstop.Pitstop, end: str) -> None:
        pit.store_many([({"id": id}, _NOW) for id in "abcd"])
        listener = pit.listen(prefetch=10)
        seen = next_of(listener)
        held = pit.stats().leased

        if end == "with":
            with listener:
                pass
        else:
            getattr(listener, end)()

        assert held >= 1
        if end == "stop":
            # The wait is bounded. On a busy machine, or if the store is slow, another thread gives the messages back.
            until(lambda: pit.stats().leased == 1)
        assert pit.stats().leased == 1
        assert listener.get() is None
        others = list(iter(pit.listen().get, None))
        assert [each.id for each in others] == [id for id in "abcd" if id != seen.id]
        assert {each.attempt for each in others} == {1}, "a message that no handler saw has no attempt counted"
        seen.ack()

    def test_closing_pitstop_gives_back_what_was_claimed_ahead(self, make_pit: Callable[..., pitstop.Pitstop]) -> None:
        pit, other = make_pit(), make_pit()
        pit.store_many([({"id": id}, _NOW) for id in "abcd"])
        listener = pit.listen(prefetch=10)
        next_of(listener)

        pit.close()

        assert listener.stopped

        assert other.stats().leased == 1
        assert other.stats().due == 3

    def test_a_retry_that_is_given_back_unseen_keeps_its_attempts_error_and_occurrence(
        self, pit: pitstop.Pitstop, clock: ManualClock
    ) -> None:
        pit.store_many([({"id": id}, _NOW, None, timedelta(hours=1)) for id in "ab"])
        for each in iter(pit.listen().get, None):
            each.nack("boom", delay=timedelta(hours=5))
        clock.advance(timedelta(hours=5))
        hurried = pit.listen(prefetch=2)
        next_of(hurried)
        hurried.close()

        delivery = next_of(pit.listen())

        assert (delivery.attempt, delivery.last_error) == (2, "boom")
        assert (delivery.scheduled_for, delivery.missed) == (_NOW, 0)

    def test_a_first_emission_that_is_given_back_unseen_chooses_anew(
        self, pit: pitstop.Pitstop, clock: ManualClock
    ) -> None:
        pit.store_many([({"id": id}, _NOW, None, timedelta(hours=1)) for id in "ab"])
        hurried = pit.listen(prefetch=2)
        first = next_of(hurried)
        hurried.close()
        clock.advance(timedelta(minutes=14))
        clock.advance(timedelta(hours=2))

        later = {each.id: each for each in iter(pit.listen().get, None)}

        assert (later[first.id].scheduled_for, later[first.id].attempt) == (_NOW, 2)
        (unseen,) = {"a", "b"} - {first.id}
        assert (later[unseen].scheduled_for, later[unseen].missed) == (_NOW + timedelta(hours=2), 2)
        assert later[unseen].attempt == 1

    def test_what_was_claimed_ahead_is_not_handed_out_when_its_lease_is_nearly_over(
        self, pit: pitstop.Pitstop, clock: ManualClock
    ) -> None:
        pit.store_many([({"id": id}, _NOW) for id in "ab"])
        listener = pit.listen(prefetch=2)
        next_of(listener).ack()
        clock.advance(_LOCK - timedelta(seconds=1))

        delivery = next_of(listener)

        assert delivery.attempt == 1
        assert delivery.leased_until == clock.now() + _LOCK

    def test_what_was_claimed_ahead_is_not_handed_out_when_its_lease_is_over(
        self, make_pit: Callable[..., pitstop.Pitstop], clock: ManualClock
    ) -> None:
        pit, other = make_pit(), make_pit()
        pit.store_many([({"id": id}, _NOW) for id in "ab"])
        slow = pit.listen(prefetch=2)
        next_of(slow)
        clock.advance(_LOCK)
        taken = list(iter(other.listen().get, None))
        assert sorted(each.id for each in taken) == ["a", "b"]

        assert slow.get() is None

        for each in taken:
            each.ack()
        assert pit.entries() == []

    def test_what_was_claimed_ahead_and_removed_since_settles_nothing(self, pit: pitstop.Pitstop) -> None:
        pit.store_many([({"id": id}, _NOW) for id in "ab"])
        listener = pit.listen(prefetch=2)
        next_of(listener)
        for id in "ab":
            pit.remove(id)

        listener.stop()

        assert pit.entries() == []

    @pytest.mark.parametrize("prefetch", [0, -1, True, 1.5, "5"], ids=str)
    def test_a_bad_prefetch_is_refused(self, pit: pitstop.Pitstop, prefetch: Any) -> None:
        with pytest.raises(pitstop.ConfigError, match="prefetch="):
            pit.listen(prefetch=prefetch)

    @pytest.mark.parametrize("option", [{"lock_time": 0}, {"lock_time": "soon"}, {"loop_time": -1}], ids=str)
    def test_a_bad_time_is_refused(self, pit: pitstop.Pitstop, option: Any) -> None:
        with pytest.raises(pitstop.ConfigError, match=next(iter(option))):
            pit.listen(**option)

    def test_stop_ends_the_iteration(self, pit: pitstop.Pitstop, clock: ManualClock) -> None:
        listener = pit.listen()
        loop = InAThread(lambda: [each.id for each in listener])
        clock.wait_for_sleepers(1)

        listener.stop()

        assert loop.join() == []
        assert listener.stopped
        assert listener.get() is None

    def test_stop_before_the_iteration_ends_it_too(self, pit: pitstop.Pitstop) -> None:
        pit.store({"id": "a"}, _NOW)
        listener = pit.listen()
        listener.stop()

        assert list(listener) == []
        assert pit.stats().due == 1

    def test_stop_ends_the_iteration_in_every_thread(self, pit: pitstop.Pitstop, clock: ManualClock) -> None:
        listener = pit.listen()
        loops = [InAThread(lambda: [each.id for each in listener]) for _ in range(3)]
        clock.wait_for_sleepers(3)

        listener.stop()

        assert [each.join() for each in loops] == [[], [], []]

    def test_deliveries_stay_valid_after_stop(self, pit: pitstop.Pitstop, listener: pitstop.Listener) -> None:
        pit.store({"id": "a"}, _NOW)
        delivery = next_of(listener)

        listener.stop()

        delivery.ack()
        assert pit.get("a") is None

    def test_closing_pitstop_ends_the_iteration(self, pit: pitstop.Pitstop, clock: ManualClock) -> None:
        listener = pit.listen()
        loop = InAThread(lambda: [each.id for each in listener])
        clock.wait_for_sleepers(1)

        pit.close()

        assert loop.join() == []

    def test_a_store_wakes_a_sleeping_listener_of_the_same_pitstop(
        self, pit: pitstop.Pitstop, clock: ManualClock
    ) -> None:
        """The clock stands still, so only the store can end the sleep of the listener."""
        with pit.listen() as listener:
            loop = InAThread(lambda: next(listener).msg)
            clock.wait_for_sleepers(1)

            pit.store({"id": "a", "n": 1}, _NOW)

            assert loop.join() == {"id": "a", "n": 1}

    def test_store_many_a_nack_and_a_redrive_wake_it_too(
        self, make_pit: Callable[..., pitstop.Pitstop], clock: ManualClock
    ) -> None:
        pit = make_pit(retry={"max_attempts": 2})
        with pit.listen() as listener:
            loop = InAThread(lambda: next(listener))
            clock.wait_for_sleepers(1)
            pit.store_many([({"id": "a"}, _NOW)])
            first = loop.join()

            loop = InAThread(lambda: next(listener))
            clock.wait_for_sleepers(1)
            first.nack("x", delay=timedelta(0))
            second = loop.join()
            assert second.attempt == 2

            loop = InAThread(lambda: next(listener))
            clock.wait_for_sleepers(1)
            second.nack("y")
            assert pit.redrive("a")
            assert loop.join().last_error == "y"

    def test_a_listener_sleeps_until_the_next_message_is_due(self, pit: pitstop.Pitstop, clock: ManualClock) -> None:
        pit.store({"id": "a"}, timedelta(milliseconds=250))
        with pit.listen(loop_time=timedelta(days=1)) as listener:
            loop = InAThread(lambda: (next(listener), clock.now())[1])

            woke = advance_until(clock, loop, timedelta(milliseconds=50))

            assert woke >= at(START + 250)

    def test_a_listener_looks_again_after_loop_time(
        self, make_pit: Callable[..., pitstop.Pitstop], clock: ManualClock
    ) -> None:
        """The listener finds a message that another handle stored, without any hint."""
        pit, other = make_pit(), make_pit()
        with pit.listen(loop_time=timedelta(minutes=1)) as listener:
            loop = InAThread(lambda: next(listener).id)
            clock.wait_for_sleepers(1)
            other.store({"id": "a"}, _NOW)

            assert advance_until(clock, loop, timedelta(seconds=30)) == "a"

    def test_a_lease_that_runs_out_elsewhere_is_noticed(
        self, make_pit: Callable[..., pitstop.Pitstop], clock: ManualClock
    ) -> None:
        pit, other = make_pit(), make_pit()
        other.store({"id": "a"}, _NOW)
        next_of(other.listen())
        # A long lease, so that it does not end if this thread is slow while the clock goes on.
        with pit.listen(lock_time=timedelta(days=10)) as listener:
            loop = InAThread(lambda: next(listener).attempt)

            assert advance_until(clock, loop, timedelta(minutes=1)) == 2
            assert clock.now() >= _NOW + _LOCK

    def test_get_waits_for_its_timeout(self, pit: pitstop.Pitstop, clock: ManualClock) -> None:
        with pit.listen() as listener:
            loop = InAThread(lambda: (listener.get(timeout=10), clock.now()))

            delivery, woke = advance_until(clock, loop, timedelta(seconds=1))

            assert delivery is None
            assert woke >= _NOW + timedelta(seconds=10)

    @pytest.mark.parametrize("how", ["stores", "reschedules", "emits_now", "releases"])
    def test_a_watch_wakes_a_listener_when_another_handle(
        self, make_pit: Callable[..., pitstop.Pitstop], open_backend: Handles, clock: ManualClock, how: str
    ) -> None:
        """The listener wakes up long before its next poll."""
        pit, other = make_pit(), make_pit()
        needs(open_backend(), Capability.WATCH)
        if how in {"reschedules", "emits_now"}:
            needs(open_backend(), Capability.CONDITIONAL)
        if how != "stores":
            other.store({"id": "a"}, timedelta(0) if how == "releases" else timedelta(days=50))
        if how == "releases":
            assert other.listen(lock_time=timedelta(days=50)).get() is not None
        act: dict[str, Callable[[], object]] = {
            "stores": lambda: other.store({"id": "a"}, _NOW),
            "reschedules": lambda: other.reschedule("a"),
            "emits_now": lambda: other.emit_now("a"),
            "releases": lambda: other.release("a"),
        }
        with pit.listen(loop_time=timedelta(days=100)) as listener:
            loop = InAThread(lambda: next(listener).id)
            clock.wait_for_sleepers(1)
            assert act[how]()

            assert advance_until(clock, loop, timedelta(milliseconds=100)) == "a"
            assert clock.now() < _NOW + timedelta(days=1)


def advance_until(clock: ManualClock, loop: InAThread, step: timedelta) -> Any:
    """Move the clock whenever a thread sleeps by it, until the thread ``loop`` ends. Return its result."""
    pause, deadline = threading.Event(), time.monotonic() + _PATIENCE
    while loop.running and time.monotonic() < deadline:
        # If no thread sleeps, a thread is at work, for long on a slow machine. The clock of the test must not move meanwhile.
        if clock.wait_for_sleepers(1, timeout=0.005):
            clock.advance(step)
        pause.wait(0.001)
    return loop.join()
