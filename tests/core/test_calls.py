"""Calls of Pitstop by code that Pitstop itself has called: they wait for other threads, as any call does."""

from __future__ import annotations

import threading

from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest

import pitstop

from pitstop import hookimpl


class Gate:
    """The lock of a writer, which opens for the writer's own write when another thread begins to wait for it."""

    def __init__(self, lock: Any, opened: threading.Event) -> None:
        self._lock, self._opened = lock, opened

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if not blocking:
            return self._lock.acquire(blocking=False)
        if self._lock.acquire(blocking=False):
            return True
        self._opened.set()
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Hook:
    def __init__(self) -> None:
        self.call: Any = None
        self.raised: list[BaseException] = []

    @hookimpl
    def pitstop_message_stored(self, entry: pitstop.Entry) -> None:
        call, self.call = self.call, None
        if call is not None:
            try:
                call()
            except pitstop.PitstopError as error:
                self.raised.append(error)


class Loud(Mapping[str, Any]):
    """A mapping whose methods call Pitstop."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __getitem__(self, key: str) -> Any:
        return self._content()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content())

    def __len__(self) -> int:
        return len(self._content())

    def _content(self) -> dict[str, Any]:
        call, self._call = self._call, None
        if call is not None:
            call()
        return {"id": "loud"}


@pytest.fixture
def hook():
    return Hook()


@pytest.fixture
def pit(hook):
    with pitstop.init({"type": "memory", "name": "calls"}, plugins=[hook]) as pit:
        yield pit


@pytest.fixture
def held(pit):
    """Three deliveries of one listener, while another thread writes the ack of the first one until a thread waits for it."""
    pit.store_many([({"id": id}, timedelta(0)) for id in "abc"])
    with closing(pit.listen(prefetch=3)) as listener:
        first, second, third = (listener.get(None) for _ in range(3))
        opened, writing = threading.Event(), threading.Event()
        writer = listener._intake.writer
        writer._writing = Gate(writer._writing, opened)
        settle = pit._session.backend.settle

        def wait_and_settle(settlements):
            if threading.current_thread() is thread:
                writing.set()
                assert opened.wait(10)
            return settle(settlements)

        pit._session.backend.settle = wait_and_settle
        thread = threading.Thread(target=first.ack, kwargs={"wait": True})
        thread.start()
        assert writing.wait(10)
        yield second, third
        opened.set()
        thread.join(10)


def test_a_hook_may_settle_a_delivery_while_another_thread_writes_acks(pit, hook, held):
    second, third = held
    hook.call = lambda: (second.ack(wait=True), third.nack("no", timedelta(0)))
    pit.store({"new": True}, timedelta(hours=1))
    assert hook.raised == []
    assert pit.get("b") is None
    assert pit.get("c").last_error == "no"


def test_a_hook_may_look_for_a_message_while_another_thread_writes_acks(pit, hook, held):
    hook.call = lambda: pit.get("b")
    pit.store({"new": True}, timedelta(hours=1))
    assert hook.raised == []


def test_a_mapping_may_settle_a_delivery_while_another_thread_writes_acks(pit, held):
    second, _ = held
    pit.store(Loud(lambda: second.ack(wait=True)), timedelta(hours=1))
    assert pit.get("b") is None
    assert pit.get("loud") is not None


def test_a_hook_that_closes_the_pitstop_has_it_closed_after_the_call(pit, hook):
    hook.call = pit.close
    assert pit.store({"id": "last"}, timedelta(hours=1)) == "last"
    with pytest.raises(pitstop.BackendUnavailable, match="was closed"):
        pit.ping()


def test_a_mapping_that_closes_the_pitstop_has_it_closed_after_the_call(pit):
    assert pit.store(Loud(pit.close), timedelta(hours=1)) == "loud"
    with pytest.raises(pitstop.BackendUnavailable, match="was closed"):
        pit.ping()
