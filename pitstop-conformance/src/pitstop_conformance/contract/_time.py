"""The contract of the clock that decides: the server's own clock, also for the fence and the end of a lease."""

from __future__ import annotations

import threading
import time

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest

from pitstop.abc import Backend, Outcome, Record
from pitstop_conformance import _matrix
from pitstop_conformance._kit import Handles, Kit
from pitstop_conformance._records import make_record, settlement
from pitstop_conformance._shifting import real_time_us


#: Milliseconds by which a handle may measure the clock of its server wrongly.
_ERROR = 100
#: Milliseconds of the leases here, and of the time until a record is due.
_SHORT = 300
#: The rounds of a test. Together they take over a second, so that each part of a second is seen.
_ROUNDS = 5
#: Seconds after which a test gives up.
_PATIENCE = 20.0


class Time(Kit):
    """Times by the clock of the store. The handles here have no clock of a test."""

    rule = 'docs/writing-a-backend.md, "Times"'

    @pytest.fixture(params=[0, 30, -30], ids=["right", "ahead", "behind"])
    def clock_of_the_client(self, request: pytest.FixtureRequest, open_backend: Handles) -> Iterator[None]:
        """Let the clock of this process be right, or half a minute ahead of the server's or behind it."""
        shift: AbstractContextManager[object] = nullcontext()
        if request.param:
            if self.has_server is False:
                _matrix.end("not declared: a server (has_server = False)")
            shift = self.shift_clock(request.param)
        with shift:
            yield

    @pytest.fixture
    def store(self, clock_of_the_client: None, open_backend: Handles) -> Backend:
        return open_backend(clock=None)

    @pytest.fixture
    def time_ms(self, store: Backend) -> Callable[[], int]:
        """The milliseconds since the epoch by the clock that decides, read past the backend."""
        if self.has_server is False:
            return lambda: real_time_us() // 1000
        return lambda: self.server_time(store) // 1000

    @property
    def _error(self) -> int:
        return 1 if self.has_server is False else _ERROR

    def test_now_is_the_time_of_the_server(self, store: Backend, time_ms: Callable[[], int]) -> None:
        for _ in range(_ROUNDS):
            before = time_ms()
            now = store.now() // 1000
            after = time_ms()

            assert before - self._error <= now <= after + self._error
            _wait_until(time_ms, after + _SHORT)

    def test_a_message_is_due_by_the_clock_of_the_server(self, store: Backend, time_ms: Callable[[], int]) -> None:
        for number in range(_ROUNDS):
            due = time_ms() + _SHORT
            store.put([make_record(f"{number}", due)])
            deadline = time.monotonic() + _PATIENCE
            while not (claim := store.lease(1, 60_000)):
                assert time.monotonic() < deadline, "the message is due, and is not claimed"
            after = time_ms()

            assert after >= due - self._error, "the message is not claimed before it is due"
            (leased,) = claim
            assert isinstance(leased, Record)
            first = leased.progress.first_leased
            assert first is not None
            assert due - self._error <= first <= after + self._error, "first_leased is the time of the claim"

    def test_a_lease_lasts_as_long_as_it_should_by_the_clock_of_the_server(
        self, store: Backend, time_ms: Callable[[], int]
    ) -> None:
        for number in range(_ROUNDS):
            before = time_ms()
            store.put([make_record(f"{number}", before - 60_000)])
            (leased,) = store.lease(1, _SHORT)
            after = time_ms()

            assert isinstance(leased, Record)
            due, first = leased.progress.due, leased.progress.first_leased
            assert due is not None
            assert first is not None
            assert due == first + _SHORT, "the lease begins at first_leased, in whole milliseconds"
            assert before - self._error <= first <= after + self._error, "the lease begins at the time of the claim"
            if time_ms() < due - self._error:
                extend = settlement(leased, Outcome.EXTEND, leased.progress)
                assert list(store.settle([extend])) == [True], "the lease runs"
            _wait_until(time_ms, due + self._error)
            # No other program has claimed the record, and the lease is over all the same.
            assert list(store.settle([settlement(leased, Outcome.EXTEND, leased.progress)])) == [False]
            assert list(store.settle([settlement(leased, Outcome.COMPLETE, None)])) == [False]
            assert store.tally().due == 1
            assert store.delete(f"{number}")


def _wait_until(time_ms: Callable[[], int], instant: int) -> None:
    deadline, pause = time.monotonic() + _PATIENCE, threading.Event()
    while time_ms() <= instant:
        assert time.monotonic() < deadline
        pause.wait(0.005)
