"""Races of processes: as with threads, but the processes share nothing but the store."""

from __future__ import annotations

import contextlib
import signal
import threading
import warnings

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any

import attrs
import pytest

import pitstop

from pitstop.abc import Backend, Capability, Outcome, Progress, Record, from_instant
from pitstop.testing import ManualClock
from pitstop_conformance._interrupting import at_each_line
from pitstop_conformance._kit import Handles, needs
from pitstop_conformance._records import MINUTE, START, at, complete, ids, lease_all, make_record, settlement
from pitstop_conformance.races._choices import CHOICES
from pitstop_conformance.races._processes import LARGE, Forking, Processes, Say, flat


_PROCESSES = 4
_RECORDS = 20_000 if LARGE else 300
_ROUNDS = 250 if LARGE else 25
_VERSIONS = 400 if LARGE else 40
_EDITS = 10_000 if LARGE else 100
#: Milliseconds of the leases that end while a process settles. They are short, because the test waits for their end.
_SHORT = 12
#: The writes of a parent and of its child that share a handle.
_STEPS = 100


class ProcessRaces(Forking):
    """One outcome, whichever process is first."""

    rule = 'docs/writing-a-backend.md, "Threads, processes, forks"'

    @pytest.fixture
    def shared(self, open_backend: Handles) -> Backend:
        """The test's handle on the store that the processes share. Like theirs, it uses the machine's clock."""
        backend = open_backend(clock=None)
        needs(backend, Capability.MULTI_PROCESS)
        return backend

    @pytest.mark.parametrize("by", CHOICES)
    def test_processes_claim_and_settle_each_record_once(self, shared: Backend, processes: Processes, by: str) -> None:
        choice, names = CHOICES[by], [f"{n:05}" for n in range(_RECORDS)]
        choice.check(shared)
        shared.put([make_record(name, START - n % 5, kind=choice.kind(n)) for n, name in enumerate(names)])

        def drain(claimer: int, limit: int, backend: Backend, say: Say) -> list[Any]:
            done: list[Any] = []
            while claim := choice.lease(claimer, backend, limit, 10 * MINUTE):
                applied = backend.settle([complete(each) for each in claim])
                assert all(applied), "a settlement of a leased record applies"
                done.append([_token(claim), ids(claim), [_progress(each).attempts for each in claim]])
            return done

        claims = flat(
            processes.together(*(partial(drain, n, limit) for n, limit in enumerate((1, 3, 7, 20)[:_PROCESSES])))
        )

        assert sorted(flat([claimed for _, claimed, _ in claims])) == names
        assert set(flat([attempts for _, _, attempts in claims])) == {1}
        assert len({token for token, _, _ in claims}) == len(claims), "each claim has a new token"
        assert list(shared.scan(None, 10, None)) == []

    def test_a_claim_never_holds_an_older_version_than_another_process_stored(
        self, shared: Backend, processes: Processes
    ) -> None:
        """One process stores new versions while others claim. The token of a claim is always on the version that it returned."""
        names = [f"{n}" for n in range(6)]

        def store(backend: Backend, say: Say) -> list[Any]:
            for version in range(1, _VERSIONS + 1):
                backend.put([_version(name, version) for name in names])
            backend.put([_end()])
            return []

        def claim(backend: Backend, say: Say) -> list[Any]:
            done: list[Any] = []
            while True:
                last_look = backend.get("end") is not None
                claimed = backend.lease(3, 10 * MINUTE)
                for each in claimed:
                    assert isinstance(each, Record)
                    version = each.message["version"]
                    assert each.revision == f"{each.id}-{version}", "message and revision are of one put"
                    now = backend.get(each.id)
                    if isinstance(now, Record) and now.progress.token == each.progress.token:
                        assert now == each, "the lease is on the version that the claim returned"
                    if backend.settle([complete(each)])[0]:
                        done.append((each.id, version))
                if last_look and not claimed:
                    return done

        acked = Counter(map(tuple, flat(processes.together(store, *[claim] * (_PROCESSES - 1)))))

        assert set(acked.values()) == {1}, "each version is acknowledged at most once"
        assert {name for name, version in acked if version == _VERSIONS} == set(names), (
            "the last version is emitted at some point"
        )
        assert ids(shared.scan(None, 10, None)) == ["end"]

    def test_stores_of_one_id_by_several_processes_leave_one_whole_record(
        self, shared: Backend, processes: Processes
    ) -> None:
        names = [f"{n:03}" for n in range(_ROUNDS)]

        def store(version: int, backend: Backend, say: Say) -> None:
            for name in names:
                backend.put([_version(name, version)])
                stored = backend.get(name)
                assert isinstance(stored, Record)
                assert stored == _version(name, stored.message["version"]), "every read returns a whole record"

        processes.together(*(partial(store, n) for n in range(_PROCESSES)))

        stored = [each for each in shared.scan(None, 10 * _ROUNDS, None) if isinstance(each, Record)]
        assert ids(stored) == names
        assert stored == [_version(each.id, each.message["version"]) for each in stored]
        assert shared.tally().due == _ROUNDS

    @pytest.mark.usefixtures("conditional")
    def test_a_record_that_is_not_there_is_stored_by_one_of_several_processes(
        self, shared: Backend, processes: Processes
    ) -> None:
        names = [f"{n:03}" for n in range(_ROUNDS)]

        def store(version: int, backend: Backend, say: Say) -> list[str]:
            return [name for name in names if backend.put_if(_version(name, version), None)]

        stored = processes.together(*(partial(store, n) for n in range(_PROCESSES)))

        assert sorted(flat(stored)) == names, "each id is stored once"
        found = [each for each in shared.scan(None, 10 * _ROUNDS, None) if isinstance(each, Record)]
        assert found == [_version(name, n) for name in names for n, mine in enumerate(stored) if name in mine]

    @pytest.mark.usefixtures("conditional")
    def test_a_counter_that_several_processes_raise_by_revision_counts_each(
        self, shared: Backend, processes: Processes
    ) -> None:
        shared.put([_version("counter", 0)])

        def count(backend: Backend, say: Say) -> int:
            done = 0
            while done < _ROUNDS:
                now = backend.get("counter")
                assert isinstance(now, Record)
                done += backend.put_if(_version("counter", now.message["version"] + 1), now.revision)
            return done

        processes.together(*[count] * _PROCESSES)

        assert shared.get("counter") == _version("counter", _ROUNDS * _PROCESSES)

    @pytest.mark.usefixtures("conditional")
    def test_eight_processes_that_create_unless_it_is_there_create_each_message_once(
        self, shared: Backend, processes: Processes
    ) -> None:
        names = [f"{n:03}" for n in range(_ROUNDS)]

        def store(backend: Backend, say: Say) -> list[str]:
            created: list[str] = []
            with pitstop.init({"type": backend}) as pit:
                for name in names:
                    with contextlib.suppress(pitstop.Conflict):
                        created.append(pit.store({"id": name}, timedelta(hours=1), if_exists="error"))
                    assert pit.store({"id": name}, timedelta(hours=1), if_exists="keep").outcome == "kept"
            return created

        created = flat(processes.together(*[store] * 8))

        assert sorted(created) == names
        assert shared.tally().scheduled == len(names)

    @pytest.mark.usefixtures("conditional")
    def test_a_message_that_one_process_edits_while_another_sends_it_is_sent_once(
        self, shared: Backend, processes: Processes
    ) -> None:
        """The edit either comes first, and the new body is sent, or it changes nothing."""

        def edit(backend: Backend, say: Say) -> list[tuple[str, int]]:
            last: list[tuple[str, int]] = []
            with pitstop.init({"type": backend}) as pit:
                for n in range(_EDITS):
                    name = pit.store({"id": f"{n:05}", "n": 1})
                    entry, edited = pit.get(name), False
                    if entry is not None:
                        with contextlib.suppress(pitstop.Conflict):
                            pit.store({"id": name, "n": 2}, if_revision=entry.revision)
                            edited = True
                    last.append((name, 1 + edited))
                pit.store({"id": "end", "n": 1})
            return last

        def send(backend: Backend, say: Say) -> list[tuple[str, int]]:
            sent: list[tuple[str, int]] = []
            ended = False
            with pitstop.init({"type": backend}) as pit, pit.listen(lock_time="10m") as listener:
                while not ended or pit.entries(limit=1):
                    delivery = listener.get(timeout=0)
                    if delivery is not None:
                        sent.append((delivery.id, delivery.msg["n"]))
                        delivery.ack(wait=True)
                        ended = ended or delivery.id == "end"
            return sent

        last, sent = processes.together(edit, send)

        assert sorted(sent) == [*last, ["end", 1]]

    def test_an_ack_against_an_expiry_has_one_winner_among_processes(
        self, shared: Backend, open_backend: Handles, processes: Processes
    ) -> None:
        """Either the ack applies and the record is gone, or the ack is too late and another process claims the record."""
        hold = partial(_settle_at_the_end, complete)

        won, *stolen = processes.together(hold, *[_steal] * (_PROCESSES - 1))

        tokens = _assert_one_winner(won, [*stolen, self._steal_the_rest(open_backend)])
        for name, applied in won.items():
            stored = shared.get(name)
            assert (stored is None) if applied else (_progress(stored).token == tokens[name])

    def test_an_extension_against_a_new_claim_has_one_winner_among_processes(
        self, shared: Backend, open_backend: Handles, processes: Processes
    ) -> None:
        def longer(leased: Record) -> Progress:
            assert leased.progress.due is not None
            return attrs.evolve(leased.progress, due=leased.progress.due + 10 * MINUTE)

        hold = partial(_settle_at_the_end, lambda leased: settlement(leased, Outcome.EXTEND, longer(leased)))

        won, *stolen = processes.together(hold, *[_steal] * (_PROCESSES - 1))

        tokens = _assert_one_winner(won, [*stolen, self._steal_the_rest(open_backend)])
        for name, applied in won.items():
            stored = _progress(shared.get(name))
            assert (stored.token, stored.attempts) == ((f"of-{name}", 1) if applied else (tokens[name], 2))

    def test_a_record_is_deleted_by_one_of_many_processes(self, shared: Backend, processes: Processes) -> None:
        names = [f"{n:03}" for n in range(_ROUNDS)]
        shared.put([make_record(name) for name in names])

        def delete(backend: Backend, say: Say) -> list[str]:
            return [name for name in names if backend.delete(name)]

        assert sorted(flat(processes.together(*[delete] * _PROCESSES))) == names

    def test_a_handle_that_is_carried_over_a_fork_works_there_or_says_that_it_does_not(
        self, shared: Backend, processes: Processes
    ) -> None:
        """The handle in the parent goes on working."""
        shared.put([make_record("before")])

        def use(backend: Backend, say: Say) -> str:
            with warnings.catch_warnings():
                # A driver may warn of this.
                warnings.simplefilter("ignore")
                try:
                    shared.put([make_record("child")])
                    return "stored" if shared.get("child") is not None else "lost"
                except pitstop.BackendUnavailable:
                    return "unavailable"

        told = processes.start(use).result()

        assert told in ("stored", "unavailable")
        shared.put([make_record("after")])
        stored = ids(shared.scan(None, 10, None))
        assert [each for each in stored if each != "child"] == ["after", "before"]
        assert told == "unavailable" or "child" in stored

    def test_a_parent_and_its_child_use_a_handle_at_the_same_time(self, shared: Backend, processes: Processes) -> None:
        """A connection that both use mixes their replies up. The parent goes on working, and the child works or is refused."""
        shared.put([make_record("parent")])

        def use(backend: Backend, say: Say) -> str:
            with warnings.catch_warnings():
                # A driver may warn of this.
                warnings.simplefilter("ignore")
                say("begun")
                try:
                    for n in range(_STEPS):
                        shared.put([make_record("child", START + n)])
                        stored = shared.get("child")
                        assert isinstance(stored, Record)
                        assert (stored.id, stored.progress.due) == ("child", START + n), "the child reads its own reply"
                except pitstop.BackendUnavailable:
                    return "unavailable"
                return "stored"

        child = processes.start(use)
        child.hear(1)
        for n in range(_STEPS):
            shared.put([make_record("parent", START + n)])
            stored = shared.get("parent")
            assert isinstance(stored, Record)
            assert (stored.id, stored.progress.due) == ("parent", START + n), "the parent reads its own reply"

        assert child.result() in ("stored", "unavailable")
        assert shared.get("parent") is not None

    @pytest.mark.parametrize("part", [0.25, 0.5, 0.75])
    def test_a_child_does_not_wait_for_a_thread_that_was_inside_at_the_fork(
        self, shared: Backend, processes: Processes, part: float
    ) -> None:
        """The thread exists in the parent alone, and must leave no held lock in the child."""
        shared.put([make_record("before")])
        lines = 0

        def count(number: int) -> None:
            nonlocal lines
            lines = number

        at_each_line(shared, lambda: shared.put([make_record("counted")]), count)
        inside, forked = threading.Event(), threading.Event()

        def stay(number: int) -> None:
            if number == round(lines * part):
                inside.set()
                # The backend may make the fork wait for this.
                forked.wait(0.3)

        thread = threading.Thread(
            target=lambda: at_each_line(shared, lambda: shared.put([make_record("thread")]), stay)
        )

        def use(backend: Backend, say: Say) -> str:
            # This ends a child that hangs.
            signal.alarm(10)
            with warnings.catch_warnings():
                # A driver may warn of this.
                warnings.simplefilter("ignore")
                try:
                    shared.put([make_record("child")])
                except pitstop.BackendUnavailable:
                    return "unavailable"
                return "stored"

        thread.start()
        assert inside.wait(30)
        child = processes.start(use)
        forked.set()
        thread.join()

        told = child.result()
        stored = ids(shared.scan(None, 10, None))
        assert {"before", "thread"} <= set(stored)
        assert told == "unavailable" or "child" in stored

    def test_listeners_in_several_processes_handle_each_message_once(
        self, shared: Backend, processes: Processes
    ) -> None:
        with pitstop.init({"type": shared}) as pit:
            given = pit.store_many([({"n": n}, at(START)) for n in range(_RECORDS // 2)])

            handled = flat(processes.together(*(partial(_handle, prefetch) for prefetch in (1, 1, 8, 20)[:_PROCESSES])))

            assert sorted(id for id, _ in handled) == sorted(given)
            assert {attempt for _, attempt in handled} == {1}
            assert pit.entries() == []

    def test_a_series_has_one_next_occurrence_however_many_processes_work_on_it(
        self, shared: Backend, processes: Processes
    ) -> None:
        with pitstop.init({"type": shared}) as pit:
            end = at(START + 1000 * _ROUNDS)
            pit.store({"id": "a"}, at(START), end, timedelta(seconds=1), catch_up="all")

            handled = flat(processes.together(*[partial(_handle, 1, key=True)] * _PROCESSES))

            assert sorted(handled) == [[f"a:{START + 1000 * k}", 1] for k in range(_ROUNDS)]
            assert pit.get("a") is None

    def _steal_the_rest(self, open_backend: Handles) -> list[tuple[str, str]]:
        """Claim the records whose leases end last. The processes may measure the clock of a server with small differences."""
        now = open_backend.peer(clock=None).now() // 1000
        later = open_backend.peer(clock=ManualClock(from_instant(now + MINUTE)))
        return [(each.id, _token([each])) for each in lease_all(later, duration=10 * MINUTE)]


def _settle_at_the_end(settle: Callable[[Record], Any], backend: Backend, say: Say) -> dict[str, bool]:
    """Hold one lease after the other, settle each around its end, and return the settlements that applied.

    The records are put as leased ones, so that no other process can claim them before this lease.
    """
    applied, random, pause = {}, Random(1), threading.Event()
    for n in range(_ROUNDS):
        name, now = f"{n:03}", backend.now() // 1000
        progress = Progress(now + _SHORT, START, 1, now, None, f"of-{n:03}")
        held = attrs.evolve(make_record(name), progress=progress)
        backend.put([held])
        off_us = random.randint(-2000, 2000)
        while (left_us := (now + _SHORT) * 1000 + off_us - backend.now()) > 0:
            pause.wait(left_us / 1e6)
        applied[name] = bool(backend.settle([settle(held)])[0])
    backend.put([_end()])
    return applied


def _steal(backend: Backend, say: Say) -> list[tuple[str, str]]:
    """Claim each record whose lease ends, until the holder is done. Return the ids and the tokens."""
    stolen = []
    while True:
        last_look = backend.get("end") is not None
        claim = backend.lease(1, 10 * MINUTE)
        stolen += [(each.id, _token([each])) for each in claim]
        if last_look and not claim:
            return stolen


def _assert_one_winner(won: dict[str, bool], stolen: list[list[tuple[str, str]]]) -> dict[str, str]:
    """Check that each record has one winner. Return the tokens of the stolen records by id."""
    times = Counter(name for each in stolen for name, _ in each)
    assert len(won) == _ROUNDS
    assert {name: times[name] for name in won} == {name: 0 if applied else 1 for name, applied in won.items()}
    return dict(map(tuple, flat(stolen)))


def _handle(prefetch: int, backend: Backend, say: Say, *, key: bool = False) -> list[tuple[str, int]]:
    """Acknowledge all due messages. Return their ids and attempts."""
    done = []
    with pitstop.init({"type": backend}) as pit, pit.listen(prefetch=prefetch) as listener:
        for delivery in iter(listener.get, None):
            delivery.ack()
            done.append((delivery.key if key else delivery.id, delivery.attempt))
    return done


def _version(name: str, version: int) -> Record:
    return make_record(name, message={"version": version, "pad": f"{version}," * 100}, revision=f"{name}-{version}")


def _end() -> Record:
    """Return the record that ends the other processes. It is not due before all of them have ended."""
    return make_record("end", due=253_402_300_799_999)


def _token(claim: Any) -> str:
    (token,) = {_progress(each).token for each in claim}
    assert isinstance(token, str)
    return token


def _progress(stored: Any) -> Progress:
    assert isinstance(stored, Record)
    return stored.progress
