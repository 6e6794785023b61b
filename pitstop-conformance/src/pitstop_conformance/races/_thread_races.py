"""Races of threads that are released at one moment, on one handle and on peers."""

from __future__ import annotations

import sys

from collections.abc import Callable, Collection, Iterator
from datetime import timedelta
from functools import partial

import attrs
import pytest

import pitstop

from pitstop.abc import AllBut, Backend, Capability, Outcome, Progress, Record, is_chosen
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles, Kit, needs
from pitstop_conformance._records import (
    EVERY_OUTCOME,
    MINUTE,
    START,
    at,
    complete,
    ids,
    lease_all,
    lease_only,
    make_record,
    put_due,
    records,
    settlement,
)
from pitstop_conformance.races._choices import CHOICES, Choice
from pitstop_conformance.races._threads import together


_THREADS = 4
_ROUNDS = 25


class Races(Kit):
    """Each race has one outcome, whichever thread is first."""

    rule = 'docs/writing-a-backend.md, "The contract"'

    @pytest.fixture(autouse=True)
    def _switch_often(self) -> Iterator[None]:
        """Let Python switch threads each microsecond instead of each five milliseconds, so that races show."""
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        yield
        sys.setswitchinterval(interval)

    @pytest.fixture(params=["one_handle", "peers"])
    def handles(self, request: pytest.FixtureRequest, open_backend: Handles) -> list[Backend]:
        """A function that returns a handle for each thread: one handle for all threads, or one for each."""
        first = open_backend()
        if request.param == "one_handle":
            return [first] * _THREADS
        return [first, *(open_backend.peer() for _ in range(_THREADS - 1))]

    @pytest.fixture(params=CHOICES)
    def choice(self, request: pytest.FixtureRequest, handles: list[Backend]) -> Choice:
        """The kinds that the claimers choose."""
        choice = CHOICES[request.param]
        choice.check(handles[0])
        return choice

    def test_many_claimers_lease_each_record_once(self, handles: list[Backend], choice: Choice) -> None:
        handles[0].put([make_record(f"{n:03}", START - n % 5, kind=choice.kind(n)) for n in range(200)])

        claims = together(*_claims(handles, choice, 5))

        leased = [record for each in claims for claim in each for record in claim]
        assert sorted(ids(leased)) == [f"{n:03}" for n in range(200)]
        assert {each.progress.attempts for each in leased} == {1}
        tokens = [claim[0].progress.token for each in claims for claim in each]
        assert len(set(tokens)) == len(tokens)
        assert {each.id: each for each in leased} == {
            each.id: each for each in handles[0].scan("leased", 1000, None)
        }, "each claimer holds the stored record"

    def test_many_claimers_get_something_while_enough_is_due(self, handles: list[Backend], choice: Choice) -> None:
        """A claim may return fewer records than its limit, but not none: after an empty claim a listener sleeps."""
        claims = 10
        count = choice.room(_THREADS * claims * 3 + 1)
        handles[0].put([make_record(f"{n:03}", kind=choice.kind(n)) for n in range(count)])

        def sizes_of(claimer: int) -> list[int]:
            return [len(choice.lease(claimer, handles[claimer], 3, MINUTE)) for _ in range(claims)]

        sizes = together(*(partial(sizes_of, claimer) for claimer in range(_THREADS)))

        assert [0 in each for each in sizes] == [False] * _THREADS

    def test_many_claimers_who_settle_at_once_leave_nothing(self, handles: list[Backend], choice: Choice) -> None:
        handles[0].put([make_record(f"{n:03}", kind=choice.kind(n)) for n in range(200)])

        def drain(claimer: int) -> list[str]:
            done: list[str] = []
            while claim := choice.lease(claimer, handles[claimer], 7, MINUTE):
                applied = handles[claimer].settle([complete(each) for each in claim])
                assert all(applied), "a settlement of a leased record applies"
                done.extend(ids(claim))
                # Here and below: a record that is leased again would make the loop of the thread endless.
                assert len(done) <= 200, "no record is leased again after its settlement"
            return done

        done = together(*(partial(drain, claimer) for claimer in range(_THREADS)))

        assert sorted(id for each in done for id in each) == [f"{n:03}" for n in range(200)]
        assert list(handles[0].scan(None, 10, None)) == []

    def test_claimers_of_leases_that_ran_out_get_each_once(
        self, handles: list[Backend], clock: ManualClock, choice: Choice
    ) -> None:
        handles[0].put([make_record(f"{n:02}", kind=choice.kind(n)) for n in range(60)])
        assert len(lease_all(handles[0])) == 60
        clock.advance(60)

        claims = together(*_claims(handles, choice, 4))

        leased = [record for each in claims for claim in each for record in claim]
        assert sorted(ids(leased)) == [f"{n:02}" for n in range(60)]
        assert {each.progress.attempts for each in leased} == {2}

    def test_a_claim_never_holds_an_older_version_than_its_lease(self, handles: list[Backend]) -> None:
        """Some threads claim while others store new versions. The token of a claim is always on the version that it returned."""
        versions, names = 40, [f"{n}" for n in range(6)]

        def store(backend: Backend) -> None:
            for version in range(1, versions + 1):
                backend.put([_version(name, version) for name in names])

        storing = [True]

        def last_store() -> None:
            try:
                store(handles[0])
            finally:
                storing[0] = False

        def claim(backend: Backend) -> list[tuple[str, int]]:
            done = []
            while True:
                last_look = not storing[0]
                claimed = backend.lease(3, MINUTE)
                for each in claimed:
                    assert isinstance(each, Record)
                    assert each.revision == f"{each.id}-{each.message['version']}", (
                        "message and revision are of one put"
                    )
                    now = backend.get(each.id)
                    if isinstance(now, Record) and now.progress.token == each.progress.token:
                        assert now == each, "the lease is on the version that the claim returned"
                    if backend.settle([complete(each)])[0]:
                        done.append((each.id, each.message["version"]))
                assert len(done) <= versions * len(names), "no record is leased again after its settlement"
                if last_look and not claimed:
                    return done

        results = together(last_store, *(partial(claim, each) for each in handles[1:]))

        acked = [each for done in results[1:] for each in done]
        assert len(set(acked)) == len(acked), "each version is acknowledged at most once"
        assert {name for name, version in acked if version == versions} == set(names), (
            "the last version is emitted at some point"
        )
        assert list(handles[0].scan(None, 10, None)) == []

    def test_a_claim_of_some_kinds_never_holds_a_version_of_another_kind(self, handles: list[Backend]) -> None:
        """One thread stores new versions, each of another kind than the one before, and others claim by kind."""
        needs(handles[0], Capability.KINDS)
        names, kinds = [f"{n}" for n in range(6)], ("mail", "bulk", "")
        storing, claims = [True], list[int]()

        def store() -> int:
            """Return the number of versions: 40, and more until the others have claimed some times in between."""
            version = 0
            try:
                while version < 40 or (len(claims) < 4 * _ROUNDS and version < 200 * _ROUNDS):
                    version += 1
                    handles[0].put([_version(name, version, kind=kinds[version % 3]) for name in names])
            finally:
                storing[0] = False
            return version

        def claim(backend: Backend, chosen: Collection[str]) -> list[tuple[str, int]]:
            done = []
            while True:
                last_look = not storing[0]
                claimed = records(backend.lease(3, MINUTE, chosen))
                claims.append(len(claimed))
                for each in claimed:
                    assert each.kind == kinds[each.message["version"] % 3], "message and kind are of one put"
                    assert is_chosen(each.kind, chosen), "the claim returns records of its kinds alone"
                    now = backend.get(each.id)
                    if isinstance(now, Record) and now.progress.token == each.progress.token:
                        assert now == each, "the lease is on the version that the claim returned"
                    if backend.settle([complete(each)])[0]:
                        done.append((each.id, each.message["version"]))
                assert len(set(done)) == len(done), "each version is acknowledged at most once"
                if last_look and not claimed:
                    return done

        choices: list[Collection[str]] = [["mail"], AllBut(["mail"]), ["", "bulk"]]
        versions, *results = together(store, *map(partial, [claim] * 3, handles[1:], choices))

        acked = [each for done in results for each in done]
        assert len(set(acked)) == len(acked), "each version is acknowledged at most once"
        assert {name for name, version in acked if version == versions} == set(names), (
            "the last version is emitted at some point"
        )
        assert list(handles[0].scan(None, 10, None)) == []

    def test_an_ack_never_deletes_a_version_that_was_stored_since(self, handles: list[Backend]) -> None:
        for round_ in range(_ROUNDS):
            name = f"r{round_}"
            handles[0].put([_version(name, 1)])
            leased = lease_only(handles[0])

            together(
                partial(handles[1].settle, [complete(leased)]),
                partial(handles[2].put, [_version(name, 2)]),
            )

            stored = handles[0].get(name)
            assert isinstance(stored, Record), "the newer version is stored, whichever call was first"
            assert (stored.revision, stored.progress) == (f"{name}-2", Progress(START, START))
            handles[0].delete(name)

    @pytest.mark.parametrize(
        "outcome", [each for each in Outcome if each is not Outcome.COMPLETE], ids=lambda e: e.name
    )
    def test_no_settlement_changes_a_version_that_was_stored_since(
        self, handles: list[Backend], outcome: Outcome
    ) -> None:
        for round_ in range(_ROUNDS):
            name = f"r{round_}"
            handles[0].put([_version(name, 1)])
            leased = lease_only(handles[0])

            together(
                partial(handles[1].settle, [settlement(leased, outcome, EVERY_OUTCOME[outcome](leased))]),
                partial(handles[2].put, [_version(name, 2)]),
            )

            assert handles[0].get(name) == _version(name, 2), "the newer version is unchanged"
            handles[0].delete(name)

    def test_a_claim_never_brings_back_what_is_removed(self, handles: list[Backend]) -> None:
        for _ in range(_ROUNDS):
            put_due(handles[0], "a")

            (claim, deleted) = together(partial(handles[1].lease, 1, MINUTE), partial(handles[2].delete, "a"))

            assert deleted is True
            assert handles[0].get("a") is None
            assert not any(handles[0].settle([complete(each) for each in claim]))

    def test_a_nack_never_brings_back_what_is_removed(self, handles: list[Backend]) -> None:
        for _ in range(_ROUNDS):
            put_due(handles[0], "a")
            leased = lease_only(handles[0])
            released = Progress(START + 1, START, 1, START, "x")

            (_, deleted) = together(
                partial(handles[1].settle, [settlement(leased, Outcome.RELEASE, released)]),
                partial(handles[2].delete, "a"),
            )

            assert deleted is True
            assert handles[0].get("a") is None

    def test_a_lease_is_settled_by_one_of_many(self, handles: list[Backend]) -> None:
        for outcome, progress in (
            (Outcome.COMPLETE, None),
            (Outcome.RESCHEDULE, Progress(START + MINUTE, START + MINUTE)),
        ) * (_ROUNDS // 2):
            put_due(handles[0], "a")
            once = settlement(lease_only(handles[0]), outcome, progress)

            applied = together(*(partial(each.settle, [once]) for each in handles))

            assert sorted(each for (each,) in applied) == [False] * (_THREADS - 1) + [True]
            handles[0].delete("a")

    def test_a_record_is_deleted_by_one_of_many(self, handles: list[Backend]) -> None:
        for _ in range(_ROUNDS):
            put_due(handles[0], "a")

            deleted = together(*(partial(each.delete, "a") for each in handles))

            assert sorted(deleted) == [False] * (_THREADS - 1) + [True]

    def test_an_ack_against_an_expiry_has_one_winner(self, handles: list[Backend], clock: ManualClock) -> None:
        """Either the ack applies and the record is gone, or the ack is too late and another claim has the record."""
        for _ in range(_ROUNDS):
            put_due(handles[0], "a")
            leased = lease_only(handles[0], duration=1000)
            clock.advance(0.999)

            ((applied,), _, again) = together(
                partial(handles[1].settle, [complete(leased)]),
                partial(clock.advance, 0.001),
                partial(handles[2].lease, 1, MINUTE),
            )

            again = [*again, *handles[0].lease(1, MINUTE)]
            assert len(again) == (0 if applied else 1)
            assert (handles[0].get("a") is None) == applied
            handles[0].delete("a")

    def test_an_extension_against_a_new_claim_has_one_winner(self, handles: list[Backend], clock: ManualClock) -> None:
        for _ in range(_ROUNDS):
            put_due(handles[0], "a")
            leased = lease_only(handles[0], duration=1000)
            clock.advance(0.999)
            longer = attrs.evolve(leased.progress, due=clock.time_us() // 1000 + 10_000)

            ((applied,), _, again) = together(
                partial(handles[1].settle, [settlement(leased, Outcome.EXTEND, longer)]),
                partial(clock.advance, 0.001),
                partial(handles[2].lease, 1, MINUTE),
            )

            again = [*again, *handles[0].lease(1, MINUTE)]
            assert len(again) == (0 if applied else 1)
            stored = handles[0].get("a")
            assert isinstance(stored, Record)
            assert stored.progress == (longer if applied else again[0].progress)
            handles[0].delete("a")

    def test_concurrent_stores_of_one_id_leave_one_whole_record(self, handles: list[Backend]) -> None:
        for round_ in range(_ROUNDS):
            name = f"r{round_}"
            records = [_version(name, version, due=START + version) for version in range(_THREADS)]

            together(*(partial(each.put, [record]) for each, record in zip(handles, records, strict=True)))

            stored = handles[0].scan(None, 10, None)
            assert ids(stored) == [name]
            assert stored[0] in records
            handles[0].delete(name)

    @pytest.mark.usefixtures("conditional")
    def test_a_record_that_is_not_there_is_stored_by_one_of_many(self, handles: list[Backend]) -> None:
        for round_ in range(_ROUNDS):
            name = f"r{round_}"
            records = [_version(name, version) for version in range(_THREADS)]

            stored = together(
                *(partial(each.put_if, record, None) for each, record in zip(handles, records, strict=True))
            )

            assert sorted(stored) == [False] * (_THREADS - 1) + [True]
            assert handles[0].get(name) == records[stored.index(True)]

    @pytest.mark.usefixtures("conditional")
    def test_a_record_is_replaced_by_one_of_many_who_expect_the_same(self, handles: list[Backend]) -> None:
        for round_ in range(_ROUNDS):
            name = f"r{round_}"
            handles[0].put([_version(name, 0)])
            records = [_version(name, version) for version in range(1, _THREADS + 1)]

            stored = together(
                *(partial(each.put_if, record, f"{name}-0") for each, record in zip(handles, records, strict=True))
            )

            assert sorted(stored) == [False] * (_THREADS - 1) + [True]
            assert handles[0].get(name) == records[stored.index(True)]

    @pytest.mark.usefixtures("conditional")
    def test_a_claim_against_a_put_of_the_expected_progress_has_one_winner(self, handles: list[Backend]) -> None:
        """Either the record is replaced, and the claim returns the new version; or the record is claimed, and stays."""
        for round_ in range(_ROUNDS):
            name = f"r{round_}"
            before, after = _version(name, 1), _version(name, 2)
            handles[0].put([before])

            put = partial(handles[1].put_if, after, before.revision, before.progress)
            claim = partial(handles[2].lease, 1, MINUTE)

            if round_ % 2:
                stored, claimed = together(put, claim)
            else:
                claimed, stored = together(claim, put)

            (leased,) = records([*claimed, *handles[0].lease(1, MINUTE)])
            assert leased.revision == (after if stored else before).revision
            assert handles[0].get(name) == leased, "the claim is not overwritten"
            handles[0].delete(name)

    def test_an_update_is_never_seen_half_done(self, handles: list[Backend]) -> None:
        """A concurrent read returns the old record or the new one, never none and never a mixture."""
        handles[0].put([_version("a", 0)])
        storing, looks, enough = [True], [0] * (_THREADS - 1), 100

        def store() -> int:
            version = 0
            try:
                # Until all threads have read often enough. A quick store might finish the updates before they begin.
                while version < 100 or (min(looks) < enough and version < 2000):
                    version += 1
                    handles[0].put([_version("a", version)])
            finally:
                storing[0] = False
            return version

        def look(index: int) -> list[int]:
            backend = handles[index + 1]
            seen: list[int] = []
            try:
                while storing[0]:
                    looks[index] += 1
                    stored = backend.get("a")
                    assert isinstance(stored, Record)
                    assert stored == _version("a", stored.message["version"])
                    scan = records(backend.scan(None, 10, None))
                    assert ids(scan) == ["a"]
                    scanned = scan[0]
                    assert scanned == _version("a", scanned.message["version"])
                    seen += [stored.message["version"], scanned.message["version"]]
            finally:
                looks[index] = enough
            return seen

        last, *seen = together(store, *(partial(look, index) for index in range(_THREADS - 1)))

        assert all(each == sorted(each) for each in seen), "no later read returns an older version"
        assert handles[0].get("a") == _version("a", last)

    def test_concurrent_batches_over_the_same_ids_leave_one_record_each(self, handles: list[Backend]) -> None:
        names = [f"{n:02}" for n in range(30)]

        def store(backend: Backend, version: int) -> None:
            order = names if version % 2 else names[::-1]
            backend.put([_version(name, version) for name in order])

        together(*(partial(store, each, n) for n, each in enumerate(handles)))

        stored = records(handles[0].scan(None, 100, None))
        assert ids(stored) == names
        assert all(each == _version(each.id, each.message["version"]) for each in stored)

    def test_a_redrive_happens_once(self, handles: list[Backend]) -> None:
        for _ in range(_ROUNDS):
            dead = make_record(due=None, token="t", attempts=1, first_leased=START)
            handles[0].put([dead])
            redriven = settlement(dead, Outcome.RELEASE, Progress(START, START, 0, START))

            applied = together(*(partial(each.settle, [redriven]) for each in handles))

            assert sorted(each for (each,) in applied) == [False] * (_THREADS - 1) + [True]
            assert len(lease_all(handles[0])) == 1
            handles[0].delete("a")

    def test_many_listeners_handle_each_message_once(self, make_pit: Callable[..., pitstop.Pitstop]) -> None:
        pits = [make_pit(), make_pit()]
        given = pits[0].store_many([({"n": n}, at(START)) for n in range(150)])
        listeners = [pit.listen(prefetch=prefetch) for pit in pits for prefetch in (1, 8)]

        def handle(listener: pitstop.Listener) -> list[str]:
            done = []
            for delivery in iter(listener.get, None):
                delivery.ack()
                done.append(delivery.id)
                assert len(done) <= len(given), "no message is emitted again after its settlement"
            return done

        done = together(*(partial(handle, each) for each in listeners))

        assert sorted(id for each in done for id in each) == sorted(given)
        assert pits[0].entries() == []

    def test_threads_share_one_listener(self, pit: pitstop.Pitstop) -> None:
        given = pit.store_many([({"n": n}, at(START)) for n in range(150)])
        listener = pit.listen(prefetch=5)

        def handle() -> list[str]:
            done = []
            for delivery in iter(listener.get, None):
                delivery.ack()
                done.append(delivery.id)
                assert len(done) <= len(given), "no message is emitted again after its settlement"
            return done

        done = together(*[handle] * _THREADS)

        assert sorted(id for each in done for id in each) == sorted(given)
        assert pit.entries() == []

    def test_a_series_has_one_next_occurrence_however_many_work_on_it(
        self, make_pit: Callable[..., pitstop.Pitstop], clock: ManualClock
    ) -> None:
        pits = [make_pit(), make_pit()]
        pits[0].store({"id": "a"}, at(START), at(START + 30 * 1000), timedelta(seconds=1))
        listeners = [pit.listen() for pit in pits for _ in range(2)]
        seen = []

        def handle(listener: pitstop.Listener) -> list[str]:
            keys = []
            for delivery in iter(listener.get, None):
                delivery.ack()
                keys.append(delivery.key)
                assert len(keys) <= 30, "no message is emitted again after its settlement"
            return keys

        for _ in range(30):
            seen += [key for keys in together(*(partial(handle, each) for each in listeners)) for key in keys]
            clock.advance(1)

        assert seen == [f"a:{START + 1000 * k}" for k in range(30)]
        assert pits[0].get("a") is None


def _claims(handles: list[Backend], choice: Choice, limit: int) -> list[Callable[[], list[list[Record]]]]:
    """Return a function for each handle that claims until nothing of its kinds is due, and returns the claims."""

    def claim_all(claimer: int) -> list[list[Record]]:
        claims: list[list[Record]] = []
        while claim := choice.lease(claimer, handles[claimer], limit, MINUTE):
            assert len({each.progress.token for each in claim if isinstance(each, Record)}) == 1
            claims.append([each for each in claim if isinstance(each, Record)])
            # A message that is leased again would make this loop endless.
            assert len(claims) <= 1000, "no message is leased again while its lease runs"
        return claims

    return [partial(claim_all, claimer) for claimer in range(len(handles))]


def _version(name: str, version: int, due: int = START, *, kind: str = "") -> Record:
    message = {"version": version, "pad": "x" * 200}
    return make_record(name, due, message=message, revision=f"{name}-{version}", kind=kind)
