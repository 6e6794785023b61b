"""The behaviour of consume, apart from the part that the shared suite shows on every backend."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import traceback

from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest

import pitstop

from core.kit import LOCK, Running, Scripted
from pitstop import BackendUnavailable, ConfigError, Consumer, LeaseLost, PitstopError, Summary


DUE = timedelta(0)
LARGE = bool(os.environ.get("PITSTOP_TEST_LARGE"))


def store_due(pit, *ids):
    pit.store_many([({"id": id}, DUE) for id in ids])


@pytest.fixture
def real():
    """One that goes by the real clock: for what takes time."""
    with pitstop.init({"type": "memory", "lock_time": "1m"}) as pit:
        yield pit


class TestSettling:
    def test_a_handler_gets_the_message_or_the_delivery(self, pit):
        store_due(pit, "a", "b")
        seen = []
        pit.consume(seen.append, max_messages=1)
        pit.consume(lambda delivery: seen.append(delivery.id), max_messages=1)
        assert seen == [{"id": "a"}, "b"]

    def test_what_the_handler_settled_itself_stays_so_and_is_counted(self, pit):
        store_due(pit, "acked", "nacked")

        def handle(delivery):
            if delivery.id == "acked":
                delivery.ack()
                raise ValueError("too late to matter")
            delivery.nack("not now", timedelta(hours=1))

        summary = pit.consume(handle, until_idle=True)

        assert (summary.acked, summary.nacked) == (1, 1)
        assert [(each.id, each.last_error) for each in pit.entries()] == [("nacked", "not now")]

    def test_the_text_of_an_error_is_in_the_store_and_not_in_the_log(self, pit, caplog):
        pit.store({"id": "a", "body": "secret"}, DUE)

        def handle(msg):
            raise ValueError(msg["body"])

        summary = pit.consume(handle, until_idle=True)

        assert (summary.acked, summary.nacked) == (0, 1)
        assert pit.get("a").last_error == "ValueError: secret"
        (record,) = [each for each in caplog.records if each.name == "pitstop.consumer"]
        assert record.levelno == logging.ERROR
        assert record.exc_info is None
        line = traceback.extract_stack()[-1].filename
        assert record.getMessage().startswith(f"'a' (attempt 1) failed: ValueError at {line}:")
        assert "secret" not in caplog.text

    def test_the_traceback_of_a_failure_is_in_the_log_without_any_text(self, pit, caplog):
        pit.store({"id": "a", "body": "secret"}, DUE)

        def look_up(body):
            raise KeyError(body)

        def handle(msg):
            try:
                look_up(msg["body"])
            except KeyError as error:
                raise ValueError(msg["body"]) from error

        pit.consume(handle, until_idle=True)

        (record,) = [each for each in caplog.records if each.name == "pitstop.consumer"]
        first, *lines = record.getMessage().splitlines()
        assert first.endswith("; last_error has its text")
        assert [line.rpartition(".")[2] for line in lines if __file__ in line] == ["handle", "handle", "look_up"]
        assert "  caused by KeyError" in lines
        assert "secret" not in caplog.text

    def test_a_lease_that_ran_out_is_a_warning_without_the_message(self, pit, clock, caplog):
        """An operator has to know that the handler is slower than the lease."""
        pit.store({"id": "a", "body": "secret"}, DUE, kind="mail")
        pit.consume(lambda message: clock.advance(LOCK), max_messages=1)
        (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
        assert record.levelno == logging.WARNING
        assert record.getMessage().startswith("the lease of 'a' of kind 'mail' (attempt 1) ran out before")
        assert "secret" not in caplog.text

    def test_a_lease_that_another_program_ended_is_quiet(self, pit, caplog):
        store_due(pit, "a", "b")

        def handle(message):
            if message["id"] == "a":
                # Not by the handler itself.
                Running(lambda: pit.remove("a")).result()
            else:
                Running(lambda: pit.release("b")).result()

        summary = pit.consume(handle, max_messages=2)
        assert summary.lost == 2
        assert [each.getMessage() for each in caplog.records if each.levelno > logging.DEBUG] == []

    def test_a_lease_that_was_lost_is_counted_once(self, pit, clock, caplog):
        store_due(pit, "ack", "extend", "waited")

        def handle(delivery):
            if delivery.id == "waited":
                pit.remove(delivery.id)
                delivery.ack(wait=True)
            clock.advance(LOCK)
            if delivery.id == "extend":
                delivery.extend()

        summary = pit.consume(handle, max_messages=3, prefetch=3)

        assert (summary.acked, summary.nacked, summary.lost, summary.unsettled) == (0, 0, 3, 0)
        assert pit._session.events.counters["lease_lost"] == 3
        told = [each.getMessage() for each in caplog.records if each.levelno > logging.DEBUG]
        assert [each.partition(" ran out")[0] for each in told if "given" not in each] == [
            f"the lease of 'ack' (attempt {n})" for n in (1, 2, 3)
        ]

    def test_plugins_put_their_contexts_around_the_handler(self):
        seen = []

        class Plugin:
            @pitstop.hookimpl
            @contextmanager
            def pitstop_handling(self, delivery):
                seen.append(("begin", delivery.id))
                try:
                    yield
                except ValueError:
                    seen.append(("failed", delivery.id))
                    raise
                seen.append(("end", delivery.id))

        def handle(msg):
            if msg["id"] == "bad":
                raise ValueError

        with pitstop.init({"type": "memory"}, plugins=[Plugin()]) as pit:
            store_due(pit, "bad", "good")
            pit.consume(handle, until_idle=True)
        assert seen == [("begin", "bad"), ("failed", "bad"), ("begin", "good"), ("end", "good")]

    @pytest.mark.parametrize("workers", [1, 4])
    @pytest.mark.timeout(300)
    def test_of_many_messages_each_is_acknowledged_once_or_comes_back(self, workers, caplog):
        total = 50_000 if LARGE else 2000
        caplog.set_level(logging.CRITICAL, "pitstop.consumer")
        lock, seen = threading.Lock(), {}

        def handle(delivery):
            with lock:
                seen[delivery.id] = seen.get(delivery.id, 0) + 1
            assert delivery.attempt == seen[delivery.id]
            if delivery.msg["n"] % 100 == 0 and delivery.attempt == 1:
                raise ValueError

        retry = {"delay": 0.001}
        with pitstop.init({"type": "memory", "retry": retry}) as pit:
            pit.store_many([({"n": n}, DUE) for n in range(total)])
            acked = nacked = 0
            while pit.entries(limit=1):
                summary = pit.consume(handle, workers=workers, until_idle=True)
                acked, nacked = acked + summary.acked, nacked + summary.nacked
                assert summary.handled == summary.acked + summary.nacked
        assert (acked, nacked) == (total, total // 100)
        assert sum(seen.values()) == total + total // 100


class TestEnd:
    def test_with_nothing_due_until_idle_ends_at_once(self, pit):
        pit.store({"id": "later"}, timedelta(seconds=1))
        assert pit.consume(print, until_idle=True, workers=3) == Summary(reason="idle")

    @pytest.mark.parametrize("workers", [1, 3])
    def test_what_handlers_store_for_now_is_handled_too(self, pit, workers):
        pit.store({"n": 200}, DUE)

        def handle(msg):
            if msg["n"]:
                pit.store({"n": msg["n"] - 1}, DUE)

        assert pit.consume(handle, until_idle=True, workers=workers).acked == 201

    def test_workers_that_found_nothing_take_part_in_what_a_handler_stores(self, real):
        together = threading.Barrier(4)
        real.store({"id": "first"}, DUE)

        def handle(msg):
            if msg["id"] == "first":
                store_due(real, "a", "b", "c")
            together.wait(20)

        assert real.consume(handle, until_idle=True, workers=4).acked == 4

    def test_what_comes_back_at_once_is_handled_before_it_is_idle(self, pit):
        store_due(pit, "a", "b")

        def handle(delivery):
            if delivery.attempt < 3:
                delivery.nack(delay=DUE)

        summary = pit.consume(handle, until_idle=True, workers=2)
        assert (summary.acked, summary.nacked) == (2, 4)

    @pytest.mark.parametrize("workers", [1, 4])
    def test_after_max_messages_the_others_are_due_still(self, pit, workers):
        store_due(pit, *(f"m{n:02}" for n in range(30)))
        seen = []
        summary = pit.consume(lambda msg: seen.append(msg["id"]), max_messages=7, workers=workers, prefetch=10)
        assert (summary.reason, summary.handled, len(seen)) == ("max_messages", 7, 7)
        assert (pit.stats().due, pit.stats().leased) == (23, 0)

    def test_fewer_messages_than_workers_end_it_too(self, pit):
        store_due(pit, "a", "b")
        assert pit.consume(print, max_messages=1, workers=4).handled == 1
        assert pit.consume(print, max_messages=3, workers=8, until_idle=True).handled == 1

    def test_to_close_pitstop_ends_it_once_the_handler_is_done(self, real):
        store_due(real, "a")
        begun, go_on = threading.Event(), threading.Event()

        def handle(msg):
            begun.set()
            go_on.wait(20)

        consuming = Running(lambda: real.consume(handle))
        assert begun.wait(20)
        closing = Running(real.close)
        go_on.set()
        closing.result()
        assert consuming.result() == Summary(acked=1, reason="stopped")

    def test_a_handler_may_close_pitstop(self, real):
        """The message is settled, what the handler does then still works, and the store is closed when ``consume`` returns."""
        store_due(real, "a", "b")
        later = []

        def handle(msg):
            real.close()
            later.append(real.get("b").state)

        assert real.consume(handle) == Summary(acked=1, reason="stopped")
        assert later == ["due"]
        with pytest.raises(BackendUnavailable, match="was closed"):
            real.get("b")

    def test_handlers_of_two_consumers_may_close_pitstop_at_once(self, real):
        store_due(real, "a", "b")
        both = threading.Barrier(2)

        def handle(msg):
            both.wait(20)
            real.close()

        consuming = [Running(lambda: real.consume(handle, prefetch=1)) for _ in range(2)]
        assert [each.result() for each in consuming] == [Summary(acked=1, reason="stopped")] * 2

    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["SystemExit", "KeyboardInterrupt"])
    def test_a_handler_that_asks_for_the_end_of_the_program_gets_it_after_the_others_are_done(self, real, error):
        together, done = threading.Barrier(2), []
        store_due(real, "ends", "other")

        def handle(msg):
            together.wait(20)
            if msg["id"] == "ends":
                raise error
            threading.Event().wait(0.05)
            done.append(msg["id"])

        with pytest.raises(type(error)) as caught:
            real.consume(handle, workers=2)
        assert caught.value is error
        assert done == ["other"]
        assert [(each.id, each.state, each.last_error) for each in real.entries()] == [("ends", "due", None)]

    @pytest.mark.parametrize("end", ["drain", "second signal"])
    def test_a_handler_that_is_left_behind_is_no_death_of_its_message(self, monkeypatch, end):
        """Not even at the last attempt: the end of a program is not held against it."""
        monkeypatch.setattr("pitstop._consume._signals._ECHO", 0.0)
        may_end = threading.Event()
        numbers = [signal.SIGTERM] if end == "drain" else [signal.SIGINT, signal.SIGTERM]

        def handle(msg):
            for number in numbers:
                signal.raise_signal(number)
            assert may_end.wait(20)

        with pitstop.init({"type": "memory", "retry": {"max_attempts": 1}}) as pit:
            store_due(pit, "long")
            summary = pit.consume(handle, drain=0.05 if end == "drain" else 60)
            may_end.set()
            assert (summary.nacked, summary.unfinished) == (0, 1)
            entry = pit.get("long")
            assert (entry.state, entry.attempts, entry.last_error) == ("due", 1, None)

    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["SystemExit", "KeyboardInterrupt"])
    def test_a_handler_that_asks_for_the_end_of_the_program_is_no_death_of_its_message(self, error):
        def handle(msg):
            raise error

        with pitstop.init({"type": "memory", "retry": {"max_attempts": 1}}) as pit:
            store_due(pit, "a")
            with pytest.raises(type(error)):
                pit.consume(handle)
            entry = pit.get("a")
            assert (entry.state, entry.attempts, entry.last_error) == ("due", 1, None)

    def test_signal_handlers_are_put_back(self, pit):
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        during = []
        store_due(pit, "a")
        pit.consume(lambda msg: during.append(signal.getsignal(signal.SIGTERM)), until_idle=True)
        assert during[0] not in before
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

    def test_a_signal_that_a_handler_raises_ends_it(self, real):
        store_due(real, "last")
        assert real.consume(lambda msg: signal.raise_signal(signal.SIGTERM)).reason == "signal"

    def test_off_the_main_thread_signals_are_left_alone(self, pit):
        before, during = signal.getsignal(signal.SIGTERM), []
        store_due(pit, "a")
        handle = lambda msg: during.append(signal.getsignal(signal.SIGTERM))  # noqa: E731 - short
        assert Running(lambda: pit.consume(handle, until_idle=True)).result().acked == 1
        assert during == [before]

    def test_several_consume_from_one_pitstop(self, real):
        store_due(real, *(f"m{n}" for n in range(300)))
        lock, seen = threading.Lock(), []

        def handle(msg):
            with lock:
                seen.append(msg["id"])

        running = [Running(lambda: real.consume(handle, workers=2, until_idle=True)) for _ in range(3)]
        summaries = [each.result() for each in running]
        assert sorted(seen) == sorted(f"m{n}" for n in range(300))
        assert sum(each.acked for each in summaries) == 300


class TestConsumers:
    def test_each_running_consume_is_one(self, real):
        store_due(real, *(f"m{n}" for n in range(5)))
        before = datetime.now(UTC)
        both, may_end = threading.Barrier(3), threading.Event()

        def handle(msg):
            both.wait(20)
            assert may_end.wait(20)

        assert real.consumers == ()
        running = Running(lambda: real.consume(handle, workers=2, prefetch=5, max_messages=2))
        both.wait(20)
        (consumer,) = real.consumers
        assert (consumer.healthy, consumer.in_handlers) == (True, 2)
        assert before - timedelta(milliseconds=1) <= consumer.since <= consumer.last_poll <= datetime.now(UTC)
        may_end.set()
        running.result()
        assert real.consumers == ()

    def test_messages_in_hand_are_those_that_no_handler_has_seen(self, real):
        store_due(real, *(f"m{n}" for n in range(5)))
        seen = []

        def handle(msg):
            seen.append([each.in_hand for each in real.consumers])

        real.consume(handle, prefetch=5, until_idle=True)
        assert seen == [[4], [3], [2], [1], [0]]

    def test_before_the_store_has_answered_there_was_no_poll(self, pit, store):
        asked, seen = threading.Event(), []

        def refuse():
            seen.extend(pit.consumers)
            asked.set()

        store.during["lease"] = refuse
        running = Running(lambda: pit.consume(print, until_idle=True))
        assert asked.wait(20)
        running.result()
        assert [(each.healthy, each.last_poll, each.in_hand, each.in_handlers) for each in seen] == [(True, None, 0, 0)]

    def test_a_store_that_is_away_makes_it_unhealthy(self):
        backend = Scripted.from_options({})
        with pitstop.init({"type": backend}) as pit:
            failed = threading.Event()
            backend.down = True
            running = Running(lambda: pit.consume(print))
            ends = time.monotonic() + 20
            while not pit.consumers or pit.consumers[0].healthy:
                assert time.monotonic() < ends
                failed.wait(0.005)
            assert pit.consumers[0].last_poll is None
            backend.down = False
            pit.close()
            running.result()

    def test_a_consumer_does_not_change(self):
        consumer = Consumer(healthy=True, last_poll=None, in_hand=0, in_handlers=0, since=datetime.now(UTC))
        with pytest.raises(AttributeError):
            consumer.in_hand = 1


class TestTrouble:
    @pytest.mark.parametrize("until_idle", [False, True])
    def test_a_store_that_is_away_does_not_end_it(self, until_idle):
        # By real time, since it is tried again after a pause.
        backend = Scripted.from_options({})
        with pitstop.init({"type": backend}) as pit:
            store_due(pit, "a")
            backend.down = True
            back = threading.Timer(0.05, setattr, (backend, "down", False))
            back.start()
            assert pit.consume(lambda msg: None, max_messages=1, until_idle=until_idle).acked == 1
            assert backend.calls.count("lease") > 1
            back.join()

    @pytest.mark.parametrize("until_idle", [False, True])
    def test_a_store_that_refuses_at_the_first_look_ends_it(self, pit, store, until_idle):
        store.down = BackendUnavailable("wrong password", permanent=True)
        with pytest.raises(BackendUnavailable, match="wrong password"):
            pit.consume(print, workers=2, until_idle=until_idle)
        store.down = False

    def test_acks_that_the_store_did_not_take_are_counted_as_unsettled(self, pit, store):
        store_due(pit, "a")

        def handle(msg):
            store.down = True

        assert pit.consume(handle, max_messages=1, drain=0) == Summary(unsettled=1, reason="max_messages")
        store.down = False
        assert pit.get("a").state == "leased"

    def test_a_store_that_does_not_answer_is_not_waited_for_beyond_the_deadline(self, pit, store):
        pit.store({"id": "a"}, DUE)
        answer = threading.Event()

        def handle(msg):
            store.during["settle"] = lambda: answer.wait(30)
            raise KeyboardInterrupt

        consuming = Running(lambda: pit.consume(handle, drain=0.1))
        try:
            with pytest.raises(KeyboardInterrupt):
                consuming.result()
            assert not answer.is_set()
        finally:
            answer.set()

    @pytest.mark.parametrize("handler", [lambda: None, lambda msg, more: None], ids=["none", "two"])
    def test_a_handler_that_does_not_take_one_argument_is_refused(self, pit, handler):
        with pytest.raises(PitstopError, match=r"cannot be called with one argument, the message or the delivery\."):
            pit.consume(handler)

    def test_an_async_handler_is_refused_and_told_of_init_async(self, pit):
        async def handle(msg):
            pass

        store_due(pit, "a")
        with pytest.raises(PitstopError, match="init_async"):
            pit.consume(handle)
        with pytest.raises(PitstopError, match="init_async"):
            pit.consume(lambda msg: handle(msg))  # noqa: PLW0108 - not seen before it is called
        assert pit.get("a").state != "dead"

    @pytest.mark.parametrize(
        "options",
        [
            {"workers": 0},
            {"workers": True},
            {"max_messages": 0},
            {"drain": -1},
            {"drain": "soon"},
            {"prefetch": 0},
            {"max_lease": 60},
            {"max_lease": "1s", "heartbeat": True},
        ],
        ids=str,
    )
    def test_options_that_cannot_be_used_are_refused(self, pit, options):
        with pytest.raises(ConfigError, match=next(iter(options))):
            pit.consume(print, **options)

    def test_on_a_closed_pitstop_it_is_refused(self, pit):
        pit.close()
        with pytest.raises(BackendUnavailable):
            pit.consume(print)


class TestSummary:
    def test_is_readable(self):
        assert (
            str(Summary(acked=1200, nacked=3, reason="idle")) == "1,200 acked, 3 nacked; ended because nothing was due."
        )
        text = str(Summary(acked=1, lost=1, superseded=4, unsettled=2, unfinished=3, reason="second signal"))
        assert text == (
            "1 acked, 0 nacked, 1 lease lost, 4 superseded, 2 not settled, because the store did not answer, 3 not finished; "
            "ended because a second signal asked for it."
        )

    def test_does_not_change(self):
        with pytest.raises(AttributeError):
            Summary().acked = 1


def test_the_lease_lost_of_an_extension_that_the_handler_raises_is_no_failure(pit, caplog):
    store_due(pit, "a")

    def handle(delivery):
        pit.remove("a")
        with pytest.raises(LeaseLost):
            delivery.extend()
        delivery.extend()

    summary = pit.consume(handle, max_messages=1)
    assert (summary.lost, summary.superseded) == (0, 1)
    assert "failed" not in caplog.text


class TestItsOwnMessage:
    """A handler that stores or removes the message that it handles ends quietly; the new version stands."""

    @pytest.mark.parametrize("others", [0, 5])
    @pytest.mark.parametrize("change", ["stores", "removes"])
    def test_is_superseded_and_not_lost(self, pit, caplog, change, others):
        store_due(pit, "poll", *(f"other-{n}" for n in range(others)))

        def handle(msg):
            if msg["id"] == "poll":
                change_own(pit, change)

        summary = pit.consume(handle, until_idle=True, prefetch=10)

        assert (summary.acked, summary.nacked, summary.lost, summary.superseded) == (others, 0, 0, 1)
        assert (summary.handled, summary.unsettled) == (others + 1, 0)
        assert pit._session.events.counters["lease_lost"] == 0
        assert_changed(pit, change)
        assert [each.getMessage() for each in caplog.records if each.levelno >= logging.INFO] == []

    @pytest.mark.parametrize("settle", ["ack", "ack and wait", "nack", "extend"])
    @pytest.mark.parametrize("change", ["stores", "removes"])
    def test_may_be_settled_by_the_handler(self, pit, change, settle):
        store_due(pit, "poll")

        def handle(delivery):
            change_own(pit, change)
            if settle == "nack":
                delivery.nack("no matter")
            elif settle == "extend":
                with suppress(LeaseLost):
                    delivery.extend()
            else:
                delivery.ack(wait=settle == "ack and wait")

        summary = pit.consume(handle, until_idle=True)

        assert (summary.acked, summary.nacked, summary.lost, summary.superseded) == (0, 0, 0, 1)
        assert_changed(pit, change)

    @pytest.mark.parametrize("change", ["stores", "removes"])
    def test_has_the_error_of_its_handler_in_the_log_with_the_traceback(self, pit, caplog, change):
        store_due(pit, "poll")

        def handle(msg):
            change_own(pit, change)
            raise ConnectionError("mail away")

        summary = pit.consume(handle, until_idle=True)

        assert (summary.nacked, summary.lost, summary.superseded) == (0, 0, 1)
        assert_changed(pit, change)
        (record,) = [each for each in caplog.records if each.name == "pitstop.consumer"]
        assert record.getMessage() == (
            "'poll' (attempt 1) failed after it had stored or removed its own message: that stands"
        )
        assert isinstance(record.exc_info[1], ConnectionError)

    def test_is_handled_again_when_the_new_version_is_due(self, pit):
        store_due(pit, "poll")
        seen = []

        def handle(delivery):
            seen.append(delivery.attempt)
            if len(seen) < 3:
                pit.store({"id": "poll"}, DUE)

        summary = pit.consume(handle, until_idle=True)

        assert seen == [1, 1, 1]
        assert (summary.acked, summary.superseded, summary.lost) == (1, 2, 0)


def change_own(pit, change):
    if change == "stores":
        pit.store({"id": "poll", "new": True}, timedelta(minutes=5))
    else:
        assert pit.remove("poll")


def assert_changed(pit, change):
    entry = pit.get("poll")
    if change == "stores":
        assert (entry.state, entry.attempts, entry.last_error) == ("scheduled", 0, None)
        assert entry.message["new"] is True
    else:
        assert entry is None
