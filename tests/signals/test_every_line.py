"""``close()``, and any other call, in a signal handler that comes at each line of a running call in the main thread."""

from __future__ import annotations

import sys

from datetime import timedelta

import pytest

import pitstop

from signals.every_line import signal_at_line


pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGUSR1"),
    pytest.mark.timeout(3000),
]

HOUR, NOW = timedelta(hours=1), timedelta(0)


class Told:
    """The results of those calls of the interrupted program that returned."""

    def __init__(self):
        self.stored, self.gone, self.completed = set(), set(), False


def store(pit, told):
    told.stored.add(pit.store({"id": "a", "n": 1}, HOUR))
    told.stored.add(pit.store({"n": 2}, HOUR))


def store_many(pit, told):
    told.stored.update(pit.store_many([({"id": id}, HOUR) for id in "ab"]))


def look(pit, told):
    pit.get("kept")
    pit.entries()
    pit.stats()
    pit.ping()
    pit.now()


def remove(pit, told):
    told.stored.add(pit.store({"id": "a"}, HOUR))
    told.stored.discard("a")
    if pit.remove("a"):
        told.gone.add("a")


def get_and_ack(pit, told):
    with pit.listen() as listener:
        for _ in range(2):
            delivery = listener.get()
            if delivery is not None:
                delivery.ack()
                told.gone.add(delivery.id)


def get_and_nack(pit, told):
    with pit.listen(heartbeat=True) as listener:
        delivery = listener.get()
        if delivery is not None:
            told.stored.add(delivery.id)
            delivery.extend(HOUR)
            delivery.nack("no", delay=HOUR)


def iterate(pit, told):
    with pit.listen() as listener:
        for delivery in listener:
            with delivery:
                pass
            told.gone.add(delivery.id)
            if len(told.gone) == 3:
                break


def iterate_and_wait(pit, told):
    with pit.listen(prefetch=1) as listener:
        for delivery in listener:
            delivery.ack(wait=True)
            told.gone.add(delivery.id)
            if len(told.gone) == 3:
                break


OPERATIONS = [store, store_many, look, remove, get_and_ack, get_and_nack, iterate, iterate_and_wait]


def run_at_each_line(open_store, operation, act):
    """Run once for each line that ``operation`` executes. Yield the results, the place of the signal, and the store."""
    number = 0
    while True:
        with open_store() as tidy:
            for entry in tidy.entries():
                tidy.remove(entry.id)
            tidy.store({"id": "kept"}, HOUR)
            tidy.store_many([({"id": f"due-{n}"}, NOW) for n in range(3)])
            while tidy.stats().due < 3:
                pass
        pit, told = open_store(), Told()
        try:
            with signal_at_line(number, lambda pit=pit: act(pit)) as line:
                try:
                    operation(pit, told)
                    told.completed = True
                except pitstop.BackendUnavailable as error:
                    assert "was closed" in str(error) or "closed before" in str(error), error
            if line.place is None:
                assert number > open_store.step, "there is nothing to interrupt"
                return
            yield told, line, pit
        finally:
            pit.close()
        number += open_store.step


@pytest.mark.parametrize("operation", OPERATIONS)
def test_close_in_a_signal_handler_ends_in_order_at_every_line(open_store, operation):
    """The handler never waits for the call that it has interrupted: the store is closed when that call ends."""
    for told, line, pit in run_at_each_line(open_store, operation, pitstop.Pitstop.close):
        assert line.error is None, line.place
        with pytest.raises(pitstop.BackendUnavailable, match="closed"):
            pit.ping()
        with open_store() as again:
            there = {entry.id for entry in again.entries()}
            assert {"kept"} | told.stored <= there, line.place
            assert not told.gone & there, line.place


@pytest.mark.parametrize("operation", OPERATIONS)
def test_any_other_call_in_a_signal_handler_answers_or_is_refused_at_every_line(open_store, operation):
    """The interrupted call goes on as if nothing had happened."""
    answered = refused = 0
    for told, line, pit in run_at_each_line(open_store, operation, pitstop.Pitstop.stats):
        assert told.completed, line.place
        if line.error is None:
            answered += 1
        else:
            refused += 1
            assert isinstance(line.error, pitstop.BackendUnavailable), line.place
            assert "set a flag" in str(line.error), line.place
        there = {entry.id for entry in pit.entries()}
        assert {"kept"} | told.stored <= there, line.place
        assert not told.gone & there, line.place
    assert answered
    assert refused or open_store.step > 1
