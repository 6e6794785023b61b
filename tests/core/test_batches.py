"""``consume`` in batches: one call of the handler gets a list of deliveries, and may settle each by itself."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading

from datetime import timedelta

import attrs
import pytest

import pitstop

from core.kit import Clock, Running, Scripted, consume_until_closed
from pitstop import ConfigError, Handle, LeaseLost
from pitstop_memory import MemoryConfig


PATIENCE = 30
LONG_AGO = timedelta(hours=1)


class Unclosed(Scripted):
    """Lives on when its Pitstop is closed, and notes the size of each claim."""

    def __init__(self, config=None):
        super().__init__(config)
        self.claims = []

    def lease(self, limit, duration, kinds=None):
        leased = super().lease(limit, duration, kinds)
        self.claims.append((limit, len(leased)))
        return leased

    def close(self):
        pass


@pytest.fixture(params=["threads", "event loop"])
def way(request):
    return request.param


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def backend(clock):
    return Unclosed(MemoryConfig(clock=clock))


def due(backend, *ids, kind=""):
    with pitstop.init({"type": backend}) as pit:
        when = pit.now() - LONG_AGO
        pit.store_many([({"id": id}, when + timedelta(milliseconds=n)) for n, id in enumerate(ids)], kind=kind)


def numbered(count):
    return [f"m{n:03}" for n in range(count)]


def records(backend):
    return {each.id: each for each in backend.scan(None, 1000, None)}


def in_thread(handler):
    """Return a handler for threads. A handler here yields the results of ``ack()`` and so on, which an event loop awaits."""
    if isinstance(handler, dict):
        return {kind: in_thread(each) for kind, each in handler.items()}
    if isinstance(handler, Handle):
        return attrs.evolve(handler, handler=in_thread(handler.handler))

    def handle(argument):
        if inspect.isgeneratorfunction(handler):
            for _ in handler(argument):
                pass
        else:
            handler(argument)

    return handle


def in_loop(handler):
    if isinstance(handler, dict):
        return {kind: in_loop(each) for kind, each in handler.items()}
    if isinstance(handler, Handle):
        return attrs.evolve(handler, handler=in_loop(handler.handler))

    async def handle(argument):
        if not inspect.isgeneratorfunction(handler):
            handler(argument)
            return
        steps, error = handler(argument), None
        while True:
            try:
                step = next(steps) if error is None else steps.throw(error)
            except StopIteration:
                return
            try:
                error = None
                await step
            except pitstop.PitstopError as raised:
                error = raised

    return handle


def consume(way, backend, handler, **options):
    options.setdefault("until_idle", True)
    if way == "threads":
        with pitstop.init({"type": backend}) as pit:
            return pit.consume(in_thread(handler), **options)

    async def main():
        async with asyncio.timeout(PATIENCE), pitstop.init_async({"type": backend}) as pit:
            options["concurrency"] = options.pop("workers", 1)
            return await pit.consume(in_loop(handler), **options)

    return asyncio.run(main())


# The list.


def test_a_handler_gets_what_is_due_up_to_the_size_of_a_batch(way, backend):
    due(backend, *numbered(250))
    batches = []

    summary = consume(way, backend, lambda batch: batches.append([each.id for each in batch]), batch=100)

    assert [len(each) for each in batches] == [100, 100, 50]
    assert [id for each in batches for id in each] == numbered(250)
    assert (summary.acked, summary.handled, summary.reason) == (250, 250, "idle")
    assert records(backend) == {}


def test_the_acks_of_a_batch_are_written_together(backend):
    due(backend, *numbered(200))
    backend.batches.clear()

    consume("threads", backend, lambda batch: None, batch=100)

    assert backend.batches == [100, 100]


def test_the_acks_of_a_batch_are_written_together_in_an_event_loop(backend):
    due(backend, *numbered(200))
    backend.batches.clear()

    consume("event loop", backend, lambda batch: None, batch=100)

    # Both, if the thread that writes them comes late.
    assert backend.batches in ([100, 100], [200])


def test_no_more_is_claimed_than_the_free_handlers_take(way, backend):
    due(backend, *numbered(25))

    consume(way, backend, lambda batch: None, batch=10)

    assert {limit for limit, brought in backend.claims if brought} == {10}


def test_nothing_waits_for_a_batch_to_be_full(way, backend):
    due(backend, "a", "b", "c")
    sizes = []
    consume(way, backend, lambda batch: sizes.append(len(batch)), batch=500)
    assert sizes == [3]


def test_a_batch_of_one_is_a_list_too(way, backend):
    due(backend, "a", "b")
    batches = []
    consume(way, backend, lambda batch: batches.append([each.id for each in batch]), batch=1)
    assert batches == [["a"], ["b"]]


def test_a_handler_of_batches_gets_deliveries_whatever_its_parameter_is_called(way, backend):
    due(backend, "a")
    got = []
    consume(way, backend, lambda messages: got.extend(list(messages)), batch=2)
    assert type(got[0]) is (pitstop.Delivery if way == "threads" else pitstop.AsyncDelivery)
    assert got[0].msg == {"id": "a"}


def test_a_batch_is_an_option_of_a_kind_too(way, backend):
    due(backend, "m1", "m2", kind="mail")
    due(backend, "r1", "r2", kind="report")
    mails, reports = [], []

    consume(
        way,
        backend,
        {
            "mail": Handle(lambda batch: mails.append([each.id for each in batch]), batch=10),
            "report": lambda message: reports.append(message["id"]),
        },
    )

    assert (mails, reports) == ([["m1", "m2"]], ["r1", "r2"])


def test_several_workers_handle_batches_at_once(way, backend):
    due(backend, *numbered(30))
    together = threading.Barrier(3)
    seen = []

    def handler(batch):
        seen.append(len(batch))
        if way == "threads":
            together.wait(PATIENCE)

    summary = consume(way, backend, handler, batch=10, workers=3)

    assert sorted(seen) == [10, 10, 10]
    assert summary.acked == 30


# Settlements.


def test_each_delivery_may_be_settled_by_itself(way, backend, clock):
    due(backend, "acked", "nacked", "extended", "left")

    def handler(batch):
        acked, nacked, extended, _ = batch
        yield acked.ack()
        yield nacked.nack("no luck", "5s")
        before = extended.leased_until
        clock.advance(1)
        yield extended.extend("1h")
        assert extended.leased_until > before

    summary = consume(way, backend, handler, batch=10)

    assert (summary.acked, summary.nacked) == (3, 1)
    left = records(backend)
    assert list(left) == ["nacked"]
    assert left["nacked"].progress.last_error == "no luck"


def test_an_exception_nacks_those_that_are_not_settled(way, backend, caplog):
    due(backend, "a", "b", "c", "d", "e", "f")

    def handler(batch):
        yield batch[0].ack()
        yield batch[1].nack("of its own", "1h")
        raise ValueError("secret text")

    with caplog.at_level(logging.INFO, "pitstop"):
        summary = consume(way, backend, handler, batch=10)

    assert (summary.acked, summary.nacked) == (1, 5)
    errors = {id: each.progress.last_error for id, each in records(backend).items()}
    assert errors == {"b": "of its own", **dict.fromkeys("cdef", "ValueError: secret text")}
    (logged,) = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert logged.startswith("4 messages failed together ('c', 'd', 'e' and 1 more): ValueError")
    assert "secret" not in logged


def test_one_message_that_fails_is_logged_as_ever(way, backend, caplog):
    due(backend, "a", "b")

    def handler(batch):
        for each in batch[1:]:
            yield each.ack()
        raise ValueError

    consume(way, backend, handler, batch=10)

    assert [each.getMessage().split(":")[0] for each in caplog.records if each.levelno == logging.ERROR] == [
        "'a' (attempt 1) failed"
    ]


@pytest.mark.parametrize("catches", [True, False])
def test_a_lost_lease_is_no_failure_of_the_others(way, backend, catches):
    """Another process removes one of the messages. Its handler finds out when it extends the lease."""
    due(backend, "a", "b", "c")
    calls = []

    def handler(batch):
        calls.append([each.id for each in batch])
        if len(calls) > 1:
            return
        backend.delete("b")
        try:
            yield batch[1].extend()
        except LeaseLost:
            if not catches:
                raise

    summary = consume(way, backend, handler, batch=10)

    assert records(backend) == {}
    assert (summary.acked, summary.nacked, summary.lost) == (2, 0, 1)
    # It cannot be known which of the others the handler has done, and none of them has failed.
    assert calls == ([["a", "b", "c"]] if catches else [["a", "b", "c"], ["a", "c"]])


def test_messages_that_are_given_back_lose_no_attempt(way, backend):
    due(backend, "a", "b")
    attempts = []

    def handler(batch):
        attempts.append({each.id: each.attempt for each in batch})
        if len(attempts) == 1:
            backend.delete("a")
            yield batch[0].extend()

    consume(way, backend, handler, batch=10)

    assert len(attempts) == 2
    assert list(attempts[1]) == ["b"]


def test_an_ack_that_is_lost_does_not_stop_the_others(way, backend):
    due(backend, "a", "b", "c")
    summary = consume(way, backend, lambda batch: backend.delete("b"), batch=10)
    assert (summary.acked, summary.lost, summary.reason) == (2, 1, "idle")


def test_a_handler_may_store_and_remove_messages_of_its_batch(backend):
    due(backend, "a", "b", "c")
    with pitstop.init({"type": backend}) as pit:

        def handler(batch):
            if len(batch) == 3:
                pit.store({"id": "a", "again": True}, timedelta(0))
                pit.remove("b")

        summary = pit.consume(handler, batch=10, until_idle=True)

    assert (summary.acked, summary.superseded, summary.lost) == (2, 2, 0)
    assert records(backend) == {}


def test_the_failure_is_logged_with_its_text_if_no_message_keeps_it(backend, caplog):
    due(backend, "a", "b")
    with pitstop.init({"type": backend}) as pit:

        def handler(batch):
            pit.remove("a")
            pit.remove("b")
            raise ValueError("kept nowhere else")

        pit.consume(handler, batch=10, until_idle=True)

    assert "kept nowhere else" in caplog.text


# Suspects.


def test_a_message_that_may_have_killed_its_worker_is_a_batch_by_itself(way, backend, clock):
    due(backend, *numbered(3))
    assert len(backend.lease(3, 1000)) == 3
    clock.advance("2s")
    due(backend, *[f"new{n}" for n in range(3)])
    batches = []

    summary = consume(way, backend, lambda batch: batches.append([each.id for each in batch]), batch=10)

    assert summary.acked == 6
    suspects = [each for each in batches if each[0].startswith("m")]
    assert sorted(suspects) == [["m000"], ["m001"], ["m002"]]
    assert sorted(each for batch in batches if batch not in suspects for each in batch) == ["new0", "new1", "new2"]


class Mortal(Unclosed):
    """Once the process is dead, nothing that it writes has an effect."""

    dead = False

    def settle(self, settlements):
        return [True] * len(settlements) if self.dead else super().settle(settlements)


def deaths_by(backend, clock, killer, **options):
    """Consume in one process after the other, each of which one message kills. Return how many died, and what was handled."""
    deaths, handled = 0, set()

    def handler(batch):
        if any(each.id == killer for each in batch):
            backend.dead = True
            raise SystemExit
        handled.update(each.id for each in batch)

    for _ in range(10):
        backend.dead = False
        try:
            consume("threads", backend, handler, batch=10, **options)
        except SystemExit:
            deaths += 1
        clock.advance("61s")
    return deaths, handled


def test_a_message_that_kills_its_worker_does_not_use_up_the_attempts_of_its_batch(clock):
    """Each death of the process ends all leases of its batch. Only the message that kills alone dies of it."""
    backend = Mortal(MemoryConfig(clock=clock, retry={"max_attempts": 2}, lock_time=60))
    due(backend, *numbered(10))

    deaths, handled = deaths_by(backend, clock, "m004")

    assert handled == set(numbered(10)) - {"m004"}
    (dead,) = records(backend).values()
    assert (dead.id, dead.progress.due) == ("m004", None)
    # The store cannot tell whether it had begun at the first one.
    assert deaths == 2


# The end.


def test_max_messages_counts_messages(way, backend):
    due(backend, *numbered(12))
    sizes = []

    summary = consume(way, backend, lambda batch: sizes.append(len(batch)), batch=5, max_messages=7, until_idle=False)

    assert sizes == [5, 2]
    assert (summary.acked, summary.reason) == (7, "max_messages")
    assert all(each.progress.token is None and each.progress.attempts == 0 for each in records(backend).values())
    assert len(records(backend)) == 5


def test_a_batch_that_is_left_behind_is_given_back_but_for_what_is_settled(way, backend):
    due(backend, "a", "b", "c")
    begun, go = threading.Event(), threading.Event()
    opened = []

    if way == "threads":

        def run():
            def handler(batch):
                batch[0].ack()
                begun.set()
                assert go.wait(PATIENCE)

            with pitstop.init({"type": backend}) as pit:
                opened.append(pit.close)
                return pit.consume(handler, batch=10, drain=0)
    else:

        def run():
            async def handler(batch):
                await batch[0].ack()
                begun.set()
                await asyncio.Event().wait()

            async def main():
                async with asyncio.timeout(PATIENCE), pitstop.init_async({"type": backend}) as pit:
                    return await consume_until_closed(pit, opened, handler, batch=10, drain=0)

            return asyncio.run(main())

    running = Running(run)
    assert begun.wait(PATIENCE)
    opened[0]()
    summary = running.result()
    go.set()

    assert (summary.acked, summary.unfinished, summary.nacked) == (1, 3, 0)
    now = backend.now() // 1000
    assert {id: each.progress.due <= now for id, each in records(backend).items()} == {"b": True, "c": True}


def test_consumers_counts_messages(backend):
    due(backend, "a", "b", "c")
    seen = []
    with pitstop.init({"type": backend}) as pit:
        pit.consume(lambda batch: seen.append(pit.consumers[0].in_handlers), batch=10, until_idle=True)
    assert seen == [3]


def test_a_heartbeat_extends_all_leases_of_a_batch(clock):
    backend = Unclosed(MemoryConfig(clock=clock, lock_time=60))
    due(backend, "a", "b", "c")
    begun, go = threading.Event(), threading.Event()

    def handler(batch):
        begun.set()
        assert go.wait(PATIENCE)

    running = Running(lambda: consume("threads", backend, handler, batch=10, heartbeat=True))
    assert begun.wait(PATIENCE)
    for _ in range(5):
        assert clock.wait_for_sleepers(1)
        clock.advance("25s")
    assert clock.wait_for_sleepers(1)
    go.set()
    assert running.result().acked == 3


# Together with a rate.


def test_all_messages_of_a_batch_count_for_the_rate(way, backend, clock):
    due(backend, *numbered(25))
    handled = threading.Semaphore(0)
    sizes = []

    def handler(batch):
        sizes.append(len(batch))
        handled.release()

    running = Running(lambda: consume(way, backend, handler, batch=10, rate="1/s"))
    for expected in ([10], [10, 10]):
        assert handled.acquire(timeout=PATIENCE)
        assert clock.wait_for_sleepers(1)
        assert sizes == expected
        clock.advance("9s")
        assert clock.wait_for_sleepers(1)
        assert sizes == expected, "ten messages take ten seconds"
        clock.advance("1.2s")
    assert running.result().acked == 25
    assert sizes == [10, 10, 5]


# Options.


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"batch": 0}, "batch=0 cannot be used. Give a whole number of at least 1."),
        ({"batch": "100"}, "batch='100' cannot be used"),
        ({"batch": True}, "batch=True cannot be used"),
        ({"batch": 501}, "batch=501 cannot be used. Give a whole number from 1 to 500."),
        ({"batch": 100, "prefetch": 10}, "prefetch=10 is less than batch=100, so that no batch would be full"),
        ({"batch": 100, "deliveries": False}, "deliveries=False does not go with batch=100"),
    ],
)
def test_wrong_options_are_refused(way, backend, options, hint):
    with pytest.raises(ConfigError, match=hint):
        consume(way, backend, lambda batch: None, **options)
    with pytest.raises(ConfigError, match=f"The handler of 'mail': {hint}"):
        consume(way, backend, {"mail": Handle(lambda batch: None, **options)})
