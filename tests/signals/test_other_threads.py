"""A call in a signal handler does not wait for another thread that waits for the interrupted call."""

from __future__ import annotations

import threading

from datetime import timedelta

import pytest

import pitstop


DUE = timedelta(0)
PATIENCE = 20


@pytest.fixture(params=["memory", "sqlite"])
def pit(request, tmp_path):
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/q.db"
    with pitstop.init(f"{url}?lock_time=5m") as pit:
        yield pit


def turn_of(backend):
    return backend._room.turn if hasattr(backend, "_room") else backend._turn


CALLS = {
    "stats": lambda pit, delivery: pit.stats(),
    "get": lambda pit, delivery: pit.get("b"),
    "store": lambda pit, delivery: pit.store({"id": "a"}, DUE),
    "store_many": lambda pit, delivery: pit.store_many([({"id": "a"}, DUE)]),
    "remove": lambda pit, delivery: pit.remove("a"),
    "nack": lambda pit, delivery: delivery.nack("no"),
    "extend": lambda pit, delivery: delivery.extend(),
    "ack, waiting": lambda pit, delivery: delivery.ack(wait=True),
    "ack": lambda pit, delivery: delivery.ack(),
}


@pytest.mark.parametrize("name", CALLS)
def test_it_returns_or_is_refused_while_the_thread_that_writes_acks_waits_for_the_interrupted_one(
    pit, monkeypatch, caplog, name
):
    backend = pit._session.backend
    pit.store_many([({"id": id}, DUE) for id in ("a", "b", "c")])
    listener = pit.listen(prefetch=3)
    first, second = next(listener), next(listener)
    about_to_write, real = threading.Event(), backend.settle
    ends = []

    def settle(settlements):
        about_to_write.set()
        return real(settlements)

    def tally():
        # The call of the main thread. A signal interrupts it while it has the backend's turn.
        turn = turn_of(backend)
        with turn.lock, turn.call():
            acking = threading.Thread(target=first.ack)
            acking.start()
            assert about_to_write.wait(PATIENCE)
            try:
                CALLS[name](pit, second)
            except pitstop.BackendUnavailable as error:
                assert "in the middle of another call" in str(error)
            ends.append(name)
            raise InterruptedError

    def main():
        with pytest.raises(InterruptedError):
            pit.stats()

    with monkeypatch.context() as patch:
        patch.setattr(backend, "settle", settle)
        patch.setattr(backend, "tally", tally)
        thread = threading.Thread(target=main, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        assert ends == [name], "the call waits for itself"
    listener.close()
    assert not [each for each in caplog.records if "does not answer" in each.getMessage()]
    assert pit.get("a") is None or name in {"store", "store_many"}


def test_a_generator_of_messages_calls_pitstop_and_waits_for_a_thread_that_writes_acks(pit, monkeypatch):
    """This interrupts no call: ``store_many`` holds nothing for the store while the generator runs."""
    backend = pit._session.backend
    pit.store_many([({"id": id}, DUE) for id in ("a", "b", "c")])
    writing, waited_for, real = threading.Event(), threading.Event(), backend.settle

    def settle(settlements):
        writing.set()
        assert waited_for.wait(PATIENCE)
        return real(settlements)

    monkeypatch.setattr(backend, "settle", settle)
    with pit.listen(prefetch=3) as listener:
        first, second = next(listener), next(listener)

        def messages():
            acking = threading.Thread(target=first.ack, kwargs={"wait": True})
            acking.start()
            assert writing.wait(PATIENCE)
            # Another thread releases it, once this thread waits or was refused.
            threading.Timer(0.1, waited_for.set).start()
            second.ack(wait=True)
            acking.join(PATIENCE)
            yield {"id": "d"}, timedelta(hours=1)

        assert pit.store_many(messages()) == ["d"]
        assert [pit.get(id) for id in ("a", "b")] == [None, None]


def test_a_generator_of_messages_that_closes_the_pitstop_stores_none(pit):
    def messages():
        pit.close()
        yield {"id": "a"}, DUE

    with pytest.raises(pitstop.BackendUnavailable, match="This Pitstop was closed"):
        pit.store_many(messages())
