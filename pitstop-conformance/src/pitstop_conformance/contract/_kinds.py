"""Kinds: records keep them, and claims choose by them."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from pitstop.abc import LAST_INSTANT, AllBut, Aside, Backend, Capability, Damaged, Outcome, Progress
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles, Kit, needs
from pitstop_conformance._records import (
    EVERY_OUTCOME,
    MINUTE,
    START,
    complete,
    ids,
    lease_only,
    make_record,
    put_due,
    records,
    settlement,
)


#: Kinds that differ in one thing each, and that a store may take for the same, or for an operator.
_KINDS = [
    "",
    "mail",
    "Mail",
    "mail ",
    "ma",
    "mail2",
    "é",
    "e\u0301",
    "$ne",
    "a.b",
    "%",
    "0",
    "null",
    "k" * 64,
    "😀" * 64,
]


def _put(backend: Backend, *kinds: str) -> None:
    """Store records that are due: the ids are the numbers of these kinds, in the order in which they are due."""
    backend.put([make_record(str(n), START - len(kinds) + n, kind=kind) for n, kind in enumerate(kinds)])


def _given(kinds: Any) -> list[Any]:
    """Return the arguments of a claim of these kinds. A claim without kinds leaves the argument out, as core does."""
    return [] if kinds is None else [kinds]


class Kinds(Kit):
    """Records of several kinds in one store."""

    rule = 'docs/writing-a-backend.md, "Kinds"'

    @pytest.fixture
    def kinded(self, backend: Backend) -> Backend:
        needs(backend, Capability.KINDS)
        return backend

    @pytest.mark.parametrize("kind", _KINDS)
    def test_a_kind_comes_back_as_it_was_stored(self, kinded: Backend, open_backend: Handles, kind: str) -> None:
        record = make_record(kind=kind)
        kinded.put([record])
        assert kinded.get("a") == record
        assert open_backend.peer().get("a") == record
        assert list(kinded.scan("due", 1, None)) == [record]

        leased = lease_only(kinded)

        assert leased.kind == kind
        assert kinded.get("a") == leased

    def test_a_new_version_has_its_own_kind(self, kinded: Backend) -> None:
        kinded.put([make_record(kind="mail")])
        kinded.put([make_record()])
        plain = kinded.get("a")
        kinded.put([make_record(kind="report")])
        report = kinded.get("a")

        assert plain is not None
        assert report is not None
        assert [each.kind for each in records([plain, report])] == ["", "report"]
        assert list(kinded.lease(1, MINUTE, ["mail"])) == []
        assert list(kinded.lease(1, MINUTE, [""])) == []
        assert ids(kinded.lease(1, MINUTE, ["report"])) == ["a"]

    @pytest.mark.usefixtures("conditional")
    @pytest.mark.parametrize("unchanged", [False, True], ids=["by_revision", "by_revision_and_progress"])
    def test_a_conditional_store_writes_the_kind(self, kinded: Backend, unchanged: bool) -> None:
        first = make_record(kind="mail")
        assert kinded.put_if(first, None)
        assert kinded.get("a") == first

        second = make_record(kind="report")

        assert kinded.put_if(second, first.revision, first.progress if unchanged else None)
        assert kinded.get("a") == second
        assert list(kinded.lease(1, MINUTE, ["mail"])) == []
        assert ids(kinded.lease(1, MINUTE, ["report"])) == ["a"]

    @pytest.mark.usefixtures("conditional")
    def test_a_conditional_store_that_is_refused_leaves_the_kind(self, kinded: Backend) -> None:
        first = make_record(kind="mail")
        kinded.put([first])

        assert not kinded.put_if(make_record(kind="report"), None)
        assert not kinded.put_if(make_record(kind="report"), "another")

        assert kinded.get("a") == first
        assert list(kinded.lease(1, MINUTE, ["report"])) == []
        assert ids(kinded.lease(1, MINUTE, ["mail"])) == ["a"]

    @pytest.mark.parametrize("outcome", [each for each in Outcome if each is not Outcome.COMPLETE])
    @pytest.mark.parametrize("together", [1, 3], ids=["alone", "in_a_batch"])
    @pytest.mark.parametrize("kinds", [None, ["mail"]], ids=["of_all", "of_its_kind"])
    def test_a_settlement_leaves_the_kind(
        self, kinded: Backend, clock: ManualClock, kinds: Any, outcome: Outcome, together: int
    ) -> None:
        kinded.put([make_record(id, kind="mail") for id in "abc"[:together]])
        leased = [each for _ in range(together) for each in records(kinded.lease(together, MINUTE, *_given(kinds)))]

        written = {each.id: EVERY_OUTCOME[outcome](each) for each in leased}

        assert all(kinded.settle([settlement(each, outcome, written[each.id]) for each in leased]))
        assert [kinded.get(each.id) for each in leased] == [
            attrs.evolve(each, progress=written[each.id]) for each in leased
        ]
        clock.advance(3600)
        assert list(kinded.lease(3, MINUTE, [""])) == []
        again = sorted(id for id, progress in written.items() if progress.due is not None)
        assert sorted(ids(kinded.lease(3, MINUTE, ["mail"]))) == again

    def test_a_peer_claims_by_the_kinds_that_another_handle_stored(
        self, kinded: Backend, open_backend: Handles
    ) -> None:
        peer = open_backend.peer()
        _put(kinded, "mail", "bulk", "mail", "")
        assert peer.next_due(["bulk"]) == START - 3
        assert ids(peer.lease(10, MINUTE, ["mail"])) == ["0", "2"]
        assert ids(open_backend.peer().lease(10, MINUTE, AllBut(["mail", ""]))) == ["1"]
        peer.put([make_record("3", START - 1, kind="mail")])
        assert list(kinded.lease(10, MINUTE, [""])) == []
        assert ids(kinded.lease(10, MINUTE, ["mail"])) == ["3"]

    @pytest.mark.parametrize("limit", [1, 2, 10])
    def test_a_claim_of_some_kinds_brings_these_alone(self, kinded: Backend, limit: int) -> None:
        _put(kinded, "bulk", "mail", "", "bulk", "report", "mail", "Mail")
        found: list[str] = []
        while claim := kinded.lease(limit, MINUTE, ["mail", "report"]):
            found += ids(claim)

        assert found == ["1", "4", "5"]
        assert ids(kinded.scan("due", 10, None)) == ["0", "2", "3", "6"]

    @pytest.mark.parametrize("limit", [1, 10])
    def test_a_claim_of_all_but_some_kinds_brings_the_rest(self, kinded: Backend, limit: int) -> None:
        _put(kinded, "bulk", "mail", "", "bulk", "report", "mail", "Mail")
        found: list[str] = []
        while claim := kinded.lease(limit, MINUTE, AllBut(["mail", "bulk"])):
            found += ids(claim)

        assert found == ["2", "4", "6"]
        assert list(kinded.lease(limit, MINUTE, AllBut(["mail", "bulk", "new"]))) == []
        kinded.put([make_record("new", kind="new")])
        assert ids(kinded.lease(limit, MINUTE, AllBut(["mail", "bulk"]))) == ["new"]

    def test_a_claim_without_kinds_brings_all_in_order(self, kinded: Backend) -> None:
        _put(kinded, "bulk", "mail", "", "bulk", "report")
        # After a claim that makes its own index, if it needs one.
        kinded.lease(1, MINUTE, ["none"])
        assert ids(kinded.lease(10, MINUTE)) == ["0", "1", "2", "3", "4"]

    @pytest.mark.parametrize("kind", _KINDS)
    def test_a_claim_of_one_kind_takes_no_similar_one(self, kinded: Backend, kind: str) -> None:
        others = [each for each in _KINDS if each != kind]
        _put(kinded, *others)
        assert list(kinded.lease(10, MINUTE, [kind])) == []
        assert kinded.next_due([kind]) is None
        kinded.put([make_record("it", kind=kind)])

        assert kinded.next_due([kind]) == START
        assert ids(kinded.lease(10, MINUTE, [kind])) == ["it"]

    @pytest.mark.parametrize("kinds", [["a"], ["a", "b"], AllBut(["c"])], ids=["one", "two", "rest"])
    def test_a_claim_of_some_kinds_is_in_the_order_of_due_and_then_of_the_first_stores(
        self, kinded: Backend, kinds: Any
    ) -> None:
        kinded.put([make_record(id, START, kind="a") for id in "zyx"])
        kinded.put([make_record("early", START - 5, kind="a"), make_record("other", START - 9, kind="c")])
        kinded.put([make_record("y", START, kind="a")])

        found = [*ids(kinded.lease(2, MINUTE, kinds)), *ids(kinded.lease(2, MINUTE, kinds))]

        assert found == ["early", "z", "y", "x"]

    def test_messages_of_two_kinds_are_merged_by_due(self, kinded: Backend) -> None:
        _put(kinded, *["a", "b", "c"] * 10)
        found: list[str] = []
        while claim := kinded.lease(4, MINUTE, ["b", "a"]):
            found += ids(claim)

        assert found == [str(n) for n in range(30) if n % 3 != 2]

    def test_a_record_of_another_kind_is_neither_changed_nor_counted(self, kinded: Backend) -> None:
        other = make_record("other", kind="bulk")
        kinded.put([other, make_record("a", kind="mail")])

        assert ids(kinded.lease(10, MINUTE, ["mail"])) == ["a"]
        assert kinded.get("other") == other

    def test_a_claim_of_some_kinds_leases_like_any_other(self, kinded: Backend, clock: ManualClock) -> None:
        stored = make_record(kind="mail", attempts=2, unsettled=1, first_leased=START - 5)
        kinded.put([stored])
        assert list(kinded.lease(1, MINUTE, ["bulk"])) == []

        (leased,) = records(kinded.lease(3, MINUTE, ["mail"]))

        token = leased.progress.token
        assert token is not None
        assert leased.progress == stored.progress.leased(token, START, START + MINUTE, 3)
        assert kinded.get("a") == leased
        assert list(kinded.lease(3, MINUTE, ["mail"])) == []
        clock.advance(60)
        (again,) = records(kinded.lease(1, MINUTE, ["mail"]))
        assert again.progress.attempts == 4
        assert list(kinded.settle([complete(leased)])) == [False]
        assert list(kinded.settle([complete(again)])) == [True]

    def test_next_due_of_some_kinds(self, kinded: Backend, open_backend: Handles) -> None:
        kinded.put(
            [
                make_record("a", START + 1, kind="bulk"),
                make_record("b", START + 2, kind="mail"),
                make_record("c", START + 3),
                make_record("d", None, kind="dead", scheduled_for=START, token="t"),
            ]
        )

        for each in (kinded, open_backend.peer()):
            assert each.next_due() == START + 1
            assert each.next_due(["bulk"]) == START + 1
            assert each.next_due(["mail"]) == START + 2
            assert each.next_due([""]) == START + 3
            assert each.next_due(["", "mail"]) == START + 2
            assert each.next_due(AllBut(["bulk", "mail"])) == START + 3
            assert each.next_due(AllBut(["bulk"])) == START + 2
            assert each.next_due(["dead", "none"]) is None
            assert each.next_due(AllBut(["bulk", "mail", ""])) is None

    def test_the_end_of_a_lease_is_next_due_of_its_kind(self, kinded: Backend) -> None:
        _put(kinded, "mail", "bulk")
        kinded.lease(1, MINUTE, ["mail"])

        assert kinded.next_due(["mail"]) == START + MINUTE
        assert kinded.next_due(["bulk"]) == START - 1

    @pytest.mark.parametrize("kinds", [["mail"], AllBut(["mail"])], ids=["some", "rest"])
    def test_many_of_another_kind_are_not_in_the_way(self, kinded: Backend, kinds: Any) -> None:
        wanted, other = ("mail", "bulk") if kinds == ["mail"] else ("bulk", "mail")
        kinded.put([make_record(f"other-{n}", START - 2, kind=other) for n in range(1100)])
        kinded.put([make_record(f"wanted-{n}", START - 1, kind=wanted) for n in range(3)])

        assert ids(kinded.lease(1, MINUTE, kinds)) == ["wanted-0"]
        assert ids(kinded.lease(500, MINUTE, kinds)) == ["wanted-1", "wanted-2"]
        assert list(kinded.lease(500, MINUTE, kinds)) == []
        assert kinded.tally().due == 1100

    @pytest.mark.parametrize("count", [250, 600])
    def test_more_kinds_than_a_statement_has_room_for(self, kinded: Backend, count: int) -> None:
        """The kinds that are due first are the last ones in the order of their names."""
        kinds = [f"kind-{n:03}" for n in reversed(range(count))]
        _put(kinded, *kinds)

        assert ids(kinded.lease(2, MINUTE, AllBut(kinds[:1]))) == ["1", "2"]
        assert kinded.next_due(AllBut(kinds[:3])) == START - count + 3
        # Core accepts as many names of one listener.
        assert kinded.next_due(kinds[:2:-1][:100]) == START - 100
        assert ids(kinded.lease(2, MINUTE, kinds[102:2:-1])) == ["3", "4"]

    def test_a_damaged_record_is_of_its_kind_or_of_none(self, kinded: Backend) -> None:
        """It holds up neither the listeners of its kind nor those of others."""
        kinded.put(
            [make_record(id, kind=kind) for id, kind in [("a", "mail"), ("b", "mail"), ("c", "bulk"), ("d", "bulk")]]
        )
        self.damage(kinded, "a")
        self.damage(kinded, "c")

        found = {*ids(kinded.lease(10, MINUTE, ["mail"])), *ids(kinded.lease(10, MINUTE, ["mail"]))}

        assert found in ({"a", "b"}, {"b"})
        assert {*ids(kinded.lease(10, MINUTE)), *ids(kinded.lease(10, MINUTE))} | found == {"a", "b", "c", "d"}

    @pytest.mark.parametrize("limit", [1, 10])
    def test_a_record_whose_kind_cannot_be_read_is_in_no_claim_that_names_kinds(
        self, kinded: Backend, open_backend: Handles, limit: int
    ) -> None:
        _put(kinded, "mail", "mail", "")
        self.damage_kind(kinded, "0")
        named = ["mail", "", "none"]
        assert open_backend.peer().next_due(named) == START - 2

        found: list[str] = []
        while claim := kinded.lease(limit, MINUTE, named):
            found += ids(claim)

        assert found == ["1", "2"]
        assert open_backend.peer().next_due(named) == START + MINUTE
        read = kinded.get("0")
        assert isinstance(read, Damaged)
        assert (read.due, read.token) == (START - 3, None), "the record is unchanged"

    @pytest.mark.parametrize("limit", [1, 10])
    @pytest.mark.parametrize(
        "kinds", [None, AllBut(["mail"]), AllBut(["", "mail", "bulk"])], ids=["all", "all_but_one", "all_but_three"]
    )
    def test_a_record_whose_kind_cannot_be_read_is_among_the_rest(
        self, kinded: Backend, open_backend: Handles, kinds: Any, limit: int
    ) -> None:
        """A listener of all kinds but some takes it, so that core sets it aside."""
        _put(kinded, "mail", "report", "mail")
        self.damage_kind(kinded, "2")
        others = ["0", "1"] if kinds is None else ["1"]
        assert open_backend.peer().next_due(kinds) == START - 4 + int(others[0]) + 1

        found: list[Any] = []
        while claim := kinded.lease(limit, MINUTE, kinds):
            found += claim

        assert ids(found) == [*others, "2"]
        damaged = found[-1]
        assert isinstance(damaged, Damaged)
        assert (damaged.due, bool(damaged.token)) == (START + MINUTE, True)
        aside = settlement(damaged, Outcome.BURY, Aside(damaged.error))
        assert list(kinded.settle([aside])) == [True]
        assert ids(kinded.scan("dead", 10, None)) == ["2"]
        assert open_backend.peer().next_due(AllBut(["", "mail", "report"])) is None

    def test_a_kind_that_cannot_be_read_is_healed_by_a_put(self, kinded: Backend) -> None:
        _put(kinded, "mail")
        self.damage_kind(kinded, "0")
        record = make_record("0", kind="report")

        kinded.put([record])

        assert kinded.get("0") == record
        assert ids(kinded.lease(1, MINUTE, ["report"])) == ["0"]

    def test_the_farthest_times_have_kinds_too(self, kinded: Backend, clock: ManualClock) -> None:
        kinded.put([make_record("a", LAST_INSTANT, kind="mail"), make_record("b", 0, kind="mail")])

        (leased,) = records(kinded.lease(5, 2**62, ["mail"]))

        assert (leased.id, leased.progress.due) == ("b", LAST_INSTANT)
        assert kinded.next_due(["mail"]) == LAST_INSTANT

    def test_a_redriven_record_comes_to_the_listeners_of_its_kind(self, kinded: Backend) -> None:
        put_due(kinded, "other")
        kinded.put([make_record("a", None, scheduled_for=START, token="t", kind="mail")])
        assert list(kinded.lease(1, MINUTE, ["mail"])) == []
        (dead,) = records(kinded.scan("dead", 1, None))

        assert list(kinded.settle([settlement(dead, Outcome.RELEASE, Progress(START, START))])) == [True]

        assert ids(kinded.lease(1, MINUTE, ["mail"])) == ["a"]
