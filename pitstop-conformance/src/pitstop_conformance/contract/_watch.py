"""The contract of a watch: hints for every kind of write of others, with the least due, and none for the handle's own writes."""

from __future__ import annotations

import threading
import time

from collections.abc import Iterator

import attrs
import pytest

from pitstop.abc import Backend, Capability, Outcome, Watch
from pitstop_conformance._kit import Handles, Kit, needs
from pitstop_conformance._records import MINUTE, START, lease_only, make_record, put_due, settlement


__all__ = ["Watching", "hears", "silent"]

#: Seconds within which a watch has to notice a change.
_SOON = 10.0
#: Seconds for which a watch has to be quiet.
_QUIET = 1.0


class Watching(Kit):
    """Hints of a watch."""

    rule = "pitstop.abc.Watch.poll"

    @pytest.fixture
    def peer(self, backend: Backend, open_backend: Handles) -> Backend:
        needs(backend, Capability.WATCH)
        peer = open_backend.peer()
        # The first use of a store may create tables or collections.
        put_due(peer, "first")
        put_due(backend, "first")
        assert peer.delete("first")
        return peer

    @pytest.fixture
    def watch(self, backend: Backend, peer: Backend) -> Iterator[Watch]:
        watch = backend.watch()
        assert watch is not None
        silent(watch)
        yield watch
        watch.close()

    def test_a_watch_hears_a_batch_at_its_earliest_time(self, peer: Backend, watch: Watch) -> None:
        dues = (START + 5000, START + 1000, START + 9000)
        peer.put([make_record(f"{n}", due) for n, due in enumerate(dues)])

        assert hears(watch, START + 1000)

    def test_a_watch_hears_a_message_that_is_released(self, peer: Backend, watch: Watch) -> None:
        put_due(peer, "a")
        leased = lease_only(peer)
        assert hears(watch, START)
        silent(watch)
        # Before the end of the lease, by which others know the record.
        released = attrs.evolve(leased.progress, due=START + 7, token=None)
        assert list(peer.settle([settlement(leased, Outcome.RELEASE, released)])) == [True]

        assert hears(watch, START + 7)

    def test_a_watch_hears_a_conditional_store(self, peer: Backend, watch: Watch) -> None:
        needs(peer, Capability.CONDITIONAL)
        assert peer.put_if(make_record("a", START + 3), None)

        assert hears(watch, START + 3)

    def test_a_watch_does_not_hear_its_own_handle(self, backend: Backend, watch: Watch) -> None:
        """Core wakes the listeners of a handle by itself. A second wake-up for each store would make each of them claim twice."""
        put_due(backend, "own")

        assert not hears(watch, START + MINUTE, _QUIET)


def hears(watch: Watch, due: int, seconds: float = _SOON) -> bool:
    """Whether a hint comes that is not later than ``due``."""
    pause, deadline = threading.Event(), time.monotonic() + seconds
    while time.monotonic() < deadline:
        told = watch.poll()
        if told is not None and told <= due:
            return True
        pause.wait(watch.pause)
    return False


def silent(watch: Watch) -> None:
    """Wait until the watch has told of all changes so far."""
    pause, deadline = threading.Event(), time.monotonic() + _SOON
    while watch.poll() is not None:
        assert time.monotonic() < deadline
        pause.wait(watch.pause)
