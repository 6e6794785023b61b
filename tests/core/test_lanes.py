"""``consume`` with a handler for each kind."""

from __future__ import annotations

import asyncio
import signal
import threading

from collections import Counter
from contextlib import ExitStack
from datetime import timedelta

import pytest

import pitstop

from core.kit import backend as scripted
from pitstop import Handle, testing
from pitstop._consume._course import Course
from pitstop._consume._lanes import Lane
from pitstop._consume._source import Source
from pitstop._consume._threads import Consuming
from pitstop._engine import _lifecycle
from pitstop._engine._intake import Intake
from pitstop._engine._listener import intake_of
from pitstop_memory import MemoryBackend


PATIENCE = 60


@pytest.fixture
def pit():
    with pitstop.init("memory://") as pit:
        yield pit


def run(way, backend, handlers, **options):
    """Consume in threads, or in an event loop with the same handlers as coroutines."""
    if way == "threads":
        with pitstop.init({"type": backend}) as pit:
            return pit.consume(handlers, **options)

    def as_async(value):
        if isinstance(value, Handle):
            return Handle(as_async(value.handler), workers=value.workers)

        async def handle(message):
            await asyncio.to_thread(value, message)

        return handle

    async def main():
        async with asyncio.timeout(PATIENCE), pitstop.init_async({"type": backend}) as pit:
            if "workers" in options:
                options["concurrency"] = options.pop("workers")
            return await pit.consume({kind: as_async(each) for kind, each in handlers.items()}, **options)

    return asyncio.run(main())


@pytest.fixture(params=["threads", "event loop"])
def way(request):
    return request.param


class Unclosed(MemoryBackend):
    """Lives on when its Pitstop is closed."""

    def close(self):
        pass


@pytest.fixture
def backend():
    return Unclosed()


@pytest.fixture
def store(backend):
    """Stores messages of some kinds, due in this order."""

    def store(*kinds):
        with pitstop.init({"type": backend}) as pit:
            now = pit.now() - timedelta(hours=1)
            for n, kind in enumerate(kinds):
                pit.store({"id": f"{kind} {n}", "kind": kind}, now + timedelta(milliseconds=n), kind=kind)

    return store


def left(backend):
    return Counter(each.kind for each in backend.scan(None, 1000, None))


def test_each_kind_goes_to_its_handler_and_unknown_ones_are_left(way, backend, store):
    store("mail", "other", "report", "", "mail", "other")
    seen = []

    summary = run(
        way,
        backend,
        {
            "mail": lambda message: seen.append(("mail", message["kind"])),
            "report": Handle(lambda message: seen.append(("report", message["kind"])), workers=1),
        },
        workers=2,
        until_idle=True,
    )

    assert sorted(seen) == [("mail", "mail")] * 2 + [("report", "report")]
    assert (summary.acked, summary.nacked, summary.reason) == (3, 0, "idle")
    assert left(backend) == {"other": 2, "": 1}
    assert all(each.progress.attempts == 0 for each in backend.scan(None, 10, None)), "they were not even claimed"


def test_a_star_takes_the_rest(way, backend, store):
    store("mail", "other", "report", "", "mail", "other")
    seen = []

    run(
        way,
        backend,
        {"mail": lambda message: seen.append("mail"), "*": lambda message: seen.append(f"* {message['kind']}")},
        until_idle=True,
    )

    assert sorted(seen) == ["* ", "* other", "* other", "* report", "mail", "mail"]
    assert left(backend) == {}


def test_a_slow_kind_does_not_keep_a_fast_one_waiting(way, backend, store):
    """However many slow messages are due before, and with no options of their own."""
    store(*["report"] * 20, "mail")
    mailed = threading.Event()
    waited = []

    def report(message):
        waited.append(mailed.wait(PATIENCE))

    run(way, backend, {"report": report, "mail": lambda message: mailed.set()}, workers=2, until_idle=True)

    assert waited == [True] * 20


def test_a_handle_limits_the_workers_of_its_kind(way, backend, store):
    store(*["report", "mail"] * 10)
    lock, running, most = threading.Lock(), Counter(), Counter()
    three = threading.Event()

    def handle(message):
        kind = message["kind"]
        with lock:
            running[kind] += 1
            most[kind] = max(most[kind], running[kind])
            if most["mail"] == 3:
                three.set()
        if kind == "mail":
            assert three.wait(PATIENCE)
        with lock:
            running[kind] -= 1

    run(way, backend, {"mail": handle, "report": Handle(handle, workers=1)}, workers=3, until_idle=True)

    assert most == {"mail": 3, "report": 1}


def test_it_is_idle_when_no_kind_is(way, backend, store):
    """A handler of the last message of one kind stores one of another."""
    store("first")
    seen = []
    with pitstop.init({"type": backend}) as pit:
        following = {"first": "second", "second": "third", "third": "first"}

        def handle(message):
            seen.append(message["kind"])
            if len(seen) < 10:
                kind = following[message["kind"]]
                pit.store({"kind": kind}, kind=kind)

        summary = run(way, backend, dict.fromkeys(following, handle), until_idle=True)

    assert len(seen) == summary.acked == 10
    assert left(backend) == {}


@pytest.mark.parametrize("count", [1, 3])
def test_it_ends_after_a_number_of_messages_of_any_kind(way, backend, store, count):
    store("b", "b", "b", "b")

    summary = run(way, backend, {"a": print, "b": lambda message: None, "c": print}, workers=2, max_messages=count)

    assert (summary.acked, summary.reason) == (count, "max_messages")
    found = backend.scan(None, 10, None)
    assert len(found) == 4 - count
    assert all(each.progress.attempts == 0 and each.progress.token is None for each in found), "they were given back"


def test_options_of_a_handle_hold_for_its_kind_alone(pit):
    until = {}

    def handle(delivery):
        until[delivery.kind] = delivery.leased_until - delivery.scheduled_for

    for kind in ("mail", "report"):
        pit.store({}, kind=kind)
    handlers = {"mail": handle, "report": Handle(handle, lock_time="2h", prefetch=1, heartbeat=True)}

    pit.consume(handlers, lock_time="10m", until_idle=True)

    assert timedelta(minutes=10) <= until["mail"] < timedelta(minutes=20)
    assert timedelta(hours=2) <= until["report"] < timedelta(hours=3)


def test_a_kind_without_a_heartbeat_beside_kinds_with_one(pit):
    pit.store({}, kind="mail")
    handlers = {"mail": Handle(lambda message: None, heartbeat=False), "report": print}
    assert pit.consume(handlers, heartbeat=True, max_lease="1h", until_idle=True).acked == 1


def test_max_lease_holds_for_the_only_kind_that_has_a_heartbeat(pit):
    pit.store({}, kind="mail")
    handlers = {"mail": lambda message: None, "report": Handle(print, heartbeat=True)}
    assert pit.consume(handlers, max_lease="1h", until_idle=True).acked == 1


class TestAnEventLoopThatIsAboutToBeIdle:
    """Each kind looks at the store by itself. It is idle when the last of them has found nothing."""

    @staticmethod
    def consume(backend, while_it_runs=None):
        async def handle(message):
            raise AssertionError

        async def main():
            async with asyncio.timeout(PATIENCE), pitstop.init_async({"type": backend}) as pit:
                consuming = asyncio.ensure_future(pit.consume({"fast": handle, "slow": handle}, until_idle=True))
                if while_it_runs is not None:
                    await asyncio.to_thread(while_it_runs)
                return await consuming

        return asyncio.run(main())

    def test_a_kind_that_has_found_nothing_does_not_look_again_while_another_one_is_slow(self):
        polls, often, waited = [], threading.Event(), []

        class Slow(MemoryBackend):
            def lease(self, limit, duration, kinds=None):
                if kinds == ("slow",):
                    waited.append(often.wait(0.3))
                else:
                    polls.append(1)
                    if len(polls) == 10:
                        often.set()
                return super().lease(limit, duration, kinds)

        assert self.consume(Slow()).reason == "idle"
        assert not any(waited)

    def test_nor_does_it_end_the_pause_of_one_whose_store_fails(self):
        tries, often, away = [], threading.Event(), [True]
        clock = testing.ManualClock()

        class Failing(MemoryBackend):
            def lease(self, limit, duration, kinds=None):
                if kinds == ("slow",):
                    tries.append(1)
                    if len(tries) == 3:
                        often.set()
                    if away:
                        raise pitstop.BackendUnavailable("away")
                return super().lease(limit, duration, kinds)

        def mend():
            assert clock.wait_for_sleepers(1)
            assert not often.wait(0.3)
            away.clear()
            clock.advance(120)

        assert self.consume(Failing.from_options({"clock": clock}), mend).reason == "idle"


class Polled(Unclosed):
    """Answers no claim of reports before a test lets it."""

    def __init__(self, config=None):
        super().__init__(config)
        self.may_answer = threading.Event()
        self.answered = threading.Event()

    def lease(self, limit, duration, kinds=None):
        if kinds == ("report",):
            if self.may_answer.is_set():
                # The claim before this one is noted.
                self.answered.set()
            assert self.may_answer.wait(PATIENCE)
        return super().lease(limit, duration, kinds)


def test_it_is_one_consumer_whose_last_poll_is_that_of_the_kind_that_was_polled_longest_ago(way):
    """A kind that is stuck is not hidden by the others."""
    backend = Polled()
    with pitstop.init({"type": backend}) as pit:
        pit.store_many([({"id": "a"}, "0s"), ({"id": "b"}, "0s")], kind="mail")
    polls = []

    def look(consumers):
        (consumer,) = consumers
        polls.append((consumer.healthy, consumer.in_handlers >= 1, consumer.last_poll is not None))

    options = {"loop_time": "10ms", "max_messages": 2}
    if way == "threads":
        with pitstop.init({"type": backend}) as pit:

            def handle(message):
                if polls:
                    return
                look(pit.consumers)
                backend.may_answer.set()
                assert backend.answered.wait(PATIENCE)
                look(pit.consumers)

            pit.consume({"mail": handle, "report": print}, **options)
    else:

        async def main():
            async with asyncio.timeout(PATIENCE), pitstop.init_async({"type": backend}) as pit:

                async def handle(message):
                    if polls:
                        return
                    look(pit.consumers)
                    backend.may_answer.set()
                    assert await asyncio.to_thread(backend.answered.wait, PATIENCE)
                    look(pit.consumers)

                async def report(message): ...

                await pit.consume({"mail": handle, "report": report}, concurrency=1, **options)

        asyncio.run(main())
    assert polls == [(True, True, False), (True, True, True)]


def test_a_failure_of_a_handler_is_nacked_and_the_end_of_the_program_ends_all(pit):
    pit.store({"id": "a"}, kind="mail")
    pit.store({"id": "b"}, kind="report")

    def fail(message):
        raise ValueError(message["id"])

    def leave(message):
        raise SystemExit(3)

    assert pit.consume({"mail": fail}, max_messages=1).nacked == 1
    assert pit.get("a").last_error == "ValueError: a"
    with pytest.raises(SystemExit):
        pit.consume({"mail": fail, "report": leave})
    assert pit.get("b").state == "due"


class TestTheEnd:
    """All kinds end at once, also if the store is slow."""

    KINDS = ("mail", "report", "other")

    @pytest.fixture
    def store(self):
        return scripted(clock=testing.ManualClock())

    @pytest.fixture
    def pit(self, store):
        with pitstop.init({"type": store}) as pit:
            for kind in self.KINDS:
                for n in range(3):
                    pit.store({"id": f"{kind} {n}", "kind": kind}, None, kind=kind)
            yield pit

    @pytest.fixture
    def intakes(self, pit):
        """Of three kinds, with messages in hand."""
        with ExitStack() as stack:
            listeners = [stack.enter_context(pit.listen(kinds=[kind], prefetch=3)) for kind in self.KINDS]
            for each in listeners:
                assert each.get()
            yield [intake_of(each) for each in listeners]

    @pytest.fixture
    def consuming(self, pit, intakes):
        lanes = [Lane(each, print, deliveries=False, workers=1) for each in intakes]
        return Consuming(pit._session, lanes, Course(None, 30.0), until_idle=False)

    def test_no_kind_hands_out_a_message_while_those_of_another_are_given_back(self, store, intakes, consuming):
        handed_out = []
        store.during["settle"] = lambda: handed_out.extend(each.buffer.pop() for each in intakes)
        consuming._on_signal(signal.SIGTERM)
        assert handed_out
        assert set(handed_out) == {None}

    def test_the_messages_of_all_kinds_are_given_back_at_the_same_time(self, store, consuming):
        """The signal handler waits for them once."""
        together, alone = threading.Barrier(3), []

        def wait():
            try:
                together.wait(0.3)
            except threading.BrokenBarrierError:
                alone.append(1)

        store.during["settle"] = wait
        consuming._on_signal(signal.SIGTERM)
        assert not alone

    @pytest.mark.parametrize("end", [_lifecycle._at_exit, _lifecycle._stop_all])
    def test_and_so_they_are_when_the_program_ends(self, store, pit, intakes, end, monkeypatch):
        together, alone, handed_out = threading.Barrier(3), [], []

        def wait():
            handed_out.extend(each.buffer.pop() for each in intakes)
            try:
                together.wait(0.3)
            except threading.BrokenBarrierError:
                alone.append(1)

        store.during["settle"] = wait
        monkeypatch.setattr(_lifecycle, "_owners", {pit._session})
        end()
        store.during.clear()
        assert not alone
        assert set(handed_out) == {None}

    def test_all_kinds_are_closed_although_the_close_of_one_fails(self, pit, monkeypatch):
        closed, close = [], Intake.close

        def fail_after_that(self):
            close(self)
            closed.append(self)
            raise ZeroDivisionError(len(closed))

        monkeypatch.setattr(Intake, "close", fail_after_that)
        handlers = dict.fromkeys(self.KINDS, lambda message: None)
        with pytest.raises(ZeroDivisionError):
            pit.consume(handlers, until_idle=True)
        assert len(set(closed)) == 3

    def test_none_is_left_open_if_one_cannot_be_opened(self, pit, monkeypatch):
        opened, begin = [], Intake.__init__

        def begin_two(self, *args, **options):
            if len(opened) == 2:
                raise ZeroDivisionError
            begin(self, *args, **options)
            opened.append(self)

        def fail_after_that(self, close=Intake.close):
            close(self)
            raise OSError

        monkeypatch.setattr(Intake, "__init__", begin_two)
        monkeypatch.setattr(Intake, "close", fail_after_that)
        with pytest.raises(OSError):
            pit.consume(dict.fromkeys(self.KINDS, print))
        assert len(opened) == 2
        assert not set(opened) & set(pit._session.components)

    def test_a_message_that_is_taken_meanwhile_is_given_back(self, pit, monkeypatch):
        """Its handler has not begun, so the end of the program is no attempt."""
        seen, take = [], Source.take

        def taken(self, lane, bell):
            lease = take(self, lane, bell)
            (consuming,) = [each for each in pit._session.components if isinstance(each, Consuming)]
            consuming._course.end("signal")
            consuming._bell.ring()
            return lease

        monkeypatch.setattr(Source, "take", taken)
        summary = pit.consume({"mail": seen.append, "report": seen.append}, prefetch=1)
        assert seen == []
        assert (summary.handled, summary.reason) == (0, "signal")
        assert {(each.state, each.attempts) for each in pit.entries()} == {("due", 0)}


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("handlers", "options", "error", "why"),
        [
            ({}, {}, pitstop.PitstopError, "empty mapping"),
            (
                {"mail": 7},
                {},
                pitstop.PitstopError,
                "The handler of 'mail': The handler is a int, which cannot be called",
            ),
            ({7: print}, {}, pitstop.PitstopError, "a key that is no kind. The kind must be a str"),
            ({"k" * 65: print}, {}, pitstop.PitstopError, "a key that is no kind"),
            ({"mail": print}, {"kinds": ["mail"]}, pitstop.ConfigError, "Leave kinds out"),
            ({"mail": Handle(print, workers=0)}, {}, pitstop.ConfigError, "The handler of 'mail': workers=0"),
            ({"mail": Handle(print, lock_time="soon")}, {}, pitstop.ConfigError, "The handler of 'mail': lock_time"),
            ({"mail": Handle(print, max_lease="1h")}, {}, pitstop.ConfigError, "without heartbeat"),
            ({"mail": print}, {"lock_time": "soon"}, pitstop.ConfigError, "^lock_time"),
            ({"mail": Handle(print)}, {"lock_time": "soon"}, pitstop.ConfigError, "^lock_time"),
            ({"mail": Handle(print, heartbeat=False)}, {"max_lease": "1h"}, pitstop.ConfigError, "^max_lease"),
            ({"mail": print, "*": Handle(print, deliveries="no")}, {}, pitstop.ConfigError, r"'\*': deliveries='no'"),
            (
                {"mail": Handle(print, lock_time="2h")},
                {"heartbeat": True, "max_lease": "1h"},
                pitstop.ConfigError,
                "The handler of 'mail': max_lease=1:00:00 is shorter than lock_time",
            ),
            (Handle(print), {}, pitstop.PitstopError, "belongs to a kind"),
            (dict.fromkeys([*map(str, range(101)), "*"], print), {}, pitstop.PitstopError, "name 101 kinds beside"),
            ({"mail": Handle(Handle(print))}, {}, pitstop.PitstopError, "is a Handle, which cannot be called"),
        ],
    )
    def test_before_anything_is_claimed(self, pit, handlers, options, error, why):
        pit.store({}, kind="mail")
        with pytest.raises(error, match=why):
            pit.consume(handlers, **options)
        assert pit.stats().due == 1
        assert [each for each in pit._session.components if type(each).__name__ == "Intake"] == []

    def test_a_handler_that_is_async_in_threads(self, pit):
        async def handle(message):
            pass

        with pytest.raises(pitstop.PitstopError, match="The handler of 'report': The handler is async"):
            pit.consume({"mail": print, "report": handle})

    def test_a_handler_that_is_not_async_in_an_event_loop(self):
        async def main():
            async with pitstop.init_async("memory://") as pit:
                with pytest.raises(pitstop.PitstopError, match=r"The handler of 'mail': .* is not async"):
                    await pit.consume({"mail": print})

        asyncio.run(main())

    def test_a_lease_that_is_longer_than_max_lease_in_an_event_loop(self):
        async def handle(message):
            pass

        async def main():
            async with pitstop.init_async("memory://") as pit:
                with pytest.raises(pitstop.ConfigError, match="The handler of 'mail': max_lease"):
                    await pit.consume({"mail": Handle(handle, lock_time="2h")}, heartbeat=True, max_lease="1h")

        asyncio.run(main())

    def test_kinds_on_a_store_without_them_but_a_star_alone_needs_none(self):
        class Plain(MemoryBackend):
            capabilities = pitstop.abc.Capability(0)

        with pitstop.init({"type": Plain()}) as pit:
            pit.store({})
            with pytest.raises(pitstop.Unsupported, match="capability KINDS"):
                pit.consume({"mail": print})
            assert pit.consume({"*": lambda message: None}, until_idle=True).acked == 1
