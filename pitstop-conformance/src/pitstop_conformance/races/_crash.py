"""What must be there when a process is killed while it works, and the store is opened again."""

from __future__ import annotations

import threading
import time

from collections import Counter
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any

import attrs
import pytest

import pitstop

from pitstop.abc import Backend, Capability, Outcome, Progress, Record, from_instant
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles, needs
from pitstop_conformance._records import (
    MINUTE,
    START,
    at,
    complete,
    ids,
    lease_all,
    make_record,
    records,
    settlement,
)
from pitstop_conformance.races._processes import LARGE, Child, Forking, Processes, Say, Work


#: How often the process is killed in each test.
_KILLS = 30 if LARGE else 6
#: How often in a row, in the test of everything.
_KILLS_IN_A_ROW = 100 if LARGE else 6
#: Seconds in which a server will have done what a dead process asked for last.
_QUIET = 5.0
#: More than a scan finds.
_ALL = 1_000_000


class Scene:
    """A store on which processes work and die, and the test's own looks at it.

    Where several processes may use the store, the test holds a handle all the time; else none while a process lives.
    """

    def __init__(self, open_backend: Handles, processes: Processes) -> None:
        self._open_backend = open_backend
        self._processes = processes
        first = open_backend(clock=None)
        needs(first, Capability.DURABLE)
        self._shared = Capability.MULTI_PROCESS in first.capabilities
        self._first = first
        self._kills = 0
        self._opened = [first]

    def start(self, work: Work, *, still_after: int | None = None) -> Child:
        while self._opened and not self._shared:
            self._opened.pop().close()
        return self._processes.start(work, still_after=still_after)

    def kill(self, work: Work, random: Random) -> Child:
        """Have a process do this and kill it: in the middle of something, or now and then when it has just told of it."""
        self._kills += 1
        if self._kills % 3 != 1:
            child = self.start(work)
            child.kill_in_the_middle(random)
        else:
            count = random.randint(2, 12)
            child = self.start(work, still_after=count)
            child.hear(count)
            child.kill()
        return child

    def open(self, *, after: int = 0) -> Backend:
        """A new handle; with a clock that is so many milliseconds ahead, and stands still, if that is said."""
        opened = self._open_backend.peer(clock=None)
        self._opened.append(opened)
        if after:
            clock = ManualClock(from_instant(opened.now() // 1000 + after))
            opened = self._open_backend.peer(clock=clock)
            self._opened.append(opened)
        return opened

    def handles(self) -> list[Backend]:
        """A new handle, and the one that was open meanwhile if there is one."""
        return [self.open(), *([self._first] if self._shared else [])]

    def look(self) -> list[Record]:
        """All that is stored, by a new handle. None is damaged, the counts add up, and an older handle sees the same."""
        new = self.open()
        deadline = time.monotonic() + _QUIET
        while True:
            stored, count = new.scan(None, _ALL, None), _count(new)
            seen = [_by_id(each.scan(None, _ALL, None)) for each in ((self._first,) if self._shared else ())]
            # A server may still do what the dead process had asked for, in between.
            if (count == len(stored) and seen in ([], [_by_id(stored)])) or time.monotonic() > deadline:
                break
        found = records(stored)
        assert len(set(ids(found))) == len(found)
        assert count == len(found), "the counts add up"
        assert seen in ([], [_by_id(found)]), "a handle that was open meanwhile sees the same"
        return found


class Crash(Forking):
    """A process is killed with SIGKILL, and the store is opened again."""

    @pytest.fixture
    def scene(self, open_backend: Handles, processes: Processes) -> Scene:
        return Scene(open_backend, processes)

    def test_leases_of_a_killed_process_run_to_their_end_and_then_come_back(self, scene: Scene) -> None:
        def hold(backend: Backend, say: Say) -> None:
            backend.put([make_record(f"{n:02}", START + n) for n in range(20)])
            while len(held := ids(backend.scan("leased", 100, None))) < 10:
                backend.lease(10 - len(held), 10 * MINUTE)
            say({each.id: [_token(each), each.progress.due] for each in records(backend.scan("leased", 100, None))})
            _hang()

        child = scene.start(hold)
        child.hear(1)
        child.kill()

        (held,) = child.said
        stored = scene.look()
        assert ids(_by_id(stored)) == [f"{n:02}" for n in range(20)]
        leased = {each.id: [_token(each), each.progress.due] for each in stored if each.progress.token is not None}
        assert leased == held, "its leases are where it took them"
        assert {each.progress.attempts for each in stored if each.id in held} == {1}
        backend = scene.open()
        others = lease_all(backend)
        assert sorted(ids(others)) == sorted({each.id for each in stored} - held.keys()), "nobody gets what is leased"
        assert list(backend.settle([complete(each) for each in others])) == [True] * 10
        # A lease is its token, whoever holds it: until its end it settles, and no longer.
        by_id = {each.id: each for each in stored}
        before, after, *rest = (by_id[name] for name in sorted(held))
        assert list(backend.settle([complete(before)])) == [True]
        backend = scene.open(after=11 * MINUTE)
        assert list(backend.settle([complete(after)])) == [False]
        again = lease_all(backend)
        assert sorted(ids(again)) == sorted(ids([after, *rest]))
        assert {each.progress.attempts for each in again} == {2}
        assert not {_token(each) for each in again} & {token for token, _ in held.values()}
        assert list(backend.settle([complete(after)])) == [False]
        assert all(backend.settle([complete(each) for each in again]))
        assert scene.look() == []

    def test_messages_that_a_killed_listener_held_are_emitted_again(self, scene: Scene) -> None:
        def listen(backend: Backend, say: Say) -> None:
            with pitstop.init({"type": backend}) as pit, pit.listen(prefetch=5, lock_time="10m") as listener:
                pit.store_many([({"id": f"{n}"}, at(START)) for n in range(8)])
                for ack in (True, False, False):
                    delivery = listener.get(timeout=0)
                    assert delivery is not None
                    if ack:
                        delivery.ack()
                    say([delivery.id, ack])
                _hang()

        child = scene.start(listen)
        child.hear(3)
        child.kill()

        acked = {id for id, ack in child.said if ack}
        seen = {id for id, ack in child.said if not ack}
        with pitstop.init({"type": scene.open(after=11 * MINUTE)}) as pit, pit.listen() as listener:
            emitted = {each.id: each for each in iter(listener.get, None)}
            assert sorted(emitted) == sorted({f"{n}" for n in range(8)} - acked)
            assert {emitted[id].attempt for id in seen} == {2}, "the attempt that nobody finished counts"
            for each in emitted.values():
                each.ack()
            assert pit.entries() == []

    def test_what_was_put_before_a_kill_is_there_whole(self, scene: Scene) -> None:
        """Killed in the middle of putting batches: each that was told is there, and of another one some records, whole."""
        random, told, attempted = Random(2), set[int](), set[int]()

        def put(first: int, backend: Backend, say: Say) -> None:
            for n in range(first, first + 100_000):
                backend.put(_batch(n))
                say(n)

        for _ in range(_KILLS):
            first = max(attempted, default=-1) + 1
            child = scene.kill(partial(put, first), random)
            told |= set(child.said)
            # What is told is told after it was done: of one batch nobody knows how far it came.
            attempted |= {*child.said, first + len(child.said)}

            stored = scene.look()

            assert stored == [_of_batch(each.id, each.message["batch"]) for each in stored], "each is whole"
            assert {each.progress.token for each in stored} == {None}
            names = set(ids(stored))
            assert names >= {each.id for n in told for each in _batch(n)}, "what was told is there"
            assert names <= {each.id for n in attempted for each in _batch(n)}
            versions = {each.id: each.message["batch"] for each in stored}
            assert all(max(told) <= versions[each.id] for each in _updated(0)), "and so is what was updated"
        leased = Counter(ids(lease_all(scene.open())))
        assert leased.keys() >= names, "each can be leased"
        assert set(leased.values()) == {1}

    def test_what_was_settled_before_a_kill_is_gone_for_ever(self, scene: Scene) -> None:
        """Killed in the middle of claiming and settling: what was told as done is done, and nothing else is lost."""
        random, count = Random(3), 300
        batches = [[make_record(f"{kill:03}-{n:04}") for n in range(count)] for kill in range(_KILLS)]
        done, in_doubt = set[str](), set[str]()

        def settle(backend: Backend, say: Say) -> None:
            while claim := backend.lease(5, 60 * MINUTE):
                say(ids(claim))
                applied = backend.settle([complete(each) for each in claim])
                assert list(applied) == [True] * len(claim), "nobody else can have touched what is leased"
                say(ids(claim))
            _hang()

        names = set[str]()
        for batch in batches:
            scene.open().put(batch)
            names |= set(ids(batch))
            child = scene.kill(settle, random)
            done |= {id for told in child.said[1::2] for id in told}
            in_doubt |= set(child.said[-1]) if len(child.said) % 2 else set()

            left = set(ids(scene.look()))

            assert not left & done, "what was told as done is gone"
            assert left >= names - done - in_doubt, "and nothing else is"
        backend = scene.open(after=61 * MINUTE)
        again = lease_all(backend)
        assert len(set(ids(again))) == len(again), "each of the rest is leased once more"
        assert left - in_doubt <= set(ids(again)) <= left
        assert {each.progress.attempts for each in again} <= {1, 2}
        assert all(backend.settle([complete(each) for each in again]))
        assert scene.look() == []

    def test_what_was_removed_before_a_kill_stays_removed(self, scene: Scene) -> None:
        random, names = Random(7), [f"{n:04}" for n in range(1000)]

        def remove(backend: Backend, say: Say) -> None:
            for name in names:
                assert backend.delete(name)
                say(name)
            _hang()

        for _ in range(_KILLS // 2):
            scene.open().put([make_record(name) for name in names])
            child = scene.kill(remove, random)

            left = ids(_by_id(scene.look()))

            # Of the one after those that were told nobody knows whether it is removed.
            told = len(child.said)
            assert left in (names[told:], names[told + 1 :])

    def test_kills_in_a_row_lose_nothing_and_bring_nothing_back(self, scene: Scene) -> None:
        """One process after the other stores, claims, settles and is killed; leases run out in between; then the rest is
        drained, and what they told is compared with what came.
        """
        random, history = Random(4), _History()
        for kill in range(_KILLS_IN_A_ROW):
            child = scene.kill(partial(_live, kill), random)
            history.take(child.said, kill)
            history.check_stored(scene.look())

        backend = scene.open(after=MINUTE)
        drained = lease_all(backend)
        history.check_drained(drained)
        assert all(backend.settle([complete(each) for each in drained]))
        assert not {each.id for each in scene.look()} & history.put

    def test_work_goes_on_when_a_process_was_killed_while_it_wrote(self, scene: Scene) -> None:
        """On a new handle, and on one that was open: whatever the dead process had locked is free."""
        random = Random(5)

        def write(backend: Backend, say: Say) -> None:
            for n in range(100_000):
                backend.put([make_record(f"w{m}") for m in range(n % 20 + 1)])
                for each in records(backend.lease(10, 10 * MINUTE)):
                    backend.settle([complete(each)])
                say(n)

        for _ in range(_KILLS // 2):
            scene.kill(write, random)

            for backend in scene.handles():
                for id in ids(scene.look()):
                    backend.delete(id)
                backend.put([make_record("a"), make_record("b")])
                claimed = {each.id: each for each in lease_all(backend)}
                assert claimed.keys() >= {"a", "b"}
                longer = attrs.evolve(claimed["b"].progress, due=_due(claimed["b"]) + MINUTE)
                settled = backend.settle([complete(claimed["a"]), settlement(claimed["b"], Outcome.EXTEND, longer)])
                assert list(settled) == [True, True]
                assert backend.get("a") is None
                assert backend.get("b") == attrs.evolve(claimed["b"], progress=longer)
                assert backend.delete("b") is True

    def test_a_process_that_is_killed_while_it_opens_a_new_store_is_in_nobodys_way(
        self, open_backend: Handles, processes: Processes
    ) -> None:
        random = Random(6)

        def open_and_put(backend: Backend, say: Say) -> None:
            backend.put([make_record("a", revision="r")])
            say("put")
            _hang()

        told = False
        for _ in range(_KILLS):
            child = processes.start(open_and_put)
            child.hear_for(random.uniform(0, 0.04))
            child.kill()
            told = told or bool(child.said)

        backend = open_backend(clock=None)
        needs(backend, Capability.DURABLE)
        assert ids(backend.scan(None, 10, None)) in ([["a"]] if told else [["a"], []])
        backend.put([make_record("a"), make_record("b")])
        assert sorted(ids(lease_all(backend))) == ["a", "b"]


#: Milliseconds of the leases of those who are killed in a row: the next ones find some of them ended.
_BRIEF = 100


def _live(life: int, backend: Backend, say: Say) -> None:
    """Store four, claim up to three, complete the first, release the second, forget the third; and so on."""
    for n in range(100_000):
        new = [_of_batch(f"{life}-{n}-{m}", n) for m in range(4)]
        backend.put(new)
        say(["put", ids(new)])
        claim = records(backend.lease(3, _BRIEF))
        say(["claim", [[each.id, each.progress.attempts] for each in claim]])
        settlements = [
            settlement(each, outcome, _released(each) if outcome is Outcome.RELEASE else None)
            for each, outcome in zip(claim, (Outcome.COMPLETE, Outcome.RELEASE), strict=False)
        ]
        applied = backend.settle(settlements)
        completed = [
            each.id
            for each, is_applied in zip(settlements, applied, strict=True)
            if is_applied and each.outcome is Outcome.COMPLETE
        ]
        say(["completed", completed])


class _History:
    """What processes told that were killed one after the other, and what follows from it."""

    def __init__(self) -> None:
        #: All that may be there: what was told as put, and the one batch after it of each process.
        self._attempted = set[str]()
        #: What was told as put.
        self.put = set[str]()
        self._completed = set[str]()
        #: Claimed, and the process was killed before it told what its settlement did.
        self._in_doubt = set[str]()
        self._attempts = Counter[str]()

    def take(self, said: Sequence[Any], life: int) -> None:
        # What is told is told after it was done: of one batch nobody knows whether it was put.
        rounds = sum(what == "put" for what, _ in said)
        self._attempted |= {f"{life}-{n}-{m}" for n in range(rounds + 1) for m in range(4)}
        for what, told in said:
            if what == "put":
                self.put |= set(told)
            elif what == "completed":
                self._completed |= set(told)
            else:
                for id, attempts in told:
                    assert id not in self._completed, "what was completed never comes back"
                    assert id in self._attempted
                    assert attempts > self._attempts[id], "attempts never fall"
                    self._attempts[id] = attempts
        if said and said[-1][0] == "claim":
            self._in_doubt |= {id for id, _ in said[-1][1][:1]}

    def check_stored(self, stored: list[Record]) -> None:
        names = set(ids(stored))
        assert not names & self._completed, "what was completed is gone"
        assert names >= self.put - self._completed - self._in_doubt, "nothing is lost"
        assert names <= self._attempted
        for each in stored:
            whole = _of_batch(each.id, int(each.id.split("-")[1]))
            assert attrs.evolve(each, progress=whole.progress) == whole, "each is whole"

    def check_drained(self, drained: list[Record]) -> None:
        self.check_stored(drained)
        assert len(set(ids(drained))) == len(drained), "each is leased once more"
        assert all(each.progress.attempts > self._attempts[each.id] for each in drained), "attempts never fall"


def _batch(n: int) -> list[Record]:
    """New records and some that are updated each time; one or many, so that writes are long and short."""
    return [*(_of_batch(f"new-{n}-{m}", n) for m in range((1, 10, 60)[n % 3])), *_updated(n)]


def _updated(n: int) -> list[Record]:
    return [_of_batch(f"updated-{m}", n) for m in range(4)]


def _of_batch(id: str, n: int) -> Record:
    """The record of this id in that batch, the same whenever it is asked for."""
    return make_record(id, message={"batch": n, "pad": f"{id}/{n};" * 40}, revision=f"{id}/{n}")


def _released(leased: Record) -> Progress:
    return attrs.evolve(leased.progress, due=START, last_error="failed")


def _by_id(stored: Sequence[Any]) -> list[Any]:
    """In an order that does not change when a lease ends."""
    return sorted(stored, key=lambda each: each.id)


def _count(backend: Backend) -> int:
    tally = backend.tally()
    return tally.scheduled + tally.due + tally.leased + tally.dead


def _token(leased: Record) -> str:
    assert leased.progress.token is not None
    return leased.progress.token


def _due(record: Record) -> int:
    assert record.progress.due is not None
    return record.progress.due


def _hang() -> None:
    """Wait to be killed."""
    threading.Event().wait()
