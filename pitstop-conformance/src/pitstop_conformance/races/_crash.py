"""The state of a store that is opened again after a process was killed at work."""

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
from pitstop_conformance.races._history import History, of_batch
from pitstop_conformance.races._processes import LARGE, Child, Forking, Processes, Say, Work


#: Number of kills in each test.
_KILLS = 30 if LARGE else 6
#: Number of kills in a row, in the test of all operations.
_KILLS_IN_A_ROW = 100 if LARGE else 6
#: Seconds within which a server completes the last request of a dead process.
_QUIET = 5.0
#: A limit above the number of stored records.
_ALL = 1_000_000


class Scene:
    """A store on which processes work and die, and the handles with which the test reads it.

    If several processes may use the store, the test has a handle open all the time. Otherwise it has none while a process lives.
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
        """Start a process with this work, and kill it: in the middle of a step, or sometimes just after its report of a step."""
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
        """Open a handle. With ``after`` its clock stands still, this number of milliseconds after now."""
        opened = self._open_backend.peer(clock=None)
        self._opened.append(opened)
        if after:
            clock = ManualClock(from_instant(opened.now() // 1000 + after))
            opened = self._open_backend.peer(clock=clock)
            self._opened.append(opened)
        return opened

    def handles(self) -> list[Backend]:
        """Return a new handle, and the handle that stayed open if there is one."""
        return [self.open(), *([self._first] if self._shared else [])]

    def look(self) -> list[Record]:
        """Return all records, read through a new handle. None is damaged, the counts add up, and an older handle sees the same."""
        new = self.open()
        deadline = time.monotonic() + _QUIET
        while True:
            stored, count = new.scan(None, _ALL, None), _count(new)
            seen = [_by_id(each.scan(None, _ALL, None)) for each in ((self._first,) if self._shared else ())]
            # Between two reads, a server may still complete a request of the dead process.
            if (count == len(stored) and seen in ([], [_by_id(stored)])) or time.monotonic() > deadline:
                break
        found = records(stored)
        assert len(set(ids(found))) == len(found)
        assert count == len(found), "tally() adds up to the number of records that scan() returns"
        assert seen in ([], [_by_id(found)]), "the handle that stayed open sees the same records as a new one"
        return found


class Crash(Forking):
    """A process is killed with SIGKILL, and the store is opened again."""

    rule = 'docs/writing-a-backend.md, "Crash checklist"'

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
        assert leased == held, "the leases of the killed process have the ends that it set"
        assert {each.progress.attempts for each in stored if each.id in held} == {1}
        backend = scene.open()
        others = lease_all(backend)
        assert sorted(ids(others)) == sorted({each.id for each in stored} - held.keys()), (
            "no claim returns a record whose lease still runs"
        )
        assert list(backend.settle([complete(each) for each in others])) == [True] * 10
        # The token alone makes the lease: any process with it can settle until the end of the lease, and not after.
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
            assert {emitted[id].attempt for id in seen} == {2}, "the attempt of the killed process counts"
            for each in emitted.values():
                each.ack()
            assert pit.entries() == []

    def test_what_was_put_before_a_kill_is_there_whole(self, scene: Scene) -> None:
        """A process is killed while it puts batches. All reported batches are there, and of one more some records, each whole."""
        random, told, attempted = Random(2), set[int](), set[int]()

        def put(first: int, backend: Backend, say: Say) -> None:
            for n in range(first, first + 100_000):
                backend.put(_batch(n))
                say(n)

        for _ in range(_KILLS):
            first = max(attempted, default=-1) + 1
            child = scene.kill(partial(put, first), random)
            told |= set(child.said)
            # The process reports a batch after the put, so one more batch may be there in part.
            attempted |= {*child.said, first + len(child.said)}

            stored = scene.look()

            assert stored == [of_batch(each.id, each.message["batch"]) for each in stored], (
                "each record is whole: all its fields are of one put"
            )
            assert {each.progress.token for each in stored} == {None}
            names = set(ids(stored))
            assert names >= {each.id for n in told for each in _batch(n)}, (
                "all records that put() had returned for are there"
            )
            assert names <= {each.id for n in attempted for each in _batch(n)}
            versions = {each.id: each.message["batch"] for each in stored}
            assert all(max(told) <= versions[each.id] for each in _updated(0)), (
                "all updates that put() had returned for are there"
            )
        leased = Counter(ids(lease_all(scene.open())))
        assert leased.keys() >= names, "each record can be leased"
        assert set(leased.values()) == {1}

    def test_what_was_settled_before_a_kill_is_gone_for_ever(self, scene: Scene) -> None:
        """A process is killed while it claims and settles. Reported settlements are applied, and no other record is lost."""
        random, count = Random(3), 300
        batches = [[make_record(f"{kill:03}-{n:04}") for n in range(count)] for kill in range(_KILLS)]
        done, in_doubt = set[str](), set[str]()

        def settle(backend: Backend, say: Say) -> None:
            while claim := backend.lease(5, 60 * MINUTE):
                say(ids(claim))
                applied = backend.settle([complete(each) for each in claim])
                assert list(applied) == [True] * len(claim), "a settlement of a leased record applies"
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

            assert not left & done, "all records with a reported settlement are gone"
            assert left >= names - done - in_doubt, "no other record is gone"
        backend = scene.open(after=61 * MINUTE)
        again = lease_all(backend)
        assert len(set(ids(again))) == len(again), "each remaining record is leased once more"
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

            # The record after the last reported one may be removed or not.
            told = len(child.said)
            assert left in (names[told:], names[told + 1 :])

    def test_kills_in_a_row_lose_nothing_and_bring_nothing_back(self, scene: Scene) -> None:
        """One process after another stores, claims, settles, and is killed. Leases end in between. Then the store is drained, and
        the reports of the processes are compared with the drained records.
        """
        random, history = Random(4), History()
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
        """On a new handle and on one that stayed open: all locks of the dead process are free."""
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


#: Milliseconds of the leases in the test with kills in a row: the next processes find some of them ended.
_BRIEF = 100


def _live(life: int, backend: Backend, say: Say) -> None:
    """Repeat: store four records, claim up to three, complete the first, release the second, forget the third."""
    for n in range(100_000):
        new = [of_batch(f"{life}-{n}-{m}", n) for m in range(4)]
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


def _batch(n: int) -> list[Record]:
    """Return a batch of new and of updated records: one or many, so that some writes are short and some are long."""
    return [*(of_batch(f"new-{n}-{m}", n) for m in range((1, 10, 60)[n % 3])), *_updated(n)]


def _updated(n: int) -> list[Record]:
    return [of_batch(f"updated-{m}", n) for m in range(4)]


def _released(leased: Record) -> Progress:
    return attrs.evolve(leased.progress, due=START, last_error="failed")


def _by_id(stored: Sequence[Any]) -> list[Any]:
    """Return the records in the order of their ids, which does not change when a lease ends."""
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
