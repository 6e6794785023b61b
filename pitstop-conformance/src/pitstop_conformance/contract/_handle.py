"""The contract of a handle: its clock, its configuration, its end, and its treatment of damaged documents."""

from __future__ import annotations

import gc
import threading
import time

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

import pitstop

from pitstop.abc import API_VERSION, Aside, Backend, Capability, Damaged, Outcome, SystemClock, Watch
from pitstop.testing import ManualClock
from pitstop_conformance._core import SUITE_VERSION
from pitstop_conformance._interrupting import at_each_line
from pitstop_conformance._kit import Handles, Kit, needs
from pitstop_conformance._records import (
    MINUTE,
    START,
    ids,
    lease_all,
    lease_all_and_damaged,
    lease_only,
    make_record,
    put_due,
    settlement,
)


#: Seconds within which a call that must not wait returns, even on a slow machine.
_AT_ONCE = 10.0
#: Number of handles that are opened and closed one after the other.
_MANY = 30


class Handle(Kit):
    """A handle on a store."""

    rule = 'pitstop.abc.Backend, and docs/writing-a-backend.md, "The contract"'

    def test_now_is_told_by_the_clock_in_microseconds(self, backend: Backend, clock: ManualClock) -> None:
        assert backend.now() == START * 1000

        clock.advance(0.000123)

        assert backend.now() == START * 1000 + 123

    def test_without_a_clock_the_time_is_the_worlds(self, open_backend: Handles) -> None:
        """The time is UTC, and as close to the machine's clock as the clocks of two machines are."""
        backend = open_backend(clock=None)

        now = backend.now() // 1000
        assert abs(now - SystemClock().time_us() // 1000) < MINUTE
        backend.put([make_record("a", now - MINUTE), make_record("later", now + 10 * MINUTE)])
        leased = lease_only(backend)

        assert leased.id == "a"
        assert leased.progress.first_leased is not None
        assert abs(leased.progress.first_leased - now) < MINUTE
        assert leased.progress.due == leased.progress.first_leased + MINUTE
        assert list(backend.settle([settlement(leased, Outcome.COMPLETE, None)])) == [True]
        assert list(backend.lease(1, MINUTE)) == []

    def test_the_class_says_which_version_of_the_contract_it_keeps(self, backend: Backend) -> None:
        assert type(backend).api_version == API_VERSION

    def test_a_version_of_the_suite_that_the_class_states_is_none_that_is_still_to_come(self, backend: Backend) -> None:
        stated = type(backend).suite_version

        assert stated is None or (type(stated) is int and 1 <= stated <= SUITE_VERSION)

    def test_an_unknown_option_is_refused_with_the_one_that_was_meant(self, open_backend: Handles) -> None:
        with pytest.raises(pitstop.ConfigError, match=r"'lock_tme'.*Did you mean 'lock_time'"):
            open_backend(lock_tme="5m")

    @pytest.mark.parametrize(
        "option",
        [
            {"lock_time": "soon"},
            {"lock_time": 0},
            {"loop_time": -1},
            {"retry": {"delay": "5s", "max_attempts": 0}},
            {"retry": 5},
            {"clock": 5},
        ],
        ids=str,
    )
    def test_a_wrong_value_is_refused_by_the_name_of_its_option(self, open_backend: Handles, option: Any) -> None:
        (name,) = option
        nested = option[name] if isinstance(option[name], dict) else {}

        with pytest.raises(pitstop.ConfigError, match="max_attempts" if nested else name):
            open_backend(**option)

    def test_a_store_that_is_there_is_opened_without_the_right_to_make_one(
        self, backend: Backend, open_backend: Handles
    ) -> None:
        """Commands that only read a store pass ``create=False``."""
        backend.put([make_record("a")])

        try:
            peer = open_backend.peer(create=False)
        except pitstop.ConfigError as error:
            pytest.fail(f"create=False is refused although the store is there: {error}")

        assert peer.get("a") is not None
        peer.put([make_record("b")])
        assert backend.get("b") is not None

    def test_a_sound_store_gives_its_concerns_as_texts_without_a_message(self, backend: Backend) -> None:
        backend.put([attrs.evolve(make_record("a"), message={"body": "s3cret"})])

        concerns = backend.concerns()

        assert not isinstance(concerns, str)
        for each in concerns:
            assert isinstance(each, str)
            assert "s3cret" not in each

    def test_a_handle_says_where_its_messages_are(self, backend: Backend) -> None:
        assert isinstance(backend.location, str)
        assert backend.location
        assert backend.location in repr(backend)

    def test_close_again_is_harmless(self, backend: Backend) -> None:
        backend.close()
        backend.close()

    @pytest.mark.parametrize("operation", ["put", "get", "lease", "settle"])
    def test_a_call_in_the_middle_of_another_one_of_its_thread_is_answered_or_refused_at_once(
        self, backend: Backend, operation: str
    ) -> None:
        """A signal handler makes such a call. If it waits for the call that it has interrupted, it waits forever."""
        backend.put([make_record("held")])
        held = lease_only(backend)
        backend.put([make_record("a")])
        operations: dict[str, Callable[[], Any]] = {
            "put": lambda: backend.put([make_record("b")]),
            "get": lambda: backend.get("a"),
            "lease": lambda: backend.lease(1, MINUTE),
            "settle": lambda: backend.settle([settlement(held, Outcome.COMPLETE, None)]),
        }
        raised: list[Exception] = []
        ended: list[Any] = []

        def look(number: int) -> None:
            # At each line at first, later at some lines only.
            if number < 200 or number % 17 == 0:
                try:
                    backend.get("a")
                except pitstop.BackendUnavailable:
                    pass
                except Exception as error:  # noqa: BLE001 - the test fails with it
                    raised.append(error)

        def run() -> None:
            try:
                ended.append(at_each_line(backend, operations[operation], look))
            except Exception as error:  # noqa: BLE001 - the test fails with it
                raised.append(error)

        # A daemon, so that the test ends even if the thread hangs.
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(_AT_ONCE)

        assert not thread.is_alive(), "the call waits for the call that it has interrupted: use pitstop.abc.Turn"
        assert raised == []
        assert ended
        assert backend.get("a") is not None

    def test_closing_a_handle_leaves_its_peers_alone(self, backend: Backend, open_backend: Handles) -> None:
        peer = open_backend.peer()
        put_due(backend, "a", "b")

        backend.close()

        assert ids(lease_all(peer)) == ["a", "b"]
        peer.put([make_record("c")])
        assert peer.tally().due == 1

    def test_closing_a_handle_again_leaves_its_peers_alone_too(self, backend: Backend, open_backend: Handles) -> None:
        """A backend that counts its handles must count a handle that is closed twice once."""
        peers = [open_backend.peer(), open_backend.peer()]
        put_due(backend, "a", "b")

        for _ in range(3):
            backend.close()

        assert [peers[0].tally().due, peers[1].tally().due] == [2, 2]

    def test_handles_that_are_closed_hold_neither_threads_nor_files(self, open_backend: Handles) -> None:
        """Threads and files that a driver shares among all handles are allowed: their number does not grow."""
        gc.collect()
        threads, files = threading.active_count(), _open_files()

        for n in range(_MANY):
            backend = open_backend()
            put_due(backend, f"{n}")
            backend.close()

        assert _comes_true(lambda: threading.active_count() <= threads + _MANY // 3), (
            "closed handles leave threads behind"
        )
        assert _comes_true(lambda: _open_files() <= files + _MANY // 3), "closed handles leave files or sockets open"

    def test_what_was_stored_is_there_when_it_is_opened_again(self, open_backend: Handles) -> None:
        backend = open_backend()
        needs(backend, Capability.DURABLE)
        put_due(backend, "a", "b")
        leased = lease_only(backend)
        backend.close()

        again = open_backend.peer()

        assert again.get("a") == leased
        assert ids(lease_all(again)) == ["b"]
        assert list(again.settle([settlement(leased, Outcome.COMPLETE, None)])) == [True]
        assert ids(again.scan(None, 10, None)) == ["b"]

    def test_a_ping_says_nothing_and_changes_nothing(self, backend: Backend) -> None:
        backend.ping()
        put_due(backend, "a")
        before = backend.get("a")

        for _ in range(2):
            backend.ping()

        assert list(backend.scan(None, 10, None)) == [before]

    @pytest.mark.parametrize("session", [object(), "session", 0], ids=["any", "str", "zero"])
    def test_what_is_no_session_is_refused(self, backend: Backend, session: object) -> None:
        """A backend without transactions refuses every session. The error names the capability and the backend."""
        if Capability.TRANSACTIONS in backend.capabilities:
            with pytest.raises(pitstop.PitstopError, match=f"session is a {type(session).__name__}|TRANSACTIONS"):
                backend.within(session)
        else:
            with pytest.raises(pitstop.Unsupported, match=f"{type(backend).__name__}.* capability TRANSACTIONS"):
                backend.within(session)

    @pytest.mark.parametrize(
        "capability",
        [Capability.WATCH, Capability.TRANSACTIONS, Capability.SCRATCH, Capability.ADOPT, Capability.CONDITIONAL],
        ids=lambda each: each.name,
    )
    def test_what_is_not_declared_is_refused(self, backend: Backend, capability: Capability) -> None:
        """An application then cannot depend on a promise that the backend does not make."""
        needs(backend, capability)

    def test_without_the_capability_there_is_no_watch(self, backend: Backend) -> None:
        watch = backend.watch()

        assert (watch is not None) == (Capability.WATCH in backend.capabilities)
        if watch is not None:
            watch.close()

    @pytest.mark.parametrize("after", ["a_pause", "a_change"])
    def test_a_watch_notices_what_a_peer_stores(self, backend: Backend, open_backend: Handles, after: str) -> None:
        """The only wait in the suite that uses the machine's clock, because a watch waits for its server, or polls."""
        needs(backend, Capability.WATCH)
        peer = open_backend.peer()
        watch = backend.watch()
        assert watch is not None
        try:
            if after == "a_change":
                put_due(peer, "earlier")
                assert _poll(watch, 10) is not None
            put_due(peer, "a")

            told = _poll(watch, 10)
            assert told is not None
            assert told <= START, "poll() returns a time that is not after the due time of the stored record"
        finally:
            watch.close()

    def test_a_watch_does_not_cry_all_the_time(self, backend: Backend) -> None:
        """If nothing happens, poll() returns None at some point. Otherwise every listener would query the store forever."""
        needs(backend, Capability.WATCH)
        watch = backend.watch()
        assert watch is not None
        try:
            quiet = threading.Event()
            deadline = time.monotonic() + 10
            while watch.poll() is not None:
                assert time.monotonic() < deadline
                quiet.wait(watch.pause)
        finally:
            watch.close()

    def test_a_damaged_record_is_read_as_damaged(self, backend: Backend) -> None:
        backend.put([make_record("a", START + 5, message={"secret": "s3cr3t"}, token="t", attempts=1, first_leased=0)])

        self.damage(backend, "a")

        read = backend.get("a")
        assert isinstance(read, Damaged)
        assert (read.id, read.due, read.token) == ("a", START + 5, "t")
        assert read.error
        assert "s3cr3t" not in read.error

    def test_a_damaged_record_is_seen_among_the_others(self, backend: Backend) -> None:
        put_due(backend, "a", "b", "c")

        self.damage(backend, "b")

        assert ids(backend.scan(None, 10, None)) == ["a", "b", "c"]
        assert [isinstance(each, Damaged) for each in backend.scan("due", 10, None)] == [False, True, False]
        assert backend.tally().due == 3

    def test_a_damaged_record_is_leased_as_such_and_holds_nobody_up(self, backend: Backend) -> None:
        put_due(backend, "a", "b", "c")
        self.damage(backend, "a")

        leased = lease_all_and_damaged(backend)

        assert ids(leased) == ["a", "b", "c"]
        assert isinstance(leased[0], Damaged)
        assert leased[0].token
        assert leased[0].due == START + MINUTE
        assert not any(isinstance(each, Damaged) for each in leased[1:])

    def test_a_damaged_record_can_be_set_aside(self, backend: Backend, clock: ManualClock) -> None:
        put_due(backend, "a")
        self.damage(backend, "a")
        (leased,) = backend.lease(1, MINUTE)
        assert isinstance(leased, Damaged)
        assert leased.token is not None
        assert list(backend.settle([settlement(leased, Outcome.BURY, Aside(leased.error))])) == [True]

        clock.advance(86_400)
        assert list(backend.lease(1, MINUTE)) == []
        assert ids(backend.scan("dead", 10, None)) == ["a"]
        assert backend.tally().dead == 1
        read = backend.get("a")
        assert isinstance(read, Damaged)
        assert read.due is None

    def test_a_damaged_record_can_be_deleted(self, backend: Backend) -> None:
        put_due(backend, "a")
        self.damage(backend, "a")

        assert backend.delete("a") is True

        assert backend.get("a") is None

    def test_a_damaged_record_is_healed_by_a_put(self, backend: Backend) -> None:
        put_due(backend, "a")
        self.damage(backend, "a")
        record = make_record()

        backend.put([record])

        assert backend.get("a") == record
        assert lease_only(backend).revision == record.revision


def _poll(watch: Watch, seconds: float) -> int | None:
    """Return the first answer of a watch that is not None, or None if there is none in time."""
    pause, deadline = threading.Event(), time.monotonic() + seconds
    while (told := watch.poll()) is None and time.monotonic() <= deadline:
        pause.wait(watch.pause)
    return told


def _open_files() -> int:
    """Return the number of file descriptors of this process, or 0 if the system does not tell."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def _comes_true(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether the condition becomes true soon. A thread that was told to end may need a moment."""
    pause, deadline = threading.Event(), time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.01)
    return True
