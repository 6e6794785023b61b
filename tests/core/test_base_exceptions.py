"""Exceptions of handlers that are not an ``Exception``, and exceptions whose text raises, are failures of one message."""

from __future__ import annotations

import asyncio
import threading

from datetime import timedelta

import pytest

import pitstop

from core.base_exceptions import ENDS, FAILURES, Panic
from pitstop._decisions._ending import ends_program
from pitstop.testing import init


DUE = timedelta(0)


class Falsy(Exception):
    def __len__(self):
        return 0


class Text(str):  # noqa: SLOT000 - one of them is made
    """A text whose methods raise."""

    def encode(self, *_):
        raise Panic

    def __getitem__(self, _):
        raise Panic

    def __format__(self, _):
        raise Panic


def unspeakable(error):
    """An exception whose ``__str__`` raises ``error``, or returns it."""

    class Unspeakable(Exception):
        def __str__(self):
            if isinstance(error, BaseException):
                raise error
            return error

        __repr__ = __str__

    return Unspeakable()


async def cancelled():
    raise asyncio.CancelledError


class Observed:
    """A plugin that fails in the same ways as handlers."""

    def __init__(self, error):
        self.error = error

    @pitstop.hookimpl
    def pitstop_message_acked(self, delivery):
        raise self.error


def raising(error):
    def handle(msg):
        if msg["id"] == "poison":
            raise error

    return handle


@pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
def test_it_is_no_wish_to_end(error):
    assert not ends_program(error)


@pytest.mark.parametrize("error", ENDS.values(), ids=ENDS)
def test_a_group_that_holds_a_wish_to_end_is_one(error):
    assert ends_program(error)


@pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("workers", [1, 3])
def test_in_consume_it_is_the_failure_of_its_message_and_the_others_are_handled(pit, caplog, workers, error):
    pit.store_many([({"id": id}, DUE) for id in ("poison", "fine", "good")])

    summary = pit.consume(raising(error), workers=workers, until_idle=True, prefetch=1)

    assert (summary.acked, summary.nacked, summary.reason) == (2, 1, "idle")
    (entry,) = pit.entries()
    assert entry.id == "poison"
    assert entry.last_error.startswith(f"{type(error).__name__}: ")
    (logged,) = [each.getMessage() for each in caplog.records if each.name == "pitstop.consumer"]
    assert logged.startswith(f"'poison' (attempt 1) failed: {type(error).__name__} at ")


def test_a_cancelled_error_out_of_an_event_loop_of_the_handlers_own_is_a_failure(pit):
    pit.store({"id": "a"}, DUE)
    assert pit.consume(lambda msg: asyncio.run(cancelled()), until_idle=True).nacked == 1
    assert pit.get("a").last_error == "CancelledError: "


@pytest.mark.parametrize("error", ENDS.values(), ids=ENDS)
def test_a_wish_to_end_ends_consume_and_gives_back(pit, error):
    pit.store({"id": "poison"}, DUE)
    with pytest.raises(type(error)) as caught:
        pit.consume(raising(error))
    assert caught.value is error
    entry = pit.get("poison")
    assert (entry.state, entry.last_error) == ("due", None)


def test_the_first_wish_to_end_is_raised_also_one_that_is_false_in_a_condition(pit):
    """An exception may define ``__len__`` or ``__bool__``."""

    class FalsyExit(SystemExit):
        def __bool__(self):
            return False

    first, together = FalsyExit(1), threading.Barrier(2)
    pit.store_many([({"id": id}, DUE) for id in ("first", "second")])
    nacked = threading.Event()

    def handle(delivery):
        together.wait(20)
        if delivery.id == "first":
            delivery.nack("ends")
            nacked.set()
            raise first
        assert nacked.wait(20)
        # After the first event was recorded, its thread is done.
        threading.Event().wait(0.1)
        raise SystemExit(2)

    with pytest.raises(SystemExit) as caught:
        pit.consume(handle, workers=2)
    assert caught.value is first


def test_no_thread_dies_of_it_with_a_traceback(pit, monkeypatch):
    told = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    pit.store_many([({"id": id}, DUE) for id in ("poison", "fine")])
    pit.consume(raising(Panic()), workers=2, until_idle=True)
    assert told == []


@pytest.mark.parametrize("name", [name for name in FAILURES if name != "GeneratorExit"])
def test_with_delivery_nacks_and_raises_it_again(pit, name):
    error = FAILURES[name]
    pit.store({"id": "a"}, DUE)
    with pytest.raises(type(error)) as caught, pit.listen().get(timeout=0):
        raise error
    assert caught.value is error
    assert pit.get("a").last_error.startswith(f"{type(error).__name__}: ")


@pytest.mark.parametrize("error", [FAILURES["GeneratorExit"], *ENDS.values()], ids=["GeneratorExit", *ENDS])
def test_with_delivery_gives_the_message_back_at_the_end_of_a_program_and_raises_it_again(error):
    with pitstop.init({"type": "memory", "retry": {"max_attempts": 1}}) as pit:
        pit.store({"id": "a"}, DUE)
        with pytest.raises(type(error)) as caught, pit.listen().get(timeout=0):
            raise error
        assert caught.value is error
        assert (pit.get("a").state, pit.get("a").last_error) == ("due", None)


def test_a_generator_that_is_closed_in_the_body_gives_the_message_back(pit):
    def handled():
        with pit.listen().get(timeout=0) as delivery:
            yield delivery.id

    pit.store({"id": "a"}, DUE)
    generator = handled()
    assert next(generator) == "a"
    generator.close()
    assert (pit.get("a").state, pit.get("a").last_error) == ("due", None)


TEXTS = {
    "raises an error": (ValueError(), "Unspeakable: (its text is unavailable: ValueError)"),
    "panics": (Panic(), "Unspeakable: (its text is unavailable: Panic)"),
    "ends the program": (SystemExit(), "Unspeakable: (its text is unavailable: SystemExit)"),
    "returns no text": (3, "Unspeakable: (its text is unavailable: TypeError)"),
    "returns a text with methods of its own": (Text("odd"), "Unspeakable: odd"),
    "returns a very long text": ("x" * 10_000_000, "Unspeakable: " + "x" * 1986 + "…"),
    "returns a lone surrogate": ("\ud800\0", "Unspeakable: \\ud800\\0"),
}


@pytest.mark.parametrize(("text", "noted"), TEXTS.values(), ids=TEXTS)
def test_an_error_whose_text_cannot_be_had_is_noted_all_the_same(pit, text, noted):
    pit.store_many([({"id": id}, DUE) for id in ("poison", "fine")])
    summary = pit.consume(raising(unspeakable(text)), until_idle=True, prefetch=1)
    assert (summary.acked, summary.nacked) == (1, 1)
    assert pit.get("poison").last_error == noted


def test_an_object_given_to_nack_may_be_as_odd(pit):
    pit.store({"id": "a"}, DUE)
    with pit.listen() as listener:
        listener.get(timeout=0).nack(Text("odd"))
    assert pit.get("a").last_error == "odd"


@pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
def test_of_a_plugin_it_is_isolated_and_counted(error):
    with pitstop.init({"type": "memory"}, plugins=[Observed(error)]) as pit:
        pit.store_many([({"id": id}, DUE) for id in ("a", "b")])
        assert pit.consume(lambda msg: None, until_idle=True).acked == 2
        assert dict(pit._session.events.hooks.errors) == {"Observed.pitstop_message_acked": 2}


def test_a_plugin_that_asks_for_the_end_gets_it():
    with pitstop.init({"type": "memory"}, plugins=[Observed(KeyboardInterrupt())]) as pit:
        pit.store({"id": "a"}, DUE)
        with pytest.raises(KeyboardInterrupt), pit.listen() as listener:
            listener.get(timeout=0).ack()


class TestRuns:
    @pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
    def test_a_run_that_raises_no_errors_has_it_in_its_report(self, error):
        with init({"type": "memory"}) as pit:
            pit.store_many([({"id": id}, DUE) for id in ("poison", "fine")])
            report = pit.run_until_idle(raising(error), raise_errors=False)
        assert sorted(report.outcomes) == ["acked", "nacked"]

    @pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
    def test_so_has_one_of_an_async_handler(self, error):
        async def handle(msg):
            await asyncio.sleep(0)
            if msg["id"] == "poison":
                raise error

        with init({"type": "memory"}) as pit:
            pit.store_many([({"id": id}, DUE) for id in ("poison", "fine")])
            report = asyncio.run(pit.arun_until_idle(handle, raise_errors=False))
        assert sorted(report.outcomes) == ["acked", "nacked"]

    @pytest.mark.parametrize("error", [*FAILURES.values(), *ENDS.values()], ids=[*FAILURES, *ENDS])
    def test_another_run_raises_it(self, error):
        with init({"type": "memory"}) as pit:
            pit.store({"id": "poison"}, DUE)
            with pytest.raises(type(error)) as caught:
                pit.run_until_idle(raising(error))
        assert caught.value is error

    @pytest.mark.parametrize("error", ENDS.values(), ids=ENDS)
    def test_a_wish_to_end_is_raised_by_each(self, error):
        with init({"type": "memory"}) as pit:
            pit.store({"id": "poison"}, DUE)
            with pytest.raises(type(error)):
                pit.run_until_idle(raising(error), raise_errors=False)

    def test_the_cancellation_of_the_run_is_raised_though_errors_are_not(self):
        async def main(pit):
            began = asyncio.Event()

            async def handle(msg):
                began.set()
                await asyncio.Event().wait()

            run = asyncio.create_task(pit.arun_until_idle(handle, raise_errors=False))
            await began.wait()
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run

        with init({"type": "memory"}) as pit:
            pit.store({"id": "a"}, DUE)
            asyncio.run(main(pit))
            entry = pit.get("a")
            assert (entry.state, entry.last_error) == ("due", None)

    def test_the_coroutine_of_a_run_may_be_closed(self):
        async def handle(msg):
            await asyncio.sleep(3600)

        with init({"type": "memory"}) as pit:
            pit.store({"id": "a"}, DUE)
            run = pit.arun_until_idle(handle, raise_errors=False)

            async def begin():
                run.send(None)

            asyncio.run(begin())
            run.close()
            entry = pit.get("a")
            assert (entry.state, entry.last_error) == ("due", None)
