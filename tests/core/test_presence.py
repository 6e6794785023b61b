"""Consumers say in the store that they run: the readers, the end of a note, and the cost for others."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
import weakref

from datetime import timedelta

import pytest

import pitstop

from core.kit import Clock, backend
from pitstop import BackendUnavailable, ConfigError, Unsupported
from pitstop._decisions._announce import LISTENS, Listens, announcement, seen_consumers
from pitstop._engine import _presence
from pitstop.abc import LAST_INSTANT, AllBut, Capability
from pitstop_memory import MemoryBackend


NOW, MINUTE, HOUR = timedelta(0), timedelta(minutes=1), timedelta(hours=1)
WHO = {"host": "h", "pid": 1, "name": "n", "since": 0, "now": 0, "skew": 0}


class Shared(MemoryBackend):
    """A memory backend that is taken for one of several processes, and tells of its notes."""

    capabilities = MemoryBackend.capabilities | Capability.MULTI_PROCESS

    def __init__(self, config=None):
        super().__init__(config)
        self.noted, self.forgotten = threading.Semaphore(0), threading.Event()
        self.down = False

    def note(self, key, text, until):
        try:
            if self.down:
                raise BackendUnavailable("away")
            super().note(key, text, until)
        finally:
            self.noted.release()

    def forget_note(self, key):
        super().forget_note(key)
        self.forgotten.set()

    def wait_for_note(self):
        assert self.noted.acquire(timeout=20)


@pytest.fixture
def store(clock):
    return backend(Shared, clock)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(_presence, "_FIRST", 0.0)


def presences():
    return [each for each in threading.enumerate() if each.name == "pitstop-presence"]


def wait_for_end(threads):
    for each in threads:
        each.join(20)
        assert not each.is_alive()


def test_a_listener_is_seen_with_its_kinds_and_its_messages(pit, store, clock):
    pit.store({"id": "a"}, NOW, kind="mail")
    with pit.listen(kinds=["mail", "bulk"]) as listener, listener.get():
        store.wait_for_note()
        (seen,) = pit.seen_consumers()
        assert (seen.pid, seen.kinds, seen.healthy) == (os.getpid(), (frozenset({"mail", "bulk"}),), True)
        assert (seen.in_handlers, seen.handling, seen.in_hand) == (1, frozenset({"a"}), 0)
        assert seen.seen == clock.now()
        assert (seen.takes("mail"), seen.takes("")) == (True, False)


def test_all_listeners_of_a_pitstop_are_in_one_note(pit, store):
    with pit.listen(), pit.listen(kinds=["a"]):
        store.wait_for_note()
        (seen,) = pit.seen_consumers()
        assert set(seen.kinds) == {None, frozenset({"a"})}
        assert seen.takes("b")
        assert len(presences()) == 1


def test_a_consumer_is_gone_when_its_pitstop_is_closed(store, clock):
    with pitstop.init({"type": store}) as pit:
        listener = pit.listen()
        store.wait_for_note()
        threads = presences()
    assert listener.stopped
    assert dict(store._room.notes) == {}
    wait_for_end(threads)


def test_a_consumer_is_gone_when_its_last_listener_is_closed(pit, store):
    with pit.listen():
        store.wait_for_note()
        threads = presences()
    assert store.forgotten.wait(20)
    wait_for_end(threads)
    assert pit.seen_consumers() == []
    with pit.listen():
        store.wait_for_note()
        assert len(pit.seen_consumers()) == 1


def test_a_process_that_was_killed_is_seen_for_two_and_a_half_times(pit, store, clock):
    with pit.listen():
        store.wait_for_note()
        clock.advance(149)
        assert len(store.notes()) == 1
        clock.advance(1)
        assert dict(store.notes()) == {}


def test_a_store_that_is_away_is_asked_again_and_nothing_is_logged(clock, caplog):
    store = backend(Shared, clock, announce=0.01)
    with pitstop.init({"type": store}) as pit:
        store.down = True
        with pit.listen():
            store.wait_for_note()
            store.wait_for_note()
            assert dict(store.notes()) == {}
            store.down = False
            store.wait_for_note()
            store.wait_for_note()
            assert len(store.notes()) == 1
    assert [each for each in caplog.records if each.levelname != "DEBUG"] == []


def test_a_pitstop_that_is_dropped_with_its_listener_leaves_no_thread(clock):
    store = backend(Shared, clock)
    pit = pitstop.init({"type": store})
    listener = pit.listen()
    store.wait_for_note()
    threads, dropped = presences(), weakref.ref(pit)
    del listener, pit
    gc.collect()
    wait_for_end(threads)
    gc.collect()
    assert dropped() is None


def test_no_thread_is_begun_if_nothing_is_to_be_said(clock):
    off = pitstop.init({"type": backend(Shared, clock, announce=0)})
    alone = pitstop.init({"type": backend(MemoryBackend, clock)})
    with off, alone, off.listen(), alone.listen():
        assert presences() == []
        # This process is known without a note.
        assert len(off.seen_consumers()) == len(alone.seen_consumers()) == 1
    with pitstop.init({"type": "memory"}) as pit:
        assert pit.seen_consumers() == []


def test_a_system_without_threads_does_not_keep_a_listener_from_its_messages(pit, store, monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    pit.store({"id": "a"}, NOW)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pit.listen() as listener:
            listener.get().ack()
    with pit.listen():
        store.wait_for_note()
        assert len(pit.seen_consumers()) == 1


def test_a_store_without_notes_says_so(clock):
    class Plain(Shared):
        capabilities = Shared.capabilities & ~Capability.NOTES

    with pitstop.init({"type": backend(Plain, clock)}) as pit, pit.listen():
        with pytest.raises(Unsupported, match="capability NOTES"):
            pit.seen_consumers()
        pit.store({"id": "a"}, NOW)
        assert pit.explain("a").consumers is None
        assert pit.explain("a").why.endswith("Is one running, and is it keeping up?")
        assert presences() == []


def test_consume_of_an_event_loop_is_seen():
    store = backend(Shared, Clock())

    async def main():
        handling, done = asyncio.Event(), asyncio.Event()

        async def handle(message):
            handling.set()
            await done.wait()

        async with pitstop.init_async({"type": store}) as pit:
            await pit.store({"id": "a"}, NOW)
            consuming = asyncio.create_task(pit.consume({"": handle, "*": handle}))
            await handling.wait()
            await asyncio.to_thread(store.wait_for_note)
            (seen,) = await pit.seen_consumers()
            assert (seen.in_handlers, seen.handling) == (1, frozenset({"a"}))
            assert set(seen.kinds) == {frozenset({""}), AllBut({""})}
            assert [each.pid for each in (await pit.explain("a")).handled_by] == [os.getpid()]
            done.set()
            consuming.cancel()
            await asyncio.wait([consuming])

    asyncio.run(main())
    assert dict(store._room.notes) == {}


class TestExplain:
    def test_no_consumer_was_seen(self, pit):
        pit.store({"id": "a"}, NOW, kind="mail")
        pit.store({"id": "b"}, NOW)
        why = "No consumer that takes the kind 'mail' was seen lately. Start one, or look whether it runs."
        assert pit.explain("a").why.endswith(why)
        assert pit.explain("b").why.endswith("No consumer was seen lately. Start one, or look whether it runs.")

    def test_a_user_who_may_not_read_the_notes_gets_all_else(self, pit, store, monkeypatch):
        def refuse():
            raise BackendUnavailable("This user may not read them.", permanent=True)

        pit.store({"id": "a"}, NOW)
        monkeypatch.setattr(store, "notes", refuse)
        found = pit.explain("a")
        assert found.consumers is None
        assert found.why.endswith("Is one running, and is it keeping up?")
        with pytest.raises(BackendUnavailable, match="may not read"):
            pit.seen_consumers()

    def test_one_that_takes_another_kind_does_not_count(self, pit, store):
        pit.store({"id": "a"}, NOW, kind="mail")
        with pit.listen(kinds=["bulk"]):
            store.wait_for_note()
            found = pit.explain("a")
            assert (found.consumers, len(pit.seen_consumers())) == ((), 1)
            assert "No consumer that takes the kind 'mail' was seen lately" in found.why

    def test_one_that_takes_the_kind(self, pit, store, clock):
        pit.store({"id": "a"}, NOW, kind="mail")
        with pit.listen():
            store.wait_for_note()
            found = pit.explain("a")
            (seen,) = found.consumers
            named = f"{seen.name} on {seen.host} (pid {os.getpid()}, seen 0s ago)"
            assert found.why.endswith(f"One consumer that takes the kind 'mail' was seen: {named}. Is it keeping up?")

    def test_several_that_take_it(self, pit, store, clock):
        pit.store({"id": "a"}, NOW)
        for number in range(2):
            text = announcement([Listens(None, 0, True)], [], **{**WHO, "pid": number, "now": store.now() // 1000})
            store.note(f"{LISTENS}{number}", text, LAST_INSTANT)
        assert (
            "2 consumers that take it were seen, the last of them n on h (pid 0, seen 0s ago)" in pit.explain("a").why
        )

    def test_the_consumer_that_has_it(self, pit, store):
        pit.store({"id": "a"}, NOW)
        with pit.listen() as listener, listener.get():
            store.wait_for_note()
            found = pit.explain("a")
            (seen,) = found.handled_by
            assert found.why.startswith(
                f"A listener of {seen.name} on {seen.host} (pid {os.getpid()}, seen 0s ago) has it"
            )


class TestTexts:
    def test_a_text_is_never_too_long(self):
        kinds = [Listens([f"{index}{'k' * 60}" for index in range(200)], 0, True) for _ in range(5)]
        for listens in (kinds, kinds[:1]):
            text = announcement(listens, ["i" * 500] * 1000, **WHO)
            assert len(text) <= 16_000
            (seen,) = seen_consumers({LISTENS: text})
            assert (seen.in_handlers, seen.handling) == (1000, frozenset())
        assert len(announcement([Listens(None, 0, True)], [], **{**WHO, "host": "h" * 10_000})) < 1_000

    @pytest.mark.parametrize(
        "text",
        ["", "1", "[]", "{}", "{", "null", '{"version": 1}', "[" * 10_000, "\0"]
        + [json.dumps({**json.loads(announcement([], [], **WHO)), **wrong}) for wrong in (
            {"kinds": 1}, {"kinds": [[1]]}, {"kinds": [{}]}, {"seen": 10**30}, {"pid": "x"}, {"handling": [None]}, {"skew": 1e400},
        )],
    )  # fmt: skip
    def test_a_text_of_others_is_left_out(self, text):
        own = announcement([Listens(AllBut({"a"}), 3, False)], ["x"], **WHO)
        (seen,) = seen_consumers({f"{LISTENS}1": text, f"{LISTENS}2": own, "other": own})
        assert (seen.kinds, seen.in_hand, seen.healthy) == ((AllBut({"a"}),), 3, False)

    def test_a_field_of_a_later_release_does_no_harm(self):
        text = json.dumps({**json.loads(announcement([], [], **WHO)), "version": 2, "more": 1})
        assert len(seen_consumers({LISTENS: text})) == 1


@pytest.mark.parametrize(("options", "named"), [({"announce": "often"}, "announce"), ({"announce": -1}, "announce")])
def test_a_wrong_time_is_refused(options, named):
    with pytest.raises(ConfigError, match=named):
        pitstop.init({"type": "memory", **options})


@pytest.mark.parametrize("name", ["", 5, "a\nb", "x" * 201, b"worker"])
def test_a_wrong_name_is_refused(name):
    with pytest.raises(ConfigError, match="consumer_name"):
        pitstop.init({"type": "memory", "consumer_name": name})


def test_the_configured_name_is_seen(clock):
    store = backend(Shared, clock, consumer_name="worker-3")
    with pitstop.init({"type": store}) as pit, pit.listen():
        store.wait_for_note()
        assert [each.name for each in pit.seen_consumers()] == ["worker-3"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_the_child_of_a_fork_says_nothing_for_its_parent_and_speaks_for_itself(tmp_path):
    url = f"sqlite:///{tmp_path}/fork.db"
    with pitstop.init(url) as pit, pit.listen():
        parent = wait_for_consumer(pit, os.getpid())
        pid = os.fork()
        if not pid:
            code = 1
            try:
                with pit.listen():
                    wait_for_consumer(pit, os.getpid())
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        pids = {each.pid for each in pit.seen_consumers()}
        assert parent.pid in pids


def wait_for_consumer(pit, pid):
    """Wait until a process is seen."""
    for _ in range(2000):
        for each in pit.seen_consumers():
            if each.pid == pid:
                return each
        threading.Event().wait(0.01)
    raise AssertionError(f"{pid} is not seen")


def test_a_move_is_refused_while_a_consumer_of_one_of_the_stores_was_seen(clock):
    with (
        pitstop.init({"type": backend(Shared, clock)}) as used,
        pitstop.init({"type": "memory", "name": "moved-to", "clock": clock}) as other,
    ):
        used.store({"id": "a"}, HOUR)
        with used.listen():
            for source, target in ((used, other), (other, used)):
                with pytest.raises(pitstop.PitstopError, match=r"A consumer \(.*\) was seen lately in .*live=True"):
                    source.copy_to(target)
            assert used.copy_to(other, live=True).written == 1
        assert used.copy_to(other).unchanged == 1
