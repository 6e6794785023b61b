"""The end of a listener: stop, signals, close and fork, and what it gives back then."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import weakref

from datetime import timedelta

import pytest

import pitstop

from core.kit import LOCK, Running, Scripted, backend
from pitstop import BackendUnavailable
from pitstop_memory import MemoryBackend


def ids(deliveries) -> list[str]:
    return [delivery.id for delivery in deliveries]


class TestStop:
    def test_from_another_thread_ends_the_iteration(self, pit, clock):
        with pit.listen() as listener:
            seen = Running(lambda: ids(listener))
            clock.wait_for_waits(1)
            listener.stop()
            assert seen.result() == []
            assert listener.stopped

    def test_of_several_threads_on_one_listener_all_end(self, pit, clock):
        with pit.listen() as listener:
            threads = [Running(lambda: ids(listener)) for _ in range(8)]
            clock.wait_for_waits(8)
            assert clock.wait_for_sleepers(8)
            listener.stop()
            assert [thread.result() for thread in threads] == [[]] * 8

    def test_within_the_loop_ends_it_after_the_present_message(self, pit):
        pit.store_many([({"id": str(number)}, timedelta(0)) for number in range(5)])
        with pit.listen(prefetch=3) as listener:
            for delivery in listener:
                listener.stop()
                delivery.ack()
        assert delivery.id == "0"
        assert pit.stats().due == 4
        assert {entry.attempts for entry in pit.entries()} == {0}

    @pytest.mark.parametrize("end", ["stop", "close", "with", "pit"])
    def test_gives_back_what_nobody_saw_with_the_attempt_not_counted(self, pit, clock, end):
        pit.store_many([({"id": str(number)}, timedelta(0)) for number in range(5)])
        clock.advance(1)
        listener = pit.listen(prefetch=5)
        seen = listener.get()
        assert pit.stats().leased == 5
        if end == "pit":
            looking = pitstop.init({"type": "memory", "clock": clock})
            looking._session._backend._room = pit._session.backend._room
            pit.close()
        else:
            looking = pit
            if end == "with":
                with listener:
                    pass
            else:
                getattr(listener, end)()
        assert {entry.id: (entry.state, entry.attempts) for entry in looking.entries()} == {
            "0": ("leased", 1),
            **{str(number): ("due", 0) for number in range(1, 5)},
        }
        if end != "pit":
            seen.ack()
            assert pit.get("0") is None

    def test_during_a_claim_gives_back_what_that_claim_brings(self, pit, store):
        pit.store_many([({"id": str(number)}, timedelta(0)) for number in range(3)])
        listener = pit.listen(prefetch=3)
        # Another thread stops it while the claim is under way: nothing of it is handed out, nothing stays leased.
        store.during["lease"] = lambda: Running(listener.stop).result()
        assert listener.get(None) is None
        assert pit.stats().due == 3
        assert {entry.attempts for entry in pit.entries()} == {0}

    def test_close_of_the_pitstop_waits_for_a_claim_that_is_under_way(self, clock):
        """Else what it brings would be given back to a store that is closed, and stay leased."""
        room = backend(MemoryBackend, clock, name="close-during-a-claim")
        store = backend(Scripted, clock, name="close-during-a-claim")
        claimed, go_on = threading.Event(), threading.Event()

        def hold():
            claimed.set()
            assert go_on.wait(10)

        with pitstop.init({"type": room}) as other:
            other.store_many([({"id": id}, timedelta(0)) for id in "abc"])
            pit = pitstop.init({"type": store})
            store.during["lease"] = hold
            listener = pit.listen(prefetch=3)
            got = Running(lambda: listener.get(timeout=None))
            assert claimed.wait(10)
            closing = Running(pit.close)
            while not listener.stopped:
                threading.Event().wait(0.001)
            assert not closing.done
            go_on.set()
            closing.result()
            assert got.result() is None
            assert (other.stats().due, other.stats().leased) == (3, 0)
            assert [entry.attempts for entry in other.entries()] == [0, 0, 0]

    def test_again_and_after_close_is_harmless(self, pit):
        listener = pit.listen()
        for end in (listener.stop, listener.stop, listener.close, listener.close, listener.stop):
            end()
        assert listener.get(None) is None
        assert list(listener) == []
        assert repr(listener) == "<Listener on memory:// stopped>"

    def test_when_the_store_is_away_what_was_prefetched_comes_back_with_its_lease(self, pit, store, clock, caplog):
        pit.store_many([({"id": str(number)}, timedelta(0)) for number in range(3)])
        listener = pit.listen(prefetch=3)
        listener.get()
        store.down = True
        listener.stop()
        store.down = False
        assert "2 claimed messages come back only when their leases run out" in caplog.text
        assert pit.stats().leased == 3
        clock.advance(LOCK)
        assert pit.stats().due == 3


class TestSignals:
    @pytest.fixture
    def on_signal(self):
        """Install a handler for SIGUSR1 for the time of the test."""
        before = signal.getsignal(signal.SIGUSR1)
        yield lambda handler: signal.signal(signal.SIGUSR1, lambda *_: handler())
        signal.signal(signal.SIGUSR1, before)

    def test_a_handler_may_stop_a_listener_that_blocks_in_the_main_thread(self, pit, clock, on_signal):
        with pit.listen() as listener:
            on_signal(listener.stop)

            ended = threading.Event()

            def send():
                clock.wait_for_waits(1)
                # Again, in case that the first one came just before the thread began to block: then CPython runs the
                # handler only when the wait is over. Here it never is; a real one is, after loop_time at most.
                while not ended.is_set():
                    signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
                    ended.wait(0.2)

            sent = Running(send)
            assert list(listener) == []
            ended.set()
            sent.result()

    @pytest.mark.parametrize("method", ["lease", "next_due", "now"])
    def test_a_handler_may_stop_it_while_the_backend_holds_its_lock(self, clock, on_signal, method):
        class Interrupted(MemoryBackend):
            armed = False

            def _now_ms(self):
                # Within lease() and settle(): the room's lock is held by this very thread.
                if self.armed:
                    assert self._room.turn.inside or method != "lease"
                    self.raise_once()
                return super()._now_ms()

            def next_due(self, kinds=None):
                if method == "next_due":
                    with self._room.lock:
                        self.raise_once()
                return super().next_due(kinds)

            def now(self):
                if method == "now":
                    with self._room.lock:
                        self.raise_once()
                return super().now()

            def raise_once(self):
                if self.armed:
                    self.armed = False
                    signal.raise_signal(signal.SIGUSR1)

        store = backend(Interrupted, clock)
        with pitstop.init({"type": store}) as pit, pit.listen(prefetch=2) as listener:
            pit.store_many([({"id": str(number)}, timedelta(0)) for number in range(3)])
            assert ids([listener.get(), listener.get(), listener.get()]) == ["0", "1", "2"]
            pit.store({"id": "3"}, timedelta(minutes=1))
            on_signal(listener.stop)
            store.armed = True
            assert listener.get(None) is None
            assert listener.stopped
            assert not store.armed

    def test_a_handler_that_interrupts_an_ack_leaves_giving_back_to_the_listener(self, pit, store, on_signal):
        pit.store_many([({"id": str(number)}, timedelta(0)) for number in range(3)])
        with pit.listen(prefetch=3) as listener:
            on_signal(listener.stop)
            for delivery in listener:
                store.during["settle"] = lambda: (store.during.clear(), signal.raise_signal(signal.SIGUSR1))
                delivery.ack(wait=True)
        assert {entry.id: (entry.state, entry.attempts) for entry in pit.entries()} == {
            "1": ("due", 0),
            "2": ("due", 0),
        }

    def test_a_handler_that_interrupts_code_with_the_locks_does_not_wait_for_them_for_ever(self, pit, store, on_signal):
        """The application's own code may hold a lock of the driver's, which giving back needs."""
        lock = threading.Lock()
        pit.store_many([({"id": id}, timedelta(0)) for id in "abc"])
        listener = pit.listen(prefetch=3)
        assert listener.get().id == "a"
        store.during["settle"] = lambda: lock.acquire(timeout=60) and lock.release()
        on_signal(listener.stop)
        with lock:
            signal.raise_signal(signal.SIGUSR1)
            assert listener.stopped
            assert pit.stats().leased == 3
        listener.close()
        while pit.stats().leased > 1:
            threading.Event().wait(0.001)

    def test_a_handler_that_interrupts_the_users_code_gives_back_at_once(self, pit, on_signal):
        pit.store_many([({"id": str(number)}, timedelta(0)) for number in range(3)])
        with pit.listen(prefetch=3) as listener:
            on_signal(listener.stop)
            for delivery in listener:
                signal.raise_signal(signal.SIGUSR1)
                assert pit.stats().due == 2
                delivery.ack()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize("where", ["blocked", "handling"])
    def test_a_process_ends_cleanly_on_a_real_signal(self, number, where):
        script = """
            import queue, signal, sys
            from datetime import timedelta
            import pitstop
            from pitstop.abc import SystemClock

            class Telling(SystemClock):
                def wait(self, bell, seconds):
                    print("blocked", flush=True)
                    return super().wait(bell, seconds)

            pit = pitstop.init({"type": "memory", "clock": Telling(), "loop_time": "1h"})
            listener = pit.listen(prefetch=2)
            signalled = queue.SimpleQueue()
            for each in (signal.SIGINT, signal.SIGTERM):
                signal.signal(each, lambda *_: (listener.stop(), signalled.put(None)))
            if sys.argv[1] == "handling":
                pit.store_many([({"id": "a"}, timedelta(0)), ({"id": "b"}, timedelta(0))])
            for delivery in listener:
                print("handling", flush=True)
                signalled.get()
                delivery.ack()
            print("stopped with", pit.stats().due, "due,", pit.stats().leased, "leased", flush=True)
            pit.close()
        """
        command = [sys.executable, "-c", textwrap.dedent(script), where]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == f"{where}\n"
            try:
                for _ in range(10):
                    # Again, for the reason that is given above.
                    os.kill(process.pid, number)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        out, err = process.communicate(timeout=3)
                        break
            finally:
                process.kill()
        assert (process.returncode, err) == (0, "")
        assert out == f"stopped with {1 if where == 'handling' else 0} due, 0 leased\n"


class TestClosed:
    def test_no_listener_is_made_on_a_closed_pitstop(self, pit):
        pit.close()
        with pytest.raises(BackendUnavailable) as caught:
            pit.listen()
        assert str(caught.value) == "This Pitstop was closed. Make a new one with pitstop.init()."
        assert repr(pit) == "<Pitstop on memory:// (closed)>"

    def test_every_call_says_so(self, pit):
        pit.close()
        pit.close()
        for call in (
            lambda: pit.store({}, timedelta(0)),
            lambda: pit.store_many([]),
            lambda: pit.remove("a"),
            lambda: pit.get("a"),
            pit.entries,
            pit.stats,
            lambda: pit.redrive("a"),
            pit.now,
        ):
            with pytest.raises(BackendUnavailable, match=r"^This Pitstop was closed\."):
                call()

    def test_a_listener_that_blocks_ends(self, pit, clock):
        got = Running(lambda: ids(pit.listen()))
        clock.wait_for_waits(1)
        pit.close()
        assert got.result() == []

    def test_a_listener_that_was_made_while_it_closed_ends_too(self, pit):
        listener = pit.listen()
        pit._session.discard(listener)
        pit.close()
        assert listener.get(None) is None

    def test_a_delivery_cannot_be_settled_any_more(self, pit):
        pit.store({"id": "a"}, timedelta(0))
        delivery = pit.listen().get()
        pit.close()
        with pytest.raises(BackendUnavailable, match="closed"):
            delivery.ack()

    def test_a_listener_that_was_dropped_is_not_kept_alive(self, pit):
        pit.store({"id": "a"}, timedelta(0))
        listener = pit.listen()
        delivery = listener.get()
        dropped = weakref.ref(listener)
        del listener
        gc.collect()
        assert dropped() is None
        pit.store({"id": "b"}, timedelta(0))
        delivery.ack()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
class TestFork:
    def test_what_was_claimed_ahead_is_the_parents_alone(self, tmp_path):
        """One message is never out twice under live leases, also when a process splits in two."""
        script = textwrap.dedent(
            """
            import os, sys, threading
            from datetime import timedelta
            import pitstop

            pit = pitstop.init({"type": "sqlite", "path": "fork.db"})
            pit.store_many([({"id": id}, timedelta(0)) for id in "abcd"])
            listener = pit.listen(prefetch=4)
            print("parent", listener.get().id, flush=True)
            if os.fork() == 0:
                pit.store({"id": "e"}, timedelta(0))
                print("child", *(each.id for each in iter(listener.get, None)), flush=True)
                pit.close()
                os._exit(0)
            os.wait()
            print("parent", *(each.id for each in iter(listener.get, None)), flush=True)
            pit.close()
            """
        )
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout.splitlines() == ["parent a", "child e", "parent b c d"]

    def test_the_watch_is_begun_anew_in_the_child(self, tmp_path):
        script = textwrap.dedent(
            """
            import os, threading
            from datetime import timedelta
            import pitstop

            pit = pitstop.init({"type": "sqlite", "path": "fork.db", "loop_time": "10m"})
            listener = pit.listen()
            assert listener.get(timeout=0.05) is None
            names = [thread.name for thread in threading.enumerate()]
            assert "pitstop-watch" in names, names
            if os.fork() == 0:
                print("child", listener.get(timeout=30).id, flush=True)
                os._exit(0)
            pit.store({"id": "a"}, timedelta(0))
            os.wait()
            pit.close()
            """
        )
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout.splitlines() == ["child a"]


class TestGivingBack:
    def test_close_waits_for_another_thread_that_is_at_it(self, pit, store):
        pit.store_many([({"id": id}, timedelta(0)) for id in "abc"])
        listener = pit.listen(prefetch=3)
        listener.get()
        order, begun = [], threading.Event()

        def settle():
            begun.set()
            # Long enough for a thread that does not wait.
            threading.Event().wait(0.05)
            order.append("given back")

        store.during["settle"] = settle
        giving_back = Running(listener._intake.leftovers.give_back_all)
        assert begun.wait(10)
        pit.close()
        order.append("closed")
        giving_back.result()
        assert order == ["given back", "closed"]

    def test_a_thread_that_comes_after_the_end_gets_nothing_and_leaves_nothing(self, pit):
        pit.store_many([({"id": id}, timedelta(0)) for id in "abc"])
        with pit.listen(prefetch=3) as listener:
            listener.get().ack()
            # Between the end and the giving back that belongs to it.
            listener._intake.end()
            assert listener._intake.take_at_hand() is None
            assert pit.stats().due == 2
