"""``consume`` at a rate: messages beyond it stay in the store, unclaimed, until their time has come."""

from __future__ import annotations

import asyncio
import threading

from collections import Counter
from datetime import timedelta
from itertools import pairwise

import pytest

from hypothesis import given
from hypothesis import strategies as st

import pitstop

from core.kit import Clock, Running, Scripted, consume_until_closed
from pitstop import ConfigError, Handle, testing
from pitstop._decisions._spacing import Spacing
from pitstop._engine._claimer import Claimer
from pitstop._engine._throttle import Throttle, admitted, settle
from pitstop._values._rate import Rate, parse_rate
from pitstop_memory import MemoryConfig


SECOND = timedelta(seconds=1)
PATIENCE = 30


class Jumping(testing.ManualClock):
    """A clock that jumps to the end of each wait, unless the wait ends at once. For one thread that waits by it."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def wait(self, bell, seconds):
        if seconds is None or bell.wait(0):
            return seconds is not None or bell.wait(None)
        self.waits.append(seconds)
        self.advance(max(seconds, 1e-6))
        return False


class Unclosed(Scripted):
    """Lives on when its Pitstop is closed, and notes when it leased messages, in microseconds."""

    def __init__(self, config):
        super().__init__(config)
        self.leased = []

    def lease(self, limit, duration, kinds=None):
        leased = super().lease(limit, duration, kinds)
        self.leased += [self.now()] * len(leased)
        return leased

    def close(self):
        pass


# The text.


@pytest.mark.parametrize(
    ("text", "messages", "period"),
    [
        ("50/s", 50, SECOND),
        ("100/m", 100, 60 * SECOND),
        ("2/h", 2, 3600 * SECOND),
        ("5/d", 5, timedelta(days=1)),
        ("1000/15m", 1000, 900 * SECOND),
        ("1/1h30m", 1, 5400 * SECOND),
        ("3/250ms", 3, timedelta(milliseconds=250)),
        (" 50 / S ", 50, SECOND),
    ],
)
def test_a_rate_is_a_number_of_messages_and_a_unit_or_a_duration(text, messages, period):
    assert parse_rate(text, "rate") == Rate(messages, period)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (50, "is not a rate. Give text such as '50/s'"),
        (True, "is not a rate"),
        (b"50/s", "is not a rate"),
        ("50", "is not a rate"),
        ("fast", "is not a rate"),
        ("/s", "is not a rate"),
        ("-5/s", "is not a rate"),
        ("\u0663/s", "is not a rate"),
        ("9" * 200 + "/s", "is not a rate"),
        ("0/s", "would let no message through"),
        ("0.5/s", "has a fraction of a message. Give a whole number in a longer time, as in '1/2s'"),
        ("50/", "has no duration after the slash"),
        ("50/sec", "has no duration after the slash"),
        ("50/90", "has no duration after the slash"),
        ("50/0s", "from one millisecond to 100 years"),
        ("50/40000d", "from one millisecond to 100 years"),
        (f"{2**63}/s", "at most 9223372036854775807 messages"),
    ],
)
def test_other_values_are_refused_with_a_hint(value, hint):
    with pytest.raises(ConfigError, match=f"rate=.*{hint}"):
        parse_rate(value, "rate")


def test_consume_checks_the_rate_before_it_claims():
    with pitstop.init("memory://") as pit:
        with pytest.raises(ConfigError, match="rate='50'"):
            pit.consume(print, rate="50")
        with pytest.raises(ConfigError, match=r"The handler of 'mail': rate='50'"):
            pit.consume({"mail": Handle(print, rate="50")})


# The decision.


@given(
    messages=st.integers(1, 200),
    period=st.sampled_from([1, 10, 1000, 60_000]).map(lambda ms: timedelta(milliseconds=ms)),
    steps=st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(1, 50), st.integers(0, 3)), max_size=60),
)
def test_in_no_period_are_more_messages_claimed_than_the_rate_has(messages, period, steps):
    spacing, now, claims = Spacing(Rate(messages, period)), 10**9, []
    for passed, wanted, missing in steps:
        now += passed
        claimed = min(wanted, spacing.allowed(now))
        assert (claimed == 0) == (spacing.pause(now) > 0)
        if claimed:
            unused = min(missing, claimed)
            spacing = spacing.after(claimed, now).without(unused)
            claims += [now] * (claimed - unused)
    length = period // timedelta(microseconds=1)
    for first in set(claims):
        assert sum(first <= each < first + length for each in claims) <= messages


@given(
    messages=st.integers(1, 200),
    period=st.sampled_from([1, 10, 1000, 60_000]).map(lambda ms: timedelta(milliseconds=ms)),
    batch=st.integers(1, 100),
    steps=st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(1, 100)), max_size=60),
)
def test_in_no_period_are_more_messages_claimed_in_batches_than_the_docs_say(messages, period, batch, steps):
    """docs/listening.md, "Rate": the number of the rate, and one batch without a message."""
    throttle, now, claims = Throttle(Rate(messages, period)), 10**9, []
    for passed, there in steps:
        now += passed
        claims += [now] * throttle.admit(min(there, batch), now, int, batch)
    length = period // timedelta(microseconds=1)
    for first in set(claims):
        assert sum(first <= each < first + length for each in claims) <= messages + batch - 1


@given(messages=st.integers(1, 5000), seconds=st.integers(1, 3600))
def test_the_pause_is_exact_and_nearly_all_of_the_rate_is_used(messages, seconds):
    spacing, now, claimed = Spacing(Rate(messages, timedelta(seconds=seconds))), 10**15, 0
    begun = now
    while claimed < 3 * messages and claimed < 300:
        pause = spacing.pause(now)
        if pause:
            assert spacing.allowed(now + pause - 1) == 0
        now += pause
        claimed += (count := spacing.allowed(now))
        spacing = spacing.after(count, now)
    assert now - begun <= seconds * 1e6 / messages * claimed * 1.0101


def test_after_a_long_pause_there_is_no_herd():
    spacing = Spacing(parse_rate("50/s", "rate")).after(1, 0)
    assert spacing.allowed(10**12) == 1
    assert Spacing(parse_rate("100/m", "rate")).after(1, 0).allowed(10**12) == 1
    assert Spacing(parse_rate("10000/s", "rate")).after(1, 0).allowed(10**12) == 100, "those of 10 ms, in one claim"


def test_a_short_delay_is_made_up_for():
    spacing = Spacing(parse_rate("50/s", "rate")).after(1, 0)
    assert spacing.pause(0) == 20_200
    late = spacing.after(1, 28_200)
    assert late.pause(28_200) == 12_200, "as if it had been in time"
    very_late = spacing.after(1, 20_200 + 50_000)
    assert very_late.pause(70_200) == 10_200, "no more than ten milliseconds"


# Throttles.


def test_two_throttles_count_what_both_admit():
    own, shared = Throttle(parse_rate("1/h", "rate")), Throttle(parse_rate("10000/s", "rate"))
    shared.admit(1, 0, int)
    assert admitted([own, shared], 20, 10**9, int) == 1
    assert shared.admit(1000, 10**9, int) == 99, "one of a hundred was counted"
    assert admitted([own, shared], 20, 2 * 10**9, int) == 0
    assert shared.admit(1000, 2 * 10**9, int) == 100, "none was counted"


def test_a_refused_thread_is_woken_when_an_admitted_message_was_not_there():
    throttle, woken = Throttle(parse_rate("1/h", "rate")), []

    def wake():
        woken.append(throttle.pause(0))

    assert admitted([throttle], 1, 0, int) == 1
    assert admitted([throttle], 1, 0, wake) == 0
    settle([throttle], 0)
    assert woken == []
    settle([throttle], 1)
    assert woken == [0], "it may claim now"
    settle([throttle], 1)
    assert woken == [0], "once"


def test_more_messages_than_were_admitted_are_waited_for_later():
    throttle = Throttle(parse_rate("1/s", "rate"))
    assert admitted([throttle], 1, 0, int) == 1
    settle([throttle], -1)
    assert throttle.pause(0) == 2 * 1_010_000


# Consumers.


def due(backend, count, kind="", prefix="m"):
    with pitstop.init({"type": backend}) as pit:
        when = pit.now() - timedelta(hours=1)
        pit.store_many([({"id": f"{prefix}{n}"}, when + timedelta(milliseconds=n)) for n in range(count)], kind=kind)


def consume(way, backend, handler, **options):
    if way == "threads":
        with pitstop.init({"type": backend}) as pit:
            return pit.consume(handler, **options)

    async def main():
        async with asyncio.timeout(PATIENCE), pitstop.init_async({"type": backend}) as pit:
            if "workers" in options:
                options["concurrency"] = options.pop("workers")
            return await pit.consume(coroutine(handler), **options)

    return asyncio.run(main())


def coroutine(handler):
    if isinstance(handler, dict):
        return {kind: coroutine(each) for kind, each in handler.items()}
    if isinstance(handler, Handle):
        return Handle(coroutine(handler.handler), workers=handler.workers, rate=handler.rate)

    async def handle(message):
        handler(message)

    return handle


@pytest.fixture(params=["threads", "event loop"])
def way(request):
    return request.param


@pytest.fixture
def clock():
    return Jumping()


@pytest.fixture
def backend(clock):
    return Unclosed(MemoryConfig(clock=clock))


def test_a_backlog_comes_evenly_and_without_a_real_wait(way, backend, clock):
    due(backend, 20)
    begun = clock.time_us()

    summary = consume(way, backend, lambda message: None, rate="50/s", until_idle=True)

    assert (summary.acked, summary.reason) == (20, "idle")
    assert [each - begun for each in backend.leased] == [n * 20_200 for n in range(20)]


def test_messages_that_wait_for_their_turn_are_not_claimed(way, backend, clock):
    due(backend, 20)
    begun = clock.time_us()

    consume(way, backend, lambda message: None, rate="100/m", prefetch=10, until_idle=True)

    assert [each - begun for each in backend.leased] == [n * 600_100 for n in range(20)]


def test_retries_count(way, clock):
    backend = Unclosed(MemoryConfig(clock=clock, retry={"delay": 0.001}))
    due(backend, 1)
    begun, tries = clock.time_us(), []

    def handler(message):
        tries.append(message)
        if len(tries) < 3:
            raise ValueError

    consume(way, backend, handler, rate="1/m", max_messages=3)

    turns = [(each - begun) / 60_000_000 for each in backend.leased]
    assert len(turns) == 3
    # Between a turn and its claim, another thread's wait of some milliseconds may let the clock jump.
    assert [later - earlier >= 0.999 for earlier, later in pairwise(turns)] == [True, True]


def test_the_end_is_found_although_the_next_message_would_have_to_wait(way):
    """The last message uses up the hour. None is due, so there is nothing to wait for: the clock stands still."""
    backend = Unclosed(MemoryConfig(clock=Clock()))
    due(backend, 1)

    summary = Running(lambda: consume(way, backend, lambda message: None, rate="1/h", until_idle=True)).result()

    assert (summary.acked, summary.reason) == (1, "idle")


def test_the_rate_of_consume_is_for_all_kinds_together(way):
    clock = Clock()
    backend = Unclosed(MemoryConfig(clock=clock))
    due(backend, 2, "mail", "mail")
    due(backend, 2, "report", "report")
    handled, seen = threading.Semaphore(0), []

    def handler(message):
        seen.append(message["id"])
        handled.release()

    running = Running(
        lambda: consume(way, backend, {"mail": handler, "report": handler}, rate="1/m", max_messages=4, workers=2)
    )
    for n in range(1, 5):
        assert handled.acquire(timeout=PATIENCE)
        if n < 4:
            # All threads that claim wait for the next minute, and none has another message.
            sleepers = 4 if way == "threads" else 2
            assert clock.wait_for_sleepers(sleepers)
            assert (len(seen), len(backend.leased)) == (n, n)
            clock.advance("60.6s")

    assert running.result().acked == 4
    assert sorted(seen) == ["mail0", "mail1", "report0", "report1"]


def test_a_kind_may_have_a_rate_of_its_own(way):
    clock = Clock()
    backend = Unclosed(MemoryConfig(clock=clock))
    due(backend, 3, "slow", "s")
    due(backend, 3, "fast", "f")
    seen = Counter()
    fast = threading.Semaphore(0)
    slow = threading.Semaphore(0)

    def count(message):
        kind = message["id"][0]
        seen[kind] += 1
        (slow if kind == "s" else fast).release()

    handlers = {"slow": Handle(count, rate="1/m", workers=1), "fast": Handle(count, workers=1)}
    running = Running(lambda: consume(way, backend, handlers, max_messages=6))
    for _ in range(3):
        assert fast.acquire(timeout=PATIENCE)
    assert slow.acquire(timeout=PATIENCE)
    assert seen == {"f": 3, "s": 1}
    for _ in range(2):
        assert clock.wait_for_sleepers(2)
        clock.advance("61s")
        assert slow.acquire(timeout=PATIENCE)
    assert running.result().acked == 6


def test_several_workers_until_idle_share_the_rate():
    """Workers that found nothing are parked. Each new turn wakes one of them at least."""
    clock = Clock()
    backend = Unclosed(MemoryConfig(clock=clock))
    due(backend, 4)
    handled, go = threading.Semaphore(0), threading.Event()

    def handler(message):
        handled.release()
        assert go.wait(PATIENCE)

    running = Running(
        lambda: consume("threads", backend, handler, rate="1/m", workers=4, until_idle=True, loop_time=3600)
    )
    for n in range(1, 5):
        assert handled.acquire(timeout=PATIENCE), "the handlers that run do not keep the others waiting"
        if n < 4:
            assert clock.wait_for_sleepers(4 - n)
            clock.advance("60.6s")
    go.set()
    summary = running.result()
    assert (summary.acked, summary.reason) == (4, "idle")


@pytest.mark.parametrize("until_idle", [False, True])
def test_a_stop_ends_the_wait_for_the_next_turn_at_once(way, until_idle):
    clock = Clock()
    backend = Unclosed(MemoryConfig(clock=clock))
    due(backend, 2)
    handled = threading.Semaphore(0)
    opened = []

    def run():
        if way == "threads":
            with pitstop.init({"type": backend}) as pit:
                opened.append(pit.close)
                return pit.consume(lambda message: handled.release(), rate="1/h", until_idle=until_idle)

        async def handle(message):
            handled.release()

        async def main():
            async with asyncio.timeout(PATIENCE), pitstop.init_async({"type": backend}) as pit:
                return await consume_until_closed(pit, opened, handle, rate="1/h", until_idle=until_idle)

        return asyncio.run(main())

    running = Running(run)
    assert handled.acquire(timeout=PATIENCE)
    assert clock.wait_for_sleepers(1)
    opened[0]()
    summary = running.result()
    assert (summary.acked, summary.given_back, summary.reason) == (1, 0, "stopped")


def test_the_other_message_may_be_taken_by_another_consumer(backend):
    due(backend, 2)
    others = []

    def handler(message):
        with pitstop.init({"type": backend}) as pit, pit.listen() as listener:
            delivery = listener.get(timeout=0)
            others.append(delivery.id)
            assert delivery.attempt == 1
            delivery.ack()

    assert consume("threads", backend, handler, rate="1/h", until_idle=True).acked == 1
    assert others == ["m1"]


def test_a_suspect_that_waits_does_not_use_up_the_turns_of_others(backend, clock):
    """Two messages that may have killed their worker are handled one after the other; the rate goes on for ordinary ones."""
    due(backend, 4)
    with pitstop.init({"type": backend}) as pit:
        for _ in range(2):
            crashed = list(backend.lease(2, 1000))
            assert len(crashed) == 2
            clock.advance("2s")
        seen = []
        summary = pit.consume(lambda message: seen.append(message["id"]), rate="1/s", until_idle=True)
    assert summary.acked == 4
    assert sorted(seen) == ["m0", "m1", "m2", "m3"]


def test_no_slot_is_used_by_a_message_that_no_handler_gets(backend, clock):
    """Messages that are expired are settled by the claim, and do not count."""
    with pitstop.init({"type": backend}) as pit:
        when = pit.now() - timedelta(hours=1)
        pit.store_many([({"id": f"late {n}"}, when) for n in range(5)], expires="1m")
        pit.store({"id": "good"}, when + timedelta(minutes=30))
        begun = clock.time_us()
        assert pit.consume(lambda message: None, rate="1/h", until_idle=True).acked == 1
    assert clock.time_us() - begun < 60e6


def test_a_claim_that_the_store_refuses_uses_up_no_turn(way, backend, clock):
    due(backend, 2)
    refused = iter([True])

    begun, claim = clock.time_us(), backend.lease

    def lease(limit, duration, kinds=None):
        if next(refused, False):
            raise pitstop.BackendUnavailable("The test took the store away.")
        return claim(limit, duration, kinds)

    backend.lease = lease
    consume(way, backend, lambda message: None, rate="1/h", max_messages=1)

    assert clock.time_us() - begun < 60e6


def test_a_kind_that_was_refused_for_another_one_is_not_idle(way, monkeypatch):
    """The other kind asks first, finds nothing, and gives its turn back before the refused one looks whether it has to wait."""
    backend = Unclosed(MemoryConfig(clock=Clock()))
    due(backend, 1, "report")
    asking, refused, given_back = threading.Event(), threading.Event(), threading.Event()
    claim, admit, settle_one, held_back, lease = (
        *(Claimer.claim, Throttle.admit, Throttle.settle, Claimer.held_back),
        backend.lease,
    )

    def claim_second(self, *arguments):
        if self._kinds == ("report",):
            assert asking.wait(PATIENCE)
        return claim(self, *arguments)

    def note_refusal(self, *arguments):
        count = admit(self, *arguments)
        if not count:
            refused.set()
        return count

    def note_return(self, unused):
        settle_one(self, unused)
        given_back.set()

    def look_late(self):
        assert given_back.wait(PATIENCE)
        return held_back(self)

    def find_nothing(limit, duration, kinds=None):
        if not asking.is_set():
            asking.set()
            assert refused.wait(PATIENCE)
        return lease(limit, duration, kinds)

    monkeypatch.setattr(Claimer, "claim", claim_second)
    monkeypatch.setattr(Throttle, "admit", note_refusal)
    monkeypatch.setattr(Throttle, "settle", note_return)
    monkeypatch.setattr(Claimer, "held_back", look_late)
    backend.lease = find_nothing

    handlers = {"mail": lambda message: None, "report": lambda message: None}
    summary = Running(lambda: consume(way, backend, handlers, rate="1/h", until_idle=True)).result()

    assert (summary.acked, summary.reason) == (1, "idle")
