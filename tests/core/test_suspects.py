"""Suspects: a message that kills its worker dies, its neighbours are all handled, and no other message waits for them."""

from __future__ import annotations

import asyncio
import gc
import threading

from collections import Counter, deque
from datetime import timedelta

import attrs
import pytest

import pitstop

from core.kit import LOCK, Clock, Running, Scripted, ack_later, backend
from pitstop import testing
from pitstop._decisions._emit import Emission
from pitstop._decisions._policy import Policy
from pitstop._engine._lease import Lease, Purpose
from pitstop._engine._listener import intake_of
from pitstop._engine._suspects import Suspects
from pitstop.abc import Progress, Record, Retry


DUE = timedelta(0)
NOW = 1_700_000_000_000
MINUTE = 60_000


def lease(id: str = "a", *, attempts: int = 2, unsettled: int = 2, ahead: int = 1, until: float = 100.0) -> Lease:
    """A message as it was claimed; without other values one that was in a crash which may have been its own."""
    progress = Progress(NOW + MINUTE, NOW, attempts, NOW - MINUTE, None, "token", unsettled, ahead)
    return Lease(Emission(Record(id, {}, None, f"revision of {id}", progress), None, NOW, 0, ahead=True), until)


def alone(id: str = "a", until: float = 100.0) -> Lease:
    """A suspect that the next crash would bury, of three attempts."""
    return lease(id, attempts=3, unsettled=3, ahead=1, until=until)


class Hand:
    """The time, and suspects that go by it."""

    def __init__(self, max_attempts: int | None = 3) -> None:
        self.time = 0.0
        self.suspects = Suspects(lambda: self.time, Retry(max_attempts=max_attempts))

    def keep(self, *leases: Lease) -> None:
        self.suspects.keep(list(leases))

    def take(self, now: int = NOW) -> str | None:
        taken = self.suspects.take(now * 1000)
        return None if taken is None else taken.id


class TestOrder:
    def test_messages_that_were_in_no_crash_are_not_among_them(self):
        hand = Hand()
        first, suspect, last = lease("a", unsettled=1), lease("b"), lease("c", unsettled=0)
        assert hand.suspects.split([first, suspect, last]) == ([first, last], [suspect])
        assert not hand.suspects.waiting

    def test_without_a_limit_of_attempts_all_are_taken_at_once(self):
        hand = Hand(max_attempts=None)
        hand.keep(*(leases := [lease("a"), alone("b"), lease("c")]))
        assert [hand.take() for _ in range(4)] == ["a", "b", "c", None]
        assert leases

    def test_with_a_limit_one_waits_for_the_end_of_the_other(self):
        hand = Hand()
        first, second = lease("a"), lease("b")
        hand.keep(first, second)
        assert (hand.take(), hand.take(), hand.suspects.ready) == ("a", None, False)
        first.ask(Purpose.ACK)
        assert hand.take() is None, "a crash before its ack is written would count"
        assert hand.suspects.unwritten() == {"a"}
        first.done()
        assert (hand.suspects.ready, hand.take()) == (True, "b")

    @pytest.mark.parametrize("limited", ["that a handler has", "that waits"])
    def test_a_limit_of_either_of_two_makes_one_wait(self, limited):
        hand = Hand(max_attempts=None)
        leases = [lease("a"), lease("b")]
        leases[limited == "that waits"].emission.policy = Policy(retry=(("max_attempts", 3),))
        hand.keep(*leases)
        assert (hand.take(), hand.take(), hand.suspects.ready) == ("a", None, False)
        hand.time = 1.0
        assert hand.take() == "b"

    def test_one_without_a_limit_that_is_claimed_waits_for_one_with_a_limit(self):
        hand = Hand(max_attempts=None)
        first, second = lease("a"), lease("b")
        first.emission.policy = Policy(retry=(("max_attempts", 3),))
        hand.keep(first)
        assert hand.take() == "a"
        assert hand.suspects.blocked([second]) == [second]

    def test_a_handler_that_takes_long_lets_the_next_one_begin(self):
        hand = Hand()
        leases = [lease("a"), lease("b"), lease("c")]
        hand.keep(*leases)
        assert hand.take() == "a"
        hand.time = 0.99
        assert hand.take() is None
        hand.time = 1.0
        assert (hand.suspects.ready, hand.take(), hand.take()) == (True, "b", None)

    def test_one_that_the_next_crash_would_bury_waits_for_all_others_and_they_for_it(self):
        hand = Hand()
        last, first, second = alone("last"), lease("first"), lease("second")
        hand.keep(last, first, second)
        assert hand.take() == "first"
        hand.time = 5
        assert hand.take() == "second"
        hand.time = 50
        assert hand.take() is None
        for each in (first, second):
            each.ask(Purpose.ACK)
            each.done()
        hand.keep(third := lease("third"))
        third.ask(Purpose.ACK)
        third.done()
        assert (hand.take(), hand.take()) == ("third", "last")
        hand.keep(lease("fourth"))
        hand.time = 90
        assert hand.take() is None

    @pytest.mark.parametrize("end", ["lost", "over", "dropped", "not handed out"])
    def test_the_next_one_follows_however_the_handler_ends(self, end):
        hand = Hand()
        first = alone("a")
        hand.keep(first, second := alone("b"))
        assert hand.take() == "a"
        now = NOW
        if end == "lost":
            assert first.lose_unasked()
        elif end == "over":
            now += MINUTE
        elif end == "dropped":
            del first
            gc.collect()
        else:
            hand.suspects.end(first)
        assert hand.take(now) == "b"
        assert second

    def test_a_settlement_that_failed_and_may_be_tried_again_keeps_the_others_waiting(self):
        hand = Hand()
        first = alone("a")
        hand.keep(first, alone("b"))
        assert hand.take() == "a"
        first.ask(Purpose.NACK)
        first.hand_back(None)
        assert hand.take() is None


class TestWaiting:
    def test_after_a_failure_none_is_taken_for_a_while_and_then_the_same_one(self):
        hand = Hand()
        hand.keep(lease("a"), lease("b"))
        taken = hand.suspects.take(NOW * 1000)
        hand.suspects.put_back(taken, pause=2.0)
        assert (hand.take(), hand.suspects.ready) == (None, False)
        hand.time = 2.0
        assert (hand.suspects.ready, hand.take()) == (True, "a")

    def test_no_other_thread_takes_one_that_is_being_put_back(self):
        hand, may_take = Hand(), []

        def is_free():
            free = hand.suspects._handled.lock.acquire(blocking=False)
            if free:
                hand.suspects._handled.lock.release()
            return free

        class Waiting(deque):
            def appendleft(self, lease):
                super().appendleft(lease)
                may_take.append(Running(is_free).result())

        hand.suspects.waiting = Waiting([first := lease("a")])
        assert hand.suspects.take(NOW * 1000) is first
        hand.suspects.put_back(first)
        assert may_take == [False]
        assert hand.take() == "a"

    def test_leases_that_are_nearly_over_are_not_taken_but_given_back(self):
        hand = Hand()
        hand.keep(lease("a", until=1.0), late := lease("b", until=9.0))
        hand.time = 1.0
        assert [each.id for each in hand.suspects.take_late()] == ["a"]
        hand.time = 9.0
        assert (hand.take(), hand.suspects.ready, hand.suspects.take_late()) == (None, False, [late])
        assert not hand.suspects.waiting

    def test_versions_that_were_stored_anew_or_removed_are_dropped(self):
        hand = Hand()
        kept, old, gone = lease("kept"), lease("old"), lease("gone")
        hand.keep(kept, old, gone)
        dropped = hand.suspects.discard({"kept": kept.record.revision, "old": "another", "gone": None, "other": None})
        assert dropped == [old, gone]
        assert list(hand.suspects.waiting) == [kept]

    def test_one_that_is_given_back_while_it_is_taken_is_not_taken(self):
        hand = Hand()

        class Emptied(type(hand.suspects.waiting)):
            def remove(self, lease):
                hand.suspects.take_all()
                super().remove(lease)

        hand.suspects.waiting = Emptied([alone("a")])
        assert hand.take() is None
        hand.keep(kept := alone("b"))
        assert not hand.suspects.busy or kept

    def test_a_child_of_a_fork_has_none(self):
        hand = Hand()
        hand.keep(lease("a"), lease("b"))
        hand.take()
        hand.suspects.clear()
        assert not hand.suspects.busy


@pytest.fixture
def store(clock):
    return backend(clock=clock, retry={"max_attempts": 3})


def crash(listener) -> None:
    """Let the process of a listener die with all that it holds."""
    intake_of(listener).drop_all()


def hold(pit, clock, count=1, prefetch=5):
    """Let a process claim messages ahead and die, after its handler got some of them."""
    dying = pit.listen(prefetch=prefetch)
    held = [dying.get() for _ in range(count)]
    crash(dying)
    clock.advance(LOCK.total_seconds())
    return [each.id for each in held]


def counts(store, *ids):
    found = [store.get(id).progress for id in ids]
    return [(each.attempts, each.unsettled, each.ahead) for each in found]


def fill(pit, *ids):
    pit.store_many([({"id": id}, DUE) for id in ids])


class TestHandingOut:
    def test_its_attempt_is_certain_before_a_handler_has_it(self, pit, clock, store):
        fill(pit, "a", "b", "c")
        hold(pit, clock)
        with pit.listen(prefetch=5) as listener:
            first = listener.get()
            assert (first.id, first.attempt) == ("a", 2)
            assert counts(store, "a", "b", "c") == [(2, 2, 1), (1, 1, 1), (1, 1, 1)]
            assert first.leased_until == pit.now() + LOCK
            first.ack()
            second = listener.get()
            assert (second.id, counts(store, "b", "c")) == ("b", [(2, 2, 1), (1, 1, 1)])
            second.ack()

    def test_other_messages_do_not_wait_for_one(self, pit, clock):
        fill(pit, "a", "b")
        hold(pit, clock)
        fill(pit, "new", "newer")
        with pit.listen(prefetch=5) as listener:
            seen = [listener.get() for _ in range(4)]
            assert [each and each.id for each in seen] == ["a", "new", "newer", None]
            seen[0].ack()
            assert listener.get().id == "b"

    def test_a_claim_of_one_needs_no_confirmation_and_is_deferred_if_it_has_to_wait(self, pit, clock, store):
        fill(pit, "a", "b")
        hold(pit, clock, prefetch=1, count=2)
        assert counts(store, "a", "b") == [(1, 1, 0)] * 2
        with pit.listen(prefetch=1) as listener:
            store.calls.clear()
            first = listener.get()
            assert (first.id, counts(store, "a")) == ("a", [(2, 2, 0)])
            assert "settle" not in store.calls
            assert listener.get() is None
            assert counts(store, "b") == [(1, 1, 0)], "no handler has it"
            first.ack()
            second = listener.get()
            assert (second.id, second.attempt, counts(store, "b")) == ("b", 2, [(2, 2, 0)])

    @pytest.mark.parametrize("error", [pitstop.OutcomeUnknown("The reply is lost.", ids=("b",)), ZeroDivisionError()])
    def test_one_that_may_have_been_deferred_is_counted_before_a_handler_has_it(self, pit, clock, store, error):
        fill(pit, "a", "b")
        hold(pit, clock, prefetch=1, count=2)
        with pit.listen(prefetch=1) as listener:
            first = listener.get()
            real = Scripted.settle

            def fail_after_that(settlements):
                del store.settle
                real(store, settlements)
                raise error

            store.settle = fail_after_that
            assert listener.get() is None
            assert counts(store, "b") == [(1, 1, 0)]
            first.ack()
            second = listener.get()
            assert (second.id, second.attempt, counts(store, "b")) == ("b", 2, [(2, 2, 0)])

    def test_one_that_was_stored_anew_before_it_was_deferred_is_not_handed_out(self, pit, clock, store):
        fill(pit, "a", "b")
        hold(pit, clock, prefetch=1, count=2)
        with pit.listen(prefetch=1) as listener:
            first = listener.get()
            real = Scripted.settle

            def stored_anew(settlements):
                del store.settle
                with pitstop.init({"type": store_of_another(store)}) as other:
                    other.store({"id": "b", "new": True}, DUE)
                return real(store, settlements)

            store.settle = stored_anew
            listener.get()
            first.ack()
            second = listener.get()
            assert (second.msg, second.attempt) == ({"id": "b", "new": True}, 1)

    def test_one_that_another_thread_takes_meanwhile_is_not_deferred(self, pit, clock, store, alone):
        """The handler of the first suspect ends while the second one is being deferred."""
        fill(pit, "a", "b")
        hold(pit, clock, prefetch=1, count=2)
        with pit.listen(prefetch=1) as listener:
            first = listener.get()
            intake, taken = intake_of(listener), []

            def end_and_take():
                store.during.clear()
                first.ack()
                taken.append(Running(intake.take_at_hand).result())

            store.during["settle"] = end_and_take
            intake.claimer.claim(1)
            (lease,) = [each or intake.take_at_hand() for each in taken]
            assert (lease.id, counts(store, "b")) == ("b", [(2, 2, 0)])

    def test_a_store_that_is_away_keeps_it_and_nothing_else_waiting(self, pit, clock, store):
        fill(pit, "a")
        hold(pit, clock)
        fill(pit, "b", "c")
        with pit.listen(prefetch=5) as listener:
            store.during["lease"] = lambda: setattr(store, "down", True)
            assert [next(listener).id for _ in range(2)] == ["b", "c"]
            store.down = False
            store.during.clear()
            clock.advance(10)
            suspect = next(listener)
            assert (suspect.id, counts(store, "a")) == ("a", [(2, 2, 1)])

    def test_a_reply_that_got_lost_is_asked_for_again(self, pit, clock, store):
        fill(pit, "a")
        hold(pit, clock)
        real = Scripted.settle

        def lose_the_reply(settlements):
            real(store, settlements)
            del store.settle
            raise pitstop.OutcomeUnknown("The test lost the reply.", ids=("a",))

        with pit.listen(prefetch=5) as listener:
            store.settle = lose_the_reply
            assert listener.get() is None
            clock.advance(10)
            assert (listener.get().id, counts(store, "a")) == ("a", [(2, 2, 1)])

    def test_one_that_was_stored_anew_meanwhile_is_not_handed_out_as_it_was(self, pit, clock, store):
        fill(pit, "a")
        hold(pit, clock)
        with pit.listen(prefetch=5) as listener:
            fill(pit, "b")
            real = Scripted.settle

            def stored_anew(settlements):
                del store.settle
                with pitstop.init({"type": store_of_another(store)}) as other:
                    other.store({"id": "a", "new": True}, timedelta(hours=1))
                return real(store, settlements)

            store.settle = stored_anew
            assert listener.get().id == "b"
            assert pit.get("a").message == {"id": "a", "new": True}

    def test_one_that_is_stored_here_while_it_waits_is_dropped(self, pit, clock):
        fill(pit, "a", "b")
        hold(pit, clock)
        with pit.listen(prefetch=5) as listener:
            first = listener.get()
            pit.store({"id": "b", "new": True}, DUE)
            first.ack()
            second = listener.get()
            assert (second.msg, second.attempt) == ({"id": "b", "new": True}, 1)

    def test_a_stop_gives_back_the_ones_that_wait(self, pit, clock, store):
        fill(pit, "a", "b")
        hold(pit, clock)
        before = counts(store, "b")
        with pit.listen(prefetch=5) as listener:
            listener.get()
            listener.stop()
            assert counts(store, "b") == before
            assert pit.get("b").state == "due"
        with pit.listen(prefetch=5) as listener:
            assert (listener.get().id, counts(store, "b")) == ("b", [(2, 2, 1)])

    def test_a_stop_while_it_is_confirmed_gives_it_back(self, pit, clock, store):
        fill(pit, "a")
        hold(pit, clock)
        before = counts(store, "a")
        with pit.listen(prefetch=5) as listener:
            store.during["settle"] = intake_of(listener).end
            assert listener.get() is None
        assert counts(store, "a") == before
        assert pit.get("a").state == "due"

    def test_the_ones_that_wait_for_too_long_are_given_back(self, pit, clock, store):
        fill(pit, "a", "b")
        hold(pit, clock)
        with pit.listen(prefetch=5, heartbeat=False) as listener:
            first = listener.get()
            clock.advance(LOCK.total_seconds() * 0.95)
            intake_of(listener).background.turn()
            assert pit.get("b").state == "due"
            first.ack()

    def test_a_thread_that_waits_gets_the_next_one_when_the_handler_ends(self, pit, clock):
        fill(pit, "a", "b")
        hold(pit, clock)
        with pit.listen(prefetch=5) as listener:
            first = next(listener)
            before = len(clock.waits)
            waiting = Running(lambda: next(listener).id)
            clock.wait_for_waits(before + 1)
            first.ack(wait=True)
            assert waiting.result() == "b"

    def test_a_claim_in_the_background_asks_for_two_at_least(self, pit, clock, store):
        """Also if the consumer has turned out to be slow: no handler gets the message of that claim at once."""
        fill(pit, *"abcdef")
        limits = []
        real = Scripted.lease
        store.lease = lambda limit, duration: limits.append(limit) or real(store, limit, duration)
        with pit.listen() as listener:
            for _ in range(2):
                next(listener).ack()
            clock.advance(60)
            intake_of(listener).waiting.claim_ahead()
            assert limits == [1, 2, 2]

    def test_while_there_are_suspects_a_claim_for_a_worker_asks_for_two_at_least(self, pit, clock, store):
        fill(pit, "a", "b")
        hold(pit, clock, prefetch=2)
        limits = []
        real = Scripted.lease
        store.lease = lambda limit, duration: limits.append(limit) or real(store, limit, duration)
        with pit.listen() as listener:
            first = next(listener)
            assert listener.get() is None
            first.nack()
        assert limits[0] == 1


def store_of_another(store):
    """Return the handle of another process on the same messages."""
    other = Scripted.from_options({"clock": store.clock})
    other._room = store._room
    return other


class TestTwoListeners:
    """A crash ends the leases of both, so that they hand out their suspects as one listener does."""

    @pytest.fixture
    def held(self, pit, clock):
        """A suspect of each of two kinds, each of which the next crash but one would bury."""
        for kind in ("mail", "report"):
            pit.store({"id": kind}, DUE, kind=kind)
        hold(pit, clock, prefetch=1, count=2)

    @pytest.mark.parametrize("prefetch", [1, 5])
    def test_one_waits_for_the_handler_of_the_other(self, pit, clock, store, held, prefetch):
        with (
            pit.listen(kinds=["mail"], prefetch=prefetch) as mail,
            pit.listen(kinds=["report"], prefetch=prefetch) as report,
        ):
            first = mail.get()
            assert (first.id, counts(store, "mail")) == ("mail", [(2, 2, 0)])
            assert report.get() is None
            assert counts(store, "report")[0][:2] == (1, 1), "no handler has it"
            ack_later(mail, first)
            second = report.get()
            assert (second.id, second.attempt) == ("report", 2)
            second.ack()

    def test_a_claim_of_one_has_its_turn_from_the_claim_on(self, pit, clock, store, held):
        """Its attempt is a certain one in the store, although no handler has it yet."""
        with pit.listen(kinds=["mail"], prefetch=1) as mail, pit.listen(kinds=["report"], prefetch=1) as report:
            intake_of(mail).claimer.claim(1)
            assert report.get() is None
            assert counts(store, "mail", "report") == [(2, 2, 0), (1, 1, 0)]
            mail.get().ack()
            report.get().ack()

    def test_the_next_one_begins_when_a_handler_takes_long(self, pit, clock, held):
        with pit.listen(kinds=["mail"]) as mail, pit.listen(kinds=["report"]) as report:
            first = mail.get()
            assert report.get() is None
            clock.advance(1)
            assert report.get().id == "report"
            assert first

    def test_a_listener_that_was_closed_keeps_no_other_waiting(self, pit, held):
        mail = pit.listen(kinds=["mail"])
        first = mail.get()
        mail.close()
        with pit.listen(kinds=["report"]) as report:
            assert report.get().id == "report"
            assert first

    def test_one_that_was_handled_leaves_the_size_of_claims_alone(self, pit, held):
        with pit.listen(kinds=["mail"]) as mail, pit.listen(kinds=["report"]) as report:
            mail.get().ack()
            assert not intake_of(report).suspects.busy

    def test_a_message_that_kills_its_worker_buries_none_of_another_kind(self, clock):
        """The report kills the process two seconds after it begins, when the mail is still being sent."""
        options = {
            "type": "memory",
            "clock": clock,
            "lock_time": LOCK,
            "retry": {"max_attempts": 3},
            "name": "two kinds",
        }
        with pitstop.init(options) as pit:
            pit.store({"id": "mail"}, DUE, kind="mail")
            pit.store({"id": "report"}, DUE, kind="report")
            for _ in range(10):
                listeners = [pit.listen(kinds=[kind]) for kind in ("report", "mail")]
                in_hand = {}
                for _ in range(3):
                    in_hand |= {each.id: each for listener in listeners if (each := listener.get()) is not None}
                    clock.advance(1)
                if "report" in in_hand:
                    for each in listeners:
                        crash(each)
                    clock.advance(LOCK.total_seconds())
                    continue
                for each in in_hand.values():
                    each.ack()
                for each in listeners:
                    each.close()
            assert {each.id: each.attempts for each in pit.entries()} == {"report": 3}


@pytest.mark.parametrize("way", ["threads", "event loop"])
def test_handlers_of_two_kinds_have_them_one_after_the_other(clock, way):
    options = {"type": "memory", "clock": clock, "lock_time": LOCK, "retry": {"max_attempts": 3}, "name": f"two, {way}"}
    running, seen, second = set(), [], threading.Event()

    def handle(msg):
        running.add(msg["id"])
        if len(running) == 2:
            second.set()
        second.wait(0.2)
        seen.append(set(running))
        running.discard(msg["id"])

    async def handle_in_thread(msg):
        await asyncio.to_thread(handle, msg)

    async def consume():
        async with pitstop.init_async(options) as pit:
            return await pit.consume({"mail": handle_in_thread, "report": handle_in_thread}, until_idle=True)

    with pitstop.init(options) as pit:
        for kind in ("mail", "report"):
            pit.store({"id": kind}, DUE, kind=kind)
        hold(pit, clock, prefetch=6)
        if way == "threads":
            pit.consume({"mail": handle, "report": handle}, workers=2, until_idle=True)
        else:
            asyncio.run(consume())
    assert sorted(seen, key=str) == [{"mail"}, {"report"}]


class Processes:
    """Consumers that die one after the other of the messages that kill their worker."""

    def __init__(self, clock: Clock, max_attempts: int, culprits: set[str]) -> None:
        self.clock = clock
        self.options = {"clock": clock, "lock_time": LOCK, "retry": {"max_attempts": max_attempts, "delay": 0}}
        self.options["name"] = f"processes {id(self)}"
        self.culprits = culprits
        self.emitted = Counter[str]()
        self.handled = set[str]()
        self.crashes = 0

    def run(self, prefetch: int, handlers: int = 1) -> None:
        """Consume until nothing is due, or a handler kills the process.

        :param handlers: how many messages are handled at the same time.
        """
        pit = pitstop.init({"type": "memory", **self.options})
        listener = pit.listen(prefetch=prefetch)
        in_hand = []
        while True:
            while len(in_hand) < handlers and (delivery := listener.get()) is not None:
                in_hand.append(delivery)
                self.emitted[delivery.id] += 1
            if not in_hand:
                break
            if len(in_hand) == handlers or listener.get() is None:
                for delivery in in_hand:
                    if delivery.id in self.culprits:
                        self.crashes += 1
                        crash(listener)
                        self.clock.advance(LOCK.total_seconds())
                        return
                    delivery.ack()
                    self.handled.add(delivery.id)
                in_hand.clear()
        pit.close()


@pytest.mark.parametrize("handlers", [1, 4], ids=["one handler", "four handlers"])
@pytest.mark.parametrize("prefetch", [1, 2, 8, 64])
@pytest.mark.parametrize(("max_attempts", "crashes"), [(1, 2), (2, 2), (3, 3), (5, 5)])
def test_a_message_that_kills_its_worker_kills_no_neighbour(clock, max_attempts, crashes, prefetch, handlers):
    processes = Processes(clock, max_attempts, {"13"})
    with pitstop.init({"type": "memory", **processes.options}) as pit:
        fill(pit, *(f"{number:02}" for number in range(40)))
        for _ in range(20):
            processes.run(prefetch, handlers)
        dead = {entry.id: entry.attempts for entry in pit.entries()}
    if prefetch == 1 and max_attempts == 1:
        # Each claim is of one message, and each message of a handler is counted for certain.
        crashes = 1
        assert "13" in dead
        assert len(dead) <= handlers
    else:
        assert dead == {"13": max_attempts}
        assert len(processes.handled) == 39
    assert processes.crashes == processes.emitted["13"] == crashes
    assert processes.handled | dead.keys() == {f"{number:02}" for number in range(40)}


def test_several_of_them_die_one_after_the_other(clock):
    culprits = {"05", "13", "14", "31"}
    processes = Processes(clock, 3, culprits)
    with pitstop.init({"type": "memory", **processes.options}) as pit:
        fill(pit, *(f"{number:02}" for number in range(40)))
        for _ in range(20):
            processes.run(16, 4)
        assert {entry.id: entry.attempts for entry in pit.entries()} == dict.fromkeys(culprits, 3)
    assert len(processes.handled) == 36
    assert processes.crashes <= 3 * len(culprits)


def test_no_message_dies_of_losses_of_power_that_no_handler_saw(clock):
    options = {"clock": clock, "lock_time": LOCK, "retry": {"max_attempts": 1}, "name": "power"}
    with pitstop.init({"type": "memory", **options}) as pit:
        fill(pit, "a", "b", "c")
        for _ in range(5):
            listener = pit.listen(prefetch=3)
            intake_of(listener).claimer.claim(3)
            crash(listener)
            clock.advance(LOCK.total_seconds())
        assert {entry.state for entry in pit.entries()} == {"due"}
        assert {entry.attempts for entry in pit.entries()} == {1}, "one attempt is uncertain, the others were none"
        with pit.listen(prefetch=3) as listener:
            for _ in range(3):
                listener.get().ack()


def test_asyncio_hands_them_out_one_after_the_other(clock):
    options = {"type": "memory", "clock": clock, "lock_time": LOCK, "retry": {"max_attempts": 3}, "name": "asyncio"}
    handling = 0

    async def main(pit):
        async def handle(msg):
            nonlocal handling
            handling += 1
            assert handling == 1, "the others are suspects, too"
            await asyncio.sleep(0)
            handling -= 1

        return await pit.consume(handle, concurrency=5, until_idle=True)

    with pitstop.init(options) as pit:
        fill(pit, *"abcdef")
        hold(pit, clock, prefetch=6)

        async def run():
            async with pitstop.init_async(options) as pit:
                return await main(pit)

        summary = asyncio.run(run())
        assert summary.handled == 6
        assert pit.entries() == []


def test_an_application_test_with_a_crash_sees_the_same(clock):
    with testing.init({"type": "memory", "retry": {"max_attempts": 2}}) as pit:
        pit.store({"id": "a"}, DUE)
        attempts = []

        def handler(msg):
            attempts.append(msg["id"])
            raise testing.Crash

        pit.run_for(timedelta(hours=2), handler)
        assert attempts == ["a", "a"]
        assert attrs.asdict(pit.get("a"))["attempts"] == 2


def test_an_application_test_sees_the_attempts_that_a_handler_had(clock):
    """Two leases ended in a listener, and two in a handler."""
    with testing.init({"type": "memory", "retry": {"max_attempts": 2}}) as pit:
        now = round(pit.now().timestamp() * 1000)
        progress = Progress(now, now, attempts=4, first_leased=now, token="t", unsettled=4, ahead=2)
        pit._session.backend.put([Record("a", {}, None, "r", progress)])
        (step,) = pit.run_until_idle(lambda msg: None).steps
        assert (step.outcome, step.attempt) == ("dead", 2)
        assert step.error.startswith("Given up after 2 attempts;")
