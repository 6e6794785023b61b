"""The contract of ``settle``: a write applies only with the token of the running lease."""

from __future__ import annotations

from itertools import permutations

import attrs
import pytest

from pitstop.abc import Aside, Backend, Outcome, Progress, Record, Settlement
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles, Kit
from pitstop_conformance._records import (
    EVERY_OUTCOME,
    MINUTE,
    SERIES,
    START,
    complete,
    ids,
    lease_all,
    lease_only,
    make_record,
    put_due,
    records,
    settlement,
)


_every_outcome = pytest.mark.parametrize("outcome", EVERY_OUTCOME, ids=lambda each: each.name.lower())


class Settle(Kit):
    """Batches of fenced writes."""

    rule = "pitstop.abc.Backend.settle"

    def test_complete_deletes(self, backend: Backend) -> None:
        put_due(backend, "a", "b")
        (a, _) = lease_all(backend)

        assert list(backend.settle([complete(a)])) == [True]

        assert backend.get("a") is None
        assert ids(backend.scan(None, 10, None)) == ["b"]

    @pytest.mark.parametrize(
        "outcome", [each for each in Outcome if each is not Outcome.COMPLETE], ids=lambda e: e.name
    )
    def test_other_outcomes_write_their_progress_and_nothing_else(self, backend: Backend, outcome: Outcome) -> None:
        backend.put([make_record(message={"x": [1]}, series=SERIES)])
        leased = lease_only(backend)
        progress = EVERY_OUTCOME[outcome](leased)

        assert list(backend.settle([settlement(leased, outcome, progress)])) == [True]

        assert backend.get("a") == attrs.evolve(leased, progress=progress)

    @pytest.mark.parametrize(
        "progress",
        [
            Progress(START, START),
            Progress(0, 0, 7, None, "x", None),
            Progress(START + 1, START - 1, 2**31 + 7, START - 2, "E: \u00fc \U0001f3ce $x.y", "$another.token"),
            Progress(253_402_300_799_999, 253_402_300_799_998, 1, 0, "", None),
            Progress(None, START, 3, START, "gave up", "kept"),
            Progress(START + 5, START, 1, None, None, None),
            Progress(START + 5, START, 4, START, None, None, unsettled=3, ahead=2, excused=1),
        ],
        ids=["bare", "zero", "odd", "last", "dead", "cleared", "counted"],
    )
    def test_every_field_of_progress_is_written_over_another_value(self, backend: Backend, progress: Progress) -> None:
        """Each field gets its new value, or is cleared, whatever value it had before."""
        backend.put([make_record(attempts=2, first_leased=START - 9, last_error="before")])
        leased = lease_only(backend)

        assert list(backend.settle([settlement(leased, Outcome.RELEASE, progress)])) == [True]

        assert backend.get("a") == attrs.evolve(leased, progress=progress)

    def test_a_batch_says_for_each_whether_it_was_applied(self, backend: Backend, clock: ManualClock) -> None:
        """The answers are in the order of the settlements, and each is independent of the others."""
        put_due(backend, "expired")
        (expired,) = lease_all(backend, duration=1000)
        put_due(backend, "anew", "done", "later", "back", "dead", "longer", "stale-later", "stale-done")
        leased = {each.id: each for each in lease_all(backend)}
        clock.advance(1)
        backend.put([make_record("anew"), make_record("never-leased", START + 1)])
        before = {each: backend.get(each) for each in ("expired", "anew", "never-leased", "stale-later", "stale-done")}
        later, back = EVERY_OUTCOME[Outcome.RESCHEDULE], EVERY_OUTCOME[Outcome.RELEASE]
        dead, longer = EVERY_OUTCOME[Outcome.BURY], EVERY_OUTCOME[Outcome.EXTEND]

        applied = backend.settle(
            (
                complete(expired),
                complete(leased["done"]),
                settlement(leased["later"], Outcome.RESCHEDULE, later(leased["later"])),
                Settlement("stale-later", "another", Outcome.RESCHEDULE, later(leased["stale-later"])),
                settlement(leased["back"], Outcome.RELEASE, back(leased["back"])),
                complete(leased["anew"]),
                Settlement("stale-done", "another", Outcome.COMPLETE, None),
                settlement(leased["dead"], Outcome.BURY, dead(leased["dead"])),
                Settlement("never-leased", "another", Outcome.COMPLETE, None),
                settlement(leased["longer"], Outcome.EXTEND, longer(leased["longer"])),
                Settlement("never-stored", "another", Outcome.RELEASE, Progress(START, START)),
            )
        )

        assert list(applied) == [False, True, True, False, True, False, False, True, False, True, False]
        assert all(type(each) is bool for each in applied)
        assert {each: backend.get(each) for each in before} == before
        assert backend.get("done") is backend.get("never-stored") is None
        for id, make in (("later", later), ("back", back), ("dead", dead), ("longer", longer)):
            assert backend.get(id) == attrs.evolve(leased[id], progress=make(leased[id]))

    @pytest.mark.parametrize(
        "outcome", [each for each in Outcome if each is not Outcome.COMPLETE], ids=lambda e: e.name
    )
    @pytest.mark.parametrize("first", ["completed", "written"])
    def test_of_one_claim_one_is_completed_and_one_is_written(
        self, backend: Backend, outcome: Outcome, first: str
    ) -> None:
        """Both are in one batch and have one token. Each gets its own outcome."""
        put_due(backend, "a", "b")
        (a, b) = lease_all(backend)
        assert isinstance(b, Record)
        progress = EVERY_OUTCOME[outcome](b)
        assert progress is not None
        batch = [complete(a), settlement(b, outcome, progress)]

        assert list(backend.settle(batch if first == "completed" else batch[::-1])) == [True, True]

        assert backend.get("a") is None
        assert backend.get("b") == attrs.evolve(b, progress=progress)

    def test_a_batch_tells_what_was_completed_from_what_is_gone(self, backend: Backend) -> None:
        """One of the records was removed meanwhile, and another was stored anew. In a batch, a settlement of the removed record
        may count as applied, because the store cannot tell who deleted it. A settlement of the new record must not.
        """
        put_due(backend, "gone", "anew", "a", "b")
        leased = lease_all(backend)
        backend.delete("gone")
        backend.put([make_record("anew", START + MINUTE)])

        applied = dict(zip(ids(leased), backend.settle([complete(each) for each in leased]), strict=True))

        assert applied.pop("gone") in (True, False)
        assert applied == {"anew": False, "a": True, "b": True}
        assert ids(backend.scan(None, 10, None)) == ["anew"]

    @pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
    @pytest.mark.parametrize("outcome", [Outcome.RELEASE, Outcome.COMPLETE], ids=lambda each: each.name.lower())
    def test_a_batch_tells_a_late_settlement_from_that_of_who_has_the_message(
        self, backend: Backend, outcome: Outcome, order: tuple[int, ...]
    ) -> None:
        """A message was stored anew while it was leased, and was leased again. Now both holders settle it, with different outcomes."""
        put_due(backend, "a")
        before = lease_only(backend)
        put_due(backend, "a", "b")
        after, b = lease_all(backend)
        late_outcome = Outcome.COMPLETE if outcome is Outcome.RELEASE else Outcome.RELEASE
        batch = [
            (settlement(before, late_outcome, EVERY_OUTCOME[late_outcome](before)), False),
            (settlement(after, outcome, EVERY_OUTCOME[outcome](after)), True),
            (complete(b), True),
        ]
        batch = [batch[index] for index in order]

        assert list(backend.settle([each for each, _ in batch])) == [expected for _, expected in batch]

    def test_a_single_completion_of_what_is_gone_is_not_applied(self, backend: Backend) -> None:
        put_due(backend, "a")
        leased = lease_only(backend)
        backend.delete("a")

        assert list(backend.settle([complete(leased)])) == [False]

    @pytest.mark.parametrize(
        "outcome", [each for each in Outcome if each is not Outcome.COMPLETE], ids=lambda e: e.name
    )
    def test_a_batch_tells_what_was_written_from_what_is_gone(self, backend: Backend, outcome: Outcome) -> None:
        put_due(backend, "gone", "a", "b")
        leased = lease_all(backend)
        backend.delete("gone")

        applied = backend.settle([settlement(each, outcome, EVERY_OUTCOME[outcome](each)) for each in leased])

        assert dict(zip(ids(leased), applied, strict=True)) == {"gone": False, "a": True, "b": True}
        assert backend.get("gone") is None

    @pytest.mark.parametrize(("first", "second"), list(permutations(Outcome, 2)), ids=lambda each: each.name)
    def test_two_of_a_claim_come_to_different_ends(self, backend: Backend, first: Outcome, second: Outcome) -> None:
        """The batch has these two settlements alone, so that a backend that groups by outcome has two groups of one."""
        put_due(backend, "a", "b")
        leased = lease_all(backend)
        outcomes = dict(zip(ids(leased), (first, second), strict=True))
        progress = {each.id: EVERY_OUTCOME[outcomes[each.id]](each) for each in leased}

        applied = backend.settle([settlement(each, outcomes[each.id], progress[each.id]) for each in leased])

        assert list(applied) == [True, True]
        for each in leased:
            left = progress[each.id]
            assert backend.get(each.id) == (None if left is None else attrs.evolve(each, progress=left))

    @_every_outcome
    def test_a_stale_token_changes_nothing(self, backend: Backend, outcome: Outcome) -> None:
        put_due(backend, "a")
        leased = lease_only(backend)

        applied = backend.settle([Settlement("a", "another", outcome, EVERY_OUTCOME[outcome](leased))])

        assert list(applied) == [False]
        assert backend.get("a") == leased

    @_every_outcome
    def test_the_token_of_another_record_changes_nothing(self, backend: Backend, outcome: Outcome) -> None:
        put_due(backend, "a", "b")
        a, b = lease_only(backend), lease_only(backend)
        assert b.progress.token is not None

        applied = backend.settle([Settlement("a", b.progress.token, outcome, EVERY_OUTCOME[outcome](a))])

        assert list(applied) == [False]
        assert [backend.get("a"), backend.get("b")] == [a, b]

    @pytest.mark.parametrize("token", ["", "$ne", "$exists", "null", "%", '{"$ne": null}', "' OR 1=1 --"])
    def test_a_token_is_only_ever_itself(self, backend: Backend, token: str) -> None:
        backend.put([make_record("free", START + 1)])
        put_due(backend, "a")
        leased = lease_only(backend)

        applied = backend.settle([Settlement(id, token, Outcome.COMPLETE, None) for id in ("a", "free")])

        assert list(applied) == [False, False]
        assert backend.get("a") == leased
        assert backend.get("free") is not None

    @_every_outcome
    def test_an_id_that_is_not_there_is_not_created(self, backend: Backend, outcome: Outcome) -> None:
        leased = make_record(due=START + MINUTE, token="t", attempts=1, first_leased=START)

        assert list(backend.settle([settlement(leased, outcome, EVERY_OUTCOME[outcome](leased))])) == [False]

        assert backend.get("a") is None
        assert len(backend.scan(None, 10, None)) == 0

    @_every_outcome
    def test_a_lease_counts_until_the_millisecond_before_its_end(
        self, backend: Backend, clock: ManualClock, outcome: Outcome
    ) -> None:
        put_due(backend, "a")
        leased = lease_only(backend, duration=1000)
        clock.advance(0.999)

        assert list(backend.settle([settlement(leased, outcome, EVERY_OUTCOME[outcome](leased))])) == [True]

    @_every_outcome
    def test_a_lease_that_ran_out_settles_nothing_even_if_nobody_else_has_it(
        self, backend: Backend, clock: ManualClock, outcome: Outcome
    ) -> None:
        put_due(backend, "a")
        leased = lease_only(backend, duration=1000)
        clock.advance(1)

        assert list(backend.settle([settlement(leased, outcome, EVERY_OUTCOME[outcome](leased))])) == [False]

        assert backend.get("a") == leased

    @_every_outcome
    def test_the_old_lease_settles_nothing_once_somebody_else_has_a_new_one(
        self, backend: Backend, open_backend: Handles, clock: ManualClock, outcome: Outcome
    ) -> None:
        put_due(backend, "a")
        old = lease_only(backend, duration=1000)
        clock.advance(1)
        new = lease_only(open_backend.peer())

        assert list(backend.settle([settlement(old, outcome, EVERY_OUTCOME[outcome](old))])) == [False]

        assert backend.get("a") == new

    def test_a_lease_may_be_settled_through_a_peer(self, backend: Backend, open_backend: Handles) -> None:
        put_due(backend, "a")
        leased = lease_only(backend)

        assert list(open_backend.peer().settle([complete(leased)])) == [True]

        assert backend.get("a") is None

    def test_an_extended_lease_holds_until_its_new_end(self, backend: Backend, clock: ManualClock) -> None:
        put_due(backend, "a")
        leased = lease_only(backend, duration=1000)
        clock.advance(0.999)
        longer = attrs.evolve(leased.progress, due=START + 5000)
        assert list(backend.settle([settlement(leased, Outcome.EXTEND, longer)])) == [True]

        clock.advance(4)

        assert list(backend.lease(10, MINUTE)) == []
        assert list(backend.settle([complete(leased)])) == [True]

    def test_a_released_record_is_leased_again_at_its_time(self, backend: Backend, clock: ManualClock) -> None:
        put_due(backend, "a")
        leased = lease_only(backend)
        progress = attrs.evolve(leased.progress, due=START + 50, token=None)
        backend.settle([settlement(leased, Outcome.RELEASE, progress)])
        clock.advance(0.049)
        assert list(backend.lease(10, MINUTE)) == []

        clock.advance(0.001)

        assert lease_only(backend).progress.attempts == 2

    def test_a_record_that_is_released_at_once_is_leased_at_once(self, backend: Backend) -> None:
        put_due(backend, "a", "b")
        (a, _) = lease_all(backend)
        assert list(backend.lease(10, MINUTE)) == []

        backend.settle([settlement(a, Outcome.RELEASE, Progress(START - 1000, START))])

        assert ids(lease_all(backend)) == ["a"]

    def test_a_buried_record_keeps_its_token_and_is_dead(self, backend: Backend, clock: ManualClock) -> None:
        put_due(backend, "a")
        leased = lease_only(backend)
        buried = EVERY_OUTCOME[Outcome.BURY](leased)
        backend.settle([settlement(leased, Outcome.BURY, buried)])

        clock.advance(86_400)

        assert list(backend.lease(10, MINUTE)) == []
        assert backend.get("a") == attrs.evolve(leased, progress=buried)
        assert ids(backend.scan("dead", 10, None)) == ["a"]

    def test_what_is_set_aside_keeps_everything_but_its_due_time_and_its_error(self, backend: Backend) -> None:
        """An operator will inspect the record, so the backend writes nothing that would hide the damage."""
        put_due(backend, "a", "b", "c")
        leased = {each.id: each for each in lease_all(backend)}
        batch = [settlement(leased["a"], Outcome.BURY, Aside("no good")), complete(leased["b"])]

        assert list(backend.settle([Settlement("a", "stale", Outcome.BURY, Aside("no good"))])) == [False]
        assert list(backend.settle(batch)) == [True, True]

        aside = attrs.evolve(leased["a"].progress, due=None, last_error="no good")
        assert backend.get("a") == attrs.evolve(leased["a"], progress=aside)
        assert backend.get("c") == leased["c"]
        assert list(backend.settle([settlement(leased["c"], Outcome.BURY, Aside("alone"))])) == [True]
        assert ids(backend.scan("dead", 10, None)) == ["a", "c"]

    def test_a_dead_record_is_settled_with_the_token_that_it_carries(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        """This fences a redrive like any other write."""
        record = make_record(due=None, token="t", attempts=3, first_leased=START, last_error="x")
        backend.put([record])
        clock.advance(86_400)
        redriven = Progress(START + 86_400_000, START, 0, START, "x")

        assert list(backend.settle([Settlement("a", "stale", Outcome.RELEASE, redriven)])) == [False]
        assert backend.get("a") == record
        assert list(backend.settle([Settlement("a", "t", Outcome.RELEASE, redriven)])) == [True]
        assert backend.get("a") == attrs.evolve(record, progress=redriven)
        assert list(backend.settle([Settlement("a", "t", Outcome.RELEASE, redriven)])) == [False]
        assert ids(lease_all(backend)) == ["a"]

    @pytest.mark.parametrize("outcome", [Outcome.COMPLETE, Outcome.RESCHEDULE, Outcome.RELEASE], ids=lambda e: e.name)
    def test_a_lease_is_settled_once(self, backend: Backend, outcome: Outcome) -> None:
        put_due(backend, "a", "b")
        (a, b) = lease_all(backend)
        once = settlement(a, outcome, EVERY_OUTCOME[outcome](a))
        assert list(backend.settle([once])) == [True]
        after = backend.get("a")

        assert list(backend.settle([once])) == [False]

        assert backend.get("a") == after
        assert backend.get("b") == b

    @pytest.mark.parametrize("outcome", [Outcome.BURY, Outcome.EXTEND], ids=lambda e: e.name)
    def test_burying_and_extending_again_does_no_harm(self, backend: Backend, outcome: Outcome) -> None:
        put_due(backend, "a")
        leased = lease_only(backend)
        progress = EVERY_OUTCOME[outcome](leased)
        again = settlement(leased, outcome, progress)
        assert list(backend.settle([again])) == [True]

        assert list(backend.settle([again])) == [True]

        assert backend.get("a") == attrs.evolve(leased, progress=progress)

    @pytest.mark.parametrize(
        "outcome", [each for each in Outcome if each is not Outcome.COMPLETE], ids=lambda e: e.name
    )
    def test_each_of_a_batch_is_written_what_is_its_own(self, backend: Backend, outcome: Outcome) -> None:
        """All records are of one claim and get the same outcome, with different due times and different errors."""
        backend.put([make_record(f"{n:03}") for n in range(120)])
        leased = lease_all(backend, limit=120)
        own: dict[str, Progress] = {}
        for n, each in enumerate(leased):
            progress = EVERY_OUTCOME[outcome](each)
            assert isinstance(progress, Progress)
            due = None if progress.due is None else progress.due + n
            own[each.id] = attrs.evolve(progress, due=due, last_error=f"of {each.id}")

        applied = backend.settle([settlement(each, outcome, own[each.id]) for each in leased])

        assert list(applied) == [True] * 120
        assert {each.id: each.progress for each in records(backend.scan(None, 200, None))} == own

    @pytest.mark.parametrize("outcome", [Outcome.COMPLETE, Outcome.RESCHEDULE], ids=lambda e: e.name)
    def test_more_than_a_thousand_are_settled_in_one_batch(self, backend: Backend, outcome: Outcome) -> None:
        backend.put([make_record(f"{n:04}") for n in range(1100)])
        leased = lease_all(backend, limit=1100)
        backend.put([make_record(f"{n:04}", START + 1) for n in range(0, 1100, 3)])

        applied = backend.settle([settlement(each, outcome, EVERY_OUTCOME[outcome](each)) for each in leased])

        assert dict(zip(ids(leased), applied, strict=True)) == {f"{n:04}": n % 3 != 0 for n in range(1100)}
        left = records(backend.scan(None, 2000, None))
        assert sum(each.progress.due == START + 1 for each in left) == 367
        assert len(left) == (367 if outcome is Outcome.COMPLETE else 1100)
